//! `hob doctor`: looks at the host as `hob serve` will need it, and says what
//! to do about what is wrong.
//!
//! Owns: the checks, their order and their words. Called by: `cli`. Blocks on:
//! the file system, the engine (each request with its limit), one container's
//! start (30 s), a pull on request (its own limit). Does not: change anything
//! that stays, but for the tiny image of the trial: what it makes, it removes.
//!
//! A check is a function that puts findings into a [`Report`]; `examine` is the
//! list of them. A new driver adds one there.

mod engine;
mod host;
mod sandbox;

use crate::config::Config;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Good,
    /// Not looked at: nothing depends on it, or it was not asked for.
    Skipped,
    /// hob runs, but not as well as it could.
    Warning,
    /// hob, or a part of it, will not run.
    Bad,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Skipped => "skipped",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: stable, for scripts.
    pub name: &'static str,
    pub verdict: Verdict,
    pub what: String,
    /// Empty when there is nothing to do.
    pub todo: String,
}

/// All findings, in order.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    fn put(&mut self, name: &'static str, verdict: Verdict, what: impl Into<String>, todo: impl Into<String>) {
        self.findings.push(Finding { name, verdict, what: what.into(), todo: todo.into() });
    }

    fn good(&mut self, name: &'static str, what: impl Into<String>) {
        self.put(name, Verdict::Good, what, "");
    }

    fn skipped(&mut self, name: &'static str, what: impl Into<String>) {
        self.put(name, Verdict::Skipped, what, "");
    }

    /// Nothing is bad.
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|f| f.verdict != Verdict::Bad)
    }
}

/// Looks at everything. `image`: also pull this one.
pub fn examine(config: &Config, image: Option<&str>) -> Report {
    let mut report = Report::default();
    host::settings(config, &mut report);
    host::data(config, &mut report);
    host::port(config, &mut report);
    host::descriptors(config, &mut report);
    host::capacity(config, &mut report);
    engine::check(config, image, &mut report);
    sandbox::check(config, &mut report);
    report
}

/// The settings themselves are wrong: nothing else can be looked at.
pub fn misconfigured(problems: &[String]) -> Report {
    let mut report = Report::default();
    for problem in problems {
        report.put("settings", Verdict::Bad, problem.clone(), "`hob serve --help` lists every setting with its form");
    }
    report
}

#[allow(clippy::cast_precision_loss, reason = "for eyes")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
