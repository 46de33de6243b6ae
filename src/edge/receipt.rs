//! Where a call's time went, as a `Server-Timing` field (W3C Server Timing):
//! phases that follow one another without a gap, so that they add up.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::call::{Moment, Origin, Startup};

/// The account of one call. Phases: `accept` (from the request's head to the
/// whole body), `queue` (waiting for a container), `start` and `boot` (of a
/// container started meanwhile: engine, then the function until it listens),
/// `thaw`, `dispatch` (sending the request), `function` (until its answer).
#[derive(Debug)]
pub(super) struct Receipt {
    accepted: Instant,
    read: Instant,
    acquired: Option<(Instant, Origin)>,
    sent: Option<Instant>,
    thawed: Option<Instant>,
}

impl Receipt {
    /// Opened when the request's body is complete (`now`).
    pub(super) fn new(accepted: Instant, now: Instant) -> Receipt {
        Receipt { accepted, read: now, acquired: None, sent: None, thawed: None }
    }

    /// A container that turned out dead starts the account of the next one: its
    /// time counts as `queue`.
    pub(super) fn pass(&mut self, moment: Moment, now: Instant) {
        match moment {
            Moment::Acquired { origin, .. } => (self.acquired, self.sent, self.thawed) = (Some((now, origin)), None, None),
            Moment::Sent => self.sent = Some(now),
            Moment::Thawed => self.thawed = Some(now),
            Moment::Spent { .. } => {}
        }
    }

    /// The field's value when the answer begins at `now`.
    pub(super) fn text(&self, now: Instant) -> String {
        let mut text = String::with_capacity(160);
        let mut at = self.accepted;
        let mut phase = |name: &str, until: Instant| {
            let took = until.saturating_duration_since(at);
            at = at.max(until);
            let _ = write!(text, "{name};dur={}, ", Millis(took));
        };
        phase("accept", self.read);
        let Some((acquired, origin)) = self.acquired else {
            phase("queue", now);
            text.push_str("kind;desc=none");
            return text;
        };
        if let Origin::Started(startup) = origin {
            let Startup { begun, running, up } = clip(startup, self.read, acquired);
            phase("queue", begun);
            phase("start", running);
            phase("boot", up);
            // From the container that came up to the caller's own thread.
            phase("handover", acquired);
        } else {
            phase("queue", acquired);
        }
        let mut steps = [("dispatch", self.sent), ("thaw", self.thawed)];
        steps.sort_by_key(|(_, at)| *at);
        for (name, until) in steps {
            if let Some(until) = until {
                phase(name, until);
            }
        }
        phase("function", now);
        text.push_str(kind(origin));
        text
    }
}

/// A start that was under way before the call came counts from the call on.
fn clip(startup: Startup, from: Instant, to: Instant) -> Startup {
    let within = |at: Instant| at.clamp(from, to);
    Startup { begun: within(startup.begun), running: within(startup.running), up: within(startup.up) }
}

fn kind(origin: Origin) -> &'static str {
    match origin {
        Origin::Idle => "kind;desc=\"hot\"",
        Origin::HandedOver => "kind;desc=\"hot: waited, every container was busy\"",
        Origin::Frozen => "kind;desc=\"frozen: idle for longer than FN_FREEZE_IDLE_MSECS\"",
        Origin::Started(_) => "kind;desc=\"cold: no container was free, one was started\"",
    }
}

/// Milliseconds with three decimals.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Id;

    /// The sum of all durations in a field's value, in microseconds.
    fn sum(text: &str) -> u64 {
        text.split("dur=").skip(1).map(|part| part.split([',', ';']).next().expect("a number").replace('.', "").parse::<u64>().expect("digits")).sum()
    }

    fn acquired(origin: Origin) -> Moment {
        Moment::Acquired { origin, container: Id::MIN }
    }

    #[test]
    fn phases_add_up_whatever_happened() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let startup = |begun, running, up| Startup { begun: at(begun), running: at(running), up: at(up) };
        let moments = [
            vec![],
            vec![(5, acquired(Origin::Idle))],
            vec![(5, acquired(Origin::Idle)), (6, Moment::Sent)],
            vec![(5, acquired(Origin::Frozen)), (6, Moment::Sent), (9, Moment::Thawed)],
            vec![(5, acquired(Origin::Frozen)), (7, Moment::Thawed), (8, Moment::Sent)],
            vec![(5, acquired(Origin::Idle)), (6, Moment::Sent), (9, acquired(Origin::HandedOver)), (10, Moment::Sent)],
            vec![(50, acquired(Origin::Started(startup(3, 30, 45)))), (51, Moment::Sent)],
            // Begun before the call came, and told out of order.
            vec![(50, acquired(Origin::Started(startup(0, 1, 60)))), (51, Moment::Sent)],
        ];
        for moments in moments {
            let mut receipt = Receipt::new(at(0), at(2));
            for (ms, moment) in &moments {
                receipt.pass(*moment, at(*ms));
            }
            let text = receipt.text(at(100));
            assert_eq!(sum(&text), 100_000, "{moments:?}: {text}");
        }
    }

    #[test]
    fn a_cold_call_names_its_steps() {
        let zero = Instant::now();
        let at = |us: u64| zero + Duration::from_micros(us);
        let mut receipt = Receipt::new(at(0), at(31));
        receipt.pass(acquired(Origin::Started(Startup { begun: at(131), running: at(90_131), up: at(95_131) })), at(95_231));
        receipt.pass(Moment::Sent, at(95_251));
        let want = "accept;dur=0.031, queue;dur=0.100, start;dur=90.000, boot;dur=5.000, handover;dur=0.100, dispatch;dur=0.020, \
                    function;dur=1.749, kind;desc=\"cold: no container was free, one was started\"";
        assert_eq!(receipt.text(at(97_000)), want);
    }
}
