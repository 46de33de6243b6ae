//! The docker driver: containers made by a Docker Engine, or by Podman through
//! its compatible socket.
//!
//! Owns: requests to the engine and their limits, create bodies, images and
//! their pulls, the event stream, removal of what failed starts left, the
//! choice of networks, networks made ready. Called by: `server` (open), `hot` through the `Driver`
//! trait, `cli` (images). Blocks on: the engine, each request with a limit
//! from the one table in `engine`; the event stream, ended by `close`.
//! Does not: know calls, queues, sockets of functions, or when to do what.

mod build;
mod circuit;
mod cleaner;
mod containers;
mod create;
mod discard;
mod engine;
mod events;
mod exits;
mod images;
mod launch;
mod networks;
mod parked;
mod probe;
mod pull;
mod sight;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_fake;
#[cfg(test)]
mod tests_parked;
mod transport;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;

pub use create::{IofsError, LABEL_INSTANCE, LABEL_STORE};
pub use engine::{AddressError, Engine, EngineError, Fault, Op, Version};
pub use images::{ImageRow, Images};
pub use parked::LABEL_PARKED;
pub use probe::{Facts, Freezing, Trial, facts, trial};

use crate::call::LaunchError;
use crate::config::DockerConfig;
use crate::driver::{ContainerSpec, Driver, DriverError, ExitSink, Health, Instance, StartBudget, Usage};
use crate::model::{Id, ImageAllow};
use crate::pool::{Permits, SpawnError, Thread, spawn};
use crate::registry::{AuthError, Registries, encode};
use circuit::Pulse;
use cleaner::{Cleaner, Cleaning};
use containers::passing;
use create::{Host, iofs_source};
use discard::{Discard, Discarder, Leftovers};
use engine::{Ask, pair};
use events::Events;
use exits::Exits;
use launch::{Failed, launch_error};
use networks::Networks;
use parked::{Crew, Parked};

/// The oldest engine that has what create bodies ask for.
const OLDEST: (u32, u32) = (17, 10);
/// A removal asked for by the pool.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);
/// Leftovers removed at the same time.
const RECLAIM_THREADS: usize = 4;
/// The exit status told for a container that we killed.
const KILLED: i64 = 137;

/// Whose containers these are, and where their socket folders lie.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The store's id: the same over restarts of the server.
    pub store_id: Id,
    /// This process's id.
    pub instance_id: Id,
    /// Parent of the socket folders as this process sees it.
    pub iofs: PathBuf,
    /// The same as the engine sees it (`FN_IOFS_DOCKER_PATH`): a path on the
    /// engine's host or, without a slash, the name of a volume, whose place
    /// there is asked of the engine.
    pub iofs_docker: Option<String>,
}

/// The driver could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DockerOpenError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("docker version is too old. Required: 17.10.0-ce Found: {found}")]
    TooOld { found: String },
    #[error("FN_DOCKER_AUTH: {0}")]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Iofs(#[from] IofsError),
    #[error("volume '{volume}' (FN_IOFS_DOCKER_PATH) has no place on the engine's host")]
    Volume { volume: String },
    #[error("cannot read docker images from {}: {source}", path.display())]
    LoadFile { path: PathBuf, source: std::io::Error },
    #[error("cannot load docker images in {}: {source}", path.display())]
    Load { path: PathBuf, source: EngineError },
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// The driver.
#[derive(Debug)]
pub struct Docker {
    shared: Arc<Shared>,
    describe: String,
    /// All `None` once closed.
    events: Mutex<Option<Events>>,
    cleaning: Mutex<Option<Cleaning>>,
    crew: Mutex<Option<Crew>>,
    pulse: Mutex<Option<Pulse>>,
}

/// What the driver's own threads need too.
#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    images: Arc<Images>,
    allow: ImageAllow,
    /// With `FN_IMAGE_CLEAN_MAX_SIZE`.
    cleaner: Option<Arc<Cleaner>>,
    exits: Arc<Exits>,
    networks: Networks,
    parked: Parked,
    /// `None` once closed.
    discarder: Mutex<Option<Discarder>>,
    /// Starting is the engine's CPU time (namespaces, cgroups, runtime): beyond
    /// its CPUs more at once only bring the first one up later.
    starting: Permits,
    config: DockerConfig,
    identity: Identity,
    /// The engine's view of `identity.iofs`, where it differs.
    engine_iofs: Option<PathBuf>,
    /// The engine's word for its machine.
    architecture: String,
    host: Host,
    hostname: String,
}

