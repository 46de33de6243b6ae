//! Functions that die: before, during and after an answer.

use super::{Case, bare, case, rep, say, step};

pub(crate) fn cases() -> Vec<Case> {
    // Where the engine is late with its word, only what the socket says is known.
    let rule = "contract: the end of the container is the cause, if it is told within a second";
    let unknown = ["502 closed the connection", "502 cut short", "502 reset the connection"];
    let ended = |code: i32| -> Vec<String> { [&format!("502 exited with code {code}")[..]].iter().chain(&unknown).map(|a| (*a).to_owned()).collect() };
    let case = |name: String, steps: String, code: i32| Case { allowed: ended(code), ..case(name, rule, [steps], &["502 "]) };
    let mut cases = Vec::new();
    for code in [0, 1, 3, 255] {
        cases.push(case(format!("exit {code}"), step(&format!("exit:{code}")), code));
    }
    for (number, name) in [(2, "SIGINT"), (4, "SIGILL"), (6, "SIGABRT"), (9, "SIGKILL"), (15, "SIGTERM"), (31, "SIGSYS")] {
        cases.push(case(name.to_owned(), format!("signal:{number};hang"), 128 + number));
    }
    let three = |name: &str, steps: &[String]| case(name.to_owned(), steps.join(";") + ";exit:3", 3);
    cases.extend([
        three("in the first line", &[say("HTTP/1.1 2")]),
        three("in the head", &[say("HTTP/1.1 200 OK¶Content-Le")]),
        three("in the body", &[say("HTTP/1.1 200 OK¶Content-Length: 9¶¶evil")]),
        three("in a chunk", &[say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶9¶evil")]),
        three("after an interim answer", &[say("HTTP/1.1 100 C¶¶")]),
        three("before the request is read", &["unread".into()]).body(2_000_000),
        three("and its children live on", &["forks".into()]),
        three("and says why", &[step("print:err,cannot go on")]),
    ]);
    cases.extend(in_and_after_an_answer());
    cases
}

fn in_and_after_an_answer() -> [Case; 6] {
    let whole = "contract: a whole answer is one, whatever becomes of the function";
    [
        case("in a long body", "§8", [say("HTTP/1.1 200 OK¶Content-Length: 200000¶¶"), rep(100_000, "x"), step("exit:3")], &["cut"]),
        case(
            "killed in a long body",
            "§8",
            [say("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶186A0¶"), rep(100_000, "x"), step("signal:9"), "hang".into()],
            &["cut"],
        ),
        // The next call may still be answered before it ends.
        case("after its answer", whole, [bare("last"), step("exit:3")], &["200 last"]).either(),
        case("killed after its answer", whole, [bare("last"), step("signal:9"), "hang".into()], &["200 last"]).either(),
        case("at the end of a body until the close", whole, [say("HTTP/1.1 200 OK¶¶last"), step("exit:0")], &["200 last"]).goes(),
        case("a moment after its answer", whole, [bare("last"), "aside".into(), super::wait(30), step("exit:3")], &["200 last"]).spoils(),
    ]
}
