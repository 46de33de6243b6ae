//! What was answered stays, whenever the server is killed; a store that is not
//! whole is not served.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Folder, Server, command, http, wait_until};

const WRITERS: usize = 4;

/// A function's state as its writer knows it: the version in its
/// configuration, `None` once it is deleted.
type State = Option<u64>;

/// What one writer knows at the kill.
#[derive(Debug, Default)]
struct Known {
    /// Functions by name, with their ids.
    answered: BTreeMap<String, (String, State)>,
    /// The request whose answer did not come: it may have been done or not.
    open: Option<(String, State)>,
}

impl Known {
    /// Writes until the server is gone: new functions, new versions, deletes.
    fn write(&mut self, address: SocketAddr, app: &str, round: usize, answers: &AtomicUsize) {
        for n in 0.. {
            let (name, state, method, target, body) = match n % 4 {
                0 | 1 => {
                    let name = format!("r{round}n{n}");
                    let body = json!({"app_id": app, "name": name, "image": "x", "config": {"V": "0"}});
                    (name, Some(0), "POST", "/v2/fns".to_owned(), body)
                }
                2 => {
                    let (name, (id, state)) = self.answered.iter().rev().find(|(_, (_, s))| s.is_some()).expect("one was made");
                    let next = state.expect("alive") + 1;
                    (name.clone(), Some(next), "PUT", format!("/v2/fns/{id}"), json!({"config": {"V": next.to_string()}}))
                }
                _ => {
                    let (name, (id, _)) = self.answered.iter().find(|(_, (_, s))| s.is_some()).expect("one was made");
                    (name.clone(), None, "DELETE", format!("/v2/fns/{id}"), Value::Null)
                }
            };
            let text = if body.is_null() { String::new() } else { body.to_string() };
            match http::send(address, method, &target, &[], text.as_bytes()) {
                Ok(answer) => {
                    assert!(answer.status / 100 == 2, "{method} {target}: {answer:?}");
                    let id = if method == "POST" { answer.json()["id"].as_str().expect("id").to_owned() } else { self.answered[&name].0.clone() };
                    self.answered.insert(name, (id, state));
                    answers.fetch_add(1, Ordering::SeqCst);
                }
                Err(_) => {
                    self.open = Some((name, state));
                    return;
                }
            }
        }
    }

    /// Compares with what the next server shows, and goes on from there.
    fn check(&mut self, server: &Server, app: &str, round: usize) {
        let shown = shown(server, app);
        for (name, (_, state)) in &self.answered {
            let found = shown.get(name).map(|(_, version)| *version);
            let open = self.open.as_ref().filter(|(n, _)| n == name).map(|(_, s)| *s);
            assert!(
                found == *state || open == Some(found),
                "round {round}: {name} was {state:?} by its last answer, is {found:?} (asked and not answered: {open:?})"
            );
        }
        for name in shown.keys().filter(|n| !self.answered.contains_key(*n)) {
            assert_eq!(self.open.as_ref().map(|(n, _)| n), Some(name), "round {round}: nobody asked for {name}");
        }
        self.answered = shown.into_iter().map(|(name, (id, version))| (name, (id, Some(version)))).collect();
        self.open = None;
    }
}

/// All functions of an app: name, id, version.
fn shown(server: &Server, app: &str) -> BTreeMap<String, (String, u64)> {
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = server.manage("GET", &format!("/v2/fns?app_id={app}&per_page=100&cursor={cursor}"), &Value::Null);
        for item in page["items"].as_array().expect("items") {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).expect("text").to_owned();
            all.insert(text("/name"), (text("/id"), text("/config/V").parse().expect("a version")));
        }
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return all,
        }
    }
}

/// Kills the server in the middle of writes, again and again, on one store.
/// HOB_KILL_ROUNDS says how often.
#[test]
fn nothing_answered_is_lost_by_a_kill() {
    let rounds: usize = std::env::var("HOB_KILL_ROUNDS").ok().map_or(20, |n| n.parse().expect("a number"));
    let folder = Folder::new();
    let mut known: Vec<Known> = (0..WRITERS).map(|_| Known::default()).collect();
    let mut apps = Vec::new();
    for round in 0..rounds {
        let Some(mut server) = Server::start_in(folder.clone(), &[]) else { return };
        if apps.is_empty() {
            apps.extend((0..WRITERS).map(|n| server.manage("POST", "/v2/apps", &json!({"name": format!("w{n}")}))["id"].as_str().expect("id").to_owned()));
        }
        for (known, app) in known.iter_mut().zip(&apps) {
            known.check(&server, app, round);
        }
        let (address, answers, enough) = (server.address, AtomicUsize::new(0), 30 + 17 * round % 90);
        std::thread::scope(|scope| {
            for (known, app) in known.iter_mut().zip(&apps) {
                let answers = &answers;
                scope.spawn(move || known.write(address, app, round, answers));
            }
            wait_until("writes", || (answers.load(Ordering::SeqCst) >= enough).then_some(()));
            server.signal(Signal::KILL);
        });
        assert_eq!(server.wait(), None, "killed");
    }
    let server = Server::start_in(folder, &[]).expect("an engine was there");
    for (known, app) in known.iter_mut().zip(&apps) {
        known.check(&server, app, rounds);
    }
    println!("{rounds} kills, {} functions at the end", known.iter().map(|k| k.answered.len()).sum::<usize>());
    server.stop();
}

/// A store that is not whole stops the start, and the message names the file.
#[test]
fn a_damaged_store_is_not_served() {
    let folder = Folder::new();
    let Some(server) = Server::start_in(folder.clone(), &[]) else { return };
    for n in 0..40 {
        server.function_of(&format!("f{n}"), "x", json!({"config": {"K": "v".repeat(300)}}));
    }
    server.stop();
    let file = folder.path.join("data/fn.db");
    let good = std::fs::read(&file).expect("the store");
    assert!(good.len() > 4096 * 6, "{}", good.len());
    let mut scribbled = good.clone();
    scribbled[4096 * 3..4096 * 5].iter_mut().for_each(|b| *b ^= 0x5a);
    for (what, bytes) in [("scribbled", scribbled), ("cut", good[..good.len() - 4096].to_vec()), ("another file", b"not a database at all ".repeat(300))] {
        std::fs::write(&file, bytes).expect("written");
        let output = command(&folder, &[]).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains("fn.db") && said.contains("damaged"), "{what}: {said}");
    }
    std::fs::write(&file, good).expect("written");
    let server = Server::start_in(folder, &[]).expect("an engine was there");
    assert_eq!(server.manage("GET", "/v2/apps", &Value::Null)["items"].as_array().map(Vec::len), Some(1));
    server.stop();
}
