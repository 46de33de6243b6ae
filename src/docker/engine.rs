//! Requests to the engine: version prefix, limits, retries, typed failures.

use std::fmt;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::circuit::{Circuit, PING_WITHIN};
use super::transport::{Stream, Transport};
use crate::driver::Health;
use crate::pool::{Stop, wait_for};

/// The newest API this driver was written against; newer engines serve it too.
const API: (u32, u32) = (1, 41);

/// What is asked of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Ping,
    Version,
    Info,
    Events,
    InspectImage,
    Pull,
    LoadImage,
    BuildImage,
    ListImages,
    RemoveImage,
    InspectVolume,
    Create,
    Attach,
    Start,
    Inspect,
    Pause,
    Unpause,
    Remove,
    List,
    ReadFile,
    Stats,
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// From the request to the head of its answer, and the longest silence
    /// while either body is sent.
    answer: Duration,
    /// Retries may go on this long; zero = never repeated. (A request that
    /// found nobody is another matter: see `AWAY_FOR`.)
    retry: Duration,
}

/// A request that found nobody was never made: whatever it is, it may be tried
/// again for so long, a restart of the engine.
const AWAY_FOR: Duration = Duration::from_secs(10);
/// Longest silence within a short answer.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Over TCP a request under way cannot be ended, so its limit is this.
const TCP_WITHIN: Duration = Duration::from_secs(15);

impl Op {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Op::Ping => "ping",
            Op::Version => "version",
            Op::Info => "info",
            Op::Events => "events",
            Op::InspectImage => "inspect image",
            Op::Pull => "pull",
            Op::LoadImage => "load image",
            Op::BuildImage => "build image",
            Op::ListImages => "list images",
            Op::RemoveImage => "remove image",
            Op::InspectVolume => "inspect volume",
            Op::Create => "create",
            Op::Attach => "attach",
            Op::Start => "start",
            Op::Inspect => "inspect",
            Op::Pause => "pause",
            Op::Unpause => "unpause",
            Op::Remove => "remove",
            Op::List => "list",
            Op::ReadFile => "read a file of",
            Op::Stats => "count the use of",
        }
    }

    /// Whether the request carries a tar archive.
    pub(super) const fn sends_archive(self) -> bool {
        matches!(self, Op::LoadImage | Op::BuildImage)
    }

    /// Short requests of which a dead engine must not keep anybody waiting.
    const fn is_watched(self) -> bool {
        match self {
            Op::Ping | Op::Version | Op::Info | Op::ReadFile | Op::Stats | Op::Events | Op::Pull | Op::LoadImage | Op::BuildImage => false,
            Op::InspectImage
            | Op::InspectVolume
            | Op::Inspect
            | Op::ListImages
            | Op::RemoveImage
            | Op::Create
            | Op::Attach
            | Op::Start
            | Op::Pause
            | Op::Unpause
            | Op::Remove
            | Op::List => true,
        }
    }

    /// The one table of limits. Create, start and pull are never repeated by
    /// themselves: the engine may have done what it could not answer.
    const fn limits(self) -> Limits {
        let (answer, retry) = match self {
            Op::Ping => (PING_WITHIN.as_secs(), 0),
            Op::Version | Op::Info | Op::ReadFile => (10, 0),
            // Nobody depends on it.
            Op::Stats => (2, 0),
            Op::InspectImage | Op::InspectVolume | Op::Inspect => (15, 3),
            Op::List | Op::ListImages => (60, 3),
            Op::Create | Op::Start => (60, 0),
            // A start goes on without.
            Op::Attach => (5, 0),
            Op::Pause | Op::Unpause => (5, 2),
            Op::Remove => (60, 10),
            Op::RemoveImage => (60, 0),
            Op::LoadImage | Op::BuildImage => (600, 0),
            // Also how long a close may take with an engine that is stuck.
            Op::Events => (5, 0),
            // Only when the caller gives no limit of its own.
            Op::Pull => (600, 0),
        };
        Limits { answer: Duration::from_secs(answer), retry: Duration::from_secs(retry) }
    }
}

