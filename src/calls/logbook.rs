//! Logs of calls on disk: what containers printed, in rows of whole lines, the
//! oldest of a function given up first. Rows, not one text a call, so that
//! writing and forgetting a large log needs little memory.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::params;

use super::database::{Changes, Database, LedgerError};
use super::record::Record;
use super::{Ledger, Shared};
use crate::agent::{Log, LogSink};
use crate::metrics::LEDGER;
use crate::model::{Id, Timestamp};

/// Bytes of text in a row at most, cut at a line's end.
const ROW: usize = 32 * 1024;
/// Logs that wait for the writer, and their bytes; beyond it they are dropped
/// and counted. Those of containers that have ended have as many places again:
/// there are few, and they tell of crashes.
const MOST: usize = 512;
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Counted for each row beside its text.
const ROW_COST: u64 = 128;
/// Rows given up at once.
const STEP: usize = 64;

/// Logs on their way to the writer.
#[derive(Debug, Default)]
pub(super) struct Pending {
    logs: Vec<Arc<Log>>,
    bytes: usize,
}

/// How much of a function's log is shown, about.
pub const LOGS_BYTES: usize = 256 * 1024;

/// What one call printed, or a container while it ran none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    pub call: Option<Id>,
    /// Whole lines.
    pub text: String,
    /// Older lines that are gone, and their bytes.
    pub lines_dropped: u64,
    pub bytes_dropped: u64,
}

impl Printed {
    /// A call's log as its readers get it.
    pub fn of_call(mut self) -> String {
        if self.lines_dropped > 0 {
            self.text.insert_str(0, &format!("hob: {} older lines ({} bytes) are not kept\n", self.lines_dropped, self.bytes_dropped));
        }
        self.text
    }

    fn of(log: &Log) -> Printed {
        Printed { call: log.call, text: log.text.clone(), lines_dropped: log.lines_dropped, bytes_dropped: log.bytes_dropped }
    }

    /// What is on disk and what was on its way there before it was read.
    fn with<'l>(written: Option<Printed>, waiting: impl Iterator<Item = &'l Arc<Log>>) -> Option<Printed> {
        waiting.fold(written, |printed, log| match printed {
            None => Some(Printed::of(log)),
            Some(printed) if printed.text.ends_with(&log.text) => Some(printed),
            Some(printed) => Some(Printed { text: printed.text + &log.text, ..printed }),
        })
    }

    /// A piece of a function's log: each line behind its call, `-` for none.
    pub fn of_function(&self) -> String {
        let owner = self.call.as_ref().map_or("-", Id::as_str);
        let mut text = String::with_capacity(self.text.len() * 2);
        if self.lines_dropped > 0 {
            let _ = writeln!(text, "{owner} hob: {} older lines ({} bytes) are not kept", self.lines_dropped, self.bytes_dropped);
        }
        for line in self.text.lines() {
            let _ = writeln!(text, "{owner} {line}");
        }
        text
    }
}

