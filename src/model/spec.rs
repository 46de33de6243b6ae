//! A function's exact run configuration, derived once per change and shared
//! by every call: what the hot path needs without touching maps or hashes.

use super::{App, Fn, Id};

/// SHA-256 over the exact configuration (spec agent §2.3): calls with the same
/// key may share containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey(pub [u8; 32]);

/// What one slot queue runs.
#[derive(Debug, Clone)]
pub struct FnSpec {
    pub key: SlotKey,
    pub app_id: Id,
    pub app_name: String,
    pub fn_id: Id,
    pub fn_name: String,
    pub image: String,
    /// Complete environment: app config, fn config over it, fixed keys over both.
    pub env: Vec<(String, String)>,
    /// Execution limit, seconds.
    pub timeout_s: u32,
    /// An idle container lives this long, seconds.
    pub idle_timeout_s: u32,
    pub memory_mib: u64,
    /// 0 = not limited.
    pub cpu_milli: u64,
    /// 0 = not limited.
    pub tmpfs_mib: u64,
    pub syslog_url: Option<String>,
}

impl FnSpec {
    /// Derives the run configuration of `function` inside `app`.
    pub fn derive(app: &App, function: &Fn) -> FnSpec {
        let _ = (app, function);
        unimplemented!("model::spec")
    }
}
