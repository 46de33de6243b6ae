//! The client's side of a call: what the function answers, written to the
//! client.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use super::asleep::Waiting;
use super::poll::Poller;
use super::receipt::Receipt;
use super::reply::{Long, Reply};
use super::sock::Sock;
use super::triggers;
use crate::call::{AnswerHead, CallError, Caller, ClientGone, Moment, WatchGuard, Woken};
use crate::model::Id;
use crate::respond::{Answer, call_answer};

/// Which door the call came through: decides how the answer is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// `/invoke`: status 200, fields as the function gave them.
    Invoke,
    /// `/t`: status and fields from the function's `Fn-Http-*` fields.
    Trigger,
}

/// How far the answer is.
enum State {
    /// Nothing written yet.
    Fresh,
    Running(Long),
    /// Whole, and the client did not take all of it at once: the rest.
    Owed(Vec<u8>),
    /// The function's answer was replaced by an error: its rest is dropped.
    Replaced,
    Done,
    /// The client is gone, or the answer was not what it announced.
    Lost,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing was written.
    Unanswered,
    Whole,
    /// Begun and not ended.
    Broken,
    /// Nobody is there to be answered.
    Lost,
}

/// One call's client.
pub(super) struct ClientSide<'a> {
    pub(super) reply: Reply<'a>,
    sock: &'a Arc<Sock>,
    poller: &'a Arc<Poller>,
    conn: u64,
    id: Id,
    door: Door,
    state: State,
    /// The answer's, once one is begun.
    status: Option<u16>,
    /// Asked for: where the call's time went.
    pub(super) receipt: Option<Receipt>,
    /// Waited for this call's container, and has it now.
    next: Option<Box<dyn Woken>>,
}

