//! The database: opening it safely, its tables, its rows.
//!
//! The tables are the original's (spec http-api §4.2), so its `fn.db` opens as
//! it is; what is ours is `hob_meta` and `user_version`. No statement searches
//! by anything but a primary key or the prefix of a unique one: look-ups are
//! the snapshot's work.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Row, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Snapshot, StoreError, WriteError};
use crate::model::{App, Fn, Id, Timestamp, Trigger};

/// Steps from one schema version to the next; `user_version` counts them. A
/// step that has been released is never edited.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE IF NOT EXISTS apps (
        id varchar(256) NOT NULL PRIMARY KEY, name varchar(256) NOT NULL UNIQUE,
        config text NOT NULL, annotations text NOT NULL, syslog_url text,
        created_at varchar(256), updated_at varchar(256), shape text);
    CREATE TABLE IF NOT EXISTS fns (
        id varchar(256) NOT NULL PRIMARY KEY, name varchar(256) NOT NULL,
        app_id varchar(256) NOT NULL, image varchar(256) NOT NULL,
        memory int NOT NULL, timeout int NOT NULL, idle_timeout int NOT NULL,
        config text NOT NULL, annotations text NOT NULL,
        created_at varchar(256) NOT NULL, updated_at varchar(256) NOT NULL, shape text,
        CONSTRAINT name_app_id_unique UNIQUE (app_id, name));
    CREATE TABLE IF NOT EXISTS triggers (
        id varchar(256) NOT NULL PRIMARY KEY, name varchar(256) NOT NULL,
        app_id varchar(256) NOT NULL, fn_id varchar(256) NOT NULL,
        created_at varchar(256) NOT NULL, updated_at varchar(256) NOT NULL,
        type varchar(256) NOT NULL, source varchar(256) NOT NULL, annotations text NOT NULL,
        CONSTRAINT name_app_id_fn_id_unique UNIQUE (app_id, fn_id, name));
    CREATE TABLE hob_meta (key text NOT NULL PRIMARY KEY, value text NOT NULL);
"];

const SOURCE_INDEX: &str = "CREATE UNIQUE INDEX IF NOT EXISTS hob_trigger_source ON triggers (app_id, type, source)";

