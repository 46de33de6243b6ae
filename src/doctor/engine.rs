//! The container engine: is it there, and does a container work as hob needs it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Report, Verdict, gigabytes, host};
use crate::config::Config;
use crate::docker::{DockerOpenError, Fault, Freezing, Identity, facts, open_images, trial};
use crate::model::{Id, PullPolicy};

/// Below this a pull of a usual image may fail.
const LITTLE: u64 = 2_000_000_000;
/// A pull without a limit of its own.
const PULL: Duration = Duration::from_secs(600);
/// Files an engine puts into a container's root.
const IN_CONTAINER: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

pub(super) fn check(config: &Config, image: Option<&str>, report: &mut Report) {
    if config.driver == "sandbox" {
        return report.skipped("engine", "HOB_DRIVER=sandbox needs none");
    }
    let found = match facts(&config.docker) {
        Ok(found) => found,
        Err(error) => {
            let verdict = if config.driver == "auto" { Verdict::Warning } else { Verdict::Bad };
            let todo =
                if config.driver == "auto" { format!("{}; until then hob uses its own sandbox", what_to_do(&error)) } else { what_to_do(&error).to_owned() };
            return report.put("engine", verdict, error.to_string(), todo);
        }
    };
    let kind = if found.podman { "Podman" } else { "Docker" };
    report.good("engine", format!("{kind} {} at {}", found.server_version, config.docker.host));
    let groups = format!("version {}, driver {}", if found.cgroup_version.is_empty() { "1" } else { &found.cgroup_version }, found.cgroup_driver);
    match found.warnings.iter().flatten().find(|w| w.contains("memory") || w.contains("swap") || w.contains("cpu") || w.contains("pids")) {
        Some(warning) => {
            let todo = "limits of that kind do not hold: boot with `cgroup_enable=memory swapaccount=1`, or use cgroup version 2";
            report.put("cgroups", Verdict::Warning, format!("{groups}: {warning}"), todo);
        }
        None => report.good("cgroups", groups),
    }
    disk(&found.docker_root_dir, report);
    container(config, report);
    pull(config, image, report);
}

fn what_to_do(error: &DockerOpenError) -> &'static str {
    match error {
        DockerOpenError::Engine(e) => match &e.fault {
            Fault::Away { text } if text.contains("ermission denied") => "add hob's user to the engine's group (`usermod -aG docker USER`) and log in anew",
            Fault::Away { .. } => "install an engine and start it (`apt-get install docker.io`), or let DOCKER_HOST name its address",
            Fault::Timeout { .. } | Fault::Broken { .. } => "the engine hangs: look at its log, restart it",
            Fault::Status { .. } | Fault::Malformed { .. } => "is that a container engine? DOCKER_HOST names its address",
        },
        DockerOpenError::TooOld { .. } => "install a newer engine",
        DockerOpenError::Address(_) => "DOCKER_HOST must look like unix:///var/run/docker.sock or tcp://127.0.0.1:2375",
        _ => "see the message",
    }
}

/// The engine's disk, where it is this host's.
fn disk(root: &str, report: &mut Report) {
    match Some(root).filter(|r| !r.is_empty()).and_then(|r| host::free(Path::new(r))) {
        Some(bytes) if bytes < LITTLE => {
            let todo = "make room (`docker system prune`), or let FN_IMAGE_CLEAN_MAX_SIZE remove unused images";
            report.put("disk", Verdict::Warning, format!("{root}: only {:.1} GB free for images", gigabytes(bytes)), todo);
        }
        Some(bytes) => report.good("disk", format!("{root}: {:.1} GB free for images", gigabytes(bytes))),
        None => report.skipped("disk", "the engine's disk cannot be seen from here"),
    }
}

/// Folders made for the trial, removed with it, if nobody used them meanwhile.
struct Made {
    folder: PathBuf,
    parents: Vec<PathBuf>,
}

