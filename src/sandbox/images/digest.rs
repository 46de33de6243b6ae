//! Digests as registries write them, and a writer that makes one.

use std::fmt;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::error::ImageError;

/// `sha256:` and 64 lower-case hexadecimal digits: safe in a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    /// # Errors
    /// Another algorithm, or not 64 digits.
    pub fn parse(text: &str) -> Result<Digest, ImageError> {
        let ok = text.strip_prefix(PREFIX).is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        if ok {
            return Ok(Digest(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(ImageError::Malformed { what: format!("digest '{}'", shown.escape_debug()), text: "it must be sha256: and 64 hexadecimal digits".to_owned() })
    }

    pub fn of(bytes: &[u8]) -> Digest {
        Digest(text(Sha256::new_with_prefix(bytes)))
    }

    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The finished hash's text.
pub(super) fn text(sha: Sha256) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(PREFIX.len() + 64);
    out.push_str(PREFIX);
    for byte in sha.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Hashes and counts what is written through it.
#[derive(Debug)]
pub struct Hashing<W> {
    pub(super) inner: W,
    pub(super) sha: Sha256,
    pub(super) length: u64,
}

impl<W: Write> Hashing<W> {
    pub fn new(inner: W) -> Hashing<W> {
        Hashing { inner, sha: Sha256::new(), length: 0 }
    }

    /// What was written to, the digest and the number of bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(text(self.sha)), self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.sha.update(&buf[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
