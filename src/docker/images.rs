//! Images: is it there, else pull it, once for everybody who wants it; load,
//! list and remove for the command line.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Deserialize;
use serde_json::Value;

use super::containers::passing;
use super::engine::{Ask, Engine, EngineError, Fault, Op, clean};
use super::launch_error;
use crate::call::LaunchError;
use crate::registry::{ImageName, Registries, encode};

/// An image seen this long ago is taken to be there still. A create that says
/// otherwise ends the belief at once.
const SEEN_FOR: Duration = Duration::from_secs(60);
/// Images remembered.
const MAX_SEEN: usize = 4096;
/// A pull that reports nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(120);

/// The engine's images.
#[derive(Debug)]
pub struct Images {
    pub(super) engine: Arc<Engine>,
    registries: Registries,
    allow_volume: bool,
    seen: Mutex<HashMap<String, Instant>>,
    pulls: Mutex<HashMap<String, Arc<Flight>>>,
}

/// One row of the image list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageRow {
    pub id: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub size: i64,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    pub created: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    volumes: Option<HashMap<String, Value>>,
}

/// A pull under way, and those who wait for it.
#[derive(Debug, Default)]
struct Flight {
    result: Mutex<Option<Result<(), PullFailure>>>,
    landed: Condvar,
}

/// Why a pull failed; shared by all who waited for it.
#[derive(Debug, Clone)]
enum PullFailure {
    TimedOut,
    CalledOff,
    Refused { status: Option<u16>, text: String },
    Away { text: String },
}

impl PullFailure {
    fn of(error: &EngineError, until: Instant) -> PullFailure {
        match &error.fault {
            Fault::Timeout { .. } if Instant::now() >= until => PullFailure::TimedOut,
            Fault::Away { .. } => PullFailure::Away { text: error.fault.to_string() },
            Fault::Status { code, message } => PullFailure::Refused { status: Some(*code), text: message.clone() },
            Fault::Timeout { .. } | Fault::Broken { .. } | Fault::Malformed { .. } => PullFailure::Refused { status: None, text: error.fault.to_string() },
        }
    }

    fn launch_error(self, image: &str, limit: Duration) -> LaunchError {
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
    images: &'a Images,
    key: &'a str,
    flight: &'a Flight,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.images.pulls.lock().remove(self.key);
        self.flight.land(Err(PullFailure::Refused { status: None, text: "the pull was abandoned".to_owned() }));
    }
}

impl Images {
    pub(super) fn new(engine: Arc<Engine>, registries: Registries, allow_volume: bool) -> Images {
        Images { engine, registries, allow_volume, seen: Mutex::default(), pulls: Mutex::default() }
    }

    /// Returns when the image is there and may be used.
    ///
    /// # Errors
    /// The name is not one, the pull failed or took too long, the image
    /// declares volumes, or the engine does not answer.
    pub fn ensure(&self, image: &str, until: Instant) -> Result<(), LaunchError> {
        if self.seen.lock().get(image).is_some_and(|at| at.elapsed() < SEEN_FOR) {
            return Ok(());
        }
        let limit = until.saturating_duration_since(Instant::now());
        let name = ImageName::parse(image).map_err(|e| LaunchError::Pull { image: image.to_owned(), status: Some(400), text: e.to_string() })?;
        if !self.inspect(image)? {
            self.pull_shared(&name, until).map_err(|failure| failure.launch_error(image, limit))?;
            if !self.inspect(image)? {
                return Err(LaunchError::Pull { image: image.to_owned(), status: None, text: "the pull succeeded, yet the image is not there".to_owned() });
            }
        }
        self.believe(image);
        Ok(())
    }

    /// Pulls, also if it is there: a tag may have moved.
    ///
    /// # Errors
    /// The name is not one, or the pull failed or took too long.
    pub fn refresh(&self, image: &str, until: Instant) -> Result<(), LaunchError> {
        let limit = until.saturating_duration_since(Instant::now());
        let name = ImageName::parse(image).map_err(|e| LaunchError::Pull { image: image.to_owned(), status: Some(400), text: e.to_string() })?;
        self.pull_shared(&name, until).map_err(|failure| failure.launch_error(image, limit))
    }

    pub(super) fn believe(&self, image: &str) {
        let mut seen = self.seen.lock();
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        seen.insert(image.to_owned(), Instant::now());
    }

    /// The engine says that the image is not there.
    pub(super) fn forget(&self, image: &str) {
        self.seen.lock().remove(image);
    }

