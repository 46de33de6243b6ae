//! The one wiring file: builds everything top down, stops it bottom up.
//!
//! Owns: the order of start and stop, signals, the lines printed at start.
//! Called by: `cli`. Blocks on: signals. Does not: decide anything else.

mod overseer;

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::agent::Agent;
use crate::api::{Api, ApiOptions};
use crate::calls::{Callbacks, Crew, FindSpec, Front, Ledger};
use crate::config::Config;
use crate::docker::{Docker, Identity};
use crate::driver::Driver;
use crate::edge::Edge;
use crate::extend::Extensions;
use crate::hot::{Hot, HotConfig, LogOptions};
use crate::model::{Id, ImageAllow};
use crate::pool::{Need, Tokens, host, spawn};
use crate::sandbox::{self, Sandbox};
use crate::store::Store;
use crate::uds::iofs::Iofs;
use overseer::Overseer;

/// Ended by signal, everything released.
const CLEAN: u8 = 0;
/// Could not start.
const NOT_STARTED: u8 = 1;
/// What removing all containers may take, on a slow engine.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);
/// Callbacks under way at the stop may take this long, then they are made again
/// after the next start.
const CALLBACKS_LIMIT: Duration = Duration::from_secs(1);
/// Calls that were cut end within this.
const CUT_LIMIT: Duration = Duration::from_secs(2);
/// Clients that are slow to take an answer have no longer than this, however long
/// calls may take.
const ANSWERS_LIMIT: Duration = Duration::from_secs(30);
/// Any other step of the stop; they take moments.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// Something did not end in time; it was named.
const LEFT_OVER: u8 = 3;

/// Descriptors beside those of connections: sockets of functions, the store.
const SPARE_DESCRIPTORS: u64 = 4096;

type Failure = Box<dyn std::error::Error>;

/// Serves until SIGTERM or SIGINT.
pub fn run(config: Config) -> ExitCode {
    run_with(config, Extensions::default())
}

