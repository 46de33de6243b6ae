//! A fixed crew for slow jobs. The queue's bound is its users': one job per
//! container at most, and containers are bounded by tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::{SpawnError, Thread, spawn};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: usize,
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
    /// Starts `count` threads `<name>-0`, `<name>-1`, ….
    ///
    /// # Errors
    /// When the system refuses a thread; those already started are joined.
    pub fn start(name: &str, count: usize) -> Result<Lane, SpawnError> {
        let lane = Lane { shared: Arc::default(), crew: Mutex::default() };
        for n in 0..count {
            let shared = lane.shared.clone();
            match spawn(format!("{name}-{n}"), move || serve(&shared)) {
                Ok(thread) => lane.crew.lock().push(thread),
                Err(error) => {
                    lane.join();
                    return Err(error);
                }
            }
        }
        Ok(lane)
    }

    /// Queues a job. After `join` the job is run by the caller: nothing that
    /// was handed over is lost.
    pub fn push(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            return job();
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.work.notify_one();
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
                shared.work.wait(&mut queue);
            }
        };
        // A panicking job must not cost the crew a member for good.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            log::error!("a job panicked; its container is discarded");
        }
        shared.queue.lock().running -= 1;
        shared.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn runs_everything_even_past_a_panic_and_after_join() {
        let done = Arc::new(AtomicUsize::new(0));
        let lane = Lane::start("test-lane", 2).expect("threads");
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
}
