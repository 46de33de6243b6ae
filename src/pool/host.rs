//! What this host can give: memory and CPU from /proc and the own cgroup,
//! version 1 or 2, less headroom (spec agent §6.1).

use std::path::Path;

use super::Need;

const MIB: u64 = 1 << 20;
const MIN_HEADROOM: u64 = 256 * MIB;
const MAX_HEADROOM: u64 = 5 << 30;

/// The host has too little to run anything.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot read MemAvailable from /proc/meminfo")]
    NoMemInfo,
    #[error(
        "not enough memory: {available_mib} MiB available, hob keeps {headroom_mib} MiB for the host itself (FN_MAX_TOTAL_MEMORY_BYTES sets the amount for functions)"
    )]
    TooSmall { available_mib: u64, headroom_mib: u64 },
}

/// Readings, separate from the arithmetic for tests.
#[derive(Debug, Clone, Default)]
struct Readings {
    mem_available: Option<u64>,
    mem_limit: Option<u64>,
    cpus: u64,
    cpu_limit_mcpu: Option<u64>,
}

/// Memory and CPU for containers. Caps of 0 mean "what the host has".
///
/// # Errors
/// When memory cannot be told or is too small.
pub fn capacity(max_memory_bytes: u64, max_mcpu: u64) -> Result<Need, HostError> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let readings = Readings {
        mem_available: std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| mem_available(&t)),
        mem_limit: memory_limit(&own, Path::new("/sys/fs/cgroup")),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        cpu_limit_mcpu: cpu_limit(&own, Path::new("/sys/fs/cgroup")),
    };
    compute(&readings, max_memory_bytes, max_mcpu)
}

fn compute(readings: &Readings, max_memory_bytes: u64, max_mcpu: u64) -> Result<Need, HostError> {
    let available = readings.mem_available.ok_or(HostError::NoMemInfo)?;
    let base = readings.mem_limit.map_or(available, |limit| limit.min(available));
    let headroom = (base / 10).clamp(MIN_HEADROOM, MAX_HEADROOM);
    if base <= headroom {
        return Err(HostError::TooSmall { available_mib: base / MIB, headroom_mib: headroom / MIB });
    }
    let room = base - headroom;
    let memory = if max_memory_bytes == 0 { room } else { room.min(max_memory_bytes) };
    let cpus = readings.cpus.max(1).saturating_mul(1000);
    let cpus = readings.cpu_limit_mcpu.map_or(cpus, |limit| limit.min(cpus));
    let mcpu = if max_mcpu == 0 { cpus } else { cpus.min(max_mcpu) };
    Ok(Need { mib: memory / MIB, mcpu })
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let mut words = line.split_whitespace().skip(1);
    let amount: u64 = words.next()?.parse().ok()?;
    match words.next()? {
        "kB" => amount.checked_mul(1024),
        "MB" => amount.checked_mul(MIB),
        _ => None,
    }
}

/// The path of the own cgroup for a v1 controller, or of v2 for `""`.
fn own_path<'t>(own: &'t str, controller: &str) -> Option<&'t str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let matches = if controller.is_empty() { controllers.is_empty() } else { controllers.split(',').any(|c| c == controller) };
        matches.then_some(path.trim_start_matches('/'))
    })
}

/// The smallest number that `read` finds in the own cgroup or any above it.
fn smallest_upwards(root: &Path, path: &str, read: impl Fn(&Path) -> Option<u64>) -> Option<u64> {
    let full = root.join(path);
    full.ancestors().take_while(|dir| dir.starts_with(root)).filter_map(read).min()
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn memory_limit(own: &str, root: &Path) -> Option<u64> {
    let v1 = own_path(own, "memory").and_then(|path| smallest_upwards(&root.join("memory"), path, |dir| number(&dir.join("memory.limit_in_bytes"))));
    let v2 = own_path(own, "").and_then(|path| smallest_upwards(root, path, |dir| number(&dir.join("memory.max"))));
    v1.into_iter().chain(v2).min()
}

fn cpu_limit(own: &str, root: &Path) -> Option<u64> {
    let v1 = own_path(own, "cpu").and_then(|path| {
        smallest_upwards(&root.join("cpu"), path, |dir| {
            let quota = number(&dir.join("cpu.cfs_quota_us")).filter(|q| *q > 0)?;
            let period = number(&dir.join("cpu.cfs_period_us")).filter(|p| *p > 0)?;
            Some(quota.saturating_mul(1000) / period)
        })
    });
    let v2 = own_path(own, "").and_then(|path| {
        smallest_upwards(root, path, |dir| {
            let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
            let mut words = text.split_whitespace();
            let quota: u64 = words.next()?.parse().ok()?;
            let period: u64 = words.next()?.parse().ok().filter(|p| *p > 0)?;
            Some(quota.saturating_mul(1000) / period)
        })
    });
    v1.into_iter().chain(v2).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(available: u64, limit: Option<u64>, cap: u64) -> Result<u64, HostError> {
        let readings = Readings { mem_available: Some(available), mem_limit: limit, cpus: 2, cpu_limit_mcpu: None };
        compute(&readings, cap, 0).map(|need| need.mib)
    }

    /// The samples of spec agent §6.1.
    #[test]
    fn headroom_samples() {
        assert_eq!(memory(300 * MIB, None, 0).expect("enough"), 44);
        assert!(memory(256 * MIB, None, 0).is_err());
        assert_eq!(memory(10 << 30, None, 0).expect("enough"), 10 * 1024 - 1024);
        assert_eq!(memory(100 << 30, None, 0).expect("enough"), 100 * 1024 - 5120);
        assert_eq!(memory(100 << 30, Some(1 << 30), 0).expect("enough"), 1024 - 256);
        assert_eq!(memory(10 << 30, None, 128 * MIB).expect("enough"), 128);
    }

    #[test]
    fn meminfo_forms() {
        assert_eq!(mem_available("MemTotal: 5 kB\nMemAvailable:   2048 kB\n"), Some(2 * MIB));
        assert_eq!(mem_available("MemAvailable: 3 MB\n"), Some(3 * MIB));
        assert_eq!(mem_available("MemAvailable: 3 GB\n"), None);
        assert_eq!(mem_available("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn limits_are_read_up_the_tree() {
        let root = std::env::temp_dir().join(format!("hob-host-{}", crate::model::Id::new()));
        let leaf = root.join("a/b");
        std::fs::create_dir_all(&leaf).expect("dir");
        std::fs::write(leaf.join("memory.max"), "max\n").expect("write");
        std::fs::write(root.join("a/memory.max"), "1048576\n").expect("write");
        std::fs::write(leaf.join("cpu.max"), "50000 100000\n").expect("write");
        std::fs::write(root.join("a/cpu.max"), "max 100000\n").expect("write");
        assert_eq!(memory_limit("0::/a/b\n", &root), Some(MIB));
        assert_eq!(cpu_limit("0::/a/b\n", &root), Some(500));
        assert_eq!(memory_limit("0::/c\n", &root), None);
        std::fs::remove_dir_all(&root).expect("clean");
    }
}
