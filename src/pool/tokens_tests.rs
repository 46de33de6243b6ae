//! The token line, step by step.

use super::tokens::*;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

fn mib(mib: u64) -> Need {
    Need { mib, mcpu: 0 }
}

fn quiet() -> Notify {
    Arc::new(|| {})
}

#[test]
fn closed_twice_is_impossible_and_usage_returns_to_zero() {
    let tokens = Tokens::new(mib(256));
    let a = tokens.try_take(1, mib(128)).expect("fits");
    let b = tokens.try_take(1, mib(128)).expect("fits");
    assert!(tokens.try_take(2, mib(1)).is_none());
    drop(a);
    assert_eq!(tokens.usage().used, mib(128));
    drop(b);
    assert_eq!(tokens.usage().used, Need::default());
    assert!(tokens.wait_all_returned(Instant::now()));
}

#[test]
fn who_holds_least_is_next_then_who_waits_longest() {
    let tokens = Tokens::new(mib(384));
    let now = Instant::now();
    let _a0 = tokens.try_take(1, mib(128)).expect("fits");
    let a1 = tokens.try_take(1, mib(128)).expect("fits");
    let a2 = tokens.try_take(1, mib(128)).expect("fits");
    let mut rich = tokens.line_up(1, mib(128), now, quiet());
    let mut poor = tokens.line_up(2, mib(128), now + Duration::from_millis(5), quiet());
    let mut poor_later = tokens.line_up(3, mib(128), now + Duration::from_millis(9), quiet());
    assert_eq!(poor.missing(), Some(mib(128)));
    assert_eq!(rich.missing(), None);
    drop(a1);
    assert!(rich.take().is_none() && poor_later.take().is_none());
    let b = poor.take().expect("granted");
    drop(a2);
    assert!(rich.take().is_none());
    drop((b, poor_later.take().expect("granted")));
    assert!(rich.take().is_some());
}

#[test]
fn a_large_need_is_not_passed_by_small_ones() {
    let tokens = Tokens::new(mib(256));
    let a = tokens.try_take(1, mib(200)).expect("fits");
    let mut large = tokens.line_up(2, mib(256), Instant::now(), quiet());
    assert!(tokens.try_take(3, mib(10)).is_none(), "56 MiB are free but kept");
    drop(a);
    assert!(large.take().is_some());
}

#[test]
fn a_dropped_place_gives_its_grant_on() {
    let tokens = Tokens::new(mib(100));
    let held = tokens.try_take(1, mib(100)).expect("fits");
    let first = tokens.line_up(2, mib(100), Instant::now(), quiet());
    let mut second = tokens.line_up(3, mib(100), Instant::now() + Duration::from_secs(1), quiet());
    drop(held);
    assert!(second.take().is_none());
    drop(first);
    assert!(second.take().is_some());
}

#[test]
fn waiting_with_the_condvar() {
    let tokens = Tokens::new(mib(100));
    let held = tokens.try_take(1, mib(100)).expect("fits");
    let mut place = tokens.line_up(2, mib(100), Instant::now(), quiet());
    assert!(place.wait(Instant::now() + Duration::from_millis(2)).is_none());
    let giver = crate::pool::spawn("test-giver", move || drop(held)).expect("thread");
    assert!(place.wait(Instant::now() + Duration::from_secs(120)).is_some());
    giver.join();
}

#[test]
fn what_is_leaving_counts_as_on_its_way() {
    let tokens = Tokens::new(mib(100));
    let mut held = tokens.try_take(1, mib(60)).expect("fits");
    let place = tokens.line_up(2, mib(100), Instant::now(), quiet());
    assert_eq!(place.missing(), Some(mib(60)));
    held.mark_leaving();
    held.mark_leaving();
    assert_eq!(place.missing(), Some(mib(0)));
    drop(held);
    assert_eq!(tokens.usage().used, mib(100));
}
