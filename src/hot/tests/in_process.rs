//! A driver whose containers are threads of this process, and its faults.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::call::{Exit, LaunchError};
use crate::driver::{ContainerSpec, Driver, DriverError, ExitSink, Instance, StartBudget};

/// How a function in this process behaves; its image's name says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Echoes,
    /// Every third call ends with half an answer, and the function with it.
    DiesMidBody,
    /// Ends instead of answering every third call.
    DiesUnasked,
    NeverListens,
    /// Ends before it listens.
    ExitsAtOnce,
}

impl Behaviour {
    fn of(image: &str) -> Behaviour {
        [Behaviour::DiesMidBody, Behaviour::DiesUnasked, Behaviour::NeverListens, Behaviour::ExitsAtOnce]
            .into_iter()
            .find(|b| format!("{b:?}") == image)
            .unwrap_or(Behaviour::Echoes)
    }
}

/// Containers that are threads of this process.
#[derive(Debug, Default)]
pub(super) struct InProcess {
    pub(super) live: Mutex<HashMap<String, Running>>,
    /// A frozen function was asked something.
    pub(super) asked_frozen: Arc<AtomicBool>,
    pub(super) started: AtomicUsize,
    pub(super) sockets: Arc<SocketFault>,
}

/// What functions do at their sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Deed {
    Accept,
    Read,
    Head,
    Body,
}

/// How the Nth of these deeds goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Wrong {
    /// Not at all.
    #[default]
    Never,
    /// The connection is closed: at once, unread (a reset), without an answer,
    /// in the middle of the body.
    Closes,
    /// Nobody listens any more, for a moment; the sending side is closed; the
    /// head is cut; the answer comes twice.
    Strange,
}

/// Spoils the `nth` deed of all functions together, and no other.
#[derive(Debug, Default)]
pub(super) struct SocketFault {
    pub(super) nth: u64,
    pub(super) how: Wrong,
    pub(super) count: AtomicU64,
    pub(super) hit: Mutex<Option<Deed>>,
}

impl SocketFault {
    fn passes(&self, deed: Deed) -> Wrong {
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 != self.nth || self.how == Wrong::Never {
            return Wrong::Never;
        }
        *self.hit.lock() = Some(deed);
        self.how
    }
}

#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<Function>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Function {
    socket: PathBuf,
    stop: AtomicBool,
    frozen: AtomicBool,
    connection: Mutex<Option<UnixStream>>,
    exit: Arc<dyn ExitSink>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Function {
    /// True when it ended by itself.
    fn serve(&self, mut listener: UnixListener, behaviour: Behaviour, asked_frozen: &AtomicBool, sockets: &SocketFault) -> bool {
        let mut calls = 0;
        while let Ok((stream, _)) = listener.accept() {
            *self.connection.lock() = stream.try_clone().ok();
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            match sockets.passes(Deed::Accept) {
                Wrong::Never => {}
                Wrong::Closes => {
                    *self.connection.lock() = None;
                    continue;
                }
                Wrong::Strange => {
                    *self.connection.lock() = None;
                    drop((stream, listener));
                    let _ = std::fs::remove_file(&self.socket);
                    std::thread::yield_now();
                    let Ok(anew) = UnixListener::bind(&self.socket) else { return true };
                    listener = anew;
                    continue;
                }
            }
            if !self.talk(stream, behaviour, &mut calls, asked_frozen, sockets) {
                return true;
            }
        }
        false
    }

    /// Serves one connection to its end; false ends the function.
    fn talk(&self, mut stream: UnixStream, behaviour: Behaviour, calls: &mut u32, asked_frozen: &AtomicBool, sockets: &SocketFault) -> bool {
        loop {
            match sockets.passes(Deed::Read) {
                Wrong::Never => {}
                Wrong::Closes => {
                    // Not before there is something to leave unread.
                    let _ = rustix::net::recv(&stream, &mut [0u8; 1], rustix::net::RecvFlags::PEEK);
                    self.hang_up();
                    return true;
                }
                Wrong::Strange => drop(stream.shutdown(Shutdown::Write)),
            }
            let Some((id, body)) = read_request(&mut stream) else { break };
            *calls += 1;
            if self.frozen.load(Ordering::SeqCst) {
                asked_frozen.store(true, Ordering::SeqCst);
            }
            let third = calls.is_multiple_of(3);
            if third && behaviour == Behaviour::DiesUnasked {
                return false;
            }
            let head = format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nContent-Length: {}\r\n\r\n", body.len());
            if third && behaviour == Behaviour::DiesMidBody {
                let _ = stream.write_all(&[head.as_bytes(), &body[..body.len() / 2]].concat());
                return false;
            }
            let answer = [head.as_bytes(), &body].concat();
            let spoilt = match (sockets.passes(Deed::Head), sockets.passes(Deed::Body)) {
                (Wrong::Closes, _) => Some(&b""[..]),
                (Wrong::Strange, _) => Some(&answer[..head.len() / 2]),
                (_, Wrong::Closes) => Some(&answer[..head.len() + body.len() / 2]),
                (_, Wrong::Strange) => {
                    let _ = stream.write_all(&answer);
                    Some(&answer[..])
                }
                _ => None,
            };
            if stream.write_all(spoilt.unwrap_or(&answer)).is_err() {
                break;
            }
            if spoilt.is_some() {
                self.hang_up();
                return true;
            }
        }
        true
    }

    /// The driver's own handle on the connection would keep it open.
    fn hang_up(&self) {
        *self.connection.lock() = None;
    }
}

