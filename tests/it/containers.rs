//! Which container serves, and what becomes of those that wait.

use std::collections::HashSet;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::http::Response;
use crate::harness::{Held, Server, container_pid, kill_container, sandbox, wait_until};

#[test]
fn the_last_used_container_serves_next() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    // None has an answer before each has its container.
    let both = [server.hold(&echo), server.hold(&echo)].map(Held::release);
    let instances: HashSet<_> = both.iter().map(|r| r.field("X-Instance").map(str::to_owned)).collect();
    server.await_queue(&echo, "idle", 2);
    assert_eq!(instances.len(), 2, "two calls at a time, two containers");
    let next: Vec<_> = (0..3).map(|_| server.good_call(&echo, &[], b"").field("X-Instance").map(str::to_owned)).collect();
    assert!(next.iter().all(|i| *i == next[0]), "the top of the stack serves: {next:?}");
    assert_eq!(server.containers().len(), 2);
    server.stop();
}

#[test]
fn an_idle_container_goes_after_its_time() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"idle_timeout": 1}));
    let first = server.good_call(&echo, &[], b"");
    assert_eq!(server.containers().len(), 1);
    wait_until("the container's removal", || (server.containers().is_empty() && server.socket_folders() == 0).then_some(()));
    let again = server.good_call(&echo, &[], b"");
    assert_ne!(first.field("X-Instance"), again.field("X-Instance"));
    server.stop();
}

/// The state file of the process's freezer cgroup, and what it says when frozen.
fn freezer(pid: u64) -> (PathBuf, &'static str) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers == "freezer" {
            return (PathBuf::from("/sys/fs/cgroup/freezer").join(path).join("freezer.state"), "FROZEN");
        }
        let unified = PathBuf::from("/sys/fs/cgroup").join(path).join("cgroup.events");
        if controllers.is_empty() && unified.exists() {
            return (unified, "frozen 1");
        }
    }
    panic!("no freezer in {text}");
}

#[test]
fn an_idle_container_is_frozen_and_wakes_for_a_call() {
    let Some(server) = Server::start(&[("FN_FREEZE_IDLE_MSECS", "50")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let first = server.good_call(&echo, &[], b"");
    let (file, frozen) = freezer(container_pid(&server.containers()[0]));
    let is_frozen = || std::fs::read_to_string(&file).is_ok_and(|s| s.contains(frozen));
    for round in 0..5 {
        wait_until("the freezer", || is_frozen().then_some(()));
        let next = server.good_call(&echo, &[], b"awake");
        assert_eq!((next.text().as_str(), next.field("X-Instance")), ("awake", first.field("X-Instance")), "round {round}");
    }
    server.stop();
}

#[test]
fn never_frozen_when_told_so() {
    let Some(server) = Server::start(&[("FN_FREEZE_IDLE_MSECS", "-1")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let (file, frozen) = freezer(container_pid(&server.containers()[0]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!std::fs::read_to_string(file).expect("state").contains(frozen));
    server.stop();
}

#[test]
fn an_idle_container_makes_room_for_another_function() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600")]) else { return };
    let one = server.function("one", "echo", json!({}));
    let two = server.function("two", "echo", json!({}));
    for round in 0..2 {
        assert_eq!(server.good_call(&one, &[], b"1").text(), "1", "round {round}");
        assert_eq!(server.good_call(&two, &[], b"2").text(), "2", "round {round}");
    }
    assert!(server.containers().len() <= 1, "room for one");
    server.stop();
}

#[test]
fn a_changed_configuration_holds_for_the_next_call() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("env", "hostile", json!({"config": {"COLOUR": "red"}}));
    let env = || server.good_call(&id, &[("X-Do", "env")], b"").text();
    assert!(env().contains("COLOUR=red\n"));
    server.manage("PUT", &format!("/v2/fns/{id}"), &json!({"config": {"COLOUR": "blue"}}));
    let text = env();
    assert!(text.contains("COLOUR=blue\n"), "{text}");
    for line in ["FN_LISTENER=unix:/tmp/iofs/lsnr.sock\n", "FN_FORMAT=http-stream\n", "FN_MEMORY=64\n", "FN_TYPE=sync\n"] {
        assert!(text.contains(line), "{line} of {text}");
    }
    server.stop();
}

/// Frozen or not: a container that somebody else killed costs no caller anything.
#[test]
fn a_container_killed_from_outside_is_replaced() {
    for freeze in ["-1", "0"] {
        let Some(server) = Server::start(&[("FN_FREEZE_IDLE_MSECS", freeze)]) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let first = server.good_call(&echo, &[], b"");
        kill_container(&server.containers()[0]);
        let next = server.good_call(&echo, &[], b"next");
        assert_eq!(next.text(), "next");
        assert_ne!(first.field("X-Instance"), next.field("X-Instance"));
        wait_until("the dead one's removal", || (server.containers().len() == 1 && server.socket_folders() == 1).then_some(()));
        server.stop();
    }
}

/// The process that makes sandboxes ends, as soon as it has begun, too: another is made,
/// and functions are served again.
#[test]
fn a_spawner_that_ends_is_followed_by_another() {
    if !sandbox::chosen() {
        return;
    }
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let instance = |answer: Response| answer.field("X-Instance").map(str::to_owned);
    let mut last = instance(server.good_call(&echo, &[], b""));
    for _ in 0..3 {
        let pid = wait_until("a spawner", || spawner(server.pid()));
        kill_process(pid, Signal::KILL).expect("it runs");
        last = wait_until("an answer of a new container", || {
            let answer = server.try_call(&echo, &[], b"").ok().filter(|answer| answer.status == 200)?;
            instance(answer).filter(|new| last.as_ref() != Some(new)).map(Some)
        });
    }
    server.stop();
}

fn spawner(server: u32) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("Name:\thob-spawner\n") && status.contains(&format!("PPid:\t{server}\n"))
    };
    processes.filter(ours).find_map(Pid::from_raw)
}
