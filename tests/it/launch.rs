//! Containers that do not come up: the caller is told why, in time.

use std::time::Instant;

use serde_json::json;

use crate::harness::{Folder, Server, engine};

#[test]
fn a_missing_image_is_named_with_the_cause() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function_of("missing", "127.0.0.1:1/nobody/none:1", json!({}));
    let answer = server.call(&id, &[], b"");
    assert!(answer.status == 502 || answer.status / 100 == 4, "{answer:?}");
    assert!(answer.message().contains("127.0.0.1:1/nobody/none:1"), "{}", answer.message());
    assert!(answer.message().contains("refused") || answer.message().contains("not found"), "the cause: {}", answer.message());
    assert!(server.containers().is_empty());
    server.stop();
}

#[test]
fn images_are_loaded_at_the_start() {
    let folder = Folder::new();
    let name = format!("hob-test/loaded:{}", std::process::id());
    let path = folder.path.join("image.tar");
    std::fs::write(&path, engine::archive(&name, &std::fs::read(engine::program("echo")).expect("built"))).expect("written");
    let Some(server) = Server::start_in(folder, &[("FN_DOCKER_LOAD_FILE", path.to_str().expect("UTF-8"))]) else { return };
    let id = server.function_of("loaded", &name, json!({}));
    assert_eq!(server.good_call(&id, &[], b"from the archive").text(), "from the archive");
    server.stop();
    engine::forget(&name);
}

/// A registry that accepts and never answers; the engine speaks to it as it
/// is on this host. Its image's name.
pub(crate) fn silent_registry() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let image = format!("{}/silent:1", listener.local_addr().expect("address"));
    (listener, image)
}

#[test]
fn a_pull_has_an_end() {
    let Some(server) = Server::start(&[("FN_HOT_PULL_TIMEOUT_MSECS", "1000")]) else { return };
    let (_registry, image) = silent_registry();
    let id = server.function_of("silent", &image, json!({}));
    let answer = server.call(&id, &[], b"");
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.message().contains("FN_HOT_PULL_TIMEOUT_MSECS") && answer.message().contains(&image), "{}", answer.message());
    server.stop();
}

/// Every way of a wrong start: status and a word of the reason.
#[test]
fn a_wrong_start_is_told() {
    let cases = [
        ("exits:7", 502, "exited with code 7"),
        ("exits:0", 502, "exited with code 0"),
        ("oom", 502, "memory"),
        ("plain-file", 502, ""),
        ("folder", 502, ""),
        ("absolute-link", 502, "link"),
        ("parent-link", 502, "link"),
        ("link-chain", 502, "link"),
        ("dangling-link", 502, ""),
    ];
    let Some(server) = wrong_starts("60000", &cases) else { return };
    for (mode, name) in [("direct", "direct"), ("prints", "prints"), ("late:300", "late")] {
        let id = server.function(name, "hostile", json!({"config": {"HOSTILE": mode}}));
        assert_eq!(server.good_call(&id, &[], b"").text(), "ok", "{mode}");
    }
    server.stop();
}

#[test]
fn a_start_that_comes_to_nothing_is_told_at_the_start_limit() {
    const LIMIT: &str = "FN_HOT_START_TIMEOUT_MSECS";
    let cases = [("never-listens", 504, LIMIT), ("bound-not-listening", 502, ""), ("late:600000", 504, LIMIT)];
    if let Some(server) = wrong_starts("5000", &cases) {
        server.stop();
    }
}

fn wrong_starts(limit_ms: &str, cases: &[(&str, u16, &str)]) -> Option<Server> {
    let server = Server::start(&[("FN_HOT_START_TIMEOUT_MSECS", limit_ms)])?;
    let mut wrong = Vec::new();
    for &(mode, status, reason) in cases {
        let id = server.function(&mode.replace(':', "-"), "hostile", json!({"config": {"HOSTILE": mode}}));
        let begun = Instant::now();
        let answer = server.call(&id, &[], b"");
        let took = begun.elapsed();
        println!("{mode:<20} {} in {took:?}: {}", answer.status, answer.text().trim());
        if answer.status != status || !answer.message().contains(reason) {
            wrong.push(format!("{mode}: want {status} with '{reason}', got {} in {took:?}: {}", answer.status, answer.message()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), server.log());
    Some(server)
}

#[test]
fn a_link_changed_after_the_start_leads_nowhere() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("swap", "hostile", json!({"config": {"HOSTILE": "swap"}}));
    for _ in 0..3 {
        let answer = server.call(&id, &[("X-Do", "no-length")], b"");
        assert!(matches!((answer.status, answer.text().as_str()), (200, "until the end") | (502, _)), "{answer:?}");
    }
    server.stop();
}

/// Also where the engine did not notice the cause: then as what it looks like.
#[test]
fn out_of_memory_is_named_every_time() {
    let Some(server) = Server::start(&[]) else { return };
    for n in 0..6 {
        let id = server.function(&format!("eats{n}"), "hostile", json!({"config": {"HOSTILE": "oom"}, "memory": 32}));
        let answer = server.call(&id, &[], b"");
        assert!(answer.status == 502 && answer.message().contains("memory"), "start {n}: {answer:?}\n{}", server.log());
    }
    server.stop();
}
