//! The main job: an app, a function, calls.

use serde_json::json;

use crate::harness::{Server, sandbox};

#[test]
fn a_function_is_made_and_called_twice_in_one_container() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let first = server.good_call(&echo, &[("Content-Type", "text/plain"), ("X-Mine", "1")], b"one");
    assert_eq!((first.text().as_str(), first.field("Content-Type")), ("one", Some("text/plain")));
    let second = server.good_call(&echo, &[], b"two");
    assert_eq!(second.text(), "two");
    assert_eq!(first.field("X-Instance"), second.field("X-Instance"), "one container");
    assert_eq!((first.field("X-Count"), second.field("X-Count")), (Some("1"), Some("2")));
    let ids = [first.field("Fn-Call-Id"), second.field("Fn-Call-Id")].map(|id| id.expect("Fn-Call-Id").to_owned());
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 26), "{ids:?}");
    let containers = server.containers();
    assert_eq!(containers.len(), 1);
    let labels = &containers[0]["Labels"];
    // A sandbox is known by its control group.
    assert!(sandbox::chosen() || (labels["hob.store"].is_string() && labels["hob.instance"].is_string()), "{containers:?}");
    server.stop();
}

#[test]
fn json_in_json_out() {
    let Some(server) = Server::start(&[]) else { return };
    let hello = server.function("hello", "hello", json!({}));
    let answer = server.good_call(&hello, &[("Content-Type", "application/json")], br#"{"name":"Ada"}"#);
    assert_eq!(answer.json(), json!({"message": "Hello Ada"}));
    server.stop();
}

#[test]
fn resources_live_and_die() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("echo", "echo", json!({}));
    let got = server.manage("GET", &format!("/v2/fns/{id}"), &json!(null));
    assert_eq!((got["name"].as_str(), got["memory"].as_u64()), (Some("echo"), Some(64)));
    let app_id = got["app_id"].as_str().expect("app_id").to_owned();
    let listed = server.manage("GET", &format!("/v2/fns?app_id={app_id}"), &json!(null));
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    server.good_call(&id, &[], b"");
    server.manage("DELETE", &format!("/v2/fns/{id}"), &json!(null));
    assert_eq!(server.call(&id, &[], b"").status, 404);
    server.manage("DELETE", &format!("/v2/apps/{app_id}"), &json!(null));
    assert_eq!(server.send("GET", &format!("/v2/apps/{app_id}"), b"").status, 404);
    server.stop();
}

#[test]
fn bad_requests_cost_nothing() {
    let Some(server) = Server::start(&[]) else { return };
    for id in ["01HF7YAT3V180G40RZJ0000001", "nonsense"] {
        let answer = server.call(id, &[], b"");
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.message().contains("not found"), "{answer:?}");
    }
    let broken = server.send("POST", "/v2/apps", b"{\"name\": ");
    assert_eq!((broken.status, broken.message().as_str()), (400, "Invalid JSON"));
    let nameless = server.send("POST", "/v2/apps", b"{}");
    assert_eq!((nameless.status, nameless.message().as_str()), (400, "Missing Name"));
    assert_eq!(server.send("GET", "/nowhere", b"").status, 404);
    assert!(server.containers().is_empty());
    server.stop();
}
