//! Settings: one table, the only reader of the environment.
//!
//! Owns: names, defaults, help and parsing of every setting. Called by: `cli`
//! (help, start), `server`, tests. Blocks on: reading `NAME_FILE` files.
//! Does not: apply anything.
//!
//! `FN_*` names keep the original's meaning (spec agent §10, http-api §7);
//! what is new is `HOB_*`. Every name may also be given as `NAME_FILE`, a file
//! whose trimmed content is the value.

mod calls;
mod foreign;

pub use foreign::{FOREIGN, Foreign, Verdict};

pub use calls::{CallsConfig, Keep};

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How a setting's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Milliseconds; negative or beyond 9223372036853 = never.
    Millis,
    /// Seconds, or Go's form (`1m30s`); 0 = hob's own default limit.
    Seconds,
    /// Unsigned integer.
    Count,
    /// 1, t, true, 0, f, false in the usual capitalisations.
    Switch,
    /// Any text.
    Text,
    /// One of the listed words.
    Choice(&'static [&'static str]),
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub help: &'static str,
}

macro_rules! settings {
    ($($name:ident $kind:expr, $default:literal, $help:literal;)*) => {
        /// Every setting, in the order `--help` and docs/CONFIG.md show them.
        pub const SETTINGS: &[Setting] = &[$(Setting { name: stringify!($name), kind: $kind, default: $default, help: $help }),*];
    };
}

