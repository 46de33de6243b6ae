//! Counters and gauges: atomics that anyone may bump and `/metrics` prints.
//!
//! Owns: the process-wide registry. Called by: every room. Blocks on:
//! nothing. Does not: use any other room.

mod containers;
mod registry;
mod requests;

pub use containers::ContainerRow;
pub use registry::{CALLS, Calls, render};
pub use requests::{INVOKE, Labels, REQUESTS, Requests, SERVICE, TRIGGER, USER, method};

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A value that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes both ways.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Idle containers that made room for another function.
pub static EVICTIONS: Counter = Counter::new();

/// Networks made ready for container starts.
#[derive(Debug, Default)]
pub struct Parked {
    /// Ready now.
    pub ready: Gauge,
    /// Starts that joined one.
    pub used: Counter,
    /// Starts that found none ready.
    pub missed: Counter,
}

/// Networks made ready for container starts, process-wide.
pub static PARKED: Parked = Parked { ready: Gauge::new(), used: Counter::new(), missed: Counter::new() };

/// Images removed by the cleaner.
pub static IMAGES_CLEANED: Counter = Counter::new();

/// Why an image could not be pulled, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullCause {
    NotFound,
    Denied,
    NoSpace,
    TimedOut,
    Other,
}

impl PullCause {
    /// All of them, with the word of each.
    pub const ALL: [(PullCause, &'static str); 5] = [
        (PullCause::NotFound, "not_found"),
        (PullCause::Denied, "denied"),
        (PullCause::NoSpace, "no_space"),
        (PullCause::TimedOut, "timed_out"),
        (PullCause::Other, "other"),
    ];
}

/// Image pulls.
#[derive(Debug)]
pub struct Pulls {
    /// Under way now.
    pub running: Gauge,
    pub done: Counter,
    /// In the order of [`PullCause::ALL`].
    pub failed: [Counter; 5],
    /// Time of all that ended, well or not.
    pub millis: Counter,
    /// Fetched by those that ended well.
    pub bytes: Counter,
}

impl Pulls {
    /// One took `took` and failed of `failure`, if it did.
    pub fn ended(&self, took: std::time::Duration, failure: Option<PullCause>) {
        self.millis.add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        match failure.and_then(|cause| PullCause::ALL.iter().position(|(c, _)| *c == cause)) {
            Some(at) => self.failed[at].add(1),
            None => self.done.add(1),
        }
    }
}

/// Image pulls, process-wide.
pub static PULLS: Pulls =
    Pulls { running: Gauge::new(), done: Counter::new(), failed: [const { Counter::new() }; 5], millis: Counter::new(), bytes: Counter::new() };

/// Memory (bytes) and CPU (thousandths) given to containers, and free.
#[derive(Debug, Default)]
pub struct Utilisation {
    pub memory_used: Gauge,
    pub memory_free: Gauge,
    pub cpu_used: Gauge,
    pub cpu_free: Gauge,
}

/// The node's utilisation, as of the last reservation or return.
pub static UTILISATION: Utilisation = Utilisation { memory_used: Gauge::new(), memory_free: Gauge::new(), cpu_used: Gauge::new(), cpu_free: Gauge::new() };

/// What the public listener counts.
#[derive(Debug, Default)]
pub struct Edge {
    /// Client connections open now.
    pub open: Gauge,
    /// Connections accepted, ever.
    pub accepted: Counter,
    /// Times accept failed for want of descriptors or memory.
    pub accept_starved: Counter,
    /// Requests whose head was valid.
    pub requests: Counter,
    /// Connections refused at `HOB_MAX_CONNECTIONS`.
    pub refused_connections: Counter,
    /// Requests refused because head or body was malformed.
    pub refused_malformed: Counter,
    /// Requests refused because head or body was too large.
    pub refused_too_large: Counter,
    /// Requests refused because head or body did not arrive in time.
    pub refused_too_slow: Counter,
    /// Management requests without the right token.
    pub refused_token: Counter,
    /// Requests refused while draining.
    pub refused_draining: Counter,
    /// Clients cut because they took no byte of an answer for too long.
    pub cut_slow_reader: Counter,
    /// Answers that broke half way and were cut.
    pub cut_answers: Counter,
    /// Clients that left while their call waited or ran.
    pub clients_gone: Counter,
    /// Half-closed clients asked whether they still read.
    pub probes: Counter,
}

/// What the kept calls count.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Detached calls waiting or running.
    pub queued: Gauge,
    /// Detached calls accepted, ever.
    pub accepted: Counter,
    /// Runs that are repeated.
    pub retried: Counter,
    /// Detached calls that failed for good.
    pub dead: Counter,
    /// Records that were not written down, because the writer was behind.
    pub records_dropped: Counter,
    pub logs_dropped: Counter,
    pub callbacks: Counter,
    pub callbacks_lost: Counter,
}

/// The kept calls' counters.
pub static LEDGER: Ledger = Ledger {
    queued: Gauge::new(),
    accepted: Counter::new(),
    retried: Counter::new(),
    dead: Counter::new(),
    records_dropped: Counter::new(),
    logs_dropped: Counter::new(),
    callbacks: Counter::new(),
    callbacks_lost: Counter::new(),
};

/// The public listener's counters.
pub static EDGE: Edge = Edge {
    open: Gauge::new(),
    accepted: Counter::new(),
    accept_starved: Counter::new(),
    requests: Counter::new(),
    refused_connections: Counter::new(),
    refused_malformed: Counter::new(),
    refused_too_large: Counter::new(),
    refused_too_slow: Counter::new(),
    refused_token: Counter::new(),
    refused_draining: Counter::new(),
    cut_slow_reader: Counter::new(),
    cut_answers: Counter::new(),
    clients_gone: Counter::new(),
    probes: Counter::new(),
};
