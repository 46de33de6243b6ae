//! The one thread that writes calls down. Whatever has gathered goes in one
//! transaction: that is what makes a durable call cheap.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::bodies::added;
use super::clock::Moment;
use super::database::{Changes, Database};
use super::logbook::Usage;
use super::packs::{fits, packed};
use super::queue::Waiting;
use super::record::{Accepted, Ended, Record};
use super::tidy::tidy;
use super::wish::Done;
use super::{RING_OF_GOOD, Shared};
use crate::agent::Log;
use crate::metrics::LEDGER;
use crate::model::{Id, Timestamp};

/// Most jobs in one transaction.
const BATCH: usize = 512;
/// Between transactions for what nobody waits for, when much of it comes.
const GATHER: Duration = Duration::from_millis(200);
/// A few records gather for this long: a transaction costs as much as dozens of
/// them. Who reads meanwhile has them written first.
const GATHER_FEW: Duration = Duration::from_secs(1);
/// Between looks for what is too old.
const TIDY: Duration = Duration::from_secs(30);
/// The same, at most: while nothing is written each pause is twice the last. What
/// may be kept for a time is then gone after about twice that, and an idle server
/// takes no CPU.
const TIDY_IDLE: Duration = Duration::from_secs(600);
/// Between tries to write down what failed to be.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// What is asked of the writer; `Done` is told once it is on disk. All are durable, but for a run's begin, which a
/// loss of power may undo, and the last.
#[derive(Debug)]
pub(super) enum Job {
    /// Gives the id of the call: its own, or the one accepted with its key.
    Accept(Box<Accepted>, Done<Id>),
    Begin(Waiting, Done<()>),
    /// Never given up: kept until it is on disk.
    Ended(Box<Ended>),
    /// Gives whether there was something to change: one that waits, or is dead.
    Cancel {
        waiting: Waiting,
        dead: bool,
        done: Done<bool>,
    },
    /// Gives whether it was dead.
    Revive(Waiting, Done<bool>),
    /// A callback was made, or is to be tried again at a time.
    Told {
        id: Id,
        ended: Timestamp,
        again: Option<(Timestamp, u32)>,
        done: Done<()>,
    },
    /// Records that have gathered are to be written now; not durable.
    Freshen(Done<()>),
}

impl Job {
    fn is_freshen(&self) -> bool {
        matches!(self, Job::Freshen(_))
    }

    /// Whether it is still wanted. What may come late is: a run's begin, a try.
    fn take_up(&self) -> bool {
        match self {
            Job::Accept(_, done) => done.take_up(),
            Job::Cancel { done, .. } | Job::Revive(_, done) => done.take_up(),
            Job::Begin(..) | Job::Ended(_) | Job::Told { .. } | Job::Freshen(_) => true,
        }
    }

    fn is_durable(&self) -> bool {
        !matches!(self, Job::Begin(..) | Job::Freshen(_))
    }
}

/// The writer's life: until the senders are gone, and everything is written.
pub(super) fn run(shared: &Shared, mut database: Database, jobs: &Receiver<Box<Job>>, bell: &Receiver<()>) {
    let mut due: Option<Instant> = None;
    let mut taken = Instant::now();
    let (mut tidy_due, mut tidy_pause) = (Instant::now() + Duration::from_secs(1), TIDY);
    let mut round = None;
    let mut unsettled: Vec<Job> = Vec::new();
    let mut usage = usage_of(&database);
    usage.bodies = database.bodies().unwrap_or(0);
    loop {
        let mut wake = due.map_or(tidy_due, |at| at.min(tidy_due));
        if !unsettled.is_empty() {
            wake = wake.min(Instant::now() + RETRY);
        }
        let mut batch = std::mem::take(&mut unsettled);
        let mut ended = false;
        select! {
            recv(jobs) -> job => match job {
                Ok(job) => batch.push(*job),
                Err(_) => ended = true,
            },
            recv(bell) -> _ => {
                let at = due_at(Instant::now(), taken, shared.has_many());
                due = Some(due.map_or(at, |before| before.min(at)));
            }
            recv(crossbeam_channel::at(wake)) -> _ => {}
        }
        batch.extend(jobs.try_iter().take(BATCH).map(|job| *job));
        let gathered = if ended || due.is_some_and(|at| Instant::now() >= at) || batch.iter().any(|job| !job.is_freshen()) {
            (due, taken) = (None, Instant::now());
            Gathered { records: shared.take_records(), logs: shared.take_logs() }
        } else if !batch.is_empty() {
            // Who reads logs looks at those that wait here too.
            Gathered { records: shared.take_records(), logs: Vec::new() }
        } else {
            Gathered::default()
        };
        if !batch.is_empty() || !gathered.is_empty() {
            unsettled = write(shared, &mut database, batch, &gathered, &mut usage);
            shared.ring.lock().writing = false;
            (tidy_due, tidy_pause) = (tidy_due.min(Instant::now() + TIDY), TIDY);
            if usage.bodies > shared.settings.answer_bytes {
                tidy_due = tidy_due.min(Instant::now() + GATHER);
            }
        }
        if ended {
            if !unsettled.is_empty() {
                log::error!("{} ends of detached calls could not be written down: they run again at the next start", unsettled.len());
            }
            return;
        }
        if Instant::now() >= tidy_due {
            let more = tidy(shared, &mut database, &mut usage, &mut round);
            let longer = (tidy_pause * 2).min(TIDY_IDLE);
            tidy_due = Instant::now() + if more { GATHER } else { std::mem::replace(&mut tidy_pause, longer) };
        }
    }
}

