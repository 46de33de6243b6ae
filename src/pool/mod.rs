//! Threads and waiting: how hob starts, names, bounds, wakes and joins them,
//! and the resources they share.
//!
//! Owns: `spawn` (the only way to a thread), `Stop`, `wait` (poll with a
//! deadline), elastic `Workers`, fixed `Lane`s, memory and CPU `Tokens`, the
//! drain `Gate`, the host's capacity. Called by: every room with a thread.
//! Blocks on: what its callers ask it to. Does not: know what its threads do.

mod gate;
pub mod host;
mod lane;
mod permits;
#[cfg(test)]
pub(crate) mod schedules;
mod spawn;
pub(crate) mod sync;
mod tokens;
#[cfg(test)]
mod tokens_tests;
mod wait;
mod workers;

pub use gate::{Gate, Session};
pub use lane::Lane;
pub use permits::{Permit, Permits};
pub use spawn::{SpawnError, Thread, spawn};
pub use tokens::{Need, Notify, Place, Token, Tokens, Usage};
pub use wait::{Stop, Woke, wait_for};
pub use workers::{Full, NotJoined, Pressure, Workers, WorkersConfig};
