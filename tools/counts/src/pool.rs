//! Nothing stops here.

#[derive(Debug, Default)]
pub struct Stop;

#[path = "../../../src/pool/sync.rs"]
pub mod sync;
