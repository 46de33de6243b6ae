//! What a launcher does next, as a pure function of what it sees.
//!
//! The need rule starts from the original's (`waiting > starting`, spec agent
//! §2.4) and adds the measured service time: callers that the containers at
//! hand will have served before a new one could be up are no reason to start
//! one, unless the line has been standing for a whole start time already. Where
//! nobody is served for that long the mean says nothing: the containers are with
//! calls slower than it.

use std::time::{Duration, Instant};

/// One idle container as the launcher sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdleView {
    pub(super) since: Instant,
    pub(super) frozen: bool,
    /// Its process has ended, or it is older than its function allows.
    pub(super) dead: bool,
}

/// A queue as the launcher sees it.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) waiting: usize,
    /// Since when callers have been waiting without a break.
    pub(super) waiting_since: Option<Instant>,
    /// When a caller in the line was last given a container.
    pub(super) handed_over: Option<Instant>,
    /// Starts under way: waiting for tokens, queued, creating, booting.
    pub(super) starting: usize,
    pub(super) busy: usize,
    pub(super) freezing: usize,
    pub(super) idle: Vec<IdleView>,
    /// Mean service time of recent calls; `None` before the first.
    pub(super) service: Option<Duration>,
    /// Mean time from decision to socket of recent starts.
    pub(super) start_cost: Duration,
    /// Starts failed lately: none before this.
    pub(super) hold_off_until: Option<Instant>,
    pub(super) freeze_after: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) closing: bool,
    /// The function was changed or deleted: containers go as they fall idle.
    pub(super) retired: bool,
    /// Containers to keep up, called or not.
    pub(super) min: usize,
    /// Containers at most; 0 = no limit.
    pub(super) max: usize,
}

/// What to do now, and when to look again at the latest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Containers to start beyond those under way, because callers wait.
    pub(super) start: usize,
    /// And to keep the function's minimum up: only where there is room.
    pub(super) prewarm: usize,
    /// Starts under way that nobody needs any more.
    pub(super) surplus: usize,
    /// Indices into `View::idle`.
    pub(super) freeze: Vec<usize>,
    pub(super) expire: Vec<usize>,
    pub(super) wake: Option<Instant>,
    /// More callers than this waiting would change the plan: ring then.
    pub(super) ring_above: usize,
}

/// A line shorter than this is not worth a container.
const SHORT_WAIT: Duration = Duration::from_millis(10);

pub(super) fn plan(view: &View, now: Instant) -> Plan {
    let mut plan = Plan { ring_above: usize::MAX, ..Plan::default() };
    let min = if view.retired || view.closing { 0 } else { view.min };
    // The newest ones stay for the minimum, however long they have been idle.
    let mut spare = (view.idle.iter().filter(|i| !i.dead).count() + view.busy + view.freezing).saturating_sub(min);
    for (i, idle) in view.idle.iter().enumerate() {
        let age = now.saturating_duration_since(idle.since);
        if idle.dead || view.closing || view.retired {
            plan.expire.push(i);
            continue;
        }
        if age >= view.idle_timeout && spare > 0 {
            spare -= 1;
            plan.expire.push(i);
            continue;
        }
        let mut due = if age < view.idle_timeout { idle.since + view.idle_timeout } else { now + view.idle_timeout };
        if let Some(after) = view.freeze_after.filter(|_| !idle.frozen) {
            if age >= after {
                plan.freeze.push(i);
            } else {
                due = due.min(idle.since + after);
            }
        }
        wake_at(&mut plan, due);
    }
    if view.closing {
        plan.surplus = view.starting;
        return plan;
    }
    if view.busy > 0 {
        // Its finish need not ring: look at it when it would be due at the earliest.
        wake_at(&mut plan, now + view.freeze_after.unwrap_or(view.idle_timeout).clamp(Duration::from_millis(20), view.idle_timeout));
    }
    let standing = is_standing(view, now);
    let need = needed(view, now);
    let live = view.busy + view.freezing + view.idle.len() - plan.expire.len();
    let short_of_min = min.saturating_sub(live);
    plan.surplus = view.starting.saturating_sub(need.max(short_of_min).max(usize::from(view.waiting > 0 && view.busy + view.freezing == 0)));
    if let Some(until) = view.hold_off_until.filter(|until| *until > now) {
        wake_at(&mut plan, until);
        return plan;
    }
    let most = if view.max == 0 { usize::MAX } else { view.max.saturating_sub(live + view.starting) };
    plan.start = need.saturating_sub(view.starting).min(most);
    plan.prewarm = short_of_min.saturating_sub(view.starting + plan.start).min(most - plan.start);
    plan.ring_above = ring_above(view, plan.start);
    if view.waiting > 0 && !standing {
        let since = view.waiting_since.unwrap_or(now);
        wake_at(&mut plan, since + view.start_cost);
    } else if view.waiting > view.starting + plan.start {
        // Also where those on the way are enough: they may turn out slower.
        wake_at(&mut plan, now + view.start_cost);
    }
    if let Some(at) = stuck_at(view).filter(|at| *at > now) {
        wake_at(&mut plan, at);
    }
    plan
}

