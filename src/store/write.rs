//! Writes: rules across resources, then the commit, then the new snapshot.

use std::str::FromStr;
use std::sync::Arc;

use super::sqlite::Database;
use super::{Snapshot, Store, Target, WriteError};
use crate::model::{App, AppInput, Fn, FnInput, Id, ModelError, Timestamp, Trigger, TriggerInput};

type Result<T> = std::result::Result<T, WriteError>;

impl Store {
    /// # Errors
    /// What the model or the names in use refuse; a failed commit.
    pub fn create_app(&self, input: AppInput) -> Result<Arc<App>> {
        let app = Arc::new(App::create(input, Timestamp::now())?);
        self.write(|database, next| {
            if next.app_by_name(&app.name).is_some() {
                return Err(ModelError::AppExists.into());
            }
            database.insert_app(&app)?;
            next.put_app(app.clone());
            Ok(app)
        })
    }

    /// # Errors
    /// As `create_app`; an unknown id; an id in the body that is not the path's.
    pub fn update_app(&self, path_id: &str, input: AppInput) -> Result<Arc<App>> {
        input.check_path(path_id)?;
        self.write(|database, next| {
            let old = find(path_id, |id| next.app(&id), ModelError::AppNotFound)?;
            let app = Arc::new(old.merged(input, Timestamp::now())?);
            if app.updated_at != old.updated_at {
                database.update_app(&app)?;
                next.put_app(app.clone());
            }
            Ok(app)
        })
    }

    /// Deletes the app, its fns and its triggers.
    ///
    /// # Errors
    /// An unknown id; a failed commit.
    pub fn delete_app(&self, path_id: &str) -> Result<()> {
        self.write(|database, next| {
            let app = find(path_id, |id| next.app(&id), ModelError::AppNotFound)?.clone();
            database.delete_app(&app.id)?;
            next.remove_app(&app.id);
            Ok(())
        })
    }

    /// # Errors
    /// What the model refuses; an unknown app; a name in use; a failed commit.
    pub fn create_fn(&self, input: FnInput) -> Result<Arc<Target>> {
        input.check_create()?;
        self.write(|database, next| {
            let app = find(&input.app_id, |id| next.app(&id), ModelError::AppNotFound)?;
            if next.fn_by_name(&app.id, &input.name).is_some() {
                return Err(ModelError::FnExists.into());
            }
            let function = Arc::new(Fn::create(input, app, Timestamp::now())?);
            database.insert_fn(&function)?;
            let id = function.id;
            next.put_fn(function);
            Ok(next.target(&id).ok_or(ModelError::FnNotFound)?.clone())
        })
    }

    /// # Errors
    /// What the model refuses; an unknown id; an id in the body that is not the
    /// path's; a failed commit.
    pub fn update_fn(&self, path_id: &str, input: FnInput) -> Result<Arc<Target>> {
        input.check_path(path_id)?;
        self.write(|database, next| {
            let old = find(path_id, |id| next.target(&id), ModelError::FnNotFound)?;
            let function = Arc::new(old.function.merged(input, Timestamp::now())?);
            if function.updated_at == old.function.updated_at {
                return Ok(old.clone());
            }
            database.update_fn(&function)?;
            let id = function.id;
            next.put_fn(function);
            Ok(next.target(&id).ok_or(ModelError::FnNotFound)?.clone())
        })
    }

    /// Deletes the fn and its triggers.
    ///
    /// # Errors
    /// An unknown id; a failed commit.
    pub fn delete_fn(&self, path_id: &str) -> Result<()> {
        self.write(|database, next| {
            let function = find(path_id, |id| next.target(&id), ModelError::FnNotFound)?.function.clone();
            database.delete_fn(&function)?;
            next.remove_fn(&function);
            Ok(())
        })
    }

    /// # Errors
    /// What the model refuses; an unknown app or fn; a fn of another app; a
    /// source or name in use; a failed commit.
    pub fn create_trigger(&self, input: TriggerInput) -> Result<Arc<Trigger>> {
        input.check_create()?;
        self.write(|database, next| {
            let app_id = find(&input.app_id, |id| next.app(&id), ModelError::AppNotFound)?.id;
            let fn_id = owned_fn(next, &app_id, &input.fn_id)?;
            let trigger = Arc::new(Trigger::create(input, app_id, fn_id, Timestamp::now()));
            check_unique(next, &trigger)?;
            database.insert_trigger(&trigger)?;
            next.put_trigger(trigger.clone());
            Ok(trigger)
        })
    }

    /// # Errors
    /// As `create_trigger`; an unknown id; an id in the body that is not the
    /// path's; another app.
    pub fn update_trigger(&self, path_id: &str, input: TriggerInput) -> Result<Arc<Trigger>> {
        input.check_path(path_id)?;
        self.write(|database, next| {
            let old = find(path_id, |id| next.trigger_by_id(&id), ModelError::TriggerNotFound)?;
            let trigger = Arc::new(old.merged(input, Timestamp::now(), |fn_id| owned_fn(next, &old.app_id, fn_id))?);
            if trigger.updated_at != old.updated_at {
                check_unique(next, &trigger)?;
                database.update_trigger(&trigger)?;
                next.put_trigger(trigger.clone());
            }
            Ok(trigger)
        })
    }

    /// # Errors
    /// An unknown id; a failed commit.
    pub fn delete_trigger(&self, path_id: &str) -> Result<()> {
        self.write(|database, next| {
            let trigger = find(path_id, |id| next.trigger_by_id(&id), ModelError::TriggerNotFound)?.clone();
            database.delete_trigger(&trigger.id)?;
            next.remove_trigger(&trigger);
            Ok(())
        })
    }

    /// Runs `change` alone, on the database and on a copy of the snapshot. Only
    /// when it succeeds, so after its commit, is the copy shown to readers. The
    /// mutex is held across the commit: that is what puts writes in order, and
    /// only writers wait for it.
    fn write<T>(&self, change: impl FnOnce(&mut Database, &mut Snapshot) -> Result<T>) -> Result<T> {
        let mut database = self.writer.lock();
        let mut next = Snapshot::clone(&self.snapshot.load());
        let done = change(&mut database, &mut next)?;
        self.snapshot.store(Arc::new(next));
        drop(database);
        if let Some(observer) = self.observer.get() {
            observer();
        }
        Ok(done)
    }
}

/// What `look_up` finds for a client's id. A text that is no id names nothing.
fn find<'s, T>(id: &str, look_up: impl FnOnce(Id) -> Option<&'s T>, missing: ModelError) -> std::result::Result<&'s T, ModelError> {
    Id::from_str(id).ok().and_then(look_up).ok_or(missing)
}

fn owned_fn(snapshot: &Snapshot, app_id: &Id, fn_id: &str) -> std::result::Result<Id, ModelError> {
    let target = find(fn_id, |id| snapshot.target(&id), ModelError::FnNotFound)?;
    if target.app.id == *app_id { Ok(target.function.id) } else { Err(ModelError::TriggerFnWrongApp) }
}

/// Source and name of a trigger may be used by none but itself.
fn check_unique(snapshot: &Snapshot, trigger: &Trigger) -> std::result::Result<(), ModelError> {
    let other = |found: &&Arc<Trigger>| found.id != trigger.id;
    if snapshot.trigger_by_source(&trigger.app_id, &trigger.kind, &trigger.source).filter(other).is_some() {
        return Err(ModelError::TriggerSourceExists);
    }
    if snapshot.trigger_by_name(&trigger.app_id, &trigger.fn_id, &trigger.name).filter(other).is_some() {
        return Err(ModelError::TriggerExists);
    }
    Ok(())
}
