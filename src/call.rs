//! One call: what is asked of a function, until when, who listens, and every
//! way it can fail.
//!
//! Owns: the words that `edge`, `agent`, `hot` and `uds` share about a call.
//! Called by: all four. Blocks on: nothing. Does not: know sockets' contents,
//! containers or HTTP status codes (those are in `respond`).

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{FnSpec, Id};

/// A request body that is complete before a slot is taken, so a slow client
/// never holds a container.
#[derive(Debug)]
pub enum Body {
    /// At most `edge`'s in-memory limit (256 KiB).
    Memory(Vec<u8>),
    /// An unlinked temporary file, read from offset 0.
    File { file: File, len: u64 },
}

impl Body {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    /// Whether the client sent no byte of body.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A call as the edge hands it to the agent.
#[derive(Debug)]
pub struct Call {
    /// Returned to the client as `Fn-Call-Id`, sent to the function as the same.
    pub id: Id,
    /// The exact configuration to run: its key names the slot queue.
    pub spec: Arc<FnSpec>,
    /// Header fields for the function, already filtered and serialised as
    /// `Name: value\r\n` lines: no hop-by-hop, no framing, no `Host`, no
    /// `Fn-Call-Id`, no `Fn-Deadline` (those are the function room's to write).
    pub fields: Vec<u8>,
    /// The complete request body.
    pub body: Body,
    /// When the request's head was complete; all phases are measured from here.
    pub accepted: Instant,
    /// The trigger it came through.
    pub trigger: Option<Id>,
}

/// The head of a function's answer after the contract's filter: no
/// hop-by-hop, no framing fields, no `Fn-Call-Id`, values free of CR, LF, NUL.
#[derive(Debug)]
pub struct AnswerHead<'a> {
    /// Name and value, in the function's order, duplicates kept.
    pub fields: &'a [(&'a str, &'a [u8])],
}

/// What has just happened to a call, for whoever accounts for its time. Each
/// may come again when the call is sent to another container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A container is in the call's hands.
    Acquired { origin: Origin, container: Id },
    /// The container runs again after a freeze.
    Thawed,
    /// The request's head, and as much of its body as fits, is in the socket.
    Sent,
    /// The function's part is over and used so much; of a metered call only.
    Spent { cpu: Duration, memory_peak: Option<u64> },
}

/// Where the container of a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It stood idle.
    Idle,
    /// It stood idle and frozen.
    Frozen,
    /// Every container was busy: the call before this one handed it over.
    HandedOver,
    /// It was started while the call waited.
    Started(Startup),
}

/// The steps of a container's start, as points in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Startup {
    /// A start lane took it up.
    pub begun: Instant,
    /// The driver has it running: image, create and start are done.
    pub running: Instant,
    /// Its function listens and the first connection is made.
    pub up: Instant,
}

/// The client is gone: nothing written to it can arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientGone;

