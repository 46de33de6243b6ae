//! The pure parts of a hot call, each run so many times: `counts PART ROUNDS`.
//!
//! The server's own files are compiled in here, without the server: what they
//! lean on and a call does not count (sockets, waiting) is replaced by nothing.
//! `tools/count` runs this under callgrind and compares the instructions of one
//! round with those in `expected.txt`.

#![allow(dead_code, unused_imports, reason = "each mounted file is used in part")]
#![allow(unexpected_cfgs, reason = "the server's fuzzing is none of this")]
#![allow(clippy::all, reason = "the server's own checks look at its files")]

mod call;
mod edge;
mod hot;
#[path = "../../../src/http1/mod.rs"]
mod http1;
mod model;
mod pool;
mod respond;
mod uds;

/// A part's name, and one round of it.
type Part = (&'static str, fn(&mut State));

/// What rounds keep between them, as a worker does.
#[derive(Default)]
struct State {
    edge: edge::State,
    hot: hot::State,
    uds: uds::State,
}

const PARTS: &[Part] = &[
    ("request-head", |s| s.edge.request_head()),
    ("route", |s| s.edge.route()),
    ("call-fields", |s| s.edge.call_fields()),
    ("answer", |s| s.edge.answer()),
    ("call-id", |s| s.edge.call_id()),
    ("function-answer", |s| s.uds.function_answer()),
    ("chunks-64k", |s| s.uds.chunks()),
    ("deadline", |s| s.uds.deadline()),
    ("slot-idle", |s| s.hot.idle()),
    ("slot-handed-over", |s| s.hot.handed_over()),
    ("slot-woken", |s| s.hot.woken()),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (name, rounds) = (arguments.next(), arguments.next().and_then(|n| n.parse::<u32>().ok()));
    let part = PARTS.iter().find(|(part, _)| Some(*part) == name.as_deref());
    match (part, rounds) {
        (Some((_, part)), Some(rounds)) => {
            let mut state = State::default();
            for _ in 0..rounds {
                part(&mut state);
            }
        }
        _ => PARTS.iter().for_each(|(name, _)| println!("{name}")),
    }
}
