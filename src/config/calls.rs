//! The settings of kept calls.

use std::time::Duration;

use super::Raw;

/// Which synchronous calls are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    None,
    Errors,
    All,
}

/// What is kept of calls, and how detached ones run.
#[derive(Debug, Clone)]
pub struct CallsConfig {
    pub keep: Keep,
    /// Records kept of one function, of all.
    pub keep_per_function: u64,
    pub keep_in_all: u64,
    pub keep_for: Duration,
    pub keep_answers: Duration,
    /// Bytes of answers and of dead calls' bodies.
    pub answer_bytes: u64,
    /// Records of synchronous calls tell CPU and memory too.
    pub usage: bool,
    /// What functions print is written down.
    pub keep_logs: bool,
    /// Bytes of logs on disk: of one function, of all.
    pub log_bytes_per_function: u64,
    pub log_bytes: u64,
    /// Detached calls waiting or running at the same time.
    pub max_queued: usize,
    pub max_queued_bytes: u64,
    /// Bytes of a detached call's body.
    pub max_body: u64,
    /// Runs of a detached call at the same time; 0 = none are accepted.
    pub workers: usize,
    pub attempts: u32,
    /// Callbacks under way at the same time; 0 = none are accepted.
    pub callback_workers: usize,
    /// Ends still to be told; half of that to one host.
    pub max_callbacks: usize,
    /// Signs callbacks.
    pub callback_secret: Option<String>,
    /// Callbacks may go to addresses that are not public.
    pub callback_private: bool,
    /// Share of the node's memory that detached calls may use, percent.
    pub share_percent: u64,
}

impl Raw {
    pub(super) fn calls(&mut self) -> CallsConfig {
        let keep = match self.text("HOB_CALL_RECORDS").as_str() {
            "none" => Keep::None,
            "all" => Keep::All,
            _ => Keep::Errors,
        };
        CallsConfig {
            keep,
            keep_per_function: self.count("HOB_CALLS_PER_FN"),
            keep_in_all: self.count("HOB_CALLS_TOTAL"),
            keep_for: Duration::from_secs(self.count("HOB_CALLS_MAX_AGE_SECS")),
            keep_answers: Duration::from_secs(self.count("HOB_ANSWERS_MAX_AGE_SECS")),
            answer_bytes: self.count("HOB_ANSWERS_MAX_BYTES"),
            usage: self.switch("HOB_CALL_USAGE"),
            keep_logs: self.switch("HOB_CALL_LOGS"),
            log_bytes_per_function: self.count("HOB_LOG_BYTES_PER_FN"),
            log_bytes: self.count("HOB_LOG_BYTES"),
            max_queued: self.size("HOB_DETACHED_MAX_QUEUED"),
            max_queued_bytes: self.count("HOB_DETACHED_MAX_BYTES"),
            max_body: self.count("HOB_DETACHED_MAX_BODY"),
            workers: self.size("HOB_DETACHED_WORKERS").min(256),
            attempts: u32::try_from(self.count("HOB_DETACHED_ATTEMPTS")).unwrap_or(u32::MAX),
            callback_workers: self.size("HOB_CALLBACK_WORKERS").min(64),
            max_callbacks: self.size("HOB_CALLBACK_MAX_QUEUED"),
            callback_secret: self.optional("HOB_CALLBACK_SECRET"),
            callback_private: self.switch("HOB_CALLBACK_PRIVATE"),
            share_percent: self.count("HOB_DETACHED_SHARE_PERCENT").min(100),
        }
    }
}
