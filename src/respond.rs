//! The one place that maps errors to HTTP: status, text, Retry-After.
//!
//! Owns: `answer_for`, a single `match` without a wildcard per error enum, and
//! the JSON error body. Called by: `edge`, `api`. Blocks on: nothing. Does
//! not: write to sockets. The first words of each text are the original's
//! (spec http-api §2.1); what follows the colon says which limit fired and
//! what to do.

use std::borrow::Cow;

use crate::call::{CallError, DetachError, LaunchError};
use crate::model::ModelError;

/// What the client is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub message: Cow<'static, str>,
    /// Seconds, for `Retry-After`.
    pub retry_after_s: Option<u32>,
}

impl Answer {
    pub fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Answer {
        Answer { status, message: message.into(), retry_after_s: None }
    }

    fn retry(self, seconds: u32) -> Answer {
        Answer { retry_after_s: Some(seconds), ..self }
    }

    /// `{"message":"…"}` and a newline (spec http-api §1.3).
    pub fn json(&self) -> String {
        format!("{{\"message\":{}}}\n", serde_json::Value::from(self.message.as_ref()))
    }
}

/// A number of lines that is none.
pub const INVALID_TAIL: &str = "Invalid tail: it is how many of the last lines are wanted, a whole number";

/// There is no log of a call. Good calls that printed nothing have none either.
pub const NO_LOG: &str =
    "Call log not found: no call with this id has one at this function, or has it still (HOB_CALL_LOGS, HOB_LOG_BYTES_PER_FN, HOB_CALLS_MAX_AGE_SECS)";

const BUSY: &str = "Timed out - server too busy";
const INIT_FAILED: &str = "Container failed to initialize, please ensure you are using the latest fdk and check the logs";
const INIT_TIMEOUT: &str = "Container initialization timed out, please ensure you are using the latest fdk and check the logs";

/// The answer to a failed call (spec agent §1.11, http-api §3.4).
pub fn call_answer(error: &CallError) -> Answer {
    match error {
        CallError::Draining => Answer::new(503, format!("{BUSY}: the server is shutting down")).retry(15),
        CallError::WaitTimeout { waited, last_launch } => {
            let why = match last_launch {
                Some(launch) => format!("; the last container start failed: {launch}"),
                None => String::new(),
            };
            Answer::new(503, format!("{BUSY}: waited {:.1} s for a free container (HOB_MAX_WAIT_MSECS){why}", waited.as_secs_f64())).retry(15)
        }
        CallError::QueueFull { limit, retry_after_s } => Answer::new(
            503,
            format!("{BUSY}: {limit} calls wait for this function already, or too many on the whole server (HOB_MAX_QUEUED, HOB_MAX_QUEUED_NODE)"),
        )
        .retry(*retry_after_s),
        CallError::NoCapacity { retry_after_s } => Answer::new(
            503,
            format!("{BUSY}: nothing is free for another container and it is not waited for (FN_ENABLE_NB_RESOURCE_TRACKER), or no thread is left"),
        )
        .retry(*retry_after_s),
        CallError::TooBig { need_mib, need_mcpu, total_mib, total_mcpu } => Answer::new(
            400,
            format!(
                "Requested CPU/Memory cannot be allocated: the function asks for {need_mib} MiB and {need_mcpu} mCPU, this server can give {total_mib} MiB and {total_mcpu} mCPU"
            ),
        ),
        CallError::Launch(launch) => launch_answer(launch),
        CallError::Timeout { limit } => Answer::new(504, format!("Timed out: the function ran longer than its timeout of {} s", limit.as_secs())),
        CallError::FunctionTimeout => Answer::new(504, "Timed out: the function itself reported that its time was up"),
        CallError::NoAnswer { cause, exit } => {
            let why = match exit {
                Some(exit) => format!("the container ended during the call: {exit}"),
                None => cause.clone(),
            };
            Answer::new(502, format!("error receiving function response: {why}"))
        }
        CallError::FunctionFailed => Answer::new(502, "function failed"),
        CallError::InvalidAnswer { status } => Answer::new(502, format!("invalid function response: status {status}, an FDK answers 200, 502 or 504")),
        CallError::BadAnswer { cause } => Answer::new(502, format!("invalid function response: {cause}")),
        CallError::AnswerTooBig { limit } => Answer::new(502, format!("function response body too large: the limit is {limit} bytes (FN_MAX_RESPONSE_SIZE)")),
        CallError::AnswerHeadTooBig { limit } => {
            Answer::new(502, format!("function response header too large: the limit is {limit} bytes (FN_MAX_HDR_RESPONSE_SIZE)"))
        }
        CallError::ClientGone => Answer::new(444, ""),
        CallError::Broken { .. } => Answer::new(502, "error receiving function response"),
        CallError::Objected(objection) => {
            let status = if (400..=599).contains(&objection.status) { objection.status } else { 500 };
            Answer::new(status, objection.message.clone())
        }
        CallError::Internal(_) => Answer::new(500, "internal server error"),
    }
}

