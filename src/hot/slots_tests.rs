//! The slot table against the stupidest model.

use super::slots::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Table = Slots<u32, &'static str, usize>;

/// One in the model's line: a thread's ticket, or the number of one who sleeps
/// with its deadline's distance.
#[derive(Debug)]
enum InLine {
    Thread(Arc<Ticket<u32, &'static str>>),
    Asleep(usize, Option<Duration>),
}

impl InLine {
    fn is_late(&self, at: Duration) -> bool {
        matches!(self, InLine::Asleep(_, Some(until)) if *until <= at)
    }
}

#[test]
fn newest_container_oldest_caller() {
    let mut table = Table::default();
    let now = Instant::now();
    assert!(matches!(table.offer(1, now), Offered::Kept));
    assert!(matches!(table.offer(2, now), Offered::Kept));
    assert!(matches!(table.acquire(now), Acquired::Got { item: 2, frozen: false }));
    assert!(matches!(table.acquire(now), Acquired::Got { item: 1, .. }));
    let Acquired::Wait(first) = table.acquire(now) else { panic!("none idle") };
    let Acquired::Wait(second) = table.acquire(now) else { panic!("none idle") };
    let Offered::Handed(served) = table.offer(7, now) else { panic!("somebody waits") };
    assert!(Arc::ptr_eq(&served, &first));
    assert!(!table.abandon(&first), "already served");
    assert!(matches!(first.wait(None), Waited::Served(7)));
    assert!(table.abandon(&second));
    assert!(matches!(second.wait(Some(now)), Waited::Deadline));
}

#[test]
fn who_has_had_its_turn_in_vain_stands_where_it_came() {
    let mut table = Table::default();
    let now = Instant::now();
    let at = |n| now + Duration::from_millis(n);
    let Acquired::Wait(first) = table.acquire(at(1)) else { panic!("none idle") };
    table.line_up(3, at(3), None).expect("none idle");
    let Acquired::Wait(last) = table.acquire(at(5)) else { panic!("none idle") };
    let Acquired::Wait(again) = table.acquire_again(at(2)) else { panic!("none idle") };
    assert!(matches!(table.offer(7, now), Offered::Handed(ticket) if Arc::ptr_eq(&ticket, &first)));
    assert!(matches!(table.offer(8, now), Offered::Handed(ticket) if Arc::ptr_eq(&ticket, &again)));
    assert!(matches!(table.offer(9, now), Offered::Woken(3, 9)));
    let Acquired::Wait(newest) = table.acquire_again(at(9)) else { panic!("none idle") };
    assert!(matches!(table.offer(10, now), Offered::Handed(ticket) if Arc::ptr_eq(&ticket, &last)));
    assert!(matches!(table.offer(11, now), Offered::Handed(ticket) if Arc::ptr_eq(&ticket, &newest)));
    assert!(matches!(table.offer(12, now), Offered::Kept));
    assert!(matches!(table.acquire_again(now), Acquired::Got { item: 12, frozen: false }));
}

#[test]
fn one_who_sleeps_leaves_by_its_name_and_is_watched_once() {
    let mut table = Table::default();
    let now = Instant::now();
    let (second, late) = (Duration::from_secs(1), now + Duration::from_secs(3));
    table.line_up(1, now, None).expect("none idle");
    table.line_up(2, now + second, Some(late)).expect("none idle");
    assert_eq!(table.next_attention(second), Some(now + second));
    let named: Vec<_> = table.unwatched(now).map(|(key, sleeper)| (key, *sleeper)).collect();
    assert_eq!(named.iter().map(|(_, sleeper)| *sleeper).collect::<Vec<_>>(), [1]);
    assert_eq!(table.unwatched(now).count(), 0, "once");
    assert_eq!(table.next_attention(second), Some(now + second * 2), "the first needs none any more");
    assert_eq!(table.unwatched(now + second).count(), 1);
    assert_eq!(table.next_attention(second), Some(late));
    assert!(table.overdue(late - Duration::from_nanos(1)).is_empty());
    assert_eq!(table.overdue(late), [(2, second * 2)]);
    assert_eq!(table.leave(named[0].0), Some(1));
    assert_eq!((table.leave(named[0].0), table.waiting()), (None, 0));
    assert!(matches!(table.offer(7, now), Offered::Kept));
    assert_eq!(table.line_up(3, now, None), Err(3), "a container stands idle");
}

#[derive(Debug, Clone)]
enum Step {
    Acquire,
    LineUp(Option<u64>),
    Offer,
    Leave(usize),
    Fail(usize),
    Overdue(u64),
    Freeze,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Acquire),
        4 => proptest::option::of(0u64..100).prop_map(Step::LineUp),
        6 => Just(Step::Offer),
        2 => (0usize..8).prop_map(Step::Leave),
        1 => (0usize..4).prop_map(Step::Fail),
        1 => (0u64..100).prop_map(Step::Overdue),
        1 => Just(Step::Freeze),
    ]
}

