//! One start: image, create, start, inspect; what each failure leaves, and
//! what its callers are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Docker;
use super::containers::State;
use super::create::{self, IofsError, Plan, iofs_source};
use super::engine::{EngineError, Fault, Op};
use super::parked::Starting;
use crate::call::LaunchError;
use crate::driver::{Cgroup, ContainerSpec, ExitSink, Freezer, Instance, Meter, StartBudget};
use crate::pool::Permit;

impl Docker {
    /// Makes the container. What an unclear failure may have made is discarded.
    fn create(&self, spec: &ContainerSpec, join: bool, until: Instant) -> Result<Made, EngineOrIofs> {
        let shared = &*self.shared;
        let source = iofs_source(&spec.iofs, &shared.identity.iofs, shared.engine_iofs.as_deref())?;
        let own = if spec.no_network { Some(create::NO_NETWORK) } else { shared.networks.assign(&spec.id) };
        let joined = if join && !spec.no_network { shared.parked.take(own, &spec.id) } else { None };
        let network = joined.as_deref().or(own);
        let plan =
            Plan { spec, config: &shared.config, identity: &shared.identity, host: shared.host, iofs_source: &source, network, hostname: &shared.hostname };
        let malformed = |e: serde_json::Error| EngineError::new(Op::Create, &spec.id, Fault::Malformed { what: e.to_string() });
        let body = plan.body().map_err(malformed)?;
        let created = shared.engine.create(&spec.id, &body, left(until));
        if let Err(error) = &created {
            let unclear = match &error.fault {
                Fault::Away { .. } => false,
                Fault::Timeout { .. } | Fault::Broken { .. } | Fault::Malformed { .. } => true,
                // The name is ours alone: a container that has it is the fruit
                // of an earlier, lost answer.
                Fault::Status { code, .. } => *code == 409 || *code >= 500,
            };
            if unclear {
                shared.discard(&spec.id, false);
            }
        }
        Ok(Made { engine_id: created?, joined: joined.is_some() })
    }

    /// Create, where the image may have gone since it was last seen. Also
    /// returns until when the start must be done.
    fn create_with_image(&self, spec: &ContainerSpec, join: bool, budget: &StartBudget) -> Result<Created<'_>, LaunchError> {
        let images = &self.shared.images;
        let ensure = || {
            let image = images.ensured(&spec.image, spec.pull, budget.pull_until)?;
            if let Some(cleaner) = &self.shared.cleaner {
                cleaner.used(image, &spec.id);
            }
            Ok::<(), LaunchError>(())
        };
        ensure()?;
        match self.create_in_turn(spec, join, budget)? {
            Err(EngineOrIofs::Engine(error)) if error.is_gone() && error.message().contains("No such image") => {
                images.forget(&spec.image);
                ensure()?;
                self.create_in_turn(spec, join, budget)?.map_err(EngineOrIofs::launch_error)
            }
            done => done.map_err(EngineOrIofs::launch_error),
        }
    }

    /// Creates when it is this start's turn; the turn lasts until the permit
    /// is dropped. A pull never has one.
    fn create_in_turn(&self, spec: &ContainerSpec, join: bool, budget: &StartBudget) -> Result<Result<Created<'_>, EngineOrIofs>, LaunchError> {
        let until = Instant::now() + budget.start_within;
        let busy = || LaunchError::Engine { step: "start", text: "other starts took all its time".to_owned() };
        let permit = self.shared.starting.take(until).ok_or_else(busy)?;
        let turn = Turn { _permit: permit, _starting: self.shared.parked.starting() };
        if self.shared.engine.call_off.fired() {
            return Err(LaunchError::CalledOff { why: "the server is shutting down" });
        }
        Ok(self.create(spec, join, until).map(|made| Created { made, until, turn }))
    }

    /// Image, create, start. `join`: a parked network, if one is ready.
    pub(super) fn start_once(&self, spec: &ContainerSpec, join: bool, budget: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, Failed> {
        let shared = &*self.shared;
        let begun = Instant::now();
        let created = self.create_with_image(spec, join, budget).inspect_err(|_| shared.release(&spec.id))?;
        let Created { made: Made { engine_id, joined }, until, turn } = created;
        let created = Instant::now();
        // Registered before it runs, so that no end goes unseen.
        shared.exits.register(&engine_id, exit.clone());
        let mut unfinished = Unfinished { docker: self, name: &spec.id, engine_id: &engine_id, done: false };
        self.attach(spec, &engine_id, &*exit);
        let attached = Instant::now();
        if let Err(e) = shared.engine.start(&engine_id, left(until)) {
            // Removed here and now: the next try has the same name.
            let alone = joined && cannot_join(&e) && shared.engine.remove(&engine_id, left(until)).is_ok();
            return Err(Failed { error: start_error(&e, spec), alone });
        }
        drop(turn);
        let started = Instant::now();
        let state = shared.engine.inspect(&engine_id).map_err(|e| launch_error(&e))?;
        unfinished.done = true;
        log::debug!(
            "container {}: image and create {} ms, attach {} us, start {} ms{}, inspect {} ms",
            spec.id,
            (created - begun).as_millis(),
            (attached - created).as_micros(),
            (started - attached).as_millis(),
            if joined { " (parked network)" } else { "" },
            started.elapsed().as_millis()
        );
        if !state.running {
            shared.exits.ended(&engine_id, state.exit_code, state.oom_killed);
        }
        let freezer = self.freezer(&engine_id, &state);
        let meter = state.pid().and_then(|pid| Meter::find(pid, &engine_id, Cgroup::New)).map(Arc::new);
        Ok(Instance { id: spec.id.clone(), pid: state.pid(), freezer, meter, engine_id: engine_id.clone() })
    }

    /// Hands over what the container prints. A function whose output is lost
    /// still answers.
    fn attach(&self, spec: &ContainerSpec, engine_id: &str, sink: &dyn ExitSink) {
        if !sink.wants_output() {
            return;
        }
        match self.shared.engine.attach(engine_id) {
            Ok(output) => sink.output(output),
            Err(error) => log::warn!("what container {} prints is lost: {error}", spec.id),
        }
    }

    fn freezer(&self, engine_id: &str, state: &State) -> Option<Freezer> {
        match Freezer::find(state.pid()?, engine_id) {
            Ok(freezer) => Some(freezer),
            Err(e) => {
                log::debug!("container {engine_id}: frozen through the engine: {e}");
                None
            }
        }
    }
}