/// The answer to a detached call that is not accepted.
pub fn detach_answer(error: &DetachError) -> Answer {
    match error {
        DetachError::Draining => Answer::new(503, format!("{BUSY}: the server is shutting down")).retry(15),
        DetachError::Off => Answer::new(501, "Detached calls are switched off on this server (HOB_DETACHED_WORKERS)"),
        DetachError::NoCallbacks => Answer::new(400, "Bad request: Hob-Callback cannot be had, callbacks are switched off (HOB_CALLBACK_WORKERS)"),
        DetachError::PrivateCallback { address } => Answer::new(
            400,
            format!(
                "Bad request: Hob-Callback goes to {address}, which is not a public address: give one that is, or have the server allow all (HOB_CALLBACK_PRIVATE=true)"
            ),
        ),
        DetachError::TooLarge { len, max } => {
            Answer::new(413, format!("Content-Length too large for this server, {len} > max {max} of a detached call (HOB_DETACHED_MAX_BODY)"))
        }
        DetachError::Full { limit } => Answer::new(503, format!("{BUSY}: {limit} detached calls wait or run already (HOB_DETACHED_MAX_QUEUED)")).retry(30),
        DetachError::FullBytes { limit } => {
            Answer::new(503, format!("{BUSY}: the bodies of detached calls that wait or run would have more than {limit} bytes (HOB_DETACHED_MAX_BYTES)"))
                .retry(30)
        }
        DetachError::NotKnown { cause } => Answer::new(503, format!("{BUSY}: it is not known whether the call is kept and will run: {cause}")).retry(15),
        DetachError::FullCallbacks { limit, to } => {
            Answer::new(503, format!("{BUSY}: {limit} ends of calls are still to be told to {to} (HOB_CALLBACK_MAX_QUEUED)")).retry(30)
        }
        DetachError::NotKept { cause } => Answer::new(503, format!("{BUSY}: the call cannot be kept, it will not run: {cause}")).retry(5),
    }
}

fn launch_answer(error: &LaunchError) -> Answer {
    match error {
        LaunchError::Pull { image, status, text } => {
            let status = status.filter(|s| (400..500).contains(s)).unwrap_or(502);
            Answer::new(status, format!("Failed to pull image '{image}': {text}"))
        }
        LaunchError::PullTimeout { image, limit } => {
            Answer::new(504, format!("Image pull timed out: '{image}' was not there after {} s (FN_HOT_PULL_TIMEOUT_MSECS)", limit.as_secs()))
        }
        LaunchError::ImageVolume { image } => Answer::new(400, format!("image has Volume definition: '{image}' (FN_IMAGE_ENABLE_VOLUME allows it)")),
        LaunchError::ImageForbidden { image } => Answer::new(403, forbidden(image)),
        LaunchError::ImagePlatform { image, has, needs } => Answer::new(
            400,
            format!(
                "image '{image}' is for {has}, this host runs {needs}: build it for that (where the host emulates others, HOB_IMAGE_ANY_PLATFORM allows it)"
            ),
        ),
        LaunchError::Engine { step, text } => Answer::new(502, format!("{INIT_FAILED}: the container engine failed at {step}: {text}")),
        LaunchError::Syslog { text } => Answer::new(500, format!("Syslog Unavailable: {text}")),
        LaunchError::EngineAway { step, text } => Answer::new(503, format!("{BUSY}: the container engine does not answer ({step}: {text})")).retry(15),
        LaunchError::Exited { exit, .. } => Answer::new(502, format!("{INIT_FAILED}: it ended before its socket appeared: {exit}")),
        LaunchError::NoSocket { limit, .. } => {
            Answer::new(504, format!("{INIT_TIMEOUT}: no socket at FN_LISTENER within {:.1} s (FN_HOT_START_TIMEOUT_MSECS)", limit.as_secs_f64()))
        }
        LaunchError::BadSocket { text, .. } => Answer::new(502, format!("{INIT_FAILED}: {text}")),
        LaunchError::Iofs { text } => Answer::new(500, format!("internal server error: the socket folder could not be made: {text}")),
        LaunchError::CalledOff { why } => Answer::new(503, format!("{BUSY}: {why}")).retry(15),
    }
}

fn forbidden(image: &str) -> String {
    format!("Image '{image}' is not allowed on this server: HOB_IMAGE_ALLOW names those that are")
}