/// The open database; one connection, used by one writer at a time.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
        // Configuration holds secrets: the file (and with it -wal and -shm) is
        // made for the owner alone.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Folder { path: path.to_owned(), source })?;
        let connection = Connection::open(path).map_err(|e| failed(path, "open", e))?;
        let mut database = Database { connection, path: path.to_owned() };
        database.check_integrity()?;
        database.prepare().map_err(|e| failed(path, "preparing the connection", e))?;
        database.migrate()?;
        Ok(database)
    }

    fn check_integrity(&self) -> Result<(), StoreError> {
        let verdict: rusqlite::Result<String> = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
        match verdict {
            Ok(text) if text == "ok" => Ok(()),
            Ok(detail) => Err(StoreError::Damaged { path: self.path.clone(), detail }),
            Err(e) => Err(failed(&self.path, "the integrity check", e)),
        }
    }

    /// WAL with a sync at each commit: an acknowledged write survives power
    /// loss, and readers such as a backup can look on.
    fn prepare(&mut self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(Duration::from_secs(5))?;
        let mode: String = self.connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            log::warn!("the store {} cannot use a write-ahead log here (journal mode {mode})", self.path.display());
        }
        self.connection.execute_batch("PRAGMA synchronous=FULL")?;
        self.connection.set_prepared_statement_cache_capacity(32);
        Ok(())
    }

    /// Pages that were read for the snapshot: nothing but a write reads again.
    pub(super) fn let_go(&self) {
        let _ = self.connection.execute_batch("PRAGMA shrink_memory");
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let step = |e| failed(&path, "the migration", e);
        let found: i64 = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(step)?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        let Some(done) = usize::try_from(found).ok().filter(|done| *done <= MIGRATIONS.len()) else {
            return Err(StoreError::Newer { path: self.path.clone(), found, known });
        };
        for (sql, version) in MIGRATIONS.iter().zip(1i64..).skip(done) {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(step)?;
            transaction.execute_batch(sql).map_err(step)?;
            if version == 1 {
                transaction.execute("INSERT INTO hob_meta VALUES ('store_id', ?1)", [Id::new().as_str()]).map_err(step)?;
            }
            transaction.pragma_update(None, "user_version", version).map_err(step)?;
            transaction.commit().map_err(step)?;
        }
        // The original let two triggers have one source; then the index, which
        // only doubles our own check, cannot be.
        match self.connection.execute_batch(SOURCE_INDEX) {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                log::warn!("the store {} has several triggers with one source in an app; the oldest is served", path.display());
                Ok(())
            }
            other => other.map_err(step),
        }
    }

    pub(super) fn store_id(&self) -> Result<Id, StoreError> {
        let text: String = self
            .connection
            .query_row("SELECT value FROM hob_meta WHERE key = 'store_id'", [], |row| row.get(0))
            .map_err(|e| failed(&self.path, "reading the store's id", e))?;
        Id::from_str(&text).map_err(|e| self.row_error("hob_meta", &text, &e))
    }

    /// Reads everything.
    pub(super) fn load(&mut self) -> Result<Snapshot, StoreError> {
        let mut snapshot = Snapshot::default();
        self.rows("apps", "SELECT id, name, config, annotations, syslog_url, shape, created_at, updated_at FROM apps", |row| {
            let app = self.read_app(row)?;
            snapshot.put_app(Arc::new(app));
            Ok(())
        })?;
        self.rows(
            "fns",
            "SELECT id, name, app_id, image, memory, timeout, idle_timeout, config, annotations, created_at, shape, updated_at FROM fns",
            |row| {
                let function = self.read_fn(row)?;
                let id = function.id;
                if !snapshot.put_fn(Arc::new(function)) {
                    log::warn!("the store {}: fn {id} belongs to no app and is left out", self.path.display());
                }
                Ok(())
            },
        )?;
        // By id, so by age: of two with one source the older is served.
        self.rows("triggers", "SELECT id, name, app_id, fn_id, created_at, updated_at, type, source, annotations FROM triggers ORDER BY id", |row| {
            let Some(trigger) = self.read_trigger(row)? else { return Ok(()) };
            let id = trigger.id;
            if !snapshot.put_trigger(Arc::new(trigger)) {
                log::warn!("the store {}: trigger {id} belongs to no fn and is left out", self.path.display());
            }
            Ok(())
        })?;
        Ok(snapshot)
    }

    fn rows(&self, table: &'static str, sql: &str, mut each: impl FnMut(&Row<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let step = |e| failed(&self.path, table, e);
        let mut statement = self.connection.prepare(sql).map_err(step)?;
        let mut rows = statement.query([]).map_err(step)?;
        while let Some(row) = rows.next().map_err(step)? {
            each(row)?;
        }
        Ok(())
    }

    fn read_app(&self, row: &Row<'_>) -> Result<App, StoreError> {
        let r = Reader { database: self, row, table: "apps" };
        Ok(App {
            id: r.parse(0)?,
            name: r.text(1)?,
            config: r.json(2)?,
            annotations: r.json(3)?,
            syslog_url: r.get(4)?,
            shape: r.text(5)?,
            created_at: r.time(6)?,
            updated_at: r.time(7)?,
        })
    }

    fn read_fn(&self, row: &Row<'_>) -> Result<Fn, StoreError> {
        let r = Reader { database: self, row, table: "fns" };
        Ok(Fn {
            id: r.parse(0)?,
            name: r.text(1)?,
            app_id: r.parse(2)?,
            image: r.text(3)?,
            memory: r.get(4)?,
            timeout: r.get(5)?,
            idle_timeout: r.get(6)?,
            config: r.json(7)?,
            annotations: r.json(8)?,
            created_at: r.time(9)?,
            shape: r.text(10)?,
            updated_at: r.time(11)?,
        })
    }

    /// `None` for a trigger whose fn id is no id: the original stores any text.
    fn read_trigger(&self, row: &Row<'_>) -> Result<Option<Trigger>, StoreError> {
        let r = Reader { database: self, row, table: "triggers" };
        let Ok(fn_id) = r.text(3)?.parse() else {
            log::warn!("the store {}: trigger {} belongs to no fn and is left out", self.path.display(), r.text(0)?);
            return Ok(None);
        };
        Ok(Some(Trigger {
            id: r.parse(0)?,
            name: r.text(1)?,
            app_id: r.parse(2)?,
            fn_id,
            created_at: r.time(4)?,
            updated_at: r.time(5)?,
            kind: r.text(6)?,
            source: r.text(7)?,
            annotations: r.json(8)?,
        }))
    }

    fn row_error(&self, table: &'static str, id: &str, what: &dyn Display) -> StoreError {
        StoreError::Row { path: self.path.clone(), table, id: id.to_owned(), what: what.to_string() }
    }
}