/// The same with something added by the program that hob is inside of.
pub fn run_with(config: Config, extensions: Extensions) -> ExitCode {
    log_to_stderr(&config);
    config.notes.iter().for_each(|note| log::warn!("{note}"));
    raise_descriptor_limit(config.max_connections);
    #[cfg(debug_assertions)]
    if let Err(error) = crate::fault::arm(&config.faults) {
        say(&format!("hob: {error}"));
        return ExitCode::from(NOT_STARTED);
    }
    // Before any other thread exists, so that none of them gets the signals.
    let signals = match Signals::new([SIGTERM, SIGINT, SIGUSR1]) {
        Ok(signals) => signals,
        Err(error) => {
            say(&format!("hob: cannot receive signals: {error}"));
            return ExitCode::from(NOT_STARTED);
        }
    };
    match Server::start(&config, extensions) {
        Ok(server) => server.serve(signals, &config),
        Err(error) => {
            say(&format!("hob: cannot start: {error}"));
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// A shell's usual 1,024 descriptors are fewer than the connections we say we
/// take. Where even the most allowed is less, accept waits when they run out.
fn raise_descriptor_limit(connections: usize) {
    let wanted = connections as u64 + SPARE_DESCRIPTORS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(now) = current.filter(|now| *now < wanted) else { return };
    let current = maximum.map_or(wanted, |most| most.min(wanted));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }) {
        log::warn!("the limit of {now} open files cannot be raised: {error}");
    } else if current < wanted {
        log::warn!("at most {current} files may be open: HOB_MAX_CONNECTIONS={connections} will not be reached");
    }
}

struct Server {
    edge: Edge,
    api: Api,
    agent: Arc<Agent>,
    crew: Crew,
    callbacks: Callbacks,
    ledger: Arc<Ledger>,
    driver: Arc<dyn Driver>,
    /// Dropped last: its lock keeps a second server off the data folder.
    store: Arc<Store>,
}

impl Server {
    fn start(config: &Config, extensions: Extensions) -> Result<Server, Failure> {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&config.data).map_err(|e| format!("data folder {}: {e}", config.data.display()))?;
        let data = config.data.canonicalize()?;
        let store = Arc::new(Store::open(&config.db_path)?);
        let iofs_path = absolute(&config.iofs)?;
        let iofs = Iofs::open(&iofs_path)?;
        let identity = Identity { store_id: *store.id(), instance_id: Id::new(), iofs: iofs_path, iofs_docker: config.iofs_docker.clone() };
        let driver = match &extensions.driver {
            Some(driver) => driver.clone(),
            None => driver(config, &data, &identity)?,
        };
        reclaim(&*driver, &iofs);
        let sockets = socket_folders(config, &*driver, &iofs)?;
        let total = host::capacity(config.max_total_memory_bytes, config.max_total_cpu_mcpus)?;
        let hot = Hot::open(hot_config(config), driver.clone(), Tokens::new(total), iofs)?;
        let agent = Arc::new(Agent::new(config, hot)?.extended(extensions));
        let functions = store.clone();
        let exists = Arc::new(move |id: &Id| functions.snapshot().target(id).is_some());
        let ledger = Arc::new(Ledger::open(&data.join("calls.db"), config.calls.clone(), exists)?);
        agent.logs().send_to(ledger.log_sink());
        let functions = store.clone();
        let find: FindSpec = Arc::new(move |id: &Id| functions.snapshot().target(id).map(|target| target.spec.clone()));
        let socket = data.join("api.sock");
        let (for_debug, for_metrics) = (agent.clone(), agent.clone());
        // Who else can reach the listener has no business with the inside; SIGUSR1 tells the same.
        let debug_state = config.listen.ip().is_loopback();
        let api = Api::start(ApiOptions {
            store: store.clone(),
            ledger: Some(ledger.clone()),
            socket: socket.clone(),
            public_url: config.public_url.clone(),
            images: ImageAllow::new(&config.docker.image_allow),
            threads: 4,
            containers: Some(Arc::new(move || for_metrics.containers())),
            debug_state: debug_state.then(|| Arc::new(move || for_debug.debug_state()) as _),
        })?;
        let edge = Edge::start(config, Front::new(agent.clone(), ledger.clone()), store.clone(), socket)?;
        observe(&store, &agent);
        let crew = Crew::start(&ledger, &agent, &find, total.mib)?;
        let callbacks = Callbacks::start(&ledger)?;
        announce(&edge, &*driver, total, &data, &store, &sockets);
        Ok(Server { edge, api, agent, crew, callbacks, ledger, driver, store })
    }

    fn serve(self, mut signals: Signals, config: &Config) -> ExitCode {
        let bytes = sandbox::let_go_of_start();
        log::debug!("let go of what only the start used: {} KiB of files are mapped anew, as they are used", bytes / 1024);
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                log::info!("state: {}", self.agent.debug_state());
                continue;
            }
            log::info!("stopping: running calls have {:?}, a second signal ends them at once", config.drain.unwrap_or(Duration::MAX));
            let agent = self.agent.clone();
            let handle = signals.handle();
            let again = spawn("hob-signals", move || {
                if signals.forever().any(|s| s != SIGUSR1) {
                    agent.cut();
                }
            });
            let code = self.stop(config);
            handle.close();
            drop(again);
            return code;
        }
        ExitCode::from(CLEAN)
    }

    /// Design: gate, tickets, running calls, starts, containers, driver, store.
    fn stop(mut self, config: &Config) -> ExitCode {
        self.edge.drain();
        // Detached calls that run may end; what waits is kept for the next start.
        self.ledger.refuse();
        self.agent.refuse();
        let drain_until = config.drain.map_or_else(|| Instant::now() + Duration::from_secs(365 * 24 * 3600), |d| Instant::now() + d);
        let overseer = Overseer::start();
        if !self.agent.wait_idle(drain_until) {
            self.agent.cut();
            if !self.agent.wait_idle(Instant::now() + CUT_LIMIT) {
                overseer.left(["calls that did not end".to_owned()]);
            }
        }
        // A call that hangs has its container: nobody waits long for that.
        let close_limit = if overseer.is_clean() { CLOSE_LIMIT } else { CUT_LIMIT };
        if overseer.is_clean() {
            overseer.step("detached calls", STEP_LIMIT);
            self.crew.join();
        } else {
            self.crew.leave();
        }
        overseer.step("containers", close_limit + STEP_LIMIT);
        overseer.left(self.agent.close(Instant::now() + close_limit));
        // Calls are over when their containers have answered; clients have as long.
        let answers = drain_until.min(Instant::now() + ANSWERS_LIMIT);
        overseer.step("the public listener", answers.saturating_duration_since(Instant::now()) + STEP_LIMIT);
        overseer.left(self.edge.stop(answers));
        overseer.step("the management API", STEP_LIMIT);
        self.api.stop();
        self.callbacks.stop(Instant::now() + CALLBACKS_LIMIT);
        overseer.step("what makes containers", CLOSE_LIMIT);
        self.driver.close();
        overseer.step("the calls database", STEP_LIMIT);
        self.ledger.close();
        if !overseer.is_clean() {
            overseer.end();
        }
        overseer.step("the store", STEP_LIMIT);
        drop(self.store);
        log::info!("stopped");
        ExitCode::from(CLEAN)
    }
}

