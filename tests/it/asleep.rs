//! Calls that wait without a thread: they cost none, keep their order, their
//! answers, their time limit, and their client's right to leave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Held, PATIENCE, Server, http, sandbox, threads, together, wait_until};

/// Room for one container of 64 MiB.
const ONE: (&str, &str) = ("FN_MAX_TOTAL_MEMORY_BYTES", "104857600");

/// A server whose one container is held by the returned call.
fn held(env: &[(&str, &str)]) -> Option<(Server, String, Held)> {
    let server = Server::start(env)?;
    let echo = server.function("echo", "echo", json!({}));
    wait_until("a container", || (server.call(&echo, &[], b"").status == 200).then_some(()));
    server.await_queue(&echo, "busy", 0);
    let running = server.hold(&echo);
    Some((server, echo, running))
}

fn workers(server: &Server) -> usize {
    threads(server.pid()).iter().filter(|name| name.strip_prefix("edge-").is_some_and(|n| n.parse::<u32>().is_ok())).count()
}

#[test]
fn waiting_callers_cost_no_threads_and_keep_their_order() {
    let Some((server, echo, running)) = held(&[ONE]) else { return };
    let mut line = Vec::new();
    for n in 1..=200u64 {
        line.push(server.begin_call(&echo, &[]));
        if n <= 3 {
            // The first are let in one by one, to see their order.
            server.await_queue(&echo, "waiting", n);
        }
    }
    server.await_queue(&echo, "waiting", 200);
    // Those that read the requests end; who waits with a thread keeps it.
    wait_until("the waiting callers to need few threads", || (workers(&server) < 20).then_some(()));
    assert_eq!(server.queue(&echo, "waiting"), 200);
    assert_eq!(running.release().status, 200);
    let mut counts: Vec<u64> = Vec::new();
    for mut stream in line {
        let answer = http::finish(&mut stream).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        counts.push(answer.field("X-Count").and_then(|n| n.parse().ok()).expect("a count"));
    }
    assert!(counts[..3].is_sorted(), "in the order of their coming: {counts:?}");
    counts.sort_unstable();
    let first = counts[0];
    assert_eq!(counts, (first..first + 200).collect::<Vec<_>>(), "each ran once");
    server.stop();
}

#[test]
fn a_wait_has_an_end() {
    let Some((server, echo, running)) = held(&[ONE, ("HOB_MAX_WAIT_MSECS", "400")]) else { return };
    let begun = Instant::now();
    let mut line: Vec<_> = (0..8).map(|_| server.begin_call(&echo, &[])).collect();
    for stream in &mut line {
        let answer = http::finish(stream).expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.message().contains("HOB_MAX_WAIT_MSECS"), "{}", answer.message());
        assert!(answer.field("Retry-After").is_some(), "{answer:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_eq!(running.release().status, 200);
    server.await_queue(&echo, "busy", 0);
    server.good_call(&echo, &[], b"");
    assert_eq!(server.queue(&echo, "waiting"), 0);
    server.stop();
}

#[test]
fn who_leaves_is_not_served() {
    let Some((server, echo, running)) = held(&[ONE]) else { return };
    let mut line: Vec<_> = (1..=6)
        .map(|n| {
            let stream = server.begin_call(&echo, &[]);
            server.await_queue(&echo, "waiting", n);
            Some(stream)
        })
        .collect();
    for gone in [1, 3, 4] {
        line[gone] = None;
    }
    // Found by the launcher's look and a probe.
    server.await_queue(&echo, "waiting", 3);
    let last: u64 = running.release().field("X-Count").and_then(|n| n.parse().ok()).expect("a count");
    let counts: Vec<u64> = line
        .into_iter()
        .flatten()
        .map(|mut stream| http::finish(&mut stream).expect("an answer").field("X-Count").and_then(|n| n.parse().ok()).expect("a count"))
        .collect();
    assert_eq!(counts, [last + 1, last + 2, last + 3], "the others, in their order, and nobody else");
    server.stop();
}

#[test]
fn at_the_stop_who_waits_is_told() {
    let Some((mut server, echo, running)) = held(&[ONE, ("HOB_DRAIN_MSECS", "120000")]) else { return };
    let mut line: Vec<_> = (0..20).map(|_| server.begin_call(&echo, &[])).collect();
    server.await_queue(&echo, "waiting", 20);
    server.signal(Signal::TERM);
    for stream in &mut line {
        let answer = http::finish(stream).expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(running.release().status, 200, "what runs is answered");
    assert_eq!(server.wait(), Some(0));
}

/// What clients have sent beyond their calls, and that they stay, costs those
/// behind them no time.
#[test]
fn at_the_stop_who_has_sent_more_is_told_as_soon() {
    let Some((mut server, echo, running)) = held(&[ONE, ("HOB_DRAIN_MSECS", "120000")]) else { return };
    let mut line: Vec<_> = (0..48)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).expect("connected");
            stream.write_all(&request(&echo, "").repeat(2)).expect("sent");
            stream
        })
        .collect();
    server.await_queue(&echo, "waiting", 48);
    server.signal(Signal::TERM);
    for stream in &mut line {
        let answer = http::finish(stream).expect("an answer");
        assert!(answer.status == 503 && answer.message().contains("shutting down"), "{answer:?}");
    }
    assert_eq!(running.release().status, 200, "what runs is answered");
    assert_eq!(server.wait(), Some(0), "{}", server.log());
}

