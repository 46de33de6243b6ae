//! Wire rules of the codec: tables of what must be refused, and properties.

use proptest::prelude::*;

use super::fields::{connection_options, count, find, is_token, is_value};
use super::*;

const MAX: usize = 64 * 1024;

fn request(text: &[u8]) -> Result<(BodyFraming, usize), HeadError> {
    let head = parse_request(text, MAX)?.expect("the head is complete");
    Ok((request_framing(&head)?, head.len))
}

fn response(text: &[u8]) -> Result<(u16, BodyFraming), HeadError> {
    let head = parse_response(text, MAX)?.expect("the head is complete");
    Ok((head.status, response_framing(&head, false)?))
}

#[test]
fn requests_that_must_be_refused() {
    use HeadError::*;
    let cases: &[(&[u8], HeadError)] = &[
        // Two lengths, odd lengths.
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", LengthAndCoding),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", SeveralLengths),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\n", SeveralLengths),
        (b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3x\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3,3\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3 3\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x3\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 1_000\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 3.0\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: \"3\"\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n", Length),
        ("POST / HTTP/1.1\r\nContent-Length: \u{0663}\r\n\r\n".as_bytes(), Length),
        // Transfer codings.
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunkedx\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked, chunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip;q=1, chunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip,, chunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n\r\n", LengthAndCoding),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferCodingIn10),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: ,chunked\r\n\r\n", TransferCoding),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", TransferCodingIn10),
        // Codings that others may know (501).
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", UnknownCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity ,\t Chunked\r\n\r\n", UnknownCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, x-y,chunked\r\n\r\n", UnknownCoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", UnknownCoding),
        // Lines.
        (b"POST / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\n A: b\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA: b\rc\r\n\r\n", FieldValue),
        (b"POST / HTTP/1.1\r\nA: b\0c\r\n\r\n", FieldValue),
        (b"POST / HTTP/1.1\r\nA: b\x7fc\r\n\r\n", FieldValue),
        (b"POST / HTTP/1.1\r\nA: b\x01c\r\n\r\n", FieldValue),
        (b"POST / HTTP/1.1\r\nA : b\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA\t: b\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\n: b\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA b: c\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA(b): c\r\n\r\n", FieldName),
        (b"POST / HTTP/1.1\r\nA\0b: c\r\n\r\n", FieldName),
        ("POST / HTTP/1.1\r\n\u{e4}: c\r\n\r\n".as_bytes(), FieldName),
        (b"POST / HTTP/1.1\nA: b\n\n", LineEnd),
        (b"POST / HTTP/1.1\nA: b\r\n\r\n", LineEnd),
        (b"POST / HTTP/1.1\r\nA: b\n\r\n", LineEnd),
        (b"POST / HTTP/1.1\r\nA: b\nB: c\r\n\r\n", LineEnd),
        (b"POST / HTTP/1.1\r\nA:\nB: c\r\n\r\n", LineEnd),
        (b"POST / HTTP/1.1\r\nA: \nB: c\r\n\r\n", LineEnd),
        (b"POST / HTTP/1.1\r\nA: b\r\n\n", LineEnd),
        (b"POST / HTTP/1.1\n\n", LineEnd),
        (b"POST / HTTP/1.1\r\n\n", LineEnd),
        (b"POST / HTTP/1.1\r\nA: b\r\n\rX", LineEnd),
        // The first line.
        (b"G@T / HTTP/1.1\r\n\r\n", RequestLine),
        (b"G\x01T / HTTP/1.1\r\n\r\n", RequestLine),
        (b" GET / HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET  / HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET /  HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET /a b HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET /a\tb HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET /a\0b HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET / HTTP/1.1 \r\n\r\n", LineEnd),
        (b"GET / HTTP/1.1 junk\r\n\r\n", LineEnd),
        (b"GET / HTTP/1.1x\r\n\r\n", LineEnd),
        (b"GET / HTTP/1.1\rX\r\n\r\n", LineEnd),
        (b"GET  HTTP/1.1\r\n\r\n", RequestLine),
        (b"GET /\r\n\r\n", RequestLine),
        (b"GET\r\n\r\n", RequestLine),
        (b"GET / HTTX/1.1\r\n\r\n", RequestLine),
        (b"GET / http/1.1\r\n\r\n", RequestLine),
        ("GET /\u{e4} HTTP/1.1\r\n\r\n".as_bytes(), Target),
        (b"GET / HTTP/2.0\r\n\r\n", Version),
        (b"GET / HTTP/1.2\r\n\r\n", Version),
        (b"GET / HTTP/0.9\r\n\r\n", Version),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
        (b"\nGET / HTTP/1.1\r\n\r\n", RequestLine),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", RequestLine),
        (b"\r\n\nGET / HTTP/1.1\r\n\r\n", RequestLine),
        (b"\rGET / HTTP/1.1\r\n\r\n", RequestLine),
    ];
    for (text, wanted) in cases {
        assert_eq!(request(text), Err(*wanted), "{}", text.escape_ascii());
    }
    assert!(cases.len() >= 60, "{}", cases.len());
}

