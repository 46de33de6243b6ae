//! Answers that come early, twice, late, to the next caller, in another's name.

use super::{Case, bare, case, endless, ok, rep, say, step, wait};

const OTHER: &str = "01HF7YAT3V180G40RZJ0000001";

fn stray() -> String {
    say("HTTP/1.1 200 OK¶Content-Length: 4¶¶evil")
}

/// On a connection that carried nothing before: what comes first is the answer.
pub(crate) fn on_fresh_connections() -> Vec<Case> {
    let rule = "contract: a connection for each call";
    vec![
        case("twice", rule, [bare("first"), bare("evil")], &["200 first"]),
        case("three times", rule, [bare("first"), bare("evil"), bare("evil")], &["200 first"]),
        case("twice, the second cut", rule, [bare("first"), say("HTTP/1.1 200 OK¶Content-Length: 9¶¶evil"), "close".into()], &["200 first"]),
        case("again a moment later", rule, [bare("first"), "aside".into(), wait(30), stray()], &["200 first"]),
        case("again and again", rule, [bare("first"), "aside".into(), wait(10), endless("HTTP/1.1 200 OK¶Content-Length: 4¶¶evil")], &["200 first"]),
        case("in another call's name", rule, [say(&format!("HTTP/1.1 200 OK¶Fn-Call-Id: {OTHER}¶Content-Length: 4¶¶mine"))], &["200 mine"]),
        case("with two ids", rule, [say(&format!("HTTP/1.1 200 OK¶Fn-Call-Id: @I¶Fn-Call-Id: {OTHER}¶Content-Length: 4¶¶mine"))], &["200 mine"]),
        // Kept, and closed while the next request may be on its way: an error, at worst.
        case("with its id, then closed", rule, [ok("mine"), "close".into()], &["200 mine"]).either(),
        case("before the body is read", "contract: the answer may come early", ["unread".into(), bare("early"), "read".into()], &["200 early"]).body(2_000_000),
        case("without ever reading the body", "contract: the answer may come early", ["unread".into(), bare("early")], &["200 early"]).body(2_000_000),
        case(
            "and closed without reading the body",
            "contract: the answer may come early",
            ["unread".into(), bare("early"), "close".into()],
            &["200 early", "502 "],
        )
        .body(2_000_000),
        case("a failure before the body is read", "contract: 502", ["unread".into(), say("HTTP/1.1 502 Bad¶Content-Length: 0¶¶")], &["502 function failed"])
            .body(2_000_000),
        case(
            "a long answer before the body is read",
            "contract: the answer may come early",
            ["unread".into(), say("HTTP/1.1 200 OK¶Content-Length: 300000¶¶"), rep(300_000, "x")],
            &["200 #300000"],
        )
        .body(2_000_000),
    ]
}

/// On a connection kept because the answers before bore their calls' ids: what
/// does not bear this call's is not its answer.
pub(crate) fn on_kept_connections() -> Vec<Case> {
    let rule = "contract: on a kept connection only the own id counts";
    let foreign = |body: &str| say(&format!("HTTP/1.1 200 OK¶Fn-Call-Id: {OTHER}¶Content-Length: 4¶¶{body}"));
    let kept = "HTTP/1.1 200 OK¶Content-Length: 4¶Fn-Call-Id: ";
    vec![
        case("an answer without an id first", rule, [bare("evil"), ok("mine")], &["200 mine"]),
        case("another's answer first", rule, [foreign("evil"), ok("mine")], &["200 mine"]),
        case("another's failure first", rule, [say(&format!("HTTP/1.1 502 Bad¶Fn-Call-Id: {OTHER}¶Content-Length: 4¶¶evil")), ok("mine")], &["200 mine"]),
        case("another's answer in chunks first", rule, [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶4¶evil¶0¶¶"), ok("mine")], &["200 mine"]),
        case("another's invalid status first", rule, [say("HTTP/1.1 404 No¶Content-Length: 4¶¶evil"), ok("mine")], &["200 mine"]),
        case("interim answers, another's, then its own", rule, [say("HTTP/1.1 100 C¶¶"), foreign("evil"), say("HTTP/1.1 103 H¶¶"), ok("mine")], &["200 mine"]),
        case("sixteen of others first", rule, [rep(16, "HTTP/1.1 200 OK¶Content-Length: 4¶¶evil"), ok("mine")], &["200 mine"]),
        case("seventeen of others first", rule, [rep(17, "HTTP/1.1 200 OK¶Content-Length: 4¶¶evil"), ok("mine")], &["502 too many"]),
        case("its id twice, then once", rule, [say("HTTP/1.1 200 OK¶Fn-Call-Id: @I¶Fn-Call-Id: @I¶Content-Length: 4¶¶evil"), ok("mine")], &["200 mine"]),
        case("its id and more, then alone", rule, [say(&format!("{kept}@Ix¶¶evil")), ok("mine")], &["200 mine"]),
        case("its id quoted, then plain", rule, [say(&format!("{kept}\"@I\"¶¶evil")), ok("mine")], &["200 mine"]),
        case("its id with blanks around", "9110 §5.5", [say(&format!("{kept}\t @I \t¶¶mine"))], &["200 mine"]),
        case("twice with its id", rule, [ok("first"), ok("evil")], &["200 first"]),
        case("twice with its id, the second a moment later", rule, [ok("first"), "aside".into(), wait(20), ok("evil")], &["200 first"]).spoils(),
        case("half an answer a moment later", rule, [ok("first"), "aside".into(), wait(20), say("HTTP/1.1 200 OK¶Content-Le")], &["200 first"]).spoils(),
        case("bytes without end a moment later", rule, [ok("first"), "aside".into(), wait(20), endless("evil")], &["200 first"]).spoils(),
        case(
            "its own answer again and again",
            rule,
            [ok("first"), "aside".into(), endless("HTTP/1.1 200 OK¶Fn-Call-Id: @I¶Content-Length: 4¶¶evil")],
            &["200 first"],
        )
        .spoils(),
        case("closes a moment later", rule, [ok("mine"), "aside".into(), wait(20), "close".into()], &["200 mine"]).spoils(),
        case("another's answer cut", "§8", [say(&format!("HTTP/1.1 200 OK¶Fn-Call-Id: {OTHER}¶Content-Length: 9¶¶evil")), "close".into()], &["502 cut short"]),
        case("another's answer without end", rule, [say("HTTP/1.1 200 OK¶¶"), endless("evil")], &["504 Timed out"]).goes(),
        case("a head that says close", "§9.6", [say("HTTP/1.1 200 OK¶Fn-Call-Id: @I¶Connection: close¶Content-Length: 4¶¶mine")], &["200 mine"]),
        case("by HTTP/1.0", "§9.3", [say("HTTP/1.0 200 OK¶Fn-Call-Id: @I¶Content-Length: 4¶¶mine")], &["200 mine"]),
        case("until the close", "§6.3 (8)", [say("HTTP/1.1 200 OK¶Fn-Call-Id: @I¶¶mine"), "close".into()], &["200 mine"]),
        case(
            "keeps the connection it was to close",
            rule,
            [say("HTTP/1.1 200 OK¶Fn-Call-Id: @I¶Content-Length: 4¶¶mine"), step("aside"), wait(20), rep(3, "evil")],
            &["200 mine"],
        )
        .spoils(),
    ]
}
