//! The folders functions put their sockets in: one per container, world
//! writable, bound to /tmp/iofs inside it.
//!
//! Owns: making, holding and removing them, each with a tmpfs of its own where
//! that is seen by whoever makes the containers. Called by: `hot` (a container's
//! start and end), `server` (sweep at start). Blocks on: the file system.
//! Does not: look at the sockets (`listener`, `function`).
//!
//! What a folder holds is written by a function and trusted in nothing: it is
//! removed through descriptors, no link is ever followed, and a tree of any
//! depth costs two descriptors and no stack.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, chmodat, flock, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::tmpfs;
use crate::model::Id;

/// Most directory entries one removal touches; beyond it the folder stays and
/// the next start's sweep goes on.
const MAX_ENTRIES: u64 = 1_000_000;

/// A socket folder could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {source}", path.display())]
pub struct IofsError {
    pub verb: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Where a test has this fail.
fn pass(point: &str) -> Result<(), Errno> {
    crate::fault::at(point).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// The parent of all socket folders.
#[derive(Debug)]
pub struct Iofs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Also carries the shared lock that says "a server uses this folder".
    fd: OwnedFd,
    live: Mutex<HashSet<String>>,
    /// Each folder is a tmpfs, mounted with these options.
    tmpfs: OnceLock<CString>,
}

/// One container's socket folder; removed with all it holds when dropped.
/// An adopted one has no name: it goes with its last descriptor.
#[derive(Debug)]
pub struct Folder {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
    parent: Arc<Shared>,
    adopted: bool,
}

impl Iofs {
    /// Opens (and creates, 0755) the parent folder.
    ///
    /// # Errors
    /// When it cannot be created or opened.
    pub fn open(parent: &Path) -> Result<Iofs, IofsError> {
        let failed = |verb| move |source: io::Error| IofsError { verb, path: parent.to_owned(), source };
        if !parent.is_dir() {
            std::fs::create_dir_all(parent).map_err(failed("create"))?;
            rustix::fs::chmod(parent, Mode::from_raw_mode(0o755)).map_err(|e| failed("set the mode of")(e.into()))?;
        }
        // The engine binds folders by absolute path.
        let path = parent.canonicalize().map_err(failed("resolve"))?;
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed("open")(e.into()))?;
        // A file system without locks only loses the sweep's caution.
        let _ = flock(&fd, FlockOperation::NonBlockingLockShared);
        Ok(Iofs { shared: Arc::new(Shared { path, fd, live: Mutex::new(HashSet::new()), tmpfs: OnceLock::new() }) })
    }

    /// From now on each folder is a tmpfs of its own, mounted with `options`
    /// (`size=1m,…`), noexec, nosuid, nodev. One is made and removed at once;
    /// `seen` tells whether whoever makes the containers sees a folder in it.
    ///
    /// # Errors
    /// When that cannot be done here, or is not seen: folders stay plain.
    pub fn use_tmpfs(&self, options: &str, seen: impl FnOnce(&Path) -> bool) -> Result<(), IofsError> {
        let failed = |verb, source: io::Error| IofsError { verb, path: self.shared.path.clone(), source };
        let options = CString::new(options).map_err(|e| failed("mount a tmpfs in", e.into()))?;
        let (name, shared) = (Id::new(), &self.shared);
        let trial = shared.path.join(name.as_str());
        let tried = std::fs::create_dir(&trial)
            .map_err(|e| failed("create", e))
            .and_then(|()| tmpfs::mount(&trial, &options).map_err(|e| failed("mount a tmpfs in", e.into())))
            .and_then(|()| std::fs::create_dir(trial.join("seen")).map_err(|e| failed("use a tmpfs in", e)))
            .and_then(|()| match seen(&trial.join("seen")) {
                true => Ok(()),
                false => Err(failed("use a tmpfs in", io::Error::other("it is not seen by what makes the containers"))),
            });
        // Unmounted with the folder, whatever came.
        let removed = remove_folder(shared, name.as_str());
        tried.and(removed)?;
        let _ = self.shared.tmpfs.set(options);
        Ok(())
    }

