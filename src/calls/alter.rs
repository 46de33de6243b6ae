//! What somebody else wants of a call that was accepted: that it does not run,
//! or runs again.

use super::queue::Waiting;
use super::record::Status;
use super::wish::NotWritten;
use super::writer::Job;
use super::{Ledger, LedgerError};
use crate::model::Id;

const CONTENDED: &str = "others want something else of the call at the same time";
/// So often a call is looked at that others want to change at the same time.
const LOOKS: usize = 8;

/// What became of a wish to cancel or to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Yes,
    /// The call is not in a state for it; of one that has failed for good: what it
    /// was asked is not kept any longer.
    No(Status),
    /// It was called at once.
    NotDetached,
    Unknown,
}

impl Ledger {
    /// A call that waits, or has failed for good, is not to run. One that is
    /// cancelled already is answered like the first time.
    ///
    /// # Errors
    /// See [`NotWritten`]; the call then waits on, unless nobody knows.
    pub fn cancel(&self, fn_id: &Id, id: &Id) -> Result<Changed, NotWritten> {
        for _ in 0..LOOKS {
            let waiting = self.shared.ready.lock().remove(fn_id, id);
            if let Some(waiting) = waiting
                && self.cancel_waiting(waiting)?
            {
                return Ok(Changed::Yes);
            }
            // Dead ones are cancelled too: they will not be asked for again.
            let dead = self.dead(fn_id, id)?;
            if let Some(waiting) = dead
                && self.ask(|done| Job::Cancel { waiting, dead: true, done })?
            {
                return Ok(Changed::Yes);
            }
            match self.not(fn_id, id)? {
                Changed::No(Status::Cancelled) => return Ok(Changed::Yes),
                // It waits, and is in no line: somebody else's wish for it is on its way
                // to the disk. Behind that the next look tells more.
                Changed::No(Status::Queued) => self.ask(Job::Freshen)?,
                // It has died since it was looked at.
                Changed::No(Status::Error | Status::Timeout) if self.dead(fn_id, id)?.is_some() => {}
                other => return Ok(other),
            }
        }
        Err(NotWritten::TakenBack(CONTENDED))
    }

    /// One that is in no line any more. Whether it was there.
    fn cancel_waiting(&self, waiting: Waiting) -> Result<bool, NotWritten> {
        let cancelled = self.ask(|done| Job::Cancel { waiting, dead: false, done });
        // Else it is the writer that puts it back, if its try fails.
        if matches!(cancelled, Err(NotWritten::TakenBack(_))) {
            self.shared.put(waiting);
        }
        cancelled
    }

    /// A call that has failed for good is to run again.
    ///
    /// # Errors
    /// See [`NotWritten`].
    pub fn run_again(&self, fn_id: &Id, id: &Id) -> Result<Changed, NotWritten> {
        for _ in 0..LOOKS {
            if let Some(waiting) = self.dead(fn_id, id)? {
                let waiting = Waiting { due: self.shared.clock.now(), ..waiting };
                // Somebody else may have been faster with the same wish, or with another.
                if self.ask(|done| Job::Revive(waiting, done))? {
                    return Ok(Changed::Yes);
                }
            }
            match self.not(fn_id, id)? {
                // It has died since it was looked at.
                Changed::No(Status::Error | Status::Timeout) if self.dead(fn_id, id)?.is_some() => {}
                other => return Ok(other),
            }
        }
        Err(NotWritten::TakenBack(CONTENDED))
    }

    /// A function's call that has failed for good and can still run.
    fn dead(&self, fn_id: &Id, id: &Id) -> Result<Option<Waiting>, NotWritten> {
        Ok(self.readers.with(|r| r.dead(id)).map_err(unread)?.filter(|w| w.fn_id == *fn_id))
    }

    fn not(&self, fn_id: &Id, id: &Id) -> Result<Changed, NotWritten> {
        let record = self.record(fn_id, id).map_err(unread)?;
        Ok(match record {
            None => Changed::Unknown,
            Some(record) if !record.detached => Changed::NotDetached,
            Some(record) if record.status == Status::Queued && self.shared.ready.lock().is_running(id) => Changed::No(Status::Running),
            Some(record) => Changed::No(record.status),
        })
    }
}

/// The database could not be read before anything was asked for.
fn unread(error: LedgerError) -> NotWritten {
    NotWritten::Failed(error.told())
}
