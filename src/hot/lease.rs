//! A container in a caller's hands. INVARIANT: dropping a lease without `finish`
//! discards the container: whatever path the code took, a half-read answer can
//! never reach the next caller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::container::Container;
use super::lifecycle;
use super::queue::{Given, SlotQueue};
use super::state::State;
use crate::call::{CallError, Caller, Ended, Moment, Origin, Woken};
use crate::driver::Meter;
use crate::model::Id;
use crate::pool::Stop;
use crate::uds::function::{Fate, FnRequest, Limits};

/// The right to send exactly one call to one container.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    queue: Arc<SlotQueue>,
    container: Option<Box<Container>>,
    frozen: bool,
    waited: bool,
}

impl Lease {
    pub(super) fn new(shared: &Arc<Shared>, queue: Arc<SlotQueue>, container: Box<Container>, frozen: bool, waited: bool) -> Lease {
        container.pulse.become_(if frozen { State::Thawing } else { State::Busy });
        Lease { shared: shared.clone(), queue, container: Some(container), frozen, waited }
    }

    /// Where its container came from.
    pub fn origin(&self) -> Origin {
        match &self.container {
            Some(container) if self.waited && container.calls == 0 => Origin::Started(container.startup),
            _ if self.waited => Origin::HandedOver,
            _ if self.frozen => Origin::Frozen,
            _ => Origin::Idle,
        }
    }

    fn held(&mut self) -> &mut Container {
        self.container.as_mut().expect("only finish and drop take it")
    }

    /// The container's id.
    pub fn container_id(&self) -> Option<Id> {
        self.container.as_ref().map(|c| c.id)
    }

    /// How many calls it had served before.
    pub fn calls_before(&self) -> u64 {
        self.container.as_ref().map_or(0, |c| c.calls)
    }

    /// Whether it was frozen when taken.
    pub fn was_frozen(&self) -> bool {
        self.frozen
    }

    /// Runs it again if it is frozen. In the caller's own thread: with the
    /// freezer in our hands this is one write.
    fn thaw(&mut self) -> Result<(), CallError> {
        let driver = self.shared.driver.clone();
        let container = self.held();
        driver.thaw(&container.instance).map_err(|e| CallError::NoAnswer { cause: e.to_string(), exit: None })?;
        container.pulse.become_(State::Busy);
        Ok(())
    }

    /// Makes one that was not used fit to be finished.
    ///
    /// # Errors
    /// It cannot be thawed: it is to be dropped.
    pub fn wake(&mut self) -> Result<(), CallError> {
        if self.frozen { self.thaw() } else { Ok(()) }
    }

    /// Whether the container's process has ended already.
    pub fn is_dead(&self) -> bool {
        self.container.as_ref().is_none_or(|c| c.pulse.exit().is_some())
    }

    /// Thaws a frozen container, sends the call and delivers its answer to
    /// `caller`.
    ///
    /// Through our own freezer the request is sent first: the function then
    /// wakes once, with its request there, instead of once to wait on and once
    /// more to read. Such a thaw fails only when the cgroup is gone and with it
    /// every process that could have read the request.
    ///
    /// # Errors
    /// When the call could not be sent: the function was asked nothing, so
    /// another container may be.
    pub fn exchange(
        &mut self,
        request: &FnRequest<'_>,
        caller: &mut dyn Caller,
        limits: &Limits,
        stop: &Stop,
    ) -> Result<(Result<(), CallError>, Fate), CallError> {
        self.held().pulse.voice.turn.begin(request.call_id);
        let thaw_last = self.frozen && self.held().instance.freezer.is_some();
        if self.frozen && !thaw_last {
            self.thaw()?;
            caller.passed(Moment::Thawed);
        }
        let sent = self.held().socket.send(request, stop)?;
        probe::probe!(hob, dispatch, request.call_id.as_str().as_ptr(), self.held().id.as_str().as_ptr());
        caller.passed(Moment::Sent);
        if thaw_last {
            self.thaw()?;
            caller.passed(Moment::Thawed);
        }
        Ok(self.held().socket.receive(sent, request, caller, limits, stop))
    }

    /// The counters of its CPU time and memory, where they can be read: for
    /// what one call uses (`Meter::mark` before it, `Meter::since` after it).
    pub fn meter(&self) -> Option<&Meter> {
        self.container.as_ref()?.instance.meter.as_deref()
    }

    /// Why the container ended, if the driver says so within a moment.
    pub fn exit(&self, within: Duration) -> Option<Ended> {
        self.container.as_ref().and_then(|c| c.pulse.wait_exit(within))
    }

    /// The call is over and the container healthy: to the next caller. One who
    /// waited for it without a thread goes on in the giver's, or in another.
    #[must_use]
    pub fn finish(mut self, took: Duration) -> Option<Box<dyn Woken>> {
        let mut container = self.container.take()?;
        let now = Instant::now();
        // Without an end, what a discarded container still prints is its last call's.
        container.pulse.voice.turn.end(now);
        container.calls += 1;
        container.socket.ready_next();
        container.pulse.become_(State::Idle);
        self.queue.with(|inner| {
            inner.slots.busy -= 1;
            inner.served(took);
        });
        let given = self.queue.give(container, Instant::now(), self.shared.quick_due(&self.queue.spec));
        match given {
            Given::Refused(container) => {
                lifecycle::stop(&self.shared, &self.queue, container, "not needed");
                return None;
            }
            Given::Taken | Given::Woken(..) if self.shared.tokens.contended() => self.shared.tokens.nudge(),
            Given::Taken | Given::Woken(..) => {}
        }
        match given {
            Given::Woken(dreamer, container) => Some(dreamer.serve(&self.queue, container)),
            Given::Taken | Given::Refused(_) => None,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(container) = self.container.take() else { return };
        self.queue.with(|inner| {
            inner.slots.busy -= 1;
            inner.slots.stopping += 1;
            inner.retire = inner.retire.saturating_sub(1);
        });
        lifecycle::stop(&self.shared, &self.queue, container, "discarded");
        // Somebody may wait for what this one would have served.
        self.queue.ring();
    }
}
