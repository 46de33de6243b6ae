//! How many cells wait for the next burst: pure.

use std::time::{Duration, Instant};

/// The pool is filled up when no start has come for so long: the CPU belongs
/// to the functions that boot.
const QUIET: Duration = Duration::from_millis(5);
/// But it is filled up at the latest so long after it was last full.
const LATEST: Duration = Duration::from_millis(100);
/// After so long without a burst of its size, half of it is kept ready.
const FORGET: Duration = Duration::from_secs(600);
/// So many are kept however large a burst was, unless the setting says more.
pub(super) const MOST: usize = 64;

/// Counts starts, tells how many cells to keep and when to make them.
#[derive(Debug)]
pub(super) struct Spare {
    floor: usize,
    /// Starts since the pool was last full, and when the first and last came.
    burst: usize,
    first: Option<Instant>,
    last: Option<Instant>,
    /// What bursts have shown to be of use, and since when.
    peak: usize,
    peak_at: Option<Instant>,
}

impl Spare {
    pub(super) fn new(floor: usize) -> Spare {
        Spare { floor, burst: 0, first: None, last: None, peak: 0, peak_at: None }
    }

    /// A cell was taken, or asked for.
    pub(super) fn note_start(&mut self, now: Instant) {
        self.forget(now);
        self.burst += 1;
        // Once all of them were taken nobody knows how many more would have
        // been: it is doubled.
        let kept = self.target(now);
        if self.burst >= kept {
            self.peak = kept.saturating_mul(2).min(MOST);
        }
        if self.burst >= self.peak / 2 {
            self.peak_at = Some(now);
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// A start was brought to its end.
    pub(super) fn note_end(&mut self, now: Instant) {
        self.last = self.last.max(Some(now));
    }

    /// The pool was filled up (as far as it could be).
    pub(super) fn note_full(&mut self) {
        (self.burst, self.first, self.last) = (0, None, None);
    }

    /// Cells to keep ready.
    pub(super) fn target(&mut self, now: Instant) -> usize {
        self.forget(now);
        self.peak.min(MOST).max(self.floor)
    }

    /// When to look at the pool next: after a burst, or to forget one.
    pub(super) fn due(&self) -> Option<Instant> {
        let refill = self.last.zip(self.first).map(|(last, first)| (last + QUIET).min(first + LATEST));
        let forget = self.peak_at.filter(|_| self.peak > self.floor).map(|at| at + FORGET);
        refill.into_iter().chain(forget).min()
    }

    fn forget(&mut self, now: Instant) {
        while let Some(at) = self.peak_at.filter(|at| now.saturating_duration_since(*at) >= FORGET) {
            self.peak /= 2;
            self.peak_at = Some(at + FORGET).filter(|_| self.peak > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(spare: &mut Spare, count: usize, now: Instant) {
        for _ in 0..count {
            spare.note_start(now);
        }
    }

    #[test]
    fn a_pool_that_was_emptied_is_doubled() {
        let now = Instant::now();
        let mut spare = Spare::new(16);
        assert_eq!((spare.target(now), spare.due()), (16, None));
        burst(&mut spare, 15, now);
        assert_eq!(spare.target(now), 16);
        spare.note_full();
        burst(&mut spare, 20, now);
        spare.note_full();
        assert_eq!(spare.target(now), 32);
        burst(&mut spare, 5, now);
        spare.note_full();
        assert_eq!(spare.target(now), 32, "a small one does not make a large one forgotten");
        burst(&mut spare, 1000, now);
        assert_eq!(spare.target(now), MOST);
        assert_eq!(Spare::new(100).target(now), 100, "what was asked for is kept");
    }

    #[test]
    fn what_was_once_is_forgotten_by_halves() {
        let now = Instant::now();
        let mut spare = Spare::new(4);
        burst(&mut spare, 16, now);
        spare.note_full();
        assert_eq!((spare.target(now), spare.due()), (32, Some(now + FORGET)));
        assert_eq!(spare.target(now + FORGET), 16);
        assert_eq!(spare.target(now + FORGET * 3), 4);
        assert_eq!(spare.due(), None);
        assert_eq!(spare.target(now + FORGET * 100), 4);
    }

    #[test]
    fn filled_in_a_pause_but_not_never() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut spare = Spare::new(4);
        spare.note_start(now);
        assert_eq!(spare.due(), Some(now + QUIET));
        spare.note_end(now + ms(3));
        assert_eq!(spare.due(), Some(now + ms(3) + QUIET));
        for at in 0..200 {
            spare.note_start(now + ms(at));
        }
        assert_eq!(spare.due(), Some(now + LATEST), "starts without a pause");
        spare.note_full();
        assert!(spare.due().is_some_and(|due| due > now + LATEST), "only the forgetting is left");
    }
}
