//! The ids are the server's own.

#[path = "../../../src/model/id.rs"]
mod id;

pub use id::Id;

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(pub i64);
