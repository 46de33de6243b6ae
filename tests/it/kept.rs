//! Calls that are kept: records, and detached calls.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Folder, Server, together, wait_until};

/// A call's record once it is in one of these states.
fn await_status(server: &Server, function: &str, call: &str, wanted: &str) -> Value {
    wait_until(&format!("{call} to be {wanted}"), || {
        let response = server.send("GET", &format!("/v2/fns/{function}/calls/{call}"), b"");
        Some(response.json()).filter(|record| response.status == 200 && record["status"] == wanted)
    })
}

fn detach(server: &Server, function: &str, more: &[(&str, &str)], body: &[u8]) -> String {
    let mut fields = vec![("Fn-Invoke-Type", "detached")];
    fields.extend_from_slice(more);
    let response = server.call(function, &fields, body);
    assert_eq!((response.status, response.body.len()), (202, 0), "{response:?}");
    response.field("Fn-Call-Id").expect("an id").to_owned()
}

#[test]
fn a_detached_call_runs_later_and_its_answer_is_kept() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let call = detach(&server, &echo, &[("X-Sleep-Ms", "10"), ("Content-Type", "text/plain")], b"later");
    let record = await_status(&server, &echo, &call, "success");
    assert_eq!((&record["detached"], &record["attempts"], &record["fn_id"]), (&json!(true), &json!(1), &json!(echo)), "{record}");
    assert!(record["completed_at"].is_string() && record["start"] == "cold" && record["container_id"].is_string(), "{record}");
    let phases = &record["phases"];
    let phase = |name: &str| phases[name].as_f64().unwrap_or_else(|| panic!("{name}: {record}"));
    assert!(phase("start_ms") + phase("boot_ms") <= record["waited_ms"].as_f64().expect("a number") + 0.01, "{record}");
    assert!(phase("function_ms") >= 10.0 && phase("dispatch_ms") + phase("function_ms") <= record["ran_ms"].as_f64().expect("a number") + 0.01, "{record}");
    // Where the container's cgroup is in sight, as it is here.
    assert!(record["cpu_ms"].as_f64().is_some_and(|ms| ms < 10_000.0), "{record}");
    let answer = server.manage("GET", &format!("/v2/fns/{echo}/calls/{call}/answer"), &Value::Null);
    let body = base64::engine::general_purpose::STANDARD.decode(answer["body"].as_str().expect("text")).expect("base 64");
    assert_eq!((body.as_slice(), &answer["status"]), (&b"later"[..], &json!(200)));
    assert!(answer["headers"].as_array().expect("a list").iter().any(|h| h[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case("x-count"))), "{answer}");
    // Nothing was asked to be kept of an ordinary good call.
    let plain = server.good_call(&echo, &[], b"now").field("Fn-Call-Id").expect("an id").to_owned();
    assert_eq!(server.send("GET", &format!("/v2/fns/{echo}/calls/{plain}"), b"").status, 404);
    let list = server.manage("GET", &format!("/v2/fns/{echo}/calls"), &Value::Null);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    server.stop();
}

