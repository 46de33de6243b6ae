//! The rows of detached calls, from their acceptance to their end and its answer.

use rusqlite::{OptionalExtension, Row, params};

use super::clock::Moment;
use super::database::{Changes, Database, LedgerError, id, maybe_id};
use super::record::{Accepted, Ended, Kept, Record, Status};
use super::workers::LONGEST_PAUSE_MS;
use crate::model::{Id, Timestamp};

/// A queued call without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) id: Id,
    pub(super) fn_id: Id,
    pub(super) priority: u8,
    pub(super) due: Timestamp,
    /// Runs begun.
    pub(super) attempts: u32,
    /// Those of them that failed; others were cut by the server's end.
    pub(super) failed: u32,
    /// Of its body.
    pub(super) bytes: u64,
}

impl Database {
    /// All calls that still have to run, and how many are dead.
    ///
    /// The clock may have been set back since they were written: then a due
    /// time is taken as a distance, from the acceptance or from now.
    pub(super) fn waiting(&self, now: Timestamp) -> Result<(Vec<Waiting>, u64), LedgerError> {
        self.read(|c| {
            let mut statement = c.prepare("SELECT id, fn_id, priority, due, attempts, created, length(body), failed FROM queue WHERE dead = 0")?;
            let rows = statement.query_map([], |row| {
                let (due, attempts, created): (i64, u32, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
                let mut due = if created > now.0 { due - (created - now.0) } else { due };
                if attempts > 0 {
                    due = due.min(now.0 + LONGEST_PAUSE_MS);
                }
                Ok(Waiting {
                    id: id(row, 0)?,
                    fn_id: id(row, 1)?,
                    priority: row.get(2)?,
                    due: Timestamp(due),
                    attempts,
                    failed: row.get(7)?,
                    bytes: row.get(6)?,
                })
            })?;
            let waiting = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let dead: i64 = c.query_row("SELECT count(*) FROM queue WHERE dead = 1", [], |row| row.get(0))?;
            Ok((waiting, u64::try_from(dead).unwrap_or(0)))
        })
    }

    /// What a queued call is made of.
    pub(super) fn load(&self, call: &Id) -> Result<Option<Accepted>, LedgerError> {
        self.read(|c| {
            let sql = "SELECT id, app_id, fn_id, created, priority, due, fields, body, trigger_id, callback FROM queue WHERE id = ?1";
            c.prepare_cached(sql)?
                .query_row([call.as_str()], |row| {
                    Ok(Accepted {
                        id: id(row, 0)?,
                        app_id: id(row, 1)?,
                        fn_id: id(row, 2)?,
                        created: Timestamp(row.get(3)?),
                        priority: row.get(4)?,
                        due: Timestamp(row.get(5)?),
                        fields: row.get(6)?,
                        body: row.get(7)?,
                        key: None,
                        trigger: maybe_id(row, 8)?,
                        callback: row.get(9)?,
                    })
                })
                .optional()
        })
    }

    /// Whether the call waits in vain: its attempts are used up.
    pub(super) fn dead(&self, call: &Id) -> Result<Option<Waiting>, LedgerError> {
        self.read(|c| {
            let sql = "SELECT id, fn_id, priority, due, length(body) FROM queue WHERE id = ?1 AND dead = 1";
            let read = |row: &Row<'_>| {
                Ok(Waiting {
                    id: id(row, 0)?,
                    fn_id: id(row, 1)?,
                    priority: row.get(2)?,
                    due: Timestamp(row.get(3)?),
                    attempts: 0,
                    failed: 0,
                    bytes: row.get(4)?,
                })
            };
            c.prepare_cached(sql)?.query_row([call.as_str()], read).optional()
        })
    }

    pub(super) fn answer(&self, call: &Id) -> Result<Option<Kept>, LedgerError> {
        self.read(|c| {
            c.prepare_cached("SELECT fields, body, cut FROM answers WHERE id = ?1")?
                .query_row([call.as_str()], |row| Ok(Kept { fields: row.get(0)?, body: row.get(1)?, cut: row.get(2)? }))
                .optional()
        })
    }
}