/// Whether a start that stood in the lane is still called for, when `under_way`
/// others have begun.
pub(super) fn still_wanted(view: &View, under_way: usize, now: Instant) -> bool {
    let live = view.busy + view.freezing + view.idle.len();
    let min = if view.retired { 0 } else { view.min };
    !view.closing && needed(view, now).max(min.saturating_sub(live)) > under_way
}

/// The line has been there for as long as a start takes.
fn is_standing(view: &View, now: Instant) -> bool {
    view.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= view.start_cost)
}

/// From when on the line counts as stuck, if nobody in it is served until then.
fn stuck_at(view: &View) -> Option<Instant> {
    let since = view.waiting_since?;
    let since = view.handed_over.map_or(since, |at| at.max(since));
    let service = view.service.unwrap_or_default();
    Some(since + view.start_cost.max(2 * service.max(SHORT_WAIT)))
}

fn wake_at(plan: &mut Plan, at: Instant) {
    plan.wake = Some(plan.wake.map_or(at, |w| w.min(at)));
}

/// How many containers, starting ones included, those who wait call for.
fn needed(view: &View, now: Instant) -> usize {
    let waiting = view.waiting;
    if waiting == 0 {
        return 0;
    }
    let live = view.busy + view.freezing + view.idle.len();
    let Some(service) = view.service else {
        return waiting;
    };
    let service = service.as_secs_f64().max(1e-6);
    let target = service.max(SHORT_WAIT.as_secs_f64());
    // What the containers at hand serve before a new one could help.
    let horizon = if is_standing(view, now) { target } else { view.start_cost.as_secs_f64() };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small positive number")]
    let covered = (live as f64 * horizon / service).min(1e9) as usize;
    let uncovered = waiting.saturating_sub(covered);
    if uncovered == 0 && live > 0 {
        // One at a time: the next slow call of a quick function may be the last.
        return usize::from(stuck_at(view).is_some_and(|at| at <= now));
    }
    let each = (target / service).max(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let containers = (uncovered as f64 / each).ceil() as usize;
    if view.service.is_some_and(|s| s < SHORT_WAIT) {
        // Quick calls: more containers share the same CPUs, so feel the way.
        return containers.clamp(1, (live / 2).max(1));
    }
    containers.max(1)
}

/// The largest line for which the answer stays the same.
fn ring_above(view: &View, start: usize) -> usize {
    let have = view.starting + start;
    let live = view.busy + view.freezing + view.idle.len();
    match view.service {
        None => have,
        Some(service) if live > 0 => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped below")]
            let covered = (live as f64 * view.start_cost.as_secs_f64() / service.as_secs_f64().max(1e-6)).min(1e9) as usize;
            covered + have
        }
        Some(_) => have,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(waiting: usize, starting: usize, busy: usize) -> View {
        View {
            waiting,
            waiting_since: None,
            handed_over: None,
            starting,
            busy,
            freezing: 0,
            idle: Vec::new(),
            service: None,
            start_cost: Duration::from_millis(300),
            hold_off_until: None,
            freeze_after: Some(Duration::from_millis(50)),
            idle_timeout: Duration::from_secs(30),
            closing: false,
            retired: false,
            min: 0,
            max: 0,
        }
    }

    /// The original's truth table (spec agent §2.4), before a service time is known.
    #[test]
    fn truth_table() {
        let now = Instant::now();
        for (waiting, starting, start) in [(0, 0, 0), (0, 5, 0), (1, 0, 1), (1, 1, 0), (1, 10, 0), (10, 1, 9), (5, 5, 0), (5, 4, 1)] {
            assert_eq!(plan(&view(waiting, starting, 0), now).start, start, "{waiting} wait, {starting} start");
        }
        assert_eq!(plan(&view(1, 0, 50), now).start, 1, "busy containers of unknown speed never count");
    }

    #[test]
    fn a_burst_is_covered_in_one_pass() {
        assert_eq!(plan(&view(32, 0, 0), Instant::now()).start, 32);
    }

    #[test]
    fn quick_calls_need_no_second_container() {
        let now = Instant::now();
        let mut v = view(31, 0, 1);
        v.service = Some(Duration::from_micros(40));
        assert_eq!(plan(&v, now).start, 0);
        v.waiting_since = Some(now - Duration::from_secs(10));
        v.handed_over = Some(now);
        assert_eq!(plan(&v, now).start, 0, "31 callers wait 1.2 ms: not worth a container");
    }

    #[test]
    fn quick_calls_behind_a_slow_one_get_a_container() {
        let now = Instant::now();
        let ago = |ms| Some(now - Duration::from_millis(ms));
        let mut v = view(1, 0, 1);
        v.service = Some(Duration::from_micros(40));
        v.waiting_since = ago(299);
        assert_eq!((plan(&v, now).start, plan(&v, now).wake), (0, Some(now + Duration::from_millis(1))));
        v.waiting_since = ago(300);
        assert_eq!(plan(&v, now).start, 1);
        v.handed_over = ago(299);
        assert_eq!(plan(&v, now).start, 0, "the line moves");
        v.handed_over = ago(400);
        v.waiting = 20;
        v.starting = 1;
        assert_eq!((plan(&v, now).start, plan(&v, now).surplus), (0, 0), "one at a time");
        v.starting = 0;
        v.start_cost = Duration::from_millis(2);
        (v.waiting_since, v.handed_over) = (ago(19), None);
        assert_eq!((plan(&v, now).start, plan(&v, now).wake), (0, Some(now + Duration::from_millis(1))), "a hiccup is no slow call");
        v.waiting_since = ago(20);
        assert_eq!(plan(&v, now).start, 1);
    }

    #[test]
    fn a_standing_line_of_slow_calls_scales_up() {
        let now = Instant::now();
        let mut v = view(7, 0, 1);
        v.service = Some(Duration::from_millis(10));
        assert_eq!(plan(&v, now).start, 0, "30 calls are served before a start could help");
        v.waiting_since = Some(now - Duration::from_millis(400));
        assert_eq!(plan(&v, now).start, 6);
        v.service = Some(Duration::from_secs(1));
        v.waiting_since = None;
        assert_eq!(plan(&v, now).start, 7, "slower than a start: at once");
    }

    #[test]
    fn idle_ones_freeze_then_expire() {
        let now = Instant::now();
        let at = |age_ms| IdleView { since: now - Duration::from_millis(age_ms), frozen: false, dead: false };
        let mut v = view(0, 0, 0);
        v.idle = vec![at(31_000), at(60), at(10), IdleView { dead: true, ..at(1) }, IdleView { frozen: true, ..at(70) }];
        let plan = plan(&v, now);
        assert_eq!((plan.expire, plan.freeze), (vec![0, 3], vec![1]));
        assert_eq!(plan.wake, Some(now + Duration::from_millis(40)));
    }

    #[test]
    fn closing_expires_everything() {
        let now = Instant::now();
        let mut v = view(3, 2, 1);
        v.idle = vec![IdleView { since: now, frozen: true, dead: false }];
        v.closing = true;
        let plan = plan(&v, now);
        assert_eq!((plan.start, plan.surplus, plan.expire.len()), (0, 2, 1));
    }

    #[test]
    fn minimum_is_kept_and_maximum_not_passed() {
        let now = Instant::now();
        let mut v = view(0, 0, 0);
        v.min = 3;
        assert_eq!((plan(&v, now).start, plan(&v, now).prewarm), (0, 3));
        let old = IdleView { since: now - Duration::from_secs(60), frozen: true, dead: false };
        v.idle = vec![old; 5];
        let p = plan(&v, now);
        assert_eq!((p.expire, p.prewarm), (vec![0, 1], 0));
        v.retired = true;
        assert_eq!(plan(&v, now).expire.len(), 5);
        let mut v = view(10, 1, 1);
        v.max = 4;
        assert_eq!(plan(&v, now).start, 2);
    }

    proptest! {
        #[test]
        fn never_starts_without_need_and_never_forgets_to_wake(waiting in 0usize..200, starting in 0usize..50, busy in 0usize..50, service_us in proptest::option::of(1u64..2_000_000), age_ms in 0u64..2_000, handed_ms in proptest::option::of(0u64..2_000)) {
            let now = Instant::now();
            let mut v = view(waiting, starting, busy);
            v.service = service_us.map(Duration::from_micros);
            v.waiting_since = (waiting > 0).then(|| now - Duration::from_millis(age_ms));
            v.handed_over = handed_ms.map(|ms| now - Duration::from_millis(ms));
            let p = plan(&v, now);
            prop_assert!(p.start + starting <= waiting.max(starting), "no more containers than callers");
            prop_assert!(p.start == 0 || p.surplus == 0);
            if waiting > 0 && busy == 0 { prop_assert!(p.start + starting - p.surplus > 0, "somebody is on the way"); }
            if waiting > 0 && p.start + starting < waiting { prop_assert!(p.wake.is_some()); }
        }
    }
}
