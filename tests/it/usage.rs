//! What functions' containers use of CPU and memory, as `/metrics` and
//! `/debug/state` tell it.

use serde_json::json;

use crate::harness::{Server, wait_until};

/// The value of `name` for one function.
fn of(metrics: &str, name: &str, function: &str) -> Option<f64> {
    let label = format!("fn_id=\"{function}\"");
    let line = metrics.lines().find(|l| l.starts_with(&format!("{name}{{")) && l.contains(&label))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn what_containers_use_is_told_by_function_and_outlives_them() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"idle_timeout": 2}));
    let quiet = server.function("quiet", "echo", json!({}));
    let metrics = || server.send("GET", "/metrics", b"").text();
    assert_eq!(of(&metrics(), "fn_container_idle_total", &quiet), None, "no line for what never ran");

    server.good_call(&quiet, &[], b"");
    server.good_call(&echo, &[("X-Size", "20000000")], b"");
    let text = metrics();
    let value = |name: &str, function: &str| of(&text, name, function).unwrap_or_else(|| panic!("{name} of {function} in {text}"));
    assert!(value("hob_container_memory_peak_bytes", &echo) >= 20e6, "what the call needed: {text}");
    assert!(value("hob_container_memory_peak_bytes", &quiet) < 20e6, "each its own: {text}");
    assert!(value("hob_container_memory_bytes", &echo) > 0.0, "{text}");
    assert!(value("hob_container_cpu_seconds_total", &echo) > 0.0, "{text}");
    for function in [&echo, &quiet] {
        let all: f64 = ["start", "idle", "paused", "busy"].iter().map(|s| value(&format!("fn_container_{s}_total"), function)).sum();
        assert_eq!((all, value("hob_container_unseen", function)), (1.0, 0.0), "{text}");
    }

    let state = server.send("GET", "/debug/state", b"").json();
    let queue = state["queues"].as_array().expect("queues").iter().find(|q| q["fn_id"] == *quiet).expect("the function's queue").clone();
    let container = &queue["containers"][0];
    assert!(container["cpu_us"].as_u64().is_some_and(|us| us > 0), "{queue}");
    assert!(container["memory_bytes"].as_u64() <= container["memory_peak_bytes"].as_u64(), "{queue}");
    assert!(container["memory_peak_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{queue}");

    // What is gone has used what it has used.
    let before = value("hob_container_cpu_seconds_total", &echo);
    wait_until("the removal of an idle container", || (server.containers().len() == 1).then_some(()));
    let text = metrics();
    assert!(of(&text, "hob_container_cpu_seconds_total", &echo).is_some_and(|after| after >= before), "{text}");
    assert_eq!(of(&text, "hob_container_memory_bytes", &echo), Some(0.0), "{text}");
    server.stop();
}
