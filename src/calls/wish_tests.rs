//! What is asked of a writer that is slow: whoever gives up is told what is so.

use super::tests::{Room, call, wait_until};
use super::*;

/// Askers give up soon from here on, before the writer does.
fn hurry(ledger: &mut Ledger) {
    ledger.patience = Duration::from_secs(2);
}

/// The file's write lock in somebody else's hands: the writer has taken its
/// jobs up, and is stuck in its transaction for up to 5 s.
struct Locked(rusqlite::Connection);

impl Locked {
    fn of(room: &Room) -> Locked {
        let other = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
        other.busy_timeout(Duration::from_secs(5)).expect("set");
        other.execute_batch("BEGIN IMMEDIATE").expect("locked");
        Locked(other)
    }

    fn release(self) {
        self.0.execute_batch("ROLLBACK").expect("unlocked");
    }
}

/// Everything asked for so far has been looked at.
fn caught_up(ledger: &Ledger) {
    wait_until("the writer", || ledger.ask(Job::Freshen).is_ok());
}

fn status(ledger: &Ledger, fn_id: &Id, id: &Id) -> Option<Status> {
    ledger.readers.with(|r| r.record(fn_id, id)).expect("read").map(|record| record.status)
}

fn take(ledger: &Ledger) -> Option<Id> {
    ledger.shared.ready.lock().take(Timestamp(i64::MAX), |_| true).map(|w| w.id)
}

/// The writer has not come to its jobs: it stands before what has gathered.
fn held(ledger: &Ledger) -> parking_lot::MutexGuard<'_, Ring> {
    ledger.shared.ring.lock()
}

#[test]
fn what_is_said_not_to_run_does_not() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    hurry(&mut ledger);
    let writer = held(&ledger);
    let refused = call(fn_id, Some("k"));
    assert!(matches!(ledger.accept(refused.clone()), Err(DetachError::NotKept { .. })));
    drop(writer);
    caught_up(&ledger);
    assert_eq!((take(&ledger), status(&ledger, &fn_id, &refused.id)), (None, None));
    ledger.patience = Duration::from_secs(60);
    let again = call(fn_id, Some("k"));
    assert_eq!(ledger.accept(again.clone()).expect("accepted"), again.id, "its key is free");
}

#[test]
fn what_the_writer_is_at_is_not_said_not_to_run() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    hurry(&mut ledger);
    let lock = Locked::of(&room);
    let unknown = call(fn_id, None);
    assert!(matches!(ledger.accept(unknown.clone()), Err(DetachError::NotKnown { .. })));
    lock.release();
    wait_until("it to wait", || take(&ledger) == Some(unknown.id));
}

/// So many ends are promised to be told as are to be told, whatever comes of an
/// acceptance: kept after all, a repeat, refused, taken back.
#[test]
fn promises_are_counted_as_acceptances_turn_out() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    let wants = |key: Option<&str>| Accepted { callback: Some("http://a.example/".to_owned()), ..call(fn_id, key) };
    ledger.accept(wants(Some("k"))).expect("accepted");
    ledger.accept(wants(Some("k"))).expect("a repeat");
    hurry(&mut ledger);
    let promised = || ledger.shared.promises.count();
    assert_eq!(promised(), 1);

    let lock = Locked::of(&room);
    assert!(matches!(ledger.accept(wants(None)), Err(DetachError::NotKnown { .. })));
    lock.release();
    caught_up(&ledger);
    let kept = ledger.shared.ready.lock().len();
    assert_eq!(promised(), kept, "it was kept after all");

    let lock = Locked::of(&room);
    assert!(matches!(ledger.accept(wants(None)), Err(DetachError::NotKnown { .. })));
    wait_until("the writer's patience to end", || promised() == kept);
    lock.release();

    let writer = held(&ledger);
    assert!(matches!(ledger.accept(wants(None)), Err(DetachError::NotKept { .. })));
    assert_eq!(promised(), kept, "taken back");
    drop(writer);
    caught_up(&ledger);
    drop(ledger);
    assert_eq!(room.open().shared.promises.count(), kept, "as it stands in the file");
}

