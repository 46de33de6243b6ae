//! The table of containers and waiting callers.

#[path = "../../../src/hot/slots.rs"]
mod slots;
mod sync {
    pub(super) use crate::pool::sync::{Condvar, Mutex};
}

use std::hint::black_box;
use std::time::Instant;

use slots::{Acquired, Offered, Slots, Waited};

pub(super) struct State {
    table: sync::Mutex<Slots<Box<u64>, (), ()>>,
    now: Instant,
}

impl Default for State {
    fn default() -> State {
        let now = Instant::now();
        let mut table = Slots::default();
        for container in 0..8 {
            table.offer(Box::new(container), now);
        }
        State { table: sync::Mutex::new(table), now }
    }
}

impl State {
    /// A container stands idle, is taken and given back.
    pub(super) fn idle(&mut self) {
        let Acquired::Got { item, .. } = self.table.lock().acquire(black_box(self.now)) else { panic!("eight are idle") };
        let mut table = self.table.lock();
        table.busy -= 1;
        assert!(matches!(table.offer(black_box(item), self.now), Offered::Kept));
    }

    /// All are busy: one caller waits, and is handed what comes back.
    pub(super) fn handed_over(&mut self) {
        let taken: Vec<_> =
            (0..8).map_while(|_| if let Acquired::Got { item, .. } = self.table.lock().acquire(self.now) { Some(item) } else { None }).collect();
        let Acquired::Wait(ticket) = self.table.lock().acquire(black_box(self.now)) else { panic!("none is idle") };
        for item in taken {
            let offered = {
                let mut table = self.table.lock();
                table.busy -= 1;
                table.offer(item, self.now)
            };
            if let Offered::Handed(ticket) = offered {
                ticket.notify();
            }
        }
        let Waited::Served(item) = ticket.wait(None) else { panic!("it was handed over") };
        let mut table = self.table.lock();
        table.busy -= 1;
        assert!(matches!(table.offer(item, self.now), Offered::Kept));
    }

    /// All are busy: one call waits without a thread, and goes on with what comes back.
    pub(super) fn woken(&mut self) {
        let taken: Vec<_> =
            (0..8).map_while(|_| if let Acquired::Got { item, .. } = self.table.lock().acquire(self.now) { Some(item) } else { None }).collect();
        self.table.lock().line_up((), black_box(self.now), None).expect("none is idle");
        for item in taken {
            let mut table = self.table.lock();
            table.busy -= 1;
            if let Offered::Woken((), item) = table.offer(item, self.now) {
                table.busy -= 1;
                assert!(matches!(table.offer(item, self.now), Offered::Kept));
            }
        }
    }
}
