//! Management requests: to the API's socket and back.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::{Bench, Setup};
use crate::http1::{BodyFraming, parse_request, request_framing};
use crate::model::Id;
use crate::pool::{Thread, spawn};

/// A front end that answers each connection's requests with `answer` and
/// tells what it got.
struct Api {
    socket: PathBuf,
    requests: crossbeam_channel::Receiver<String>,
    _thread: Thread,
}

impl Api {
    fn answering(count: usize, answer: &'static [u8]) -> Api {
        let socket = std::env::temp_dir().join(format!("hob-api-{}.sock", Id::new()));
        let listener = UnixListener::bind(&socket).expect("binds");
        let (tell, requests) = crossbeam_channel::bounded(64);
        let thread = spawn("test-api", move || {
            let mut left = count;
            while left > 0 {
                let (mut stream, _) = listener.accept().expect("accepts");
                while left > 0 {
                    let Some(request) = read(&mut stream) else { break };
                    tell.send(request).expect("the test listens");
                    left -= 1;
                    if answer.is_empty() {
                        break;
                    }
                    stream.write_all(answer).expect("answers");
                }
            }
        })
        .expect("a thread");
        Api { socket, requests, _thread: thread }
    }

    fn next(&self) -> String {
        self.requests.recv_timeout(std::time::Duration::from_secs(120)).expect("a request")
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn read(stream: &mut std::os::unix::net::UnixStream) -> Option<String> {
    let mut buf = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(head) = parse_request(&buf, 1 << 20).expect("a clean request") {
            let need = match request_framing(&head).expect("clean framing") {
                BodyFraming::Length(n) => usize::try_from(n).expect("small"),
                _ => 0,
            };
            if buf.len() >= head.len + need {
                return Some(String::from_utf8(buf).expect("UTF-8"));
            }
        }
        let n = stream.read(&mut piece).ok()?;
        if n == 0 {
            return None;
        }
        buf.extend_from_slice(&piece[..n]);
    }
}

const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: tiny-http\r\nDate: then\r\nContent-Type: application/json; charset=utf-8\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n{}";

fn bench(api: &Api) -> Bench {
    Setup::new().api(&api.socket).start()
}

#[test]
fn a_management_request_arrives_clean_and_is_answered() {
    let api = Api::answering(1, OK);
    let bench = bench(&api);
    let answer = bench.ask("POST /v2/apps?x=%20 HTTP/1.1\r\nHost: h:1\r\nX-Mine: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n3\r\na\"}\r\n0\r\n\r\n");
    assert_eq!((answer.status, answer.text()), (200, "{}"));
    assert_eq!((answer.count("server"), answer.count("date"), answer.field("x-a"), answer.field("fn-call-id")), (1, 1, Some("1"), None));
    assert_ne!(answer.field("date"), Some("then"));
    let request = api.next();
    assert!(request.starts_with("POST /v2/apps?x=%20 HTTP/1.1\r\n"), "{request}");
    for line in ["Host: h:1\r\n", "X-Mine: 1\r\n", "Content-Length: 5\r\n", "\r\n\r\n{\"a\"}"] {
        assert!(request.contains(line), "{line} in {request}");
    }
    for name in ["X-Hop", "Expect", "Transfer-Encoding", "TE:", "Connection: x"] {
        assert!(!request.contains(name), "{name} in {request}");
    }
    assert_eq!(bench.calls(), 0);
}

#[test]
fn the_connection_lives_on_and_mixes_with_calls() {
    let api = Api::answering(3, OK);
    let bench = bench(&api);
    let mut client = bench.connect();
    for _ in 0..3 {
        client.send("GET /v2/apps HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.answer().text(), "{}");
        client.send(bench.post("Content-Length: 1\r\n", "x"));
        assert_eq!(client.answer().text(), "\r\nx");
    }
}

#[test]
fn chunked_large_and_empty_answers() {
    let api = Api::answering(1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let answer = bench(&api).ask("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.text(), answer.framing), ("abc", BodyFraming::Length(3)));

    let api = Api::answering(1, b"HTTP/1.1 204 No Content\r\n\r\n");
    let bench_ = bench(&api);
    let mut client = bench_.connect();
    client.send("DELETE /v2/apps/x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 204);
    assert!(!api.next().contains("Content-Length"));

    let mut large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 3 << 20).into_bytes();
    large.resize(large.len() + (3 << 20), b'y');
    let api = Api::answering(1, large.leak());
    let answer = bench(&api).ask("GET /v2/apps HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.body.len(), 3 << 20);
}

#[test]
fn a_large_body_reaches_the_api_whole() {
    let api = Api::answering(1, OK);
    let bench = bench(&api);
    let body = "q".repeat(700_000);
    assert_eq!(bench.ask(format!("PUT /v2/fns/x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())).status, 200);
    assert!(api.next().ends_with(&body));
}

#[test]
fn an_absent_or_broken_api_is_a_502() {
    let bench_ = Bench::new();
    let mut client = bench_.connect();
    for _ in 0..2 {
        client.send("GET /v2/apps HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.message().as_str(), answer.field("fn-call-id")), (502, "the management API does not answer", None));
    }
    for broken in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"nonsense\r\n\r\n"] {
        let api = Api::answering(1, broken);
        assert_eq!(bench(&api).ask("POST /v2/apps HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}").status, 502);
    }
}

#[test]
fn management_needs_the_token_and_calls_do_not() {
    let api = Api::answering(3, OK);
    let bench = Setup::new().api(&api.socket).set("HOB_API_TOKEN", "s3cret").start();
    let mut client = bench.connect();
    for lines in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic s3cret\r\n"] {
        client.send(format!("GET /v2/apps HTTP/1.1\r\nHost: h\r\n{lines}\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("www-authenticate")), (401, Some("Bearer realm=\"hob\"")));
        assert!(answer.message().contains("HOB_API_TOKEN"));
    }
    client.send("GET /v2/apps HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer s3cret\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert!(!api.next().contains("s3cret"), "the token stays here");
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send("GET /?x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send(bench.post("Content-Length: 0\r\n", ""));
    assert_eq!(client.answer().status, 200);
    client.send("GET /t/app/echo HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn at_most_four_requests_are_at_the_api() {
    let socket = std::env::temp_dir().join(format!("hob-api-{}.sock", Id::new()));
    let listener = UnixListener::bind(&socket).expect("binds");
    let bench = Setup::new().api(&socket).start();
    let mut clients: Vec<_> = (0..10).map(|_| bench.connect()).collect();
    for client in &mut clients {
        client.send("GET /v2/apps HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    let mut streams: Vec<_> = (0..4).map(|_| listener.accept().expect("accepts").0).collect();
    listener.set_nonblocking(true).expect("non-blocking");
    super::until("ten are served", || bench.threads() == 10);
    assert!(listener.accept().is_err(), "the fifth waits for its turn");
    let mut answered = 0;
    while answered < 10 {
        for stream in &mut streams {
            stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).expect("time-out");
            if read(stream).is_some() {
                stream.write_all(OK).expect("answers");
                answered += 1;
            }
        }
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let _ = std::fs::remove_file(&socket);
}
