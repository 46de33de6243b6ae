//! A wish on its way to the writer. Either the writer takes it up, or whoever
//! has it takes it back when its time is over, never both: so what is said of
//! it is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, SendError, Sender, bounded};

/// Where a wish stands. Nothing comes after the last two.
const UNDECIDED: u8 = 0;
const TAKEN_UP: u8 = 1;
const TAKEN_BACK: u8 = 2;

pub(super) const SLOW: &str = "the calls database is too slow";
/// Its writer has ended, which is a bug.
pub(super) const GONE: &str = "the calls database is not written any more, its thread has ended: restart the server";

/// What was asked of the writer did not come to be on disk, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// It never came to the writer's hands, and will not.
    #[error("{0}")]
    TakenBack(&'static str),
    /// The writer tried in vain.
    #[error("{0}")]
    Failed(String),
    /// The writer is at it for longer than the asker may wait.
    #[error("{SLOW}")]
    NotKnown,
}

/// The writer's end of a wish.
#[derive(Debug)]
pub(super) struct Done<T> {
    answer: Sender<Result<T, String>>,
    stands: Arc<AtomicU8>,
}

/// The asker's end.
#[derive(Debug)]
pub(super) struct Asked<T> {
    answer: Receiver<Result<T, String>>,
    stands: Arc<AtomicU8>,
}

pub(super) fn wish<T>() -> (Done<T>, Asked<T>) {
    let ((sender, receiver), stands) = (bounded(1), Arc::new(AtomicU8::new(UNDECIDED)));
    (Done { answer: sender, stands: stands.clone() }, Asked { answer: receiver, stands })
}

impl<T> Done<T> {
    /// Whether the wish is the writer's: it has not been taken back, and will
    /// not be any more.
    pub(super) fn take_up(&self) -> bool {
        self.stands.compare_exchange(UNDECIDED, TAKEN_UP, Ordering::SeqCst, Ordering::SeqCst) != Err(TAKEN_BACK)
    }

    pub(super) fn send(&self, result: Result<T, String>) -> Result<(), SendError<Result<T, String>>> {
        self.answer.send(result)
    }
}

impl<T> Asked<T> {
    /// What came of it until then.
    pub(super) fn wait(self, until: Instant) -> Result<T, NotWritten> {
        match self.answer.recv_deadline(until) {
            Ok(result) => result.map_err(NotWritten::Failed),
            Err(e) if self.take_back() => Err(NotWritten::TakenBack(if e.is_timeout() { SLOW } else { GONE })),
            // Its answer may have come at the last moment.
            Err(_) => self.answer.try_recv().map_err(|_| NotWritten::NotKnown)?.map_err(NotWritten::Failed),
        }
    }

    /// Whether the writer leaves it alone.
    fn take_back(&self) -> bool {
        self.stands.compare_exchange(UNDECIDED, TAKEN_BACK, Ordering::SeqCst, Ordering::SeqCst) != Err(TAKEN_UP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_two_decides() {
        let (done, asked) = wish::<u32>();
        assert_eq!(asked.wait(Instant::now()), Err(NotWritten::TakenBack(SLOW)));
        assert!(!done.take_up());
        let (done, asked) = wish::<u32>();
        assert!(done.take_up() && done.take_up());
        assert_eq!(asked.wait(Instant::now()), Err(NotWritten::NotKnown));
        let (done, asked) = wish();
        assert!(done.take_up() && done.send(Ok(7)).is_ok());
        assert_eq!(asked.wait(Instant::now()), Ok(7));
        let (done, asked) = wish::<u32>();
        drop(done);
        assert_eq!(asked.wait(Instant::now()), Err(NotWritten::TakenBack(GONE)), "the writer has ended");
    }
}
