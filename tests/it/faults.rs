//! A line to the engine on which everything goes wrong: whoever calls is
//! answered, warm calls go on, and in the end nothing is left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::proxy::{Fault, Kind, Proxy};
use crate::harness::{Folder, Server, engine, wait_until};

fn server(settings: &[(&str, &str)]) -> Option<(Server, Proxy)> {
    let folder = Folder::new();
    let proxy = Proxy::start(folder.clone());
    let host = proxy.host();
    let settings: Vec<(&str, &str)> = [("DOCKER_HOST", host.as_str())].into_iter().chain(settings.iter().copied()).collect();
    Some((Server::start_in(folder, &settings)?, proxy))
}

/// Calls a warm function without pause while `run` does its work; every call
/// must be good and come from the one container. Returns what `run` does.
fn beside_warm_calls<T>(server: &Server, run: impl FnOnce() -> T) -> T {
    let warm = server.function("warm", "echo", json!({}));
    let first = server.good_call(&warm, &[], b"w");
    let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let again = server.good_call(&warm, &[], b"w");
                slowest = slowest.max(begun.elapsed());
                assert_eq!(again.field("X-Instance"), first.field("X-Instance"), "the warm container was lost");
                calls.fetch_add(1, Ordering::SeqCst);
                // Frozen in between: waking it is part of a warm call.
                std::thread::sleep(Duration::from_millis(60));
            }
            println!("{} warm calls, the slowest {slowest:?}", calls.load(Ordering::SeqCst));
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        over.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const BAD: Fault = Fault::Status(500, "as planned");
const CONFLICT: Fault = Fault::Status(409, "as planned");
const FULL: Fault = Fault::Status(500, "mkdir /var/lib/docker/x: no space left on device");

/// Fault, on what, and what a cold call that meets it is told.
const COLD: &[(Kind, Fault, u16)] = &[
    (Kind::Create, BAD, 502),
    (Kind::Create, CONFLICT, 502),
    (Kind::Create, FULL, 502),
    (Kind::Create, Fault::Cut, 503),
    (Kind::Create, Fault::Garbage, 502),
    (Kind::Create, Fault::BadBody, 502),
    (Kind::Create, Fault::Slow(300), 200),
    (Kind::Create, Fault::Hang, 503),
    (Kind::Start, BAD, 502),
    (Kind::Start, CONFLICT, 502),
    (Kind::Start, FULL, 502),
    (Kind::Start, Fault::Cut, 503),
    (Kind::Start, Fault::Garbage, 502),
    (Kind::Start, Fault::Slow(300), 200),
    (Kind::Start, Fault::Hang, 503),
    (Kind::Inspect, BAD, 200),
    (Kind::Inspect, CONFLICT, 502),
    (Kind::Inspect, Fault::Cut, 200),
    (Kind::Inspect, Fault::Garbage, 200),
    (Kind::Inspect, Fault::BadBody, 200),
    (Kind::Inspect, Fault::Slow(300), 200),
    (Kind::Inspect, Fault::Hang, 503),
    (Kind::Events, BAD, 200),
    (Kind::Events, Fault::Garbage, 200),
    (Kind::Events, Fault::BadBody, 200),
    (Kind::Events, Fault::Cut, 200),
    (Kind::Events, Fault::Slow(300), 200),
];

#[test]
fn every_fault_on_the_way_of_a_cold_call_is_answered_and_harms_no_warm_one() {
    cold_calls("120000", |fault| *fault != Fault::Hang);
    // That ends when the caller's patience does.
    cold_calls("3000", |fault| *fault == Fault::Hang);
}

fn cold_calls(max_wait_ms: &str, which: impl Fn(&Fault) -> bool) {
    let Some((server, proxy)) = server(&[("HOB_MAX_WAIT_MSECS", max_wait_ms)]) else { return };
    beside_warm_calls(&server, || {
        for (n, (kind, fault, expected)) in COLD.iter().enumerate().filter(|(_, (_, fault, _))| which(fault)) {
            let function = server.function(&format!("f{n}"), "echo", json!({"idle_timeout": 1}));
            proxy.once(*kind, *fault);
            if *kind == Kind::Events {
                // The stream is begun anew, and meets it.
                proxy.cut_events();
                wait_until("the fault", || proxy.met().then_some(()));
            }
            let answer = server.call(&function, &[], b"x");
            assert_eq!(answer.status, *expected, "{kind:?} {fault:?}: {answer:?}\n{}", server.log());
            assert!(proxy.met(), "{kind:?} {fault:?}");
            if answer.status == 503 {
                assert!(answer.field("Retry-After").is_some(), "{answer:?}");
            }
            if *fault == FULL {
                assert!(answer.message().contains("no space left"), "{}", answer.message());
            }
            proxy.well();
            // What happened to one is over with it.
            wait_until("a good call", || (server.call(&function, &[], b"x").status == 200).then_some(()));
        }
        // All but the warm one go, whatever became of their starts.
        wait_until("the others to go", || (server.containers().len() == 1).then_some(()));
    });
    server.stop();
}

