//! hob: a function server. Functions are container images, kept hot behind
//! Unix sockets and called with plain HTTP. ARCHITECTURE.md is the map; the
//! modules below are in reading order.

// The outside.
pub mod cli;
pub mod config;
pub mod doctor;
pub mod extend;
pub mod server;

// One call, from the listener to the function and back.
pub mod agent;
pub mod call;
pub mod calls;
pub mod edge;
pub mod hot;
pub mod http1;
pub mod syslog;
pub mod uds;

// What makes containers.
pub mod docker;
pub mod driver;
pub mod registry;
pub mod sandbox;

// What is kept, and who manages it.
pub mod api;
pub mod model;
pub mod respond;
pub mod store;

// Threads, waiting, resources.
pub mod pool;

// Leaves.
pub mod fault;
pub mod metrics;

// What must hold for any bytes: compiled for tests and for the fuzzer alone.
#[cfg(any(test, fuzzing))]
pub mod fuzz;
