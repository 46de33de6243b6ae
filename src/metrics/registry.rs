//! What is counted, and its Prometheus text. Names are the original's where it
//! has one (spec http-api §8.2), so its dashboards go on working.

use std::fmt::{Display, Write};
use std::fs;

use super::{ContainerRow, Counter, EDGE, EVICTIONS, Gauge, IMAGES_CLEANED, LEDGER, PARKED, PULLS, PullCause, REQUESTS, UTILISATION, containers};

/// Calls of functions.
#[derive(Debug)]
pub struct Calls {
    pub calls: Counter,
    pub completed: Counter,
    pub errors: Counter,
    pub timeouts: Counter,
    pub canceled: Counter,
    pub server_busy: Counter,
    pub queued: Gauge,
    pub running: Gauge,
}

/// Calls of functions, process-wide.
pub static CALLS: Calls = Calls {
    calls: Counter::new(),
    completed: Counter::new(),
    errors: Counter::new(),
    timeouts: Counter::new(),
    canceled: Counter::new(),
    server_busy: Counter::new(),
    queued: Gauge::new(),
    running: Gauge::new(),
};

/// The text `/metrics` answers with; `rows`: the containers of each function.
pub fn render(rows: &[ContainerRow]) -> String {
    let mut out = String::with_capacity(4096);
    value(&mut out, "fn_calls", "counter", "calls of functions", CALLS.calls.get());
    value(&mut out, "fn_completed", "counter", "calls that ended well", CALLS.completed.get());
    value(&mut out, "fn_errors", "counter", "calls that failed", CALLS.errors.get());
    value(&mut out, "fn_timeouts", "counter", "calls that took longer than their function's timeout", CALLS.timeouts.get());
    value(&mut out, "fn_canceled", "counter", "calls whose client left", CALLS.canceled.get());
    value(&mut out, "fn_server_busy", "counter", "calls refused for want of room", CALLS.server_busy.get());
    value(&mut out, "fn_queued", "gauge", "calls waiting for a container", CALLS.queued.get());
    value(&mut out, "fn_running", "gauge", "calls in a container", CALLS.running.get());
    value(&mut out, "fn_util_mem_used", "gauge", "bytes of memory reserved for containers", UTILISATION.memory_used.get());
    value(&mut out, "fn_util_mem_avail", "gauge", "bytes of memory free for containers", UTILISATION.memory_free.get());
    value(&mut out, "fn_util_cpu_used", "gauge", "thousandths of a CPU reserved for containers", UTILISATION.cpu_used.get());
    value(&mut out, "fn_util_cpu_avail", "gauge", "thousandths of a CPU free for containers", UTILISATION.cpu_free.get());
    value(&mut out, "fn_container_evictions", "counter", "idle containers that made room for another function", EVICTIONS.get());
    value(&mut out, "hob_parked_networks", "gauge", "networks ready for a container to join", PARKED.ready.get());
    value(&mut out, "hob_parked_used_total", "counter", "container starts that joined a ready network", PARKED.used.get());
    value(&mut out, "hob_parked_missed_total", "counter", "container starts that found no ready network", PARKED.missed.get());
    value(&mut out, "hob_detached_queued", "gauge", "detached calls waiting or running", LEDGER.queued.get());
    value(&mut out, "hob_detached_accepted_total", "counter", "detached calls accepted", LEDGER.accepted.get());
    value(&mut out, "hob_detached_retried_total", "counter", "runs of detached calls that are repeated", LEDGER.retried.get());
    value(&mut out, "hob_detached_dead_total", "counter", "detached calls that failed for good", LEDGER.dead.get());
    value(&mut out, "hob_call_records_dropped_total", "counter", "records of calls that were not written down", LEDGER.records_dropped.get());
    value(&mut out, "hob_call_logs_dropped_total", "counter", "logs of calls that were not written down", LEDGER.logs_dropped.get());
    value(&mut out, "hob_callbacks_total", "counter", "callbacks that were taken", LEDGER.callbacks.get());
    value(&mut out, "hob_callbacks_lost_total", "counter", "callbacks that were given up", LEDGER.callbacks_lost.get());
    containers::render(&mut out, rows);
    pulls(&mut out);
    edge(&mut out);
    REQUESTS.render(&mut out);
    process(&mut out);
    out
}