#[test]
fn faults_of_images_and_pulls_are_told_as_they_are() {
    let Some((server, proxy)) = server(&[("HOB_MAX_WAIT_MSECS", "3000")]) else { return };
    beside_warm_calls(&server, || {
        let cases = [
            (Kind::Pull, BAD, &[502][..], "as planned"),
            (Kind::Pull, Fault::Status(404, "manifest unknown"), &[404], "manifest unknown"),
            (Kind::Pull, FULL, &[502, 507], "no space left"),
            (Kind::Pull, Fault::Cut, &[502, 503], ""),
            (Kind::Pull, Fault::Garbage, &[502], ""),
            (Kind::Pull, Fault::BadBody, &[502], ""),
            (Kind::Pull, Fault::Hang, &[503, 504], ""),
            (Kind::Image, BAD, &[502], "as planned"),
            (Kind::Image, Fault::Garbage, &[502], ""),
            (Kind::Image, Fault::Hang, &[503], ""),
        ];
        for (n, (kind, fault, expected, words)) in cases.into_iter().enumerate() {
            let function = server.function_of(&format!("f{n}"), &format!("127.0.0.1:1/hob/none:{n}"), json!({}));
            proxy.once(kind, fault);
            let answer = server.call(&function, &[], b"x");
            assert!(proxy.met(), "{kind:?} {fault:?}");
            assert!(expected.contains(&answer.status) && answer.message().contains(words), "{kind:?} {fault:?}: {answer:?}");
            proxy.well();
        }
    });
    server.stop();
}

#[test]
fn a_removal_that_fails_is_made_again() {
    let Some((server, proxy)) = server(&[]) else { return };
    beside_warm_calls(&server, || {
        for (n, fault) in [BAD, CONFLICT, Fault::Cut, Fault::Garbage, Fault::Slow(300), Fault::Hang].into_iter().enumerate() {
            let function = server.function(&format!("f{n}"), "echo", json!({"idle_timeout": 1}));
            server.good_call(&function, &[], b"x");
            proxy.once(Kind::Remove, fault);
            wait_until("the fault", || proxy.met().then_some(()));
            proxy.well();
            wait_until("the removal", || (server.containers().len() == 1).then_some(()));
        }
    });
    server.stop();
}

#[test]
fn a_dead_engine_is_found_out_in_time_costs_no_warm_call_and_is_welcome_back() {
    const WAITED: &str = "HOB_MAX_WAIT_MSECS";
    // Room for the warm one, another one and a small one.
    let memory = ((3 * 64) << 20).to_string();
    let Some((server, proxy)) = server(&[("FN_MAX_TOTAL_MEMORY_BYTES", &memory)]) else { return };
    let idle = server.function("idle", "echo", json!({}));
    let small = server.function("small", "echo", json!({}));
    let large = server.function("large", "echo", json!({"memory": 128}));
    beside_warm_calls(&server, || {
        let before = server.good_call(&idle, &[], b"x");
        proxy.dead(true);
        let begun = Instant::now();
        let answer = server.call(&small, &[], b"x");
        let took = begun.elapsed();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.field("Retry-After").is_some() && answer.message().contains("engine") && !answer.message().contains(WAITED), "{answer:?}");
        // Known now: the next one is told without a wait, and nobody is evicted for it.
        let begun = Instant::now();
        let answer = server.call(&large, &[], b"x");
        assert!(answer.status == 503 && answer.message().contains("engine") && !answer.message().contains(WAITED), "{answer:?}");
        let next = begun.elapsed();
        assert_eq!(server.good_call(&idle, &[], b"x").field("X-Instance"), before.field("X-Instance"));
        proxy.well();
        let begun = Instant::now();
        wait_until("the first good cold call", || (server.call(&small, &[], b"x").status == 200).then_some(()));
        println!("dead: told after {took:?}, then {next:?}; back after {:?}", begun.elapsed());
    });
    server.stop();
}

#[test]
fn an_engine_away_for_a_moment_costs_a_cold_call_only_time() {
    let Some((server, proxy)) = server(&[]) else { return };
    let cold = server.function("cold", "echo", json!({}));
    beside_warm_calls(&server, || {
        proxy.leave();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| server.call(&cold, &[], b"x"));
            // The time the engine takes to come back is the scenario, not a guess.
            std::thread::sleep(Duration::from_secs(6));
            proxy.come_back();
            let answer = call.join().expect("the caller");
            assert_eq!(answer.status, 200, "{answer:?}\n{}", server.log());
        });
    });
    // The event stream is back as well: ends behind our back are noticed.
    for container in &server.containers() {
        engine::kill(container);
    }
    wait_until("the ends to be noticed", || server.containers().is_empty().then_some(()));
    server.stop();
}