impl Changes<'_> {
    /// The call that was accepted with this key.
    pub(super) fn keyed(&self, fn_id: &Id, key: &str) -> rusqlite::Result<Option<Id>> {
        let sql = "SELECT id FROM keys WHERE fn_id = ?1 AND key = ?2";
        self.connection.prepare_cached(sql)?.query_row([fn_id.as_str(), key], |row| id(row, 0)).optional()
    }

    pub(super) fn accept(&self, a: &Accepted) -> rusqlite::Result<()> {
        self.may_fail()?;
        self.connection
            .prepare_cached(
                "INSERT INTO queue (id, fn_id, app_id, priority, due, created, attempts, dead, fields, body, trigger_id, callback) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                a.id.as_str(),
                a.fn_id.as_str(),
                a.app_id.as_str(),
                a.priority,
                a.due.0,
                a.created.0,
                a.fields,
                a.body,
                a.trigger.as_ref().map(Id::as_str),
                a.callback
            ])?;
        if let Some(key) = &a.key {
            self.connection.prepare_cached("INSERT OR REPLACE INTO keys (fn_id, key, id, created) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                a.fn_id.as_str(),
                key,
                a.id.as_str(),
                a.created.0
            ])?;
        }
        self.put(&Record::of(a))
    }

    pub(super) fn begin(&self, w: &Waiting, now: Moment) -> rusqlite::Result<()> {
        self.may_fail()?;
        self.connection.prepare_cached("UPDATE queue SET attempts = ?2 WHERE id = ?1")?.execute(params![w.id.as_str(), w.attempts])?;
        self.connection.prepare_cached("UPDATE calls SET status = ?3, started = ?4, attempts = ?5 WHERE fn_id = ?1 AND id = ?2")?.execute(params![
            w.fn_id.as_str(),
            w.id.as_str(),
            Status::Running as i64,
            now.wall.0,
            w.attempts
        ])?;
        Ok(())
    }

    /// The end of a run. A call whose attempts are used up stays in the queue,
    /// dead, until it is sent again or forgotten.
    pub(super) fn ended(&self, ended: &Ended, now: Moment) -> rusqlite::Result<()> {
        self.may_fail()?;
        match ended {
            Ended::Done { record, answer } => {
                self.put(record)?;
                self.tell(&record.id, now.own)?;
                let dead = matches!(record.status, Status::Error | Status::Timeout);
                let sql = if dead { "UPDATE queue SET dead = 1 WHERE id = ?1" } else { "DELETE FROM queue WHERE id = ?1" };
                self.connection.prepare_cached(sql)?.execute([record.id.as_str()])?;
                if let Some(kept) = answer {
                    self.connection
                        .prepare_cached("INSERT OR REPLACE INTO answers (id, created, fields, body, cut) VALUES (?1, ?2, ?3, ?4, ?5)")?
                        .execute(params![record.id.as_str(), now.wall.0, kept.fields, kept.body, kept.cut])?;
                }
            }
            Ended::Again { waiting: w, error } => {
                self.connection.prepare_cached("UPDATE queue SET due = ?2, attempts = ?3, failed = ?4 WHERE id = ?1")?.execute(params![
                    w.id.as_str(),
                    now.for_file(w.due).0,
                    w.attempts,
                    w.failed
                ])?;
                self.connection.prepare_cached("UPDATE calls SET status = ?3, error = ?4, attempts = ?5 WHERE fn_id = ?1 AND id = ?2")?.execute(params![
                    w.fn_id.as_str(),
                    w.id.as_str(),
                    Status::Queued as i64,
                    error,
                    w.attempts
                ])?;
            }
        }
        Ok(())
    }

    /// Whether there was such a call, waiting or `dead`. The end of one that
    /// waited is told; that of a dead one was.
    pub(super) fn cancel(&self, w: &Waiting, dead: bool, now: Moment) -> rusqlite::Result<bool> {
        self.may_fail()?;
        if !dead {
            self.tell(&w.id, now.own)?;
        }
        if self.connection.prepare_cached("DELETE FROM queue WHERE id = ?1 AND dead = ?2")?.execute(params![w.id.as_str(), dead])? == 0 {
            return Ok(false);
        }
        self.connection.prepare_cached("UPDATE calls SET status = ?3, completed = ?4, error = NULL WHERE fn_id = ?1 AND id = ?2")?.execute(params![
            w.fn_id.as_str(),
            w.id.as_str(),
            Status::Cancelled as i64,
            now.wall.0
        ])?;
        Ok(true)
    }

    /// A dead call is to run again, with all its attempts: who is told of its end;
    /// `None` if it was none. Its next end is told, not any more the last one.
    pub(super) fn revive(&self, w: &Waiting, now: Moment) -> rusqlite::Result<Option<Option<String>>> {
        self.may_fail()?;
        let sql = "UPDATE queue SET dead = 0, attempts = 0, failed = 0, due = ?2 WHERE id = ?1 AND dead = 1 RETURNING callback";
        let revived = self.connection.prepare_cached(sql)?.query_row(params![w.id.as_str(), now.wall.0], |row| row.get(0)).optional()?;
        if revived.is_none() {
            return Ok(None);
        }
        self.connection.prepare_cached("DELETE FROM callbacks WHERE id = ?1")?.execute([w.id.as_str()])?;
        self.connection.prepare_cached("UPDATE calls SET status = ?3, completed = NULL, attempts = 0 WHERE fn_id = ?1 AND id = ?2")?.execute(params![
            w.fn_id.as_str(),
            w.id.as_str(),
            Status::Queued as i64
        ])?;
        Ok(revived)
    }

    /// Old answers, and keys and dead calls older than `oldest`, `most` of each; a
    /// call that waits has its key still. Whether there may be more.
    pub(super) fn forget_answers(&self, answers: Timestamp, oldest: Timestamp, most: u32) -> rusqlite::Result<bool> {
        let of_answers = "DELETE FROM answers WHERE id IN (SELECT id FROM answers WHERE created < ?1 \
             AND NOT EXISTS (SELECT 1 FROM callbacks WHERE callbacks.id = answers.id) LIMIT ?2) RETURNING length(fields) + length(body)";
        let of_keys = "DELETE FROM keys WHERE (fn_id, key) IN (SELECT fn_id, key FROM keys WHERE created < ?1 \
             AND NOT EXISTS (SELECT 1 FROM queue WHERE queue.id = keys.id) LIMIT ?2)";
        let of_dead = "DELETE FROM queue WHERE id IN (SELECT id FROM queue WHERE dead = 1 AND max(created, due) < ?1 LIMIT ?2) RETURNING length(body)";
        let keys = self.connection.prepare_cached(of_keys)?.execute(params![oldest.0, most])?;
        let gone = [self.free(of_answers, params![answers.0, most])?, keys, self.free(of_dead, params![oldest.0, most])?];
        Ok(gone.iter().any(|gone| *gone >= most as usize))
    }
}
