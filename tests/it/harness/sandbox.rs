//! What hob's own sandbox runs, read from the kernel: no engine lists it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hob::pool::Stop;
use hob::sandbox::images::{Images, Options};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Whether the tests run on the sandbox (`HOB_DRIVER=sandbox`) and not on an
/// engine.
pub(crate) fn chosen() -> bool {
    std::env::var("HOB_DRIVER").as_deref() == Ok("sandbox")
}

/// Whether it can run here. Without root it is skipped, unless CI promised it.
pub(crate) fn answers() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "the sandbox needs root, and CI=true promises it");
        println!("SKIPPED: not root");
    }
    root
}

/// The server's control groups, as its log names them.
fn group(log: &str) -> Option<&str> {
    log.rsplit_once("sandbox: cgroups ").and_then(|(_, after)| after.split_whitespace().next())
}

/// Containers of the server that wrote `log`: first processes of cells that
/// run something (those that wait are called otherwise).
pub(crate) fn containers(log: &str) -> Vec<Value> {
    let Some(group) = group(log) else { return Vec::new() };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.path());
    let ours = |path: &PathBuf| {
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        comm.trim() == "hob-init" && std::fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(group))
    };
    processes
        .filter(ours)
        .filter_map(|path| path.file_name()?.to_str()?.parse::<u64>().ok())
        .map(|pid| json!({"Id": pid.to_string(), "Pid": pid, "State": "running"}))
        .collect()
}

pub(crate) fn pid(container: &Value) -> u64 {
    container["Pid"].as_u64().expect("pid")
}

/// As an engine's kill does, it returns when the container is dead.
pub(crate) fn kill(container: &Value) {
    let pid = i32::try_from(pid(container)).ok().and_then(Pid::from_raw).expect("a pid");
    // Found while it lives: one that is on its way out is in no group any more.
    let freezer = freezer(pid);
    kill_process(pid, Signal::KILL).expect("it runs");
    let place = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    super::wait_until("the killed container's end", || {
        // What is frozen does not die (version 1), and the server may freeze it
        // at any time.
        if let Some(file) = &freezer {
            let _ = std::fs::write(file, "THAWED");
        }
        (!place.exists()).then_some(())
    });
}

/// The file that freezes a process, of version 1.
fn freezer(pid: Pid) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
    let path = text.lines().find_map(|l| l.split_once(":freezer:").map(|(_, path)| path))?;
    let file = Path::new("/sys/fs/cgroup/freezer").join(path.trim_start_matches('/')).join("freezer.state");
    file.exists().then_some(file)
}

/// Loads a saved image into the server's store.
pub(crate) fn load(data: &Path, archive: &[u8]) {
    let images = Images::open(&data.join("images"), Options::default()).expect("the store opens");
    let stop = Stop::new().expect("a descriptor");
    images.load(&mut &archive[..], None, Instant::now() + Duration::from_secs(60), &stop).expect("the image is loaded");
}

/// Loads a sample function's image into the server's store. Its name.
pub(crate) fn install(data: &Path, sample: &'static str) -> String {
    let name = format!("hob-test/{sample}:1");
    let images = Images::open(&data.join("images"), Options::default()).expect("the store opens");
    if images.find(&name).expect("the store is read").is_none() {
        let archive = super::engine::archive(&name, &std::fs::read(super::engine::program(sample)).expect("the program was built"));
        let stop = Stop::new().expect("a descriptor");
        images.load(&mut archive.as_slice(), None, Instant::now() + Duration::from_secs(60), &stop).expect("the image is loaded");
    }
    name
}
