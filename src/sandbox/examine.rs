//! What this host gives a sandbox and what it does not, found out by making
//! one cell; for the server's start and for `hob doctor`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::SandboxOpenError;
use super::cgroup::{Cgroups, Limits};
use super::keeper::{Guess, Keeper, Options, Own};
use super::wire::Tmp;
use crate::config::{DockerConfig, SandboxConfig};

/// /tmp of a function without a memory limit, bytes.
pub(super) const TMP_BYTES: u64 = 64 << 20;
/// The first cell must be ready within this.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// What a plain user's sandbox has not.
const WITHOUT_ROOT: &[&str] = &["root: user ids apart from the server's own", "an image's own owners and users", "a size limit of socket folders"];

/// What a function goes without when there is no such cgroup.
fn without(controller: &str) -> &'static str {
    match controller {
        "memory" => "no memory limit",
        "pids" => "no limit of processes by container",
        "cpu" => "no CPU limit",
        _ => "idle functions are not frozen",
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The version of control groups, in words.
    pub groups: &'static str,
    /// What functions go without, each a few words. Empty: nothing.
    pub missing: Vec<String>,
}

/// Looks without a server: makes a cell and takes it away again. `program` is
/// this program's file.
///
/// # Errors
/// When functions cannot run here at all, or not with all that
/// `HOB_SANDBOX_STRICT` demands.
pub fn examine(config: &SandboxConfig, limits: &DockerConfig, program: PathBuf) -> Result<Examined, SandboxOpenError> {
    let scratch = std::env::temp_dir();
    let (keeper, missing) = open(config, limits, own(&scratch, &scratch), &format!("look-{}", std::process::id()), program)?.0;
    let groups = keeper.groups().describe();
    keeper.close();
    Ok(Examined { groups, missing })
}

/// Where a plain user's cells find images and socket folders; nothing for root.
pub(super) fn own(images: &Path, folders: &Path) -> Option<Own> {
    (!rustix::process::geteuid().is_root()).then(|| Own { images: images.to_owned(), folders: folders.to_owned() })
}

type Opened = ((Keeper, Vec<String>), usize);

/// Cells that can be made, what they lack, and how many groups of an earlier
/// run were swept.
pub(super) fn open(config: &SandboxConfig, limits: &DockerConfig, own: Option<Own>, store: &str, program: PathBuf) -> Result<Opened, SandboxOpenError> {
    let groups = Cgroups::open(store);
    let swept = groups.sweep();
    let mut missing: Vec<String> = groups.missing().iter().map(|c| format!("the {c} cgroup ({})", without(c))).collect();
    if own.is_some() {
        missing.extend(WITHOUT_ROOT.iter().map(|text| (*text).to_owned()));
    }
    if config.strict && !missing.is_empty() {
        groups.close();
        return Err(SandboxOpenError::Strict { missing: missing.join(", ") });
    }
    log::debug!("sandbox: cgroups {}", groups.name());
    let guess = Guess { limits: Limits { pids: limits.max_pids, ..Limits::default() }, tmp: Tmp { bytes: TMP_BYTES, inodes: 0 } };
    let options = Options { program, base: config.base, own, own_net: !config.host_network, parked: config.parked, guess };
    let keeper = Keeper::open(options, groups)?;
    keeper.trial(guess, Instant::now() + FIRST_WITHIN).map_err(|text| SandboxOpenError::Spawner(super::SpawnerError::Unable { text }))?;
    Ok(((keeper, missing), swept))
}
