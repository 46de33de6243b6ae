//! What a function answers, and what the client gets of it: directly (spec
//! http-api §3.1, §3.4) and by a trigger (§3.2).

use super::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    direct(&mut cases);
    statuses(&mut cases);
    limits(&mut cases);
    ends(&mut cases);
    by_trigger(&mut cases);
    trigger_statuses(&mut cases);
    cases
}

/// A 200 with these fields; its length is written here.
fn said(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n{body}", fields.replace('¶', "\r\n"), body.len())
}

fn direct_raw(rule: &'static str, name: &str, answer: impl AsRef<[u8]>) -> Case {
    case(rule, format!("direct: {name}"), "POST /invoke/@F", "", answer)
}

fn direct_with(rule: &'static str, name: &str, fields: &str) -> Case {
    direct_raw(rule, name, said(fields, "hi")).answer("hi")
}

fn triggered(rule: &'static str, name: &str, fields: &str) -> Case {
    case(rule, format!("trigger: {name}"), "POST /t/app/f", "", said(fields, "hi")).answer("hi")
}

fn direct(cases: &mut Vec<Case>) {
    for line in [
        "X-Mine: 1",
        "Content-Type: application/x-mine; a=\"b\"",
        "Location: /elsewhere",
        "Set-Cookie: a=1; Path=/",
        "Cache-Control: no-store",
        "Etag: \"x\"",
        "Www-Authenticate: Basic realm=\"x\"",
        "Fn-Fdk-Version: fdk-x/1",
        "Fn-Http-Status: 418",
        "Fn-Http-H-X: 1",
        "x-lower: case stays",
        "X-Empty: ",
        "X-Bytes: \u{fc}",
        "Content-Encoding: br",
        "Retry-After: 7",
    ] {
        let answer: Vec<u8> = said(&format!("{line}¶"), "hi").chars().map(|c| u8::try_from(u32::from(c)).expect("a byte each")).collect();
        let mut case = direct_raw("§3.1", &format!("goes on: {line}"), answer).answer("hi");
        // Bytes of no text are not compared: the answer's head is read as UTF-8.
        if line.is_ascii() {
            case = case.gives(line);
        }
        cases.push(case);
    }
    cases.push(direct_with("§3.1", "two cookies, in order", "Set-Cookie: a=1¶X: 1¶Set-Cookie: b=2¶").gives("Set-Cookie: a=1").gives("Set-Cookie: b=2"));
    cases.push(direct_with("§3.1", "no type is made up", "").lacks("Content-Type"));
    cases.push(direct_with("§3.1", "a forged call id", "Fn-Call-Id: 01HF7YAT3V180G40RZJ0000001¶").lacks("01HF7YAT3V180G40RZJ0000001"));
    for line in ["Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Trailer: X", "Upgrade: h2c", "Te: trailers", "Proxy-Connection: close"] {
        cases.push(direct_with("§3.1", &format!("hop-by-hop: {line}"), &format!("{line}¶X-Stays: 1¶")).lacks(line).gives("X-Stays: 1"));
    }
    cases.push(direct_with("9110 §7.6.1", "named by Connection", "Connection: X-Gone¶X-Gone: 1¶").lacks("X-Gone"));
    cases.push(direct_raw("§3.1", "an empty body", said("", "")).answer("").gives("Content-Length: 0"));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\nX-Trail: 1\r\n\r\n";
    cases.push(direct_raw("§3.1", "chunks get a length", chunked).answer("abcd").gives("Content-Length: 4").lacks("Trail"));
    cases.push(direct_raw("9112 §6.3", "until the end", "HTTP/1.1 200 OK\r\nX: 1\r\n\r\nabc").answer("abc").gives("X: 1"));
    cases.push(direct_raw("9112 §2.3", "HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi").answer("hi"));
    cases.push(direct_raw("9112 §4", "no reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi").answer("hi"));
    cases.push(direct_raw("9110 §15.2", "100 before it", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").answer("hi"));
    cases.push(direct_with("§3.1", "what claims to be gzip stays as it is", "Content-Encoding: gzip¶").gives("Content-Encoding: gzip"));
    cases.push(direct_with("9110 §6.6.1", "its own date", "Date: Tue, 24 Nov 2026 02:38:46 GMT¶"));
    cases.push(direct_with("hob", "no time is told unasked", "").lacks("Server-Timing"));
}

/// Spec http-api §3.4.
fn statuses(cases: &mut Vec<Case>) {
    let answer = |status: u16| format!("HTTP/1.1 {status} Said\r\nX-Mine: 1\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\r\nhi");
    for status in [201, 202, 206, 301, 302, 307, 400, 401, 404, 429, 500, 501, 503, 599] {
        let case = direct_raw("§3.4", &format!("status {status}"), answer(status)).status(502);
        cases.push(case.answer(format!("invalid function response: status {status}")).lacks("X-Mine").gives("Content-Type: application/json; charset=utf-8"));
    }
    cases.push(direct_raw("§3.4", "status 204", "HTTP/1.1 204 No\r\n\r\n").status(502).answer("invalid function response: status 204"));
    cases.push(direct_raw("§3.4", "status 502", answer(502)).status(502).answer("function failed").lacks("X-Mine").lacks("text/x"));
    cases.push(direct_raw("§3.4", "status 504", answer(504)).status(504).answer("Timed out").lacks("X-Mine"));
    for (name, bytes) in [
        ("no HTTP", "HTTP/1.x nonsense\r\n\r\n"),
        ("a status of letters", "HTTP/1.1 abc OK\r\n\r\n"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
        ("a blank before a colon", "HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 0\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        ("cut in the head", "HTTP/1.1 200 OK\r\nX: 1"),
        ("cut in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        ("cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc"),
    ] {
        cases.push(direct_raw("§3.4", &format!("broken: {name}"), bytes).status(502).gives("Content-Type: application/json; charset=utf-8"));
    }
}

fn limits(cases: &mut Vec<Case>) {
    cases.push(direct_raw("§11.55", "as long as may be", said("", &"b".repeat(3000))).answer("b".repeat(3000)));
    let long = "function response body too large";
    cases.push(direct_raw("§11.55", "one byte more", said("", &"b".repeat(3001))).status(502).answer(long).lacks("Content-Length: 3001"));
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbb9\r\n{}\r\n0\r\n\r\n", "b".repeat(3001));
    cases.push(direct_raw("§3.4", "one byte more, in chunks", chunked).status(502).answer(long));
    cases.push(direct_with("§3.4", "a long head", &format!("X-Long: {}¶", "v".repeat(1800))));
    cases
        .push(direct_with("§3.4", "a head over its limit", &format!("X-Long: {}¶", "v".repeat(2000))).status(502).answer("function response header too large"));
    cases.push(
        triggered("§3.4", "a head over its limit", &format!("Fn-Http-H-X: {}¶", "v".repeat(2000))).status(502).answer("function response header too large"),
    );
}

/// Spec http-api §3.4: what becomes of calls that do not end well.
fn ends(cases: &mut Vec<Case>) {
    for (door, line) in [("direct", "POST /invoke/@F"), ("trigger", "PUT /t/app/f?x")] {
        cases.push(
            case("§3.4", format!("{door}: over its time"), line, "X-Wait-Ms: 600000¶", "")
                .status(504)
                .answer("Timed out: the function ran longer than its timeout of 5 s"),
        );
        cases.push(case("§3.4", format!("{door}: it ends"), line, "X-Exit: 3¶", "").status(502).answer("error receiving function response"));
        cases.push(case("§3.4", format!("{door}: it ends well"), line, "X-Exit: 0¶", "").status(502).answer("error receiving function response"));
    }
}

/// Spec http-api §3.2.
fn by_trigger(cases: &mut Vec<Case>) {
    let two = "Fn-Http-H-Set-Cookie: a=1¶Fn-Http-H-Set-Cookie: b=2¶Fn-Http-H-X-A: 1¶fn-http-h-x-a: 2¶";
    cases.push(
        triggered("§3.2", "prefixed fields, every value", two)
            .gives("Set-Cookie: a=1")
            .gives("Set-Cookie: b=2")
            .gives("X-A: 1")
            .gives("x-a: 2")
            .lacks("Fn-Http"),
    );
    cases.push(
        triggered("§3.2", "others stay here", "X-Plain: 1¶Fn-Fdk-Version: x¶Fn-Fdk-Runtime: y¶Set-Cookie: z¶")
            .lacks("X-Plain")
            .lacks("Fn-Fdk")
            .lacks("Set-Cookie"),
    );
    cases.push(triggered("§3.2", "the type as it is", "Content-Type: application/x-foo¶").gives("Content-Type: application/x-foo"));
    cases.push(triggered("§3.2", "a prefixed type", "Fn-Http-H-Content-Type: text/html¶").gives("Content-Type: text/html"));
    cases.push(
        triggered("§3.2", "two types: the plain one", "Fn-Http-H-Content-Type: text/html¶Content-Type: text/x¶")
            .gives("Content-Type: text/x")
            .lacks("text/html"),
    );
    cases.push(triggered("§3.2", "no type is made up", "X: 1¶").lacks("Content-Type"));
    cases.push(triggered("§3.2", "the bare prefix", "Fn-Http-H-: 1¶").lacks("Fn-Http"));
    cases.push(triggered("§11.48", "a prefixed length", "Fn-Http-H-Content-Length: 99¶").gives("Content-Length: 2"));
    cases.push(triggered("§3.2", "a prefixed coding", "Fn-Http-H-Transfer-Encoding: chunked¶").gives("Content-Length: 2"));
    cases.push(
        triggered("§3.2", "a prefixed end", "Fn-Http-H-Connection: keep-alive¶Fn-Http-H-Keep-Alive: 5¶Fn-Http-H-Upgrade: h2c¶").lacks("eep-").lacks("Upgrade"),
    );
    cases.push(triggered("§3.2", "a prefixed call id", "Fn-Http-H-Fn-Call-Id: mine¶").lacks("mine"));
    cases.push(triggered("§3.2", "a prefixed prefix", "Fn-Http-H-Fn-Http-H-X: 1¶").gives("Fn-Http-H-X: 1"));
    let head = case("9110 §9.3.2", "trigger: HEAD has the length and no body", "HEAD /t/app/f", "", said("Fn-Http-H-X: 1¶", "hi"));
    cases.push(head.gives("Content-Length: 2").gives("X: 1"));
    let failed = |status: u16| format!("HTTP/1.1 {status} No\r\nFn-Http-Status: 201\r\nFn-Http-H-X: 1\r\nContent-Length: 2\r\n\r\nhi");
    for (status, want, text) in [(502, 502, "function failed"), (504, 504, "Timed out"), (404, 502, "invalid function response: status 404")] {
        let case = case("§3.2", format!("trigger: a failure's fields are not read ({status})"), "GET /t/app/f", "", failed(status));
        cases.push(case.status(want).answer(text).lacks("X: 1"));
    }
}

fn trigger_statuses(cases: &mut Vec<Case>) {
    let with = |value: &str| triggered("§3.2", &format!("Fn-Http-Status: {value}"), &format!("Fn-Http-Status: {value}¶"));
    for status in [200, 201, 202, 206, 299, 300, 301, 302, 307, 400, 401, 403, 405, 409, 418, 429, 451, 500, 501, 502, 503, 504, 511, 599] {
        cases.push(with(&status.to_string()).status(status));
    }
    // Its own 404, with the call's id, is not hob's.
    cases.push(with("404").status(404));
    for status in [204, 304] {
        cases.push(with(&status.to_string()).status(status).answer("").lacks("Content-Length"));
    }
    for value in ["abc", "0", "-1", "", "4.5", "0x20", "200 OK"] {
        cases.push(with(value).status(200));
    }
    for value in ["1", "99", "100", "101", "199", "600", "700", "999", "65736", "99999999999"] {
        cases.push(with(value).status(502).answer("invalid function response"));
    }
    cases.push(triggered("hob", "two statuses: the first", "Fn-Http-Status: 418¶Fn-Http-Status: 200¶").status(418));
}
