//! What is parked, for whom, and what to do next: pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Work in the background waits until no start has been under way for so long.
const QUIET: Duration = Duration::from_millis(100);
/// After so long without a burst of its size, half of it is kept ready.
const FORGET: Duration = Duration::from_secs(600);
/// Used-up ones are removed in quiet moments, unless so many wait for one.
const MAX_DOOMED: usize = 32;
/// After failures none is made for this long, doubled with each.
const RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(600);

/// What the crew does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Make one for this network.
    Make(Option<String>),
    /// Remove a parked container.
    Remove(String),
    /// Remove the container of that name: its network went with the one
    /// that held it.
    Orphan(String),
    /// Nothing before that time.
    Wait(Option<Instant>),
    /// All is done.
    End,
}

/// Parked ones of one network.
#[derive(Debug)]
struct Pool {
    /// `None`: the engine's default.
    network: Option<String>,
    /// Engine ids, the newest last.
    ready: Vec<String>,
    making: usize,
    floor: usize,
    /// Starts since all of them were ready: what would have been of use.
    burst: usize,
    /// The size of the largest burst that is remembered, and since when.
    peak: usize,
    peak_at: Option<Instant>,
}

impl Pool {
    fn note_start(&mut self, now: Instant) {
        self.forget(now);
        self.burst += 1;
        if self.burst >= self.peak {
            (self.peak, self.peak_at) = (self.burst, Some(now));
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(at) = self.peak_at.filter(|at| now.saturating_duration_since(*at) >= FORGET) {
            self.peak /= 2;
            self.peak_at = Some(at + FORGET).filter(|_| self.peak > 0);
        }
    }

    fn target(&self) -> usize {
        self.peak.max(self.floor)
    }
}

/// The whole pool. Times come from the caller.
#[derive(Debug)]
pub(super) struct Table {
    pools: Vec<Pool>,
    /// Ready ones of all networks, at most.
    most: usize,
    /// Which parked container a function's container uses, by the latter's name.
    users: HashMap<String, String>,
    doomed: Vec<String>,
    orphans: Vec<String>,
    /// Starts under way, and when the last one ended.
    starts: usize,
    quiet_from: Option<Instant>,
    failures: u32,
    retry_at: Option<Instant>,
    /// No more are made; what is ready goes.
    closing: bool,
    /// Ends at this time at the latest; nobody uses any more.
    end_by: Option<Instant>,
}

impl Table {
    /// For these networks (none: the engine's default); at most `most` ready,
    /// `floor` of them from the start, before any demand is known.
    pub(super) fn new(networks: &[String], most: usize, floor: usize) -> Table {
        let networks: Vec<Option<String>> = if networks.is_empty() { vec![None] } else { networks.iter().cloned().map(Some).collect() };
        let floor = (floor / networks.len()).max(1);
        let pool = |network| Pool { network, ready: Vec::new(), making: 0, floor, burst: 0, peak: 0, peak_at: None };
        Table {
            pools: networks.into_iter().map(pool).collect(),
            most,
            users: HashMap::new(),
            doomed: Vec::new(),
            orphans: Vec::new(),
            starts: 0,
            quiet_from: None,
            failures: 0,
            retry_at: None,
            closing: false,
            end_by: None,
        }
    }

    /// A parked container's id for the container named `user`. INVARIANT: it
    /// leaves the ready ones for good, so nobody else ever gets it.
    pub(super) fn take(&mut self, network: Option<&str>, user: &str, now: Instant) -> Option<String> {
        let pool = self.pools.iter_mut().find(|p| p.network.as_deref() == network)?;
        pool.note_start(now);
        let id = pool.ready.pop()?;
        self.users.insert(user.to_owned(), id.clone());
        Some(id)
    }

    /// `user` is gone: what it used is not used again. True when it had one.
    pub(super) fn release(&mut self, user: &str) -> bool {
        let released = self.users.remove(user);
        let had = released.is_some();
        self.doomed.extend(released);
        had
    }

    /// A parked container ended by itself. Its user, if it had one, has lost
    /// its network.
    pub(super) fn died(&mut self, id: &str) -> Option<String> {
        let user = self.users.iter().find(|(_, used)| *used == id).map(|(user, _)| user.clone());
        if let Some(user) = &user {
            self.users.remove(user);
            self.orphans.push(user.clone());
        } else if let Some(pool) = self.pools.iter_mut().find(|p| p.ready.iter().any(|r| r == id)) {
            pool.ready.retain(|r| r != id);
        } else {
            return None;
        }
        self.doomed.push(id.to_owned());
        user
    }

    pub(super) fn start_begun(&mut self) {
        self.starts += 1;
    }

    pub(super) fn start_ended(&mut self, now: Instant) {
        self.starts = self.starts.saturating_sub(1);
        self.quiet_from = Some(now + QUIET);
    }

