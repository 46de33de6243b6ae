//! Ends amid work, again and again: asked for, and sudden. `HOB_TEST_ROUNDS`
//! says how often (else twice).

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Folder, PATIENCE, Server, http, wait_until};

const CALLERS: usize = 16;

fn rounds() -> u32 {
    std::env::var("HOB_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

/// What became of the requests of one round.
#[derive(Default)]
struct Tally {
    answered: AtomicU32,
    refused: AtomicU32,
    /// When each request without an answer had been sent.
    unanswered: Mutex<Vec<(Instant, String)>>,
}

/// Calls until it is told to stop or the server takes no more.
fn caller(address: SocketAddr, function: &str, n: usize, tally: &Tally, ended: &AtomicBool) {
    let body = format!("caller {n}");
    while !ended.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        if stream.write_all(&http::request("HTTP/1.1", "POST", &format!("/invoke/{function}"), &[("X-Sleep-Ms", "5")], body.as_bytes())).is_err() {
            return;
        }
        let sent = Instant::now();
        match http::finish(&mut stream) {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(answer.text(), body);
                tally.answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                tally.refused.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => tally.unanswered.lock().expect("list").push((sent, error.to_string())),
        }
    }
}

/// Runs `CALLERS` until `end` has ended the server; returns when it was told.
fn amid_load(server: &Server, functions: &[String], tally: &Tally, end: impl FnOnce()) -> Instant {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..CALLERS {
            let (function, ended) = (&functions[n % functions.len()], &ended);
            scope.spawn(move || caller(server.address, function, n, tally, ended));
        }
        wait_until("calls under way", || (tally.answered.load(Ordering::SeqCst) >= 40).then_some(()));
        let told = Instant::now();
        end();
        ended.store(true, Ordering::SeqCst);
        told
    })
}

/// Every request that was sent before SIGTERM gets its answer.
#[test]
fn sigterm_under_load_leaves_no_request_without_an_answer() {
    let (mut answered, mut refused) = (0, 0);
    for round in 0..rounds() {
        let Some(mut server) = Server::start(&[("FN_LOG_LEVEL", "info")]) else { return };
        let functions = ["a", "b"].map(|name| server.function(name, "echo", json!({})));
        let tally = Tally::default();
        let told = amid_load(&server, &functions, &tally, || {
            server.signal(Signal::TERM);
            // The callers go on until nobody takes their connections.
            wait_until("the listener's end", || TcpStream::connect(server.address).is_err().then_some(()));
        });
        let lost: Vec<_> = tally.unanswered.into_inner().expect("list").into_iter().filter(|(sent, _)| *sent < told).collect();
        assert!(lost.is_empty(), "round {round}: sent before the signal and never answered: {lost:?}");
        server.gone();
        answered += tally.answered.load(Ordering::SeqCst);
        refused += tally.refused.load(Ordering::SeqCst);
    }
    println!("SIGTERM under load, {} rounds: {answered} answered, {refused} refused with 503, 0 sent before it without an answer", rounds());
}

/// What an engine was still making when the server was killed appears after
/// the next start's first look.
fn nothing_left(server: &Server) {
    wait_until("the end of what the kill left", || (server.containers().is_empty() && server.socket_folders() == 0).then_some(()));
}

/// After a kill amid load the next start removes what is left and knows what
/// was acknowledged.
#[test]
fn kills_under_load_leave_nothing_behind() {
    let folder = Folder::new();
    let mut known = Vec::new();
    for round in 0..rounds() {
        let Some(mut server) = Server::start_in(folder.clone(), &[("FN_LOG_LEVEL", "info")]) else { return };
        nothing_left(&server);
        for function in &known {
            assert_eq!(server.send("GET", &format!("/v2/fns/{function}"), b"").status, 200, "round {round}: acknowledged and lost");
        }
        let new = match server.send("GET", "/v2/apps?name=app", b"").json()["items"][0]["id"].as_str() {
            None => server.function("f0", "echo", json!({})),
            Some(app) => {
                let body = json!({"app_id": app, "name": format!("f{round}"), "image": server.image("echo"), "memory": 64});
                server.manage("POST", "/v2/fns", &body)["id"].as_str().expect("id").to_owned()
            }
        };
        known.push(new.clone());
        let tally = Tally::default();
        amid_load(&server, &[new], &tally, || server.signal(Signal::KILL));
        assert_eq!(server.wait(), None, "killed");
    }
    let Some(server) = Server::start_in(folder, &[]) else { return };
    nothing_left(&server);
    assert_eq!(server.good_call(&known[0], &[], b"again").text(), "again");
    server.stop();
    println!("kill -9 under load, {} rounds: nothing left, nothing lost", rounds());
}
