//! Pulls: one at a time for each image, however many want it; progress in the
//! log; failures by their cause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::engine::{Ask, Engine, EngineError, Fault, Op, clean};
use crate::call::LaunchError;
use crate::metrics::{PULLS, PullCause};
use crate::registry::{ImageName, Registries, Shown, encode};

/// A pull that reports nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(120);
/// How often a long pull says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Layers whose progress is kept; images have at most 127.
const MAX_LAYERS: usize = 256;

/// A pull under way, and those who wait for it.
#[derive(Debug, Default)]
struct Flight {
    result: Mutex<Option<Result<(), PullFailure>>>,
    landed: Condvar,
}

/// Why a pull failed; shared by all who waited for it.
#[derive(Debug, Clone)]
pub(super) enum PullFailure {
    TimedOut,
    CalledOff,
    Refused { status: Option<u16>, text: String },
    Away { text: String },
}

/// The cause, by the engine's words: its status does not tell (it answers 500
/// where a registry said "unauthorized", and 404 where it said "denied").
fn cause_of(status: Option<u16>, text: &str) -> PullCause {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["no space left on device", "disk quota exceeded"]) {
        PullCause::NoSpace
    } else if says(&["unauthorized", "no basic auth credentials", "authentication required", "incorrect username or password", "access denied", "denied:"])
        || matches!(status, Some(401 | 403))
    {
        PullCause::Denied
    } else if says(&["manifest unknown", "not found", "does not exist", "name unknown", "no matching manifest"]) || status == Some(404) {
        PullCause::NotFound
    } else {
        PullCause::Other
    }
}

/// What to do about it; empty where the engine's words say all there is.
fn advice(cause: PullCause) -> &'static str {
    match cause {
        PullCause::Denied => "; the registry wants other credentials: DOCKER_CONFIG or FN_DOCKER_AUTH gives them",
        PullCause::NoSpace => "; the engine's disk is full: remove images, or let FN_IMAGE_CLEAN_MAX_SIZE do it",
        PullCause::NotFound | PullCause::TimedOut | PullCause::Other => "",
    }
}

impl PullFailure {
    fn of(error: &EngineError, shown: &Shown, until: Instant) -> PullFailure {
        let refused = |status, text: String| {
            let cause = cause_of(status, &text);
            // A helper that failed is why nothing better was shown.
            let trouble = shown.trouble.as_ref().filter(|_| cause == PullCause::Denied).map(|t| format!(" ({t})")).unwrap_or_default();
            PullFailure::Refused { status, text: format!("{text}{}{trouble}", advice(cause)) }
        };
        match &error.fault {
            Fault::Timeout { .. } if Instant::now() >= until => PullFailure::TimedOut,
            Fault::Away { .. } => PullFailure::Away { text: error.fault.to_string() },
            Fault::Status { code, message } => refused(Some(*code), message.clone()),
            Fault::Timeout { .. } | Fault::Broken { .. } | Fault::Malformed { .. } => refused(None, error.fault.to_string()),
        }
    }

    fn cause(&self) -> PullCause {
        match self {
            PullFailure::TimedOut => PullCause::TimedOut,
            PullFailure::Refused { status, text } => cause_of(*status, text),
            PullFailure::CalledOff | PullFailure::Away { .. } => PullCause::Other,
        }
    }

    pub(super) fn launch_error(self, image: &str, limit: Duration) -> LaunchError {
        match self {
            PullFailure::TimedOut => LaunchError::PullTimeout { image: image.to_owned(), limit },
            PullFailure::Refused { status, text } => LaunchError::Pull { image: image.to_owned(), status, text },
            PullFailure::CalledOff => LaunchError::CalledOff { why: "the server is shutting down" },
            PullFailure::Away { text } => LaunchError::EngineAway { step: "pull", text },
        }
    }
}

impl Flight {
    fn land(&self, result: Result<(), PullFailure>) {
        let mut slot = self.result.lock();
        if slot.is_none() {
            *slot = Some(result);
            self.landed.notify_all();
        }
    }

    /// `None` when the time is up first.
    fn wait(&self, until: Instant) -> Option<Result<(), PullFailure>> {
        let mut slot = self.result.lock();
        while slot.is_none() {
            if self.landed.wait_until(&mut slot, until).timed_out() {
                break;
            }
        }
        slot.clone()
    }
}

/// Held by the thread that pulls: whatever becomes of it, the others learn.
struct Leader<'a> {
    pulls: &'a Pulls,
    key: &'a str,
    flight: &'a Flight,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        PULLS.running.add(-1);
        let good = matches!(&*self.flight.result.lock(), Some(Ok(())));
        self.pulls.flights.lock().end(self.key, good);
        self.flight.land(Err(PullFailure::Refused { status: None, text: "the pull was abandoned".to_owned() }));
    }
}

/// All pulls through one engine.
#[derive(Debug)]
pub(super) struct Pulls {
    engine: Arc<Engine>,
    registries: Registries,
    flights: Mutex<Flights>,
}

