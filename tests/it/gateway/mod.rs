//! What stands between a client and a function, on raw sockets: tables of
//! requests, what the function saw of each and what the client got, each case
//! with the row it comes from (spec http-api; `hob` where the rule is our own).
//! `wire` is about framing and connections; here every request is well framed.
//!
//! The function is `mirror`: it answers with the request as it came, or, asked
//! with a body that is an answer, with that. What holds for every case is
//! checked for every case: see `Place::check`.

mod answers;
mod failures;
mod invoke;
mod routes;
mod triggers;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Server;
use crate::harness::http::{self, Response};

/// Callers at the same time.
const CLIENTS: usize = 4;

/// One request and what must come of it.
pub(crate) struct Case {
    rule: &'static str,
    name: String,
    /// `¶` is CR LF, `@F` the function's id; other characters are one byte each.
    head: String,
    body: Vec<u8>,
    status: u16,
    /// Lines of the head that the function saw; parts of them with `~` before.
    sees: Vec<String>,
    unseen: Vec<String>,
    /// Lines of the answer's head; for `lacks`, parts of it.
    gives: Vec<String>,
    lacks: Vec<String>,
    /// The answer's body; of an error, the beginning of its message.
    answer: Option<Vec<u8>>,
}

/// A request that ends with its connection; its length is written here.
pub(crate) fn case(rule: &'static str, name: impl Into<String>, line: &str, fields: &str, body: impl AsRef<[u8]>) -> Case {
    let body = body.as_ref().to_vec();
    let length = if fields.contains("Transfer-Encoding") { String::new() } else { format!("Content-Length: {}¶", body.len()) };
    Case {
        rule,
        name: name.into(),
        head: format!("{line} HTTP/1.1¶Host: h:1¶Connection: close¶{fields}{length}¶"),
        body,
        status: 200,
        sees: Vec::new(),
        unseen: Vec::new(),
        gives: Vec::new(),
        lacks: Vec::new(),
        answer: None,
    }
}

impl Case {
    fn status(mut self, status: u16) -> Case {
        self.status = status;
        self
    }

    fn sees(mut self, line: impl Into<String>) -> Case {
        self.sees.push(line.into());
        self
    }

    fn unseen(mut self, part: impl Into<String>) -> Case {
        self.unseen.push(part.into());
        self
    }

    fn gives(mut self, line: impl Into<String>) -> Case {
        self.gives.push(line.into());
        self
    }

    fn lacks(mut self, part: impl Into<String>) -> Case {
        self.lacks.push(part.into());
        self
    }

    fn answer(mut self, body: impl AsRef<[u8]>) -> Case {
        self.answer = Some(body.as_ref().to_vec());
        self
    }

    /// The head as it is sent.
    fn bytes(&self, function: &str) -> Vec<u8> {
        let text = self.head.replace("@F", function).replace('¶', "\r\n");
        text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte each")).chain(self.body.iter().copied()).collect()
    }

    fn is_head(&self) -> bool {
        self.head.starts_with("HEAD ")
    }
}

/// Latin 1, as the tables are written.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

struct Place {
    address: SocketAddr,
    function: String,
    ids: Mutex<HashSet<String>>,
}

impl Place {
    fn run(&self, case: &Case) -> Result<(), String> {
        let answer = self.ask(case)?;
        let seen = || format!("{} {}", answer.head, text(&answer.body[..answer.body.len().min(1500)]));
        self.check(case, &answer).map_err(|what| format!("{what}: {:?}", seen()))
    }

    fn ask(&self, case: &Case) -> Result<Response, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|e| format!("connect: {e}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(|e| e.to_string())?;
        stream.write_all(&case.bytes(&self.function)).map_err(|e| format!("send: {e}"))?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map_err(|e| format!("neither answered nor closed ({e})"))?;
        // What is announced to a HEAD does not come.
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no head")?;
        if case.is_head() {
            let status = text(&all[..end]).split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
            return Ok(Response { status, head: text(&all[..end]), body: all[end + 4..].to_vec() });
        }
        http::finish(&mut all.as_slice()).map_err(|e| e.to_string())
    }

    /// What the case says, and what holds for all.
    fn check(&self, case: &Case, answer: &Response) -> Result<(), String> {
        if answer.status != case.status {
            return Err(format!("status {}, not {}", answer.status, case.status));
        }
        let lines: Vec<&str> = answer.head.split("\r\n").collect();
        if let Some(missing) = case.gives.iter().find(|line| !lines.contains(&line.as_str())) {
            return Err(format!("the answer lacks {missing:?}"));
        }
        if let Some(there) = case.lacks.iter().find(|part| answer.head.contains(part.as_str())) {
            return Err(format!("the answer has {there:?}"));
        }
        self.check_fields(answer)?;
        if case.is_head() && !answer.body.is_empty() {
            return Err("HEAD has a body".to_owned());
        }
        match &case.answer {
            Some(want) if case.status >= 400 && answer.field("Content-Type") == Some("application/json; charset=utf-8") => {
                let message = answer.message();
                if !message.starts_with(&text(want)) {
                    return Err(format!("says {message:?}, not {:?}", text(want)));
                }
            }
            Some(want) if *want != answer.body => return Err(format!("the body is not {:?}", text(want))),
            Some(_) => {}
            None => {}
        }
        if case.sees.is_empty() && case.unseen.is_empty() { Ok(()) } else { saw(case, answer) }
    }

