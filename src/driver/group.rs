//! Where a container's own control group is: from `/proc/PID/cgroup` and the
//! id that its path must bear.

use std::path::{Path, PathBuf};

/// Where the kernel shows its hierarchies.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// The folder, for `controller`, of the group that a process with this
/// `/proc/PID/cgroup` lives in, if it is the group of the container that
/// `must_contain` names. Version 1, where the controller has a hierarchy there,
/// goes before version 2.
///
/// Engines may put the process into a group below the container's: what is
/// limited, frozen and counted is the one that bears the id.
pub(super) fn locate(text: &str, must_contain: &str, root: &Path, controller: &str) -> Option<(Version, PathBuf)> {
    let mut v2 = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let Some(path) = own_part(path, must_contain) else { continue };
        if controllers.split(',').any(|c| c == controller) {
            return Some((Version::V1, root.join(controller).join(path)));
        }
        if controllers.is_empty() {
            v2 = Some((Version::V2, root.join(path)));
        }
    }
    v2
}

/// The path as far as the component in which the id ends.
fn own_part<'t>(path: &'t str, must_contain: &str) -> Option<&'t str> {
    if must_contain.is_empty() || path.contains("..") {
        return None;
    }
    let end = path.find(must_contain)? + must_contain.len();
    let end = path[end..].find('/').map_or(path.len(), |slash| end + slash);
    Some(path[..end].trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, id: &str, controller: &str) -> Option<(Version, PathBuf)> {
        locate(text, id, Path::new("/cg"), controller)
    }

    #[test]
    fn v1_line_wins_and_names_the_container() {
        let text = "7:pids:/docker/abc\n5:freezer:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc\n";
        assert_eq!(found(text, "abc", "freezer"), Some((Version::V1, "/cg/freezer/docker/abc".into())));
        assert_eq!(found(text, "abc", "cpuacct"), Some((Version::V1, "/cg/cpuacct/docker/abc".into())));
    }

    #[test]
    fn v2_only() {
        let expected = Some((Version::V2, "/cg/system.slice/docker-abc.scope".into()));
        assert_eq!(found("0::/system.slice/docker-abc.scope\n", "abc", "freezer"), expected);
    }

    #[test]
    fn a_group_below_the_containers_is_not_the_containers() {
        let expected = Some((Version::V2, "/cg/machine.slice/libpod-abc.scope".into()));
        assert_eq!(found("0::/machine.slice/libpod-abc.scope/container\n", "abc", "memory"), expected);
        let expected = Some((Version::V1, "/cg/memory/hob-x/slot-000001".into()));
        assert_eq!(found("4:memory:/a/../b\n4:memory:/hob-x/slot-000001/deeper/still\n", "hob-x/slot-000001", "memory"), expected);
    }

    #[test]
    fn another_cgroup_is_refused() {
        assert_eq!(found("5:freezer:/\n0::/init.scope\n", "abc", "freezer"), None);
        assert_eq!(found("5:freezer:/docker/abc/../..\n", "abc", "freezer"), None);
        assert_eq!(found("5:freezer:/docker/abc\n", "", "freezer"), None);
    }
}