#[test]
fn a_failing_call_is_repeated_then_dead_then_run_again() {
    let Some(server) = Server::start(&[("HOB_DETACHED_ATTEMPTS", "2")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let call = detach(&server, &echo, &[("X-Status", "502")], b"");
    let record = await_status(&server, &echo, &call, "error");
    assert_eq!((&record["attempts"], &record["error"]), (&json!(2), &json!("function failed")), "{record}");
    let path = format!("/v2/fns/{echo}/calls/{call}");
    assert_eq!(server.send("GET", &format!("{path}/answer"), b"").status, 404);
    assert_eq!(server.send("POST", &format!("{path}/again"), b"").status, 200);
    let record = await_status(&server, &echo, &call, "error");
    assert_eq!(record["attempts"], 2, "it had all its attempts again: {record}");
    assert_eq!(server.send("DELETE", &path, b"").status, 204, "a dead one can be given up");
    assert_eq!(server.send("POST", &format!("{path}/again"), b"").status, 409);
    server.stop();
}

/// What a call is, and which setting it hangs on.
#[test]
fn what_cannot_be_done_to_a_call_is_said() {
    let Some(server) = Server::start(&[("HOB_CALL_RECORDS", "all"), ("HOB_DETACHED_ATTEMPTS", "1"), ("HOB_ANSWERS_MAX_BYTES", "1")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let path = |call: &str| format!("/v2/fns/{echo}/calls/{call}");
    let told = |method: &str, path: &str, status: u16, words: &[&str]| {
        let answer = server.send(method, path, b"");
        assert!(answer.status == status && words.iter().all(|word| answer.message().contains(word)), "{method} {path}: {answer:?}");
    };
    let at_once = server.good_call(&echo, &[], b"now").field("Fn-Call-Id").expect("an id").to_owned();
    told("DELETE", &path(&at_once), 409, &["Could not cancel - only a detached call", "called at once"]);
    told("POST", &format!("{}/again", path(&at_once)), 409, &["Could not run again - only a detached call", "called at once"]);
    told("GET", &format!("{}/answer", path(&at_once)), 404, &["only answers of detached calls"]);

    let good = detach(&server, &echo, &[], b"much more than is kept");
    await_status(&server, &echo, &good, "success");
    told("DELETE", &path(&good), 409, &["Could not cancel", "this one is success"]);
    told("POST", &format!("{}/again", path(&good)), 409, &["failed for good", "this one is success"]);
    let failed = detach(&server, &echo, &[("X-Status", "502")], b"much more than is kept");
    await_status(&server, &echo, &failed, "error");
    // Both are more than may be kept.
    wait_until("the answer to be forgotten", || (server.send("GET", &format!("{}/answer", path(&good)), b"").status == 404).then_some(()));
    told("GET", &format!("{}/answer", path(&good)), 404, &["not kept any longer", "HOB_ANSWERS_MAX_BYTES"]);
    let database = rusqlite::Connection::open(server.folder.path.join("data/calls.db")).expect("opened");
    let rows = || database.query_row("SELECT count(*) FROM queue", [], |row| row.get::<_, i64>(0)).expect("a count");
    wait_until("the body to be forgotten", || (rows() == 0).then_some(()));
    told("POST", &format!("{}/again", path(&failed)), 409, &["Could not run again", "HOB_ANSWERS_MAX_BYTES"]);
    told("DELETE", &path(&failed), 409, &["Could not cancel", "HOB_ANSWERS_MAX_BYTES"]);

    for unknown in ["01HF7YAT3V180G40RZJ0000001", "x", "%C3%A9"] {
        for (method, more) in [("GET", ""), ("DELETE", ""), ("GET", "/answer"), ("POST", "/again")] {
            told(method, &format!("{}{more}", path(unknown)), 404, &["Call not found", "HOB_CALL_RECORDS"]);
        }
        for query in ["", "?follow=1"] {
            told("GET", &format!("{}/log{query}", path(unknown)), 404, &["Call log not found", "HOB_CALL_LOGS"]);
        }
    }
    server.stop();
}

#[test]
fn a_call_that_waits_for_its_time_can_be_cancelled() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let call = detach(&server, &echo, &[("Hob-Delay-Secs", "3600"), ("Idempotency-Key", "once")], b"");
    assert_eq!(detach(&server, &echo, &[("Idempotency-Key", "once")], b""), call, "the same call");
    let path = format!("/v2/fns/{echo}/calls/{call}");
    assert_eq!(await_status(&server, &echo, &call, "queued")["attempts"], Value::Null);
    assert_eq!(server.send("DELETE", &path, b"").status, 204);
    await_status(&server, &echo, &call, "cancelled");
    assert_eq!(server.send("DELETE", &path, b"").status, 204, "the same answer again");
    assert_eq!(server.send("GET", "/v2/fns/01HF7YAT3V180G40RZJ0000001/calls", b"").status, 404);
    assert_eq!(server.send("GET", &format!("/v2/fns/{echo}/calls?status=x"), b"").status, 400);
    assert_eq!(server.send("GET", &format!("/v2/fns/{echo}/calls?cursor=x"), b"").status, 400);
    assert_eq!(server.queue(&echo, "calls"), 0, "it never ran");
    server.stop();
}

#[test]
fn errors_are_written_down_and_all_calls_if_asked() {
    let Some(server) = Server::start(&[("HOB_CALL_RECORDS", "all")]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 4}));
    let ids: Vec<String> = [("X-A", "b"), ("X-Status", "502"), ("X-Sleep-Ms", "60000")]
        .iter()
        .map(|field| server.call(&echo, &[*field], b"abc").field("Fn-Call-Id").expect("an id").to_owned())
        .collect();
    for (id, status) in ids.iter().zip(["success", "error", "timeout"]) {
        let record = await_status(&server, &echo, id, status);
        assert_eq!((&record["request_bytes"], &record["detached"]), (&json!(3), &json!(false)), "{record}");
    }
    let page = server.manage("GET", &format!("/v2/fns/{echo}/calls?per_page=2"), &Value::Null);
    let cursor = page["next_cursor"].as_str().expect("more");
    let rest = server.manage("GET", &format!("/v2/fns/{echo}/calls?per_page=2&cursor={cursor}"), &Value::Null);
    let listed: Vec<&Value> = page["items"].as_array().into_iter().chain(rest["items"].as_array()).flatten().map(|c| &c["id"]).collect();
    // Those made in one millisecond by several threads are in no order.
    let mut newest_first: Vec<&String> = ids.iter().collect();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(listed, newest_first, "newest first");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    for (query, count) in [
        ("status=error".to_owned(), 1),
        (format!("from_time={}", now - 600), 3),
        (format!("from_time={}", now + 600), 0),
        (format!("to_time={}", now - 600), 0),
        (format!("from_time={}&to_time={}&status=timeout", now - 600, now + 600), 1),
    ] {
        let found = server.manage("GET", &format!("/v2/fns/{echo}/calls?{query}"), &Value::Null);
        assert_eq!(found["items"].as_array().map(Vec::len), Some(count), "{query}: {found}");
    }
    server.stop();
}

#[test]
fn a_trigger_can_make_its_calls_detached() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let app = server.manage("GET", &format!("/v2/fns/{echo}"), &Value::Null)["app_id"].clone();
    let trigger = json!({"app_id": app, "fn_id": echo, "name": "t", "type": "http", "source": "/t", "annotations": {"hob/invoke-type": "detached"}});
    server.manage("POST", "/v2/triggers", &trigger);
    let response = server.send("POST", "/t/app/t", b"body");
    assert_eq!(response.status, 202, "{response:?}");
    let record = await_status(&server, &echo, response.field("Fn-Call-Id").expect("an id"), "success");
    let triggers = server.manage("GET", &format!("/v2/triggers?app_id={}", app.as_str().expect("text")), &Value::Null);
    assert_eq!(record["trigger_id"], triggers["items"][0]["id"], "{record}");
    server.stop();
}

