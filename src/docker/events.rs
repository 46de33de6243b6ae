//! The engine's event stream: one thread that learns of exits, resumes where
//! it was cut off, and looks for itself what happened meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::containers::filters;
use super::create::LABEL_STORE;
use super::engine::{Ask, Engine, EngineError, Fault, Op};
use super::exits::{Exits, UNKNOWN_CODE};
use crate::pool::{SpawnError, Thread, spawn};
use crate::uds::client::Interrupter;

/// At most two connections a second.
const RECONNECT: Duration = Duration::from_millis(500);
/// Without a way to end a blocked read, streams are asked to end after this.
const ROUND_S: u64 = 5;
/// Podman sends the head of its answer with the first event, not before: a
/// stream of which nothing is heard is asked anew after this.
const PODMAN_ROUND_S: u64 = 30;
/// How much later than asked a stream may end.
const LATE: Duration = Duration::from_secs(10);
/// The first stream looks back this far, for clocks that differ a little.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// What an event means to us.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Died { id: String, code: i64 },
    Oom { id: String },
    Other,
}

#[derive(Deserialize, Default)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: Option<HashMap<String, Value>>,
}

/// One line of the stream, and when it happened (nanoseconds, 0 = unsaid).
fn parse(line: &[u8]) -> Result<(Event, u64), serde_json::Error> {
    let value: Value = serde_json::from_slice(line)?;
    let action = value.get("Action").or_else(|| value.get("status")).and_then(Value::as_str).unwrap_or_default();
    let actor: Actor = value.get("Actor").map(Actor::deserialize).transpose()?.unwrap_or_default();
    let at = value.get("timeNano").and_then(Value::as_u64).unwrap_or(0);
    let id = actor.id;
    let event = match action {
        // Podman filters by its own word, and tells the other one.
        "die" | "died" if !id.is_empty() => {
            let attributes = actor.attributes.unwrap_or_default();
            let code = attributes.get("exitCode").or_else(|| attributes.get("containerExitCode")).and_then(|v| match v {
                Value::String(text) => text.parse().ok(),
                other => other.as_i64(),
            });
            Event::Died { id, code: code.unwrap_or(UNKNOWN_CODE) }
        }
        "oom" if !id.is_empty() => Event::Oom { id },
        _ => Event::Other,
    };
    Ok((event, at))
}

/// The running follower.
#[derive(Debug)]
pub(super) struct Events {
    interrupter: Arc<Mutex<Option<Interrupter>>>,
    thread: Thread,
}

impl Events {
    pub(super) fn start(engine: Arc<Engine>, exits: Arc<Exits>, store: String, podman: bool) -> Result<Events, SpawnError> {
        let interrupter = Arc::new(Mutex::new(None));
        let round_s = if podman { Some(PODMAN_ROUND_S) } else { (!engine.can_interrupt()).then_some(ROUND_S) };
        let since_nanos = nanos(SystemTime::now().checked_sub(LOOK_BACK));
        let mut follower = Follower { engine, exits, store, round_s, podman, since_nanos, interrupter: interrupter.clone(), told_away: false };
        let thread = spawn("docker-events", move || follower.run())?;
        Ok(Events { interrupter, thread })
    }

    /// The engine's stop must have fired: then this ends the thread.
    pub(super) fn join(self) {
        self.interrupt();
        self.thread.join();
    }

    /// Cuts the stream; the follower comes back unless it is to stop.
    pub(super) fn interrupt(&self) {
        if let Some(interrupter) = self.interrupter.lock().as_ref() {
            interrupter.interrupt();
        }
    }
}

struct Follower {
    engine: Arc<Engine>,
    exits: Arc<Exits>,
    store: String,
    /// Streams are asked to end after this.
    round_s: Option<u64>,
    podman: bool,
    since_nanos: u64,
    interrupter: Arc<Mutex<Option<Interrupter>>>,
    told_away: bool,
}

impl Follower {
    fn run(&mut self) {
        while !self.engine.stop.fired() {
            let result = self.follow();
            *self.interrupter.lock() = None;
            if self.engine.stop.fired() {
                return;
            }
            match result {
                // As it was asked to.
                Ok(()) if self.round_s.is_some() => {}
                Err(EngineError { fault: Fault::Timeout { .. }, .. }) if !self.engine.can_interrupt() => {}
                Ok(()) => self.tell("the stream ended"),
                Err(e) => self.tell(&e.to_string()),
            }
            self.engine.pause(RECONNECT);
        }
    }

    fn tell(&mut self, why: &str) {
        if self.told_away {
            log::debug!("engine events: {why}");
        } else {
            log::warn!("engine events: {why}; reconnecting");
            self.told_away = true;
        }
    }