/// When what has gathered is to be written, of which some was `taken` before.
fn due_at(now: Instant, taken: Instant, many: bool) -> Instant {
    if many { now.max(taken + GATHER) } else { now + GATHER_FEW }
}

impl Shared {
    /// Too much to wait for long: logs are bounded more tightly than records.
    fn has_many(&self) -> bool {
        self.has_logs() || self.ring.lock().records.len() >= RING_OF_GOOD
    }

    fn take_records(&self) -> Vec<Record> {
        let mut ring = self.ring.lock();
        ring.writing = !ring.records.is_empty();
        std::mem::take(&mut ring.records)
    }
}

/// What came without a wish to be told of its end.
#[derive(Default)]
struct Gathered {
    records: Vec<Record>,
    logs: Vec<Arc<Log>>,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.logs.is_empty()
    }
}

/// What is on disk of logs; nothing, if even that cannot be read: it is looked
/// at again after the next failure.
fn usage_of(database: &Database) -> Usage {
    database.log_usage().unwrap_or_else(|error| {
        log::error!("{error}");
        Usage::default()
    })
}

/// After a transaction that failed.
pub(super) fn look_again(database: &Database, usage: &mut Usage) {
    let bodies = usage.bodies;
    *usage = usage_of(database);
    usage.bodies = bodies;
}

/// One transaction. Returns what must be tried again.
fn write(shared: &Shared, database: &mut Database, batch: Vec<Job>, gathered: &Gathered, usage: &mut Usage) -> Vec<Job> {
    let Gathered { records, logs } = gathered;
    let limits = &shared.settings;
    let now = shared.clock.moment();
    let durable = batch.iter().any(Job::is_durable);
    let (mut good, others): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|record| fits(record));
    let packs = packed(&mut good);
    let mut applied = Vec::with_capacity(batch.len());
    let committed = database.commit(durable, |changes| {
        for job in &batch {
            applied.push(apply(changes, job, now)?);
        }
        others.iter().try_for_each(|record| changes.put(record))?;
        packs.iter().try_for_each(|pack| changes.put_pack(pack))?;
        logs.iter().try_for_each(|log| changes.put_log(log, usage, limits.log_bytes_per_function, limits.log_bytes))
    });
    match committed {
        Ok(()) => {
            shared.ends_wait.store(false, Ordering::SeqCst);
            for (job, applied) in batch.into_iter().zip(applied) {
                usage.bodies += added(&job);
                settle(shared, job, applied);
            }
            Vec::new()
        }
        Err(error) => {
            log::error!("{error}; {} records and {} logs are lost, detached calls are refused or tried again", records.len(), logs.len());
            LEDGER.records_dropped.add(records.len() as u64);
            LEDGER.logs_dropped.add(logs.len() as u64);
            look_again(database, usage);
            let text = error.told();
            let again: Vec<Job> = batch.into_iter().filter_map(|job| refuse(shared, job, &text)).collect();
            shared.ends_wait.store(!again.is_empty(), Ordering::SeqCst);
            again
        }
    }
}

/// What came of a job in the database.
enum Applied {
    Done,
    /// There was nothing to be done (any more).
    Nothing,
    /// The accepted call is a repeat of this one.
    Repeats(Id),
    /// A dead call runs again, and this is told of its end.
    Revived(Option<String>),
}

