//! What users manage: apps, fns, triggers; ids; the rules they obey.
//!
//! Owns: the resource types with their JSON forms, validation, merge rules,
//! and the derivation of a function's exact run configuration (`FnSpec`).
//! Called by: `store`, `api`, `edge`, `agent`, `hot`. Blocks on: nothing.
//! Does not: store anything, know HTTP or containers.

mod allow;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod id;
mod input;
mod limits;
mod resource;
mod rules;
mod spec;
#[cfg(test)]
mod tests;
mod time;

pub use allow::ImageAllow;
pub use error::ModelError;
pub use id::Id;
pub use input::{AppInput, FnInput, TriggerInput};
pub use limits::{FnLimits, PullPolicy};
pub use spec::{FnSpec, SlotKey};
pub use time::Timestamp;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// App or fn configuration: environment of the function's containers.
pub type Settings = BTreeMap<String, String>;

/// Opaque JSON values by key, kept as the compact text the client sent.
pub type Annotations = BTreeMap<String, Box<RawValue>>;

// The order of fields is the order of keys in the JSON that clients get (spec
// http-api §1.4).

/// A namespace of functions with shared configuration.
#[derive(Debug, Clone, Serialize)]
pub struct App {
    pub id: Id,
    pub name: String,
    #[serde(skip_serializing_if = "Settings::is_empty")]
    pub config: Settings,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog_url: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub shape: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A function: an image with limits and configuration.
#[derive(Debug, Clone, Serialize)]
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
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    pub created_at: Timestamp,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub shape: String,
    pub updated_at: Timestamp,
}

/// An HTTP route to a function.
#[derive(Debug, Clone, Serialize)]
pub struct Trigger {
    pub id: Id,
    pub name: String,
    pub app_id: Id,
    pub fn_id: Id,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Only `http`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Starts with `/`.
    pub source: String,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
