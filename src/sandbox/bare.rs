//! The spawner's root: nothing of the host but a few devices. It is what a
//! cell starts from, and all that a copy of it costs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mkdir, mknodat, symlink};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount};

use super::mounts;
use super::sys;

/// Size of what holds a few names only, bytes.
const TINY: u64 = 64 * 1024;
const DEVICES: &[(&str, u32, u32)] = &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// A plain user's spawner can't take mounts from the server, which can't make
/// any, nor make devices: it keeps views of the host's.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) images: PathBuf,
    pub(super) folders: PathBuf,
}

pub(super) type Failure = (&'static str, Errno);

/// Leaves the host's file system for the bare root.
pub(super) fn enter(kept: Option<&Kept>) -> Result<(), Failure> {
    let at = |what: &'static str| move |e: Errno| (what, e);
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(at("make mounts private"))?;
    let views = kept.map(views).transpose()?;
    let root = mounts::tmpfs(TINY, 0, "0755", MountAttrFlags::empty()).map_err(at("make a root"))?;
    move_mount(root.as_fd(), "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(at("mount a root"))?;
    rustix::process::fchdir(&root).map_err(at("enter the root"))?;
    for name in ["new", "proc", "dev", "empty", "images", "folders"] {
        mkdir(name, Mode::from_raw_mode(0o755)).map_err(at("make folders"))?;
    }
    rustix::process::pivot_root(".", ".").map_err(at("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("leave the old root"))?;
    rustix::process::chdir("/").map_err(at("enter the root"))?;
    devices(views.as_ref().map(|v| v.devices.as_slice())).map_err(at("make /dev"))?;
    covers().map_err(at("make what covers /proc"))?;
    for (tree, path) in views.iter().flat_map(|v| &v.folders) {
        mounts::attach(tree.as_fd(), CWD, path).map_err(at("keep a folder of the host"))?;
    }
    Ok(())
}

struct Views {
    devices: Vec<OwnedFd>,
    folders: Vec<(OwnedFd, &'static str)>,
}

/// /proc too: the kernel makes a new one only for who sees the old one whole.
fn views(kept: &Kept) -> Result<Views, Failure> {
    let clone = |path: &std::path::Path| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        open_tree(CWD, path, flags)
    };
    let devices = DEVICES.iter().map(|(name, ..)| clone(&std::path::Path::new("/dev").join(name))).collect::<Result<_, _>>();
    let folder = |path: &std::path::Path, at: &'static str| clone(path).map(|tree| (tree, at)).map_err(|e| ("keep a folder of the host", e));
    Ok(Views {
        devices: devices.map_err(|e| ("keep the devices", e))?,
        folders: vec![folder("/proc".as_ref(), "/proc")?, folder(&kept.images, mounts::IMAGES)?, folder(&kept.folders, mounts::FOLDERS)?],
    })
}

/// Read-only mounts of nothing, cloned by each cell.
fn covers() -> Result<(), Errno> {
    mknodat(CWD, mounts::NULL, FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?;
    for (what, at, attrs) in [("/dev/null", mounts::NULL, MountAttrFlags::MOUNT_ATTR_NOSUID), (mounts::EMPTY, mounts::EMPTY, mounts::ATTRS)] {
        let tree = open_tree(CWD, what, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        sys::mount_setattr(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY | attrs, None)?;
        mounts::attach(tree.as_fd(), CWD, at)?;
    }
    Ok(())
}

/// The few devices a program expects; read-only for all cells, who share it.
/// Made, or the host's own.
fn devices(views: Option<&[OwnedFd]>) -> Result<(), Errno> {
    let dev = mounts::tmpfs(TINY, 0, "0755", MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    let old = rustix::process::umask(Mode::empty());
    let kind = if views.is_some() { FileType::RegularFile } else { FileType::CharacterDevice };
    for (name, major, minor) in DEVICES {
        let number = if views.is_some() { 0 } else { rustix::fs::makedev(*major, *minor) };
        mknodat(&dev, *name, kind, Mode::from_raw_mode(0o666), number)?;
    }
    rustix::process::umask(old);
    rustix::fs::mkdirat(&dev, "shm", Mode::from_raw_mode(0o755))?;
    move_mount(dev.as_fd(), "", CWD, "/dev", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")] {
        symlink(target, format!("/dev/{name}"))?;
    }
    for (view, (name, ..)) in views.into_iter().flatten().zip(DEVICES) {
        sys::mount_setattr(view.as_fd(), MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC, None)?;
        mounts::attach(view.as_fd(), CWD, &format!("/dev/{name}"))?;
    }
    sys::mount_setattr(dev.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, None)
}
