//! The command line: `hob serve`, and the client of a running server.
//!
//! Owns: arguments, the client's requests (ureq), function folders and the
//! images made from them, what is printed. Called by: `main`. Blocks on:
//! standard input, the server, the engine, `cargo build`. Does not: take part
//! in serving; `serve` hands its configuration to `server` and is done.
//!
//! Exit codes: 0 done, 1 the server (or the function, or the engine) said no,
//! 2 wrong usage or nobody answers.

mod args;
mod calls;
mod deploy;
mod doctor;
mod error;
mod funcfile;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod ignore;
pub mod image;
mod images;
mod invoke;
mod logs;
mod resources;
mod table;
mod yaml;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
pub use error::CliError;
use http::Server;

/// What a command leaves for standard output.
#[derive(Debug)]
enum Output {
    Text(String),
    /// Written already, or nothing to say.
    Done,
    /// `serve` ended with this code.
    Code(ExitCode),
}

/// Runs the program; the result is the process's exit code.
pub fn main() -> ExitCode {
    // Before anything else: this process must have nothing but one thread.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(crate::sandbox::SPAWNER_ARGUMENT) {
        return crate::sandbox::spawner_main(arguments);
    }
    main_with(std::env::args_os())
}

fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Cli::command().mut_subcommand("serve", |serve| serve.after_help(crate::config::help_text()));
    let cli = match command.try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are "errors" with code 0.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&cli) {
        Ok(Output::Text(text)) => match print(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e),
        },
        Ok(Output::Done) => ExitCode::SUCCESS,
        Ok(Output::Code(code)) => code,
        Err(e) => fail(&e),
    }
}

fn fail(error: &CliError) -> ExitCode {
    eprintln!("hob: {error}");
    ExitCode::from(error.exit_code())
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read our output has enough (`hob … | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| CliError::Output { source }),
    }
}

/// Progress of something slow, on standard error.
fn progress(text: &str) {
    eprintln!("{text}");
}

fn run(cli: &Cli) -> Result<Output, CliError> {
    let server = || Server::new(cli.server.as_deref());
    match &cli.command {
        Command::Serve => serve(),
        Command::Apps(command) => resources::apps(&server()?, command, cli.json),
        Command::Fns(command) => resources::fns(&server()?, command, cli.json),
        Command::Triggers(command) => resources::triggers(&server()?, command, cli.json),
        Command::Calls(command) => calls::calls(&server()?, command, cli.json),
        Command::Logs(what) => logs::logs(&server()?, what, cli.json),
        Command::Invoke(what) => invoke::invoke(&server()?, what, cli.json),
        Command::Deploy(what) => deploy::deploy(&server()?, what, cli.json),
        Command::Image(command) => images::images(command, cli.json),
        Command::Doctor { image } => doctor::doctor(image.as_deref(), cli.json),
        Command::Version => version(&server()?, cli.json),
    }
}

fn serve() -> Result<Output, CliError> {
    let config = crate::config::Raw::from_env().parse()?;
    Ok(Output::Code(crate::server::run(config)))
}

/// Ours always; the server's where one answers.
fn version(server: &Server, json: bool) -> Result<Output, CliError> {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = server.get("/version").ok().and_then(|v| v["version"].as_str().map(str::to_owned));
    Ok(Output::Text(if json {
        format!("{}\n", serde_json::json!({ "client": ours, "server": theirs }))
    } else {
        format!("client  {ours}\nserver  {}\n", theirs.as_deref().unwrap_or("? (none answers)"))
    }))
}

#[cfg(test)]
mod tests;