/// A request to the engine failed.
#[derive(Debug, thiserror::Error)]
#[error("{} {subject}: {fault}", op.name())]
pub struct EngineError {
    pub op: Op,
    /// The container, image or address it was about.
    pub subject: String,
    pub fault: Fault,
}

/// In which way a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the engine cannot be reached: {text}")]
    Away { text: String },
    #[error("no answer within {limit:?}")]
    Timeout { limit: Duration },
    /// The exchange broke: whether the engine did it is not known.
    #[error("the connection to the engine broke: {text}")]
    Broken { text: String },
    #[error("{message} (status {code})")]
    Status { code: u16, message: String },
    #[error("the engine's answer is not understood: {what}")]
    Malformed { what: String },
}

impl EngineError {
    pub(super) fn new(op: Op, subject: &str, fault: Fault) -> EngineError {
        EngineError { op, subject: subject.to_owned(), fault }
    }

    /// The HTTP status, if the engine answered with one.
    pub fn status(&self) -> Option<u16> {
        match self.fault {
            Fault::Status { code, .. } => Some(code),
            _ => None,
        }
    }

    /// It is not there.
    pub fn is_gone(&self) -> bool {
        self.status() == Some(404)
    }

    pub(super) fn message(&self) -> &str {
        match &self.fault {
            Fault::Status { message, .. } => message,
            _ => "",
        }
    }
}

/// A short answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) op: Op,
    pub(super) subject: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, EngineError> {
        serde_json::from_slice(&self.body).map_err(|e| EngineError::new(self.op, &self.subject, Fault::Malformed { what: e.to_string() }))
    }
}

/// One request, before the version prefix and the limits.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) op: Op,
    pub(super) subject: &'a str,
    pub(super) method: &'static str,
    /// Path and query, encoded, without the version.
    pub(super) target: String,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) json: Option<Vec<u8>>,
    /// Tighter than the table's, where a caller has a deadline.
    pub(super) within: Option<Duration>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(op: Op, subject: &'a str, method: &'static str, target: String) -> Ask<'a> {
        Ask { op, subject, method, target, fields: Vec::new(), json: None, within: None }
    }

    pub(super) fn within(mut self, limit: Duration) -> Ask<'a> {
        self.within = Some(limit);
        self
    }

    fn answer_within(&self) -> Duration {
        let table = self.op.limits().answer;
        let limit = match (self.within, self.op) {
            (Some(limit), Op::Pull | Op::Events) => limit,
            (Some(limit), _) => limit.min(table),
            (None, _) => table,
        };
        // Zero would mean "no limit" to some transports.
        limit.clamp(Duration::from_millis(1), Duration::from_secs(24 * 3600))
    }
}

/// The engine's address is not one.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("DOCKER_HOST: '{host}' is not unix:///path or tcp://host:port")]
    Form { host: String },
    #[error("cannot get a descriptor: {source}")]
    Stop { source: std::io::Error },
}

/// The engine behind an address.
pub struct Engine {
    transport: Transport,
    address: String,
    /// Whether it answers.
    pub(super) circuit: Circuit,
    /// `/v1.41`, known after `negotiate`.
    prefix: String,
    /// Calls off every pause between retries.
    pub(super) stop: Arc<Stop>,
    /// Calls off pulls, before everything else ends.
    pub(super) call_off: Arc<Stop>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("address", &self.address).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// `GET /version`, as far as it matters.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub api_version: String,
    #[serde(default, rename = "MinAPIVersion")]
    pub min_api_version: String,
    /// `linux`, `amd64`: what its images must be for.
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub arch: String,
    #[serde(default)]
    pub components: Option<Vec<Component>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Component {
    #[serde(default)]
    pub name: String,
}

impl Version {
    /// Podman's compatible socket; its version numbers are its own.
    pub fn is_podman(&self) -> bool {
        self.components.iter().flatten().any(|c| c.name.starts_with("Podman"))
    }

