//! Whether the engine sees what this process has mounted: it may live in another
//! mount namespace, or on another host.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::create::{IofsError, NO_NETWORK, iofs_source};
use super::engine::EngineError;
use super::{Shared, parked};
use crate::model::Id;

/// Create or removal of the one container, which is never started.
const WITHIN: Duration = Duration::from_secs(10);

/// The engine could not be asked.
#[derive(Debug, thiserror::Error)]
enum Blind {
    #[error(transparent)]
    Path(#[from] IofsError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the image for the trial cannot be loaded: {0}")]
    Image(String),
}

impl Shared {
    /// Whether the engine sees `folder`. A container that is to have it bound
    /// is created: unlike a bind of the other kind, a mount is refused when
    /// there is nothing at its source.
    pub(super) fn sees(&self, folder: &Path) -> bool {
        match self.look_at(folder) {
            Ok(()) => true,
            Err(e) => {
                log::debug!("the engine does not see {}: {e}", folder.display());
                false
            }
        }
    }

    fn look_at(&self, folder: &Path) -> Result<(), Blind> {
        let source = iofs_source(folder, &self.identity.iofs, self.engine_iofs.as_deref())?;
        let image = parked::image_for(&self.architecture).ok_or_else(|| Blind::Image(format!("no program for '{}'", self.architecture)))?;
        let body = json!({
            "Image": image,
            "Labels": self.labels(),
            "HostConfig": {
                "NetworkMode": NO_NETWORK,
                "Mounts": [{"Type": "bind", "Source": source, "Target": "/seen", "ReadOnly": true}],
            },
        });
        let name = format!("hob-sight-{}", Id::new());
        let created = match self.engine.create(&name, &body, WITHIN) {
            Err(e) if e.is_gone() && e.message().to_lowercase().contains("no such image") => {
                parked::load_for(&self.images, &self.architecture).map_err(Blind::Image)?;
                self.engine.create(&name, &body, WITHIN)
            }
            done => done,
        };
        if let Err(e) = self.engine.remove(&name, WITHIN) {
            log::debug!("{e}");
            self.discard(&name, false);
        }
        created?;
        Ok(())
    }
}
