//! Which detached call runs next: a pure index over what waits. Per function
//! by priority, due time and age; among functions the one with the fewest
//! running, so that no backlog hides another function's calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::queue::Waiting;
use crate::model::{Id, Timestamp};

/// Order inside a function and a priority: the earliest due, then the oldest.
type Place = (Timestamp, Id);
/// Which of several lines is first: priority, the function's running calls, due time.
type Rank = (usize, usize, Timestamp);
/// Priorities 0 to 2.
const PRIORITIES: usize = 3;

/// A call that has been due for longer, and lacks room alone, lets none pass.
const PATIENCE_MS: i64 = 1_000;

/// Whether a function's call may run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    Run,
    Not,
    /// Other detached calls have the memory that it needs.
    LacksRoom,
}

impl From<bool> for May {
    fn from(may: bool) -> May {
        if may { May::Run } else { May::Not }
    }
}

#[derive(Debug, Default)]
pub(super) struct Ready {
    waiting: HashMap<Id, Waiting>,
    /// Per function, one line for each priority.
    lines: BTreeMap<Id, [BTreeSet<Place>; PRIORITIES]>,
    running: HashMap<Id, Waiting>,
    busy: HashMap<Id, usize>,
    /// Of all their bodies.
    bytes: u64,
}

fn line_of(w: &Waiting) -> usize {
    usize::from(w.priority).min(PRIORITIES - 1)
}

impl Ready {
    /// A call that waits, new or again.
    pub(super) fn put(&mut self, w: Waiting) {
        self.running_ended(&w.id);
        self.lines.entry(w.fn_id).or_default()[line_of(&w)].insert((w.due, w.id));
        self.bytes += w.bytes;
        if let Some(before) = self.waiting.insert(w.id, w) {
            self.bytes -= before.bytes;
        }
    }

    /// Bytes of the bodies of waiting and running ones.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes out all that wait of a function.
    pub(super) fn forget(&mut self, fn_id: &Id) {
        for (_, id) in self.lines.get(fn_id).into_iter().flatten().flatten().copied().collect::<Vec<_>>() {
            self.remove(fn_id, &id);
        }
    }

