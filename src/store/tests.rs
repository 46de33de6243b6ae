//! What the store promises, over real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;
use crate::model::{AppInput, FnInput, ModelError, TriggerInput};

/// A folder of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let path = std::env::temp_dir().join(format!("hob-store-{}", Id::new()));
        fs::create_dir(&path).expect("folder");
        Dir(path)
    }
    fn db(&self) -> PathBuf {
        self.0.join("fn.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn app(json: &str) -> AppInput {
    AppInput::parse(json.as_bytes()).expect("json")
}

fn function(app: &Id, name: &str) -> FnInput {
    FnInput::parse(format!(r#"{{"app_id":"{app}","name":"{name}","image":"i:1"}}"#).as_bytes()).expect("json")
}

fn trigger(app: &Id, fn_id: &Id, name: &str, source: &str) -> TriggerInput {
    TriggerInput::parse(format!(r#"{{"app_id":"{app}","fn_id":"{fn_id}","name":"{name}","type":"http","source":"{source}"}}"#).as_bytes()).expect("json")
}

fn trigger_patch(json: &str) -> TriggerInput {
    TriggerInput::parse(json.as_bytes()).expect("json")
}

/// Everything a snapshot shows, as text.
fn shown(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for app in snapshot.apps_after("") {
        out += &serde_json::to_string(&**app).expect("json");
        for target in snapshot.fns_after(&app.id, "") {
            assert_eq!(target.app.updated_at, app.updated_at, "targets follow their app");
            out += &format!("{}{:?}", serde_json::to_string(&*target.function).expect("json"), target.spec);
        }
        for trigger in snapshot.triggers_after(&app.id, ("", Id::MIN)) {
            out += &serde_json::to_string(&**trigger).expect("json");
            assert!(snapshot.trigger(&app.name, &trigger.source).is_some());
        }
    }
    out
}

fn filled(store: &Store) -> (Id, Id) {
    let a = store.create_app(app(r#"{"name":"a","config":{"K":"v"},"annotations":{"z":{"b":1,"a":2}},"syslog_url":"","shape":"GENERIC_ARM"}"#)).expect("app");
    let f = store.create_fn(function(&a.id, "f")).expect("fn");
    store.create_fn(function(&a.id, "g")).expect("fn");
    store.create_trigger(trigger(&a.id, &f.function.id, "t", "/t")).expect("trigger");
    (a.id, f.function.id)
}

/// Promise: what was acknowledged is there after a restart, ids and all.
#[test]
fn reopening_keeps_everything() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    filled(&store);
    let (before, id) = (shown(&store.snapshot()), *store.id());
    drop(store);
    let store = Store::open(&dir.db()).expect("open again");
    assert_eq!(shown(&store.snapshot()), before);
    assert_eq!(*store.id(), id);
}

/// Promise: two servers never share a store; the second is told which file.
#[test]
fn a_second_open_is_refused() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let error = Store::open(&dir.db()).expect_err("refused");
    assert!(matches!(&error, StoreError::Locked { holder: Some(pid), .. } if *pid == std::process::id().to_string()), "{error}");
    assert!(error.to_string().contains("fn.db.lock"), "{error}");
    drop(store);
    Store::open(&dir.db()).expect("free again");
}

/// Promise: a damaged store is not served, and is named.
#[test]
fn a_damaged_file_is_refused() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let a = filled(&store).0;
    for i in 0..200 {
        store.create_fn(function(&a, &format!("f{i:03}"))).expect("fn");
    }
    drop(store);
    let good = fs::read(dir.db()).expect("read");
    let mut garbage = good.clone();
    for byte in &mut garbage[4096 * 3..4096 * 6] {
        *byte ^= 0x5a;
    }
    for bad in [b"this is no database, but it is long enough to be taken for one".repeat(100), garbage, good[..good.len() - 4096].to_vec()] {
        fs::write(dir.db(), bad).expect("write");
        let error = Store::open(&dir.db()).expect_err("refused");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(dir.db().to_str().expect("utf-8")), "{error}");
    }
    fs::write(dir.db(), good).expect("write");
    Store::open(&dir.db()).expect("whole again");
}

#[test]
fn a_newer_schema_and_a_bad_row_are_refused() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let (a, _) = filled(&store);
    store.writer.lock().connection().execute("UPDATE fns SET config = '{' WHERE name = 'g'", []).expect("sql");
    drop(store);
    let error = Store::open(&dir.db()).expect_err("refused");
    assert!(matches!(&error, StoreError::Row { table: "fns", .. }), "{error}");
    let raw = rusqlite::Connection::open(dir.db()).expect("open");
    raw.execute("UPDATE fns SET config = ''", []).expect("sql");
    raw.execute_batch("PRAGMA user_version = 99").expect("sql");
    drop(raw);
    let error = Store::open(&dir.db()).expect_err("refused");
    assert!(matches!(&error, StoreError::Newer { found: 99, .. }), "{error}");
    assert!(a != Id::MIN);
}

/// Promise: after a kill the store holds what was committed and nothing else.
/// A copy of the files taken while a transaction is open is what a kill leaves.
#[test]
fn only_committed_writes_survive_a_kill() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    filled(&store);
    let before = shown(&store.snapshot());
    let copy = Dir::new();
    {
        let database = store.writer.lock();
        let raw = database.connection();
        raw.execute_batch("BEGIN IMMEDIATE; UPDATE apps SET name = 'lost'; DELETE FROM triggers; INSERT INTO apps VALUES ('01HF7YAT3V180G40RZJ0000001','lost2','','',NULL,'','','')").expect("sql");
        raw.cache_flush().expect("flush");
        for file in ["fn.db", "fn.db-wal"] {
            fs::copy(dir.0.join(file), copy.0.join(file)).expect("copy");
        }
        raw.execute_batch("ROLLBACK").expect("sql");
    }
    let after = Store::open(&copy.db()).expect("open the copy");
    assert_eq!(shown(&after.snapshot()), before);
}

/// Promise: a write that fails changes nothing that readers see.
#[test]
fn a_failed_commit_changes_nothing() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let (a, f) = filled(&store);
    let before = shown(&store.snapshot());
    store.writer.lock().connection().execute_batch("PRAGMA query_only=ON").expect("sql");
    assert!(matches!(store.create_app(app(r#"{"name":"b"}"#)), Err(WriteError::Database { op: "insert app", .. })));
    assert!(store.create_fn(function(&a, "h")).is_err());
    assert!(store.create_trigger(trigger(&a, &f, "u", "/u")).is_err());
    assert!(store.update_app(a.as_str(), app(r#"{"config":{"N":"1"}}"#)).is_err());
    assert!(store.delete_fn(f.as_str()).is_err());
    assert!(store.delete_app(a.as_str()).is_err());
    assert_eq!(shown(&store.snapshot()), before);
    store.writer.lock().connection().execute_batch("PRAGMA query_only=OFF").expect("sql");
    store.create_app(app(r#"{"name":"b"}"#)).expect("works again");
}

/// Promise: a panic inside a write leaves no transaction open and no lock held.
#[test]
fn a_panic_in_a_write_leaves_the_store_usable() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    filled(&store);
    let before = shown(&store.snapshot());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let database = store.writer.lock();
        let transaction = database.connection().unchecked_transaction().expect("begun");
        transaction.execute("DELETE FROM fns", []).expect("sql");
        panic!("half way through a write");
    }));
    assert!(panicked.is_err());
    assert_eq!(shown(&store.snapshot()), before);
    store.create_app(app(r#"{"name":"b"}"#)).expect("still works");
    let after = shown(&store.snapshot());
    drop(store);
    assert_eq!(shown(&Store::open(&dir.db()).expect("open").snapshot()), after);
}

#[test]
fn deletes_cascade_in_memory_and_on_disk() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let (a, f) = filled(&store);
    let b = store.create_app(app(r#"{"name":"b"}"#)).expect("app").id;
    store.delete_fn(f.as_str()).expect("deleted");
    assert!(matches!(store.delete_fn(f.as_str()), Err(WriteError::Model(ModelError::FnNotFound))));
    assert!(store.snapshot().trigger("a", "/t").is_none());
    assert_eq!(store.snapshot().triggers_after(&a, ("", Id::MIN)).count(), 0);
    let g = store.snapshot().fn_by_name(&a, "g").expect("stays").function.id;
    store.create_trigger(trigger(&a, &g, "t", "/t")).expect("source is free again");
    store.delete_app(a.as_str()).expect("deleted");
    assert!(matches!(store.delete_app(a.as_str()), Err(WriteError::Model(ModelError::AppNotFound))));
    let now = store.snapshot();
    assert!(now.target(&g).is_none() && now.app_by_name("a").is_none() && now.app(&b).is_some());
    drop(store);
    let raw = rusqlite::Connection::open(dir.db()).expect("open");
    for (table, rows) in [("apps", 1), ("fns", 0), ("triggers", 0)] {
        let found: i64 = raw.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).expect("sql");
        assert_eq!(found, rows, "{table}");
    }
}

#[test]
fn trigger_updates_are_checked_like_creates() {
    use ModelError::*;
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let (a, f) = filled(&store);
    let b = store.create_app(app(r#"{"name":"b"}"#)).expect("app").id;
    let other = store.create_fn(function(&b, "f")).expect("fn").function.id;
    let g = store.snapshot().fn_by_name(&a, "g").expect("fn").function.id;
    let t = store.create_trigger(trigger(&a, &f, "t2", "/t2")).expect("trigger").id;
    store.create_trigger(trigger(&a, &g, "t2", "/g")).expect("same name on another fn");
    let before = shown(&store.snapshot());
    for (patch, error) in [
        (r#"{"source":"/t"}"#.to_owned(), TriggerSourceExists),
        (r#"{"name":"t"}"#.to_owned(), TriggerExists),
        (format!(r#"{{"fn_id":"{g}"}}"#), TriggerExists),
        (r#"{"fn_id":"nope"}"#.to_owned(), FnNotFound),
        (format!(r#"{{"fn_id":"{other}"}}"#), TriggerFnWrongApp),
        (format!(r#"{{"app_id":"{b}"}}"#), TriggerAppImmutable),
        (r#"{"source":"x"}"#.to_owned(), TriggerSourcePrefix),
        (r#"{"id":"zz"}"#.to_owned(), TriggerIdMismatch),
    ] {
        let got = store.update_trigger(t.as_str(), trigger_patch(&patch));
        assert!(matches!(&got, Err(WriteError::Model(e)) if *e == error), "{patch}: {got:?}");
        assert_eq!(shown(&store.snapshot()), before, "{patch}");
    }
    store.update_trigger(t.as_str(), trigger_patch(&format!(r#"{{"source":"/new","name":"n","fn_id":"{g}","type":"kafka"}}"#))).expect("valid");
    let now = store.snapshot();
    assert!(now.trigger("a", "/t2").is_none());
    assert_eq!(now.trigger("a", "/new").expect("moved").1.function.id, g);
    let after = shown(&now);
    drop(store);
    assert_eq!(shown(&Store::open(&dir.db()).expect("open").snapshot()), after);
}

/// A change of an app reaches the run configuration of all its fns.
#[test]
fn targets_follow_their_app() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let (a, f) = filled(&store);
    let old = store.snapshot();
    store.update_app(a.as_str(), app(r#"{"config":{"K":"w"}}"#)).expect("update");
    let new = store.snapshot();
    let env = |s: &Snapshot| s.target(&f).expect("fn").spec.env.iter().find(|(k, _)| k == "K").expect("K").1.clone();
    assert_eq!((env(&old).as_str(), env(&new).as_str()), ("v", "w"));
    assert_ne!(old.target(&f).expect("fn").spec.key, new.target(&f).expect("fn").spec.key);
    assert_eq!(new.trigger("a", "/t").expect("route").1.app.config["K"], "w");
    shown(&new);
}

/// A database of the original opens as it is, its defects included.
#[test]
fn the_originals_database_opens() {
    let dir = Dir::new();
    let raw = rusqlite::Connection::open(dir.db()).expect("open");
    raw.execute_batch(
        r#"CREATE TABLE apps (id varchar(256) NOT NULL PRIMARY KEY, name varchar(256) NOT NULL UNIQUE, config text NOT NULL, annotations text NOT NULL, syslog_url text, created_at varchar(256), updated_at varchar(256), shape text);
        CREATE TABLE fns (id varchar(256) NOT NULL PRIMARY KEY, name varchar(256) NOT NULL, app_id varchar(256) NOT NULL, image varchar(256) NOT NULL, memory int NOT NULL, timeout int NOT NULL, idle_timeout int NOT NULL, config text NOT NULL, annotations text NOT NULL, created_at varchar(256) NOT NULL, updated_at varchar(256) NOT NULL, shape text, CONSTRAINT name_app_id_unique UNIQUE (app_id, name));
        CREATE TABLE triggers (id varchar(256) NOT NULL PRIMARY KEY, name varchar(256) NOT NULL, app_id varchar(256) NOT NULL, fn_id varchar(256) NOT NULL, created_at varchar(256) NOT NULL, updated_at varchar(256) NOT NULL, type varchar(256) NOT NULL, source varchar(256) NOT NULL, annotations text NOT NULL, CONSTRAINT name_app_id_fn_id_unique UNIQUE (app_id, fn_id, name));
        CREATE TABLE schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
        INSERT INTO apps VALUES ('01HF7YAT3V180G40RZJ0000001', 'a', '{"K":"v"}
', '', NULL, '2026-11-24T11:36:37.770+09:00', '2026-11-24T02:36:37.770Z', NULL);
        INSERT INTO fns VALUES ('01HF7YAT3V180G40RZJ0000002', 'f', '01HF7YAT3V180G40RZJ0000001', 'i', 128, 30, 30, '', '', '2026-11-24T02:36:37.770Z', '2026-11-24T02:36:37.770Z', '');
        INSERT INTO triggers VALUES ('01HF7YAT3V180G40RZJ0000003', 't', '01HF7YAT3V180G40RZJ0000001', '01HF7YAT3V180G40RZJ0000002', '', '', 'http', '/s', '');
        INSERT INTO triggers VALUES ('01HF7YAT3V180G40RZJ0000004', 'u', '01HF7YAT3V180G40RZJ0000001', '01HF7YAT3V180G40RZJ0000002', '', '', 'http', '/s', '');
        INSERT INTO triggers VALUES ('01HF7YAT3V180G40RZJ0000005', 'v', '01HF7YAT3V180G40RZJ0000001', 'nope', '', '', 'http', '/v', '');"#,
    )
    .expect("sql");
    drop(raw);
    let store = Store::open(&dir.db()).expect("open");
    let now = store.snapshot();
    assert_eq!(now.app_by_name("a").expect("app").created_at.to_string(), "2026-11-24T02:36:37.770Z");
    assert_eq!(now.trigger("a", "/s").expect("the older").0.name, "t");
    assert!(now.trigger("a", "/v").is_none());
    drop(store);
    Store::open(&dir.db()).expect("and again");
}

/// The snapshot after random writes is the one a fresh open builds.
#[test]
fn memory_and_disk_agree_after_many_writes() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let mut seed = 7u64;
    let mut roll = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    for _ in 0..600 {
        let now = store.snapshot();
        let apps: Vec<Id> = now.apps_after("").map(|a| a.id).collect();
        let Some(a) = apps.get(usize::try_from(roll(4)).expect("small")).copied() else {
            let _ = store.create_app(app(&format!(r#"{{"name":"a{}"}}"#, roll(5))));
            continue;
        };
        let fns: Vec<Id> = now.fns_after(&a, "").map(|t| t.function.id).collect();
        let triggers: Vec<Id> = now.triggers_after(&a, ("", Id::MIN)).map(|t| t.id).collect();
        let f = fns.first().copied().unwrap_or(Id::MIN);
        let t = triggers.last().copied().unwrap_or(Id::MIN);
        let _ = match roll(12) {
            0 => store.delete_app(a.as_str()),
            1 => store.delete_fn(f.as_str()),
            2 => store.delete_trigger(t.as_str()),
            3 => store.update_app(a.as_str(), app(&format!(r#"{{"config":{{"K":"{}"}}}}"#, roll(3)))).map(drop),
            4 | 5 => store.update_trigger(t.as_str(), trigger_patch(&format!(r#"{{"source":"/{}","name":"n{}","fn_id":"{f}"}}"#, roll(6), roll(4)))).map(drop),
            6..=8 => store.create_fn(function(&a, &format!("f{}", roll(4)))).map(drop),
            _ => store.create_trigger(trigger(&a, &f, &format!("n{}", roll(4)), &format!("/{}", roll(6)))).map(drop),
        };
    }
    let before = shown(&store.snapshot());
    assert!(before.len() > 200, "the walk made something");
    drop(store);
    assert_eq!(shown(&Store::open(&dir.db()).expect("open").snapshot()), before);
}

/// Prints the rates with 10,000 fns; asserts only what does not depend on the
/// machine.
#[test]
fn ten_thousand_fns() {
    let dir = Dir::new();
    let store = Store::open(&dir.db()).expect("open");
    let apps: Vec<Id> = (0..20).map(|i| store.create_app(app(&format!(r#"{{"name":"app{i}"}}"#))).expect("app").id).collect();
    // Filling up is not what is measured: no syncs.
    let started = Instant::now();
    store.writer.lock().connection().execute_batch("PRAGMA synchronous=OFF").expect("sql");
    for i in 0..10_000 {
        store.create_fn(function(&apps[i % 20], &format!("f{i}"))).expect("fn");
    }
    store.writer.lock().connection().execute_batch("PRAGMA synchronous=FULL").expect("sql");
    let import = started.elapsed();
    let started = Instant::now();
    for i in 0..500 {
        store.create_fn(function(&apps[0], &format!("g{i}"))).expect("fn");
    }
    let creates = started.elapsed();
    let started = Instant::now();
    store.update_app(apps[0].as_str(), app(r#"{"config":{"A":"b"}}"#)).expect("update");
    let update = started.elapsed();
    let snapshot = store.snapshot();
    let ids: Vec<Id> = snapshot.fns_after(&apps[0], "").map(|t| t.function.id).collect();
    let started = Instant::now();
    for id in ids.iter().cycle().take(100_000) {
        assert!(store.snapshot().target(id).is_some());
    }
    let look_up = started.elapsed() / 100_000;
    drop(snapshot);
    drop(store);
    let started = Instant::now();
    let store = Store::open(&dir.db()).expect("open");
    let open = started.elapsed();
    assert_eq!(store.snapshot().fn_count(), 10_500);
    println!(
        "10,000 fns: import {:.0}/s unsynced, then {:.0} synced creates/s, app update (1,000 fns) {update:?}, look-up {look_up:?}, start-up {open:?}",
        10_000.0 / import.as_secs_f64(),
        500.0 / creates.as_secs_f64()
    );
    assert_private(&dir.db());
}

fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(path).expect("metadata").permissions().mode() & 0o777, 0o600);
}
