//! The client against small servers, each named by its misbehaviour.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::pool::{Thread, spawn};

/// A server in a folder of its own; `serve` runs once per connection.
struct Server {
    path: PathBuf,
    _thread: Thread,
}

static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

fn socket_path() -> PathBuf {
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    std::env::temp_dir().join(format!("hob-client-{}-{n}.sock", std::process::id()))
}

fn server(connections: usize, mut serve: impl FnMut(usize, UnixStream) + Send + 'static) -> Server {
    let path = socket_path();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("bind");
    let thread = spawn("test-server", move || {
        for n in 0..connections {
            let (stream, _) = listener.accept().expect("accept");
            serve(n, stream);
        }
    })
    .expect("thread");
    Server { path, _thread: thread }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Unaccepted connections: let the thread end.
        while !self._thread.is_finished() {
            let _ = UnixStream::connect(&self.path);
            std::thread::yield_now();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads one request head and the body its Content-Length announces.
fn read_request(stream: &mut UnixStream) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0u8];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).expect("ascii");
    let len = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().expect("number"));
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

fn get<'a>(target: &'a str) -> Request<'a> {
    Request {
        method: "GET",
        target,
        fields: &[],
        body: RequestBody::Empty,
        connect_within: Duration::from_secs(60),
        head_within: Duration::from_secs(60),
        idle_within: Some(Duration::from_secs(60)),
    }
}

/// One answer, then the connection is closed.
fn answers(text: &'static [u8]) -> Server {
    server(1, move |_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(text);
    })
}

fn fetch(server: &Server) -> Result<(u16, Vec<u8>), ClientError> {
    let response = Client::new(&server.path, 4).send(&mut get("/x"))?;
    let status = response.status;
    Ok((status, response.bytes(1000)?))
}

#[test]
fn bodies_of_every_framing() {
    let cases: &[(&[u8], u16, &[u8])] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n", 200, b"hello"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nraw", 101, b"raw"),
    ];
    for (text, status, body) in cases {
        let server = answers(text);
        let got = fetch(&server).unwrap_or_else(|e| panic!("{}: {e}", text.escape_ascii()));
        assert_eq!(got, (*status, body.to_vec()), "{}", text.escape_ascii());
    }
}

#[test]
fn lies_and_garbage_are_errors() {
    let check = |text: &'static [u8], wanted: fn(&ClientError) -> bool| {
        let error = fetch(&answers(text)).expect_err("must fail");
        assert!(wanted(&error), "{}: {error:?}", text.escape_ascii());
    };
    check(b"", |e| matches!(e, ClientError::Closed { phase: Phase::Head }));
    check(b"HTTP/1.1 200 OK\r\nConte", |e| matches!(e, ClientError::Malformed { .. }));
    check(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", |e| matches!(e, ClientError::Closed { phase: Phase::Body }));
    check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", |e| matches!(e, ClientError::Closed { phase: Phase::Body }));
    check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", |e| matches!(e, ClientError::Closed { phase: Phase::Body }));
    check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", |e| matches!(e, ClientError::Chunks { .. }));
    check(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", |e| matches!(e, ClientError::Head { .. }));
    check(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", |e| matches!(e, ClientError::Head { .. }));
    check(b"hello, this is no HTTP at all\r\n\r\n", |e| matches!(e, ClientError::Head { .. }));
    check(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", |e| matches!(e, ClientError::TooLarge { limit: 1000 }));
    check(&[b'x'; 2000], |e| matches!(e, ClientError::Head { .. }));
    static MANY: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| b"HTTP/1.1 100 Continue\r\n\r\n".repeat(17));
    check(&MANY, |e| matches!(e, ClientError::Malformed { .. }));
    static LONG: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'x'; MAX_HEAD]].concat());
    check(&LONG, |e| matches!(e, ClientError::Head { source: http1::HeadError::TooLarge { .. } }));
    static BIG: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 5000]].concat());
    check(&BIG, |e| matches!(e, ClientError::TooLarge { limit: 1000 }));
}

