//! Connections over time: parked, served, half-closed, gone, drained.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Bench, Client, Setup, bytes, until};
use crate::call::{AnswerHead, CallError};
use crate::metrics::EDGE;

const NONE: AnswerHead<'static> = AnswerHead { fields: &[] };

fn held() -> Setup {
    Setup::new().function("held", |_, caller, stand| {
        stand.hold();
        caller.whole(&NONE, b"done").map_err(|_| CallError::ClientGone)
    })
}

fn ask(bench: &Bench, name: &str) -> String {
    format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", bench.path(name))
}

/// A call that watches its client for so long at most.
fn watched(seconds: u64) -> Setup {
    Setup::new().function("watched", move |_, caller, stand| {
        let (tell, told) = crossbeam_channel::bounded(4);
        let guard = caller
            .watch(Arc::new(move || {
                let _ = tell.try_send(());
            }))
            .expect("a watch");
        stand.held.fetch_add(1, Ordering::SeqCst);
        let gone = told.recv_timeout(Duration::from_secs(seconds)).is_ok();
        drop(guard);
        if gone {
            stand.gone.fetch_add(1, Ordering::SeqCst);
            return Err(CallError::ClientGone);
        }
        caller.whole(&NONE, b"done").map_err(|_| CallError::ClientGone)
    })
}

#[test]
fn a_thousand_idle_connections_cost_no_threads() {
    let bench = Bench::new();
    let fresh: Vec<_> = (0..500).map(|_| bench.connect()).collect();
    let mut used = Vec::new();
    for _ in 0..500 {
        let mut client = bench.connect();
        client.send(bench.post("Content-Length: 0\r\n", ""));
        assert_eq!(client.answer().status, 200);
        used.push(client);
    }
    until("all are parked", || bench.parked() == 1000);
    assert!(bench.threads() <= 20, "{} threads", bench.threads());
    for client in &mut used {
        client.send(bench.post("Content-Length: 0\r\n", ""));
        assert_eq!(client.answer().status, 200);
    }
    let before = bench.threads();
    drop((fresh, used));
    until("all are closed", || bench.open() == 0);
    assert!(bench.threads() <= before.max(20), "leaving wakes nobody: {} threads", bench.threads());
}

#[test]
fn slow_heads_cost_no_threads() {
    let bench = Bench::new();
    let mut clients: Vec<_> = (0..200).map(|_| bench.connect()).collect();
    let request = bench.post("X-A: 1\r\nContent-Length: 0\r\n", "");
    let (last, slow) = request.as_bytes().split_last().expect("long enough");
    until("all are there", || bench.parked() == 200);
    for piece in slow.chunks(20) {
        for client in &mut clients {
            client.send(piece);
        }
    }
    until("nobody is served", || bench.parked() == 200);
    assert_eq!(bench.threads(), 0);
    for client in &mut clients {
        client.send([*last]);
        assert!(client.answer().text().starts_with("X-A: 1"));
    }
}

#[test]
fn a_half_closed_client_is_answered() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.send(bench.post("Content-Length: 3\r\n", "abc"));
    client.finish();
    assert_eq!(client.answer().text(), "\r\nabc");
    client.assert_closed();
}

#[test]
fn several_requests_then_half_close_are_all_answered() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.send(bench.post("Content-Length: 3\r\n", "abc").repeat(5));
    client.finish();
    for _ in 0..5 {
        assert_eq!(client.answer().text(), "\r\nabc");
    }
    client.assert_closed();
}

#[test]
fn a_reset_client_is_gone() {
    let bench = watched(120).start();
    let mut client = bench.connect();
    client.send(ask(&bench, "watched"));
    until("the call runs", || bench.held() == 1);
    sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).expect("linger");
    drop(client);
    until("the call is told", || bench.stand.gone.load(Ordering::SeqCst) == 1);
    until("closed", || bench.open() == 0);
}

