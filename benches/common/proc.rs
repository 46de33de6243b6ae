//! Readings from /proc, and strace where it is installed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Failure;

/// /proc counts CPU in hundredths of a second for user space, whatever the kernel's own tick is.
const TICK: f64 = 0.01;

/// CPU seconds used so far by these processes.
pub(crate) fn cpu(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| stat(*pid).map_or(0.0, |s| s.cpu_ticks as f64 * TICK)).sum()
}

/// The same in nanoseconds, of the threads that live now: finer, for small amounts.
pub(crate) fn cpu_nanos(pid: u32) -> u64 {
    each_task(pid, "schedstat").iter().filter_map(|t| t.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Context switches so far, voluntary or not, of the threads that live now.
pub(crate) fn switches(pids: &[u32]) -> u64 {
    pids.iter()
        .flat_map(|pid| each_task(*pid, "status"))
        .flat_map(|t| t.lines().filter(|l| l.contains("ctxt_switches")).filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).collect::<Vec<_>>())
        .sum()
}

fn each_task(pid: u32, file: &str) -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join(file)).ok()).collect()
}

struct Stat {
    parent: u32,
    cpu_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and brackets; nothing after it does.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, cpu_ticks: number(11)? + number(12)? })
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn children(parent: u32) -> Vec<u32> {
    all_pids().into_iter().filter(|pid| stat(*pid).is_some_and(|s| s.parent == parent)).collect()
}

pub(crate) fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|s| s.parent)
}

/// All below a process, whatever the depth.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = all_pids().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let below = |mut at: u32| {
        while let Some(parent) = parents.get(&at) {
            if *parent == pid {
                return true;
            }
            at = *parent;
        }
        false
    };
    parents.keys().copied().filter(|pid| below(*pid)).collect()
}

pub(crate) fn is_named(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name)
}

/// Resident memory, pages shared with others counted in parts.
pub(crate) fn shared_fairly_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find(|l| l.starts_with("Pss:"))?.split_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn named(name: &str) -> Vec<u32> {
    all_pids().into_iter().filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name)).collect()
}

/// How many of these processes stand in a frozen cgroup (version 1 or 2).
pub(crate) fn frozen(pids: &[u32]) -> usize {
    pids.iter().filter(|pid| is_frozen(**pid).unwrap_or(false)).count()
}

fn is_frozen(pid: u32) -> Option<bool> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?.trim_start_matches('/'));
        if controllers == "freezer" {
            return Some(std::fs::read_to_string(Path::new("/sys/fs/cgroup/freezer").join(path).join("freezer.state")).ok()?.trim() == "FROZEN");
        }
        if controllers.is_empty()
            && let Ok(state) = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(path).join("cgroup.events"))
        {
            return Some(state.contains("frozen 1"));
        }
    }
    None
}

pub(crate) fn resident_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find(|l| l.starts_with("VmRSS:"))?.split_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).stderr(Stdio::null()).status();
}

/// Counts the system calls of processes while it lives.
pub(crate) struct Strace {
    child: Child,
    output: std::path::PathBuf,
}

impl Strace {
    /// `None` where strace is not installed or not allowed.
    pub(crate) fn attach(pids: &[u32], folder: &Path) -> Result<Option<Strace>, Failure> {
        let output = folder.join("strace.txt");
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o"]).arg(&output).stderr(Stdio::null()).stdout(Stdio::null());
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let Ok(mut child) = command.spawn() else { return Ok(None) };
        // Attached once each main thread says so.
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            if child.try_wait()?.is_some() {
                return Ok(None);
            }
            if pids.iter().all(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| !s.contains("TracerPid:\t0\n"))) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        Ok(Some(Strace { child, output }))
    }

    /// Calls by name, the most frequent first.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, u64)>, Failure> {
        signal(self.child.id(), "INT");
        self.child.wait()?;
        let text = std::fs::read_to_string(&self.output)?;
        let mut calls = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let (Some(count), Some(name)) = (words.get(3).and_then(|w| w.parse::<u64>().ok()), words.last())
                && *name != "total"
            {
                calls.insert((*name).to_owned(), count);
            }
        }
        let mut list: Vec<(String, u64)> = calls.into_iter().collect();
        list.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        Ok(list)
    }
}
