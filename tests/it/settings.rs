//! Settings: wrong ones stop the start, all of them are documented.

use std::path::Path;

use crate::harness::{Folder, command};

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
    let output = command(&folder, &[("DOCKER_HOST", "unix:///nowhere/docker.sock")]).output().expect("the program starts");
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