/// Docker, or hob's own sandbox; `auto` takes docker when an engine answers.
fn driver(config: &Config, data: &Path, identity: &Identity) -> Result<Arc<dyn Driver>, Failure> {
    let docker = || Docker::open(&config.docker, identity);
    let sandbox = || Sandbox::open(&config.sandbox, &config.docker, data, &identity.iofs, &identity.store_id.to_string(), "/proc/self/exe".into());
    match config.driver.as_str() {
        "docker" => Ok(Arc::new(
            docker().map_err(|e| format!("{e}\nHOB_DRIVER=docker needs a container engine: install docker.io and start it, or point DOCKER_HOST at one"))?,
        )),
        "sandbox" => Ok(Arc::new(sandbox()?)),
        _ => match docker() {
            Ok(docker) => Ok(Arc::new(docker)),
            Err(no_engine) => {
                log::info!("no container engine ({no_engine}): hob's own sandbox is used");
                let sandbox = sandbox().map_err(|e| {
                    format!("{no_engine}\nand no sandbox: {e}\nhob needs one of them: start docker (or point DOCKER_HOST at an engine), or run hob as root")
                })?;
                Ok(Arc::new(sandbox))
            }
        },
    }
}

/// Every change of the store reaches the containers: at once, not when the
/// next call comes.
fn observe(store: &Arc<Store>, agent: &Arc<Agent>) {
    let (seen, told) = (Arc::downgrade(store), Arc::downgrade(agent));
    let look = move || {
        let (Some(store), Some(agent)) = (seen.upgrade(), told.upgrade()) else { return };
        let snapshot = store.snapshot();
        agent.configured(|id| snapshot.target(id).map(|t| t.spec.key), snapshot.kept_up().map(|t| &t.spec));
    };
    look();
    store.observe(look);
}

fn hot_config(config: &Config) -> HotConfig {
    HotConfig {
        freeze_idle: config.freeze_idle,
        launcher_timeout: config.launcher_timeout,
        pull_timeout: config.pull_timeout,
        start_timeout: config.start_timeout,
        max_queued: config.max_queued,
        max_queued_node: config.max_queued_node,
        non_blocking: config.non_blocking,
        start_lanes: config.start_lanes,
        stop_lanes: config.stop_lanes,
        logs: LogOptions { max_call_bytes: config.max_log_bytes, copy: config.copy_logs },
    }
}

/// Removes what an earlier run of the same store left behind.
fn reclaim(driver: &dyn Driver, iofs: &Iofs) {
    match driver.reclaim() {
        Ok(0) => {}
        Ok(n) => log::info!("removed {n} containers of an earlier run"),
        Err(error) => log::warn!("containers of an earlier run may be left: {error}"),
    }
    let folders = iofs.sweep();
    if folders > 0 {
        log::info!("removed {folders} socket folders of an earlier run");
    }
}

/// Whether socket folders are tmpfs; what is said about it.
fn socket_folders(config: &Config, driver: &dyn Driver, iofs: &Iofs) -> Result<String, Failure> {
    if driver.socket_folder().is_some() {
        return Ok("a tmpfs for each container, of the sandbox".to_owned());
    }
    let plain = |why: String| format!("plain folders in {}: {why}", config.iofs.display());
    if config.iofs_tmpfs == Some(false) {
        return Ok(plain("FN_IOFS_TMPFS=false".to_owned()));
    }
    match iofs.use_tmpfs(&config.iofs_options, |folder| driver.sees(folder)) {
        Ok(()) => Ok(format!("a tmpfs for each container ({})", config.iofs_options)),
        Err(e) if config.iofs_tmpfs == Some(true) => Err(format!("FN_IOFS_TMPFS: {e}").into()),
        Err(e) => Ok(plain(format!("no tmpfs ({e})"))),
    }
}

