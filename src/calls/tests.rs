//! The ledger on a real file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::record::Phases;
use super::*;
use crate::config::Keep;

pub(super) struct Room {
    pub(super) path: PathBuf,
}

impl Room {
    pub(super) fn new() -> Room {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!("hob-calls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&path).expect("a folder");
        Room { path }
    }

    pub(super) fn open_with(&self, change: impl FnOnce(&mut CallsConfig)) -> Ledger {
        let mut settings = settings();
        change(&mut settings);
        Ledger::open(&self.path.join("calls.db"), settings, Arc::new(|_| true)).expect("opened")
    }

    pub(super) fn open(&self) -> Ledger {
        self.open_with(|_| {})
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

pub(super) fn settings() -> CallsConfig {
    let day = Duration::from_secs(86_400);
    CallsConfig {
        keep: Keep::All,
        keep_per_function: 1000,
        keep_in_all: 1000,
        keep_for: day,
        keep_answers: day,
        answer_bytes: 1_000_000,
        usage: false,
        keep_logs: true,
        log_bytes_per_function: 100_000,
        log_bytes: 250_000,
        max_queued: 100,
        max_queued_bytes: 10_000,
        max_body: 1000,
        workers: 1,
        attempts: 2,
        callback_workers: 2,
        max_callbacks: 1000,
        callback_secret: Some("secret".to_owned()),
        callback_private: true,
        share_percent: 50,
    }
}

pub(super) fn call(fn_id: Id, key: Option<&str>) -> Accepted {
    let created = Timestamp::now();
    Accepted {
        id: Id::new(),
        app_id: fn_id,
        fn_id,
        created,
        priority: 0,
        due: created,
        fields: b"A: b\r\n".to_vec(),
        body: b"body".to_vec(),
        key: key.map(str::to_owned),
        trigger: None,
        callback: None,
    }
}

pub(super) fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !look() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::yield_now();
    }
}

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
    assert_eq!((status(&unwanted), ledger.cancel(&fn_id, &unwanted)), (Status::Cancelled, Ok(Changed::No(Status::Cancelled))));

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

/// Ends the one call that waits, in vain.
fn fail(ledger: &Ledger, fn_id: &Id) -> Id {
    let taken = ledger.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits");
    let record = Record { status: Status::Error, attempts: 1, ..ledger.record(fn_id, &taken.id).expect("read").expect("known") };
    ledger.ended(record::Ended::Done { record: Box::new(record), answer: None });
    wait_until("the end", || !ledger.shared.ready.lock().is_running(&taken.id));
    taken.id
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
        // Given up or run again: one of the two, and the record says which.
        let revive = AtomicU32::new(0);
        let either = together(8, || match revive.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => ledger.run_again(&fn_id, &id).map(|changed| (true, changed)),
            _ => ledger.cancel(&fn_id, &id).map(|changed| (false, changed)),
        });
        let done: Vec<bool> =
            either.into_iter().map(|one| one.expect("written")).filter(|(_, changed)| *changed == Changed::Yes).map(|(again, _)| again).collect();
        assert!(done.len() == 1 || done.iter().filter(|again| **again).count() == 1, "run again at most once, then perhaps given up: {done:?}");
        let waits = ledger.shared.ready.lock().len();
        let status = ledger.record(&fn_id, &id).expect("read").expect("known").status;
        assert_eq!(status, if waits == 1 { Status::Queued } else { Status::Cancelled });
        ledger.shared.ready.lock().remove(&id);
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

pub(super) fn record(fn_id: Id, created: Timestamp) -> Record {
    Record {
        id: Id::new(),
        app_id: fn_id,
        fn_id,
        detached: false,
        status: Status::Success,
        created,
        started: Some(created),
        completed: Some(created),
        attempts: 0,
        start: "hot",
        waited_us: 1,
        ran_us: 2,
        request_bytes: 3,
        response_bytes: 4,
        container: Some(Id::new()),
        error: Some("text".to_owned()),
        trigger: Some(fn_id),
        phases: Phases { start_us: 1, boot_us: 2, thaw_us: 3, dispatch_us: 4, function_us: 5 },
        cpu_us: Some(6),
        memory_peak: None,
    }
}

#[test]
fn records_are_listed_newest_first_in_pages() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let kept: Vec<Record> =
        (0..10).map(|n| Record { status: if n % 2 == 0 { Status::Success } else { Status::Timeout }, ..record(fn_id, Timestamp(1000 * n)) }).collect();
    kept.iter().for_each(|r| ledger.note(r.clone()));
    ledger.note(record(Id::new(), Timestamp(5)));
    let list = |filter: Filter| ledger.list(&fn_id, &filter).expect("read");
    wait_until("the writer", || list(Filter { limit: 100, ..Filter::default() }).len() == 10);
    let first = list(Filter { limit: 4, ..Filter::default() });
    let rest = list(Filter { before: Some(first[3].id), limit: 100, ..Filter::default() });
    let all: Vec<Record> = first.into_iter().chain(rest).collect();
    assert!(all.iter().eq(kept.iter().rev()), "whole, and each once");
    assert_eq!(list(Filter { status: Some(Status::Timeout), limit: 100, ..Filter::default() }).len(), 5);
    assert_eq!(list(Filter { from: Some(Timestamp(2000)), to: Some(Timestamp(5000)), limit: 100, ..Filter::default() }).len(), 2, "exclusive");
}