/// `GET /info`, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Info {
    server_version: String,
    cgroup_version: String,
    /// Bytes.
    mem_total: u64,
    architecture: String,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    #[serde(default)]
    mountpoint: String,
}

/// Connects for the image commands only: no event thread, no labels.
///
/// # Errors
/// See [`DockerOpenError`].
pub fn open_images(config: &DockerConfig) -> Result<Images, DockerOpenError> {
    let mut engine = Engine::new(&config.host)?;
    let version = engine.negotiate()?;
    check_age(&version)?;
    let registries = Registries::load(config.auth.as_deref(), &config.auth_files)?;
    Ok(Images::new(Arc::new(engine), &version, registries, config))
}

fn check_age(version: &Version) -> Result<(), DockerOpenError> {
    // Podman counts its own versions; a version without numbers is a build of
    // somebody's own and is let through, as the original does.
    match pair(&version.version) {
        Some(found) if found < OLDEST && !version.is_podman() => Err(DockerOpenError::TooOld { found: version.version.clone() }),
        _ => Ok(()),
    }
}

impl Docker {
    /// Connects, checks the engine, loads `FN_DOCKER_LOAD_FILE`, starts the
    /// event thread.
    ///
    /// # Errors
    /// See [`DockerOpenError`]; nothing is left running.
    pub fn open(config: &DockerConfig, identity: &Identity) -> Result<Docker, DockerOpenError> {
        let mut engine = Engine::new(&config.host)?;
        let version = engine.negotiate()?;
        check_age(&version)?;
        let engine = Arc::new(engine);
        let info: Info = engine.ask(&Ask::new(Op::Info, engine.address(), "GET", "/info".to_owned()))?.json()?;
        for warning in info.warnings.iter().flatten() {
            log::info!("engine: {}", engine::clean(warning));
        }
        let engine_iofs = match identity.iofs_docker.as_deref() {
            None | Some("") => None,
            Some(path) if path.contains('/') => Some(PathBuf::from(path)),
            Some(volume) => Some(volume_place(&engine, volume)?),
        };
        // A parent that cannot be named is told now, not at the first call.
        iofs_source(&identity.iofs, &identity.iofs, engine_iofs.as_deref())?;
        let registries = Registries::load(config.auth.as_deref(), &config.auth_files)?;
        let images = Arc::new(Images::new(engine.clone(), &version, registries, config));
        if let Some(path) = &config.load_file {
            load_file(&images, path)?;
        }
        let kind = if version.is_podman() { "podman" } else { "docker" };
        let describe = format!("{kind} {} (API {}, cgroup v{}) at {}", info.server_version, version.api_version, info.cgroup_version, engine.address());
        let exits = Arc::new(Exits::default());
        // Podman makes its networks another way; nothing is known to be gained there.
        let park = if version.is_podman() { 0 } else { config.parked_networks };
        let discarder = Discarder::start(leftovers(&engine, &exits, identity))?;
        let cleaner = (config.clean_max_bytes > 0).then(|| {
            let exempt = config.clean_exempt.iter().cloned().chain(parked::image_for(&info.architecture));
            Arc::new(Cleaner::new(config.clean_max_bytes, exempt))
        });
        let shared = Arc::new(Shared {
            images,
            allow: ImageAllow::new(&config.image_allow),
            cleaner,
            exits: exits.clone(),
            networks: Networks::new(config.networks.clone()),
            parked: Parked::new(&config.networks, park, info.mem_total, &info.architecture),
            discarder: Mutex::new(Some(discarder)),
            starting: Permits::new(config.parallel_starts),
            config: config.clone(),
            identity: identity.clone(),
            engine_iofs,
            architecture: info.architecture.clone(),
            // Engines before 20.10 do not say: version 1.
            host: Host { swappiness: info.cgroup_version != "2" },
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            engine: engine.clone(),
        });
        let events = Events::start(engine, exits, identity.store_id.to_string(), version.is_podman())?;
        let cleaning = shared.cleaner.as_ref().map(|cleaner| cleaner.start(shared.images.clone())).transpose()?;
        let docker =
            Docker { shared, describe, events: Mutex::new(Some(events)), cleaning: Mutex::new(cleaning), crew: Mutex::new(None), pulse: Mutex::new(None) };
        *docker.pulse.lock() = Some(Pulse::start(docker.shared.engine.clone())?);
        // Last: whatever fails before leaves no container.
        *docker.crew.lock() = Crew::start(&docker.shared)?;
        Ok(docker)
    }

