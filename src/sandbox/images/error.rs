//! What can go wrong between an image's name and its files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::call::LaunchError;
use crate::registry::{HelperError, NameError};

/// The store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot {verb} {}: {source}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("{} was written by a newer hob (format {found}, this one knows {known})", path.display())]
    Format { path: PathBuf, found: String, known: u32 },
    #[error(transparent)]
    Auth(#[from] crate::registry::AuthError),
}

/// An image can't be had. Cheap to clone: one failure is told to all who
/// waited for the same image.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no image '{image}'{why}")]
    NotFound { image: String, why: String },
    #[error("registry {registry} denies access to '{image}': {text}")]
    Denied { image: String, registry: String, text: String },
    #[error("not complete in time ({what})")]
    TimedOut { what: String },
    #[error("called off")]
    CalledOff,
    #[error("no space left for {what}")]
    NoSpace { what: String },
    #[error("{what} is not what its digest says: {want} wanted, {got} found")]
    WrongDigest { what: String, want: String, got: String },
    #[error("'{image}' is not for this machine: linux/{want} wanted, {have} found")]
    WrongArchitecture { image: String, want: String, have: String },
    #[error("{what} is larger than allowed ({limit})")]
    TooBig { what: String, limit: u64 },
    #[error("the archive is refused: '{path}' {why}")]
    Hostile { path: String, why: &'static str },
    #[error("{what} is damaged or no such thing: {text}")]
    Malformed { what: String, text: String },
    #[error("{what} is not supported")]
    Unsupported { what: String },
    #[error("registry {registry} failed ({status}): {text}")]
    Registry { registry: String, status: u16, text: String },
    #[error("registry {registry} does not answer: {text}")]
    Away { registry: String, text: String },
    #[error("'{image}' is in use")]
    InUse { image: String },
    #[error("cannot {verb} {}: {source}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: Arc<io::Error> },
}

impl ImageError {
    /// Of an I/O error, or of the `ImageError` that travels inside one.
    pub(super) fn of_io(error: io::Error, verb: &'static str, path: &Path) -> ImageError {
        if let Some(inner) = error.get_ref().and_then(|e| e.downcast_ref::<ImageError>()) {
            return inner.clone();
        }
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace { what: path.display().to_string() },
            _ => ImageError::Io { verb, path: path.to_owned(), source: Arc::new(error) },
        }
    }

    /// Asked, and the answer is no; else it could not be asked, or was asked wrongly.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, ImageError::Name(_) | ImageError::Away { .. } | ImageError::TimedOut { .. } | ImageError::Io { .. })
    }

    /// To travel through a `Read` or `Write`.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// A refusal says what would help, and which helper failed to.
    pub(super) fn advise(self, trouble: Option<HelperError>) -> ImageError {
        match self {
            ImageError::Denied { image, registry, text } => {
                let trouble = trouble.map(|t| format!(" ({t})")).unwrap_or_default();
                let text = format!("{text}; the registry wants other credentials: DOCKER_CONFIG or FN_DOCKER_AUTH gives them{trouble}");
                ImageError::Denied { image, registry, text }
            }
            other => other,
        }
    }

    /// As a waiting caller of a function is told.
    pub fn launch_error(self, image: &str, limit: Duration) -> LaunchError {
        let status = match &self {
            ImageError::Name(_) => Some(400),
            ImageError::NotFound { .. } => Some(404),
            ImageError::Denied { .. } => Some(403),
            ImageError::Registry { status, .. } => Some(*status),
            ImageError::TimedOut { .. } => return LaunchError::PullTimeout { image: image.to_owned(), limit },
            ImageError::CalledOff => return LaunchError::CalledOff { why: "the server is shutting down" },
            ImageError::NoSpace { .. }
            | ImageError::WrongDigest { .. }
            | ImageError::WrongArchitecture { .. }
            | ImageError::TooBig { .. }
            | ImageError::Hostile { .. }
            | ImageError::Malformed { .. }
            | ImageError::Unsupported { .. }
            | ImageError::Away { .. }
            | ImageError::InUse { .. }
            | ImageError::Io { .. } => None,
        };
        LaunchError::Pull { image: image.to_owned(), status, text: self.to_string() }
    }
}

/// Maps I/O errors of one step: `.map_err(io_at("write", path))`.
pub(super) fn io_at<'p, E: Into<io::Error>>(verb: &'static str, path: &'p Path) -> impl FnOnce(E) -> ImageError + 'p {
    move |e| ImageError::of_io(e.into(), verb, path)
}