    /// The path prefix to speak with: our version, or what the engine can.
    fn prefix(&self) -> String {
        let newest = pair(&self.api_version).unwrap_or(API).min(API);
        // Engines from 29 on no longer serve 1.41.
        let (major, minor) = newest.max(pair(&self.min_api_version).unwrap_or(newest));
        format!("/v{major}.{minor}")
    }
}

/// The first two numbers of a version.
pub(super) fn pair(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

impl Engine {
    /// An engine at `host` (the form of `DOCKER_HOST`). Connects to nothing.
    ///
    /// # Errors
    /// The text is not an address.
    pub fn new(host: &str) -> Result<Engine, AddressError> {
        let no_stop = |source| AddressError::Stop { source };
        let call_off = Arc::new(Stop::new().map_err(no_stop)?);
        let transport = Transport::to(host, &call_off).ok_or_else(|| AddressError::Form { host: host.to_owned() })?;
        Ok(Engine {
            transport,
            address: host.to_owned(),
            circuit: Circuit::new(),
            prefix: String::new(),
            stop: Arc::new(Stop::new().map_err(no_stop)?),
            call_off,
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks for the version and settles the prefix of every later path.
    ///
    /// # Errors
    /// Nobody answers there, or not an engine.
    pub fn negotiate(&mut self) -> Result<Version, EngineError> {
        let address = self.address.clone();
        let version: Version = self.ask(&Ask::new(Op::Version, &address, "GET", "/version".to_owned()))?.json()?;
        if version.version.is_empty() && version.api_version.is_empty() {
            return Err(EngineError::new(Op::Version, &address, Fault::Malformed { what: "it names no version".to_owned() }));
        }
        self.prefix = version.prefix();
        Ok(version)
    }

    /// Asks once and reads the whole answer; an error status is an error.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<Answer, EngineError> {
        let mut no_body = std::io::empty();
        let stream = self.open(ask, None, &mut no_body)?;
        Ok(Answer { op: ask.op, subject: ask.subject.to_owned(), body: stream.bytes()? })
    }

    /// Asks, repeating while `again` says that the failure will pass, within
    /// the table's time; and, without being asked, while nobody is there. So
    /// `again` may only be true for what may be done twice.
    pub(super) fn ask_until(&self, ask: &Ask<'_>, again: impl Fn(&EngineError) -> bool) -> Result<Answer, EngineError> {
        let begun = Instant::now();
        let until = |error: &EngineError| {
            let budget = match error.fault {
                Fault::Away { .. } => AWAY_FOR,
                _ if again(error) => ask.op.limits().retry,
                _ => Duration::ZERO,
            };
            begun + ask.within.map_or(budget, |within| budget.min(within))
        };
        let mut delay = Duration::from_millis(5);
        loop {
            match self.ask(ask) {
                Err(error) if Instant::now() < until(&error) && !self.stop.fired() && self.circuit.health() != Health::Away => {
                    log::debug!("{error}; trying again");
                    self.pause(jittered(delay).min(until(&error).saturating_duration_since(Instant::now())));
                    delay = (delay * 2).min(Duration::from_millis(500));
                }
                done => return done,
            }
        }
    }

    /// Asks and hands the answer's body out as a stream. `body` is what an image
    /// load sends. `idle_within` bounds the stream's silence, where that is not
    /// the time for the answer.
    pub(super) fn open(&self, ask: &Ask<'_>, idle_within: Option<Duration>, body: &mut dyn Read) -> Result<Stream, EngineError> {
        let target = format!("{}{}", self.prefix, ask.target);
        let mut within = ask.answer_within();
        let mut idle_within = idle_within;
        let mut waiting = None;
        if ask.op.is_watched() {
            let entered = self.circuit.enter(Instant::now());
            waiting = Some(entered.map_err(|fault| EngineError::new(ask.op, ask.subject, fault))?);
            idle_within = idle_within.or(Some(within.min(BODY_WITHIN)));
            if !self.can_interrupt() {
                within = within.min(TCP_WITHIN);
            }
        }
        // Who waits for events waits for the engine's end, too.
        let events = Some(&self.stop).filter(|_| ask.op == Op::Events);
        let cut = waiting.as_ref().and_then(|w| w.cut.as_ref()).or(events);
        let stream = self.transport.send(ask, &target, within, idle_within, cut, body).inspect_err(|e| {
            if matches!(e.fault, Fault::Away { .. }) {
                let now = Instant::now();
                self.circuit.failed(now, now);
            }
        })?;
        self.circuit.answered();
        if (200..300).contains(&stream.status) || stream.status == 304 {
            return Ok(stream);
        }
        let code = stream.status;
        let text = stream.bytes().unwrap_or_default();
        Err(EngineError::new(ask.op, ask.subject, Fault::Status { code, message: error_text(&text) }))
    }

    /// Asks for a stream of bytes in both directions and hands out its
    /// descriptor, with what was read from it already.
    pub(super) fn hijack(&self, ask: &Ask<'_>) -> Result<(OwnedFd, Vec<u8>), EngineError> {
        let entered = self.circuit.enter(Instant::now());
        let waiting = entered.map_err(|fault| EngineError::new(ask.op, ask.subject, fault))?;
        self.transport.hijack(ask, &format!("{}{}", self.prefix, ask.target), ask.answer_within(), waiting.cut.as_ref())
    }

    /// Waits, unless the driver is being closed.
    pub(super) fn pause(&self, time: Duration) {
        // An error means no memory for poll: going on at once is right.
        let _ = wait_for(self.stop.as_fd(), PollFlags::IN, None, None, Some(Instant::now() + time));
    }

    /// Whether an open stream can be ended at once from another thread.
    pub(super) fn can_interrupt(&self) -> bool {
        self.transport.can_interrupt()
    }
}

/// The engine's own words: the body's `message`, else the body, shortened.
pub(super) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Words {
        /// Podman tells the cause too; it is the end of the message.
        message: Option<String>,
        cause: Option<String>,
    }
    let words = serde_json::from_slice::<Words>(body).ok().and_then(|words| words.message.or(words.cause));
    clean(&words.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()))
}

/// One line, at most 1,000 characters: it goes into answers and logs.
pub(super) fn clean(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
    if line.is_empty() { "no reason given".to_owned() } else { line }
}

/// Between half and all of the delay, so that many do not come back at once.
fn jittered(delay: Duration) -> Duration {
    let mut byte = [0u8; 1];
    // No randomness: no jitter.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
    delay / 2 + delay * u32::from(byte[0]) / 510
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let prefix = |api: &str, min: &str| {
            Version { version: "x".into(), api_version: api.into(), min_api_version: min.into(), os: String::new(), arch: String::new(), components: None }
                .prefix()
        };
        assert_eq!(prefix("1.41", "1.12"), "/v1.41");
        assert_eq!(prefix("1.52", "1.44"), "/v1.44");
        assert_eq!(prefix("1.33", "1.12"), "/v1.33");
        assert_eq!(prefix("", ""), "/v1.41");
        assert_eq!(pair("17.10.0-ce"), Some((17, 10)));
        assert_eq!(pair("20.10.24+dfsg1"), Some((20, 10)));
        assert_eq!(pair("29.0rc1"), Some((29, 0)));
        assert_eq!(pair("weird"), None);
    }

    #[test]
    fn addresses() {
        for good in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://h:1/"] {
            assert!(Engine::new(good).is_ok(), "{good}");
        }
        for bad in ["", "unix://", "unix://relative", "ssh://h", "tcp://", "tcp://a b", "tcp://u@h"] {
            assert!(Engine::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn error_texts() {
        assert_eq!(error_text(b"{\"message\":\"No such image: x\"}\n"), "No such image: x");
        assert_eq!(error_text(br#"{"cause":"no such file","message":"create: no such file","response":500}"#), "create: no such file");
        assert_eq!(error_text(b"404 page not found\n"), "404 page not found");
        assert_eq!(error_text(b""), "no reason given");
        assert_eq!(error_text(&[0xff, 0x0a]), "\u{fffd}");
    }

    #[test]
    fn nobody_there_is_away() {
        let mut engine = Engine::new("unix:///nonexistent/docker.sock").expect("address");
        assert!(matches!(engine.negotiate().expect_err("away").fault, Fault::Away { .. }));
        let mut engine = Engine::new("tcp://127.0.0.1:1").expect("address");
        assert!(matches!(engine.negotiate().expect_err("away").fault, Fault::Away { .. }));
    }
}
