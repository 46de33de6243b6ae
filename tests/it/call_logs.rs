//! What functions print, kept by call: readable by the call's id whatever
//! became of it, live while it runs, bounded in memory and on disk.

use std::io::{BufRead, BufReader, Read};
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Folder, Server, http, wait_until};

/// The call's log once it has `what` in it.
fn await_log(server: &Server, function: &str, call: &str, what: &str) -> String {
    wait_until(&format!("'{what}' in the log of {call}"), || {
        let answer = server.send("GET", &format!("/v2/fns/{function}/calls/{call}/log"), b"");
        Some(answer.text()).filter(|text| answer.status == 200 && text.contains(what))
    })
}

fn call(server: &Server, function: &str, what: &str, status: u16) -> String {
    let answer = server.call(function, &[("X-Do", what)], b"");
    assert_eq!(answer.status, status, "{answer:?}");
    answer.field("Fn-Call-Id").expect("an id").to_owned()
}

#[test]
fn a_calls_log_is_read_by_its_id_also_after_a_restart() {
    let folder = Folder::new();
    let Some(server) = Server::start_in(folder.clone(), &[]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    let first = call(&server, &id, "say:2", 200);
    let log = await_log(&server, &id, &first, "said 1");
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    let want = ["said 0", "said 1", "told 0", "told 1"].map(|line| format!("{line} in {first}"));
    assert_eq!(lines, want);
    // Quiet calls have none, nor have calls nobody made.
    let quiet = call(&server, &id, "body:3", 200);
    let second = call(&server, &id, "say:1", 200);
    await_log(&server, &id, &second, "told 0");
    for missing in [quiet.as_str(), "01HF7YAT3V180G40RZJ0000001"] {
        assert_eq!(server.send("GET", &format!("/v2/fns/{id}/calls/{missing}/log"), b"").status, 404);
    }
    let all = server.send("GET", &format!("/v2/fns/{id}/logs"), b"").text();
    for call in [&first, &second] {
        assert!(all.contains(&format!("{call} said 0 in {call}\n")), "{all}");
    }
    server.stop();
    let Some(server) = Server::start_in(folder, &[]) else { return };
    assert_eq!(await_log(&server, &id, &first, "said 1"), log);
    server.stop();
}

#[test]
fn calls_that_crashed_were_too_slow_or_never_started_have_their_logs() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("hostile", "hostile", json!({"timeout": 5}));
    let crashed = call(&server, &id, "say-exit:3", 502);
    let log = await_log(&server, &id, &crashed, "hob: ");
    assert!(log.starts_with(&format!("cannot go on: {crashed}\n")) && log.ends_with("exited with code 3\n"), "{log}");
    let slow = call(&server, &id, "say-never", 504);
    let log = await_log(&server, &id, &slow, "waits for ever");
    assert!(log.starts_with(&format!("waits for ever in {slow}\n")), "{log}");
    await_log(&server, &id, &slow, "\nhob: ");
    // It came up and printed why not.
    let fails = server.function("fails", "hostile", json!({"config": {"HOSTILE": "says-exits:9"}}));
    let never = call(&server, &fails, "say:1", 502);
    let log = await_log(&server, &fails, &never, "cannot start\n");
    await_log(&server, &fails, &never, "hob: ");
    assert!(!log.contains("said"), "{log}");
    // There was nothing to come up.
    let none = server.function_of("none", "hob-test-no-such-image:1", json!({"annotations": {"hob/pull": "never"}}));
    let answer = server.call(&none, &[], b"");
    assert!(answer.status >= 400, "{answer:?}");
    let log = await_log(&server, &none, answer.field("Fn-Call-Id").expect("an id"), "hob: ");
    assert!(log.contains("hob-test-no-such-image:1"), "{log}");
    server.stop();
}