/// Kept-alive clients whose requests come two at a time, bodies of three
/// sizes, more callers than containers: each gets its own answers in order.
#[test]
fn answers_find_their_callers() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "146800640")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let address = server.address;
    together(48, |caller| {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        for round in 0..12 {
            let pair = [format!("first of {caller}/{round}"), "x".repeat([3, 9_000, 20_000][round % 3]) + &format!(" second of {caller}/{round}")];
            let sent: Vec<u8> = pair.iter().flat_map(|body| request(&echo, body)).collect();
            stream.write_all(&sent).expect("sent");
            for body in &pair {
                assert_eq!(&answer(&mut stream), body, "caller {caller}, round {round}");
            }
        }
    });
    server.stop();
}

/// The function ends after each answer: who has its turn then has it in vain, and
/// is the next again.
#[test]
fn who_has_its_turn_in_vain_keeps_its_place() {
    let Some(server) = Server::start(&[ONE, ("HOB_MAX_WAIT_MSECS", "300000")]) else { return };
    let function = server.function("hostile", "hostile", json!({}));
    wait_until("a container", || (server.call(&function, &[], b"").status == 200).then_some(()));
    // Busy until it is read.
    let mut running = server.begin_call(&function, &[("X-Do", "body:16000000")]);
    server.await_queue(&function, "busy", 1);
    // Each costs a container, one after the other; an engine's take a second each.
    let count = if sandbox::chosen() { 120 } else { 40 };
    let mut line: Vec<_> = (1..=count)
        .map(|n| {
            let stream = server.begin_call(&function, &[("X-Script", &format!("ok:call {n};exit:0"))]);
            if n <= 3 {
                server.await_queue(&function, "waiting", n);
            }
            stream
        })
        .collect();
    server.await_queue(&function, "waiting", count);
    assert_eq!(http::finish(&mut running).expect("an answer").status, 200);
    for (n, stream) in (1..).zip(&mut line) {
        let answer = http::finish(stream).expect("an answer");
        // 502: it was sent to a function that was about to end.
        let own = answer.status == 200 && answer.body == format!("call {n}").as_bytes();
        assert!(own || answer.status == 502, "{n}: {answer:?}");
        let busy = workers(&server);
        // A thread for each that waits would be more than a busy machine makes of few.
        assert!(busy < usize::try_from(count / 2).expect("few"), "{busy} threads after {n}: {:?}", threads(server.pid()));
    }
    server.stop();
}

