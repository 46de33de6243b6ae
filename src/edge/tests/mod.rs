//! Raw sockets against a real listener on an ephemeral port, with an echo in
//! the place of functions.

mod calls;
mod client;
mod forwarding;
mod framing;
mod life;
mod limits;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Calls, Directory, Edge, Miss, Route};
use crate::call::{AnswerHead, Body, Call, CallError, Caller, DetachError, Detached};
use crate::calls::{Follow, FollowError, Turn};
use crate::config::{Config, Raw};
use crate::model::{FnSpec, Id, SlotKey};

pub(super) use client::{Answer, Client};

/// What the stand-in for the agent does with a call to a function of a name.
type Script = Box<dyn Fn(&Call, &mut dyn Caller, &Stand) -> Result<(), CallError> + Send + Sync>;

/// The stand-in for agent and store.
pub(super) struct Stand {
    functions: HashMap<&'static str, Arc<FnSpec>>,
    scripts: HashMap<&'static str, Script>,
    pub(super) calls: AtomicUsize,
    /// Calls that wait for `release`.
    pub(super) held: AtomicUsize,
    released: Mutex<bool>,
    bell: Condvar,
    pub(super) gone: AtomicUsize,
    /// Fields of detached calls, and how they are to run.
    pub(super) detached: Mutex<Vec<(String, Detached)>>,
}

impl Stand {
    /// Blocks the call until `release`.
    pub(super) fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
        let mut released = self.released.lock();
        let until = Instant::now() + Duration::from_secs(20);
        while !*released && !self.bell.wait_until(&mut released, until).timed_out() {}
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn release(&self) {
        *self.released.lock() = true;
        self.bell.notify_all();
    }
}

impl Calls for Stand {
    fn submit(&self, call: &Call, caller: &mut dyn Caller, _: Option<Turn>) -> Result<(), CallError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.scripts.get(call.spec.fn_name.as_str()) {
            Some(script) => script(call, caller, self),
            None => echo(call, caller),
        }
    }

    fn detach(&self, call: Call, how: &Detached) -> Result<Id, DetachError> {
        match how.key.as_deref() {
            Some("full") => Err(DetachError::Full { limit: 7 }),
            Some("slow") => Err(DetachError::NotKnown { cause: "slow".to_owned() }),
            _ => {
                self.detached.lock().push((String::from_utf8_lossy(&call.fields).into_owned(), how.clone()));
                Ok(call.id)
            }
        }
    }

    fn follow(&self, _fn_id: Id, _call: Option<Id>, _last: Option<usize>) -> Result<Follow, FollowError> {
        Err(FollowError::Unknown)
    }
}

impl Directory for Stand {
    fn function(&self, id: &Id) -> Result<Arc<FnSpec>, Miss> {
        self.functions.values().find(|spec| spec.fn_id == *id).cloned().ok_or(Miss::Function)
    }

    fn trigger(&self, app: &str, source: &str) -> Result<Route, Miss> {
        if app != "app" {
            return Err(Miss::App);
        }
        self.functions
            .get(source.strip_prefix('/').unwrap_or("?"))
            .map(|spec| Route { spec: spec.clone(), trigger: Id::MIN, detached: false })
            .ok_or(Miss::Trigger)
    }
}

/// Answers with the fields it saw, a blank line, and the body.
pub(super) fn echo(call: &Call, caller: &mut dyn Caller) -> Result<(), CallError> {
    let mut body = call.fields.clone();
    body.extend_from_slice(b"\r\n");
    body.extend(bytes(&call.body));
    let fields: &[(&str, &[u8])] = &[("Content-Type", b"text/plain"), ("X-Echo", b"1")];
    caller.whole(&AnswerHead { fields }, &body).map_err(|_| CallError::ClientGone)
}

pub(super) fn bytes(body: &Body) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    match body {
        Body::Memory(bytes) => bytes.clone(),
        Body::File { file, len } => {
            let mut all = vec![0; usize::try_from(*len).expect("small")];
            file.read_exact_at(&mut all, 0).expect("the file has the whole body");
            all
        }
    }
}

fn spec(name: &str) -> Arc<FnSpec> {
    Arc::new(FnSpec {
        key: SlotKey([0; 32]),
        app_id: Id::new(),
        app_name: "app".to_owned(),
        fn_id: Id::new(),
        fn_name: name.to_owned(),
        image: "image".to_owned(),
        env: Vec::new(),
        timeout_s: 30,
        idle_timeout_s: 30,
        memory_mib: 128,
        cpu_milli: 0,
        tmpfs_mib: 0,
        syslog_url: None,
        limits: crate::model::FnLimits::default(),
    })
}

