//! Connections that only read: each reader has one to itself, so that nobody
//! waits for another's query.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::database::{Database, LedgerError};

/// Left free on the disk, on small ones an eighth: ends are written when nothing
/// more is accepted.
const RESERVE: u64 = 8 * 1024 * 1024;
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

    /// Bytes that must stay free on the disk for what was accepted to come to its
    /// end: what the log beside the file holds may be copied into it. And those
    /// that are free; `None`: nobody knows.
    pub(super) fn room(&self) -> Option<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        let (free, all) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
        let log = std::fs::metadata(super::database::beside(&self.path, "-wal")).map_or(0, |log| log.len());
        Some((RESERVE.min(all / 8) + log.min(all / 8), free))
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
