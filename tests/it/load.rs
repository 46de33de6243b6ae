//! Many clients that take more than they give. While each crowd stands, health
//! probes and calls wait for none of them; when it leaves, descriptors and memory
//! come back. `HOB_TEST_FULL=1` takes the numbers of
//! SPECIFICATION.md, else a fifth of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Server, http, wait_until};

/// Requests of each kind that are timed beside a crowd.
const PROBES: usize = 100;
const CALLS: usize = 50;
/// Who is kept waiting by a slow client is kept until that one's time is over:
/// for a head, the shortest of them. What it takes beside them is printed.
const BEHIND_OTHERS: Duration = Duration::from_secs(8);
/// Resident bytes that may stay when a crowd has left.
const KEPT: u64 = 24 << 20;

fn scaled(full: usize) -> usize {
    if full_size() { full } else { full / 5 }
}

fn full_size() -> bool {
    std::env::var("HOB_TEST_FULL").as_deref() == Ok("1")
}

struct Bench<'s> {
    server: &'s Server,
    echo: &'s str,
    descriptors: usize,
    resident: u64,
}

impl Bench<'_> {
    fn new<'s>(server: &'s Server, echo: &'s str) -> Bench<'s> {
        let bench = Bench { server, echo, descriptors: 0, resident: 0 };
        // Before the measure: what the first requests make for good.
        bench.crowd(40, "GET /ping HTTP/1.1\r\nHost: t\r\n\r\n").iter_mut().for_each(answer);
        bench.time("alone", 0);
        Bench { descriptors: descriptors(server), resident: resident(server), ..bench }
    }

    /// Times probes and calls beside `crowd` of `size`, lets it go, and waits
    /// for what it took.
    fn beside(&self, name: &str, crowd: Vec<TcpStream>) {
        let size = crowd.len();
        let held = resident(self.server).saturating_sub(self.resident);
        self.time(name, size);
        println!("  {name}: {} KB more resident, {:.1} KB each", held >> 10, held as f64 / 1024.0 / size.max(1) as f64);
        drop(crowd);
        // A worker and its client's socket may live on for the linger.
        wait_until(&format!("descriptors back after {name}"), || (descriptors(self.server) <= self.descriptors + 12).then_some(()));
        wait_until(&format!("memory back after {name}"), || (resident(self.server) <= self.resident + KEPT).then_some(()));
    }

    fn time(&self, name: &str, size: usize) {
        let probes = p99(PROBES, || assert_eq!(self.server.send("GET", "/ping", b"").status, 200));
        let calls = p99(CALLS, || drop(self.server.good_call(self.echo, &[], b"mine")));
        println!("{size} {name}: probes p99 {probes:?}, calls p99 {calls:?}");
        assert!(probes < BEHIND_OTHERS, "{name}: a probe took {probes:?}");
        assert!(calls < BEHIND_OTHERS, "{name}: a call took {calls:?}");
    }

    fn crowd(&self, size: usize, first: &str) -> Vec<TcpStream> {
        (0..size)
            .map(|n| {
                let mut stream = TcpStream::connect(self.server.address).unwrap_or_else(|e| panic!("client {n}: {e}"));
                stream.write_all(first.as_bytes()).expect("sent");
                stream
            })
            .collect()
    }
}

fn p99(count: usize, mut once: impl FnMut()) -> Duration {
    let mut took: Vec<Duration> = (0..count)
        .map(|_| {
            let begun = Instant::now();
            once();
            begun.elapsed()
        })
        .collect();
    took.sort();
    took[count * 99 / 100 - 1]
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count()
}

/// Resident bytes of the server.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// Reads one answer to a request without a body.
fn answer(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
    let (mut seen, mut piece) = (Vec::new(), [0u8; 1024]);
    while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut piece).expect("an answer");
        assert!(n > 0, "closed after {seen:?}");
        seen.extend_from_slice(&piece[..n]);
    }
}

#[test]
fn crowds_of_slow_clients_keep_nobody_waiting() {
    let settings = [("FN_LOG_LEVEL", "info"), ("FN_MAX_TOTAL_MEMORY_BYTES", "8589934592"), ("FN_HTTP_IDLE_TIMEOUT", "600")];
    let Some(server) = Server::start(&settings) else { return };
    let echo = server.function("echo", "echo", json!({"memory": 64}));
    let large = server.function("large", "echo", json!({"memory": 64, "timeout": 120, "idle_timeout": 1}));
    let bench = Bench::new(&server, &echo);

    bench.beside("slow heads", bench.crowd(scaled(500), "GET /ping HTTP/1.1\r\nHo"));

    let bodies = format!("POST /invoke/{echo} HTTP/1.1\r\nHost: t\r\nContent-Length: 5000000\r\n\r\nabc");
    bench.beside("slow bodies", bench.crowd(scaled(60), &bodies));

    let mut idle = bench.crowd(scaled(2_000), "GET /ping HTTP/1.1\r\nHost: t\r\n\r\n");
    idle.iter_mut().for_each(answer);
    // Idle means parked: how many threads their one burst took is chance.
    let each = || resident(&server).saturating_sub(bench.resident) / idle.len() as u64;
    wait_until("12 KiB for each idle connection", || (each() <= 12 << 10).then_some(()));
    bench.beside("idle connections", idle);

    // Each holds a container: the answer is longer than what the kernel takes.
    // Containers started for them that none came to use go after a second.
    let readers = format!("POST /invoke/{large} HTTP/1.1\r\nHost: t\r\nX-Size: 16000000\r\nContent-Length: 0\r\n\r\n");
    let readers = bench.crowd(scaled(20), &readers);
    server.await_queue(&large, "busy", readers.len() as u64);
    bench.beside("slow readers", readers);

    let mut pipeline = bench.crowd(1, "");
    pipeline[0].set_nonblocking(true).expect("non-blocking");
    let requests = "GET /ping HTTP/1.1\r\nHost: t\r\n\r\n".repeat(scaled(20_000));
    let (bytes, mut sent, until) = (requests.as_bytes(), 0, Instant::now() + Duration::from_secs(2));
    while sent < bytes.len() && Instant::now() < until {
        match pipeline[0].write(&bytes[sent..]) {
            Ok(n) => sent += n,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    println!("{} of {} pipelined requests taken", sent / 31, scaled(20_000));
    bench.beside("connection with requests whose answers nobody reads", pipeline);

    assert_eq!(server.good_call(&echo, &[], b"after").text(), "after");
    println!("the stop took {:?}", server.stop());
}

/// A client that takes no byte for the time limit is cut and gives its
/// container back to others; what it did get shows that it broke.
#[test]
fn a_client_that_does_not_read_is_cut() {
    let Some(server) = Server::start(&[("FN_RESPONSE_WRITE_TIMEOUT", "1")]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 60}));
    let mut stream = http::begin(server.address, "POST", &format!("/invoke/{echo}"), &[("X-Size", "16000000")], b"").expect("sent");
    server.await_queue(&echo, "busy", 1);
    server.await_queue(&echo, "busy", 0);
    let answer = http::finish(&mut stream);
    assert!(answer.is_err(), "taken for whole");
    assert_eq!(server.good_call(&echo, &[], b"next").text(), "next");
    server.stop();
}
