//! The crew that runs detached calls, beside the synchronous ones and never
//! before them: a call is taken only while nobody waits for a container.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Ledger;
use super::queue::Waiting;
use super::ready::May;
use super::record::{Accepted, Ended, Kept, Record, Status};
use super::tally::Tally;
use super::writer::Job;
use crate::agent::Agent;
use crate::call::{AnswerHead, Body, Call, CallError, Caller, ClientGone, LaunchError, Moment, WatchGuard};
use crate::metrics::LEDGER;
use crate::model::{FnSpec, Id, Timestamp};
use crate::pool::{SpawnError, Thread, spawn};

/// Most bytes kept of a detached call's answer.
const ANSWER_BYTES: usize = 1024 * 1024;
/// Runs that the server's ends may have cut, beside those that a call may fail.
const CUT_RUNS: u32 = 16;
/// Between looks while calls wait but may not run now.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The first pause before another try, doubled each time.
const FIRST_PAUSE_MS: i64 = 1_000;
pub(super) const LONGEST_PAUSE_MS: i64 = 300_000;

/// Finds a function's configuration; none when it was deleted.
pub type FindSpec = Arc<dyn Fn(&Id) -> Option<Arc<FnSpec>> + Send + Sync>;

/// The running crew. Dropping it joins the threads; refuse first.
#[derive(Debug)]
pub struct Crew {
    threads: Arc<Mutex<Vec<Thread>>>,
}

#[derive(Clone)]
struct Worker {
    /// Its crew: it grows by one with each call taken, as far as it may.
    threads: Arc<Mutex<Vec<Thread>>>,
    ledger: Arc<Ledger>,
    agent: Arc<Agent>,
    find: FindSpec,
    total_mib: u64,
    /// MiB in use by detached calls.
    used_mib: Arc<AtomicU64>,
}

impl Crew {
    /// Starts the crew on a node with `total_mib` for functions: one thread, and
    /// the others as calls come.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn start(ledger: &Arc<Ledger>, agent: &Arc<Agent>, find: &FindSpec, total_mib: u64) -> Result<Crew, SpawnError> {
        let threads: Arc<Mutex<Vec<Thread>>> = Arc::default();
        let worker = Worker { threads: threads.clone(), ledger: ledger.clone(), agent: agent.clone(), find: find.clone(), total_mib, used_mib: Arc::default() };
        if ledger.shared.settings.workers > 0 {
            worker.another()?;
        }
        Ok(Crew { threads })
    }

    /// Waits for the calls that run and ends. `Ledger::refuse` comes first.
    pub fn join(self) {
        drop(self);
    }
}

impl Crew {
    /// Gives its threads up: only for a process that is about to end.
    pub fn leave(self) {
        std::mem::take(&mut *self.threads.lock()).into_iter().for_each(Thread::leave);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A thread that ends has started no more since the refusal, but may have
        // just before it: looked for until there is none.
        while let Some(thread) = { self.threads.lock().pop() } {
            thread.join();
        }
    }
}

impl Worker {
    /// One more thread, if the crew is not complete.
    fn another(&self) -> Result<(), SpawnError> {
        let mut threads = self.threads.lock();
        let number = threads.len() + 1;
        // INVARIANT: under the lock, so that `join` misses none.
        if number <= self.ledger.shared.settings.workers && !self.ledger.shared.closing.load(Ordering::SeqCst) {
            let worker = self.clone();
            threads.push(spawn(format!("detached-{number}"), move || worker.live())?);
        }
        Ok(())
    }

