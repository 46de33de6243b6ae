//! What the benches share: a load generator, a server under test, readings
//! from /proc, tables. Nothing here is part of the server.

#![allow(dead_code, reason = "each bench uses a part")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads, sleeps and environment do not bind the bench")]
#![allow(clippy::print_stdout, reason = "a bench prints")]

pub(crate) mod engine;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod plot;
pub(crate) mod proc;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod ways;

use std::path::{Path, PathBuf};

/// Anything that stops a bench.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// What the command line asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) full: bool,
    pub(crate) write: bool,
}

impl Options {
    pub(crate) fn parse() -> Options {
        let has = |name: &str| std::env::args().any(|a| a == name);
        Options { quick: has("--quick"), full: has("--full"), write: has("--write") }
    }

    /// The value after `name`, for picking one scenario.
    pub(crate) fn value(name: &str) -> Option<String> {
        std::env::args().skip_while(|a| a != name).nth(1)
    }

    pub(crate) fn pick<T>(self, quick: T, usual: T, full: T) -> T {
        if self.quick {
            quick
        } else if self.full {
            full
        } else {
            usual
        }
    }
}

/// A folder that goes when its owner goes. Short: socket paths end at 107 bytes.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Result<Scratch, Failure> {
        let path = std::env::temp_dir().join(format!("hob-{name}-{}", std::process::id()));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