/// A tail stays for all runs of a call, has each line once, and ends with why
/// it failed, as the log does that is read later.
#[test]
fn a_tail_follows_a_call_that_is_repeated() {
    let Some(server) = Server::start(&[("HOB_DETACHED_ATTEMPTS", "2")]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    let answer = server.call(&id, &[("X-Do", "say-exit:3"), ("Fn-Invoke-Type", "detached")], b"");
    let call = answer.field("Fn-Call-Id").expect("an id").to_owned();
    let target = format!("/v2/fns/{id}/calls/{call}/log");
    let live = server.send("GET", &format!("{target}?follow=1"), b"").text();
    let why = "hob: error receiving function response: the container ended during the call: exited with code 3";
    assert_eq!(live, format!("cannot go on: {call}\ncannot go on: {call}\n{why}\n"));
    wait_until("the log", || (server.send("GET", &target, b"").text() == live).then_some(()));
    assert_eq!(server.send("GET", &format!("{target}?follow=1"), b"").text(), live, "told again");
    server.stop();
}

/// Lines of a live tail as they come.
struct Tail(BufReader<std::net::TcpStream>);

impl Tail {
    fn begin(server: &Server, target: &str) -> Tail {
        let stream = http::begin(server.address, "GET", target, &[], b"").expect("connected");
        let mut tail = Tail(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(tail.0.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 ") && head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
        tail
    }

    fn await_line(&mut self, what: &str) {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("more") > 0, "it ended before '{what}'");
        }
    }

    /// To its end, which must be that of a whole answer.
    fn end(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).expect("the end");
        assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
        rest
    }
}

#[test]
fn a_log_is_followed_while_the_call_runs() {
    let Some(mut server) = Server::start(&[("HOB_DETACHED_ATTEMPTS", "1")]) else { return };
    let id = server.function("hostile", "hostile", json!({"timeout": 5}));
    let mut all = Tail::begin(&server, &format!("/v2/fns/{id}/logs?follow=1"));
    let answer = server.call(&id, &[("X-Do", "say-never"), ("Fn-Invoke-Type", "detached")], b"");
    let slow = answer.field("Fn-Call-Id").expect("an id").to_owned();
    let mut one = Tail::begin(&server, &format!("/v2/fns/{id}/calls/{slow}/log?follow=1"));
    one.await_line(&format!("waits for ever in {slow}"));
    all.await_line(&format!("{slow} waits for ever in {slow}"));
    // It ends with its call; begun again, it tells the same and ends at once.
    one.end();
    await_log(&server, &id, &slow, "waits");
    assert!(Tail::begin(&server, &format!("/v2/fns/{id}/calls/{slow}/log?follow=1")).end().contains("waits for ever"));
    // A call that prints nothing has an end too.
    let answer = server.call(&id, &[("X-Do", "never"), ("Fn-Invoke-Type", "detached")], b"");
    let quiet = answer.field("Fn-Call-Id").expect("an id").to_owned();
    Tail::begin(&server, &format!("/v2/fns/{id}/calls/{quiet}/log?follow=1")).end();
    for (target, status) in [
        ("/v2/fns/01HF7YAT3V180G40RZJ0000001/logs?follow=1".to_owned(), 404),
        (format!("/v2/fns/{id}/calls/01HF7YAT3V180G40RZJ0000001/log?follow=1"), 404),
        (format!("/v2/fns/{id}/calls/x/log?follow=1"), 404),
    ] {
        assert_eq!(server.send("GET", &target, b"").status, status, "{target}");
    }
    // One that leaves takes nothing with it; the other ends with the server.
    drop(Tail::begin(&server, &format!("/v2/fns/{id}/logs?follow=1")));
    let more = call(&server, &id, "say:1", 200);
    all.await_line(&format!("{more} said 0"));
    server.signal(Signal::TERM);
    all.end();
    server.gone();
}

