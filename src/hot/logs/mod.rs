//! What containers print: one thread reads all of it, cuts it into lines and
//! keeps it by the call that was running.
//!
//! A function is never blocked by its output for longer than this thread takes
//! to come round: it always reads, and drops what is over the limits. A call
//! pays for it with a few stores ([`turn`]); everything else happens here.

mod ring;
mod tail;
#[cfg(test)]
mod tests;
mod text;
mod thread;
mod turn;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Mutex, RwLock};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::driver::{Output, Stream};
use crate::model::{FnSpec, Id};
use crate::pool::{SpawnError, Thread, spawn};
use crate::syslog::{Destination, Syslog};

pub use ring::Log;
pub use tail::{Tail, Word};
pub(super) use turn::Turn;

use tail::Ear;

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

/// Where output goes: a store. Called by the log thread, which reads nothing
/// meanwhile: must return at once.
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
    /// Where its lines go besides, if it is for us to send them.
    syslog: Option<Destination>,
    pub(super) turn: Turn,
}

impl Voice {
    pub(super) fn new(spec: &FnSpec, container: Id, born: Instant, syslog: Option<Destination>) -> Voice {
        Voice {
            app_id: spec.app_id,
            fn_id: spec.fn_id,
            fn_name: spec.fn_name.to_string(),
            container,
            memory_mib: spec.memory_mib,
            syslog,
            turn: Turn::new(born),
        }
    }

    pub(super) fn syslog(&self) -> Option<&Destination> {
        self.syslog.as_ref()
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
    sink: RwLock<Option<Arc<dyn LogSink>>>,
    syslog: Syslog,
    /// Live tails, and how many, so that a line without any pays one load.
    ears: Mutex<Vec<Weak<Ear>>>,
    listening: AtomicUsize,
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
    /// Somebody listens from now on.
    Ear(Arc<Ear>, Sender<Instant>),
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

/// A tail listens within this.
const BEGUN_WITHIN: Duration = Duration::from_secs(1);
/// The bell's place among epoll's tokens; descriptors count from 1.
const BELL: u64 = 0;

impl Logs {
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start(options: LogOptions) -> Result<Logs, LogsError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let shared = Arc::new(Shared {
            options,
            epoll,
            bell,
            told: Mutex::default(),
            stop: AtomicBool::new(false),
            sink: RwLock::default(),
            syslog: Syslog::default(),
            ears: Mutex::default(),
            listening: AtomicUsize::new(0),
        });
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

    /// What one call, or all of a function's containers, print from now on,
    /// after what running calls have printed so far. What was finished before
    /// the returned time is not in it.
    ///
    /// # Errors
    /// When no descriptor is to be had.
    pub fn follow(&self, fn_id: Id, call: Option<Id>) -> io::Result<(Tail, Instant)> {
        let ear = Arc::new(Ear::new(fn_id, call)?);
        let (begun, listening) = bounded(1);
        self.shared.tell(Told::Ear(ear.clone(), begun));
        // The thread is never busy for long; at the stop nobody answers.
        let since = listening.recv_timeout(BEGUN_WITHIN).unwrap_or_else(|_| Instant::now());
        if self.shared.stop.load(Ordering::SeqCst) {
            ear.end();
        }
        Ok((Tail(ear), since))
    }

    /// What is there is read a last time; the thread is joined.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.ring();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
        self.shared.syslog.stop();
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

    /// Every live tail that wants this call's lines.
    fn each_ear(&self, fn_id: &Id, call: Option<&Id>, mut with: impl FnMut(&Ear)) {
        if self.listening.load(Ordering::Relaxed) == 0 {
            return;
        }
        for ear in self.ears.lock().iter().filter_map(Weak::upgrade) {
            if ear.wants(fn_id, call) {
                with(&ear);
            }
        }
    }

    fn ring(&self) {
        // The counter is full only if the bell was rung already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}
