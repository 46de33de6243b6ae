//! A folder that hostile archives are unpacked into.
//!
//! INVARIANT: nothing outside the folder is ever touched. Every step goes from
//! an open folder to one of its own names with `O_NOFOLLOW`; a link on the way
//! is read and its target walked by the same rules, an absolute one from the
//! folder itself, `..` never above it. No path string reaches the kernel.
//!
//! While it is filled all folders have mode 0700 and are ours; `finish` gives
//! them the modes and times they shall have. Files never get setuid or setgid
//! bits, and no device, fifo or socket is ever made.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::fs::{chownat, fchmod, fchown, fsetxattr, fstat, futimens, linkat, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat, utimensat};
use rustix::io::Errno;

use super::error::ImageError;
use super::tar::{Entry, Kind};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Links followed on the way to one folder, as the kernel does.
const MAX_LINKS: usize = 40;
const MAX_NAME: usize = 255;
/// What a symbolic link may say.
const MAX_TARGET: usize = 4095;
/// Permissions and the sticky bit; setuid and setgid are left out.
const MODES: u32 = 0o1777;

/// Whose the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// As the image says, plus this.
    Image { shift: u32 },
    /// All ours: we may not give them away.
    Ours,
}

/// What a folder gets at the end.
#[derive(Debug, Clone, Copy)]
struct Late {
    mode: u32,
    times: (i64, u32),
}

/// What was left out, for the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) nodes: u64,
    pub(super) xattrs: u64,
    pub(super) setuid: u64,
}

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    owners: Owners,
    max_depth: usize,
    /// By inode: nothing else names a folder whose path has links.
    late: HashMap<u64, Late>,
    /// Inodes that the layer being unpacked made or passed through: its own
    /// whiteouts do not hide them.
    fresh: HashSet<u64>,
    /// Where the entry before this one went.
    recent: Option<(Vec<Vec<u8>>, OwnedFd)>,
    pub(super) left_out: LeftOut,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    text.escape_debug().to_string()
}

fn hostile(path: &[u8], why: &'static str) -> ImageError {
    ImageError::Hostile { path: shown(path), why }
}

/// What the kernel says to a step inside.
fn told(path: &[u8]) -> impl Fn(Errno) -> ImageError + '_ {
    move |errno| match errno {
        Errno::NAMETOOLONG => hostile(path, "has too long a name"),
        Errno::INVAL | Errno::ILSEQ => hostile(path, "has a name that no file can have"),
        Errno::MLINK => hostile(path, "has too many names"),
        errno => ImageError::of_io(errno.into(), "unpack", std::path::Path::new(&shown(path))),
    }
}

impl Tree {
    /// An empty folder of ours.
    pub(super) fn new(root: OwnedFd, owners: Owners, max_depth: usize) -> Tree {
        Tree { root, owners, max_depth, late: HashMap::new(), fresh: HashSet::new(), recent: None, left_out: LeftOut::default() }
    }

    /// What comes now belongs to the next layer.
    pub(super) fn next_layer(&mut self) {
        self.fresh.clear();
    }

    /// Applies one entry of a layer; `data` is its content.
    ///
    /// # Errors
    /// The entry is hostile, its data broken, or the file system refuses.
    pub(super) fn place(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), ImageError> {
        let mut parts = split(&entry.path, self.max_depth)?;
        let Some(name) = parts.pop() else {
            return if entry.kind == Kind::Folder { self.dress_root(entry) } else { Err(hostile(&entry.path, "would replace the root")) };
        };
        if parts.iter().any(|part| part.starts_with(WHITEOUT)) {
            // Below another file system's bookkeeping.
            return Ok(());
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(entry, &parts, &name);
        }
        if matches!(entry.kind, Kind::Device | Kind::Fifo) {
            // The runtime makes the devices a function may have; a fifo would
            // be a way from one container of an image to the others.
            self.left_out.nodes += 1;
            return Ok(());
        }
        let parent = self.parent(&parts, &entry.path)?;
        match entry.kind {
            Kind::Folder => self.folder(&parent, &name, entry),
            Kind::File => self.file(&parent, &name, entry, data),
            Kind::Symlink => self.symlink(&parent, &name, entry),
            Kind::HardLink => self.hard_link(&parent, &name, entry),
            Kind::Device | Kind::Fifo => Ok(()),
        }
    }

