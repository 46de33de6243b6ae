//! Images: is it there and may it be used, else pull it; load, list and remove
//! for the command line.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cleaner::Known;
use super::containers::{filters, passing};
use super::engine::{Ask, Engine, EngineError, Op, Version};
use super::launch_error;
use super::pull::{Pulls, progress, words};
use crate::call::LaunchError;
use crate::config::DockerConfig;
use crate::model::PullPolicy;
use crate::registry::{ImageName, Registries, encode};

/// An image seen this long ago is taken to be there still. A create that says
/// otherwise ends the belief at once.
const SEEN_FOR: Duration = Duration::from_secs(60);
/// Images remembered.
const MAX_SEEN: usize = 4096;
/// Where a function asks for a pull at every start: starts of one burst share
/// what the registry said this long ago.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// The engine's images.
#[derive(Debug)]
pub struct Images {
    pub(super) engine: Arc<Engine>,
    pulls: Pulls,
    allow_volume: bool,
    /// What the engine runs (`linux`, `amd64`); `None` = anything goes.
    platform: Option<(String, String)>,
    seen: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    /// When it was pulled, if it was by us.
    pulled: Option<Instant>,
    image: Known,
}

/// One row of the image list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageRow {
    pub id: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub size: i64,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    pub created: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(default)]
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    volumes: Option<HashMap<String, Value>>,
}

impl Images {
    pub(super) fn new(engine: Arc<Engine>, version: &Version, registries: Registries, config: &DockerConfig) -> Images {
        let platform = Some((version.os.clone(), version.arch.clone())).filter(|(os, arch)| !os.is_empty() && !arch.is_empty() && !config.any_platform);
        Images { pulls: Pulls::new(engine.clone(), registries), engine, allow_volume: config.allow_volume, platform, seen: Mutex::default() }
    }

    /// Returns when the image is there and may be used.
    ///
    /// # Errors
    /// The name is not one, the pull failed, took too long or is not wanted,
    /// the image declares volumes or is for other machines, or the engine does
    /// not answer.
    pub fn ensure(&self, image: &str, policy: PullPolicy, until: Instant) -> Result<(), LaunchError> {
        self.ensured(image, policy, until).map(drop)
    }

    /// Pulls, also if it is there: a tag may have moved.
    ///
    /// # Errors
    /// The name is not one, or the pull failed or took too long.
    pub fn refresh(&self, image: &str, until: Instant) -> Result<(), LaunchError> {
        let limit = until.saturating_duration_since(Instant::now());
        let name = ImageName::parse(image).map_err(|e| LaunchError::Pull { image: image.to_owned(), status: Some(400), text: e.to_string() })?;
        self.pulls.shared(&name, Instant::now(), until).map_err(|failure| failure.launch_error(image, limit))
    }

    /// The same; what is known of the image.
    pub(super) fn ensured(&self, image: &str, policy: PullPolicy, until: Instant) -> Result<Known, LaunchError> {
        let seen = self.seen.lock().get(image).cloned();
        let fresh = |seen: &Seen| match policy {
            PullPolicy::Always => seen.pulled.is_some_and(|at| at.elapsed() < FRESH_FOR),
            PullPolicy::IfMissing | PullPolicy::Never => seen.at.elapsed() < SEEN_FOR,
        };
        if let Some(seen) = seen.filter(fresh) {
            return Ok(seen.image);
        }
        let asked = Instant::now();
        let limit = until.saturating_duration_since(asked);
        let refused = |status, text: String| LaunchError::Pull { image: image.to_owned(), status, text };
        let name = ImageName::parse(image).map_err(|e| refused(Some(400), e.to_string()))?;
        let there = if policy == PullPolicy::Always { None } else { self.inspect(image)? };
        let (known, pulled) = match there {
            Some(known) => (known, None),
            None if policy == PullPolicy::Never => {
                return Err(refused(Some(404), "the engine does not have it, and hob/pull is \"never\": load it, or let hob pull".to_owned()));
            }
            None => {
                self.pulls.shared(&name, asked, until).map_err(|failure| failure.launch_error(image, limit))?;
                let known = self.inspect(image)?.ok_or_else(|| refused(None, "the pull succeeded, yet the image is not there".to_owned()))?;
                (known, Some(Instant::now()))
            }
        };
        let mut seen = self.seen.lock();
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        seen.insert(image.to_owned(), Seen { at: Instant::now(), pulled, image: known.clone() });
        Ok(known)
    }

