//! What lies on the disk, and who may touch it.
//!
//! ```text
//! format                 the layout's number
//! lock                   shared: something is being added; exclusive: a sweep
//! blobs/sha256/HEX       manifests, configurations, layers; the name is checked before it is given
//! refs/HEX               one JSON each: a name and what it stands for
//! roots/KEY/rootfs       an image unpacked; a shared flock on roots/KEY keeps it
//! partial/HEX            the first bytes of a blob whose transfer was cut
//! locks/KIND-XX          who makes something takes it first, in whatever process
//! tmp/ID                 unfinished; flocked by who makes it
//! ```
//!
//! INVARIANT: a name outside tmp and partial is whole. Everything is made in
//! tmp, synced, and renamed. What a killed process left in tmp has no lock any
//! more: the next open removes it.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hashing};
use super::document::{self, Document};
use super::error::{ImageError, OpenError, io_at};
use super::limits::Limits;
use super::tree::remove_all;
use super::wait::Until;
use crate::model::Id;

const FORMAT: u32 = 1;
/// Between two looks at a lock that another process has.
const LOOK: Duration = Duration::from_millis(15);
/// A sweep waits so long for who adds something (or for a program being
/// started by this process, which has our locks until it runs).
const SWEEP_WAIT: Duration = Duration::from_millis(300);
const MAX_REF: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// In full: registry, repository, tag or digest.
    pub name: String,
    pub manifest: String,
    /// The image's id: the digest of its configuration.
    pub config: String,
    /// Bytes of its blobs.
    pub size: u64,
    /// Seconds since the Unix epoch.
    pub added: u64,
}

impl Reference {
    pub(super) fn new(name: String, manifest: &Digest, config: &Digest, size: u64) -> Reference {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Reference { name, manifest: manifest.to_string(), config: config.to_string(), size, added: now }
    }
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub blobs: u64,
    pub roots: u64,
    /// Bytes of the blobs removed.
    pub bytes: u64,
    /// Unpacked images that no name needs and a running function does.
    pub in_use: u64,
    /// Something is being added right now: nothing was removed.
    pub busy: bool,
}

/// A file or folder in tmp, ours until it is given its name; else removed.
#[derive(Debug)]
pub(super) struct Temp {
    pub(super) path: PathBuf,
    fd: OwnedFd,
    given: bool,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.given
            && let Err(e) = remove_path(&self.path)
        {
            log::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// Keeps an unpacked image from being removed, by any process.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) rootfs: PathBuf,
    _lock: OwnedFd,
}

/// While it lives nothing is swept.
#[derive(Debug)]
pub(super) struct Session {
    _lock: File,
}

/// A blob being written.
#[derive(Debug)]
pub(super) struct BlobWriter {
    temp: Temp,
    out: Hashing<io::BufWriter<File>>,
    limit: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.out.length.saturating_add(buf.len() as u64) > self.limit {
            return Err(ImageError::TooBig { what: "a blob, in bytes".to_owned(), limit: self.limit }.into_io());
        }
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn remove_path(path: &Path) -> Result<(), ImageError> {
    use std::os::unix::ffi::OsStrExt;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = File::open(parent).map_err(io_at("open", parent))?;
    remove_all(parent.as_fd(), name.as_bytes())
}

fn sync_folder(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(io_at("sync", path))
}

fn same_file(fd: &OwnedFd, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (rustix::fs::fstat(fd), fs::symlink_metadata(path)) else { return false };
    open.st_ino == named.ino() && open.st_dev == named.dev()
}

impl Store {
    pub(super) fn open(folder: &Path) -> Result<Store, OpenError> {
        let failed = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { verb, path, source }
        };
        let mut made = DirBuilder::new();
        made.recursive(true).mode(0o700);
        for part in ["blobs/sha256", "refs", "roots", "partial", "locks", "tmp"] {
            let path = folder.join(part);
            made.create(&path).map_err(failed("make", &path))?;
        }
        let folder = folder.canonicalize().map_err(failed("resolve", folder))?;
        let store = Store { folder };
        let format = store.folder.join("format");
        match fs::read_to_string(&format) {
            Ok(text) if text.trim().parse::<u32>().is_ok_and(|n| n <= FORMAT) => {}
            // Two that open at once write the same, each whole.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let temp = store.folder.join("tmp").join(Id::new().to_string());
                fs::write(&temp, format!("{FORMAT}\n")).and_then(|()| fs::rename(&temp, &format)).map_err(failed("write", &format))?;
            }
            Ok(text) => return Err(OpenError::Format { path: format, found: text.trim().chars().take(20).collect(), known: FORMAT }),
            Err(source) => return Err(OpenError::Io { verb: "read", path: format, source }),
        }
        store.repair().map_err(failed("list", &store.folder.join("tmp")))?;
        Ok(store)
    }

