//! The embedded store: SQLite for what must survive, an immutable snapshot in
//! memory for what every call reads.
//!
//! Owns: the database file, its lock, the snapshot pointer. Called by: `api`
//! (reads, writes), `edge` (snapshot look-ups). Blocks on: SQLite, on writes
//! only. Does not: validate (that is `model`), know HTTP.

use std::sync::Arc;

use crate::model::{App, Fn, FnSpec, Id};

/// A function with its app and its derived run configuration.
#[derive(Debug)]
pub struct Target {
    pub app: Arc<App>,
    pub function: Arc<Fn>,
    pub spec: Arc<FnSpec>,
}

/// Everything the hot path reads, as of the last committed write.
#[derive(Debug, Default)]
pub struct Snapshot {}

impl Snapshot {
    /// The function with this id.
    pub fn target(&self, fn_id: &Id) -> Option<&Arc<Target>> {
        let _ = fn_id;
        None
    }
}

/// The open store.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// The current snapshot: one atomic load.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::default()
    }
}
