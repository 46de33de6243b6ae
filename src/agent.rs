//! One call from gate to answer, readable on one screen.
//!
//! Owns: the drain gate, the order of a call's phases, the stop that ends
//! running calls at shutdown. Called by: `edge`. Blocks on: a ticket (hot),
//! then the function's socket (uds), both with deadlines. Does not: know
//! routes, HTTP statuses or Docker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::{Call, CallError, Caller, Moment};
use crate::config::Config;
use crate::extend::Extensions;
use crate::hot::{Hot, Lease, Logs};
pub use crate::hot::{Log, LogSink, Sleeper, Tail, Turn, Word};
use crate::metrics::{CALLS, ContainerRow};
use crate::model::{FnSpec, Id, SlotKey, Timestamp};
use crate::pool::{Gate, Stop};
use crate::uds::function::{Fate, FnRequest, Limits};

/// Answers up to this size are held until complete, so a broken one can still
/// become a clean error.
const HOLD_BYTES: usize = 64 * 1024;

/// A call is sent to another container when one turns out to be dead before
/// anything was asked of it; not more often than this.
const MAX_DEAD: usize = 4;

/// How long a failed call waits for the engine to say why its container ended.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// Runs calls.
#[derive(Debug)]
pub struct Agent {
    hot: Hot,
    gate: Arc<Gate>,
    stop: Stop,
    limits: Limits,
    max_wait: Option<Duration>,
    /// None: nobody listens to calls or changes them.
    extensions: Option<Box<Extensions>>,
}

impl Agent {
    /// # Errors
    /// When no descriptor is left for the stop signal.
    pub fn new(config: &Config, hot: Hot) -> std::io::Result<Agent> {
        let limits = Limits { max_body: config.max_answer_bytes, max_head: config.max_answer_head_bytes, hold: HOLD_BYTES };
        Ok(Agent { hot, gate: Arc::default(), stop: Stop::new()?, limits, max_wait: config.max_wait, extensions: None })
    }

    /// With these listening to calls, or changing them.
    #[must_use]
    pub fn extended(mut self, extensions: Extensions) -> Agent {
        self.extensions = (!extensions.leave_calls_alone()).then(|| Box::new(extensions));
        self
    }

    /// Lets an extension change the call, before anything looks at it.
    ///
    /// # Errors
    /// The extension's objection: the call is not to run.
    pub fn prepare(&self, call: &mut Call) -> Result<(), CallError> {
        match &self.extensions {
            None => Ok(()),
            Some(extensions) => extensions.change(call),
        }
    }

    /// Runs `call` to its end: exactly one answer goes to `caller`, either
    /// through its methods (`Ok`) or, on `Err`, by the edge from the error.
    ///
    /// # Errors
    /// See [`CallError`]. After `Broken` part of an answer was already sent.
    ///
    /// `turn` is what a wait without a thread has brought, see [`Agent::line_up`].
    pub fn submit(&self, call: &Call, caller: &mut dyn Caller, turn: Option<Turn>) -> Result<(), CallError> {
        CALLS.calls.add(1);
        // A panic while a call runs; nothing else can come of it.
        let _ = crate::fault::at("call.begin");
        let (session, lease) = match turn {
            Some(Turn { session, lease }) => (Some(session), Some(lease)),
            None => (self.gate.enter(), None),
        };
        let Some(_session) = session else {
            CALLS.server_busy.add(1);
            return Err(CallError::Draining);
        };
        let mut begun = false;
        let result = self.run(call, caller, lease, &mut begun);
        if begun && let Some(extensions) = &self.extensions {
            extensions.after(call, &result);
        }
        count(&result);
        result
    }

    /// Whether a call of `spec` had to stand in line now, and may do so without
    /// a thread. Extensions expect a call's thread to stay the same.
    pub fn has_line(&self, spec: &FnSpec) -> bool {
        self.extensions.is_none() && self.hot.has_line(spec)
    }

    /// A place in the line for a call without a thread. It is woken with what
    /// `submit` then needs.
    ///
    /// # Errors
    /// Back again: there is no line to join. `submit` runs it, or says why not.
    pub fn line_up(&self, sleeper: Box<dyn Sleeper>) -> Result<(), Box<dyn Sleeper>> {
        let call = sleeper.call();
        probe::probe!(hob, queue, call.id.as_str().as_ptr(), call.spec.fn_id.as_str().as_ptr());
        let until = self.wait_until(call);
        match self.gate.enter() {
            Some(session) => self.hot.line_up(sleeper, session, until),
            None => Err(sleeper),
        }
    }

    fn wait_until(&self, call: &Call) -> Option<Instant> {
        self.max_wait.map(|wait| call.accepted + wait)
    }

    fn run(&self, call: &Call, caller: &mut dyn Caller, mut lease: Option<Result<Lease, CallError>>, begun: &mut bool) -> Result<(), CallError> {
        let mut dead = 0;
        loop {
            let mut lease = match lease.take() {
                Some(lease) => lease?,
                None => self.acquire(call, caller, (dead > 0).then_some(call.accepted))?,
            };
            let started = Instant::now();
            CALLS.running.add(1);
            let outcome = self.exchange(call, &mut lease, caller, started, begun);
            CALLS.running.add(-1);
            match outcome {
                Ok((result, Fate::Reuse)) => {
                    if let Some(next) = lease.finish(started.elapsed()) {
                        caller.hand_on(next);
                    }
                    return result;
                }
                Ok((result, Fate::Discard)) => return result.map_err(|error| with_cause(error, &lease)),
                // Nothing was asked of it: the next container may be.
                Err(CallError::NoAnswer { .. }) if dead < MAX_DEAD => dead += 1,
                Err(error) => return Err(with_cause(error, &lease)),
            }
        }
    }

