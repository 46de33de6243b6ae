//! Pulls from a real registry (Debian's docker-registry) on loopback, some
//! through a listener that cuts, counts or never answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::pool::{Thread, spawn};

/// `geheim` for `anna`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "anna:$2y$05$afl1zA41VTyWl2F8bxakYOjCgzhwRcJE5ACZKftG2VIWiR7nnxCpW\n";

struct Server {
    child: Child,
    host: String,
    login: Option<String>,
}

impl Server {
    fn start(place: &Place, protected: bool) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let host = format!("127.0.0.1:{port}");
        let folder = place.folder.join("registry");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("htpasswd"), HTPASSWD).expect("written");
        let auth = if protected { format!("auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n", folder.display()) } else { String::new() };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}/data\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{auth}",
            folder.display()
        );
        let path = folder.join("config.yml");
        std::fs::write(&path, config).expect("written");
        let log = std::fs::File::create(folder.join("log")).expect("made");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry is needed: apt-get install docker-registry");
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not come up: {}", std::fs::read_to_string(folder.join("log")).unwrap_or_default());
            place.nap();
        }
        Server { child, host, login: protected.then(|| format!("Basic {}", STANDARD.encode("anna:geheim"))) }
    }

    fn request(&self, method: &str, url: &str, kind: &str, body: &[u8]) -> ureq::http::Response<ureq::Body> {
        let mut request = ureq::http::Request::builder().method(method).uri(url).header("Content-Type", kind);
        if let Some(login) = &self.login {
            request = request.header("Authorization", login);
        }
        let response = ureq::Agent::new_with_defaults().run(request.body(body).expect("a request")).expect("answered");
        assert!(response.status().is_success(), "{method} {url}: {}", response.status());
        response
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) -> Value {
        let started = self.request("POST", &format!("http://{}/v2/{repository}/blobs/uploads/", self.host), "application/octet-stream", b"");
        let location = started.headers()["location"].to_str().expect("text").to_owned();
        let digest = Digest::of(bytes).to_string();
        self.request("PUT", &format!("{location}&digest={digest}"), "application/octet-stream", bytes);
        json!({ "mediaType": "application/octet-stream", "digest": digest, "size": bytes.len() })
    }

    fn push_document(&self, repository: &str, reference: &str, kind: &str, document: &Value) -> Value {
        let bytes = document.to_string();
        self.request("PUT", &format!("http://{}/v2/{repository}/manifests/{reference}", self.host), kind, bytes.as_bytes());
        json!({ "mediaType": kind, "digest": Digest::of(bytes.as_bytes()).to_string(), "size": bytes.len() })
    }

    /// One layer per element; returns the manifest's descriptor.
    fn push(&self, repository: &str, reference: Option<&str>, architecture: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
        let config = json!({ "architecture": architecture, "os": "linux", "config": { "Cmd": ["/x"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = self.push_blob(repository, config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|l| self.push_blob(repository, &gzip(l))).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": document::OCI_MANIFEST, "config": config, "layers": layers });
        let digest = Digest::of(manifest.to_string().as_bytes()).to_string();
        self.push_document(repository, reference.unwrap_or(&digest), document::OCI_MANIFEST, &manifest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between the client and the registry: notes requests, cuts long answers.
struct Wire {
    host: String,
    requests: Arc<Mutex<Vec<String>>>,
    end: Arc<Stop>,
    _accept: Thread,
}

/// How many answers are cut, and after how many bytes.
fn wire(to: &str, cuts: u64, after: usize) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("bound").to_string();
    let (requests, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Stop::new().expect("eventfd")));
    let (seen, over, to, left) = (requests.clone(), end.clone(), to.to_owned(), Arc::new(AtomicU64::new(cuts)));
    let accept = spawn("wire", move || {
        let mut pumps = Vec::new();
        for client in listener.incoming() {
            if over.fired() {
                break;
            }
            let client = client.expect("accepted");
            let server = TcpStream::connect(&to).expect("the registry");
            let (seen, left) = (seen.clone(), left.clone());
            let (mut from, mut into) = (client.try_clone().expect("dup"), server.try_clone().expect("dup"));
            pumps.push(spawn("wire-up", move || {
                let mut buffer = [0u8; 4096];
                while let Ok(n @ 1..) = from.read(&mut buffer) {
                    seen.lock().push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                    if into.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                let _ = into.shutdown(Shutdown::Both);
            }));
            pumps.push(spawn("wire-down", move || {
                let (mut from, mut into, mut total) = (server, client, 0);
                let mut buffer = vec![0u8; 16 * 1024];
                while let Ok(n @ 1..) = from.read(&mut buffer) {
                    total += n;
                    if into.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                    if total > after && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                        break;
                    }
                }
                let _ = into.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            }));
        }
    });
    Wire { host, requests, end, _accept: accept.expect("a thread") }
}

impl Wire {
    fn asked(&self, words: &str) -> usize {
        self.requests.lock().iter().filter(|r| r.contains(words)).count()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.fire();
        let _ = TcpStream::connect(&self.host);
    }
}

impl Place {
    fn nap(&self) {
        let _ = crate::pool::wait_for(
            std::os::fd::AsFd::as_fd(&self.stop),
            rustix::event::PollFlags::IN,
            None,
            None,
            Some(Instant::now() + Duration::from_millis(20)),
        );
    }

    fn with_login(&self, host: &str, login: &str) -> Images {
        let text = json!({ "auths": { host: { "auth": STANDARD.encode(login) } } }).to_string();
        let registries = crate::registry::Registries::parse(&text).expect("valid");
        Images::open(&self.folder.join("images"), Options { registries, ..Options::default() }).expect("opens")
    }

    fn pull(&self, images: &Images, name: &str) -> Result<Rootfs, ImageError> {
        images.ensure(name, Pull::Missing, soon(), &self.stop)
    }
}

/// Incompressible, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

#[test]
fn from_an_open_and_from_a_protected_registry() {
    let place = Place::new();
    let open = Server::start(&place, false);
    let layer = tar(&[file("x", "content")]);
    open.push("a/b", Some("1"), document::architecture(), std::slice::from_ref(&layer));
    let images = place.open();
    let name = format!("{}/a/b:1", open.host);
    assert!(matches!(images.ensure(&name, Pull::Never, soon(), &place.stop), Err(ImageError::NotFound { .. })));
    let root = place.pull(&images, &name).expect("pulls");
    assert_eq!((listing(&root.path), root.config.cmd.clone()), (vec!["x 644 1 content".to_owned()], vec!["/x".to_owned()]));
    assert!(matches!(place.pull(&images, &format!("{}/a/b:2", open.host)), Err(ImageError::NotFound { .. })));
    drop(open);
    // It is there, so nobody is asked.
    place.pull(&images, &name).expect("kept");

    let protected = Server::start(&place, true);
    protected.push("a/c", Some("1"), document::architecture(), &[layer]);
    let name = format!("{}/a/c:1", protected.host);
    assert!(matches!(place.pull(&images, &name), Err(ImageError::Denied { .. })));
    assert!(matches!(place.pull(&place.with_login(&protected.host, "anna:falsch"), &name), Err(ImageError::Denied { .. })));
    place.pull(&place.with_login(&protected.host, "anna:geheim"), &name).expect("pulls");
}

#[test]
fn a_cut_transfer_goes_on_where_it_was() {
    let place = Place::new();
    let server = Server::start(&place, false);
    let layer = tar(&[Item { data: noise(3 << 20), ..file("noise", "") }]);
    server.push("a/b", Some("1"), document::architecture(), &[layer]);
    let wire = wire(&server.host, 2, 1 << 20);
    let images = place.open();
    let root = place.pull(&images, &format!("{}/a/b:1", wire.host)).expect("pulls");
    assert_eq!(std::fs::read(root.path.join("noise")).expect("there"), noise(3 << 20));
    let ranges = wire.requests.lock().iter().filter(|r| r.to_lowercase().contains("range: bytes=")).count();
    assert_eq!(ranges, 2, "each cut is followed by a request for the rest");
    assert_eq!(std::fs::read_dir(place.folder.join("images/partial")).expect("there").count(), 0);
}

#[test]
fn what_one_process_left_half_done_the_next_one_completes() {
    let place = Place::new();
    let server = Server::start(&place, false);
    let layer = tar(&[Item { data: noise(1 << 20), ..file("noise", "") }]);
    server.push("a/b", Some("1"), document::architecture(), std::slice::from_ref(&layer));
    let images = place.open();
    let blob = gzip(&layer);
    let partial = place.folder.join("images/partial").join(Digest::of(&blob).hex());
    std::fs::write(&partial, &blob[..300_000]).expect("written");
    let wire = wire(&server.host, 0, 0);
    place.pull(&images, &format!("{}/a/b:1", wire.host)).expect("pulls");
    assert_eq!(wire.requests.lock().iter().filter(|r| r.to_lowercase().contains("range: bytes=300000-")).count(), 1);
    // A start that rotted is noticed, and the whole comes anew.
    assert!(images.remove(&format!("{}/a/b:1", wire.host)).expect("removed"));
    std::fs::write(&partial, vec![0; 300_000]).expect("written");
    place.pull(&images, &format!("{}/a/b:1", wire.host)).expect("pulls");
}

#[test]
fn many_who_want_one_image_are_one_pull() {
    let place = Place::new();
    let server = Server::start(&place, false);
    server.push("a/b", Some("1"), document::architecture(), &[tar(&[Item { data: noise(1 << 20), ..file("noise", "") }])]);
    let wire = wire(&server.host, 0, 0);
    let name = format!("{}/a/b:1", wire.host);
    // Two stores on one folder, as two processes have them.
    let stores = [place.open(), place.open()];
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (images, name, place) = (&stores[n % 2], &name, &place);
            scope.spawn(move || place.pull(images, name).expect("pulls"));
        }
    });
    assert_eq!(wire.asked("GET /v2/a/b/blobs/"), 2, "one for the configuration, one for the layer");
    assert_eq!(std::fs::read_dir(place.folder.join("images/roots")).expect("there").count(), 1);
}

#[test]
fn of_many_architectures_this_machines_is_taken() {
    let place = Place::new();
    let server = Server::start(&place, false);
    let mut ours = server.push("a/b", None, document::architecture(), &[tar(&[file("ours", "1")])]);
    let mut other = server.push("a/b", None, "s390x", &[tar(&[file("other", "1")])]);
    other["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    ours["platform"] = json!({ "os": "linux", "architecture": document::architecture() });
    let index = |manifests: Value| json!({ "schemaVersion": 2, "mediaType": document::OCI_INDEX, "manifests": manifests });
    server.push_document("a/b", "1", document::OCI_INDEX, &index(json!([other, ours])));
    server.push_document("a/b", "2", document::OCI_INDEX, &index(json!([other])));
    server.push("a/b", Some("3"), "s390x", &[tar(&[file("other", "1")])]);
    let images = place.open();
    let root = place.pull(&images, &format!("{}/a/b:1", server.host)).expect("pulls");
    assert_eq!(listing(&root.path), ["ours 644 1 1"]);
    let by_digest = format!("{}/a/b@{}", server.host, ours["digest"].as_str().expect("text"));
    assert_eq!(place.pull(&images, &by_digest).expect("pulls").id, root.id);
    for tag in ["2", "3"] {
        let error = place.pull(&images, &format!("{}/a/b:{tag}", server.host)).expect_err("not for here");
        assert!(matches!(error, ImageError::WrongArchitecture { .. }) && error.to_string().contains("s390x"), "{error}");
    }
}

#[test]
fn a_moved_tag_is_seen_when_asked_for() {
    let place = Place::new();
    let server = Server::start(&place, false);
    let images = place.open();
    let name = format!("{}/a/b:1", server.host);
    server.push("a/b", Some("1"), document::architecture(), &[tar(&[file("old", "1")])]);
    let old = place.pull(&images, &name).expect("pulls");
    server.push("a/b", Some("1"), document::architecture(), &[tar(&[file("new", "1")])]);
    assert_eq!(place.pull(&images, &name).expect("kept").id, old.id);
    let new = images.ensure(&name, Pull::Always, soon(), &place.stop).expect("pulls");
    assert_eq!(listing(&new.path), ["new 644 1 1"]);
    // The old one is in use: it stays until it is let go.
    let swept = images.prune().expect("pruned");
    assert_eq!((swept.roots, swept.in_use), (0, 1));
    assert_eq!(listing(&old.path), ["old 644 1 1"]);
    drop(old);
    assert_eq!(images.prune().expect("pruned").roots, 1);
}

#[test]
fn a_blob_that_is_not_what_it_says_is_refused() {
    let place = Place::new();
    let server = Server::start(&place, false);
    let layer = tar(&[Item { data: noise(100_000), ..file("noise", "") }]);
    server.push("a/b", Some("1"), document::architecture(), std::slice::from_ref(&layer));
    let digest = Digest::of(&gzip(&layer));
    let data = place.folder.join(format!("registry/data/docker/registry/v2/blobs/sha256/{}/{}/data", &digest.hex()[..2], digest.hex()));
    let mut bytes = std::fs::read(&data).expect("the registry's file");
    bytes[5000] ^= 1;
    std::fs::write(&data, bytes).expect("written");
    let images = place.open();
    let error = place.pull(&images, &format!("{}/a/b:1", server.host)).expect_err("refused");
    assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    assert!(images.list().expect("listed").is_empty());
}

#[test]
fn a_registry_that_never_answers_ends_in_time_or_at_the_stop() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let name = format!("{}/a/b:1", listener.local_addr().expect("bound"));
    let images = place.open();
    let error = images.ensure(&name, Pull::Missing, Instant::now() + Duration::from_millis(200), &place.stop).expect_err("late");
    assert!(matches!(error, ImageError::TimedOut { .. }), "{error}");
    assert!(matches!(
        images.ensure("127.0.0.1:1/a/b:1", Pull::Missing, Instant::now() + Duration::from_secs(1), &place.stop),
        Err(ImageError::Away { .. } | ImageError::TimedOut { .. })
    ));
    drop(listener.accept().expect("the first one's connection"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| images.ensure(&name, Pull::Missing, soon(), &place.stop));
        // Connected, so the request is under way.
        let held = listener.accept().expect("a connection");
        place.stop.fire();
        let error = waiting.join().expect("ends").expect_err("called off");
        assert!(matches!(error, ImageError::CalledOff), "{error}");
        drop(held);
    });
}