/// One thread, a line that never ends: others get their turn nevertheless.
#[test]
fn an_endless_line_does_not_keep_the_only_thread() {
    let Some(server) = Server::start(&[ONE, ("HOB_MAX_ACTIVE", "1")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let (address, enough, served) = (server.address, AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for caller in 0..8 {
            if caller == 1 {
                // The first waits for a container; the others lie down behind it.
                wait_until("a launcher", || threads(server.pid()).iter().any(|name| name.starts_with("hot-launch")).then_some(()));
            }
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).expect("connected");
                stream.set_read_timeout(Some(PATIENCE)).expect("set");
                while !enough.load(Ordering::SeqCst) {
                    let head = format!("POST /invoke/{echo} HTTP/1.1\r\nHost: test\r\nX-Sleep-Ms: 20\r\nContent-Length: 2\r\n\r\nhi");
                    stream.write_all(head.as_bytes()).expect("sent");
                    assert_eq!(answer(&mut stream), "hi");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        wait_until("a line that moves", || (served.load(Ordering::SeqCst) > 16).then_some(()));
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || tell.send(http::send(address, "GET", "/v2/apps", &[], b"")));
        let answer = told.recv_timeout(PATIENCE);
        enough.store(true, Ordering::SeqCst);
        assert_eq!(answer.expect("an answer while the line stands").expect("whole").status, 200);
    });
    server.stop();
}

/// A request that holds a thread: its body does not come.
fn unfinished(function: &str) -> Vec<u8> {
    format!("POST /invoke/{function} HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nx").into_bytes()
}

/// No thread is free when the wait is over: it is told nevertheless.
#[test]
fn a_wait_that_fails_waits_for_no_thread() {
    let Some((server, echo, running)) = held(&[ONE, ("HOB_MAX_ACTIVE", "3"), ("HOB_MAX_WAIT_MSECS", "10000")]) else { return };
    // The first waits with a thread; the others lie down behind it.
    let first = server.begin_call(&echo, &[]);
    server.await_queue(&echo, "waiting", 1);
    let mut line: Vec<_> = (0..6).map(|_| server.begin_call(&echo, &[])).collect();
    server.await_queue(&echo, "waiting", 7);
    drop(first);
    server.await_queue(&echo, "waiting", 6);
    let uploads: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).expect("connected");
            stream.write_all(&unfinished(&echo)).expect("sent");
            stream
        })
        .collect();
    for stream in &mut line {
        let answer = http::finish(stream).expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    // Only now is the call done that has the container, and a thread.
    assert_eq!(running.release().status, 200);
    drop(uploads);
    server.stop();
}

/// Who had a thread beyond the cap for its container's sake does not keep it.
#[test]
fn the_next_request_of_one_that_waited_counts_towards_the_cap() {
    let Some((server, echo, running)) = held(&[ONE, ("HOB_MAX_ACTIVE", "3")]) else { return };
    let mut line = Vec::new();
    for n in 1..=12 {
        let mut stream = TcpStream::connect(server.address).expect("connected");
        stream.write_all(&request(&echo, "")).expect("sent");
        server.await_queue(&echo, "waiting", n);
        stream.write_all(&unfinished(&echo)).expect("sent");
        line.push(stream);
    }
    assert_eq!(running.release().status, 200);
    for stream in &mut line {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        answer(stream);
    }
    // The other requests hold those of the cap meanwhile.
    let mut looks_in_a_row = 0;
    wait_until("the threads beyond the cap to end", || {
        looks_in_a_row = if workers(&server) == 3 { looks_in_a_row + 1 } else { 0 };
        (looks_in_a_row == 50).then_some(())
    });
    drop(line);
    server.stop();
}

fn request(function: &str, body: &str) -> Vec<u8> {
    format!("POST /invoke/{function} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// One answer of known length; what follows it stays unread.
fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0u8];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("more of the head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).expect("the body");
    String::from_utf8(body).expect("text")
}
