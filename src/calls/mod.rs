//! Calls that are kept: records of what ran, and detached calls, which are
//! accepted now and run later.
//!
//! Owns: `calls.db`, its writer thread `calls-writer`, the index of what waits,
//! the crew `detached-N`. Called by: `edge` (a call comes), `api` (a record is
//! asked for), `server`. Blocks on: an acceptance until it is on disk; the crew
//! on a condvar and inside `Agent::submit`; the writer on its channel. Does
//! not: know routes or containers, slow a synchronous call down.
//!
//! ```text
//! synchronous   edge → Front::submit → agent      record → ring ──┐ by the second
//! detached      edge → Front::detach ── job, waits for the commit ─┼─► calls-writer → calls.db
//!               detached-N: take → begin → agent → ended ──────────┘
//! ```
//! INVARIANT: a detached call is answered 202 only when it is on disk, and
//! leaves the queue only when its end is. Killed in between, it runs again:
//! at least once.

mod address;
mod alter;
mod bodies;
mod callbacks;
mod clock;
mod database;
#[cfg(test)]
mod fault_tests;
mod follow;
mod front;
mod history;
#[cfg(test)]
mod history_tests;
mod logbook;
#[cfg(test)]
mod logbook_tests;
mod outbox;
mod packs;
mod promises;
mod queue;
#[cfg(test)]
mod queue_tests;
mod readers;
mod ready;
mod record;
mod tally;
#[cfg(test)]
mod tests;
mod tidy;
mod wish;
#[cfg(test)]
mod wish_tests;
mod workers;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::agent::LogSink;
pub use crate::agent::{Sleeper, Turn};
use crate::call::DetachError;
use crate::config::{CallsConfig, Keep};
use crate::metrics::LEDGER;
use crate::model::{Id, Timestamp};
use crate::pool::{Thread, spawn};

use callbacks::Desk;
use clock::Clock;
use database::Database;
use logbook::Pending;
use promises::Promises;
use queue::Waiting;
use readers::Readers;
use ready::Ready;
use wish::{Done, GONE, SLOW, wish};
use writer::Job;

pub use address::check_url;
pub use alter::Changed;
pub use callbacks::Callbacks;
pub use database::LedgerError;
pub use follow::{Follow, FollowError};
pub use front::Front;
pub use history::Filter;
pub use logbook::{LOGS_BYTES, Printed, last_lines, lines};
pub use packs::{Pack, packed};
pub use record::{Accepted, Kept, Phases, Record, Status};
pub use wish::NotWritten;
pub use workers::{Crew, FindSpec};

/// Whether a function is still there.
pub type Exists = Arc<dyn Fn(&Id) -> bool + Send + Sync>;

/// Records of calls that failed, waiting for the writer at most.
const RING: usize = 16 * 1024;
/// Records of calls that went well: what one gathering takes. More calls than
/// this in 200 ms are sampled, so that writing them down stays a few percent of
/// their cost whatever the load.
const RING_OF_GOOD: usize = 512;
/// A reader waits so long for the records that have gathered to be written.
const FRESH_WITHIN: Duration = Duration::from_millis(500);
/// Jobs waiting for the writer at most.
const JOBS: usize = 1024;
/// What is asked of the writer is taken back after this, if it can be.
const COMMIT_LIMIT: Duration = Duration::from_secs(15);

pub(crate) struct Shared {
    settings: CallsConfig,
    exists: Exists,
    ring: Mutex<Ring>,
    logs: Mutex<Pending>,
    /// Rung when the ring has its first record, and when it has many: without a
    /// wake-up for each.
    bell: Sender<()>,
    ready: Mutex<Ready>,
    changed: Condvar,
    clock: Clock,
    /// What the callbacks' threads share, and their bell.
    desk: Mutex<Desk>,
    told: Condvar,
    promises: Promises,
    closing: AtomicBool,
    /// Acceptances on their way to the disk: they count as queued.
    accepting: AtomicUsize,
    /// And their bodies' bytes.
    accepting_bytes: AtomicU64,
    /// Ends that could not be written down are tried again: none begins meanwhile.
    ends_wait: AtomicBool,
}

