//! Against the deadline: nothing, too late, byte by byte.

use super::{Case, bare, case, drip, say, step, wait};

pub(crate) fn cases() -> Vec<Case> {
    let rule = "contract: the call's deadline is absolute";
    let late = &["504 Timed out: the function ran longer"];
    let long = "d".repeat(500);
    vec![
        case("never", rule, ["hang".into()], late),
        case("never, and the request is not read", rule, ["unread".into(), "hang".into()], late).body(2_000_000),
        case("half a head, then nothing", rule, [say("HTTP/1.1 200 OK¶Content-Le"), "hang".into()], late),
        case("a head, then nothing", rule, [say("HTTP/1.1 200 OK¶Content-Length: 4¶¶"), "hang".into()], late),
        case("half a body, then nothing", rule, [say("HTTP/1.1 200 OK¶Content-Length: 4¶¶ev"), "hang".into()], late),
        case("half a chunk, then nothing", rule, [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶4¶ev"), "hang".into()], late),
        case("all but the last line end", rule, [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶4¶evil¶0¶"), "hang".into()], late),
        case("until a close that never comes", rule, [say("HTTP/1.1 200 OK¶¶evil"), "hang".into()], late),
        case("a first line that drips", rule, [drip(30, &format!("HTTP/1.1 200 {long}"))], late),
        case("fields that drip", rule, [drip(30, &format!("HTTP/1.1 200 OK¶A: {long}"))], late),
        case("a body that drips", rule, [say("HTTP/1.1 200 OK¶Content-Length: 500¶¶"), drip(30, &long)], late),
        case("a size line that drips", rule, [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶"), drip(300, "0000000000004¶")], late),
        case("an extension that drips", rule, [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶4;"), drip(30, &long)], late),
        case("trailers that drip", rule, [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶0¶A: "), drip(30, &long)], late),
        case("interim answers that drip", rule, [drip(5, &"HTTP/1.1 100 C¶¶".repeat(16)), "hang".into()], late),
        case("a streamed body that stops", rule, [say("HTTP/1.1 200 OK¶Content-Length: 200000¶¶"), super::rep(100_000, "x"), "hang".into()], &["cut"]),
        case("too late, to the next caller", rule, [wait(60_000), bare("evil")], late),
        case("too late, and then for ever", rule, [wait(60_000), super::endless("HTTP/1.1 200 OK¶Content-Length: 4¶¶evil")], late),
        case("stops itself", rule, [step("signal:19"), wait(60_000), bare("evil")], late),
        case("ignores SIGTERM", rule, ["ignore-term".into(), "hang".into()], late),
        case("stops reading its socket", rule, ["no-accept".into(), bare("last")], &["200 last"]).spoils(),
        case(
            "a failure whose body drips",
            "contract: a second for the body of a 502",
            [say("HTTP/1.1 502 Bad¶Content-Length: 500¶¶"), drip(30, &long)],
            &["502 function failed"],
        )
        .goes(),
    ]
}

/// On kept connections: nothing that bears the call's id.
pub(crate) fn on_kept_connections() -> Vec<Case> {
    let rule = "contract: on a kept connection only the own id counts";
    vec![
        case("an answer without the id", rule, [bare("evil")], &["504 Timed out"]),
        case("another's answer", rule, [say("HTTP/1.1 200 OK¶Fn-Call-Id: 01HF7YAT3V180G40RZJ0000001¶Content-Length: 4¶¶evil")], &["504 Timed out"]),
        case("a failure without the id", rule, [say("HTTP/1.1 502 Bad¶Content-Length: 0¶¶")], &["504 Timed out"]),
    ]
}
