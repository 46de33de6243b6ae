//! What a call may take, and who is told what when it takes more.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Server, http, wait_until};

#[test]
fn a_call_over_its_time_is_ended_and_its_container_with_it() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 4}));
    let first = server.good_call(&echo, &[], b"");
    let begun = Instant::now();
    let late = server.call(&echo, &[("X-Sleep-Ms", "100000")], b"");
    assert_eq!(late.status, 504, "{late:?}");
    assert!(late.message().contains("4 s"), "names the limit: {}", late.message());
    assert!(begun.elapsed() < Duration::from_secs(60), "not by its own end: {:?}", begun.elapsed());
    assert!(late.field("Fn-Call-Id").is_some());
    let next = server.good_call(&echo, &[], b"next");
    assert_eq!(next.text(), "next");
    assert_ne!(first.field("X-Instance"), next.field("X-Instance"), "a new container");
    server.stop();
}

#[test]
fn a_function_larger_than_the_server_is_refused() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600")]) else { return };
    let big = server.function("big", "echo", json!({"memory": 4096}));
    let answer = server.call(&big, &[], b"");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.message().contains("4096 MiB") && answer.message().contains("100 MiB"), "{}", answer.message());
    assert_eq!(answer.field("Fn-Call-Id"), None, "there was no call");
    assert!(server.containers().is_empty());
    server.stop();
}

#[test]
fn too_many_waiting_callers_are_refused() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600"), ("HOB_MAX_QUEUED", "2")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let running = server.hold(&echo);
    let mut lines = Vec::new();
    for n in 1..=2 {
        lines.push(server.begin_call(&echo, &[]));
        server.await_queue(&echo, "waiting", n);
    }
    let refused = server.call(&echo, &[], b"");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.message().contains("HOB_MAX_QUEUED"), "{}", refused.message());
    assert!(refused.field("Retry-After").is_some_and(|s| s.parse::<u32>().is_ok()));
    assert_eq!(running.release().status, 200);
    for mut stream in lines {
        assert_eq!(http::finish(&mut stream).expect("an answer").status, 200);
    }
    server.stop();
}

#[test]
fn a_wait_has_an_end() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600"), ("HOB_MAX_WAIT_MSECS", "300")]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 30}));
    // The first start may take longer than the wait this test is about.
    wait_until("a container", || (server.call(&echo, &[], b"").status == 200).then_some(()));
    server.await_queue(&echo, "busy", 0);
    let running = server.hold(&echo);
    let begun = Instant::now();
    let late = server.call(&echo, &[], b"");
    assert_eq!(late.status, 503, "{late:?}");
    assert!(late.message().contains("HOB_MAX_WAIT_MSECS"), "{}", late.message());
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(running.release().status, 200, "the wait was over before the call was");
    server.stop();
}

#[test]
fn without_waiting_a_full_server_says_so_at_once() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600"), ("FN_ENABLE_NB_RESOURCE_TRACKER", "true")]) else { return };
    let one = server.function("one", "echo", json!({}));
    let two = server.function("two", "echo", json!({}));
    let running = server.hold(&one);
    for function in [&one, &two] {
        let refused = server.call(function, &[], b"");
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.field("Retry-After").is_some(), "{refused:?}");
        assert!(!refused.message().contains("HOB_MAX_WAIT_MSECS"), "without a wait: {refused:?}");
    }
    assert_eq!(running.release().status, 200);
    server.good_call(&two, &[], b"");
    server.stop();
}

#[test]
fn answers_and_requests_over_their_limits_are_clean_errors() {
    let Some(server) = Server::start(&[("FN_MAX_REQUEST_SIZE", "1000"), ("FN_MAX_RESPONSE_SIZE", "2000")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    assert_eq!(server.call(&echo, &[], &[b'x'; 1001]).status, 413);
    assert_eq!(server.good_call(&echo, &[], &[b'x'; 1000]).body.len(), 1000);
    let long = server.call(&echo, &[("X-Size", "2001")], b"");
    assert_eq!(long.status, 502, "{long:?}");
    assert!(long.message().contains("FN_MAX_RESPONSE_SIZE"), "{}", long.message());
    assert_eq!(server.good_call(&echo, &[("X-Size", "2000")], b"").body.len(), 2000);
    server.stop();
}

#[test]
fn long_bodies_pass_both_ways() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"memory": 128}));
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let answer = server.good_call(&echo, &[], &body);
    assert!(answer.body == body, "3 MB came back changed ({} bytes)", answer.body.len());
    server.stop();
}
