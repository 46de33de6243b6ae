//! How a function starts: what it shows under its socket's name, when, and
//! whether it lives to serve.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use super::lanes::{Trap, clean};
use super::{delete, delete_last, turn};
use crate::harness::Server;

/// Starts at the same time.
const AT_ONCE: usize = 6;

/// `HOSTILE`, the rule, what may come of a call: `200` or a status and a part
/// of the message.
type Start = (&'static str, &'static str, &'static [&'static str]);

const FOUND: &str = "contract: a plain name in the folder, held by descriptor";
const LIMIT: &str = "contract: FN_HOT_START_TIMEOUT_MSECS";
const END: &str = "contract: an end before the socket is told as that";
const LINK: &[&str] = &["502 link"];
const NO_SOCKET: &[&str] = &["504 FN_HOT_START_TIMEOUT_MSECS"];
const GOOD: &[&str] = &["200"];

const STARTS: &[Start] = &[
    ("never-listens", LIMIT, NO_SOCKET),
    ("late:60000", LIMIT, NO_SOCKET),
    ("late:300", LIMIT, GOOD),
    ("stops", LIMIT, NO_SOCKET),
    ("wrong-name", LIMIT, NO_SOCKET),
    ("gone", LIMIT, &["504 FN_HOT_START_TIMEOUT_MSECS", "502 no lsnr.sock", "502 accepted a connection", "504 Timed out"]),
    ("exits:0", END, &["502 exited with code 0"]),
    ("exits:7", END, &["502 exited with code 7"]),
    ("exits:137", END, &["502 exited with code 137"]),
    ("ends:200", END, &["502 exited with code 4"]),
    ("killed", END, &["502 exited with code 137"]),
    ("oom", END, &["502 memory"]),
    ("listens-and-ends", END, &["502 "]),
    ("no-folder", END, &["502 exited with code 3"]),
    ("direct", FOUND, GOOD),
    ("dot-link", FOUND, GOOD),
    ("hard-link", FOUND, GOOD),
    ("moved", FOUND, GOOD),
    ("late-link", FOUND, GOOD),
    ("bind-then-listen", "contract: the name appears before somebody listens", GOOD),
    ("no-listen", LIMIT, &["502 accepted a connection in time"]),
    ("bound-not-listening", LIMIT, &["502 accepted a connection in time"]),
    ("plain-file", FOUND, &["502 regular file"]),
    ("folder", FOUND, &["502 not a socket but a folder"]),
    ("fifo", FOUND, &["502 not a socket but a pipe"]),
    ("datagrams", FOUND, &["502 cannot connect"]),
    ("packets", FOUND, &["502 cannot connect"]),
    ("sub-folder", FOUND, LINK),
    ("absolute-link", FOUND, LINK),
    ("parent-link", FOUND, LINK),
    ("trap-link", FOUND, LINK),
    ("deep-link", FOUND, LINK),
    ("device-link", FOUND, LINK),
    ("folder-link", FOUND, LINK),
    ("link-chain", FOUND, &["502 link to another link"]),
    ("own-link", FOUND, &["502 link to another link"]),
    ("dangling-link", FOUND, &["502 link to nothing"]),
    ("swaps", FOUND, &["200", "502 link"]),
    ("closed-folder", FOUND, &["200", "502 ", "504 "]),
    ("never-accepts", "contract: the call's deadline is absolute", &["504 Timed out: the function ran longer"]),
    ("accepts-and-closes", "contract: no answer", &["502 error receiving function response"]),
    ("backlog-0", "contract: a full backlog is waited for", GOOD),
    ("prints", "contract: output never holds a function up", GOOD),
    ("prints-half", "contract: output never holds a function up", GOOD),
    ("prints-bytes", "contract: output never holds a function up", GOOD),
    ("silent", "contract: output never holds a function up", GOOD),
    ("files", "contract: what is left in the folder is removed", GOOD),
    ("deep", "contract: what is left in the folder is removed", GOOD),
    ("forks", "contract: limits of the container", &["200", "502 ", "504 "]),
    ("fds", "contract: limits of the container", &["200", "502 ", "504 "]),
];

