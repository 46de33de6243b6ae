//! A live tail of one call's log, or of a function's: what is on disk, then
//! what comes.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{LOGS_BYTES, Ledger, LedgerError, Printed, last_lines};
use crate::agent::{Agent, Tail, Word};
use crate::model::{Id, Timestamp};
use crate::pool::Stop;

/// Live tails at the same time.
const MOST: usize = 32;
/// One ends after this; who wants more asks again.
const LONGEST: Duration = Duration::from_secs(3600);
/// How much of a function's past a tail begins with.
const PAST: usize = 16 * 1024;
/// Between looks whether a call that printed nothing has ended.
const LOOK: Duration = Duration::from_millis(500);
/// The same once a run of it is over: its record comes any moment.
const LOOK_SOON: Duration = Duration::from_millis(50);
/// After a call's end its last lines are waited for this long.
const LAST_WORDS: Duration = Duration::from_millis(500);
const LAST_WORDS_MS: i64 = 500;

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
    agent: Arc<Agent>,
    ledger: Arc<Ledger>,
    tail: Tail,
    fn_id: Id,
    call: Option<Id>,
    /// What was there before.
    past: Option<String>,
    until: Instant,
    /// Its call may have another run when one is over.
    detached: bool,
    /// A run of it is over, and all that was printed was given.
    run_over: bool,
    /// Its call is over: nothing is waited for after this.
    ends: Option<Instant>,
    /// Nothing is said of why it failed: that is not new.
    quiet: bool,
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
    /// Begins with the `last` lines of what is there; `None`: of a call all, of a
    /// function some.
    pub(super) fn begin(
        agent: &Arc<Agent>,
        ledger: &Arc<Ledger>,
        taken: &Arc<AtomicUsize>,
        (fn_id, call): (Id, Option<Id>),
        last: Option<usize>,
    ) -> Result<Follow, FollowError> {
        let before = taken.fetch_add(1, Ordering::SeqCst);
        let place = Place(taken.clone());
        if before >= MOST {
            return Err(FollowError::Full);
        }
        // Listening first, so that nothing is missed between the two.
        let (tail, since) = agent.logs().follow(fn_id, call)?;
        let (mut settled, mut detached, mut why) = (false, false, false);
        let (past, over) = match call {
            None => {
                let most = last.map_or(PAST, |last| if last == 0 { 0 } else { LOGS_BYTES });
                (ledger.printed_by_function_until(&fn_id, most, since)?.iter().map(Printed::of_function).collect(), false)
            }
            Some(call) => {
                let (record, printed) = ledger.printed_until(&fn_id, &call, since)?;
                if record.is_none() && printed.is_none() {
                    return Err(FollowError::Unknown);
                }
                let over = record.as_ref().is_none_or(|record| record.status.is_final());
                // Its last lines have come by now, if it printed any.
                let ended = record.as_ref().and_then(|record| record.completed).unwrap_or(Timestamp(0));
                settled = Timestamp::now().0.saturating_sub(ended.0) > LAST_WORDS_MS;
                detached = record.as_ref().is_some_and(|record| record.detached);
                why = over && record.as_ref().is_some_and(|record| record.error.is_some());
                (printed.map(Printed::of_call).unwrap_or_default(), over)
            }
        };
        let now = Instant::now();
        // Of a call that is over the line that says why it failed is the last one.
        let past = match last {
            Some(last) => last_lines(past, last.saturating_sub(usize::from(why))),
            None => past,
        };
        let past = Some(past).filter(|text: &String| !text.is_empty());
        let ends = over.then_some(if settled { now } else { now + LAST_WORDS });
        let (agent, ledger) = (agent.clone(), ledger.clone());
        Ok(Follow {
            agent,
            ledger,
            tail,
            fn_id,
            call,
            past,
            until: now + LONGEST,
            detached,
            run_over: false,
            ends,
            quiet: over && last == Some(0),
            _place: place,
        })
    }

    /// The next piece of text; `None` at the end: the call's, the tail's, the
    /// server's, or that of `peer`, who reads it.
    pub fn next(&mut self, peer: BorrowedFd<'_>, stop: &Stop) -> Option<String> {
        if let Some(past) = self.past.take() {
            return Some(past);
        }
        loop {
            let now = Instant::now();
            let until = self.ends.unwrap_or(self.until);
            let look = match self.call {
                Some(_) => now + if self.run_over { LOOK_SOON } else { LOOK },
                None => until,
            };
            match self.tail.next(Some(peer), Some(stop), until.min(look)) {
                Word::Text(text) => {
                    self.run_over = false;
                    return Some(text);
                }
                Word::Over if self.goes_on() => self.look(),
                Word::Over | Word::Gone => return None,
                Word::Nothing if Instant::now() >= until => return self.last_line(),
                Word::Nothing => self.look(),
            }
        }
    }

    /// A run is over: that of a call which may have another one, or whose
    /// record is about to come. Listens anew; false when nobody reads any more.
    fn goes_on(&mut self) -> bool {
        let stops = self.ledger.shared.closing.load(Ordering::SeqCst);
        if stops || self.call.is_none() || self.run_over && !self.detached {
            return false;
        }
        match self.agent.logs().follow(self.fn_id, self.call) {
            Ok((tail, _)) => self.tail = tail,
            Err(error) => {
                log::warn!("a log is followed no further: {error}");
                return false;
            }
        }
        self.run_over = true;
        if !self.detached {
            // One that went well may have no record.
            self.ends.get_or_insert(Instant::now() + LAST_WORDS);
        }
        true
    }

    /// A call that printed nothing, or never got a container, ends too.
    fn look(&mut self) {
        let Some(call) = self.call.filter(|_| self.ends.is_none() || self.run_over) else { return };
        match self.ledger.record(&self.fn_id, &call) {
            Ok(Some(record)) if record.status.is_final() => {
                self.ends = Some(Instant::now() + if self.run_over { Duration::ZERO } else { LAST_WORDS });
            }
            Ok(_) => {}
            Err(error) => log::warn!("{error}"),
        }
    }

    /// Why the call failed; nothing after it.
    fn last_line(&mut self) -> Option<String> {
        let record = self.call.take().and_then(|call| self.ledger.record(&self.fn_id, &call).ok().flatten());
        self.until = Instant::now();
        self.ends = Some(self.until);
        record.filter(|record| record.status.is_final() && !self.quiet).and_then(|record| record.error).map(|error| format!("hob: {error}\n"))
    }
}
