//! What a call's way tells about it, gathered beside whoever is its caller.

use std::time::Instant;

use super::record::{Record, Status, start_name};
use crate::call::{Call, CallError, Moment};
use crate::model::{Id, Timestamp};
use crate::respond::call_answer;

#[derive(Debug, Default)]
pub(super) struct Tally {
    acquired: Option<Instant>,
    start: &'static str,
    container: Option<Id>,
    pub(super) response_bytes: u64,
}

impl Tally {
    pub(super) fn pass(&mut self, moment: Moment) {
        if let Moment::Acquired { origin, container } = moment {
            self.acquired = Some(Instant::now());
            self.start = start_name(origin);
            self.container = Some(container);
        }
    }

    /// The record of a call that is over.
    pub(super) fn record(&self, call: &Call, result: &Result<(), CallError>, now: Timestamp) -> Record {
        let end = Instant::now();
        let acquired = self.acquired.unwrap_or(end);
        let (waited, ran) = (acquired.saturating_duration_since(call.accepted), end.saturating_duration_since(acquired));
        let before = |span: std::time::Duration| Timestamp(now.0 - i64::try_from(span.as_millis()).unwrap_or(0));
        let micros = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
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
            start: self.start,
            waited_us: micros(waited),
            ran_us: micros(ran),
            request_bytes: call.body.len(),
            response_bytes: self.response_bytes,
            container: self.container,
            error,
        }
    }
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
