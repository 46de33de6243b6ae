//! What can go wrong with the store.

use std::io;
use std::path::PathBuf;

use crate::model::ModelError;

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot make the store's folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot lock {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another server uses this store: {} is locked{}", path.display(), holder.as_ref().map_or(String::new(), |pid| format!(" by process {pid}")))]
    Locked { path: PathBuf, holder: Option<String> },
    #[error("the store {} is damaged, restore it from a backup: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the store {} was written by a newer version (schema {found}, this one knows {known})", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the store {} has an unreadable row in table {table}, id '{id}': {what}", path.display())]
    Row { path: PathBuf, table: &'static str, id: String, what: String },
    #[error("the store {} failed at {step}: {source}", path.display())]
    Sqlite { path: PathBuf, step: &'static str, source: rusqlite::Error },
}

/// A write was refused or failed; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the store failed at {op}, the disk is full: {source}")]
    Full { op: &'static str, source: rusqlite::Error },
    #[error("the store failed at {op}: {source}")]
    Database { op: &'static str, source: rusqlite::Error },
}

impl WriteError {
    pub(super) fn of(op: &'static str, source: rusqlite::Error) -> WriteError {
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => WriteError::Full { op, source },
            _ => WriteError::Database { op, source },
        }
    }
}