    /// The parent's descriptor, made if missing.
    fn parent(&mut self, parts: &[Vec<u8>], path: &[u8]) -> Result<OwnedFd, ImageError> {
        if let Some((recent, fd)) = &self.recent
            && recent == parts
        {
            return dup(fd.as_fd(), path);
        }
        let fd = match self.walk(parts, path, true)? {
            Some(fd) => fd,
            None => return Err(hostile(path, "has no folder")),
        };
        self.recent = Some((parts.to_vec(), dup(fd.as_fd(), path)?));
        Ok(fd)
    }

    /// From the root down; `None` if a part is missing and none is made.
    fn walk(&mut self, parts: &[Vec<u8>], path: &[u8], make: bool) -> Result<Option<OwnedFd>, ImageError> {
        let mut trail: Vec<OwnedFd> = Vec::new();
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    trail.pop();
                    continue;
                }
                _ => {}
            }
            if trail.len() >= self.max_depth {
                return Err(hostile(path, "lies too deep"));
            }
            let opened = {
                let at = trail.last().map_or(self.root.as_fd(), AsFd::as_fd);
                match openat(at, part.as_slice(), FOLDER, Mode::empty()) {
                    Ok(fd) => Ok(fd),
                    Err(Errno::NOTDIR | Errno::LOOP) => match readlinkat(at, part.as_slice(), Vec::new()) {
                        Ok(target) => Err(Some(target.into_bytes())),
                        Err(Errno::INVAL) if make => {
                            // A file of an earlier layer: the folder takes its place.
                            unlinkat(at, part.as_slice(), AtFlags::empty()).map_err(told(path))?;
                            Err(None)
                        }
                        Err(Errno::INVAL) => return Ok(None),
                        Err(e) => return Err(told(path)(e)),
                    },
                    Err(Errno::NOENT) if make => Err(None),
                    Err(Errno::NOENT) => return Ok(None),
                    Err(e) => return Err(told(path)(e)),
                }
            };
            match opened {
                Ok(fd) => {
                    if make {
                        self.fresh.insert(inode(fd.as_fd(), path)?);
                    }
                    trail.push(fd);
                }
                Err(Some(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(hostile(path, "leads through too many links"));
                    }
                    if target.starts_with(b"/") {
                        trail.clear();
                    }
                    todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                }
                Err(None) => {
                    let fd = {
                        let at = trail.last().map_or(self.root.as_fd(), AsFd::as_fd);
                        mkdirat(at, part.as_slice(), Mode::from_raw_mode(0o700)).map_err(told(path))?;
                        openat(at, part.as_slice(), FOLDER, Mode::empty()).map_err(told(path))?
                    };
                    let number = inode(fd.as_fd(), path)?;
                    self.late.insert(number, Late { mode: 0o755, times: (0, 0) });
                    self.fresh.insert(number);
                    self.own(fd.as_fd(), 0, 0, path)?;
                    trail.push(fd);
                }
            }
        }
        match trail.pop() {
            Some(fd) => Ok(Some(fd)),
            None => dup(self.root.as_fd(), path).map(Some),
        }
    }

    fn dress_root(&mut self, entry: &Entry) -> Result<(), ImageError> {
        let number = inode(self.root.as_fd(), &entry.path)?;
        self.late.insert(number, late(entry));
        self.own(self.root.as_fd(), entry.uid, entry.gid, &entry.path)
    }

    fn folder(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), ImageError> {
        let there = kind_of(parent, name, &entry.path)?;
        if there != Some(FileType::Directory) {
            if there.is_some() {
                self.clear(parent.as_fd(), name, &entry.path)?;
            }
            mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(told(&entry.path))?;
        }
        let fd = openat(parent, name, FOLDER, Mode::empty()).map_err(told(&entry.path))?;
        let number = inode(fd.as_fd(), &entry.path)?;
        self.late.insert(number, late(entry));
        self.fresh.insert(number);
        self.xattrs(fd.as_fd(), entry);
        self.own(fd.as_fd(), entry.uid, entry.gid, &entry.path)
    }

    fn file(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, data: &mut dyn Read) -> Result<(), ImageError> {
        self.clear(parent.as_fd(), name, &entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(told(&entry.path))?;
        let mut file = File::from(fd);
        let wrong = |e| ImageError::of_io(e, "unpack", std::path::Path::new(&shown(&entry.path)));
        copy(data, &mut file).map_err(wrong)?;
        if entry.mode & 0o6000 != 0 {
            self.left_out.setuid += 1;
        }
        self.fresh.insert(inode(file.as_fd(), &entry.path)?);
        self.xattrs(file.as_fd(), entry);
        self.own(file.as_fd(), entry.uid, entry.gid, &entry.path)?;
        fchmod(&file, Mode::from_raw_mode(entry.mode & MODES)).map_err(told(&entry.path))?;
        futimens(&file, &times((entry.mtime, entry.mtime_nanos))).map_err(told(&entry.path))
    }

    fn symlink(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), ImageError> {
        if entry.link.is_empty() || entry.link.len() > MAX_TARGET {
            return Err(hostile(&entry.path, "is a link to nothing, or to too long a name"));
        }
        self.clear(parent.as_fd(), name, &entry.path)?;
        symlinkat(entry.link.as_slice(), parent, name).map_err(told(&entry.path))?;
        if let Some((uid, gid)) = self.owner(entry.uid, entry.gid, &entry.path)? {
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(told(&entry.path))?;
        }
        utimensat(parent, name, &times((entry.mtime, entry.mtime_nanos)), AtFlags::SYMLINK_NOFOLLOW).map_err(told(&entry.path))?;
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(told(&entry.path))?;
        self.fresh.insert(stat.st_ino);
        Ok(())
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), ImageError> {
        let mut parts = split(&entry.link, self.max_depth)?;
        let missing = || hostile(&entry.path, "is a second name for a file that is not there");
        let target = parts.pop().ok_or_else(missing)?;
        let from = self.walk(&parts, &entry.path, false)?.ok_or_else(missing)?;
        let stat = match statat(&from, target.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(missing()),
            Err(e) => return Err(told(&entry.path)(e)),
        };
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink) {
            return Err(hostile(&entry.path, "is a second name for what is no file"));
        }
        if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|own| own.st_ino == stat.st_ino) {
            return Ok(());
        }
        self.clear(parent.as_fd(), name, &entry.path)?;
        // What was in the way may have held the target.
        match linkat(&from, target.as_slice(), parent, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(missing()),
            Err(e) => return Err(told(&entry.path)(e)),
        }
        self.fresh.insert(stat.st_ino);
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, parts: &[Vec<u8>], name: &[u8]) -> Result<(), ImageError> {
        if name == OPAQUE {
            let Some(fd) = self.walk(parts, &entry.path, false)? else { return Ok(()) };
            self.recent = None;
            return self.clear_stale(fd.as_fd(), &entry.path);
        }
        // Bookkeeping of another kind of layer, of no meaning here.
        if name.starts_with(b".wh..wh.") {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(hostile(&entry.path, "hides no name"));
        }
        let Some(fd) = self.walk(parts, &entry.path, false)? else { return Ok(()) };
        match statat(&fd, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(told(&entry.path)(e)),
            Ok(stat) if self.fresh.contains(&stat.st_ino) => Ok(()),
            Ok(_) => self.clear(fd.as_fd(), hidden, &entry.path),
        }
    }

    /// Removes `name` and all below it, if it is there.
    fn clear(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), ImageError> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(()) => {
                // It may have been a link on the way to where we were.
                self.recent = None;
                return Ok(());
            }
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(told(path)(e)),
        }
        self.recent = None;
        let fd = openat(parent, name, FOLDER, Mode::empty()).map_err(told(path))?;
        for child in names(&fd, path)? {
            self.clear(fd.as_fd(), &child, path)?;
        }
        self.late.remove(&inode(fd.as_fd(), path)?);
        unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(told(path))
    }

    /// Removes below an opaque folder what earlier layers left there.
    fn clear_stale(&mut self, folder: BorrowedFd<'_>, path: &[u8]) -> Result<(), ImageError> {
        for child in names(folder, path)? {
            let stat = statat(folder, child.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(told(path))?;
            if !self.fresh.contains(&stat.st_ino) {
                self.clear(folder, &child, path)?;
            } else if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let fd = openat(folder, child.as_slice(), FOLDER, Mode::empty()).map_err(told(path))?;
                self.clear_stale(fd.as_fd(), path)?;
            }
        }
        Ok(())
    }

    fn owner(&self, uid: u64, gid: u64, path: &[u8]) -> Result<Option<(Uid, Gid)>, ImageError> {
        let Owners::Image { shift } = self.owners else { return Ok(None) };
        // The highest number means "leave it" to the kernel.
        let real = |id: u64| u32::try_from(id).ok().and_then(|id| id.checked_add(shift)).filter(|id| *id != u32::MAX);
        match (real(uid), real(gid)) {
            (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
            _ => Err(hostile(path, "has an owner that no file can have")),
        }
    }

    fn own(&self, fd: BorrowedFd<'_>, uid: u64, gid: u64, path: &[u8]) -> Result<(), ImageError> {
        match self.owner(uid, gid, path)? {
            Some((uid, gid)) => fchown(fd, Some(uid), Some(gid)).map_err(told(path)),
            None => Ok(()),
        }
    }

    /// `user.*` alone: the others are privileges (capabilities, labels) or
    /// another file system's business. One that the file system can't keep is
    /// left out.
    fn xattrs(&mut self, fd: BorrowedFd<'_>, entry: &Entry) {
        for (name, value) in &entry.xattrs {
            let set = name.starts_with(b"user.") && name.len() <= MAX_NAME && fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()).is_ok();
            if !set {
                self.left_out.xattrs += 1;
            }
        }
    }

    /// Gives every folder its mode and time, from the inside out.
    ///
    /// # Errors
    /// The file system refuses.
    pub(super) fn finish(mut self) -> Result<LeftOut, ImageError> {
        self.recent = None;
        let root = dup(self.root.as_fd(), b"/")?;
        self.dress(root.as_fd())?;
        Ok(self.left_out)
    }

    fn dress(&self, folder: BorrowedFd<'_>) -> Result<(), ImageError> {
        let path = b"/";
        for (name, kind) in entries(folder, path)? {
            if kind == FileType::Directory || (kind == FileType::Unknown && is_folder(folder, &name)) {
                let fd = openat(folder, name.as_slice(), FOLDER, Mode::empty()).map_err(told(path))?;
                self.dress(fd.as_fd())?;
            }
        }
        let late = self.late.get(&inode(folder, path)?).copied().unwrap_or(Late { mode: 0o755, times: (0, 0) });
        futimens(folder, &times(late.times)).map_err(told(path))?;
        fchmod(folder, Mode::from_raw_mode(late.mode)).map_err(told(path))
    }
}

