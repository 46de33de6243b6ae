//! Everything that can be wrong with a resource or a request for one.

/// One variant per row of the original's catalogue (spec http-api §2.1) that
/// concerns apps, fns and triggers. `respond` has status and wire text; the
/// texts here are for logs and tests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("the body is not the JSON that is wanted")]
    InvalidJson,
    #[error("the list cursor is not one of ours")]
    InvalidCursor,

    #[error("app without a name")]
    AppMissingName,
    #[error("app id in a create")]
    AppIdProvided,
    #[error("app id in the path differs from the body's")]
    AppIdMismatch,
    #[error("app name too long")]
    AppNameTooLong,
    #[error("app name has characters that are not allowed")]
    AppNameInvalid,
    #[error("an app with this name exists")]
    AppExists,
    #[error("an app's name cannot change")]
    AppNameImmutable,
    #[error("no such app")]
    AppNotFound,
    #[error("unknown app shape")]
    AppShapeInvalid,
    #[error("invalid syslog url {url:?}: {reason}")]
    SyslogInvalid { url: String, reason: &'static str },

    #[error("fn without app id")]
    FnMissingApp,
    #[error("fn without a name")]
    FnMissingName,
    #[error("fn name too long")]
    FnNameTooLong,
    #[error("fn name has characters that are not allowed")]
    FnNameInvalid,
    #[error("fn without an image")]
    FnMissingImage,
    #[error("fn image that cannot be an image's name")]
    FnImageInvalid,
    #[error("fn image '{image}' is not one of those allowed")]
    FnImageForbidden { image: String },
    #[error("fn timeout out of range")]
    FnTimeoutRange,
    #[error("fn idle timeout out of range")]
    FnIdleTimeoutRange,
    #[error("fn memory out of range")]
    FnMemoryRange,
    #[error("fn id in a create")]
    FnIdProvided,
    #[error("fn id in the path differs from the body's")]
    FnIdMismatch,
    #[error("a fn with this name exists in the app")]
    FnExists,
    #[error("no such fn")]
    FnNotFound,

    #[error("trigger without app id")]
    TriggerMissingApp,
    #[error("trigger without a name")]
    TriggerMissingName,
    #[error("trigger name too long")]
    TriggerNameTooLong,
    #[error("trigger name has characters that are not allowed")]
    TriggerNameInvalid,
    #[error("trigger without fn id")]
    TriggerMissingFn,
    #[error("the trigger's fn belongs to another app")]
    TriggerFnWrongApp,
    #[error("a trigger's app cannot change")]
    TriggerAppImmutable,
    #[error("unknown trigger type")]
    TriggerType,
    #[error("trigger without a source")]
    TriggerMissingSource,
    #[error("trigger source does not start with /")]
    TriggerSourcePrefix,
    #[error("trigger id in a create")]
    TriggerIdProvided,
    #[error("trigger created_at in a create")]
    TriggerCreatedProvided,
    #[error("trigger updated_at in a create")]
    TriggerUpdatedProvided,
    #[error("trigger id in the path differs from the body's")]
    TriggerIdMismatch,
    #[error("a trigger with this name exists on the fn")]
    TriggerExists,
    #[error("a trigger with this type and source exists in the app")]
    TriggerSourceExists,
    #[error("no such trigger")]
    TriggerNotFound,

    #[error("annotation key is empty or not printable ascii")]
    AnnotationKey,
    #[error("annotation key too long")]
    AnnotationKeyLength,
    #[error("annotation value is empty or null")]
    AnnotationValue,
    #[error("annotation value too long")]
    AnnotationValueLength,
    #[error("too many annotations")]
    AnnotationCount,
    #[error("Invalid annotation value, {key} must be a whole number of at most {most}")]
    AnnotationLimit { key: &'static str, most: u64 },
    #[error("Invalid annotation value, hob/pull must be \"if-missing\", \"always\" or \"never\"")]
    AnnotationPull,
    #[error("Invalid annotation value, {key} must be \"none\" or \"default\"")]
    AnnotationNetwork { key: &'static str },
    #[error("Invalid annotation value, hob/invoke-type must be \"detached\" or \"sync\"")]
    AnnotationInvokeType,

    #[error("config with an empty key")]
    ConfigKeyEmpty,
    #[error("config key {key:?} has '=' or a NUL")]
    ConfigKeyInvalid { key: String },
    #[error("config value of {key:?} has a NUL")]
    ConfigValueNul { key: String },
    #[error("config entry {key:?} too long")]
    ConfigTooLong { key: String },
}
