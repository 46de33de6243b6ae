//! What the server shows, to whom: images that are allowed, secrets that are
//! never logged, routes that are not for strangers.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::{Server, http, wait_until};

#[test]
fn only_allowed_images_become_functions_and_only_they_start() {
    let Some(server) = Server::start(&[("HOB_IMAGE_ALLOW", "hob-test/echo, registry.example/team/*")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let function = server.manage("GET", &format!("/v2/fns/{echo}"), &Value::Null);
    let (app, image) = (&function["app_id"], function["image"].clone());
    let refused = |method: &str, target: &str, body: Value| {
        let answer = server.send(method, target, body.to_string().as_bytes());
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.message().contains("HOB_IMAGE_ALLOW") && answer.message().contains(body["image"].as_str().expect("image")), "{}", answer.message());
    };
    for other in ["hob-test/hello:1", "hob-test/echo2", "evil.example/hob-test/echo", "registry.example/team", "registry.example/teams/x"] {
        refused("POST", "/v2/fns", json!({"app_id": app, "name": "other", "image": other}));
        refused("PUT", &format!("/v2/fns/{echo}"), json!({"image": other}));
    }
    // What is wrong anyway is told first; a change without an image is none of it.
    assert_eq!(server.send("POST", "/v2/fns", json!({"app_id": app, "image": "evil.example/x"}).to_string().as_bytes()).status, 400);
    server.manage("POST", "/v2/fns", &json!({"app_id": app, "name": "team", "image": "registry.example/team/x:1"}));
    let after = server.manage("PUT", &format!("/v2/fns/{echo}"), &json!({"timeout": 7}));
    assert_eq!(after["image"], image, "nothing refused was kept");
    let folder = server.folder.clone();
    server.stop();

    // A list that became stricter holds for what is stored already.
    let Some(server) = Server::start_in(folder, &[("HOB_IMAGE_ALLOW", "registry.example/team/*")]) else { return };
    let answer = server.call(&echo, &[], b"");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.message().contains("HOB_IMAGE_ALLOW"), "{}", answer.message());
    server.manage("PUT", &format!("/v2/fns/{echo}"), &json!({"config": {"A": "b"}}));
    assert_eq!(server.call(&echo, &[], b"").status, 403);
    server.stop();
}

/// A registry that wants a password and then has nothing. It keeps what it was
/// shown.
struct Locked {
    address: SocketAddr,
    shown: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Locked {
    fn start() -> Locked {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("address");
        let (shown, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, ending) = (shown.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let _ = answer_locked(client, &kept);
            }
        });
        Locked { address, shown, over, thread: Some(thread) }
    }
}

fn answer_locked(mut client: TcpStream, shown: &Mutex<Vec<String>>) -> std::io::Result<()> {
    client.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut authorization = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            let _ = name;
            authorization = Some(value.trim().to_owned());
        }
    }
    let status = match authorization {
        Some(value) => {
            shown.lock().expect("list").push(value);
            "404 Not Found"
        }
        None => "401 Unauthorized\r\nWww-Authenticate: Basic realm=\"test\"",
    };
    client.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A new secret: what it is, and text that occurs nowhere else.
fn secret(what: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("hush-{what}-{:05}", 48_611 + 7 * NEXT.fetch_add(1, Ordering::SeqCst))
}