/// Columns of one row, with errors that name it.
struct Reader<'a> {
    database: &'a Database,
    row: &'a Row<'a>,
    table: &'static str,
}

impl Reader<'_> {
    fn error(&self, what: &dyn Display) -> StoreError {
        let id: String = self.row.get(0).unwrap_or_default();
        self.database.row_error(self.table, &id, what)
    }

    fn get<T: rusqlite::types::FromSql>(&self, column: usize) -> Result<T, StoreError> {
        self.row.get(column).map_err(|e| self.error(&e))
    }

    fn text(&self, column: usize) -> Result<String, StoreError> {
        Ok(self.get::<Option<String>>(column)?.unwrap_or_default())
    }

    fn parse(&self, column: usize) -> Result<Id, StoreError> {
        self.text(column)?.parse().map_err(|e| self.error(&e))
    }

    fn time(&self, column: usize) -> Result<Timestamp, StoreError> {
        Timestamp::parse(&self.text(column)?).ok_or_else(|| self.error(&"bad timestamp"))
    }

    /// The empty text is the empty map.
    fn json<T: DeserializeOwned + Default>(&self, column: usize) -> Result<T, StoreError> {
        match self.text(column)?.trim() {
            "" | "null" => Ok(T::default()),
            text => serde_json::from_str(text).map_err(|e| self.error(&e)),
        }
    }
}

// Writes. Each is one transaction.
impl Database {
    pub(super) fn insert_app(&mut self, app: &App) -> Result<(), WriteError> {
        let sql = "INSERT INTO apps (id, name, config, annotations, syslog_url, shape, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        self.app_row("insert app", sql, app)
    }

    pub(super) fn update_app(&mut self, app: &App) -> Result<(), WriteError> {
        let sql = "UPDATE apps SET name = ?2, config = ?3, annotations = ?4, syslog_url = ?5, shape = ?6, created_at = ?7, updated_at = ?8 WHERE id = ?1";
        self.app_row("update app", sql, app)
    }

    fn app_row(&mut self, op: &'static str, sql: &str, app: &App) -> Result<(), WriteError> {
        let values = params![
            app.id.as_str(),
            app.name,
            text(&app.config),
            text(&app.annotations),
            app.syslog_url,
            app.shape,
            app.created_at.to_string(),
            app.updated_at.to_string()
        ];
        passed().and_then(|()| self.connection.prepare_cached(sql)).and_then(|mut s| s.execute(values)).map(drop).map_err(|e| WriteError::of(op, e))
    }

    pub(super) fn insert_fn(&mut self, function: &Fn) -> Result<(), WriteError> {
        let sql = "INSERT INTO fns (id, name, app_id, image, memory, timeout, idle_timeout, config, annotations, created_at, shape, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        self.fn_row("insert fn", sql, function)
    }

    pub(super) fn update_fn(&mut self, function: &Fn) -> Result<(), WriteError> {
        let sql = "UPDATE fns SET name = ?2, app_id = ?3, image = ?4, memory = ?5, timeout = ?6, idle_timeout = ?7, config = ?8, annotations = ?9, created_at = ?10, shape = ?11, updated_at = ?12 WHERE id = ?1";
        self.fn_row("update fn", sql, function)
    }

