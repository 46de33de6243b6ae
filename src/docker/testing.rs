//! What the tests of this room share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Identity;
use crate::call::Exit;
use crate::config::{DockerConfig, Raw};
use crate::driver::{ContainerSpec, ExitSink};

pub(super) fn config() -> DockerConfig {
    Raw::default().parse().expect("defaults are valid").docker
}

pub(super) fn identity(store: &str, instance: &str) -> Identity {
    Identity { store_id: store.parse().expect("id"), instance_id: instance.parse().expect("id"), iofs: PathBuf::from("/iofs"), iofs_docker: None }
}

pub(super) fn spec(id: &str, image: &str, iofs: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.to_owned(),
        image: image.to_owned(),
        env: vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())],
        memory_mib: 128,
        cpu_milli: 500,
        tmpfs_mib: 16,
        iofs: PathBuf::from(iofs),
        syslog_url: None,
        app_id: "app".to_owned(),
        fn_id: "fn".to_owned(),
        no_network: false,
    }
}

/// A sink that remembers.
#[derive(Debug, Default)]
pub(super) struct Told {
    exits: Mutex<Vec<Exit>>,
    bell: Condvar,
}

impl Told {
    pub(super) fn new() -> Arc<Told> {
        Arc::new(Told::default())
    }

    pub(super) fn all(&self) -> Vec<Exit> {
        self.exits.lock().clone()
    }

    /// Waits for the first exit.
    pub(super) fn first(&self) -> Exit {
        let until = Instant::now() + Duration::from_secs(20);
        let mut exits = self.exits.lock();
        while exits.is_empty() {
            assert!(!self.bell.wait_until(&mut exits, until).timed_out(), "no exit was told");
        }
        exits[0]
    }
}

impl ExitSink for Told {
    fn exited(&self, exit: Exit) {
        self.exits.lock().push(exit);
        self.bell.notify_all();
    }
}