    /// One is up.
    pub(super) fn made(&mut self, network: Option<&str>, id: String) {
        (self.failures, self.retry_at) = (0, None);
        let closing = self.closing;
        match self.pools.iter_mut().find(|p| p.network.as_deref() == network) {
            Some(pool) => {
                pool.making = pool.making.saturating_sub(1);
                if closing {
                    self.doomed.push(id);
                } else {
                    pool.ready.push(id);
                    if pool.ready.len() >= pool.target() {
                        pool.burst = 0;
                    }
                }
            }
            None => self.doomed.push(id),
        }
    }

    /// Making one failed. Returns how long none is made, the first time in a row.
    pub(super) fn failed(&mut self, network: Option<&str>, now: Instant) -> Option<Duration> {
        if let Some(pool) = self.pools.iter_mut().find(|p| p.network.as_deref() == network) {
            pool.making = pool.making.saturating_sub(1);
        }
        let delay = (RETRY * (1 << self.failures.min(7))).min(MAX_RETRY);
        self.failures += 1;
        self.retry_at = Some(now + delay);
        (self.failures == 1).then_some(delay)
    }

    /// No more is made.
    pub(super) fn close(&mut self) {
        self.closing = true;
        for pool in &mut self.pools {
            self.doomed.append(&mut pool.ready);
        }
    }

    /// Nobody uses one any more; what is left goes by then.
    pub(super) fn end(&mut self, by: Instant) {
        self.close();
        self.doomed.extend(self.users.drain().map(|(_, id)| id));
        self.end_by = Some(by);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(super) fn ready(&self) -> usize {
        self.pools.iter().map(|p| p.ready.len()).sum()
    }

    /// Removals that were not begun.
    pub(super) fn doomed(&self) -> usize {
        self.doomed.len()
    }

    #[cfg(test)]
    pub(super) fn ready_ids(&self) -> Vec<String> {
        self.pools.iter().flat_map(|p| p.ready.iter().cloned()).collect()
    }

    /// What to do now; the work is counted as begun.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(user) = self.orphans.pop() {
            return Next::Orphan(user);
        }
        if self.closing {
            let late = self.end_by.is_some_and(|by| now >= by);
            return match self.doomed.pop().filter(|_| !late) {
                Some(id) => Next::Remove(id),
                None if self.end_by.is_some() => Next::End,
                None => Next::Wait(None),
            };
        }
        if self.doomed.len() > MAX_DOOMED
            && let Some(id) = self.doomed.pop()
        {
            return Next::Remove(id);
        }
        if self.starts > 0 {
            // The end of a start rings.
            return Next::Wait(None);
        }
        if let Some(at) = self.quiet_from.filter(|at| *at > now) {
            return Next::Wait(Some(at));
        }
        self.quiet(now)
    }