/// A listener with its stand-in.
pub(super) struct Bench {
    pub(super) edge: Edge,
    pub(super) stand: Arc<Stand>,
    folder: PathBuf,
}

/// Builds a [`Bench`].
pub(super) struct Setup {
    scripts: HashMap<&'static str, Script>,
    settings: Vec<(&'static str, String)>,
    api_socket: PathBuf,
}

impl Setup {
    pub(super) fn new() -> Setup {
        Setup { scripts: HashMap::new(), settings: Vec::new(), api_socket: PathBuf::from("/nonexistent/api.sock") }
    }

    pub(super) fn function(
        mut self,
        name: &'static str,
        script: impl Fn(&Call, &mut dyn Caller, &Stand) -> Result<(), CallError> + Send + Sync + 'static,
    ) -> Setup {
        self.scripts.insert(name, Box::new(script));
        self
    }

    /// A function that answers with these fields and body.
    pub(super) fn answers(self, name: &'static str, fields: &'static [(&'static str, &'static str)], body: &'static str) -> Setup {
        self.function(name, move |_, caller, _| {
            let fields: Vec<(&str, &[u8])> = fields.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
            caller.whole(&AnswerHead { fields: &fields }, body.as_bytes()).map_err(|_| CallError::ClientGone)
        })
    }

    pub(super) fn set(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        self.settings.push((name, value.into()));
        self
    }

    pub(super) fn api(mut self, socket: &Path) -> Setup {
        self.api_socket = socket.to_owned();
        self
    }

    fn config(&self, folder: &Path) -> Config {
        let mut raw = Raw::default();
        raw.set("HOB_LISTEN", "127.0.0.1:0");
        raw.set("HOB_DATA", folder.to_string_lossy());
        for (name, value) in &self.settings {
            raw.set(name, value.clone());
        }
        raw.parse().expect("valid settings")
    }

    pub(super) fn start(self) -> Bench {
        let folder = std::env::temp_dir().join(format!("hob-edge-{}", Id::new()));
        std::fs::create_dir(&folder).expect("a folder");
        let config = self.config(&folder);
        let names = self.scripts.keys().copied().chain(["echo", ""]);
        let stand = Arc::new(Stand {
            functions: names.map(|name| (name, spec(name))).collect(),
            scripts: self.scripts,
            calls: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            released: Mutex::new(false),
            detached: Mutex::default(),
            bell: Condvar::new(),
            gone: AtomicUsize::new(0),
        });
        let edge = Edge::start_with(&config, Arc::clone(&stand) as Arc<dyn Calls>, Arc::clone(&stand) as Arc<dyn Directory>, self.api_socket).expect("starts");
        Bench { edge, stand, folder }
    }
}

impl Bench {
    pub(super) fn new() -> Bench {
        Setup::new().start()
    }

    pub(super) fn connect(&self) -> Client {
        Client::connect(self.edge.local_addr())
    }

    /// `/invoke/<id>` of a function.
    pub(super) fn path(&self, name: &str) -> String {
        format!("/invoke/{}", self.stand.functions[name].fn_id)
    }

    /// `POST /invoke/<echo>` with more lines of head and a body.
    pub(super) fn post(&self, lines: &str, body: &str) -> String {
        format!("POST {} HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}", self.path("echo"))
    }

    /// Sends bytes on a fresh connection and reads one answer.
    pub(super) fn ask(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect();
        client.send(bytes);
        client.answer()
    }

    pub(super) fn calls(&self) -> usize {
        self.stand.calls.load(Ordering::SeqCst)
    }

    pub(super) fn open(&self) -> usize {
        self.edge.shared.poller.open.load(Ordering::SeqCst)
    }

    pub(super) fn parked(&self) -> usize {
        self.edge.shared.poller.parked()
    }

    pub(super) fn threads(&self) -> usize {
        self.edge.workers.live()
    }

    pub(super) fn held(&self) -> usize {
        self.stand.held.load(Ordering::SeqCst)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stand.release();
        self.edge.stop(Instant::now());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits for a condition, with a deadline.
#[track_caller]
pub(super) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let (_keep, never) = crossbeam_channel::bounded::<()>(1);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        let _ = never.recv_timeout(Duration::from_millis(1));
    }
}