fn announce(edge: &Edge, driver: &dyn Driver, total: Need, data: &Path, store: &Store, sockets: &str) {
    let functions = store.snapshot().fn_count();
    say(&format!("hob {} serving on http://{}", env!("CARGO_PKG_VERSION"), edge.local_addr()));
    say(&format!("  driver    {}", driver.describe()));
    say(&format!("  sockets   {sockets}"));
    say(&format!("  capacity  {} MiB, {} mCPU for functions", total.mib, total.mcpu));
    say(&format!("  data      {} ({functions} functions)", data.display()));
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    std::fs::create_dir_all(path).map_err(|e| format!("socket folder {}: {e}", path.display()))?;
    Ok(path.canonicalize()?)
}

/// The start lines and last words are for a person at a terminal: stderr, plain.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn log_to_stderr(config: &Config) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Warn).filter_module("hob", config.log_level).format_timestamp_millis().format_target(false);
    if config.log_json {
        builder.format(|out, record| {
            let time = out.timestamp_millis().to_string();
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "{}", serde_json::json!({"time": time, "level": level, "msg": record.args().to_string()}))
        });
    }
    if builder.try_init().is_err() {
        log::debug!("logging is set up already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, LaunchError, Objection};
    use crate::config::Raw;
    use crate::driver::{ContainerSpec, DriverError, ExitSink, Instance, StartBudget};
    use crate::extend::CallOverrider;

    /// A driver of somebody else's.
    #[derive(Debug)]
    struct Refuses;

    impl Driver for Refuses {
        fn name(&self) -> &'static str {
            "refuses"
        }
        fn describe(&self) -> String {
            "a driver that refuses".to_owned()
        }
        fn start(&self, _spec: &ContainerSpec, _budget: &StartBudget, _exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError> {
            Err(LaunchError::Engine { step: "start", text: "as it always does".to_owned() })
        }
        fn freeze(&self, _instance: &Instance) -> Result<(), DriverError> {
            Ok(())
        }
        fn thaw(&self, _instance: &Instance) -> Result<(), DriverError> {
            Ok(())
        }
        fn remove(&self, _instance: &Instance) -> Result<(), DriverError> {
            Ok(())
        }
        fn reclaim(&self) -> Result<usize, DriverError> {
            Ok(0)
        }
        fn close(&self) {}
    }

    struct NoPosts;

    impl CallOverrider for NoPosts {
        fn override_call(&self, call: &mut Call) -> Result<(), Objection> {
            if call.body.is_empty() { Ok(()) } else { Err(Objection { status: 418, message: "no bodies here".to_owned() }) }
        }
    }

    #[test]
    fn a_program_brings_its_own_driver_and_overrider() {
        let data = std::env::temp_dir().join(format!("hob-server-{}", Id::new()));
        let mut raw = Raw::default();
        raw.set("FN_PORT", "0");
        raw.set("HOB_DATA", data.to_str().expect("text"));
        let config = raw.parse().expect("valid");
        let extensions = Extensions::default().driver(Arc::new(Refuses)).expect("the first").overrider(Arc::new(NoPosts)).expect("the first");
        assert!(extensions.clone().driver(Arc::new(Refuses)).is_err(), "one only");
        let server = Server::start(&config, extensions).expect("starts");
        let base = format!("http://{}", server.edge.local_addr());
        let client = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().new_agent();
        let send = |path: &str, body: &str| {
            let mut answer = client.post(format!("{base}{path}")).send(body).expect("an answer");
            let text = answer.body_mut().read_to_string().expect("text");
            (answer.status().as_u16(), serde_json::from_str::<serde_json::Value>(&text).expect("JSON"))
        };
        let (_, app) = send("/v2/apps", r#"{"name":"app"}"#);
        let (status, function) = send("/v2/fns", &serde_json::json!({"app_id": app["id"], "name": "f", "image": "i"}).to_string());
        assert_eq!(status, 200, "{function}");
        let invoke = format!("/invoke/{}", function["id"].as_str().expect("an id"));
        let (status, answer) = send(&invoke, "");
        assert!(status == 502 && answer["message"].as_str().is_some_and(|text| text.ends_with("start: as it always does")), "{status} {answer}");
        let (status, answer) = send(&invoke, "body");
        assert_eq!((status, &answer["message"]), (418, &serde_json::json!("no bodies here")));
        server.stop(&config);
        std::fs::remove_dir_all(data).expect("removed");
    }
}