/// Records on their way to the writer.
#[derive(Debug, Default)]
struct Ring {
    records: Vec<Record>,
    /// The writer has taken some and is not done with them.
    writing: bool,
}

/// All kept calls.
pub struct Ledger {
    shared: Arc<Shared>,
    readers: Readers,
    /// Dropped to end the writer.
    /// Boxed: the channel writes to each of its places when it is made.
    jobs: Mutex<Option<Sender<Box<Job>>>>,
    writer: Mutex<Option<Thread>>,
    /// See `COMMIT_LIMIT`.
    patience: Duration,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens `path`, or makes it, and starts the writer. What waited or ran
    /// when the last server ended waits again.
    ///
    /// # Errors
    /// A damaged file or one of a newer version; no thread.
    pub fn open(path: &Path, settings: CallsConfig, exists: Exists) -> Result<Ledger, LedgerError> {
        Ledger::with(Database::open(path)?, path, settings, exists)
    }

    fn with(database: Database, path: &Path, settings: CallsConfig, exists: Exists) -> Result<Ledger, LedgerError> {
        let clock = Clock::start();
        let readers = Readers::of(path);
        let (waiting, dead) = database.waiting(clock.now())?;
        let promises = Promises::of(&database)?;
        let mut ready = Ready::default();
        for w in waiting {
            // A call that was running when the server was killed has used up an
            // attempt; with none left it is not tried for ever.
            ready.put(w);
        }
        LEDGER.queued.set(i64::try_from(ready.len()).unwrap_or(i64::MAX));
        if ready.len() > 0 || dead > 0 {
            log::info!("{} detached calls wait, {dead} have failed for good", ready.len());
        }
        database.let_go();
        let (jobs, to_do) = bounded(JOBS);
        let (bell, rung) = bounded(1);
        let shared = Arc::new(Shared {
            settings,
            exists,
            ring: Mutex::default(),
            logs: Mutex::default(),
            bell,
            ready: Mutex::new(ready),
            changed: Condvar::new(),
            clock,
            desk: Mutex::default(),
            told: Condvar::new(),
            promises,
            closing: AtomicBool::new(false),
            accepting: AtomicUsize::new(0),
            accepting_bytes: AtomicU64::new(0),
            ends_wait: AtomicBool::new(false),
        });
        let of_writer = shared.clone();
        let writer = spawn("calls-writer", move || writer::run(&of_writer, database, &to_do, &rung))?;
        Ok(Ledger { shared, readers, jobs: Mutex::new(Some(jobs)), writer: Mutex::new(Some(writer)), patience: COMMIT_LIMIT })
    }

    /// Which synchronous calls want a record.
    pub fn keep(&self) -> Keep {
        self.shared.settings.keep
    }

    /// Leaves a record to be written down soon. Never waits: when too many have
    /// gathered already it is dropped and counted, good ones first.
    pub fn note(&self, record: Record) {
        self.note_of(record.status == Status::Success, || record);
    }

    /// The same, of a record that is made only if there is room for it.
    fn note_of(&self, good: bool, record: impl FnOnce() -> Record) {
        let most = if good { RING_OF_GOOD } else { RING };
        if self.shared.ring.lock().records.len() >= most {
            LEDGER.records_dropped.add(1);
            return;
        }
        let record = record();
        let mut ring = self.shared.ring.lock();
        ring.records.push(record);
        let gathered = ring.records.len();
        drop(ring);
        if gathered == 1 || gathered == RING_OF_GOOD {
            let _ = self.shared.bell.try_send(());
        }
    }

