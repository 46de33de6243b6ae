//! What goes to the function and what comes back, through both doors.

use std::sync::Arc;
use std::time::Duration;

use super::{Bench, Setup, until};
use crate::call::{AnswerHead, CallError, Ended, Exit, LaunchError};
use crate::http1::BodyFraming;

const NONE: AnswerHead<'static> = AnswerHead { fields: &[] };

#[test]
fn a_direct_call() {
    let bench = Bench::new();
    let answer = bench.ask(bench.post("content-type: application/json\r\nx-custom: a\r\nX-CUSTOM: b\r\nFn-Call-Id: mine\r\nFn-Deadline: zz\r\nTE: trailers\r\nKeep-Alive: 5\r\nUpgrade: foo\r\nAuthorization: Basic x\r\nFn-Intent: httprequest\r\nContent-Length: 2\r\n", "{}"));
    assert_eq!((answer.status, answer.minor), (200, 1));
    assert_eq!(
        answer.text(),
        "Content-Type: application/json\r\nX-Custom: a\r\nX-Custom: b\r\nTe: trailers\r\nAuthorization: Basic x\r\nFn-Intent: httprequest\r\n\r\n{}"
    );
    assert_eq!(answer.count("fn-call-id"), 1);
    assert_eq!(answer.field("fn-call-id").map(str::len), Some(26));
    assert_eq!(answer.field("x-echo"), Some("1"));
    assert_eq!((answer.count("date"), answer.count("server"), answer.count("content-length"), answer.count("connection")), (1, 1, 1, 0));
    assert!(answer.field("date").is_some_and(|d| d.ends_with(" GMT") && d.len() == 29));
}

#[test]
fn call_ids_differ() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let mut ids = std::collections::HashSet::new();
    for _ in 0..100 {
        client.send(bench.post("Content-Length: 0\r\n", ""));
        assert!(ids.insert(client.answer().field("fn-call-id").expect("an id").to_owned()));
    }
}

#[test]
fn absolute_form_and_queries() {
    let bench = Bench::new();
    let path = bench.path("echo");
    for target in [format!("http://other:1{path}"), format!("{path}?a=b&c=/d"), format!("HTTP://h{path}?x"), path.replace("invoke", "%69nvoke")] {
        let answer = bench.ask(format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
        assert_eq!((answer.status, answer.text()), (200, "\r\nx"), "{target}");
    }
}

#[test]
fn misses_and_wrong_methods() {
    let bench = Bench::new();
    let echo = bench.path("echo");
    for (method, target, status, message) in [
        ("POST", "/invoke/x", 404, "Fn not found".to_owned()),
        ("POST", "/invoke/01HF7YAT3V180G40RZJ0000001", 404, "Fn not found".to_owned()),
        ("GET", echo.as_str(), 405, format!("Method not allowed: GET {echo}")),
        ("HEADX", "/invoke/x", 405, "Method not allowed: HEADX /invoke/x".to_owned()),
        ("POST", "/invoke/x/y?q=1", 404, "Path not found: POST /invoke/x/y".to_owned()),
        ("POST", "/invoke/a%20b/c", 404, "Path not found: POST /invoke/a b/c".to_owned()),
        ("GET", "/t/", 404, "Path not found: GET /t/".to_owned()),
        ("GET", "/t/nope/x", 404, "App not found".to_owned()),
        ("GET", "/t/app/nope", 404, "Trigger not found".to_owned()),
        ("GET", "/t/app/echo/", 404, "Trigger not found".to_owned()),
        ("GET", "/t/App/echo", 404, "App not found".to_owned()),
        ("FOO", "/t/app/echo", 405, "Method not allowed: FOO /t/app/echo".to_owned()),
    ] {
        let answer = bench.ask(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!((answer.status, answer.message()), (status, message), "{method} {target}");
        assert_eq!((answer.field("fn-call-id"), answer.field("allow")), (None, None));
    }
    assert_eq!(bench.calls(), 0);
}

#[test]
fn every_failure_has_its_status_text_and_id() {
    type Make = fn() -> CallError;
    let cases: &'static [(&'static str, Make, u16, &'static str)] = &[
        ("busy", || CallError::NoCapacity { retry_after_s: 7 }, 503, "Timed out - server too busy"),
        ("draining", || CallError::Draining, 503, "Timed out - server too busy: the server is shutting down"),
        ("failed", || CallError::FunctionFailed, 502, "function failed"),
        ("timeout", || CallError::Timeout { limit: Duration::from_secs(3) }, 504, "Timed out"),
        (
            "launch",
            || {
                CallError::Launch(Arc::new(LaunchError::Exited {
                    exit: Ended { exit: Exit { code: 1, oom_killed: false }, memory_mib: 64 },
                    container: crate::model::Id::MIN,
                }))
            },
            502,
            "Container failed to initialize",
        ),
        ("internal", || CallError::Internal("secret".to_owned()), 500, "internal server error"),
    ];
    let mut setup = Setup::new();
    for (name, make, _, _) in cases {
        setup = setup.function(name, move |_, _, _| Err(make()));
    }
    let bench = setup.start();
    let mut client = bench.connect();
    for (name, _, status, text) in cases {
        client.send(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", bench.path(name)));
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{name}");
        assert!(answer.message().starts_with(text) && !answer.message().contains("secret"), "{name}: {}", answer.message());
        assert_eq!((answer.count("fn-call-id"), answer.count("connection")), (1, 0), "{name}");
        assert_eq!(answer.field("retry-after").is_some(), *status == 503, "{name}");
    }
}

#[test]
fn an_impossible_demand_has_no_call_id() {
    let bench = Setup::new().function("big", |_, _, _| Err(CallError::TooBig { need_mib: 9, need_mcpu: 0, total_mib: 1, total_mcpu: 1 })).start();
    let answer = bench.ask(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("big")));
    assert_eq!((answer.status, answer.field("fn-call-id")), (400, None));
}

#[test]
fn a_panic_or_silence_of_the_agent_is_a_500() {
    let bench = Setup::new().function("panics", |_, _, _| panic!("on purpose")).function("silent", |_, _, _| Ok(())).start();
    for name in ["panics", "silent"] {
        let answer = bench.ask(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path(name)));
        assert_eq!((answer.status, answer.message().as_str(), answer.count("fn-call-id")), (500, "internal server error", 1), "{name}");
    }
    assert_eq!(bench.ask(bench.post("Content-Length: 0\r\n", "")).status, 200);
}

