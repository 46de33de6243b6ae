//! A faulty line to the container engine: requests pass through it, or meet
//! what the test has planned for their kind.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::Folder;
use super::engine::socket;

/// What is asked of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Start,
    Inspect,
    Remove,
    Pull,
    Events,
    Image,
    List,
    Other,
}

impl Kind {
    fn of(line: &str) -> Kind {
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        match method {
            "POST" if path.ends_with("/containers/create") => Kind::Create,
            "POST" if path.ends_with("/start") => Kind::Start,
            "POST" if path.ends_with("/images/create") => Kind::Pull,
            "DELETE" if path.contains("/containers/") => Kind::Remove,
            "GET" if path.ends_with("/containers/json") => Kind::List,
            "GET" if path.contains("/containers/") => Kind::Inspect,
            "GET" if path.contains("/images/") && path.ends_with("/json") => Kind::Image,
            "GET" if path.ends_with("/events") => Kind::Events,
            _ => Kind::Other,
        }
    }
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The engine never learns of it; this status and message come back.
    Status(u16, &'static str),
    /// Nothing comes back, until the plan is changed.
    Hang,
    /// The engine does it; the line is cut before its answer.
    Cut,
    /// Something that is no HTTP.
    Garbage,
    /// A good head, then something that is no JSON.
    BadBody,
    /// It takes so long, in milliseconds.
    Slow(u64),
}

#[derive(Debug, Default)]
struct Plan {
    /// The next request of the kind meets it.
    once: Option<(Kind, Fault)>,
    met: bool,
    /// Every request, of every kind, hangs.
    dead: bool,
    /// Changes with every change: what hangs, ends.
    round: u64,
}

#[derive(Debug, Default)]
struct Shared {
    plan: Mutex<Plan>,
    over: AtomicBool,
    /// Connections to clients, to be cut; and those that carry events.
    open: Mutex<Vec<UnixStream>>,
    events: Mutex<Vec<UnixStream>>,
}

pub(crate) struct Proxy {
    path: PathBuf,
    /// Must outlive the socket in it.
    _folder: Arc<Folder>,
    shared: Arc<Shared>,
    listening: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Proxy {
    /// Listens on a socket in `folder`.
    pub(crate) fn start(folder: Arc<Folder>) -> Proxy {
        let proxy = Proxy { path: folder.path.join("engine.sock"), _folder: folder, shared: Arc::default(), listening: Mutex::default() };
        proxy.listen();
        proxy
    }

    /// For `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    fn listen(&self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).expect("a socket for the proxy");
        let shared = self.shared.clone();
        shared.over.store(false, Ordering::SeqCst);
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                let mut open = shared.open.lock().expect("open");
                open.extend(client.try_clone());
                drop(open);
                let shared = shared.clone();
                thread::spawn(move || {
                    let line = client.try_clone();
                    serve(client, &shared);
                    // The list above holds it too.
                    let _ = line.map(|l| l.shutdown(Shutdown::Both));
                });
            }
        });
        *self.listening.lock().expect("listening") = Some(thread);
    }

    /// The next request of that kind meets the fault; anything before is off.
    pub(crate) fn once(&self, kind: Kind, fault: Fault) {
        self.change(|plan| (plan.once, plan.met) = (Some((kind, fault)), false));
    }

    /// Whether the planned fault was met.
    pub(crate) fn met(&self) -> bool {
        self.shared.plan.lock().expect("plan").met
    }

    /// From now on nothing is answered, or all is well again.
    pub(crate) fn dead(&self, dead: bool) {
        self.change(|plan| plan.dead = dead);
    }

    /// All is well; what hangs is cut.
    pub(crate) fn well(&self) {
        self.change(|plan| (plan.once, plan.dead) = (None, false));
    }

    fn change(&self, how: impl FnOnce(&mut Plan)) {
        let mut plan = self.shared.plan.lock().expect("plan");
        how(&mut plan);
        plan.round += 1;
    }

    /// Ends the event streams under way.
    pub(crate) fn cut_events(&self) {
        for stream in self.shared.events.lock().expect("events").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Nobody is there: connections are cut and refused.
    pub(crate) fn leave(&self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then ends.
        let _ = UnixStream::connect(&self.path);
        if let Some(thread) = self.listening.lock().expect("listening").take() {
            thread.join().expect("the listener");
        }
        let _ = std::fs::remove_file(&self.path);
        for open in self.shared.open.lock().expect("open").drain(..) {
            let _ = open.shutdown(Shutdown::Both);
        }
        self.change(|_| ());
    }

    /// After `leave`: there again.
    pub(crate) fn come_back(&self) {
        self.listen();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One request on one connection: the answer closes it.
fn serve(mut client: UnixStream, shared: &Shared) {
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match client.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let (line, fields) = text.split_once("\r\n").expect("a head has a line");
    let (fault, round) = {
        let mut plan = shared.plan.lock().expect("plan");
        let planned = plan.once.filter(|(kind, _)| *kind == Kind::of(line)).map(|(_, fault)| fault);
        if planned.is_some() {
            (plan.once, plan.met) = (None, true);
        }
        (if plan.dead { Some(Fault::Hang) } else { planned }, plan.round)
    };
    if Kind::of(line) == Kind::Events {
        shared.events.lock().expect("events").extend(client.try_clone());
    }
    match fault {
        None => pass(client, line, fields, true),
        Some(Fault::Slow(ms)) => {
            thread::sleep(Duration::from_millis(ms));
            pass(client, line, fields, true);
        }
        Some(Fault::Cut) => pass(client, line, fields, false),
        Some(Fault::Hang) => {
            let until = Instant::now() + Duration::from_secs(120);
            while Instant::now() < until && shared.plan.lock().expect("plan").round == round {
                thread::sleep(Duration::from_millis(20));
            }
        }
        Some(Fault::Garbage) => answer(client, b"\x16\x03\x01 no engine speaks like this\r\n\r\n"),
        Some(Fault::BadBody) => answer(client, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{\"Id\""),
        Some(Fault::Status(status, message)) => {
            let body = format!("{{\"message\":\"{message}\"}}");
            answer(client, format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).as_bytes());
        }
    }
}

fn answer(mut client: UnixStream, bytes: &[u8]) {
    let _ = client.write_all(bytes);
}

/// To the engine and back; `answers`: its answer reaches the client.
fn pass(client: UnixStream, line: &str, fields: &str, answers: bool) {
    let Ok(mut engine) = UnixStream::connect(socket()) else { return };
    if write!(engine, "{line}\r\nConnection: close\r\n{fields}").is_err() {
        return;
    }
    let (Ok(mut from), Ok(mut to)) = (client.try_clone(), engine.try_clone()) else { return };
    // Ends with the client's connection.
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut client = client;
    if answers {
        let _ = std::io::copy(&mut engine, &mut client);
    } else {
        // Done when the engine has said so.
        let _ = engine.read(&mut [0; 1]);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = up.join();
}
