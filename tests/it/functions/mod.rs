//! What a function may do, step by step, in a real container: tables of cases,
//! each with the outcomes that are allowed and the rule they come from (`§` is
//! a section of RFC 9112, `contract` the function's contract as SPECIFICATION.md
//! and ARCHITECTURE.md section 5 give it).
//!
//! Several functions of the same hostile program (lanes) work through the cases
//! side by side, each in one container at a time. Beside every case another
//! client calls the same function, and others call a function that has nothing
//! to do with it, all the time and each with a body of its own: nobody may ever
//! get anything but the own body back, or a clean error of hob's.

mod answers;
mod bodies;
mod chunks;
mod clients;
mod ends;
mod floods;
mod heads;
mod hogs;
mod lanes;
mod late;
mod order;
mod sockets;
mod starts;

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};

use serde_json::json;

use crate::harness::{Server, wait_until};

/// The two suites that start containers by the hundred take turns: the engine
/// is one.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

/// Deletes a function; its containers go with it.
fn delete(server: &Server, function: &str) {
    server.manage("DELETE", &format!("/v2/fns/{function}"), &json!({}));
}

/// Deletes the last function and waits for the engine to be through with all
/// removals: how long a stop takes behind a backlog is not the question here.
fn delete_last(server: &Server, function: &str) {
    delete(server, function);
    wait_until("the removals of deleted functions' containers", || server.containers().is_empty().then_some(()));
}

/// One call of the hostile function.
pub(crate) struct Case {
    name: String,
    /// Where it is written.
    rule: &'static str,
    /// What the function does, as `X-Script` bears it.
    script: String,
    /// Bytes of the call's body.
    body: usize,
    /// `STATUS TEXT`: a 200 has exactly this body (`*` is any, `#N` one of N
    /// bytes), an error's message contains it; `cut` is an answer that shows
    /// that it broke.
    allowed: Vec<String>,
    fate: Fate,
    /// The container is no good for the next case.
    spoiled: bool,
}

/// What must have become of the container when the next call is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Stays,
    Goes,
    Either,
}

/// A case; its container stays after answers that keep to the contract, and
/// goes after others.
pub(crate) fn case<const N: usize>(name: impl Into<String>, rule: &'static str, steps: [String; N], allowed: &[&str]) -> Case {
    let within = |a: &&str| a.starts_with("200") || a.contains("function failed") || a.contains("function itself");
    let fate = match allowed.iter().filter(|a| within(a)).count() {
        0 => Fate::Goes,
        n if n == allowed.len() => Fate::Stays,
        _ => Fate::Either,
    };
    let allowed = allowed.iter().map(|a| (*a).to_owned()).collect();
    Case { name: name.into(), rule, script: steps.join(";"), body: 4, allowed, fate, spoiled: false }
}

impl Case {
    fn stays(self) -> Case {
        Case { fate: Fate::Stays, ..self }
    }

    fn goes(self) -> Case {
        Case { fate: Fate::Goes, ..self }
    }

    fn either(self) -> Case {
        Case { fate: Fate::Either, ..self }
    }

    /// What it did to its container is not for the next case.
    fn spoils(self) -> Case {
        Case { spoiled: true, fate: Fate::Either, ..self }
    }

    fn body(self, bytes: usize) -> Case {
        Case { body: bytes, ..self }
    }
}

/// A text of a script: `¶` is CR LF, other characters are one byte each.
fn text(plain: &str) -> String {
    let mut out = String::new();
    for c in plain.replace('¶', "\r\n").chars() {
        let byte = u8::try_from(u32::from(c)).expect("a byte each");
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            out.push(c);
        } else {
            write!(out, "%{byte:02X}").expect("memory");
        }
    }
    out
}

fn say(plain: &str) -> String {
    format!("say:{}", text(plain))
}

fn rep(count: usize, plain: &str) -> String {
    format!("rep:{}", text(&format!("{count},{plain}")))
}

fn drip(pause_ms: u64, plain: &str) -> String {
    format!("drip:{}", text(&format!("{pause_ms},{plain}")))
}

fn endless(plain: &str) -> String {
    format!("endless:{}", text(plain))
}

/// A good answer that bears the call's id.
fn ok(body: &str) -> String {
    format!("ok:{}", text(body))
}

/// A good answer without it.
fn bare(body: &str) -> String {
    format!("bare:{}", text(body))
}

fn wait(ms: u64) -> String {
    format!("wait:{ms}")
}

/// Any other step.
fn step(verb: &str) -> String {
    match verb.split_once(':') {
        Some((verb, argument)) => format!("{verb}:{}", text(argument)),
        None => verb.to_owned(),
    }
}

/// A 200 whose head ends with `fields` and whose body is `pong`, or what
/// stands there instead.
fn pong(fields: &str) -> String {
    say(&format!("HTTP/1.1 200 OK¶{fields}¶pong"))
}
