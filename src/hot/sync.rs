//! The slot table's mutex and condvar.

pub(super) use crate::pool::sync::{Condvar, Mutex};
