//! Detached calls on a real file: accepted, cancelled, dead, sent again.

use std::sync::atomic::{AtomicU32, Ordering};

use super::tests::{Room, call, fail, wait_until};
use super::*;

#[test]
fn what_was_accepted_is_there_after_a_restart() {
    let (room, fn_id) = (Room::new(), Id::new());
    let accepted = call(fn_id, None);
    {
        let ledger = room.open();
        assert_eq!(ledger.accept(accepted.clone()).expect("accepted"), accepted.id);
        // No orderly end: what the writer acknowledged must do.
        std::mem::forget(ledger);
    }
    let again = room.open();
    assert_eq!(again.readers.with(|r| r.load(&accepted.id)).expect("read"), Some(accepted.clone()));
    let taken = again.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits");
    assert_eq!((taken.id, taken.fn_id, taken.attempts), (accepted.id, fn_id, 0));
    assert_eq!(again.record(&fn_id, &accepted.id).expect("read").expect("known").status, Status::Queued);
}

#[test]
fn a_repeat_with_the_same_key_is_the_same_call() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let first = ledger.accept(call(fn_id, Some("k"))).expect("accepted");
    assert_eq!(ledger.accept(call(fn_id, Some("k"))).expect("accepted"), first);
    assert_ne!(ledger.accept(call(fn_id, Some("other"))).expect("accepted"), first);
    assert_ne!(ledger.accept(call(Id::new(), Some("k"))).expect("accepted"), first, "keys are a function's own");
    assert_eq!(ledger.shared.ready.lock().len(), 3);
    drop(ledger);
    assert_eq!(room.open().accept(call(fn_id, Some("k"))).expect("accepted"), first, "after a restart too");
}

#[test]
fn limits_are_told() {
    let room = Room::new();
    let ledger = room.open_with(|s| s.max_queued = 1);
    let big = Accepted { body: vec![0; 1001], ..call(Id::new(), None) };
    assert!(matches!(ledger.accept(big), Err(DetachError::TooLarge { len: 1001, max: 1000 })));
    ledger.accept(call(Id::new(), None)).expect("accepted");
    assert!(matches!(ledger.accept(call(Id::new(), None)), Err(DetachError::Full { limit: 1 })));
    ledger.refuse();
    assert!(matches!(ledger.accept(call(Id::new(), None)), Err(DetachError::Draining)));
    let (heavy, fn_id) = (Room::new(), Id::new());
    {
        let ledger = heavy.open_with(|s| s.max_queued_bytes = 10);
        ledger.accept(call(fn_id, None)).expect("accepted");
        ledger.accept(call(fn_id, None)).expect("accepted");
        assert!(matches!(ledger.accept(call(fn_id, None)), Err(DetachError::FullBytes { limit: 10 })));
    }
    let ledger = heavy.open_with(|s| s.max_queued_bytes = 10);
    assert!(matches!(ledger.accept(call(fn_id, None)), Err(DetachError::FullBytes { limit: 10 })), "after a restart too");
    fail(&ledger, &fn_id);
    ledger.accept(call(fn_id, None)).expect("there is room again");
    let off = Room::new().open_with(|s| s.workers = 0);
    assert!(matches!(off.accept(call(Id::new(), None)), Err(DetachError::Off)));
}

#[test]
fn a_call_is_cancelled_or_dies_and_runs_again() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let status = |id: &Id| ledger.record(&fn_id, id).expect("read").expect("known").status;
    let unwanted = ledger.accept(call(fn_id, None)).expect("accepted");
    assert_eq!(ledger.cancel(&Id::new(), &unwanted), Ok(Changed::Unknown), "another function's");
    assert_eq!(ledger.cancel(&fn_id, &unwanted), Ok(Changed::Yes));
    assert_eq!((status(&unwanted), ledger.cancel(&fn_id, &unwanted)), (Status::Cancelled, Ok(Changed::Yes)), "the same again");

    let failing = ledger.accept(call(fn_id, None)).expect("accepted");
    assert_eq!(ledger.run_again(&fn_id, &failing), Ok(Changed::No(Status::Queued)));
    let mut taken = ledger.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits");
    taken.attempts += 1;
    ledger.ask(|done| Job::Begin(taken, done)).expect("begun");
    assert_eq!((status(&failing), ledger.cancel(&fn_id, &failing)), (Status::Running, Ok(Changed::No(Status::Running))));
    let record = Record { status: Status::Error, attempts: 1, ..ledger.record(&fn_id, &failing).expect("read").expect("known") };
    ledger.ended(record::Ended::Done { record: Box::new(record), answer: None });
    wait_until("the end", || status(&failing) == Status::Error);
    assert_eq!(ledger.run_again(&fn_id, &failing), Ok(Changed::Yes));
    assert_eq!(status(&failing), Status::Queued);
    let again = ledger.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits again");
    assert_eq!((again.id, again.attempts), (failing, 0));
}