fn read_request(stream: &mut UnixStream) -> Option<(String, Vec<u8>)> {
    let mut data = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        if let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&data[..end]).into_owned();
            let field = |name: &str| head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()));
            let length: usize = field("Content-Length")?.parse().ok()?;
            if data.len() >= end + 4 + length {
                return Some((field("Fn-Call-Id")?, data[end + 4..end + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => data.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

impl Driver for InProcess {
    fn name(&self) -> &'static str {
        "in-process"
    }

    fn describe(&self) -> String {
        "functions are threads".to_owned()
    }

    fn start(&self, spec: &ContainerSpec, _: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError> {
        let broken = |step, e: std::io::Error| LaunchError::Engine { step, text: e.to_string() };
        self.started.fetch_add(1, Ordering::SeqCst);
        let behaviour = Behaviour::of(&spec.image);
        let socket = spec.iofs.join("lsnr.sock");
        let shared =
            Arc::new(Function { socket: socket.clone(), stop: AtomicBool::new(false), frozen: AtomicBool::new(false), connection: Mutex::default(), exit });
        let thread = match behaviour {
            Behaviour::NeverListens => None,
            Behaviour::ExitsAtOnce => {
                shared.exit.exited(Exit { code: 7, oom_killed: false });
                None
            }
            _ => {
                let phony = spec.iofs.join("phony.sock");
                let listener = UnixListener::bind(&phony).map_err(|e| broken("bind", e))?;
                std::fs::rename(&phony, &socket).map_err(|e| broken("rename", e))?;
                let function = shared.clone();
                let (asked_frozen, sockets) = (self.asked_frozen.clone(), self.sockets.clone());
                Some(std::thread::spawn(move || {
                    if function.serve(listener, behaviour, &asked_frozen, &sockets) {
                        // As with a process: its descriptors go before its end is known.
                        *function.connection.lock() = None;
                        function.exit.exited(Exit { code: 1, oom_killed: false });
                    }
                }))
            }
        };
        self.live.lock().insert(spec.id.clone(), Running { shared, thread });
        Ok(Instance { id: spec.id.clone(), engine_id: spec.id.clone(), pid: None, freezer: None, meter: None })
    }

    fn freeze(&self, instance: &Instance) -> Result<(), DriverError> {
        self.set_frozen(instance, true)
    }

    fn thaw(&self, instance: &Instance) -> Result<(), DriverError> {
        self.set_frozen(instance, false)
    }

    fn remove(&self, instance: &Instance) -> Result<(), DriverError> {
        let Some(mut running) = self.live.lock().remove(&instance.id) else { return Ok(()) };
        running.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = running.thread.take() {
            // The thread is in accept, or reads from the connection it took.
            while !thread.is_finished() {
                if let Some(connection) = running.shared.connection.lock().as_ref() {
                    let _ = connection.shutdown(Shutdown::Both);
                }
                let _ = UnixStream::connect(&running.shared.socket);
                std::thread::yield_now();
            }
            thread.join().expect("a function");
        }
        running.shared.exit.exited(Exit { code: 137, oom_killed: false });
        Ok(())
    }

    fn reclaim(&self) -> Result<usize, DriverError> {
        Ok(0)
    }

    fn close(&self) {}
}

impl InProcess {
    pub(super) fn all_frozen(&self) -> bool {
        self.live.lock().values().all(|r| r.shared.frozen.load(Ordering::SeqCst))
    }

    fn set_frozen(&self, instance: &Instance, frozen: bool) -> Result<(), DriverError> {
        let live = self.live.lock();
        let verb = if frozen { "freeze" } else { "thaw" };
        let running = live.get(&instance.id).ok_or_else(|| DriverError { verb, id: instance.id.clone(), text: "no such container".to_owned(), begun: true })?;
        running.shared.frozen.store(frozen, Ordering::SeqCst);
        Ok(())
    }
}

/// Fails the `nth` verb, and no other. A failed removal is made good by the
/// driver itself, as the trait promises.
#[derive(Debug)]
pub(super) struct FailsNth {
    inner: Arc<InProcess>,
    nth: u64,
    count: AtomicU64,
    pub(super) failed: Mutex<Option<&'static str>>,
}

impl FailsNth {
    pub(super) fn new(inner: Arc<InProcess>, nth: u64) -> Arc<FailsNth> {
        Arc::new(FailsNth { inner, nth, count: AtomicU64::new(0), failed: Mutex::default() })
    }

    fn fails(&self, verb: &'static str) -> bool {
        let fails = self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.nth;
        if fails {
            *self.failed.lock() = Some(verb);
        }
        fails
    }

    fn verb(&self, verb: &'static str, instance: &Instance) -> Result<(), DriverError> {
        if self.fails(verb) { Err(DriverError { verb, id: instance.id.clone(), text: "as planned".to_owned(), begun: true }) } else { Ok(()) }
    }
}

impl Driver for FailsNth {
    fn name(&self) -> &'static str {
        "fails-nth"
    }

    fn describe(&self) -> String {
        format!("verb {} fails", self.nth)
    }

    fn start(&self, spec: &ContainerSpec, budget: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError> {
        if self.fails("start") {
            return Err(LaunchError::Engine { step: "start", text: "as planned".to_owned() });
        }
        self.inner.start(spec, budget, exit)
    }

    fn freeze(&self, instance: &Instance) -> Result<(), DriverError> {
        self.verb("freeze", instance)?;
        self.inner.freeze(instance)
    }

    fn thaw(&self, instance: &Instance) -> Result<(), DriverError> {
        self.verb("thaw", instance)?;
        self.inner.thaw(instance)
    }

    fn remove(&self, instance: &Instance) -> Result<(), DriverError> {
        self.inner.remove(instance)?;
        self.verb("remove", instance)
    }

    fn reclaim(&self) -> Result<usize, DriverError> {
        Ok(0)
    }

    fn close(&self) {}
}