/// It is back in line as if nobody had asked, and what was asked does not come
/// to pass later.
#[test]
fn a_cancelling_that_is_taken_back_leaves_the_call_to_run() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    let id = ledger.accept(call(fn_id, None)).expect("accepted");
    hurry(&mut ledger);
    let writer = held(&ledger);
    assert!(matches!(ledger.cancel(&fn_id, &id), Err(NotWritten::TakenBack(_))));
    assert_eq!(take(&ledger), Some(id));
    drop(writer);
    caught_up(&ledger);
    assert_eq!(status(&ledger, &fn_id, &id), Some(Status::Queued));
    assert!(ledger.readers.with(|r| r.load(&id)).expect("read").is_some());
}

/// While the first one's is still on its way to the disk, the record says that
/// the call waits.
#[test]
fn a_second_cancelling_is_answered_like_the_first() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let id = ledger.accept(call(fn_id, None)).expect("accepted");
    let on_their_way = || ledger.jobs.lock().as_ref().map_or(0, crossbeam_channel::Sender::len);
    let writer = held(&ledger);
    let cancel = || ledger.cancel(&fn_id, &id);
    std::thread::scope(|scope| {
        let first = scope.spawn(cancel);
        wait_until("the first", || ledger.shared.ready.lock().len() == 0 && on_their_way() == 0);
        assert_eq!(status(&ledger, &fn_id, &id), Some(Status::Queued));
        let second = scope.spawn(cancel);
        wait_until("the second", || on_their_way() == 1 || second.is_finished());
        drop(writer);
        let answers = [first, second].map(|thread| thread.join().expect("no panic"));
        assert_eq!(answers, [Ok(Changed::Yes), Ok(Changed::Yes)]);
    });
}

#[test]
fn a_cancelling_that_is_not_known_to_be_written_lets_nothing_run_meanwhile() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    let id = ledger.accept(call(fn_id, None)).expect("accepted");
    hurry(&mut ledger);
    let lock = Locked::of(&room);
    assert_eq!(ledger.cancel(&fn_id, &id), Err(NotWritten::NotKnown));
    assert_eq!(take(&ledger), None);
    lock.release();
    wait_until("the end", || status(&ledger, &fn_id, &id) == Some(Status::Cancelled));
    assert_eq!(take(&ledger), None);
}

/// The writer's try fails after the asker has gone.
#[test]
fn a_cancelling_that_fails_in_the_end_puts_the_call_back() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    let id = ledger.accept(call(fn_id, None)).expect("accepted");
    hurry(&mut ledger);
    let lock = Locked::of(&room);
    assert_eq!(ledger.cancel(&fn_id, &id), Err(NotWritten::NotKnown));
    wait_until("the writer's patience to end", || take(&ledger) == Some(id));
    lock.release();
    assert_eq!(status(&ledger, &fn_id, &id), Some(Status::Queued));
}

#[test]
fn a_redrive_that_is_taken_back_does_not_happen() {
    let (room, fn_id) = (Room::new(), Id::new());
    let mut ledger = room.open();
    let id = ledger.accept(call(fn_id, None)).expect("accepted");
    assert_eq!(take(&ledger), Some(id));
    let record = ledger.record(&fn_id, &id).expect("read").expect("known");
    ledger.ended(record::Ended::Done { record: Box::new(Record { status: Status::Error, ..record }), answer: None });
    wait_until("the end", || status(&ledger, &fn_id, &id) == Some(Status::Error));
    hurry(&mut ledger);
    let writer = held(&ledger);
    assert!(matches!(ledger.run_again(&fn_id, &id), Err(NotWritten::TakenBack(_))));
    drop(writer);
    caught_up(&ledger);
    assert_eq!((take(&ledger), status(&ledger, &fn_id, &id)), (None, Some(Status::Error)));
}

/// Whatever took it out of the queue: its record says that it is over.
#[test]
fn a_call_without_its_row_does_not_wait_for_ever() {
    let (room, fn_id) = (Room::new(), Id::new());
    let ledger = room.open();
    let id = ledger.accept(Accepted { callback: Some("http://a.example/".to_owned()), ..call(fn_id, None) }).expect("accepted");
    let waiting = ledger.shared.ready.lock().take(Timestamp(i64::MAX), |_| true).expect("waits");
    let other = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
    other.execute_batch("DELETE FROM queue").expect("deleted");
    assert_eq!(ledger.shared.promises.count(), 1);
    ledger.lost(&waiting);
    wait_until("the end", || status(&ledger, &fn_id, &id) == Some(Status::Error));
    assert_eq!(ledger.shared.promises.count(), 0, "nobody is told");
    assert!(!ledger.shared.ready.lock().is_running(&id));
}
