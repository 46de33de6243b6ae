//! First lines and fields.

use super::{Case, case, endless, pong, rep, say};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("no reason, no blank", "§4", [say("HTTP/1.1 200¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case("no reason", "§4", [say("HTTP/1.1 200 ¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case("HTTP/1.0 with a length", "§2.3", [say("HTTP/1.0 200 OK¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case("HTTP/1.0 that says keep-alive", "§9.3", [say("HTTP/1.0 200 OK¶Connection: keep-alive¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case("HTTP/1.0 until the close", "§6.3 (8)", [say("HTTP/1.0 200 OK¶¶pong"), "close".into()], &["200 pong"]),
        case("says close and stays", "§9.6", [pong("Connection: close¶Content-Length: 4¶")], &["200 pong"]),
        case("128 fields", "contract: at most 128", [say("HTTP/1.1 200 OK¶"), rep(127, "a: b¶"), say("Content-Length: 4¶¶pong")], &["200 pong"]),
        case("129 fields", "contract: at most 128", [say("HTTP/1.1 200 OK¶"), rep(128, "a: b¶"), say("Content-Length: 4¶¶evil")], &["502 128 header fields"]),
        case("10,000 fields", "contract: at most 128", [say("HTTP/1.1 200 OK¶"), rep(10_000, "a: b¶")], &["502 header"]),
        case("a head of 60 KB", "contract: at most 64 KiB", [say("HTTP/1.1 200 OK¶A: "), rep(60_000, "x"), say("¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case(
            "a head of 66 KB",
            "contract: at most 64 KiB",
            [say("HTTP/1.1 200 OK¶A: "), rep(66_000, "x"), say("¶Content-Length: 4¶¶evil")],
            &["502 FN_MAX_HDR_RESPONSE_SIZE"],
        ),
        case("a head without end", "contract: at most 64 KiB", [say("HTTP/1.1 200 OK¶A: "), endless("evil")], &["502 FN_MAX_HDR_RESPONSE_SIZE"]),
        case("fields without end", "contract: at most 128", [say("HTTP/1.1 200 OK¶"), endless("evil: 1¶")], &["502 "]),
        case("a reason without end", "contract: at most 64 KiB", [say("HTTP/1.1 200 "), endless("evil")], &["502 FN_MAX_HDR_RESPONSE_SIZE"]),
        case("a first line without end", "§4", [endless("evil")], &["502 the status line"]),
        case("an empty line before", "§4", [say("¶HTTP/1.1 200 OK¶Content-Length: 4¶¶evil")], &["502 the status line"]),
        case("half a head and the end", "§8", [say("HTTP/1.1 200 OK¶Content-Le"), "close".into()], &["502 cut short"]),
        case("a head without its empty line", "§8", [say("HTTP/1.1 200 OK¶Content-Length: 4¶"), "close".into()], &["502 cut short"]),
    ];
    let first_lines = [
        ("binary", "\u{1}\u{2}\u{ff}evil¶¶"),
        ("the start of TLS", "\u{16}\u{3}\u{1}evil¶¶"),
        ("HTTP/0.9", "evil, and nothing else¶¶"),
        ("an HTTP/2 preface", "PRI * HTTP/2.0¶¶SM¶¶"),
        ("an HTTP/2 frame", "\u{0}\u{0}\u{0}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}evil"),
        ("HTTP/2.0", "HTTP/2.0 200 OK¶Content-Length: 4¶¶evil"),
        ("HTTP/1.2", "HTTP/1.2 200 OK¶Content-Length: 4¶¶evil"),
        ("HTTP/3", "HTTP/3 200 OK¶¶evil"),
        ("lower case", "http/1.1 200 OK¶Content-Length: 4¶¶evil"),
        ("another protocol", "ICY 200 OK¶Content-Length: 4¶¶evil"),
        ("a request", "POST /evil HTTP/1.1¶Host: evil¶Content-Length: 4¶¶evil"),
        ("a tab after the version", "HTTP/1.1\t200 OK¶Content-Length: 4¶¶evil"),
        ("two blanks after the version", "HTTP/1.1  200 OK¶Content-Length: 4¶¶evil"),
        ("a NUL in the reason", "HTTP/1.1 200 e\u{0}vil¶Content-Length: 4¶¶evil"),
        ("a bare CR in the reason", "HTTP/1.1 200 e\rvil¶Content-Length: 4¶¶evil"),
        ("only empty lines", "¶¶¶¶"),
    ];
    for (name, answer) in first_lines {
        cases.push(case(name, "§4, §2.3", [say(answer)], &["502 invalid function response"]));
    }
    fields(&mut cases);
    cases
}

fn fields(cases: &mut Vec<Case>) {
    let bad = [
        ("lines that end in LF", "§2.2", "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil"),
        ("one line that ends in LF", "§2.2", "HTTP/1.1 200 OK¶A: b\nContent-Length: 4¶¶evil"),
        ("an LF in a value", "9110 §5.5", "HTTP/1.1 200 OK¶A: b\nevil: c¶Content-Length: 4¶¶evil"),
        ("a bare CR in a value", "§2.2", "HTTP/1.1 200 OK¶A: b\revil: c¶Content-Length: 4¶¶evil"),
        ("a NUL in a value", "9110 §5.5", "HTTP/1.1 200 OK¶A: b\u{0}evil¶Content-Length: 4¶¶evil"),
        ("a control character in a value", "9110 §5.5", "HTTP/1.1 200 OK¶A: \u{8}evil¶Content-Length: 4¶¶evil"),
        ("DEL in a value", "9110 §5.5", "HTTP/1.1 200 OK¶A: \u{7f}evil¶Content-Length: 4¶¶evil"),
        ("a folded line", "§5.2", "HTTP/1.1 200 OK¶A: b¶ evil¶Content-Length: 4¶¶evil"),
        ("a line folded by a tab", "§5.2", "HTTP/1.1 200 OK¶A: b¶\tevil: c¶Content-Length: 4¶¶evil"),
        ("a folded first field", "§2.2", "HTTP/1.1 200 OK¶ evil: b¶Content-Length: 4¶¶evil"),
        ("a blank before the colon", "§5.1", "HTTP/1.1 200 OK¶Content-Length : 4¶¶evil"),
        ("a tab before the colon", "§5.1", "HTTP/1.1 200 OK¶Transfer-Encoding\t: chunked¶¶0¶¶"),
        ("no colon", "§5", "HTTP/1.1 200 OK¶evil¶Content-Length: 4¶¶evil"),
        ("no name", "9110 §5.1", "HTTP/1.1 200 OK¶: evil¶Content-Length: 4¶¶evil"),
        ("a blank in a name", "9110 §5.1", "HTTP/1.1 200 OK¶ev il: b¶Content-Length: 4¶¶evil"),
        ("a NUL in a name", "9110 §5.1", "HTTP/1.1 200 OK¶ev\u{0}il: b¶Content-Length: 4¶¶evil"),
        ("a CR in a name", "9110 §5.1", "HTTP/1.1 200 OK¶ev\ril: b¶Content-Length: 4¶¶evil"),
        ("brackets in a name", "9110 §5.1", "HTTP/1.1 200 OK¶ev(il): b¶Content-Length: 4¶¶evil"),
        ("a name of other letters", "9110 §5.1", "HTTP/1.1 200 OK¶\u{e9}vil: b¶Content-Length: 4¶¶evil"),
    ];
    for (name, rule, answer) in bad {
        cases.push(case(name, rule, [say(answer)], &["502 invalid function response"]));
    }
}