#[test]
fn too_many_and_too_old_ones_are_forgotten_and_waiting_ones_stay() {
    let (room, fn_id) = (Room::new(), Id::new());
    let waits = {
        let ledger = room.open();
        let waits = ledger.accept(call(fn_id, None)).expect("accepted");
        let old = Timestamp(Timestamp::now().0 - 2 * 86_400_000);
        (0..20).for_each(|_| ledger.note(record(fn_id, old)));
        (0..20).for_each(|_| ledger.note(record(fn_id, Timestamp::now())));
        waits
    };
    let ledger = room.open_with(|s| s.keep_per_function = 5);
    let all = || ledger.list(&fn_id, &Filter { limit: 100, ..Filter::default() }).expect("read");
    wait_until("the tidying", || all().len() <= 6);
    assert!(all().iter().any(|r| r.id == waits), "what waits is not forgotten");
}

/// A call that was put off is as new as its end; with its record go its answer
/// and, of a dead one, its body; and what is still to be told stays.
#[test]
fn what_belongs_to_a_record_goes_with_it() {
    let (room, fn_id) = (Room::new(), Id::new());
    let old = Timestamp(Timestamp::now().0 - 2 * 86_400_000);
    let past = |key| Accepted { created: old, due: old, ..call(fn_id, key) };
    let (put_off, told, dead, good) = (past(Some("k")), Accepted { callback: Some("http://a.example/".to_owned()), ..past(None) }, past(None), past(None));
    {
        let ledger = room.open_with(|s| s.keep_for = Duration::from_secs(30 * 86_400));
        for accepted in [&told, &dead, &good] {
            ledger.accept(accepted.clone()).expect("accepted");
            let ended = |status| Record { status, completed: Some(old), ..Record::of(accepted) };
            let record = Box::new(ended(if accepted.id == dead.id { Status::Error } else { Status::Success }));
            ledger.ended(record::Ended::Done { record, answer: (accepted.id != dead.id).then(Kept::default) });
        }
        ledger.accept(put_off.clone()).expect("accepted");
        let over = |a: &Accepted| ledger.record(&fn_id, &a.id).expect("read").is_some_and(|record| record.status.is_final());
        wait_until("the ends", || over(&told) && over(&dead) && over(&good));
    }
    let ledger = room.open();
    let known = |a: &Accepted| ledger.record(&fn_id, &a.id).expect("read").is_some();
    wait_until("the tidying", || !known(&good) && !known(&dead));
    assert!(known(&told) && known(&put_off));
    assert!(ledger.answer(&told.id).expect("read").is_some() && ledger.answer(&good.id).expect("read").is_none());
    assert_eq!(ledger.readers.with(|r| r.load(&dead.id)).expect("read"), None);
    assert_eq!(ledger.accept(call(fn_id, Some("k"))).expect("known"), put_off.id, "it has its key still");
    assert_eq!(fail(&ledger, &fn_id), put_off.id);
}

/// An answer that is still to be told is kept, however old.
#[test]
fn an_answer_stays_until_it_is_told() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open_with(|s| s.keep_answers = Duration::ZERO);
    let end = |callback: Option<String>| {
        let accepted = Accepted { callback, ..call(fn_id, None) };
        ledger.accept(accepted.clone()).expect("accepted");
        let record = Box::new(Record { status: Status::Success, completed: Some(Timestamp::now()), ..Record::of(&accepted) });
        ledger.ended(record::Ended::Done { record, answer: Some(Kept::default()) });
        accepted.id
    };
    let (told, other) = (end(Some("http://a.example/".to_owned())), end(None));
    let has = |id: &Id| ledger.answer(id).expect("read").is_some();
    wait_until("the ends", || has(&told) && has(&other));
    wait_until("the tidying", || !has(&other));
    assert!(has(&told));
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

