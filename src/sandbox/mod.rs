//! The built-in driver: containers made by hob itself, from namespaces, control
//! groups and a system call filter. No engine, no daemon, no process beside
//! each container but its own first one.
//!
//! Owns: the spawner process and the cells it forks, the pool of cells that
//! wait, their control groups, the image store. Called by: `server` (open, and
//! to let go of what its start has mapped), `cli` (the spawner's own start),
//! `hot` through the `Driver` trait. Blocks on: a cell's answer and end, each
//! with a limit; a pull; the reaper thread on the spawner's word. Does not: know
//! calls, queues, sockets of functions.
//!
//! ```text
//!  server ── asks, hears ends ──► spawner (one thread, no secrets, bare root)
//!    │                               │ clone3: pid, mount, uts, ipc, net
//!    │   line of its own             ▼
//!    └────────────────────────► cell (process 1): in its cgroup, /proc and /dev
//!          Go, root, folder          │ ready, waits … root, pivot, user, filter
//!                                    ▼ fork, exec
//!                                 the function
//! ```
//!
//! Whoever dies takes what is below with it: the function with its cell (a pid
//! namespace), a cell with the spawner (parent death signal), the spawner with
//! the server (its socket). Mounts belong to the cell's namespace alone.

mod bare;
mod cell;
mod cgroup;
mod examine;
pub mod images;
mod keeper;
mod mounts;
mod process;
mod reaper;
mod root;
mod seccomp;
mod spare;
mod spawner;
mod sys;
mod wire;

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, fchmod};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::call::LaunchError;
use crate::config::{DockerConfig, SandboxConfig};
use crate::driver::{Cgroup, ContainerSpec, Driver, DriverError, ExitSink, Framing, Freezer, Instance, Meter, Output, StartBudget, Stream};
use crate::model::{ImageAllow, PullPolicy};
use crate::pool::{Stop, Woke, wait_for};
use cgroup::Limits;
use examine::TMP_BYTES;
pub use examine::{Examined, examine};
use images::{ImageConfig, Images, Pull, Rootfs};
use keeper::{Cell, Guess, Keeper, Own};
pub use process::SpawnerError;
pub use spawner::{ARGUMENT as SPAWNER_ARGUMENT, main as spawner_main};
pub use sys::let_go_of_start;
use wire::{Go, Limit, Places, Tmp};

/// The user of every function, unless privileges are left on.
const FUNCTION_USER: root::Identity = root::Identity { uid: 1000, gid: 1000, groups: Vec::new() };
/// Reading and unpacking `FN_DOCKER_LOAD_FILE`.
const LOAD_WITHIN: Duration = Duration::from_secs(600);
/// Roots whose mount points were seen to.
const PREPARED: usize = 4096;
/// With privileges left on, what a root user keeps, over its own identities
/// only: change owners, ignore modes, signal, change user, bind low ports.
const PRIVILEGED: u64 = 0b101_1111_1011;

