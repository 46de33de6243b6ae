//! The slow things, run by the lanes: bring a container up, take one down,
//! freeze one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::container::{Boot, Container, Pulse};
use super::logs::Voice;
use super::plan::still_wanted;
use super::queue::{Given, SlotQueue};
use super::slots::Idle;
use super::state::State;
use super::usage::Spending;
use crossbeam_channel::Receiver;

use crate::call::{CallError, LaunchError, Startup};
use crate::driver::{ContainerSpec, DriverError, ExitSink, StartBudget};
use crate::model::{FnSpec, Id};
use crate::pool::Token;
use crate::syslog::Destination;
use crate::uds::function::{FunctionSocket, SOCKET_NAME};
use crate::uds::iofs::Folder;
use crate::uds::listener::Watch;

const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A start lane's job. The token was granted; `slots.queued` counts this job.
pub(super) fn start(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, token: Token) {
    let needed = queue.with(|inner| {
        inner.slots.queued -= 1;
        // Others may have served the callers while this job stood in the lane.
        let now = Instant::now();
        let needed = still_wanted(&inner.view(&queue.spec, None, now), inner.slots.starting, now);
        inner.slots.starting += usize::from(needed);
        needed
    });
    if !needed {
        drop(token);
        return queue.ring();
    }
    let begun = Instant::now();
    // A panic must not leave the start counted for ever.
    let brought = std::panic::catch_unwind(AssertUnwindSafe(|| bring_up(shared, queue, token, begun)));
    let panicked = |_| Err(LaunchError::Engine { step: "start", text: "a bug in hob: the start panicked".to_owned() });
    match brought.unwrap_or_else(panicked) {
        Ok(container) => {
            let took = begun.elapsed();
            log::debug!("container {} of {} is up after {took:?}", container.id, queue.spec.fn_name);
            queue.with(|inner| {
                inner.slots.starting -= 1;
                inner.start_cost = (inner.start_cost + took) / 2;
                inner.failures = 0;
                inner.last_failure = None;
                inner.last_grant = Some(Instant::now());
            });
            offer(shared, queue, container);
        }
        Err(error) => failed(queue, Arc::new(error)),
    }
    queue.ring();
}

/// A container nobody has used yet: to whoever waits, else it stands idle.
fn offer(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, container: Box<Container>) {
    match queue.give(container, Instant::now(), shared.quick_due(&queue.spec)) {
        Given::Taken => {}
        Given::Woken(dreamer, container) => dreamer.serve(queue, container).go_on(),
        Given::Refused(container) => stop(shared, queue, container, "not needed"),
    }
}

/// A start failed: the callers nobody is on the way to any more are told why.
fn failed(queue: &Arc<SlotQueue>, error: Arc<LaunchError>) {
    log::warn!("cannot start a container of {} ({}): {error}", queue.spec.fn_name, queue.spec.fn_id);
    let hopeless = queue.with(|inner| {
        inner.slots.starting -= 1;
        inner.failures += 1;
        inner.last_failure = Some((Instant::now(), error.clone()));
        inner.slots.live() + inner.slots.starting == 0
    });
    if hopeless {
        queue.fail(usize::MAX, || CallError::Launch(error.clone()));
    }
}

fn bring_up(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, token: Token, begun: Instant) -> Result<Box<Container>, LaunchError> {
    let id = Id::new();
    let bell = queue.clone();
    let syslog = syslog_of(shared, &queue.spec)?;
    let (pulse, boot_exit) =
        Pulse::new(id, begun, Voice::new(&queue.spec, id, begun, syslog), Spending::new(&queue.cpu), &shared.logs, Box::new(move || bell.ring()));
    pulse.become_(State::Creating);
    queue.with(|inner| inner.pulses.push(pulse.clone()));
    let result = boot(shared, queue, token, begun, &pulse, &boot_exit);
    if result.is_err() {
        queue.with(|inner| inner.pulses.retain(|p| p.id != id));
    }
    result
}