#[test]
fn the_client_shows_and_follows_logs() {
    let Some(mut server) = Server::start(&[]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    let said = call(&server, &id, "say:1", 200);
    await_log(&server, &id, &said, "told 0");
    let hob = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
        command.arg("--server").arg(format!("http://{}", server.address)).args(arguments);
        command
    };
    let text = |arguments: &[&str]| {
        let output = hob(arguments).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, log) = text(&["logs", "app", &said]);
    assert!(code == Some(0) && log.contains(&format!("said 0 in {said}\n")), "{log}");
    let (code, log) = text(&["logs", "app", "hostile"]);
    assert!(code == Some(0) && log.contains(&format!("{said} said 0 in {said}\n")), "{log}");
    for nothing in ["nothing", "01HF7YAT3V180G40RZJ0000001"] {
        let (code, log) = text(&["logs", "app", nothing]);
        assert!(code == Some(1) && log.contains(&format!("there is no function or call with a log '{nothing}'")), "{log}");
    }
    let (_, all) = text(&["logs", "app", "hostile"]);
    let last = all.lines().last().expect("a line");
    for (tail, want) in [("1", format!("{last}\n")), ("0", String::new()), ("1000", all.clone())] {
        assert_eq!(text(&["logs", "app", "hostile", "--tail", tail]), (Some(0), want));
    }
    let (code, log) = text(&["--json", "logs", "-n", "1", "app", "hostile"]);
    let line: serde_json::Value = serde_json::from_str(&log).expect("one object");
    assert_eq!((code, &line["call_id"]), (Some(0), &json!(said)), "{line}");
    assert!(last.ends_with(line["text"].as_str().expect("text")) && !line["text"].as_str().expect("text").contains(&format!("{said} ")), "{line}");
    let mut following = hob(&["logs", "-f", "app", "hostile"]).stdout(std::process::Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(following.stdout.take().expect("piped")).lines();
    let more = call(&server, &id, "say:1", 200);
    assert!(lines.by_ref().any(|line| line.expect("text").starts_with(&format!("{more} said 0"))), "followed");
    // Of what was there before it shows nothing.
    let mut new = hob(&["logs", "-f", "-n", "0", "--json", "app", "hostile"]).stdout(std::process::Stdio::piped()).spawn().expect("runs");
    let mut new_lines = BufReader::new(new.stdout.take().expect("piped")).lines();
    // It may listen a little later: until then there is nothing to see.
    let first = wait_until_said(&server, &id, &mut new_lines);
    assert!(![&said, &more].contains(&&first), "{first}");
    server.signal(Signal::TERM);
    assert!(lines.all(|line| line.is_ok()) && new_lines.all(|line| line.is_ok()));
    assert_eq!((following.wait().expect("ends").code(), new.wait().expect("ends").code()), (Some(0), Some(0)));
    server.gone();
}

/// Calls until one is seen: the call of the first line.
fn wait_until_said(server: &Server, id: &str, lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    let seen = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !seen.load(std::sync::atomic::Ordering::SeqCst) {
                call(server, id, "say:1", 200);
            }
        });
        let line = lines.next().expect("a line").expect("text");
        seen.store(true, std::sync::atomic::Ordering::SeqCst);
        let line: serde_json::Value = serde_json::from_str(&line).expect("an object");
        line["call_id"].as_str().expect("of a call").to_owned()
    })
}

