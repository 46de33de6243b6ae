//! Callers in a closed loop: each asks, waits for the answer, asks again.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::http::{Address, Connection};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// No new call after this; calls under way are waited for.
    Elapsed(Duration),
    /// So many calls by each caller.
    Calls(u64),
}

/// What a group of callers does. Caller `i` uses address and request `i` modulo their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) addresses: Vec<Address>,
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) callers: usize,
    pub(crate) until: Until,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) caller: usize,
    pub(crate) took: Duration,
    /// 0: no answer, the connection broke or nothing came.
    pub(crate) status: u16,
    /// When the answer was there, from the start of the load.
    pub(crate) at: Duration,
    /// The answer's `X-Instance`, hashed by being parsed; 0 where none.
    pub(crate) instance: u64,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) samples: Vec<Sample>,
    pub(crate) elapsed: Duration,
    sorted: Vec<Duration>,
}

impl Outcome {
    fn new(samples: Vec<Sample>, elapsed: Duration) -> Outcome {
        let mut sorted: Vec<Duration> = samples.iter().filter(|s| s.status == 200).map(|s| s.took).collect();
        sorted.sort_unstable();
        Outcome { samples, elapsed, sorted }
    }

    /// The answers with 200 of the callers that `of` selects.
    pub(crate) fn of(&self, of: impl Fn(usize) -> bool) -> Outcome {
        Outcome::new(self.samples.iter().filter(|s| of(s.caller)).copied().collect(), self.elapsed)
    }

    pub(crate) fn good(&self) -> usize {
        self.sorted.len()
    }

    /// Latency of the good answers at `share` (0 to 1), in seconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.sorted, share)
    }

    pub(crate) fn rate(&self) -> f64 {
        self.good() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn instances(&self) -> usize {
        let mut seen: Vec<u64> = self.samples.iter().map(|s| s.instance).filter(|i| *i != 0).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }

    /// `200: 19, none: 1`.
    pub(crate) fn statuses(&self) -> String {
        let mut counts = BTreeMap::new();
        for sample in &self.samples {
            *counts.entry(sample.status).or_insert(0_u64) += 1;
        }
        let texts: Vec<String> = counts.iter().map(|(status, n)| if *status == 0 { format!("none: {n}") } else { format!("{status}: {n}") }).collect();
        texts.join(", ")
    }
}

pub(crate) fn quantile(sorted: &[Duration], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "share is within 0 and 1")]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at].as_secs_f64()
}

/// Runs the load; returns when every caller has its last answer.
pub(crate) fn run(load: &Load) -> Outcome {
    let barrier = Arc::new(Barrier::new(load.callers + 1));
    let callers: Vec<_> = (0..load.callers)
        .map(|index| {
            let barrier = barrier.clone();
            let mut connection = Connection::new(load.addresses[index % load.addresses.len()].clone());
            let request = load.requests[index % load.requests.len()].clone();
            let until = load.until;
            std::thread::spawn(move || {
                // A refused connection shows when it is asked.
                let _ = connection.connect();
                barrier.wait();
                caller(index, &mut connection, &request, until)
            })
        })
        .collect();
    barrier.wait();
    let start = Instant::now();
    let samples: Vec<Sample> = callers.into_iter().flat_map(|c| c.join().unwrap_or_default()).collect();
    Outcome::new(samples, start.elapsed())
}

fn caller(index: usize, connection: &mut Connection, request: &[u8], until: Until) -> Vec<Sample> {
    let start = Instant::now();
    let mut samples = Vec::with_capacity(1 << 12);
    let mut calls = 0;
    loop {
        let more = match until {
            Until::Elapsed(limit) => start.elapsed() < limit,
            Until::Calls(limit) => calls < limit,
        };
        if !more {
            return samples;
        }
        calls += 1;
        let asked = Instant::now();
        let (status, instance) = match connection.ask(request) {
            Ok(answer) => (answer.status, answer.field("X-Instance").and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0)),
            Err(_) => (0, 0),
        };
        samples.push(Sample { caller: index, took: asked.elapsed(), status, at: start.elapsed(), instance });
    }
}
