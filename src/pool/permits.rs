//! A fixed number of permits, handed out in order of arrival.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Bounds how many do something at once; the rest wait.
#[derive(Debug)]
pub struct Permits {
    /// A place in it is a permit.
    taken: Sender<()>,
    given_back: Receiver<()>,
}

/// One permit. Dropping it gives it back.
#[derive(Debug)]
pub struct Permit<'p>(&'p Permits);

impl Permits {
    /// At least one.
    pub fn new(count: usize) -> Permits {
        let (taken, given_back) = bounded(count.max(1));
        Permits { taken, given_back }
    }

    /// Waits for a permit; `None` when the deadline came first.
    pub fn take(&self, deadline: Instant) -> Option<Permit<'_>> {
        self.taken.send_deadline((), deadline).ok().map(|()| Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let _ = self.0.given_back.try_recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_there_are() {
        let permits = Permits::new(2);
        let now = Instant::now();
        let first = permits.take(now).expect("free");
        let _second = permits.take(now).expect("free");
        assert!(permits.take(now).is_none());
        drop(first);
        assert!(permits.take(now).is_some());
    }
}
