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
    let until = Instant::now() + Duration::from_secs(120);
    while !look() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Ends the one call that waits, in vain.
pub(super) fn fail(ledger: &Ledger, fn_id: &Id) -> Id {
    let taken = ledger.shared.ready.lock().take(Timestamp::now(), |_| true).expect("waits");
    let record = Record { status: Status::Error, attempts: 1, ..ledger.record(fn_id, &taken.id).expect("read").expect("known") };
    ledger.ended(record::Ended::Done { record: Box::new(record), answer: None });
    wait_until("the end", || !ledger.shared.ready.lock().is_running(&taken.id));
    taken.id
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
