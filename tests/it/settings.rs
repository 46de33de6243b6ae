//! Settings: wrong ones stop the start, all of them are documented.

use std::path::Path;

use crate::harness::{Folder, Server, command};

#[test]
fn wrong_settings_are_all_listed() {
    let folder = Folder::new();
    let wrong = [("FN_PORT", "99999"), ("FN_MAX_PIDS", "-1"), ("HOB_DRIVER", "magic"), ("FN_DB_URL", "mysql://x"), ("FN_HTTP_IDLE_TIMEOUT", "soon")];
    let output = command(&folder, &wrong).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for (name, _) in wrong {
        assert!(said.contains(name), "{name} is not named:\n{said}");
    }
    assert!(!folder.path.join("data").exists(), "nothing was made");
}

/// No engine at the address: told what to do, not started.
#[test]
fn a_missing_engine_is_told() {
    let folder = Folder::new();
    let output = command(&folder, &[("HOB_DRIVER", "docker"), ("DOCKER_HOST", "unix:///nowhere/docker.sock")]).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/nowhere/docker.sock") && said.contains("DOCKER_HOST"), "{said}");
}

#[test]
fn the_settings_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIG.md");
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    if page != hob::config::config_md() && std::env::var_os("HOB_BLESS").is_some() {
        std::fs::write(&path, hob::config::config_md()).expect("written");
        return;
    }
    assert!(page == hob::config::config_md(), "docs/CONFIG.md is not what src/config.rs says: HOB_BLESS=1 cargo test --test it settings_page writes it");
}

/// What would silently do nothing is told in the log; the server runs.
#[test]
fn what_does_nothing_is_told() {
    let set = [("FN_RUNNER_ADDRESSES", "10.0.0.1:9190"), ("FN_ZIPKIN_URL", "http://z:9411"), ("HOB_MAX_WIAT_MSECS", "1"), ("FN_LOCAL_DEBUG", "1")];
    let Some(server) = Server::start(&set) else { return };
    let log = server.log();
    for (name, _) in &set[..3] {
        assert!(log.lines().any(|l| l.contains(name) && l.contains("WARN")), "{name} is not told:\n{log}");
    }
    assert!(!log.contains("FN_LOCAL_DEBUG"), "{log}");
    server.stop();
}

#[test]
fn other_roles_are_refused_with_what_to_do() {
    for role in ["api", "lb", "pure-runner", "runner"] {
        let folder = Folder::new();
        let output = command(&folder, &[("FN_NODE_TYPE", role), ("DOCKER_TLS_VERIFY", "1")]).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{role}");
        assert!(said.contains(role) && said.contains("docs/SCALING.md") && said.contains("DOCKER_TLS_VERIFY"), "{said}");
    }
}

/// Each line of the log is one JSON object with time, level and text.
#[test]
fn the_log_can_be_json() {
    let Some(server) = Server::start(&[("FN_LOG_FORMAT", "json"), ("FN_ZIPKIN_URL", "http://z")]) else { return };
    let line = server.log().lines().find(|l| l.contains("FN_ZIPKIN_URL")).expect("told").to_owned();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(line["level"], "warn");
    assert!(line["time"].as_str().is_some_and(|t| t.ends_with('Z')) && line["msg"].is_string(), "{line}");
    server.stop();
}
