//! Wiring.

/// Serves until told to stop.
pub fn run(config: crate::config::Config) -> std::process::ExitCode {
    drop(config);
    std::process::ExitCode::FAILURE
}