settings! {
    FN_PORT Kind::Count, "8080", "port of the public listener";
    HOB_LISTEN Kind::Text, "127.0.0.1", "address (or address:port) of the public listener; beyond loopback the management API needs HOB_API_TOKEN";
    HOB_API_TOKEN Kind::Text, "", "bearer token the management API asks for; empty = none on loopback";
    HOB_API_OPEN Kind::Switch, "false", "allow the management API without a token beyond loopback";
    HOB_DATA Kind::Text, "data", "data folder: store, sockets, lock file";
    HOB_DRIVER Kind::Choice(&["auto", "docker", "sandbox"]), "auto", "what runs containers; auto: docker when an engine answers at DOCKER_HOST, else hob's own sandbox";
    FN_DB_URL Kind::Text, "", "store, sqlite3:///path/fn.db; empty = fn.db in the data folder";
    FN_NODE_TYPE Kind::Choice(&["full"]), "full", "role of this process; see docs/SCALING.md for more machines";
    FN_LOG_FORMAT Kind::Choice(&["text", "json"]), "text", "form of the log's lines on standard error";
    FN_LOG_LEVEL Kind::Choice(&["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic", "off"]), "info", "log level";
    FN_PUBLIC_LB_URL Kind::Text, "", "base of the invoke URLs in API answers; empty = from the request's Host";
    FN_API_CORS_ORIGINS Kind::Text, "", "origins (comma separated) whose pages may ask, any other is refused; * first = all; empty = no CORS at all";
    FN_API_CORS_HEADERS Kind::Text, "Origin,Content-Length,Content-Type", "request headers those pages may set";
    FN_MAX_REQUEST_SIZE Kind::Count, "6291456", "largest request body in bytes; 0 = no limit";
    FN_MAX_REQUEST_HEADER_SIZE Kind::Count, "65536", "largest request head in bytes";
    FN_REQUEST_HEADER_READ_TIMEOUT Kind::Seconds, "10", "a request head must be complete within this";
    FN_REQUEST_BODY_READ_TIMEOUT Kind::Seconds, "30", "longest silence while a request body arrives";
    FN_RESPONSE_WRITE_TIMEOUT Kind::Seconds, "30", "longest time a client may take no byte of an answer";
    FN_HTTP_IDLE_TIMEOUT Kind::Seconds, "60", "an idle kept-alive connection is closed after this";
    HOB_MAX_CONNECTIONS Kind::Count, "10000", "open client connections; beyond it 503 and close";
    HOB_MAX_ACTIVE Kind::Count, "1024", "client connections served at the same time (threads)";
    HOB_MAX_WAIT_MSECS Kind::Millis, "30000", "a call waits at most this long for a container, then 503";
    HOB_MAX_QUEUED Kind::Count, "1000", "calls of one function waiting at the same time; beyond it 503";
    HOB_MAX_QUEUED_NODE Kind::Count, "5000", "calls of all functions waiting at the same time; beyond it 503";
    HOB_SERVER_TIMING Kind::Switch, "false", "every call's answer says in Server-Timing where its time went; else those asked with Fn-Timing: 1";
    HOB_CALL_RECORDS Kind::Choice(&["none", "errors", "all"]), "errors", "calls that are written down; detached ones always are";
    HOB_CALLS_PER_FN Kind::Count, "10000", "records kept of each function";
    HOB_CALLS_TOTAL Kind::Count, "1000000", "records kept of all functions together: those with the most give first";
    HOB_CALLS_MAX_AGE_SECS Kind::Count, "604800", "records, dead detached calls and idempotency keys are forgotten after this";
    HOB_ANSWERS_MAX_AGE_SECS Kind::Count, "86400", "answers of detached calls are forgotten after this";
    HOB_ANSWERS_MAX_BYTES Kind::Count, "4294967296", "bytes of the answers of detached calls and of the bodies of dead ones, of all functions together: the oldest are forgotten";
    HOB_CALL_USAGE Kind::Switch, "false", "records of synchronous calls tell the CPU time and the most memory of each too, where the cgroup does: some microseconds a call; detached ones always do";
    HOB_CALL_LOGS Kind::Switch, "true", "what functions print is written down by call; else it is in hob's own log at level debug only";
    HOB_LOG_BYTES_PER_FN Kind::Count, "8388608", "bytes of one function's logs on disk, the newest; they are forgotten with HOB_CALLS_MAX_AGE_SECS too";
    HOB_LOG_BYTES Kind::Count, "536870912", "the same of all functions together: the largest gives first";
    HOB_DETACHED_WORKERS Kind::Count, "8", "detached calls running at the same time; 0 = none are accepted";
    HOB_DETACHED_MAX_QUEUED Kind::Count, "100000", "detached calls waiting or running; beyond it 503";
    HOB_DETACHED_MAX_BYTES Kind::Count, "4294967296", "bytes of the bodies of detached calls waiting or running; beyond it 503";
    HOB_DETACHED_MAX_BODY Kind::Count, "1048576", "largest body of a detached call in bytes";
    HOB_DETACHED_ATTEMPTS Kind::Count, "3", "runs of a detached call that fails; hob/max-attempts of a function wins";
    HOB_DETACHED_SHARE_PERCENT Kind::Count, "50", "share of the functions' memory that detached calls may use";
    HOB_CALLBACK_WORKERS Kind::Count, "2", "callbacks of detached calls (Hob-Callback) under way at the same time; 0 = none are accepted";
    HOB_CALLBACK_MAX_QUEUED Kind::Count, "200000", "detached calls, over or not, whose end is still to be told; beyond it, or beyond half of it for one host, 503 for calls with Hob-Callback";
    HOB_CALLBACK_SECRET Kind::Text, "", "signs callbacks (Hob-Signature, HMAC-SHA256); empty = they are not signed";
    HOB_CALLBACK_PRIVATE Kind::Switch, "false", "callbacks may go to addresses that are not public: this host, private and link-local networks, a cloud's metadata";
    FN_ENABLE_NB_RESOURCE_TRACKER Kind::Switch, "false", "answer 503 at once instead of waiting for memory or CPU";
    FN_FREEZE_IDLE_MSECS Kind::Millis, "50", "freeze a container idle for this long; 0 = at once, negative = never";
    FN_HOT_LAUNCHER_TIMEOUT_MSECS Kind::Millis, "3600000", "a function's queue and launcher thread end after this long without work";
    FN_HOT_PULL_TIMEOUT_MSECS Kind::Millis, "600000", "image pull";
    FN_HOT_START_TIMEOUT_MSECS Kind::Millis, "5000", "a container's socket must appear within this";
    FN_MAX_RESPONSE_SIZE Kind::Count, "0", "largest function answer body in bytes; 0 = no limit";
    FN_MAX_HDR_RESPONSE_SIZE Kind::Count, "65536", "largest function answer head in bytes";
    FN_MAX_LOG_SIZE_BYTES Kind::Count, "1048576", "most bytes kept of what a function prints during one call, the newest; 0 = nothing is kept";
    FN_DISABLE_DEBUG_USER_LOGS Kind::Switch, "false", "do not copy what functions print into hob's own log (at level debug)";
    FN_MAX_TOTAL_MEMORY_BYTES Kind::Count, "0", "memory hob may give to containers; 0 = what the host has, less headroom";
    FN_MAX_TOTAL_CPU_MCPUS Kind::Count, "0", "CPU hob may give to containers, in thousandths; 0 = what the host has";
    FN_MAX_PIDS Kind::Count, "50", "processes per container; 0 = no limit";
    FN_MAX_OPEN_FILES Kind::Count, "350", "nofile limit in a container";
    FN_MAX_LOCKED_MEMORY Kind::Count, "65536", "memlock limit in a container, bytes";
    FN_MAX_PENDING_SIGNALS Kind::Count, "5000", "sigpending limit in a container";
    FN_MAX_MESSAGE_QUEUE Kind::Count, "819200", "msgqueue limit in a container, bytes";
    FN_MAX_TMPFS_INODES Kind::Count, "0", "inodes of a sized /tmp; 0 = no limit";
    FN_MAX_FS_SIZE_MB Kind::Count, "0", "root file system size where the storage driver can; 0 = off";
    FN_DISABLE_READONLY_ROOTFS Kind::Switch, "false", "writable container root";
    FN_DISABLE_UNPRIVILEGED_CONTAINERS Kind::Switch, "false", "run as the image's user, with capabilities";
    HOB_IMAGE_ALLOW Kind::Text, "", "images functions may have (blank or comma separated): a name is that repository with any tag, name:tag just that, registry/team/* all that begin so; empty = every image";
    FN_IMAGE_ENABLE_VOLUME Kind::Switch, "false", "allow images with VOLUME";
    HOB_IMAGE_ANY_PLATFORM Kind::Switch, "false", "allow images for other kinds of machines, where the engine's host emulates them";
    FN_IMAGE_CLEAN_MAX_SIZE Kind::Count, "0", "above this many bytes of images the engine's longest unused ones are removed, whoever made them; 0 = never";
    FN_IMAGE_CLEAN_EXEMPT_TAGS Kind::Text, "", "images (NAME:TAG, blank separated) that are never removed";
    FN_CONTAINER_LABEL_TAG Kind::Text, "", "extra label fn-agent-classifier on containers";
    FN_DOCKER_NETWORKS Kind::Text, "", "docker networks (blank or comma separated), containers are spread over them";
    HOB_RUNTIME Kind::Text, "", "the engine's runtime for functions, such as runsc or kata; empty = the engine's default";
    FN_DOCKER_LOAD_FILE Kind::Text, "", "image tarball loaded at start";
    FN_IOFS_PATH Kind::Text, "", "parent of the socket folders; empty = iofs in the data folder";
    FN_IOFS_TMPFS Kind::Choice(&["auto", "true", "1", "false", "0"]), "auto", "each socket folder is a tmpfs of its own: true = or the start fails, auto = where hob may mount one and the engine sees it; the sandbox's always are";
    FN_IOFS_OPTS Kind::Text, "size=1m,nr_inodes=64,mode=0777", "options of those tmpfs, beside noexec, nosuid and nodev";
    FN_IOFS_DOCKER_PATH Kind::Text, "", "the same folder as the engine sees it";
    DOCKER_HOST Kind::Text, "unix:///var/run/docker.sock", "the engine's address, unix:///path or tcp://host:port";
    DOCKER_CONFIG Kind::Text, "", "folder of docker's config.json with registry credentials; empty = .docker in the home folder";
    FN_DOCKER_AUTH Kind::Text, "", "registry credentials, the text of a docker config.json; wins over the files";
    HOB_IMAGE_MAX_BYTES Kind::Count, "17179869184", "largest image in hob's own store, in bytes: its layers as they travel, and unpacked";
    HOB_INSECURE_REGISTRIES Kind::Text, "", "registries (host:port, blank or comma separated) hob's own store may pull from without TLS or with any certificate; loopback may always do without TLS";
    HOB_ENGINE_STARTS Kind::Count, "0", "starts the engine works on at the same time: more only make each slower; 0 = as many as CPUs, at least 2";
    HOB_PARKED_NETWORKS Kind::Count, "16", "networks kept ready for starts to join, at most: from the start one for each GiB of memory (2 to 16), later as many as starts came in bursts of late; each is a small container of its own, some 13 MB with the process the engine keeps beside it; 0 = none";
    HOB_SANDBOX_NETWORK Kind::Choice(&["none", "host"]), "none", "network of a sandbox: nothing but its own loopback, or the host's";
    HOB_SANDBOX_PARKED Kind::Count, "16", "sandboxes made ready before they are needed; after bursts more, up to 64";
    HOB_SANDBOX_STRICT Kind::Switch, "false", "do not start when this host can't give the sandbox everything";
    HOB_SANDBOX_UIDS Kind::Count, "1900000000", "first of the 65536 user and group ids of sandboxes; nothing else on the host may use them";
    HOB_START_LANES Kind::Count, "8", "container starts under way at the same time";
    HOB_STOP_LANES Kind::Count, "8", "container removals under way at the same time";
    HOB_DRAIN_MSECS Kind::Millis, "5000", "at SIGTERM running calls may take this long; a second signal ends them at once";
}