/// A number of lines as it stands in a request; more than can be counted is all.
pub fn lines(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

/// The last `most` lines of a text of whole lines.
pub fn last_lines(mut text: String, most: usize) -> String {
    let begins = text.match_indices('\n').map(|(at, _)| at + 1).rev().skip(1);
    let from = match most {
        0 => text.len(),
        most => begins.into_iter().nth(most - 1).unwrap_or(0),
    };
    text.drain(..from);
    text
}

impl LogSink for Shared {
    fn finished(&self, log: &Arc<Log>) {
        if !self.settings.keep_logs {
            return;
        }
        let mut pending = self.logs.lock();
        let most = if log.last { 2 * MOST } else { MOST };
        if pending.logs.len() >= most || (pending.bytes > 0 && pending.bytes + log.text.len() > MOST_BYTES) {
            drop(pending);
            LEDGER.logs_dropped.add(1);
            return;
        }
        let first = pending.logs.is_empty();
        pending.bytes += log.text.len();
        pending.logs.push(log.clone());
        drop(pending);
        if first {
            let _ = self.bell.try_send(());
        }
    }
}

impl Shared {
    /// Those that wait for the writer. Read before the database: what is in
    /// both was written in between.
    pub(super) fn waiting_logs(&self, wanted: impl Fn(&Log) -> bool) -> Vec<Arc<Log>> {
        self.logs.lock().logs.iter().filter(|log| wanted(log)).cloned().collect()
    }

    pub(super) fn has_logs(&self) -> bool {
        !self.logs.lock().logs.is_empty()
    }

    pub(super) fn take_logs(&self) -> Vec<Arc<Log>> {
        let mut pending = self.logs.lock();
        pending.bytes = 0;
        std::mem::take(&mut pending.logs)
    }
}

impl Ledger {
    /// What a call printed, as far as it is kept; of one that never got a
    /// container, what the one printed that did not come up.
    ///
    /// # Errors
    /// The database's.
    pub fn printed(&self, fn_id: &Id, id: &Id) -> Result<(Option<Record>, Option<Printed>), LedgerError> {
        self.printed_until(fn_id, id, Instant::now())
    }

    /// The same of logs that were finished before `until`.
    pub(super) fn printed_until(&self, fn_id: &Id, id: &Id, until: Instant) -> Result<(Option<Record>, Option<Printed>), LedgerError> {
        let found = self.printed_so_far(fn_id, id, until)?;
        if found.0.is_some() {
            return Ok(found);
        }
        self.freshen();
        self.printed_so_far(fn_id, id, until)
    }

    fn printed_so_far(&self, fn_id: &Id, id: &Id, until: Instant) -> Result<(Option<Record>, Option<Printed>), LedgerError> {
        let waiting = self.shared.waiting_logs(|log| log.fn_id == *fn_id && log.call.as_ref().is_none_or(|call| call == id) && log.done <= until);
        self.readers.with(|r| {
            let of_call = waiting.iter().filter(|log| log.call.is_some());
            let (record, own) = (r.record(fn_id, id)?, Printed::with(r.printed_by_call(fn_id, id)?, of_call));
            let failed = record.as_ref().filter(|record| own.is_none() && record.start.is_empty()).and_then(|record| record.container);
            let printed = match failed {
                Some(container) => {
                    let of_container = waiting.iter().filter(|log| log.call.is_none() && log.container == container);
                    Printed::with(r.printed_by_container(fn_id, &container)?, of_container)
                }
                None => own,
            };
            Ok((record, printed))
        })
    }

    /// The newest of what a function's containers printed, at most about `most`
    /// bytes, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub fn printed_by_function(&self, fn_id: &Id, most: usize) -> Result<Vec<Printed>, LedgerError> {
        self.printed_by_function_until(fn_id, most, Instant::now())
    }

    /// The same of logs that were finished before `until`.
    pub(super) fn printed_by_function_until(&self, fn_id: &Id, most: usize, until: Instant) -> Result<Vec<Printed>, LedgerError> {
        let waiting = self.shared.waiting_logs(|log| log.fn_id == *fn_id && log.done <= until);
        let mut found = self.readers.with(|r| r.printed_by_function(fn_id, most))?;
        for log in waiting {
            let written = found.iter().rev().take(MOST).any(|printed| printed.call == log.call && log.text.ends_with(&printed.text));
            if !written {
                found.push(Printed::of(&log));
            }
        }
        Ok(found)
    }
}

/// Bytes on disk by function, so that limits are kept without counting anew.
#[derive(Debug, Default)]
pub(super) struct Usage {
    by_function: HashMap<Id, u64>,
    total: u64,
    /// Not of logs: of answers and of dead calls' bodies.
    pub(super) bodies: u64,
}

impl Usage {
    fn add(&mut self, fn_id: Id, bytes: u64) {
        *self.by_function.entry(fn_id).or_default() += bytes;
        self.total += bytes;
    }

    fn sub(&mut self, fn_id: &Id, bytes: u64) {
        self.total = self.total.saturating_sub(bytes);
        if let Some(held) = self.by_function.get_mut(fn_id) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.by_function.remove(fn_id);
            }
        }
    }

    fn largest(&self) -> Option<Id> {
        self.by_function.iter().max_by_key(|(_, bytes)| **bytes).map(|(id, _)| *id)
    }
}

