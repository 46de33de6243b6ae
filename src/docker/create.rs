//! The body of a create request (spec agent §8.4): pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dockworker::{ContainerCreateOptions, ContainerHostConfig, LogConfig, LogConfigType};
use serde_json::{Value, json};

use super::Identity;
use crate::config::DockerConfig;
use crate::driver::ContainerSpec;

/// Label of every container of one store.
pub const LABEL_STORE: &str = "hob.store";
/// Label naming the process that made it.
pub const LABEL_INSTANCE: &str = "hob.instance";
/// The original's labels, on request.
const LABEL_TAG: &str = "fn-agent-classifier";
const LABEL_TAG_INSTANCE: &str = "fn-agent-instance";
/// Where a container finds its socket folder.
const IOFS_INSIDE: &str = "/tmp/iofs";
/// The engine's word for no network.
pub(super) const NO_NETWORK: &str = "none";
/// The kernel's period; a quota below 1 ms is refused by it.
const CPU_PERIOD_US: u64 = 100_000;
const CPU_QUOTA_MIN_US: u64 = 1_000;

/// What the engine's host can do, as far as create bodies depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    /// Per-container swappiness exists in cgroup version 1 only.
    pub(super) swappiness: bool,
}

/// The socket folder cannot be named to the engine.
#[derive(Debug, thiserror::Error)]
pub enum IofsError {
    #[error("socket folder {} is not below {}", path.display(), parent.display())]
    Outside { path: PathBuf, parent: PathBuf },
    #[error("socket folder {} cannot be bound: the path has a colon or is not UTF-8", path.display())]
    Unnameable { path: PathBuf },
    #[error("socket folder {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// The socket folder's path on the engine's host: the same, or its place below
/// what `FN_IOFS_DOCKER_PATH` says (`engine_parent`).
pub(super) fn iofs_source(path: &Path, parent: &Path, engine_parent: Option<&Path>) -> Result<String, IofsError> {
    let absolute = |p: &Path| std::path::absolute(p).map_err(|source| IofsError::Io { path: p.to_owned(), source });
    let path = absolute(path)?;
    let seen = match engine_parent {
        None => path,
        Some(engine_parent) => {
            let parent = absolute(parent)?;
            let below = path.strip_prefix(&parent).map_err(|_| IofsError::Outside { path: path.clone(), parent: parent.clone() })?;
            engine_parent.join(below)
        }
    };
    match seen.to_str() {
        Some(text) if !text.contains(':') => Ok(text.to_owned()),
        _ => Err(IofsError::Unnameable { path: seen }),
    }
}

/// What every container bears: whose it is, and who made it.
pub(super) fn labels(identity: &Identity, tag: Option<&str>) -> impl Iterator<Item = (String, String)> {
    let (store, instance) = (identity.store_id.to_string(), identity.instance_id.to_string());
    let tagged = tag.map(|tag| [(LABEL_TAG, tag.to_owned()), (LABEL_TAG_INSTANCE, instance.clone())]);
    let own = [(LABEL_STORE, store), (LABEL_INSTANCE, instance)];
    tagged.into_iter().flatten().chain(own).map(|(key, value)| (key.to_owned(), value))
}

/// Everything a body is made from.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) spec: &'a ContainerSpec,
    pub(super) config: &'a DockerConfig,
    pub(super) identity: &'a Identity,
    pub(super) host: Host,
    /// The folder as the engine sees it.
    pub(super) iofs_source: &'a str,
    /// `none`, one of `FN_DOCKER_NETWORKS`, `container:ID` (a parked one), or
    /// the engine's default.
    pub(super) network: Option<&'a str>,
    /// This host's name, for containers on the default network.
    pub(super) hostname: &'a str,
}

