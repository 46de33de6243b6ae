//! What the edge calls: the agent, with records kept on the way, and the
//! queue of detached calls.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::Ledger;
use super::follow::{Follow, FollowError};
use super::record::{Accepted, Record, Status};
use super::tally::Tally;
use crate::agent::{Agent, Sleeper, Turn};
use crate::call::{AnswerHead, Body, Call, CallError, Caller, ClientGone, DetachError, Detached, Moment, WatchGuard, Woken};
use crate::config::Keep;
use crate::model::{FnSpec, Id, Timestamp};

/// Runs calls now, or keeps them for later.
#[derive(Debug, Clone)]
pub struct Front {
    agent: Arc<Agent>,
    ledger: Arc<Ledger>,
    /// Live tails under way.
    followers: Arc<AtomicUsize>,
}

impl Front {
    pub fn new(agent: Arc<Agent>, ledger: Arc<Ledger>) -> Front {
        Front { agent, ledger, followers: Arc::default() }
    }

    /// Lets an extension change the call, see [`Agent::prepare`].
    ///
    /// # Errors
    /// The extension's objection.
    pub fn prepare(&self, call: &mut Call) -> Result<(), CallError> {
        self.agent.prepare(call)
    }

    /// Runs a call, see [`Agent::submit`], and keeps its record if it is one
    /// that is kept.
    ///
    /// # Errors
    /// The agent's.
    pub fn submit(&self, call: &Call, caller: &mut dyn Caller, turn: Option<Turn>) -> Result<(), CallError> {
        let keep = self.ledger.keep();
        if keep == Keep::None {
            return self.agent.submit(call, caller, turn);
        }
        let mut beside = Beside { caller, tally: Tally::default(), metered: self.ledger.shared.settings.usage };
        let result = self.agent.submit(call, &mut beside, turn);
        if keep == Keep::All || result.is_err() {
            self.ledger.note_of(result.is_ok(), || beside.tally.record(call, &result, Timestamp::now()));
        }
        result
    }

    /// See [`Agent::has_line`].
    pub fn has_line(&self, spec: &FnSpec) -> bool {
        self.agent.has_line(spec)
    }

    /// See [`Agent::is_crowded`].
    pub fn is_crowded(&self) -> bool {
        self.agent.is_crowded()
    }

    /// See [`Agent::line_up`].
    ///
    /// # Errors
    /// Back again: there is no line to join.
    pub fn line_up(&self, sleeper: Box<dyn Sleeper>) -> Result<(), Box<dyn Sleeper>> {
        self.agent.line_up(sleeper)
    }

    /// A live tail of one call's log, or of all a function's containers print, that
    /// begins with the `last` lines of what is there.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn follow(&self, fn_id: Id, call: Option<Id>, last: Option<usize>) -> Result<Follow, FollowError> {
        Follow::begin(&self.agent, &self.ledger, &self.followers, (fn_id, call), last)
    }

    /// Keeps a call for later; it is on disk when this returns. Its id, or
    /// that of the call it repeats.
    ///
    /// # Errors
    /// See [`DetachError`].
    pub fn detach(&self, call: Call, how: &Detached) -> Result<Id, DetachError> {
        let created = Timestamp::now();
        let body = match call.body {
            Body::Memory(bytes) => bytes,
            Body::File { file, len } => {
                let max = self.ledger.shared.settings.max_body;
                if len > max {
                    return Err(DetachError::TooLarge { len, max });
                }
                let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
                file.read_exact_at(&mut bytes, 0).map_err(|e| DetachError::NotKept { cause: e.to_string() })?;
                bytes
            }
        };
        let delay_ms = i64::try_from(how.delay.as_millis()).unwrap_or(i64::MAX / 2);
        self.ledger.accept(Accepted {
            id: call.id,
            app_id: call.spec.app_id,
            fn_id: call.spec.fn_id,
            created,
            priority: how.priority,
            due: Timestamp(created.0.saturating_add(delay_ms)),
            fields: call.fields,
            body,
            key: how.key.clone(),
            trigger: call.trigger,
            callback: how.callback.clone(),
        })
    }
}

/// A caller with a tally kept beside it.
struct Beside<'a> {
    caller: &'a mut dyn Caller,
    tally: Tally,
    metered: bool,
}

impl Caller for Beside<'_> {
    fn whole(&mut self, head: &AnswerHead<'_>, body: &[u8]) -> Result<(), ClientGone> {
        self.tally.response_bytes = body.len() as u64;
        self.caller.whole(head, body)
    }
    fn begin(&mut self, head: &AnswerHead<'_>, len: Option<u64>) -> Result<(), ClientGone> {
        self.caller.begin(head, len)
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.tally.response_bytes += bytes.len() as u64;
        self.caller.data(bytes)
    }
    fn end(&mut self) -> Result<(), ClientGone> {
        self.caller.end()
    }
    fn passed(&mut self, moment: Moment) {
        self.tally.pass(moment);
        self.caller.passed(moment);
    }
    fn metered(&self) -> bool {
        self.metered
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.caller.socket()
    }
    fn watch(&self, gone: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        self.caller.watch(gone)
    }
    fn hand_on(&mut self, next: Box<dyn Woken>) {
        self.caller.hand_on(next);
    }
}

impl Record {
    /// Whether an answer may be asked for.
    pub fn has_answer(&self) -> bool {
        self.detached && self.status == Status::Success
    }
}