/// Where the container's lines go, if its driver leaves that to us. As with an
/// engine, nothing starts while nobody is there.
fn syslog_of(shared: &Shared, spec: &FnSpec) -> Result<Option<Destination>, LaunchError> {
    let Some(url) = spec.syslog_url.as_deref().filter(|_| !shared.driver.sends_syslog()) else { return Ok(None) };
    let found = Destination::parse(url, &spec.app_id, &spec.fn_id).and_then(|to| to.probe().map(|()| to));
    found.map(Some).map_err(|text| LaunchError::Syslog { text })
}

fn boot(
    shared: &Arc<Shared>,
    queue: &Arc<SlotQueue>,
    token: Token,
    begun: Instant,
    pulse: &Arc<Pulse>,
    boot_word: &Receiver<Boot>,
) -> Result<Box<Container>, LaunchError> {
    let (spec, id) = (&queue.spec, pulse.id);
    let _ = crate::fault::at("start.job");
    let failed = |text: String| LaunchError::Iofs { text };
    let folder = match shared.driver.socket_folder() {
        Some(made) => shared.iofs.adopt(id.as_str(), made.map_err(|e| failed(e.to_string()))?),
        None => shared.iofs.create(id.as_str()).map_err(|e| failed(e.to_string()))?,
    };
    // INVARIANT: set up before the container starts, or its socket may appear unseen.
    let watch = shared.watcher.watch(&folder, SOCKET_NAME).map_err(|e| LaunchError::Iofs { text: e.to_string() })?;
    let start_timeout = shared.config.start_timeout.unwrap_or(FAR);
    let budget = StartBudget { pull_until: begun + shared.config.pull_timeout.unwrap_or(FAR), start_within: Duration::from_secs(60) };
    let container_spec = ContainerSpec {
        id: id.to_string(),
        image: spec.image.clone(),
        env: spec.env.clone(),
        memory_mib: spec.memory_mib,
        cpu_milli: spec.cpu_milli,
        tmpfs_mib: spec.tmpfs_mib,
        iofs: folder.path().to_owned(),
        syslog_url: spec.syslog_url.clone(),
        app_id: spec.app_id.to_string(),
        fn_id: spec.fn_id.to_string(),
        no_network: spec.limits.no_network,
        pull: spec.limits.pull,
    };
    let instance = shared.driver.start(&container_spec, &budget, pulse.clone() as Arc<dyn ExitSink>)?;
    pulse.spending.runs(&instance);
    pulse.become_(State::Booting);
    let running = Instant::now();
    let until = Instant::now() + start_timeout;
    let socket = await_socket(shared, &folder, &watch, pulse, boot_word, until, start_timeout).and_then(|()| {
        FunctionSocket::open(&folder, until, &shared.boot_stop).map_err(|e| match pulse.exit() {
            Some(exit) => LaunchError::Exited { exit: pulse.ended_with(exit), container: id },
            None => LaunchError::BadSocket { text: e.to_string(), container: id },
        })
    });
    drop(watch);
    match socket {
        Ok(socket) => {
            pulse.become_(State::Idle);
            let startup = Startup { begun, running, up: Instant::now() };
            Ok(Box::new(Container { id, instance, socket, _folder: folder, pulse: pulse.clone(), token, calls: 0, startup }))
        }
        Err(error) => {
            // An exit tells of itself.
            if matches!(error, LaunchError::NoSocket { .. } | LaunchError::BadSocket { .. }) {
                pulse.trouble(format!("cannot be used: {error}"));
            }
            pulse.become_(State::Stopping);
            remove(shared, &instance, &id);
            pulse.become_(State::Gone);
            Err(error)
        }
    }
}

