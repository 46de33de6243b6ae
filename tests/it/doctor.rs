//! `hob doctor` on this host, as it is and with things made wrong.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Folder, engine, sandbox};

/// The exit code and the findings.
fn examine(folder: &Folder, env: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
    command.args(["doctor", "--json"]).args(arguments).env_clear().env("FN_PORT", "0").env("HOB_DRIVER", "docker").env("HOB_DATA", folder.path.join("data"));
    command.env("DOCKER_HOST", format!("unix://{}", engine::socket())).envs(env.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the program runs");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(report["well"] == true, output.status.success(), "{report}");
    (output.status.code(), report["findings"].as_array().expect("findings").clone())
}

fn verdict<'f>(findings: &'f [Value], name: &str) -> &'f str {
    let found = findings.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name} in {findings:?}"));
    let verdict = found["verdict"].as_str().expect("a verdict");
    assert_eq!(matches!(verdict, "warning" | "bad"), found["todo"] != "", "what is wrong says what to do: {found}");
    verdict
}

#[test]
fn a_good_host_is_well_and_stays_as_it_was() {
    if sandbox::chosen() || !engine::answers() {
        return;
    }
    let folder = Folder::new();
    let (code, findings) = examine(&folder, &[], &[]);
    assert_eq!(code, Some(0), "{findings:?}");
    for name in ["settings", "data folder", "port", "capacity", "engine", "container", "socket folder"] {
        assert_eq!(verdict(&findings, name), "ok", "{findings:?}");
    }
    let small = if rustix::process::geteuid().is_root() { "ok" } else { "warning" };
    assert_eq!(verdict(&findings, "socket tmpfs"), small, "{findings:?}");
    assert_eq!(verdict(&findings, "pull"), "skipped");
    assert!(!folder.path.join("data").exists(), "nothing stays");
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let folder = Folder::new();
    let (code, findings) = examine(&folder, &[("DOCKER_HOST", "unix:///nonexistent/engine.sock")], &[]);
    assert_eq!((code, verdict(&findings, "engine")), (Some(1), "bad"));
    let (code, findings) = examine(&folder, &[("FN_MAX_PIDS", "many")], &[]);
    assert_eq!((code, verdict(&findings, "settings")), (Some(1), "bad"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("address").port().to_string();
    let (_, findings) = examine(&folder, &[("FN_PORT", &port), ("HOB_DRIVER", "sandbox")], &[]);
    assert_eq!((verdict(&findings, "port"), verdict(&findings, "engine")), ("warning", "skipped"));
    // A file stands where the folder should be.
    std::fs::write(folder.path.join("file"), "").expect("written");
    let data = folder.path.join("file/data");
    let (code, findings) = examine(&folder, &[("HOB_DATA", data.to_str().expect("UTF-8"))], &[]);
    assert_eq!((code, verdict(&findings, "data folder")), (Some(1), "bad"));
}

/// As when hob runs in a container: the engine finds another folder by the
/// path hob gives it.
#[test]
fn a_socket_folder_the_engine_does_not_see_is_found() {
    if sandbox::chosen() || !engine::answers() {
        return;
    }
    let folder = Folder::new();
    let elsewhere = folder.path.join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let (code, findings) = examine(&folder, &[("FN_IOFS_DOCKER_PATH", elsewhere.to_str().expect("UTF-8"))], &[]);
    assert_eq!((code, verdict(&findings, "socket folder")), (Some(1), "bad"), "{findings:?}");
    assert_eq!(verdict(&findings, "socket tmpfs"), "warning", "{findings:?}");
    // A link to the same folder is another name for it.
    let (real, link) = (folder.path.join("iofs"), folder.path.join("link"));
    std::fs::create_dir(&real).expect("a folder");
    std::os::unix::fs::symlink(&real, &link).expect("a link");
    let settings = [("FN_IOFS_PATH", real.to_str().expect("UTF-8")), ("FN_IOFS_DOCKER_PATH", link.to_str().expect("UTF-8"))];
    let (code, findings) = examine(&folder, &settings, &[]);
    assert_eq!((code, verdict(&findings, "socket folder")), (Some(0), "ok"), "{findings:?}");
}
