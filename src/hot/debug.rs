//! Everything in this room as JSON, for eyes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use super::Hot;
use super::container::Pulse;
use super::queue::SlotQueue;
use super::usage::Look;
use crate::driver::Driver;

impl Hot {
    /// Queues, tickets, containers, tokens and lanes as JSON, for
    /// `/debug/state` and SIGUSR1.
    pub fn debug_state(&self) -> String {
        let usage = self.shared.tokens.usage();
        let mut text = format!(
            "{{\"tokens\":{{\"total_mib\":{},\"used_mib\":{},\"total_mcpu\":{},\"used_mcpu\":{},\"waiting\":{}}},",
            usage.total.mib, usage.used.mib, usage.total.mcpu, usage.used.mcpu, usage.waiting
        );
        let ((start_queued, start_running), (stop_queued, stop_running)) = (self.shared.starts.load(), self.shared.stops.load());
        let _ = write!(
            text,
            "\"lanes\":{{\"start\":{{\"queued\":{start_queued},\"running\":{start_running}}},\"stop\":{{\"queued\":{stop_queued},\"running\":{stop_running}}}}},\"queues\":["
        );
        let mut look = Look::new(Instant::now());
        for (n, queue) in self.shared.all().iter().enumerate() {
            text.push_str(if n > 0 { "," } else { "" });
            let pulses = write_queue(&mut text, queue);
            // Read from files: no lock is held any more.
            for (i, pulse) in pulses.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write_container(&mut text, pulse, &*self.shared.driver, &mut look);
            }
            text.push_str("]}");
        }
        text.push_str("]}");
        text
    }
}

/// All but the containers, which are returned.
fn write_queue(text: &mut String, queue: &SlotQueue) -> Vec<Arc<Pulse>> {
    let now = Instant::now();
    let _ = write!(text, "{{\"fn_id\":\"{}\",\"fn\":{},", queue.spec.fn_id, serde_json::Value::from(queue.spec.fn_name.as_str()));
    queue.with(|inner| {
        let slots = &inner.slots;
        let oldest_ms = slots.oldest_wait().map_or(0, |at| now.saturating_duration_since(at).as_millis());
        let service_us = inner.service.map_or(0, |s| s.as_micros());
        let _ = write!(
            text,
            "\"waiting\":{},\"oldest_wait_ms\":{oldest_ms},\"reserved\":{},\"queued\":{},\"starting\":{},\"busy\":{},\"freezing\":{},\"stopping\":{},\"retire\":{},\"calls\":{},\"service_us\":{service_us},\"start_cost_ms\":{},\"idle\":[",
            slots.waiting(),
            inner.reserved,
            slots.queued,
            slots.starting,
            slots.busy,
            slots.freezing,
            slots.stopping,
            inner.retire,
            inner.calls,
            inner.start_cost.as_millis()
        );
        for (i, idle) in slots.idle().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let (idle_ms, age_ms) =
                (now.saturating_duration_since(idle.since).as_millis(), now.saturating_duration_since(idle.item.pulse.born).as_millis());
            let _ = write!(
                text,
                "{comma}{{\"id\":\"{}\",\"state\":\"{}\",\"idle_ms\":{idle_ms},\"age_ms\":{age_ms},\"calls\":{}}}",
                idle.item.id,
                idle.item.pulse.state().name(),
                idle.item.calls
            );
        }
        text.push_str("],\"containers\":[");
        inner.pulses.clone()
    })
}

fn write_container(text: &mut String, pulse: &Pulse, driver: &dyn Driver, look: &mut Look) {
    let state = pulse.state();
    let age_ms = Instant::now().saturating_duration_since(pulse.born).as_millis();
    let _ = write!(text, "{{\"id\":\"{}\",\"state\":\"{}\",\"owner\":\"{}\",\"age_ms\":{age_ms}", pulse.id, state.name(), state.owner());
    if let Some(usage) = pulse.spending.look(driver, look) {
        let number = |n: Option<u64>| n.map_or("null".to_owned(), |n| n.to_string());
        let _ =
            write!(text, ",\"cpu_us\":{},\"memory_bytes\":{},\"memory_peak_bytes\":{}", usage.cpu.as_micros(), number(usage.memory), number(usage.memory_peak));
    }
    text.push('}');
}
