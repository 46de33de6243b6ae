//! The client against a small server of the tests' own: what it asks, what it
//! prints, how it fails. The image of a deploy is loaded into the real engine.

use std::fs;
use std::sync::Arc;

use clap::Parser;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::pool::{Thread, spawn};

/// Apps, fns and triggers in memory; every request is remembered.
struct Fake {
    http: Arc<tiny_http::Server>,
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<Thread>,
}

impl Fake {
    fn new() -> Fake {
        let http = Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (serving, log) = (http.clone(), asked.clone());
        let thread = spawn("fake-server", move || {
            let mut stored: Vec<(String, Value)> = Vec::new();
            for mut request in serving.incoming_requests() {
                let mut body = String::new();
                request.as_reader().read_to_string(&mut body).expect("text");
                let token = request.headers().iter().find(|h| h.field.equiv("Authorization")).map(|h| format!(" [{}]", h.value)).unwrap_or_default();
                log.lock().push(format!("{} {} {body}{token}", request.method(), request.url()).trim_end().to_owned());
                let (status, text) = answer(&mut stored, request.method().as_str(), request.url(), &body);
                request.respond(tiny_http::Response::from_string(text).with_status_code(status)).expect("answered");
            }
        })
        .expect("thread");
        Fake { http, asked, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}", self.http.server_addr())
    }

    fn run(&self, arguments: &[&str]) -> Result<String, CliError> {
        let url = self.url();
        let cli = Cli::try_parse_from(["hob", "--server", &url].iter().chain(arguments)).expect("valid arguments");
        match run(&cli)? {
            Output::Text(text) => Ok(text),
            Output::Done | Output::Code(_) => Ok(String::new()),
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.http.unblock();
        drop(self.thread.take());
    }
}

/// A server just good enough: ids count up, lists have pages of two.
fn answer(stored: &mut Vec<(String, Value)>, method: &str, url: &str, body: &str) -> (u16, String) {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let wanted = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned);
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let not_found = || (404, json!({ "message": "not found here" }).to_string());
    match (method, parts.as_slice()) {
        ("GET", ["version"]) => (200, json!({ "version": "9.9.9" }).to_string()),
        ("POST", ["invoke", ..]) => (502, json!({ "message": "function failed" }).to_string()),
        ("GET", ["v2", kind]) => {
            let from: usize = wanted("cursor").map_or(0, |c| c.parse().expect("our cursor"));
            let keeps = |v: &Value| ["name", "app_id", "fn_id"].iter().all(|key| wanted(key).is_none_or(|w| v[*key] == json!(w)));
            let all: Vec<&Value> = stored.iter().filter(|(k, v)| k == kind && keeps(v)).map(|(_, v)| v).collect();
            let page: Vec<&&Value> = all.iter().skip(from).take(2).collect();
            let next = if from + 2 < all.len() { (from + 2).to_string() } else { String::new() };
            (200, json!({ "items": page, "next_cursor": next }).to_string())
        }
        ("POST", ["v2", kind]) => {
            let mut value: Value = serde_json::from_str(body).expect("JSON");
            if value["name"] == "taken" {
                return (409, json!({ "message": "already exists" }).to_string());
            }
            value["id"] = json!(format!("ID{}", stored.len()));
            stored.push(((*kind).to_owned(), value.clone()));
            (200, value.to_string())
        }
        ("GET" | "PUT", ["v2", kind, id]) => match stored.iter_mut().find(|(k, v)| k == kind && v["id"] == json!(id)) {
            Some((_, value)) => {
                for (name, new) in serde_json::from_str::<Value>(body).ok().as_ref().and_then(Value::as_object).into_iter().flatten() {
                    value[name] = new.clone();
                }
                (200, value.to_string())
            }
            None => not_found(),
        },
        ("DELETE", ["v2", kind, id]) => {
            stored.retain(|(k, v)| !(k == kind && v["id"] == json!(id)));
            (204, String::new())
        }
        _ => not_found(),
    }
}

#[test]
fn arguments_are_consistent() {
    Cli::command().debug_assert();
    let exits = |arguments: &[&str]| format!("{:?}", main_with(arguments.iter().map(OsString::from)));
    assert_eq!(exits(&["hob", "nonsense"]), format!("{:?}", ExitCode::from(2)));
    assert_eq!(exits(&["hob", "apps", "create"]), format!("{:?}", ExitCode::from(2)));
}

