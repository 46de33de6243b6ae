//! What `hob doctor` asks an engine: what it is, and whether one container,
//! made as a function's would be, finds its socket folder and can be frozen.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::engine::{Ask, Engine, EngineError, Op};
use super::{Docker, DockerOpenError, Identity, check_age, parked};
use crate::call::Exit;
use crate::config::DockerConfig;
use crate::driver::{ContainerSpec, Driver, ExitSink, Freezer, Instance, StartBudget};
use crate::model::{Id, PullPolicy};
use crate::registry::encode;
use crate::uds::iofs::Iofs;

/// Where a container finds its socket folder.
const INSIDE: &str = "/tmp/iofs";
const MARKER: &str = "hob-doctor";
/// A container may take this long to come up.
const START: Duration = Duration::from_secs(30);

/// What an engine says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Facts {
    pub server_version: String,
    pub cgroup_driver: String,
    pub cgroup_version: String,
    pub architecture: String,
    /// Where it keeps images and containers, on its host.
    pub docker_root_dir: String,
    pub warnings: Option<Vec<String>>,
    #[serde(skip)]
    pub podman: bool,
}

/// Asks the engine what it is.
///
/// # Errors
/// Its address is none, nobody answers there, or it is too old.
pub fn facts(config: &DockerConfig) -> Result<Facts, DockerOpenError> {
    let mut engine = Engine::new(&config.host)?;
    let version = engine.negotiate()?;
    check_age(&version)?;
    let mut facts: Facts = engine.ask(&Ask::new(Op::Info, engine.address(), "GET", "/info".to_owned()))?.json()?;
    facts.podman = version.is_podman();
    Ok(facts)
}

/// How freezing goes.
#[derive(Debug)]
pub enum Freezing {
    /// By the container's own cgroup.
    Direct,
    /// Through the engine; why not directly.
    Engine { why: String },
    /// Not at all.
    Fails { why: String },
}

/// What became of one container.
#[derive(Debug)]
pub struct Trial {
    /// How long until it ran.
    pub took: Duration,
    /// The container sees what this process puts into its socket folder.
    pub folder: Result<(), String>,
    /// Whether the folder can be a tmpfs of its own, if that was asked.
    pub tmpfs: Option<Result<(), String>>,
    pub freezing: Freezing,
    pub removed: Result<(), String>,
}

struct Nobody;

impl ExitSink for Nobody {
    fn exited(&self, _exit: Exit) {}
}

/// Starts one container with every limit a function has, looks, and removes it.
/// Its image is made here: nothing is pulled. `folder` lies in the parent that
/// `identity` names and is open to every user. `tmpfs`: also whether folders
/// there can be tmpfs with these options.
///
/// # Errors
/// It could not be started: why, in words.
pub fn trial(config: &DockerConfig, identity: &Identity, folder: &Path, tmpfs: Option<&str>) -> Result<Trial, String> {
    let mut config = config.clone();
    // Neither is needed for one container.
    (config.parked_networks, config.load_file, config.clean_max_bytes) = (0, None, 0);
    let docker = Docker::open(&config, identity).map_err(|e| e.to_string())?;
    let image = parked::load_for(&docker.shared.images, &facts(&config).map_err(|e| e.to_string())?.architecture)?;
    let word = Id::new().to_string();
    std::fs::write(folder.join(MARKER), &word).map_err(|e| format!("cannot write into {}: {e}", folder.display()))?;
    let spec = ContainerSpec {
        id: Id::new().to_string(),
        image,
        env: Vec::new(),
        memory_mib: 64,
        cpu_milli: 0,
        tmpfs_mib: 0,
        iofs: folder.to_owned(),
        syslog_url: None,
        app_id: "doctor".to_owned(),
        fn_id: "doctor".to_owned(),
        no_network: false,
        pull: PullPolicy::Never,
    };
    let begun = Instant::now();
    let budget = StartBudget { pull_until: begun + START, start_within: START };
    let instance = docker.start(&spec, &budget, Arc::new(Nobody)).map_err(|e| e.to_string())?;
    let trial = Trial {
        took: begun.elapsed(),
        folder: sees(&docker, &instance, &word),
        tmpfs: tmpfs.map(|options| {
            let mounted = Iofs::open(&identity.iofs).and_then(|iofs| iofs.use_tmpfs(options, |folder| docker.sees(folder)));
            mounted.map_err(|e| e.to_string())
        }),
        freezing: freeze(&docker, &instance),
        removed: docker.remove(&instance).map_err(|e| e.to_string()),
    };
    docker.close();
    Ok(trial)
}

/// Reads the marker from inside: through the process's own root where it can
/// be seen from here, else the engine reads it.
fn sees(docker: &Docker, instance: &Instance, word: &str) -> Result<(), String> {
    let inside = |pid: u32| PathBuf::from(format!("/proc/{pid}/root{INSIDE}/{MARKER}"));
    if instance.pid.is_some_and(|pid| std::fs::read_to_string(inside(pid)).is_ok_and(|text| text == word)) {
        return Ok(());
    }
    match docker.shared.engine.read_file(&instance.engine_id, &format!("{INSIDE}/{MARKER}")) {
        Ok(text) if text == word => Ok(()),
        Ok(_) => Err("it sees another folder".to_owned()),
        Err(e) if e.is_gone() => Err("it sees an empty folder".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn freeze(docker: &Docker, instance: &Instance) -> Freezing {
    let both = docker.freeze(instance).and_then(|()| docker.thaw(instance));
    let why = match (&instance.freezer, instance.pid) {
        (Some(_), _) => None,
        (None, Some(pid)) => Some(Freezer::find(pid, &instance.engine_id).err().map_or_else(String::new, |e| e.to_string())),
        (None, None) => Some("the engine names no process".to_owned()),
    };
    match (both, why) {
        (Ok(()), None) => Freezing::Direct,
        (Ok(()), Some(why)) => Freezing::Engine { why },
        (Err(e), _) => Freezing::Fails { why: e.to_string() },
    }
}

impl Engine {
    /// A small file, as the container has it.
    fn read_file(&self, id: &str, path: &str) -> Result<String, EngineError> {
        let target = format!("/containers/{}/archive?path={}", encode(id, false), encode(path, false));
        let answer = self.ask(&Ask::new(Op::ReadFile, id, "GET", target))?;
        let mut text = String::new();
        let read = tar::Archive::new(answer.body.as_slice()).entries().and_then(|mut entries| match entries.next() {
            Some(entry) => entry?.take(4096).read_to_string(&mut text).map(drop),
            None => Ok(()),
        });
        read.map_err(|e| EngineError::new(Op::ReadFile, id, super::Fault::Malformed { what: e.to_string() }))?;
        Ok(text)
    }
}