    /// Nothing competes: ready ones first, then what is of no use any more.
    fn quiet(&mut self, now: Instant) -> Next {
        let mut all: usize = self.pools.iter().map(|p| p.ready.len() + p.making).sum();
        for pool in &mut self.pools {
            pool.forget(now);
            while pool.ready.len() > pool.target() || (all > self.most && !pool.ready.is_empty()) {
                self.doomed.extend(pool.ready.pop());
                all -= 1;
            }
        }
        let allowed = self.retry_at.is_none_or(|at| at <= now);
        if allowed && all < self.most {
            let wanting = self.pools.iter_mut().filter(|p| p.ready.len() + p.making < p.target()).min_by_key(|p| p.ready.len() + p.making);
            if let Some(pool) = wanting {
                pool.making += 1;
                return Next::Make(pool.network.clone());
            }
        }
        if let Some(id) = self.doomed.pop() {
            return Next::Remove(id);
        }
        let forget_at = self.pools.iter().filter_map(|p| p.peak_at).map(|at| at + FORGET);
        Next::Wait(forget_at.chain(self.retry_at.filter(|at| *at > now)).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Makes what is wanted now; how many.
    fn fill(table: &mut Table, now: Instant) -> usize {
        let mut made = 0;
        while let Next::Make(network) = table.next(now) {
            made += 1;
            table.made(network.as_deref(), format!("p{made}-{:?}", now));
        }
        made
    }

    #[test]
    fn each_goes_to_one_user_and_is_thrown_away_after_it() {
        let (mut table, now) = (Table::new(&[], 8, 2), Instant::now());
        assert_eq!(fill(&mut table, now), 2);
        let first = table.take(None, "a", now).expect("ready");
        let second = table.take(None, "b", now).expect("ready");
        assert_ne!(first, second);
        assert_eq!(table.take(None, "c", now), None);
        assert!(table.release("a") && !table.release("a") && !table.release("c"));
        // Three starts in a burst: three are kept from now on.
        assert_eq!(table.next(now), Next::Make(None));
        assert_eq!(table.next(now), Next::Make(None));
        assert_eq!(table.next(now), Next::Make(None));
        assert_eq!(table.next(now), Next::Remove(first));
        assert!(matches!(table.next(now), Next::Wait(Some(_))));
    }

    #[test]
    fn work_waits_for_a_quiet_moment() {
        let (mut table, now) = (Table::new(&[], 8, 2), Instant::now());
        table.start_begun();
        assert_eq!(table.next(now), Next::Wait(None));
        table.start_ended(now);
        assert_eq!(table.next(now), Next::Wait(Some(now + QUIET)));
        assert_eq!(table.next(now + QUIET), Next::Make(None));
        // Unless too much has come together.
        table.start_begun();
        for n in 0..=MAX_DOOMED {
            table.users.insert(n.to_string(), n.to_string());
            table.release(&n.to_string());
        }
        assert!(matches!(table.next(now), Next::Remove(_)));
        assert_eq!(table.next(now), Next::Wait(None));
    }

    #[test]
    fn demand_is_remembered_and_forgotten() {
        let (mut table, start) = (Table::new(&[], 8, 2), Instant::now());
        for n in 0..16 {
            table.take(None, &n.to_string(), at(start, n));
        }
        assert_eq!(fill(&mut table, at(start, 100)), 8, "never more than the setting");
        let later = start + FORGET + Duration::from_secs(1);
        assert!(matches!(table.next(later + FORGET), Next::Remove(_)));
        assert_eq!(table.ready(), 4, "16, 8, 4");
        for _ in 0..3 {
            assert!(matches!(table.next(later + FORGET), Next::Remove(_)));
        }
        assert!(matches!(table.next(later + FORGET), Next::Wait(Some(_))));
        assert!(matches!(table.next(later + FORGET * 9), Next::Remove(_)));
        assert!(matches!(table.next(later + FORGET * 9), Next::Remove(_)));
        assert_eq!(table.next(later + FORGET * 9), Next::Wait(None));
        assert_eq!(table.ready(), 2);
    }

    #[test]
    fn failures_are_told_once_and_grow_apart() {
        let (mut table, now) = (Table::new(&[], 8, 2), Instant::now());
        assert_eq!(table.next(now), Next::Make(None));
        assert_eq!(table.failed(None, now), Some(RETRY));
        assert_eq!(table.next(now), Next::Wait(Some(now + RETRY)));
        assert_eq!(table.next(now + RETRY), Next::Make(None));
        assert_eq!(table.failed(None, now + RETRY), None);
        assert_eq!(table.next(now + RETRY), Next::Wait(Some(now + RETRY * 3)));
        assert_eq!(fill(&mut table, now + RETRY * 3), 2);
        assert_eq!(table.failed(None, now), Some(RETRY), "a success starts the count anew");
    }

    #[test]
    fn a_dead_one_is_replaced_and_its_user_goes() {
        let (mut table, now) = (Table::new(&[], 8, 2), Instant::now());
        fill(&mut table, now);
        let used = table.take(None, "a", now).expect("ready");
        let idle = table.ready_ids()[0].clone();
        assert_eq!(table.died(&used).as_deref(), Some("a"));
        assert_eq!(table.died(&idle), None);
        assert_eq!(table.died("stranger"), None);
        assert_eq!(table.next(now), Next::Orphan("a".to_owned()));
        assert_eq!(table.take(None, "b", now), None);
        assert_eq!(fill(&mut table, now), 2);
        assert!(matches!(table.next(now), Next::Remove(_)));
        assert!(matches!(table.next(now), Next::Wait(_)));
        assert!(!table.release("a"));
    }

    #[test]
    fn networks_have_pools_of_their_own() {
        let (mut table, now) = (Table::new(&["x".to_owned(), "y".to_owned()], 3, 2), Instant::now());
        assert_eq!(fill(&mut table, now), 2);
        assert!(table.take(Some("x"), "a", now).is_some());
        assert!(table.take(Some("x"), "b", now).is_none());
        assert!(table.take(Some("y"), "c", now).is_some());
        assert!(table.take(Some("none"), "d", now).is_none());
        assert!(table.take(None, "e", now).is_none());
        assert_eq!(fill(&mut table, now), 3);
    }

    #[test]
    fn closing_removes_all_and_ends_in_time() {
        let (mut table, now) = (Table::new(&[], 8, 2), Instant::now());
        fill(&mut table, now);
        table.take(None, "a", now);
        table.take(None, "b", now);
        fill(&mut table, now);
        table.start_begun();
        table.close();
        let mut removed = 0;
        while let Next::Remove(_) = table.next(now) {
            removed += 1;
        }
        assert_eq!((removed, table.ready()), (2, 0));
        assert_eq!(table.next(now), Next::Wait(None));
        assert!(table.release("a"));
        assert!(matches!(table.next(now), Next::Remove(_)));
        table.made(None, "late".to_owned());
        table.end(now + QUIET);
        assert!(matches!(table.next(now), Next::Remove(_)));
        assert_eq!(table.next(now + QUIET), Next::End, "not in time");
        assert_eq!(table.doomed(), 0);
    }
}