/// A container the engine has made.
struct Made {
    engine_id: String,
    /// It is to join a parked network.
    joined: bool,
}

/// This start's turn at the engine.
struct Turn<'d> {
    _permit: Permit<'d>,
    _starting: Starting<'d>,
}

/// A container that was created, not started.
struct Created<'d> {
    made: Made,
    until: Instant,
    turn: Turn<'d>,
}

/// A start that failed.
pub(super) struct Failed {
    pub(super) error: LaunchError,
    /// The parked network was not there to be joined; nothing is left.
    pub(super) alone: bool,
}

impl From<LaunchError> for Failed {
    fn from(error: LaunchError) -> Failed {
        Failed { error, alone: false }
    }
}

/// Either way a create can fail.
#[derive(Debug, thiserror::Error)]
enum EngineOrIofs {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Iofs(#[from] IofsError),
}

impl EngineOrIofs {
    fn launch_error(self) -> LaunchError {
        match self {
            EngineOrIofs::Engine(error) => launch_error(&error),
            EngineOrIofs::Iofs(error) => LaunchError::Iofs { text: error.to_string() },
        }
    }
}

/// A created container that has not come up yet: dropped, it is discarded.
struct Unfinished<'a> {
    docker: &'a Docker,
    name: &'a str,
    engine_id: &'a str,
    done: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.docker.shared.exits.cancel(self.engine_id);
            self.docker.shared.discard(self.engine_id, true);
            self.docker.shared.release(self.name);
        }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// The container whose network was to be joined is not there any more.
fn cannot_join(error: &EngineError) -> bool {
    let message = error.message();
    matches!(error.status(), Some(404 | 409 | 500)) && ["cannot join network", "No such container", "/ns/net"].iter().any(|words| message.contains(words))
}

/// What a waiting caller is told when the container does not start. The engine
/// dials the syslog of `spec` before it runs anything.
fn start_error(error: &EngineError, spec: &ContainerSpec) -> LaunchError {
    if spec.syslog_url.is_some() && matches!(error.fault, Fault::Status { .. }) && error.message().contains("logging driver") {
        return LaunchError::Syslog { text: error.message().to_owned() };
    }
    launch_error(error)
}

/// What a waiting caller is told about a failed step.
pub(super) fn launch_error(error: &EngineError) -> LaunchError {
    let (step, text) = (error.op.name(), error.fault.to_string());
    match error.fault {
        Fault::Away { .. } | Fault::Timeout { .. } | Fault::Broken { .. } => LaunchError::EngineAway { step, text },
        Fault::Status { .. } | Fault::Malformed { .. } => LaunchError::Engine { step, text },
    }
}