#[test]
fn a_damaged_file_is_refused_by_name() {
    let room = Room::new();
    std::fs::write(room.path.join("calls.db"), vec![7; 8192]).expect("written");
    let error = Ledger::open(&room.path.join("calls.db"), settings(), Arc::new(|_| true)).expect_err("damaged");
    assert!(error.to_string().contains("calls.db"), "{error}");
}

/// One whose beginning is lost is not taken for a new one: that would throw
/// away what is in the log beside it.
#[test]
fn an_empty_file_with_a_full_log_beside_it_is_damaged() {
    let (room, from) = (Room::new(), Room::new());
    let ledger = from.open();
    ledger.accept(call(Id::new(), None)).expect("accepted");
    std::fs::copy(from.path.join("calls.db-wal"), room.path.join("calls.db-wal")).expect("copied");
    std::fs::write(room.path.join("calls.db"), b"").expect("written");
    let error = Ledger::open(&room.path.join("calls.db"), settings(), Arc::new(|_| true)).expect_err("damaged");
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
}

#[test]
fn only_the_owner_reads_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let room = Room::new();
    let open = |file: &std::path::Path| file.metadata().expect("there").permissions().mode() & 0o077 != 0;
    let readable = || std::fs::read_dir(&room.path).expect("read").map(|e| e.expect("read").path()).filter(|file| open(file)).collect::<Vec<_>>();
    {
        let ledger = room.open();
        ledger.accept(call(Id::new(), None)).expect("accepted");
        assert_eq!(readable(), Vec::<PathBuf>::new());
        // As a killed server leaves them, made by an older one.
        std::fs::set_permissions(room.path.join("calls.db-wal"), std::fs::Permissions::from_mode(0o644)).expect("set");
        std::mem::forget(ledger);
    }
    let _ledger = room.open();
    assert_eq!(readable(), Vec::<PathBuf>::new());
}

fn log(fn_id: Id, call: Option<Id>, text: &str) -> Arc<crate::agent::Log> {
    let now = Timestamp::now();
    let text = text.to_owned();
    Arc::new(crate::agent::Log {
        app_id: fn_id,
        fn_id,
        container: Id::MIN,
        call,
        text,
        lines_dropped: 0,
        bytes_dropped: 0,
        from: now,
        to: now,
        last: false,
        done: Instant::now(),
    })
}

/// By function, then of all; the oldest lines go first, whole ones.
#[test]
fn logs_on_disk_are_bounded_by_function_and_in_all() {
    let (room, functions) = (Room::new(), [Id::new(), Id::new(), Id::new(), Id::new()]);
    let ledger = room.open();
    let sink = ledger.log_sink();
    let small = Id::new();
    sink.finished(&log(functions[3], Some(small), "small\n"));
    for fn_id in &functions[..3] {
        for n in 0..3 {
            let call = Id::new();
            sink.finished(&log(*fn_id, Some(call), &format!("{n:>999}\n").repeat(90)));
            // One after the other: what waits for the writer is bounded too.
            wait_until("the log on disk", || ledger.readers.with(|r| r.printed_by_call(fn_id, &call)).expect("read").is_some());
        }
    }
    let on_disk = |ledger: &Ledger, fn_id: &Id| {
        let printed = ledger.readers.with(|r| r.printed_by_function(fn_id, usize::MAX)).expect("read");
        printed.iter().map(|p| p.text.len()).sum::<usize>()
    };
    let held = |fn_id: &Id| on_disk(&ledger, fn_id);
    // The newest is written first and the oldest forgotten after it.
    let mut all = Vec::new();
    wait_until("the limits", || {
        all = functions.iter().map(held).collect();
        all.iter().all(|bytes| *bytes <= 100_000) && all.iter().sum::<usize>() <= 250_000
    });
    assert!(all[2] >= 30_000 && all[3] == 6, "the newest is there, the small one kept: {all:?}");
    let text = &ledger.printed_by_function(&functions[2], usize::MAX).expect("read")[0].text;
    assert!(text.lines().all(|line| line.len() == 999), "whole lines");
    drop(ledger);
    // Counted again by the next server; a function that is gone takes its logs along.
    let mut settings = settings();
    settings.log_bytes = 1_000;
    let ledger = Ledger::open(&room.path.join("calls.db"), settings, Arc::new(move |id| *id != functions[3])).expect("opened");
    ledger.log_sink().finished(&log(functions[0], None, "last\n"));
    wait_until("the limits", || {
        let held = |fn_id: &Id| on_disk(&ledger, fn_id);
        functions.iter().map(held).sum::<usize>() <= 1_000 && held(&functions[3]) == 0
    });
}

