//! Which trigger a path means (spec http-api §3.2): exact, by the decoded
//! path, nothing cleaned.

use super::{Case, case};

/// What there is. All lead to one function: which one was meant is seen by
/// what is answered at all.
pub(crate) const SOURCES: &[&str] =
    &["/", "/hello", "/hello/deep", "/slash/", "/a b", "/x/y", "/grüße/世界", "/q?x=1", "/100%", "/dot/./seg", "/plus+", "/Case", "/semi;a=b", "//two"];

const FOUND: &[(&str, &str)] = &[
    ("the root", "/t/app"),
    ("the root with a slash", "/t/app/"),
    ("the root with a query", "/t/app?x=/hello"),
    ("a source", "/t/app/hello"),
    ("with a query", "/t/app/hello?a=b&c"),
    ("with an empty query", "/t/app/hello?"),
    ("with a query that looks like a path", "/t/app/hello?/../../x"),
    ("with a fragment, which no client should send", "/t/app/hello#more"),
    ("longer than another", "/t/app/hello/deep"),
    ("with its own slash at the end", "/t/app/slash/"),
    ("an escaped blank", "/t/app/a%20b"),
    ("an escaped slash", "/t/app/x%2Fy"),
    ("an escaped slash in small letters", "/t/app/x%2fy"),
    ("needless escapes", "/t/app/%68%65llo"),
    ("escapes in the app's name", "/t/%61pp/hello"),
    ("an escaped slash after the app", "/t/app%2Fhello"),
    ("letters of all alphabets", "/t/app/gr%C3%BC%C3%9Fe/%E4%B8%96%E7%95%8C"),
    ("a question mark of its own", "/t/app/q%3Fx=1"),
    ("a percent sign of its own", "/t/app/100%25"),
    ("a dot segment of its own", "/t/app/dot/./seg"),
    ("a plus is a plus", "/t/app/plus+"),
    ("an escaped plus", "/t/app/plus%2B"),
    ("capitals", "/t/app/Case"),
    ("a parameter is part of it", "/t/app/semi;a=b"),
    ("two slashes of its own", "/t/app//two"),
    ("a whole URL", "http://other.t/t/app/hello"),
];

const MISSED: &[(&str, &str)] = &[
    ("below a source", "/t/app/hello/more"),
    ("a slash at the end", "/t/app/hello/"),
    ("a slash missing at the end", "/t/app/slash"),
    ("below the root", "/t/app/nothing"),
    ("other letters", "/t/app/HELLO"),
    ("other letters of capitals", "/t/app/case"),
    ("two slashes", "/t/app//hello"),
    ("a dot segment", "/t/app/./hello"),
    ("two dots", "/t/app/x/../hello"),
    ("two dots out of the app", "/t/app/../app/hello"),
    ("two escaped dots", "/t/app/x/%2e%2e/hello"),
    ("dots resolved", "/t/app/dot/seg"),
    ("a plus for a blank", "/t/app/a+b"),
    ("escaped twice", "/t/app/a%2520b"),
    ("a blank at the end", "/t/app/hello%20"),
    ("NUL at the end", "/t/app/hello%00"),
    ("bytes of no alphabet", "/t/app/%ff"),
    ("a letter made of two", "/t/app/gru%CC%88%C3%9Fe/%E4%B8%96%E7%95%8C"),
    ("a parameter", "/t/app/hello;a=b"),
    ("a source's beginning", "/t/app/hell"),
];

const NO_APP: &[(&str, &str)] = &[
    ("another app", "/t/other/hello"),
    ("other letters", "/t/App/hello"),
    ("a blank", "/t/app%20/hello"),
    ("a trigger without an app", "/t/hello"),
    ("dots", "/t/../t/app/hello"),
    ("the app by its id", "/t/01HF7YAT3V180G40RZJ0000001/hello"),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, path) in FOUND {
        cases.push(case("§3.2", format!("found: {name}"), &format!("GET {path}"), "", "in").sees("~\r\n\r\nin"));
    }
    for (name, path) in MISSED {
        cases.push(case("§3.2", format!("missed: {name}"), &format!("POST {path}"), "", "in").status(404).answer("Trigger not found"));
    }
    for (name, path) in NO_APP {
        cases.push(case("§3.2", format!("no app: {name}"), &format!("GET {path}"), "", "").status(404).answer("App not found"));
    }
    for (name, path) in
        [("no app", "/t/"), ("an empty app", "/t//hello"), ("nothing", "/t"), ("other letters", "/T/app/hello"), ("two slashes", "//t/app/hello")]
    {
        cases.push(case("§1.2", format!("no route: {name}"), &format!("GET {path}"), "", "").status(404).answer(format!("Path not found: GET {path}")));
    }
    for method in ["GET", "POST", "PUT", "PATCH", "OPTIONS", "DELETE", "CONNECT", "TRACE"] {
        cases.push(case("§1.1", format!("by {method}"), &format!("{method} /t/app/hello"), "", "").sees(format!("Fn-Http-Method: {method}")));
    }
    cases.push(case("§1.1", "by HEAD", "HEAD /t/app/hello", "", ""));
    for method in ["FOO", "get", "PROPFIND", "LINK"] {
        cases.push(
            case("§3.2", format!("by {method}"), &format!("{method} /t/app/hello"), "", "")
                .status(405)
                .answer(format!("Method not allowed: {method} /t/app/hello")),
        );
    }
    cases
}