    fn live(&self) {
        while let Some((waiting, spec)) = self.next() {
            // While this one runs its call, somebody is there for the next.
            if let Err(error) = self.another() {
                log::warn!("detached calls have fewer threads than they may: {error}");
            }
            let mib = spec.as_ref().map_or(0, |s| need_mib(s));
            // A panic costs this run of this call, not the thread.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run(waiting, spec))).is_err() {
                log::error!("detached call {}: a run panicked; it is tried again", waiting.id);
                // It counts, or one that always panics would be tried for ever.
                let waiting = Waiting { attempts: waiting.attempts + 1, failed: waiting.failed + 1, ..waiting };
                self.again(waiting, "a bug in hob: the run panicked".to_owned());
            }
            self.used_mib.fetch_sub(mib, Ordering::SeqCst);
        }
    }

    /// The next call that may run now; `None` when it is time to end.
    fn next(&self) -> Option<(Waiting, Option<Arc<FnSpec>>)> {
        let shared = &self.ledger.shared;
        let mut ready = shared.ready.lock();
        loop {
            if shared.closing.load(Ordering::SeqCst) {
                return None;
            }
            let now = shared.clock.now();
            // What has ended is to be written down first: memory for answers is bounded so.
            if shared.ends_wait.load(Ordering::SeqCst) {
                shared.changed.wait_until(&mut ready, Instant::now() + LOOK_AGAIN);
                continue;
            }
            let taken = ready.take(now, |fn_id| (self.find)(fn_id).map_or(May::Run, |spec| self.may_run(&spec)));
            if let Some(waiting) = taken {
                let spec = (self.find)(&waiting.fn_id);
                self.used_mib.fetch_add(spec.as_ref().map_or(0, |s| need_mib(s)), Ordering::SeqCst);
                return Some((waiting, spec));
            }
            match ready.next_due() {
                None => shared.changed.wait(&mut ready),
                Some(due) => {
                    // Due already: it is not its turn yet. Else at its time.
                    let left = u64::try_from(due.0 - now.0).map_or(LOOK_AGAIN, Duration::from_millis).max(LOOK_AGAIN);
                    shared.changed.wait_until(&mut ready, Instant::now() + left);
                }
            }
        }
    }

    /// Nobody waits for a container, and the share of detached calls allows it.
    fn may_run(&self, spec: &FnSpec) -> May {
        let used = self.used_mib.load(Ordering::SeqCst);
        let share = self.total_mib.saturating_mul(self.ledger.shared.settings.share_percent) / 100;
        match used == 0 || used + need_mib(spec) <= share {
            _ if self.agent.is_crowded() => May::Not,
            true => May::Run,
            false => May::LacksRoom,
        }
    }

    fn run(&self, waiting: Waiting, spec: Option<Arc<FnSpec>>) {
        let _ = crate::fault::at("detached.run");
        let loaded = self.ledger.readers.with(|r| r.load(&waiting.id));
        let accepted = match loaded {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return self.ledger.lost(&waiting),
            Err(error) => return self.again(waiting, error.to_string()),
        };
        let Some(spec) = spec else {
            let record = ended_record(&accepted, &waiting, Status::Error, "the function was deleted");
            return self.ledger.ended(Ended::Done { record: Box::new(record), answer: None });
        };
        if waiting.attempts >= with_cut_ones(self.attempts(&spec)) {
            // Its last run ended with the server's sudden end.
            let record = ended_record(&accepted, &waiting, Status::Error, "it has used up its runs: the server ended during the last one");
            LEDGER.dead.add(1);
            return self.ledger.ended(Ended::Done { record: Box::new(record), answer: None });
        }
        self.submit(waiting, accepted, spec);
    }

    fn submit(&self, mut waiting: Waiting, accepted: Accepted, spec: Arc<FnSpec>) {
        let attempts = self.attempts(&spec);
        let mut keeper = Keeper {
            ledger: &self.ledger,
            run: Some(Waiting { attempts: waiting.attempts + 1, ..waiting }),
            // The function's own time runs meanwhile.
            patience: Duration::from_secs(u64::from(spec.timeout_s)) / 4,
            tally: Tally::default(),
            kept: Kept::default(),
        };
        let Accepted { id, created, fields, body, trigger, .. } = accepted;
        let mut call = Call { id, spec, fields, body: Body::Memory(body), accepted: Instant::now(), trigger };
        let submitted =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.agent.prepare(&mut call).and_then(|()| self.agent.submit(&call, &mut keeper, None))));
        let result = submitted.unwrap_or_else(|_| Err(CallError::Internal("a panic".to_owned())));
        // A run counts, and a start that failed; not that the node could not take it up.
        // Nor is it a failure that the stop has cut it, but a run like one that a kill has cut.
        let cut = keeper.run.is_none() && matches!(result, Err(CallError::Draining));
        let free = !cut && result.as_ref().is_err_and(not_begun);
        waiting.attempts += u32::from(!free);
        waiting.failed += u32::from(result.is_err() && !free && !cut);
        let mut record = keeper.tally.record(&call, &result, Timestamp::now());
        record.detached = true;
        record.created = created;
        record.attempts = waiting.attempts;
        match result {
            Ok(()) => self.ledger.ended(Ended::Done { record: Box::new(record), answer: Some(keeper.kept) }),
            Err(_) if free || goes_again(&waiting, attempts, cut) => self.again(waiting, record.error.unwrap_or_default()),
            Err(_) => {
                LEDGER.dead.add(1);
                self.ledger.ended(Ended::Done { record: Box::new(record), answer: None });
            }
        }
    }

    /// Puts the call back for later, with the attempts it has had.
    fn again(&self, mut waiting: Waiting, error: String) {
        let pause = FIRST_PAUSE_MS.saturating_mul(1 << waiting.failed.saturating_sub(1).min(16)).min(LONGEST_PAUSE_MS);
        waiting.due = Timestamp(self.ledger.shared.clock.now().0 + pause);
        LEDGER.retried.add(1);
        self.ledger.ended(Ended::Again { waiting, error });
    }

    fn attempts(&self, spec: &FnSpec) -> u32 {
        match spec.limits.max_attempts {
            0 => self.ledger.shared.settings.attempts.max(1),
            own => own,
        }
    }
}

