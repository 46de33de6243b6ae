//! Thread schedules of the real `tokens.rs`, explored by shuttle: the file is
//! compiled here a second time over shuttle's mutex and condvar.

pub(crate) mod sync;
#[path = "../tokens.rs"]
#[allow(dead_code, unreachable_pub, reason = "a second copy of the module, of which the schedules use a part")]
mod tokens;

use std::time::Instant;

use shuttle::thread;
use tokens::{Need, Tokens};

fn mib(mib: u64) -> Need {
    Need { mib, mcpu: 0 }
}

/// Room for one, four owners, each takes and gives back twice by the blocking
/// wait: no lost wake-up (shuttle would report a deadlock), never two at once,
/// everything back at the end.
#[test]
fn every_waiter_is_served() {
    shuttle::check_random(
        || {
            let tokens = Tokens::new(mib(1));
            let threads: Vec<_> = (0..4)
                .map(|owner| {
                    let tokens = tokens.clone();
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let mut place = tokens.line_up(owner, mib(1), Instant::now(), std::sync::Arc::new(|| {}));
                            let token = loop {
                                // A deadline that "passes" is simply tried again.
                                if let Some(token) = place.wait(Instant::now()) {
                                    break token;
                                }
                                thread::yield_now();
                            };
                            assert_eq!(tokens.usage().used, mib(1));
                            drop(token);
                        }
                    })
                })
                .collect();
            for t in threads {
                t.join().expect("no panic");
            }
            assert_eq!(tokens.usage().used, Need::default());
            assert_eq!(tokens.usage().waiting, 0);
        },
        500,
    );
}

/// Leaving the line while being granted loses nothing.
#[test]
fn leaving_while_granted_gives_on() {
    shuttle::check_random(
        || {
            let tokens = Tokens::new(mib(2));
            let held = tokens.try_take(0, mib(2)).expect("free");
            let leaver = tokens.line_up(1, mib(2), Instant::now(), std::sync::Arc::new(|| {}));
            let stayer = tokens.line_up(2, mib(2), Instant::now(), std::sync::Arc::new(|| {}));
            let a = thread::spawn(move || drop(held));
            let b = thread::spawn(move || drop(leaver));
            let c = thread::spawn(move || {
                let mut stayer = stayer;
                while stayer.take().is_none() {
                    thread::yield_now();
                }
            });
            for t in [a, b, c] {
                t.join().expect("no panic");
            }
            assert_eq!(tokens.usage().used, Need::default());
        },
        500,
    );
}
