//! Thread schedules of the real `slots.rs`, explored by shuttle: callers that
//! acquire, wait, give up and finish, over shuttle's mutex and condvar.

#[path = "../slots.rs"]
#[allow(dead_code, reason = "a second copy of the module, of which the schedules use a part")]
mod slots;
mod sync {
    pub(super) use crate::pool::schedules::sync::{Condvar, Mutex};
}

use std::sync::Arc;
use std::time::Instant;

use shuttle::thread;
use slots::{Acquired, Offered, Slots, Waited};
use sync::Mutex;

type Table = Slots<u32, &'static str, u32>;

/// Gives the container on. `Some`: to one who slept, and goes on in this thread.
fn finish(table: &Mutex<Table>, container: u32) -> Option<(u32, u32)> {
    let offered = {
        let mut table = table.lock();
        table.busy -= 1;
        table.offer(container, Instant::now())
    };
    match offered {
        Offered::Handed(ticket) => ticket.notify(),
        Offered::Woken(sleeper, container) => return Some((sleeper, container)),
        Offered::Kept => {}
    }
    None
}

/// One call as `queue.rs` runs it. `patient` callers wait for ever; the others
/// may give up, and if they were served in that very moment they must notice.
fn call(table: &Mutex<Table>, patient: bool) -> Option<u32> {
    let acquired = table.lock().acquire(Instant::now());
    let ticket = match acquired {
        Acquired::Got { item, .. } => return Some(item),
        Acquired::Wait(ticket) => ticket,
    };
    let deadline = (!patient).then(Instant::now);
    loop {
        match ticket.wait(deadline) {
            Waited::Served(container) => return Some(container),
            Waited::Failed(_) => return None,
            Waited::Deadline => {
                if table.lock().abandon(&ticket) {
                    return None;
                }
                thread::yield_now();
            }
        }
    }
}

fn scenario(containers: u32, callers: usize, impatient: usize, calls: usize) {
    let table = Arc::new(Mutex::new(Table::default()));
    for container in 0..containers {
        let kept = table.lock().offer(container, Instant::now());
        assert!(matches!(kept, Offered::Kept));
    }
    // Index = container: nobody may hold one that another holds.
    let held: Arc<Vec<shuttle::sync::atomic::AtomicBool>> = Arc::new((0..containers).map(|_| shuttle::sync::atomic::AtomicBool::new(false)).collect());
    let threads: Vec<_> = (0..callers)
        .map(|n| {
            let (table, held) = (table.clone(), held.clone());
            thread::spawn(move || {
                for _ in 0..calls {
                    if let Some(container) = call(&table, n >= impatient) {
                        let flag = &held[container as usize];
                        assert!(!flag.swap(true, shuttle::sync::atomic::Ordering::SeqCst), "handed out twice");
                        thread::yield_now();
                        flag.store(false, shuttle::sync::atomic::Ordering::SeqCst);
                        assert!(finish(&table, container).is_none(), "nobody sleeps here");
                    }
                }
            })
        })
        .collect();
    for t in threads {
        t.join().expect("no panic");
    }
    let table = table.lock();
    assert_eq!((table.busy, table.waiting(), table.idle().len()), (0, 0, containers as usize));
}

#[test]
fn no_lost_wake_up_and_no_double_hand_off() {
    shuttle::check_random(|| scenario(1, 3, 0, 2), 500);
    shuttle::check_random(|| scenario(2, 4, 0, 2), 500);
}

#[test]
fn giving_up_and_being_served_at_once() {
    shuttle::check_random(|| scenario(1, 4, 2, 2), 1000);
}

/// Callers lay their calls into the line where one stands and go; each is
/// carried out once, by whoever has a container for it, or is taken out again.
fn asleep(containers: u32, callers: u32, leavers: usize) {
    let table = Arc::new(Mutex::new(Table::default()));
    for container in 0..containers {
        table.lock().offer(container, Instant::now());
    }
    let carried_out = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..callers)
        .map(|caller| {
            let (table, carried_out) = (table.clone(), carried_out.clone());
            thread::spawn(move || {
                let container = {
                    let mut table = table.lock();
                    match table.line_up(caller, Instant::now(), None) {
                        Ok(()) => None,
                        Err(_) => match table.acquire(Instant::now()) {
                            Acquired::Got { item, .. } => Some(item),
                            Acquired::Wait(_) => panic!("one stood idle under the same lock"),
                        },
                    }
                };
                let mut turn = container.map(|container| (caller, container));
                while let Some((call, container)) = turn {
                    carried_out.lock().push(call);
                    thread::yield_now();
                    turn = finish(&table, container);
                }
            })
        })
        .collect();
    let left: Vec<_> = (0..leavers)
        .map(|key| {
            let (table, carried_out) = (table.clone(), carried_out.clone());
            thread::spawn(move || {
                let gone = table.lock().leave(key as u64);
                carried_out.lock().extend(gone);
            })
        })
        .collect();
    for t in threads.into_iter().chain(left) {
        t.join().expect("no panic");
    }
    let mut calls = carried_out.lock().clone();
    calls.sort_unstable();
    assert_eq!(calls, (0..callers).collect::<Vec<_>>(), "each once");
    let table = table.lock();
    assert_eq!((table.busy, table.waiting(), table.idle().len()), (0, 0, containers as usize));
}

#[test]
fn who_sleeps_is_carried_out_once() {
    shuttle::check_random(|| asleep(1, 4, 0), 500);
    shuttle::check_random(|| asleep(2, 5, 2), 1000);
}

/// The tests above can fail: without the notify a schedule must deadlock.
#[test]
fn a_missing_notify_is_found() {
    let broken = std::panic::catch_unwind(|| {
        shuttle::check_random(
            || {
                let table = Arc::new(Mutex::new(Table::default()));
                let waiter = table.clone();
                let caller = thread::spawn(move || call(&waiter, true));
                let offered = loop {
                    let mut table = table.lock();
                    if table.waiting() > 0 {
                        break table.offer(7, Instant::now());
                    }
                    drop(table);
                    thread::yield_now();
                };
                // `ticket.notify()` left out.
                assert!(matches!(offered, Offered::Handed(_)));
                caller.join().expect("no panic");
            },
            500,
        );
    });
    assert!(broken.is_err(), "a lost wake-up went unnoticed");
}