impl Plan<'_> {
    /// The JSON value: dockworker's types, plus what they lack, without nulls.
    pub(super) fn body(&self) -> Result<Value, serde_json::Error> {
        let mut body = serde_json::to_value(self.options())?;
        self.add_missing(&mut body);
        drop_nulls(&mut body);
        Ok(body)
    }

    fn options(&self) -> ContainerCreateOptions {
        let mut options = ContainerCreateOptions::new(&self.spec.image);
        // What it prints is asked for with an attach of its own, and goes where
        // LogConfig says.
        options.attach_stdout(false).attach_stderr(false);
        for (key, value) in &self.spec.env {
            options.env(format!("{key}={value}"));
        }
        if self.config.unprivileged {
            options.user("1000:1000".to_owned());
        }
        if self.network.is_none() {
            options.hostname(self.hostname.to_owned());
        }
        for (key, value) in labels(self.identity, self.config.label_tag.as_deref()) {
            options.label(key, value);
        }
        options.host_config(self.host_config());
        options
    }

    fn host_config(&self) -> ContainerHostConfig {
        let (spec, config) = (self.spec, self.config);
        let mut host = ContainerHostConfig::new();
        host.binds(vec![format!("{}:{IOFS_INSIDE}", self.iofs_source)]).log_config(self.log_config()).init(true).readonly_rootfs(config.readonly_rootfs);
        if let Some(bytes) = spec.memory_mib.checked_mul(1 << 20).filter(|b| *b != 0) {
            // Equal limits: no swap.
            host.memory(bytes).memory_swap(bytes);
            if self.host.swappiness {
                host.memory_swappiness(0);
            }
        }
        if spec.cpu_milli != 0 {
            host.cpu_period(CPU_PERIOD_US).cpu_quota(spec.cpu_milli.saturating_mul(CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US));
        }
        if config.readonly_rootfs || spec.tmpfs_mib != 0 {
            host.tmpfs(HashMap::from([("/tmp".to_owned(), self.tmpfs_options())]));
        }
        if let Some(runtime) = &config.runtime {
            host.runtime(runtime.clone());
        }
        if let Some(network) = self.network {
            host.network_mode(network.to_owned());
        }
        if config.unprivileged {
            host.cap_drop(vec!["all".to_owned()]).security_opt(vec!["no-new-privileges".to_owned()]);
        }
        host
    }

    fn tmpfs_options(&self) -> String {
        match (self.spec.tmpfs_mib, self.config.max_tmpfs_inodes) {
            (0, _) => String::new(),
            (mib, 0) => format!("size={mib}m"),
            (mib, inodes) => format!("size={mib}m,nr_inodes={inodes}"),
        }
    }

    fn log_config(&self) -> LogConfig {
        let Some(url) = &self.spec.syslog_url else { return LogConfig::new(LogConfigType::None) };
        let mut log = LogConfig::new(LogConfigType::Syslog);
        log.config = HashMap::from([
            ("syslog-address".to_owned(), url.clone()),
            ("syslog-facility".to_owned(), "user".to_owned()),
            ("syslog-format".to_owned(), "rfc5424".to_owned()),
            ("tag".to_owned(), format!("app_id={},fn_id={}", self.spec.app_id, self.spec.fn_id)),
        ]);
        log
    }

    /// What dockworker's types have no place for, or only a narrow one.
    fn add_missing(&self, body: &mut Value) {
        let config = self.config;
        let host = &mut body["HostConfig"];
        // An i16 in the types.
        if config.max_pids != 0 {
            host["PidsLimit"] = json!(config.max_pids);
        }
        let limits = [
            ("nofile", config.max_open_files),
            ("memlock", config.max_locked_memory),
            ("sigpending", config.max_pending_signals),
            ("msgqueue", config.max_message_queue),
        ];
        // The engine's numbers are signed.
        host["Ulimits"] = limits.iter().filter(|(_, n)| i64::try_from(*n).is_ok()).map(|(name, n)| json!({"Name": name, "Soft": n, "Hard": n})).collect();
        if config.max_fs_size_mb != 0 {
            host["StorageOpt"] = json!({"size": format!("{}M", config.max_fs_size_mb)});
        }
        if let Some(host) = host.as_object_mut() {
            // Misnamed in the types: the engine's field is IOMaximumIOps.
            host.remove("IoMaximumOps");
        }
        if let Some(body) = body.as_object_mut() {
            // Empty here means "as the image says", which absence says better;
            // the types' stop signal and time-out would override the image's.
            for field in ["Domainname", "NetworkDisabled", "WorkingDir", "MacAddress", "OnBuild", "StopSignal", "StopTimeout"] {
                body.remove(field);
            }
            for field in ["User", "Hostname"] {
                if body.get(field) == Some(&json!("")) {
                    body.remove(field);
                }
            }
            body.insert("NetworkingConfig".to_owned(), json!({}));
            if self.network == Some(NO_NETWORK) {
                // The runtime gives it a namespace with loopback; the engine's
                // hook, half of a start, has nothing to add to that.
                body.insert("NetworkDisabled".to_owned(), json!(true));
            }
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing;

    fn body(spec: &ContainerSpec, config: &DockerConfig, network: Option<&str>, host: Host) -> Value {
        let identity = testing::identity("01HF7YAT3V180G40RZJ0000001", "01HF7YAT3V180G40RZJ0000002");
        Plan { spec, config, identity: &identity, host, iofs_source: "/iofs/a", network, hostname: "agent" }.body().expect("body")
    }

    const V1: Host = Host { swappiness: true };

    #[test]
    fn the_whole_body() {
        let spec = testing::spec("01HF7YAT3V180G40RZJ0000003", "fn/hello:1", "/iofs/a");
        assert_eq!(
            body(&spec, &testing::config(), None, V1),
            json!({
                "Image": "fn/hello:1",
                "Hostname": "agent",
                "User": "1000:1000",
                "Env": ["A=1", "B=x=y"],
                "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
                "Tty": false, "OpenStdin": false, "StdinOnce": false,
                "Labels": {"hob.store": "01HF7YAT3V180G40RZJ0000001", "hob.instance": "01HF7YAT3V180G40RZJ0000002"},
                "NetworkingConfig": {},
                "HostConfig": {
                    "Binds": ["/iofs/a:/tmp/iofs"],
                    "Memory": 134_217_728, "MemorySwap": 134_217_728, "MemorySwappiness": 0,
                    "CpuPeriod": 100_000, "CpuQuota": 50_000,
                    "PidsLimit": 50,
                    "Ulimits": [
                        {"Name": "nofile", "Soft": 350, "Hard": 350},
                        {"Name": "memlock", "Soft": 65536, "Hard": 65536},
                        {"Name": "sigpending", "Soft": 5000, "Hard": 5000},
                        {"Name": "msgqueue", "Soft": 819_200, "Hard": 819_200},
                    ],
                    "ReadonlyRootfs": true,
                    "Tmpfs": {"/tmp": "size=16m"},
                    "LogConfig": {"Type": "none", "Config": {}},
                    "CapDrop": ["all"], "SecurityOpt": ["no-new-privileges"],
                    "Init": true,
                },
            })
        );
    }

    #[test]
    fn every_switch() {
        let mut spec = testing::spec("c", "i", "/iofs/a");
        spec.memory_mib = 0;
        spec.cpu_milli = 5;
        spec.tmpfs_mib = 0;
        spec.syslog_url = Some("tcp://logs:601".to_owned());
        let mut config = testing::config();
        config.unprivileged = false;
        config.readonly_rootfs = false;
        config.max_pids = 0;
        config.max_fs_size_mb = 7;
        config.max_open_files = u64::MAX;
        config.label_tag = Some("tag".to_owned());
        config.runtime = Some("runsc".to_owned());
        let body = body(&spec, &config, Some("none"), V1);
        let host = &body["HostConfig"];
        for absent in ["Memory", "MemorySwap", "MemorySwappiness", "PidsLimit", "Tmpfs", "CapDrop", "SecurityOpt", "IoMaximumOps"] {
            assert!(host.get(absent).is_none(), "{absent}");
        }
        assert!(body.get("User").is_none() && body.get("Hostname").is_none());
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(body["NetworkDisabled"], true);
        assert_eq!(host["Runtime"], "runsc");
        assert_eq!(host["ReadonlyRootfs"], false);
        assert_eq!(host["CpuQuota"], 1000);
        assert_eq!(host["StorageOpt"], json!({"size": "7M"}));
        assert_eq!(host["Ulimits"].as_array().map(Vec::len), Some(3));
        assert_eq!(body["Labels"]["fn-agent-classifier"], "tag");
        assert_eq!(body["Labels"]["fn-agent-instance"], body["Labels"]["hob.instance"]);
        assert_eq!(
            host["LogConfig"],
            json!({"Type": "syslog", "Config": {"syslog-address": "tcp://logs:601", "syslog-facility": "user", "syslog-format": "rfc5424", "tag": "app_id=app,fn_id=fn"}})
        );
    }

    #[test]
    fn swappiness_and_tmpfs_follow_the_host_and_settings() {
        let mut spec = testing::spec("c", "i", "/iofs/a");
        let mut config = testing::config();
        config.max_tmpfs_inodes = 100;
        assert_eq!(body(&spec, &config, None, V1)["HostConfig"]["Tmpfs"]["/tmp"], "size=16m,nr_inodes=100");
        spec.tmpfs_mib = 0;
        assert_eq!(body(&spec, &config, None, V1)["HostConfig"]["Tmpfs"]["/tmp"], "");
        let v2 = body(&spec, &config, None, Host { swappiness: false });
        assert!(v2["HostConfig"].get("MemorySwappiness").is_none());
        assert_eq!(v2["HostConfig"]["MemorySwap"], 134_217_728);
    }

    #[test]
    fn socket_folders_as_the_engine_sees_them() {
        let source = |path: &str, engine: Option<&str>| iofs_source(Path::new(path), Path::new("/iofs"), engine.map(Path::new));
        assert_eq!(source("/iofs/a", None).expect("same"), "/iofs/a");
        assert_eq!(source("/iofs/a", Some("/host/iofs")).expect("mapped"), "/host/iofs/a");
        assert!(matches!(source("/other/a", Some("/host/iofs")), Err(IofsError::Outside { .. })));
        assert!(matches!(source("/iofs/a:b", None), Err(IofsError::Unnameable { .. })));
        assert!(source("relative/a", None).expect("made absolute").starts_with('/'));
    }
}