/// One call's log is held in memory while the call runs.
const MAX_LOG_BYTES: usize = 64 * 1024 * 1024;

/// A parsed configuration. Durations of `None` mean "never" or "no limit".
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub api_token: Option<String>,
    pub api_open: bool,
    pub data: PathBuf,
    pub driver: String,
    pub db_path: PathBuf,
    pub log_level: log::LevelFilter,
    /// One JSON object a line instead of text.
    pub log_json: bool,
    pub public_url: Option<String>,
    /// Empty = no CORS.
    pub cors_origins: Vec<String>,
    pub cors_headers: Vec<String>,
    pub max_request_bytes: u64,
    pub max_request_head_bytes: usize,
    pub head_read_timeout: Duration,
    pub body_idle_timeout: Duration,
    pub write_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub max_connections: usize,
    pub max_active: usize,
    pub server_timing: bool,
    pub calls: CallsConfig,
    pub max_wait: Option<Duration>,
    pub max_queued: usize,
    pub max_queued_node: usize,
    pub non_blocking: bool,
    pub freeze_idle: Option<Duration>,
    pub launcher_timeout: Option<Duration>,
    pub pull_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    /// 0 = no limit.
    pub max_answer_bytes: u64,
    pub max_answer_head_bytes: usize,
    /// 0 = nothing is kept.
    pub max_log_bytes: usize,
    pub copy_logs: bool,
    /// 0 = what the host has.
    pub max_total_memory_bytes: u64,
    /// 0 = what the host has.
    pub max_total_cpu_mcpus: u64,
    pub docker: DockerConfig,
    pub sandbox: SandboxConfig,
    pub iofs: PathBuf,
    /// `FN_IOFS_DOCKER_PATH`: a path, or the name of a volume.
    pub iofs_docker: Option<String>,
    /// Whether socket folders are tmpfs; `None`: where it can be done.
    pub iofs_tmpfs: Option<bool>,
    pub iofs_options: String,
    pub start_lanes: usize,
    pub stop_lanes: usize,
    pub drain: Option<Duration>,
    /// What is to be said about variables that do nothing.
    pub notes: Vec<String>,
    /// `HOB_FAULTS`: faults on purpose, in builds for tests only.
    #[cfg(debug_assertions)]
    pub faults: String,
}