fn long(name: &'static str, len: Option<u64>, pieces: &'static [&'static str], end: bool) -> Setup {
    Setup::new().function(name, move |_, caller, _| {
        caller.begin(&NONE, len).map_err(|_| CallError::ClientGone)?;
        for piece in pieces {
            caller.data(piece.as_bytes()).map_err(|_| CallError::ClientGone)?;
        }
        if !end {
            return Err(CallError::Broken { sent: 1, cause: "died".to_owned() });
        }
        caller.end().map_err(|_| CallError::ClientGone)
    })
}

#[test]
fn long_answers_of_known_and_unknown_length() {
    for len in [Some(6), None] {
        let bench = long("f", len, &["abc", "", "def"], true).start();
        let ask = format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("f"));
        let mut client = bench.connect();
        for _ in 0..3 {
            client.send(&ask);
            let answer = client.answer();
            assert_eq!((answer.status, answer.text()), (200, "abcdef"));
            assert_eq!(answer.framing, len.map_or(BodyFraming::Chunked, BodyFraming::Length));
            assert_eq!((answer.count("fn-call-id"), answer.count("connection")), (1, 0));
        }
    }
}

#[test]
fn long_answers_without_data() {
    for len in [Some(0), None] {
        let bench = long("f", len, &[], true).start();
        let mut client = bench.connect();
        for _ in 0..2 {
            client.send(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("f")));
            assert_eq!(client.answer().text(), "");
        }
    }
}

#[test]
fn a_broken_answer_is_seen_as_broken() {
    for (len, end, pieces) in [(Some(6), false, &["abc"][..]), (None, false, &["abc"]), (Some(6), true, &["abc"]), (Some(3), true, &["abc", "d"])] {
        let bench = long("f", len, pieces, end).start();
        let mut client = bench.connect();
        client.send(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("f")));
        if len == Some(3) {
            assert_eq!(client.answer().text(), "abc");
            client.assert_closed();
        } else {
            let error = client.try_answer().expect_err("cut");
            assert!(error.contains("body") || error.contains("head"), "{error}");
        }
    }
    // Close-delimited, where only a reset tells.
    let bench = long("f", None, &["abc"], false).start();
    let mut client = bench.connect();
    client.send(format!("POST {} HTTP/1.0\r\nContent-Length: 0\r\n\r\n", bench.path("f")));
    assert!(client.try_answer().is_err());
}

