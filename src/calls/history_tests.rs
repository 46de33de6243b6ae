//! Records that are packed, beside rows: read, forgotten and taken over alike.

use std::collections::HashMap;

use super::tests::{Room, call, record, settings, wait_until};
use super::*;

fn good(fn_id: Id, created: Timestamp) -> Record {
    Record { error: None, trigger: None, ..record(fn_id, created) }
}

fn bad(fn_id: Id, created: Timestamp) -> Record {
    Record { status: Status::Error, ..record(fn_id, created) }
}

fn all(ledger: &Ledger, fn_id: &Id) -> Vec<Record> {
    ledger.list(fn_id, &Filter { limit: usize::MAX, ..Filter::default() }).expect("read")
}

fn count(room: &Room, what: &str) -> i64 {
    let database = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    database.query_row(&format!("SELECT {what}"), [], |row| row.get(0)).expect("a count")
}

/// In several transactions, so that there are several packs.
fn noted(ledger: &Ledger, records: impl Iterator<Item = Record>) -> Vec<Record> {
    let mut noted: Vec<Record> = records.collect();
    for (n, record) in noted.iter().enumerate() {
        ledger.note(record.clone());
        if n % 7 == 6 {
            ledger.freshen();
        }
    }
    noted.sort_by_key(|r| std::cmp::Reverse(r.id));
    noted
}

/// Nobody waits for the writer to come round: who reads has it write.
#[test]
fn what_has_gathered_is_read_at_once() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    for n in 0..50 {
        let one = good(fn_id, Timestamp(n));
        ledger.note(one.clone());
        let found = if n % 2 == 0 { ledger.record(&fn_id, &one.id).expect("read") } else { all(&ledger, &fn_id).into_iter().next() };
        assert_eq!(found, Some(one));
    }
}

#[test]
fn packed_records_are_read_like_rows() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let every_third = |n: i64| if n % 3 == 0 { bad(fn_id, Timestamp(n)) } else { good(fn_id, Timestamp(n)) };
    let kept = noted(&ledger, (0..100).map(every_third));
    noted(&ledger, (0..10).map(|n| good(Id::new(), Timestamp(n))));
    assert_eq!(all(&ledger, &fn_id), kept);
    assert_eq!((count(&room, "sum(count) FROM packs"), count(&room, "count(*) FROM calls")), (66 + 10, 34));
    // Page by page, of whatever size.
    for limit in [1, 7, 60] {
        let (mut pages, mut before) = (Vec::new(), None);
        loop {
            let page = ledger.list(&fn_id, &Filter { limit, before, ..Filter::default() }).expect("read");
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            pages.extend(page);
        }
        assert_eq!(pages, kept);
    }
    let list = |filter: Filter| ledger.list(&fn_id, &Filter { limit: 1000, ..filter }).expect("read").len();
    assert_eq!(list(Filter { status: Some(Status::Success), ..Filter::default() }), 66);
    assert_eq!(list(Filter { status: Some(Status::Error), ..Filter::default() }), 34);
    assert_eq!(list(Filter { from: Some(Timestamp(9)), to: Some(Timestamp(20)), ..Filter::default() }), 10, "exclusive");
    for one in &kept {
        assert_eq!(ledger.record(&fn_id, &one.id).expect("read").as_ref(), Some(one));
        assert_eq!(ledger.record(&Id::MIN, &one.id).expect("read"), None, "another function's");
    }
    assert_eq!(ledger.record(&fn_id, &Id::new()).expect("read"), None);
}

/// A call that took long is written down beside younger ones, or after them.
#[test]
fn the_order_is_that_of_the_ids_whenever_a_call_ended() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let mut records: Vec<Record> = (0..60).map(|n| good(fn_id, Timestamp(n))).collect();
    // Ids seconds apart, in the order 0 20 40 1 21 41 …
    for (n, record) in (0u128..).zip(&mut records) {
        record.id = Id::of_bits(record.id.bits() + (((n % 3) * 20 + n / 3) << 80) * 100);
    }
    let kept = noted(&ledger, records.into_iter());
    assert_eq!(all(&ledger, &fn_id), kept);
    let before = kept[30].id;
    assert_eq!(ledger.list(&fn_id, &Filter { before: Some(before), limit: 1000, ..Filter::default() }).expect("read"), kept[31..]);
    for one in &kept {
        assert_eq!(ledger.record(&fn_id, &one.id).expect("read").as_ref(), Some(one));
    }
}

