//! The API as the edge meets it: the real server on a real socket, asked with
//! raw requests. The rules of resources, case by case, are asked of the whole
//! server in tests/it/api.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::model::Id;

struct Server {
    api: Api,
    store: Arc<Store>,
    dir: PathBuf,
    /// `{A}` in a request or an expectation is replaced by the id kept under `A`.
    names: Vec<(String, String)>,
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|l| l.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("json")
    }
}

impl Server {
    fn new() -> Server {
        Server::with(|options| options)
    }

    fn with(change: impl FnOnce(ApiOptions) -> ApiOptions) -> Server {
        let dir = std::env::temp_dir().join(format!("hob-api-{}", Id::new()));
        fs::create_dir(&dir).expect("folder");
        let store = Arc::new(Store::open(&dir.join("fn.db")).expect("store"));
        let options = ApiOptions {
            store: store.clone(),
            socket: dir.join("api.sock"),
            ledger: None,
            public_url: None,
            images: ImageAllow::default(),
            threads: 4,
            containers: None,
            debug_state: None,
        };
        Server { api: Api::start(change(options)).expect("api"), store, dir, names: Vec::new() }
    }

    fn filled(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, id)| text.replace(&format!("{{{name}}}"), id))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join("api.sock")).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Got {
        self.ask_with(method, target, "", &self.filled(body))
    }

    /// As the edge asks: original target and Host, Content-Length.
    fn ask_with(&self, method: &str, target: &str, fields: &str, body: &str) -> Got {
        let mut stream = self.connect();
        let target = self.filled(target);
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: h.example:1\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
            .expect("write");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("an answer and its end");
        parse(&text)
    }

    /// Creates something and keeps its id under `name`.
    fn made(&mut self, name: &str, target: &str, body: &str) {
        let got = self.ask("POST", target, body);
        assert_eq!(got.status, 200, "{body}: {got:?}");
        self.names.push((name.to_owned(), got.json()["id"].as_str().expect("id").to_owned()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.api.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn parse(answer: &[u8]) -> Got {
    let text = String::from_utf8(answer.to_vec()).expect("utf-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Got { status, head: head.to_owned(), body: body.to_owned() }
}

/// Rule, method, target, body, status, expectation: `!text` is exactly the
/// error with that text; `=text` exactly that body; `~text` a part of it;
/// `^text` is no part of it; the empty text an empty body.
type Case<'c> = (&'c str, &'c str, &'c str, &'c str, u16, &'c str);

fn check(server: &Server, cases: &[Case<'_>]) {
    for (rule, method, target, body, status, want) in cases {
        let got = server.ask(method, target, body);
        let want = server.filled(want);
        let about = format!("{rule}: {method} {target} {body}\n got {} {}", got.status, got.body);
        assert_eq!(got.status, *status, "{about}");
        match want.split_at_checked(1) {
            Some(("!", text)) => {
                assert_eq!(got.body, format!("{{\"message\":{}}}\n", Value::from(text)), "{about}");
                assert_eq!(got.field("Content-Type"), Some("application/json; charset=utf-8"), "{about}");
            }
            Some(("=", text)) => assert_eq!(got.body, text, "{about}"),
            Some(("~", text)) => assert!(got.body.contains(text), "{about}\nwant {text}"),
            Some(("^", text)) => assert!(!got.body.contains(text), "{about}\nnot {text}"),
            _ => assert_eq!((got.body.as_str(), want.as_str()), ("", ""), "{about}"),
        }
    }
}

/// One of everything, from its making to its end.
#[test]
fn a_life() {
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    server.made("T", "/v2/triggers", r#"{"app_id":"{A}","fn_id":"{F}","name":"t","type":"http","source":"/t"}"#);
    check(
        &server,
        &[
            ("§1.1 ping", "GET", "/ping", "", 200, r#"={"status":"ok"}"#),
            ("§1.1 the document", "GET", "/openapi.yaml", "", 200, "~openapi: 3.0"),
            ("§1.1 no debug state unless given", "GET", "/debug/state", "", 404, "!Path not found: GET /debug/state"),
            ("§1.2 bad escape", "GET", "/v2/%zz", "", 400, "!Invalid path: bad percent escape"),
            ("§1.2 below invoke", "POST", "/invoke/x/y", "", 404, "!Path not found: POST /invoke/x/y"),
            ("§1.3 bad JSON", "POST", "/v2/apps", "", 400, "!Invalid JSON"),
            ("§2.3 update", "PUT", "/v2/fns/{F}", r#"{"config":{"K":"v"}}"#, 200, r#"~"config":{"K":"v"}"#),
            ("§1.6 list", "GET", "/v2/triggers?app_id={A}", "", 200, r#"~{"items":[{"id":"{T}","#),
            ("§1.6 bad cursor", "GET", "/v2/apps?cursor=_w", "", 400, "~Invalid cursor"),
            ("§2.5 delete", "DELETE", "/v2/apps/{A}", "", 204, ""),
            ("§2.5 takes all", "GET", "/v2/triggers/{T}", "", 404, "!Trigger not found"),
        ],
    );
    let id = server.filled("{F}").parse().expect("id");
    assert!(server.store.snapshot().target(&id).is_none());
}

/// §1.7: what clients send back of what they read is not stored.
#[test]
fn reserved_annotations_are_not_stored() {
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    let shown = server.ask("GET", "/v2/fns/{F}", "").body;
    assert!(shown.contains("fnproject.io/fn/invokeEndpoint"), "{shown}");
    assert_eq!(server.ask("PUT", "/v2/fns/{F}", &shown).status, 200);
    let id = server.filled("{F}").parse().expect("id");
    let stored = serde_json::to_string(&*server.store.snapshot().target(&id).expect("fn").function).expect("json");
    assert!(!stored.contains("fnproject.io"), "{stored}");
}

/// §1.7, §11.28: where the endpoints' base comes from.
#[test]
fn endpoint_bases() {
    let mut server = Server::with(|o| ApiOptions { public_url: Some("https://lb.example.com/".into()), ..o });
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    check(&server, &[("§11.28", "GET", "/v2/fns/{F}", "", 200, r#"~"https://lb.example.com/invoke/{F}""#)]);
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    let got = server.ask_with("GET", "/v2/fns/{F}", "X-Forwarded-Proto: https\r\n", "");
    assert!(got.body.contains(&server.filled("\"https://h.example:1/invoke/{F}\"")), "{}", got.body);
}

/// §11.63: a panic costs its request only.
#[test]
fn a_panic_is_a_500() {
    let server = Server::with(|o| ApiOptions { debug_state: Some(Arc::new(|| panic!("on purpose"))), ..o });
    for _ in 0..8 {
        check(&server, &[("§11.63", "GET", "/debug/state", "", 500, "!internal server error"), ("§11.63", "GET", "/v2/apps", "", 200, r#"={"items":[]}"#)]);
    }
    let server = Server::with(|o| ApiOptions { debug_state: Some(Arc::new(|| r#"{"queues":[]}"#.to_owned())), ..o });
    check(
        &server,
        &[("debug state", "GET", "/debug/state", "", 200, r#"={"queues":[]}"#), ("only GET", "POST", "/debug/state", "", 405, "~Method not allowed")],
    );
}

/// Bodies too large are read to their end and refused; the server lives on.
#[test]
fn large_bodies() {
    let server = Server::new();
    let body = " ".repeat(8 * 1024 * 1024 + 1);
    check(&server, &[("§2.1 too large", "POST", "/v2/apps", &body, 413, "!Content-Length too large for this server, 8388609 > max 8388608")]);
    check(&server, &[("an unwanted body is read too", "GET", "/version", &body, 200, "~version")]);
    let big = format!(r#"{{"name":"big","config":{{{}}}}}"#, (0..60).map(|i| format!("\"k{i}\":\"{}\"", "v".repeat(60_000))).collect::<Vec<_>>().join(","));
    check(&server, &[("a large app", "POST", "/v2/apps", &big, 200, "~vvv")]);
    let got = server.ask("GET", "/v2/apps", "");
    assert_eq!(got.field("Content-Length"), Some(got.body.len().to_string().as_str()), "never chunked");
    // A body cut short gives no change.
    let mut stream = server.connect();
    write!(stream, "POST /v2/apps HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n{{\"name\":\"cut\"}}").expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    assert!(server.store.snapshot().app_by_name("cut").is_none(), "{}", String::from_utf8_lossy(&answer));
}

/// Several requests on one kept-alive connection, as the edge sends them.
#[test]
fn keep_alive() {
    let server = Server::new();
    let mut stream = server.connect();
    for n in 0..50 {
        let body = format!(r#"{{"name":"a{n}"}}"#);
        write!(stream, "POST /v2/apps HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("write");
        let mut text = Vec::new();
        let mut byte = [0u8];
        while !text.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("head");
            text.push(byte[0]);
        }
        let got = parse(&text);
        let mut body = vec![0; got.field("Content-Length").expect("length").parse().expect("number")];
        stream.read_exact(&mut body).expect("body");
        assert_eq!(got.status, 200);
    }
    assert_eq!(server.store.snapshot().apps_after("").count(), 50);
}

/// The socket is the user's alone, stop joins and removes it, a stale one is
/// replaced, another file is not.
#[test]
fn the_socket() {
    let server = Server::new();
    let socket = server.dir.join("api.sock");
    assert_eq!(fs::metadata(&socket).expect("metadata").permissions().mode() & 0o777, 0o600);
    let started = Instant::now();
    server.api.stop();
    server.api.stop();
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(!socket.exists());
    let options = || ApiOptions {
        store: server.store.clone(),
        socket: socket.clone(),
        ledger: None,
        public_url: None,
        images: ImageAllow::default(),
        threads: 1,
        containers: None,
        debug_state: None,
    };
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bind"));
    drop(Api::start(options()).expect("a stale socket is replaced"));
    fs::write(&socket, "precious").expect("write");
    assert!(matches!(Api::start(options()), Err(ApiError::Listen { .. })));
    assert_eq!(fs::read_to_string(&socket).expect("read"), "precious");
}

/// tiny_http gives up listening on any accept error; the API listens anew.
#[test]
fn it_outlives_its_listener() {
    let dir = std::env::temp_dir().join(format!("hob-api-{}", Id::new()));
    fs::create_dir(&dir).expect("folder");
    let store = Arc::new(Store::open(&dir.join("fn.db")).expect("store"));
    let socket = dir.join("api.sock");
    let listener = serve::listen(&socket).expect("listen");
    let handle = listener.try_clone().expect("clone");
    let options = ApiOptions {
        store: store.clone(),
        socket: socket.clone(),
        ledger: None,
        public_url: None,
        images: ImageAllow::default(),
        threads: 2,
        containers: None,
        debug_state: None,
    };
    let server = Server { api: Api::start_on(listener, options).expect("api"), store, dir, names: Vec::new() };
    check(&server, &[("before", "GET", "/version", "", 200, "~version")]);
    rustix::net::shutdown(&handle, rustix::net::Shutdown::Both).expect("shutdown");
    drop(handle);
    let deadline = Instant::now() + Duration::from_secs(120);
    // The old one refuses from its shutdown on, so who accepts is the new one.
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "no new listener");
        std::thread::yield_now();
    }
    for _ in 0..10 {
        check(&server, &[("after", "GET", "/version", "", 200, "~version")]);
    }
    server.api.stop();
    assert!(!socket.exists());
}