    /// Removes what ended processes left unfinished.
    fn repair(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.folder.join("tmp"))?.flatten() {
            let path = entry.path();
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            log::info!("removing what was left unfinished: {}", path.display());
            if let Err(e) = remove_path(&path) {
                log::warn!("{}: {e}", path.display());
            }
        }
        Ok(())
    }

    /// A new name in tmp, locked: a file, or a folder of mode 0700.
    fn temp(&self, folder: bool) -> Result<Temp, ImageError> {
        let tmp = self.folder.join("tmp");
        loop {
            let path = tmp.join(Id::new().to_string());
            let made = if folder {
                DirBuilder::new().mode(0o700).create(&path).and_then(|()| File::open(&path))
            } else {
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)
            };
            let fd: OwnedFd = match made {
                Ok(file) => file.into(),
                // Another process that opens the store took it for a leftover.
                Err(e) if e.kind() == io::ErrorKind::NotFound && folder && tmp.is_dir() => continue,
                Err(e) => return Err(ImageError::of_io(e, "make", &path)),
            };
            if flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() && same_file(&fd, &path) {
                return Ok(Temp { path, fd, given: false });
            }
        }
    }

    pub(super) fn temp_folder(&self) -> Result<Temp, ImageError> {
        self.temp(true)
    }

    /// Announces that something will be added.
    pub(super) fn session(&self, until: &Until<'_>) -> Result<Session, ImageError> {
        let path = self.folder.join("lock");
        let lock = lock_file(&path, FlockOperation::NonBlockingLockShared, until)?;
        Ok(Session { _lock: lock })
    }

    /// One maker of `key` at a time, in all processes. `kind` keeps orders
    /// apart: name before blob, name before root.
    pub(super) fn alone(&self, kind: &str, key: &str, until: &Until<'_>) -> Result<File, ImageError> {
        let bucket = Digest::of(key.as_bytes());
        let path = self.folder.join("locks").join(format!("{kind}-{}", &bucket.hex()[..2]));
        lock_file(&path, FlockOperation::NonBlockingLockExclusive, until)
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("partial").join(digest.hex())
    }

    /// Its length, if it is there.
    pub(super) fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().map(|m| m.len())
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(io_at("open", &path))
    }

    pub(super) fn new_blob(&self, limit: u64) -> Result<BlobWriter, ImageError> {
        let temp = self.temp(false)?;
        let file = temp.fd.try_clone().map(File::from).map_err(io_at("open", &temp.path))?;
        Ok(BlobWriter { temp, out: Hashing::new(io::BufWriter::with_capacity(64 * 1024, file)), limit })
    }

    /// Syncs the blob and gives it its name.
    pub(super) fn keep_blob(&self, blob: BlobWriter) -> Result<(Digest, u64), ImageError> {
        let BlobWriter { mut temp, out, .. } = blob;
        let (file, digest, length) = out.finish();
        let file = file.into_inner().map_err(|e| ImageError::of_io(e.into_error(), "write", &temp.path))?;
        file.sync_all().map_err(io_at("sync", &temp.path))?;
        let path = self.blob_path(&digest);
        fs::rename(&temp.path, &path).map_err(io_at("rename", &path))?;
        temp.given = true;
        sync_folder(&self.folder.join("blobs/sha256"))?;
        Ok((digest, length))
    }

    /// A partial that turned out whole becomes the blob.
    pub(super) fn keep_partial(&self, file: &File, digest: &Digest) -> Result<(), ImageError> {
        let (from, to) = (self.partial_path(digest), self.blob_path(digest));
        file.sync_all().map_err(io_at("sync", &from))?;
        fs::rename(&from, &to).map_err(io_at("rename", &to))?;
        sync_folder(&self.folder.join("blobs/sha256"))
    }

    pub(super) fn add_bytes(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) != Some(bytes.len() as u64) {
            let mut blob = self.new_blob(u64::MAX)?;
            let path = blob.temp.path.clone();
            blob.write_all(bytes).map_err(io_at("write", &path))?;
            self.keep_blob(blob)?;
        }
        Ok(digest)
    }

    /// A manifest or configuration, checked against its digest.
    pub(super) fn document(&self, digest: &Digest, limits: &Limits) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        File::open(&path).and_then(|f| f.take(limits.document + 1).read_to_end(&mut bytes)).map_err(io_at("read", &path))?;
        if bytes.len() as u64 > limits.document {
            return Err(ImageError::TooBig { what: "a manifest or configuration, in bytes".to_owned(), limit: limits.document });
        }
        let got = Digest::of(&bytes);
        if got != *digest {
            // It rotted: without it the next pull or load brings it again.
            let _ = fs::remove_file(&path);
            return Err(ImageError::WrongDigest { what: path.display().to_string(), want: digest.to_string(), got: got.to_string() });
        }
        Ok(bytes)
    }

    /// Removes a blob that is not what its name says any more.
    pub(super) fn drop_if_rotten(&self, digest: &Digest) {
        let path = self.blob_path(digest);
        let mut hashing = Hashing::new(io::sink());
        let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut hashing));
        if read.is_ok() && hashing.finish().1 != *digest {
            log::warn!("{} is not what its name says: removed", path.display());
            let _ = fs::remove_file(&path);
        }
    }

    fn ref_path(&self, name: &str) -> PathBuf {
        self.folder.join("refs").join(Digest::of(name.as_bytes()).hex())
    }

    pub(super) fn reference(&self, name: &str) -> Result<Option<Reference>, ImageError> {
        read_ref(&self.ref_path(name))
    }

    pub(super) fn set_reference(&self, reference: &Reference) -> Result<(), ImageError> {
        let path = self.ref_path(&reference.name);
        let mut temp = self.temp(false)?;
        let text = serde_json::to_vec(reference).map_err(|e| ImageError::Malformed { what: "a reference".to_owned(), text: e.to_string() })?;
        let mut file = temp.fd.try_clone().map(File::from).map_err(io_at("open", &temp.path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_at("write", &temp.path))?;
        fs::rename(&temp.path, &path).map_err(io_at("rename", &path))?;
        temp.given = true;
        sync_folder(&self.folder.join("refs"))
    }

    /// False if there was none.
    pub(super) fn remove_reference(&self, name: &str) -> Result<bool, ImageError> {
        let path = self.ref_path(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&self.folder.join("refs")).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(ImageError::of_io(e, "remove", &path)),
        }
    }

    pub(super) fn references(&self) -> Result<Vec<Reference>, ImageError> {
        let folder = self.folder.join("refs");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_at("list", &folder))? {
            // One that goes while it is read was removed: fine.
            found.extend(read_ref(&entry.map_err(io_at("list", &folder))?.path())?);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn root_path(&self, key: &str) -> PathBuf {
        self.folder.join("roots").join(key)
    }

    /// The unpacked image `key`, kept from now on; `None` if there is none.
    pub(super) fn hold(&self, key: &str, until: &Until<'_>) -> Result<Option<Hold>, ImageError> {
        let path = self.root_path(key);
        loop {
            let lock: OwnedFd = match File::open(&path) {
                Ok(file) => file.into(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(ImageError::of_io(e, "open", &path)),
            };
            match flock(&lock, FlockOperation::NonBlockingLockShared) {
                Ok(()) if same_file(&lock, &path) => return Ok(Some(Hold { rootfs: path.join("rootfs"), _lock: lock })),
                // Removed between the two: look again.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => until.pause(LOOK, "waiting for an image that another process has")?,
                Err(e) => return Err(ImageError::of_io(e.into(), "lock", &path)),
            }
        }
    }

    /// Gives an unpacked image its name and keeps it.
    pub(super) fn keep_root(&self, mut temp: Temp, key: &str, until: &Until<'_>) -> Result<Hold, ImageError> {
        let path = self.root_path(key);
        rustix::fs::syncfs(&temp.fd).map_err(io_at("sync", &temp.path))?;
        match fs::rename(&temp.path, &path) {
            Ok(()) => temp.given = true,
            // It is there already.
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
            Err(e) => return Err(ImageError::of_io(e, "rename", &path)),
        }
        drop(temp);
        sync_folder(&self.folder.join("roots"))?;
        self.hold(key, until)?.ok_or_else(|| ImageError::InUse { image: key.to_owned() })
    }

    /// Removes one unpacked image unless somebody keeps it.
    fn remove_root(&self, key: &str) -> Result<bool, ImageError> {
        let path = self.root_path(key);
        let lock: OwnedFd = match File::open(&path) {
            Ok(file) => file.into(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(ImageError::of_io(e, "open", &path)),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let away = self.folder.join("tmp").join(Id::new().to_string());
        fs::rename(&path, &away).map_err(io_at("rename", &path))?;
        drop(Temp { path: away, fd: lock, given: false });
        Ok(true)
    }

    /// Removes blobs, unpacked images and cut transfers that no name needs.
    pub(super) fn sweep(&self, limits: &Limits, key_of: impl Fn(&str) -> Option<String>) -> Result<Swept, ImageError> {
        let mut swept = Swept::default();
        let path = self.folder.join("lock");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io_at("open", &path))?;
        let patience = Instant::now() + SWEEP_WAIT;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= patience {
                swept.busy = true;
                return Ok(swept);
            }
            let nap = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
            let _ = rustix::event::poll(&mut [], Some(&nap));
        }
        let (mut blobs, mut roots) = (HashSet::new(), HashSet::new());
        for reference in self.references()? {
            roots.extend(key_of(&reference.config));
            for text in [&reference.manifest, &reference.config] {
                blobs.insert(Digest::parse(text)?);
            }
            if let Document::Manifest(manifest) = document::parse(&self.document(&Digest::parse(&reference.manifest)?, limits)?, limits)? {
                for layer in &manifest.layers {
                    blobs.insert(layer.digest()?);
                }
            }
        }
        for (name, path) in listed(&self.folder.join("roots"))? {
            if roots.contains(&name) {
                continue;
            }
            if self.remove_root(&name)? {
                swept.roots += 1;
            } else {
                log::debug!("{} is in use", path.display());
                swept.in_use += 1;
            }
        }
        let wanted: HashSet<&str> = blobs.iter().map(Digest::hex).collect();
        for (name, path) in listed(&self.folder.join("blobs/sha256"))?.into_iter().chain(listed(&self.folder.join("partial"))?) {
            if !wanted.contains(name.as_str()) || path.parent().is_some_and(|p| p.ends_with("partial")) {
                swept.bytes += fs::metadata(&path).map_or(0, |m| m.len());
                fs::remove_file(&path).map_err(io_at("remove", &path))?;
                swept.blobs += 1;
            }
        }
        Ok(swept)
    }
}

fn listed(folder: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let entries = fs::read_dir(folder).map_err(io_at("list", folder))?;
    Ok(entries.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect())
}

fn lock_file(path: &Path, how: FlockOperation, until: &Until<'_>) -> Result<File, ImageError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io_at("open", path))?;
    loop {
        match flock(&file, how) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) => until.pause(LOOK, "waiting for another process")?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(ImageError::of_io(e.into(), "lock", path)),
        }
    }
}

fn read_ref(path: &Path) -> Result<Option<Reference>, ImageError> {
    let mut text = Vec::new();
    match File::open(path).and_then(|f| f.take(MAX_REF).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::of_io(e, "read", path)),
    }
    serde_json::from_slice(&text).map(Some).map_err(|e| ImageError::Malformed { what: path.display().to_string(), text: e.to_string() })
}