#[test]
fn the_newest_of_both_kinds_stay() {
    for keep in [0, 1, 5, 6, 7, 20, 39, 40, 41] {
        let (room, fn_id) = (Room::new(), Id::new());
        let now = Timestamp::now();
        let kept = noted(&room.open(), (0..40).map(|n| if n % 4 == 0 { bad(fn_id, now) } else { good(fn_id, now) }));
        let ledger = room.open_with(|s| s.keep_per_function = keep);
        let left = usize::try_from(keep).expect("small").min(40);
        wait_until("the tidying", || all(&ledger, &fn_id).len() <= left);
        // Which of those that were made within a second of each other stay is
        // decided by pack: their number is exact.
        let (found, all_packed) = (all(&ledger, &fn_id), count(&room, "coalesce(sum(count), 0) FROM packs"));
        assert_eq!((found.len(), found.first()), (left, kept.first().filter(|_| keep > 0)));
        assert_eq!(usize::try_from(all_packed).ok(), Some(found.iter().filter(|r| r.status == Status::Success).count()), "what is counted is there");
    }
}

#[test]
fn what_is_too_old_goes_whether_packed_or_not() {
    let (room, fn_id) = (Room::new(), Id::new());
    let old = Timestamp(Timestamp::now().0 - 2 * 86_400_000);
    noted(&room.open(), (0..7).flat_map(|_| [bad(fn_id, old), good(fn_id, old)]));
    let ledger = room.open();
    let new = good(fn_id, Timestamp::now());
    ledger.note(new.clone());
    wait_until("the tidying", || all(&ledger, &fn_id) == [new.clone()]);
}

/// The limit over all functions: the large ones give, small ones and what
/// waits to run lose nothing.
#[test]
fn all_functions_together_are_bounded() {
    let (room, functions) = (Room::new(), [Id::new(), Id::new(), Id::new()]);
    let now = Timestamp::now();
    let waits = {
        let ledger = room.open();
        noted(&ledger, (0..90).map(|n| if n % 9 == 0 { bad(functions[0], now) } else { good(functions[0], now) }));
        noted(&ledger, (0..60).map(|_| bad(functions[1], now)));
        noted(&ledger, (0..10).map(|_| good(functions[2], now)));
        ledger.accept(call(functions[2], None)).expect("accepted")
    };
    let ledger = room.open_with(|s| s.keep_in_all = 71);
    let mut left = Vec::new();
    wait_until("the tidying", || {
        left = functions.iter().map(|fn_id| all(&ledger, fn_id).len()).collect();
        left.iter().sum::<usize>() <= 71
    });
    assert_eq!(left, [30, 30, 11]);
    assert!(ledger.record(&functions[2], &waits).expect("read").is_some());
}

#[test]
fn a_function_that_is_gone_takes_its_packs_along() {
    let room = Room::new();
    let functions = [Id::new(), Id::new()];
    functions.iter().for_each(|fn_id| drop(noted(&room.open(), (0..3).map(|_| good(*fn_id, Timestamp::now())))));
    let ledger = Ledger::open(&room.path.join("calls.db"), settings(), Arc::new(move |id| *id == functions[0])).expect("opened");
    wait_until("the tidying", || all(&ledger, &functions[1]).is_empty());
    assert_eq!(all(&ledger, &functions[0]).len(), 3);
}

/// The oldest answers and bodies of dead calls go first; the records stay.
#[test]
fn what_is_kept_of_calls_that_are_over_is_bounded_in_bytes() {
    let (room, fn_id) = (Room::new(), Id::new());
    let held = "(SELECT coalesce(sum(length(body)), 0) FROM answers) + (SELECT coalesce(sum(length(body)), 0) FROM queue WHERE dead = 1)";
    let ledger = room.open_with(|s| s.answer_bytes = 10_000);
    let end = |n: usize| {
        let accepted = Accepted { body: vec![0; 500], ..call(fn_id, None) };
        ledger.accept(accepted.clone()).expect("accepted");
        let good = n.is_multiple_of(2);
        let status = if good { Status::Success } else { Status::Error };
        let record = Box::new(Record { status, completed: Some(Timestamp::now()), ..Record::of(&accepted) });
        let kept = Kept { body: vec![0; 500], ..Kept::default() };
        ledger.ended(record::Ended::Done { record, answer: good.then_some(kept) });
        wait_until("the end", || ledger.record(&fn_id, &accepted.id).expect("read").is_some_and(|r| r.status == status));
        ledger.shared.ready.lock().remove(&fn_id, &accepted.id);
        accepted.id
    };
    let ids: Vec<Id> = (0..40).map(end).collect();
    wait_until("the tidying", || count(&room, held) <= 10_000);
    let left = |ledger: &Ledger, n: usize| match n % 2 {
        0 => ledger.answer(&ids[n]).expect("read").is_some(),
        _ => ledger.readers.with(|r| r.dead(&ids[n])).expect("read").is_some(),
    };
    assert!(!left(&ledger, 0) && !left(&ledger, 1) && left(&ledger, 38) && left(&ledger, 39));
    assert_eq!(ledger.run_again(&fn_id, &ids[1]), Ok(Changed::No(Status::Error)));
    assert_eq!(all(&ledger, &fn_id).len(), 40);
    assert!(count(&room, held) >= 8_000, "no more than needed");
    drop(ledger);
    let ledger = room.open_with(|s| s.answer_bytes = 2_000);
    wait_until("the tidying", || count(&room, held) <= 2_000);
    assert!(left(&ledger, 38) && left(&ledger, 39));
}

