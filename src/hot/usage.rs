//! What containers use, looked at when somebody asks: `/metrics`, the state.
//! Never on the way of a call, and no lock is held while it is read.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::container::Pulse;
use super::queue::SlotQueue;
use super::state::State;
use super::{Hot, Shared};
use crate::driver::{Driver, Instance, Meter, Usage};
use crate::metrics::{ContainerRow, Counter};
use crate::model::Id;

/// Who asks again so soon is told the same.
const FRESH: Duration = Duration::from_millis(500);
/// One look at everything takes no longer.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// Containers whose driver is asked in one look, where we cannot see for
/// ourselves: a question costs the engine milliseconds.
const QUESTIONS: usize = 16;
/// What a driver said is believed so long.
const TOLD_FRESH: Duration = Duration::from_secs(15);
/// Functions with a row of their own; the others share one.
const ROWS: usize = 200;

/// One container's consumption: part of its pulse.
#[derive(Debug)]
pub(super) struct Spending {
    place: OnceLock<Place>,
    seen: Mutex<Option<(Instant, Usage)>>,
    /// CPU time of all containers of the function, nanoseconds.
    total: Arc<Counter>,
}

#[derive(Debug)]
struct Place {
    engine_id: String,
    meter: Option<Arc<Meter>>,
}

/// What is left of one look.
pub(super) struct Look {
    until: Instant,
    questions: usize,
}

impl Look {
    pub(super) fn new(now: Instant) -> Look {
        Look { until: now + LOOK_WITHIN, questions: QUESTIONS }
    }
}

impl Spending {
    pub(super) fn new(total: &Arc<Counter>) -> Spending {
        Spending { place: OnceLock::new(), seen: Mutex::new(None), total: total.clone() }
    }

    /// The container runs, here.
    pub(super) fn runs(&self, instance: &Instance) {
        let _ = self.place.set(Place { engine_id: instance.engine_id.clone(), meter: instance.meter.clone() });
    }

    /// What it uses now, or did a moment ago; nothing when that is not known.
    pub(super) fn look(&self, driver: &dyn Driver, look: &mut Look) -> Option<Usage> {
        let place = self.place.get()?;
        let now = Instant::now();
        let fresh = if place.meter.is_some() { FRESH } else { TOLD_FRESH };
        let seen = *self.seen.lock();
        match seen {
            Some((at, usage)) if now.saturating_duration_since(at) < fresh => return Some(usage),
            _ => {}
        }
        let left = look.until.saturating_duration_since(now);
        if left.is_zero() {
            return None;
        }
        let usage = match &place.meter {
            Some(meter) => meter.read(),
            None if look.questions > 0 => {
                look.questions -= 1;
                driver.usage(&place.engine_id, left)
            }
            None => None,
        }?;
        Some(self.note(now, usage))
    }

    /// Its last moments: what it used is counted, if it can still be seen.
    pub(super) fn last_look(&self) {
        if let Some(usage) = self.place.get().and_then(|place| place.meter.as_ref()?.read()) {
            self.note(Instant::now(), usage);
        }
    }

    fn note(&self, now: Instant, usage: Usage) -> Usage {
        let mut seen = self.seen.lock();
        let before = seen.map_or(Duration::ZERO, |(_, before)| before.cpu);
        self.total.add(u64::try_from(usage.cpu.saturating_sub(before).as_nanos()).unwrap_or(u64::MAX));
        let usage = Usage { cpu: usage.cpu.max(before), ..usage };
        *seen = Some((now, usage));
        usage
    }
}

/// CPU time by function, as long as it has a queue.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<HashMap<Id, Weak<Counter>>>);

impl Totals {
    /// The function's counter, shared by all its queues.
    pub(super) fn of(&self, fn_id: &Id) -> Arc<Counter> {
        let mut totals = self.0.lock();
        totals.retain(|_, counter| counter.strong_count() > 0);
        if let Some(counter) = totals.get(fn_id).and_then(Weak::upgrade) {
            return counter;
        }
        let counter = Arc::new(Counter::new());
        totals.insert(*fn_id, Arc::downgrade(&counter));
        counter
    }
}

impl Hot {
    /// What the containers of each function do and use, for `/metrics`: at
    /// most `ROWS` functions by name and the rest together, within a second.
    pub fn containers(&self) -> Vec<ContainerRow> {
        let shared = &self.shared;
        let mut look = Look::new(Instant::now());
        let mut rows: HashMap<Id, ContainerRow> = HashMap::new();
        for queue in shared.all() {
            let row = rows.entry(queue.spec.fn_id).or_insert_with(|| row_of(&queue));
            add(shared, &queue, &mut look, row);
        }
        let mut rows: Vec<ContainerRow> = rows.into_values().collect();
        rows.sort_by(|a, b| b.count().cmp(&a.count()).then_with(|| a.fn_id.cmp(&b.fn_id)));
        if rows.len() > ROWS {
            let rest = rows.split_off(ROWS - 1);
            rows.extend(rest.into_iter().reduce(ContainerRow::with));
        }
        rows
    }
}

fn row_of(queue: &SlotQueue) -> ContainerRow {
    let spec = &queue.spec;
    ContainerRow { app_id: spec.app_id.to_string(), fn_id: spec.fn_id.to_string(), image: spec.image.clone(), ..ContainerRow::default() }
}

fn add(shared: &Shared, queue: &SlotQueue, look: &mut Look, row: &mut ContainerRow) {
    let pulses: Vec<Arc<Pulse>> = queue.with(|inner| {
        row.waiting += (inner.reserved + inner.slots.queued) as u64;
        inner.pulses.clone()
    });
    for pulse in &pulses {
        match pulse.state() {
            State::Creating | State::Booting => row.starting += 1,
            State::Idle => row.idle += 1,
            State::Freezing | State::Frozen => row.paused += 1,
            State::Busy | State::Thawing => row.busy += 1,
            State::Reserved | State::Stopping | State::Gone => continue,
        }
        match pulse.spending.look(&*shared.driver, look) {
            Some(usage) => {
                row.memory += usage.memory.unwrap_or(0);
                row.memory_peak = row.memory_peak.max(usage.memory_peak.unwrap_or(0));
            }
            None => row.unseen += 1,
        }
    }
    row.cpu = Duration::from_nanos(queue.cpu.get());
}