#[test]
fn silence_and_drip_meet_their_deadlines() {
    let (hold, release) = UnixStream::pair().expect("pair");
    let silent = server(1, move |_, mut stream| {
        read_request(&mut stream);
        let _ = (&hold).read(&mut [0]);
    });
    let client = Client::new(&silent.path, 4);
    let begun = Instant::now();
    let error = client.send(&mut Request { head_within: Duration::from_millis(50), ..get("/") }).expect_err("nobody answers");
    assert!(matches!(error, ClientError::Timeout { phase: Phase::Head, .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    drop(release);

    // A head that drips for ever must not move the head's deadline.
    let drip = server(1, |_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nA: ");
        let tick = std::sync::Arc::new(crate::pool::Stop::new().expect("eventfd"));
        while stream.write_all(b"x").is_ok() {
            pause(Some(&tick), Duration::from_millis(5));
        }
    });
    let error = Client::new(&drip.path, 4).send(&mut Request { head_within: Duration::from_millis(60), ..get("/") }).expect_err("drip");
    assert!(matches!(error, ClientError::Timeout { phase: Phase::Head, .. }), "{error:?}");

    let (hold, release) = UnixStream::pair().expect("pair");
    let half = server(1, move |_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        let _ = (&hold).read(&mut [0]);
    });
    let response = Client::new(&half.path, 4).send(&mut Request { idle_within: Some(Duration::from_millis(50)), ..get("/") }).expect("head");
    let error = response.bytes(100).expect_err("silent body");
    assert!(matches!(error, ClientError::Timeout { phase: Phase::Body, .. }), "{error:?}");
    drop(release);
}

#[test]
fn a_connection_is_kept_and_checked() {
    // The first connection serves two requests, then closes; the third request
    // must find that out and use a second connection.
    let server = server(2, |n, mut stream| {
        for _ in 0..if n == 0 { 2 } else { 1 } {
            let request = read_request(&mut stream).expect("request");
            assert!(request.starts_with("POST /p HTTP/1.1\r\nHost: localhost\r\nA: b\r\nContent-Length: 2\r\n\r\nhi"), "{request}");
            stream.write_all(format!("HTTP/1.1 200 OK\r\nX-Connection: {n}\r\nContent-Length: 2\r\n\r\nok").as_bytes()).expect("write");
        }
    });
    let client = Client::new(&server.path, 4);
    for wanted in ["0", "0", "1"] {
        let mut request = Request { method: "POST", fields: &[("A", "b")], body: RequestBody::Bytes(b"hi"), ..get("/p") };
        let response = client.send(&mut request).expect("response");
        assert_eq!(response.field("x-connection"), Some(wanted));
        assert_eq!(response.content_length(), Some(2));
        assert_eq!(response.bytes(10).expect("body"), b"ok");
    }
}

#[test]
fn a_kept_connection_that_dies_under_the_request_is_replaced_once() {
    // Takes the second request on the kept connection and closes without a word.
    let server = server(2, |n, mut stream| {
        read_request(&mut stream).expect("request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n").expect("write");
        stream.write_all(if n == 0 { b"a" } else { b"b" }).expect("write");
        if n == 0 {
            read_request(&mut stream).expect("request");
        }
    });
    let client = Client::new(&server.path, 4);
    let fetch = || client.send(&mut get("/")).and_then(|r| r.bytes(10));
    assert_eq!(fetch().expect("first"), b"a");
    assert_eq!(fetch().expect("second, on a new connection"), b"b");
}

#[test]
fn unasked_bytes_retire_a_connection() {
    let server = server(2, |n, mut stream| {
        read_request(&mut stream).expect("request");
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n".to_owned() + &n.to_string();
        stream.write_all((text.clone() + if n == 0 { &text } else { "" }).as_bytes()).expect("write");
    });
    let client = Client::new(&server.path, 4);
    for wanted in [b"0", b"1"] {
        assert_eq!(client.send(&mut get("/")).and_then(|r| r.bytes(10)).expect("answer"), wanted);
    }
}

#[test]
fn a_reader_body_is_sent_in_chunks_or_by_length() {
    let serve = |_, mut stream: UnixStream| {
        let mut text = Vec::new();
        let mut piece = [0; 1000];
        while !text.ends_with(b"0\r\n\r\n") && !text.ends_with(b"END") {
            let n = stream.read(&mut piece).expect("read");
            text.extend_from_slice(&piece[..n]);
        }
        let len = text.len();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n").as_bytes()).expect("write");
        stream.write_all(&text).expect("write");
    };
    let server = server(2, serve);
    let client = Client::new(&server.path, 0);
    let body = [vec![b'x'; 100_000], b"END".to_vec()].concat();
    let mut reader = body.as_slice();
    let echo = client
        .send(&mut Request { method: "PUT", body: RequestBody::Reader { reader: &mut reader, len: None }, ..get("/") })
        .and_then(|r| r.bytes(1 << 20))
        .expect("echo");
    assert!(echo.starts_with(b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\nxxx"));
    let mut reader = body.as_slice();
    let echo = client
        .send(&mut Request { method: "PUT", body: RequestBody::Reader { reader: &mut reader, len: Some(100_003) }, ..get("/") })
        .and_then(|r| r.bytes(1 << 20))
        .expect("echo");
    assert!(echo.starts_with(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100003\r\n\r\nxxx") && echo.ends_with(&body));
}

#[test]
fn an_early_answer_to_a_big_body_counts() {
    let server = server(1, |_, mut stream| {
        let _ = stream.read(&mut [0; 100]);
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").expect("write");
        // Leaves the rest of the body unread until the client closes.
        let mut rest = Vec::new();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut rest);
    });
    let body = vec![0; 8 << 20];
    let response = Client::new(&server.path, 4).send(&mut Request { method: "POST", body: RequestBody::Bytes(&body), ..get("/") }).expect("answer");
    assert_eq!(response.status, 413);
    assert_eq!(response.bytes(10).expect("body"), b"no");
}

#[test]
fn an_interrupter_wakes_a_blocked_reader() {
    let (hold, release) = UnixStream::pair().expect("pair");
    let server = server(1, move |_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nevent");
        let _ = (&hold).read(&mut [0]);
    });
    let response = Client::new(&server.path, 4).send(&mut Request { idle_within: None, ..get("/events") }).expect("head");
    let interrupter = response.interrupter();
    let mut reader = response.reader();
    let mut event = [0; 5];
    reader.read_exact(&mut event).expect("event");
    let other = interrupter.clone();
    let thread = spawn("test-interrupt", move || other.interrupt()).expect("thread");
    assert_eq!(reader.read(&mut event).expect_err("interrupted").kind(), std::io::ErrorKind::ConnectionAborted);
    thread.join();
    drop(reader);
    interrupter.interrupt();
    drop(release);
}

#[test]
fn nobody_there() {
    let path = socket_path();
    let client = Client::new(&path, 4);
    let error = client.send(&mut get("/")).expect_err("no socket");
    assert!(error.is_away(), "{error:?}");
    drop(UnixListener::bind(&path).expect("bind"));
    let error = client.send(&mut get("/")).expect_err("refused");
    assert!(error.is_away(), "{error:?}");
    let _ = std::fs::remove_file(&path);
    for (method, target, field) in [("GET", "/a b", ("A", "b")), ("G T", "/", ("A", "b")), ("GET", "/", ("A", "b\r\nC: d")), ("GET", "/", ("A b", "c"))] {
        let fields = &[field];
        assert!(matches!(client.send(&mut Request { method, fields, ..get(target) }), Err(ClientError::Malformed { .. })));
    }
}
