//! Images without an engine: a store in the data folder, filled from saved
//! images and from registries, unpacked once into read-only roots.
//!
//! Several processes may use one store at once (`hob serve`, `hob image load`):
//! `store` says how. What an archive may do to this machine is bounded by
//! `limits` and kept inside by `tree`.

mod client;
mod digest;
mod document;
mod error;
mod flights;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod layer;
mod limits;
mod load;
mod pull;
mod stack;
mod store;
mod tar;
mod tree;
mod wait;

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

pub use digest::{Digest, Hashing};
pub use document::{ImageConfig, architecture};
pub use error::{ImageError, OpenError};
pub use limits::Limits;
pub use load::Loaded;
pub use stack::Change;
pub use store::{Reference, Swept};

use crate::config::{DockerConfig, SandboxConfig};
use crate::pool::Stop;
use crate::registry::{ImageName, Registries};
use client::Client;
use document::{Document, Manifest};
use error::io_at;
use flights::Flights;
use layer::Allowance;
use pull::Puller;
use store::{Hold, Store};
use tree::{Owners, Tree};
use wait::Until;

/// Whether an image that is not in the store may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// If it is not there.
    Missing,
    Never,
    /// The registry is asked even if it is there: a tag may have moved.
    Always,
}

/// How a store behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub limits: Limits,
    /// Added to every owner of every file, where owners can be set at all.
    pub owner_shift: u32,
    /// Credentials of registries.
    pub registries: Registries,
    /// Registries (host and port) that may do without TLS or with a certificate
    /// nobody vouches for. Those on loopback always may do without.
    pub insecure: Vec<String>,
}

impl Options {
    /// As the settings say.
    ///
    /// # Errors
    /// The credentials given as text are none.
    pub fn of(config: &SandboxConfig, credentials: &DockerConfig) -> Result<Options, OpenError> {
        Ok(Options {
            limits: Limits { bytes: config.image_max_bytes, ..Limits::default() },
            owner_shift: 0,
            registries: Registries::load(credentials.auth.as_deref(), &credentials.auth_files)?,
            insecure: config.insecure_registries.clone(),
        })
    }
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// From 1.
    pub layer: usize,
    pub layers: usize,
    /// Bytes of all layers.
    pub done: u64,
    pub total: u64,
}

/// The images on this machine.
#[derive(Debug)]
pub struct Images {
    store: Store,
    options: Options,
    flights: Flights,
    /// Unpacked images in use by this process.
    held: Mutex<HashMap<String, Weak<Held>>>,
}

#[derive(Debug)]
struct Held {
    hold: Hold,
    config: ImageConfig,
}

/// An image's files, unpacked. They stay as long as this lives, whatever
/// other processes remove.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// Absolute. To be mounted read-only: other containers share it.
    pub path: PathBuf,
    pub config: ImageConfig,
    /// Digest of the configuration.
    pub id: String,
    _held: Arc<Held>,
}

/// Root's own number.
const ROOT: u32 = 0;

impl Images {
    /// Opens the store in `folder`, makes it if it is not there, and removes
    /// what killed processes left unfinished.
    ///
    /// # Errors
    /// The folder can't be used, or a newer hob wrote it.
    pub fn open(folder: &Path, options: Options) -> Result<Images, OpenError> {
        Ok(Images { store: Store::open(folder)?, options, flights: Flights::default(), held: Mutex::default() })
    }

    /// The files of image `name`, fetched if allowed, unpacked if they are not.
    ///
    /// # Errors
    /// There is none, it can't be fetched or unpacked, the time is up, or the
    /// stop fired.
    pub fn ensure(&self, name: &str, policy: Pull, until: Instant, stop: &Stop) -> Result<Rootfs, ImageError> {
        self.fetch(name, policy, until, stop, &|_| {})
    }

    /// As `ensure`, telling how far the transfer is.
    ///
    /// # Errors
    /// The same.
    pub fn fetch(&self, name: &str, policy: Pull, until: Instant, stop: &Stop, progress: &(dyn Fn(Progress) + Sync)) -> Result<Rootfs, ImageError> {
        let until = Until { deadline: until, stop };
        let name = ImageName::parse(name)?;
        let key = full_name(&name);
        if policy != Pull::Always
            && let Some(reference) = self.store.reference(&key)?
        {
            return self.rootfs(&reference, &until);
        }
        if policy == Pull::Never {
            return Err(ImageError::NotFound {
                image: name.to_string(),
                why: " in the store, and hob/pull says never: load it with `hob image load` or pull it with `hob image pull`".to_owned(),
            });
        }
        self.flights.once(&format!("pull {key}"), &until, || self.pull(&name, &key, policy, &until, progress))?;
        match self.store.reference(&key)? {
            Some(reference) => self.rootfs(&reference, &until),
            None => Err(ImageError::NotFound { image: name.to_string(), why: ": it was removed meanwhile".to_owned() }),
        }
    }