/// The client's side of a call. `edge` implements it over the connection;
/// `uds` drives it. Either `whole` is called once, or `begin`, any number of
/// `data`, then `end`. Not calling `end` after `begin` means the answer broke
/// half way: the implementation must cut the connection visibly.
pub trait Caller {
    /// The whole answer (held until complete; bodies up to 64 KiB).
    fn whole(&mut self, head: &AnswerHead<'_>, body: &[u8]) -> Result<(), ClientGone>;
    /// A long answer begins; `len` is the body's length if the function told it.
    fn begin(&mut self, head: &AnswerHead<'_>, len: Option<u64>) -> Result<(), ClientGone>;
    /// More of a long answer.
    fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone>;
    /// The long answer is complete.
    fn end(&mut self) -> Result<(), ClientGone>;
    /// A phase of the call has just ended. For receipts; costs nothing to ignore.
    fn passed(&mut self, _moment: Moment) {}
    /// What the function uses is to be told: costs some microseconds.
    fn metered(&self) -> bool {
        false
    }
    /// The socket to poll for "gone" (HUP, ERR) while the function works.
    fn socket(&self) -> Option<BorrowedFd<'_>>;
    /// Ask to be told once, from another thread, when the client is gone. Used
    /// by waits that cannot poll a descriptor (a ticket's condvar). The watch
    /// ends when the guard is dropped.
    fn watch(&self, gone: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>>;
    /// The container goes on to `next`, which waited for it without a thread.
    /// The caller's thread may take it along when it is done; if not, it gets one.
    fn hand_on(&mut self, next: Box<dyn Woken>) {
        next.go_on();
    }
}

/// A call whose wait without a thread is over.
pub trait Woken: Any + Send {
    /// Has it go on in a thread of its own, soon. Does not wait.
    fn go_on(self: Box<Self>);
}

/// Ends a [`Caller::watch`] when dropped.
pub trait WatchGuard: Send {}

/// Why a container could not be brought up. Shared by every caller that waits
/// for it, hence behind an `Arc` where it travels.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("failed to pull image '{image}': {text}")]
    Pull { image: String, status: Option<u16>, text: String },
    #[error("image pull timed out after {limit:?}")]
    PullTimeout { image: String, limit: Duration },
    #[error("image '{image}' has a VOLUME definition")]
    ImageVolume { image: String },
    #[error("image '{image}' is not allowed here (HOB_IMAGE_ALLOW)")]
    ImageForbidden { image: String },
    #[error("image '{image}' is for {has}, not for {needs}")]
    ImagePlatform { image: String, has: String, needs: String },
    #[error("the engine failed at {step}: {text}")]
    Engine { step: &'static str, text: String },
    #[error("the app's syslog cannot be reached: {text}")]
    Syslog { text: String },
    #[error("the engine does not answer ({step}: {text})")]
    EngineAway { step: &'static str, text: String },
    #[error("the container ended before its socket appeared: {exit}")]
    Exited { exit: Ended, container: Id },
    #[error("no socket lsnr.sock appeared within {limit:?}")]
    NoSocket { limit: Duration, container: Id },
    #[error("bad function socket: {text}")]
    BadSocket { text: String, container: Id },
    #[error("the socket folder could not be made: {text}")]
    Iofs { text: String },
    #[error("the start was called off: {why}")]
    CalledOff { why: &'static str },
}

impl LaunchError {
    /// The container that came up and was of no use: its output may say why.
    pub fn container(&self) -> Option<Id> {
        match self {
            LaunchError::Exited { container, .. } | LaunchError::NoSocket { container, .. } | LaunchError::BadSocket { container, .. } => Some(*container),
            _ => None,
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit status as the engine reports it (137 = SIGKILL).
    pub code: i64,
    /// The kernel's out-of-memory killer ended it.
    pub oom_killed: bool,
}

/// How a container ended, in words for its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub exit: Exit,
    /// The memory it was given in MiB; 0 = no limit.
    pub memory_mib: u64,
}

/// Nobody knows how it ended: it was gone when the engine was asked.
pub const EXIT_UNKNOWN: i64 = -1;
/// An exit status above this is this plus a signal's number.
const SIGNALLED: i64 = 128;
/// 128 + SIGKILL.
const SIGKILLED: i64 = 137;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.memory_mib;
        match self.exit.code {
            _ if self.exit.oom_killed && mib > 0 => write!(f, "killed: used more than {mib} MB of memory"),
            _ if self.exit.oom_killed => write!(f, "killed: the host had no more memory for it"),
            // The engine does not learn of every out-of-memory kill in a
            // container's first moments (seen: 3 of 32 on a busy host).
            SIGKILLED if mib > 0 => write!(f, "exited with code 137: killed, as the kernel does for using more than {mib} MB of memory, or by somebody else"),
            SIGKILLED => write!(f, "exited with code 137: killed"),
            EXIT_UNKNOWN => write!(f, "removed by somebody else"),
            code => match signal_name(code - SIGNALLED) {
                Some(name) => write!(f, "exited with code {code}: ended by {name}"),
                None => write!(f, "exited with code {code}"),
            },
        }
    }
}

/// How a detached call is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detached {
    /// 0 to 2; higher ones first.
    pub priority: u8,
    /// Not before this has passed.
    pub delay: Duration,
    /// A repeat with the same key is the same call.
    pub key: Option<String>,
    /// Told of its end by a POST.
    pub callback: Option<String>,
}

/// A detached call was not accepted: it will not run, unless nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    #[error("the server is shutting down")]
    Draining,
    #[error("detached calls are switched off")]
    Off,
    #[error("the body has {len} bytes, more than {max}")]
    TooLarge { len: u64, max: u64 },
    #[error("callbacks are switched off")]
    NoCallbacks,
    #[error("callbacks go to public addresses only, not to {address}")]
    PrivateCallback { address: IpAddr },
    #[error("{limit} detached calls wait already")]
    Full { limit: usize },
    #[error("the bodies of detached calls that wait have {limit} bytes already")]
    FullBytes { limit: u64 },
    /// `to` one host, or all of them.
    #[error("{limit} ends of calls are still to be told to {to}")]
    FullCallbacks { limit: usize, to: &'static str },
    #[error("the call cannot be kept: {cause}")]
    NotKept { cause: String },
    /// Its record tells, once it has one.
    #[error("it is not known whether the call is kept: {cause}")]
    NotKnown { cause: String },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ended { exit: *self, memory_mib: 0 }.fmt(f)
    }
}

/// Those that end a process which does nothing about them.
fn signal_name(number: i64) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL, an illegal instruction",
        5 => "SIGTRAP",
        6 => "SIGABRT, as an abort does",
        7 => "SIGBUS, a bad memory access",
        8 => "SIGFPE, an arithmetic error",
        11 => "SIGSEGV, a bad memory access",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS, a forbidden system call",
        _ => return None,
    })
}

