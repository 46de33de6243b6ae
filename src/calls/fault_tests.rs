//! The disk fails: at every single point of every commit, once or for good.
//! Nothing acknowledged is lost, and who is refused is told why.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::ffi;

use super::record::Ended;
use super::tests::{Room, call, settings, wait_until};
use super::*;

/// Counts down to a failure.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Steps until it fails; 0 = never.
    left: AtomicU64,
    lasting: AtomicBool,
    fired: AtomicBool,
}

impl Faults {
    fn arm(&self, nth: u64, lasting: bool) {
        self.lasting.store(lasting, Ordering::SeqCst);
        self.left.store(nth, Ordering::SeqCst);
    }

    pub(super) fn step(&self) -> rusqlite::Result<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Ok(());
        }
        if left > 1 {
            self.left.store(left - 1, Ordering::SeqCst);
            return Ok(());
        }
        if !self.lasting.load(Ordering::SeqCst) {
            self.left.store(0, Ordering::SeqCst);
        }
        self.fired.store(true, Ordering::SeqCst);
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some("disk I/O error".to_owned())))
    }
}

/// What somebody was told.
#[derive(Default)]
struct Told {
    accepted: Vec<Id>,
    cancelled: Vec<Id>,
    done: Vec<Id>,
}

/// One life of a ledger on a disk that fails; whether it failed at all.
fn life(room: &Room, fn_id: Id, nth: u64, lasting: bool) -> (Told, bool) {
    let path = room.path.join("calls.db");
    let database = Database::open(&path).expect("opened");
    let faults = database.faults.clone();
    let ledger = Ledger::with(database, &path, settings(), Arc::new(|_| true)).expect("starts");
    faults.arm(nth, lasting);
    let mut told = Told::default();
    let clear = |text: &str| assert!(text.starts_with("calls.db: ") && text.contains("disk I/O error"), "{text}");
    for key in [Some("k"), None, None, None] {
        match ledger.accept(call(fn_id, key)) {
            Ok(id) => told.accepted.push(id),
            Err(DetachError::NotKept { cause }) => clear(&cause),
            Err(other) => panic!("{other}"),
        }
    }
    for round in 0..3 {
        let Some(mut waiting) = ledger.shared.ready.lock().take(Timestamp::now(), |_| true) else { continue };
        waiting.attempts += 1;
        if let Err(cause) = ledger.ask(|done| Job::Begin(waiting, done)) {
            clear(&cause.to_string());
            waiting.attempts -= 1;
            ledger.shared.put(waiting);
            continue;
        }
        let Some(record) = ledger.record(&fn_id, &waiting.id).expect("read") else { panic!("begun and unknown") };
        let (id, status) = (waiting.id, if round == 0 { Status::Success } else { Status::Error });
        ledger.ended(match round {
            1 => Ended::Again { waiting: Waiting { due: Timestamp::now(), ..waiting }, error: "text".to_owned() },
            _ => Ended::Done { record: Box::new(Record { status, ..record }), answer: (round == 0).then(Kept::default) },
        });
        if lasting {
            continue;
        }
        wait_until("the end to be written, at the second try at the latest", || !ledger.shared.ready.lock().is_running(&id));
        if round == 0 {
            told.done.push(id);
        }
        if round == 2 {
            match ledger.run_again(&fn_id, &id) {
                Ok(changed) => assert_eq!(changed, Changed::Yes),
                Err(error) => clear(&error.to_string()),
            }
        }
    }
    let last = ledger.shared.ready.lock().take(Timestamp::now(), |_| true);
    if let Some(last) = last {
        ledger.shared.put(last);
        match ledger.cancel(&fn_id, &last.id) {
            Ok(changed) => {
                assert_eq!(changed, Changed::Yes);
                told.cancelled.push(last.id);
            }
            Err(error) => clear(&error.to_string()),
        }
    }
    drop(ledger);
    (told, faults.fired.load(Ordering::SeqCst))
}

fn every_fault(lasting: bool) -> u64 {
    for nth in 1.. {
        let (room, fn_id) = (Room::new(), Id::new());
        let (told, fired) = life(&room, fn_id, nth, lasting);
        // The disk is sound again.
        let ledger = room.open();
        let mut waits = std::collections::HashSet::new();
        while let Some(w) = ledger.shared.ready.lock().take(Timestamp(i64::MAX), |_| true) {
            assert!(waits.insert(w.id), "fault {nth}: twice in the queue");
        }
        for id in &told.accepted {
            let record = ledger.record(&fn_id, id).expect("read").unwrap_or_else(|| panic!("fault {nth}: a call that was accepted is not known"));
            // What was cancelled but not said to be may be either.
            let over = record.status.is_final();
            assert!(waits.contains(id) != over, "fault {nth}: {record:?}, waits: {}", waits.contains(id));
            assert!(!told.cancelled.contains(id) || record.status == Status::Cancelled, "fault {nth}: {record:?}");
            let done = told.done.contains(id);
            assert!(!done || (record.status == Status::Success && ledger.answer(id).expect("read").is_some()), "fault {nth}: {record:?}");
        }
        if !fired {
            return nth - 1;
        }
    }
    unreachable!("a run without a fault ends it")
}

#[test]
fn every_single_failing_write_or_sync_is_survived() {
    let points = every_fault(false);
    println!("{points} points of failure");
    assert!(points > 30, "{points}");
}

#[test]
fn a_disk_that_fails_from_any_point_on_loses_nothing_acknowledged() {
    assert!(every_fault(true) > 20);
}