proptest! {
    /// Against the stupidest model: a Vec of idle ids and a Vec of those who wait.
    #[test]
    fn behaves_like_two_lists(steps in proptest::collection::vec(step(), 1..200)) {
        let now = Instant::now();
        let mut table = Table::default();
        let (mut idle, mut line): (Vec<u32>, Vec<InLine>) = (Vec::new(), Vec::new());
        let mut keys = HashMap::new();
        let (mut next_item, mut next_sleeper, mut busy) = (0u32, 0usize, 0usize);
        for step in steps {
            match step {
                Step::Acquire => match table.acquire(now) {
                    Acquired::Got { item, .. } => { prop_assert_eq!(Some(item), idle.pop()); busy += 1; }
                    Acquired::Wait(ticket) => { prop_assert!(idle.is_empty()); line.push(InLine::Thread(ticket)); }
                },
                Step::LineUp(until) => {
                    let until = until.map(Duration::from_secs);
                    let lined_up = table.line_up(next_sleeper, now, until.map(|until| now + until)).is_ok();
                    prop_assert_eq!(lined_up, idle.is_empty());
                    if lined_up {
                        line.push(InLine::Asleep(next_sleeper, until));
                        keys.extend(table.unwatched(now).map(|(key, sleeper)| (*sleeper, key)));
                    }
                    next_sleeper += 1;
                }
                Step::Offer => {
                    next_item += 1;
                    let first = if line.is_empty() { None } else { Some(line.remove(0)) };
                    match (table.offer(next_item, now), first) {
                        (Offered::Handed(ticket), Some(InLine::Thread(expected))) => {
                            prop_assert!(Arc::ptr_eq(&ticket, &expected));
                            prop_assert!(matches!(ticket.take(), Some(Waited::Served(item)) if item == next_item));
                            busy += 1;
                        }
                        (Offered::Woken(sleeper, item), Some(InLine::Asleep(expected, _))) => { prop_assert_eq!((sleeper, item), (expected, next_item)); busy += 1; }
                        (Offered::Kept, None) => idle.push(next_item),
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                Step::Leave(n) if n < line.len() => match line.remove(n) {
                    InLine::Thread(ticket) => { prop_assert!(table.abandon(&ticket)); prop_assert!(!table.abandon(&ticket)); }
                    InLine::Asleep(sleeper, _) => {
                        let key = keys[&sleeper];
                        prop_assert_eq!(table.leave(key), Some(sleeper));
                        prop_assert_eq!(table.leave(key), None);
                    }
                },
                Step::Fail(n) => {
                    let expected = line.split_off(line.len().saturating_sub(n));
                    let failed = table.fail_newest(n, || "no");
                    prop_assert_eq!(failed.len(), expected.len());
                    for pair in failed.iter().zip(&expected) {
                        match pair {
                            (Failed::Thread(ticket), InLine::Thread(mine)) => { prop_assert!(Arc::ptr_eq(ticket, mine)); prop_assert!(matches!(ticket.take(), Some(Waited::Failed("no")))); }
                            (Failed::Asleep(sleeper, "no"), InLine::Asleep(mine, _)) => prop_assert_eq!(sleeper, mine),
                            other => prop_assert!(false, "{:?}", other),
                        }
                    }
                }
                Step::Overdue(at) => {
                    let at = Duration::from_secs(at);
                    let late: Vec<usize> = table.overdue(now + at).into_iter().map(|(sleeper, _)| sleeper).collect();
                    let expected: Vec<usize> = line.extract_if(.., |one| one.is_late(at)).filter_map(|one| match one { InLine::Asleep(n, _) => Some(n), InLine::Thread(_) => None }).collect();
                    prop_assert_eq!(late, expected);
                }
                Step::Freeze => {
                    if let Some(mut one) = table.take_idle(|i| idle.first() == Some(&i.item)).pop() {
                        one.frozen = true;
                        prop_assert!(table.put_back(one).is_ok());
                    }
                }
                Step::Leave(_) => {}
            }
            prop_assert!(table.idle().is_empty() || table.waiting() == 0, "never both");
            prop_assert_eq!(table.idle().len(), idle.len());
            prop_assert_eq!(table.waiting(), line.len());
            prop_assert_eq!(table.busy, busy);
        }
    }
}
