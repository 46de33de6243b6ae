//! The slot table against the stupidest model.

use super::slots::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Instant;

type Table = Slots<u32, &'static str>;
type Line = Vec<(usize, Arc<Ticket<u32, &'static str>>)>;

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

#[derive(Debug, Clone)]
enum Step {
    Acquire,
    Offer,
    Abandon(usize),
    Fail(usize),
    Freeze,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => Just(Step::Acquire), 4 => Just(Step::Offer), 1 => (0usize..8).prop_map(Step::Abandon), 1 => (0usize..4).prop_map(Step::Fail), 1 => Just(Step::Freeze)]
}

proptest! {
    /// Against the stupidest model: a Vec of idle ids and a Vec of waiting numbers.
    #[test]
    fn behaves_like_two_lists(steps in proptest::collection::vec(step(), 1..200)) {
        let now = Instant::now();
        let mut table = Table::default();
        let (mut idle, mut line): (Vec<u32>, Line) = (Vec::new(), Vec::new());
        let (mut next_item, mut next_caller, mut busy) = (0u32, 0usize, 0usize);
        for step in steps {
            match step {
                Step::Acquire => match table.acquire(now) {
                    Acquired::Got { item, .. } => { prop_assert_eq!(Some(item), idle.pop()); busy += 1; }
                    Acquired::Wait(ticket) => { prop_assert!(idle.is_empty()); line.push((next_caller, ticket)); next_caller += 1; }
                },
                Step::Offer => {
                    next_item += 1;
                    match table.offer(next_item, now) {
                        Offered::Handed(ticket) => {
                            let (_, expected) = line.remove(0);
                            prop_assert!(Arc::ptr_eq(&ticket, &expected));
                            prop_assert!(matches!(ticket.take(), Some(Waited::Served(item)) if item == next_item));
                            busy += 1;
                        }
                        Offered::Kept => { prop_assert!(line.is_empty()); idle.push(next_item); }
                    }
                }
                Step::Abandon(n) if n < line.len() => { let (_, ticket) = line.remove(n); prop_assert!(table.abandon(&ticket)); prop_assert!(!table.abandon(&ticket)); }
                Step::Fail(n) => {
                    let failed = table.fail_newest(n, || "no");
                    prop_assert_eq!(failed.len(), n.min(line.len()));
                    for ticket in &failed { prop_assert!(matches!(ticket.take(), Some(Waited::Failed("no")))); }
                    line.truncate(line.len() - failed.len());
                }
                Step::Freeze => {
                    if let Some(mut one) = table.take_idle(|i| idle.first() == Some(&i.item)).pop() {
                        one.frozen = true;
                        prop_assert!(table.put_back(one).is_ok());
                    }
                }
                Step::Abandon(_) => {}
            }
            prop_assert!(table.idle().is_empty() || table.waiting() == 0, "never both");
            prop_assert_eq!(table.idle().len(), idle.len());
            prop_assert_eq!(table.waiting(), line.len());
            prop_assert_eq!(table.busy, busy);
        }
    }
}
