//! `hob doctor`: findings as text or JSON, and the exit code.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::CliError;
use super::{Output, print};
use crate::config::Raw;
use crate::doctor::{self, Report};

/// Exit code 0 when nothing is bad, else 1.
pub(super) fn doctor(image: Option<&str>, json: bool) -> Result<Output, CliError> {
    let report = match Raw::from_env().parse() {
        Ok(config) => doctor::examine(&config, image),
        Err(error) => doctor::misconfigured(&error.problems),
    };
    print(&if json { as_json(&report) } else { as_text(&report) })?;
    Ok(Output::Code(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn as_json(report: &Report) -> String {
    let findings: Vec<Value> = report.findings.iter().map(|f| json!({ "name": f.name, "verdict": f.verdict.word(), "what": f.what, "todo": f.todo })).collect();
    format!("{:#}\n", json!({ "well": report.is_well(), "findings": findings }))
}

fn as_text(report: &Report) -> String {
    let width = report.findings.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let clean = |text: &str| -> String { text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() };
    let mut out = String::new();
    for finding in &report.findings {
        out.push_str(&format!("{:<8} {:<width$}  {}\n", finding.verdict.word(), finding.name, clean(&finding.what)));
        if !finding.todo.is_empty() {
            out.push_str(&format!("{:<8} {:<width$}  -> {}\n", "", "", clean(&finding.todo)));
        }
    }
    out
}
