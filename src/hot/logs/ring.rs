//! What is kept: the newest lines of one call, and the last calls' logs of
//! each function. Bounded in every direction.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::model::{Id, Timestamp};

/// Finished logs kept in memory: of one function, and of all.
const KEPT_FUNCTION: usize = 512 * 1024;
const KEPT_ALL: usize = 16 * 1024 * 1024;
/// Counted for each log beside its text.
const LOG_COST: usize = 256;

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
}

impl Log {
    /// The same with at most the last `bytes` of text, in whole lines.
    fn trimmed(&self, bytes: usize) -> Log {
        let mut start = self.text.len().saturating_sub(bytes);
        if start > 0 {
            start = self.text.as_bytes()[start..].iter().position(|b| *b == b'\n').map_or(self.text.len(), |at| start + at + 1);
        }
        let (gone, kept) = self.text.split_at(start);
        let lines = gone.bytes().filter(|b| *b == b'\n').count() as u64;
        Log {
            text: kept.to_owned(),
            lines_dropped: self.lines_dropped + lines,
            bytes_dropped: self.bytes_dropped + gone.len() as u64,
            app_id: self.app_id,
            fn_id: self.fn_id,
            container: self.container,
            call: self.call,
            from: self.from,
            to: self.to,
        }
    }
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

    /// The lines as text. Whole pushed lines only: UTF-8.
    pub(super) fn into_text(self) -> String {
        let mut text = String::from_utf8(self.text.into()).unwrap_or_default();
        text.shrink_to_fit();
        text
    }
}

/// The last finished logs, by function.
#[derive(Debug, Default)]
pub(super) struct Kept {
    functions: HashMap<Id, Function>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Function {
    logs: VecDeque<Arc<Log>>,
    bytes: usize,
}

impl Function {
    /// The bytes that became free.
    fn drop_oldest(&mut self) -> usize {
        let freed = self.logs.pop_front().map_or(0, |log| log.text.len() + LOG_COST);
        self.bytes -= freed;
        freed
    }
}

impl Kept {
    pub(super) fn keep(&mut self, log: &Arc<Log>) {
        let most = KEPT_FUNCTION - LOG_COST;
        let log = if log.text.len() > most { Arc::new(log.trimmed(most)) } else { log.clone() };
        let cost = log.text.len() + LOG_COST;
        let function = self.functions.entry(log.fn_id).or_default();
        while function.bytes + cost > KEPT_FUNCTION {
            self.bytes -= function.drop_oldest();
        }
        function.bytes += cost;
        function.logs.push_back(log);
        self.bytes += cost;
        while self.bytes > KEPT_ALL {
            // Whoever has most gives: a talkative function costs itself.
            let Some((id, largest)) = self.functions.iter_mut().max_by_key(|(_, f)| f.bytes) else { break };
            let id = *id;
            self.bytes -= largest.drop_oldest();
            if largest.logs.is_empty() {
                self.functions.remove(&id);
            }
        }
    }

    /// Oldest first.
    pub(super) fn of_function(&self, fn_id: &Id) -> Vec<Arc<Log>> {
        self.functions.get(fn_id).map(|f| f.logs.iter().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(fn_id: Id, text: String) -> Arc<Log> {
        let (id, at) = (Id::new(), Timestamp::now());
        Arc::new(Log { app_id: id, fn_id, container: id, call: Some(id), text, lines_dropped: 0, bytes_dropped: 0, from: at, to: at })
    }

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

    #[test]
    fn kept_logs_are_bounded_by_function_and_in_all() {
        let mut kept = Kept::default();
        let quiet = log(Id::new(), "quiet\n".to_owned());
        kept.keep(&quiet);
        let noisy: Vec<Id> = (0..40).map(|_| Id::new()).collect();
        for round in 0..3 {
            for id in &noisy {
                kept.keep(&log(*id, format!("{round}\n").repeat(150_000)));
            }
        }
        assert!(kept.bytes <= KEPT_ALL);
        assert_eq!(kept.bytes, kept.functions.values().map(|f| f.bytes).sum::<usize>());
        assert!(kept.functions.values().all(|f| f.bytes <= KEPT_FUNCTION && f.bytes == f.logs.iter().map(|l| l.text.len() + LOG_COST).sum::<usize>()));
        assert_eq!(kept.of_function(&quiet.fn_id).len(), 1, "the quiet one lost nothing");
        // One log larger than what a function may keep: its end stays.
        let big = log(Id::new(), (0..200_000).map(|n| format!("{n}\n")).collect());
        kept.keep(&big);
        let found = &kept.of_function(&big.fn_id)[0];
        assert!(found.text.ends_with("199999\n") && found.text.len() <= KEPT_FUNCTION && found.bytes_dropped > 0);
        assert_eq!(found.bytes_dropped + found.text.len() as u64, big.text.len() as u64);
    }
}
