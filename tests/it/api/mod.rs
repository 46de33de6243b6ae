//! The management API of the running server, rule by rule: each case names the
//! section of the protocol's description (spec http-api) that it guards.

mod apps;
mod fns;
mod limits;
mod lists;
mod metrics;
mod replies;
mod routing;
mod triggers;

use std::io::Read;

use serde_json::Value;

use crate::harness::Server;
use crate::harness::http::{self, Response};

/// The zero times that the `fn` tool sends with every create.
const OLD: &str = r#""created_at":"0001-01-01T00:00:00.000Z","updated_at":"0001-01-01T00:00:00.000Z""#;

/// A server and the ids made on it: `{A}` in a request or an expectation is
/// replaced by the id kept under `A`.
struct Api {
    server: Server,
    names: Vec<(String, String)>,
}

impl Api {
    /// `None`: skipped, there is no engine.
    fn start(env: &[(&str, &str)]) -> Option<Api> {
        Some(Api { server: Server::start(env)?, names: Vec::new() })
    }

    fn filled(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, id)| text.replace(&format!("{{{name}}}"), id))
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Response {
        self.ask_with(method, target, &[], body)
    }

    fn ask_with(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
        let (target, body) = (self.filled(target), self.filled(body));
        if method == "HEAD" {
            // Announces a body that does not come.
            let mut stream = http::begin(self.server.address, method, &target, fields, body.as_bytes()).expect("connected");
            let mut head = String::new();
            stream.read_to_string(&mut head).expect("an answer and its end");
            let (head, body) = head.split_once("\r\n\r\n").expect("a head");
            let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
            return Response { status, head: head.to_owned(), body: body.as_bytes().to_vec() };
        }
        http::send(self.server.address, method, &target, fields, body.as_bytes()).unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// Creates something and keeps its id under `name`.
    fn made(&mut self, name: &str, target: &str, body: &str) {
        let got = self.ask("POST", target, body);
        assert_eq!(got.status, 200, "{body}: {got:?}");
        self.names.push((name.to_owned(), got.json()["id"].as_str().expect("id").to_owned()));
    }

    /// Ends the server, which must leave nothing.
    fn stop(self) {
        self.server.stop();
    }
}

/// Rule, method, target, body, status, expectation: `!text` is exactly the
/// error with that text; `=text` exactly that body; `~text` a part of it;
/// `^text` is no part of it; the empty text an empty body.
type Case<'c> = (&'c str, &'c str, &'c str, &'c str, u16, &'c str);

fn check(api: &Api, cases: &[Case<'_>]) {
    for (rule, method, target, body, status, want) in cases {
        let got = api.ask(method, target, body);
        let (text, want) = (got.text(), api.filled(want));
        let about = format!("{rule}: {method} {target} {body}\n got {} {text}", got.status);
        assert_eq!(got.status, *status, "{about}");
        match want.split_at_checked(1) {
            Some(("!", message)) => {
                assert_eq!(text, format!("{{\"message\":{}}}\n", Value::from(message)), "{about}");
                assert_eq!(got.field("Content-Type"), Some("application/json; charset=utf-8"), "{about}");
            }
            Some(("=", whole)) => assert_eq!(text, whole, "{about}"),
            Some(("~", part)) => assert!(text.contains(part), "{about}\nwant {part}"),
            Some(("^", part)) => assert!(!text.contains(part), "{about}\nnot {part}"),
            _ => assert_eq!((text.as_str(), want.as_str()), ("", ""), "{about}"),
        }
    }
}
