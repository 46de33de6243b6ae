//! The rules of single fields. Which are checked in which order is the
//! resources' business (`resource`).

use super::{Annotations, ModelError, Settings};

const MAX_NAME: usize = 255;
const MAX_ANNOTATION_KEY: usize = 128;
pub(super) const MAX_ANNOTATION_VALUE: usize = 512;
const MAX_ANNOTATIONS: usize = 100;

/// The kernel's limit of one environment string (MAX_ARG_STRLEN, 32 pages),
/// the closing NUL included.
const MAX_ENV_STRING: usize = 128 * 1024;

pub(super) const SHAPES: [&str; 4] = ["", "GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM"];

/// What is wrong with a name.
pub(super) enum NameFault {
    Missing,
    TooLong,
    Invalid,
}

/// Names of apps and triggers: letters and numbers of any script, `_`, `-`;
/// the length counts bytes. (`is_alphanumeric` lets a few combining marks
/// pass that the original refuses.)
pub(super) fn check_name(name: &str) -> Result<(), NameFault> {
    check_name_with(name, |name| name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-'))
}

/// Names of fns: what a URL path segment may hold unescaped.
pub(super) fn check_fn_name(name: &str) -> Result<(), NameFault> {
    check_name_with(name, |name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&b)))
}

fn check_name_with(name: &str, valid: impl FnOnce(&str) -> bool) -> Result<(), NameFault> {
    match name {
        "" => Err(NameFault::Missing),
        _ if name.len() > MAX_NAME => Err(NameFault::TooLong),
        _ if !valid(name) => Err(NameFault::Invalid),
        _ => Ok(()),
    }
}

const MAX_IMAGE: usize = 512;

/// What no engine and no registry could take is refused when it is written,
/// not at every call (spec http-api §3.4). Whether there is such an image only
/// a start can tell.
pub(super) fn check_image(image: &str) -> Result<(), ModelError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&b);
    let parts = || image.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match image {
        "" => Err(ModelError::FnMissingImage),
        _ if image.len() > MAX_IMAGE || !image.bytes().all(legal) || !parts() || image.ends_with([':', '@']) => Err(ModelError::FnImageInvalid),
        _ => Ok(()),
    }
}

pub(super) fn check_annotations(annotations: &Annotations) -> Result<(), ModelError> {
    for (key, value) in annotations {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ModelError::AnnotationKey);
        }
        if key.len() > MAX_ANNOTATION_KEY {
            return Err(ModelError::AnnotationKeyLength);
        }
        if is_empty_annotation(value.get()) {
            return Err(ModelError::AnnotationValue);
        }
        if value.get().len() > MAX_ANNOTATION_VALUE {
            return Err(ModelError::AnnotationValueLength);
        }
    }
    super::limits::check(annotations)?;
    if annotations.len() > MAX_ANNOTATIONS { Err(ModelError::AnnotationCount) } else { Ok(()) }
}

/// The two values that cannot be stored and delete the key on an update.
pub(super) fn is_empty_annotation(json: &str) -> bool {
    matches!(json, "\"\"" | "null")
}

/// What the kernel or the engine would refuse at every start of a container is
/// refused here, once (spec http-api §2.2).
pub(super) fn check_config(config: &Settings) -> Result<(), ModelError> {
    for (key, value) in config {
        if key.is_empty() {
            return Err(ModelError::ConfigKeyEmpty);
        }
        if key.contains(['=', '\0']) {
            return Err(ModelError::ConfigKeyInvalid { key: key.clone() });
        }
        if value.contains('\0') {
            return Err(ModelError::ConfigValueNul { key: key.clone() });
        }
        if key.len() + 1 + value.len() + 1 > MAX_ENV_STRING {
            // The key may itself be the long part; an error text need not be.
            return Err(ModelError::ConfigTooLong { key: key.chars().take(64).collect() });
        }
    }
    Ok(())
}

/// The empty text is no URL and passes: it is how "none" is written.
pub(super) fn check_syslog(url: &str) -> Result<(), ModelError> {
    let reason = match url.trim() {
        "" if url.is_empty() => return Ok(()),
        trimmed if trimmed.chars().any(char::is_control) => "invalid control character in URL",
        trimmed => match trimmed.split_once(':') {
            Some((scheme, rest)) if ["tcp", "udp", "unix", "unixgram", "tcp+tls"].contains(&scheme.to_ascii_lowercase().as_str()) => {
                // Docker would take `udp:host` for no address at all.
                if rest.starts_with("//") {
                    return Ok(());
                }
                "missing // after the scheme"
            }
            _ => "invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported",
        },
    };
    Err(ModelError::SyslogInvalid { url: url.to_owned(), reason })
}