    fn pull(&self, name: &ImageName, key: &str, policy: Pull, until: &Until<'_>, progress: &(dyn Fn(Progress) + Sync)) -> Result<(), ImageError> {
        let _session = self.store.session(until)?;
        let _alone = self.store.alone("name", key, until)?;
        if policy == Pull::Missing && self.store.reference(key)?.is_some() {
            return Ok(());
        }
        log::info!("pulling image {name}");
        let begun = Instant::now();
        // Asked now: a helper's answer holds for a short time only.
        let shown = self.options.registries.show(name, until.deadline, until.stop);
        let client = Client::new(name, shown.credentials, &self.options.insecure, *until);
        let puller = Puller { store: &self.store, limits: &self.options.limits, client, image: name, until: *until, progress };
        let reference = puller.pull().map_err(|e| e.advise(shown.trouble))?;
        // Unpacked before it has its name: a hostile one is never called.
        self.rootfs(&reference, until)?;
        self.store.set_reference(&reference)?;
        log::info!("pulled image {name} in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Loads a saved image: a docker archive or an OCI layout, plain or
    /// compressed. `name` is for archives that do not name their image.
    ///
    /// # Errors
    /// It is no such archive, of another machine, hostile or too big.
    pub fn load(&self, archive: &mut dyn Read, name: Option<&str>, until: Instant, stop: &Stop) -> Result<Vec<Loaded>, ImageError> {
        let until = Until { deadline: until, stop };
        let name = name.map(ImageName::parse).transpose()?;
        let loaded = self.load_whole(archive, name.as_ref(), &until);
        if loaded.is_err() {
            // What came of a bad archive goes at once, if nobody else adds.
            let _ = self.prune();
        }
        loaded
    }

    fn load_whole(&self, archive: &mut dyn Read, name: Option<&ImageName>, until: &Until<'_>) -> Result<Vec<Loaded>, ImageError> {
        let _session = self.store.session(until)?;
        let references = load::load(&self.store, &self.options.limits, archive, name, until)?;
        // All are unpacked before any has its name: a bad one is never called.
        for reference in &references {
            self.rootfs(reference, until)?;
        }
        for reference in &references {
            self.store.set_reference(reference)?;
        }
        Ok(references.into_iter().map(|r| Loaded { name: r.name, id: r.config }).collect())
    }

    /// Every name, in order.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn list(&self) -> Result<Vec<Reference>, ImageError> {
        self.store.references()
    }

    /// What `name` stands for now.
    ///
    /// # Errors
    /// It is no name, or the store can't be read.
    pub fn find(&self, name: &str) -> Result<Option<Reference>, ImageError> {
        self.store.reference(&full_name(&ImageName::parse(name)?))
    }

    /// Takes the name away, and what no other name needs; what a running
    /// function uses stays for the next `prune`. False if there is none.
    ///
    /// # Errors
    /// It is no name, or the store can't be written.
    pub fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let removed = self.store.remove_reference(&full_name(&ImageName::parse(name)?))?;
        if removed {
            self.prune()?;
        }
        Ok(removed)
    }

    /// Removes what no name needs: blobs, unpacked images that nobody uses,
    /// transfers that were cut.
    ///
    /// # Errors
    /// The store can't be read or written.
    pub fn prune(&self) -> Result<Swept, ImageError> {
        self.store.sweep(&self.options.limits, |config| Digest::parse(config).ok().map(|d| self.root_key(&d)))
    }

    fn owners(&self) -> Owners {
        if rustix::process::geteuid().as_raw() == ROOT { Owners::Image { shift: self.options.owner_shift } } else { Owners::Ours }
    }

    /// Images unpacked for other owners are other images.
    fn root_key(&self, id: &Digest) -> String {
        match self.owners() {
            Owners::Image { shift: 0 } => id.hex().to_owned(),
            Owners::Image { shift } => format!("{}-{shift}", id.hex()),
            Owners::Ours => format!("{}-u{}", id.hex(), rustix::process::geteuid().as_raw()),
        }
    }