    /// Whether it is there; an error when it is and may not be used.
    fn inspect(&self, image: &str) -> Result<bool, LaunchError> {
        let ask = Ask::new(Op::InspectImage, image, "GET", format!("/images/{}/json", encode(image, true)));
        let inspected: Inspected = match self.engine.ask_until(&ask, passing).and_then(|answer| answer.json()) {
            Ok(inspected) => inspected,
            Err(e) if e.is_gone() => return Ok(false),
            Err(e) => return Err(launch_error(&e)),
        };
        let has_volume = inspected.config.and_then(|c| c.volumes).is_some_and(|v| !v.is_empty());
        if has_volume && !self.allow_volume {
            return Err(LaunchError::ImageVolume { image: image.to_owned() });
        }
        Ok(true)
    }

    /// One pull per image at a time. Who comes later waits for the one under
    /// way; if that ends for lack of time and they have more, they go on.
    fn pull_shared(&self, name: &ImageName, until: Instant) -> Result<(), PullFailure> {
        let key = name.to_string();
        loop {
            let (flight, lead) = {
                let mut pulls = self.pulls.lock();
                match pulls.get(&key) {
                    Some(flight) => (flight.clone(), false),
                    None => (pulls.entry(key.clone()).or_default().clone(), true),
                }
            };
            if lead {
                let leader = Leader { images: self, key: &key, flight: &flight };
                let result = self.pull(name, until).map_err(|e| if self.engine.call_off.fired() { PullFailure::CalledOff } else { PullFailure::of(&e, until) });
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

    fn pull(&self, name: &ImageName, until: Instant) -> Result<(), EngineError> {
        let subject = name.to_string();
        let left = || until.saturating_duration_since(Instant::now());
        let late = || EngineError::new(Op::Pull, &subject, Fault::Timeout { limit: Duration::ZERO });
        let target = format!("/images/create?fromImage={}&tag={}", encode(name.from_image(), false), encode(&name.reference, false));
        let mut ask = Ask::new(Op::Pull, &subject, "POST", target).within(left());
        if let Some(header) = self.registries.lookup(name).header() {
            ask.fields.push(("X-Registry-Auth", header));
        }
        log::info!("pulling image {subject}");
        let begun = Instant::now();
        let mut stream = self.engine.open(&ask, Some(left().clamp(Duration::from_millis(1), SILENCE)), &mut std::io::empty())?;
        while let Some(line) = stream.line()? {
            if left().is_zero() {
                return Err(late());
            }
            progress(Op::Pull, &subject, &line)?;
        }
        log::info!("pulled image {subject} in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Loads a docker archive (`docker save`). Returns the engine's words on
    /// what was loaded.
    ///
    /// # Errors
    /// Not an archive, or the engine failed.
    pub fn load(&self, tar: &mut dyn Read) -> Result<Vec<String>, EngineError> {
        let ask = Ask::new(Op::LoadImage, "archive", "POST", "/images/load?quiet=1".to_owned());
        let mut stream = self.engine.open(&ask, None, tar)?;
        let mut words = Vec::new();
        while let Some(line) = stream.line()? {
            words.extend(progress(Op::LoadImage, "archive", &line)?);
        }
        Ok(words)
    }

    /// # Errors
    /// The engine failed.
    pub fn list(&self) -> Result<Vec<ImageRow>, EngineError> {
        self.engine.ask_until(&Ask::new(Op::ListImages, "images", "GET", "/images/json".to_owned()), passing)?.json()
    }

    /// Removes a tag, or the image when it was the last; false if there is none.
    ///
    /// # Errors
    /// It is in use, or the engine failed.
    pub fn remove(&self, image: &str) -> Result<bool, EngineError> {
        self.forget(image);
        match self.engine.ask(&Ask::new(Op::RemoveImage, image, "DELETE", format!("/images/{}", encode(image, true)))) {
            Ok(_) => Ok(true),
            Err(e) if e.is_gone() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// One line of a progress stream: an error ends it, a message is returned.
pub(super) fn progress(op: Op, subject: &str, line: &[u8]) -> Result<Option<String>, EngineError> {
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
    let text = value.get("stream").or_else(|| value.get("status")).and_then(Value::as_str).map(clean);
    if let Some(text) = &text {
        log::debug!("{} {subject}: {text}", op.name());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines() {
        let line = |text: &str| progress(Op::Pull, "x", text.as_bytes());
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
    fn a_flight_lands_once() {
        let flight = Flight::default();
        assert!(flight.wait(Instant::now()).is_none());
        flight.land(Ok(()));
        flight.land(Err(PullFailure::TimedOut));
        assert!(matches!(flight.wait(Instant::now()), Some(Ok(()))));
    }
}