    /// Makes `<parent>/<id>`, mode 0777: the function's user must be able to
    /// bind in it.
    ///
    /// # Errors
    /// When it exists already or the file system refuses.
    pub fn create(&self, id: &str) -> Result<Folder, IofsError> {
        let path = self.shared.path.join(id);
        let failed = |verb, e: Errno| IofsError { verb, path: path.clone(), source: e.into() };
        if id.is_empty() || id.contains(['/', '\0']) || id == "." || id == ".." {
            return Err(failed("create", Errno::INVAL));
        }
        let shared = &self.shared;
        pass("iofs.make").map_err(|e| failed("create", e))?;
        mkdirat(&shared.fd, id, Mode::from_raw_mode(0o700)).map_err(|e| failed("create", e))?;
        if let Some(options) = shared.tmpfs.get()
            && let Err(e) = tmpfs::mount(&path, options)
        {
            let _ = unlinkat(&shared.fd, id, AtFlags::REMOVEDIR);
            return Err(failed("mount a tmpfs on", e));
        }
        // What is mounted, if anything is.
        let opened =
            pass("iofs.open").and_then(|()| openat(&shared.fd, id, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()));
        let fd = match opened {
            Ok(fd) => fd,
            Err(e) => {
                let _ = tmpfs::unmount(&path);
                let _ = unlinkat(&shared.fd, id, AtFlags::REMOVEDIR);
                return Err(failed("open", e));
            }
        };
        shared.live.lock().insert(id.to_owned());
        let folder = Folder { name: id.to_owned(), path: path.clone(), fd, parent: shared.clone(), adopted: false };
        // By mode, not by mkdir's argument: the umask must not have a say.
        chmodat(&shared.fd, id, Mode::from_raw_mode(0o777), AtFlags::empty()).map_err(|e| failed("set the mode of", e))?;
        Ok(folder)
    }

    /// Takes a folder that somebody else made and that has no place in the
    /// parent; its path is the descriptor's.
    pub fn adopt(&self, id: &str, fd: OwnedFd) -> Folder {
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        self.shared.live.lock().insert(id.to_owned());
        Folder { name: id.to_owned(), path, fd, parent: self.shared.clone(), adopted: true }
    }

    /// Removes folders that an earlier run left behind; returns how many. Only
    /// names that are ids, and only while no other server uses the parent.
    pub fn sweep(&self) -> usize {
        let shared = &self.shared;
        if flock(&shared.fd, FlockOperation::NonBlockingLockExclusive).is_err() {
            log::info!("socket folders in {} are shared with another server: none are swept", shared.path.display());
            return 0;
        }
        let mut removed = 0;
        match names(&shared.fd) {
            Ok(found) => {
                for name in found.iter().filter_map(|n| n.to_str().ok()) {
                    if name.parse::<Id>().is_ok() && !shared.live.lock().contains(name) {
                        match remove_folder(shared, name) {
                            Ok(()) => removed += 1,
                            Err(e) => log::warn!("{e}"),
                        }
                    }
                }
            }
            Err(e) => log::warn!("cannot list {}: {e}", shared.path.display()),
        }
        let _ = flock(&shared.fd, FlockOperation::NonBlockingLockShared);
        removed
    }

    /// How many folders are in use.
    pub fn count(&self) -> usize {
        self.shared.live.lock().len()
    }
}

impl Folder {
    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself (`O_PATH`), whatever its path names by now.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.adopted
            && let Err(e) = remove_folder(&self.parent, &self.name)
        {
            log::warn!("{e}");
        }
        self.parent.live.lock().remove(&self.name);
    }
}

fn names(fd: impl AsFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut out = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            out.push(entry.file_name().to_owned());
        }
    }
    Ok(out)
}