#[test]
fn a_large_answer_to_a_slow_reader_arrives_whole() {
    let bench = Setup::new()
        .function("f", |_, caller, _| {
            caller.begin(&NONE, Some(8 << 20)).map_err(|_| CallError::ClientGone)?;
            let piece = vec![b'z'; 64 << 10];
            for _ in 0..128 {
                caller.data(&piece).map_err(|_| CallError::ClientGone)?;
            }
            caller.end().map_err(|_| CallError::ClientGone)
        })
        .start();
    let mut client = bench.connect();
    client.send(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("f")));
    until("the server waits for the reader", || bench.calls() == 1);
    let answer = client.answer();
    assert!(answer.body.len() == 8 << 20 && answer.body.iter().all(|&b| b == b'z'));
}

#[test]
fn http_1_0() {
    let bench = Setup::new()
        .function("long", |_, caller, _| {
            caller.begin(&NONE, None).map_err(|_| CallError::ClientGone)?;
            caller.data(b"abc").map_err(|_| CallError::ClientGone)?;
            caller.data(b"def").map_err(|_| CallError::ClientGone)?;
            caller.end().map_err(|_| CallError::ClientGone)
        })
        .start();
    let ask = |name: &str, lines: &str| format!("POST {} HTTP/1.0\r\n{lines}Content-Length: 1\r\n\r\nx", bench.path(name));
    // Closed unless asked otherwise.
    let mut client = bench.connect();
    client.send(ask("echo", ""));
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    client.assert_closed();
    // Kept when asked, and acknowledged.
    let mut client = bench.connect();
    for _ in 0..3 {
        client.send(ask("echo", "Connection: keep-alive\r\n"));
        assert_eq!(client.answer().field("connection"), Some("keep-alive"));
    }
    // Unknown length: never chunked, ended by the close, keep-alive or not.
    client.send(ask("long", "Connection: keep-alive\r\n"));
    let answer = client.answer();
    assert_eq!((answer.framing, answer.text(), answer.field("connection")), (BodyFraming::UntilClose, "abcdef", Some("close")));
    // No Host needed, one allowed; Expect is unknown to it.
    assert_eq!(bench.ask(ask("echo", "Host: h\r\n")).status, 200);
    assert_eq!(bench.ask(ask("echo", "Expect: 100-continue\r\n")).status, 200);
}

#[test]
fn connection_close_is_obeyed() {
    let bench = Bench::new();
    for value in ["close", "Close", "keep-alive, close", "close, x"] {
        let mut client = bench.connect();
        client.send(bench.post(&format!("Connection: {value}\r\nContent-Length: 0\r\n"), ""));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")), "{value}");
        client.assert_closed();
    }
}