/// While a backlog waits, others are served at once; and nothing of it is lost.
#[test]
fn a_backlog_stands_behind_synchronous_callers() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "301989888")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let calls: Vec<String> = (0..40).map(|n| detach(&server, &echo, &[("X-Sleep-Ms", "50")], format!("{n}").as_bytes())).collect();
    let answers = together(4, |_| server.good_call(&echo, &[], b"mine"));
    assert!(answers.iter().all(|a| a.text() == "mine"));
    for call in &calls {
        await_status(&server, &echo, call, "success");
    }
    server.stop();
}

/// Accepted calls that were running when the server was killed, as its files
/// tell: read from a copy, so that the next server finds them untouched.
fn interrupted(folder: &Folder) -> Vec<String> {
    let copy = folder.path.join("copy");
    std::fs::create_dir_all(&copy).expect("a folder");
    for name in ["calls.db", "calls.db-wal"] {
        let from = folder.path.join("data").join(name);
        if from.exists() {
            std::fs::copy(from, copy.join(name)).expect("copied");
        }
    }
    let database = rusqlite::Connection::open(copy.join("calls.db")).expect("opened");
    let mut running = database.prepare("SELECT id FROM calls WHERE status = 1").expect("a query");
    let found = running.query_map([], |row| row.get(0)).expect("rows").map(|id| id.expect("text")).collect();
    drop(running);
    drop(database);
    std::fs::remove_dir_all(copy).expect("removed");
    found
}