impl Made {
    fn new(parent: &Path) -> std::io::Result<Made> {
        let parent = std::path::absolute(parent)?;
        let parents = parent.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
        let mut made = Made { folder: parent.join(Id::new().as_str()), parents };
        std::fs::create_dir_all(&parent)?;
        // Links resolved: the engine binds by the real path.
        made.folder = parent.canonicalize()?.join(Id::new().as_str());
        std::fs::create_dir(&made.folder)?;
        std::fs::set_permissions(&made.folder, std::fs::Permissions::from_mode(0o777))?;
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        for parent in &self.parents {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn container(config: &Config, report: &mut Report) {
    let made = match Made::new(&config.iofs) {
        Ok(made) => made,
        Err(e) => {
            let todo = "let FN_IOFS_PATH (or HOB_DATA) name a folder that hob's user may write";
            return report.put("socket folder", Verdict::Bad, format!("{}: {e}", config.iofs.display()), todo);
        }
    };
    let parent = made.folder.parent().unwrap_or(&made.folder).to_owned();
    let identity = Identity { store_id: Id::new(), instance_id: Id::new(), iofs: parent.clone(), iofs_docker: config.iofs_docker.clone() };
    let wanted = Some(config.iofs_options.as_str()).filter(|_| config.iofs_tmpfs != Some(false));
    let tried = match trial(&config.docker, &identity, &made.folder, wanted) {
        Ok(tried) => tried,
        Err(why) => {
            // An engine that cannot find the folder at all says so at the start.
            let (name, todo) = if why.contains("bind source path") || why.contains(&parent.display().to_string()) {
                ("socket folder", iofs_todo())
            } else {
                (
                    "container",
                    "the engine's words say what it could not do: networks, limits and storage are set by FN_DOCKER_NETWORKS, FN_MAX_* and FN_DISABLE_*"
                        .to_owned(),
                )
            };
            return report.put(name, Verdict::Bad, why, todo);
        }
    };
    report.good("container", format!("started in {} ms", tried.took.as_millis()));
    match tried.folder {
        Ok(()) => report.good("socket folder", format!("{} is seen inside a container", parent.display())),
        Err(why) => report.put("socket folder", Verdict::Bad, format!("a container does not see {}: {why}", parent.display()), iofs_todo()),
    }
    small(config, tried.tmpfs, report);
    match tried.freezing {
        Freezing::Direct => report.good("freezer", "containers are frozen by their own cgroup"),
        Freezing::Engine { why } => {
            let todo = "works, but a call on a frozen function waits longer: give hob write access to /sys/fs/cgroup (run as root, with the host's cgroup and pid namespaces), or set FN_FREEZE_IDLE_MSECS=-1";
            report.put("freezer", Verdict::Warning, format!("containers are frozen through the engine: {why}"), todo);
        }
        Freezing::Fails { why } => report.put("freezer", Verdict::Bad, why, "FN_FREEZE_IDLE_MSECS=-1 goes without freezing"),
    }
    if let Err(why) = tried.removed {
        report.put("removal", Verdict::Bad, why, "the engine cannot remove containers: look at its log");
    }
}

/// Whether socket folders are tmpfs of their own.
fn small(config: &Config, tried: Option<Result<(), String>>, report: &mut Report) {
    let name = "socket tmpfs";
    match tried {
        None => report.skipped(name, "FN_IOFS_TMPFS=false: a function can fill the disk that its socket folder lies on"),
        Some(Ok(())) => report.good(name, format!("each socket folder is one ({})", config.iofs_options)),
        Some(Err(why)) => {
            let verdict = if config.iofs_tmpfs == Some(true) { Verdict::Bad } else { Verdict::Warning };
            let todo = "folders are plain, and a function can fill the disk they lie on: run hob as root in the engine's mount namespace (in a container: with CAP_SYS_ADMIN, and the folder bound with rshared propagation), or let FN_IOFS_PATH name a small tmpfs";
            report.put(name, verdict, why, todo);
        }
    }
}

fn iofs_todo() -> String {
    let inside = IN_CONTAINER.iter().any(|path| Path::new(path).exists());
    let lead = if inside { "hob runs in a container, the engine on the host: " } else { "the engine sees other files than hob: " };
    format!(
        "{lead}bind one folder of the engine's host into hob's place, let FN_IOFS_PATH name it as hob sees it and FN_IOFS_DOCKER_PATH as the engine does (or the name of a volume)"
    )
}

fn pull(config: &Config, image: Option<&str>, report: &mut Report) {
    let Some(image) = image else { return report.skipped("pull", "--image NAME pulls that one") };
    let begun = Instant::now();
    let until = begun + config.pull_timeout.unwrap_or(PULL);
    let pulled =
        open_images(&config.docker).map_err(|e| e.to_string()).and_then(|images| images.ensure(image, PullPolicy::Always, until).map_err(|e| e.to_string()));
    match pulled {
        Ok(()) => report.good("pull", format!("{image} in {:.1} s", begun.elapsed().as_secs_f64())),
        Err(why) => {
            let todo =
                "credentials are read from DOCKER_CONFIG or FN_DOCKER_AUTH; the engine itself needs the network, and HTTP(S)_PROXY in its own environment";
            report.put("pull", Verdict::Bad, why, todo);
        }
    }
}