/// All at the same time.
fn together<T: Send>(count: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    let start = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        let spawn = |_| {
            scope.spawn(|| {
                start.wait();
                work()
            })
        };
        let threads: Vec<_> = (0..count).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn many_wishes_for_one_dead_call_are_one() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    for _ in 0..20 {
        let id = ledger.accept(call(fn_id, None)).expect("accepted");
        assert_eq!(fail(&ledger, &fn_id), id);
        let revived = together(8, || ledger.run_again(&fn_id, &id).expect("written"));
        assert_eq!(revived.iter().filter(|changed| **changed == Changed::Yes).count(), 1, "{revived:?}");
        assert_eq!(ledger.shared.ready.lock().len(), 1);
        assert_eq!(fail(&ledger, &fn_id), id);
        // Run again once at most, and given up all the same: that is what all are told
        // who wanted it.
        let revive = AtomicU32::new(0);
        let either = together(8, || match revive.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => ledger.run_again(&fn_id, &id).map(|changed| (true, changed)),
            _ => ledger.cancel(&fn_id, &id).map(|changed| (false, changed)),
        });
        let done: Vec<bool> =
            either.into_iter().map(|one| one.expect("written")).filter(|(_, changed)| *changed == Changed::Yes).map(|(again, _)| again).collect();
        assert!(done.iter().filter(|again| **again).count() <= 1 && done.iter().filter(|again| !**again).count() == 4, "{done:?}");
        let status = ledger.record(&fn_id, &id).expect("read").expect("known").status;
        assert_eq!((status, ledger.shared.ready.lock().len()), (Status::Cancelled, 0));
    }
}

#[test]
fn many_at_once_get_no_more_places_than_there_are() {
    let room = Room::new();
    let ledger = room.open_with(|s| s.max_queued = 5);
    let accepted = together(40, || ledger.accept(call(Id::new(), None)).is_ok());
    assert_eq!(accepted.iter().filter(|yes| **yes).count(), 5);
    assert_eq!(ledger.shared.accepting.load(Ordering::SeqCst), 0);
}

/// The end that somebody made is told like any other, once.
#[test]
fn a_cancelled_call_is_told_of() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let told = || {
        let mut count = 0;
        ledger
            .readers
            .with(|r| {
                r.callback(None, usize::MAX, |_| {
                    count += 1;
                    false
                })
            })
            .expect("read");
        count
    };
    let with = Accepted { callback: Some("http://a.example/".to_owned()), ..call(fn_id, None) };
    let id = ledger.accept(with).expect("accepted");
    assert_eq!((told(), ledger.cancel(&fn_id, &id), told()), (0, Ok(Changed::Yes), 1));
    let without = ledger.accept(call(fn_id, None)).expect("accepted");
    assert_eq!((ledger.cancel(&fn_id, &without), told()), (Ok(Changed::Yes), 1));
}

/// A full disk, as SQLite reports it: the file may not grow.
#[test]
fn what_cannot_be_written_is_not_accepted_and_said_so() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let kept = ledger.accept(call(fn_id, None)).expect("accepted");
    let other = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    // Somebody else's write lock outlasts the writer's patience.
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    assert!(matches!(ledger.accept(call(fn_id, None)), Err(DetachError::NotKept { .. })));
    let taken = ledger.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits");
    let done = Record { status: Status::Success, ..ledger.record(&fn_id, &taken.id).expect("read").expect("known") };
    ledger.ended(record::Ended::Done { record: Box::new(done), answer: Some(Kept::default()) });
    other.execute_batch("ROLLBACK").expect("unlocked");
    wait_until("the end to be written after all", || ledger.record(&fn_id, &kept).expect("read").expect("known").status == Status::Success);
    ledger.accept(call(fn_id, None)).expect("accepted again");
}

/// Runs that failed are told from those that were cut, over a restart too. In a
/// file of version 4 all count as failures, as they did.
#[test]
fn failures_are_counted_apart() {
    let (room, fn_id) = (Room::new(), Id::new());
    let take = |ledger: &Ledger| ledger.shared.ready.lock().take(Timestamp(i64::MAX), |_| true).expect("waits");
    {
        let ledger = room.open();
        let id = ledger.accept(call(fn_id, None)).expect("accepted");
        let first = Waiting { attempts: 1, ..take(&ledger) };
        ledger.ask(|done| Job::Begin(first, done)).expect("begun");
        ledger.ended(record::Ended::Again { waiting: Waiting { failed: 1, ..first }, error: "text".to_owned() });
        wait_until("the end", || !ledger.shared.ready.lock().is_running(&id));
        ledger.ask(|done| Job::Begin(Waiting { attempts: 2, ..take(&ledger) }, done)).expect("begun");
        std::mem::forget(ledger);
    }
    let runs = |w: Waiting| (w.attempts, w.failed);
    assert_eq!(runs(take(&room.open())), (2, 1), "the second was cut");
    let old = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    old.execute_batch("ALTER TABLE queue DROP COLUMN failed; PRAGMA user_version = 4").expect("dropped");
    drop(old);
    {
        let ledger = room.open();
        let waiting = take(&ledger);
        assert_eq!(runs(waiting), (2, 2));
        ledger.shared.put(waiting);
        let id = fail(&ledger, &fn_id);
        assert_eq!(ledger.run_again(&fn_id, &id), Ok(Changed::Yes));
    }
    assert_eq!(runs(take(&room.open())), (0, 0), "with all its runs again");
}

