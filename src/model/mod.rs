//! What users manage: apps, fns, triggers; ids; the rules they obey.
//!
//! Owns: the resource types with their JSON forms, validation, merge rules,
//! and the derivation of a function's exact run configuration (`FnSpec`).
//! Called by: `store`, `api`, `edge`, `agent`, `hot`. Blocks on: nothing.
//! Does not: store anything, know HTTP or containers.

mod id;
mod spec;
mod time;

pub use id::Id;
pub use spec::{FnSpec, SlotKey};
pub use time::Timestamp;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// App or fn configuration: environment of the function's containers.
pub type Settings = BTreeMap<String, String>;

/// Opaque JSON values by key, kept as the compact text the client sent.
pub type Annotations = BTreeMap<String, Box<RawValue>>;

/// A namespace of functions with shared configuration.
#[derive(Debug, Clone)]
pub struct App {
    pub id: Id,
    pub name: String,
    pub config: Settings,
    pub annotations: Annotations,
    pub syslog_url: Option<String>,
    pub shape: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A function: an image with limits and configuration.
#[derive(Debug, Clone)]
pub struct Fn {
    pub id: Id,
    pub name: String,
    pub app_id: Id,
    pub image: String,
    /// MiB, 1 to 8192.
    pub memory: u64,
    /// Seconds, 1 to 300.
    pub timeout: u32,
    /// Seconds, 1 to 3600.
    pub idle_timeout: u32,
    pub config: Settings,
    pub annotations: Annotations,
    pub shape: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An HTTP route to a function.
#[derive(Debug, Clone)]
pub struct Trigger {
    pub id: Id,
    pub name: String,
    pub app_id: Id,
    pub fn_id: Id,
    /// Only `http`.
    pub kind: String,
    /// Starts with `/`.
    pub source: String,
    pub annotations: Annotations,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}