    /// The engine's images.
    pub fn images(&self) -> &Images {
        &self.shared.images
    }
}

impl Driver for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn describe(&self) -> String {
        self.describe.clone()
    }

    /// The engine does: its log driver (`create`).
    fn sends_syslog(&self) -> bool {
        true
    }

    fn start(&self, spec: &ContainerSpec, budget: &StartBudget, exit: Arc<dyn ExitSink>) -> Result<Instance, LaunchError> {
        if !self.shared.allow.allows(&spec.image) {
            return Err(LaunchError::ImageForbidden { image: spec.image.clone() });
        }
        match self.start_once(spec, true, budget, exit.clone()) {
            Err(Failed { alone: true, error }) => {
                log::warn!("container {}: starts again with a network of its own: {error}", spec.id);
                self.start_once(spec, false, budget, exit)
            }
            done => done,
        }
        .map_err(|failed| failed.error)
    }

    fn freeze(&self, instance: &Instance) -> Result<(), DriverError> {
        match &instance.freezer {
            Some(freezer) => freezer.freeze().map_err(|e| DriverError { verb: "freeze", id: instance.id.clone(), text: e.to_string(), begun: true }),
            None => self.shared.engine.pause_container(&instance.engine_id).map_err(|e| failed("freeze", instance, &e)),
        }
    }

    fn thaw(&self, instance: &Instance) -> Result<(), DriverError> {
        match &instance.freezer {
            Some(freezer) => freezer.thaw().map_err(|e| DriverError { verb: "thaw", id: instance.id.clone(), text: e.to_string(), begun: true }),
            None => self.shared.engine.unpause_container(&instance.engine_id).map_err(|e| failed("thaw", instance, &e)),
        }
    }

    fn remove(&self, instance: &Instance) -> Result<(), DriverError> {
        let shared = &*self.shared;
        shared.exits.note_removal(&instance.engine_id);
        if let Some(freezer) = &instance.freezer {
            // A frozen process cannot be killed. Fails when it has ended.
            let _ = freezer.thaw();
        }
        let removed = shared.engine.remove(&instance.engine_id, REMOVE_WITHIN);
        shared.release(&instance.id);
        match removed {
            Ok(()) => {
                // The event may still be on its way; it will find nobody left.
                shared.exits.ended(&instance.engine_id, KILLED, false);
                Ok(())
            }
            Err(e) => {
                shared.discard(&instance.engine_id, true);
                Err(failed("remove", instance, &e))
            }
        }
    }

    fn reclaim(&self) -> Result<usize, DriverError> {
        let shared = &self.shared;
        let store = shared.identity.store_id.to_string();
        let trouble = |text: String| DriverError { verb: "reclaim", id: store.clone(), text, begun: true };
        let leftovers = Arc::new(leftovers(&shared.engine, &shared.exits, &shared.identity));
        let left = leftovers.of_others().map_err(|e| trouble(e.to_string()))?;
        let (count, left) = (left.len(), Arc::new(Mutex::new(left)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let workers: Vec<Thread> = (0..RECLAIM_THREADS.min(count))
            .map(|n| {
                let (leftovers, left, failures) = (leftovers.clone(), left.clone(), failures.clone());
                spawn(format!("docker-reclaim-{n}"), move || {
                    loop {
                        // Taken in a statement of its own: no lock while it is removed.
                        let next = left.lock().pop();
                        let Some(container) = next else { return };
                        if let Err(e) = leftovers.remove(&container) {
                            failures.lock().push(e.to_string());
                        }
                    }
                })
            })
            .collect::<Result<_, _>>()
            .map_err(|e| trouble(e.to_string()))?;
        workers.into_iter().for_each(Thread::join);
        let failures = failures.lock();
        if let Some(discarder) = shared.discarder.lock().as_ref() {
            discarder.look_again();
        }
        if failures.is_empty() { Ok(count) } else { Err(trouble(failures.join("; "))) }
    }

    fn sees(&self, folder: &Path) -> bool {
        self.shared.sees(folder)
    }

    fn usage(&self, engine_id: &str, limit: Duration) -> Option<Usage> {
        let engine = &self.shared.engine;
        if engine.circuit.health() != Health::Good {
            return None;
        }
        engine.usage(engine_id, limit).inspect_err(|e| log::debug!("{e}")).ok()
    }

    fn health(&self) -> Health {
        self.shared.engine.circuit.health()
    }

    fn call_off(&self) {
        self.shared.engine.call_off.fire();
        // In good time: it goes on beside the removal of the functions'.
        self.shared.parked.close();
    }

    fn close(&self) {
        let crew = self.crew.lock().take();
        if let Some(crew) = crew {
            crew.join(&self.shared);
        }
        // Before the engine's stop: it still needs the engine's patience.
        let discarder = self.shared.discarder.lock().take();
        if let Some(discarder) = discarder {
            discarder.join();
        }
        self.shared.engine.stop.fire();
        let pulse = self.pulse.lock().take();
        if let Some(pulse) = pulse {
            pulse.join(&self.shared.engine);
        }
        let cleaning = self.cleaning.lock().take();
        if let Some(cleaning) = cleaning {
            cleaning.join();
        }
        let events = self.events.lock().take();
        if let Some(events) = events {
            events.join();
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Hands a container to the thread that removes what nobody owns.
    fn discard(&self, container: &str, exists: bool) {
        match &*self.discarder.lock() {
            Some(discarder) => discarder.take(Discard { container: container.to_owned(), exists }),
            None => log::error!("container {container} is left behind: the driver is closed; the next start removes it"),
        }
    }

    /// The container of that name is gone, or on its way: so is its share of
    /// the networks.
    fn release(&self, name: &str) {
        self.networks.release(name);
        self.parked.release(name);
        if let Some(cleaner) = &self.cleaner {
            cleaner.released(name);
        }
    }

    /// What every container of this process bears.
    fn labels(&self) -> serde_json::Map<String, serde_json::Value> {
        create::labels(&self.identity, self.config.label_tag.as_deref()).map(|(key, value)| (key, value.into())).collect()
    }
}

fn failed(verb: &'static str, instance: &Instance, error: &EngineError) -> DriverError {
    let begun = !matches!(error.fault, Fault::Away { .. });
    DriverError { verb, id: instance.id.clone(), text: error.to_string(), begun }
}

fn leftovers(engine: &Arc<Engine>, exits: &Arc<Exits>, identity: &Identity) -> Leftovers {
    Leftovers { engine: engine.clone(), exits: exits.clone(), store: identity.store_id.to_string(), instance: identity.instance_id.to_string() }
}

/// Where a volume lies on the engine's host. (Mounting a folder inside a
/// volume needs API 1.45; its path there works with every engine.)
fn volume_place(engine: &Engine, volume: &str) -> Result<PathBuf, DockerOpenError> {
    let found: Volume = engine.ask_until(&Ask::new(Op::InspectVolume, volume, "GET", format!("/volumes/{}", encode(volume, false))), passing)?.json()?;
    if found.mountpoint.starts_with('/') { Ok(PathBuf::from(found.mountpoint)) } else { Err(DockerOpenError::Volume { volume: volume.to_owned() }) }
}

fn load_file(images: &Images, path: &Path) -> Result<(), DockerOpenError> {
    let mut file = File::open(path).map_err(|source| DockerOpenError::LoadFile { path: path.to_owned(), source })?;
    let words = images.load(&mut file).map_err(|source| DockerOpenError::Load { path: path.to_owned(), source })?;
    log::info!("{}: {}", path.display(), words.join("; "));
    Ok(())
}