impl Database {
    pub(super) fn log_usage(&self) -> Result<Usage, LedgerError> {
        self.read(|c| {
            let mut usage = Usage::default();
            let mut statement = c.prepare("SELECT fn_id, sum(bytes) FROM logs GROUP BY fn_id")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            for row in rows {
                let (fn_id, bytes) = row?;
                if let Ok(fn_id) = Id::from_str(&fn_id) {
                    usage.add(fn_id, u64::try_from(bytes).unwrap_or(0));
                }
            }
            Ok(usage)
        })
    }

    /// What a call printed, its runs one after the other; `None`: nothing that
    /// is kept.
    pub(super) fn printed_by_call(&self, fn_id: &Id, call: &Id) -> Result<Option<Printed>, LedgerError> {
        let sql = "SELECT text, lines_dropped, bytes_dropped FROM logs WHERE fn_id = ?1 AND call = ?2 ORDER BY id";
        self.printed(sql, &[fn_id.as_str(), call.as_str()], Some(*call))
    }

    /// What a container printed outside of calls.
    pub(super) fn printed_by_container(&self, fn_id: &Id, container: &Id) -> Result<Option<Printed>, LedgerError> {
        let sql = "SELECT text, lines_dropped, bytes_dropped FROM logs WHERE fn_id = ?1 AND call = '' AND container = ?2 ORDER BY id";
        self.printed(sql, &[fn_id.as_str(), container.as_str()], None)
    }

    fn printed(&self, sql: &str, of: &[&str], call: Option<Id>) -> Result<Option<Printed>, LedgerError> {
        self.read(|c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query(rusqlite::params_from_iter(of))?;
            let mut found: Option<Printed> = None;
            while let Some(row) = rows.next()? {
                let printed = found.get_or_insert_with(|| Printed { call, text: String::new(), lines_dropped: 0, bytes_dropped: 0 });
                printed.text.push_str(row.get_ref(0)?.as_str()?);
                printed.lines_dropped += count(row.get(1)?);
                printed.bytes_dropped += count(row.get(2)?);
            }
            Ok(found)
        })
    }

    /// The newest rows of a function, at most `most` bytes of text, oldest first.
    pub(super) fn printed_by_function(&self, fn_id: &Id, most: usize) -> Result<Vec<Printed>, LedgerError> {
        self.read(|c| {
            let mut statement = c.prepare_cached("SELECT call, text, lines_dropped, bytes_dropped FROM logs WHERE fn_id = ?1 ORDER BY id DESC")?;
            let mut rows = statement.query([fn_id.as_str()])?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let text = row.get_ref(1)?.as_str()?;
                bytes += text.len();
                if bytes > most && !found.is_empty() {
                    break;
                }
                let call = Id::from_str(row.get_ref(0)?.as_str()?).ok();
                found.push(Printed { call, text: text.to_owned(), lines_dropped: count(row.get(2)?), bytes_dropped: count(row.get(3)?) });
            }
            found.reverse();
            Ok(found)
        })
    }
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