    /// Has what has gathered written down, for somebody who wants to read it.
    fn freshen(&self) {
        let ring = self.shared.ring.lock();
        let unwritten = ring.writing || !ring.records.is_empty();
        drop(ring);
        if unwritten && let Err(error) = self.ask_within(FRESH_WITHIN, Job::Freshen) {
            log::debug!("the newest records cannot be read yet: {error}");
        }
    }

    /// Accepts a detached call; on disk when this returns. The id is that of
    /// an earlier call with the same key, if there is one.
    ///
    /// # Errors
    /// See [`DetachError`].
    pub fn accept(&self, call: Accepted) -> Result<Id, DetachError> {
        let settings = &self.shared.settings;
        if self.shared.closing.load(Ordering::SeqCst) {
            return Err(DetachError::Draining);
        }
        if settings.workers == 0 {
            return Err(DetachError::Off);
        }
        if call.callback.is_some() && settings.callback_workers == 0 {
            return Err(DetachError::NoCallbacks);
        }
        if !settings.callback_private
            && let Some(address) = call.callback.as_deref().and_then(address::private_address)
        {
            return Err(DetachError::PrivateCallback { address });
        }
        if call.body.len() as u64 > settings.max_body {
            return Err(DetachError::TooLarge { len: call.body.len() as u64, max: settings.max_body });
        }
        let _place = self.shared.place(call.body.len() as u64)?;
        if let Some((needed, free)) = self.readers.room()
            && free < needed
        {
            let cause = format!("the disk of calls.db is full but for {} KiB, which the ends of accepted calls need", free / 1024);
            return Err(DetachError::NotKept { cause });
        }
        let own = call.id;
        self.shared.promises.promise(&call, settings.max_callbacks)?;
        let accepted = self.ask(|done| Job::Accept(Box::new(call), done));
        // What the writer has taken up it settles itself: when it is asked for longer
        // than anybody waits, the call may be kept after all.
        if matches!(accepted, Err(NotWritten::TakenBack(_))) {
            self.shared.promises.remove(&own);
        }
        let id = accepted.map_err(|e| match e {
            NotWritten::NotKnown => DetachError::NotKnown { cause: e.to_string() },
            NotWritten::TakenBack(_) | NotWritten::Failed(_) => DetachError::NotKept { cause: e.to_string() },
        })?;
        // Not a repeat of one that was.
        if id == own {
            LEDGER.accepted.add(1);
        }
        Ok(id)
    }

    /// # Errors
    /// The database's.
    pub fn record(&self, fn_id: &Id, id: &Id) -> Result<Option<Record>, LedgerError> {
        let found = self.readers.with(|r| r.record(fn_id, id))?;
        if found.is_some() {
            return Ok(found);
        }
        self.freshen();
        self.readers.with(|r| r.record(fn_id, id))
    }

    /// A function's calls, newest first.
    ///
    /// # Errors
    /// The database's.
    pub fn list(&self, fn_id: &Id, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        self.freshen();
        self.readers.with(|r| r.list(fn_id, filter))
    }

    /// The answer of a detached call that was a success.
    ///
    /// # Errors
    /// The database's.
    pub fn answer(&self, id: &Id) -> Result<Option<Kept>, LedgerError> {
        self.readers.with(|r| r.answer(id))
    }

    /// Where the log thread leaves what it has gathered.
    pub fn log_sink(&self) -> Arc<dyn LogSink> {
        self.shared.clone()
    }

    /// Asks the writer and waits until it is on disk.
    fn ask<T>(&self, job: impl FnOnce(Done<T>) -> Job) -> Result<T, NotWritten> {
        self.ask_within(self.patience, job)
    }

    fn ask_within<T>(&self, limit: Duration, job: impl FnOnce(Done<T>) -> Job) -> Result<T, NotWritten> {
        let (done, asked) = wish();
        let until = Instant::now() + limit.min(self.patience);
        let jobs = self.jobs.lock().clone().ok_or(NotWritten::TakenBack("the server is shutting down"))?;
        jobs.send_deadline(Box::new(job(done)), until).map_err(|e| NotWritten::TakenBack(if e.is_timeout() { SLOW } else { GONE }))?;
        asked.wait(until)
    }

