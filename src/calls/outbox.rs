//! The rows of ends that are still to be told.

use rusqlite::params;

use super::database::{Changes, Database, LedgerError, id};
use crate::model::{Id, Timestamp};

/// Where a look at the callbacks has come to.
pub(super) type CallbackPlace = (Timestamp, Id);

/// What a look at some callbacks gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    Found(Callback),
    /// None of so many; there may be one behind this.
    Until(CallbackPlace),
    /// None to the last.
    Nothing,
}

/// An end that is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Callback {
    pub(super) id: Id,
    pub(super) fn_id: Id,
    pub(super) url: String,
    /// When the call ended.
    pub(super) ended: Timestamp,
    pub(super) due: Timestamp,
    /// Tries made.
    pub(super) tries: u32,
}

impl Database {
    /// The first callback behind `after`, in the order in which they are due,
    /// that is `wanted`, of the next `most`.
    pub(super) fn callback(&self, after: Option<CallbackPlace>, most: usize, mut wanted: impl FnMut(&Callback) -> bool) -> Result<Look, LedgerError> {
        self.read(|c| {
            let sql = "SELECT id, fn_id, url, ended, due, tries FROM callbacks WHERE due >= ?1 AND (due, id) > (?1, ?2) ORDER BY due, id LIMIT ?3";
            let mut statement = c.prepare_cached(sql)?;
            let (due, after) = after.map_or((i64::MIN, String::new()), |(due, id)| (due.0, id.to_string()));
            let mut rows = statement.query(params![due, after, i64::try_from(most).unwrap_or(i64::MAX)])?;
            let (mut seen, mut last) = (0, None);
            while let Some(row) = rows.next()? {
                let (ended, due) = (Timestamp(row.get(3)?), Timestamp(row.get(4)?));
                let callback = Callback { id: id(row, 0)?, fn_id: id(row, 1)?, url: row.get(2)?, ended, due, tries: row.get(5)? };
                if wanted(&callback) {
                    return Ok(Look::Found(callback));
                }
                seen += 1;
                last = Some((callback.due, callback.id));
            }
            Ok(last.filter(|_| seen >= most).map_or(Look::Nothing, Look::Until))
        })
    }
}

impl Changes<'_> {
    /// Its end is to be told, if anybody wants to know.
    pub(super) fn tell(&self, call: &Id, now: Timestamp) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO callbacks SELECT id, fn_id, callback, ?2, ?2, 0 FROM queue WHERE id = ?1 AND callback IS NOT NULL";
        self.connection.prepare_cached(sql)?.execute(params![call.as_str(), now.0]).map(|_| ())
    }

    /// A callback of the end at `ended` was made, or is to be tried again then.
    /// Whether it was still to be: the call may have been sent again meanwhile.
    pub(super) fn told(&self, id: &Id, ended: Timestamp, again: Option<(Timestamp, u32)>) -> rusqlite::Result<bool> {
        self.may_fail()?;
        let count = match again {
            None => self.connection.prepare_cached("DELETE FROM callbacks WHERE id = ?1 AND ended = ?2")?.execute(params![id.as_str(), ended.0])?,
            Some((due, tries)) => {
                let sql = "UPDATE callbacks SET due = ?3, tries = ?4 WHERE id = ?1 AND ended = ?2";
                self.connection.prepare_cached(sql)?.execute(params![id.as_str(), ended.0, due.0, tries])?
            }
        };
        Ok(count > 0)
    }

    /// Gives up callbacks of calls that ended before `oldest`, `most` of them:
    /// whose calls they are of.
    pub(super) fn forget_callbacks(&self, oldest: Timestamp, most: u32) -> rusqlite::Result<Vec<Id>> {
        let sql = "DELETE FROM callbacks WHERE id IN (SELECT id FROM callbacks WHERE ended < ?1 LIMIT ?2) RETURNING id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![oldest.0, most], |row| id(row, 0))?;
        rows.collect()
    }
}