fn remove_folder(parent: &Shared, name: &str) -> Result<(), IofsError> {
    let failed = |e: Errno| IofsError { verb: "remove", path: parent.path.join(name), source: e.into() };
    // Its tmpfs, also one of an earlier run, goes with all that is in it.
    tmpfs::unmount(&parent.path.join(name)).map_err(failed)?;
    match openat(&parent.fd, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(top) => empty(top.as_fd()).map_err(failed)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    match unlinkat(&parent.fd, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Removes all that is in `top`. A folder found inside gives its own folders
/// up to `top` and is then removed, so depth never grows.
fn empty(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut touched = 0u64;
    loop {
        let found = names(top)?;
        if found.is_empty() {
            return Ok(());
        }
        for name in found {
            if unlink(top, &name)? {
                continue;
            }
            let inner = openat(top, name.as_c_str(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            for child in names(&inner)? {
                touched += 1;
                if touched > MAX_ENTRIES {
                    return Err(Errno::TOOBIG);
                }
                if !unlink(inner.as_fd(), &child)? {
                    lift(inner.as_fd(), &child, top, touched)?;
                }
            }
            unlinkat(top, name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
}

/// Unlinks a file or an empty folder; false for a folder that is not empty.
fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Moves a folder from `dir` into `top` under a name not yet taken there.
fn lift(dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, unique: u64) -> Result<(), Errno> {
    let mut attempt = 0u32;
    loop {
        match renameat(dir, name, top, format!(".lifted-{unique}-{attempt}")) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if attempt < 100 => attempt += 1,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn parent(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hob-iofs-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn made_open_to_all_and_gone_with_its_owner() {
        let at = parent("made");
        let iofs = Iofs::open(&at).expect("open");
        assert_eq!(std::fs::metadata(&at).expect("parent").permissions().mode() & 0o777, 0o755);
        let folder = iofs.create("01HF7YAT3V180G40RZJ0000001").expect("create");
        assert_eq!(std::fs::metadata(folder.path()).expect("folder").permissions().mode() & 0o777, 0o777);
        assert!(iofs.create("01HF7YAT3V180G40RZJ0000001").is_err(), "a second folder of one name");
        assert_eq!(iofs.count(), 1);
        for bad in ["", ".", "..", "a/b", "/tmp", "../x"] {
            assert!(iofs.create(bad).is_err(), "{bad}");
        }
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists() && iofs.count() == 0);
        std::fs::remove_dir(&at).expect("nothing is left");
    }

    #[test]
    fn whatever_a_function_leaves_is_removed_and_no_link_followed() {
        let at = parent("removed");
        let iofs = Iofs::open(&at).expect("open");
        let outside = at.join("outside");
        std::fs::create_dir(&outside).expect("dir");
        std::fs::write(outside.join("precious"), "x").expect("file");
        let folder = iofs.create("a").expect("create");
        let mut deep = folder.path().to_owned();
        for i in 0..60 {
            std::fs::write(deep.join("file"), "x").expect("file");
            symlink(&outside, deep.join("link")).expect("link");
            std::fs::create_dir(deep.join(".lifted-1-0")).expect("dir");
            std::fs::create_dir(deep.join(format!("d{}", i % 2))).expect("dir");
            std::fs::create_dir(deep.join("other")).expect("dir");
            std::fs::write(deep.join("other/file"), "x").expect("file");
            deep.push(format!("d{}", i % 2));
        }
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("bind");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
        assert!(outside.join("precious").exists());
        // The folder itself replaced by a link: the link's target is not touched.
        let folder = iofs.create("b").expect("create");
        std::fs::remove_dir(folder.path()).expect("rmdir");
        symlink(&outside, folder.path()).expect("link");
        drop(folder);
        assert!(outside.join("precious").exists());
        std::fs::remove_dir_all(&at).expect("clean");
    }

    /// The options of the mount at `path`, as the kernel tells them.
    fn mounted(path: &Path) -> Option<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let at = format!(" {} tmpfs ", path.display());
        mounts.lines().find(|l| l.contains(&at)).map(str::to_owned)
    }

    #[test]
    fn a_tmpfs_bounds_what_is_left_and_goes_with_the_folder() {
        let at = parent("tmpfs");
        let iofs = Iofs::open(&at).expect("open");
        if let Err(e) = iofs.use_tmpfs("size=1m,nr_inodes=64,mode=0777", Path::is_dir) {
            assert!(!rustix::process::geteuid().is_root(), "{e}");
            println!("SKIPPED: {e}");
            drop(iofs.create(Id::new().as_str()).expect("a plain folder"));
            return std::fs::remove_dir(&at).expect("nothing is left");
        }
        let folder = iofs.create(Id::new().as_str()).expect("create");
        let path = folder.path().to_owned();
        let options = mounted(&path).expect("mounted");
        for word in ["nosuid", "nodev", "noexec", "size=1024k", "nr_inodes=64"] {
            assert!(options.contains(word), "{word} in {options}");
        }
        assert_eq!(std::fs::metadata(&path).expect("folder").permissions().mode() & 0o777, 0o777);
        let error = std::fs::write(path.join("big"), vec![0; 2 << 20]).expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        std::fs::remove_file(path.join("big")).expect("removed");
        let made = (0..100).take_while(|n| std::fs::write(path.join(n.to_string()), "").is_ok()).count();
        assert!((32..64).contains(&made), "{made} files");
        // Open files hold it no longer than its folder.
        let held = std::fs::File::open(path.join("0")).expect("open");
        drop(folder);
        assert!(!path.exists() && mounted(&path).is_none());
        drop(held);
        // What a killed server left is found by the next one's sweep.
        let left = iofs.create(Id::new().as_str()).expect("create");
        let path = left.path().to_owned();
        iofs.shared.live.lock().clear();
        std::mem::forget(left);
        assert_eq!(iofs.sweep(), 1);
        assert!(!path.exists() && mounted(&path).is_none());
        drop(iofs);
        std::fs::remove_dir(&at).expect("nothing is left");
    }

    #[test]
    fn the_sweep_takes_leftovers_only() {
        let at = parent("sweep");
        let iofs = Iofs::open(&at).expect("open");
        let live = iofs.create(Id::new().as_str()).expect("create");
        let left = at.join(Id::new().as_str());
        std::fs::create_dir(&left).expect("dir");
        std::fs::write(left.join("x"), "x").expect("file");
        std::fs::create_dir(at.join("not-an-id")).expect("dir");
        let other = Iofs::open(&at).expect("second server");
        assert_eq!(iofs.sweep(), 0, "another server uses the parent");
        drop(other);
        assert_eq!(iofs.sweep(), 1);
        assert!(!left.exists() && live.path().exists() && at.join("not-an-id").exists());
        drop(live);
        std::fs::remove_dir_all(&at).expect("clean");
    }
}
