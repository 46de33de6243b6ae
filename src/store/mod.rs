//! The embedded store: SQLite for what must survive, an immutable snapshot in
//! memory for what every call reads.
//!
//! Owns: the database file, its lock, the snapshot pointer. Called by: `api`
//! (reads, writes), `edge` (snapshot look-ups). Blocks on: SQLite, on writes
//! only. Does not: know the rules of single fields (that is `model`), know
//! HTTP.
//!
//! ```text
//! write: one mutex → checks against the snapshot → commit → new snapshot swapped in
//! read:  one atomic load of the snapshot
//! ```
//! INVARIANT: the snapshot never shows what is not committed, and shows what is
//! before the writer is told. All checks across resources (names taken, apps
//! missing) are made against it under the writer's mutex; the tables' own
//! constraints are the second line.

mod error;
mod lock;
mod snapshot;
mod sqlite;
#[cfg(test)]
mod tests;
mod write;

pub use error::{StoreError, WriteError};
pub use snapshot::{Snapshot, Target};

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::model::Id;
use lock::FileLock;
use sqlite::Database;

type Observer = Box<dyn Fn() + Send + Sync>;

/// The open store.
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    writer: Mutex<Database>,
    id: Id,
    observer: OnceLock<Observer>,
    /// Below the database: it is let go of when the file is closed.
    _lock: FileLock,
}

impl Store {
    /// Opens the database at `path`, or makes it, with its folder. A database
    /// of the original server (`fn.db`) is taken as it is.
    ///
    /// # Errors
    /// When another server has it open, when it is damaged or of a newer
    /// version, when a row cannot be read. The file is named in each.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let lock = FileLock::take(path)?;
        let mut database = Database::open(path)?;
        let id = database.store_id()?;
        let snapshot = database.load()?;
        database.let_go();
        Ok(Store { snapshot: ArcSwap::from_pointee(snapshot), writer: Mutex::new(database), id, observer: OnceLock::new(), _lock: lock })
    }

    /// A random id made with the database: what tells this store's containers
    /// from another's on the same engine.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// `observer` is called after every change, when the new snapshot is in
    /// place, on the thread that made it. It must be quick. Set once, at start.
    pub fn observe(&self, observer: impl Fn() + Send + Sync + 'static) {
        if self.observer.set(Box::new(observer)).is_err() {
            log::error!("the store has an observer already");
        }
    }

    /// The current snapshot: one atomic load.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("id", &self.id).finish_non_exhaustive()
    }
}