/// What kept calls say to wrong wishes, and to none.
#[test]
fn the_client_knows_calls_and_says_which_it_does_not() {
    let Some(server) = Server::start(&[("HOB_CALL_RECORDS", "all"), ("HOB_DETACHED_ATTEMPTS", "1")]) else { return };
    let id = server.function("echo", "echo", json!({}));
    let good = call(&server, &id, "x", 200);
    let answer = server.call(&id, &[("Fn-Invoke-Type", "detached"), ("Hob-Delay-Secs", "3600")], b"");
    let waits = answer.field("Fn-Call-Id").expect("an id").to_owned();
    let text = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
        let output = command.arg("--server").arg(format!("http://{}", server.address)).args(arguments).output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let list = |arguments: &[&str]| {
        let (code, out, error) = text(&[&["calls", "list", "app", "echo", "--json"], arguments].concat());
        assert_eq!(code, Some(0), "{error}");
        let ids: Vec<serde_json::Value> = serde_json::from_str(&out).expect("a list");
        ids.iter().map(|call| call["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), [waits.clone(), good.clone()]);
    assert_eq!(list(&["-n", "0"]), [""; 0]);
    assert_eq!((list(&["-n", "1"]), list(&["--status", "success"])), (vec![waits.clone()], vec![good.clone()]));
    assert_eq!((list(&["--from", "1h"]).len(), list(&["--to", "1h"]).len(), list(&["--from", "1", "--to", "4000000000"]).len()), (2, 0, 2));
    for wrong in [&["--status", "nope"][..], &["--from", "1w"], &["--to", "soon"], &["-n", "x"]] {
        let (code, _, error) = text(&[&["calls", "list", "app", "echo"], wrong].concat());
        assert!(code == Some(2) && error.contains(wrong[0].trim_start_matches('-')), "{error}");
    }
    for verb in ["inspect", "answer", "cancel", "again"] {
        for none in ["01HF7YAT3V180G40RZJ0000001", "x/../y", "é"] {
            let (code, out, error) = text(&["calls", verb, "app", "echo", none]);
            assert!(
                code == Some(1) && out.is_empty() && error.contains(&format!("there is no call '{none}'")) && error.contains("hob calls list app echo"),
                "{error}"
            );
        }
    }
    let (code, _, error) = text(&["calls", "answer", "app", "echo", &waits]);
    assert!(code == Some(1) && error.contains("the call is queued"), "{error}");
    for _ in 0..2 {
        assert_eq!(text(&["calls", "cancel", "app", "echo", &waits, "--json"]), (Some(0), format!("{{\"cancelled\":\"{waits}\"}}\n"), String::new()));
    }
    let (code, out, _) = text(&["invoke", "--detached", "--json", "app", "echo"]);
    let call: serde_json::Value = serde_json::from_str(&out).expect("an object");
    assert!(code == Some(0) && call["call_id"].as_str().is_some_and(|id| id.len() == 26), "{call}");
    server.stop();
}

/// Of a call that is over the line that says why it failed counts as its last.
#[test]
fn only_the_last_lines_are_given_if_asked() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    let crashed = call(&server, &id, "say-exit:3", 502);
    let all = await_log(&server, &id, &crashed, "hob: ");
    let why = all.lines().last().expect("a line").to_owned() + "\n";
    assert_eq!(all, format!("cannot go on: {crashed}\n{why}"));
    let of_call = format!("/v2/fns/{id}/calls/{crashed}/log?");
    for (query, want) in
        [("tail=0", ""), ("tail=1", why.as_str()), ("tail=2", all.as_str()), ("tail=99999999999999999999", all.as_str()), ("tail=", all.as_str())]
    {
        for follow in ["", "&follow=1"] {
            assert_eq!(server.send("GET", &format!("{of_call}{query}{follow}"), b"").text(), want, "{query}{follow}");
        }
    }
    for target in [of_call, format!("/v2/fns/{id}/logs?")] {
        for query in ["tail=-1", "tail=all", "tail=1.5", "tail=x&follow=1"] {
            let answer = server.send("GET", &format!("{target}{query}"), b"");
            assert!(answer.status == 400 && answer.message().contains("Invalid tail"), "{answer:?}");
        }
    }
    assert_eq!(server.send("GET", &format!("/v2/fns/{id}/logs?tail=0"), b"").text(), "");
    server.stop();
}

/// The most memory the process had since `reset`, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn a_flood_of_output_costs_little_memory() {
    // The copy in hob's own log is another matter (and goes to this test).
    let Some(server) = Server::start(&[("FN_DISABLE_DEBUG_USER_LOGS", "true")]) else { return };
    let id = server.function("hostile", "hostile", json!({"timeout": 120}));
    // All parts that a call and a log need are there before the measure begins.
    let warm = call(&server, &id, "say:1", 200);
    await_log(&server, &id, &warm, "told 0");
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("the peak is reset");
    let before = peak(server.pid());
    let flood = call(&server, &id, "flood:50", 200);
    // Seen on disk: to ask the server for it would count too.
    let database = rusqlite::Connection::open(server.folder.path.join("data/calls.db")).expect("opened");
    wait_until("the log on disk", || {
        let count: i64 = database.query_row("SELECT count(*) FROM logs WHERE call = ?1", [&flood], |row| row.get(0)).expect("a count");
        (count > 0).then_some(())
    });
    let cost = peak(server.pid()) - before;
    let log = await_log(&server, &id, &flood, "older lines");
    println!("100 MB printed: {cost} KiB more at the peak, of {before}; {} bytes kept", log.len());
    assert!(log.len() <= (1 << 20) + 200, "{}", log.len());
    // A fifth of what was printed: less than that is a bound.
    assert!(cost <= 20 << 10, "{cost} KiB");
    server.stop();
}

#[test]
fn logs_on_disk_are_bounded() {
    let Some(server) = Server::start(&[("HOB_LOG_BYTES_PER_FN", "300000")]) else { return };
    let id = server.function("hostile", "hostile", json!({"timeout": 60}));
    let first = call(&server, &id, "say:1", 200);
    await_log(&server, &id, &first, "told 0");
    let flood = call(&server, &id, "flood:1", 200);
    // Until it is written it is there as a whole.
    wait_until("the limit", || {
        let log = server.send("GET", &format!("/v2/fns/{id}/calls/{flood}/log"), b"").text();
        (log.len() < 300_000 && log.contains("does not know when to stop")).then_some(())
    });
    assert_eq!(server.send("GET", &format!("/v2/fns/{id}/calls/{first}/log"), b"").status, 404, "the oldest went");
    server.stop();
}
