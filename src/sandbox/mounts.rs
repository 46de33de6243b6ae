//! What a cell sees: its own /proc with the host's part of it hidden, memory
//! file systems, and the function's root on top of everything.
//!
//! Mounts are made detached and travel as descriptors; they are attached in the
//! cell's own mount namespace only.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, move_mount, open_tree, unmount,
};

use super::cell::{Failed, Step};
use super::sys;
use super::wire::{Go, Places, Tmp};

/// Size of /dev/shm, as engines have it.
const SHM_BYTES: u64 = 64 << 20;

pub(super) const ATTRS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// In the spawner's bare root, each a read-only mount: what covers a file, and
/// what covers a folder.
pub(super) const NULL: &str = "/null";
pub(super) const EMPTY: &str = "/empty";
/// There without root only: the images' roots, and the socket folders.
pub(super) const IMAGES: &str = "/images";
pub(super) const FOLDERS: &str = "/folders";

/// Of /proc: seen, not written.
const READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// Of /proc: not seen. They tell of the host, or of the kernel's insides.
const MASKED_FILES: &[&str] = &[
    "interrupts",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "softirqs",
    "slabinfo",
    "vmallocinfo",
    "pagetypeinfo",
    "iomem",
    "ioports",
    "modules",
    "config.gz",
    "cmdline",
    "mdstat",
];
const MASKED_FOLDERS: &[&str] = &["acpi", "asound", "scsi", "driver", "pressure"];

pub(super) fn mount_proc() -> Result<(), Failed> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).step("open proc")?;
    fsconfig_create(context.as_fd()).step("make proc")?;
    let proc = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, ATTRS).step("mount proc")?;
    attach(proc.as_fd(), CWD, "/proc").step("mount /proc")
}

pub(super) fn mask_proc() -> Result<(), Failed> {
    let covers = [(READ_ONLY, None), (MASKED_FILES, Some(NULL)), (MASKED_FOLDERS, Some(EMPTY))];
    let mut path = String::new();
    for (names, cover) in covers {
        for name in names {
            path.clear();
            let _ = write!(path, "/proc/{name}");
            match cover_one(cover, &path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(Failed("mask /proc", errno)),
            }
        }
    }
    Ok(())
}

/// Puts a read-only mount over `path`: another one, or a view of itself.
fn cover_one(with: Option<&str>, path: &str) -> Result<(), Errno> {
    // Of what is not there nothing need be hidden.
    rustix::fs::access(path, rustix::fs::Access::EXISTS)?;
    let tree = open_tree(CWD, with.unwrap_or(path), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    if with.is_none() {
        sys::mount_setattr(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY | ATTRS, None)?;
    }
    attach(tree.as_fd(), CWD, path)
}

pub(super) fn mount_shm() -> Result<(), Failed> {
    let shm = tmpfs(SHM_BYTES, 0, "1777", ATTRS).step("make /dev/shm")?;
    attach(shm.as_fd(), CWD, "/dev/shm").step("mount /dev/shm")
}

/// A file system in memory, attached nowhere. `inodes` 0: no limit of its own.
pub(super) fn tmpfs(bytes: u64, inodes: u64, mode: &str, attrs: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "size", bytes.to_string())?;
    fsconfig_set_string(context.as_fd(), "mode", mode)?;
    if inodes != 0 {
        fsconfig_set_string(context.as_fd(), "nr_inodes", inodes.to_string())?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

/// /tmp of a function, with the place of its socket folder in it.
pub(super) fn tmp(size: Tmp) -> Result<OwnedFd, Failed> {
    let tmp = tmpfs(size.bytes, size.inodes, "1777", ATTRS).step("make /tmp")?;
    mkdirat(&tmp, "iofs", Mode::from_raw_mode(0o755)).step("make /tmp/iofs")?;
    Ok(tmp)
}

/// A socket folder: 1 MiB of memory, 64 names, nothing in it can be executed
/// or has any power. Belongs to no mount namespace until a cell attaches it,
/// and is gone with its last user.
pub(super) fn socket_folder() -> Result<OwnedFd, Errno> {
    tmpfs(1 << 20, 64, "0777", ATTRS)
}

pub(super) fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(tree, "", at, path, flags)
}

/// Mounts what the function sees and makes it all that there is.
///
/// The root is mounted over the namespace's own (the bare one, which holds
/// nothing) and becomes this process's: what is above it is itself. That is
/// `pivot_root` without its look at every task of the host, which costs a
/// busy one half a millisecond.
pub(super) fn enter_root(go: &Go, root: BorrowedFd<'_>, iofs: BorrowedFd<'_>, tmp: BorrowedFd<'_>) -> Result<(), Failed> {
    attach(root, CWD, "/new").step("mount the root")?;
    let writable = if go.writable_root { Some(writable_root(go.places.is_some())?) } else { None };
    let root = writable.as_ref().map_or(root, AsFd::as_fd);
    for (name, what) in [("proc", "mount /proc in the root"), ("dev", "mount /dev in the root")] {
        // These two are looked at by every program: never through a link.
        let at = openat2(root, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS).step(what)?;
        move_mount(CWD, format!("/{name}"), at, "", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH).step(what)?;
    }
    let at = openat2(root, "tmp", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).step("find /tmp in the root")?;
    attach(tmp, at.as_fd(), "").step("mount /tmp")?;
    attach(iofs, tmp, "iofs").step("mount /tmp/iofs")?;
    if go.places.is_some() {
        for kept in ["/proc", IMAGES, FOLDERS] {
            unmount(kept, UnmountFlags::DETACH).step("let go of the host's folders")?;
        }
    }
    rustix::process::fchdir(root).step("enter the root")?;
    attach(root, CWD, "/").step("cover the old root")?;
    rustix::process::chroot(".").step("change the root")?;
    rustix::process::chdir("/").step("enter the root")
}

/// The image's root, read-only, and the socket folder, from what the spawner
/// has mounted.
pub(super) fn named(places: &Places) -> Result<(OwnedFd, OwnedFd), Failed> {
    let one = |parent: &str, path: &Path, attrs: MountAttrFlags| {
        let parent = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let at = openat2(&parent, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let tree = open_tree(&at, "", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH)?;
        sys::mount_setattr(tree.as_fd(), attrs, None)?;
        Ok::<_, Errno>(tree)
    };
    let root = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok((one(IMAGES, &places.root, root).step("find the root")?, one(FOLDERS, &places.iofs, ATTRS).step("find the socket folder")?))
}

/// An overlay in memory over the read-only root at /new.
fn writable_root(plain_user: bool) -> Result<OwnedFd, Failed> {
    const WHAT: &str = "writable root";
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let store = tmpfs(SHM_BYTES, 0, "0755", attrs).step(WHAT)?;
    attach(store.as_fd(), CWD, EMPTY).step(WHAT)?;
    for name in ["upper", "work"] {
        mkdirat(&store, name, Mode::from_raw_mode(0o755)).step(WHAT)?;
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step(WHAT)?;
    for (key, value) in [("lowerdir", "/new"), ("upperdir", "/empty/upper"), ("workdir", "/empty/work")] {
        fsconfig_set_string(context.as_fd(), key, value).step(WHAT)?;
    }
    if plain_user {
        fsconfig_set_flag(context.as_fd(), "userxattr").step(WHAT)?;
    }
    fsconfig_create(context.as_fd()).step(WHAT)?;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs).step(WHAT)?;
    attach(root.as_fd(), CWD, "/new").step(WHAT)?;
    Ok(root)
}
