//! What the tests of this room share.

pub(super) mod fake;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

use super::{Engine, Identity, open_images};
use crate::call::Exit;
use crate::config::{DockerConfig, Raw};
use crate::driver::{ContainerSpec, ExitSink};

pub(super) fn config() -> DockerConfig {
    // Parked networks have tests of their own; the others count containers.
    DockerConfig { parked_networks: 0, ..Raw::default().parse().expect("defaults are valid").docker }
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
        pull: crate::model::PullPolicy::IfMissing,
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
        let until = Instant::now() + Duration::from_secs(120);
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

/// The address of an engine that answers. When none does the test is skipped,
/// except where CI promised one.
pub(super) fn engine() -> Option<Engine> {
    let mut engine = Engine::new(&config().host).expect("address");
    match engine.negotiate() {
        Ok(_) => Some(engine),
        Err(e) => {
            #[allow(clippy::disallowed_methods, reason = "a test asks where it runs")]
            let promised = std::env::var("CI").is_ok_and(|v| v == "true");
            assert!(!promised, "no engine: {e}");
            println!("SKIPPED: {e}");
            None
        }
    }
}

/// The test image, shared by the tests that run at the same time; removed
/// with the last of them.
pub(super) struct TestImage {
    pub(super) name: String,
}

static IMAGES: Mutex<Vec<(bool, Weak<TestImage>)>> = Mutex::new(Vec::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The image whose entry point is `prog.rs`; with a VOLUME on request.
pub(super) fn image(volume: bool) -> Arc<TestImage> {
    let mut images = IMAGES.lock();
    images.retain(|(_, weak)| weak.strong_count() != 0);
    if let Some(image) = images.iter().find(|(v, _)| *v == volume).and_then(|(_, weak)| weak.upgrade()) {
        return image;
    }
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    let name = format!("hob-docker-test-{}-{n}:1", std::process::id());
    open_images(&config()).expect("engine").load(&mut archive(&name, volume).as_slice()).expect("loads");
    let image = Arc::new(TestImage { name });
    images.push((volume, Arc::downgrade(&image)));
    image
}

/// Loads the program under a name of the caller's.
pub(super) fn load(name: &str) -> String {
    load_through(&config(), name)
}

pub(super) fn load_through(config: &DockerConfig, name: &str) -> String {
    open_images(config).expect("engine").load(&mut archive(name, false).as_slice()).expect("loads");
    name.to_owned()
}

impl Drop for TestImage {
    fn drop(&mut self) {
        if let Ok(images) = open_images(&config()) {
            let _ = images.remove(&self.name);
        }
    }
}

/// A docker archive of one layer that holds one static program.
fn archive(name: &str, volume: bool) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "prog", program());
    let layer = layer.into_inner().expect("memory");
    let digest: String = Sha256::digest(&layer).iter().map(|b| format!("{b:02x}")).collect();
    let volumes = if volume { serde_json::json!({"/data": {}}) } else { serde_json::Value::Null };
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/prog"], "Env": ["PATH=/"], "Volumes": volumes},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        // Its own id: who removes one by name must not meet another test's.
        "history": [{"created": "2026-01-01T00:00:00Z", "comment": name}],
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut all = tar::Builder::new(Vec::new());
    append(&mut all, "layer.tar", &layer);
    append(&mut all, "config.json", config.to_string().as_bytes());
    append(&mut all, "manifest.json", manifest.to_string().as_bytes());
    all.into_inner().expect("memory")
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, path, bytes).expect("memory");
}

/// `prog.rs`, compiled once, statically: the image holds nothing else.
fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Folder::new();
        let (source, out) = (folder.path.join("prog.rs"), folder.path.join("prog"));
        std::fs::write(&source, include_str!("prog.rs")).expect("write");
        let status = std::process::Command::new("rustc")
            .args(["-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols", "--edition=2024", "-o"])
            .arg(&out)
            .arg(&source)
            .status()
            .expect("rustc runs");
        assert!(status.success(), "the test program compiles");
        std::fs::read(&out).expect("read")
    })
}

/// A folder in the system's temporary one, open to every user.
pub(super) struct Folder {
    pub(super) path: PathBuf,
}

impl Folder {
    pub(super) fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("hob-docker-{}", crate::model::Id::new()));
        std::fs::create_dir(&path).expect("folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("mode");
        Folder { path }
    }

    /// Waits until the file is there, and reads it.
    pub(super) fn read(&self, name: &str) -> String {
        wait_until(name, || std::fs::read_to_string(self.path.join(name)).ok())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Looks every few ms until there is something, at most 20 s.
pub(super) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(120);
    let idle = (Mutex::new(()), Condvar::new());
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        idle.1.wait_for(&mut idle.0.lock(), Duration::from_millis(3));
    }
}
