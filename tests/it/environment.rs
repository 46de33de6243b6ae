//! From configuration to a container's environment (spec http-api §4.3), and
//! when a change of it holds.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::{Server, wait_until};

/// The environment that a call of the function `hostile` sees.
fn environment(server: &Server, function: &str) -> Vec<String> {
    server.good_call(function, &[("X-Do", "env")], b"").text().lines().map(str::to_owned).collect()
}

fn has(environment: &[String], line: &str) -> bool {
    environment.iter().any(|l| l == line)
}

fn names(environment: &[String]) -> HashSet<&str> {
    environment.iter().filter_map(|l| l.split_once('=')).map(|(name, _)| name).collect()
}

fn app_of(server: &Server, function: &str) -> String {
    server.manage("GET", &format!("/v2/fns/{function}"), &Value::Null)["app_id"].as_str().expect("app").to_owned()
}

fn container(server: &Server) -> String {
    let all = server.containers();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]["Id"].as_str().expect("id").to_owned()
}

/// §4.3: app, then function over it, then what hob fixes over both.
#[test]
fn later_wins_and_what_is_fixed_stays_fixed() {
    let Some(server) = Server::start(&[]) else { return };
    let config = json!({"SAME": "fn", "FN_MEMORY": "999", "FN_FORMAT": "x", "FN_LISTENER": "x", "FN_FN_ID": "x", "FN_MINE": "1", "PATH": "/mine", "A B": "with blanks "});
    let id = server.function("env", "hostile", json!({"config": config}));
    let app = app_of(&server, &id);
    server.manage("PUT", &format!("/v2/apps/{app}"), &json!({"config": {"SAME": "app", "APP": "1", "FN_APP_ID": "x", "FN_TYPE": "async"}}));
    let seen = environment(&server, &id);
    for line in [
        "SAME=fn",
        "APP=1",
        "FN_MINE=1",
        "PATH=/mine",
        "A B=with blanks ",
        "FN_MEMORY=64",
        "FN_TYPE=sync",
        "FN_FORMAT=http-stream",
        "FN_LISTENER=unix:/tmp/iofs/lsnr.sock",
        "FN_APP_NAME=app",
        "FN_FN_NAME=env",
        &format!("FN_FN_ID={id}"),
        &format!("FN_APP_ID={app}"),
    ] {
        assert!(has(&seen, line), "{line} of {seen:?}");
    }
    server.stop();
}

/// §4.3: a change of either holds for the next call, which has another
/// container; a change of nothing does not.
#[test]
fn a_change_holds_for_the_next_call() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("env", "hostile", json!({"config": {"COLOUR": "red", "GONE": "1"}}));
    let app = app_of(&server, &id);
    let mut seen = environment(&server, &id);
    let mut last = container(&server);
    // What is changed, and what the next call sees.
    let (of_fn, of_app) = (format!("/v2/fns/{id}"), format!("/v2/apps/{app}"));
    let sees = |line: &'static str| move |seen: &[String]| has(seen, line);
    type Seen = Box<dyn Fn(&[String]) -> bool>;
    let changes: Vec<(&str, Value, Seen)> = vec![
        (&of_fn, json!({"config": {"COLOUR": "blue"}}), Box::new(sees("COLOUR=blue"))),
        (&of_app, json!({"config": {"SIZE": "1"}}), Box::new(sees("SIZE=1"))),
        (&of_app, json!({"config": {"SIZE": "2"}}), Box::new(sees("SIZE=2"))),
        (&of_app, json!({"config": {"SIZE": ""}}), Box::new(|seen| !names(seen).contains("SIZE"))),
        (&of_fn, json!({"config": {"GONE": ""}}), Box::new(|seen| !names(seen).contains("GONE"))),
        (&of_fn, json!({"memory": 80}), Box::new(sees("FN_MEMORY=80"))),
        (&of_fn, json!({"timeout": 21}), Box::new(|_| true)),
        (&of_fn, json!({"annotations": {"k": 1}}), Box::new(|_| true)),
        (&of_app, json!({"annotations": {"k": 2, "l": 1}}), Box::new(|_| true)),
    ];
    for (target, change, holds) in &changes {
        server.manage("PUT", target, change);
        seen = environment(&server, &id);
        assert!(holds(&seen), "{change}: {seen:?}");
        // The old one goes by itself: nothing calls it any more.
        wait_until("the old container's end", || (server.containers().len() == 1).then_some(()));
        let now = container(&server);
        assert_ne!(now, last, "{change}: another container");
        last = now;
    }
    for (target, change) in [(&of_fn, json!({})), (&of_fn, json!({"config": {"COLOUR": "blue"}, "memory": 80})), (&of_app, json!({"config": {"ABSENT": ""}}))] {
        server.manage("PUT", target, &change);
        assert_eq!(environment(&server, &id), seen, "{change}");
        assert_eq!(container(&server), last, "{change} changes nothing: the container stays");
    }
    server.stop();
}

/// §2.2: what is accepted can be run: the longest value the kernel takes, and
/// one with line breaks.
#[test]
fn what_is_accepted_runs() {
    let Some(server) = Server::start(&[]) else { return };
    let longest = 131_070 - "LONG".len();
    let id = server.function("env", "hostile", json!({"config": {"LONG": "v".repeat(longest), "LINES": "1\n2"}}));
    let text = server.good_call(&id, &[("X-Do", "env")], b"").text();
    assert!(text.contains("LINES=1\n2\n"));
    assert!(text.lines().any(|l| l.len() == "LONG=".len() + longest), "the whole of it");
    let refused = server.send("PUT", &format!("/v2/fns/{id}"), json!({"config": {"LONG": "v".repeat(longest + 1)}}).to_string().as_bytes());
    assert_eq!(refused.status, 400, "{refused:?}");
    server.stop();
}
