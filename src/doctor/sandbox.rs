//! hob's own sandbox: whether it works here, and what functions go without.

use super::{Report, Verdict};
use crate::config::Config;
use crate::sandbox::{SandboxOpenError, examine};

pub(super) fn check(config: &Config, report: &mut Report) {
    if config.driver == "docker" {
        return report.skipped("sandbox", "HOB_DRIVER=docker does without");
    }
    match examine(&config.sandbox, &config.docker, "/proc/self/exe".into()) {
        Ok(found) if found.missing.is_empty() => report.good("sandbox", format!("namespaces, system call filter, {}", found.groups)),
        Ok(found) => {
            let todo = "run hob as root where functions are not trusted; HOB_SANDBOX_STRICT=1 refuses to run with less";
            report.put("sandbox", Verdict::Warning, format!("works, but without {}", found.missing.join(", ")), todo);
        }
        Err(error) => {
            let verdict = if config.driver == "auto" { Verdict::Warning } else { Verdict::Bad };
            report.put("sandbox", verdict, error.to_string(), what_to_do(&error));
        }
    }
}

fn what_to_do(error: &SandboxOpenError) -> &'static str {
    match error {
        SandboxOpenError::Strict { .. } => "run hob as root on a host with these, or do without HOB_SANDBOX_STRICT",
        _ => {
            "run hob as root, or let plain users make user namespaces (`sysctl user.max_user_namespaces`, AppArmor's restriction), or use an engine (HOB_DRIVER=docker)"
        }
    }
}
