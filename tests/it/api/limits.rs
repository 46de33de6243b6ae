//! Sizes and the token, as they meet the management API.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{Api, check};

/// §2.1, §3.4: too large a body is a 413, announced or in chunks.
#[test]
fn bodies_have_a_limit() {
    let Some(api) = Api::start(&[("FN_MAX_REQUEST_SIZE", "1000")]) else { return };
    let frame = r#"{"name":"a","config":{"k":""}}"#;
    let body = |len: usize| frame.replace(r#""""#, &format!(r#""{}""#, "v".repeat(len - frame.len())));
    let exact = body(1000);
    assert_eq!(exact.len(), 1000);
    let over = "!Content-Length too large for this server, 1001 > max 1000";
    check(&api, &[("§11.54 1001 bytes", "POST", "/v2/apps", &body(1001), 413, over), ("§11.54 1000 bytes", "POST", "/v2/apps", &exact, 200, r#"~"name":"a""#)]);
    let mut stream = TcpStream::connect(api.server.address).expect("connected");
    write!(stream, "POST /v2/apps HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5dc\r\n{}\r\n0\r\n\r\n", " ".repeat(1500)).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and its end");
    assert!(answer.starts_with("HTTP/1.1 413 "), "§11.54 {answer}");
    let mut stream = TcpStream::connect(api.server.address).expect("connected");
    write!(stream, "POST /v2/apps HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{{\"name\":\r\n4\r\n\"c\"}}\r\n0\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and its end");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""name":"c""#), "§1.3 chunks are a body like any other: {answer}");
    api.stop();
}

/// The token guards management, not calls and not what tells that the server lives.
#[test]
fn the_token() {
    let Some(api) = Api::start(&[("HOB_API_TOKEN", "s3cret")]) else { return };
    for target in ["/v2/apps", "/version", "/metrics", "/openapi.yaml", "/debug/state", "/nope"] {
        let got = api.ask("GET", target, "");
        assert_eq!((got.status, got.json()["message"].is_string()), (401, true), "{target}");
        let got = api.ask_with("GET", target, &[("Authorization", "Bearer wrong")], "");
        assert_eq!(got.status, 401, "{target}");
        let got = api.ask_with("GET", target, &[("Authorization", "Bearer s3cret")], "");
        assert_eq!(got.status, if target == "/nope" { 404 } else { 200 }, "{target}");
    }
    for (method, target, status) in [("GET", "/", 200), ("GET", "/ping", 200), ("POST", "/invoke/x", 404), ("GET", "/t/x/y", 404)] {
        assert_eq!(api.ask(method, target, "").status, status, "{method} {target}");
    }
    api.stop();
}
