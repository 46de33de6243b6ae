//! `POST /invoke/:fn_id`: which request reaches the function (spec http-api
//! §3.1), and what does not become a call.

use super::{Case, case};

const INVOKE: &str = "POST /invoke/@F";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    fields(&mut cases);
    ours(&mut cases);
    bodies(&mut cases);
    targets(&mut cases);
    limits(&mut cases);
    cases
}

fn call(rule: &'static str, name: &str, fields: &str, body: &str) -> Case {
    case(rule, name, INVOKE, fields, body)
}

fn fields(cases: &mut Vec<Case>) {
    for (name, line) in [
        ("a content type", "Content-Type: application/json; charset=utf-8"),
        ("credentials", "Authorization: Bearer z"),
        ("cookies", "Cookie: c=1; d=2"),
        ("what is accepted", "Accept: text/html;q=0.8, */*"),
        ("the coding that is accepted", "Accept-Encoding: br, gzip"),
        ("who asks", "User-Agent: curl/7"),
        ("another's deadline", "X-Request-Deadline: 5"),
        ("a trace", "X-B3-Traceid: 80f198ee56343ba864fe8b2a57d3eff7"),
        ("a condition", "If-None-Match: \"abc\", W/\"def\""),
        ("a range", "Range: bytes=0-99"),
        ("an origin, without CORS", "Origin: http://elsewhere.t"),
        ("an empty value", "X-Empty: "),
        ("a name with an underscore", "X_under: 1"),
        ("commas and quotes", "X-List: a, \"b,c\", d"),
        ("an intent: the fn tool sends it", "Fn-Intent: cloudevent"),
        ("a gateway's field: a direct caller may act as one", "Fn-Http-H-Foo: bar"),
        ("a gateway's method", "Fn-Http-Method: PUT"),
        ("a gateway's URL", "Fn-Http-Request-Url: http://x/y?z"),
        ("an unknown field of the platform", "Fn-Whatever: 1"),
        ("TE of trailers", "Te: trailers"),
    ] {
        cases.push(call("§3.1", &format!("as it is: {name}"), &format!("{line}¶"), "").sees(line));
    }
    let capitals = call("§3.7", "names are written in canonical capitals", "x-custom-FIELD: Value¶CONTENT-TYPE: Text/X¶", "");
    cases.push(capitals.sees("X-Custom-Field: Value").sees("Content-Type: Text/X"));
    cases.push(call("§3.1", "every value of a name, in order", "X-Many: b¶X-Other: 1¶x-many: a¶", "").sees("~X-Many: b\r\n").sees("~X-Many: a\r\n"));
    cases.push(call("§3.1", "bytes above ASCII", "X-Bytes: gr\u{fc}\u{df}e \u{ff}¶", "").sees("X-Bytes: gr\u{fc}\u{df}e \u{ff}"));
    cases.push(call("§3.1", "a long value", &format!("X-Long: {}¶", "v".repeat(2400)), "").sees(format!("X-Long: {}", "v".repeat(2400))));
    cases.push(call("§3.1", "nothing is put in", "", "").unseen("User-Agent").unseen("Accept").unseen("Content-Type").unseen("Te:"));
    for line in [
        "Connection: keep-alive",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Proxy-Authorization: Basic x",
        "TE: gzip",
        "Trailer: X-Sum",
        "Upgrade: websocket",
    ] {
        let name = line.split(':').next().expect("a name");
        // `Te` also ends words: with the colon.
        cases.push(
            call("§3.1", &format!("hop-by-hop: {name}"), &format!("{line}¶X-Stays: 1¶"), "")
                .unseen(format!("\r\n{name}:"))
                .unseen("\r\nTe:")
                .sees("X-Stays: 1"),
        );
    }
    cases.push(call("9110 §7.6.1", "hop-by-hop: named by Connection", "Connection: X-Gone, close¶X-Gone: 1¶", "").unseen("X-Gone"));
    cases.push(call("§3.1", "the client's Host", "X-Stays: 1¶", "").unseen("h:1"));
    cases.push(call("hob", "Expect was between the client and hob", "Expect: 100-continue¶", "x").unseen("Expect").sees("~\r\n\r\nx"));
}

/// What only the server says.
fn ours(cases: &mut Vec<Case>) {
    cases.push(call("§3.1", "a forged call id", "Fn-Call-Id: 01HF7YAT3V180G40RZJ0000001¶", "").unseen("01HF7YAT3V180G40RZJ0000001"));
    cases.push(call("§3.1", "a forged call id in other letters", "fN-cALL-iD: mine¶", "").unseen("mine"));
    cases.push(call("§3.1", "a forged deadline", "Fn-Deadline: 2100-01-01T00:00:00Z¶", "").unseen("2100-01-01"));
    cases.push(call("§3.1", "two forged deadlines", "Fn-Deadline: zz¶fn-deadline: zz¶", "").unseen("zz"));
    cases.push(call("hob", "Fn-Timing is for hob", "Fn-Timing: 1¶", "").unseen("Fn-Timing"));
    for value in ["sync", "DETACHED", "Detached", "async", "detached, sync", ""] {
        let line = format!("Fn-Invoke-Type: {value}");
        cases.push(call("§3.1", &format!("not detached: {value:?}"), &format!("{line}¶"), "in").sees(line).sees("~\r\n\r\nin"));
    }
    let detached = call("§3.3", "detached", "Fn-Invoke-Type: detached¶", "in").status(202).answer("");
    cases.push(detached.gives("Content-Length: 0").lacks("Content-Type"));
}

