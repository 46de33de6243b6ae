//! What a client may send, byte by byte, to a real server: tables of cases,
//! each with the outcomes that are allowed and the rule it comes from (RFC
//! 9110, RFC 9112; `hob` where the rule is our own).
//!
//! Every case is one connection. Its bytes are sent, the sending side closed,
//! and everything read to the end: what is seen are the statuses of the final
//! answers, in order. Where two readers could disagree about the end of a
//! message, a second request for another function hides in the bytes; at the
//! end that function must never have been asked for anything.

mod fields;
mod framing;
mod life;
mod limits;
mod malformed;
mod paths;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::Server;

/// Connections at the same time.
const CLIENTS: usize = 12;

/// One connection's bytes and what may come of them.
pub(crate) struct Case {
    name: String,
    /// Where it is written.
    rule: &'static str,
    /// `¶` is CR LF, `@E` the path of the echo function, `@H` a whole hidden
    /// request; other characters are one byte each.
    text: String,
    /// Statuses of the final answers, separated by a blank; `""` is a close
    /// without an answer.
    allowed: Vec<String>,
    holds: Vec<String>,
    lacks: Vec<String>,
    /// The sending side stays open: the server must end it.
    open: bool,
    /// Answers have no body, whatever they announce.
    bodyless: bool,
    /// Sent byte by byte.
    drip: bool,
}

pub(crate) fn case(name: impl Into<String>, rule: &'static str, text: impl Into<String>, allowed: &[&str]) -> Case {
    Case {
        name: name.into(),
        rule,
        text: text.into(),
        allowed: allowed.iter().map(|a| (*a).to_owned()).collect(),
        holds: Vec::new(),
        lacks: Vec::new(),
        open: false,
        bodyless: false,
        drip: false,
    }
}

impl Case {
    /// What is received has this text in it.
    fn holds(mut self, text: impl Into<String>) -> Case {
        self.holds.push(text.into());
        self
    }

    fn lacks(mut self, text: impl Into<String>) -> Case {
        self.lacks.push(text.into());
        self
    }

    fn open(mut self) -> Case {
        self.open = true;
        self
    }

    fn bodyless(mut self) -> Case {
        self.bodyless = true;
        self
    }

    fn drip(mut self) -> Case {
        self.drip = true;
        self
    }
}

/// The head of a call up to its last fields.
pub(crate) fn post(fields: &str) -> String {
    format!("POST @E HTTP/1.1¶Host: t¶{fields}¶")
}

struct Place {
    address: SocketAddr,
    echo: String,
    hidden: String,
}

impl Place {
    fn bytes(&self, text: &str) -> Vec<u8> {
        let hidden = format!("POST /invoke/{} HTTP/1.1¶Host: t¶Content-Length: 0¶¶", self.hidden);
        let text = text.replace("@H", &hidden).replace("@E", &format!("/invoke/{}", self.echo)).replace('¶', "\r\n");
        text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte each")).collect()
    }

    /// Runs a case; what is wrong with it.
    fn run(&self, case: &Case) -> Result<(), String> {
        let received = self.converse(case)?;
        let text: String = received.iter().map(|b| char::from(*b)).collect();
        let seen = statuses(&received, case.bodyless).map_err(|e| format!("{e}: {text:?}"))?.join(" ");
        if !case.allowed.contains(&seen) {
            return Err(format!("seen {seen:?}, allowed {:?}: {text:?}", case.allowed));
        }
        if let Some(missing) = case.holds.iter().find(|h| !text.contains(h.as_str())) {
            return Err(format!("without {missing:?}: {text:?}"));
        }
        match case.lacks.iter().find(|l| text.contains(l.as_str())) {
            Some(there) => Err(format!("with {there:?}: {text:?}")),
            None => Ok(()),
        }
    }

