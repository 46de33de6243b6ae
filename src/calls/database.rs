//! The database of calls, `calls.db`: the file, its versions, its transactions,
//! and the rows of records. A file of its own, so that its commits and those of
//! the resources never wait for each other. What else is in it: `queue.rs`,
//! `outbox.rs`, `logbook.rs`, `packs.rs`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::str::FromStr;
#[cfg(test)]
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, params};

use super::record::{Phases, Record, Status, known_start};
use crate::model::{Id, Timestamp};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS calls (
        fn_id text NOT NULL, id text NOT NULL, app_id text NOT NULL, detached int NOT NULL, status int NOT NULL,
        created int NOT NULL, started int, completed int, attempts int NOT NULL, start text NOT NULL,
        waited_us int NOT NULL, ran_us int NOT NULL, request_bytes int NOT NULL, response_bytes int NOT NULL,
        container text, error text, PRIMARY KEY (fn_id, id)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS queue (
        id text NOT NULL PRIMARY KEY, fn_id text NOT NULL, app_id text NOT NULL, priority int NOT NULL,
        due int NOT NULL, created int NOT NULL, attempts int NOT NULL, dead int NOT NULL, fields blob NOT NULL, body blob NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS keys (
        fn_id text NOT NULL, key text NOT NULL, id text NOT NULL, created int NOT NULL, PRIMARY KEY (fn_id, key)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS answers (
        id text NOT NULL PRIMARY KEY, created int NOT NULL, fields text NOT NULL, body blob NOT NULL, cut int NOT NULL) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS answers_age ON answers (created);
    CREATE INDEX IF NOT EXISTS keys_age ON keys (created);
";
/// What version 2 added.
const SECOND: &str = "
    CREATE TABLE logs (
        id integer PRIMARY KEY, fn_id text NOT NULL, call text NOT NULL, container text NOT NULL, ended int NOT NULL,
        bytes int NOT NULL, lines_dropped int NOT NULL, bytes_dropped int NOT NULL, text text NOT NULL);
    CREATE INDEX logs_call ON logs (fn_id, call, container);
    CREATE INDEX logs_fn ON logs (fn_id, bytes);
    ALTER TABLE calls ADD COLUMN trigger_id text;
    ALTER TABLE calls ADD COLUMN start_us int NOT NULL DEFAULT 0;
    ALTER TABLE calls ADD COLUMN boot_us int NOT NULL DEFAULT 0;
    ALTER TABLE calls ADD COLUMN thaw_us int NOT NULL DEFAULT 0;
    ALTER TABLE calls ADD COLUMN dispatch_us int NOT NULL DEFAULT 0;
    ALTER TABLE calls ADD COLUMN function_us int NOT NULL DEFAULT 0;
    ALTER TABLE queue ADD COLUMN trigger_id text;
    ALTER TABLE queue ADD COLUMN callback text;
    CREATE TABLE callbacks (
        id text NOT NULL PRIMARY KEY, fn_id text NOT NULL, url text NOT NULL, ended int NOT NULL, due int NOT NULL, tries int NOT NULL) WITHOUT ROWID;
    CREATE INDEX callbacks_due ON callbacks (due);
";
/// What version 3 added.
const THIRD: &str = "
    ALTER TABLE calls ADD COLUMN cpu_us int;
    ALTER TABLE calls ADD COLUMN memory_peak int;
";
/// What version 4 added: good records are packed from then on. Those that have
/// rows keep them until they are forgotten.
const FOURTH: &str = "
    CREATE TABLE packs (
        id integer PRIMARY KEY, fn_id text NOT NULL, app_id text NOT NULL, first text NOT NULL, last text NOT NULL,
        oldest int NOT NULL, newest int NOT NULL, count int NOT NULL, data blob NOT NULL);
    CREATE INDEX packs_fn ON packs (fn_id, last, newest, count);
";
/// What version 5 added. Runs that were cut before count as failures, as they did.
const FIFTH: &str = "
    ALTER TABLE queue ADD COLUMN failed int NOT NULL DEFAULT 0;
    UPDATE queue SET failed = attempts;
";
const VERSION: i64 = 5;

const RUNS_AGAIN: &str = "UPDATE calls SET status = 0 WHERE status = 1 AND (fn_id, id) IN (SELECT fn_id, id FROM queue WHERE dead = 0 AND attempts > 0)";

/// Pages a connection keeps, in KiB (negative: not pages): the system keeps
/// the file in memory anyway.
const CACHE: &str = "PRAGMA cache_size=-512";

pub(super) const COLUMNS: &str = "fn_id, id, app_id, detached, status, created, started, completed, attempts, start, waited_us, ran_us, request_bytes, \
     response_bytes, container, error, trigger_id, start_us, boot_us, thaw_us, dispatch_us, function_us, cpu_us, memory_peak";

/// One for each column.
const PLACES: &str = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24";

/// The calls cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("calls database {path}: {source}", path = path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("calls database {path} is damaged ({detail}); move it away to start without the calls in it", path = path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("calls database {path} is of a newer hob (version {found}, this one knows {VERSION})", path = path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error(transparent)]
    Spawn(#[from] crate::pool::SpawnError),
}

impl LedgerError {
    /// What clients are told: not in which folder the file is.
    pub(super) fn told(&self) -> String {
        match self {
            LedgerError::Database { path, source } => format!("{}: {source}", path.file_name().unwrap_or_default().display()),
            LedgerError::Damaged { .. } => "the calls database is damaged".to_owned(),
            LedgerError::Newer { .. } => "the calls database is of a newer hob".to_owned(),
            LedgerError::Spawn(error) => error.to_string(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    #[cfg(test)]
    pub(super) faults: Arc<super::fault_tests::Faults>,
}

impl Database {
    /// Opens or makes the file, for its one writer.
    pub(super) fn open(path: &Path) -> Result<Database, LedgerError> {
        let failed = |source| LedgerError::Database { path: path.to_owned(), source };
        make(path).map_err(|e| failed(rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
        if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) && std::fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0) {
            // SQLite would take it for a new one and throw the rest away.
            let detail = "it is empty, what was to be added to it is not".to_owned();
            return Err(LedgerError::Damaged { path: path.to_owned(), detail });
        }
        let connection = Connection::open(path).map_err(failed)?;
        let database = Database::on(connection, path);
        let check: rusqlite::Result<String> = database.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match check {
            Ok(text) if text == "ok" => {}
            Ok(detail) => return Err(LedgerError::Damaged { path: path.to_owned(), detail }),
            Err(e) => return Err(LedgerError::Damaged { path: path.to_owned(), detail: e.to_string() }),
        }
        database.prepare().map_err(failed)?;
        let found: i64 = database.connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found > VERSION {
            return Err(LedgerError::Newer { path: path.to_owned(), found });
        }
        database.migrate(found).map_err(failed)?;
        // What ran when the last server ended waits again. Nothing is written
        // where nothing has to be: a full disk must not keep a server down.
        let ran = "FROM calls WHERE status = 1 AND (fn_id, id) IN (SELECT fn_id, id FROM queue WHERE dead = 0 AND attempts > 0)";
        let any: bool = database.connection.query_row(&format!("SELECT EXISTS (SELECT 1 {ran})"), [], |row| row.get(0)).map_err(failed)?;
        if any && let Err(error) = database.connection.execute_batch(RUNS_AGAIN) {
            log::error!("calls database {}: {error}; calls that ran are shown as running until they run again", path.display());
        }
        Ok(database)
    }

    fn on(connection: Connection, path: &Path) -> Database {
        Database {
            connection,
            path: path.to_owned(),
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    fn migrate(&self, found: i64) -> rusqlite::Result<()> {
        if found == VERSION {
            return Ok(());
        }
        let transaction = self.connection.unchecked_transaction()?;
        transaction.execute_batch(SCHEMA)?;
        if found < 2 {
            transaction.execute_batch(SECOND)?;
        }
        if found < 3 {
            transaction.execute_batch(THIRD)?;
        }
        if found < 4 {
            transaction.execute_batch(FOURTH)?;
        }
        if found < 5 {
            transaction.execute_batch(FIFTH)?;
        }
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()
    }

    /// A second connection, which only reads and never waits for the writer.
    pub(super) fn reader(path: &Path) -> Result<Database, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|source| LedgerError::Database { path: path.to_owned(), source })?;
        let _ = connection.busy_timeout(Duration::from_secs(5));
        let _ = connection.execute_batch(CACHE);
        Ok(Database::on(connection, path))
    }

    /// Pages that only the start has read.
    pub(super) fn let_go(&self) {
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(Duration::from_secs(5))?;
        let _: String = self.connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
        self.connection.execute_batch("PRAGMA synchronous=FULL; PRAGMA journal_size_limit=67108864")?;
        self.connection.execute_batch(CACHE)?;
        self.connection.set_prepared_statement_cache_capacity(32);
        Ok(())
    }

    /// Runs `changes` in one transaction. `durable`: on disk when this returns;
    /// else a loss of power may undo it, a crash of the process not.
    pub(super) fn commit(&mut self, durable: bool, changes: impl FnOnce(&Changes<'_>) -> rusqlite::Result<()>) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Database { path: self.path.clone(), source };
        if crate::fault::at("calls.commit").is_err() {
            return Err(failed(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)));
        }
        self.connection.execute_batch(if durable { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" }).map_err(failed)?;
        self.may_fail().map_err(failed)?;
        #[cfg(test)]
        let faults = self.faults.clone();
        let transaction = self.connection.transaction().map_err(failed)?;
        let here = Changes {
            connection: &transaction,
            freed: Cell::new(0),
            #[cfg(test)]
            faults: &faults,
        };
        changes(&here).and_then(|()| here.may_fail()).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        // A sync that fails may have written everything.
        self.may_fail().map_err(failed)
    }

    /// Where a test lets the disk fail.
    #[allow(clippy::unused_self, reason = "used by tests")]
    fn may_fail(&self) -> rusqlite::Result<()> {
        #[cfg(test)]
        self.faults.step()?;
        Ok(())
    }

    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        query(&self.connection).map_err(|source| LedgerError::Database { path: self.path.clone(), source })
    }
}

/// Changes within one transaction.
pub(super) struct Changes<'t> {
    pub(super) connection: &'t Connection,
    /// Bytes of answers and dead calls' bodies that are forgotten.
    pub(super) freed: Cell<u64>,
    #[cfg(test)]
    faults: &'t super::fault_tests::Faults,
}

impl Changes<'_> {
    /// Where a test lets the disk fail.
    #[allow(clippy::unused_self, reason = "used by tests")]
    pub(super) fn may_fail(&self) -> rusqlite::Result<()> {
        #[cfg(test)]
        self.faults.step()?;
        Ok(())
    }

    /// A call that is over, or stands at `record.status`.
    pub(super) fn put(&self, r: &Record) -> rusqlite::Result<()> {
        self.may_fail()?;
        let sql = format!("INSERT OR REPLACE INTO calls ({COLUMNS}) VALUES ({PLACES})");
        let big = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.connection.prepare_cached(&sql)?.execute(params![
            r.fn_id.as_str(),
            r.id.as_str(),
            r.app_id.as_str(),
            r.detached,
            r.status as i64,
            r.created.0,
            r.started.map(|t| t.0),
            r.completed.map(|t| t.0),
            r.attempts,
            r.start,
            big(r.waited_us),
            big(r.ran_us),
            big(r.request_bytes),
            big(r.response_bytes),
            r.container.as_ref().map(Id::as_str),
            r.error,
            r.trigger.as_ref().map(Id::as_str),
            big(r.phases.start_us),
            big(r.phases.boot_us),
            big(r.phases.thaw_us),
            big(r.phases.dispatch_us),
            big(r.phases.function_us),
            r.cpu_us.map(big),
            r.memory_peak.map(big),
        ])?;
        Ok(())
    }
}

pub(super) fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Id> {
    let text: String = row.get(column)?;
    Id::from_str(&text).map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e)))
}

pub(super) fn maybe_id(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Id>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| Id::from_str(&text).ok()))
}

