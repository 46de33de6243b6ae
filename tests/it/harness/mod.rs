//! Starts a server with a data folder of its own, talks to it, and checks at
//! its stop that nothing of it remains.

pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod registry;
pub(crate) mod sandbox;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use http::Response;

/// Something hangs when it takes longer than this. No promise of hob's is
/// measured by it: a machine may be slow, and have much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Looks every few milliseconds until there is something; panics when that
/// takes longer than [`PATIENCE`].
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A folder that goes with its owner.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) tag: String,
}

impl Folder {
    pub(crate) fn new() -> Arc<Folder> {
        Folder::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    pub(crate) fn below(parent: &Path) -> Arc<Folder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(&tag);
        std::fs::create_dir_all(&path).expect("a folder for the server");
        Arc::new(Folder { path, tag })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// At most so many servers at the same time: the engine is shared.
const SERVERS: usize = 3;
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

struct Permit;

impl Permit {
    fn take() -> Permit {
        let mut running = RUNNING.0.lock().unwrap_or_else(|e| e.into_inner());
        while *running >= SERVERS {
            running = RUNNING.1.wait(running).unwrap_or_else(|e| e.into_inner());
        }
        *running += 1;
        Permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        RUNNING.1.notify_one();
    }
}

/// A running server.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) address: SocketAddr,
    pub(crate) folder: Arc<Folder>,
    log: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
    app: Mutex<Option<String>>,
    _permit: Permit,
}

/// The program with a clean environment.
pub(crate) fn command(folder: &Folder, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob"));
    command.arg("serve").env_clear().env("FN_PORT", "0").env("FN_LOG_LEVEL", "debug").env("HOB_DATA", folder.path.join("data"));
    // Most tests count containers; networks are parked where a test says so.
    command.env("HOB_PARKED_NETWORKS", "0");
    // Limits that a busy machine might reach; a test of one sets its own.
    command.envs([("FN_HOT_START_TIMEOUT_MSECS", "60000"), ("HOB_MAX_WAIT_MSECS", "120000"), ("FN_RESPONSE_WRITE_TIMEOUT", "300")]);
    command.env("HOB_DRIVER", if sandbox::chosen() { "sandbox" } else { "docker" });
    command.env("DOCKER_HOST", format!("unix://{}", engine::socket()));
    command.env("FN_CONTAINER_LABEL_TAG", &folder.tag).envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Server {
    /// `None`: skipped, there is no engine.
    pub(crate) fn start(env: &[(&str, &str)]) -> Option<Server> {
        Server::start_in(Folder::new(), env)
    }

    /// Starts on the data of an earlier server.
    pub(crate) fn start_in(folder: Arc<Folder>, env: &[(&str, &str)]) -> Option<Server> {
        if !answers() {
            return None;
        }
        Some(Server::spawn(folder.clone(), command(&folder, env)))
    }

    /// Starts what `command` says, and waits until it serves.
    pub(crate) fn spawn(folder: Arc<Folder>, mut command: Command) -> Server {
        let permit = Permit::take();
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = kept.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = wait_until("the server's address", || {
            let log = log.lock().expect("log");
            assert!(child.try_wait().expect("status").is_none(), "the server ended: {log}");
            let (_, after) = log.split_once("serving on http://")?;
            after.split_once('\n').map(|(address, _)| address.trim().parse().expect("an address"))
        });
        Server { child: Some(child), address, folder, log, reader: Some(reader), app: Mutex::default(), _permit: permit }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Containers of this server, as the engine lists them.
    pub(crate) fn containers(&self) -> Vec<Value> {
        if sandbox::chosen() { sandbox::containers(&self.log()) } else { engine::containers(&self.folder.tag) }
    }

    pub(crate) fn socket_folders(&self) -> usize {
        // A sandbox's folder is a mount that lives and dies with its container.
        let kept = if sandbox::chosen() { self.containers().len() } else { 0 };
        kept + std::fs::read_dir(self.folder.path.join("data/iofs")).map_or(0, Iterator::count)
    }

    pub(crate) fn send(&self, method: &str, target: &str, body: &[u8]) -> Response {
        http::send(self.address, method, target, &[], body).unwrap_or_else(|e| panic!("{method} {target}: {e}\n{}", self.log()))
    }

    /// A management request that must succeed.
    pub(crate) fn manage(&self, method: &str, target: &str, body: &Value) -> Value {
        let response = self.send(method, target, body.to_string().as_bytes());
        assert!(response.status / 100 == 2, "{method} {target} {body}: {response:?}");
        if response.body.is_empty() { Value::Null } else { response.json() }
    }

    /// A function of a sample's image with 64 MiB; `more` overrides. Its id.
    pub(crate) fn function(&self, name: &str, sample: &'static str, more: Value) -> String {
        self.function_of(name, &self.image(sample), more)
    }

    /// The image of a sample function, where this server finds it.
    pub(crate) fn image(&self, sample: &'static str) -> String {
        if sandbox::chosen() { sandbox::install(&self.folder.path.join("data"), sample) } else { engine::image(sample) }
    }

    pub(crate) fn function_of(&self, name: &str, image: &str, more: Value) -> String {
        let app_id = self
            .app
            .lock()
            .expect("app")
            .get_or_insert_with(|| self.manage("POST", "/v2/apps", &json!({"name": "app"}))["id"].as_str().expect("id").to_owned())
            .clone();
        let mut spec = json!({"app_id": app_id, "name": name, "image": image, "memory": 64, "timeout": 120, "idle_timeout": 300});
        for (key, value) in more.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        self.manage("POST", "/v2/fns", &spec)["id"].as_str().expect("id").to_owned()
    }

    /// Calls a function; the connection must yield a whole answer.
    pub(crate) fn call(&self, function: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_call(function, fields, body).unwrap_or_else(|e| panic!("call {fields:?}: {e}\n{}", self.log()))
    }

    pub(crate) fn try_call(&self, function: &str, fields: &[(&str, &str)], body: &[u8]) -> std::io::Result<Response> {
        http::send(self.address, "POST", &format!("/invoke/{function}"), fields, body)
    }

    /// A call whose answer is 200.
    pub(crate) fn good_call(&self, function: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        let response = self.call(function, fields, body);
        assert_eq!(response.status, 200, "{response:?}\n{}", self.log());
        response
    }

    /// Sends a call and leaves its answer unread.
    pub(crate) fn begin_call(&self, function: &str, fields: &[(&str, &str)]) -> TcpStream {
        http::begin(self.address, "POST", &format!("/invoke/{function}"), fields, b"").expect("connected")
    }

    /// One number of the function's queue in `/debug/state`; 0 without a queue.
    pub(crate) fn queue(&self, function: &str, number: &str) -> u64 {
        let state = self.send("GET", "/debug/state", b"").json();
        let queues = state["queues"].as_array().cloned().unwrap_or_default();
        queues.iter().filter(|q| q["fn_id"] == function).map(|q| q[number].as_u64().unwrap_or_else(|| q[number].as_array().map_or(0, |a| a.len() as u64))).sum()
    }

    /// Waits until that number is `value`.
    pub(crate) fn await_queue(&self, function: &str, number: &str, value: u64) {
        wait_until(&format!("{number} = {value} of {function}"), || (self.queue(function, number) == value).then_some(()));
    }

    /// A call of `echo` that has a container and keeps it until its answer is
    /// taken: that is longer than what the kernel takes for a client.
    pub(crate) fn hold(&self, function: &str) -> Held {
        let busy = self.queue(function, "busy");
        let held = Held(self.begin_call(function, &[("X-Size", "16000000")]));
        self.await_queue(function, "busy", busy + 1);
        held
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("the server runs");
    }

    /// Waits for its end after a signal; the exit code. How long the steps of a
    /// stop may take is hob's own to see to: then its code is 3.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("status") {
                break status;
            }
            if Instant::now() > until {
                let threads = threads(child.id());
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server did not end within {PATIENCE:?}; its threads: {threads:?}\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        status.code()
    }

    /// SIGTERM; asserts a clean end with nothing left. Returns how long it took.
    pub(crate) fn stop(mut self) -> Duration {
        self.signal(Signal::TERM);
        self.gone()
    }

    /// After a SIGTERM: exit code 0, no container, no socket folder. Returns how
    /// long it took.
    pub(crate) fn gone(&mut self) -> Duration {
        let begun = Instant::now();
        let code = self.wait();
        let took = begun.elapsed();
        let log = self.log();
        assert_eq!(code, Some(0), "after {took:?}: {log}");
        assert_eq!(self.containers(), Vec::<Value>::new(), "containers are left\n{log}");
        assert_eq!(self.socket_folders(), 0, "socket folders are left\n{log}");
        for bad in ["panicked", "illegal move"] {
            assert!(!log.contains(bad), "{bad} in the log:\n{log}");
        }
        took
    }
}

/// A call that keeps its container; see [`Server::hold`].
pub(crate) struct Held(TcpStream);

impl Held {
    /// Takes the answer, which lets the container go.
    pub(crate) fn release(mut self) -> Response {
        let answer = http::finish(&mut self.0).expect("an answer");
        assert!(answer.status != 200 || answer.body.len() == 16_000_000, "{}", answer.head);
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Only a failed test comes here: end it, but do not leave containers.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Whether what runs the containers is there; else tests are skipped.
fn answers() -> bool {
    if sandbox::chosen() { sandbox::answers() } else { engine::answers() }
}

/// Host process id of a container.
pub(crate) fn container_pid(container: &Value) -> u64 {
    if sandbox::chosen() { sandbox::pid(container) } else { engine::pid(container) }
}

/// Ends a container behind the server's back.
pub(crate) fn kill_container(container: &Value) {
    if sandbox::chosen() { sandbox::kill(container) } else { engine::kill(container) }
}

/// Takes a container away behind the server's back; from the sandbox nobody
/// else can, so there it is killed.
pub(crate) fn remove_container(container: &Value) {
    if sandbox::chosen() { sandbox::kill(container) } else { engine::remove(container) }
}

/// Names of a process's threads as the kernel has them.
pub(crate) fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).map(|name| name.trim().to_owned()).collect()
}

/// Runs `count` closures at the same time and returns their results in order.
pub(crate) fn together<T: Send>(count: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let run = &run;
    thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|n| scope.spawn(move || run(n))).collect();
        all.into_iter().map(|t| t.join().expect("a caller's thread")).collect()
    })
}
