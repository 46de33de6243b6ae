//! Creating and updating resources: which fields count, in which order they
//! are checked (spec http-api §2.2), how an update merges (§2.3). Whether
//! other resources allow it (names taken, apps missing) is the store's part.

use super::rules::{self, NameFault};
use super::{Annotations, App, AppInput, Fn, FnInput, Id, ModelError, Settings, Timestamp, Trigger, TriggerInput};

const DEFAULT_MEMORY: u64 = 128;
const DEFAULT_TIMEOUT: i32 = 30;
const DEFAULT_IDLE_TIMEOUT: i32 = 30;
const INVOKE_TYPE: &str = "hob/invoke-type";

impl App {
    /// A new app from what the client sent.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn create(input: AppInput, now: Timestamp) -> Result<App, ModelError> {
        if !input.id.is_empty() {
            return Err(ModelError::AppIdProvided);
        }
        let app = App {
            id: Id::new(),
            name: input.name,
            config: input.config,
            annotations: input.annotations,
            syslog_url: input.syslog_url,
            shape: input.shape,
            created_at: now,
            updated_at: now,
        };
        app.check()?;
        Ok(app)
    }

    /// This app with the client's changes.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn merged(&self, input: AppInput, now: Timestamp) -> Result<App, ModelError> {
        if !input.name.is_empty() && input.name != self.name {
            return Err(ModelError::AppNameImmutable);
        }
        let mut app = self.clone();
        let mut changed = merge_config(&mut app.config, input.config);
        changed |= merge_annotations(&mut app.annotations, input.annotations);
        if let Some(url) = input.syslog_url {
            changed |= replace(&mut app.syslog_url, (!url.is_empty()).then_some(url));
        }
        app.check()?;
        touch(&mut app.updated_at, changed, now);
        Ok(app)
    }

    fn check(&self) -> Result<(), ModelError> {
        rules::check_name(&self.name).map_err(|fault| match fault {
            NameFault::Missing => ModelError::AppMissingName,
            NameFault::TooLong => ModelError::AppNameTooLong,
            NameFault::Invalid => ModelError::AppNameInvalid,
        })?;
        rules::check_annotations(&self.annotations)?;
        rules::check_syslog(self.syslog_url.as_deref().unwrap_or_default())?;
        if !rules::SHAPES.contains(&self.shape.as_str()) {
            return Err(ModelError::AppShapeInvalid);
        }
        rules::check_config(&self.config)
    }
}

impl AppInput {
    /// # Errors
    /// `AppIdMismatch` when the body names another app than the path.
    pub fn check_path(&self, path_id: &str) -> Result<(), ModelError> {
        if same_or_empty(&self.id, path_id) { Ok(()) } else { Err(ModelError::AppIdMismatch) }
    }
}

impl FnInput {
    /// # Errors
    /// `FnIdMismatch` when the body names another fn than the path.
    pub fn check_path(&self, path_id: &str) -> Result<(), ModelError> {
        if same_or_empty(&self.id, path_id) { Ok(()) } else { Err(ModelError::FnIdMismatch) }
    }

    /// Everything about a create that needs no other resource, in the
    /// documented order.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_create(&self) -> Result<(), ModelError> {
        if !self.id.is_empty() {
            return Err(ModelError::FnIdProvided);
        }
        if self.app_id.is_empty() {
            return Err(ModelError::FnMissingApp);
        }
        rules::check_fn_name(&self.name).map_err(|fault| match fault {
            NameFault::Missing => ModelError::FnMissingName,
            NameFault::TooLong => ModelError::FnNameTooLong,
            NameFault::Invalid => ModelError::FnNameInvalid,
        })?;
        rules::check_image(&self.image)?;
        self.limits()?;
        rules::check_annotations(&self.annotations)?;
        rules::check_config(&self.config)
    }

    /// The limits in force: what was given, or the default.
    fn limits(&self) -> Result<(u32, u32, u64), ModelError> {
        let timeout = if self.timeout == 0 { DEFAULT_TIMEOUT } else { self.timeout };
        let idle = if self.idle_timeout == 0 { DEFAULT_IDLE_TIMEOUT } else { self.idle_timeout };
        let memory = if self.memory == 0 { DEFAULT_MEMORY } else { self.memory };
        let timeout = within(timeout, 300).ok_or(ModelError::FnTimeoutRange)?;
        let idle = within(idle, 3600).ok_or(ModelError::FnIdleTimeoutRange)?;
        if memory > 8192 { Err(ModelError::FnMemoryRange) } else { Ok((timeout, idle, memory)) }
    }
}

