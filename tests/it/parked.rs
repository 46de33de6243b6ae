//! Networks made ready for container starts.

use serde_json::json;

use crate::harness::{Server, together, wait_until};

/// One of the server's counters.
fn metric(server: &Server, name: &str) -> u64 {
    let text = server.send("GET", "/metrics", b"").text();
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

#[test]
fn cold_calls_join_parked_networks_and_nothing_of_them_is_left() {
    let Some(server) = Server::start(&[("HOB_PARKED_NETWORKS", "2")]) else { return };
    wait_until("two of them", || (metric(&server, "hob_parked_networks") == 2).then_some(()));
    let functions: Vec<String> = (0..3).map(|n| server.function(&format!("f{n}"), "echo", json!({}))).collect();
    together(3, |n| server.good_call(&functions[n], &[], b"x"));
    assert_eq!((metric(&server, "hob_parked_used_total"), metric(&server, "hob_parked_missed_total")), (2, 1));
    // As many as the setting allows are made again.
    wait_until("two others", || (metric(&server, "hob_parked_networks") == 2).then_some(()));
    assert_eq!(server.containers().len(), 3 + 2 + 2, "functions, networks in use, networks ready");
    // The stop finds all of it.
    server.stop();
}
