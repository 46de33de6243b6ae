//! Where a call's time went, checked against the caller's own clock.

use std::time::Instant;

use serde_json::json;

use crate::harness::http::Response;
use crate::harness::{Server, wait_until};

/// The phases of an answer's account in microseconds, and what kind it was.
fn receipt(answer: &Response) -> (Vec<(String, u64)>, String) {
    let text = answer.field("Server-Timing").unwrap_or_else(|| panic!("no account in {answer:?}")).to_owned();
    let (phases, kind) = text.rsplit_once(", kind;desc=").unwrap_or_else(|| panic!("no kind in {text}"));
    let phase = |part: &str| {
        let (name, took) = part.split_once(";dur=").expect("a phase");
        (name.to_owned(), took.replace('.', "").parse().expect("milliseconds with three decimals"))
    };
    (phases.split(", ").map(phase).collect(), kind.trim_matches('"').to_owned())
}

#[test]
fn the_phases_of_a_call_add_up_to_what_its_caller_waited() {
    let Some(server) = Server::start(&[("FN_FREEZE_IDLE_MSECS", "50"), ("FN_MAX_TOTAL_MEMORY_BYTES", "104857600")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let timed = |sleep_ms: u64| {
        let begun = Instant::now();
        let answer = server.good_call(&echo, &[("Fn-Timing", "1"), ("X-Sleep-Ms", &sleep_ms.to_string())], b"x");
        let waited = u64::try_from(begun.elapsed().as_micros()).expect("short");
        let (phases, kind) = receipt(&answer);
        let (sum, function) = (phases.iter().map(|(_, us)| us).sum::<u64>(), phases.last().map_or(0, |(_, us)| *us));
        assert!(sum <= waited, "the phases add up to more than the caller waited: {sum} of {waited} µs, {phases:?}");
        assert!(function >= sleep_ms * 1000, "the function slept {sleep_ms} ms: {phases:?}");
        println!("{kind}: {sum} of the caller's {waited} µs, {phases:?}");
        (phases.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), kind)
    };
    let (phases, kind) = timed(50);
    assert_eq!(phases, ["accept", "queue", "start", "boot", "handover", "dispatch", "function"]);
    assert!(kind.starts_with("cold"), "{kind}");
    let hot = wait_until("a call before the freeze", || Some(timed(20)).filter(|(_, kind)| kind == "hot"));
    assert_eq!(hot.0, ["accept", "queue", "dispatch", "function"]);
    let frozen = wait_until("a call after the freeze", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        Some(timed(20)).filter(|(_, kind)| kind.starts_with("frozen"))
    });
    assert!(frozen.0.contains(&"thaw".to_owned()), "{frozen:?}");
    // Room for one container: who comes second is handed it by who came first.
    let first = server.hold(&echo);
    let (_, kind) = std::thread::scope(|scope| {
        let second = scope.spawn(|| timed(20));
        server.await_queue(&echo, "waiting", 1);
        assert_eq!(first.release().status, 200);
        second.join().expect("the second caller")
    });
    assert!(kind.starts_with("hot: waited"), "{kind}");
    server.stop();
}

#[test]
fn an_account_is_given_to_those_who_ask_and_on_errors_too() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 4}));
    assert!(server.good_call(&echo, &[], b"").field("Server-Timing").is_none(), "nobody asked");
    let late = server.call(&echo, &[("Fn-Timing", "1"), ("X-Sleep-Ms", "60000")], b"");
    assert_eq!(late.status, 504, "{late:?}");
    let (phases, _) = receipt(&late);
    assert!(phases.iter().any(|(name, us)| name == "function" && *us >= 4_000_000), "{phases:?}");
    server.stop();

    let Some(server) = Server::start(&[("HOB_SERVER_TIMING", "true")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    receipt(&server.good_call(&echo, &[], b""));
    server.stop();
}