/// Calls good and bad, writes good and bad, detached calls, a pull with
/// credentials; every one of them bears secrets.
#[test]
fn no_secret_is_in_the_log_at_any_level() {
    for level in ["trace", "debug", "info"] {
        let registry = Locked::start();
        let (token, password) = (secret("token"), secret("password"));
        let basic = BASE64_STANDARD.encode(format!("somebody:{password}"));
        let auth = json!({"auths": {registry.address.to_string(): {"auth": basic}}}).to_string();
        let env = [
            ("FN_LOG_LEVEL", level),
            ("RUST_LOG", "trace"),
            ("HOB_API_TOKEN", token.as_str()),
            ("FN_DOCKER_AUTH", auth.as_str()),
            ("HOB_DETACHED_ATTEMPTS", "1"),
            ("HOB_CALL_RECORDS", "all"),
            ("FN_MAX_REQUEST_SIZE", "500000"),
        ];
        let Some(server) = Server::start(&env) else { return };
        let secrets = Mutex::new(vec![token.clone(), password, basic]);
        let new = |what: &str| {
            let made = secret(what);
            secrets.lock().expect("list").push(made.clone());
            made
        };
        let bearer = format!("Bearer {token}");
        let manage = |method: &str, target: &str, body: String| {
            http::send(server.address, method, target, &[("Authorization", &bearer)], body.as_bytes()).expect("an answer")
        };
        let id_of = |answer: http::Response| answer.json()["id"].as_str().unwrap_or_else(|| panic!("no id: {answer:?}")).to_owned();
        let app = id_of(manage("POST", "/v2/apps", json!({"name": "app", "config": {"KEY": new("app-config")}}).to_string()));
        let function = |name: &str, image: &str, config: String| {
            let spec = json!({"app_id": app, "name": name, "image": image, "memory": 64, "timeout": 5, "config": {"KEY": config}});
            id_of(manage("POST", "/v2/fns", spec.to_string()))
        };
        let echo = function("echo", &server.image("echo"), new("fn-config"));
        let hostile = function("hostile", &server.image("hostile"), new("fn-config"));
        let missing = function("missing", &format!("{}/x:1", registry.address), new("fn-config"));

        // Calls: good, long, too long, cut by the function, too late, malformed, refused.
        let call = |id: &str, query: bool, more: &[(&str, &str)], padding: usize| {
            let (authorization, cookie) = (format!("Bearer {}", new("call-token")), format!("session={}", new("cookie")));
            let target = if query { format!("/invoke/{id}?key={}", new("query")) } else { format!("/invoke/{id}") };
            let mut fields = vec![("Authorization", authorization.as_str()), ("Cookie", cookie.as_str())];
            fields.extend_from_slice(more);
            let body = format!("{}{}", new("body"), "x".repeat(padding));
            http::send(server.address, "POST", &target, &fields, body.as_bytes()).map(|answer| answer.status)
        };
        assert_eq!(call(&echo, true, &[], 0).expect("an answer"), 200);
        assert_eq!(call(&echo, false, &[], 400_000).expect("an answer"), 200);
        assert_eq!(call(&echo, false, &[], 600_000).expect("an answer"), 413);
        assert_eq!(call(&echo, false, &[("X-Status", "502")], 0).expect("an answer"), 502);
        for (what, status) in [("exit:3", 502), ("garbage", 502), ("two-lengths", 502), ("never", 504), ("twice", 200)] {
            assert_eq!(call(&hostile, false, &[("X-Do", what)], 0).expect("an answer"), status, "{what}");
        }
        assert_eq!(call("01HF7YAT3V180G40RZJ0000001", true, &[], 0).expect("an answer"), 404);
        assert_eq!(call(&echo, false, &[("Transfer-Encoding", "chunked")], 0).expect("an answer"), 400);
        // One pull for a caller, one for a detached call.
        assert!((400..=599).contains(&call(&missing, false, &[], 0).expect("an answer")));
        for id in [&echo, &hostile, &missing] {
            assert_eq!(call(id, false, &[("Fn-Invoke-Type", "detached"), ("X-Do", "exit:3"), ("Idempotency-Key", "k")], 0).expect("an answer"), 202);
        }
        let shown = registry.shown.lock().expect("list").clone();
        assert!(shown.iter().any(|value| value.starts_with("Basic ")), "the credentials travelled: {shown:?}\n{}", server.log());

        // Writes: wrong token, no JSON, refused values, queries.
        let wrong = format!("Bearer {}", new("wrong-token"));
        assert_eq!(http::send(server.address, "GET", "/v2/apps", &[("Authorization", &wrong)], b"").expect("an answer").status, 401);
        assert_eq!(manage("POST", "/v2/apps", format!("{{\"name\": \"b\", \"config\": {{\"K\": \"{}\"", new("half-json"))).status, 400);
        assert_eq!(manage("PUT", &format!("/v2/apps/{app}"), json!({"config": {"K": format!("{}\0", new("nul-config"))}}).to_string()).status, 400);
        assert_eq!(manage("PUT", &format!("/v2/fns/{echo}"), json!({"config": {"K": new("long-config") + &"x".repeat(140_000)}}).to_string()).status, 400);
        assert_eq!(manage("PUT", &format!("/v2/fns/{echo}"), json!({"config": {"K": new("changed-config")}}).to_string()).status, 200);
        assert_eq!(manage("GET", &format!("/v2/apps?cursor={}", new("cursor")), String::new()).status, 400);
        assert_eq!(call(&echo, false, &[], 0).expect("an answer"), 200);
        let ended = |id: &str| {
            let list = manage("GET", &format!("/v2/fns/{id}/calls"), String::new()).json();
            list["items"].as_array().is_some_and(|calls| calls.iter().filter(|c| c["detached"] == true).all(|c| c["completed_at"].is_string()))
        };
        for id in [&echo, &hostile, &missing] {
            wait_until("the detached call's end", || ended(id).then_some(()));
        }
        let state = manage("GET", "/debug/state", String::new()).text();
        let metrics = manage("GET", "/metrics", String::new()).text();
        // The state is logged at a signal.
        server.signal(rustix::process::Signal::USR1);
        wait_until("the state in the log", || server.log().contains("state: {").then_some(()));
        let log = server.log();
        for hidden in secrets.lock().expect("list").iter() {
            for (place, text) in [("log", &log), ("state", &state), ("metrics", &metrics)] {
                let line = text.lines().find(|line| line.contains(hidden.as_str()));
                assert_eq!(line, None, "{hidden} is in the {place} at level {level}");
            }
        }
        server.stop();
    }
}