#[derive(Debug, Default)]
struct Flights {
    under_way: HashMap<String, Arc<Flight>>,
    /// When each image last came, for those who had looked for it before.
    came: HashMap<String, Instant>,
}

/// Beyond so many, the older half of what came is forgotten.
const MAX_CAME: usize = 256;

impl Flights {
    fn end(&mut self, key: &str, good: bool) {
        self.under_way.remove(key);
        if !good {
            return;
        }
        if self.came.len() >= MAX_CAME {
            let mut times: Vec<_> = self.came.values().copied().collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            self.came.retain(|_, at| *at > middle);
        }
        self.came.insert(key.to_owned(), Instant::now());
    }
}

impl Pulls {
    pub(super) fn new(engine: Arc<Engine>, registries: Registries) -> Pulls {
        Pulls { engine, registries, flights: Mutex::default() }
    }

    /// One pull per image at a time. Who comes later waits for the one under
    /// way; if that ends for lack of time and they have more, they go on.
    /// A pull that ended after `since`, when the caller began to look for the
    /// image, is the caller's too.
    pub(super) fn shared(&self, name: &ImageName, since: Instant, until: Instant) -> Result<(), PullFailure> {
        let key = name.to_string();
        loop {
            let (flight, lead) = {
                let mut flights = self.flights.lock();
                if flights.came.get(&key).is_some_and(|at| *at >= since) {
                    return Ok(());
                }
                match flights.under_way.get(&key) {
                    Some(flight) => (flight.clone(), false),
                    None => (flights.under_way.entry(key.clone()).or_default().clone(), true),
                }
            };
            if lead {
                PULLS.running.add(1);
                let leader = Leader { pulls: self, key: &key, flight: &flight };
                let result = self.one(name, until);
                leader.flight.land(result.clone());
                return result;
            }
            match flight.wait(until) {
                None => return Err(PullFailure::TimedOut),
                Some(Err(PullFailure::TimedOut)) if Instant::now() < until => {}
                Some(result) => return result,
            }
        }
    }

    fn one(&self, name: &ImageName, until: Instant) -> Result<(), PullFailure> {
        let begun = Instant::now();
        // Asked now: a helper's answer holds for a short time only.
        let shown = self.registries.show(name, until, &self.engine.call_off);
        let result =
            self.pull(name, &shown, until).map_err(|e| if self.engine.call_off.fired() { PullFailure::CalledOff } else { PullFailure::of(&e, &shown, until) });
        PULLS.ended(begun.elapsed(), result.as_ref().err().map(PullFailure::cause));
        result
    }

    fn pull(&self, name: &ImageName, shown: &Shown, until: Instant) -> Result<(), EngineError> {
        let subject = name.to_string();
        let left = || until.saturating_duration_since(Instant::now());
        let late = || EngineError::new(Op::Pull, &subject, Fault::Timeout { limit: Duration::ZERO });
        let target = format!("/images/create?fromImage={}&tag={}", encode(name.from_image(), false), encode(&name.reference, false));
        let mut ask = Ask::new(Op::Pull, &subject, "POST", target).within(left());
        if let Some(header) = shown.credentials.header() {
            ask.fields.push(("X-Registry-Auth", header));
        }
        log::info!("pulling image {subject}");
        let begun = Instant::now();
        let mut stream = self.engine.open(&ask, Some(left().clamp(Duration::from_millis(1), SILENCE)), &mut std::io::empty())?;
        let mut layers = Layers::default();
        let mut said = begun;
        while let Some(line) = stream.line()? {
            if left().is_zero() {
                return Err(late());
            }
            let value = progress(Op::Pull, &subject, &line)?;
            layers.note(&value);
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                log::info!("pulling image {subject}: {layers}");
            }
        }
        PULLS.bytes.add(layers.bytes());
        log::info!("pulled image {subject} in {:.1} s ({layers})", begun.elapsed().as_secs_f64());
        Ok(())
    }
}

/// How far each layer is.
#[derive(Debug, Default)]
struct Layers {
    /// By the engine's short name: bytes fetched, bytes in all, done.
    known: HashMap<String, (u64, u64, bool)>,
}

impl Layers {
    fn note(&mut self, value: &Value) {
        let (Some(id), Some(status)) = (value["id"].as_str(), value["status"].as_str()) else { return };
        let is_layer = id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_layer || (self.known.len() >= MAX_LAYERS && !self.known.contains_key(id)) {
            return;
        }
        let (fetched, all, done) = self.known.entry(id.to_owned()).or_default();
        match status {
            "Downloading" => {
                let detail = &value["progressDetail"];
                *fetched = (*fetched).max(detail["current"].as_u64().unwrap_or(0));
                *all = (*all).max(detail["total"].as_u64().unwrap_or(0)).max(*fetched);
            }
            // Small layers tell no bytes before this.
            "Download complete" => *fetched = *all,
            "Pull complete" | "Already exists" => *done = true,
            _ => {}
        }
    }

