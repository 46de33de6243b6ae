//! What hob itself needs: settings, a data folder, a port, descriptors, room.

use std::net::TcpListener;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::{Report, Verdict, gigabytes};
use crate::config::Config;
use crate::pool::host;

/// Below this a store or a request body soon finds no room.
const LITTLE: u64 = 1_000_000_000;
/// Descriptors hob holds beside its clients' and containers'.
const OWN_DESCRIPTORS: u64 = 200;

pub(super) fn settings(config: &Config, report: &mut Report) {
    for note in &config.notes {
        report.put("settings", Verdict::Warning, note.clone(), "unset it, or do as it says");
    }
    if config.notes.is_empty() {
        report.good("settings", "valid");
    }
}

pub(super) fn data(config: &Config, report: &mut Report) {
    let folder = &config.data;
    // What is not there yet is made in the nearest folder that is.
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
    let Some(there) = absolute.ancestors().find(|p| p.exists()) else { return };
    let trial = there.join(format!(".hob-doctor-{}", std::process::id()));
    let written = std::fs::create_dir(&trial).and_then(|()| std::fs::remove_dir(&trial));
    if let Err(e) = written {
        let todo = "let HOB_DATA name a folder that hob's user may write";
        return report.put("data folder", Verdict::Bad, format!("cannot write in {}: {e}", there.display()), todo);
    }
    let made = if there == absolute { "" } else { " (made at the start)" };
    match free(there) {
        Some(bytes) if bytes < LITTLE => {
            let what = format!("{}{made}: only {:.1} GB free", absolute.display(), gigabytes(bytes));
            report.put("data folder", Verdict::Warning, what, "make room, or let HOB_DATA name a folder on a larger disk");
        }
        Some(bytes) => report.good("data folder", format!("{}{made}: {:.1} GB free", absolute.display(), gigabytes(bytes))),
        None => report.good("data folder", format!("{}{made}", absolute.display())),
    }
}

/// Bytes that are free for this user where `path` lies.
pub(super) fn free(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) fn port(config: &Config, report: &mut Report) {
    let address = config.listen;
    match TcpListener::bind(address) {
        Ok(_) => report.good("port", format!("{address} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let todo = "if that is not hob (`hob version` tells), choose another with FN_PORT";
            report.put("port", Verdict::Warning, format!("{address} is in use"), todo);
        }
        Err(e) => {
            let todo = "let HOB_LISTEN name an address of this host, and FN_PORT a port its user may have (from 1024 on without privileges)";
            report.put("port", Verdict::Bad, format!("{address}: {e}"), todo);
        }
    }
}

pub(super) fn descriptors(config: &Config, report: &mut Report) {
    let Some(most) = getrlimit(Resource::Nofile).current else { return report.good("descriptors", "no limit") };
    let wanted = u64::try_from(config.max_connections).unwrap_or(u64::MAX).saturating_add(OWN_DESCRIPTORS);
    if most < wanted {
        let what = format!("{most} open files allowed, HOB_MAX_CONNECTIONS alone may need {wanted}");
        report.put("descriptors", Verdict::Warning, what, "raise the limit (`ulimit -n`, LimitNOFILE= in a unit), or lower HOB_MAX_CONNECTIONS");
    } else {
        report.good("descriptors", format!("{most} open files allowed"));
    }
}

pub(super) fn capacity(config: &Config, report: &mut Report) {
    match host::capacity(config.max_total_memory_bytes, config.max_total_cpu_mcpus) {
        Ok(need) => report.good("capacity", format!("{} MiB and {} mCPU for functions", need.mib, need.mcpu)),
        Err(e) => report.put("capacity", Verdict::Bad, e.to_string(), "free memory, or set FN_MAX_TOTAL_MEMORY_BYTES"),
    }
}