impl Applied {
    fn if_any(changed: bool) -> Applied {
        if changed { Applied::Done } else { Applied::Nothing }
    }
}

fn apply(changes: &Changes<'_>, job: &Job, now: Moment) -> rusqlite::Result<Applied> {
    if !job.take_up() {
        return Ok(Applied::Nothing);
    }
    match job {
        Job::Accept(call, _) => {
            if let Some(key) = &call.key
                && let Some(id) = changes.keyed(&call.fn_id, key)?
            {
                return Ok(Applied::Repeats(id));
            }
            changes.accept(call)?;
        }
        Job::Begin(waiting, _) => changes.begin(waiting, now)?,
        Job::Ended(ended) => changes.ended(ended, now)?,
        Job::Cancel { waiting, dead, .. } => return changes.cancel(waiting, *dead, now).map(Applied::if_any),
        Job::Revive(waiting, _) => return Ok(changes.revive(waiting, now)?.map_or(Applied::Nothing, Applied::Revived)),
        Job::Told { id, ended, again, .. } => return changes.told(id, *ended, *again).map(Applied::if_any),
        Job::Freshen(_) => {}
    }
    Ok(Applied::Done)
}

/// The job is on disk: memory follows, and whoever waits is told.
fn settle(shared: &Shared, job: Job, applied: Applied) {
    let changed = matches!(applied, Applied::Done | Applied::Revived(_));
    match job {
        Job::Accept(call, done) => {
            let id = match applied {
                Applied::Repeats(id) => {
                    shared.promises.remove(&call.id);
                    id
                }
                Applied::Nothing => return,
                Applied::Done | Applied::Revived(_) => {
                    let bytes = call.body.len() as u64;
                    let due = Timestamp(shared.clock.now().0.saturating_add(call.due.0.saturating_sub(call.created.0)));
                    shared.put(Waiting { id: call.id, fn_id: call.fn_id, priority: call.priority, due, attempts: 0, failed: 0, bytes });
                    call.id
                }
            };
            let _ = done.send(Ok(id));
        }
        Job::Told { id, again, done, .. } => {
            if again.is_none() && changed {
                shared.promises.remove(&id);
            }
            let _ = done.send(Ok(()));
        }
        Job::Begin(_, done) | Job::Freshen(done) => {
            let _ = done.send(Ok(()));
        }
        Job::Cancel { done, .. } => {
            shared.count_queued();
            shared.may_be_told();
            let _ = done.send(Ok(changed));
        }
        Job::Ended(ended) => match *ended {
            Ended::Done { record, .. } => {
                shared.over(&record.id);
                shared.may_be_told();
            }
            Ended::Again { waiting, .. } => shared.put(waiting),
        },
        Job::Revive(waiting, done) => {
            if let Applied::Revived(Some(url)) = &applied {
                shared.promises.again(waiting.id, waiting.fn_id, url);
            }
            if changed {
                shared.put(waiting);
            }
            let _ = done.send(Ok(changed));
        }
    }
}

/// Tells whoever waits that it failed. Gives back what must be tried again.
fn refuse(shared: &Shared, job: Job, text: &str) -> Option<Job> {
    match job {
        Job::Accept(call, done) => {
            // Who has taken the wish back has done so too.
            shared.promises.remove(&call.id);
            let _ = done.send(Err(text.to_owned()));
            None
        }
        Job::Begin(_, done) | Job::Told { done, .. } | Job::Freshen(done) => {
            let _ = done.send(Err(text.to_owned()));
            None
        }
        Job::Cancel { waiting, dead, done } => {
            // Who has taken the wish back has put the call back.
            if !dead && done.take_up() {
                shared.put(waiting);
            }
            let _ = done.send(Err(text.to_owned()));
            None
        }
        Job::Revive(_, done) => {
            let _ = done.send(Err(text.to_owned()));
            None
        }
        ended @ Job::Ended(_) => Some(ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_written_soon_and_little_later() {
        let taken = Instant::now();
        let now = taken + GATHER / 2;
        assert_eq!(due_at(now, taken, true), taken + GATHER, "not more often than that");
        assert_eq!(due_at(taken + 2 * GATHER, taken, true), taken + 2 * GATHER);
        assert_eq!(due_at(now, taken, false), now + GATHER_FEW);
    }
}