    fn bytes(&self) -> u64 {
        self.known.values().map(|(fetched, _, _)| fetched).sum()
    }
}

impl std::fmt::Display for Layers {
    #[allow(clippy::cast_precision_loss, reason = "for eyes")]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (fetched, all) = self.known.values().fold((0, 0), |(f, a), (fetched, all, _)| (f + fetched, a + all));
        let done = self.known.values().filter(|(_, _, done)| *done).count();
        write!(f, "{done} of {} layers, {:.1} of {:.1} MB fetched", self.known.len(), fetched as f64 / 1e6, all as f64 / 1e6)
    }
}

/// One line of a progress stream; an error in it ends it.
pub(super) fn progress(op: Op, subject: &str, line: &[u8]) -> Result<Value, EngineError> {
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(e) => return Err(EngineError::new(op, subject, Fault::Malformed { what: e.to_string() })),
    };
    let detail = value.get("errorDetail");
    let error = detail.and_then(|d| d.get("message")).or_else(|| value.get("error")).and_then(Value::as_str);
    if let Some(message) = error {
        let message = clean(message);
        let code = detail.and_then(|d| d.get("code")).and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c));
        return Err(EngineError::new(op, subject, Fault::Status { code: code.unwrap_or(500), message }));
    }
    if detail.is_some() || value.get("error").is_some() {
        return Err(EngineError::new(op, subject, Fault::Malformed { what: "an error without words".to_owned() }));
    }
    if let Some(text) = words(&value) {
        log::debug!("{} {subject}: {text}", op.name());
    }
    Ok(value)
}

/// A line's message.
pub(super) fn words(value: &Value) -> Option<String> {
    value.get("stream").or_else(|| value.get("status")).and_then(Value::as_str).map(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines() {
        let line = |text: &str| progress(Op::Pull, "x", text.as_bytes()).map(|v| words(&v));
        assert_eq!(line(r#"{"status":"Pulling fs layer","id":"a"}"#).expect("fine").as_deref(), Some("Pulling fs layer"));
        assert_eq!(line(r#"{"aux":{}}"#).expect("fine"), None);
        let error = line(r#"{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}"#).expect_err("error");
        assert_eq!((error.status(), error.message()), (Some(500), "manifest unknown"));
        assert_eq!(line(r#"{"errorDetail":{"code":401,"message":"denied"}}"#).expect_err("error").status(), Some(401));
        assert_eq!(line(r#"{"error":"x"}"#).expect_err("error").message(), "x");
        assert!(matches!(line("nonsense").expect_err("malformed").fault, Fault::Malformed { .. }));
        assert!(matches!(line(r#"{"error":{}}"#).expect_err("malformed").fault, Fault::Malformed { .. }));
    }

    #[test]
    fn layers_add_up() {
        let mut layers = Layers::default();
        for line in [
            r#"{"status":"Pulling from x/y","id":"1"}"#,
            r#"{"status":"Already exists","id":"0123456789ab"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":500000,"total":2000000},"id":"aaaaaaaaaaaa"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":400000,"total":2000000},"id":"aaaaaaaaaaaa"}"#,
            r#"{"status":"Status: Downloaded newer image"}"#,
        ] {
            layers.note(&serde_json::from_str(line).expect("JSON"));
        }
        assert_eq!(layers.to_string(), "1 of 2 layers, 0.5 of 2.0 MB fetched");
        layers.note(&serde_json::json!({"status": "Download complete", "id": "aaaaaaaaaaaa"}));
        assert_eq!(layers.bytes(), 2_000_000);
    }

    /// Texts of engines 20.10, 28 and of Podman 4.3.
    #[test]
    fn causes() {
        for (status, text, cause) in [
            (Some(404), "manifest for r.io/x:9 not found: manifest unknown: manifest unknown", PullCause::NotFound),
            (Some(404), "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access", PullCause::Denied),
            (Some(500), "Head \"http://r.io/v2/x/manifests/1\": no basic auth credentials", PullCause::Denied),
            (Some(500), "Head \"http://r.io/v2/x/manifests/1\": unauthorized: authentication required", PullCause::Denied),
            (Some(500), "write /var/lib/docker/tmp/GetImageBlob1: no space left on device", PullCause::NoSpace),
            (Some(500), "no matching manifest for linux/amd64 in the manifest list entries", PullCause::NotFound),
            (Some(500), "dial tcp 127.0.0.1:1: connect: connection refused", PullCause::Other),
            (None, "unexpected EOF", PullCause::Other),
        ] {
            assert_eq!(cause_of(status, text), cause, "{text}");
        }
    }

    #[test]
    fn a_flight_lands_once() {
        let flight = Flight::default();
        assert!(flight.wait(Instant::now()).is_none());
        flight.land(Ok(()));
        flight.land(Err(PullFailure::TimedOut));
        assert!(matches!(flight.wait(Instant::now()), Some(Ok(()))));
    }
}