impl Fn {
    /// A new fn in `app`. `input` has passed `check_create`.
    ///
    /// # Errors
    /// As `check_create`.
    pub fn create(input: FnInput, app: &App, now: Timestamp) -> Result<Fn, ModelError> {
        let (timeout, idle_timeout, memory) = input.limits()?;
        Ok(Fn {
            id: Id::new(),
            name: input.name,
            app_id: app.id,
            image: input.image,
            memory,
            timeout,
            idle_timeout,
            config: input.config,
            annotations: input.annotations,
            created_at: now,
            shape: app.shape.clone(),
            updated_at: now,
        })
    }

    /// This fn with the client's changes. Name, app and shape do not change,
    /// whatever the client sends.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn merged(&self, input: FnInput, now: Timestamp) -> Result<Fn, ModelError> {
        let (timeout, idle_timeout, memory) = input.limits()?;
        let mut function = self.clone();
        let mut changed = false;
        if !input.image.is_empty() {
            rules::check_image(&input.image)?;
            changed |= replace(&mut function.image, input.image);
        }
        if input.timeout != 0 {
            changed |= replace(&mut function.timeout, timeout);
        }
        if input.idle_timeout != 0 {
            changed |= replace(&mut function.idle_timeout, idle_timeout);
        }
        if input.memory != 0 {
            changed |= replace(&mut function.memory, memory);
        }
        changed |= merge_config(&mut function.config, input.config);
        changed |= merge_annotations(&mut function.annotations, input.annotations);
        rules::check_annotations(&function.annotations)?;
        rules::check_config(&function.config)?;
        touch(&mut function.updated_at, changed, now);
        Ok(function)
    }
}

impl TriggerInput {
    /// # Errors
    /// `TriggerIdMismatch` when the body names another trigger than the path.
    pub fn check_path(&self, path_id: &str) -> Result<(), ModelError> {
        if same_or_empty(&self.id, path_id) { Ok(()) } else { Err(ModelError::TriggerIdMismatch) }
    }

    /// Everything about a create that needs no other resource, in the
    /// documented order.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_create(&self) -> Result<(), ModelError> {
        if !self.id.is_empty() {
            return Err(ModelError::TriggerIdProvided);
        }
        if self.created_at.is_some() {
            return Err(ModelError::TriggerCreatedProvided);
        }
        if self.updated_at.is_some() {
            return Err(ModelError::TriggerUpdatedProvided);
        }
        if self.app_id.is_empty() {
            return Err(ModelError::TriggerMissingApp);
        }
        check_trigger_name(&self.name)?;
        if self.fn_id.is_empty() {
            return Err(ModelError::TriggerMissingFn);
        }
        if self.kind != Trigger::HTTP {
            return Err(ModelError::TriggerType);
        }
        check_source(&self.source)?;
        check_trigger_annotations(&self.annotations)
    }
}

impl Trigger {
    /// Whether calls through it are detached: annotation `hob/invoke-type`.
    pub fn is_detached(&self) -> bool {
        self.annotations.get(INVOKE_TYPE).is_some_and(|value| value.get() == "\"detached\"")
    }

    /// The only trigger type there is.
    pub const HTTP: &str = "http";

    /// A new trigger. `input` has passed `check_create`; the store has found
    /// the app and the fn.
    pub fn create(input: TriggerInput, app_id: Id, fn_id: Id, now: Timestamp) -> Trigger {
        Trigger {
            id: Id::new(),
            name: input.name,
            app_id,
            fn_id,
            created_at: now,
            updated_at: now,
            kind: input.kind,
            source: input.source,
            annotations: input.annotations,
        }
    }

