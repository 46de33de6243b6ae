//! What containers print: one thread reads all of it, cuts it into lines and
//! keeps it by the call that was running.
//!
//! A function is never blocked by its output for longer than this thread takes
//! to come round: it always reads, and drops what is over the limits. A call
//! pays for it with a few stores ([`turn`]); everything else happens here.

mod ring;
#[cfg(test)]
mod tests;
mod text;
mod thread;
mod turn;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::driver::{Output, Stream};
use crate::model::{FnSpec, Id};
use crate::pool::{SpawnError, Thread, spawn};

pub use ring::Log;
pub(super) use turn::Turn;

use ring::Kept;

/// What is kept of a function's output.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Most bytes of one call's log (`FN_MAX_LOG_SIZE_BYTES`); 0 keeps nothing.
    pub max_call_bytes: usize,
    /// Every line also goes to hob's own log at level debug.
    pub copy: bool,
}

/// One line as it arrives.
#[derive(Debug)]
pub struct Line<'a> {
    pub app_id: &'a Id,
    pub fn_id: &'a Id,
    pub container: &'a Id,
    /// `None`: while the container starts or is idle.
    pub call: Option<&'a Id>,
    pub stream: Stream,
    /// Escaped, without its end, at most 4 KiB of the function's bytes.
    pub text: &'a str,
}

/// Where output goes besides memory: a store, a live tail. Called by the log
/// thread, which reads nothing meanwhile: must return at once.
pub trait LogSink: Send + Sync {
    fn line(&self, _line: &Line<'_>) {}

    /// The call is over (or the container's own lines were gathered for a
    /// while); a moment for its last lines has passed.
    fn finished(&self, log: &Arc<Log>);
}

/// One container as the log thread knows it.
#[derive(Debug)]
pub(super) struct Voice {
    app_id: Id,
    fn_id: Id,
    fn_name: String,
    container: Id,
    pub(super) memory_mib: u64,
    pub(super) turn: Turn,
}

impl Voice {
    pub(super) fn new(spec: &FnSpec, container: Id, born: Instant) -> Voice {
        Voice { app_id: spec.app_id, fn_id: spec.fn_id, fn_name: spec.fn_name.to_string(), container, memory_mib: spec.memory_mib, turn: Turn::new(born) }
    }
}

/// The room's log thread and what it keeps.
#[derive(Debug)]
pub struct Logs {
    shared: Arc<Shared>,
    thread: Mutex<Option<Thread>>,
}

struct Shared {
    options: LogOptions,
    epoll: OwnedFd,
    bell: OwnedFd,
    told: Mutex<Vec<Told>>,
    stop: AtomicBool,
    kept: Mutex<Kept>,
    sink: RwLock<Option<Arc<dyn LogSink>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What the thread is told, all of it rare.
#[derive(Debug)]
enum Told {
    Output {
        voice: Arc<Voice>,
        output: Output,
    },
    /// It went wrong in this way: its last lines may say why.
    Trouble {
        voice: Arc<Voice>,
        what: String,
    },
}

/// The log thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("no descriptor for the log thread: {0}")]
    Descriptor(#[from] rustix::io::Errno),
}

/// The bell's place among epoll's tokens; descriptors count from 1.
const BELL: u64 = 0;

impl Logs {
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start(options: LogOptions) -> Result<Logs, LogsError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let shared =
            Arc::new(Shared { options, epoll, bell, told: Mutex::default(), stop: AtomicBool::new(false), kept: Mutex::default(), sink: RwLock::default() });
        let thread = spawn("hot-logs", {
            let shared = shared.clone();
            move || thread::run(&shared)
        })?;
        Ok(Logs { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Whether output is worth asking for.
    pub(super) fn wanted(&self) -> bool {
        self.shared.options.max_call_bytes > 0 || (self.shared.options.copy && log::log_enabled!(log::Level::Debug))
    }

    pub(super) fn read(&self, voice: &Arc<Voice>, output: Output) {
        self.shared.tell(Told::Output { voice: voice.clone(), output });
    }

    /// Says in hob's log what happened to a container, with its last lines.
    pub(super) fn trouble(&self, voice: &Arc<Voice>, what: String) {
        self.shared.tell(Told::Trouble { voice: voice.clone(), what });
    }

    /// From now on finished logs and lines go there too.
    pub fn send_to(&self, sink: Arc<dyn LogSink>) {
        *self.shared.sink.write() = Some(sink);
    }

    /// The last finished logs of a function, oldest first, as far as memory
    /// keeps them.
    pub fn recent(&self, fn_id: &Id) -> Vec<Arc<Log>> {
        self.shared.kept.lock().of_function(fn_id)
    }

    /// What is there is read a last time; the thread is joined.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.ring();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn tell(&self, told: Told) {
        if !self.stop.load(Ordering::SeqCst) {
            self.told.lock().push(told);
            self.ring();
        }
    }

    fn ring(&self) {
        // The counter is full only if the bell was rung already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}
