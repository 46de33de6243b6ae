//! An unpacked image as a mount: read-only, powerless, its files owned by the
//! identities a cell has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::sys;

/// Where something will be mounted in every root.
const MOUNT_POINTS: &[&str] = &["proc", "dev", "tmp"];

/// A root could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("image root {}: cannot {verb}: {source}", path.display())]
pub(super) struct RootError {
    verb: &'static str,
    path: std::path::PathBuf,
    source: io::Error,
}

/// Makes the mount points an image lacks, without following a link out of it.
///
/// # Errors
/// When the image has something else in their place.
pub(super) fn prepare(path: &Path) -> Result<(), RootError> {
    let failed = |verb| move |e: Errno| RootError { verb, path: path.to_owned(), source: e.into() };
    let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open"))?;
    for name in MOUNT_POINTS {
        match openat2(&root, *name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(_) => {}
            Err(Errno::NOENT) => match mkdirat(&root, *name, Mode::from_raw_mode(0o755)) {
                // Another start of the same image may have been here first.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(failed("make its mount points")(e)),
            },
            Err(e) => return Err(failed("use its mount points")(e)),
        }
    }
    Ok(())
}

/// The root as a mount of its own, in no namespace yet.
///
/// # Errors
/// When the kernel refuses the mount.
pub(super) fn tree(path: &Path, users: BorrowedFd<'_>) -> Result<OwnedFd, RootError> {
    let failed = |verb| move |e: Errno| RootError { verb, path: path.to_owned(), source: e.into() };
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(failed("mount"))?;
    let attrs = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    match sys::mount_setattr(tree.as_fd(), attrs, Some(users)) {
        Ok(()) => Ok(tree),
        // A file system that cannot map identities: its files are nobody's
        // then, and only what everybody may read is read.
        Err(Errno::INVAL) => {
            sys::mount_setattr(tree.as_fd(), attrs, None).map_err(failed("make read-only"))?;
            Ok(tree)
        }
        Err(e) => Err(failed("map the owners of")(e)),
    }
}

/// User and groups of a container: numbers, or names that the image's own
/// files explain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// Reads `user[:group]` of an image.
///
/// # Errors
/// In words, when a name is not explained.
pub(super) fn identity(text: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    if user.is_empty() {
        return Ok(Identity::default());
    }
    let fields = |text: &'_ str| text.lines().map(|l| l.split(':').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>();
    let number = |f: &[String], n: usize| f.get(n).and_then(|s| s.parse::<u32>().ok());
    let users = fields(passwd);
    let found = users.iter().find(|f| f.first().is_some_and(|n| n == user)).or_else(|| users.iter().find(|f| number(f, 2) == user.parse().ok()));
    let uid = found.and_then(|f| number(f, 2)).or_else(|| user.parse().ok()).ok_or_else(|| format!("the image has no user '{user}'"))?;
    let groups = fields(group);
    let gid = match wanted_group.filter(|g| !g.is_empty()) {
        Some(name) => groups
            .iter()
            .find(|f| f.first().is_some_and(|n| n == name))
            .and_then(|f| number(f, 2))
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("the image has no group '{name}'"))?,
        None => found.and_then(|f| number(f, 3)).unwrap_or(0),
    };
    let name = found.and_then(|f| f.first().cloned()).unwrap_or_default();
    let also =
        groups.iter().filter(|f| f.get(3).is_some_and(|members| members.split(',').any(|m| !m.is_empty() && m == name))).filter_map(|f| number(f, 2)).collect();
    Ok(Identity { uid, gid, groups: also })
}

/// A small text file of the image, read inside its root only.
pub(super) fn read(path: &Path, name: &str) -> String {
    use std::io::Read;
    let read = || -> Option<String> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let file = openat2(&root, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let mut text = String::new();
        std::fs::File::from(file).take(1 << 20).read_to_string(&mut text).ok()?;
        Some(text)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nfn:x:1000:1001::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nfn:x:1001:\naudio:x:29:fn,other\n";

    #[test]
    fn users_by_number_and_name() {
        let of = |text: &str| identity(text, PASSWD, GROUP);
        assert_eq!(of(""), Ok(Identity::default()));
        assert_eq!(of("fn"), Ok(Identity { uid: 1000, gid: 1001, groups: vec![29] }));
        assert_eq!(of("1000"), Ok(Identity { uid: 1000, gid: 1001, groups: vec![29] }));
        assert_eq!(of("7:audio"), Ok(Identity { uid: 7, gid: 29, groups: vec![] }));
        assert_eq!(of("7:8"), Ok(Identity { uid: 7, gid: 8, groups: vec![] }));
        assert!(of("nobody").is_err() && of("fn:nothing").is_err());
    }

    #[test]
    fn mount_points_are_made_inside_and_links_stay_inside() {
        let at = std::env::temp_dir().join(format!("hob-root-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&at);
        let root = at.join("root");
        std::fs::create_dir_all(root.join("var/tmp")).expect("folders");
        std::os::unix::fs::symlink("/var/tmp", root.join("tmp")).expect("link");
        prepare(&root).expect("prepared");
        assert!(root.join("proc").is_dir() && root.join("dev").is_dir());
        std::fs::remove_file(root.join("tmp")).expect("removed");
        std::fs::write(root.join("tmp"), "a file").expect("written");
        assert!(prepare(&root).is_err());
        std::os::unix::fs::symlink("/etc/passwd", root.join("passwd")).expect("link");
        assert_eq!(read(&root, "passwd"), "", "the image's own /etc/passwd, which it lacks");
        std::fs::remove_dir_all(&at).expect("clean");
    }
}