#[test]
fn beyond_loopback_strangers_see_nothing_of_the_inside() {
    let token = "a-token-of-some-length";
    let Some(server) = Server::start(&[("HOB_LISTEN", "0.0.0.0:0"), ("HOB_API_TOKEN", token)]) else { return };
    let address = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let ask = |target: &str, authorization: &str| {
        let fields: &[(&str, &str)] = if authorization.is_empty() { &[] } else { &[("Authorization", authorization)] };
        http::send(address, "GET", target, fields, b"").expect("an answer")
    };
    for target in ["/v2/apps", "/v2/fns?app_id=x", "/metrics", "/debug/state", "/debug/pprof", "/debug", "/openapi.yaml"] {
        for wrong in ["", "Bearer", "Bearer a-token-of-some-lengtH", "Bearer a-token-of-some-length1", "Basic a-token-of-some-length"] {
            let answer = ask(target, wrong);
            assert!([401, 404].contains(&answer.status), "{target} with {wrong:?}: {answer:?}");
            assert!(!answer.text().contains("queues"), "{answer:?}");
        }
    }
    let right = format!("Bearer {token}");
    assert_eq!(ask("/v2/apps", &right).status, 200);
    for target in ["/debug/state", "/debug/pprof", "/debug/pprof/heap", "/debug", "/debug/vars"] {
        assert_eq!(ask(target, &right).status, 404, "no debug route on a public listener, token or not: {target}");
    }
    server.stop();
}

#[test]
fn no_page_of_another_origin_is_let_in_by_default() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    for (method, target) in [("GET", "/v2/apps"), ("POST", &format!("/invoke/{echo}")), ("GET", "/none"), ("OPTIONS", "/v2/apps"), ("DELETE", "/v2/apps/x")] {
        let fields = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST")];
        let answer = http::send(server.address, method, target, &fields, b"").expect("an answer");
        assert!(!answer.head.to_ascii_lowercase().contains("access-control"), "{method} {target}: {}", answer.head);
    }
    server.stop();
}