/// What the docker driver needs to know.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    pub host: String,
    pub max_pids: u64,
    pub max_open_files: u64,
    pub max_locked_memory: u64,
    pub max_pending_signals: u64,
    pub max_message_queue: u64,
    pub max_tmpfs_inodes: u64,
    pub max_fs_size_mb: u64,
    pub readonly_rootfs: bool,
    pub unprivileged: bool,
    pub allow_volume: bool,
    /// Empty = every image.
    pub image_allow: Vec<String>,
    pub any_platform: bool,
    /// 0 = images are never removed.
    pub clean_max_bytes: u64,
    pub clean_exempt: Vec<String>,
    pub label_tag: Option<String>,
    pub networks: Vec<String>,
    pub runtime: Option<String>,
    pub load_file: Option<PathBuf>,
    /// Starts at once, at least 1.
    pub parallel_starts: usize,
    /// Networks kept ready, at most.
    pub parked_networks: usize,
    /// Registry credentials as text; wins over `auth_files`.
    pub auth: Option<String>,
    /// Where registry credentials may lie, the first that parses is taken.
    pub auth_files: Vec<PathBuf>,
}

/// What the sandbox needs to know beyond the limits it shares with docker.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    pub host_network: bool,
    /// Cells that wait.
    pub parked: usize,
    pub strict: bool,
    /// Outside identity of a cell's identity 0.
    pub base: u32,
    /// Largest image, in bytes.
    pub image_max_bytes: u64,
    /// Host and port of registries that are trusted without TLS.
    pub insecure_registries: Vec<String>,
}

