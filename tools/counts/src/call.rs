//! Stands in for the words about a call.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientGone;
