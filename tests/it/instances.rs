//! How many containers a function has, for how long, and when they go.

use std::collections::HashSet;

use serde_json::json;

use crate::harness::{Held, Server, together, wait_until};

#[test]
fn a_minimum_is_kept_up_before_anybody_calls() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"annotations": {"hob/min-instances": 2}, "idle_timeout": 1}));
    server.await_queue(&echo, "idle", 2);
    // What is called on is not started for the call, and outlives its idle time.
    let first = server.good_call(&echo, &[], b"");
    assert_eq!(first.field("X-Count"), Some("1"));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(server.queue(&echo, "idle"), 2, "the minimum stays beyond the idle time");
    server.manage("DELETE", &format!("/v2/fns/{echo}"), &json!(null));
    wait_until("the end of a deleted function's containers", || server.containers().is_empty().then_some(()));
    server.stop();
}

#[test]
fn a_maximum_is_never_passed() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"annotations": {"hob/max-instances": 2}}));
    let answers = together(8, |_| server.good_call(&echo, &[("X-Sleep-Ms", "100")], b""));
    let instances: HashSet<_> = answers.iter().filter_map(|a| a.field("X-Instance")).collect();
    assert!(instances.len() <= 2, "{instances:?}");
    assert!(server.containers().len() <= 2);
    server.stop();
}

/// What the mean of the calls before it says, no one call is bound by.
#[test]
fn one_slow_call_of_a_quick_function_keeps_nobody_waiting() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let quick: HashSet<_> = (0..5).map(|_| server.good_call(&echo, &[], b"").field("X-Instance").map(str::to_owned)).collect();
    assert_eq!(quick.len(), 1, "{quick:?}");
    let slow = server.hold(&echo);
    let answer = server.good_call(&echo, &[], b"beside it");
    assert_eq!(answer.text(), "beside it");
    assert!(!quick.contains(&answer.field("X-Instance").map(str::to_owned)), "the only container was busy");
    slow.release();
    server.stop();
}

#[test]
fn a_container_is_replaced_after_its_number_of_calls() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"annotations": {"hob/max-calls": 3}}));
    let answers: Vec<_> = (0..7).map(|_| server.good_call(&echo, &[], b"")).collect();
    let counts: Vec<_> = answers.iter().map(|a| a.field("X-Count").expect("a count")).collect();
    assert_eq!(counts, ["1", "2", "3", "1", "2", "3", "1"]);
    server.stop();
}

/// The old configuration's idle containers go at once; a busy one serves its
/// caller and goes then.
#[test]
fn a_changed_function_parts_with_its_old_containers() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let both = [server.hold(&echo), server.hold(&echo)].map(Held::release);
    server.await_queue(&echo, "idle", 2);
    let old: HashSet<_> = both.iter().filter_map(|a| a.field("X-Instance").map(str::to_owned)).collect();
    assert_eq!((old.len(), server.containers().len()), (2, 2), "two calls at a time");
    let running = server.hold(&echo);
    server.manage("PUT", &format!("/v2/fns/{echo}"), &json!({"config": {"A": "b"}}));
    wait_until("the idle one's end", || (server.containers().len() == 1).then_some(()));
    let new = server.good_call(&echo, &[], b"");
    assert!(!old.contains(new.field("X-Instance").expect("an instance")), "the new configuration has its own container");
    let answer = running.release();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(old.contains(answer.field("X-Instance").expect("an instance")));
    wait_until("the busy one's end", || (server.containers().len() == 1).then_some(()));
    assert_eq!(server.good_call(&echo, &[], b"").field("X-Instance"), new.field("X-Instance"));
    server.stop();
}
