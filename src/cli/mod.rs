//! The command line.

/// Runs the program; the result is the process's exit code.
pub fn main() -> std::process::ExitCode {
    match crate::config::Raw::from_env().parse() {
        Ok(config) => crate::server::run(config),
        Err(_) => std::process::ExitCode::from(2),
    }
}
