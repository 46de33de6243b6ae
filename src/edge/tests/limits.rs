//! Sizes and times.

use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::{Bench, Setup, bytes, until};
use crate::call::{AnswerHead, Body, CallError};

#[test]
fn heads_have_limits() {
    let bench = Bench::new();
    let path = bench.path("echo");
    let large = "v".repeat(70_000);
    let many: String = (0..129).map(|i| format!("X-{i}: 1\r\n")).collect();
    for (head, status) in [
        (format!("POST {path} HTTP/1.1\r\nHost: h\r\nX: {large}\r\n\r\n"), 431),
        (format!("POST {path} HTTP/1.1\r\nHost: h\r\nX: {large}"), 431),
        (format!("POST {path} HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 431),
        (format!("POST {path}?{large} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
    ] {
        let mut client = bench.connect();
        client.send_maybe(&head);
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (status, Some("close")), "{}", &head[..80]);
        if status == 431 {
            assert_eq!((answer.text(), answer.field("content-type")), ("431 Request Header Fields Too Large", Some("text/plain; charset=utf-8")));
        }
        client.finish();
        client.assert_closed();
    }
    let fits = "v".repeat(65_000);
    let answer = bench.ask(bench.post(&format!("X: {fits}\r\nContent-Length: 0\r\n"), ""));
    assert!(answer.status == 200 && answer.body.len() > 65_000);
    let many: String = (0..126).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(bench.ask(bench.post(&format!("{many}Content-Length: 0\r\n"), "")).status, 200);
}

#[test]
fn bodies_have_a_limit_in_both_framings() {
    let bench = Setup::new().set("FN_MAX_REQUEST_SIZE", "1000").start();
    let body = "b".repeat(1000);
    let chunked = |len: usize| format!("{:x}\r\n{}\r\n0\r\n\r\n", len, "b".repeat(len));
    let mut client = bench.connect();
    for _ in 0..2 {
        client.send(bench.post("Content-Length: 1000\r\n", &body));
        assert_eq!(client.answer().status, 200);
        client.send(bench.post("Transfer-Encoding: chunked\r\n", &chunked(1000)));
        assert_eq!(client.answer().status, 200);
    }
    for (lines, body) in [
        ("Content-Length: 1001\r\n", "b".repeat(1001)),
        ("Content-Length: 1001\r\n", String::new()),
        ("Transfer-Encoding: chunked\r\n", chunked(1001)),
        ("Transfer-Encoding: chunked\r\n", format!("3e8\r\n{body}\r\n1\r\nb")),
    ] {
        let mut client = bench.connect();
        client.send(bench.post(lines, &body));
        let answer = client.answer();
        assert_eq!((answer.status, answer.message()), (413, "Content-Length too large for this server, 1001 > max 1000".to_owned()));
        assert_eq!((answer.field("fn-call-id"), answer.field("connection")), (None, Some("close")));
        client.finish();
        client.assert_closed();
    }
    assert_eq!(bench.calls(), 4);
}

/// What is too much of a detached call is not read first, nor asked for.
#[test]
fn bodies_of_detached_calls_have_a_limit_of_their_own() {
    let bench = Setup::new().set("FN_MAX_REQUEST_SIZE", "2000").set("HOB_DETACHED_MAX_BODY", "1000").start();
    let detached = "Fn-Invoke-Type: detached\r\n";
    let chunked = |len: usize| format!("{:x}\r\n{}\r\n0\r\n\r\n", len, "b".repeat(len));
    for (lines, body, status) in [
        (format!("{detached}Content-Length: 1000\r\n"), "b".repeat(1000), 202),
        (format!("{detached}Transfer-Encoding: chunked\r\n"), chunked(1000), 202),
        ("Content-Length: 1001\r\n".to_owned(), "b".repeat(1001), 200),
        (format!("{detached}Content-Length: 1001\r\n"), String::new(), 413),
        (format!("{detached}Expect: 100-continue\r\nContent-Length: 1001\r\n"), String::new(), 413),
        (format!("{detached}Transfer-Encoding: chunked\r\n"), format!("3e9\r\n{}", "b".repeat(1001)), 413),
    ] {
        let mut client = bench.connect();
        client.send(bench.post(&lines, &body));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{lines}");
        if status == 413 {
            assert_eq!(answer.message(), "Content-Length too large for this server, 1001 > max 1000 of a detached call (HOB_DETACHED_MAX_BODY)");
            client.finish();
            client.assert_closed();
        }
    }
    assert_eq!((bench.calls(), bench.stand.detached.lock().len()), (1, 2));
    // The tighter one of the two tells.
    let bench = Setup::new().set("FN_MAX_REQUEST_SIZE", "10").set("HOB_DETACHED_MAX_BODY", "1000").start();
    let answer = bench.ask(bench.post(&format!("{detached}Content-Length: 11\r\n"), ""));
    assert_eq!((answer.status, answer.message().as_str()), (413, "Content-Length too large for this server, 11 > max 10"));
}

#[test]
fn a_client_that_sends_on_after_413_still_reads_it() {
    let bench = Setup::new().set("FN_MAX_REQUEST_SIZE", "1000").start();
    let mut client = bench.connect();
    client.send(bench.post("Content-Length: 200000\r\n", ""));
    client.send_maybe("b".repeat(200_000));
    assert_eq!(client.answer().status, 413);
}

#[test]
fn a_huge_announced_length_costs_nothing() {
    for limit in ["0", "6291456"] {
        let bench = Setup::new().set("FN_MAX_REQUEST_SIZE", limit).start();
        for len in ["1000000000000000", "9223372036854775807", "18446744073709551615"] {
            let mut client = bench.connect();
            client.send(bench.post(&format!("Content-Length: {len}\r\n"), "some"));
            client.finish();
            if limit == "0" {
                client.assert_closed();
            } else {
                assert_eq!(client.answer().status, 413);
            }
        }
        let mut client = bench.connect();
        client.send(bench.post("Transfer-Encoding: chunked\r\n", "FFFFFFFFFFFFFFFF\r\nabc"));
        client.finish();
        client.assert_closed();
        assert_eq!(bench.calls(), 0);
        assert_eq!(bench.ask(bench.post("Content-Length: 0\r\n", "")).status, 200);
    }
}

#[test]
fn bodies_go_to_memory_then_to_a_file() {
    let bench = Setup::new()
        .function("sum", |call, caller, _| {
            let kind = if matches!(call.body, Body::Memory(_)) { "memory" } else { "file" };
            let all = bytes(&call.body);
            let right = all.iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251);
            caller.whole(&AnswerHead { fields: &[] }, format!("{kind} {} {right}", all.len()).as_bytes()).map_err(|_| CallError::ClientGone)
        })
        .start();
    let path = bench.path("sum");
    let mut client = bench.connect();
    for len in [1usize, 16 << 10, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 512 << 10, 1_000_003, 5 << 20] {
        let body: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let want = format!("{} {len} true", if len <= 256 << 10 { "memory" } else { "file" });
        // The body arrives together with the head, and the next head with it.
        let mut sent = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n").into_bytes();
        sent.extend_from_slice(&body);
        sent.extend_from_slice(format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes());
        for piece in body.chunks(100_000) {
            sent.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            sent.extend_from_slice(piece);
            sent.extend_from_slice(b"\r\n");
        }
        sent.extend_from_slice(b"0\r\n\r\n");
        client.send(sent);
        assert_eq!(client.answer().text(), want, "by length");
        assert_eq!(client.answer().text(), want, "in chunks");
    }
}

#[test]
fn continue_is_sent_when_the_body_is_wanted_and_not_there() {
    let bench = Bench::new();
    let mut client = bench.connect();
    for lines in ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"] {
        client.send(bench.post(&format!("Expect: 100-Continue\r\n{lines}"), ""));
        assert_eq!(client.answer().status, 100);
        client.send(if lines.starts_with('C') { "abc" } else { "3\r\nabc\r\n0\r\n\r\n" });
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "\r\nabc"));
    }
    // The body is there already, or there is none.
    client.send(bench.post("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"));
    assert_eq!(client.answer().status, 200);
    client.send(bench.post("Expect: 100-continue\r\nContent-Length: 0\r\n", ""));
    assert_eq!(client.answer().status, 200);
    client.send(bench.post("Expect: 100-continue\r\n", ""));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn no_continue_for_what_is_refused() {
    let bench = Setup::new().set("FN_MAX_REQUEST_SIZE", "10").start();
    for (head, status) in [
        (bench.post("Expect: 100-continue\r\nContent-Length: 11\r\n", ""), 413),
        ("POST /invoke/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n".to_owned(), 404),
    ] {
        let mut client = bench.connect();
        client.send(head);
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (status, Some("close")));
        client.finish();
        client.assert_closed();
    }
}

