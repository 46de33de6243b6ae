//! Query strings, percent escapes and list cursors. Pure.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::{Id, ModelError};

const DEFAULT_PER_PAGE: usize = 30;
const MAX_PER_PAGE: usize = 100;

/// The parameters lists look at; others are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) app_id: String,
    pub(super) fn_id: String,
    pub(super) name: String,
    pub(super) cursor: String,
    pub(super) per_page: String,
    pub(super) status: String,
    pub(super) from_time: String,
    pub(super) to_time: String,
    pub(super) tail: String,
}

impl Query {
    /// Of a repeated key the first counts; a pair with a bad escape does not.
    pub(super) fn parse(text: &str) -> Query {
        let mut query = Query::default();
        let mut seen = [false; 9];
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (decode(key, true), decode(value, true)) else { continue };
            let (slot, n) = match key.as_str() {
                "app_id" => (&mut query.app_id, 0),
                "fn_id" => (&mut query.fn_id, 1),
                "name" => (&mut query.name, 2),
                "cursor" => (&mut query.cursor, 3),
                "per_page" => (&mut query.per_page, 4),
                "status" => (&mut query.status, 5),
                "from_time" => (&mut query.from_time, 6),
                "to_time" => (&mut query.to_time, 7),
                "tail" => (&mut query.tail, 8),
                _ => continue,
            };
            if !std::mem::replace(&mut seen[n], true) {
                *slot = value;
            }
        }
        query
    }

    /// Items per page.
    pub(super) fn limit(&self) -> usize {
        match self.per_page.parse::<i64>() {
            Ok(n) if n > 0 => usize::try_from(n).unwrap_or(MAX_PER_PAGE).min(MAX_PER_PAGE),
            _ => DEFAULT_PER_PAGE,
        }
    }

    /// The name the page begins after; empty = from the start.
    pub(super) fn after_name(&self) -> Result<String, ModelError> {
        let bytes = URL_SAFE_NO_PAD.decode(&self.cursor).map_err(|_| ModelError::InvalidCursor)?;
        String::from_utf8(bytes).map_err(|_| ModelError::InvalidCursor)
    }

    /// The name and id the page begins after.
    pub(super) fn after_name_and_id(&self) -> Result<(String, Id), ModelError> {
        if self.cursor.is_empty() {
            return Ok((String::new(), Id::MIN));
        }
        let text = self.after_name()?;
        let (name, id) = text.split_once('\0').ok_or(ModelError::InvalidCursor)?;
        Ok((name.to_owned(), Id::from_str(id).map_err(|_| ModelError::InvalidCursor)?))
    }
}

/// The id a list of calls goes on below.
pub(super) fn cursor_id(cursor: &str) -> Result<Id, ModelError> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| ModelError::InvalidCursor)?;
    std::str::from_utf8(&bytes).ok().and_then(|text| Id::from_str(text).ok()).ok_or(ModelError::InvalidCursor)
}

/// The cursor to the page after the item with this name.
pub(super) fn name_cursor(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// The same where names repeat. Names have no NUL.
pub(super) fn name_and_id_cursor(name: &str, id: &Id) -> String {
    URL_SAFE_NO_PAD.encode(format!("{name}\0{id}"))
}

/// Resolves `%41`, and `+` where it means a blank. `None` for a bad escape;
/// bytes that are no UTF-8 become U+FFFD.
pub(super) fn decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
                out.push(high * 16 + low);
            }
            b'+' if plus_is_blank => out.push(b' '),
            other => out.push(other),
        }
    }
    Some(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