    fn acquire(&self, call: &Call, caller: &mut dyn Caller, again: Option<Instant>) -> Result<Lease, CallError> {
        // Probes are one instruction each until a tracer looks (docs/PERFORMANCE.md).
        probe::probe!(hob, queue, call.id.as_str().as_ptr(), call.spec.fn_id.as_str().as_ptr());
        CALLS.queued.add(1);
        let lease = self.hot.acquire(&call.spec, caller, Instant::now(), again, self.wait_until(call));
        CALLS.queued.add(-1);
        lease
    }

    /// The execution limit runs from here, thaw included (spec agent §1.5).
    fn exchange(
        &self,
        call: &Call,
        lease: &mut Lease,
        caller: &mut dyn Caller,
        started: Instant,
        begun: &mut bool,
    ) -> Result<(Result<(), CallError>, Fate), CallError> {
        if let Some(container) = lease.container_id() {
            probe::probe!(hob, slot, call.id.as_str().as_ptr(), container.as_str().as_ptr(), lease.calls_before());
            caller.passed(Moment::Acquired { origin: lease.origin(), container });
        }
        if lease.is_dead() {
            return Err(CallError::NoAnswer { cause: "the container had ended before the call".to_owned(), exit: None });
        }
        if let Some(extensions) = &self.extensions
            && !*begun
        {
            // The function was asked nothing: its container stays as it is.
            if let Err(objected) = extensions.before(call) {
                let fate = if lease.wake().is_ok() { Fate::Reuse } else { Fate::Discard };
                return Ok((Err(objected), fate));
            }
            *begun = true;
        }
        let _ = crate::fault::at("call.run");
        let timeout = Duration::from_secs(u64::from(call.spec.timeout_s));
        let deadline_wall = Timestamp(Timestamp::now().0 + i64::from(call.spec.timeout_s) * 1000);
        let request = FnRequest { call_id: &call.id, fields: &call.fields, body: &call.body, deadline: started + timeout, deadline_wall, timeout };
        if !caller.metered() {
            return lease.exchange(&request, caller, &self.limits, &self.stop);
        }
        let mark = lease.meter().and_then(|meter| meter.mark());
        let outcome = lease.exchange(&request, caller, &self.limits, &self.stop);
        if let (Some(mark), Some(meter)) = (mark, lease.meter())
            && let Some(spent) = meter.since(&mark)
        {
            caller.passed(Moment::Spent { cpu: spent.cpu, memory_peak: spent.memory_peak });
        }
        outcome
    }

    /// The configuration changed: stale containers go, minimums are kept up.
    pub fn configured<'s>(&self, current: impl Fn(&Id) -> Option<SlotKey>, kept_up: impl Iterator<Item = &'s Arc<FnSpec>>) {
        self.hot.retire_stale(current);
        for spec in kept_up {
            self.hot.prewarm(spec);
        }
    }

    /// Whether some caller waits for a container, of any function.
    pub fn is_crowded(&self) -> bool {
        self.hot.is_crowded()
    }

    /// What the functions printed: recent logs, and where else they go.
    pub fn logs(&self) -> &Logs {
        self.hot.logs()
    }

    /// What each function's containers do and use.
    pub fn containers(&self) -> Vec<ContainerRow> {
        self.hot.containers()
    }

    /// Queues, containers, tokens and lanes as JSON.
    pub fn debug_state(&self) -> String {
        self.hot.debug_state()
    }

    /// Refuses new calls and fails those that wait; running ones go on.
    pub fn refuse(&self) {
        self.gate.close();
        self.hot.refuse();
    }

    /// Waits for running calls; false when the deadline came first.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        self.gate.wait_empty(deadline)
    }

    /// Ends running calls: each answers its own client and discards its own
    /// lease.
    pub fn cut(&self) {
        self.stop.fire();
    }

    /// Removes all containers and joins the room's threads. Returns what is
    /// left at `deadline`, in words: nothing, one hopes.
    pub fn close(&self, deadline: Instant) -> Vec<String> {
        let mut left = self.hot.close(deadline);
        let (tokens, folders) = self.hot.leftovers();
        if !tokens.is_zero() || folders > 0 {
            left.push(format!("{} MiB still reserved, {folders} socket folders", tokens.mib));
        }
        left
    }
}

/// Says why the container ended, if that is why there is no answer.
fn with_cause(error: CallError, lease: &Lease) -> CallError {
    match error {
        CallError::NoAnswer { cause, exit: None } => CallError::NoAnswer { exit: lease.exit(EXIT_GRACE), cause },
        other => other,
    }
}

fn count(result: &Result<(), CallError>) {
    match result {
        Ok(()) => CALLS.completed.add(1),
        Err(CallError::Timeout { .. } | CallError::FunctionTimeout) => CALLS.timeouts.add(1),
        Err(CallError::ClientGone) => CALLS.canceled.add(1),
        Err(CallError::Draining | CallError::WaitTimeout { .. } | CallError::QueueFull { .. } | CallError::NoCapacity { .. }) => CALLS.server_busy.add(1),
        Err(_) => CALLS.errors.add(1),
    }
}
