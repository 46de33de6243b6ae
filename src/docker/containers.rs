//! The verbs on containers, each one request; answers in small structs.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::create::{LABEL_INSTANCE, LABEL_STORE};
use super::engine::{Ask, Engine, EngineError, Fault, Op};
use crate::driver::{Framing, Output, Usage};
use crate::registry::encode;

/// `State` of an inspected container. Every field may be missing: engines add
/// and drop them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub(super) status: String,
    pub(super) running: bool,
    pub(super) paused: bool,
    #[serde(rename = "OOMKilled")]
    pub(super) oom_killed: bool,
    pub(super) pid: i64,
    pub(super) exit_code: i64,
}

impl State {
    /// The process of a running container.
    pub(super) fn pid(&self) -> Option<u32> {
        u32::try_from(self.pid).ok().filter(|pid| *pid != 0 && self.running)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: State,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// One row of the engine's list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    #[serde(default)]
    pub(super) state: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub(super) created: i64,
    #[serde(default)]
    pub(super) labels: Option<HashMap<String, String>>,
}

impl Listed {
    pub(super) fn instance(&self) -> Option<&str> {
        self.labels.as_ref()?.get(LABEL_INSTANCE).map(String::as_str)
    }

    /// Its process has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "exited" | "dead" | "stopped")
    }
}

