//! What is kept of bytes for calls that are over, answers and the bodies of dead
//! ones: so many of all functions together, the oldest go first.

use rusqlite::params;

use super::database::{Changes, Database, LedgerError};
use super::record::{Ended, Status};
use super::writer::Job;

/// Beyond the limit a tenth of it is given up: not a little at each look.
const GIVE_UP: u64 = 10;
/// Read of each kind at once.
const STEP: usize = 64;

/// What a job adds when it is done.
pub(super) fn added(job: &Job) -> u64 {
    let Job::Ended(ended) = job else { return 0 };
    match &**ended {
        Ended::Done { answer: Some(kept), .. } => (kept.fields.len() + kept.body.len()) as u64,
        Ended::Done { record, answer: None } if matches!(record.status, Status::Error | Status::Timeout) => record.request_bytes,
        _ => 0,
    }
}

impl Database {
    /// Bytes of all of them.
    pub(super) fn bodies(&self) -> Result<u64, LedgerError> {
        self.read(bodies)
    }
}

fn bodies(c: &rusqlite::Connection) -> rusqlite::Result<u64> {
    let sql =
        "SELECT (SELECT coalesce(sum(length(fields) + length(body)), 0) FROM answers) + (SELECT coalesce(sum(length(body)), 0) FROM queue WHERE dead = 1)";
    c.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|bytes| u64::try_from(bytes).unwrap_or(0))
}

impl Changes<'_> {
    /// Runs a DELETE that returns the bytes of each row it takes, and counts them.
    pub(super) fn free(&self, sql: &str, of: impl rusqlite::Params) -> rusqlite::Result<usize> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let freed: Vec<i64> = statement.query_map(of, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        self.freed.set(self.freed.get() + freed.iter().map(|bytes| u64::try_from(*bytes).unwrap_or(0)).sum::<u64>());
        Ok(freed.len())
    }

    /// Gives up what is beyond `limit`, about `most` at once. The bytes that are
    /// left, counted anew: what a cancelled or revived call had is still in the sum.
    pub(super) fn forget_bodies(&self, limit: u64, most: u32) -> rusqlite::Result<u64> {
        let (mut held, mut gone) = (bodies(self.connection)?, 0);
        let target = if held > limit { limit - limit / GIVE_UP } else { limit };
        while held > target && gone < most as usize {
            let mut oldest = self.oldest("SELECT created, id, length(fields) + length(body), 0 FROM answers ORDER BY created LIMIT ?1")?;
            oldest.extend(self.oldest("SELECT max(created, due), id, length(body), 1 FROM queue WHERE dead = 1 ORDER BY id LIMIT ?1")?);
            oldest.sort_unstable();
            // Behind that of one kind there may be older ones of the other.
            oldest.truncate(STEP);
            if oldest.is_empty() {
                break;
            }
            for (_, id, bytes, dead) in oldest {
                if held <= target {
                    break;
                }
                let sql = if dead { "DELETE FROM queue WHERE id = ?1 AND dead = 1" } else { "DELETE FROM answers WHERE id = ?1" };
                self.connection.prepare_cached(sql)?.execute([id])?;
                held = held.saturating_sub(bytes);
                gone += 1;
            }
        }
        Ok(held)
    }

    /// Age, id, bytes, and whether it is a dead call's.
    fn oldest(&self, sql: &str) -> rusqlite::Result<Vec<(i64, String, u64, bool)>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![i64::try_from(STEP).unwrap_or(64)], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get(3)?)))?;
        rows.map(|row| row.map(|(age, id, bytes, dead)| (age, id, u64::try_from(bytes).unwrap_or(0), dead))).collect()
    }
}
