//! Clients that do not wait for their answer.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Server, http, wait_until};

#[test]
fn a_client_that_leaves_a_running_call_ends_it() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 300}));
    let first = server.good_call(&echo, &[], b"");
    let stream = server.begin_call(&echo, &[("X-Sleep-Ms", "1000000")]);
    server.await_queue(&echo, "busy", 1);
    drop(stream);
    // Longer than anybody waits for that, it would have run by itself.
    server.await_queue(&echo, "busy", 0);
    let next = server.good_call(&echo, &[], b"mine");
    assert_eq!(next.text(), "mine");
    assert_ne!(next.field("X-Instance"), first.field("X-Instance"), "the container of the given-up call is gone");
    server.stop();
}

#[test]
fn a_client_that_leaves_the_line_gives_its_place_up() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let running = server.hold(&echo);
    let gone = server.begin_call(&echo, &[]);
    server.await_queue(&echo, "waiting", 1);
    let mut stays = server.begin_call(&echo, &[]);
    server.await_queue(&echo, "waiting", 2);
    drop(gone);
    wait_until("the place given up", || (server.queue(&echo, "waiting") == 1).then_some(()));
    assert_eq!(running.release().field("X-Count"), Some("2"));
    assert_eq!(http::finish(&mut stays).expect("an answer").field("X-Count"), Some("3"), "the call given up was never made");
    server.stop();
}

#[test]
fn a_connection_serves_call_after_call() {
    use std::io::{Read, Write};
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let mut stream = std::net::TcpStream::connect(server.address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
    let mut seen = String::new();
    for n in 0..20 {
        write!(stream, "POST /invoke/{echo} HTTP/1.1\r\nHost: t\r\nContent-Length: 7\r\n\r\ncall {n:02}").expect("sent");
        let body = format!("\r\n\r\ncall {n:02}");
        seen.clear();
        while !seen.ends_with(&body) {
            let mut buffer = [0u8; 4096];
            let read = stream.read(&mut buffer).expect("an answer");
            assert!(read > 0, "closed after {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
    }
    drop(stream);
    server.stop();
}

/// Whatever comes in: an error for it, and the next caller is served.
#[test]
fn nonsense_is_refused_and_costs_nothing() {
    use std::io::{Read, Write};
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let invoke = format!("POST /invoke/{echo} HTTP/1.1\r\nHost: t\r\n");
    let cases = [
        "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        format!("{invoke}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        format!("{invoke}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{invoke}Content-Length: -1\r\n\r\n"),
        format!("{invoke}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        format!("{invoke} folded: 1\r\n\r\n"),
        "POST /v2/apps HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000000000000\r\n\r\n".to_owned(),
    ];
    for case in &cases {
        let mut stream = std::net::TcpStream::connect(server.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("time-out");
        stream.write_all(case.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_else(|e| panic!("{case:?}: {e}"));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4"), "{case:?}: {answer}");
    }
    assert!(server.containers().is_empty(), "no container was started for them");
    assert_eq!(server.good_call(&echo, &[], b"fine").text(), "fine");
    server.stop();
}
