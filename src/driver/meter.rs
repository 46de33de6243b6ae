//! What a container has used of CPU and memory, as the kernel counts it for
//! its own cgroup: read from files, no engine asked, a few microseconds.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::group::{ROOT, Version, locate};

/// All these files are short; of `cpu.stat` the first lines are wanted.
const TEXT_MAX: usize = 1024;

/// What a container used since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time of all its processes.
    pub cpu: Duration,
    /// Bytes charged to it now, page cache included; `None`: not counted here.
    pub memory: Option<u64>,
    /// The most bytes charged to it at any time.
    pub memory_peak: Option<u64>,
}

/// What a container used from a `Mark` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    pub cpu: Duration,
    /// The most bytes charged to it meanwhile. `None`: the kernel cannot say
    /// (version 2 before Linux 6.12, unless the peak was reached meanwhile).
    pub memory_peak: Option<u64>,
}

/// A moment from which on usage is counted. One at a time for each meter.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    cpu: Duration,
    /// The peak before, where it cannot be counted anew.
    peak_before: Option<u64>,
}

/// What is known of a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroup {
    /// Made for this container.
    New,
    /// Others had it before.
    UsedBefore,
}

/// The counters of exactly one container's cgroup. Holds two descriptors.
#[derive(Debug)]
pub struct Meter {
    version: Version,
    cpu: File,
    /// What others used.
    cpu_before: Duration,
    memory: Option<PathBuf>,
    peak: Option<Peak>,
}

#[derive(Debug)]
struct Peak {
    file: File,
    /// Whether the kernel counts it anew when asked.
    resets: bool,
    /// The highest of what was seen before counting anew.
    highest: AtomicU64,
}

impl Meter {
    /// Finds the counters of the cgroup that `pid` lives in, if its path names
    /// the container (`must_contain`: its engine id). Nothing, where this
    /// process cannot see the container's cgroup (an engine on another host).
    pub fn find(pid: u32, must_contain: &str, cgroup: Cgroup) -> Option<Meter> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Meter::of(&text, must_contain, cgroup, Path::new(ROOT))
    }

    fn of(text: &str, must_contain: &str, cgroup: Cgroup, root: &Path) -> Option<Meter> {
        let (version, cpu) = locate(text, must_contain, root, "cpuacct")?;
        let cpu = File::open(cpu.join(if version == Version::V1 { "cpuacct.usage" } else { "cpu.stat" })).ok()?;
        let memory = locate(text, must_contain, root, "memory").map(|(version, folder)| match version {
            Version::V1 => (folder.join("memory.usage_in_bytes"), folder.join("memory.max_usage_in_bytes")),
            Version::V2 => (folder.join("memory.current"), folder.join("memory.peak")),
        });
        let peak = memory.as_ref().and_then(|(_, path)| Peak::open(path));
        let memory = memory.map(|(path, _)| path).filter(|path| path.exists());
        let mut meter = Meter { version, cpu, cpu_before: Duration::ZERO, memory, peak };
        let cpu = meter.cpu_total()?;
        if cgroup == Cgroup::UsedBefore {
            meter.cpu_before = cpu;
        }
        Some(meter)
    }

    /// Since the container's start. Nothing when its cgroup is gone.
    pub fn read(&self) -> Option<Usage> {
        let cpu = self.cpu()?;
        let memory = self.memory.as_ref().and_then(|path| number(&fs::read_to_string(path).ok()?));
        let memory_peak = self.peak.as_ref().and_then(|p| Some(p.read()?.max(p.highest.load(Ordering::Relaxed))));
        Some(Usage { cpu, memory, memory_peak })
    }

    /// Usage is counted anew from here on.
    pub fn mark(&self) -> Option<Mark> {
        let cpu = self.cpu()?;
        let peak_before = self.peak.as_ref().and_then(Peak::again);
        Some(Mark { cpu, peak_before })
    }

    /// What was used since the last mark.
    pub fn since(&self, mark: &Mark) -> Option<Spent> {
        let cpu = self.cpu()?.saturating_sub(mark.cpu);
        let peak = self.peak.as_ref().and_then(Peak::read);
        let memory_peak = match mark.peak_before {
            Some(before) => peak.filter(|peak| *peak > before),
            None => peak,
        };
        Some(Spent { cpu, memory_peak })
    }

    fn cpu(&self) -> Option<Duration> {
        Some(self.cpu_total()?.saturating_sub(self.cpu_before))
    }

    fn cpu_total(&self) -> Option<Duration> {
        let text = text_of(&self.cpu)?;
        match self.version {
            Version::V1 => number(&text).map(Duration::from_nanos),
            Version::V2 => text.lines().find_map(|line| number(line.strip_prefix("usage_usec ")?)).map(Duration::from_micros),
        }
    }
}