#[test]
fn a_log_of_several_runs_is_one_and_a_failed_start_has_its_containers() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let (call, failed) = (Id::new(), Id::new());
    let sink = ledger.log_sink();
    [Some(call), None, Some(call)].iter().enumerate().for_each(|(n, call)| sink.finished(&log(fn_id, *call, &format!("{n}\n"))));
    ledger.note(Record { id: failed, status: Status::Error, start: "", container: Some(Id::MIN), ..record(fn_id, Timestamp::now()) });
    wait_until("the record", || ledger.record(&fn_id, &failed).expect("read").is_some());
    let text = |id: &Id| ledger.printed(&fn_id, id).expect("read").1.map(|p| p.text);
    wait_until("the logs", || text(&call).is_some());
    assert_eq!((text(&call).as_deref(), text(&failed).as_deref(), text(&Id::new())), (Some("0\n2\n"), Some("1\n"), None));
    let all: String = ledger.printed_by_function(&fn_id, 1000).expect("read").iter().map(Printed::of_function).collect();
    assert_eq!(all, format!("{call} 0\n- 1\n{call} 2\n"));
}

/// A file of version 1 is taken over as it is.
#[test]
fn an_older_file_is_brought_up_to_date() {
    let (room, fn_id) = (Room::new(), Id::new());
    let id = room.open().accept(call(fn_id, None)).expect("accepted");
    let old = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    old.execute_batch("DROP TABLE logs; DROP TABLE packs").expect("dropped");
    for column in ["cpu_us", "memory_peak", "trigger_id", "start_us", "boot_us", "thaw_us", "dispatch_us", "function_us"] {
        old.execute_batch(&format!("ALTER TABLE calls DROP COLUMN {column}")).expect("dropped");
    }
    old.execute_batch("ALTER TABLE queue DROP COLUMN failed; ALTER TABLE queue DROP COLUMN trigger_id; ALTER TABLE queue DROP COLUMN callback; DROP TABLE callbacks; PRAGMA user_version = 1")
        .expect("dropped");
    drop(old);
    let ledger = room.open();
    assert_eq!(ledger.record(&fn_id, &id).expect("read").map(|r| r.status), Some(Status::Queued));
    assert_eq!(ledger.shared.ready.lock().len(), 1);
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
        database::Look::Found(callback) => Some(callback.ended),
        _ => None,
    };
    ledger.accept(Accepted { callback: Some("http://a.example/".to_owned()), ..call(fn_id, None) }).expect("accepted");
    let id = fail(&ledger, &fn_id);
    let first = told().expect("to be told");
    assert_eq!(ledger.run_again(&fn_id, &id), Ok(Changed::Yes));
    assert_eq!(told(), None, "it runs again");
    wait_until("the next millisecond", || ledger.shared.clock.now() > first);
    assert_eq!(fail(&ledger, &fn_id), id);
    let second = told().expect("to be told");
    for again in [None, Some((Timestamp(i64::MAX), 1))] {
        ledger.ask(|done| Job::Told { id, ended: first, again, done }).expect("written");
        assert_eq!(told(), Some(second), "the try was of the end before");
    }
    ledger.ask(|done| Job::Told { id, ended: second, again: None, done }).expect("written");
    assert_eq!(told(), None);
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

/// What is kept for a time is as old as the host's clock says, by which it is
/// forgotten.
#[test]
fn an_answer_is_as_old_as_the_hosts_clock_says() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open_with(|s| s.keep_answers = Duration::from_secs(3600));
    let clock = clock::Moment { own: Timestamp(0), wall: Timestamp::now() };
    let accepted = call(fn_id, None);
    ledger.accept(accepted.clone()).expect("accepted");
    drop(ledger);
    let mut database = Database::open(&room.path.join("calls.db")).expect("opened");
    let record = Box::new(Record { status: Status::Success, ..Record::of(&accepted) });
    let ended = record::Ended::Done { record, answer: Some(Kept::default()) };
    database.commit(true, |changes| changes.ended(&ended, clock)).expect("written");
    let file = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    let created: i64 = file.query_row("SELECT created FROM answers", [], |row| row.get(0)).expect("kept");
    assert_eq!(created, clock.wall.0);
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