    /// One Date, one framing, and the call's id exactly where there was a call.
    fn check_fields(&self, answer: &Response) -> Result<(), String> {
        let values = |name: &str| {
            answer.head.split("\r\n").filter_map(|l| l.split_once(": ")).filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect::<Vec<_>>()
        };
        let no_body = matches!(answer.status, 204 | 304);
        if values("Date").len() != 1 || values("Content-Length").len() != usize::from(!no_body) || !values("Transfer-Encoding").is_empty() {
            return Err("not one Date and one Content-Length".to_owned());
        }
        let ids = values("Fn-Call-Id");
        // Refused before there was a call, by hob and not by the function.
        let refused = matches!(answer.status, 400 | 404 | 405 | 413) && answer.field("Content-Type") == Some("application/json; charset=utf-8");
        match ids[..] {
            [] if refused => Ok(()),
            [id] if !refused => {
                let fresh = self.ids.lock().expect("ids").insert(id.to_owned());
                let formed = id.len() == 26 && id.bytes().all(|b| b"0123456789ABCDEFGHJKMNPQRSTVWXYZ".contains(&b));
                if fresh && formed { Ok(()) } else { Err("the call's id is not one, or was given before".to_owned()) }
            }
            _ => Err(format!("Fn-Call-Id: {ids:?}")),
        }
    }
}

/// The request as the function saw it: it is the answer's body.
fn saw(case: &Case, answer: &Response) -> Result<(), String> {
    let seen = text(&answer.body);
    let (head, body) = seen.split_once("\r\n\r\n").ok_or("the function saw no head")?;
    let lines: Vec<&str> = head.split("\r\n").collect();
    // Spec http-api §3.1, §3.7: always the same request, once framed, with the
    // call's id and a deadline in whole seconds of UTC.
    let count = |name: &str| lines.iter().filter(|l| l.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name))).count();
    let value = |name: &str| lines.iter().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default();
    if lines[0] != "POST /call HTTP/1.1" || value("Host") != "localhost" {
        return Err("not POST /call at localhost".to_owned());
    }
    for (name, times) in [("Host", 1), ("Fn-Call-Id", 1), ("Fn-Deadline", 1), ("Content-Length", 1), ("Transfer-Encoding", 0), ("Connection", 0)] {
        if count(name) != times {
            return Err(format!("{name} was seen {} times", count(name)));
        }
    }
    let deadline = value("Fn-Deadline");
    let shape: String = deadline.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if shape != "0000-00-00T00:00:00Z" || answer.field("Fn-Call-Id") != Some(value("Fn-Call-Id")) {
        return Err("no deadline, or another call's id".to_owned());
    }
    if value("Content-Length").parse() != Ok(body.chars().count()) {
        return Err("the length is not the body's".to_owned());
    }
    let holds = |wanted: &str| match wanted.strip_prefix('~') {
        Some(part) => seen.contains(part),
        None => lines.contains(&wanted),
    };
    if let Some(missing) = case.sees.iter().find(|line| !holds(line)) {
        return Err(format!("the function did not see {missing:?}"));
    }
    match case.unseen.iter().find(|part| seen.contains(part.as_str())) {
        Some(there) => Err(format!("the function saw {there:?}")),
        None => Ok(()),
    }
}

/// The limits of the server that the tables are written for.
const LIMITS: &[(&str, &str)] =
    &[("FN_MAX_REQUEST_SIZE", "5000"), ("FN_MAX_RESPONSE_SIZE", "3000"), ("FN_MAX_HDR_RESPONSE_SIZE", "2000"), ("FN_MAX_REQUEST_HEADER_SIZE", "8192")];

/// Runs a table against a server with the mirror behind these sources.
fn run(group: &str, sources: &[&str], cases: &[Case], least: usize) {
    assert!(cases.len() >= least, "{group} has {} cases", cases.len());
    let Some(server) = Server::start(LIMITS) else { return };
    let function = server.function("mirror", "mirror", json!({"timeout": 5, "annotations": {"hob/max-instances": 2}}));
    let app = server.manage("GET", &format!("/v2/fns/{function}"), &Value::Null)["app_id"].clone();
    for (n, source) in sources.iter().enumerate() {
        let trigger = json!({"app_id": app, "fn_id": function, "name": format!("t{n}"), "type": "http", "source": source});
        server.manage("POST", "/v2/triggers", &trigger);
    }
    let place = Place { address: server.address, function, ids: Mutex::default() };
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = place.run(case) {
                        wrong.lock().expect("list").push(format!("{} ({}): {what}", case.name, case.rule));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("list");
    assert!(wrong.is_empty(), "{group}: {} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{group}: {} cases", cases.len());
    // A start that nobody needs any more goes on in the engine; a stop amid it
    // is another test's matter.
    for what in ["reserved", "queued", "starting"] {
        server.await_queue(&place.function, what, 0);
    }
    server.stop();
}

#[test]
fn direct_calls() {
    run("invoke", &[], &invoke::cases(), 45);
}

#[test]
fn answers_of_functions() {
    run("answers", &["/f"], &answers::cases(), 60);
}

#[test]
fn which_trigger() {
    run("routes", routes::SOURCES, &routes::cases(), 40);
}

#[test]
fn calls_by_trigger() {
    run("triggers", &["/f"], &triggers::cases(), 40);
}