/// Calls that wait for their deadline are few and short.
fn timeout_s(mode: &str) -> u32 {
    if matches!(mode, "never-accepts" | "gone" | "forks" | "fds" | "closed-folder") { 2 } else { 30 }
}

/// What nothing but the limit for starts ends.
fn is_limited(start: &Start) -> bool {
    start.2.iter().any(|outcome| NO_SOCKET.contains(outcome) || outcome.contains("accepted a connection"))
}

#[test]
fn every_start_ends_as_its_rule_says_and_leads_nowhere() {
    run_starts("60000", &STARTS.iter().filter(|start| !is_limited(start)).collect::<Vec<_>>());
}

#[test]
fn a_start_that_comes_to_nothing_ends_at_its_limit_and_leads_nowhere() {
    run_starts("4000", &STARTS.iter().filter(|start| is_limited(start)).collect::<Vec<_>>());
}

fn run_starts(limit_ms: &str, starts: &[&Start]) {
    let settings = [("FN_HOT_START_TIMEOUT_MSECS", limit_ms), ("FN_MAX_TOTAL_MEMORY_BYTES", "8589934592")];
    let _turn = turn();
    let Some(server) = Server::start(&settings) else { return };
    let trap = Trap::set("starts");
    let echo = server.function("echo", "echo", json!({"timeout": 60}));
    server.good_call(&echo, &[], b"warm");
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let wrong = Mutex::new(Vec::new());
    let begun = Instant::now();
    let beside = std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut calls = 0u32;
            while !done.load(Ordering::SeqCst) {
                let body = format!("neighbour {calls}");
                assert_eq!(server.good_call(&echo, &[], body.as_bytes()).text(), body);
                calls += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            calls
        });
        let all: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(start) = starts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(what) = attempt(&server, &trap, start) {
                            wrong.lock().expect("list").push(format!("{} ({}): {what}", start.0, start.1));
                        }
                    }
                })
            })
            .collect();
        all.into_iter().for_each(|one| one.join().expect("a caller"));
        done.store(true, Ordering::SeqCst);
        neighbour.join().expect("the neighbour")
    });
    println!("{} starts in {:?}, {beside} calls of another function beside them", starts.len(), begun.elapsed());
    let wrong = wrong.into_inner().expect("list");
    assert!(wrong.is_empty(), "{} of {}:\n{}\n{}", wrong.len(), starts.len(), wrong.join("\n"), server.log());
    trap.assert_untouched();
    delete_last(&server, &echo);
    server.stop();
}

fn attempt(server: &Server, trap: &Trap, start: &Start) -> Result<(), String> {
    let mode = start.0;
    let config = json!({"HOSTILE": mode, "TRAP": trap.path.to_str().expect("UTF-8")});
    let function = server.function(&mode.replace(':', "-"), "hostile", json!({"config": config, "timeout": timeout_s(mode)}));
    let result = called(server, &function, start);
    delete(server, &function);
    result
}

fn called(server: &Server, function: &str, (mode, _, allowed): &Start) -> Result<(), String> {
    // A good one is called more than once: the first connection may be the only one.
    for round in 0..3 {
        let body = format!("{mode} {round}");
        let answer = server.try_call(function, &[("X-Do", "echo-bare")], body.as_bytes()).map_err(|e| e.to_string())?;
        let seen = format!("{} {}", answer.status, answer.text().trim());
        let fits = |wanted: &&str| match parts(wanted) {
            (200, _) => answer.status == 200 && answer.text() == body,
            (status, part) => answer.status == status && answer.message().contains(part),
        };
        if answer.status != 200 {
            clean(&answer)?;
        }
        if !allowed.iter().any(fits) {
            return Err(format!("call {round}: seen {seen}, allowed {allowed:?}"));
        }
        if answer.status != 200 {
            break;
        }
    }
    Ok(())
}

fn parts(allowed: &str) -> (u16, &str) {
    let (status, part) = allowed.split_once(' ').unwrap_or((allowed, ""));
    (status.parse().expect("a status"), part)
}