    /// This trigger with the client's changes. The type does not change,
    /// whatever the client sends. `find_fn` is asked for another fn's id once
    /// the fields are known to be good.
    ///
    /// # Errors
    /// The first rule that is broken; what `find_fn` says.
    pub fn merged(&self, input: TriggerInput, now: Timestamp, find_fn: impl FnOnce(&str) -> Result<Id, ModelError>) -> Result<Trigger, ModelError> {
        let mut trigger = self.clone();
        let mut changed = false;
        if !input.name.is_empty() {
            changed |= replace(&mut trigger.name, input.name);
        }
        if !input.source.is_empty() {
            changed |= replace(&mut trigger.source, input.source);
        }
        changed |= merge_annotations(&mut trigger.annotations, input.annotations);
        check_trigger_name(&trigger.name)?;
        check_source(&trigger.source)?;
        check_trigger_annotations(&trigger.annotations)?;
        if !input.app_id.is_empty() && input.app_id != self.app_id.as_str() {
            return Err(ModelError::TriggerAppImmutable);
        }
        if !input.fn_id.is_empty() && input.fn_id != self.fn_id.as_str() {
            changed |= replace(&mut trigger.fn_id, find_fn(&input.fn_id)?);
        }
        touch(&mut trigger.updated_at, changed, now);
        Ok(trigger)
    }
}

fn check_trigger_name(name: &str) -> Result<(), ModelError> {
    rules::check_name(name).map_err(|fault| match fault {
        NameFault::Missing => ModelError::TriggerMissingName,
        NameFault::TooLong => ModelError::TriggerNameTooLong,
        NameFault::Invalid => ModelError::TriggerNameInvalid,
    })
}

fn check_trigger_annotations(annotations: &Annotations) -> Result<(), ModelError> {
    rules::check_annotations(annotations)?;
    match annotations.get(INVOKE_TYPE).map(|value| value.get()) {
        None | Some("\"detached\"" | "\"sync\"" | "\"\"") => Ok(()),
        Some(_) => Err(ModelError::AnnotationInvokeType),
    }
}

fn check_source(source: &str) -> Result<(), ModelError> {
    match source {
        "" => Err(ModelError::TriggerMissingSource),
        _ if source.starts_with('/') => Ok(()),
        _ => Err(ModelError::TriggerSourcePrefix),
    }
}

fn same_or_empty(body_id: &str, path_id: &str) -> bool {
    body_id.is_empty() || body_id == path_id
}

/// `value` as a number from 1 to `max`.
fn within(value: i32, max: u32) -> Option<u32> {
    u32::try_from(value).ok().filter(|v| (1..=max).contains(v))
}

fn replace<T: PartialEq>(target: &mut T, value: T) -> bool {
    let differs = *target != value;
    if differs {
        *target = value;
    }
    differs
}

/// Key by key; an empty value deletes. Says whether anything changed.
fn merge_config(config: &mut Settings, changes: Settings) -> bool {
    let mut changed = false;
    for (key, value) in changes {
        changed |= if value.is_empty() {
            config.remove(&key).is_some()
        } else {
            config.get(&key) != Some(&value) && {
                config.insert(key, value);
                true
            }
        };
    }
    changed
}

/// Key by key; `""` and null delete. Says whether anything changed.
fn merge_annotations(annotations: &mut Annotations, changes: Annotations) -> bool {
    let mut changed = false;
    for (key, value) in changes {
        changed |= if rules::is_empty_annotation(value.get()) {
            annotations.remove(&key).is_some()
        } else {
            annotations.get(&key).is_none_or(|old| old.get() != value.get()) && {
                annotations.insert(key, value);
                true
            }
        };
    }
    changed
}

/// Moves `updated_at` if something changed, and then always forward: two
/// changes within a millisecond (or a clock set back) still show.
fn touch(updated_at: &mut Timestamp, changed: bool, now: Timestamp) {
    if changed {
        *updated_at = now.max(Timestamp(updated_at.0.saturating_add(1)));
    }
}