fn maybe_count(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|n| u64::try_from(n).unwrap_or(0)))
}

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let start: String = row.get(9)?;
    let count = |column| row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0));
    Ok(Record {
        fn_id: id(row, 0)?,
        id: id(row, 1)?,
        app_id: id(row, 2)?,
        detached: row.get(3)?,
        status: Status::of(row.get(4)?),
        created: Timestamp(row.get(5)?),
        started: row.get::<_, Option<i64>>(6)?.map(Timestamp),
        completed: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        attempts: row.get(8)?,
        start: known_start(&start),
        waited_us: count(10)?,
        ran_us: count(11)?,
        request_bytes: count(12)?,
        response_bytes: count(13)?,
        container: maybe_id(row, 14)?,
        error: row.get(15)?,
        trigger: maybe_id(row, 16)?,
        phases: Phases { start_us: count(17)?, boot_us: count(18)?, thaw_us: count(19)?, dispatch_us: count(20)?, function_us: count(21)? },
        cpu_us: maybe_count(row, 22)?,
        memory_peak: maybe_count(row, 23)?,
    })
}

/// Bodies of calls may be secret: the owner alone reads the file, which is made
/// so, for those beside it are made like it. Older ones are made so.
fn make(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")].iter().filter(|file| file.exists()) {
        if let Err(e) = std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)) {
            log::warn!("{} may be read by others: {e}", file.display());
        }
    }
    Ok(())
}

pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