/// The driver could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SandboxOpenError {
    #[error(transparent)]
    Spawner(#[from] SpawnerError),
    #[error(transparent)]
    Images(#[from] images::OpenError),
    #[error("HOB_SANDBOX_STRICT: this host lacks {missing}")]
    Strict { missing: String },
    #[error("cannot read images from {}: {source}", path.display())]
    LoadFile { path: PathBuf, source: std::io::Error },
    #[error("cannot load images in {}: {source}", path.display())]
    Load { path: PathBuf, source: images::ImageError },
    #[error("cannot hold a descriptor: {source}")]
    Stop { source: std::io::Error },
}

/// The driver.
#[derive(Debug)]
pub struct Sandbox {
    keeper: Keeper,
    images: Images,
    limits: DockerConfig,
    allow: ImageAllow,
    config: SandboxConfig,
    /// The server is a plain user.
    own: Option<Own>,
    missing: Vec<String>,
    prepared: Mutex<HashSet<PathBuf>>,
    call_off: Stop,
    swept: usize,
}

impl Sandbox {
    /// Starts the spawner, sweeps what an earlier run of this store left,
    /// parks the first cells. `program` is this program's file.
    ///
    /// # Errors
    /// See [`SandboxOpenError`]; nothing is left running.
    pub fn open(config: &SandboxConfig, limits: &DockerConfig, data: &Path, iofs: &Path, store: &str, program: PathBuf) -> Result<Sandbox, SandboxOpenError> {
        let images = Images::open(&data.join("images"), images::Options::of(config, limits)?)?;
        let call_off = Stop::new().map_err(|source| SandboxOpenError::Stop { source })?;
        if let Some(path) = &limits.load_file {
            load_file(&images, path, &call_off)?;
        }
        let own = examine::own(&data.join("images").join("roots"), iofs);
        let ((keeper, missing), swept) = examine::open(config, limits, own.clone(), store, program)?;
        let allow = ImageAllow::new(&limits.image_allow);
        let (limits, config) = (limits.clone(), config.clone());
        Ok(Sandbox { keeper, images, limits, allow, config, own, missing, prepared: Mutex::default(), call_off, swept })
    }

    /// What this host does not give, in words; empty when all is there.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    fn prepare(&self, root: &Path) -> Result<(), LaunchError> {
        if self.prepared.lock().contains(root) {
            return Ok(());
        }
        root::prepare(root).map_err(|e| engine("image", e))?;
        let mut prepared = self.prepared.lock();
        if prepared.len() >= PREPARED {
            prepared.clear();
        }
        prepared.insert(root.to_owned());
        Ok(())
    }

    fn go(&self, spec: &ContainerSpec, root: &Rootfs) -> Result<Go, LaunchError> {
        let image = &root.config;
        let argv: Vec<String> = image.entrypoint.iter().chain(&image.cmd).cloned().collect();
        if argv.is_empty() {
            return Err(engine("start", "the image names no program (Entrypoint and Cmd are empty)"));
        }
        let user = if self.limits.unprivileged || self.own.is_some() {
            FUNCTION_USER
        } else {
            let (passwd, group) = (root::read(&root.path, "etc/passwd"), root::read(&root.path, "etc/group"));
            root::identity(&image.user, &passwd, &group).map_err(|text| engine("start", text))?
        };
        let memory = spec.memory_mib.saturating_mul(1 << 20);
        let tmp = Tmp {
            bytes: match (spec.tmpfs_mib, memory) {
                (0, 0) => TMP_BYTES,
                (0, memory) => memory,
                (mib, _) => mib.saturating_mul(1 << 20),
            },
            inodes: if spec.tmpfs_mib == 0 { 0 } else { self.limits.max_tmpfs_inodes },
        };
        let mut limits = vec![
            Limit::OpenFiles(self.limits.max_open_files),
            Limit::LockedMemory(self.limits.max_locked_memory),
            Limit::PendingSignals(self.limits.max_pending_signals),
            Limit::MessageQueues(self.limits.max_message_queue),
            Limit::Core(0),
        ];
        if self.own.is_some() && self.limits.max_pids != 0 {
            // By the user, who is one of its own in each cell; root's cells
            // have the cgroup.
            limits.push(Limit::Processes(self.limits.max_pids));
        }
        Ok(Go {
            hostname: spec.id.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect(),
            argv,
            env: environment(image, spec),
            working_dir: image.working_dir.clone(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            capabilities: if self.limits.unprivileged || self.own.is_some() { 0 } else { PRIVILEGED },
            tmp,
            limits,
            writable_root: !self.limits.readonly_rootfs,
            // Where all share the host's: a function may ask for none.
            no_network: self.config.host_network && spec.no_network,
            places: self.own.as_ref().map(|own| places(own, &root.path, &spec.iofs)).transpose()?,
        })
    }

    /// Everything from the image to the function's first instruction.
    fn launch(&self, spec: &ContainerSpec, budget: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError> {
        let mut steps = Steps::new();
        let limit = budget.pull_until.saturating_duration_since(Instant::now());
        let image = self.images.ensure(&spec.image, pull(spec.pull), budget.pull_until, &self.call_off).map_err(|e| e.launch_error(&spec.image, limit))?;
        if !image.config.volumes.is_empty() && !self.limits.allow_volume {
            return Err(LaunchError::ImageVolume { image: spec.image.clone() });
        }
        self.prepare(&image.path)?;
        let go = self.go(spec, &image)?;
        // A plain user's cell makes the mounts itself.
        let tree = if self.own.is_some() { None } else { Some(root::tree(&image.path, self.keeper.users()).map_err(|e| engine("image", e))?) };
        steps.done("image");
        let until = Instant::now() + budget.start_within;
        let limits = Limits { memory_bytes: spec.memory_mib.saturating_mul(1 << 20), cpu_milli: spec.cpu_milli, pids: self.limits.max_pids };
        let cell = self.keeper.take(Guess { limits, tmp: go.tmp }, until);
        steps.done("cell");
        let started = cell.map_err(|text| engine("park", text)).and_then(|mut cell| {
            let folder = cell.slot.set(limits).map_err(|e| engine("limits", e)).and_then(|()| tree.is_some().then(|| folder(&spec.iofs)).transpose());
            let folder = match folder {
                Ok(folder) => folder,
                Err(e) => {
                    self.keeper.discard(cell);
                    return Err(e);
                }
            };
            steps.done("limits");
            self.order(spec, cell, image, exit, &go, tree.iter().chain(&folder).collect(), until)
        });
        self.keeper.started();
        steps.done("exec");
        log::debug!("container {}: {}", spec.id, steps.text());
        started
    }

    #[expect(clippy::too_many_arguments, reason = "one start, told once")]
    fn order(
        &self,
        spec: &ContainerSpec,
        cell: Cell,
        root: Rootfs,
        exit: Arc<dyn ExitSink>,
        go: &Go,
        fds: Vec<&OwnedFd>,
        until: Instant,
    ) -> Result<Instance, LaunchError> {
        let (pid, slot, freezer) = (cell.pid, cell.slot.number, cell.slot.freezer());
        // Registered before it runs, so that no end goes unseen.
        let line = self.keeper.adopt(&spec.id, cell, root, exit.clone());
        let pipes = outputs(spec, &*exit);
        let fds: Vec<_> = fds.into_iter().chain(&pipes).map(AsFd::as_fd).collect();
        let begun = wire::send_go(line.as_fd(), go, &fds).map_err(|e| e.to_string()).and_then(|()| await_exec(&line, until));
        if let Err(text) = begun {
            if let Err(e) = self.keeper.remove(&spec.id) {
                log::error!("container {}: {e}", spec.id);
            }
            return Err(engine("start", text));
        }
        let name = self.keeper.groups().path_of(slot);
        Ok(Instance {
            id: spec.id.clone(),
            engine_id: pid.to_string(),
            pid: Some(pid),
            freezer,
            meter: Meter::find(pid, &name, Cgroup::UsedBefore).map(Arc::new),
        })
    }
}

/// The container's ends of the pipes for what it prints, if somebody reads it.
/// They end with its last process.
fn outputs(spec: &ContainerSpec, sink: &dyn ExitSink) -> Vec<OwnedFd> {
    if !sink.wants_output() {
        return Vec::new();
    }
    let pair = |stream| {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        // Programs open /dev/stdout again, as the user they are.
        fchmod(&theirs, Mode::from_raw_mode(0o622))?;
        Ok::<_, Errno>((theirs, Output { fd: ours, framing: Framing::Plain(stream), early: Vec::new() }))
    };
    match pair(Stream::Stdout).and_then(|out| Ok([out, pair(Stream::Stderr)?])) {
        Ok(both) => both
            .into_iter()
            .map(|(theirs, output)| {
                sink.output(output);
                theirs
            })
            .collect(),
        Err(e) => {
            log::warn!("what container {} prints is lost: {e}", spec.id);
            Vec::new()
        }
    }
}

/// `FN_DOCKER_LOAD_FILE`, into the store.
fn load_file(images: &Images, path: &Path, stop: &Stop) -> Result<(), SandboxOpenError> {
    let mut file = std::fs::File::open(path).map_err(|source| SandboxOpenError::LoadFile { path: path.to_owned(), source })?;
    let loaded = images.load(&mut file, None, Instant::now() + LOAD_WITHIN, stop).map_err(|source| SandboxOpenError::Load { path: path.to_owned(), source })?;
    log::info!("{}: loaded {}", path.display(), loaded.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", "));
    Ok(())
}

/// The line ends when the program is executed; a last word says why it is not.
fn await_exec(line: &OwnedFd, until: Instant) -> Result<(), String> {
    match wait_for(line.as_fd(), PollFlags::IN, None, None, Some(until)) {
        Ok(Woke::Ready) => keeper::last_word(line).map_or(Ok(()), Err),
        Ok(_) => Err("the program was not executed in time".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// The socket folder as a mount that a cell can take.
fn folder(path: &Path) -> Result<OwnedFd, LaunchError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e: Errno| LaunchError::Iofs { text: format!("{}: {e}", path.display()) })
}

/// The two as names below what the spawner keeps.
fn places(own: &Own, root: &Path, iofs: &Path) -> Result<Places, LaunchError> {
    let below = |path: &Path, parent: &Path| {
        path.strip_prefix(parent).map(Path::to_owned).map_err(|_| engine("start", format!("{} is not below {}", path.display(), parent.display())))
    };
    Ok(Places { root: below(root, &own.images)?, iofs: below(iofs, &own.folders)? })
}

/// The image's, then the function's over it.
fn environment(image: &ImageConfig, spec: &ContainerSpec) -> Vec<String> {
    let set = |key: &str| spec.env.iter().any(|(k, _)| k == key);
    let mut env: Vec<String> = image.env.iter().filter(|pair| !set(pair.split('=').next().unwrap_or_default())).cloned().collect();
    if !set("PATH") && !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    env.extend(spec.env.iter().map(|(k, v)| format!("{k}={v}")));
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push("HOME=/".to_owned());
    }
    env
}

fn pull(policy: PullPolicy) -> Pull {
    match policy {
        PullPolicy::IfMissing => Pull::Missing,
        PullPolicy::Always => Pull::Always,
        PullPolicy::Never => Pull::Never,
    }
}

fn engine(step: &'static str, text: impl std::fmt::Display) -> LaunchError {
    LaunchError::Engine { step, text: text.to_string() }
}

/// What each part of a start took, for the log.
struct Steps {
    last: Instant,
    text: String,
}

impl Steps {
    fn new() -> Steps {
        Steps { last: Instant::now(), text: String::new() }
    }

    fn done(&mut self, name: &str) {
        use std::fmt::Write;
        let now = Instant::now();
        let _ = write!(self.text, "{}{name} {} µs", if self.text.is_empty() { "" } else { ", " }, (now - self.last).as_micros());
        self.last = now;
    }

    fn text(&self) -> &str {
        &self.text
    }
}

impl Driver for Sandbox {
    fn name(&self) -> &'static str {
        "sandbox"
    }

    fn describe(&self) -> String {
        let network = if self.config.host_network { "the host's network" } else { "no network" };
        let ids = if self.own.is_some() {
            "the server's own user".to_owned()
        } else {
            format!("users {} to {}", self.config.base, u64::from(self.config.base) + u64::from(cell::IDS) - 1)
        };
        let lacks = if self.missing.is_empty() { String::new() } else { format!("; MISSING: {}", self.missing.join(", ")) };
        format!("sandbox (namespaces, seccomp, {}, {ids}, {network}){lacks}", self.keeper.groups().describe())
    }

    fn socket_folder(&self) -> Option<Result<OwnedFd, std::io::Error>> {
        self.own.is_none().then(|| self.keeper.folder())
    }

    fn start(&self, spec: &ContainerSpec, budget: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError> {
        if self.call_off.fired() {
            return Err(LaunchError::CalledOff { why: "the server is shutting down" });
        }
        if !self.allow.allows(&spec.image) {
            return Err(LaunchError::ImageForbidden { image: spec.image.clone() });
        }
        self.launch(spec, budget, exit)
    }

    fn freeze(&self, instance: &Instance) -> Result<(), DriverError> {
        with_freezer("freeze", instance, Freezer::freeze)
    }

    fn thaw(&self, instance: &Instance) -> Result<(), DriverError> {
        with_freezer("thaw", instance, Freezer::thaw)
    }

    fn remove(&self, instance: &Instance) -> Result<(), DriverError> {
        self.keeper.remove(&instance.id).map_err(|text| DriverError { verb: "remove", id: instance.id.clone(), text, begun: true })
    }

    fn reclaim(&self) -> Result<usize, DriverError> {
        // Done before the first cell was parked.
        Ok(self.swept)
    }

    fn call_off(&self) {
        self.call_off.fire();
    }

    fn close(&self) {
        self.keeper.close();
    }
}

/// Without a freezer a container is simply left running.
fn with_freezer(verb: &'static str, instance: &Instance, act: impl Fn(&Freezer) -> Result<(), crate::driver::FreezerError>) -> Result<(), DriverError> {
    match &instance.freezer {
        Some(freezer) => act(freezer).map_err(|e| DriverError { verb, id: instance.id.clone(), text: e.to_string(), begun: true }),
        None => Ok(()),
    }
}
