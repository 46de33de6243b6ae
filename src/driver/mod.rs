//! The seam between the scheduler and whatever makes containers.
//!
//! Owns: the `Driver` trait and the plain structs that cross it.
//! Called by: `hot` (the lanes). Implemented by: `docker`, `sandbox`.
//! Blocks on: each verb is blocking, bounded by the deadline it is given or by
//! the driver's own request time-outs. Does not: know calls, queues or routes.

mod freezer;
mod group;
mod meter;

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use freezer::{Freezer, FreezerError};
pub use meter::{Cgroup, Mark, Meter, Spent, Usage};

use crate::call::{Exit, LaunchError};
use crate::model::PullPolicy;

/// All a driver needs to make one container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// 26-character id; also the container's name with the engine.
    pub id: String,
    pub image: String,
    /// `K=V` pairs, complete (app config, fn config, fixed keys).
    pub env: Vec<(String, String)>,
    /// Limit in MiB; 0 = none.
    pub memory_mib: u64,
    /// Limit in milli-CPU; 0 = none.
    pub cpu_milli: u64,
    /// Size of /tmp in MiB; 0 = no size limit.
    pub tmpfs_mib: u64,
    /// The socket folder as this process sees it; bound to /tmp/iofs.
    pub iofs: PathBuf,
    /// The app's syslog URL, if any.
    pub syslog_url: Option<String>,
    pub app_id: String,
    pub fn_id: String,
    /// Asked for no network (annotation).
    pub no_network: bool,
    /// When the image is looked for in its registry.
    pub pull: PullPolicy,
}

/// Who is told what becomes of a container. Every method must return at once:
/// they run on the driver's threads.
pub trait ExitSink: Send + Sync {
    /// Told once when it ended, whatever the reason.
    fn exited(&self, exit: Exit);

    /// Whether anybody reads what it prints. If not, the driver need not ask
    /// for it, and sees to it that the function's writes do not block.
    fn wants_output(&self) -> bool {
        false
    }

    /// What it prints is to be read here. Told before its first process runs,
    /// so that no line is missed; once for each descriptor.
    fn output(&self, output: Output) {
        drop(output);
    }
}

/// Where a container's standard output and error arrive.
#[derive(Debug)]
pub struct Output {
    /// A pipe or a stream socket; it ends with the container. Whoever reads it
    /// makes it non-blocking.
    pub fd: OwnedFd,
    pub framing: Framing,
    /// What was read from it already.
    pub early: Vec<u8>,
}

/// How bytes and streams come apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// All of it is one stream.
    Plain(Stream),
    /// The engine's frames: stream (1 byte), three zeros, length (4 bytes, big
    /// endian), then as many bytes.
    Frames,
}

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Limits of one start.
#[derive(Debug, Clone, Copy)]
pub struct StartBudget {
    /// The image must be there by then.
    pub pull_until: Instant,
    /// Create and start must have returned within this after the image is there.
    pub start_within: Duration,
}

/// A running container as its driver knows it.
#[derive(Debug)]
pub struct Instance {
    /// The `ContainerSpec::id` it was made from.
    pub id: String,
    /// The engine's own id for it (container id, or pid as text).
    pub engine_id: String,
    /// Host pid of its first process, if known.
    pub pid: Option<u32>,
    /// The container's own cgroup freezer where we may write it.
    pub freezer: Option<Freezer>,
    /// The container's own counters where we can see them. Shared: whoever
    /// looks at a container need not own it.
    pub meter: Option<Arc<Meter>>,
}

/// A verb on a running container failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} of container {id} failed: {text}")]
pub struct DriverError {
    pub verb: &'static str,
    pub id: String,
    pub text: String,
    /// It may have been done, wholly or in part. False: certainly not.
    pub begun: bool,
}

/// Whether containers can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Good,
    /// No answer just now; it may pass.
    Failing,
    /// No answer for long: starts fail at once until there is one.
    Away,
}

/// Makes, freezes, thaws and removes containers. All verbs may be called from
/// several threads at once; every one returns in bounded time.
pub trait Driver: Send + Sync + Debug {
    /// `docker` or `sandbox`.
    fn name(&self) -> &'static str;

    /// One line for the start-up print: version, address, why chosen.
    fn describe(&self) -> String;

    /// A socket folder of the driver's own kind, by descriptor; `None`: an
    /// ordinary folder will do. `ContainerSpec::iofs` names it then.
    fn socket_folder(&self) -> Option<std::io::Result<OwnedFd>> {
        None
    }

    /// Whether it sends what containers print to `ContainerSpec::syslog_url`;
    /// if not, hob does.
    fn sends_syslog(&self) -> bool {
        false
    }

    /// Whether a folder that this process has mounted, below the parent of the
    /// socket folders, is there for the containers, too.
    fn sees(&self, folder: &Path) -> bool {
        let _ = folder;
        false
    }

    /// Image, create, start. When it returns an error nothing is left behind
    /// (or its removal is under way in the driver's own care). `exit` is told
    /// when the container ends, also when that is before this returns.
    fn start(&self, spec: &ContainerSpec, budget: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError>;

    /// Stop all its processes from running. Idempotent.
    fn freeze(&self, instance: &Instance) -> Result<(), DriverError>;

    /// Undo `freeze`. On the hot path: microseconds where the freezer is ours.
    fn thaw(&self, instance: &Instance) -> Result<(), DriverError>;

    /// Kill and remove, frozen or not; success also when it is already gone.
    fn remove(&self, instance: &Instance) -> Result<(), DriverError>;

    /// Remove everything of ours that this process did not make (leftovers of
    /// an earlier run of the same store). Returns how many were removed.
    fn reclaim(&self) -> Result<usize, DriverError>;

    /// What the container of this engine id used since its start, asked of
    /// whoever knows where its cgroup is out of sight (no `Instance::meter`).
    /// One question, within `limit`; never on the way of a call.
    fn usage(&self, engine_id: &str, limit: Duration) -> Option<Usage> {
        let _ = (engine_id, limit);
        None
    }

    /// Starts under way may give up where they would wait for long (a pull).
    /// Called once, when the server goes; other verbs still come after it.
    fn call_off(&self) {}

    /// How what makes the containers is doing, as of the last look: no waiting.
    fn health(&self) -> Health {
        Health::Good
    }

    /// Stop the event thread; join it. After this no verb is called.
    fn close(&self);
}
