//! Forgets what is too old or too much: a round over all functions, a slice of
//! it in each transaction, since others wait meanwhile.

use std::time::Duration;

use super::Shared;
use super::callbacks::GIVEN_UP_MS;
use super::database::{Changes, Database};
use super::history::level;
use super::logbook::Usage;
use super::writer::look_again;
use crate::config::CallsConfig;
use crate::metrics::LEDGER;
use crate::model::{Id, Timestamp};

/// Rows forgotten in one transaction, of all functions together, and about as
/// many of each other kind.
const SLICE: u32 = if cfg!(test) { 64 } else { 5_000 };

/// What is still to be looked at.
#[derive(Debug)]
pub(super) struct Round {
    functions: Vec<Id>,
    next: usize,
    /// What those have that were looked at.
    held: Vec<(Id, u64)>,
    /// Records that each may keep.
    keep: u64,
    /// The second time round, for the limit over all functions.
    last: bool,
}

impl Round {
    fn of(functions: Vec<Id>, keep: u64) -> Round {
        Round { functions, next: 0, held: Vec::new(), keep, last: false }
    }

    /// A slice of the work. Whether the round is over.
    fn go_on(&mut self, changes: &Changes<'_>, limits: &CallsConfig, exists: impl Fn(&Id) -> bool, forget: impl Fn(&Id)) -> rusqlite::Result<bool> {
        let oldest = before(limits.keep_for);
        let mut room = SLICE;
        loop {
            while let Some(fn_id) = self.functions.get(self.next) {
                if room == 0 {
                    return Ok(false);
                }
                let left = if exists(fn_id) {
                    changes.forget(fn_id, self.keep, oldest, room)?
                } else {
                    forget(fn_id);
                    changes.forget_function(fn_id, room)?
                };
                room = room.saturating_sub(left.cost);
                if !left.more {
                    self.held.push((*fn_id, left.held));
                    self.next += 1;
                }
            }
            if self.last {
                return Ok(true);
            }
            let held = std::mem::take(&mut self.held);
            let keep = level(&held.iter().map(|(_, count)| *count).collect::<Vec<_>>(), limits.keep_in_all);
            let functions = held.into_iter().filter(|(_, count)| *count > keep).map(|(fn_id, _)| fn_id).collect();
            *self = Round { last: true, ..Round::of(functions, keep) };
        }
    }
}

fn before(age: Duration) -> Timestamp {
    Timestamp(Timestamp::now().0 - i64::try_from(age.as_millis()).unwrap_or(i64::MAX / 2))
}

/// Goes on with the round, or begins one. Whether more is left to forget.
pub(super) fn tidy(shared: &Shared, database: &mut Database, usage: &mut Usage, round: &mut Option<Round>) -> bool {
    let limits = &shared.settings;
    let mut here = match round.take().map_or_else(|| database.functions().map(|f| Round::of(f, limits.keep_per_function)), Ok) {
        Ok(round) => round,
        Err(error) => {
            log::error!("{error}");
            return false;
        }
    };
    let (mut over, mut more, mut given_up, mut bodies) = (false, false, Vec::new(), usage.bodies);
    let result = database.commit(false, |changes| {
        over = here.go_on(changes, limits, &*shared.exists, |fn_id| shared.forget(fn_id))?;
        if over {
            if !shared.promises.are_none() {
                given_up = changes.forget_callbacks(Timestamp(shared.clock.now().0 - GIVEN_UP_MS), SLICE)?;
                more |= given_up.len() >= SLICE as usize;
            }
            more |= changes.forget_logs(before(limits.keep_for), usage, SLICE)?;
            changes.forget_logs_of_gone(usage, &*shared.exists)?;
            more |= changes.forget_answers(before(limits.keep_answers), before(limits.keep_for), SLICE)?;
        }
        bodies = usage.bodies.saturating_sub(changes.freed.get());
        if bodies > limits.answer_bytes {
            bodies = changes.forget_bodies(limits.answer_bytes, SLICE)?;
            more |= bodies > limits.answer_bytes;
        }
        Ok(())
    });
    if let Err(error) = result {
        log::error!("old calls could not be forgotten: {error}");
        look_again(database, usage);
        return false;
    }
    usage.bodies = bodies;
    if !given_up.is_empty() {
        log::warn!("{} callbacks are given up: their calls have ended a day ago", given_up.len());
        LEDGER.callbacks_lost.add(given_up.len() as u64);
        given_up.iter().for_each(|call| shared.promises.remove(call));
    }
    if !over {
        *round = Some(here);
    }
    more || !over
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::super::record::Status;
    use super::super::tests::{Room, record, settings};
    use super::*;

    /// However many functions have too much: no transaction forgets more than
    /// its slice, and in the end all is as it should be.
    #[test]
    fn no_transaction_forgets_more_than_its_slice() {
        let room = Room::new();
        let mut database = Database::open(&room.path.join("calls.db")).expect("opened");
        let functions: Vec<Id> = (0..6).map(|_| Id::new()).collect();
        let now = Timestamp::now();
        let bad = |fn_id: &Id| Record { status: Status::Error, ..record(*fn_id, now) };
        database.commit(false, |c| functions.iter().try_for_each(|f| (0..100).try_for_each(|_| c.put(&bad(f))))).expect("written");
        let limits = CallsConfig { keep_per_function: 50, keep_in_all: 100, ..settings() };
        let count = |d: &Database| d.read(|c| c.query_row("SELECT count(*) FROM calls", [], |row| row.get::<_, u32>(0))).expect("read");
        let mut round = Round::of(database.functions().expect("read"), limits.keep_per_function);
        let (mut over, mut slices) = (false, 0);
        while !over {
            let before = count(&database);
            database
                .commit(false, |c| {
                    over = round.go_on(c, &limits, |fn_id| *fn_id != functions[5], |_| {})?;
                    Ok(())
                })
                .expect("written");
            slices += 1;
            assert!(before - count(&database) <= SLICE && slices < 100);
        }
        assert_eq!((count(&database), database.functions().expect("read").len()), (100, 5));
        assert!(slices >= 500 / SLICE, "{slices}");
    }
}
