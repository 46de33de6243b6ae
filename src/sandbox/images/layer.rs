//! One layer: decompressed, metered, hashed, and applied to a tree.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest, Sha256};

use super::error::{ImageError, io_at};
use super::limits::Limits;
use super::tar::Reader;
use super::tree::Tree;
use super::wait::Until;

/// The largest window of a zstd frame: what its reader must keep in memory.
const MAX_WINDOW: u64 = 128 << 20;

/// What the layers of one image may still use.
#[derive(Debug)]
pub(super) struct Allowance<'l> {
    limits: &'l Limits,
    bytes: u64,
    entries: u64,
}

impl<'l> Allowance<'l> {
    pub(super) fn new(limits: &'l Limits) -> Allowance<'l> {
        Allowance { limits, bytes: limits.bytes, entries: limits.entries }
    }
}

/// Unpacks one layer into `tree`. Returns the digest of what was compressed,
/// as the image's configuration lists it.
///
/// # Errors
/// It is hostile, damaged, too big, or the file system refuses.
pub(super) fn apply(blob: impl Read, tree: &mut Tree, allowance: &mut Allowance<'_>, until: &Until<'_>) -> Result<String, ImageError> {
    let here = std::path::Path::new("layer");
    let fed = Arc::new(AtomicU64::new(0));
    let counted = BufReader::with_capacity(64 * 1024, Fed { inner: blob, fed: fed.clone() });
    let plain = plain(counted).map_err(io_at("read", here))?;
    let mut sha = Sha256::new();
    let metered = Metered { inner: plain, fed, out: 0, left: &mut allowance.bytes, limits: allowance.limits, sha: &mut sha, until };
    tree.next_layer();
    let mut reader = Reader::new(metered);
    while let Some(entry) = reader.next().map_err(io_at("read", here))? {
        allowance.entries = allowance
            .entries
            .checked_sub(1)
            .ok_or_else(|| ImageError::TooBig { what: "the image's number of files".to_owned(), limit: allowance.limits.entries })?;
        tree.place(&entry, &mut reader)?;
    }
    reader.drain().map_err(io_at("read", here))?;
    Ok(super::digest::text(sha))
}

/// By its first bytes, whatever a manifest says: gzip, zstd or a plain tar.
///
/// # Errors
/// Another compression, or nothing readable.
pub(super) fn plain<'r>(mut source: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut first = [0u8; 6];
    let mut have = 0;
    // A buffered reader may give fewer bytes than there are.
    while have < first.len() {
        match source.read(&mut first[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let start = first[..have].to_vec();
    let whole = BufReader::with_capacity(64 * 1024, io::Cursor::new(start).chain(source));
    Ok(match first {
        [0x1f, 0x8b, ..] => Box::new(Gunzip { inner: MultiGzDecoder::new(whole) }),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Unzstd::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(ImageError::Unsupported { what: "xz compression".to_owned() }.into_io()),
        [b'B', b'Z', b'h', ..] => return Err(ImageError::Unsupported { what: "bzip2 compression".to_owned() }.into_io()),
        _ => Box::new(whole),
    })
}

fn damaged(what: &str, error: &dyn std::fmt::Display) -> io::Error {
    ImageError::Malformed { what: what.to_owned(), text: error.to_string() }.into_io()
}

/// Counts what goes into the decompression.
struct Fed<R> {
    inner: R,
    fed: Arc<AtomicU64>,
}

impl<R: Read> Read for Fed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.fed.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

struct Gunzip<R> {
    inner: MultiGzDecoder<R>,
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged("a gzip stream", &e),
            _ => e,
        })
    }
}

/// One zstd frame after the other; skippable ones are skipped.
struct Unzstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Unzstd<R> {
    fn new(source: R) -> Unzstd<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Unzstd { source, decoder, in_frame: false }
    }

    /// False at the end of everything.
    fn open_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(u64::from(length)), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(damaged("a zstd stream", &"it ends in the middle of a frame"));
                    }
                }
                Err(e) => return Err(damaged("a zstd stream", &e)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Unzstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.open_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1)).map_err(|e| damaged("a zstd stream", &e))?;
            }
            let n = self.decoder.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            self.in_frame = false;
        }
    }
}

/// What comes out of the decompression: bounded, hashed, in time.
struct Metered<'m, 'u, R> {
    inner: R,
    fed: Arc<AtomicU64>,
    out: u64,
    left: &'m mut u64,
    limits: &'m Limits,
    sha: &'m mut Sha256,
    until: &'m Until<'u>,
}

impl<R: Read> Read for Metered<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.until.check("unpacking the image").map_err(ImageError::into_io)?;
        let n = self.inner.read(buf)?;
        let bytes = n as u64;
        self.out += bytes;
        *self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| ImageError::TooBig { what: "the image unpacked, in bytes".to_owned(), limit: self.limits.bytes }.into_io())?;
        let fed = self.fed.load(Ordering::Relaxed);
        if self.out > self.limits.ratio_from && self.out / self.limits.ratio.max(1) > fed {
            return Err(ImageError::TooBig { what: "what comes out of a compressed layer for each byte of it".to_owned(), limit: self.limits.ratio }.into_io());
        }
        self.sha.update(&buf[..n]);
        Ok(n)
    }
}
