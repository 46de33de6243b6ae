//! The process itself: its threads, its memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{Server, threads, together};

/// Promise: no async runtime is ever started; every thread is one of ours or
/// tiny_http's. Names as the kernel keeps them, 15 bytes.
#[test]
fn every_thread_under_load_has_a_known_name() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let done = AtomicBool::new(false);
    let mut names = BTreeMap::new();
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        server.good_call(&echo, &[("X-Sleep-Ms", "5")], b"load");
                        server.send("GET", "/v2/apps", b"");
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            for name in threads(server.pid()) {
                *names.entry(name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()).or_insert(0) += 1;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        done.store(true, Ordering::SeqCst);
        for thread in load {
            thread.join().expect("a caller");
        }
    });
    println!("threads seen: {names:?}");
    let ours = [
        "hob",
        "edge-poll",
        "edge-",
        "api-",
        "hot-launch echo",
        "hot-start-",
        "hot-stop-",
        "hot-logs",
        "hot-syslog",
        "uds-watch",
        "docker-",
        "sandbox-reaper",
        "calls-writer",
        "detached-",
        "callback-",
    ];
    // tiny_http names none of its threads: they bear the starting thread's name, the program's.
    let strangers: Vec<_> = names.keys().filter(|name| !ours.iter().any(|our| *name == our || (our.ends_with('-') && name.starts_with(our)))).collect();
    assert!(strangers.is_empty(), "unknown threads: {strangers:?}");
    assert!(names.keys().all(|name| !name.contains("tokio")), "{names:?}");
    server.stop();
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|v| v.trim().trim_end_matches(" kB").parse().ok()).expect("VmRSS")
}

/// 32 MB pass through; half of that would be a leak of them, less is what a
/// scheduler does with threads and their memory. The absolute numbers are printed
/// (SPECIFICATION.md holds the release build's).
#[test]
fn memory_does_not_grow_with_calls() {
    let Some(server) = Server::start(&[]) else { return };
    println!("idle resident memory: {} KiB", resident_kib(server.pid()));
    let echo = server.function("echo", "echo", json!({}));
    let round = |calls: usize| together(4, |_| (0..calls / 4).for_each(|_| drop(server.good_call(&echo, &[], &[b'm'; 16_000]))));
    round(200);
    let before = resident_kib(server.pid());
    round(2_000);
    let after = resident_kib(server.pid());
    println!("resident memory: {before} KiB after 200 calls, {after} KiB after 2,200");
    assert!(after < before + 16 * 1024, "{before} → {after} KiB");
    server.stop();
}
