//! The container engine, asked directly: what is there, and images made of
//! the sample functions.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::http::{Response, finish, request};

/// The engine's socket: `HOB_TEST_ENGINE` names another one, Podman's say.
pub(crate) fn socket() -> &'static str {
    static SOCKET: OnceLock<String> = OnceLock::new();
    SOCKET.get_or_init(|| std::env::var("HOB_TEST_ENGINE").unwrap_or_else(|_| "/var/run/docker.sock".to_owned()))
}

/// Whether an engine answers. Without one tests are skipped, unless CI
/// promised it.
pub(crate) fn answers() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    let answers = *ANSWERS.get_or_init(|| ask("GET", "/_ping", &[]).is_ok_and(|r| r.status == 200));
    if !answers {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no engine at {}, and CI=true promises one", socket());
        println!("SKIPPED: no engine");
    }
    answers
}

/// HTTP/1.0: the engine then never chunks its answers.
pub(crate) fn ask(method: &str, target: &str, body: &[u8]) -> std::io::Result<Response> {
    ask_with(method, target, &[("Content-Type", "application/x-tar")], body)
}

fn ask_with(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> std::io::Result<Response> {
    let mut stream = UnixStream::connect(socket())?;
    stream.set_read_timeout(Some(super::PATIENCE))?;
    stream.write_all(&request("HTTP/1.0", method, target, fields, body))?;
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
    static IMAGES: [(&str, OnceLock<String>); 4] =
        [("echo", OnceLock::new()), ("hello", OnceLock::new()), ("hostile", OnceLock::new()), ("mirror", OnceLock::new())];
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

/// Loads `sample` with `padding` bytes that nothing compresses under `name`,
/// pushes it to its registry, and removes it here. `auth`: an `X-Registry-Auth`.
pub(crate) fn publish(name: &str, sample: &'static str, padding: usize, auth: &str) {
    let program = std::fs::read(program(sample)).expect("the program was built");
    let mut noise = Sha256::digest(name).to_vec();
    while noise.len() < padding {
        noise.extend_from_slice(&Sha256::digest(&noise[noise.len() - 32..]));
    }
    let loaded = ask("POST", "/images/load?quiet=1", &archive_of(name, &[("function", &program), ("noise", &noise)], ARCHITECTURE)).expect("the engine loads");
    assert!(loaded.status == 200 && !loaded.text().contains("error"), "load of {name}: {loaded:?}");
    let (repository, tag) = name.rsplit_once(':').expect("a tag");
    let pushed = ask_with("POST", &format!("/images/{repository}/push?tag={tag}"), &[("X-Registry-Auth", auth)], b"").expect("the engine pushes");
    assert!(pushed.status == 200 && !pushed.text().contains("error"), "push of {name}: {pushed:?}");
    remove_image(name);
}

/// Loads a sample's program as an image that says it is for `architecture`.
pub(crate) fn load_for(name: &str, architecture: &str) {
    let program = std::fs::read(program("hello")).expect("the program was built");
    let loaded = ask("POST", "/images/load?quiet=1", &archive_of(name, &[("function", &program)], architecture)).expect("the engine loads");
    assert!(loaded.status == 200 && !loaded.text().contains("error"), "load of {name}: {loaded:?}");
}

/// Makes `to` name in an open registry what `from` names there.
pub(crate) fn move_tag(registry: std::net::SocketAddr, repository: &str, from: &str, to: &str) {
    const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let path = |tag: &str| format!("/v2/{repository}/manifests/{tag}");
    let manifest = super::http::send(registry, "GET", &path(from), &[("Accept", MANIFEST)], b"").expect("the registry answers");
    let put = super::http::send(registry, "PUT", &path(to), &[("Content-Type", MANIFEST)], &manifest.body).expect("the registry answers");
    assert!(manifest.status == 200 && put.status == 201, "{manifest:?} {put:?}");
}

pub(crate) fn has_image(name: &str) -> bool {
    ask("GET", &format!("/images/{name}/json"), &[]).expect("the engine inspects").status == 200
}

/// Takes a saved image.
pub(crate) fn load_archive(name: &str, archive: &[u8]) {
    let loaded = ask("POST", "/images/load?quiet=1", archive).expect("the engine loads");
    assert!(loaded.status == 200 && !loaded.text().contains("error"), "load of {name}: {loaded:?}");
}

/// Success also when it is not there.
pub(crate) fn remove_image(name: &str) {
    let removed = ask("DELETE", &format!("/images/{name}?force=1"), &[]).expect("the engine removes");
    assert!(matches!(removed.status, 200 | 404), "{name}: {removed:?}");
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

pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A docker archive of one layer that holds one static program.
pub(crate) fn archive(name: &str, program: &[u8]) -> Vec<u8> {
    archive_of(name, &[("function", program)], ARCHITECTURE)
}

/// The same with more files; the program is called `function`.
pub(crate) fn archive_of(name: &str, files: &[(&str, &[u8])], architecture: &str) -> Vec<u8> {
    saved(name, files, architecture, &json!({}))
}

/// The same with more in its configuration.
pub(crate) fn archive_with(name: &str, files: &[(&str, &[u8])], more: &Value) -> Vec<u8> {
    saved(name, files, ARCHITECTURE, more)
}

fn saved(name: &str, files: &[(&str, &[u8])], architecture: &str, more: &Value) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        append(&mut layer, path, bytes);
    }
    let layer = layer.into_inner().expect("memory");
    let mut runs = json!({"Entrypoint": ["/function"], "Env": ["PATH=/"]});
    for (key, value) in more.as_object().expect("an object") {
        runs[key] = value.clone();
    }
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": runs,
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
