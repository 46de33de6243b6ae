//! One who does, many who wait for what it does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::ImageError;
use super::wait::Until;

/// Between two looks at the stop.
const LOOK: Duration = Duration::from_millis(100);

type Outcome = Result<(), ImageError>;

#[derive(Debug, Default)]
pub(super) struct Flights {
    under_way: Mutex<HashMap<String, Arc<Flight>>>,
}

#[derive(Debug, Default)]
struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

impl Flight {
    fn land(&self, outcome: Outcome) {
        let mut slot = self.outcome.lock();
        if slot.is_none() {
            *slot = Some(outcome);
            self.landed.notify_all();
        }
    }

    fn wait(&self, until: &Until<'_>) -> Outcome {
        let mut slot = self.outcome.lock();
        loop {
            if let Some(outcome) = &*slot {
                return outcome.clone();
            }
            until.check("waiting for an image that is on its way")?;
            let _ = self.landed.wait_until(&mut slot, until.deadline.min(Instant::now() + LOOK));
        }
    }
}

/// Held by who does it: whatever becomes of it, the others learn.
struct Leader<'f> {
    flights: &'f Flights,
    key: &'f str,
    flight: &'f Flight,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(self.key);
        self.flight.land(Err(ImageError::CalledOff));
    }
}

impl Flights {
    /// Does `work`, or waits for who does the same already. If that one ends
    /// for lack of time, somebody who has more goes on.
    pub(super) fn once(&self, key: &str, until: &Until<'_>, mut work: impl FnMut() -> Outcome) -> Outcome {
        loop {
            let (flight, lead) = {
                let mut under_way = self.under_way.lock();
                match under_way.get(key) {
                    Some(flight) => (flight.clone(), false),
                    None => (under_way.entry(key.to_owned()).or_default().clone(), true),
                }
            };
            if lead {
                let leader = Leader { flights: self, key, flight: &flight };
                let outcome = work();
                leader.flight.land(outcome.clone());
                return outcome;
            }
            match flight.wait(until) {
                Err(ImageError::TimedOut { .. } | ImageError::CalledOff) if until.check("").is_ok() => {}
                outcome => return outcome,
            }
        }
    }
}