#[test]
fn other_expectations_fail() {
    let bench = Bench::new();
    for lines in ["Expect: 200-ok\r\n", "Expect: 100-continue, x\r\n", "Expect:\r\n", "Expect: 100-continue\r\nExpect: 100-continue\r\n"] {
        let mut client = bench.connect();
        client.send(bench.post(&format!("{lines}Content-Length: 0\r\n"), ""));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text(), answer.field("connection")), (417, "", Some("close")), "{lines}");
    }
    assert_eq!(bench.calls(), 0);
}

#[test]
fn a_silent_body_is_a_408() {
    let bench = Setup::new().set("FN_REQUEST_BODY_READ_TIMEOUT", "200ms").start();
    for (lines, body) in [("Content-Length: 10\r\n", "abc"), ("Content-Length: 10\r\n", ""), ("Transfer-Encoding: chunked\r\n", "5\r\nab")] {
        let mut client = bench.connect();
        client.send(bench.post(lines, body));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
        client.finish();
        client.assert_closed();
    }
    assert_eq!(bench.calls(), 0);
}

#[test]
fn a_slow_head_is_a_408_and_costs_no_thread() {
    let bench = Setup::new().set("FN_REQUEST_HEADER_READ_TIMEOUT", "3s").start();
    let mut clients: Vec<_> = (0..50).map(|_| bench.connect()).collect();
    for client in &mut clients {
        client.send("POST /invoke/x HTTP/1.1\r\nHost:");
    }
    until("all are parked", || bench.parked() == 50);
    let started = Instant::now();
    // Trickling does not buy time: the deadline is that of the first byte.
    let mut trickler = bench.connect();
    while started.elapsed() < Duration::from_secs(60) {
        trickler.send_maybe("G");
        trickler.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("time-out");
        if trickler.stream.peek(&mut [0; 1]).is_ok() {
            break;
        }
    }
    trickler.stream.set_read_timeout(Some(Duration::from_secs(120))).expect("time-out");
    assert_eq!(trickler.answer().status, 408);
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
        client.assert_closed();
    }
    until("all are closed", || bench.open() <= 1);
}

