//! What a command can fail of, in words that say what to do.

use std::io;
use std::path::PathBuf;

use super::funcfile::FuncFileError;
use super::image::ArchiveError;
use crate::config::ConfigError;
use crate::docker::{DockerOpenError, EngineError};
use crate::sandbox::images::{ImageError, OpenError};

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{what}: {message} (status {status})")]
    Refused { what: String, status: u16, message: String },
    #[error("there is no {kind} '{name}': {hint}")]
    NotFound { kind: &'static str, name: String, hint: String },
    #[error("the call failed with status {status}: {message}")]
    CallFailed { status: u16, message: String },
    #[error("no server answers at {server} ({cause}): start one with `hob serve`, or name its address with --server or HOB_URL")]
    Connect { server: String, cause: String },
    #[error("the server at {server} broke off ({cause}): see its log")]
    Broken { server: String, cause: String },
    #[error("{server} does not answer like hob ({what}): is the address right?")]
    Strange { server: String, what: String },
    #[error("'{url}' is no server address: it must look like http://127.0.0.1:8080")]
    Address { url: String },
    #[error("--annotation {name}: {source}; texts need quotes, as in '{name}=\"text\"'")]
    Annotation { name: String, source: serde_json::Error },
    #[error("header '{name}' cannot be sent: {cause}")]
    Header { name: String, cause: String },
    #[error("the settings are wrong:\n{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    FuncFile(#[from] FuncFileError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{} is not a folder", folder.display())]
    NoFolder { folder: PathBuf },
    #[error(
        "'{name}' cannot name an image: use lower-case letters, digits, '.', '_' and '-' in the names of app and function and in the version, or give `image:` in func.yaml"
    )]
    ImageName { name: String },
    #[error(
        "{} has no Dockerfile, and hob cannot build runtime '{runtime}' itself: add a Dockerfile (functions/hello-python shows one), \
         or put a static program there and name it with `entrypoint:`, or name a ready image with `image:`", folder.display()
    )]
    NoBuilder { folder: PathBuf, runtime: String },
    #[error("cannot run cargo ({source}): install Rust, or deploy a folder with a built program and `entrypoint:`")]
    CargoMissing { source: io::Error },
    #[error("cargo build failed in {} ({status})", folder.display())]
    CargoFailed { folder: PathBuf, status: String },
    #[error("cargo build in {} made {count} programs, one is needed: name the function in func.yaml like its program", folder.display())]
    Programs { folder: PathBuf, count: usize },
    #[error("{} needs a dynamic loader, which its image does not have: build with `-C target-feature=+crt-static` (functions/.cargo/config.toml shows how)", program.display())]
    NotStatic { program: PathBuf },
    #[error("cannot open the container engine: {0}")]
    EngineOpen(#[from] Box<DockerOpenError>),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("cannot open hob's own image store: {0}")]
    StoreOpen(#[from] OpenError),
    #[error("{0}")]
    Image(#[from] ImageError),
    #[error("{what} is for hob's own image store (--driver sandbox); the engine has its own tools for that")]
    OwnStoreOnly { what: &'static str },
    #[error("an image is being added right now: try again when it is there")]
    StoreBusy,
    #[error("{text}")]
    PullFailed { text: String },
    #[error("{} needs a Dockerfile's builder, which only a container engine has: use --driver docker, or say `run_image:` and `entrypoint:` in func.yaml", folder.display())]
    NoDockerfile { folder: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read standard input: {source}")]
    Input { source: io::Error },
    #[error("cannot write the output: {source}")]
    Output { source: io::Error },
}

impl CliError {
    /// 1: asked and refused. 2: could not ask, or asked wrongly.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Refused { .. }
            | CliError::NotFound { .. }
            | CliError::CallFailed { .. }
            | CliError::CargoFailed { .. }
            | CliError::PullFailed { .. }
            | CliError::StoreBusy => 1,
            CliError::Image(e) => {
                if e.is_refusal() {
                    1
                } else {
                    2
                }
            }
            CliError::Engine(e) => {
                if e.status().is_some() {
                    1
                } else {
                    2
                }
            }
            CliError::Connect { .. }
            | CliError::Broken { .. }
            | CliError::Strange { .. }
            | CliError::Address { .. }
            | CliError::Annotation { .. }
            | CliError::Header { .. }
            | CliError::Config(_)
            | CliError::FuncFile(_)
            | CliError::Archive(_)
            | CliError::NoFolder { .. }
            | CliError::ImageName { .. }
            | CliError::NoBuilder { .. }
            | CliError::CargoMissing { .. }
            | CliError::Programs { .. }
            | CliError::NotStatic { .. }
            | CliError::EngineOpen(_)
            | CliError::StoreOpen(_)
            | CliError::OwnStoreOnly { .. }
            | CliError::NoDockerfile { .. }
            | CliError::Read { .. }
            | CliError::Input { .. }
            | CliError::Output { .. } => 2,
        }
    }
}
