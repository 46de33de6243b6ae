//! What is remembered of a call.

use super::queue::Waiting;
use crate::call::Origin;
use crate::model::{Id, Timestamp};

/// Where a call stands. The numbers are the database's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Queued = 0,
    Running = 1,
    Success = 2,
    Timeout = 3,
    Error = 4,
    Cancelled = 5,
}

const STATUSES: [(Status, &str); 6] = [
    (Status::Queued, "queued"),
    (Status::Running, "running"),
    (Status::Success, "success"),
    (Status::Timeout, "timeout"),
    (Status::Error, "error"),
    (Status::Cancelled, "cancelled"),
];

impl Status {
    pub fn name(self) -> &'static str {
        STATUSES[self as usize].1
    }

    pub fn parse(text: &str) -> Option<Status> {
        STATUSES.iter().find(|(_, name)| *name == text).map(|(status, _)| *status)
    }

    /// The status with the database's number; an unknown one counts as an error.
    pub(super) fn of(number: i64) -> Status {
        usize::try_from(number).ok().and_then(|n| STATUSES.get(n)).map_or(Status::Error, |(status, _)| *status)
    }

    /// Nothing more will happen to the call.
    pub fn is_final(self) -> bool {
        !matches!(self, Status::Queued | Status::Running)
    }
}

/// One call's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: Id,
    pub app_id: Id,
    pub fn_id: Id,
    pub detached: bool,
    pub status: Status,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub completed: Option<Timestamp>,
    /// Runs begun, of a detached call.
    pub attempts: u32,
    /// `hot`, `waited`, `frozen`, `cold`, or nothing when it got no container.
    pub start: &'static str,
    /// Until it had a container, and from then to its end.
    pub waited_us: u64,
    pub ran_us: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// The container that ran it, or that should have and did not come up.
    pub container: Option<Id>,
    /// Why it is no success.
    pub error: Option<String>,
    /// The trigger it came through.
    pub trigger: Option<Id>,
    pub phases: Phases,
    /// CPU time of the container meanwhile, and the most memory it held in
    /// bytes; of metered calls, where the cgroup tells.
    pub cpu_us: Option<u64>,
    pub memory_peak: Option<u64>,
}

/// Where a call's time went, in microseconds; 0 where there was no such phase.
/// `start` and `boot`, of a container started for it, are part of its wait;
/// the others make up its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases {
    pub start_us: u64,
    pub boot_us: u64,
    pub thaw_us: u64,
    pub dispatch_us: u64,
    pub function_us: u64,
}

impl Record {
    /// A detached call of which nothing has happened yet.
    pub(super) fn of(accepted: &Accepted) -> Record {
        Record {
            id: accepted.id,
            app_id: accepted.app_id,
            fn_id: accepted.fn_id,
            detached: true,
            status: Status::Queued,
            created: accepted.created,
            started: None,
            completed: None,
            attempts: 0,
            start: "",
            waited_us: 0,
            ran_us: 0,
            request_bytes: accepted.body.len() as u64,
            response_bytes: 0,
            container: None,
            error: None,
            trigger: accepted.trigger,
            phases: Phases::default(),
            cpu_us: None,
            memory_peak: None,
        }
    }
}

pub(super) fn start_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Idle => "hot",
        Origin::HandedOver => "waited",
        Origin::Frozen => "frozen",
        Origin::Started(_) => "cold",
    }
}

/// The same word from the database.
pub(super) fn known_start(text: &str) -> &'static str {
    ["hot", "waited", "frozen", "cold"].into_iter().find(|known| *known == text).unwrap_or("")
}

/// A detached call as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub id: Id,
    pub app_id: Id,
    pub fn_id: Id,
    pub created: Timestamp,
    /// 0 to 2, the highest first.
    pub priority: u8,
    /// Not before this time, by the clock of `created`.
    pub due: Timestamp,
    /// Header lines for the function.
    pub fields: Vec<u8>,
    pub body: Vec<u8>,
    /// Repeats with the same key are this call.
    pub key: Option<String>,
    pub trigger: Option<Id>,
    /// Told of its end.
    pub callback: Option<String>,
}

/// The answer of a detached call, kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// The function's fields, as `Name: value` lines.
    pub fields: String,
    pub body: Vec<u8>,
    /// The body was longer than what is kept.
    pub cut: bool,
}

impl Kept {
    /// The status that a trigger's caller would have got.
    pub fn status(&self) -> u16 {
        let told = self.pairs().into_iter().find(|(name, _)| name.eq_ignore_ascii_case("fn-http-status"));
        told.and_then(|(_, value)| value.trim().parse().ok()).filter(|status| (200..=599).contains(status)).unwrap_or(200)
    }

    /// The fields as names and values.
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.fields.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// How a run of a detached call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It ran, well or not, and is over.
    Done { record: Box<Record>, answer: Option<Kept> },
    /// It is tried again, when it is due.
    Again { waiting: Waiting, error: String },
}