/// All problems found, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

/// The texts of all settings: from the environment, or from a test.
#[derive(Debug, Default)]
pub struct Raw {
    values: HashMap<&'static str, String>,
    home: Option<PathBuf>,
    problems: Vec<String>,
    notes: Vec<String>,
    #[cfg(debug_assertions)]
    faults: String,
}

impl Raw {
    /// Reads every setting's variable, or its `_FILE`.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_env() -> Raw {
        let mut raw = Raw { home: std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from), ..Raw::default() };
        for setting in SETTINGS {
            let name = setting.name;
            if let Some(text) = std::env::var_os(name) {
                match text.into_string() {
                    Ok(text) => drop(raw.values.insert(name, text.trim().to_owned())),
                    Err(_) => raw.problems.push(format!("{name}: not UTF-8")),
                }
            } else if let Some(path) = std::env::var_os(format!("{name}_FILE")) {
                match std::fs::read_to_string(&path) {
                    Ok(text) => drop(raw.values.insert(name, text.trim().to_owned())),
                    Err(e) => raw.problems.push(format!("{name}_FILE: cannot read {}: {e}", path.to_string_lossy())),
                }
            }
        }
        let mut others: Vec<(String, String)> =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().trim().to_owned()))).collect();
        others.sort();
        for (name, value) in &others {
            #[cfg(debug_assertions)]
            if name == "HOB_FAULTS" {
                raw.faults.clone_from(value);
                continue;
            }
            raw.look_at(name, value);
        }
        raw
    }

    /// Sets one value, as if the environment had it.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.values.insert(name, value.into());
    }

    /// Parses everything.
    ///
    /// # Errors
    /// `ConfigError` with every problem, not just the first.
    pub fn parse(mut self) -> Result<Config, ConfigError> {
        for setting in SETTINGS {
            if let Kind::Choice(words) = setting.kind {
                let value = self.text(setting.name);
                if !words.contains(&value.as_str()) {
                    self.problems.push(match setting.name {
                        "FN_NODE_TYPE" => foreign::node_type(&value),
                        name => format!("{name}: '{value}' is not one of {}", words.join(", ")),
                    });
                }
            }
        }
        let config = self.build();
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: self.problems }) }
    }

    fn build(&mut self) -> Config {
        let data = PathBuf::from(self.text("HOB_DATA"));
        let listen = self.listen();
        let api_token = self.optional("HOB_API_TOKEN");
        let api_open = self.switch("HOB_API_OPEN");
        if !listen.ip().is_loopback() && api_token.is_none() && !api_open {
            self.problems.push(format!("HOB_LISTEN: {listen} is reachable from other machines, so the management API needs a token: set HOB_API_TOKEN (or HOB_API_OPEN=true to leave it open)"));
        }
        Config {
            listen,
            api_token,
            api_open,
            driver: self.text("HOB_DRIVER"),
            db_path: self.db_path(&data),
            log_level: level(&self.text("FN_LOG_LEVEL")),
            log_json: self.text("FN_LOG_FORMAT") == "json",
            public_url: self.optional("FN_PUBLIC_LB_URL").map(|u| u.strip_suffix('/').map(str::to_owned).unwrap_or(u)),
            cors_origins: self.list("FN_API_CORS_ORIGINS"),
            cors_headers: self.list("FN_API_CORS_HEADERS"),
            max_request_bytes: self.count("FN_MAX_REQUEST_SIZE"),
            max_request_head_bytes: self.size("FN_MAX_REQUEST_HEADER_SIZE").max(1024),
            head_read_timeout: self.seconds("FN_REQUEST_HEADER_READ_TIMEOUT", 10),
            body_idle_timeout: self.seconds("FN_REQUEST_BODY_READ_TIMEOUT", 30),
            write_timeout: self.seconds("FN_RESPONSE_WRITE_TIMEOUT", 30),
            keep_alive_timeout: self.seconds("FN_HTTP_IDLE_TIMEOUT", 60),
            max_connections: self.size("HOB_MAX_CONNECTIONS").max(1),
            max_active: self.size("HOB_MAX_ACTIVE").max(1),
            server_timing: self.switch("HOB_SERVER_TIMING"),
            calls: self.calls(),
            max_wait: self.millis("HOB_MAX_WAIT_MSECS"),
            max_queued: self.size("HOB_MAX_QUEUED"),
            max_queued_node: self.size("HOB_MAX_QUEUED_NODE"),
            non_blocking: self.switch("FN_ENABLE_NB_RESOURCE_TRACKER"),
            freeze_idle: self.millis("FN_FREEZE_IDLE_MSECS"),
            launcher_timeout: self.millis("FN_HOT_LAUNCHER_TIMEOUT_MSECS"),
            pull_timeout: self.millis("FN_HOT_PULL_TIMEOUT_MSECS"),
            start_timeout: self.millis("FN_HOT_START_TIMEOUT_MSECS"),
            max_answer_bytes: self.count("FN_MAX_RESPONSE_SIZE"),
            max_answer_head_bytes: match self.size("FN_MAX_HDR_RESPONSE_SIZE") {
                0 => 64 * 1024,
                n => n,
            },
            max_log_bytes: self.size("FN_MAX_LOG_SIZE_BYTES").min(MAX_LOG_BYTES),
            copy_logs: !self.switch("FN_DISABLE_DEBUG_USER_LOGS"),
            max_total_memory_bytes: self.count("FN_MAX_TOTAL_MEMORY_BYTES"),
            max_total_cpu_mcpus: self.count("FN_MAX_TOTAL_CPU_MCPUS"),
            docker: self.docker(),
            sandbox: self.sandbox(),
            iofs: self.optional("FN_IOFS_PATH").map_or_else(|| data.join("iofs"), PathBuf::from),
            iofs_docker: self.optional("FN_IOFS_DOCKER_PATH"),
            iofs_tmpfs: match self.text("FN_IOFS_TMPFS").as_str() {
                "auto" => None,
                word => Some(matches!(word, "true" | "1")),
            },
            iofs_options: self.text("FN_IOFS_OPTS"),
            start_lanes: self.size("HOB_START_LANES").clamp(1, 64),
            stop_lanes: self.size("HOB_STOP_LANES").clamp(1, 64),
            drain: self.millis("HOB_DRAIN_MSECS"),
            notes: std::mem::take(&mut self.notes),
            #[cfg(debug_assertions)]
            faults: std::mem::take(&mut self.faults),
            data,
        }
    }

    fn docker(&mut self) -> DockerConfig {
        DockerConfig {
            host: self.text("DOCKER_HOST"),
            max_pids: self.count("FN_MAX_PIDS"),
            max_open_files: self.count("FN_MAX_OPEN_FILES"),
            max_locked_memory: self.count("FN_MAX_LOCKED_MEMORY"),
            max_pending_signals: self.count("FN_MAX_PENDING_SIGNALS"),
            max_message_queue: self.count("FN_MAX_MESSAGE_QUEUE"),
            max_tmpfs_inodes: self.count("FN_MAX_TMPFS_INODES"),
            max_fs_size_mb: self.count("FN_MAX_FS_SIZE_MB"),
            readonly_rootfs: !self.switch("FN_DISABLE_READONLY_ROOTFS"),
            unprivileged: !self.switch("FN_DISABLE_UNPRIVILEGED_CONTAINERS"),
            allow_volume: self.switch("FN_IMAGE_ENABLE_VOLUME"),
            image_allow: words(&self.text("HOB_IMAGE_ALLOW")),
            any_platform: self.switch("HOB_IMAGE_ANY_PLATFORM"),
            clean_max_bytes: self.count("FN_IMAGE_CLEAN_MAX_SIZE"),
            clean_exempt: self.text("FN_IMAGE_CLEAN_EXEMPT_TAGS").split_whitespace().map(str::to_owned).collect(),
            label_tag: self.optional("FN_CONTAINER_LABEL_TAG"),
            networks: words(&self.text("FN_DOCKER_NETWORKS")),
            runtime: self.optional("HOB_RUNTIME"),
            load_file: self.optional("FN_DOCKER_LOAD_FILE").map(PathBuf::from),
            parallel_starts: match self.size("HOB_ENGINE_STARTS") {
                0 => std::thread::available_parallelism().map_or(2, |n| n.get().max(2)),
                n => n,
            },
            parked_networks: self.size("HOB_PARKED_NETWORKS").min(512),
            auth: self.optional("FN_DOCKER_AUTH"),
            auth_files: self.auth_files(),
        }
    }

    fn sandbox(&mut self) -> SandboxConfig {
        let first = self.count("HOB_SANDBOX_UIDS");
        // Below it are the host's own; the kernel's ids end at 2^32 - 2.
        let base = u32::try_from(first).ok().filter(|b| (65_536..u32::MAX - 65_536).contains(b)).unwrap_or_else(|| {
            self.problems.push(format!("HOB_SANDBOX_UIDS: {first} is not between 65536 and 4294901758"));
            65_536
        });
        SandboxConfig {
            host_network: self.text("HOB_SANDBOX_NETWORK") == "host",
            parked: self.size("HOB_SANDBOX_PARKED").clamp(1, 256),
            strict: self.switch("HOB_SANDBOX_STRICT"),
            base,
            image_max_bytes: self.count("HOB_IMAGE_MAX_BYTES"),
            insecure_registries: words(&self.text("HOB_INSECURE_REGISTRIES")),
        }
    }

    fn auth_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.optional("DOCKER_CONFIG").map(|folder| PathBuf::from(folder).join("config.json")).into_iter().collect();
        if let Some(home) = &self.home {
            files.extend([home.join(".docker/config.json"), home.join(".dockercfg")]);
        }
        files
    }

    fn listen(&mut self) -> SocketAddr {
        let port_text = self.count("FN_PORT");
        let port = u16::try_from(port_text).unwrap_or_else(|_| {
            self.problems.push(format!("FN_PORT: {port_text} is not a port (0 to 65535)"));
            0
        });
        let text = self.text("HOB_LISTEN");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return address;
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return SocketAddr::new(ip, port);
        }
        self.problems.push(format!("HOB_LISTEN: '{text}' is neither an IP address nor address:port"));
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn db_path(&mut self, data: &std::path::Path) -> PathBuf {
        let url = self.text("FN_DB_URL");
        if url.is_empty() {
            return data.join("fn.db");
        }
        match url.strip_prefix("sqlite3://") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => {
                let scheme = url.split("://").next().unwrap_or_default();
                self.problems.push(format!("FN_DB_URL: no store for '{scheme}://…'; only sqlite3:///absolute/path/fn.db is supported"));
                PathBuf::new()
            }
        }
    }

    fn setting(name: &str) -> &'static Setting {
        SETTINGS.iter().find(|s| s.name == name).expect("every name asked for is in the table")
    }

    fn text(&self, name: &str) -> String {
        match self.values.get(name) {
            Some(text) if !text.is_empty() => text.clone(),
            _ => Raw::setting(name).default.to_owned(),
        }
    }

    /// Comma separated, blanks removed.
    fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(|part| part.replace([' ', '\t'], "")).filter(|part| !part.is_empty()).collect()
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|t| !t.is_empty())
    }

    fn count(&mut self, name: &str) -> u64 {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| {
            self.problems.push(format!("{name}: '{text}' is not a whole number of 0 or more"));
            0
        })
    }

    fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.count(name)).unwrap_or(usize::MAX)
    }

    fn switch(&mut self, name: &str) -> bool {
        let text = self.text(name);
        match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => {
                self.problems.push(format!("{name}: '{text}' is not true or false"));
                false
            }
        }
    }

    fn millis(&mut self, name: &str) -> Option<Duration> {
        let text = self.text(name);
        match text.parse::<i64>() {
            Ok(ms) if (0..9_223_372_036_854).contains(&ms) => Some(Duration::from_millis(ms.unsigned_abs())),
            Ok(_) => None,
            Err(_) => {
                self.problems.push(format!("{name}: '{text}' is not a whole number of milliseconds"));
                None
            }
        }
    }

    fn seconds(&mut self, name: &str, default_s: u64) -> Duration {
        let text = self.text(name);
        match go_duration(&text) {
            Some(d) if d.is_zero() => Duration::from_secs(default_s),
            Some(d) => d,
            None => {
                self.problems.push(format!("{name}: '{text}' is neither seconds nor a duration like 1m30s"));
                Duration::from_secs(default_s)
            }
        }
    }
}

