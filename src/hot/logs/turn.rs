//! Whose output it is: the call that a container is running, published with
//! plain stores by the thread that runs it and read by the log thread.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use crate::model::Id;

/// An id's 26 characters as they are kept.
const WORDS: usize = 4;
/// Steps of the sequence from one call to the next.
const WRITING: u64 = 1;
const RUNNING: u64 = 2;
const ROUND: u64 = 4;

/// A sequence lock with one writer: the lease's owner, of which there is one
/// at a time. Costs a call a handful of stores, no lock and no system call.
#[derive(Debug)]
pub(in crate::hot) struct Turn {
    /// A multiple of 4: idle; plus 1: being written; plus 2: a call runs.
    sequence: AtomicU64,
    id: [AtomicU64; WORDS],
    /// When the last call ended, in nanoseconds after `base`.
    ended: AtomicU64,
    base: Instant,
}

/// What the log thread sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Differs from call to call.
    pub(super) number: u64,
    /// The call; `None` before the first.
    pub(super) call: Option<Id>,
    /// When it ended; `None` while it runs.
    pub(super) ended: Option<Instant>,
}

impl Turn {
    pub(in crate::hot) fn new(base: Instant) -> Turn {
        Turn { sequence: AtomicU64::new(0), id: [const { AtomicU64::new(0) }; WORDS], ended: AtomicU64::new(0), base }
    }

    pub(in crate::hot) fn begin(&self, call: &Id) {
        let idle = self.sequence.load(Ordering::Relaxed) / ROUND * ROUND;
        self.sequence.store(idle + WRITING, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut bytes = [0u8; WORDS * 8];
        bytes[..26].copy_from_slice(call.as_str().as_bytes());
        let (words, _) = bytes.as_chunks::<8>();
        for (kept, word) in self.id.iter().zip(words) {
            kept.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        self.sequence.store(idle + RUNNING, Ordering::Release);
    }

    pub(in crate::hot) fn end(&self, now: Instant) {
        let running = self.sequence.load(Ordering::Relaxed);
        let after = u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.ended.store(after, Ordering::Relaxed);
        self.sequence.store(running / ROUND * ROUND + ROUND, Ordering::Release);
    }

    pub(super) fn seen(&self) -> Seen {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let mut bytes = [0u8; WORDS * 8];
            let (words, _) = bytes.as_chunks_mut::<8>();
            for (word, kept) in words.iter_mut().zip(&self.id) {
                *word = kept.load(Ordering::Relaxed).to_ne_bytes();
            }
            let ended = self.ended.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before % ROUND == WRITING || before != self.sequence.load(Ordering::Relaxed) {
                std::hint::spin_loop();
                continue;
            }
            if before == 0 {
                return Seen { number: 0, call: None, ended: Some(self.base) };
            }
            let running = before % ROUND == RUNNING;
            let call = std::str::from_utf8(&bytes[..26]).ok().and_then(|text| text.parse().ok());
            // A call that ended has the number it had while it ran.
            let number = if running { before / ROUND + 1 } else { before / ROUND };
            return Seen { number, call, ended: (!running).then(|| self.base + Duration::from_nanos(ended)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_call_keeps_its_number_until_the_next_begins() {
        let turn = Turn::new(Instant::now());
        assert_eq!(turn.seen().call, None);
        let ids = [Id::new(), Id::new()];
        turn.begin(&ids[0]);
        let first = turn.seen();
        assert_eq!((first.number, first.call, first.ended), (1, Some(ids[0]), None));
        let now = Instant::now();
        turn.end(now);
        let ended = turn.seen();
        assert_eq!((ended.number, ended.call), (1, Some(ids[0])));
        assert_eq!(ended.ended, Some(now));
        turn.begin(&ids[1]);
        assert_eq!((turn.seen().number, turn.seen().call), (2, Some(ids[1])));
    }

    #[test]
    fn a_reader_never_sees_two_ids_mixed() {
        let (turn, done) = (Arc::new(Turn::new(Instant::now())), Arc::new(AtomicBool::new(false)));
        let ids: Vec<Id> = ["00000000000000000000000000", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"].iter().map(|t| t.parse().expect("id")).collect();
        let mixed = Arc::new(AtomicBool::new(false));
        let reader = {
            let (turn, done, mixed, ids) = (turn.clone(), done.clone(), mixed.clone(), ids.clone());
            crate::pool::spawn("reader", move || {
                while !done.load(Ordering::Relaxed) {
                    mixed.fetch_or(turn.seen().call.is_some_and(|id| !ids.contains(&id)), Ordering::Relaxed);
                }
            })
            .expect("thread")
        };
        for n in 0..200_000 {
            turn.begin(&ids[n % 2]);
            turn.end(Instant::now());
        }
        done.store(true, Ordering::Relaxed);
        drop(reader);
        assert!(!mixed.load(Ordering::Relaxed));
        assert_eq!(turn.seen().number, 200_000);
    }
}
