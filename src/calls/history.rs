//! A function's records as they are read and forgotten: rows of the database
//! and packs (`packs.rs`) as one, newest first.

use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Rows, params};

use super::database::{COLUMNS, Changes, Database, LedgerError, id, record};
use super::packs::{self, Pack};
use super::record::{Record, Status};
use crate::model::{Id, Timestamp};

/// Packs forgotten of a function in one transaction.
const PACKS: u32 = 500;
/// What a pack takes that is forgotten, in rows.
const OF_PACK: u32 = 10;
/// Records are counted at the cost of one that is forgotten.
const COUNTED: u64 = 16;

/// What a list is to show.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only older ids than this.
    pub before: Option<Id>,
    /// Created after and before these, exclusive.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub status: Option<Status>,
    pub limit: usize,
}

/// What is left of a function's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) held: u64,
    /// Not all that is too much or too old is gone yet.
    pub(super) more: bool,
    /// What it took, in rows forgotten.
    pub(super) cost: u32,
}

impl Database {
    pub(super) fn record(&self, fn_id: &Id, call: &Id) -> Result<Option<Record>, LedgerError> {
        self.read(|c| {
            let sql = format!("SELECT {COLUMNS} FROM calls WHERE fn_id = ?1 AND id = ?2");
            let row = c.prepare_cached(&sql)?.query_row([fn_id.as_str(), call.as_str()], record).optional()?;
            if row.is_some() {
                return Ok(row);
            }
            let sql = "SELECT last, app_id, data FROM packs WHERE fn_id = ?1 AND last >= ?2 AND last < ?3 AND first <= ?2 ORDER BY last DESC";
            let mut statement = c.prepare_cached(sql)?;
            let rows = statement.query(params![fn_id.as_str(), call.as_str(), packs::after(call).as_str()])?;
            let mut newest = Newest::of(*fn_id, rows)?;
            while let Some(found) = newest.next(|r| r.id == *call)? {
                if found.id == *call {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    /// A function's calls, newest first.
    pub(super) fn list(&self, fn_id: &Id, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        self.read(|c| {
            let (from, to) = (filter.from.map_or(i64::MIN, |t| t.0), filter.to.map_or(i64::MAX, |t| t.0));
            // Only `before` bounds the ids that are read: of a time that is long ago
            // all younger ones are read and passed over.
            let text = |id: Option<Id>| id.map_or_else(|| "~".to_owned(), |id| id.to_string());
            let sql = format!(
                "SELECT {COLUMNS} FROM calls WHERE fn_id = ?1 AND id < ?2 AND created > ?3 AND created < ?4 AND (?5 < 0 OR status = ?5) ORDER BY id DESC LIMIT ?6"
            );
            let status = filter.status.map_or(-1, |s| s as i64);
            let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
            let mut statement = c.prepare_cached(&sql)?;
            let mut rows = statement.query_map(params![fn_id.as_str(), text(filter.before), from, to, status, limit], record)?;

            // All of what is packed went well.
            let good = filter.status.is_none_or(|status| status == Status::Success);
            let sql = "SELECT last, app_id, data FROM packs WHERE ?5 AND fn_id = ?1 AND last < ?2 AND newest > ?3 AND oldest < ?4 ORDER BY last DESC";
            let mut statement = c.prepare_cached(sql)?;
            let packs = statement.query(params![fn_id.as_str(), text(filter.before.as_ref().map(packs::after)), from, to, good])?;
            let wanted = |r: &Record| filter.before.is_none_or(|before| r.id < before) && r.created.0 > from && r.created.0 < to;
            let mut packs = Newest::of(*fn_id, packs)?;

            let mut found = Vec::new();
            let (mut row, mut packed) = (rows.next().transpose()?, packs.next(wanted)?);
            while found.len() < filter.limit {
                let of_row = match (&row, &packed) {
                    (None, None) => break,
                    (Some(row), Some(packed)) => row.id >= packed.id,
                    (row, _) => row.is_some(),
                };
                if of_row {
                    found.extend(std::mem::replace(&mut row, rows.next().transpose()?));
                } else {
                    found.extend(std::mem::replace(&mut packed, packs.next(wanted)?));
                }
            }
            Ok(found)
        })
    }

    /// Functions that have records.
    pub(super) fn functions(&self) -> Result<Vec<Id>, LedgerError> {
        self.read(|c| {
            let mut found = Vec::new();
            for table in ["calls", "packs"] {
                let mut after = String::new();
                // One seek a function, however many records it has.
                while let Some(next) = c
                    .prepare_cached(&format!("SELECT fn_id FROM {table} WHERE fn_id > ?1 ORDER BY fn_id LIMIT 1"))?
                    .query_row([&after], |row| row.get::<_, String>(0))
                    .optional()?
                {
                    found.extend(Id::from_str(&next));
                    after = next;
                }
            }
            found.sort_unstable();
            found.dedup();
            Ok(found)
        })
    }
}

/// Records out of packs, newest first. The packs come by their last ids, and
/// may overlap.
struct Newest<'s> {
    fn_id: Id,
    rows: Rows<'s>,
    /// The next pack: its last id, app and bytes.
    ahead: Option<(Id, Id, Vec<u8>)>,
    /// What is unpacked, the newest last.
    open: Vec<Record>,
}

impl<'s> Newest<'s> {
    /// `rows`: last, app_id, data.
    fn of(fn_id: Id, rows: Rows<'s>) -> rusqlite::Result<Newest<'s>> {
        let mut newest = Newest { fn_id, rows, ahead: None, open: Vec::new() };
        newest.look_ahead()?;
        Ok(newest)
    }

    fn look_ahead(&mut self) -> rusqlite::Result<()> {
        self.ahead = match self.rows.next()? {
            None => None,
            Some(row) => Some((id(row, 0)?, id(row, 1)?, row.get(2)?)),
        };
        Ok(())
    }

    fn next(&mut self, wanted: impl Fn(&Record) -> bool) -> rusqlite::Result<Option<Record>> {
        while let Some((last, app_id, data)) = &self.ahead
            && self.open.last().is_none_or(|newest| newest.id <= *last)
        {
            match packs::unpacked(self.fn_id, *app_id, data) {
                Ok(records) => self.open.extend(records.into_iter().filter(&wanted)),
                Err(error) => log::error!("records of function {} up to {last} cannot be read and are passed over: {error}", self.fn_id),
            }
            self.open.sort_unstable_by_key(|r| r.id);
            self.look_ahead()?;
        }
        Ok(self.open.pop())
    }
}

/// Where a function's records are too many: what stands behind that goes.
#[derive(Debug, Default)]
struct Surplus {
    held: u64,
    /// Rows from this id on, downwards.
    row: Option<String>,
    /// Of this pack only the newest so many stay.
    cut: Option<(i64, usize)>,
    /// Packs from this one on, downwards: its last id and its number.
    pack: Option<(String, i64)>,
}

fn surplus(c: &Connection, fn_id: &Id, keep: u64) -> rusqlite::Result<Surplus> {
    let mut rows = c.prepare_cached("SELECT id FROM calls WHERE fn_id = ?1 ORDER BY id DESC")?;
    let mut rows = rows.query_map([fn_id.as_str()], |row| row.get::<_, String>(0))?;
    let mut packs = c.prepare_cached("SELECT last, id, count FROM packs WHERE fn_id = ?1 ORDER BY last DESC, id DESC")?;
    let mut packs = packs.query_map([fn_id.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, usize>(2)?)))?;
    let (mut row, mut pack) = (rows.next().transpose()?, packs.next().transpose()?);
    let mut held = 0;
    loop {
        match (&row, &pack) {
            (None, None) => return Ok(Surplus { held, ..Surplus::default() }),
            // A pack stands where its newest record does.
            (of_row, Some((last, number, count))) if of_row.as_ref().is_none_or(|id| id < last) => {
                let room = usize::try_from(keep - held).unwrap_or(usize::MAX);
                if *count > room {
                    let cut = (room > 0).then_some((*number, room));
                    let next = if cut.is_some() { packs.next().transpose()? } else { pack };
                    return Ok(Surplus { held: keep, row, cut, pack: next.map(|(last, number, _)| (last, number)) });
                }
                held += *count as u64;
                pack = packs.next().transpose()?;
            }
            _ if held == keep => return Ok(Surplus { held, row, cut: None, pack: pack.map(|(last, number, _)| (last, number)) }),
            _ => {
                held += 1;
                row = rows.next().transpose()?;
            }
        }
    }
}

impl Changes<'_> {
    pub(super) fn put_pack(&self, pack: &Pack) -> rusqlite::Result<()> {
        self.may_fail()?;
        let sql = "INSERT INTO packs (fn_id, app_id, first, last, oldest, newest, count, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        self.connection.prepare_cached(sql)?.execute(params![
            pack.fn_id.as_str(),
            pack.app_id.as_str(),
            pack.first.as_str(),
            pack.last.as_str(),
            pack.oldest.0,
            pack.newest.0,
            pack.count,
            pack.data
        ])?;
        Ok(())
    }

    /// Forgets a function's records beyond its newest `keep` and those that ended
    /// before `oldest`, `most` at most, with the answers and the bodies of
    /// dead calls that belong to them. Waiting calls stay, and those whose end is
    /// still to be told.
    pub(super) fn forget(&self, fn_id: &Id, keep: u64, oldest: Timestamp, most: u32) -> rusqlite::Result<Left> {
        let (c, fn_text) = (self.connection, fn_id.as_str());
        let rows = |condition: &str| {
            format!(
                "DELETE FROM calls WHERE fn_id = ?1 AND id IN (SELECT id FROM calls WHERE fn_id = ?1 AND status >= {} AND {condition} \
                 AND NOT EXISTS (SELECT 1 FROM callbacks WHERE callbacks.id = calls.id) ORDER BY id LIMIT ?3) RETURNING id, detached",
                Status::Success as i64
            )
        };
        let packs =
            |condition: &str| format!("DELETE FROM packs WHERE id IN (SELECT id FROM packs WHERE fn_id = ?1 AND {condition} ORDER BY last LIMIT {PACKS})");
        let full = |rows: usize, packs: usize| rows >= most as usize || packs >= PACKS as usize;
        let mut gone = self.forget_rows(&rows("coalesce(completed, created) < ?2"), params![fn_text, oldest.0, most])?;
        let mut packs_gone = c.prepare_cached(&packs("newest < ?2"))?.execute(params![fn_text, oldest.0])?;
        let mut more = full(gone, packs_gone);

        let surplus = surplus(c, fn_id, keep)?;
        if let Some(from) = &surplus.row {
            gone += self.forget_rows(&rows("id <= ?2"), params![fn_text, from, (most as usize).saturating_sub(gone)])?;
            more |= full(gone, 0);
        }
        if let Some((last, number)) = &surplus.pack {
            let surplus = c.prepare_cached(&packs("(last, id) <= (?2, ?3)"))?.execute(params![fn_text, last, number])?;
            packs_gone += surplus;
            more |= full(0, surplus);
        }
        if let Some((number, room)) = surplus.cut {
            self.cut(fn_id, number, room)?;
        }
        let cost = gone as u64 + packs_gone as u64 * u64::from(OF_PACK) + surplus.held / COUNTED;
        Ok(Left { held: surplus.held, more, cost: u32::try_from(cost).unwrap_or(u32::MAX) })
    }

    /// Everything about a function that is no more, `most` rows at most of each
    /// table; those by which it is found go last.
    pub(super) fn forget_function(&self, fn_id: &Id, most: u32) -> rusqlite::Result<Left> {
        let of = params![fn_id.as_str(), most];
        let mut gone = self.free("DELETE FROM queue WHERE id IN (SELECT id FROM queue WHERE fn_id = ?1 LIMIT ?2) RETURNING dead * length(body)", of)?;
        for (table, key) in [("keys", "fn_id, key"), ("callbacks", "id"), ("packs", "id")] {
            let sql = format!("DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE fn_id = ?1 LIMIT ?2)");
            gone = gone.max(self.connection.prepare_cached(&sql)?.execute(of)?);
        }
        if gone < most as usize {
            let sql = "DELETE FROM calls WHERE fn_id = ?1 AND id IN (SELECT id FROM calls WHERE fn_id = ?1 LIMIT ?2) RETURNING id, detached";
            gone = gone.max(self.forget_rows(sql, of)?);
        }
        Ok(Left { held: 0, more: gone >= most as usize, cost: u32::try_from(gone).unwrap_or(u32::MAX) })
    }

    /// Deletes as `sql` says, and what belongs to the calls it gives.
    fn forget_rows(&self, sql: &str, of: impl rusqlite::Params) -> rusqlite::Result<usize> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let gone: Vec<(String, bool)> = statement.query_map(of, |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        for (id, _) in gone.iter().filter(|(_, detached)| *detached) {
            self.free("DELETE FROM answers WHERE id = ?1 RETURNING length(fields) + length(body)", [id])?;
            self.free("DELETE FROM queue WHERE id = ?1 AND dead = 1 RETURNING length(body)", [id])?;
        }
        Ok(gone.len())
    }

    /// Leaves the newest `room` records in a pack; one that cannot be read goes.
    fn cut(&self, fn_id: &Id, number: i64, room: usize) -> rusqlite::Result<()> {
        let read = |row: &rusqlite::Row<'_>| Ok((id(row, 1)?, row.get::<_, Vec<u8>>(2)?));
        let (app_id, data) = self.connection.prepare_cached("SELECT id, app_id, data FROM packs WHERE id = ?1")?.query_row([number], read)?;
        let records = match packs::unpacked(*fn_id, app_id, &data) {
            Ok(records) => records,
            Err(error) => {
                log::error!("records of function {fn_id} cannot be read and are forgotten: {error}");
                return self.connection.prepare_cached("DELETE FROM packs WHERE id = ?1")?.execute([number]).map(|_| ());
            }
        };
        let newest: Vec<&Record> = records.iter().skip(records.len().saturating_sub(room)).collect();
        let Some(pack) = packs::pack(&newest) else { return Ok(()) };
        let sql = "UPDATE packs SET first = ?2, oldest = ?3, newest = ?4, count = ?5, data = ?6 WHERE id = ?1";
        self.connection.prepare_cached(sql)?.execute(params![number, pack.first.as_str(), pack.oldest.0, pack.newest.0, pack.count, pack.data])?;
        Ok(())
    }
}

/// Records that each function may keep so that all together have no more than
/// `total`: those with the most give first. Larger than any of `held` when
/// nobody has to.
pub(super) fn level(held: &[u64], total: u64) -> u64 {
    let mut held = held.to_vec();
    held.sort_unstable();
    let (mut left, mut functions) = (total, held.len() as u64);
    for count in held {
        if count > left / functions {
            return left / functions;
        }
        left -= count;
        functions -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_give_first() {
        assert_eq!(level(&[], 5), u64::MAX);
        assert_eq!(level(&[1, 2, 2], 5), u64::MAX);
        assert_eq!(level(&[10, 1, 2], 9), 6);
        assert_eq!(level(&[10, 1, 20], 9), 4);
        assert_eq!(level(&[3, 3, 3], 2), 0);
    }
}