/// Each accepted call runs, however often the server is killed, and more than
/// once only if a kill fell inside its run.
#[test]
fn a_kill_loses_no_accepted_call() {
    let rounds: usize = std::env::var("HOB_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let (folder, env) = (Folder::new(), [("HOB_CALLS_PER_FN", "1000000"), ("HOB_DETACHED_MAX_QUEUED", "1000000")]);
    let mut accepted: Vec<String> = Vec::new();
    let mut cut: HashMap<String, u64> = HashMap::new();
    let mut function = String::new();
    for _ in 0..rounds {
        let Some(mut server) = Server::start_in(folder.clone(), &env) else { return };
        if function.is_empty() {
            function = server.function("echo", "echo", json!({}));
        }
        let pause = Duration::from_millis(RandomState::new().hash_one(()) % 768);
        let killed = AtomicBool::new(false);
        // A stream of calls until the server is gone in the middle of it.
        accepted.extend(std::thread::scope(|scope| {
            let (server, function, killed) = (&server, &function, &killed);
            let stream = scope.spawn(move || {
                let mut ids = Vec::new();
                for n in 0.. {
                    // Faster than they run, but not so that hours of runs wait at the end.
                    if n >= 100 {
                        std::thread::sleep(Duration::from_millis(3));
                    }
                    let fields = [("Fn-Invoke-Type", "detached"), ("X-Sleep-Ms", if n % 3 == 0 { "40" } else { "0" })];
                    match server.try_call(function, &fields, b"x") {
                        Ok(answer) if answer.status == 202 => ids.push(answer.field("Fn-Call-Id").expect("an id").to_owned()),
                        answer => {
                            assert!(killed.load(Ordering::SeqCst), "{answer:?}\n{}", server.log());
                            break;
                        }
                    }
                }
                ids
            });
            std::thread::sleep(pause);
            killed.store(true, Ordering::SeqCst);
            server.signal(Signal::KILL);
            stream.join().expect("the stream")
        }));
        server.wait();
        interrupted(&folder).into_iter().for_each(|id| *cut.entry(id).or_default() += 1);
    }
    let Some(server) = Server::start_in(folder, &env) else { return };
    let (mut repeated, mut runs) = (0, 0);
    for call in &accepted {
        let record = wait_until(&format!("{call} to have run"), || {
            let record = server.manage("GET", &format!("/v2/fns/{function}/calls/{call}"), &Value::Null);
            (record["status"] == "success").then_some(record)
        });
        let attempts = record["attempts"].as_u64().expect("a number");
        assert_eq!(attempts, 1 + cut.get(call).copied().unwrap_or(0), "once, and once more for each kill in a run: {record}");
        runs += attempts;
        repeated += u64::from(attempts > 1);
    }
    // A call may be on disk whose client never saw its 202.
    wait_until("the queue to be empty", || {
        let gauges = server.send("GET", "/metrics", b"").text();
        gauges.lines().any(|line| line == "hob_detached_queued 0").then_some(())
    });
    println!("{rounds} kills, {} calls accepted, none lost; {runs} runs: {repeated} calls more than once, each with a kill in a run", accepted.len());
    server.stop();
}

/// A server that is killed while a call waits for its container takes no run
/// from it: with one allowed, it has that one still.
#[test]
fn kills_before_the_function_was_asked_cost_no_run() {
    let (folder, env) = (Folder::new(), [("HOB_DETACHED_ATTEMPTS", "1")]);
    let (mut function, mut call) = (String::new(), String::new());
    for round in 0..3 {
        let Some(mut server) = Server::start_in(folder.clone(), &env) else { return };
        if round == 0 {
            function = server.function("late", "hostile", json!({"config": {"HOSTILE": "late:600000"}}));
            call = detach(&server, &function, &[], b"");
        }
        // What the kill before this one left goes first.
        wait_until("a container on its way", || (server.containers().len() == 1).then_some(()));
        if round == 2 {
            // The call stands in the line of what the function was; the next server's
            // does not.
            server.manage("PUT", &format!("/v2/fns/{function}"), &json!({"config": {"HOSTILE": ""}}));
        }
        server.signal(Signal::KILL);
        server.wait();
    }
    let Some(server) = Server::start_in(folder, &env) else { return };
    let record = await_status(&server, &function, &call, "success");
    assert_eq!(record["attempts"], 1, "{record}");
    server.stop();
}

/// A call of `echo` that runs until its server ends, and after `let_end` and the
/// next start is over at once.
const AS_CONFIGURED: (&str, &str) = ("X-Sleep-Ms", "config");

fn endless() -> Value {
    json!({"SLEEP_MS": "1000000"})
}

/// Runs that begin from now on end; those under way do not.
fn let_end(server: &Server, function: &str) {
    server.manage("PUT", &format!("/v2/fns/{function}"), &json!({"config": {"SLEEP_MS": "0"}}));
}

/// A run that a kill has cut is made up for beyond those that may fail, but not
/// where a call may run once only.
#[test]
fn runs_that_kills_cut_are_made_up_for() {
    let (folder, env) = (Folder::new(), [("HOB_DETACHED_ATTEMPTS", "2")]);
    let mut calls: Vec<(String, String)> = Vec::new();
    for round in 0..3 {
        let Some(mut server) = Server::start_in(folder.clone(), &env) else { return };
        if round == 0 {
            let once = json!({"annotations": {"hob/max-attempts": 1}, "config": endless()});
            let functions = [server.function("often", "echo", json!({"config": endless()})), server.function("once", "echo", once)];
            calls = functions.map(|function| (detach(&server, &function, &[AS_CONFIGURED], b""), function)).into_iter().collect();
        }
        for (call, function) in &calls[..if round == 0 { 2 } else { 1 }] {
            await_status(&server, function, call, "running");
        }
        if round == 2 {
            let_end(&server, &calls[0].1);
        }
        server.signal(Signal::KILL);
        server.wait();
    }
    let Some(server) = Server::start_in(folder, &env) else { return };
    let often = await_status(&server, &calls[0].1, &calls[0].0, "success");
    let once = await_status(&server, &calls[1].1, &calls[1].0, "error");
    assert_eq!((&often["attempts"], &once["attempts"]), (&json!(4), &json!(1)), "{often} {once}");
    assert!(once["error"].as_str().is_some_and(|text| text.contains("the server ended")), "{once}");
    server.stop();
}

/// Nor does a run that a kill has cut take one of those that may fail.
#[test]
fn a_cut_run_takes_no_failure_from_a_call() {
    let (folder, env) = (Folder::new(), [("HOB_DETACHED_ATTEMPTS", "2")]);
    let Some(mut server) = Server::start_in(folder.clone(), &env) else { return };
    let echo = server.function("echo", "echo", json!({"config": endless()}));
    let call = detach(&server, &echo, &[AS_CONFIGURED, ("X-Status", "502")], b"");
    await_status(&server, &echo, &call, "running");
    let_end(&server, &echo);
    server.signal(Signal::KILL);
    server.wait();
    let Some(server) = Server::start_in(folder, &env) else { return };
    let record = await_status(&server, &echo, &call, "error");
    assert_eq!((&record["attempts"], &record["error"]), (&json!(3), &json!("function failed")), "one that was cut, two that failed: {record}");
    server.stop();
}

/// A stop that does not wait for a run cuts it: that was a run.
#[test]
fn a_run_that_a_stop_cuts_counts_and_is_made_up_for() {
    let (folder, env) = (Folder::new(), [("HOB_DETACHED_ATTEMPTS", "2"), ("HOB_DRAIN_MSECS", "1")]);
    let Some(server) = Server::start_in(folder.clone(), &env) else { return };
    let once = json!({"annotations": {"hob/max-attempts": 1}, "config": endless()});
    let functions = [server.function("often", "echo", json!({"config": endless()})), server.function("once", "echo", once)];
    let calls = functions.map(|function| (detach(&server, &function, &[AS_CONFIGURED], b""), function));
    calls.iter().for_each(|(call, function)| drop(await_status(&server, function, call, "running")));
    let_end(&server, &calls[0].1);
    server.stop();
    let Some(server) = Server::start_in(folder, &env) else { return };
    let often = await_status(&server, &calls[0].1, &calls[0].0, "success");
    let once = await_status(&server, &calls[1].1, &calls[1].0, "error");
    assert_eq!((&often["attempts"], &once["attempts"]), (&json!(2), &json!(1)), "{often} {once}");
    server.stop();
}

/// A file system of its own for the data, so small that it fills up.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None`: this user may not mount.
    fn mount(path: std::path::PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir_all(&path).expect("a folder");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(&path).output().expect("mount is there");
        if done.status.success() {
            return Some(SmallDisk(path));
        }
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(std::env::var("CI").is_err(), "no small disk: {why}");
        println!("SKIPPED: no small disk: {why}");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A disk that is full: refused calls are told why, others go on, and nothing
/// that was accepted is lost.
#[test]
fn a_full_disk_loses_no_accepted_call() {
    let folder = Folder::new();
    let Some(disk) = SmallDisk::mount(folder.path.join("data")) else { return };
    // Socket folders elsewhere: not on what an engine may not see.
    let iofs = folder.path.join("iofs").to_str().expect("text").to_owned();
    let env = [("FN_IOFS_PATH", iofs.as_str())];
    let Some(mut server) = Server::start_in(folder.clone(), &env) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"warm");
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).expect("written");
    let (body, fields) = (vec![b'x'; 128 << 10], [("Fn-Invoke-Type", "detached"), ("Hob-Delay-Secs", "3600")]);
    let mut accepted = Vec::new();
    let refused = loop {
        let answer = server.call(&echo, &fields, &body);
        match answer.status {
            202 => accepted.push(answer.field("Fn-Call-Id").expect("an id").to_owned()),
            _ => break answer,
        }
        assert!(accepted.len() < 1000, "the disk is full some day");
    };
    assert!(refused.status == 503 && refused.message().contains("cannot be kept") && refused.message().contains("full"), "{refused:?}");
    assert!(refused.field("Retry-After").is_some() && accepted.len() > 10, "{refused:?}");
    assert_eq!(server.good_call(&echo, &[], b"as ever").text(), "as ever");
    std::fs::remove_file(ballast).expect("removed");
    wait_until("room again", || {
        let answer = server.call(&echo, &fields, b"small");
        (answer.status == 202).then(|| accepted.push(answer.field("Fn-Call-Id").expect("an id").to_owned()))
    });
    server.signal(Signal::KILL);
    server.wait();
    let Some(server) = Server::start_in(folder.clone(), &env) else { return };
    for call in &accepted {
        await_status(&server, &echo, call, "queued");
    }
    println!("{} calls accepted until the disk was full, all of them kept", accepted.len());
    server.stop();
    drop(disk);
}
