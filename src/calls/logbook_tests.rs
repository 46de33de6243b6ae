//! Logs of calls on a real file.

use super::tests::{Room, record, settings, wait_until};
use super::*;

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