    #[cfg(test)]
    pub(super) fn believe(&self, image: &str) {
        let known = Known { id: "sha256:0".to_owned(), tags: Vec::new(), bytes: 0 };
        self.seen.lock().insert(image.to_owned(), Seen { at: Instant::now(), pulled: None, image: known });
    }

    /// The engine says that the image is not there.
    pub(super) fn forget(&self, image: &str) {
        self.seen.lock().retain(|name, seen| name != image && seen.image.id != image && !seen.image.tags.iter().any(|t| t == image));
    }

    /// What is there; an error when it is and may not be used.
    fn inspect(&self, image: &str) -> Result<Option<Known>, LaunchError> {
        let ask = Ask::new(Op::InspectImage, image, "GET", format!("/images/{}/json", encode(image, true)));
        let found: Inspected = match self.engine.ask_until(&ask, passing).and_then(|answer| answer.json()) {
            Ok(found) => found,
            Err(e) if e.is_gone() => return Ok(None),
            Err(e) => return Err(launch_error(&e)),
        };
        let has_volume = found.config.and_then(|c| c.volumes).is_some_and(|v| !v.is_empty());
        if has_volume && !self.allow_volume {
            return Err(LaunchError::ImageVolume { image: image.to_owned() });
        }
        if let Some((os, arch)) = &self.platform
            && !runs_on(&found.os, &found.architecture, os, arch)
        {
            let (has, needs) = (format!("{}/{}", found.os, found.architecture), format!("{os}/{arch}"));
            return Err(LaunchError::ImagePlatform { image: image.to_owned(), has, needs });
        }
        Ok(Some(Known::from(ImageRow { id: found.id, repo_tags: found.repo_tags, size: found.size, created: 0 })))
    }

    /// Loads a docker archive (`docker save`). Returns the engine's words on
    /// what was loaded.
    ///
    /// # Errors
    /// Not an archive, or the engine failed.
    pub fn load(&self, tar: &mut dyn Read) -> Result<Vec<String>, EngineError> {
        let ask = Ask::new(Op::LoadImage, "archive", "POST", "/images/load?quiet=1".to_owned());
        let mut stream = self.engine.open(&ask, None, tar)?;
        let mut said = Vec::new();
        while let Some(line) = stream.line()? {
            said.extend(words(&progress(Op::LoadImage, "archive", &line)?));
        }
        Ok(said)
    }

    /// # Errors
    /// The engine failed.
    pub fn list(&self) -> Result<Vec<ImageRow>, EngineError> {
        self.engine.ask_until(&Ask::new(Op::ListImages, "images", "GET", "/images/json".to_owned()), passing)?.json()
    }

    /// Whether any container, running or not, was made of it.
    pub(super) fn has_containers(&self, id: &str) -> Result<bool, EngineError> {
        let target = format!("/containers/json?all=1&limit=1&filters={}", filters(&json!({ "ancestor": [id] })));
        let rows: Vec<Value> = self.engine.ask_until(&Ask::new(Op::List, id, "GET", target), passing)?.json()?;
        Ok(!rows.is_empty())
    }

    /// Removes a tag, or the image when it was the last; false if there is none.
    ///
    /// # Errors
    /// It is in use, or the engine failed.
    pub fn remove(&self, image: &str) -> Result<bool, EngineError> {
        self.forget(image);
        match self.engine.ask(&Ask::new(Op::RemoveImage, image, "DELETE", format!("/images/{}", encode(image, true)))) {
            Ok(_) => Ok(true),
            Err(e) if e.is_gone() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Whether an image's programs run on the engine's machine. What does not say
/// is let through: its start will tell.
fn runs_on(image_os: &str, image_arch: &str, os: &str, arch: &str) -> bool {
    // Machines that run programs of their smaller sisters too.
    let sister = matches!((image_arch, arch), ("386", "amd64") | ("arm", "arm64"));
    (image_os.is_empty() || image_os == os) && (image_arch.is_empty() || image_arch == arch || sister)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        for (os, arch) in [("linux", "amd64"), ("", ""), ("linux", "386")] {
            assert!(runs_on(os, arch, "linux", "amd64"), "{os}/{arch}");
        }
        for (os, arch) in [("linux", "arm64"), ("windows", "amd64"), ("linux", "arm")] {
            assert!(!runs_on(os, arch, "linux", "amd64"), "{os}/{arch}");
        }
    }
}
