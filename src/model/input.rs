//! What clients send: the JSON of an app, fn or trigger with every field
//! optional.
//!
//! The original reads JSON loosely (spec http-api §1.3): keys match in any
//! case, unknown keys and everything after the first value are ignored, null
//! means "not given". A wrong type is `InvalidJson`, nothing else is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::rules::MAX_ANNOTATION_VALUE;
use super::{Annotations, ModelError, Timestamp};

/// Keys under this prefix are computed by the server; clients that send back
/// what they read are not to store them.
pub(super) const RESERVED_PREFIX: &str = "fnproject.io/";

/// An app as a client sends it. Empty text and absence mean the same, except
/// for `syslog_url`, where the empty text clears.
#[derive(Debug, Default)]
pub struct AppInput {
    pub id: String,
    pub name: String,
    pub config: BTreeMap<String, String>,
    pub annotations: Annotations,
    pub syslog_url: Option<String>,
    pub shape: String,
}

/// A fn as a client sends it. Zero means "not given". `shape` is not read: a
/// fn has its app's.
#[derive(Debug, Default)]
pub struct FnInput {
    pub id: String,
    pub name: String,
    pub app_id: String,
    pub image: String,
    pub memory: u64,
    pub timeout: i32,
    pub idle_timeout: i32,
    pub config: BTreeMap<String, String>,
    pub annotations: Annotations,
}

/// A trigger as a client sends it.
#[derive(Debug, Default)]
pub struct TriggerInput {
    pub id: String,
    pub name: String,
    pub app_id: String,
    pub fn_id: String,
    pub kind: String,
    pub source: String,
    pub annotations: Annotations,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
}

impl AppInput {
    /// # Errors
    /// `InvalidJson`.
    pub fn parse(body: &[u8]) -> Result<AppInput, ModelError> {
        let mut input = AppInput::default();
        for (key, raw) in members(body)? {
            match field(&key).as_str() {
                "id" => set(&mut input.id, raw)?,
                "name" => set(&mut input.name, raw)?,
                "config" => settings(&mut input.config, raw)?,
                "annotations" => annotations(&mut input.annotations, raw)?,
                "syslog_url" => input.syslog_url = value(raw)?,
                "shape" => set(&mut input.shape, raw)?,
                "created_at" | "updated_at" => drop(timestamp(raw)?),
                _ => {}
            }
        }
        Ok(input)
    }
}

impl FnInput {
    /// # Errors
    /// `InvalidJson`.
    pub fn parse(body: &[u8]) -> Result<FnInput, ModelError> {
        let mut input = FnInput::default();
        let mut ignored = String::new();
        for (key, raw) in members(body)? {
            match field(&key).as_str() {
                "id" => set(&mut input.id, raw)?,
                "name" => set(&mut input.name, raw)?,
                "app_id" => set(&mut input.app_id, raw)?,
                "image" => set(&mut input.image, raw)?,
                "memory" => set(&mut input.memory, raw)?,
                "timeout" => set(&mut input.timeout, raw)?,
                "idle_timeout" => set(&mut input.idle_timeout, raw)?,
                "config" => settings(&mut input.config, raw)?,
                "annotations" => annotations(&mut input.annotations, raw)?,
                "shape" => set(&mut ignored, raw)?,
                "created_at" | "updated_at" => drop(timestamp(raw)?),
                _ => {}
            }
        }
        Ok(input)
    }
}

impl TriggerInput {
    /// # Errors
    /// `InvalidJson`.
    pub fn parse(body: &[u8]) -> Result<TriggerInput, ModelError> {
        let mut input = TriggerInput::default();
        for (key, raw) in members(body)? {
            match field(&key).as_str() {
                "id" => set(&mut input.id, raw)?,
                "name" => set(&mut input.name, raw)?,
                "app_id" => set(&mut input.app_id, raw)?,
                "fn_id" => set(&mut input.fn_id, raw)?,
                "type" => set(&mut input.kind, raw)?,
                "source" => set(&mut input.source, raw)?,
                "annotations" => annotations(&mut input.annotations, raw)?,
                "created_at" => input.created_at = timestamp(raw)?,
                "updated_at" => input.updated_at = timestamp(raw)?,
                _ => {}
            }
        }
        Ok(input)
    }
}

/// The members of an object in the order sent, keys not unique.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A member's key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<'a>, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The first JSON value of `body`: an object's members, none for null.
fn members(body: &[u8]) -> Result<Vec<(Cow<'_, str>, &RawValue)>, ModelError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    match Option::<Members<'_>>::deserialize(&mut deserializer) {
        Ok(found) => Ok(found.map_or_else(Vec::new, |m| m.0)),
        Err(_) => Err(ModelError::InvalidJson),
    }
}

fn field(key: &str) -> String {
    key.to_ascii_lowercase()
}

/// `None` for null.
fn value<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<Option<T>, ModelError> {
    serde_json::from_str(raw.get()).map_err(|_| ModelError::InvalidJson)
}

fn set<'a, T: Deserialize<'a>>(target: &mut T, raw: &'a RawValue) -> Result<(), ModelError> {
    if let Some(given) = value(raw)? {
        *target = given;
    }
    Ok(())
}

fn timestamp(raw: &RawValue) -> Result<Option<Timestamp>, ModelError> {
    let Some(text) = value::<String>(raw)? else { return Ok(None) };
    let time = Timestamp::parse(&text).ok_or(ModelError::InvalidJson)?;
    Ok((time != Timestamp::NOT_GIVEN).then_some(time))
}

/// A null value counts as an empty one, as in the original.
fn settings(target: &mut BTreeMap<String, String>, raw: &RawValue) -> Result<(), ModelError> {
    let given: Option<BTreeMap<String, Option<String>>> = value(raw)?;
    target.extend(given.into_iter().flatten().map(|(k, v)| (k, v.unwrap_or_default())));
    Ok(())
}

fn annotations(target: &mut Annotations, raw: &RawValue) -> Result<(), ModelError> {
    let given: Option<Members<'_>> = value(raw)?;
    for (key, raw) in given.map_or_else(Vec::new, |m| m.0) {
        if key.starts_with(RESERVED_PREFIX) {
            continue;
        }
        let text = compact(raw.get());
        // A raw value is checked for its shape only; parse it, so that nothing
        // is stored that a strict reader refuses (a lone surrogate, say). Longer
        // ones are refused for their length later.
        if text.len() <= MAX_ANNOTATION_VALUE && serde_json::from_str::<serde_json::Value>(&text).is_err() {
            return Err(ModelError::InvalidJson);
        }
        target.insert(key.into_owned(), RawValue::from_string(text).map_err(|_| ModelError::InvalidJson)?);
    }
    Ok(())
}

/// Valid JSON without the blanks between its tokens; key order is kept.
pub(super) fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in json.chars() {
        if !quoted && matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && c == '\\' && !escaped;
        out.push(c);
    }
    out
}
