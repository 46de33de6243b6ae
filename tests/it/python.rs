//! The official Python FDK, unmodified, in a container: what it needs of the
//! contract (spec http-api §3.7), and what its functions see and say.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use serde_json::{Value, json};

use crate::harness::http::{self, Response};
use crate::harness::{Folder, Server, engine, python, sandbox, together, wait_until};

/// One function of the image `echo-python`, behind the trigger `/t/app/py`.
struct Python<'a> {
    server: &'a Server,
    id: String,
}

impl Python<'_> {
    fn new<'a>(server: &'a Server, image: &str, name: &str, more: &Value) -> Python<'a> {
        // The defaults of Fn: 128 MiB must do.
        let mut spec = json!({"memory": 128});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let id = server.function_of(name, image, spec);
        let app = server.manage("GET", &format!("/v2/fns/{id}"), &Value::Null)["app_id"].clone();
        let trigger = json!({"app_id": app, "fn_id": id, "name": "t", "type": "http", "source": format!("/{name}")});
        server.manage("POST", "/v2/triggers", &trigger);
        Python { server, id }
    }

    fn ask(&self, what: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.server.call(&self.id, &[&[("X-Do", what)], fields].concat(), body)
    }

    fn good(&self, what: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        let answer = self.ask(what, fields, body);
        assert_eq!(answer.status, 200, "{what}: {answer:?}\n{}", self.server.log());
        answer
    }

    fn trigger(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        http::send(self.server.address, method, target, fields, body).expect("an answer")
    }

    fn logs(&self, what: &str) {
        wait_until(&format!("'{what}' in the log"), || self.server.log().contains(what).then_some(()));
    }
}

fn values<'a>(answer: &'a Response, name: &str) -> Vec<&'a str> {
    answer.head.lines().filter_map(|l| l.split_once(": ")).filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
}

/// One server for all of it: its image is large.
#[test]
fn the_official_fdk_works_unmodified() {
    let Some(server) = Server::start(&[("FN_FREEZE_IDLE_MSECS", "50")]) else { return };
    let Some(image) = python::image(&server, "echo-python") else { return };
    what_goes_in_and_comes_out(&Python::new(&server, &image, "py", &json!({"config": {"COLOUR": "red", "SAME": "fn"}})));
    failures_are_told_as_the_fdk_means_them(&Python::new(&server, &image, "fails", &json!({})), &Python::new(&server, &image, "slow", &json!({"timeout": 5})));
    what_a_call_prints_is_its_own(&Python::new(&server, &image, "says", &json!({})));
    fifty_callers_get_fifty_answers(&Python::new(&server, &image, "many", &json!({"annotations": {"hob/max-instances": 4}})));
    hot_frozen_thawed_and_later(&Python::new(&server, &image, "rests", &json!({})));
    the_sample_is_deployed_without_a_registry(&server);
    server.stop();
}

fn what_goes_in_and_comes_out(python: &Python<'_>) {
    bodies(python);
    the_context(python);
    through_the_trigger(python);
}

