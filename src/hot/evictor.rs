//! Whom to part with when somebody waits for room: pure choices.
//!
//! Idle containers go first, cheapest to lose first (greedy-dual: how often it
//! is called × what its start costs ÷ the memory it holds, and the longer idle
//! the cheaper). If none is idle, a queue above its share gives up a container
//! at its next finish.

use std::time::{Duration, Instant};

use crate::pool::Need;

/// An idle container of another queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Index into the caller's list of queues.
    pub(super) queue: usize,
    pub(super) id: crate::model::Id,
    pub(super) need: Need,
    pub(super) idle_for: Duration,
    pub(super) start_cost: Duration,
    /// Calls per second of its queue, lately.
    pub(super) rate: f64,
}

fn worth(c: &Candidate) -> f64 {
    let memory = c.need.mib.max(1) as f64;
    (c.rate + 1.0) * c.start_cost.as_secs_f64().max(0.001) / memory / (1.0 + c.idle_for.as_secs_f64())
}

/// The cheapest candidates that together cover `missing`; none when all of
/// them together don't (nobody is evicted in vain).
pub(super) fn choose(missing: Need, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| worth(a).total_cmp(&worth(b)).then(b.idle_for.cmp(&a.idle_for)));
    let mut freed = Need::default();
    let mut chosen = Vec::new();
    for candidate in candidates {
        if missing.fits(freed) {
            break;
        }
        freed = freed.plus(candidate.need);
        chosen.push(candidate);
    }
    if !missing.fits(freed) {
        return Vec::new();
    }
    // A large victim late in the order may make earlier small ones needless.
    let mut i = 0;
    while i < chosen.len() {
        let without = freed.minus(chosen[i].need);
        if missing.fits(without) {
            freed = without;
            chosen.remove(i);
        } else {
            i += 1;
        }
    }
    chosen
}

/// A queue in the contest for capacity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contender {
    /// MiB its containers hold, less those already asked to retire.
    pub(super) held_mib: u64,
    /// MiB of one of its containers.
    pub(super) unit_mib: u64,
    /// A busy container that can retire at its next finish exists.
    pub(super) can_retire: bool,
    /// When it last got a container.
    pub(super) last_grant: Option<Instant>,
}

/// Which queue retires a container for `me`, if any: the one that holds most,
/// as long as it stays at or above `me` afterwards; or, when everybody holds
/// about the same and `me` nothing, whoever has had its turn longest.
pub(super) fn retire_from(me: Contender, oldest_wait: Instant, turn: Duration, others: &[Contender], now: Instant) -> Option<usize> {
    let able = || others.iter().enumerate().filter(|(_, o)| o.can_retire);
    let above = able().filter(|(_, o)| o.held_mib.saturating_sub(o.unit_mib) >= me.held_mib + me.unit_mib).max_by_key(|(_, o)| o.held_mib);
    if let Some((i, _)) = above {
        return Some(i);
    }
    if me.held_mib > 0 || now.saturating_duration_since(oldest_wait) < turn {
        return None;
    }
    able().filter(|(_, o)| o.last_grant.is_none_or(|at| now.saturating_duration_since(at) >= turn)).min_by_key(|(_, o)| o.last_grant).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Id;
    use proptest::prelude::*;

    fn candidate(mib: u64, idle_s: u64) -> Candidate {
        Candidate {
            queue: 0,
            id: Id::new(),
            need: Need { mib, mcpu: 0 },
            idle_for: Duration::from_secs(idle_s),
            start_cost: Duration::from_millis(300),
            rate: 0.0,
        }
    }

    fn mib(mib: u64) -> Need {
        Need { mib, mcpu: 0 }
    }

    #[test]
    fn all_or_nothing_and_longest_idle_first() {
        assert!(choose(mib(300), vec![candidate(128, 1), candidate(128, 9)]).is_empty());
        let chosen = choose(mib(128), vec![candidate(128, 1), candidate(128, 9)]);
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].idle_for, Duration::from_secs(9));
    }

    fn contender(held_mib: u64) -> Contender {
        Contender { held_mib, unit_mib: 128, can_retire: true, last_grant: None }
    }

    #[test]
    fn shares() {
        let now = Instant::now();
        let turn = Duration::from_secs(1);
        let pick = |me, others: &[u64]| retire_from(contender(me), now, turn, &others.iter().map(|h| contender(*h)).collect::<Vec<_>>(), now);
        assert_eq!(pick(0, &[256]), Some(0), "two against none");
        assert_eq!(pick(128, &[128]), None, "one each is fair");
        assert_eq!(pick(0, &[128, 128]), None, "everybody has one: wait for the turn");
        assert_eq!(pick(0, &[128, 384]), Some(1));
        assert_eq!(pick(128, &[256]), None, "giving would only swap the two");
        let late = retire_from(contender(0), now - Duration::from_secs(2), turn, &[Contender { last_grant: Some(now), ..contender(128) }, contender(128)], now);
        assert_eq!(late, Some(1), "the turn of the second is over");
    }

    proptest! {
        #[test]
        fn covers_what_is_missing_with_nothing_to_spare(missing in 1u64..2_000, sizes in proptest::collection::vec((1u64..512, 0u64..100), 0..30)) {
            let candidates: Vec<_> = sizes.iter().map(|(m, s)| candidate(*m, *s)).collect();
            let total: u64 = sizes.iter().map(|(m, _)| m).sum();
            let chosen = choose(mib(missing), candidates);
            let freed: u64 = chosen.iter().map(|c| c.need.mib).sum();
            if total < missing { prop_assert!(chosen.is_empty()); } else {
                prop_assert!(freed >= missing);
                for c in &chosen { prop_assert!(freed - c.need.mib < missing, "a needless victim"); }
            }
        }
    }
}