    fn ended(&self, ended: record::Ended) {
        let jobs = self.jobs.lock().clone();
        match jobs {
            // The crew ends before the writer does.
            None => log::error!("a detached call ended after the calls database was closed: it runs again"),
            Some(jobs) => {
                if jobs.send(Box::new(Job::Ended(Box::new(ended)))).is_err() {
                    log::error!("the calls database is gone: a detached call runs again at the next start");
                }
            }
        }
    }

    /// A call that was to run and is in no queue: a record that says it waits
    /// would say so for ever.
    fn lost(&self, waiting: &Waiting) {
        log::error!("detached call {} is not in the queue any more", waiting.id);
        self.shared.promises.remove(&waiting.id);
        match self.readers.with(|r| r.record(&waiting.fn_id, &waiting.id)) {
            Ok(Some(record)) if !record.status.is_final() => {
                let error = Some("it is not in the queue any more".to_owned());
                let record = Record { status: Status::Error, completed: Some(Timestamp::now()), error, ..record };
                self.ended(record::Ended::Done { record: Box::new(record), answer: None });
            }
            _ => self.shared.over(&waiting.id),
        }
    }

    /// Accepts nothing more; the crew takes no more calls.
    pub fn refuse(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Whoever has looked before is asleep by now, and hears it.
        drop(self.shared.ready.lock());
        self.shared.changed.notify_all();
    }

    /// Writes down what has gathered and joins the writer. Call after the crew
    /// has ended.
    pub fn close(&self) {
        self.refuse();
        self.jobs.lock().take();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            writer.join();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

/// One of the calls that may be queued, while it is written down.
struct Place<'s>(&'s Shared, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::SeqCst);
        self.0.accepting_bytes.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Room for one more call with a body of `bytes`.
    fn place(&self, bytes: u64) -> Result<Place<'_>, DetachError> {
        let (limit, limit_bytes) = (self.settings.max_queued, self.settings.max_queued_bytes);
        // INVARIANT: counted under the lock, so that many at once get no more than there is.
        let ready = self.ready.lock();
        if ready.len() + self.accepting.load(Ordering::SeqCst) >= limit {
            return Err(DetachError::Full { limit });
        }
        if ready.bytes() + self.accepting_bytes.load(Ordering::SeqCst) + bytes > limit_bytes {
            return Err(DetachError::FullBytes { limit: limit_bytes });
        }
        self.accepting.fetch_add(1, Ordering::SeqCst);
        self.accepting_bytes.fetch_add(bytes, Ordering::SeqCst);
        Ok(Place(self, bytes))
    }

    /// Nothing of a function that is no more is to run.
    fn forget(&self, fn_id: &Id) {
        let mut ready = self.ready.lock();
        ready.forget(fn_id);
        self.promises.forget(fn_id);
        LEDGER.queued.set(i64::try_from(ready.len()).unwrap_or(i64::MAX));
    }

    fn count_queued(&self) {
        LEDGER.queued.set(i64::try_from(self.ready.lock().len()).unwrap_or(i64::MAX));
    }

    fn put(&self, waiting: Waiting) {
        let mut ready = self.ready.lock();
        ready.put(waiting);
        LEDGER.queued.set(i64::try_from(ready.len()).unwrap_or(i64::MAX));
        drop(ready);
        self.changed.notify_one();
    }

    /// A detached call is over: its end may be one to tell.
    fn may_be_told(&self) {
        self.desk.lock().news += 1;
        self.told.notify_one();
    }

    fn over(&self, id: &Id) {
        let mut ready = self.ready.lock();
        ready.running_ended(id);
        LEDGER.queued.set(i64::try_from(ready.len()).unwrap_or(i64::MAX));
        drop(ready);
        self.changed.notify_one();
    }
}
