//! Sees to it that a stop ends: a step that takes longer than it may is named,
//! and the process ends with 3.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::{LEFT_OVER, say};
use crate::pool::{Thread, spawn};

type Step = (&'static str, Duration);

/// What is left behind so far, and a thread that waits for the current step.
pub(super) struct Overseer {
    left: Arc<Mutex<Vec<String>>>,
    /// Dropped first: that ends the thread.
    steps: Option<Sender<Step>>,
    _thread: Option<Thread>,
}

impl Overseer {
    pub(super) fn start() -> Overseer {
        let left: Arc<Mutex<Vec<String>>> = Arc::default();
        let (steps, said) = bounded::<Step>(16);
        let of_thread = left.clone();
        let watch = move || {
            let Ok(mut step) = said.recv() else { return };
            loop {
                match said.recv_timeout(step.1) {
                    Ok(next) => step = next,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        of_thread.lock().push(format!("{} (not at its end after {} s)", step.0, step.1.as_secs()));
                        end(&of_thread.lock());
                    }
                }
            }
        };
        let thread = spawn("hob-overseer", watch).map_err(|e| log::warn!("nobody sees to it that the stop ends: {e}")).ok();
        Overseer { left, steps: Some(steps).filter(|_| thread.is_some()), _thread: thread }
    }

    /// The stop is at this step, which may take so long.
    pub(super) fn step(&self, what: &'static str, limit: Duration) {
        if let Some(steps) = &self.steps {
            let _ = steps.send((what, limit));
        }
    }

    pub(super) fn left(&self, what: impl IntoIterator<Item = String>) {
        self.left.lock().extend(what);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.left.lock().is_empty()
    }

    /// Names what was left and ends the process: joining what hangs would hang.
    pub(super) fn end(&self) -> ! {
        end(&self.left.lock())
    }
}

impl Drop for Overseer {
    fn drop(&mut self) {
        self.steps.take();
    }
}

fn end(left: &[String]) -> ! {
    say(&format!("hob: stopped, but left behind: {}", left.join("; ")));
    std::process::exit(i32::from(LEFT_OVER));
}