/// Blank or comma separated.
fn words(text: &str) -> Vec<String> {
    text.split([' ', '\t', ',']).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

fn level(text: &str) -> log::LevelFilter {
    match text {
        "trace" => log::LevelFilter::Trace,
        "debug" => log::LevelFilter::Debug,
        "warn" | "warning" => log::LevelFilter::Warn,
        "error" | "fatal" | "panic" => log::LevelFilter::Error,
        "off" => log::LevelFilter::Off,
        _ => log::LevelFilter::Info,
    }
}

/// `5`, `1.5s`, `2m5s`, `300ms`.
fn go_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let (unit, after) =
            [("ms", 0.001), ("us", 1e-6), ("h", 3600.0), ("m", 60.0), ("s", 1.0)].iter().find_map(|(u, s)| tail.strip_prefix(u).map(|after| (*s, after)))?;
        total += Duration::try_from_secs_f64(number * unit).ok()?;
        rest = after;
    }
    if text.is_empty() { None } else { Some(total) }
}

/// The table as text for `hob serve --help`.
pub fn help_text() -> String {
    let mut text = String::from("Settings (environment; NAME_FILE names a file that holds the value):\n");
    for s in SETTINGS {
        let default = if s.default.is_empty() { "-" } else { s.default };
        let _ = writeln!(text, "  {:<32} {} [{default}]{}", s.name, s.help, choices(s.kind));
    }
    text
}