#[test]
fn a_closed_client_is_found_by_a_probe() {
    let bench = watched(120).start();
    let mut client = bench.connect();
    client.send(ask(&bench, "watched"));
    until("the call runs", || bench.held() == 1);
    drop(client); // sends FIN only: looks like a half-close
    until("the call is told", || bench.stand.gone.load(Ordering::SeqCst) == 1);
    until("closed", || bench.open() == 0);
}

#[test]
fn a_half_closed_client_that_waits_is_not_gone() {
    let bench = watched(2).start();
    let mut client = bench.connect();
    client.send(ask(&bench, "watched"));
    client.finish();
    assert_eq!(client.answer().status, 100, "the probe");
    assert_eq!(client.answer().text(), "done");
    client.assert_closed();
    assert_eq!(bench.stand.gone.load(Ordering::SeqCst), 0);
}

#[test]
fn a_half_closed_http_1_0_client_is_not_probed() {
    let bench = watched(2).start();
    let mut client = bench.connect();
    client.send(ask(&bench, "watched").replace("HTTP/1.1", "HTTP/1.0"));
    client.finish();
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "done"));
}

#[test]
fn a_watch_ends_with_its_guard() {
    let bench = Setup::new()
        .function("f", |_, caller, stand| {
            let (tell, told) = crossbeam_channel::bounded(4);
            drop(caller.watch(Arc::new(move || {
                let _ = tell.try_send(());
            })));
            stand.hold();
            if told.try_recv().is_ok() {
                stand.gone.fetch_add(1, Ordering::SeqCst);
            }
            caller.whole(&NONE, b"done").map_err(|_| CallError::ClientGone)
        })
        .start();
    let mut client = bench.connect();
    client.send(ask(&bench, "f"));
    until("the call runs", || bench.held() == 1);
    client.finish();
    client.assert_silent(Duration::from_millis(400)); // no probe
    bench.stand.release();
    assert_eq!(client.answer().text(), "done");
    assert_eq!(bench.stand.gone.load(Ordering::SeqCst), 0);
}

