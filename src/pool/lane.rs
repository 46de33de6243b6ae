//! A bounded crew for slow jobs, its threads started as jobs first need them: a
//! server that starts no container has none. The queue's bound is its users': one
//! job per container at most, and containers are bounded by tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::{Thread, spawn};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: usize,
    /// Threads that wait for a job, or have been told of one.
    idle: usize,
    /// Threads there are, or are about to be.
    crew: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Told when a job ended.
    done: Condvar,
}

/// Named threads that run jobs in order of arrival.
pub struct Lane {
    name: String,
    most: usize,
    shared: Arc<Shared>,
    crew: Mutex<Vec<Thread>>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (queued, running) = self.load();
        f.debug_struct("Lane").field("queued", &queued).field("running", &running).finish()
    }
}

impl Lane {
    /// At most `most` threads `<name>-0`, `<name>-1`, …, none of them yet.
    pub fn new(name: &str, most: usize) -> Lane {
        Lane { name: name.to_owned(), most: most.max(1), shared: Arc::default(), crew: Mutex::default() }
    }

    /// Queues a job. After `join`, and where the system has no thread to give,
    /// the job is run by the caller: nothing that was handed over is lost.
    pub fn push(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            return job();
        }
        queue.jobs.push_back(Box::new(job));
        let more = queue.idle < queue.jobs.len() && queue.crew < self.most;
        queue.crew += usize::from(more);
        drop(queue);
        self.shared.work.notify_one();
        if more {
            self.grow();
        }
    }

    /// Starts the thread that `push` has counted. Without one, and nobody else
    /// there, what waits is done here.
    fn grow(&self) {
        let mut crew = self.crew.lock();
        // INVARIANT: looked at under the crew's lock, which `join` takes after it
        // has closed the queue: no thread is started that nobody would join.
        let closed = self.shared.queue.lock().closed;
        let number = crew.len();
        let shared = self.shared.clone();
        let started = if closed { None } else { spawn(format!("{}-{number}", self.name), move || serve(&shared)).map_err(|e| log::error!("{e}")).ok() };
        match started {
            Some(thread) => crew.push(thread),
            None => {
                drop(crew);
                let mut queue = self.shared.queue.lock();
                queue.crew -= 1;
                while queue.crew == 0
                    && let Some(job) = queue.jobs.pop_front()
                {
                    queue.running += 1;
                    drop(queue);
                    self.shared.run(job);
                    queue = self.shared.queue.lock();
                }
            }
        }
    }

    /// Jobs queued and running.
    pub fn load(&self) -> (usize, usize) {
        let queue = self.shared.queue.lock();
        (queue.jobs.len(), queue.running)
    }

    /// Runs what is queued, then ends and joins the crew; false when a job did
    /// not end by `deadline`: then its thread is left, and named in the log.
    pub fn join_by(&self, deadline: Instant) -> bool {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        self.shared.work.notify_all();
        while queue.running > 0 || !queue.jobs.is_empty() {
            if self.shared.done.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        let ended = queue.running == 0 && queue.jobs.is_empty();
        drop(queue);
        if ended {
            self.join();
            return true;
        }
        for thread in std::mem::take(&mut *self.crew.lock()) {
            if !thread.is_finished() {
                log::error!("thread {} is still at a job", thread.name());
            }
            thread.leave();
        }
        false
    }

    /// Runs what is queued, then ends and joins the crew. Idempotent.
    pub fn join(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
        let crew = std::mem::take(&mut *self.crew.lock());
        for thread in crew {
            thread.join();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    /// One job that was counted as running.
    fn run(&self, job: Job) {
        // A panicking job must not cost the crew a member for good.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            log::error!("a job panicked; its container is discarded");
        }
        self.queue.lock().running -= 1;
        self.done.notify_all();
    }
}

fn serve(shared: &Shared) {
    loop {
        let job = {
            let mut queue = shared.queue.lock();
            loop {
                if let Some(job) = queue.jobs.pop_front() {
                    queue.running += 1;
                    break job;
                }
                if queue.closed {
                    return;
                }
                queue.idle += 1;
                shared.work.wait(&mut queue);
                queue.idle -= 1;
            }
        };
        shared.run(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn runs_everything_even_past_a_panic_and_after_join() {
        let done = Arc::new(AtomicUsize::new(0));
        let lane = Lane::new("test-lane", 2);
        assert_eq!(lane.crew.lock().len(), 0, "no job, no thread");
        for n in 0..100 {
            let done = done.clone();
            lane.push(move || {
                done.fetch_add(1, Ordering::SeqCst);
                assert!(n != 50, "one job panics");
            });
        }
        lane.join();
        assert_eq!(done.load(Ordering::SeqCst), 100);
        let late = done.clone();
        lane.push(move || {
            late.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.load(Ordering::SeqCst), 101);
    }
    #[test]
    fn threads_come_with_jobs_and_are_used_again() {
        let lane = Lane::new("test-lane", 3);
        let (started, starts) = crossbeam_channel::bounded(8);
        let held = |started: crossbeam_channel::Sender<()>| {
            let (release, wait) = crossbeam_channel::bounded::<()>(1);
            let job = move || {
                let _ = started.send(());
                let _ = wait.recv();
            };
            (job, release)
        };
        let soon = std::time::Duration::from_secs(120);
        for round in 0..20 {
            let (job, release) = held(started.clone());
            lane.push(job);
            starts.recv_timeout(soon).expect("it runs");
            drop(release);
            let until = Instant::now() + soon;
            while lane.shared.queue.lock().idle != 1 {
                assert!(Instant::now() < until, "round {round}: the thread waits again");
                std::thread::yield_now();
            }
        }
        assert_eq!(lane.crew.lock().len(), 1, "one after the other needs one");
        let (jobs, releases): (Vec<_>, Vec<_>) = (0..5).map(|_| held(started.clone())).unzip();
        jobs.into_iter().for_each(|job| lane.push(job));
        for _ in 0..3 {
            starts.recv_timeout(soon).expect("as many as may run at once");
        }
        assert_eq!((lane.crew.lock().len(), lane.load()), (3, (2, 3)), "the rest waits");
        drop(releases);
        assert!(lane.join_by(Instant::now() + soon));
    }
}
