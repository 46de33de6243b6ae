//! Statuses and interim answers.

use super::{Case, case, endless, rep, say};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("200", "contract: 200 is an answer", [say("HTTP/1.1 200 OK¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case("200 without a body", "contract: 200 is an answer", [say("HTTP/1.1 200 OK¶Content-Length: 0¶¶")], &["200 "]),
        case("502", "contract: 502 is the function's failure", [say("HTTP/1.1 502 Bad¶Content-Length: 4¶¶evil")], &["502 function failed"]),
        case("504", "contract: 504 is the function's time-out", [say("HTTP/1.1 504 Late¶Content-Length: 4¶¶evil")], &["504 the function itself"]),
        case("502 in chunks", "contract: its body is dropped", [say("HTTP/1.1 502 Bad¶Transfer-Encoding: chunked¶¶4¶evil¶0¶¶")], &["502 function failed"]),
        case("502 until the close", "contract: its body is dropped", [say("HTTP/1.1 502 Bad¶¶evil"), "close".into()], &["502 function failed"]),
        case("502 with an endless body", "contract: 1 MiB of it is read", [say("HTTP/1.1 502 Bad¶¶"), endless("evil")], &["502 function failed"]),
        case(
            "502 with a body of 2 MB",
            "contract: 1 MiB of it is read",
            [say("HTTP/1.1 502 Bad¶Content-Length: 2000000¶¶"), rep(500_000, "evil")],
            &["502 function failed"],
        ),
        case("502 cut short", "§8", [say("HTTP/1.1 502 Bad¶Content-Length: 9¶¶evil"), "close".into()], &["502 function failed"]).goes(),
        case("502 with two lengths", "§6.3 (5)", [say("HTTP/1.1 502 Bad¶Content-Length: 4¶Content-Length: 5¶¶evil")], &["502 Content-Length"]).goes(),
        case("504 cut short", "§8", [say("HTTP/1.1 504 Late¶Content-Length: 9¶¶evil"), "close".into()], &["504 the function itself"]).goes(),
        case("switches protocols", "contract: 101 is no answer", [say("HTTP/1.1 101 Switch¶Upgrade: evil¶¶evil")], &["502 status 101"]),
    ];
    for status in ["201", "202", "204", "206", "301", "302", "303", "304", "400", "401", "404", "418", "429", "500", "501", "503", "505", "599", "600", "999"] {
        let answer = format!("HTTP/1.1 {status} evil¶Location: /evil¶Content-Length: 0¶¶");
        cases.push(case(status, "contract: only 200, 502 and 504", [say(&answer)], &[&format!("502 status {status}")]));
    }
    for status in ["000", "099", "20", "2000", "-20", "2o0", "", " 200", "0x8"] {
        let answer = format!("HTTP/1.1 {status} evil¶Content-Length: 4¶¶evil");
        cases.push(case(format!("status {status:?}"), "§4", [say(&answer)], &["502 the status line"]));
    }
    interim(&mut cases);
    cases
}

fn interim(cases: &mut Vec<Case>) {
    let last = || say("HTTP/1.1 200 OK¶Content-Length: 4¶¶pong");
    cases.push(case("an interim answer first", "9110 §15.2", [say("HTTP/1.1 100 Continue¶¶"), last()], &["200 pong"]));
    cases.push(case("hints first", "9110 §15.2", [say("HTTP/1.1 103 Hints¶Link: evil¶¶"), last()], &["200 pong"]));
    cases.push(case("sixteen interim answers", "contract: 16 are skipped", [rep(16, "HTTP/1.1 102 P¶¶"), last()], &["200 pong"]));
    cases.push(case("seventeen interim answers", "contract: 16 are skipped", [rep(17, "HTTP/1.1 102 P¶¶"), last()], &["502 too many interim"]));
    cases.push(case("interim answers without end", "contract: 16 are skipped", [endless("HTTP/1.1 100 C¶¶")], &["502 too many interim"]));
    cases.push(case("an interim answer and the end", "§8", [say("HTTP/1.1 100 C¶¶"), "close".into()], &["502 "]));
    cases.push(case(
        "an interim answer with a body",
        "9110 §15.2: it has none",
        [say("HTTP/1.1 100 C¶Content-Length: 4¶¶evil"), last()],
        &["502 the status line"],
    ));
}
