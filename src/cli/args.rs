//! The arguments of every command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A function server: container images kept hot, called with plain HTTP.
#[derive(Debug, Parser)]
#[command(name = "hob", version, arg_required_else_help = true, propagate_version = false)]
pub(super) struct Cli {
    /// The server's address [default: HOB_URL, FN_API_URL or http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) server: Option<String>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start the server, in the foreground
    Serve,
    /// Applications: names for groups of functions that share configuration
    #[command(subcommand, visible_alias = "app")]
    Apps(Apps),
    /// Functions
    #[command(subcommand, visible_alias = "fn", alias = "functions")]
    Fns(Fns),
    /// HTTP routes to functions
    #[command(subcommand, visible_alias = "trigger")]
    Triggers(Triggers),
    /// Calls that were written down, and detached calls
    #[command(subcommand, visible_alias = "call")]
    Calls(Calls),
    /// What functions print, by call
    Logs(Logs),
    /// Call a function: standard input in, its answer out
    Invoke(Invoke),
    /// Build a function's folder and make the server run it
    Deploy(Deploy),
    /// Images: the engine's, or those of hob's own store
    #[command(visible_alias = "images")]
    Image(ImageArgs),
    /// Look at this host: engine, folders, port, limits; says what to do
    Doctor {
        /// Also pull this image
        #[arg(long, value_name = "NAME")]
        image: Option<String>,
    },
    /// This program's version, and the server's
    Version,
}

/// Configuration and annotations, as `NAME=VALUE`.
#[derive(Debug, Args, Default)]
pub(super) struct Pairs {
    /// Environment of the function; an empty value removes it. May be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) config: Vec<(String, String)>,
    /// JSON value kept with it; "" removes it. May be repeated
    #[arg(long, value_name = "NAME=JSON", value_parser = pair)]
    pub(super) annotation: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must have the form NAME=VALUE".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Apps {
    /// Make an app
    Create(AppWrite),
    /// All apps
    List,
    /// One app
    Inspect { app: String },
    /// Change an app
    Update(AppWrite),
    /// Remove an app with its functions and triggers
    Delete { app: String },
}

#[derive(Debug, Args)]
pub(super) struct AppWrite {
    pub(super) app: String,
    #[command(flatten)]
    pub(super) pairs: Pairs,
    /// Where its functions' output goes, e.g. udp://logs:514; "" removes it
    #[arg(long, value_name = "URL")]
    pub(super) syslog_url: Option<String>,
}