#[test]
fn apps_fns_and_triggers_from_creation_to_removal() {
    let fake = Fake::new();
    let created = fake.run(&["apps", "create", "demo", "--config", "A=1=2", "--annotation", "x=[1]"]).expect("created");
    assert!(created.contains("config.A       1=2\n") && created.contains("name           demo\n"), "{created}");
    assert_eq!(fake.asked(), [r#"POST /v2/apps {"annotations":{"x":[1]},"config":{"A":"1=2"},"name":"demo"}"#]);

    fake.run(&["fns", "create", "demo", "f", "img:1", "--memory", "64", "--timeout", "5"]).expect("created");
    assert_eq!(fake.asked()[1], r#"POST /v2/fns {"app_id":"ID0","image":"img:1","memory":64,"name":"f","timeout":5}"#);
    let list = fake.run(&["fns", "list", "demo"]).expect("listed");
    assert_eq!(list, "NAME  IMAGE  MEMORY  TIMEOUT  ID\nf     img:1  64 MiB  5 s      ID1\n");
    fake.run(&["fns", "update", "demo", "f", "--image", "img:2"]).expect("updated");
    assert_eq!(fake.asked().last().map(String::as_str), Some(r#"PUT /v2/fns/ID1 {"image":"img:2"}"#));
    assert_eq!(fake.run(&["fns", "inspect", "demo", "f", "--endpoint"]).expect("found"), format!("{}/invoke/ID1\n", fake.url()));
    let as_json: Value = serde_json::from_str(&fake.run(&["fns", "inspect", "demo", "f", "--json"]).expect("found")).expect("JSON");
    assert_eq!(as_json["image"], "img:2");

    fake.run(&["triggers", "create", "demo", "f", "t", "--source", "/t"]).expect("created");
    assert!(fake.run(&["triggers", "list", "demo", "f"]).expect("listed").contains("t     /t      ID2"));
    assert_eq!(fake.run(&["triggers", "delete", "demo", "f", "t"]).expect("deleted"), "deleted trigger t\n");
    assert!(matches!(fake.run(&["triggers", "inspect", "demo", "f", "t"]), Err(CliError::NotFound { .. })));
    fake.run(&["fns", "delete", "demo", "f"]).expect("deleted");
    fake.run(&["apps", "delete", "demo"]).expect("deleted");
    assert_eq!(fake.run(&["apps", "list", "--json"]).expect("listed"), "[]\n");
}

#[test]
fn lists_are_read_to_their_end() {
    let fake = Fake::new();
    for name in ["a", "b", "c", "d", "e"] {
        fake.run(&["apps", "create", name]).expect("created");
    }
    assert_eq!(fake.run(&["apps", "list"]).expect("listed").lines().count(), 6);
}

#[test]
fn times_are_seconds_or_how_long_ago() {
    let time = |text| args::time_at(text, 1_000_000);
    for (text, seconds) in [("0", 0), ("1795000000", 1_795_000_000), ("90s", 999_910), ("15m", 999_100), ("2h", 992_800), ("7d", 395_200), ("99d", 0)] {
        assert_eq!(time(text), Ok(seconds), "{text}");
    }
    for text in ["", "s", "-5", "+5", "+5m", "1.5h", "1w", "5 m", "yesterday", "99999999999999999"] {
        assert!(time(text).is_err(), "{text}");
    }
}

#[test]
fn refusals_and_absences_have_their_exit_codes() {
    let fake = Fake::new();
    let refused = fake.run(&["apps", "create", "taken"]).expect_err("refused");
    assert_eq!((refused.to_string().as_str(), refused.exit_code()), ("POST /v2/apps: already exists (status 409)", 1));
    let absent = fake.run(&["fns", "list", "nowhere"]).expect_err("absent");
    assert!(absent.to_string().contains("hob apps create nowhere") && absent.exit_code() == 1, "{absent}");
    let annotation = fake.run(&["apps", "create", "x", "--annotation", "k=text"]).expect_err("no JSON");
    assert_eq!(annotation.exit_code(), 2);

    let nobody = Cli::try_parse_from(["hob", "--server", "127.0.0.1:1", "apps", "list"]).expect("valid");
    let error = run(&nobody).expect_err("nobody there");
    assert!(matches!(error, CliError::Connect { .. }) && error.exit_code() == 2 && error.to_string().contains("hob serve"), "{error}");
    for url in ["ftp://x", "http://", "http://a b"] {
        assert!(matches!(Server::at(url, None), Err(CliError::Address { .. })), "{url}");
    }
    let text = match run(&Cli::try_parse_from(["hob", "--server", "127.0.0.1:1", "version"]).expect("valid")) {
        Ok(Output::Text(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.contains("server  ?"), "{text}");
    assert!(fake.run(&["version"]).expect("both").contains("server  9.9.9"));
}

#[test]
fn the_token_goes_to_management_and_not_to_functions() {
    let fake = Fake::new();
    let server = Server::at(&fake.url(), Some("s3cret".to_owned())).expect("valid");
    server.get("/v2/apps").expect("listed");
    let response = server.call("ID7", &[("X-One".to_owned(), "1".to_owned())], b"in".as_slice()).expect("answered");
    assert_eq!(response.status().as_u16(), 502);
    assert_eq!(fake.asked(), ["GET /v2/apps  [Bearer s3cret]", "POST /invoke/ID7 in"]);
    assert!(matches!(server.call("ID7", &[("X One".to_owned(), "1".to_owned())], ()), Err(CliError::Header { .. })));
    assert_eq!(http::message(br#"{"message":"why"}"#, 500), "why");
    assert_eq!(http::message(b"plain", 500), "plain");
    assert_eq!(http::message(b"", 500), "no explanation");
    assert!(http::message(b"{}", 401).contains("HOB_API_TOKEN"));
    assert_eq!(http::encode("a b/ü"), "a%20b%2F%C3%BC");
}

/// An engine, or `None` with the reason printed; in CI none is a failure.
fn engine() -> Option<crate::docker::Images> {
    match images::place(Some("docker")) {
        Ok(images::Place::Engine(engine)) => Some(*engine),
        Ok(place) => panic!("{place:?}"),
        Err(e) => {
            #[allow(clippy::disallowed_methods, reason = "tests ask whether this is CI")]
            let ci = std::env::var_os("CI").is_some();
            assert!(!ci, "{e}");
            eprintln!("skipped: {e}");
            None
        }
    }
}

#[test]
fn a_folder_becomes_an_image_and_a_function_and_again_nothing_changes() {
    let Some(engine) = engine() else { return };
    let fake = Fake::new();
    let folder = std::env::temp_dir().join(format!("hob-deploy-{}", crate::model::Id::new()));
    fs::create_dir_all(&folder).expect("made");
    let app = format!("test{}", crate::model::Id::new()).to_lowercase();
    fs::write(folder.join("prog"), "#!/bin/none\n").expect("written");
    fs::write(
        folder.join("func.yaml"),
        "name: f\nversion: 0.10\nentrypoint: ./prog --fast\nmemory: 64\nconfig: {A: 1}\ntriggers: [{name: t, type: http, source: /t}]\n",
    )
    .expect("written");
    let path = folder.to_string_lossy().into_owned();

    let text = fake.run(&["deploy", &path, "--app", &app]).expect("deployed");
    let image = format!("{app}/f:0.10");
    assert!(text.starts_with(&format!("deployed {app}/f as {image}\n")), "{text}");
    let id = engine.id(&image).expect("asked").expect("loaded");
    let asked = fake.asked();
    assert!(asked.contains(&format!("POST /v2/apps {{\"name\":\"{app}\"}}")), "{asked:?}");
    let made = format!(
        "POST /v2/fns {{\"annotations\":{{\"hob/image-id\":\"{id}\"}},\"app_id\":\"ID0\",\"config\":{{\"A\":\"1\"}},\"image\":\"{image}\",\"memory\":64,\"name\":\"f\"}}"
    );
    assert!(asked.contains(&made), "{asked:?}");
    assert!(asked.iter().any(|a| a.starts_with("POST /v2/triggers") && a.contains("\"source\":\"/t\"")), "{asked:?}");

    fake.run(&["deploy", &path, "--app", &app]).expect("deployed again");
    assert_eq!(engine.id(&image).expect("asked"), Some(id.clone()));
    assert!(!fake.asked().iter().any(|a| a.starts_with("POST")), "a second deploy makes nothing");

    fs::write(folder.join("prog"), "#!/bin/other\n").expect("written");
    fake.run(&["deploy", &path, "--app", &app]).expect("deployed anew");
    assert_ne!(engine.id(&image).expect("asked").as_ref(), Some(&id));
    assert_eq!(engine.id(&id).expect("asked"), None, "the image before leaves nothing behind");
    assert!(engine.remove(&image).expect("removed"));
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_dockerfile_is_built_by_the_engine_and_its_failure_told() {
    let Some(engine) = engine() else { return };
    let fake = Fake::new();
    let folder = std::env::temp_dir().join(format!("hob-build-{}", crate::model::Id::new()));
    fs::create_dir_all(&folder).expect("made");
    let app = format!("test{}", crate::model::Id::new()).to_lowercase();
    fs::write(folder.join("file"), "x").expect("written");
    fs::write(folder.join("func.yaml"), "name: g\nruntime: docker\n").expect("written");
    fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY file /file\nENTRYPOINT [\"/file\"]\n").expect("written");
    let path = folder.to_string_lossy().into_owned();
    fake.run(&["deploy", &path, "--app", &app]).expect("deployed");
    assert!(engine.remove(&format!("{app}/g:0.0.1")).expect("removed"));

    fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY nothing /file\n").expect("written");
    let error = fake.run(&["deploy", &path, "--app", &app]).expect_err("the step fails");
    assert!(error.to_string().contains("nothing") && error.exit_code() == 1, "{error}");
    fs::remove_dir_all(&folder).expect("removed");
}
