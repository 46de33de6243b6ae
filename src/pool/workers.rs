//! Elastic named threads for jobs of one kind.
//!
//! A job goes to the worker that became idle last (its caches are warm, the
//! others age out); if none is idle a new one is started, up to the cap; at
//! the cap the job waits its turn in a bounded FIFO; beyond that the giver
//! gets it back. A worker that was idle for ten seconds ends.
//!
//! Urgent jobs stand outside of all that: each has a thread at once, and that
//! thread does not count towards the cap while it runs one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::spawn::{Thread, spawn};

/// What a worker does with a job. `S` is the worker's own state (buffers):
/// made when the thread starts, made anew after a panic.
type Run<J, S> = dyn Fn(J, &mut S, Pressure<'_>) + Send + Sync;

/// Lets a job see whether others wait for a thread: one that lingers for
/// comfort should then give its thread back.
#[derive(Debug, Clone, Copy)]
pub struct Pressure<'p>(&'p AtomicUsize);

impl Pressure<'_> {
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// How many, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct WorkersConfig {
    /// Thread names are `<name>-<n>`.
    pub name: &'static str,
    /// Most threads at the same time.
    pub cap: usize,
    /// Most jobs waiting while all threads are busy.
    pub backlog: usize,
    /// An idle thread ends after this.
    pub idle: Duration,
}

/// The pool. Dropping it closes it and joins without a limit: call
/// [`Workers::join`] for a bounded end.
pub struct Workers<J: Send + 'static, S: Default + 'static> {
    shared: Arc<Shared<J, S>>,
}

/// All threads are busy and the backlog is full (or the pool is closed, or the
/// system has no thread to give): the job comes back.
pub struct Full<J>(pub J);

/// Threads that did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("still running after {waited:?}: {}", names.join(", "))]
pub struct NotJoined {
    pub waited: Duration,
    pub names: Vec<String>,
}

struct Shared<J, S> {
    config: WorkersConfig,
    run: Box<Run<J, S>>,
    state: Mutex<State<J>>,
    /// Rung when a thread ends.
    ended: Condvar,
    /// Jobs in the backlog, readable without the lock.
    waiting: AtomicUsize,
    panics: AtomicUsize,
}

struct State<J> {
    /// Urgent ones first.
    jobs: VecDeque<J>,
    /// How many of `jobs` are urgent.
    urgent: usize,
    /// Urgent jobs that are not done: so many threads beyond the cap.
    beside: usize,
    /// Idle workers, the latest on top. A worker is woken by being taken off.
    idle: Vec<(u64, Arc<Condvar>)>,
    live: usize,
    /// Of those, the ones that the system has not given yet.
    starting: usize,
    /// Threads started or woken for a job they have not taken yet.
    promised: usize,
    next: u64,
    threads: HashMap<u64, Thread>,
    /// Threads on their last instructions, to be joined by whoever comes next.
    ended: Vec<u64>,
    closed: bool,
}

impl<J> State<J> {
    /// An urgent job is the next: the thread that comes for it finds it first.
    fn line_up(&mut self, job: J, urgent: bool) {
        if urgent {
            self.jobs.push_front(job);
            self.urgent += 1;
            self.beside += 1;
        } else {
            self.jobs.push_back(job);
        }
    }

    /// Takes back what `line_up` has just put in, or another of its kind.
    fn take_back(&mut self, urgent: bool) -> Option<J> {
        if urgent {
            self.beside -= usize::from(self.urgent > 0);
            return self.take_urgent();
        }
        if self.jobs.len() > self.urgent { self.jobs.pop_back() } else { None }
    }

    fn take_urgent(&mut self) -> Option<J> {
        self.urgent = self.urgent.checked_sub(1)?;
        self.jobs.pop_front()
    }

    /// Threads that count towards the cap.
    fn ordinary(&self) -> usize {
        self.live.saturating_sub(self.beside)
    }
}

