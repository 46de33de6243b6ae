//! A small tmpfs over a socket folder: what a function can leave there is
//! bounded, and no program in it can be run.

use std::ffi::CStr;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Unmounting one folder: mounts may lie on one another.
const MOUNTS: usize = 8;

/// Mounts a tmpfs over `path`. Needs the rights of root.
pub(super) fn mount(path: &Path, options: &CStr) -> Result<(), Errno> {
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV, options)
}

/// Takes away what is mounted over `path`, in use or not; nothing is fine.
pub(super) fn unmount(path: &Path) -> Result<(), Errno> {
    for _ in 0..MOUNTS {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there; or it is not ours to look.
            Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
