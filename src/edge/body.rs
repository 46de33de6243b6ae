//! Reading a request's body to its end, before a slot is taken: into memory
//! up to 256 KiB, then into an unlinked temporary file.
//!
//! Memory grows with what has arrived, never with what was announced.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::sock::{Got, Sock};
use crate::call::Body;
use crate::http1::{BodyFraming, ChunkError, ChunkedDecoder};
use crate::model::Id;
use crate::pool::Stop;

/// Larger bodies go to a file.
const MEMORY_MAX: usize = 256 * 1024;
/// Least room for one receive.
const ROOM: usize = 16 * 1024;
/// After a last answer: how much more is taken, and for how long, before the
/// connection is closed. More than what the kernels of both sides hold of a
/// client that sends without looking.
pub(super) const DRAIN_MAX: usize = 8 * 1024 * 1024;
pub(super) const DRAIN_FOR: Duration = Duration::from_secs(1);

/// How bodies are read.
#[derive(Debug, Clone)]
pub(super) struct BodyLimits {
    /// 0 = none.
    pub(super) max: u64,
    /// What it is the limit of, behind the number.
    pub(super) of: &'static str,
    /// Longest silence.
    pub(super) silence: Duration,
    /// Where the temporary files are.
    pub(super) folder: PathBuf,
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body has {len} bytes or more, the limit is {max}")]
    TooLarge { len: u64, max: u64 },
    #[error("nothing arrived for {0:?}")]
    Silent(Duration),
    #[error("the client closed before the body's end")]
    Cut,
    #[error("the body is malformed: {0}")]
    Chunks(#[from] ChunkError),
    #[error("the body cannot be kept: {0}")]
    Store(#[from] io::Error),
}

/// What a body is read from: the socket, and what was received already.
pub(super) struct Source<'a> {
    pub(super) sock: &'a Sock,
    pub(super) inbuf: &'a mut Vec<u8>,
    pub(super) stop: &'a Stop,
}

impl Source<'_> {
    /// Reads the whole body and leaves in `inbuf` what follows it.
    pub(super) fn read(&mut self, framing: BodyFraming, limits: &BodyLimits) -> Result<Body, BodyError> {
        match framing {
            BodyFraming::None | BodyFraming::UntilClose => Ok(Body::Memory(Vec::new())),
            BodyFraming::Length(len) => {
                check(len, limits)?;
                self.read_length(len, limits)
            }
            BodyFraming::Chunked => self.read_chunked(limits),
        }
    }

    fn read_length(&mut self, len: u64, limits: &BodyLimits) -> Result<Body, BodyError> {
        let here = usize::try_from(len).unwrap_or(usize::MAX).min(self.inbuf.len());
        let mut sink = Sink::new(&limits.folder);
        sink.piece.extend_from_slice(&self.inbuf[..here]);
        consume(self.inbuf, here);
        let mut left = len - here as u64;
        while left > 0 {
            sink.make_room(left)?;
            let before = sink.piece.len();
            self.receive(&mut sink.piece, limits.silence)?;
            let got = (sink.piece.len() - before) as u64;
            if got > left {
                // The rest is the next request's.
                let own = before + usize::try_from(left).unwrap_or(0);
                self.inbuf.extend_from_slice(&sink.piece[own..]);
                sink.piece.truncate(own);
                break;
            }
            left -= got;
        }
        sink.finish()
    }

    fn read_chunked(&mut self, limits: &BodyLimits) -> Result<Body, BodyError> {
        let mut decoder = ChunkedDecoder::new();
        let mut sink = Sink::new(&limits.folder);
        loop {
            let mut used = 0;
            while used < self.inbuf.len() {
                let step = decoder.decode(&self.inbuf[used..])?;
                used += step.consumed;
                if !step.data.is_empty() {
                    check(sink.len + (sink.piece.len() + step.data.len()) as u64, limits)?;
                    sink.put(step.data)?;
                }
                if step.done {
                    consume(self.inbuf, used);
                    return sink.finish();
                }
                if step.consumed == 0 {
                    break;
                }
            }
            consume(self.inbuf, used);
            self.inbuf.reserve(ROOM);
            let Source { sock, inbuf, stop } = self;
            receive(sock, stop, inbuf, limits.silence)?;
        }
    }

    fn receive(&self, into: &mut Vec<u8>, silence: Duration) -> Result<(), BodyError> {
        receive(self.sock, self.stop, into, silence)
    }