fn late(entry: &Entry) -> Late {
    Late { mode: entry.mode & MODES, times: (entry.mtime, entry.mtime_nanos) }
}

/// The parts of an archive's path. A leading slash means the root of the
/// image; `..` means mischief.
fn split(path: &[u8], max_depth: usize) -> Result<Vec<Vec<u8>>, ImageError> {
    let parts: Vec<Vec<u8>> = path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).map(<[u8]>::to_vec).collect();
    if parts.iter().any(|p| p == b"..") {
        return Err(hostile(path, "climbs out with '..'"));
    }
    if parts.iter().any(|p| p.len() > MAX_NAME) {
        return Err(hostile(path, "has too long a name"));
    }
    if path.contains(&0) {
        return Err(hostile(path, "has a zero byte"));
    }
    if parts.len() > max_depth {
        return Err(hostile(path, "lies too deep"));
    }
    Ok(parts)
}

fn dup(fd: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, ImageError> {
    fd.try_clone_to_owned().map_err(|e| ImageError::of_io(e, "unpack", std::path::Path::new(&shown(path))))
}

fn inode(fd: BorrowedFd<'_>, path: &[u8]) -> Result<u64, ImageError> {
    Ok(fstat(fd).map_err(told(path))?.st_ino)
}

fn kind_of(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<FileType>, ImageError> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(told(path)(e)),
    }
}

fn is_folder(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let at = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: at, last_modification: at }
}

fn entries(folder: impl AsFd, path: &[u8]) -> Result<Vec<(Vec<u8>, FileType)>, ImageError> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder).map_err(told(path))? {
        let entry = entry.map_err(told(path))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            found.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(found)
}

fn names(folder: impl AsFd, path: &[u8]) -> Result<Vec<Vec<u8>>, ImageError> {
    Ok(entries(folder, path)?.into_iter().map(|(name, _)| name).collect())
}

fn copy(data: &mut dyn Read, file: &mut File) -> io::Result<()> {
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        match data.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => file.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes `name` in `parent` with all below it, whatever the modes.
///
/// # Errors
/// The file system refuses.
pub(super) fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), ImageError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(told(name)(e)),
    }
    let fd = match openat(parent, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(0o700), AtFlags::empty()).map_err(told(name))?;
            openat(parent, name, FOLDER, Mode::empty())
        }
        other => other,
    }
    .map_err(told(name))?;
    // Without root a folder's own mode could forbid us to empty it.
    let _ = fchmod(&fd, Mode::from_raw_mode(0o700));
    for child in names(&fd, name)? {
        remove_all(fd.as_fd(), &child)?;
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(told(name))
}
