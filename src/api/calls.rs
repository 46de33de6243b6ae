//! Kept calls: lists, single ones, answers, and what can be done to those that
//! wait (spec http-api §10).

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::query::cursor_id;
use super::resources::{Handled, Handler, Page, Refusal, Reply, TEXT, json, look_up};
use crate::calls::{Changed, Filter, LOGS_BYTES, Ledger, LedgerError, NotWritten, Printed, Record, Status, last_lines, lines};
use crate::model::{Id, ModelError, Timestamp};
use crate::respond::{Answer, INVALID_TAIL, NO_LOG};

const GONE: &str = "Calls are not kept on this server: it was started without its calls database";

/// A call as clients see it; the first fields are the original's.
#[derive(Debug, Serialize)]
struct Shown {
    id: Id,
    status: &'static str,
    app_id: Id,
    fn_id: Id,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    detached: bool,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    start: &'static str,
    waited_ms: f64,
    ran_ms: f64,
    phases: ShownPhases,
    request_bytes: u64,
    response_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_peak_bytes: Option<u64>,
}

/// Where the time went; what did not happen is left out.
#[derive(Debug, Serialize)]
struct ShownPhases {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thaw_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dispatch_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_ms: Option<f64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a call are far below 2^53")]
fn shown(record: Record) -> Shown {
    let ms = |us: u64| us as f64 / 1000.0;
    let maybe = |us: u64| (us > 0).then(|| ms(us));
    Shown {
        id: record.id,
        status: record.status.name(),
        app_id: record.app_id,
        fn_id: record.fn_id,
        created_at: record.created,
        started_at: record.started,
        completed_at: record.completed,
        error: record.error,
        detached: record.detached,
        attempts: record.attempts,
        start: record.start,
        waited_ms: ms(record.waited_us),
        ran_ms: ms(record.ran_us),
        phases: ShownPhases {
            start_ms: maybe(record.phases.start_us),
            boot_ms: maybe(record.phases.boot_us),
            thaw_ms: maybe(record.phases.thaw_us),
            dispatch_ms: maybe(record.phases.dispatch_us),
            function_ms: maybe(record.phases.function_us),
        },
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        container_id: record.container,
        trigger_id: record.trigger,
        cpu_ms: record.cpu_us.map(ms),
        memory_peak_bytes: record.memory_peak,
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Refusal {
        log::error!("{error}");
        Refusal(Answer::new(500, "internal server error: the calls database cannot be read, the server's log says why"))
    }
}

impl From<NotWritten> for Refusal {
    fn from(error: NotWritten) -> Refusal {
        log::error!("a detached call could not be changed: {error}");
        let text = match error {
            NotWritten::NotKnown => format!("It is not known whether it was written down ({error}): look at the call"),
            NotWritten::TakenBack(_) | NotWritten::Failed(_) => format!("Could not be written down, the call is as it was: {error}; try again"),
        };
        Refusal(Answer { retry_after_s: Some(5), ..Answer::new(503, text) })
    }
}

/// What a function answered a detached call.
#[derive(Debug, Serialize)]
struct ShownAnswer {
    call_id: Id,
    /// What the function's answer is as HTTP: its `Fn-Http-Status`, or 200.
    status: u16,
    /// Name and value, in the function's order.
    headers: Vec<(String, String)>,
    /// Base 64, since it may be any bytes.
    body: String,
    body_cut: bool,
}

impl Handler<'_> {
    pub(super) fn list_calls(&self, function: &str) -> Handled {
        let (ledger, fn_id) = self.kept(function)?;
        let bad = |what: &'static str| Refusal(Answer::new(400, what));
        let time = |text: &str| match text {
            "" => Ok(None),
            text => match text.parse::<i64>().ok().and_then(|s| s.checked_mul(1000)) {
                Some(ms) => Ok(Some(Timestamp(ms))),
                None => Err(bad("Invalid time: from_time and to_time are seconds since 1970")),
            },
        };
        let status = match self.query.status.as_str() {
            "" => None,
            text => Some(Status::parse(text).ok_or_else(|| bad("Invalid status: queued, running, success, timeout, error or cancelled"))?),
        };
        let limit = self.query.limit();
        let before = if self.query.cursor.is_empty() { None } else { Some(cursor_id(&self.query.cursor)?) };
        let filter = Filter { before, from: time(&self.query.from_time)?, to: time(&self.query.to_time)?, status, limit };
        let items: Vec<Shown> = ledger.list(&fn_id, &filter)?.into_iter().map(shown).collect();
        json(&Page::new(items, limit, |call| URL_SAFE_NO_PAD.encode(call.id.as_str())))
    }

    pub(super) fn show_call(&self, function: &str, call: &str) -> Handled {
        json(&shown(self.known(function, call)?))
    }

    pub(super) fn call_answer(&self, function: &str, call: &str) -> Handled {
        let record = self.known(function, call)?;
        let (ledger, _) = self.kept(function)?;
        let Some(kept) = ledger.answer(&record.id)? else {
            let why = match record.status {
                _ if !record.detached => "only answers of detached calls are kept",
                Status::Success => "it is not kept any longer (HOB_ANSWERS_MAX_AGE_SECS, HOB_ANSWERS_MAX_BYTES)",
                _ => return Err(Refusal(Answer::new(404, format!("Call answer not found: the call is {}", record.status.name())))),
            };
            return Err(Refusal(Answer::new(404, format!("Call answer not found: {why}"))));
        };
        let body = base64::engine::general_purpose::STANDARD.encode(&kept.body);
        json(&ShownAnswer { call_id: record.id, status: kept.status(), headers: kept.pairs(), body, body_cut: kept.cut })
    }

    /// What a call printed, and why it failed. `?follow=1` does not come here:
    /// the edge answers it.
    pub(super) fn call_log(&self, function: &str, call: &str) -> Handled {
        let (ledger, fn_id) = self.kept(function)?;
        let id = Id::from_str(call).map_err(|_| no_log())?;
        let tail = self.tail()?;
        let (record, printed) = ledger.printed(&fn_id, &id)?;
        if record.is_none() && printed.is_none() {
            return Err(no_log());
        }
        let mut text = printed.map_or_else(String::new, |printed| printed.of_call());
        if let Some(error) = record.and_then(|record| record.error) {
            text.push_str(&format!("hob: {error}\n"));
        }
        Ok(Reply::new(200, TEXT, last_lines(text, tail)))
    }

    /// The newest lines of all a function's containers.
    pub(super) fn fn_logs(&self, function: &str) -> Handled {
        let (ledger, fn_id) = self.kept(function)?;
        let tail = self.tail()?;
        let text: String = ledger.printed_by_function(&fn_id, LOGS_BYTES)?.iter().map(Printed::of_function).collect();
        Ok(Reply::new(200, TEXT, last_lines(text, tail)))
    }

    /// How many of the last lines are wanted.
    fn tail(&self) -> Result<usize, Refusal> {
        match self.query.tail.as_str() {
            "" => Ok(usize::MAX),
            text => lines(text).ok_or(Refusal(Answer::new(400, INVALID_TAIL))),
        }
    }

    pub(super) fn cancel_call(&self, function: &str, call: &str) -> Handled {
        let (ledger, fn_id) = self.kept(function)?;
        let id = Id::from_str(call).map_err(|_| no_call())?;
        match ledger.cancel(&fn_id, &id)? {
            Changed::Yes => Ok(Reply::new(204, TEXT, "")),
            other => Err(unchanged("Could not cancel", other, "that waits or has failed for good can be cancelled")),
        }
    }

    pub(super) fn call_again(&self, function: &str, call: &str) -> Handled {
        let (ledger, fn_id) = self.kept(function)?;
        let id = Id::from_str(call).map_err(|_| no_call())?;
        match ledger.run_again(&fn_id, &id)? {
            Changed::Yes => json(&shown(self.known(function, call)?)),
            other => Err(unchanged("Could not run again", other, "that has failed for good can")),
        }
    }

    /// The ledger and the function's id.
    fn kept(&self, function: &str) -> Result<(&Ledger, Id), Refusal> {
        let ledger = self.context.ledger.as_deref().ok_or(Refusal(Answer::new(410, GONE)))?;
        let target = look_up(function, |id| self.snapshot.target(&id), ModelError::FnNotFound)?;
        Ok((ledger, target.function.id))
    }

    fn known(&self, function: &str, call: &str) -> Result<Record, Refusal> {
        let (ledger, fn_id) = self.kept(function)?;
        let id = Id::from_str(call).map_err(|_| no_call())?;
        ledger.record(&fn_id, &id)?.ok_or_else(no_call)
    }
}

/// Why what is wanted of a call cannot be, and `which` it can be of.
fn unchanged(wish: &str, changed: Changed, which: &str) -> Refusal {
    let why = match changed {
        Changed::Yes | Changed::Unknown => return no_call(),
        Changed::NotDetached => format!("only a detached call {which}, this one was called at once"),
        Changed::No(Status::Error | Status::Timeout) => {
            "what it was asked is not kept any longer (HOB_ANSWERS_MAX_BYTES, HOB_CALLS_MAX_AGE_SECS): it has failed for good and will not run".to_owned()
        }
        Changed::No(status) => format!("only a detached call {which}, this one is {}", status.name()),
    };
    Refusal(Answer::new(409, format!("{wish} - {why}")))
}

fn no_call() -> Refusal {
    Refusal(Answer::new(404, "Call not found: none with this id has a record at this function, or has one still (HOB_CALL_RECORDS, HOB_CALLS_MAX_AGE_SECS)"))
}

fn no_log() -> Refusal {
    Refusal(Answer::new(404, NO_LOG))
}