fn pulls(out: &mut String) {
    value(out, "hob_image_pulls_running", "gauge", "image pulls under way", PULLS.running.get());
    value(out, "hob_image_pulls_total", "counter", "image pulls that ended well", PULLS.done.get());
    head(out, "hob_image_pull_failures_total", "counter", "image pulls that failed");
    for ((_, cause), failed) in PullCause::ALL.iter().zip(&PULLS.failed) {
        let _ = writeln!(out, "hob_image_pull_failures_total{{cause=\"{cause}\"}} {}", failed.get());
    }
    let millis = PULLS.millis.get();
    value(out, "hob_image_pull_seconds_total", "counter", "time spent in image pulls", format!("{}.{:03}", millis / 1000, millis % 1000));
    value(out, "hob_image_pull_bytes_total", "counter", "bytes of image layers fetched", PULLS.bytes.get());
    value(out, "hob_images_cleaned_total", "counter", "images removed for FN_IMAGE_CLEAN_MAX_SIZE", IMAGES_CLEANED.get());
}

/// The public listener.
fn edge(out: &mut String) {
    value(out, "hob_edge_connections_open", "gauge", "client connections open", EDGE.open.get());
    let counters = [
        ("accepted", "connections accepted", &EDGE.accepted),
        ("accept_starved", "accepts that failed for want of descriptors or memory", &EDGE.accept_starved),
        ("requests", "requests with a valid head", &EDGE.requests),
        ("refused_connections", "connections refused at HOB_MAX_CONNECTIONS", &EDGE.refused_connections),
        ("refused_malformed", "requests refused as malformed", &EDGE.refused_malformed),
        ("refused_too_large", "requests refused as too large", &EDGE.refused_too_large),
        ("refused_too_slow", "requests that did not arrive in time", &EDGE.refused_too_slow),
        ("refused_token", "management requests without the right token", &EDGE.refused_token),
        ("refused_draining", "requests refused while stopping", &EDGE.refused_draining),
        ("cut_slow_reader", "clients cut because they did not read", &EDGE.cut_slow_reader),
        ("cut_answers", "answers that broke half way", &EDGE.cut_answers),
        ("clients_gone", "clients that left while their call waited or ran", &EDGE.clients_gone),
        ("probes", "half-closed clients asked whether they still read", &EDGE.probes),
    ];
    for (name, help, counter) in counters {
        value(out, &format!("hob_edge_{name}_total"), "counter", help, counter.get());
    }
}

pub(super) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn value(out: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    head(out, name, kind, help);
    let _ = writeln!(out, "{name} {value}");
}

/// This process as the kernel sees it. What cannot be read is left out.
fn process(out: &mut String) {
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        // The second field, the name, may hold blanks; the third follows ") ".
        let fields: Vec<u64> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let hz = rustix::param::clock_ticks_per_second().max(1);
        let ticks = field(14) + field(15);
        let cpu = format!("{}.{:03}", ticks / hz, ticks % hz * 1000 / hz);
        value(out, "fn_process_cpu_seconds_total", "counter", "CPU time of the server", cpu);
        value(out, "fn_process_resident_memory_bytes", "gauge", "memory of the server", field(24) * rustix::param::page_size() as u64);
        value(out, "fn_process_virtual_memory_bytes", "gauge", "address space of the server", field(23));
        value(out, "fn_process_threads", "gauge", "threads of the server", field(20));
        if let Some(booted) = boot_time() {
            let started = booted + field(22) / hz;
            value(out, "fn_process_start_time_seconds", "gauge", "when the server started, seconds since 1970", started);
        }
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        value(out, "fn_process_max_fds", "gauge", "descriptors the server may open", most);
    }
    if let Ok(fds) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder being read.
        value(out, "fn_process_open_fds", "gauge", "open descriptors of the server", fds.count().saturating_sub(1));
    }
}

/// Seconds since 1970 at which the kernel started.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Labels, SERVICE};

    /// Every line is a comment or `name{labels} number`, each name has a type.
    #[test]
    fn the_text_is_prometheus() {
        REQUESTS.count(Labels { method: "GET", route: "/of-this-test", status: 200, blame: SERVICE }, Duration::from_millis(7));
        let text = render(&[]);
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').expect("two parts");
            assert!(number.parse::<f64>().is_ok(), "{line}");
            let bare = name.split('{').next().expect("a name");
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end).filter(|b| b.ends_with("latency"))).unwrap_or(bare);
            assert!(text.contains(&format!("# TYPE {bare} ")), "{line}");
        }
        assert!(text.contains("fn_api_request_count{method=\"GET\",path=\"/of-this-test\"} 1\n"));
        for name in ["fn_calls", "fn_process_cpu_seconds_total", "fn_process_resident_memory_bytes", "fn_process_threads", "fn_process_open_fds"] {
            assert!(text.contains(&format!("\n{name} ")), "{name}");
        }
        assert!(!text.contains("fn_process_threads 0\n"));
    }
}