impl Peak {
    /// Counts anew from here, where the kernel can: what was before belonged
    /// to the setting up, or to others that had the cgroup.
    fn open(path: &Path) -> Option<Peak> {
        let writable = OpenOptions::new().read(true).write(true).open(path);
        let resets = writable.is_ok();
        let peak = Peak { file: writable.or_else(|_| File::open(path)).ok()?, resets, highest: AtomicU64::new(0) };
        peak.again();
        peak.highest.store(0, Ordering::Relaxed);
        Some(peak)
    }

    fn read(&self) -> Option<u64> {
        number(&text_of(&self.file)?)
    }

    /// Counts anew. What it was, if that cannot be done.
    fn again(&self) -> Option<u64> {
        let before = self.read()?;
        self.highest.fetch_max(before, Ordering::Relaxed);
        // Version 2 counts anew for this descriptor alone.
        if self.resets && self.file.write_at(b"0", 0).is_ok() { None } else { Some(before) }
    }
}

fn text_of(file: &File) -> Option<String> {
    let mut bytes = [0; TEXT_MAX];
    let length = file.read_at(&mut bytes, 0).ok()?;
    String::from_utf8(bytes[..length].to_vec()).ok()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders that look like cgroups.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, files: &[(&str, &str)]) -> Fake {
            let fake = Fake(std::env::temp_dir().join(format!("hob-meter-{}-{name}", std::process::id())));
            let _ = fs::remove_dir_all(&fake.0);
            files.iter().for_each(|(path, text)| fake.set(path, text));
            fake
        }

        fn set(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("a folder");
            // In place: descriptors stay.
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).expect("opens");
            file.write_all_at(text.as_bytes(), 0).expect("written");
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn version_1() {
        let fake = Fake::new(
            "v1",
            &[
                ("cpuacct/docker/abc/cpuacct.usage", "5000000\n"),
                ("memory/docker/abc/memory.usage_in_bytes", "4096\n"),
                ("memory/docker/abc/memory.max_usage_in_bytes", "70000\n"),
            ],
        );
        let meter = Meter::of("4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n", "abc", Cgroup::UsedBefore, &fake.0).expect("found");
        // What another container of the same group used is not this one's.
        fake.set("cpuacct/docker/abc/cpuacct.usage", "7000000\n");
        fake.set("memory/docker/abc/memory.max_usage_in_bytes", "8192\n");
        let expected = Usage { cpu: Duration::from_millis(2), memory: Some(4096), memory_peak: Some(8192) };
        assert_eq!(meter.read(), Some(expected));
        let mark = meter.mark().expect("there");
        fake.set("cpuacct/docker/abc/cpuacct.usage", "7500000\n");
        fake.set("memory/docker/abc/memory.max_usage_in_bytes", "5000\n");
        assert_eq!(meter.since(&mark), Some(Spent { cpu: Duration::from_micros(500), memory_peak: Some(5000) }));
        assert_eq!(meter.read().and_then(|u| u.memory_peak), Some(8192), "the container's peak outlives the mark");
    }

    #[test]
    fn version_2() {
        let fake =
            Fake::new("v2", &[("a/b-abc/cpu.stat", "usage_usec 100\nuser_usec 60\n"), ("a/b-abc/memory.current", "1\n"), ("a/b-abc/memory.peak", "3\n")]);
        let meter = Meter::of("0::/a/b-abc/container\n", "abc", Cgroup::New, &fake.0).expect("found");
        fake.set("a/b-abc/cpu.stat", "usage_usec 350\nuser_usec 60\n");
        assert_eq!(meter.read().map(|u| (u.cpu, u.memory)), Some((Duration::from_micros(350), Some(1))));
    }

    #[test]
    fn a_peak_that_cannot_be_counted_anew_is_told_when_it_rises() {
        let fake = Fake::new("fixed", &[("abc/cpu.stat", "usage_usec 0\n"), ("abc/memory.current", "1\n"), ("abc/memory.peak", "900\n")]);
        let mut meter = Meter::of("0::/abc\n", "abc", Cgroup::New, &fake.0).expect("found");
        fake.set("abc/memory.peak", "900\n");
        meter.peak.as_mut().expect("there").resets = false;
        let mark = meter.mark().expect("there");
        assert_eq!(meter.since(&mark).and_then(|s| s.memory_peak), None);
        fake.set("abc/memory.peak", "901\n");
        assert_eq!(meter.since(&mark).and_then(|s| s.memory_peak), Some(901));
    }

    #[test]
    fn what_is_not_there_is_not_counted() {
        let fake = Fake::new("none", &[("cpuacct/abc/cpuacct.usage", "1\n")]);
        let meter = Meter::of("2:cpuacct:/abc\n", "abc", Cgroup::UsedBefore, &fake.0).expect("CPU time alone");
        assert_eq!(meter.read(), Some(Usage::default()));
        assert!(Meter::of("2:cpuacct:/\n0::/\n", "abc", Cgroup::New, &fake.0).is_none(), "another cgroup");
        assert!(Meter::of("2:cpuacct:/abc/x\n", "x", Cgroup::New, &fake.0).is_none(), "a cgroup that is gone");
    }
}