    /// Drops a body that nobody wants, if all of it is here already. False
    /// leaves everything as it is: the connection can't be used any more.
    pub(super) fn skip(&mut self, framing: BodyFraming) -> bool {
        match framing {
            BodyFraming::None => true,
            BodyFraming::Length(len) => match usize::try_from(len) {
                Ok(len) if len <= self.inbuf.len() => {
                    consume(self.inbuf, len);
                    true
                }
                _ => false,
            },
            BodyFraming::Chunked | BodyFraming::UntilClose => false,
        }
    }

    /// Takes what still comes for a moment, so that the close does not reset
    /// the connection under an answer on its way.
    pub(super) fn drain(&mut self) {
        let until = Instant::now() + DRAIN_FOR;
        let mut taken = 0;
        while taken < DRAIN_MAX {
            self.inbuf.clear();
            self.inbuf.reserve(ROOM);
            match self.sock.recv_until(self.inbuf, self.stop, until) {
                Got::Bytes(n) => taken += n,
                Got::Nothing | Got::End | Got::Gone | Got::Late => return,
            }
        }
    }
}

fn receive(sock: &Sock, stop: &Stop, into: &mut Vec<u8>, silence: Duration) -> Result<(), BodyError> {
    match sock.recv_until(into, stop, Instant::now() + silence) {
        Got::Bytes(_) => Ok(()),
        Got::Late => Err(BodyError::Silent(silence)),
        Got::Nothing | Got::End | Got::Gone => Err(BodyError::Cut),
    }
}

fn check(len: u64, limits: &BodyLimits) -> Result<(), BodyError> {
    if limits.max != 0 && len > limits.max { Err(BodyError::TooLarge { len, max: limits.max }) } else { Ok(()) }
}

/// Drops `n` bytes from the front.
pub(super) fn consume(buf: &mut Vec<u8>, n: usize) {
    if n >= buf.len() { buf.clear() } else { drop(buf.drain(..n)) }
}

/// Where a body goes.
struct Sink<'f> {
    folder: &'f Path,
    file: Option<File>,
    /// Bytes in the file.
    len: u64,
    /// The whole body, or what is not in the file yet.
    piece: Vec<u8>,
}

impl Sink<'_> {
    fn new(folder: &Path) -> Sink<'_> {
        Sink { folder, file: None, len: 0, piece: Vec::new() }
    }

    /// Makes room to receive into `piece`.
    fn make_room(&mut self, left: u64) -> Result<(), BodyError> {
        if self.piece.len() >= MEMORY_MAX {
            self.spill()?;
        }
        // Doubling, so that a long body is copied a few times at most; one byte
        // more than is missing tells "more than that" from "exactly that".
        let missing = usize::try_from(left).unwrap_or(usize::MAX);
        let room = self.piece.len().max(ROOM).min(MEMORY_MAX - self.piece.len()).max(1);
        if self.piece.capacity() - self.piece.len() < room.min(missing) {
            self.piece.reserve_exact(room.min(missing));
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8]) -> Result<(), BodyError> {
        if self.piece.len() + data.len() > MEMORY_MAX {
            self.spill()?;
        }
        if data.len() > MEMORY_MAX {
            return self.write(data);
        }
        self.piece.extend_from_slice(data);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), BodyError> {
        let piece = std::mem::take(&mut self.piece);
        self.write(&piece)?;
        self.piece = piece;
        self.piece.clear();
        Ok(())
    }

    fn write(&mut self, data: &[u8]) -> Result<(), BodyError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(temporary(self.folder)?),
        };
        crate::fault::at("spool.write")?;
        file.write_all(data)?;
        self.len += data.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Body, BodyError> {
        if self.file.is_some() && !self.piece.is_empty() {
            self.spill()?;
        }
        match self.file {
            Some(file) => Ok(Body::File { file, len: self.len }),
            None => Ok(Body::Memory(self.piece)),
        }
    }
}

/// A file without a name: gone when it is closed, however we end.
fn temporary(folder: &Path) -> io::Result<File> {
    crate::fault::at("spool.open")?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    for folder in [folder, Path::new("/tmp")] {
        if let Ok(fd) = rustix::fs::open(folder, flags | OFlags::TMPFILE, mode) {
            return Ok(fd.into());
        }
    }
    // A file system without O_TMPFILE: named, for a moment.
    let path = folder.join(format!(".body-{}", Id::new()));
    let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlink(&path)?;
    Ok(fd.into())
}