#[test]
fn an_idle_connection_is_closed_silently() {
    let bench = Setup::new().set("FN_HTTP_IDLE_TIMEOUT", "2s").start();
    let mut fresh = bench.connect();
    let mut used = bench.connect();
    used.send(bench.post("Content-Length: 0\r\n", ""));
    assert_eq!(used.answer().status, 200);
    fresh.assert_closed();
    used.assert_closed();
    until("both are closed", || bench.open() == 0);
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let bench = Setup::new()
        .set("FN_RESPONSE_WRITE_TIMEOUT", "200ms")
        .function("f", |_, caller, stand| {
            caller.begin(&AnswerHead { fields: &[] }, None).map_err(|_| CallError::ClientGone)?;
            let piece = vec![b'z'; 64 << 10];
            for _ in 0..1000 {
                if caller.data(&piece).is_err() {
                    stand.gone.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    return Err(CallError::ClientGone);
                }
            }
            caller.end().map_err(|_| CallError::ClientGone)
        })
        .start();
    let mut client = bench.connect();
    sockopt::set_socket_recv_buffer_size(&client.stream, 4096).expect("a small buffer");
    client.send(format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path("f")));
    until("it is cut", || bench.stand.gone.load(std::sync::atomic::Ordering::SeqCst) == 1);
    assert!(client.try_answer().is_err());
}