/// What an extension answers a call instead of running it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Objection {
    /// 400 to 599; anything else counts as 500.
    pub status: u16,
    pub message: String,
}

/// Every way a call can fail. Texts for users are made in `respond`.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the server is shutting down")]
    Draining,
    #[error("no slot became free within {waited:?}")]
    WaitTimeout { waited: Duration, last_launch: Option<Arc<LaunchError>> },
    #[error("too many callers wait already ({limit})")]
    QueueFull { limit: usize, retry_after_s: u32 },
    #[error("no capacity now, and waiting is switched off")]
    NoCapacity { retry_after_s: u32 },
    #[error("needs {need_mib} MiB and {need_mcpu} mCPU, the node has {total_mib} MiB and {total_mcpu} mCPU")]
    TooBig { need_mib: u64, need_mcpu: u64, total_mib: u64, total_mcpu: u64 },
    #[error("launch failed: {0}")]
    Launch(#[source] Arc<LaunchError>),
    #[error("the function ran longer than {limit:?}")]
    Timeout { limit: Duration },
    #[error("the function itself reported a timeout (504)")]
    FunctionTimeout,
    #[error("no complete answer: {cause}")]
    NoAnswer { cause: String, exit: Option<Ended> },
    #[error("the function reported a failure (502)")]
    FunctionFailed,
    #[error("the function answered with status {status}, not 200, 502 or 504")]
    InvalidAnswer { status: u16 },
    #[error("the function's answer is not valid: {cause}")]
    BadAnswer { cause: String },
    #[error("the answer's body is larger than {limit} bytes")]
    AnswerTooBig { limit: u64 },
    #[error("the answer's head is larger than {limit} bytes")]
    AnswerHeadTooBig { limit: usize },
    #[error("the client left")]
    ClientGone,
    #[error("the answer broke after {sent} bytes had been sent: {cause}")]
    Broken { sent: u64, cause: String },
    #[error("an extension objects: {0}")]
    Objected(#[source] Objection),
    #[error("internal: {0}")]
    Internal(String),
}

impl CallError {
    /// The container that did not come up, if that is why there was no call.
    pub fn failed_container(&self) -> Option<Id> {
        match self {
            CallError::Launch(launch) | CallError::WaitTimeout { last_launch: Some(launch), .. } => launch.container(),
            _ => None,
        }
    }

    /// Whether the function is to blame, its image or its code, and not the
    /// server, its load or the client (spec http-api §2.1).
    pub fn blames_function(&self) -> bool {
        match self {
            CallError::Launch(launch) => matches!(
                **launch,
                LaunchError::Pull { .. }
                    | LaunchError::PullTimeout { .. }
                    | LaunchError::Exited { .. }
                    | LaunchError::NoSocket { .. }
                    | LaunchError::BadSocket { .. }
            ),
            CallError::Timeout { .. }
            | CallError::FunctionTimeout
            | CallError::NoAnswer { .. }
            | CallError::FunctionFailed
            | CallError::InvalidAnswer { .. }
            | CallError::BadAnswer { .. }
            | CallError::AnswerTooBig { .. }
            | CallError::AnswerHeadTooBig { .. }
            | CallError::Broken { .. } => true,
            CallError::Draining
            | CallError::WaitTimeout { .. }
            | CallError::QueueFull { .. }
            | CallError::NoCapacity { .. }
            | CallError::TooBig { .. }
            | CallError::ClientGone
            | CallError::Objected(_)
            | CallError::Internal(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_words() {
        let words = |code, oom_killed, memory_mib| Ended { exit: Exit { code, oom_killed }, memory_mib }.to_string();
        assert_eq!(words(137, true, 128), "killed: used more than 128 MB of memory");
        assert_eq!(words(137, true, 0), "killed: the host had no more memory for it");
        assert!(words(137, false, 128).starts_with("exited with code 137: killed, as the kernel does for using more than 128 MB"));
        assert_eq!(words(3, false, 128), "exited with code 3");
        assert_eq!(words(139, false, 128), "exited with code 139: ended by SIGSEGV, a bad memory access");
        assert_eq!(words(255, false, 128), "exited with code 255");
        assert_eq!(words(EXIT_UNKNOWN, false, 128), "removed by somebody else");
    }
}