    /// Follows one stream to its end.
    fn follow(&mut self) -> Result<(), EngineError> {
        let mut target = format!("/events?since={}.{:09}&filters={}", self.since_nanos / 1_000_000_000, self.since_nanos % 1_000_000_000, self.filter());
        if let Some(round_s) = self.round_s {
            target.push_str(&format!("&until={}", nanos(Some(SystemTime::now())) / 1_000_000_000 + round_s));
        }
        let mut ask = Ask::new(Op::Events, "containers", "GET", target);
        if self.podman {
            ask = ask.within(Duration::from_secs(PODMAN_ROUND_S) + LATE);
            // The stream is not known to be there before the first event; what
            // came before it is told from `since` on.
            self.reconcile()?;
        }
        let mut stream = self.engine.open(&ask, None, &mut std::io::empty())?;
        *self.interrupter.lock() = stream.interrupter();
        // Set before the look at `stop`: whoever fires later finds it.
        if self.engine.stop.fired() {
            return Ok(());
        }
        if !self.podman {
            self.reconcile()?;
        }
        if self.told_away {
            log::info!("engine events: connected again");
            self.told_away = false;
        }
        while let Some(line) = stream.line()? {
            match parse(&line) {
                Ok((event, at)) => {
                    self.since_nanos = self.since_nanos.max(at);
                    self.apply(event);
                }
                Err(e) => log::warn!("engine events: a line is not understood: {e}"),
            }
        }
        Ok(())
    }

    fn filter(&self) -> String {
        filters(&json!({"type": ["container"], "event": ["die", "died", "oom"], "label": [format!("{LABEL_STORE}={}", self.store)]}))
    }

    fn apply(&self, event: Event) {
        match event {
            Event::Oom { id } => self.exits.note_oom(&id),
            Event::Died { id, code } if self.exits.contains(&id) => {
                // The oom event may come after the end, or not at all.
                let oom = self.exits.is_unexplained(&id, code) && self.engine.inspect_soon(&id).is_ok_and(|state| state.oom_killed);
                self.exits.ended(&id, code, oom);
            }
            Event::Died { .. } | Event::Other => {}
        }
    }

    /// What ended while nobody listened. Only containers that were known
    /// before the list was asked for: one made meanwhile may not be in it.
    fn reconcile(&self) -> Result<(), EngineError> {
        let known = self.exits.ids();
        if known.is_empty() {
            return Ok(());
        }
        let listed: HashMap<String, bool> = self.engine.list_store(&self.store)?.into_iter().map(|c| (c.id.clone(), c.has_ended())).collect();
        for id in known {
            match listed.get(&id) {
                Some(false) => {}
                Some(true) => match self.engine.inspect_soon(&id) {
                    Ok(state) => self.exits.ended(&id, state.exit_code, state.oom_killed),
                    Err(e) if e.is_gone() => self.exits.ended(&id, UNKNOWN_CODE, false),
                    Err(e) => return Err(e),
                },
                None => self.exits.ended(&id, UNKNOWN_CODE, false),
            }
        }
        Ok(())
    }
}

fn nanos(time: Option<SystemTime>) -> u64 {
    time.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_engines() {
        let line = br#"{"status":"die","id":"f3","from":"x","Type":"container","Action":"die","Actor":{"ID":"f3","Attributes":{"exitCode":"7","name":"n"}},"time":1795502073,"timeNano":1795502073193536896}"#;
        assert_eq!(parse(line).expect("docker"), (Event::Died { id: "f3".into(), code: 7 }, 1_795_502_073_193_536_896));
        let podman = br#"{"status":"died","Actor":{"ID":"a","Attributes":{"containerExitCode":"1"}}}"#;
        assert_eq!(parse(podman).expect("podman"), (Event::Died { id: "a".into(), code: 1 }, 0));
        assert_eq!(parse(br#"{"Action":"oom","Actor":{"ID":"a"}}"#).expect("oom").0, Event::Oom { id: "a".into() });
        assert_eq!(parse(br#"{"Action":"die","Actor":{"ID":"a","Attributes":null}}"#).expect("no code").0, Event::Died { id: "a".into(), code: UNKNOWN_CODE });
        assert_eq!(parse(br#"{"Action":"exec_create: sh","Actor":{"ID":"a"}}"#).expect("other").0, Event::Other);
        assert_eq!(parse(b"{}").expect("empty").0, Event::Other);
        assert!(parse(b"{\"Action\":").is_err());
        assert!(parse(br#"{"Action":"die","Actor":7}"#).is_err());
    }
}
