//! Functions without a container engine.
//!
//! Owns: the store of images that hob keeps itself (`images`). Called by:
//! `cli` (images). Blocks on: the file system, registries, each with a
//! deadline. Does not: know calls, queues, or when to do what.

pub mod images;