fn need_mib(spec: &FnSpec) -> u64 {
    spec.memory_mib.saturating_add(spec.tmpfs_mib)
}

/// How often a call may run of whose runs the server's sudden end cuts some: it
/// did not fail. Not for ever, since it may be the call that ends the server; and
/// one that may run once only has had its run.
fn with_cut_ones(attempts: u32) -> u32 {
    if attempts == 1 { 1 } else { attempts.saturating_add(CUT_RUNS) }
}

/// Whether a call runs again after a run that failed or, `cut`, was cut.
fn goes_again(waiting: &Waiting, attempts: u32, cut: bool) -> bool {
    waiting.attempts < with_cut_ones(attempts) && (cut || waiting.failed < attempts)
}

/// The node could not take the call up: no fault of the function's.
fn not_begun(error: &CallError) -> bool {
    match error {
        CallError::Draining | CallError::WaitTimeout { .. } | CallError::QueueFull { .. } | CallError::NoCapacity { .. } => true,
        CallError::Launch(launch) => matches!(**launch, LaunchError::EngineAway { .. } | LaunchError::CalledOff { .. }),
        _ => false,
    }
}

fn ended_record(accepted: &Accepted, waiting: &Waiting, status: Status, why: &str) -> Record {
    Record { status, completed: Some(Timestamp::now()), attempts: waiting.attempts, error: Some(why.to_owned()), ..Record::of(accepted) }
}

/// Nobody listens: the answer is kept instead.
#[derive(Debug)]
struct Keeper<'l> {
    ledger: &'l Ledger,
    /// What is to be written down when the call has a container.
    run: Option<Waiting>,
    /// It waits so long for that.
    patience: Duration,
    tally: Tally,
    kept: Kept,
}

impl Keeper<'_> {
    /// INVARIANT: a run counts from when a container is there, before it is
    /// asked: a server that is killed while a call waits for one takes no run
    /// from it.
    fn begin(&mut self) {
        let Some(run) = self.run.take() else { return };
        if let Err(cause) = self.ledger.ask_within(self.patience, |done| Job::Begin(run, done)) {
            log::warn!("detached call {}: its run could not be written down ({cause}); should the server be killed now, it does not count", run.id);
        }
    }

    fn head(&mut self, head: &AnswerHead<'_>) {
        for (name, value) in head.fields {
            let value = String::from_utf8_lossy(value);
            self.kept.fields.push_str(&format!("{name}: {value}\n"));
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.tally.response_bytes += bytes.len() as u64;
        let room = ANSWER_BYTES - self.kept.body.len();
        self.kept.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.kept.cut |= bytes.len() > room;
    }
}

impl Caller for Keeper<'_> {
    fn whole(&mut self, head: &AnswerHead<'_>, body: &[u8]) -> Result<(), ClientGone> {
        self.head(head);
        self.take(body);
        Ok(())
    }
    fn begin(&mut self, head: &AnswerHead<'_>, _len: Option<u64>) -> Result<(), ClientGone> {
        self.head(head);
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.take(bytes);
        Ok(())
    }
    fn end(&mut self) -> Result<(), ClientGone> {
        Ok(())
    }
    fn passed(&mut self, moment: Moment) {
        if matches!(moment, Moment::Acquired { .. }) {
            self.begin();
        }
        self.tally.pass(moment);
    }
    fn metered(&self) -> bool {
        true
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn watch(&self, _gone: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_runs_take_nothing_from_those_that_may_fail_and_have_a_bound() {
        let after = |attempts, failed| Waiting { id: Id::MIN, fn_id: Id::MIN, priority: 0, due: Timestamp(0), attempts, failed, bytes: 0 };
        for (runs, failed, limit, cut, again) in [
            (1, 1, 2, false, true),
            (2, 2, 2, false, false),
            (2, 1, 2, false, true),
            (17, 1, 2, false, true),
            (17, 2, 2, false, false),
            (17, 0, 2, true, true),
            (18, 0, 2, true, false),
            (18, 1, 2, false, false),
            (1, 0, 1, true, false),
            (1, 1, 1, false, false),
        ] {
            assert_eq!(goes_again(&after(runs, failed), limit, cut), again, "{runs} runs, {failed} failed, of {limit}, cut: {cut}");
        }
    }
}
