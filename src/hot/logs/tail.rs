//! A live tail: what containers print from now on, handed from the log thread
//! to one reader. Bounded: a reader that is too slow misses lines, and is told
//! how many.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use crate::model::Id;
use crate::pool::{Stop, Woke, wait_for};

/// Text that waits for the reader at most.
const WAITING: usize = 256 * 1024;

/// What the log thread and the reader share.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) fn_id: Id,
    /// One call's lines; `None`: all of the function's, each behind its call's id.
    pub(super) call: Option<Id>,
    heard: Mutex<Heard>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Heard {
    text: String,
    missed: u64,
    /// The call was seen running.
    seen: bool,
    over: bool,
}

/// The reading end. Dropping it ends the tail.
#[derive(Debug)]
pub struct Tail(pub(super) std::sync::Arc<Ear>);

/// What came of waiting on a [`Tail`].
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// Whole lines.
    Text(String),
    /// The call is over and all it printed was given, or nobody reads any more.
    Over,
    /// Nothing until the deadline.
    Nothing,
    /// The reader's own peer hung up, or the stop fired.
    Gone,
}

impl Ear {
    pub(super) fn new(fn_id: Id, call: Option<Id>) -> io::Result<Ear> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Ear { fn_id, call, heard: Mutex::default(), bell })
    }

    /// Whether lines of this call (or of none) are meant.
    pub(super) fn wants(&self, fn_id: &Id, call: Option<&Id>) -> bool {
        self.fn_id == *fn_id && self.call.is_none_or(|wanted| call == Some(&wanted))
    }

    /// One line, or several with their ends between them.
    pub(super) fn hear(&self, call: Option<&Id>, lines: &str) {
        let mut heard = self.heard.lock();
        heard.seen = true;
        for line in lines.lines() {
            if heard.text.len() + line.len() + 64 > WAITING {
                heard.missed += 1;
                continue;
            }
            if heard.missed > 0 {
                let missed = std::mem::take(&mut heard.missed);
                let _ = writeln!(heard.text, "hob: {missed} lines were left out, they came too fast");
            }
            if self.call.is_none() {
                let _ = write!(heard.text, "{} ", call.map_or("-", Id::as_str));
            }
            heard.text.push_str(line);
            heard.text.push('\n');
        }
        drop(heard);
        self.ring();
    }

    /// The call runs: from now on its end is looked for.
    pub(super) fn see(&self) {
        self.heard.lock().seen = true;
    }

    pub(super) fn has_seen(&self) -> bool {
        self.heard.lock().seen
    }

    pub(super) fn end(&self) {
        self.heard.lock().over = true;
        self.ring();
    }

    fn ring(&self) {
        // The counter is full only if the bell was rung already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Option<Word> {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        let mut heard = self.heard.lock();
        if heard.missed > 0 {
            let missed = std::mem::take(&mut heard.missed);
            let _ = writeln!(heard.text, "hob: {missed} lines were left out, they came too fast");
        }
        match heard.text.is_empty() {
            false => Some(Word::Text(std::mem::take(&mut heard.text))),
            true => heard.over.then_some(Word::Over),
        }
    }
}

impl Tail {
    /// Waits for more, until `deadline`, the stop, or until `peer` hangs up.
    pub fn next(&self, peer: Option<BorrowedFd<'_>>, stop: Option<&Stop>, deadline: Instant) -> Word {
        loop {
            if let Some(word) = self.0.take() {
                return word;
            }
            match wait_for(self.0.bell.as_fd(), PollFlags::IN, peer, stop, Some(deadline)) {
                Ok(Woke::Ready) => {}
                Ok(Woke::Deadline) => return Word::Nothing,
                Ok(Woke::PeerGone | Woke::Stop) | Err(_) => return Word::Gone,
            }
        }
    }
}
