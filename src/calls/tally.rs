//! What a call's way tells about it, gathered beside whoever is its caller.

use std::time::{Duration, Instant};

use super::record::{Phases, Record, Status, start_name};
use crate::call::{Call, CallError, Moment, Origin};
use crate::model::{Id, Timestamp};
use crate::respond::call_answer;

#[derive(Debug, Default)]
pub(super) struct Tally {
    acquired: Option<(Instant, Origin)>,
    sent: Option<Instant>,
    thawed: Option<Instant>,
    container: Option<Id>,
    spent: Option<(Duration, Option<u64>)>,
    pub(super) response_bytes: u64,
}

impl Tally {
    /// A container that turned out dead starts the account of the next one.
    pub(super) fn pass(&mut self, moment: Moment) {
        let now = Instant::now();
        match moment {
            Moment::Acquired { origin, container } => {
                (self.acquired, self.sent, self.thawed, self.spent) = (Some((now, origin)), None, None, None);
                self.container = Some(container);
            }
            Moment::Sent => self.sent = Some(now),
            Moment::Thawed => self.thawed = Some(now),
            Moment::Spent { cpu, memory_peak } => self.spent = Some((cpu, memory_peak)),
        }
    }

    /// The record of a call that is over.
    pub(super) fn record(&self, call: &Call, result: &Result<(), CallError>, now: Timestamp) -> Record {
        let end = Instant::now();
        let acquired = self.acquired.map_or(end, |(at, _)| at);
        let (waited, ran) = (acquired.saturating_duration_since(call.accepted), end.saturating_duration_since(acquired));
        let before = |span: Duration| Timestamp(now.0 - i64::try_from(span.as_millis()).unwrap_or(0));
        let (status, error) = judge(result);
        Record {
            id: call.id,
            app_id: call.spec.app_id,
            fn_id: call.spec.fn_id,
            detached: false,
            status,
            created: before(waited + ran),
            started: self.acquired.map(|_| before(ran)),
            completed: Some(now),
            attempts: 0,
            start: self.acquired.map_or("", |(_, origin)| start_name(origin)),
            waited_us: micros(waited),
            ran_us: micros(ran),
            request_bytes: call.body.len(),
            response_bytes: self.response_bytes,
            container: self.container.or_else(|| result.as_ref().err().and_then(CallError::failed_container)),
            error,
            trigger: call.trigger,
            phases: self.phases(call.accepted, end),
            cpu_us: self.spent.map(|(cpu, _)| micros(cpu)),
            memory_peak: self.spent.and_then(|(_, peak)| peak),
        }
    }

    fn phases(&self, accepted: Instant, end: Instant) -> Phases {
        let mut phases = Phases::default();
        let Some((acquired, origin)) = self.acquired else { return phases };
        if let Origin::Started(startup) = origin {
            // What was under way before the call came is not its time.
            let within = |at: Instant| at.clamp(accepted.min(acquired), acquired);
            phases.start_us = micros(within(startup.running).saturating_duration_since(within(startup.begun)));
            phases.boot_us = micros(within(startup.up).saturating_duration_since(within(startup.running)));
        }
        let (mut at, dispatch, thaw) = (acquired, &mut phases.dispatch_us, &mut phases.thaw_us);
        let mut steps = [(self.sent, dispatch), (self.thawed, thaw)];
        steps.sort_by_key(|(until, _)| *until);
        for (until, phase) in steps {
            if let Some(until) = until {
                *phase = micros(until.saturating_duration_since(at));
                at = until;
            }
        }
        phases.function_us = micros(end.saturating_duration_since(at));
        phases
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// The same words its caller got.
pub(super) fn judge(result: &Result<(), CallError>) -> (Status, Option<String>) {
    match result {
        Ok(()) => (Status::Success, None),
        Err(CallError::ClientGone) => (Status::Error, Some("the client left before the answer".to_owned())),
        Err(error @ (CallError::Timeout { .. } | CallError::FunctionTimeout)) => (Status::Timeout, Some(call_answer(error).message.into_owned())),
        Err(error) => (Status::Error, Some(call_answer(error).message.into_owned())),
    }
}