    fn converse(&self, case: &Case) -> Result<Vec<u8>, String> {
        let bytes = self.bytes(&case.text);
        let mut stream = TcpStream::connect(self.address).map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(20)))).map_err(|e| e.to_string())?;
        // A server that has refused may close while we still send.
        let _ = if case.drip { bytes.iter().try_for_each(|b| stream.write_all(&[*b])) } else { stream.write_all(&bytes) };
        if !case.open {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut received = Vec::new();
        match stream.read_to_end(&mut received) {
            Ok(_) => Ok(received),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(received),
            Err(e) => Err(format!("neither answered nor closed ({e}): {:?}", String::from_utf8_lossy(&received))),
        }
    }
}

/// The statuses of all final answers; each must be whole and framed.
fn statuses(mut rest: &[u8], bodyless: bool) -> Result<Vec<String>, String> {
    let mut statuses = Vec::new();
    while !rest.is_empty() {
        let end = rest.windows(4).position(|w| w == b"\r\n\r\n").ok_or("an answer's head is cut")?;
        let head = std::str::from_utf8(&rest[..end]).map_err(|e| e.to_string())?;
        rest = &rest[end + 4..];
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|l| l.get(..3)).ok_or("not an answer")?;
        if status.starts_with('1') {
            continue;
        }
        let field = |name: &str| {
            head.lines().filter_map(|l| l.split_once(':')).filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect::<Vec<_>>()
        };
        if field("date").len() != 1 && !matches!(status, "408" | "503") {
            return Err("not one Date".to_owned());
        }
        let length: usize = match field("content-length")[..] {
            [length] if !bodyless => length.parse().map_err(|_| "a bad length")?,
            [] if bodyless || matches!(status, "204" | "304") => 0,
            [_] => 0,
            _ => return Err("not one Content-Length".to_owned()),
        };
        rest = rest.get(length..).ok_or("an answer is cut")?;
        statuses.push(status.to_owned());
    }
    Ok(statuses)
}

#[test]
fn every_client_case_ends_as_its_rule_says() {
    let limits = [
        ("FN_MAX_REQUEST_SIZE", "100000"),
        ("FN_MAX_REQUEST_HEADER_SIZE", "16384"),
        ("FN_REQUEST_HEADER_READ_TIMEOUT", "3"),
        ("FN_REQUEST_BODY_READ_TIMEOUT", "3"),
        ("FN_HTTP_IDLE_TIMEOUT", "3"),
    ];
    let Some(server) = Server::start(&limits) else { return };
    let echo = server.function("echo", "echo", json!({"annotations": {"hob/max-instances": 1}}));
    let hidden = server.function("hidden", "echo", json!({}));
    let found = server.manage("GET", &format!("/v2/fns/{echo}"), &json!({}));
    for source in ["/echo", "/"] {
        let name = if source == "/" { "root" } else { "echo" };
        server.manage("POST", "/v2/triggers", &json!({"app_id": found["app_id"], "fn_id": echo, "name": name, "type": "http", "source": source}));
    }
    let first = server.good_call(&echo, &[], b"");
    let groups = [
        ("framing", framing::cases(), 75),
        ("malformed", malformed::cases(), 40),
        ("limits", limits::cases(), 15),
        ("life", life::cases(), 20),
        ("fields", fields::cases(), 15),
        ("paths", paths::cases(), 35),
    ];
    for (group, cases, least) in &groups {
        assert!(cases.len() >= *least, "{group} has {} cases", cases.len());
    }
    let all: Vec<(&str, &Case)> = groups.iter().flat_map(|(group, cases, _)| cases.iter().map(move |c| (*group, c))).collect();
    assert!(all.len() >= 200, "{}", all.len());
    let place = Place { address: server.address, echo: echo.clone(), hidden: hidden.clone() };
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some((group, case)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = place.run(case) {
                        wrong.lock().expect("list").push(format!("{group}: {} ({}): {what}", case.name, case.rule));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("list");
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let state = server.send("GET", "/debug/state", b"").text();
    assert!(!state.contains(&hidden), "a hidden request was answered: {state}");
    assert_eq!(server.good_call(&echo, &[], b"").field("X-Instance"), first.field("X-Instance"), "a client's fault cost a warm container");
    println!("{} client cases: {}", all.len(), groups.iter().map(|(g, c, _)| format!("{g} {}", c.len())).collect::<Vec<_>>().join(", "));
    server.stop();
}
