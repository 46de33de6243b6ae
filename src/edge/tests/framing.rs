//! Two readers of one stream must never see different requests.

use super::{Bench, Setup, until};

/// Sends `bytes`, in which a second request is hidden, and checks the first
/// answer's status, that the connection is closed after it, and that the
/// hidden request was answered 0 times.
#[track_caller]
fn refused(bench: &Bench, bytes: impl AsRef<[u8]>, status: u16) {
    let before = bench.calls();
    let mut client = bench.connect();
    client.send_maybe(bytes.as_ref());
    let answer = client.answer();
    let sent = String::from_utf8_lossy(bytes.as_ref()).into_owned();
    assert_eq!(answer.status, status, "{sent:?} {answer:?}");
    assert_eq!(answer.field("connection"), Some("close"), "{sent:?}");
    assert_eq!(answer.field("fn-call-id"), None, "{sent:?}");
    client.assert_closed();
    assert_eq!(bench.calls(), before, "nothing ran: {sent:?}");
}

/// A body that is a whole request.
fn hidden(bench: &Bench) -> String {
    format!("POST {} HTTP/1.1\r\nHost: h\r\nX-Hidden: 1\r\n\r\n", bench.path("echo"))
}

#[test]
fn two_lengths_are_refused_and_nothing_hidden_runs() {
    let bench = Bench::new();
    let hidden = hidden(&bench);
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 0\r\nContent-Length: 4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: 3x\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 4 4\r\n",
        "Content-Length: 4.0\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length:\r\n",
        "Content-Length: \u{0664}\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 99999999999999999999999999\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
    ] {
        refused(&bench, bench.post(lines, &hidden), 400);
    }
    for lines in ["Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"] {
        refused(&bench, bench.post(lines, &format!("0\r\n\r\n{hidden}")), 501);
    }
}