/// The answer to a refused management request (spec http-api §2.1).
pub fn model_answer(error: &ModelError) -> Answer {
    use ModelError as E;
    let (status, text) = match error {
        E::InvalidJson => (400, "Invalid JSON"),
        E::InvalidCursor => (400, "Invalid cursor: pass next_cursor of the previous page, or none"),

        E::AppMissingName => (400, "Missing Name"),
        E::AppIdProvided => (400, "App ID cannot be supplied on create"),
        E::AppIdMismatch => (400, "App ID in path does not match ID in body"),
        E::AppNameTooLong => (400, "App name must be 255 characters or less"),
        E::AppNameInvalid => (400, "Invalid app name"),
        E::AppExists => (409, "App already exists"),
        E::AppNameImmutable => (409, "Could not update - name is immutable"),
        E::AppNotFound => (404, "App not found"),
        E::AppShapeInvalid => (400, "Invalid app shape"),
        E::SyslogInvalid { url, reason } => return Answer::new(400, format!("invalid syslog url: {url:?} {reason}")),

        E::FnMissingApp => (400, "Missing AppID on Fn"),
        E::FnMissingName => (400, "Missing Fn name"),
        E::FnNameTooLong => (400, "Fn name must be 255 characters or less"),
        E::FnNameInvalid => (400, "name must be a valid string"),
        E::FnMissingImage => (400, "Missing image on Fn"),
        E::FnImageInvalid => (400, "Invalid Fn image: no image can have this name"),
        E::FnImageForbidden { image } => return Answer::new(403, forbidden(image)),
        E::FnTimeoutRange => (400, "timeout value is out of range, must be between 0 and 300"),
        E::FnIdleTimeoutRange => (400, "idle_timeout value is out of range, must be between 0 and 3600"),
        E::FnMemoryRange => (400, "memory value is out of range. It should be between 0 and 8192"),
        E::FnIdProvided => (400, "ID cannot be provided for Fn creation"),
        E::FnIdMismatch => (400, "Fn ID in path does not match that in body"),
        E::FnExists => (409, "Fn with specified name already exists"),
        E::FnNotFound => (404, "Fn not found"),

        E::TriggerMissingApp => (400, "Missing App ID on Trigger"),
        E::TriggerMissingName => (400, "Missing name on Trigger"),
        E::TriggerNameTooLong => (400, "Trigger name must be 255 characters or less"),
        E::TriggerNameInvalid => (400, "Invalid name for Trigger"),
        E::TriggerMissingFn => (400, "Missing Fn ID on Trigger"),
        E::TriggerFnWrongApp => (400, "Invalid Fn ID - not owned by specified app"),
        E::TriggerAppImmutable => (400, "Invalid App ID - a trigger cannot move to another app"),
        E::TriggerType => (400, "Trigger Type Not Supported"),
        E::TriggerMissingSource => (400, "Missing Trigger Source"),
        E::TriggerSourcePrefix => (400, "Missing Trigger Source Prefix '/'"),
        E::TriggerIdProvided => (400, "ID cannot be provided for Trigger creation"),
        E::TriggerCreatedProvided => (400, "Trigger Created At Provided for Create"),
        // The original's text, slip included: clients may match on it.
        E::TriggerUpdatedProvided => (400, "Trigger ID Provided for Create"),
        E::TriggerIdMismatch => (400, "ID in path does not match ID in body"),
        E::TriggerExists => (409, "Trigger already exists"),
        E::TriggerSourceExists => (409, "Trigger with the same type and source exists on this app"),
        E::TriggerNotFound => (404, "Trigger not found"),

        E::AnnotationKey => (400, "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace"),
        E::AnnotationKeyLength => (400, "Invalid annotation key length, annotation keys may not be larger than 128 bytes"),
        E::AnnotationValue => (400, "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays"),
        E::AnnotationValueLength => (400, "Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON"),
        E::AnnotationCount => (400, "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)"),

        E::AnnotationPull => return Answer::new(400, "Invalid annotation value, hob/pull must be \"if-missing\", \"always\" or \"never\""),
        E::AnnotationLimit { key, most } => return Answer::new(400, format!("Invalid annotation value, {key} must be a whole number of at most {most}")),
        E::AnnotationInvokeType => (400, "Invalid annotation value, hob/invoke-type must be \"detached\" or \"sync\""),
        E::AnnotationNetwork { key } => return Answer::new(400, format!("Invalid annotation value, {key} must be \"none\" or \"default\"")),
        E::ConfigKeyEmpty => (400, "Invalid config, keys must not be empty"),
        E::ConfigKeyInvalid { key } => {
            return Answer::new(400, format!("Invalid config key {key:?}, keys become environment variables and must not contain '=' or NUL"));
        }
        E::ConfigValueNul { key } => {
            return Answer::new(400, format!("Invalid config value of {key:?}, values become environment variables and must not contain NUL"));
        }
        E::ConfigTooLong { key } => {
            return Answer::new(400, format!("Invalid config entry {key:?}, key and value together may not be larger than 131070 bytes"));
        }
    };
    Answer::new(status, text)
}
