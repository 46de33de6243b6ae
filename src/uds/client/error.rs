//! How a request to a server behind a Unix socket can fail.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::http1::{ChunkError, HeadError};

/// Where in an exchange something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connect,
    Send,
    Head,
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connecting",
            Phase::Send => "sending the request",
            Phase::Head => "waiting for the response",
            Phase::Body => "reading the response",
        })
    }
}

/// A request failed. An HTTP error status is not one of these.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("timed out {phase} ({limit:?})")]
    Timeout { phase: Phase, limit: Duration },
    #[error("the server closed the connection {phase}")]
    Closed { phase: Phase },
    #[error("not a valid exchange: {what}")]
    Malformed { what: &'static str },
    #[error("not a valid response: {source}")]
    Head { source: HeadError },
    #[error("not a valid response body: {source}")]
    Chunks { source: ChunkError },
    #[error("the response is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request's body could not be read: {source}")]
    RequestBody { source: io::Error },
    #[error("interrupted {phase}")]
    Interrupted { phase: Phase },
    #[error("failed {phase}: {source}")]
    Io { phase: Phase, source: io::Error },
}

impl ClientError {
    /// Nobody listens there: no such socket, connection refused.
    pub fn is_away(&self) -> bool {
        match self {
            ClientError::Connect { source, .. } => matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
            _ => false,
        }
    }

    pub(super) fn into_io(self) -> io::Error {
        let kind = match &self {
            ClientError::Timeout { .. } => io::ErrorKind::TimedOut,
            ClientError::Closed { .. } => io::ErrorKind::UnexpectedEof,
            ClientError::Malformed { .. } | ClientError::Head { .. } | ClientError::Chunks { .. } => io::ErrorKind::InvalidData,
            // Not `Interrupted`: readers of std would try again.
            ClientError::Interrupted { .. } => io::ErrorKind::ConnectionAborted,
            ClientError::Connect { .. } | ClientError::TooLarge { .. } | ClientError::RequestBody { .. } | ClientError::Io { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}