#[test]
fn chunked_in_http_1_0_is_refused() {
    let bench = Bench::new();
    refused(&bench, format!("POST {} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bench.path("echo")), 400);
}

#[test]
fn malformed_heads_are_refused() {
    let bench = Bench::new();
    let path = bench.path("echo");
    let with = |line: &str| format!("POST {path} HTTP/1.1\r\nHost: h\r\n{line}\r\nContent-Length: 0\r\n\r\n");
    for line in [
        "X-A: 1\r\n folded",
        "X-A: 1\r\n\tfolded",
        "X-A: a\rb",
        "X-A: a\nX-B: b",
        "X-A: a\0b",
        "X-A: a\x01b",
        "X-A: a\x7fb",
        "X-A : 1",
        "X A: 1",
        " X-A: 1",
        ": 1",
        "X-A",
        "X-\u{e9}: 1",
        "X(A): 1",
        "X-A: 1\n",
        "Transfer-Encoding : chunked",
        "Content-Length : 5",
    ] {
        refused(&bench, with(line), 400);
    }
}

#[test]
fn malformed_request_lines_are_refused() {
    let bench = Bench::new();
    for (line, status) in [
        ("G@T / HTTP/1.1", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /", 400),
        ("GET / HTTP/1.1 junk", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTX/1.1", 400),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("GET / HTTP/1.2", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET /\u{e9} HTTP/1.1", 400),
        ("GET x HTTP/1.1", 400),
        ("GET ftp://h/ HTTP/1.1", 400),
        ("GET /%zz HTTP/1.1", 400),
        ("GET /t/app/%4 HTTP/1.1", 400),
        ("CONNECT h:443 HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("\u{16}\u{3}\u{1}", 400),
    ] {
        refused(&bench, format!("{line}\r\nHost: h\r\n\r\n"), status);
    }
    refused(&bench, "GET / HTTP/1.1\nHost: h\n\n", 400);
    refused(&bench, "GET / HTTP/1.1\r\nHost: h\n\r\n", 400);
    refused(&bench, "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400);
    refused(&bench, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400);
}

#[test]
fn host_rules() {
    let bench = Bench::new();
    let path = bench.path("echo");
    for (lines, status) in [
        ("", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a\r\nhost: b\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host: a@b\r\n", 400),
        ("Host: a\\b\r\n", 400),
    ] {
        refused(&bench, format!("POST {path} HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n"), status);
    }
    for lines in ["Host:\r\n", "Host: h:1\r\n", "Host: [::1]:80\r\n", "hOsT: a_b.c\r\n"] {
        let answer = bench.ask(format!("POST {path} HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n"));
        assert_eq!(answer.status, 200, "{lines}");
    }
    refused(&bench, format!("POST http://h{path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), 400);
}

#[test]
fn bad_chunks_are_refused_and_nothing_hidden_runs() {
    let bench = Bench::new();
    for body in [
        "x\r\n",
        "-1\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "11111111111111111\r\n",
        "1;\x01\r\na\r\n0\r\n\r\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\n folded: 1\r\n\r\n",
        "0\r\nX: a\nb\r\n\r\n",
        "0\n\n",
        " 1\r\na\r\n0\r\n\r\n",
    ] {
        refused(&bench, bench.post("Transfer-Encoding: chunked\r\n", &format!("{body}{}", hidden(&bench))), 400);
    }
    refused(&bench, bench.post("Transfer-Encoding: chunked\r\n", &format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(300))), 400);
    refused(&bench, bench.post("Transfer-Encoding: chunked\r\n", &format!("0\r\nX: {}\r\n\r\n", "t".repeat(9000))), 400);
}

#[test]
fn a_request_inside_a_body_is_a_body() {
    let bench = Bench::new();
    let inner = hidden(&bench);
    let mut client = bench.connect();
    client.send(bench.post(&format!("Content-Length: {}\r\n", inner.len()), &inner));
    assert!(client.answer().text().ends_with(&inner));
    client.send(bench.post("Transfer-Encoding: chunked\r\n", &format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len())));
    assert!(client.answer().text().ends_with(&inner));
    assert_eq!(bench.calls(), 2);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let bench = Bench::new();
    let mut all = String::new();
    for i in 0..50 {
        match i % 4 {
            0 => all += &bench.post("Content-Length: 4\r\n", &format!("n{i:03}")),
            1 => all += &bench.post("Transfer-Encoding: chunked\r\n", &format!("4\r\nn{i:03}\r\n0\r\n\r\n")),
            2 => all += &format!("POST /invoke/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nn{i:03}"),
            _ => all += &bench.post(&format!("X-N: n{i:03}\r\nContent-Length: 0\r\n"), ""),
        }
    }
    let mut client = bench.connect();
    client.send(&all);
    for i in 0..50 {
        let answer = client.answer();
        if i % 4 == 2 {
            assert_eq!(answer.status, 404);
        } else {
            assert!(answer.text().contains(&format!("n{i:03}")), "{i}: {}", answer.text());
        }
    }
    // The connection is as good as new.
    client.send(bench.post("Content-Length: 1\r\n", "x"));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn pipelined_requests_byte_by_byte() {
    let bench = Bench::new();
    let all = format!("{}{}", bench.post("Content-Length: 3\r\n", "abc"), bench.post("Transfer-Encoding: chunked\r\n", "2\r\nde\r\n0\r\nT: v\r\n\r\n"));
    let mut client = bench.connect();
    for byte in all.as_bytes() {
        client.send([*byte]);
    }
    assert!(client.answer().text().ends_with("\r\n\r\nabc") || bench.calls() > 0);
    assert!(client.answer().text().ends_with("de"));
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    let bench = Bench::new();
    let mut client = bench.connect();
    for _ in 0..3 {
        client.send(format!("\r\n{}", bench.post("Content-Length: 0\r\n", "")));
        assert_eq!(client.answer().status, 200);
    }
    client.send("\r\n");
    until("parked as idle", || bench.parked() == 1);
    client.send(bench.post("Content-Length: 0\r\n", ""));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn chunked_bodies_with_extensions_and_trailers() {
    let bench = Bench::new();
    let answer = bench.ask(bench.post("Transfer-Encoding: Chunked\r\n", "3;a=b;c\r\nabc\r\n0A ;x\r\n0123456789\r\n000\r\nX-Trailer: dropped\r\nY: 2\r\n\r\n"));
    assert_eq!(answer.status, 200);
    assert!(answer.text().ends_with("\r\nabc0123456789"), "{}", answer.text());
    assert!(!answer.text().contains("dropped") && !answer.text().contains("Transfer-Encoding"));
}

#[test]
fn truncated_bodies_run_nothing() {
    let bench = Bench::new();
    for (lines, body) in [
        ("Content-Length: 10\r\n", "abc"),
        ("Content-Length: 1\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\r\nabc"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n"),
        ("Transfer-Encoding: chunked\r\n", ""),
    ] {
        let mut client = bench.connect();
        client.send(bench.post(lines, body));
        client.finish();
        client.assert_closed();
    }
    let mut client = bench.connect();
    client.send("POST /invoke/x HT");
    client.finish();
    client.assert_closed();
    assert_eq!(bench.calls(), 0);
    until("all closed", || bench.open() == 0);
}

#[test]
fn unread_bodies_end_the_connection() {
    // What follows an answer given without the body must not be a request.
    let bench = Setup::new().set("HOB_API_TOKEN", "t").start();
    let hidden = hidden(&bench);
    for (target, status) in [("/invoke/x", 404), ("/t/app/nope", 404), ("/invoke/x/y", 404), ("/v2/apps", 401)] {
        let mut client = bench.connect();
        client.send(format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n{hidden}"));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{target}");
        assert_eq!(answer.field("connection"), Some("close"));
        client.send_maybe(&hidden);
        client.finish();
        client.assert_closed();
    }
    let mut client = bench.connect();
    client.send(format!("POST /invoke/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"));
    assert_eq!(client.answer().status, 404);
    client.finish();
    client.assert_closed();
    assert_eq!(bench.calls(), 0);
}

/// Requests sent behind the last one are not answered, and do not cost its
/// answer: closed over unread bytes, a connection would be reset.
#[test]
fn what_is_sent_behind_the_last_request_does_not_cost_its_answer() {
    use std::io::Read;
    let bench = Bench::new();
    let last = bench.post("Connection: close\r\nContent-Length: 4\r\n", "last");
    let behind = bench.post("Content-Length: 0\r\n", "").repeat(1000);
    for round in 0..20 {
        let mut client = bench.connect();
        client.send(format!("{last}{behind}"));
        client.finish();
        let answer = client.try_answer().unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        let end = client.stream.read(&mut [0; 1]);
        assert!(matches!(end, Ok(0)), "round {round}: not an end but {end:?}");
    }
    assert_eq!(bench.calls(), 20, "nothing behind it is a request");
    until("all closed", || bench.open() == 0);
}

#[test]
fn a_small_unwanted_body_keeps_the_connection() {
    let bench = Bench::new();
    let mut client = bench.connect();
    for _ in 0..3 {
        client.send("POST /invoke/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("connection")), (404, None));
    }
}