#[test]
fn requests_that_must_pass() {
    let cases: &[(&[u8], BodyFraming)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", BodyFraming::None),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", BodyFraming::None),
        (b"GET http://h:1/x?y HTTP/1.1\r\nHost: h\r\n\r\n", BodyFraming::None),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", BodyFraming::None),
        (b"GET / HTTP/1.0\r\n\r\n", BodyFraming::None),
        (b"M-SEARCH / HTTP/1.1\r\nA:\r\nB: \r\nC:  \t x \t \r\n\r\n", BodyFraming::None),
        (b"POST / HTTP/1.1\r\nContent-Length:3\r\n\r\nabc", BodyFraming::Length(3)),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", BodyFraming::Length(0)),
        (b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", BodyFraming::Length(u64::MAX)),
        (b"POST / HTTP/1.1\r\nTRANSFER-ENCODING: Chunked\r\n\r\n", BodyFraming::Chunked),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding:\t chunked\t\r\n\r\n", BodyFraming::Chunked),
        (b"POST / HTTP/1.1\r\nA: \xff\xfe\r\n\r\n", BodyFraming::None),
    ];
    for (text, wanted) in cases {
        assert_eq!(request(text).map(|r| r.0), Ok(*wanted), "{}", text.escape_ascii());
    }
    assert_eq!(parse_request(b"\r", MAX), Ok(None));
    assert_eq!(parse_request(b"\r\n", MAX), Ok(None));
    let head = parse_request(b"\r\nPUT /a HTTP/1.1\r\nA: 1\r\na:\t2 \r\nB:\r\n\r\nrest", MAX).expect("valid").expect("complete");
    assert_eq!((head.method, head.target, head.minor), ("PUT", "/a", 1));
    assert_eq!(head.len, b"\r\nPUT /a HTTP/1.1\r\nA: 1\r\na:\t2 \r\nB:\r\n\r\n".len());
    let fields: Vec<(&str, &[u8])> = head.fields.iter().map(|f| (f.name, f.value)).collect();
    assert_eq!(fields, [("A", &b"1"[..]), ("a", b"2"), ("B", b"")]);
    assert_eq!((count(&head.fields, "A"), find(&head.fields, "b").map(|f| f.value)), (2, Some(&b""[..])));
}

