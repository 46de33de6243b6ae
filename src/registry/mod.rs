//! Registries of images: what an image is called, and who may have it.
//!
//! Owns: image names and how they are split, credentials in docker's
//! configuration files. Called by: `docker`, `sandbox`, `cli`. Blocks on:
//! reading a configuration file, a credential helper (10 s). Does not: speak to a registry.

mod auth;
mod helper;
mod name;

pub use auth::{AuthError, Credentials, Registries, Shown};
pub use helper::HelperError;
pub use name::{ImageName, NameError, encode};