/// It costs what was in it, neither the list nor the tidying.
#[test]
fn a_pack_that_cannot_be_read_is_passed_over_and_goes() {
    let (room, fn_id) = (Room::new(), Id::new());
    let kept = noted(&room.open(), (0..20).map(|_| good(fn_id, Timestamp::now())));
    let database = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    let second = "UPDATE packs SET data = x'0102' WHERE id = (SELECT id FROM packs ORDER BY last DESC LIMIT 1 OFFSET 1)";
    assert_eq!(database.execute(second, []).expect("written"), 1);
    let lost: i64 = database.query_row("SELECT count FROM packs WHERE data = x'0102'", [], |row| row.get(0)).expect("a count");
    let ledger = room.open();
    let left = all(&ledger, &fn_id);
    assert_eq!(left.len(), 20 - usize::try_from(lost).expect("small"));
    for one in &kept {
        let found = ledger.record(&fn_id, &one.id).expect("read");
        assert_eq!(found.is_some(), left.iter().any(|r| r.id == one.id));
    }
    drop(ledger);
    // The limit lies within it.
    let newest = count(&room, "count FROM packs ORDER BY last DESC LIMIT 1");
    let ledger = room.open_with(|s| s.keep_per_function = u64::try_from(newest).expect("small") + 1);
    wait_until("the tidying", || count(&room, "count(*) FROM packs") == 1);
    assert_eq!(all(&ledger, &fn_id), kept[..usize::try_from(newest).expect("small")]);
}

/// Version 3 knew rows alone: they stay, and are read beside what is packed.
#[test]
fn records_of_an_older_file_stay() {
    let (room, fn_id) = (Room::new(), Id::new());
    drop(room.open());
    let old: HashMap<Id, Record> = (0..20).map(|n| good(fn_id, Timestamp(Timestamp::now().0 + n))).map(|r| (r.id, r)).collect();
    {
        let database = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
        database.execute_batch("DROP TABLE packs; ALTER TABLE queue DROP COLUMN failed; PRAGMA user_version = 3").expect("as it was");
        let sql = "INSERT INTO calls (fn_id, id, app_id, detached, status, created, started, completed, attempts, start, waited_us, ran_us, request_bytes, \
                   response_bytes, container, start_us, boot_us, thaw_us, dispatch_us, function_us, cpu_us) \
                   VALUES (?1, ?2, ?1, 0, 2, ?3, ?3, ?3, 0, 'hot', 1, 2, 3, 4, ?4, 1, 2, 3, 4, 5, 6)";
        for r in old.values() {
            let container = r.container.expect("one").to_string();
            database.execute(sql, rusqlite::params![fn_id.as_str(), r.id.as_str(), r.created.0, container]).expect("written");
        }
    }
    let ledger = room.open();
    let new = noted(&ledger, (0..10).map(|n| good(fn_id, Timestamp(Timestamp::now().0 + n))));
    let found = all(&ledger, &fn_id);
    assert_eq!((found.len(), &found[..10]), (30, new.as_slice()));
    assert!(found.is_sorted_by_key(|r| std::cmp::Reverse(r.id)) && found[10..].iter().all(|r| old.get(&r.id) == Some(r)));
    assert_eq!((count(&room, "count(*) FROM calls"), count(&room, "sum(count) FROM packs")), (20, 10));
    drop(ledger);
    let ledger = room.open_with(|s| s.keep_per_function = 15);
    wait_until("the tidying", || all(&ledger, &fn_id) == found[..15]);
}