#[test]
fn limits_of_a_head() {
    let fields = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert_eq!(request(fields(128).as_bytes()), Ok((BodyFraming::None, fields(128).len())));
    assert_eq!(request(fields(129).as_bytes()), Err(HeadError::TooManyFields));
    let padded = |n: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(n));
    let exact = padded(10);
    assert!(parse_request(exact.as_bytes(), exact.len()).expect("fits").is_some());
    assert_eq!(parse_request(exact.as_bytes(), exact.len() - 1), Err(HeadError::TooLarge { limit: exact.len() - 1 }));
    // Not complete yet, and already as long as is allowed.
    assert_eq!(parse_request(&padded(100).as_bytes()[..50], 50), Err(HeadError::TooLarge { limit: 50 }));
    let long_line = format!("GET /{}", "x".repeat(100));
    assert_eq!(parse_request(long_line.as_bytes(), 50), Err(HeadError::TargetTooLong { limit: 50 }));
    assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\nA: xxxxxxxx", 20), Err(HeadError::TooLarge { limit: 20 }));
    assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\nA: x\r\n\r\n", 20), Err(HeadError::TooLarge { limit: 20 }));
    for (error, status) in [
        (HeadError::TooManyFields, 431),
        (HeadError::TooLarge { limit: 1 }, 431),
        (HeadError::TargetTooLong { limit: 1 }, 414),
        (HeadError::Version, 505),
        (HeadError::LineEnd, 400),
    ] {
        assert_eq!(error.status(), status);
    }
}

#[test]
fn responses() {
    use HeadError::*;
    let good: &[(&[u8], u16, BodyFraming)] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 200, BodyFraming::Length(3)),
        (b"HTTP/1.1 200 \r\n\r\n", 200, BodyFraming::UntilClose),
        (b"HTTP/1.1 200\r\n\r\n", 200, BodyFraming::UntilClose),
        (b"HTTP/1.0 200 \xff\xfe\r\n\r\n", 200, BodyFraming::UntilClose),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, BodyFraming::Chunked),
        (b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n", 204, BodyFraming::None),
        (b"HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n", 304, BodyFraming::None),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 100, BodyFraming::None),
        (b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n", 999, BodyFraming::Length(0)),
    ];
    for (text, status, framing) in good {
        assert_eq!(response(text), Ok((*status, *framing)), "{}", text.escape_ascii());
    }
    let head = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", MAX).expect("valid").expect("complete");
    assert_eq!(response_framing(&head, true), Ok(BodyFraming::None));
    let bad: &[(&[u8], HeadError)] = &[
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", StatusLine),
        (b"\nHTTP/1.1 200 OK\r\n\r\n", StatusLine),
        (b"HTTP/1.1  200 OK\r\n\r\n", StatusLine),
        (b"HTTP/1.1 20 OK\r\n\r\n", StatusLine),
        (b"HTTP/1.1 2000 OK\r\n\r\n", StatusLine),
        (b"HTTP/1.1 099 OK\r\n\r\n", StatusLine),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", StatusLine),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", StatusLine),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", StatusLine),
        (b"HTTP/2.0 200 OK\r\n\r\n", Version),
        (b"HTTP/1.2 200 OK\r\n\r\n", Version),
        (b"hello world, this is no answer\r\n", StatusLine),
        (b"HTTP/1.1 200 OK\n\n", LineEnd),
        (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", LineEnd),
        (b"HTTP/1.1 200 OK\r\nA: b\n\r\n", LineEnd),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", FieldName),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", FieldName),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndCoding),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", SeveralLengths),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\n", Length),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", TransferCoding),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", UnknownCoding),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", TransferCodingIn10),
        (b"HTTP/1.1 204 No\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndCoding),
    ];
    for (text, wanted) in bad {
        assert_eq!(response(text), Err(*wanted), "{}", text.escape_ascii());
    }
}