fn bodies(cases: &mut Vec<Case>) {
    cases.push(call("§3.1", "an empty body", "", "").sees("Content-Length: 0"));
    cases.push(call("§3.1", "a body", "", "{\"a\": 1}").sees("Content-Length: 8").sees("~\r\n\r\n{\"a\": 1}"));
    let all: Vec<u8> = (0..=255).collect();
    let every: String = all.iter().map(|b| char::from(*b)).collect();
    cases.push(case("§3.1", "every byte", INVOKE, "", &all).sees(format!("~\r\n\r\n{every}")));
    let chunked = "Transfer-Encoding: chunked¶";
    cases.push(call("§3.1", "chunks", chunked, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").sees("Content-Length: 5").sees("~\r\n\r\nabcde"));
    cases.push(call("§3.1", "no chunks", chunked, "0\r\n\r\n").sees("Content-Length: 0"));
    let trailers = call("§3.1", "trailers", chunked, "1\r\na\r\n0\r\nX-Trail: 1\r\nFn-Call-Id: x\r\n\r\n");
    cases.push(trailers.sees("Content-Length: 1").unseen("X-Trail"));
    cases
        .push(call("§3.1", "a body that looks like a request", "", "POST /call HTTP/1.0\r\nX: y\r\n\r\n").sees("~\r\n\r\nPOST /call HTTP/1.0\r\nX: y\r\n\r\n"));
    cases.push(call("§3.1", "a coded body", "Content-Encoding: gzip¶", "\u{1f}not gzip").sees("Content-Encoding: gzip"));
}

fn targets(cases: &mut Vec<Case>) {
    for query in ["?x=secret", "?", "?secret", "?a=secret&a=b", "?%zz=secret", "?a[]=secret;b&&=", "?a=%00secret", "?x=/../secret?y", "#secret"] {
        let name = format!("the query is dropped: {query}");
        cases.push(case("§3.1", name, &format!("{INVOKE}{query}"), "", "in").unseen("secret").sees("~\r\n\r\nin"));
    }
    cases.push(case("§1.2", "routed by the decoded path", "POST /%69nvoke/@F", "", "in").sees("~\r\n\r\nin"));
    cases.push(case("9112 §3.2.2", "a whole URL", "POST http://other:9/invoke/@F?x", "", "in").sees("~\r\n\r\nin").unseen("other"));
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "post"] {
        let refused = case("§1.2", format!("by {method}"), &format!("{method} /invoke/@F"), "", "").status(405);
        cases.push(refused.answer(format!("Method not allowed: {method} /invoke/")).lacks("Allow:"));
    }
    cases.push(case("§1.2", "by HEAD", "HEAD /invoke/@F", "", "").status(405));
    for (name, line, text) in [
        ("an unknown id", "POST /invoke/01HF7YAT3V180G40RZJ0000001", "Fn not found"),
        ("no id", "POST /invoke/mirror", "Fn not found"),
        ("an id and a blank", "POST /invoke/@F%20", "Fn not found"),
        ("an id and NUL", "POST /invoke/@F%00", "Fn not found"),
        ("a longer id", "POST /invoke/@F0", "Fn not found"),
        ("letters of all alphabets", "POST /invoke/gr%C3%BC%C3%9Fe", "Fn not found"),
        ("bytes of none", "POST /invoke/%ff%fe", "Fn not found"),
        ("a slash after it", "POST /invoke/@F/", "Path not found: POST /invoke/"),
        ("more after it", "POST /invoke/@F/x", "Path not found: POST /invoke/"),
        ("an escaped slash after it", "POST /invoke/@F%2Fx", "Path not found: POST /invoke/"),
        ("nothing", "POST /invoke/", "Path not found: POST /invoke/"),
        ("another case", "POST /Invoke/@F", "Path not found: POST /Invoke/"),
        ("two slashes", "POST //invoke/@F", "Path not found: POST //invoke/"),
        ("dots", "POST /./invoke/@F", "Path not found: POST /./invoke/"),
    ] {
        cases.push(case("§1.2, §2.1", format!("nothing there: {name}"), line, "", "in").status(404).answer(text));
    }
    let bad = "Bad request: the path has a % that is not followed by two hex digits";
    cases.push(case("hob", "a bad escape", "POST /invoke/%4", "", "").status(400).answer(bad));
}

fn limits(cases: &mut Vec<Case>) {
    cases.push(case("§11.54", "a body as long as may be", INVOKE, "X-Exactly: 1¶", "a".repeat(2700)).sees("Content-Length: 2700"));
    let text = "Content-Length too large for this server, 5001 > max 5000";
    cases.push(case("§2.1, §3.4", "one byte more than may be", INVOKE, "", "a".repeat(5001)).status(413).answer(text));
    let chunks = format!("1389\r\n{}\r\n0\r\n\r\n", "a".repeat(5001));
    cases.push(
        case("§11.54", "one byte more, in chunks", INVOKE, "Transfer-Encoding: chunked¶", chunks)
            .status(413)
            .answer("Content-Length too large for this server"),
    );
    cases.push(case("§3.3", "detached, and one byte more", INVOKE, "Fn-Invoke-Type: detached¶", "a".repeat(5001)).status(413).answer(text));
}
