//! Until when an operation may take, and what ends it earlier.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::error::ImageError;
use crate::pool::{Stop, wait_for};

#[derive(Debug, Clone, Copy)]
pub(super) struct Until<'s> {
    pub(super) deadline: Instant,
    pub(super) stop: &'s Stop,
}

impl Until<'_> {
    /// # Errors
    /// Stopped, or too late.
    pub(super) fn check(&self, what: &str) -> Result<(), ImageError> {
        if self.stop.fired() {
            Err(ImageError::CalledOff)
        } else if Instant::now() >= self.deadline {
            Err(ImageError::TimedOut { what: what.to_owned() })
        } else {
            Ok(())
        }
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for `time`, or until the stop or the deadline.
    ///
    /// # Errors
    /// Stopped, or too late.
    pub(super) fn pause(&self, time: Duration, what: &str) -> Result<(), ImageError> {
        let at = self.deadline.min(Instant::now() + time);
        // A poll that fails only makes the pause shorter.
        let _ = wait_for(self.stop.as_fd(), PollFlags::IN, None, None, Some(at));
        self.check(what)
    }
}
