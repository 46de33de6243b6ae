//! What functions print, and how containers end: in the log by call, told to
//! whoever waited.

use serde_json::json;

use crate::harness::{Server, http, kill_container, remove_container, wait_until};

fn await_log(server: &Server, what: &str) {
    wait_until(&format!("'{what}' in the log"), || server.log().contains(what).then_some(()));
}

#[test]
fn output_is_in_the_log_by_call() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = server.good_call(&id, &[("X-Do", "say:3")], b"");
        let call = answer.field("Fn-Call-Id").expect("an id").to_owned();
        // Lines come through the engine: the next call waits for the last.
        await_log(&server, &format!("call_id={call} stderr: told 2 in {call}"));
        await_log(&server, &format!("call_id={call} stdout: said 2 in {call}"));
        ids.push(call);
    }
    let late = server.good_call(&id, &[("X-Do", "say-late:10")], b"").field("Fn-Call-Id").expect("an id").to_owned();
    await_log(&server, &format!("call_id={late} stdout: late in {late}"));
    let log = server.log();
    for call in &ids {
        for n in 0..3 {
            for line in [format!("call_id={call} stdout: said {n} in {call}"), format!("call_id={call} stderr: told {n} in {call}")] {
                assert_eq!(log.matches(&line).count(), 1, "{line}\n{log}");
            }
        }
        assert!(log.contains(&format!("fn_id={id} container_id=")), "{log}");
    }
    // Long after an answer it is the container's own.
    let after = server.good_call(&id, &[("X-Do", "say-late:1000")], b"").field("Fn-Call-Id").expect("an id").to_owned();
    // Frozen meanwhile: it prints when the next call wakes it, or between.
    server.good_call(&id, &[("X-Do", "late:1500")], b"");
    await_log(&server, &format!("stdout: late in {after}"));
    assert!(!server.log().contains(&format!("call_id={after} stdout")), "{}", server.log());
    server.stop();
}

#[test]
fn odd_output_cannot_forge_a_line() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    server.good_call(&id, &[("X-Do", "say-odd")], b"");
    await_log(&server, "stdout: forged\\r2026-11-24 ERROR hob: all is lost\\u{1b}[2J \\xff\\xfe end");
    let x = |n: usize| format!("stdout: {}\n", "x".repeat(n));
    wait_until("the long line in pieces", || {
        let log = server.log();
        (log.matches(&x(4096)).count() == 2 && log.contains(&x(10_000 - 8192))).then_some(())
    });
    server.stop();
}

#[test]
fn copies_can_be_switched_off() {
    let Some(server) = Server::start(&[("FN_DISABLE_DEBUG_USER_LOGS", "true")]) else { return };
    let id = server.function("hostile", "hostile", json!({}));
    server.good_call(&id, &[("X-Do", "say:2")], b"");
    // Its end comes after its lines, and is told with them.
    assert_eq!(server.call(&id, &[("X-Do", "say-exit:4")], b"").status, 502);
    await_log(&server, "| cannot go on: ");
    assert!(!server.log().contains("user_log"), "{}", server.log());
    server.stop();
}

#[test]
fn an_end_is_told_with_its_cause_and_last_lines() {
    let Some(server) = Server::start(&[]) else { return };
    let hostile = server.function("hostile", "hostile", json!({}));
    let answer = server.call(&hostile, &[("X-Do", "say-exit:3")], b"");
    assert_eq!(
        (answer.status, answer.message()),
        (502, "error receiving function response: the container ended during the call: exited with code 3".to_owned())
    );
    let call = answer.field("Fn-Call-Id").expect("an id");
    await_log(&server, &format!("| cannot go on: {call}\n"));
    let log = server.log();
    let (_, told) = log.split_once("exited with code 3; the last lines it printed:\n").unwrap_or_else(|| panic!("{log}"));
    assert!(told.trim_start().starts_with(&format!("| cannot go on: {call}\n")), "{told}");
    let answer = server.call(&hostile, &[("X-Do", "abort")], b"");
    assert!(answer.message().contains("exited with code 134: ended by SIGABRT"), "{answer:?}");
    let eats = server.function("eats", "hostile", json!({"memory": 32}));
    let answer = server.call(&eats, &[("X-Do", "oom")], b"");
    assert!(answer.status == 502 && answer.message().contains("32 MB of memory"), "{answer:?}");
    // At the start: to the caller and with the lines in the log.
    let starts = server.function("starts", "hostile", json!({"config": {"HOSTILE": "exits:9"}}));
    let answer = server.call(&starts, &[], b"");
    assert!(answer.status == 502 && answer.message().ends_with("it ended before its socket appeared: exited with code 9"), "{answer:?}");
    await_log(&server, "exited with code 9; it printed nothing");
    let wrong = server.function("wrong", "hostile", json!({"config": {"FN_LISTENER": "x", "HOSTILE": "folder"}}));
    assert_eq!(server.call(&wrong, &[], b"").status, 502);
    await_log(&server, "cannot be used: bad function socket: lsnr.sock is not a socket but a folder");
    server.stop();
}

/// Killed or removed by somebody else: idle, it costs nobody anything; during
/// a call its caller is told.
#[test]
fn containers_removed_behind_the_servers_back_are_noticed() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    for round in 0..3 {
        assert_eq!(server.good_call(&echo, &[], b"one").text(), "one", "round {round}");
        remove_container(&server.containers()[0]);
        wait_until("the server to know", || (server.queue(&echo, "containers") == 0).then_some(()));
    }
    for end in [remove_container, kill_container] {
        server.good_call(&echo, &[], b"warm");
        let mut running = server.begin_call(&echo, &[("X-Sleep-Ms", "15000")]);
        server.await_queue(&echo, "busy", 1);
        end(&server.containers()[0]);
        let answer = http::finish(&mut running).expect("an answer");
        assert!(answer.status == 502 && answer.message().contains("the container ended during the call: "), "{answer:?}");
    }
    assert_eq!(server.good_call(&echo, &[], b"last").text(), "last");
    server.stop();
}