impl<'a> ClientSide<'a> {
    pub(super) fn new(reply: Reply<'a>, sock: &'a Arc<Sock>, poller: &'a Arc<Poller>, conn: u64, id: Id, door: Door) -> ClientSide<'a> {
        ClientSide { reply, sock, poller, conn, id, door, state: State::Fresh, status: None, receipt: None, next: None }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self.state {
            State::Fresh => Outcome::Unanswered,
            State::Running(_) => Outcome::Broken,
            State::Owed(_) | State::Replaced | State::Done => Outcome::Whole,
            State::Lost => Outcome::Lost,
        }
    }

    /// The status the client was told, and whether it replaced the function's
    /// answer.
    pub(super) fn told(&self) -> (Option<u16>, bool) {
        (self.status, matches!(self.state, State::Replaced))
    }

    /// The call that is to go on in this thread, after this one.
    pub(super) fn take_next(&mut self) -> Option<Box<Waiting>> {
        let next: Box<dyn Any> = self.next.take()?;
        // Only calls of this room wait without a thread.
        next.downcast().ok()
    }

    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    pub(super) fn door(&self) -> Door {
        self.door
    }

    /// Answers with the error's status and text.
    pub(super) fn fail(&mut self, error: &CallError) -> Result<(), ClientGone> {
        // Impossible demands are refused before a call exists (spec http-api §3.1).
        let id = (!matches!(error, CallError::TooBig { .. })).then_some(self.id);
        self.message(&call_answer(error), id)
    }

    fn message(&mut self, answer: &Answer, id: Option<Id>) -> Result<(), ClientGone> {
        if self.poller.draining() {
            self.reply.keep = false;
        }
        self.status = Some(answer.status);
        let timing = self.receipt.as_ref().map(|receipt| receipt.text(Instant::now()));
        let sent = self.reply.message_of_call(answer, id.as_ref(), timing.as_deref());
        self.settle(sent, State::Done)
    }

    /// Writes everything of the head that precedes the framing. `Err`: the
    /// head can't be passed on; an error was answered instead.
    fn head(&mut self, head: &AnswerHead<'_>) -> Result<u16, Result<(), ClientGone>> {
        if self.poller.draining() {
            self.reply.keep = false;
        }
        let status = match self.door {
            Door::Invoke => 200,
            Door::Trigger => match triggers::status(head) {
                Ok(status) => status,
                Err(cause) => {
                    let error = CallError::BadAnswer { cause };
                    let answer = call_answer(&error);
                    self.status = Some(answer.status);
                    let sent = self.reply.message(&answer, Some(&self.id));
                    return Err(self.settle(sent, State::Replaced));
                }
            },
        };
        self.status = Some(status);
        self.reply.status(status);
        let (mut has_date, mut has_server) = (false, false);
        let reply = &mut self.reply;
        // Who may read it is the server's word, once it has one.
        let ours = reply.origin.is_some();
        let mut put = |name: &str, value: &[u8]| {
            if ours && name.eq_ignore_ascii_case("access-control-allow-origin") {
                return;
            }
            has_date |= name.eq_ignore_ascii_case("date");
            has_server |= name.eq_ignore_ascii_case("server");
            reply.field(name, value);
        };
        match self.door {
            Door::Invoke => head.fields.iter().for_each(|(name, value)| put(name, value)),
            Door::Trigger => triggers::fields(head).for_each(|(name, value)| put(name, value)),
        }
        self.reply.call_id(&self.id);
        if let Some(receipt) = &self.receipt {
            self.reply.field("Server-Timing", receipt.text(Instant::now()).as_bytes());
        }
        self.reply.own_fields(has_date, has_server);
        Ok(status)
    }

    /// Whether [`ClientSide::pay`] would have to wait for the client.
    pub(super) fn owes(&self) -> bool {
        matches!(self.state, State::Owed(_))
    }

    /// Sends what the client did not take at once of a whole answer.
    pub(super) fn pay(&mut self) {
        if let State::Owed(rest) = &self.state {
            let sent = self.reply.rest(rest);
            // Known only now, and to nobody else: the call itself went well.
            let _ = self.settle(sent, State::Done);
        }
    }

    fn settle(&mut self, sent: Result<(), ClientGone>, then: State) -> Result<(), ClientGone> {
        self.state = if sent.is_ok() { then } else { State::Lost };
        sent
    }
}

impl Caller for ClientSide<'_> {
    fn whole(&mut self, head: &AnswerHead<'_>, body: &[u8]) -> Result<(), ClientGone> {
        match self.head(head) {
            Ok(status) => {
                // INVARIANT: does not wait for the client, who would hold the container meanwhile.
                let rest = self.reply.finish_at_once(status, body);
                match rest {
                    Ok(rest) if rest.is_empty() => self.settle(Ok(()), State::Done),
                    Ok(rest) => self.settle(Ok(()), State::Owed(rest)),
                    Err(gone) => self.settle(Err(gone), State::Lost),
                }
            }
            Err(answered) => answered,
        }
    }

    fn begin(&mut self, head: &AnswerHead<'_>, len: Option<u64>) -> Result<(), ClientGone> {
        match self.head(head) {
            Ok(status) => {
                self.state = State::Running(self.reply.start(status, len));
                Ok(())
            }
            Err(answered) => answered,
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        match &mut self.state {
            State::Running(long) => {
                let sent = self.reply.data(long, bytes);
                if sent.is_err() {
                    self.reply.cut();
                    self.state = State::Lost;
                }
                sent
            }
            State::Replaced => Ok(()),
            State::Fresh | State::Owed(_) | State::Done | State::Lost => Err(ClientGone),
        }
    }

    fn end(&mut self) -> Result<(), ClientGone> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Running(long) => {
                let sent = self.reply.end(long);
                if sent.is_err() {
                    self.reply.cut();
                }
                self.settle(sent, State::Done)
            }
            State::Replaced => self.settle(Ok(()), State::Replaced),
            State::Fresh | State::Owed(_) | State::Done | State::Lost => Err(ClientGone),
        }
    }

    fn passed(&mut self, moment: Moment) {
        if let Some(receipt) = &mut self.receipt {
            receipt.pass(moment, Instant::now());
        }
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.sock.as_fd())
    }

    fn watch(&self, gone: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        let guard = Poller::watch(self.poller, self.conn, self.sock, self.reply.minor >= 1, gone)?;
        Some(Box::new(guard))
    }

    fn hand_on(&mut self, next: Box<dyn Woken>) {
        if let Some(second) = self.next.replace(next) {
            second.go_on();
        }
    }
}