    fn rootfs(&self, reference: &Reference, until: &Until<'_>) -> Result<Rootfs, ImageError> {
        let id = Digest::parse(&reference.config)?;
        let key = self.root_key(&id);
        let held = match self.held(&key) {
            Some(held) => held,
            None => self.unpacked(reference, &id, &key, until)?,
        };
        Ok(Rootfs { path: held.hold.rootfs.clone(), config: held.config.clone(), id: id.to_string(), _held: held })
    }

    fn held(&self, key: &str) -> Option<Arc<Held>> {
        self.held.lock().get(key).and_then(Weak::upgrade)
    }

    fn unpacked(&self, reference: &Reference, id: &Digest, key: &str, until: &Until<'_>) -> Result<Arc<Held>, ImageError> {
        let limits = &self.options.limits;
        let settled = document::settle(&reference.name, &self.store.document(id, limits)?)?;
        let hold = match self.store.hold(key, until)? {
            Some(hold) => hold,
            None => {
                self.flights.once(&format!("unpack {key}"), until, || self.unpack(reference, &settled.diff_ids, key, until))?;
                self.store
                    .hold(key, until)?
                    .ok_or_else(|| ImageError::NotFound { image: reference.name.clone(), why: ": it was removed meanwhile".to_owned() })?
            }
        };
        let held = Arc::new(Held { hold, config: settled.config });
        let mut all = self.held.lock();
        all.retain(|_, weak| weak.strong_count() > 0);
        all.insert(key.to_owned(), Arc::downgrade(&held));
        Ok(held)
    }

    /// Unpacks all layers into a new root, unless another process just has.
    fn unpack(&self, reference: &Reference, diff_ids: &[Digest], key: &str, until: &Until<'_>) -> Result<(), ImageError> {
        let _session = self.store.session(until)?;
        let _alone = self.store.alone("root", key, until)?;
        if self.store.hold(key, until)?.is_some() {
            return Ok(());
        }
        let begun = Instant::now();
        let limits = &self.options.limits;
        let manifest = self.manifest(reference)?;
        if manifest.layers.len() != diff_ids.len() {
            let text = format!("{} layers, and {} in its configuration", manifest.layers.len(), diff_ids.len());
            return Err(ImageError::Malformed { what: format!("image {}", reference.name), text });
        }
        let temp = self.store.temp_folder()?;
        let mut tree = Tree::new(new_folder(&temp.path.join("rootfs"))?, self.owners(), limits.depth);
        let mut allowance = Allowance::new(limits);
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let digest = layer.digest()?;
            let applied = layer::apply(self.store.open_blob(&digest)?, &mut tree, &mut allowance, until);
            let wrong = match applied {
                Ok(got) if got == diff_id.as_str() => continue,
                Ok(got) => ImageError::WrongDigest { what: format!("a layer of {}", reference.name), want: diff_id.to_string(), got },
                Err(e) => e,
            };
            self.store.drop_if_rotten(&digest);
            return Err(wrong);
        }
        let left_out = tree.finish()?;
        drop(self.store.keep_root(temp, key, until)?);
        log::info!("unpacked image {} in {:.1} s", reference.name, begun.elapsed().as_secs_f64());
        if left_out != tree::LeftOut::default() {
            log::info!("  left out: {} devices and fifos, {} extended attributes, {} setuid bits", left_out.nodes, left_out.xattrs, left_out.setuid);
        }
        Ok(())
    }

    fn manifest(&self, reference: &Reference) -> Result<Manifest, ImageError> {
        let bytes = self.store.document(&Digest::parse(&reference.manifest)?, &self.options.limits)?;
        match document::parse(&bytes, &self.options.limits)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ImageError::Malformed { what: format!("image {}", reference.name), text: "an index lies in its place".to_owned() }),
        }
    }
}

/// An empty folder, open.
fn new_folder(path: &Path) -> Result<OwnedFd, ImageError> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)).map_err(io_at("make", path))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(io_at("open", path))
}

/// With the registry that a bare name means.
fn full_name(name: &ImageName) -> String {
    let registry = match name.registry.as_str() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    let repository = if registry == "docker.io" && !name.repository.contains('/') { format!("library/{}", name.repository) } else { name.repository.clone() };
    let separator = if name.reference.contains(':') { '@' } else { ':' };
    format!("{registry}/{repository}{separator}{}", name.reference)
}

#[cfg(test)]
mod tests;
