//! The container engine, asked directly: what is there, and images made of
//! the sample functions.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::http::{Response, finish, request};

const SOCKET: &str = "/var/run/docker.sock";

/// Whether an engine answers. Without one tests are skipped, unless CI
/// promised it.
pub(crate) fn answers() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    let answers = *ANSWERS.get_or_init(|| ask("GET", "/_ping", &[]).is_ok_and(|r| r.status == 200));
    if !answers {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no engine at {SOCKET}, and CI=true promises one");
        println!("SKIPPED: no engine");
    }
    answers
}

/// HTTP/1.0: the engine then never chunks its answers.
pub(crate) fn ask(method: &str, target: &str, body: &[u8]) -> std::io::Result<Response> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&request("HTTP/1.0", method, target, &[("Content-Type", "application/x-tar")], body))?;
    finish(&mut stream)
}

/// Containers, running or not, that bear `tag` as their classifier.
pub(crate) fn containers(tag: &str) -> Vec<Value> {
    let filter = format!("%7B%22label%22%3A%5B%22fn-agent-classifier%3D{tag}%22%5D%7D");
    let response = ask("GET", &format!("/containers/json?all=true&filters={filter}"), &[]).expect("the engine lists");
    response.json().as_array().cloned().unwrap_or_else(|| panic!("not a list: {}", response.text()))
}

/// Host process id of a container.
pub(crate) fn pid(container: &Value) -> u64 {
    let id = container["Id"].as_str().expect("id");
    ask("GET", &format!("/containers/{id}/json"), &[]).expect("the engine inspects").json()["State"]["Pid"].as_u64().expect("pid")
}

/// Ends a container behind the server's back.
pub(crate) fn kill(container: &Value) {
    let id = container["Id"].as_str().expect("id");
    let response = ask("POST", &format!("/containers/{id}/kill"), &[]).expect("the engine kills");
    assert_eq!(response.status, 204, "{response:?}");
}

/// Removes a container behind the server's back, running or not.
pub(crate) fn remove(container: &Value) {
    let id = container["Id"].as_str().expect("id");
    let response = ask("DELETE", &format!("/containers/{id}?force=1"), &[]).expect("the engine removes");
    assert_eq!(response.status, 204, "{response:?}");
}

/// The image of a sample function, built and loaded when it is not there yet.
pub(crate) fn image(function: &'static str) -> String {
    static IMAGES: [(&str, OnceLock<String>); 3] = [("echo", OnceLock::new()), ("hello", OnceLock::new()), ("hostile", OnceLock::new())];
    let (_, image) = IMAGES.iter().find(|(name, _)| *name == function).expect("a sample function");
    image.get_or_init(|| load(function)).clone()
}

/// Removes a test's own image, where there is an engine that has it.
pub(crate) fn forget(name: &str) {
    let _ = ask("DELETE", &format!("/images/{name}"), &[]);
}

/// The program of a sample function, built when it is not there yet.
pub(crate) fn program(function: &'static str) -> PathBuf {
    static PROGRAMS: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    // Held while building: nobody builds the same twice.
    PROGRAMS.lock().unwrap_or_else(|e| e.into_inner()).entry(function).or_insert_with(|| build(function)).clone()
}

fn load(function: &'static str) -> String {
    let program = std::fs::read(program(function)).expect("the program was built");
    let digest = hex(&program);
    let name = format!("hob-test/{function}:{}", &digest[..12]);
    if ask("GET", &format!("/images/{name}/json"), &[]).expect("the engine inspects").status == 200 {
        return name;
    }
    let loaded = ask("POST", "/images/load?quiet=1", &archive(&name, &program)).expect("the engine loads");
    assert!(loaded.status == 200 && !loaded.text().contains("error"), "load of {name}: {loaded:?}");
    name
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Builds a function as its own crate, static: the image holds nothing else.
fn build(function: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("functions");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("functions").join(function))
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{function} does not build: {}", String::from_utf8_lossy(&output.stderr));
    target.join("release").join(function)
}

/// A docker archive of one layer that holds one static program.
pub(crate) fn archive(name: &str, program: &[u8]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "function", program);
    let layer = layer.into_inner().expect("memory");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Entrypoint": ["/function"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
        "history": [{"created": "2026-01-01T00:00:00Z"}],
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut all = tar::Builder::new(Vec::new());
    append(&mut all, "layer.tar", &layer);
    append(&mut all, "config.json", config.to_string().as_bytes());
    append(&mut all, "manifest.json", manifest.to_string().as_bytes());
    all.into_inner().expect("memory")
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, path, bytes).expect("memory");
}
