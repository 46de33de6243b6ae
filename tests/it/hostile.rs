//! Functions that answer what no function should: the caller gets a clean
//! answer, the next caller its own, other functions notice nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{Server, http::Response};

type Case = (&'static str, u16, &'static str);

/// Of the function for those that say nothing.
const LIMIT: &str = "4 s";

/// Behaviour, status, and what the answer (or its message) contains.
const ANSWERS: &[Case] = &[
    ("status:200", 200, "said so"),
    ("status:502", 502, "function failed"),
    ("status:504", 504, "Timed out"),
    ("status:500", 502, "status 500"),
    ("status:418", 502, "status 418"),
    ("redirect", 502, "status 302"),
    ("twice", 200, "first"),
    ("late:100", 200, "late"),
    ("stray:50", 200, "answer"),
    ("short", 200, "mo"),
    ("long", 502, ""),
    ("truncated", 502, ""),
    ("no-length", 200, "until the end"),
    ("chunked", 200, "abcdefg"),
    ("bad-chunk", 502, ""),
    ("cut-chunk", 502, ""),
    ("garbage", 502, ""),
    ("two-lengths", 502, ""),
    ("length-and-chunked", 502, ""),
];

const TAKERS: &[Case] = &[
    ("huge-head", 502, "FN_MAX_HDR_RESPONSE_SIZE"),
    ("endless-head", 502, ""),
    ("late:100000", 504, LIMIT),
    ("drip:1", 504, LIMIT),
    ("never", 504, LIMIT),
    ("close", 502, ""),
    ("close-mid-body", 502, ""),
    ("exit:3", 502, "exited with code 3"),
    ("abort", 502, "exited with code 134: ended by SIGABRT"),
    ("oom", 502, "memory"),
    ("fd-hog", 200, "descriptors"),
    ("flood", 200, "flooded"),
    ("body:200000", 200, "bbbb"),
];

#[test]
fn strange_answers() {
    run_table(ANSWERS);
}

#[test]
fn takers_and_enders() {
    run_table(TAKERS);
}

fn run_table(cases: &[Case]) {
    let Some(server) = Server::start(&[]) else { return };
    let patient = server.function("patient", "hostile", json!({}));
    // For what nothing but the limit ends.
    let limited = server.function("limited", "hostile", json!({"timeout": 4}));
    let echo = server.function("echo", "echo", json!({}));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The other function is called all the time, and answers its own.
        let neighbour = scope.spawn(|| {
            let mut calls = 0u32;
            while !done.load(Ordering::SeqCst) {
                let body = format!("neighbour {calls}");
                assert_eq!(server.good_call(&echo, &[], body.as_bytes()).text(), body);
                calls += 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            calls
        });
        let mut wrong = Vec::new();
        for (what, status, contains) in cases {
            let function = if *contains == LIMIT { &limited } else { &patient };
            let answer = server.call(function, &[("X-Do", what)], b"body");
            println!("{what:<20} {} {}", answer.status, answer.text().chars().take(160).collect::<String>().trim());
            if answer.status != *status || !answer.text().contains(contains) || (answer.status != 200 && answer.message().is_empty()) {
                wrong.push(format!("{what}: want {status} with '{contains}', got {} {}", answer.status, answer.text().chars().take(200).collect::<String>()));
            }
            for _ in 0..2 {
                if let Err(problem) = own_answer(&server.call(function, &[("X-Do", "request")], b"")) {
                    wrong.push(format!("after {what}: {problem}"));
                }
            }
        }
        done.store(true, Ordering::SeqCst);
        let calls = neighbour.join().expect("the neighbour's calls");
        assert!(calls > 0);
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), server.log());
    });
    server.stop();
}

/// The function repeats the request's head: its call id must be the answer's.
fn own_answer(answer: &Response) -> Result<(), String> {
    let id = answer.field("Fn-Call-Id").ok_or("no Fn-Call-Id")?;
    if answer.status == 200 && answer.text().contains(&format!("Fn-Call-Id: {id}\r\n")) { Ok(()) } else { Err(format!("{answer:?}")) }
}

#[test]
fn fields_that_belong_to_a_connection_stay_on_it() {
    let Some(server) = Server::start(&[]) else { return };
    let hostile = server.function("hostile", "hostile", json!({}));
    let answer = server.good_call(&hostile, &[("X-Do", "hop-fields")], b"");
    assert_eq!(answer.text(), "ok");
    for name in ["Keep-Alive", "Upgrade", "X-Gone"] {
        assert_eq!(answer.field(name), None, "{}", answer.head);
    }
    assert_eq!(answer.field("X-Plain"), Some("1"), "{}", answer.head);
    server.stop();
}

/// An answer that bears another call's id is nobody's.
#[test]
fn another_calls_id_is_never_passed_on() {
    let Some(server) = Server::start(&[]) else { return };
    let hostile = server.function("hostile", "hostile", json!({"timeout": 5}));
    let answer = server.call(&hostile, &[("X-Do", "wrong-id")], b"");
    println!("wrong-id: {} {}", answer.status, answer.text().trim());
    assert_ne!(answer.field("Fn-Call-Id"), Some("01HF7YAT3V180G40RZJ0000001"));
    own_answer(&server.call(&hostile, &[("X-Do", "request")], b"")).expect("the next call");
    server.stop();
}

#[test]
fn a_fork_bomb_stays_in_its_container() {
    let Some(server) = Server::start(&[("FN_MAX_PIDS", "20")]) else { return };
    let hostile = server.function("hostile", "hostile", json!({"timeout": 5}));
    let answer = server.call(&hostile, &[("X-Do", "fork-bomb")], b"");
    println!("fork-bomb: {} {}", answer.status, answer.text().trim());
    assert!(matches!(answer.status, 200 | 502 | 504), "{answer:?}");
    let count: u32 = answer.text().split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!(count <= 20, "FN_MAX_PIDS holds: {answer:?}");
    server.stop();
}