impl Changes<'_> {
    /// Writes a log down and gives up what is then too much: of its function
    /// beyond `per_function` bytes, of all beyond `total`.
    pub(super) fn put_log(&self, log: &Log, usage: &mut Usage, per_function: u64, total: u64) -> rusqlite::Result<()> {
        let (mut rest, mut dropped) = (log.text.as_str(), (log.lines_dropped, log.bytes_dropped));
        loop {
            let (row, after) = split(rest);
            let cost = row.len() as u64 + ROW_COST;
            let big = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let sql = "INSERT INTO logs (fn_id, call, container, ended, bytes, lines_dropped, bytes_dropped, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            let call = log.call.as_ref().map_or("", Id::as_str);
            self.connection.prepare_cached(sql)?.execute(params![
                log.fn_id.as_str(),
                call,
                log.container.as_str(),
                log.to.0,
                big(cost),
                big(dropped.0),
                big(dropped.1),
                row
            ])?;
            usage.add(log.fn_id, cost);
            (rest, dropped) = (after, (0, 0));
            if rest.is_empty() {
                break;
            }
        }
        while usage.by_function.get(&log.fn_id).is_some_and(|held| *held > per_function) && self.drop_oldest_rows(&log.fn_id, usage, per_function, u64::MAX)? {}
        while usage.total > total {
            let Some(largest) = usage.largest() else { break };
            if !self.drop_oldest_rows(&largest, usage, u64::MAX, total)? {
                break;
            }
        }
        Ok(())
    }

    /// Gives up rows of a function, oldest first, until the limits hold. False
    /// when there were none.
    fn drop_oldest_rows(&self, fn_id: &Id, usage: &mut Usage, per_function: u64, total: u64) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached("SELECT id, bytes FROM logs WHERE fn_id = ?1 ORDER BY id LIMIT ?2")?;
        let rows = statement.query_map(params![fn_id.as_str(), i64::try_from(STEP).unwrap_or(64)], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        let rows: Vec<(i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
        for (id, bytes) in &rows {
            if usage.by_function.get(fn_id).is_none_or(|held| *held <= per_function) && usage.total <= total {
                break;
            }
            self.connection.prepare_cached("DELETE FROM logs WHERE id = ?1")?.execute([id])?;
            usage.sub(fn_id, count(*bytes));
        }
        Ok(!rows.is_empty())
    }

    /// Gives up what ended before `oldest`: rows are in the order of their
    /// ends, so a look at the first ones will do. Whether there may be more.
    pub(super) fn forget_logs(&self, oldest: Timestamp, usage: &mut Usage, most: u32) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached("SELECT id, fn_id, bytes, ended FROM logs ORDER BY id LIMIT ?1")?;
        let mut rows = statement.query([most])?;
        let mut gone = 0;
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(3)? >= oldest.0 {
                return Ok(false);
            }
            self.connection.prepare_cached("DELETE FROM logs WHERE id = ?1")?.execute([row.get::<_, i64>(0)?])?;
            if let Ok(fn_id) = Id::from_str(row.get_ref(1)?.as_str()?) {
                usage.sub(&fn_id, count(row.get(2)?));
            }
            gone += 1;
        }
        Ok(gone >= most)
    }

    /// Logs of functions that are no more.
    pub(super) fn forget_logs_of_gone(&self, usage: &mut Usage, exists: &dyn Fn(&Id) -> bool) -> rusqlite::Result<()> {
        let gone: Vec<Id> = usage.by_function.keys().filter(|id| !exists(id)).copied().collect();
        for fn_id in gone {
            self.connection.execute("DELETE FROM logs WHERE fn_id = ?1", [fn_id.as_str()])?;
            let held = usage.by_function.get(&fn_id).copied().unwrap_or(0);
            usage.sub(&fn_id, held);
        }
        Ok(())
    }
}

/// The first row's worth of whole lines, and the rest.
fn split(text: &str) -> (&str, &str) {
    if text.len() <= ROW {
        return (text, "");
    }
    // Lines are cut at 4 KiB long before: there is an end within a row.
    let end = text.as_bytes()[..ROW].iter().rposition(|b| *b == b'\n').map_or_else(|| text.len(), |at| at + 1);
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_taken() {
        for (most, rest) in [(0, ""), (1, "c\n"), (2, "\nc\n"), (3, "b\n\nc\n"), (4, "a\nb\n\nc\n"), (9, "a\nb\n\nc\n"), (usize::MAX, "a\nb\n\nc\n")] {
            assert_eq!(last_lines("a\nb\n\nc\n".to_owned(), most), rest, "{most}");
        }
        assert_eq!(last_lines(String::new(), 3), "");
        for (text, most) in
            [("0", Some(0)), ("07", Some(7)), ("99999999999999999999999", Some(usize::MAX)), ("", None), ("-1", None), ("+1", None), ("all", None)]
        {
            assert_eq!(lines(text), most, "{text}");
        }
    }

    #[test]
    fn rows_are_whole_lines() {
        let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
        let (mut rest, mut joined) = (text.as_str(), String::new());
        while !rest.is_empty() {
            let (row, after) = split(rest);
            assert!(row.len() <= ROW && row.ends_with('\n'));
            joined.push_str(row);
            rest = after;
        }
        assert_eq!(joined, text);
        assert_eq!(split(""), ("", ""));
    }
}