impl<J: Send + 'static, S: Default + 'static> Workers<J, S> {
    /// A pool without threads; they come with the jobs.
    pub fn new(config: WorkersConfig, run: impl Fn(J, &mut S, Pressure<'_>) + Send + Sync + 'static) -> Workers<J, S> {
        let state = State {
            jobs: VecDeque::new(),
            urgent: 0,
            beside: 0,
            idle: Vec::new(),
            live: 0,
            starting: 0,
            promised: 0,
            next: 0,
            threads: HashMap::new(),
            ended: Vec::new(),
            closed: false,
        };
        Workers {
            shared: Arc::new(Shared {
                config,
                run: Box::new(run),
                state: Mutex::new(state),
                ended: Condvar::new(),
                waiting: AtomicUsize::new(0),
                panics: AtomicUsize::new(0),
            }),
        }
    }

    /// Has `job` done by some worker, soon.
    ///
    /// # Errors
    /// [`Full`] with the job.
    pub fn give(&self, job: J) -> Result<(), Full<J>> {
        self.give_as(job, false)
    }

    /// The same at once: by the worker that has been idle for longest, since the
    /// kernel lets it run the soonest, or by one beyond the cap where there is
    /// none: for jobs that hold what others wait for, and are few for that.
    ///
    /// # Errors
    /// [`Full`] with the job.
    pub fn give_at_once(&self, job: J) -> Result<(), Full<J>> {
        self.give_as(job, true)
    }

    fn give_as(&self, job: J, urgent: bool) -> Result<(), Full<J>> {
        let shared = &self.shared;
        // Declared before the lock, so they are joined after it is let go.
        let mut dead = Vec::new();
        let mut state = shared.state.lock();
        if state.closed {
            return Err(Full(job));
        }
        shared.take_ended(&mut state, &mut dead);
        let idle = if urgent && !state.idle.is_empty() { Some(state.idle.remove(0)) } else { state.idle.pop() };
        if let Some((_, bell)) = idle {
            state.line_up(job, urgent);
            state.promised += 1;
            shared.note(&state);
            drop(state);
            bell.notify_one();
            return Ok(());
        }
        if !urgent && state.ordinary() >= shared.config.cap {
            if state.jobs.len() >= shared.config.backlog + state.promised {
                return Err(Full(job));
            }
            state.jobs.push_back(job);
            shared.note(&state);
            return Ok(());
        }
        state.live += 1;
        state.starting += 1;
        state.promised += 1;
        let number = state.next;
        state.next += 1;
        state.line_up(job, urgent);
        shared.note(&state);
        drop(state);
        self.start(number, urgent)
    }

    /// Threads there are now.
    pub fn live(&self) -> usize {
        self.shared.state.lock().live
    }

    /// Jobs that panicked so far.
    pub fn panics(&self) -> usize {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// Takes no more jobs. Those that nobody has begun come back, once.
    pub fn close(&self) -> impl Iterator<Item = J> + use<J, S> {
        let left = self.shared.close(&mut self.shared.state.lock());
        left.into_iter()
    }

    /// Takes no more jobs, drops those that wait, and joins every thread.
    ///
    /// # Errors
    /// [`NotJoined`] names the threads that still run at `deadline`; they are
    /// let go of only by a later, successful `join`.
    pub fn join(&self, deadline: Instant) -> Result<(), NotJoined> {
        let started = Instant::now();
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let left = shared.close(&mut state);
        while state.live > 0 {
            if shared.ended.wait_until(&mut state, deadline).timed_out() && state.live > 0 {
                let ended: Vec<u64> = state.ended.clone();
                let names = state.threads.iter().filter(|(n, _)| !ended.contains(n)).map(|(_, t)| t.name().to_owned()).collect();
                return Err(NotJoined { waited: started.elapsed(), names });
            }
        }
        let threads: Vec<Thread> = state.threads.drain().map(|(_, t)| t).collect();
        state.ended.clear();
        drop(state);
        drop(left);
        threads.into_iter().for_each(Thread::join);
        Ok(())
    }

    /// Starts worker `number`; the job it is for is in the queue already.
    fn start(&self, number: u64, urgent: bool) -> Result<(), Full<J>> {
        let shared = Arc::clone(&self.shared);
        match spawn(format!("{}-{number}", self.shared.config.name), move || shared.work(number)) {
            Ok(thread) => {
                let mut state = self.shared.state.lock();
                state.starting -= 1;
                state.threads.insert(number, thread);
                Ok(())
            }
            Err(error) => {
                log::warn!("{error}");
                let mut state = self.shared.state.lock();
                state.live -= 1;
                state.starting -= 1;
                state.promised = state.promised.saturating_sub(1);
                // With others alive the job just waits for one of them; not so with
                // those that may not come either.
                let job = if state.live == state.starting { state.take_back(urgent) } else { None };
                self.shared.note(&state);
                job.map_or(Ok(()), |job| Err(Full(job)))
            }
        }
    }
}

impl<J, S: Default> Shared<J, S> {
    /// A worker's whole life.
    fn work(&self, number: u64) {
        let mut own = S::default();
        {
            let mut state = self.state.lock();
            state.promised = state.promised.saturating_sub(1);
        }
        let mut was_urgent = false;
        while let Some((job, urgent)) = self.next_job(number, was_urgent) {
            was_urgent = urgent;
            if catch_unwind(AssertUnwindSafe(|| (self.run)(job, &mut own, Pressure(&self.waiting)))).is_err() {
                self.panics.fetch_add(1, Ordering::Relaxed);
                log::error!("{}-{number}: a job panicked; the thread goes on", self.config.name);
                own = S::default();
            }
        }
        self.ended.notify_all();
    }

    /// The next job and whether it is urgent, or `None` when it is time to end:
    /// the thread is then counted as gone already, or a job might be left for it.
    fn next_job(&self, number: u64, was_urgent: bool) -> Option<(J, bool)> {
        let mut state = self.state.lock();
        state.beside -= usize::from(was_urgent);
        let mut bell = None;
        let until = Instant::now() + self.config.idle;
        let mut late = false;
        loop {
            if let Some(job) = state.take_urgent() {
                self.note(&state);
                return Some((job, true));
            }
            // Beyond the cap, for an urgent job that is done: the others' jobs are not for it.
            if state.closed || state.ordinary() > self.config.cap {
                break;
            }
            if let Some(job) = state.jobs.pop_front() {
                self.note(&state);
                return Some((job, false));
            }
            if late {
                break;
            }
            let bell = bell.get_or_insert_with(|| Arc::new(Condvar::new()));
            state.idle.push((number, Arc::clone(bell)));
            late = bell.wait_until(&mut state, until).timed_out();
            match state.idle.iter().position(|(n, _)| *n == number) {
                Some(at) => drop(state.idle.remove(at)),
                // Taken off the stack: for a job, which another may have taken.
                None => state.promised = state.promised.saturating_sub(1),
            }
        }
        state.live -= 1;
        state.ended.push(number);
        self.note(&state);
        None
    }

    fn close(&self, state: &mut State<J>) -> VecDeque<J> {
        state.closed = true;
        for (_, bell) in state.idle.drain(..) {
            bell.notify_one();
        }
        let left = std::mem::take(&mut state.jobs);
        state.beside -= std::mem::take(&mut state.urgent);
        self.note(state);
        left
    }

    fn note(&self, state: &State<J>) {
        self.waiting.store(state.jobs.len().saturating_sub(state.promised), Ordering::Relaxed);
    }

    fn take_ended(&self, state: &mut State<J>, threads: &mut Vec<Thread>) {
        // A thread may end before its handle is in the table: then its number
        // stays until it is.
        state.ended.retain(|number| match state.threads.remove(number) {
            Some(thread) => {
                threads.push(thread);
                false
            }
            None => true,
        });
    }
}

impl<J: Send + 'static, S: Default + 'static> Drop for Workers<J, S> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let left = self.shared.close(&mut state);
        let threads: Vec<Thread> = state.threads.drain().map(|(_, t)| t).collect();
        drop(state);
        drop(left);
        drop(threads);
    }
}