fn choices(kind: Kind) -> String {
    match kind {
        Kind::Choice(words) => format!(" ({})", words.join(" | ")),
        _ => String::new(),
    }
}

/// docs/CONFIG.md, whole: the file in the tree must equal this.
pub fn config_md() -> String {
    let mut text = String::from(
        "# Settings\n\nGenerated from the table in `src/config.rs`; a test keeps it so. Every setting is an environment variable; \
         `NAME_FILE` names a file that holds the value instead. A wrong value stops the start, with every problem listed. \
         `FN_*` keep the original Fn server's meaning; `HOB_*` are hob's own.\n\n| name | form | default | meaning |\n|---|---|---|---|\n",
    );
    for s in SETTINGS {
        let form = match s.kind {
            Kind::Millis => "milliseconds".to_owned(),
            Kind::Seconds => "seconds or 1m30s".to_owned(),
            Kind::Count => "number".to_owned(),
            Kind::Switch => "true or false".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Choice(words) => words.join(", "),
        };
        let default = if s.default.is_empty() { "–".to_owned() } else { format!("`{}`", s.default) };
        let _ = writeln!(text, "| `{}` | {form} | {default} | {} |", s.name, s.help);
    }
    text.push_str(
        "\n## Settings of the original that hob does not have\n\nGiven one of these, hob says so in its log and runs without it; those marked *refused* stop the start. \
         So does any other role of `FN_NODE_TYPE`: every hob is a complete node (docs/SCALING.md). A misspelt `FN_*` or `HOB_*` name is told too.\n\n| name | why, and what instead |\n|---|---|\n",
    );
    for f in FOREIGN {
        let refused = if f.verdict == Verdict::Refused { "*refused*: " } else { "" };
        let _ = writeln!(text, "| `{}` | {refused}{} |", f.name, f.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_parse() {
        let config = Raw::default().parse().expect("defaults are valid");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.freeze_idle, Some(Duration::from_millis(50)));
        assert_eq!(config.db_path, PathBuf::from("data/fn.db"));
    }

    #[test]
    fn all_problems_are_listed() {
        let mut raw = Raw::default();
        raw.set("FN_PORT", "99999");
        raw.set("FN_MAX_PIDS", "-1");
        raw.set("HOB_DRIVER", "podman");
        raw.set("FN_DB_URL", "mysql://x");
        raw.set("FN_DISABLE_READONLY_ROOTFS", "maybe");
        let error = raw.parse().expect_err("five problems");
        assert_eq!(error.problems.len(), 5, "{error}");
    }

    #[test]
    fn negative_millis_are_never() {
        let mut raw = Raw::default();
        raw.set("FN_FREEZE_IDLE_MSECS", "-1");
        assert_eq!(raw.parse().expect("valid").freeze_idle, None);
    }

    #[test]
    fn open_to_the_world_needs_a_token() {
        let mut raw = Raw::default();
        raw.set("HOB_LISTEN", "0.0.0.0");
        assert!(raw.parse().is_err());
        let mut raw = Raw::default();
        raw.set("HOB_LISTEN", "0.0.0.0:9000");
        raw.set("HOB_API_TOKEN", "s3cret");
        assert_eq!(raw.parse().expect("valid").listen.to_string(), "0.0.0.0:9000");
    }

    #[test]
    fn go_durations() {
        assert_eq!(go_duration("2m5s"), Some(Duration::from_secs(125)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(go_duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(go_duration("7"), Some(Duration::from_secs(7)));
        assert_eq!(go_duration("5x"), None);
    }
}