#[test]
fn a_watched_connection_lives_on() {
    let bench = Setup::new()
        .function("f", |call, caller, _| {
            let guard = caller.watch(Arc::new(|| ()));
            let body = bytes(&call.body);
            let answered = caller.whole(&NONE, &body).map_err(|_| CallError::ClientGone);
            drop(guard);
            answered
        })
        .start();
    let mut client = bench.connect();
    for _ in 0..20 {
        client.send(ask(&bench, "f"));
        assert_eq!(client.answer().status, 200);
    }
    until("parked", || bench.parked() == 1);
    client.send(ask(&bench, "f"));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn beyond_the_connection_cap_is_503() {
    let bench = Setup::new().set("HOB_MAX_CONNECTIONS", "3").start();
    let mut clients: Vec<_> = (0..3).map(|_| bench.connect()).collect();
    until("three are open", || bench.open() == 3);
    let mut extra = bench.connect();
    let answer = extra.answer();
    assert_eq!((answer.status, answer.field("connection"), answer.field("retry-after")), (503, Some("close"), Some("15")));
    assert!(answer.message().contains("too many connections"));
    extra.assert_closed();
    clients.pop();
    until("one has left", || bench.open() == 2);
    assert_eq!(bench.ask(bench.post("Content-Length: 0\r\n", "")).status, 200);
}

#[test]
fn beyond_the_active_cap_requests_wait_in_order() {
    let bench = held().set("HOB_MAX_ACTIVE", "1").start();
    let mut first = bench.connect();
    first.send(ask(&bench, "held"));
    until("the only thread is taken", || bench.held() == 1);
    let mut others: Vec<_> = (0..5).map(|_| bench.connect()).collect();
    for client in &mut others {
        client.send(bench.post("Content-Length: 1\r\n", "x"));
    }
    until("nobody is parked", || bench.parked() == 0 && bench.open() == 6);
    assert_eq!((bench.calls(), bench.threads()), (1, 1));
    bench.stand.release();
    assert_eq!(first.answer().text(), "done");
    for client in &mut others {
        assert_eq!(client.answer().text(), "\r\nx");
    }
    assert_eq!(bench.threads(), 1);
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let bench = Bench::new();
    bench.edge.shared.poller.starve.store(3, Ordering::SeqCst);
    let mut client = bench.connect();
    client.send(bench.post("Content-Length: 0\r\n", ""));
    assert_eq!(client.answer().status, 200);
    assert_eq!(bench.edge.shared.poller.starve.load(Ordering::SeqCst), 0);
    assert_eq!(bench.ask(bench.post("Content-Length: 0\r\n", "")).status, 200);
}

/// Runs in a process of its own: it lowers that process's limit.
#[test]
#[ignore = "the body of `a_real_descriptor_limit_is_survived`"]
fn descriptor_limit_child() {
    let bench = Bench::new();
    let address = bench.edge.local_addr();
    assert_eq!(bench.ask(bench.post("Content-Length: 0\r\n", "")).status, 200);
    // The clients' own sockets are made before the limit leaves no descriptor.
    let sockets: Vec<_> = (0..10).map(|_| socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket")).collect();
    let old = getrlimit(Resource::Nofile);
    let before = EDGE.accept_starved.get();
    setrlimit(Resource::Nofile, Rlimit { current: Some(1), maximum: old.maximum }).expect("lowered");
    for fd in &sockets {
        connect(fd, &address).expect("the kernel takes it");
    }
    until("accept fails again and again", || EDGE.accept_starved.get() >= before + 3);
    setrlimit(Resource::Nofile, old).expect("raised");
    for fd in sockets {
        let mut client = Client::over(fd.into());
        client.send(bench.post("Content-Length: 0\r\n", ""));
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn a_real_descriptor_limit_is_survived() {
    let exe = std::env::current_exe().expect("the test's own program");
    let output = Command::new(exe).args(["--ignored", "--exact", "edge::tests::life::descriptor_limit_child", "--test-threads=1"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn draining() {
    let bench = held().start();
    let mut idle = bench.connect();
    let mut half = bench.connect();
    let request = bench.post("Content-Length: 0\r\n", "");
    half.send(&request[..20]);
    let mut running = bench.connect();
    running.send(ask(&bench, "held"));
    until("all are where they belong", || bench.held() == 1 && bench.parked() == 2);
    bench.edge.drain();
    idle.assert_closed();
    until("the listener is closed", || std::net::TcpStream::connect(bench.edge.local_addr()).is_err());
    half.send(&request[20..]);
    let answer = half.answer();
    assert_eq!((answer.status, answer.field("connection"), answer.field("retry-after")), (503, Some("close"), Some("15")));
    assert!(answer.message().starts_with("Timed out - server too busy"));
    half.assert_closed();
    bench.stand.release();
    let answer = running.answer();
    assert_eq!((answer.status, answer.text(), answer.field("connection")), (200, "done", Some("close")));
    running.assert_closed();
    until("all are closed", || bench.open() == 0);
}

#[test]
fn stop_cuts_what_does_not_end() {
    let bench = Bench::new();
    let mut slow_body = bench.connect();
    // The interim answer says that the request is in a worker's hands.
    slow_body.send(bench.post("Expect: 100-continue\r\nContent-Length: 10\r\n", ""));
    assert_eq!(slow_body.answer().status, 100);
    slow_body.send("abc");
    let mut idle = bench.connect();
    until("one is served, one parked", || bench.parked() == 1 && bench.open() == 2 && bench.threads() == 1);
    bench.edge.stop(Instant::now());
    assert_eq!((bench.threads(), bench.open()), (0, 0));
    slow_body.assert_closed();
    idle.assert_closed();
    bench.edge.stop(Instant::now()); // once more does nothing
}

/// Of this many bytes some calls' answers fill what kernels keep of a client.
const LARGE: usize = 60_000;
const MANY: usize = 400;

/// A client that has asked `MANY` times and takes nothing; its worker waits for it.
fn slow_reader(bench: &Bench) -> Client {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a small buffer");
    connect(&socket, &bench.edge.local_addr()).expect("connects");
    let mut client = Client::over(socket.into());
    client.send(ask(bench, "large").repeat(MANY));
    until("its worker waits for it, and its container would be free", || bench.edge.shared.owed.inside() == 1 && bench.held() == 0);
    client
}

fn large() -> Setup {
    Setup::new().function("large", |_, caller, stand| {
        stand.held.fetch_add(1, Ordering::SeqCst);
        let told = caller.whole(&NONE, &[b'x'; LARGE]);
        stand.held.fetch_sub(1, Ordering::SeqCst);
        told.map_err(|_| CallError::ClientGone)
    })
}

#[test]
fn a_slow_reader_does_not_hold_who_has_answered_it() {
    let bench = large().start();
    let mut client = slow_reader(&bench);
    for _ in 0..MANY {
        let answer = client.answer();
        assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    }
    assert_eq!(bench.edge.shared.owed.inside(), 0);
}

#[test]
fn at_the_stop_a_slow_reader_gets_its_answers_whole() {
    let bench = large().start();
    let mut client = slow_reader(&bench);
    let begun = bench.calls();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| bench.edge.stop(Instant::now() + Duration::from_secs(15)));
        until("it stops", || bench.edge.shared.owed.is_closed());
        // Those that had begun, then one that came too late.
        let mut answers = std::iter::repeat_with(|| client.answer());
        let whole = answers.by_ref().take_while(|answer| answer.status == 200).inspect(|answer| assert_eq!(answer.body.len(), LARGE)).count();
        assert!((begun..MANY).contains(&whole), "{whole} of {begun}");
        assert_eq!(stopped.join().expect("no panic"), None);
    });
}

#[test]
fn who_is_refused_and_stays_costs_no_thread() {
    let bench = Setup::new().set("HOB_MAX_ACTIVE", "1").start();
    let mut refused: Vec<_> = (0..8).map(|_| bench.connect()).collect();
    for client in &mut refused {
        client.send("no request\r\n\r\n and more of it");
    }
    // One thread, and nobody is gone.
    until("several have left it", || bench.parked() >= 3 && bench.open() >= 3);
    for client in &mut refused {
        assert_eq!(client.answer().status, 400);
        client.assert_closed();
    }
    until("all are closed", || bench.open() == 0);
}

#[test]
fn at_the_stop_who_found_no_thread_is_told() {
    let bench = held().set("HOB_MAX_ACTIVE", "1").start();
    let mut running = bench.connect();
    running.send(ask(&bench, "held"));
    until("it runs", || bench.held() == 1);
    let mut waiting = bench.connect();
    waiting.send(ask(&bench, "held"));
    until("the other waits for a thread", || bench.open() == 2 && bench.parked() == 0);
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| bench.edge.stop(Instant::now()));
        let answer = waiting.answer();
        assert_eq!((answer.status, answer.field("connection")), (503, Some("close")));
        waiting.assert_closed();
        bench.stand.release();
        assert_eq!(running.answer().text(), "done");
        assert_eq!(stopped.join().expect("no panic"), None);
    });
}

#[test]
fn clients_come_and_go_under_load() {
    let bench = Setup::new().set("HOB_MAX_ACTIVE", "4").start();
    let address = bench.edge.local_addr();
    let request = bench.post("Content-Length: 1\r\n", "x");
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let request = request.clone();
            crate::pool::spawn(format!("client-{n}"), move || {
                for round in 0..30 {
                    let mut client = Client::connect(address);
                    for _ in 0..=(round % 4) {
                        client.send(&request);
                        assert_eq!(client.answer().text(), "\r\nx");
                    }
                    if round % 5 == 0 {
                        client.send(&request[..30]);
                    }
                }
            })
            .expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join();
    }
    assert_eq!(bench.calls(), 8 * (0..30).map(|r| r % 4 + 1).sum::<usize>(), "every request was answered once");
    until("all are closed", || bench.open() == 0);
}