    /// Waiting and running ones together.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    pub(super) fn is_running(&self, id: &Id) -> bool {
        self.running.contains_key(id)
    }

    /// Takes the next call whose function `may_run`, counting it as running.
    /// Looks at the heads of the lines only. None while it is the turn of one
    /// that has long lacked room: small ones would have what comes free for ever.
    pub(super) fn take<M: Into<May>>(&mut self, now: Timestamp, mut may_run: impl FnMut(&Id) -> M) -> Option<Waiting> {
        let mut best: Option<(Rank, Option<(Id, Id)>)> = None;
        for (fn_id, lines) in &self.lines {
            let heads = lines.iter().enumerate().rev();
            let Some((priority, due, id)) = heads.filter_map(|(p, line)| line.first().map(|(due, id)| (p, *due, *id))).find(|(_, due, _)| *due <= now) else {
                continue;
            };
            let rank = (PRIORITIES - priority, self.busy.get(fn_id).copied().unwrap_or(0), due);
            if best.as_ref().is_none_or(|(found, _)| rank < *found) {
                match may_run(fn_id).into() {
                    May::Run => best = Some((rank, Some((*fn_id, id)))),
                    May::LacksRoom if now.0.saturating_sub(due.0) > PATIENCE_MS => best = Some((rank, None)),
                    May::LacksRoom | May::Not => {}
                }
            }
        }
        let (fn_id, id) = best?.1?;
        let taken = self.remove(&fn_id, &id)?;
        *self.busy.entry(taken.fn_id).or_default() += 1;
        self.bytes += taken.bytes;
        self.running.insert(taken.id, taken);
        Some(taken)
    }

    /// Takes out a function's call that waits; `None` when it runs, is not known or
    /// another function's.
    pub(super) fn remove(&mut self, fn_id: &Id, id: &Id) -> Option<Waiting> {
        self.waiting.get(id).filter(|w| w.fn_id == *fn_id)?;
        let w = self.waiting.remove(id)?;
        self.bytes -= w.bytes;
        if let Some(lines) = self.lines.get_mut(&w.fn_id) {
            lines[line_of(&w)].remove(&(w.due, w.id));
            if lines.iter().all(BTreeSet::is_empty) {
                self.lines.remove(&w.fn_id);
            }
        }
        Some(w)
    }

    /// A run is over.
    pub(super) fn running_ended(&mut self, id: &Id) {
        let Some(w) = self.running.remove(id) else { return };
        self.bytes -= w.bytes;
        if let Some(busy) = self.busy.get_mut(&w.fn_id) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&w.fn_id);
            }
        }
    }

    /// When the first call that waits for its time is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.lines.values().flatten().filter_map(|line| line.first()).map(|(due, _)| *due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(fn_id: Id, priority: u8, due: i64) -> Waiting {
        Waiting { id: Id::new(), fn_id, priority, due: Timestamp(due), attempts: 0, failed: 0, bytes: 10 }
    }

    #[test]
    fn priority_then_due_then_age_and_functions_take_turns() {
        let (a, b) = (Id::new(), Id::new());
        let mut ready = Ready::default();
        let calls = [waiting(a, 0, 5), waiting(a, 0, 1), waiting(a, 0, 1), waiting(a, 2, 50), waiting(b, 0, 9), waiting(b, 1, 200)];
        calls.iter().for_each(|w| ready.put(*w));
        let mut order = Vec::new();
        while let Some(w) = ready.take(Timestamp(100), |_| true) {
            order.push(calls.iter().position(|c| c.id == w.id).expect("one of ours"));
        }
        // The urgent one first; then b, which runs nothing; then a's, by due and age.
        assert_eq!(order, [3, 4, 1, 2, 0]);
        assert_eq!((ready.len(), ready.next_due(), ready.bytes()), (6, Some(Timestamp(200)), 60));
        ready.forget(&a);
        ready.put(calls[5]);
        assert_eq!((ready.len(), ready.bytes()), (6, 60), "those that run, and one that was there");
        ready.forget(&b);
        calls.iter().for_each(|w| ready.running_ended(&w.id));
        assert_eq!((ready.len(), ready.next_due(), ready.bytes()), (0, None, 0));
    }

    /// Four small ones fit, or one large one and two small ones.
    #[test]
    fn a_large_one_has_its_turn_beside_a_backlog_of_small_ones() {
        let (small, large) = (Id::new(), Id::new());
        let need = |fn_id: &Id| if *fn_id == large { 2 } else { 1 };
        let mut ready = Ready::default();
        (0..50).for_each(|_| ready.put(waiting(small, 0, 0)));
        let (mut running, mut order) = (Vec::new(), Vec::new());
        for now in 0..10 {
            if now == 1 {
                ready.put(waiting(large, 0, 500));
            }
            let used = |running: &Vec<Waiting>| running.iter().map(|w| need(&w.fn_id)).sum::<usize>();
            let may = |fn_id: &Id, used| if used + need(fn_id) <= 4 { May::Run } else { May::LacksRoom };
            while let Some(w) = ready.take(Timestamp(now * 500), |fn_id| may(fn_id, used(&running))) {
                running.push(w);
            }
            let ended = running.remove(0);
            ready.running_ended(&ended.id);
            order.push((used(&running), running.iter().any(|w| w.fn_id == large)));
        }
        // Its patience is over at 1,500 ms: from then on room gathers for it.
        let has_run = order.iter().position(|(_, runs)| *runs);
        assert!(has_run.is_some_and(|at| at > 3), "{order:?}");
        assert_eq!(order[..3], [(3, false); 3], "small ones pass it for a while");
    }

    #[test]
    fn what_may_not_run_is_passed_over() {
        let (a, b) = (Id::new(), Id::new());
        let mut ready = Ready::default();
        let (first, second) = (waiting(a, 2, 0), waiting(b, 0, 0));
        ready.put(first);
        ready.put(second);
        assert_eq!(ready.take(Timestamp(1), |f| *f == b).map(|w| w.id), Some(second.id));
        assert_eq!(ready.take(Timestamp(1), |f| *f == b), None);
        assert!(ready.is_running(&second.id));
        ready.put(Waiting { due: Timestamp(9), ..second });
        assert!(!ready.is_running(&second.id), "put again, it waits");
        assert_eq!(ready.remove(&a, &second.id), None, "another function's");
        assert_eq!(ready.remove(&b, &second.id).map(|w| w.id), Some(second.id));
        assert_eq!(ready.remove(&b, &second.id), None);
        assert_eq!(ready.len(), 1);
    }
}