/// A call that is sent again is told of by its next end alone, whatever comes
/// of a try that is still under way.
#[test]
fn a_call_that_is_sent_again_is_told_of_by_its_next_end() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let told = || match ledger.readers.with(|r| r.callback(None, 1, |_| true)).expect("read") {
        outbox::Look::Found(callback) => Some(callback.ended),
        _ => None,
    };
    ledger.accept(Accepted { callback: Some("http://a.example/".to_owned()), ..call(fn_id, None) }).expect("accepted");
    let id = fail(&ledger, &fn_id);
    let first = told().expect("to be told");
    assert_eq!(ledger.run_again(&fn_id, &id), Ok(Changed::Yes));
    assert_eq!((told(), ledger.shared.promises.count()), (None, 1), "it runs again");
    wait_until("the next millisecond", || ledger.shared.clock.now() > first);
    assert_eq!(fail(&ledger, &fn_id), id);
    let second = told().expect("to be told");
    for again in [None, Some((Timestamp(i64::MAX), 1))] {
        ledger.ask(|done| Job::Told { id, ended: first, again, done }).expect("written");
        assert_eq!(told(), Some(second), "the try was of the end before");
    }
    ledger.ask(|done| Job::Told { id, ended: second, again: None, done }).expect("written");
    assert_eq!((told(), ledger.shared.promises.count()), (None, 0));
    // Told or not, it is promised anew.
    assert_eq!(ledger.run_again(&fn_id, &id), Ok(Changed::Yes));
    assert_eq!(ledger.shared.promises.count(), 1);
}

/// The host's clock was set, back or forth, while the server ran: calls that
/// come then have their distance in the file, and this server goes by its own.
#[test]
fn a_clock_that_is_set_meanwhile_neither_puts_off_nor_calls_early() {
    let (hour, day) = (3_600_000, 86_400_000);
    for set_by in [-day, day] {
        let (room, fn_id) = (Room::new(), Id::new());
        let own = Timestamp::now();
        let created = Timestamp(own.0 + set_by);
        let soon = Accepted { created, due: created, ..call(fn_id, None) };
        let later = Accepted { created, due: Timestamp(created.0 + hour), ..call(fn_id, None) };
        let in_order = |ledger: &Ledger, start: i64| {
            let mut ready = ledger.shared.ready.lock();
            assert_eq!(ready.take(Timestamp(start + 60_000), |_| true).map(|w| w.id), Some(soon.id));
            assert_eq!(ready.take(Timestamp(start + hour - 60_000), |_| true).map(|w| w.id), None);
            assert_eq!(ready.take(Timestamp(start + hour + 60_000), |_| true).map(|w| w.id), Some(later.id));
        };
        {
            let ledger = room.open();
            ledger.accept(soon.clone()).expect("accepted");
            ledger.accept(later.clone()).expect("accepted");
            in_order(&ledger, own.0);
        }
        let file = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
        let distance = |id: &Id| file.query_row("SELECT due - created FROM queue WHERE id = ?1", [id.as_str()], |row| row.get::<_, i64>(0)).expect("kept");
        assert_eq!((distance(&soon.id), distance(&later.id)), (0, hour));
        if set_by > 0 {
            // Set back before the next start, as it were.
            in_order(&room.open(), own.0);
        }
    }
}

/// The clock was set back between two starts: nothing waits longer for it.
#[test]
fn a_clock_that_was_set_back_puts_nothing_off() {
    let (room, fn_id) = (Room::new(), Id::new());
    let (hour, day) = (3_600_000, 86_400_000);
    let now = Timestamp::now();
    let late = Accepted { created: Timestamp(now.0 + day), due: Timestamp(now.0 + day + hour), ..call(fn_id, None) };
    let failed = call(fn_id, None);
    {
        let ledger = room.open();
        ledger.accept(late.clone()).expect("accepted");
        ledger.accept(failed.clone()).expect("accepted");
        let taken = ledger.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits");
        assert_eq!(taken.id, failed.id);
        let waiting = Waiting { attempts: 1, due: Timestamp(now.0 + day), ..taken };
        ledger.ended(record::Ended::Again { waiting, error: "text".to_owned() });
        wait_until("the end", || !ledger.shared.ready.lock().is_running(&failed.id));
    }
    let ledger = room.open();
    let mut ready = ledger.shared.ready.lock();
    let end = Timestamp(Timestamp::now().0 + hour);
    let due: Vec<i64> = std::iter::from_fn(|| ready.take(end, |_| true)).map(|w| w.due.0 - now.0).collect();
    assert!(due.len() == 2 && due[0] <= 300_000 + 60_000 && (hour - 1..=hour + 60_000).contains(&due[1]), "{due:?}");
}