impl<J: Send + 'static, S: Default + 'static> fmt::Debug for Workers<J, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("config", &self.shared.config).field("live", &self.live()).finish_non_exhaustive()
    }
}

impl<J> fmt::Debug for Full<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Sender, bounded};

    type Job = Box<dyn FnOnce() + Send>;

    fn pool(cap: usize, backlog: usize, idle: Duration) -> Workers<Job, ()> {
        Workers::new(WorkersConfig { name: "test", cap, backlog, idle }, |job: Job, (): &mut (), _| job())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(120)
    }

    fn until(what: impl Fn() -> bool) {
        let deadline = soon();
        while !what() {
            assert!(Instant::now() < deadline, "condition not met in time");
            std::thread::yield_now();
        }
    }

    /// A job that runs until the returned sender is dropped.
    fn held(started: Sender<()>) -> (Job, Sender<()>) {
        let (release, wait) = bounded::<()>(1);
        let job = Box::new(move || {
            let _ = started.send(());
            let _ = wait.recv();
        });
        (job, release)
    }

    #[test]
    fn grows_to_the_cap_queues_then_says_full() {
        let workers = pool(2, 1, Duration::from_secs(10));
        let (started, starts) = bounded(8);
        let jobs: Vec<_> = (0..4).map(|_| held(started.clone())).collect();
        let mut releases = Vec::new();
        let mut refused = 0;
        for (job, release) in jobs {
            match workers.give(job) {
                Ok(()) => releases.push(release),
                Err(Full(_)) => refused += 1,
            }
        }
        assert_eq!(refused, 1, "two run, one waits, one comes back");
        for _ in 0..2 {
            starts.recv_timeout(Duration::from_secs(120)).expect("two start at once");
        }
        assert!(Pressure(&workers.shared.waiting).is_high());
        assert_eq!(workers.live(), 2);
        releases.clear();
        starts.recv_timeout(Duration::from_secs(120)).expect("the third gets a thread");
        until(|| !Pressure(&workers.shared.waiting).is_high());
        workers.join(soon()).expect("all end");
        assert_eq!(workers.live(), 0);
    }

    #[test]
    fn an_urgent_job_waits_for_nobody() {
        let workers = pool(1, 8, Duration::from_secs(10));
        let (started, starts) = bounded(8);
        let (job, first) = held(started.clone());
        workers.give(job).expect("room");
        starts.recv_timeout(Duration::from_secs(120)).expect("runs");
        let (job, second) = held(started.clone());
        workers.give(job).expect("waits");
        let (done, wait) = bounded(1);
        workers.give_at_once(Box::new(move || done.send(()).expect("the test listens"))).expect("beyond the cap");
        wait.recv_timeout(Duration::from_secs(120)).expect("done while the only thread of the cap is held");
        drop(first);
        starts.recv_timeout(Duration::from_secs(120)).expect("the one that waited runs too");
        drop(second);
        workers.join(soon()).expect("all end");
    }

    #[test]
    fn an_urgent_job_takes_no_place_and_leaves_no_thread() {
        let workers = pool(1, 8, Duration::from_secs(10));
        let (started, starts) = bounded(8);
        let (job, urgent) = held(started.clone());
        workers.give_at_once(job).expect("a thread");
        starts.recv_timeout(Duration::from_secs(120)).expect("runs");
        let (job, first) = held(started.clone());
        workers.give(job).expect("room");
        starts.recv_timeout(Duration::from_secs(120)).expect("runs beside the urgent one");
        let (job, second) = held(started.clone());
        workers.give(job).expect("waits");
        drop(urgent);
        until(|| workers.live() == 1);
        assert!(Pressure(&workers.shared.waiting).is_high(), "the thread beyond the cap ended and took no job of the others");
        drop(first);
        starts.recv_timeout(Duration::from_secs(120)).expect("its turn has come");
        drop(second);
        workers.join(soon()).expect("all end");
        assert_eq!(workers.shared.state.lock().beside, 0);
    }

    #[test]
    fn the_same_thread_is_used_again() {
        let workers = pool(8, 8, Duration::from_secs(10));
        for _ in 0..100 {
            let (done, wait) = bounded(1);
            workers.give(Box::new(move || done.send(()).expect("the test listens"))).expect("room");
            wait.recv_timeout(Duration::from_secs(120)).expect("done");
            // The worker must be idle again before the next job is given.
            until(|| workers.shared.state.lock().idle.len() == 1);
        }
        assert_eq!(workers.live(), 1);
    }

    #[test]
    fn idle_threads_end_and_are_joined() {
        let workers = pool(4, 4, Duration::from_millis(5));
        let (started, starts) = bounded(8);
        let held: Vec<_> = (0..4).map(|_| held(started.clone())).collect();
        let mut releases = Vec::new();
        for (job, release) in held {
            workers.give(job).expect("room");
            releases.push(release);
        }
        for _ in 0..4 {
            starts.recv_timeout(Duration::from_secs(120)).expect("all run");
        }
        drop(releases);
        until(|| workers.live() == 0);
        workers.give(Box::new(|| ())).expect("a new one is started");
        until(|| workers.live() == 0);
        assert!(workers.shared.state.lock().threads.len() <= 1, "ended threads were joined by the next giver");
        workers.join(soon()).expect("all end");
    }

    #[test]
    fn a_panic_costs_neither_the_thread_nor_the_next_job() {
        let workers = pool(1, 8, Duration::from_secs(10));
        let (done, wait) = bounded(1);
        workers.give(Box::new(|| panic!("on purpose"))).expect("room");
        workers.give(Box::new(move || done.send(()).expect("the test listens"))).expect("room");
        wait.recv_timeout(Duration::from_secs(120)).expect("the next job runs");
        assert_eq!((workers.panics(), workers.live()), (1, 1));
        workers.join(soon()).expect("all end");
    }

    #[test]
    fn join_names_who_does_not_end() {
        let workers = pool(1, 8, Duration::from_secs(10));
        let (started, starts) = bounded(1);
        let (job, release) = held(started);
        workers.give(job).expect("room");
        starts.recv_timeout(Duration::from_secs(120)).expect("runs");
        let error = workers.join(Instant::now() + Duration::from_millis(10)).expect_err("still held");
        assert_eq!(error.names, ["test-0"]);
        assert!(workers.give(Box::new(|| ())).is_err(), "closed");
        drop(release);
        workers.join(soon()).expect("now it ends");
    }
}
