//! The newest lines of one call, bounded, and what becomes of them.

use std::collections::VecDeque;
use std::time::Instant;

use crate::model::{Id, Timestamp};

/// What one call printed, or a container between calls.
#[derive(Debug, Clone)]
pub struct Log {
    pub app_id: Id,
    pub fn_id: Id,
    pub container: Id,
    /// `None`: printed while the container started or was idle.
    pub call: Option<Id>,
    /// Lines of both outputs as they came, escaped, each with its end.
    pub text: String,
    /// Older lines that went because the limit was reached.
    pub lines_dropped: u64,
    pub bytes_dropped: u64,
    /// When the first and the last line arrived.
    pub from: Timestamp,
    pub to: Timestamp,
    /// Nothing follows: the container's outputs have ended.
    pub last: bool,
    /// When it was handed on.
    pub done: Instant,
}

/// The newest lines, up to a number of bytes; what is older is counted.
#[derive(Debug)]
pub(super) struct Ring {
    text: VecDeque<u8>,
    limit: usize,
    pub(super) lines_dropped: u64,
    pub(super) bytes_dropped: u64,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Ring {
        Ring { text: VecDeque::new(), limit, lines_dropped: 0, bytes_dropped: 0 }
    }

    pub(super) fn push(&mut self, line: &str) {
        let need = line.len() + 1;
        if need > self.limit {
            self.lines_dropped += 1;
            self.bytes_dropped += need as u64;
            return;
        }
        while self.text.len() + need > self.limit {
            self.drop_oldest();
        }
        let len = self.text.len();
        if len + need > self.text.capacity() {
            // Doubled like any vector, but never beyond the limit.
            let wanted = (len * 2).clamp(len + need, self.limit);
            self.text.reserve_exact(wanted - len);
        }
        self.text.extend(line.as_bytes());
        self.text.push_back(b'\n');
    }

    fn drop_oldest(&mut self) {
        let end = self.text.iter().position(|b| *b == b'\n').map_or(self.text.len(), |at| at + 1);
        self.text.drain(..end);
        self.lines_dropped += 1;
        self.bytes_dropped += end as u64;
    }

    /// The lines so far.
    pub(super) fn text(&mut self) -> &str {
        std::str::from_utf8(self.text.make_contiguous()).unwrap_or_default()
    }

    /// The lines as text. Whole pushed lines only: UTF-8.
    pub(super) fn into_text(self) -> String {
        let mut text = String::from_utf8(self.text.into()).unwrap_or_default();
        text.shrink_to_fit();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_newest_lines_and_counts_the_rest() {
        let mut ring = Ring::new(10);
        for line in ["one", "two", "three", ""] {
            ring.push(line);
        }
        assert_eq!((ring.lines_dropped, ring.bytes_dropped), (2, 8));
        ring.push("longer than the ring");
        assert_eq!((ring.lines_dropped, ring.bytes_dropped), (3, 29));
        assert_eq!(ring.into_text(), "three\n\n");
        let mut nothing = Ring::new(0);
        nothing.push("");
        assert_eq!((nothing.lines_dropped, nothing.into_text()), (1, String::new()));
    }

    #[test]
    fn a_flood_keeps_a_ring_at_its_limit() {
        let mut ring = Ring::new(1 << 20);
        for n in 0..100_000 {
            ring.push(&format!("{n:>99}"));
        }
        assert!(ring.text.capacity() <= 1 << 20, "{}", ring.text.capacity());
        assert_eq!(ring.bytes_dropped + ring.text.len() as u64, 10_000_000);
        assert!(ring.into_text().ends_with("99999\n"));
    }
}