/// One answer about a container's use. Every field may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    cpu_stats: CpuStats,
    memory_stats: MemoryStats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuStats {
    cpu_usage: CpuUsage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    /// Nanoseconds.
    total_usage: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryStats {
    usage: Option<u64>,
    max_usage: Option<u64>,
}

impl Stats {
    fn usage(&self) -> Usage {
        Usage {
            cpu: Duration::from_nanos(self.cpu_stats.cpu_usage.total_usage),
            memory: self.memory_stats.usage,
            // Podman says 0 where it does not know.
            memory_peak: self.memory_stats.max_usage.filter(|peak| *peak > 0),
        }
    }
}

/// The engine could not be reached, or dropped the line: asking again what
/// changes nothing (or is already done) is harmless.
pub(super) fn passing(error: &EngineError) -> bool {
    match &error.fault {
        Fault::Away { .. } | Fault::Broken { .. } => true,
        Fault::Status { code, .. } => *code == 503,
        Fault::Timeout { .. } | Fault::Malformed { .. } => false,
    }
}

/// A filter as the engine takes it in a query.
pub(super) fn filters(value: &serde_json::Value) -> String {
    encode(&value.to_string(), false)
}

impl Engine {
    /// Makes a container and returns the engine's id of it. Once it was sent it
    /// is not repeated: a broken exchange may have made it (its name tells).
    pub(super) fn create(&self, name: &str, body: &serde_json::Value, within: Duration) -> Result<String, EngineError> {
        let mut ask = Ask::new(Op::Create, name, "POST", format!("/containers/create?name={}", encode(name, false))).within(within);
        ask.json = Some(body.to_string().into_bytes());
        let created: Created = self.ask_until(&ask, |_| false)?.json()?;
        for warning in created.warnings.iter().flatten() {
            log::warn!("container {name}: {}", super::engine::clean(warning));
        }
        if created.id.is_empty() || !created.id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(EngineError::new(Op::Create, name, Fault::Malformed { what: "the new container's id is not one".to_owned() }));
        }
        Ok(created.id)
    }

    /// The container's outputs from now on, as the engine's frames. Asked for
    /// before the start, so that nothing is missed.
    pub(super) fn attach(&self, id: &str) -> Result<Output, EngineError> {
        let (fd, early) = self.hijack(&Ask::new(Op::Attach, id, "POST", path(id, "/attach?stream=1&stdout=1&stderr=1")))?;
        Ok(Output { fd, framing: Framing::Frames, early })
    }

    pub(super) fn start(&self, id: &str, within: Duration) -> Result<(), EngineError> {
        self.ask_until(&Ask::new(Op::Start, id, "POST", path(id, "/start")).within(within), |_| false).map(drop)
    }

    pub(super) fn inspect(&self, id: &str) -> Result<State, EngineError> {
        // Asking harms nothing, and much hangs on the answer.
        let again = |e: &EngineError| passing(e) || matches!(e.fault, Fault::Malformed { .. }) || e.status().is_some_and(|code| code >= 500);
        let look = || self.ask_until(&Ask::new(Op::Inspect, id, "GET", path(id, "/json")), again)?.json::<Inspected>();
        let inspected = look().or_else(|e| if matches!(e.fault, Fault::Malformed { .. }) { look() } else { Err(e) })?;
        Ok(inspected.state)
    }

    /// The same for the event thread, which others wait for.
    pub(super) fn inspect_soon(&self, id: &str) -> Result<State, EngineError> {
        let inspected: Inspected = self.ask(&Ask::new(Op::Inspect, id, "GET", path(id, "/json")).within(Duration::from_secs(5)))?.json()?;
        Ok(inspected.state)
    }

    /// What it has used so far. (Engines before 20.10 take two seconds for it,
    /// which is too long.)
    pub(super) fn usage(&self, id: &str, within: Duration) -> Result<Usage, EngineError> {
        let ask = Ask::new(Op::Stats, id, "GET", path(id, "/stats?stream=false&one-shot=true")).within(within);
        Ok(self.ask(&ask)?.json::<Stats>()?.usage())
    }

    /// The engine's pause. Its flag lags behind the truth (a pause soon after
    /// an unpause is told "already paused"), so that answer is not believed at
    /// once, and in the end the container's state decides.
    pub(super) fn pause_container(&self, id: &str) -> Result<(), EngineError> {
        self.turn(Op::Pause, id, "/pause", true)
    }

    /// The engine's unpause, with the same doubt.
    pub(super) fn unpause_container(&self, id: &str) -> Result<(), EngineError> {
        self.turn(Op::Unpause, id, "/unpause", false)
    }

    fn turn(&self, op: Op, id: &str, verb: &str, paused: bool) -> Result<(), EngineError> {
        let lags = |e: &EngineError| passing(e) || matches!(e.status(), Some(409 | 500));
        match self.ask_until(&Ask::new(op, id, "POST", path(id, verb)), lags) {
            Ok(_) => Ok(()),
            Err(error) if error.status().is_some() && !error.is_gone() => match self.inspect(id) {
                Ok(state) if state.running && state.paused == paused => Ok(()),
                Ok(_) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Kills and removes with its volumes, and returns when it is gone.
    pub(super) fn remove(&self, id: &str, within: Duration) -> Result<(), EngineError> {
        self.remove_known(id, within).map(drop)
    }

    /// The same; false when there was no such container.
    pub(super) fn remove_known(&self, id: &str, within: Duration) -> Result<bool, EngineError> {
        // 409: another removal is under way; 500: the engine lost a race with
        // the container's own end, or a mount is still busy.
        let ends = |e: &EngineError| passing(e) || matches!(e.status(), Some(409 | 500));
        let ask = Ask::new(Op::Remove, id, "DELETE", format!("/containers/{}?force=1&v=1", encode(id, false))).within(within);
        match self.ask_until(&ask, ends) {
            Ok(_) => Ok(true),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All containers, running or not, with every one of these labels.
    pub(super) fn list_labelled(&self, labels: &[(&str, &str)]) -> Result<Vec<Listed>, EngineError> {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let target = format!("/containers/json?all=1&filters={}", filters(&json!({ "label": wanted })));
        self.ask_until(&Ask::new(Op::List, "containers", "GET", target), passing)?.json()
    }

    /// All containers of a store.
    pub(super) fn list_store(&self, store: &str) -> Result<Vec<Listed>, EngineError> {
        self.list_labelled(&[(LABEL_STORE, store)])
    }
}

fn path(id: &str, verb: &str) -> String {
    format!("/containers/{}{verb}", encode(id, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_with_missing_and_odd_fields() {
        let state = |text: &str| serde_json::from_str::<Inspected>(text).expect("parses").state;
        assert_eq!(state(r#"{"State":{}}"#).pid(), None);
        assert_eq!(state(r#"{"State":{"Running":true,"Pid":7}}"#).pid(), Some(7));
        assert_eq!(state(r#"{"State":{"Running":false,"Pid":7}}"#).pid(), None);
        assert_eq!(state(r#"{"State":{"Running":true,"Pid":-1}}"#).pid(), None);
        let dead = state(r#"{"Id":"x","State":{"Status":"exited","OOMKilled":true,"ExitCode":137,"New":[]}}"#);
        assert!(dead.oom_killed && dead.exit_code == 137);
    }

    #[test]
    fn usage_with_missing_and_odd_fields() {
        let usage = |text: &str| serde_json::from_str::<Stats>(text).expect("parses").usage();
        assert_eq!(usage("{}"), Usage::default());
        let text = r#"{"cpu_stats":{"cpu_usage":{"total_usage":1500,"percpu_usage":null}},"memory_stats":{"usage":7,"max_usage":0}}"#;
        assert_eq!(usage(text), Usage { cpu: Duration::from_nanos(1500), memory: Some(7), memory_peak: None });
    }

    #[test]
    fn filters_are_encoded() {
        assert_eq!(filters(&json!({"label": ["a=b c"]})), "%7B%22label%22%3A%5B%22a%3Db%20c%22%5D%7D");
    }
}