    fn fn_row(&mut self, op: &'static str, sql: &str, function: &Fn) -> Result<(), WriteError> {
        let values = params![
            function.id.as_str(),
            function.name,
            function.app_id.as_str(),
            function.image,
            i64::try_from(function.memory).unwrap_or(i64::MAX),
            function.timeout,
            function.idle_timeout,
            text(&function.config),
            text(&function.annotations),
            function.created_at.to_string(),
            function.shape,
            function.updated_at.to_string()
        ];
        passed().and_then(|()| self.connection.prepare_cached(sql)).and_then(|mut s| s.execute(values)).map(drop).map_err(|e| WriteError::of(op, e))
    }

    pub(super) fn insert_trigger(&mut self, trigger: &Trigger) -> Result<(), WriteError> {
        let sql =
            "INSERT INTO triggers (id, name, app_id, fn_id, created_at, updated_at, type, source, annotations) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.trigger_row("insert trigger", sql, trigger)
    }

    pub(super) fn update_trigger(&mut self, trigger: &Trigger) -> Result<(), WriteError> {
        let sql =
            "UPDATE triggers SET name = ?2, app_id = ?3, fn_id = ?4, created_at = ?5, updated_at = ?6, type = ?7, source = ?8, annotations = ?9 WHERE id = ?1";
        self.trigger_row("update trigger", sql, trigger)
    }

    fn trigger_row(&mut self, op: &'static str, sql: &str, trigger: &Trigger) -> Result<(), WriteError> {
        let values = params![
            trigger.id.as_str(),
            trigger.name,
            trigger.app_id.as_str(),
            trigger.fn_id.as_str(),
            trigger.created_at.to_string(),
            trigger.updated_at.to_string(),
            trigger.kind,
            trigger.source,
            text(&trigger.annotations)
        ];
        passed().and_then(|()| self.connection.prepare_cached(sql)).and_then(|mut s| s.execute(values)).map(drop).map_err(|e| WriteError::of(op, e))
    }

    pub(super) fn delete_app(&mut self, id: &Id) -> Result<(), WriteError> {
        let id = id.as_str();
        let statements: [(&str, &[&str]); 3] =
            [("DELETE FROM triggers WHERE app_id = ?1", &[id]), ("DELETE FROM fns WHERE app_id = ?1", &[id]), ("DELETE FROM apps WHERE id = ?1", &[id])];
        self.together("delete app", &statements)
    }

    pub(super) fn delete_fn(&mut self, function: &Fn) -> Result<(), WriteError> {
        let (id, app_id) = (function.id.as_str(), function.app_id.as_str());
        let statements: [(&str, &[&str]); 2] =
            [("DELETE FROM triggers WHERE app_id = ?1 AND fn_id = ?2", &[app_id, id]), ("DELETE FROM fns WHERE id = ?1", &[id])];
        self.together("delete fn", &statements)
    }

    pub(super) fn delete_trigger(&mut self, id: &Id) -> Result<(), WriteError> {
        self.together("delete trigger", &[("DELETE FROM triggers WHERE id = ?1", &[id.as_str()])])
    }

    /// All statements or none; a transaction that is dropped (an error, a
    /// panic) rolls back.
    fn together(&mut self, op: &'static str, statements: &[(&str, &[&str])]) -> Result<(), WriteError> {
        let mut run = || {
            passed()?;
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (sql, values) in statements {
                transaction.prepare_cached(sql)?.execute(rusqlite::params_from_iter(*values))?;
            }
            transaction.commit()
        };
        run().map_err(|source| WriteError::of(op, source))
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Where a test makes the disk full.
fn passed() -> rusqlite::Result<()> {
    let full = |_| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
    crate::fault::at("store.commit").map_err(full)
}

/// A map as its column holds it: JSON, or nothing when empty. These maps have
/// text keys and plain values, which always serialise.
fn text<T: Serialize>(map: &T) -> String {
    match serde_json::to_string(map) {
        Ok(json) if json == "{}" => String::new(),
        Ok(json) => json,
        Err(e) => {
            log::error!("a map of text cannot be written as JSON: {e}");
            String::new()
        }
    }
}

fn failed(path: &Path, step: &'static str, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, detail: source.to_string() },
        _ => StoreError::Sqlite { path, step, source },
    }
}