#[test]
fn connection_and_hop_by_hop() {
    let keep = |text: &str| keep_alive_of(text);
    assert!(keep("GET / HTTP/1.1\r\n\r\n"));
    assert!(!keep("GET / HTTP/1.0\r\n\r\n"));
    assert!(keep("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    assert!(!keep("GET / HTTP/1.1\r\nConnection: CLOSE\r\n\r\n"));
    assert!(!keep("GET / HTTP/1.1\r\nConnection: keep-alive\r\nconnection: x , close\r\n\r\n"));
    let head = parse_request(b"GET / HTTP/1.1\r\nConnection: a,, b \r\nConnection: c\r\n\r\n", MAX).expect("valid").expect("complete");
    assert_eq!(connection_options(&head.fields).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    for name in ["Connection", "proxy-connection", "KEEP-ALIVE", "Proxy-Authenticate", "Proxy-Authorization", "te", "Trailer", "Transfer-Encoding", "Upgrade"] {
        assert!(is_hop_by_hop(name), "{name}");
    }
    for name in ["Connectionx", "Host", "Content-Length", "Tf", ""] {
        assert!(!is_hop_by_hop(name), "{name}");
    }
    assert!(is_token(b"Fn-Call-Id") && !is_token(b"") && !is_token(b"a b") && !is_token(b"a:") && !is_token("\u{e4}".as_bytes()));
    assert!(is_value(b"a\t\xff ") && is_value(b"") && !is_value(b"a\r") && !is_value(b"a\n") && !is_value(b"\0") && !is_value(b"\x7f"));
}

fn keep_alive_of(text: &str) -> bool {
    let head = parse_request(text.as_bytes(), MAX).expect("valid").expect("complete");
    keep_alive(head.minor, &head.fields)
}

/// Feeds `input` in pieces of the given sizes (then the rest at once) and
/// returns the body and how much of the input was not part of it.
fn decode(input: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
    let mut decoder = ChunkedDecoder::new();
    let mut body = Vec::new();
    let mut at = 0;
    let mut pieces = pieces.iter().copied();
    while at < input.len() && !decoder.is_done() {
        let size = pieces.next().unwrap_or(input.len()).max(1);
        let mut piece = &input[at..(at + size).min(input.len())];
        loop {
            let step = decoder.decode(piece)?;
            body.extend_from_slice(step.data);
            piece = &piece[step.consumed..];
            at += step.consumed;
            if step.consumed == 0 || step.done {
                break;
            }
        }
    }
    Ok((body, input.len() - at, decoder.is_done()))
}

#[test]
fn chunked_bodies_that_must_be_refused() {
    use ChunkError::*;
    let long = "x".repeat(300);
    let cases: Vec<(String, ChunkError)> = vec![
        ("\r\n".into(), Size),
        ("x\r\n".into(), Size),
        ("0x5\r\nhello\r\n".into(), Size),
        ("+5\r\nhello\r\n".into(), Size),
        ("-1\r\n".into(), Size),
        (" 5\r\nhello\r\n".into(), Size),
        ("5g\r\nhello\r\n".into(), Size),
        ("5\n".into(), Size),
        ("5 \r\nhello\r\n".into(), Size),
        ("5\0\r\n".into(), Size),
        (";a\r\n".into(), Size),
        ("00000000000000005\r\nhello\r\n".into(), SizeTooLong),
        ("fffffffffffffffff\r\n".into(), SizeTooLong),
        ("5\rhello".into(), LineEnd),
        ("5\r\nhello5\r\n".into(), LineEnd),
        ("5\r\nhello\n0\r\n".into(), LineEnd),
        ("5\r\nhello\r0\r\n".into(), LineEnd),
        ("5\r\nhelloo\r\n0\r\n\r\n".into(), LineEnd),
        ("5;a\nb\r\n".into(), Extension),
        ("5;a\0b\r\n".into(), Extension),
        (format!("5;{long}\r\nhello\r\n"), ExtensionTooLong),
        (format!("5{}\r\nhello\r\n", " ".repeat(300)), ExtensionTooLong),
        (format!("1;{}\r\nx\r\n", "y".repeat(250)).repeat(100), ExtensionTooLong),
        ("0\r\n x\r\n\r\n".into(), Trailer),
        ("0\r\nA\r\n\r\n".into(), Trailer),
        ("0\r\nA : b\r\n\r\n".into(), Trailer),
        ("0\r\n: b\r\n\r\n".into(), Trailer),
        ("0\r\nA: b\n\r\n".into(), Trailer),
        ("0\r\nA: b\rc\r\n\r\n".into(), Trailer),
        ("0\r\nA: \0\r\n\r\n".into(), Trailer),
        ("0\r\n\rX".into(), LineEnd),
        ("0\rX".into(), LineEnd),
        (format!("0\r\n{}\r\n", "A: b\r\n".repeat(2000)), TrailersTooLarge),
        (format!("0\r\nA: {}\r\n\r\n", "b".repeat(9000)), TrailersTooLarge),
    ];
    for (text, wanted) in &cases {
        assert_eq!(decode(text.as_bytes(), &[]), Err(*wanted), "{:.60}", text.escape_debug());
        assert_eq!(decode(text.as_bytes(), &vec![1; text.len()]), Err(*wanted), "{:.60}", text.escape_debug());
    }
}

#[test]
fn chunked_bodies_that_must_pass() {
    let ext = "y".repeat(254);
    let cases: Vec<(String, &str, usize)> = vec![
        ("0\r\n\r\n".into(), "", 0),
        ("5\r\nhello\r\n0\r\n\r\nNEXT".into(), "hello", 4),
        ("0000000000000005\r\nhello\r\n000\r\n\r\n".into(), "hello", 0),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n".into(), "01234567890123456789", 0),
        ("5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n".into(), "hello", 0),
        ("5 \t;a\r\nhello\r\n0\r\n\r\n".into(), "hello", 0),
        (format!("5;{ext}\r\nhello\r\n0\r\n\r\n"), "hello", 0),
        ("5\r\nhello\r\n0\r\nA: b\r\nC:\r\n\r\n".into(), "hello", 0),
    ];
    for (text, body, left) in &cases {
        assert_eq!(decode(text.as_bytes(), &[]), Ok((body.as_bytes().to_vec(), *left, true)), "{}", text.escape_debug());
        for end in 0..text.len() - left {
            let (part, _, done) = decode(&text.as_bytes()[..end], &[]).expect("a prefix is never wrong");
            assert!(!done && body.as_bytes().starts_with(&part));
        }
    }
    // The largest size is no overflow, only a long wait.
    assert_eq!(decode(b"ffffffffffffffff\r\nab", &[]), Ok((b"ab".to_vec(), 0, false)));
}

#[test]
fn chunk_heads() {
    let head = |n| {
        let mut out = Vec::new();
        chunk_head(n, &mut out);
        String::from_utf8(out).expect("ascii")
    };
    assert_eq!(
        (head(0), head(1), head(15), head(16), head(31), head(0x1_0000)),
        ("0\r\n".into(), "1\r\n".into(), "f\r\n".into(), "10\r\n".into(), "1f\r\n".into(), "10000\r\n".into())
    );
    assert_eq!(head(usize::MAX), "ffffffffffffffff\r\n");
    assert_eq!((reason(200), reason(502), reason(599)), ("OK", "Bad Gateway", ""));
}

fn a_field() -> impl Strategy<Value = (String, Vec<u8>)> {
    ("[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", prop::collection::vec(prop_oneof![Just(b'\t'), 0x20u8..0x7f, 0x80u8..], 0..40))
        .prop_map(|(name, value)| (name, value.trim_ascii().to_vec()))
}

proptest! {
    #[test]
    fn a_head_reads_back_and_its_prefixes_ask_for_more(
        method in "[A-Z]{1,8}", target in "/[!-~]{0,40}", minor in 0u8..2, fields in prop::collection::vec(a_field(), 0..12),
        pads in prop::collection::vec(("[ \t]{0,3}", "[ \t]{0,3}"), 12), status in 100u16..1000,
    ) {
        let mut lines = Vec::new();
        for ((name, value), (before, after)) in fields.iter().zip(&pads) {
            lines.extend_from_slice(format!("{name}:{before}").as_bytes());
            lines.extend_from_slice(value);
            lines.extend_from_slice(format!("{after}\r\n").as_bytes());
        }
        lines.extend_from_slice(b"\r\n");
        let request = [format!("{method} {target} HTTP/1.{minor}\r\n").into_bytes(), lines.clone()].concat();
        let answer = [format!("HTTP/1.{minor} {status} {}\r\n", reason(status)).into_bytes(), lines].concat();
        for end in 0..request.len() {
            prop_assert_eq!(parse_request(&request[..end], MAX), Ok(None));
        }
        for end in 0..answer.len() {
            prop_assert_eq!(parse_response(&answer[..end], MAX), Ok(None));
        }
        let wanted: Vec<(&str, &[u8])> = fields.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let got = |fields: &[Field<'_>]| fields.iter().map(|f| (f.name.to_owned(), f.value.to_vec())).collect::<Vec<_>>();
        let longer = [request.as_slice(), b"GET"].concat();
        let head = parse_request(&longer, MAX).expect("valid").expect("complete");
        prop_assert_eq!((head.method, head.target, head.minor, head.len), (method.as_str(), target.as_str(), minor, request.len()));
        prop_assert_eq!(got(&head.fields), wanted.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect::<Vec<_>>());
        let longer = [answer.as_slice(), b"x"].concat();
        let head = parse_response(&longer, MAX).expect("valid").expect("complete");
        prop_assert_eq!((head.status, head.minor, head.len), (status, minor, answer.len()));
        prop_assert_eq!(head.fields.len(), wanted.len());
    }

    #[test]
    fn any_bytes_never_panic_and_never_pass_a_bad_line_end(bytes in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()], 0..200)) {
        let _ = parse_response(&bytes, 100);
        let _ = ChunkedDecoder::new().decode(&bytes);
        let text = [b"GET / HTTP/1.1\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat();
        if let Ok(Some(head)) = parse_request(&text, MAX) {
            let lines = &text[..head.len];
            for (i, b) in lines.iter().enumerate() {
                prop_assert!(*b != b'\n' || lines[i - 1] == b'\r');
                prop_assert!(*b != b'\r' || lines[i + 1] == b'\n');
            }
            prop_assert!(head.fields.iter().all(|f| is_token(f.name.as_bytes()) && is_value(f.value)));
        }
    }

    #[test]
    fn chunks_read_back_however_they_are_cut(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6), pieces in prop::collection::vec(1usize..20, 0..40), rest in prop::collection::vec(any::<u8>(), 0..10)) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            chunk_head(chunk.len(), &mut wire);
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let end = wire.len();
        wire.extend_from_slice(&rest);
        let body = chunks.concat();
        prop_assert_eq!(decode(&wire, &pieces), Ok((body.clone(), rest.len(), true)));
        for cut in 0..end {
            let (part, left, done) = decode(&wire[..cut], &[]).expect("a prefix is never wrong");
            prop_assert!(!done && left == 0 && body.starts_with(&part));
        }
    }
}

/// Run with `--ignored --nocapture` in release to see the cost of a head.
#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_a_head() {
    let text = b"POST /invoke/01HF7YAT3V180G40RZJ0000001 HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.1\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: 64\r\nX-Request-Id: 0123456789abcdef\r\nAuthorization: Bearer abcdefgh\r\n\r\n";
    let start = std::time::Instant::now();
    let rounds = 1_000_000u32;
    for _ in 0..rounds {
        let head = parse_request(std::hint::black_box(text), MAX).expect("valid").expect("complete");
        std::hint::black_box(request_framing(&head)).expect("valid");
    }
    println!("{:?} a head", start.elapsed() / rounds);
}
