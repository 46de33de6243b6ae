//! Connections that only read: each reader has one to itself, so that nobody
//! waits for another's query.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::database::{Database, LedgerError};

/// Kept open while nobody uses them.
const IDLE: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Database>>,
}

impl Readers {
    /// Of the file that the writer has open; the first is opened when it is needed.
    pub(super) fn of(path: &Path) -> Readers {
        Readers { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Reads on a connection of the caller's own. As many are open as threads
    /// read at the same time, and those are few: the API's, the crew's, live
    /// tails'.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Database) -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let idle = self.idle.lock().pop();
        let database = match idle {
            Some(database) => database,
            None => Database::reader(&self.path)?,
        };
        let result = read(&database);
        let mut idle = self.idle.lock();
        if idle.len() < IDLE {
            idle.push(database);
        }
        result
    }
}