#[test]
fn a_trigger_call() {
    let bench = Bench::new();
    let answer = bench.ask("DELETE /t/app/echo?x=1 HTTP/1.1\r\nHost: h:1\r\nUser-Agent: ua\r\nFn-Call-Id: mine\r\nFn-Invoke-Type: sync\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(answer.status, 200);
    let text = answer.text();
    for line in [
        "Fn-Http-H-User-Agent: ua\r\n",
        "Fn-Http-H-Fn-Invoke-Type: sync\r\n",
        "\r\nContent-Type: text/plain\r\n",
        "Fn-Http-H-Content-Length: 2\r\n",
        "Fn-Intent: httprequest\r\n",
        "Fn-Http-Method: DELETE\r\n",
        "Fn-Http-Request-Url: http://h:1/t/app/echo?x=1\r\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("Host:") && !text.contains("mine"), "{text}");
    assert_eq!((answer.field("x-echo"), answer.field("content-type")), (None, Some("text/plain")));
}

#[test]
fn trigger_urls_keep_their_escapes() {
    let bench = Bench::new();
    let answer = bench.ask("GET /t/app/%65cho?q=a%20b&c HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.text().contains("Fn-Http-Request-Url: http://h/t/app/%65cho?q=a%20b&c\r\n"), "{}", answer.text());
    let answer = bench.ask("GET https://x.y/t/app/echo?q HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.text().contains("Fn-Http-Request-Url: https://x.y/t/app/echo?q\r\n"), "{}", answer.text());
}

#[test]
fn triggers_at_the_root_and_all_methods() {
    let bench = Bench::new();
    for target in ["/t/app", "/t/app/", "/t/app?x=1"] {
        assert_eq!(bench.ask(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).status, 200, "{target}");
    }
    for method in ["GET", "POST", "PUT", "PATCH", "OPTIONS", "DELETE", "CONNECT", "TRACE"] {
        let answer = bench.ask(format!("{method} /t/app/echo HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(answer.text().contains(&format!("Fn-Http-Method: {method}\r\n")), "{method}");
    }
}

#[test]
fn head_has_the_length_and_no_body() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.was_head = true;
    client.send("HEAD /t/app/echo HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(answer.field("content-length").and_then(|v| v.parse::<usize>().ok()).is_some_and(|n| n > 50));
    client.send("HEAD /t/app/nope HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 404);
    client.was_head = false;
    client.send("GET /t/app/echo HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.answer().text().contains("Fn-Http-Method: GET"));
}

#[test]
fn head_of_a_long_answer() {
    let bench = long("f", None, &["abc"], true).start();
    let mut client = bench.connect();
    client.was_head = true;
    client.send("HEAD /t/app/f HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.was_head = false;
    client.send("GET /t/app/f HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().text(), "abc");
}

const TEAPOT: &[(&str, &str)] = &[
    ("Fn-Http-Status", "418"),
    ("Fn-Http-H-X-A", "1"),
    ("Fn-Http-H-X-A", "2"),
    ("Fn-Http-H-Set-Cookie", "a=1"),
    ("Fn-Http-H-Set-Cookie", "b=2"),
    ("Fn-Http-H-Location", "/x"),
    ("X-Plain", "drop"),
    ("Content-Type", "application/x-foo"),
    ("Fn-Http-H-Content-Length", "99"),
    ("Fn-Http-H-Connection", "close"),
    ("Fn-Http-H-Fn-Call-Id", "forged"),
    ("Fn-Http-H-Date", "then"),
];

#[test]
fn a_trigger_answer_is_translated() {
    let bench = Setup::new().answers("tea", TEAPOT, "hi").start();
    let answer = bench.ask("GET /t/app/tea HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.status, answer.text()), (418, "hi"));
    assert_eq!(
        (answer.count("x-a"), answer.count("set-cookie"), answer.count("fn-call-id"), answer.count("date"), answer.count("connection")),
        (2, 2, 1, 1, 0)
    );
    assert_eq!(
        (answer.field("location"), answer.field("content-type"), answer.field("x-plain"), answer.field("date")),
        (Some("/x"), Some("application/x-foo"), None, Some("then"))
    );
    assert_ne!(answer.field("fn-call-id"), Some("forged"));
    // The same function called directly: an ordinary 200 with ordinary fields.
    let answer = bench.ask(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("tea")));
    assert_eq!((answer.status, answer.field("fn-http-status"), answer.field("x-plain")), (200, Some("418"), Some("drop")));
}

#[test]
fn trigger_statuses() {
    let bench = Setup::new()
        .answers("abc", &[("Fn-Http-Status", "abc")], "x")
        .answers("zero", &[("Fn-Http-Status", "0")], "x")
        .answers("s99", &[("Fn-Http-Status", "99")], "x")
        .answers("s101", &[("Fn-Http-Status", "101")], "x")
        .answers("s999", &[("Fn-Http-Status", "999")], "x")
        .answers("s599", &[("Fn-Http-Status", "599")], "x")
        .start();
    let mut client = bench.connect();
    for (name, status) in [("abc", 200), ("zero", 200), ("s99", 502), ("s101", 502), ("s999", 502), ("s599", 599)] {
        client.send(format!("GET /t/app/{name} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.count("fn-call-id")), (status, 1), "{name}");
        if status == 502 {
            assert!(answer.message().starts_with("invalid function response"), "{name}");
        }
    }
}

#[test]
fn a_long_trigger_answer_with_a_bad_status_is_one_502() {
    let bench = Setup::new()
        .function("f", |_, caller, _| {
            let fields: &[(&str, &[u8])] = &[("Fn-Http-Status", b"700")];
            caller.begin(&AnswerHead { fields }, None).map_err(|_| CallError::ClientGone)?;
            caller.data(b"abc").map_err(|_| CallError::ClientGone)?;
            caller.end().map_err(|_| CallError::ClientGone)
        })
        .start();
    let mut client = bench.connect();
    for _ in 0..2 {
        client.send("GET /t/app/f HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.answer().status, 502);
    }
}

#[test]
fn statuses_without_a_body_have_none() {
    let bench = Setup::new().answers("none", &[("Fn-Http-Status", "204")], "dropped").answers("same", &[("Fn-Http-Status", "304")], "dropped").start();
    let mut client = bench.connect();
    for (name, status) in [("none", 204), ("same", 304), ("none", 204)] {
        client.send(format!("GET /t/app/{name} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("content-length"), answer.field("transfer-encoding")), (status, None, None));
    }
}

/// The real store behind the look-ups: one change is seen by the next call.
#[test]
fn the_store_is_the_directory() {
    use crate::edge::{Directory, Miss};
    use crate::model::{AppInput, FnInput, TriggerInput};
    use crate::store::Store;
    let folder = std::env::temp_dir().join(format!("hob-edge-store-{}", crate::model::Id::new()));
    let store = Store::open(&folder.join("fn.db")).expect("opens");
    assert_eq!(store.trigger("a", "/x").expect_err("nothing yet"), Miss::App);
    let app = store.create_app(AppInput { name: "a".to_owned(), ..AppInput::default() }).expect("an app");
    assert_eq!(store.trigger("a", "/x").expect_err("no trigger yet"), Miss::Trigger);
    let target = store.create_fn(FnInput { name: "f".to_owned(), app_id: app.id.to_string(), image: "i".to_owned(), ..FnInput::default() }).expect("a fn");
    let input = TriggerInput {
        name: "t".to_owned(),
        app_id: app.id.to_string(),
        fn_id: target.function.id.to_string(),
        kind: "http".to_owned(),
        source: "/x".to_owned(),
        ..TriggerInput::default()
    };
    store.create_trigger(input).expect("a trigger");
    assert_eq!(store.trigger("a", "/x").expect("there").spec.fn_id, target.function.id);
    assert_eq!(store.function(&target.function.id).expect("there").fn_id, target.function.id);
    store.delete_fn(target.function.id.as_str()).expect("deleted");
    assert_eq!(store.function(&target.function.id).expect_err("gone"), Miss::Function);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_detached_call_is_answered_once_it_is_kept() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.send(bench.post("Fn-Invoke-Type: detached\r\nHob-Priority: 2\r\nHob-Delay-Secs: 9\r\nIdempotency-Key: k\r\nX-A: b\r\nContent-Length: 2\r\n", "{}"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text(), answer.field("content-length"), answer.count("fn-call-id")), (202, "", Some("0"), 1));
    // The connection goes on, and nothing ran.
    client.send(bench.post("Content-Length: 1\r\n", "x"));
    assert_eq!(client.answer().status, 200);
    let kept = bench.stand.detached.lock();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].0.contains("X-A: b\r\n"), "{}", kept[0].0);
    assert_eq!(kept[0].1, crate::call::Detached { priority: 2, delay: Duration::from_secs(9), key: Some("k".to_owned()), callback: None });
}

#[test]
fn a_detached_call_that_is_not_kept_is_told_so() {
    let bench = Bench::new();
    let ask = |fields: &str| bench.ask(bench.post(&format!("Fn-Invoke-Type: detached\r\n{fields}Content-Length: 0\r\n"), ""));
    for bad in [
        "Hob-Priority: 3\r\n",
        "Hob-Priority: -1\r\n",
        "Hob-Delay-Secs: soon\r\n",
        "Hob-Delay-Secs: 604801\r\n",
        "Hob-Delay-Secs: +5\r\n",
        "Hob-Delay-Secs: 1\r\nHob-Delay-Secs: 1\r\n",
        "Hob-Priority: 1\r\nhob-priority: 2\r\n",
        "Hob-Callback: http://a/\r\nHob-Callback: http://b/\r\n",
        "Idempotency-Key: \r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
    ] {
        assert_eq!(ask(bad).status, 400, "{bad}");
    }
    let full = ask("Idempotency-Key: full\r\n");
    assert_eq!((full.status, full.field("retry-after")), (503, Some("30")));
    assert!(full.text().contains("HOB_DETACHED_MAX_QUEUED") && full.field("fn-call-id").is_none(), "{}", full.text());
    let slow = ask("Idempotency-Key: slow\r\n");
    assert!(slow.status == 503 && slow.text().contains("not known whether") && slow.field("fn-call-id").is_some(), "{}", slow.text());
    assert!(bench.stand.detached.lock().is_empty());
}
