//! Heads that are not heads.

use super::{Case, case, post};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, line) in [
        ("one word", "GET"),
        ("two words", "GET /ping"),
        ("four words", "GET /ping HTTP/1.1 x"),
        ("two blanks", "GET  /ping HTTP/1.1"),
        ("a blank in the target", "GET /pi ng HTTP/1.1"),
        ("a tab", "GET\t/ping\tHTTP/1.1"),
        ("a blank first", " GET /ping HTTP/1.1"),
        ("a blank last", "GET /ping HTTP/1.1 "),
        ("no target", "GET HTTP/1.1"),
        ("a colon in the method", "GE:T /ping HTTP/1.1"),
        ("a bracket in the method", "GE(T /ping HTTP/1.1"),
        ("a byte above ASCII in the method", "GE\u{e9}T /ping HTTP/1.1"),
        ("NUL in the method", "GE\u{0}T /ping HTTP/1.1"),
        ("NUL in the target", "GET /pi\u{0}ng HTTP/1.1"),
        ("DEL in the target", "GET /pi\u{7f}ng HTTP/1.1"),
        ("a control byte in the target", "GET /pi\u{1}ng HTTP/1.1"),
        ("a byte above ASCII in the target", "GET /pi\u{e9}ng HTTP/1.1"),
        ("a bare CR in the target", "GET /pi\rng HTTP/1.1"),
        ("a version in small letters", "GET /ping http/1.1"),
        ("a version of another protocol", "GET /ping HTTX/1.1"),
        ("a version of one number", "GET /ping HTTP/1"),
        ("a version of three digits", "GET /ping HTTP/1.10"),
        ("a version with a blank", "GET /ping HTTP/ 1.1"),
        ("a version with letters", "GET /ping HTTP/a.b"),
        ("no slash first", "GET ping HTTP/1.1"),
        ("a strange scheme", "GET ftp://t/ping HTTP/1.1"),
        ("an authority without CONNECT", "GET t:80 HTTP/1.1"),
        ("only bytes of control", "\u{1}\u{2}\u{3}\u{4}"),
    ] {
        cases.push(case(format!("request line: {name}"), "9112 §3", format!("{line}¶Host: t¶¶@H"), &["400"]));
    }
    for (name, line) in [
        ("0.9", "GET /ping HTTP/0.9"),
        ("2.0", "GET /ping HTTP/2.0"),
        ("3.0", "GET /ping HTTP/3.0"),
        ("9.9", "GET /ping HTTP/9.9"),
        ("HTTP/2's preface", "PRI * HTTP/2.0"),
    ] {
        cases.push(case(format!("version {name}"), "9110 §15.6.6", format!("{line}¶Host: t¶¶SM¶¶@H"), &["505"]));
    }
    cases.push(case("version 1.2", "9110 §2.5", "GET /ping HTTP/1.2¶Host: t¶¶", &["200", "505"]));
    for (name, text) in [
        ("a TLS hello", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}¶¶"),
        ("an SSH banner", "SSH-2.0-OpenSSH_9.2¶¶"),
        ("a proxy's line", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2¶@H"),
        ("an answer", "HTTP/1.1 200 OK¶Content-Length: 0¶¶@H"),
        ("two empty lines first", "¶¶@H"),
        ("an LF first", "\n@H"),
        ("a request line that ends in LF", "GET /ping HTTP/1.1\nHost: t¶¶@H"),
        ("a field that ends in LF", "GET /ping HTTP/1.1¶Host: t\n¶@H"),
        ("an empty line of LF", "GET /ping HTTP/1.1¶Host: t¶\n@H"),
        ("LF throughout", "GET /ping HTTP/1.1\nHost: t\n\n@H"),
        ("CR throughout", "GET /ping HTTP/1.1\rHost: t\r\r@H"),
        ("CR CR LF", "GET /ping HTTP/1.1\r¶Host: t¶¶@H"),
    ] {
        cases.push(case(name, "9112 §2.2", text, &["400"]));
    }
    for (name, text) in
        [("a line without an end", "GET /ping HTTP/1.1"), ("a head without an end", "GET /ping HTTP/1.1¶Host: t¶"), ("nothing", ""), ("one empty line", "¶")]
    {
        cases.push(case(name, "9112 §8", text, &["", "400"]));
    }
    cases.push(case("one empty line first", "9112 §2.2", "¶GET /ping HTTP/1.1¶Host: t¶¶", &["200"]));
    for (name, field) in [
        ("without a name", ": v"),
        ("a blank in the name", "a b: v"),
        ("NUL in the name", "a\u{0}: v"),
        ("a bracket in the name", "a(: v"),
        ("a quote in the name", "\"a\": v"),
        ("a slash in the name", "a/b: v"),
        ("a byte above ASCII in the name", "\u{e9}: v"),
        ("without a colon", "nothing"),
        ("DEL in the value", "a: \u{7f}"),
        ("a control byte in the value", "a: \u{1}"),
        ("NUL in the value", "a: b\u{0}c"),
        ("a bare CR in the value", "a: b\rc"),
        ("folded", "a: b¶ c"),
        ("folded at its start", "a:¶\tb"),
    ] {
        cases.push(case(format!("field: {name}"), "9112 §5, 9110 §5.5", post(&format!("{field}¶")) + "@H", &["400"]));
    }
    hosts(&mut cases);
    cases
}

fn hosts(cases: &mut Vec<Case>) {
    for (name, fields) in [
        ("none", ""),
        ("two", "Host: t¶Host: t¶"),
        ("two in other letters", "Host: t¶hOST: u¶"),
        ("with a blank", "Host: a b¶"),
        ("with a slash", "Host: a/b¶"),
        ("with a user", "Host: u@t¶"),
        ("a list", "Host: a,b¶"),
        ("with a question mark", "Host: a?b¶"),
        ("bytes above ASCII", "Host: \u{e9}¶"),
    ] {
        cases.push(case(format!("Host: {name}"), "9112 §3.2", format!("GET /ping HTTP/1.1¶{fields}¶@H"), &["400"]));
    }
    for host in ["", "t", "t:80", "[::1]:8080", "1.2.3.4", "xn--bcher-kva.example"] {
        cases.push(case(format!("Host {host:?}"), "9110 §7.2", format!("GET /ping HTTP/1.1¶Host: {host}¶¶"), &["200"]));
    }
}
