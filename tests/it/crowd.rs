//! Many callers at a time: everybody is answered, in order.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::harness::{Server, http, together};

#[test]
fn a_burst_on_a_slow_function_is_answered_whole() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let begun = Instant::now();
    let answers = together(16, |n| (n.to_string(), server.call(&echo, &[("X-Sleep-Ms", "200")], n.to_string().as_bytes())));
    for (sent, answer) in &answers {
        assert_eq!((answer.status, answer.text()), (200, sent.clone()), "{answer:?}");
    }
    println!("16 callers of a 200 ms function from zero: {:?}, {} containers", begun.elapsed(), server.containers().len());
    server.stop();
}

/// Room for one container: callers get it in the order in which they came.
#[test]
fn callers_of_one_container_are_served_in_order() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let running = server.hold(&echo);
    let mut lines = Vec::new();
    for n in 1..=6 {
        lines.push(server.begin_call(&echo, &[("X-Sleep-Ms", "10")]));
        server.await_queue(&echo, "waiting", n);
    }
    assert_eq!(running.release().field("X-Count"), Some("2"));
    for (n, mut stream) in lines.into_iter().enumerate() {
        let answer = http::finish(&mut stream).expect("an answer");
        assert_eq!((answer.status, answer.field("X-Count")), (200, Some((n + 3).to_string().as_str())), "caller {n}: {answer:?}");
    }
    server.stop();
}

/// Room for two containers, two functions that could each use all of it.
#[test]
fn two_functions_share_what_is_too_small_for_both() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "146800640")]) else { return };
    let functions = [server.function("left", "echo", json!({})), server.function("right", "echo", json!({}))];
    let begun = Instant::now();
    let answers = together(24, |n| {
        (0..3)
            .map(|round| {
                let body = format!("{n}/{round}");
                let answer = server.call(&functions[n % 2], &[("X-Sleep-Ms", "50")], body.as_bytes());
                (body, answer)
            })
            .collect::<Vec<_>>()
    });
    for (sent, answer) in answers.iter().flatten() {
        assert_eq!((answer.status, &answer.text()), (200, sent), "{answer:?}\n{}", server.log());
    }
    println!("2 functions × 12 callers × 3 calls of 50 ms in room for two: {:?}", begun.elapsed());
    server.stop();
}

/// Overload: both functions get their share, and nobody is sent away.
#[test]
fn overload_is_shared() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "146800640")]) else { return };
    let functions = [server.function("left", "echo", json!({})), server.function("right", "echo", json!({}))];
    // Each has a container: how long a start takes is no question of shares.
    functions.iter().for_each(|function| drop(server.good_call(function, &[], b"")));
    let (begun, all) = (Instant::now(), AtomicU32::new(0));
    let counts = together(32, |n| {
        let mut served = 0u32;
        while all.load(Ordering::SeqCst) < 800 {
            server.good_call(&functions[n % 2], &[("X-Sleep-Ms", "10")], b"");
            all.fetch_add(1, Ordering::SeqCst);
            served += 1;
        }
        served
    });
    let total = |side: usize| counts.iter().skip(side).step_by(2).sum::<u32>();
    let (left, right) = (total(0), total(1));
    println!("2 × 16 callers of 10 ms in room for two, {:?}: {left} and {right} answers", begun.elapsed());
    assert!(left.min(right) * 2 >= left.max(right), "the weaker has at least half of the stronger: {left} and {right}");
    assert!(counts.iter().all(|served| *served > 0), "{counts:?}");
    server.stop();
}