fn await_socket(
    shared: &Shared,
    folder: &Folder,
    watch: &Watch,
    pulse: &Pulse,
    boot_word: &Receiver<Boot>,
    until: Instant,
    limit: Duration,
) -> Result<(), LaunchError> {
    loop {
        if shared.boot_stop.fired() {
            return Err(LaunchError::CalledOff { why: "the server is shutting down" });
        }
        if Instant::now() >= until {
            return Err(LaunchError::NoSocket { limit, container: pulse.id });
        }
        // Short rounds only so that a shutdown is seen: nothing signals it on a channel.
        let round = until.min(Instant::now() + Duration::from_millis(100));
        crossbeam_channel::select! {
            // After an overflow of the kernel's queue everybody is woken: look.
            recv(watch.appeared()) -> _ => if folder.path().join(SOCKET_NAME).symlink_metadata().is_ok() {
                return Ok(());
            },
            recv(boot_word) -> word => return Err(match word {
                Ok(Boot::Exit(exit)) => LaunchError::Exited { exit: pulse.ended_with(exit), container: pulse.id },
                Ok(Boot::CalledOff) => LaunchError::CalledOff { why: "its callers have left and another function needs the room" },
                Err(_) => LaunchError::CalledOff { why: "nobody can tell of its end" },
            }),
            recv(crossbeam_channel::at(round)) -> _ => {}
        }
    }
}

/// Hands a container (counted as stopping) to the stop lane.
pub(super) fn stop(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, mut container: Box<Container>, why: &'static str) {
    container.pulse.become_(State::Stopping);
    container.token.mark_leaving();
    let (shared_job, queue) = (shared.clone(), queue.clone());
    shared.stops.push(move || {
        log::debug!("container {} of {} goes: {why}", container.id, queue.spec.fn_name);
        container.pulse.spending.last_look();
        remove(&shared_job, &container.instance, &container.id);
        let pulse = container.pulse.clone();
        // INVARIANT: the reservation is back before the removal counts as complete.
        drop(container);
        pulse.become_(State::Gone);
        queue.with(|inner| {
            inner.slots.stopping -= 1;
            inner.pulses.retain(|p| p.id != pulse.id);
        });
        queue.ring();
    });
}

fn remove(shared: &Shared, instance: &crate::driver::Instance, id: &Id) {
    match std::panic::catch_unwind(AssertUnwindSafe(|| shared.driver.remove(instance))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("container {id} could not be removed, the driver keeps trying: {error}"),
        Err(_) => log::error!("container {id} may be left: its removal panicked"),
    }
}

/// Freezes a container that was taken out of the stack (counted as freezing).
/// A failure costs the container, never a caller.
pub(super) fn freeze(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, mut idle: Idle<Box<Container>>) {
    idle.item.pulse.become_(State::Freezing);
    let frozen: Result<(), DriverError> = shared.driver.freeze(&idle.item.instance);
    match frozen {
        Ok(()) => {
            idle.item.pulse.become_(State::Frozen);
            idle.frozen = true;
            if let Err(container) = queue.put_back(idle) {
                wanted_meanwhile(shared, queue, container);
            }
        }
        Err(error) if !error.begun => {
            // It runs on as it was; frozen when that can be done again.
            log::debug!("not frozen: {error}");
            for state in [State::Frozen, State::Thawing, State::Busy, State::Idle] {
                idle.item.pulse.become_(state);
            }
            if let Err(container) = queue.put_back(idle) {
                offer(shared, queue, container);
            }
        }
        Err(error) => {
            log::warn!("cannot freeze, the container goes: {error}");
            queue.with(|inner| {
                inner.slots.freezing -= 1;
                inner.slots.stopping += 1;
            });
            stop(shared, queue, idle.item, "freeze failed");
        }
    }
}

/// Frozen, and somebody waits (or the server closes): thaw and give it.
fn wanted_meanwhile(shared: &Arc<Shared>, queue: &Arc<SlotQueue>, container: Box<Container>) {
    let thawed = shared.driver.thaw(&container.instance);
    match thawed {
        Ok(()) => {
            container.pulse.become_(State::Thawing);
            container.pulse.become_(State::Busy);
            container.pulse.become_(State::Idle);
            offer(shared, queue, container);
        }
        Err(error) => {
            log::warn!("cannot thaw, the container goes: {error}");
            queue.with(|inner| inner.slots.stopping += 1);
            stop(shared, queue, container, "not needed");
        }
    }
}