/// A registry that wants a token, and the service that gives it to those with
/// a login, in one.
#[test]
fn a_token_is_fetched_with_the_login() {
    let place = Place::new();
    let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("bound"));
    let host = server.server_addr().to_string();
    let layer = tar(&[file("x", "1")]);
    let config = json!({ "rootfs": { "diff_ids": [Digest::of(&layer).to_string()] } }).to_string().into_bytes();
    let describe = |bytes: &[u8]| json!({ "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
    let manifest = json!({ "schemaVersion": 2, "config": describe(&config), "layers": [describe(&layer)] }).to_string().into_bytes();
    let (serving, realm) = (server.clone(), format!("http://{host}/token"));
    let thread = spawn("tokens", move || {
        for request in serving.incoming_requests() {
            let login = request.headers().iter().find(|h| h.field.equiv("Authorization")).map(|h| h.value.to_string()).unwrap_or_default();
            let url = request.url().to_owned();
            let answer = |status: u16, body: &[u8]| tiny_http::Response::from_data(body).with_status_code(status);
            let response = if url.starts_with("/token") {
                let asked = url.contains("service=s%20x") && url.contains("scope=repository%3Aa%2Fb%3Apull");
                let known = login == format!("Basic {}", STANDARD.encode("u:p"));
                if asked && known { answer(200, br#"{"token":"opensesame"}"#) } else { answer(401, br#"{"details":"wrong login"}"#) }
            } else if login != "Bearer opensesame" {
                let value = format!(r#"Bearer realm="{realm}",service="s x",scope="repository:a/b:pull""#);
                answer(401, b"").with_header(tiny_http::Header::from_bytes("WWW-Authenticate", value).expect("a field"))
            } else if url.ends_with("/manifests/1") {
                answer(200, &manifest)
            } else if url.ends_with(Digest::of(&config).as_str()) {
                answer(200, &config)
            } else {
                answer(200, &layer)
            };
            let _ = request.respond(response);
        }
    })
    .expect("a thread");
    let name = format!("{host}/a/b:1");
    let known = place.pull(&place.with_login(&host, "u:p"), &name);
    let images = Images::open(&place.folder.join("other"), Options::default()).expect("opens");
    let unknown = place.pull(&images, &name);
    server.unblock();
    thread.join();
    assert_eq!(listing(&known.expect("pulls").path), ["x 644 1 1"]);
    let error = unknown.expect_err("no login");
    assert!(matches!(&error, ImageError::Denied { text, .. } if text.starts_with("wrong login; the registry wants other credentials")), "{error}");
}
