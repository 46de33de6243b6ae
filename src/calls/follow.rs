//! A live tail of one call's log, or of a function's: what is on disk, then
//! what comes.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Ledger, LedgerError, Printed};
use crate::agent::{Agent, Tail, Word};
use crate::model::Id;
use crate::pool::Stop;

/// Live tails at the same time.
const MOST: usize = 32;
/// One ends after this; who wants more asks again.
const LONGEST: Duration = Duration::from_secs(3600);
/// How much of a function's past a tail begins with.
const PAST: usize = 16 * 1024;
/// Between looks whether a call that printed nothing has ended.
const LOOK: Duration = Duration::from_millis(500);
/// After a call's end its last lines are waited for this long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why there is no tail.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("no call with this id is known")]
    Unknown,
    #[error("{MOST} logs are followed already")]
    Full,
    #[error("no descriptor is left: {0}")]
    Descriptor(#[from] std::io::Error),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A tail under way; dropping it ends it.
#[derive(Debug)]
pub struct Follow {
    ledger: Arc<Ledger>,
    tail: Tail,
    fn_id: Id,
    call: Option<Id>,
    /// What was there before.
    past: Option<String>,
    until: Instant,
    /// What was there before is all there is.
    whole: bool,
    /// Its call is over: nothing is waited for after this.
    ends: Option<Instant>,
    _place: Place,
}

/// One of the few.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Follow {
    pub(super) fn begin(agent: &Agent, ledger: &Arc<Ledger>, taken: &Arc<AtomicUsize>, fn_id: Id, call: Option<Id>) -> Result<Follow, FollowError> {
        let before = taken.fetch_add(1, Ordering::SeqCst);
        let place = Place(taken.clone());
        if before >= MOST {
            return Err(FollowError::Full);
        }
        // Listening first, so that nothing is missed between the two.
        let (tail, since) = agent.logs().follow(fn_id, call)?;
        let mut whole = false;
        let (past, over) = match call {
            None => (ledger.printed_by_function_until(&fn_id, PAST, since)?.iter().map(Printed::of_function).collect(), false),
            Some(call) => {
                let (record, printed) = ledger.printed(&fn_id, &call)?;
                if record.is_none() && printed.is_none() {
                    return Err(FollowError::Unknown);
                }
                let over = record.as_ref().is_none_or(|record| record.status.is_final());
                whole = over && printed.is_some();
                (printed.map(Printed::of_call).unwrap_or_default(), over)
            }
        };
        let now = Instant::now();
        let past = Some(past).filter(|text: &String| !text.is_empty());
        Ok(Follow { ledger: ledger.clone(), tail, fn_id, call, past, until: now + LONGEST, ends: over.then_some(now + LAST_WORDS), whole, _place: place })
    }

    /// The next piece of text; `None` at the end: the call's, the tail's, the
    /// server's, or that of `peer`, who reads it.
    pub fn next(&mut self, peer: BorrowedFd<'_>, stop: &Stop) -> Option<String> {
        if let Some(past) = self.past.take() {
            return Some(past);
        }
        if self.whole {
            return None;
        }
        loop {
            let now = Instant::now();
            let until = self.ends.unwrap_or(self.until);
            let look = if self.call.is_some() { now + LOOK } else { until };
            match self.tail.next(Some(peer), Some(stop), until.min(look)) {
                Word::Text(text) => return Some(text),
                Word::Over | Word::Gone => return None,
                Word::Nothing if Instant::now() >= until => return None,
                Word::Nothing => self.look(),
            }
        }
    }

    /// A call that printed nothing, or never got a container, ends too.
    fn look(&mut self) {
        let (Some(call), None) = (self.call, self.ends) else { return };
        match self.ledger.record(&self.fn_id, &call) {
            Ok(Some(record)) if record.status.is_final() => self.ends = Some(Instant::now() + LAST_WORDS),
            Ok(_) => {}
            Err(error) => log::warn!("{error}"),
        }
    }
}