/// A function's limits.
#[derive(Debug, Args, Default)]
pub(super) struct FnLimits {
    /// Memory, MiB
    #[arg(long, value_name = "MIB")]
    pub(super) memory: Option<u64>,
    /// Longest execution, seconds
    #[arg(long, value_name = "S")]
    pub(super) timeout: Option<u64>,
    /// An idle container lives so long, seconds
    #[arg(long, value_name = "S")]
    pub(super) idle_timeout: Option<u64>,
    #[command(flatten)]
    pub(super) pairs: Pairs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Fns {
    /// Make a function from an image
    Create {
        app: String,
        function: String,
        image: String,
        #[command(flatten)]
        limits: FnLimits,
    },
    /// An app's functions
    List { app: String },
    /// One function
    Inspect {
        app: String,
        function: String,
        /// Print only the URL to call
        #[arg(long)]
        endpoint: bool,
    },
    /// Change a function
    Update {
        app: String,
        function: String,
        #[arg(long)]
        image: Option<String>,
        #[command(flatten)]
        limits: FnLimits,
    },
    /// Remove a function and its triggers
    Delete { app: String, function: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Triggers {
    /// Make an HTTP route
    Create {
        app: String,
        function: String,
        trigger: String,
        /// The path below /t/APP
        #[arg(long, value_name = "/PATH")]
        source: String,
    },
    /// An app's or a function's triggers
    List { app: String, function: Option<String> },
    /// One trigger
    Inspect { app: String, function: String, trigger: String },
    /// Remove a trigger
    Delete { app: String, function: String, trigger: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum Calls {
    /// A function's calls, newest first
    List {
        app: String,
        function: String,
        /// Only those in this state
        #[arg(long, value_parser = ["queued", "running", "success", "timeout", "error", "cancelled"])]
        status: Option<String>,
        /// Only those made after this: seconds since 1970, or how long ago (90s, 15m, 2h, 7d)
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Option<u64>,
        /// Only those made before this, likewise
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: Option<u64>,
        /// The newest so many
        #[arg(long, short = 'n', default_value_t = 30)]
        last: usize,
    },
    /// One call
    Inspect { app: String, function: String, call: String },
    /// What a detached call was answered, on standard output
    Answer { app: String, function: String, call: String },
    /// A detached call that waits is not to run
    Cancel { app: String, function: String, call: String },
    /// A detached call that failed for good is to run again
    Again { app: String, function: String, call: String },
}

/// Seconds since 1970, given as they are or as how long ago.
fn time(text: &str) -> Result<u64, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    time_at(text, now)
}

pub(super) fn time_at(text: &str, now_s: u64) -> Result<u64, String> {
    let wrong = "it must be seconds since 1970, or how long ago: 90s, 15m, 2h or 7d".to_owned();
    let unit = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)].into_iter().find(|(name, _)| text.ends_with(*name));
    let digits = text.strip_suffix(|c| unit.is_some_and(|(name, _)| c == name)).unwrap_or(text);
    // The server counts in milliseconds.
    let number = digits.parse::<u64>().ok().filter(|number| *number <= u64::from(u32::MAX) && !digits.starts_with('+')).ok_or(wrong)?;
    Ok(unit.map_or(number, |(_, seconds)| now_s.saturating_sub(number * seconds)))
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Go on with what is printed from now on
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Only the last so many lines of what is there; with -f, 0 shows only new ones
    #[arg(long, short = 'n', value_name = "LINES")]
    pub(super) tail: Option<usize>,
    pub(super) app: String,
    /// A function's name, for all its containers print; or a call's id
    #[arg(value_name = "FN|CALL")]
    pub(super) what: String,
}

#[derive(Debug, Args)]
pub(super) struct Invoke {
    pub(super) app: String,
    pub(super) function: String,
    /// Type of what is sent
    #[arg(long, value_name = "TYPE")]
    pub(super) content_type: Option<String>,
    /// Another request header. May be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    pub(super) header: Vec<(String, String)>,
    /// Run it later: prints the call's id, see `hob calls`
    #[arg(long)]
    pub(super) detached: bool,
    /// Print the call's id on standard error
    #[arg(long)]
    pub(super) call_id: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("it must have the form 'NAME: VALUE'".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// The folder with func.yaml
    #[arg(default_value = ".")]
    pub(super) folder: PathBuf,
    /// The app it goes to; made when missing
    #[arg(long, default_value = "default")]
    pub(super) app: String,
    #[command(flatten)]
    pub(super) place: ImagePlace,
}

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    pub(super) command: Image,
    #[command(flatten)]
    pub(super) place: ImagePlace,
}

/// Where images lie.
#[derive(Debug, Args)]
pub(super) struct ImagePlace {
    /// docker: the engine's images; sandbox: hob's own store, in HOB_DATA;
    /// auto: the engine if one answers [default: HOB_DRIVER]
    #[arg(long, global = true, value_name = "DRIVER", value_parser = ["auto", "docker", "sandbox"])]
    pub(super) driver: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Load a saved image, - for standard input
    ///
    /// A docker archive (docker save). Hob's own store also takes OCI layouts
    /// (skopeo copy … oci-archive:…, podman save --format oci-archive), and both
    /// compressed with gzip or zstd.
    Load {
        file: PathBuf,
        /// What it is called here; needed for archives that do not say it
        #[arg(long, value_name = "IMAGE")]
        name: Option<String>,
    },
    /// Pull an image from its registry, also if it is there already
    ///
    /// Credentials are those of `docker login` (FN_DOCKER_AUTH, or config.json in
    /// DOCKER_CONFIG). A transfer that was cut goes on where it was. The time
    /// limit is FN_HOT_PULL_TIMEOUT_MSECS.
    Pull { image: String },
    /// All images that have a name
    List,
    /// Remove an image
    Remove { image: String },
    /// Remove what no image needs: layers, unpacked roots, cut transfers
    ///
    /// Of hob's own store. What a running function uses stays.
    Prune,
}