fn bodies(python: &Python<'_>) {
    let answer = python.good("hello", &[("Content-Type", "application/json")], br#"{"name":"Ada"}"#);
    assert_eq!((answer.json(), answer.field("Content-Type")), (json!({"message": "Hello Ada"}), Some("application/json")));
    let text = "grüße, 世界 \u{1f40d}";
    let answer = python.good("echo", &[("Content-Type", "text/plain; charset=utf-8")], text.as_bytes());
    assert_eq!((answer.text().as_str(), answer.field("Content-Type")), (text, Some("text/plain; charset=utf-8")));
    assert_eq!(python.good("echo", &[], b"").body, b"", "an empty body");
    let all: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    assert!(python.good("echo", &[("Content-Type", "application/octet-stream")], &all).body == all, "1 MiB of every byte, there and back");
    let made = python.good("size:1048576", &[], b"").body;
    assert!(made.len() == 1 << 20 && made.iter().enumerate().all(|(n, b)| usize::from(*b) == n % 251), "1 MiB that the function makes");
    assert_eq!(python.good("size:0", &[], b"").body, b"");
}

/// What the FDK tells a function: spec http-api §3.1, §3.7.
fn the_context(python: &Python<'_>) {
    let sent = [("X-Custom", "a"), ("Cookie", "c=1"), ("Fn-Call-Id", "forged"), ("Fn-Deadline", "forged"), ("Authorization", "Basic x")];
    let answer = python.good("context", &sent, b"the body");
    let seen = answer.json();
    let id = answer.field("Fn-Call-Id").expect("an id");
    assert_eq!(values(&answer, "Fn-Call-Id").len(), 1);
    assert_eq!(seen["call_id"], id);
    assert_eq!((&seen["fn_id"], &seen["fn_name"], &seen["app_name"]), (&json!(python.id), &json!("py"), &json!("app")));
    assert_eq!((&seen["format"], &seen["body"]), (&json!("http-stream"), &json!("the body")));
    assert_eq!((&seen["method"], &seen["url"]), (&Value::Null, &Value::Null), "a direct call has neither");
    assert_eq!(seen["headers"]["x-custom"], "a", "{seen}");
    assert_eq!((&seen["headers"]["cookie"], &seen["headers"]["authorization"]), (&json!("c=1"), &json!("Basic x")));
    for (name, value) in [
        ("COLOUR", "red"),
        ("SAME", "fn"),
        ("FN_MEMORY", "128"),
        ("FN_TYPE", "sync"),
        ("FN_FORMAT", "http-stream"),
        ("FN_LISTENER", "unix:/tmp/iofs/lsnr.sock"),
        ("FN_FN_ID", &python.id),
    ] {
        assert_eq!(seen["config"][name], value, "{name} of {}", seen["config"]);
    }
    // Of the image.
    assert_eq!((&seen["uid"], &seen["folder"], &seen["config"]["PYTHONPATH"]), (&json!(1000), &json!("/function"), &json!("/function:/python")));
    assert!(seen["home"].as_str().is_some_and(|home| home.starts_with('/')), "{seen}");
    // Whole seconds, UTC, and between now and now + timeout.
    let deadline = seen["deadline"].as_str().expect("text");
    assert!(deadline.len() == 20 && deadline.ends_with('Z'), "{deadline}");
    let at = seconds(deadline);
    let now = seen["now"].as_f64().expect("a number");
    assert!(at >= now && at <= now + 120.0, "{at} {now}");
    assert_eq!(
        (values(&answer, "X-Instance").len(), answer.field("Fn-Fdk-Version").is_some_and(|v| v.starts_with("fdk-python/"))),
        (1, true),
        "{}",
        answer.head
    );
}

/// Of `2026-11-24T02:41:13Z`: seconds since 1970, as `date` reads it.
fn seconds(text: &str) -> f64 {
    let said = Command::new("date").args(["-u", "-d", text, "+%s"]).output().expect("date runs").stdout;
    String::from_utf8_lossy(&said).trim().parse().expect("a number")
}

/// Spec http-api §3.2 and the gateway mode of §3.7.
fn through_the_trigger(python: &Python<'_>) {
    let sent = [("X-Do", "context"), ("X-Mine", "1"), ("Content-Type", "text/plain"), ("Fn-Intent", "forged"), ("Fn-Http-Method", "FORGED")];
    let answer = python.trigger("PUT", "/t/app/py?a=b&c=%20d", &sent, b"in");
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = answer.json();
    assert_eq!((&seen["method"], &seen["url"], &seen["body"]), (&json!("PUT"), &json!("http://test/t/app/py?a=b&c=%20d"), &json!("in")));
    assert_eq!((&seen["http_headers"]["x-mine"], &seen["headers"]["content-type"]), (&json!("1"), &json!("text/plain")), "{seen}");
    assert_eq!(answer.field("Content-Type"), Some("application/json"));
    assert_eq!((answer.field("X-Instance").is_some(), answer.field("Fn-Fdk-Version")), (true, None), "unprefixed by the gateway, the FDK's own stays here");

    for status in [200, 201, 204, 302, 404, 418, 500, 599] {
        let answer = python.trigger("GET", "/t/app/py", &[("X-Do", &format!("status:{status}"))], b"");
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let answer = python.trigger("GET", "/t/app/py", &[("X-Do", "status:99")], b"");
    assert_eq!(answer.status, 502, "{answer:?}");
    let answer = python.trigger("GET", "/t/app/py", &[("X-Do", "fields")], b"");
    assert_eq!((answer.field("X-One"), answer.field("Location"), answer.field("Content-Type")), (Some("1"), Some("/elsewhere"), Some("text/x-mine")));
    assert_eq!(python.trigger("HEAD", "/t/app/py", &[("X-Do", "fields")], b"").field("X-One"), Some("1"));
    // A direct call: the status is the FDK's own affair.
    let answer = python.good("status:404", &[], b"");
    assert_eq!(answer.field("Fn-Http-Status"), None, "{}", answer.head);
}

fn failures_are_told_as_the_fdk_means_them(python: &Python<'_>, slow: &Python<'_>) {
    let first = python.good("echo", &[], b"").field("X-Instance").map(str::to_owned);
    let answer = python.ask("raise:as asked", &[], b"");
    assert_eq!((answer.status, answer.message()), (502, "function failed".to_owned()));
    let call = answer.field("Fn-Call-Id").expect("an id").to_owned();
    // The FDK logs the exception; it belongs to that call.
    python.logs(&format!("call_id={call} stderr: {call} - fn - ERROR - as asked"));
    let answer = python.ask("raise-timeout:as asked", &[], b"");
    assert_eq!(answer.status, 504, "{answer:?}");
    let next = python.good("echo", &[], b"well");
    assert_eq!((next.text().as_str(), next.field("X-Instance")), ("well", first.as_deref()), "an exception costs no container");

    let first = slow.good("echo", &[], b"").field("X-Instance").map(str::to_owned);
    let answer = slow.ask("sleep:600", &[], b"");
    assert!(answer.status == 504 && answer.message().contains("5 s"), "{answer:?}");
    let next = slow.good("echo", &[], b"anew");
    assert_ne!(next.field("X-Instance"), first.as_deref(), "over its time: another container");

    let answer = python.ask("exit:3", &[], b"");
    assert!(answer.status == 502 && answer.message().contains("exited with code 3"), "{answer:?}");
    let answer = python.ask("memory:400", &[], b"");
    assert!(answer.status == 502 && answer.message().contains("128 MB of memory"), "{answer:?}");
    assert_eq!(python.good("memory:40", &[], b"").text(), (40 << 20).to_string(), "what 128 MiB leave for a function");
}

fn what_a_call_prints_is_its_own(python: &Python<'_>) {
    for n in 0..5 {
        let answer = python.good(&format!("say:line {n}"), &[], b"");
        let call = answer.field("Fn-Call-Id").expect("an id");
        python.logs(&format!("call_id={call} stdout: line {n}\n"));
        python.logs(&format!("call_id={call} stderr: line {n} on stderr\n"));
    }
}

fn fifty_callers_get_fifty_answers(python: &Python<'_>) {
    let answers = together(50, |n| (0..3).map(|m| python.good("echo", &[], format!("{n}-{m}").as_bytes())).collect::<Vec<_>>());
    let mut calls = HashSet::new();
    for (n, mine) in answers.iter().enumerate() {
        for (m, answer) in mine.iter().enumerate() {
            assert_eq!(answer.text(), format!("{n}-{m}"));
            assert!(calls.insert(answer.field("Fn-Call-Id").expect("an id").to_owned()), "an id twice");
        }
    }
    let instances: HashSet<_> = answers.iter().flatten().filter_map(|a| a.field("X-Instance")).collect();
    assert!(instances.len() <= 4, "{instances:?}");
}

fn hot_frozen_thawed_and_later(python: &Python<'_>) {
    let first = python.good("echo", &[], b"");
    for n in 2..=6u32 {
        let next = python.good("echo", &[], b"");
        assert_eq!((next.field("X-Instance"), next.field("X-Count")), (first.field("X-Instance"), Some(n.to_string().as_str())), "one container");
    }
    for _ in 0..3 {
        wait_until("the freezer", || {
            let state = python.server.send("GET", "/debug/state", b"").json();
            let mine = state["queues"].as_array()?.iter().find(|queue| queue["fn_id"] == python.id)?;
            (mine["idle"][0]["state"] == "frozen").then_some(())
        });
        let next = python.good("echo", &[("Fn-Timing", "1")], b"awake");
        assert_eq!((next.text().as_str(), next.field("X-Instance")), ("awake", first.field("X-Instance")));
        assert!(next.field("Server-Timing").is_some_and(|t| t.contains("frozen")), "{}", next.head);
    }

    let answer = python.ask("hello", &[("Fn-Invoke-Type", "detached")], br#"{"name":"later"}"#);
    assert_eq!((answer.status, answer.body.len()), (202, 0), "{answer:?}");
    let path = format!("/v2/fns/{}/calls/{}", python.id, answer.field("Fn-Call-Id").expect("an id"));
    wait_until("the detached call", || {
        let record = python.server.send("GET", &path, b"");
        (record.status == 200 && record.json()["status"] == "success").then_some(())
    });
    let kept = python.server.manage("GET", &format!("{path}/answer"), &Value::Null);
    let body = base64::engine::general_purpose::STANDARD.decode(kept["body"].as_str().expect("text")).expect("base 64");
    assert_eq!(body, br#"{"message": "Hello later"}"#);
}

/// The sample as its README says: the base is loaded once, `hob deploy` makes
/// the rest, by the engine or in hob's own store.
fn the_sample_is_deployed_without_a_registry(server: &Server) {
    if python::base(server).is_none() {
        return;
    }
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/hello-python");
    let tag = &server.folder.tag;
    deployed(server, &sample, tag);
    if !sandbox::chosen() {
        // Without its Dockerfile the engine, too, goes by func.yaml.
        let folder = Folder::new();
        for name in ["func.py", "func.yaml"] {
            std::fs::copy(sample.join(name), folder.path.join(name)).expect("copied");
        }
        deployed(server, &folder.path, &format!("{tag}-other"));
        for app in [tag.clone(), format!("{tag}-other")] {
            engine::remove_image(&format!("{app}/hello-python:0.1.0"));
        }
    }
}

fn deployed(server: &Server, folder: &Path, app: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
    command.args(["--server", &format!("http://{}", server.address), "--json", "deploy"]).arg(folder).args(["--app", app]);
    command.env("DOCKER_HOST", format!("unix://{}", engine::socket())).env("HOB_DATA", server.folder.path.join("data"));
    command.env("HOB_DRIVER", if sandbox::chosen() { "sandbox" } else { "docker" }).env_remove("FN_API_URL").env_remove("HOB_URL");
    let done = command.output().expect("hob runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let id = said["fn"]["id"].as_str().expect("an id");
    assert_eq!(server.good_call(id, &[], br#"{"name":"you"}"#).json()["message"], "Hello you");
    let answer = http::send(server.address, "POST", &format!("/t/{app}/hello-python"), &[], b"{}").expect("an answer");
    assert_eq!((answer.status, answer.json()["message"].as_str()), (200, Some("Hello world")), "{answer:?}");
}
