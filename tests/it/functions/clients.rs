//! Faults of clients, beside good calls of the same function: not one costs it
//! its warm container.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

use crate::harness::Server;

/// Clients with a fault at the same time.
const CLIENTS: usize = 8;
const ROUNDS: usize = 3;

/// What a client does once its bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Sends no more and reads to the end.
    Finishes,
    /// Stays, and reads until the server has had enough of it.
    Waits,
    /// Closes.
    Leaves,
    /// Closes with a reset.
    Resets,
    /// Reads so many bytes, then closes.
    LeavesAfter(usize),
    /// Sends no more, reads so many bytes, then resets.
    ResetsAfter(usize),
}

use Then::{Finishes, Leaves, LeavesAfter, Resets, ResetsAfter, Waits};

/// `¶` is CR LF, `@E` the way to the function.
const FAULTS: &[(&str, &str, Then)] = &[
    ("a head cut in its first line", "POST @E HT", Leaves),
    ("a head cut in a field", "POST @E HTTP/1.1¶Host: t¶Content-Le", Finishes),
    ("a head that stays half", "POST @E HTTP/1.1¶Host: t¶Content-Le", Waits),
    ("a head reset", "POST @E HTTP/1.1¶Host: t¶", Resets),
    ("no body", "POST @E HTTP/1.1¶Host: t¶Content-Length: 9¶¶", Leaves),
    ("no body, reset", "POST @E HTTP/1.1¶Host: t¶Content-Length: 9¶¶", Resets),
    ("half a body", "POST @E HTTP/1.1¶Host: t¶Content-Length: 9¶¶abc", Finishes),
    ("half a body, reset", "POST @E HTTP/1.1¶Host: t¶Content-Length: 9¶¶abc", Resets),
    ("a body that never comes", "POST @E HTTP/1.1¶Host: t¶Content-Length: 9¶¶", Waits),
    ("a body that stays half", "POST @E HTTP/1.1¶Host: t¶Content-Length: 9¶¶abc", Waits),
    ("chunks that stay half", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶5¶ab", Waits),
    ("expects to be asked for its body, and leaves", "POST @E HTTP/1.1¶Host: t¶Expect: 100-continue¶Content-Length: 9¶¶", LeavesAfter(25)),
    ("chunks cut in a size", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶5", Leaves),
    ("chunks cut in data", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶5¶ab", Finishes),
    ("chunks cut before the last", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶2¶ab¶", Resets),
    ("chunks cut at the last line end", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶2¶ab¶0¶", Finishes),
    ("a bad chunk size", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶zz¶ab¶0¶¶", Finishes),
    ("a chunk longer than it says", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶2¶abcd¶0¶¶", Finishes),
    ("a chunk size of 17 digits", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶00000000000000002¶ab¶0¶¶", Finishes),
    ("a bad trailer", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶2¶ab¶0¶bad¶¶", Finishes),
    ("a length and chunks", "POST @E HTTP/1.1¶Host: t¶Content-Length: 2¶Transfer-Encoding: chunked¶¶0¶¶", Finishes),
    ("a length that is none", "POST @E HTTP/1.1¶Host: t¶Content-Length: two¶¶ab", Finishes),
    ("a body over the limit", "POST @E HTTP/1.1¶Host: t¶Content-Length: 100001¶¶ab", Finishes),
    ("chunks over the limit", "POST @E HTTP/1.1¶Host: t¶Transfer-Encoding: chunked¶¶FFFFFF¶ab", Leaves),
    ("a folded field", "POST @E HTTP/1.1¶Host: t¶A: b¶ c¶Content-Length: 0¶¶", Finishes),
    ("a NUL in a field", "POST @E HTTP/1.1¶Host: t¶A: \0¶Content-Length: 0¶¶", Finishes),
    ("TLS", "\u{16}\u{3}\u{1}\u{2}", Waits),
    ("HTTP/2", "PRI * HTTP/2.0¶¶SM¶¶", Finishes),
    ("no HTTP", "\u{1}\u{2}\u{3}¶¶", Finishes),
    ("leaves at once", "POST @E HTTP/1.1¶Host: t¶Content-Length: 2¶¶ab", Leaves),
    ("resets at once", "POST @E HTTP/1.1¶Host: t¶Content-Length: 2¶¶ab", Resets),
    ("leaves while the function works", "POST @E HTTP/1.1¶Host: t¶X-Sleep-Ms: 50¶Content-Length: 2¶¶ab", Leaves),
    ("resets while the function works", "POST @E HTTP/1.1¶Host: t¶X-Sleep-Ms: 50¶Content-Length: 2¶¶ab", Resets),
    ("half closes while the function works", "POST @E HTTP/1.1¶Host: t¶X-Sleep-Ms: 50¶Content-Length: 2¶¶ab", Finishes),
    ("leaves in the answer's head", "POST @E HTTP/1.1¶Host: t¶Content-Length: 2¶¶ab", LeavesAfter(10)),
    ("leaves in a long answer", "POST @E HTTP/1.1¶Host: t¶X-Size: 8000000¶Content-Length: 2¶¶ab", LeavesAfter(1000)),
    ("resets in a long answer", "POST @E HTTP/1.1¶Host: t¶X-Size: 8000000¶Content-Length: 2¶¶ab", ResetsAfter(100_000)),
    (
        "asks twice and leaves in the first answer",
        "POST @E HTTP/1.1¶Host: t¶X-Size: 8000000¶Content-Length: 2¶¶abPOST @E HTTP/1.1¶Host: t¶Content-Length: 2¶¶cd",
        ResetsAfter(1000),
    ),
    ("asks ten times and reads nothing", "POST @E HTTP/1.1¶Host: t¶X-Size: 100000¶Content-Length: 0¶¶", Resets),
    ("garbage behind a call", "POST @E HTTP/1.1¶Host: t¶Content-Length: 2¶¶ab\u{1}\u{2}¶¶", Finishes),
    ("requests behind the last one", "POST @E HTTP/1.1¶Host: t¶Connection: close¶Content-Length: 2¶¶abPOST @E HTTP/1.1¶Host: t¶¶", Finishes),
];

fn fault(server: &Server, echo: &str, text: &str, then: Then) -> std::io::Result<()> {
    let text = text.replace("@E", &format!("/invoke/{echo}")).replace('¶', "\r\n");
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte each")).collect();
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&bytes)?;
    let stream = stream;
    let mut sink = [0u8; 4096];
    let mut take = |mut left: usize| -> std::io::Result<()> {
        while left > 0 {
            match (&stream).read(&mut sink[..left.min(4096)])? {
                0 => break,
                n => left -= n,
            }
        }
        Ok(())
    };
    match then {
        Finishes | Waits => {
            if then == Finishes {
                let _ = stream.shutdown(Shutdown::Write);
            }
            match take(usize::MAX) {
                Err(e) if e.kind() != ErrorKind::ConnectionReset => return Err(e),
                _ => {}
            }
        }
        LeavesAfter(n) => take(n)?,
        ResetsAfter(n) => {
            take(n)?;
            set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Resets => set_socket_linger(&stream, Some(Duration::ZERO))?,
        Leaves => {}
    }
    Ok(())
}

#[test]
fn no_fault_of_a_client_costs_a_warm_container() {
    let limits = [("FN_MAX_REQUEST_SIZE", "100000"), ("FN_REQUEST_HEADER_READ_TIMEOUT", "1"), ("FN_REQUEST_BODY_READ_TIMEOUT", "1")];
    let Some(server) = Server::start(&limits) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 60, "annotations": {"hob/max-instances": 1}}));
    let instance = server.good_call(&echo, &[], b"").field("X-Instance").expect("its instance").to_owned();
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let wrong = Mutex::new(Vec::new());
    let begun = Instant::now();
    let good = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0u32;
            while !done.load(Ordering::SeqCst) {
                let body = format!("good call {calls}");
                let answer = server.good_call(&echo, &[], body.as_bytes());
                assert_eq!(answer.text(), body);
                assert_eq!(answer.field("X-Instance"), Some(instance.as_str()), "a client's fault cost a warm container\n{}", server.log());
                calls += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            calls
        });
        let all: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some((name, text, then)) = FAULTS.get(n / ROUNDS) else { return };
                        if let Err(e) = fault(&server, &echo, text, *then) {
                            wrong.lock().expect("list").push(format!("{name}: {e}"));
                        }
                    }
                })
            })
            .collect();
        all.into_iter().for_each(|one| one.join().expect("a client"));
        // One that leaves the line: its place goes to the next.
        let mut running = server.begin_call(&echo, &[("X-Sleep-Ms", "300")]);
        let gone: Vec<_> = (0..5).map(|_| server.begin_call(&echo, &[])).collect();
        drop(gone);
        assert_eq!(crate::harness::http::finish(&mut running).expect("an answer").status, 200);
        done.store(true, Ordering::SeqCst);
        caller.join().expect("the good caller")
    });
    println!("{} faults of clients, {ROUNDS} times each, in {:?}; {good} good calls beside them, all served by one container", FAULTS.len(), begun.elapsed());
    let wrong = wrong.into_inner().expect("list");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.await_queue(&echo, "busy", 0);
    assert_eq!(server.good_call(&echo, &[], b"after").field("X-Instance"), Some(instance.as_str()), "{}", server.log());
    server.stop();
}
