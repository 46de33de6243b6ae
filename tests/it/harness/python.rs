//! Functions on the official Python FDK, in images that `tools/python-image`
//! makes from Debian's packages and PyPI's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hob::pool::Stop;
use hob::sandbox::images::{Images, Options};
use sha2::{Digest, Sha256};

use super::{Server, engine, sandbox};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A name for each content.
fn fingerprint(folder: &str) -> String {
    let mut sum = Sha256::new();
    for file in ["tools/python-image", "functions/hello-python/requirements.txt", &format!("{folder}/func.py")] {
        sum.update(fs::read(root().join(file)).unwrap_or_default());
    }
    sum.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect()
}

/// Making the first one needs root and debootstrap; where they are not
/// promised (`CI=true`) that is said and the test skipped.
fn can_make() -> bool {
    let has = |name: &str| ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(name).exists());
    let can = rustix::process::geteuid().is_root() && has("debootstrap") && has("python3");
    if !can {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "images of Python functions need root, debootstrap and python3, and CI=true promises them");
        println!("SKIPPED: no root or no debootstrap for an image with Python");
    }
    can
}

/// The saved image of this name; `function` is a folder below `functions`, or
/// nothing for the base.
fn archive(name: &str, function: Option<&str>) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-image");
    let file = cache.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    if file.exists() {
        return Some(file);
    }
    if !can_make() {
        return None;
    }
    fs::create_dir_all(&cache).expect("a folder");
    // Debian's own: what others call python3 may lack what a venv needs.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(root().join("tools/python-image")).args(["--name", name, "--out"]).arg(&file).arg("--cache").arg(&cache);
    if let Some(function) = function {
        command.arg("--function").arg(root().join("functions").join(function));
    }
    let made = command.output().expect("python3 runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(file)
}

/// Puts the image where this server finds it.
fn install(server: &Server, name: &str, function: Option<&str>) -> Option<()> {
    if !sandbox::chosen() && engine::has_image(name) {
        return Some(());
    }
    let archive = archive(name, function)?;
    if sandbox::chosen() {
        let images = Images::open(&server.folder.path.join("data/images"), Options::default()).expect("the store opens");
        let stop = Stop::new().expect("a descriptor");
        images.load(&mut File::open(archive).expect("saved"), None, Instant::now() + Duration::from_secs(120), &stop).expect("the image is loaded");
    } else {
        let loaded = engine::ask("POST", "/images/load?quiet=1", &fs::read(archive).expect("saved")).expect("the engine loads");
        assert!(loaded.status == 200 && !loaded.text().contains("error"), "load of {name}: {loaded:?}");
    }
    Some(())
}

/// The image of a Python function in a folder below `functions`.
pub(crate) fn image(server: &Server, function: &str) -> Option<String> {
    let name = format!("hob-test/{function}:{}", fingerprint(&format!("functions/{function}")));
    install(server, &name, Some(function)).map(|()| name)
}

/// The image that Dockerfiles of Python functions name.
pub(crate) fn base(server: &Server) -> Option<String> {
    let name = "hob/python:3".to_owned();
    install(server, &name, None).map(|()| name)
}
