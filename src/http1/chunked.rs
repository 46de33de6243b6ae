//! The chunked transfer coding, strict and bounded (RFC 9112 §7.1).

use super::fields::{is_token_byte, is_value_byte};

/// Most bytes of a chunk-size line after the digits.
const MAX_EXTENSION: u32 = 256;
/// Most bytes of all trailer fields.
const MAX_TRAILERS: u32 = 8 * 1024;
/// Most bytes of framing beyond what its data can excuse: without this a
/// sender could spend 270 bytes of line on each byte of body.
const MAX_EXCESS: u64 = 16 * 1024;

/// What is wrong with a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("a chunk size is not hexadecimal digits")]
    Size,
    #[error("a chunk size has more than 16 digits")]
    SizeTooLong,
    #[error("a chunk extension is malformed")]
    Extension,
    #[error("chunk extensions are too long")]
    ExtensionTooLong,
    #[error("a chunk does not end in CR LF")]
    LineEnd,
    #[error("a trailer field is malformed")]
    Trailer,
    #[error("the trailer fields are larger than {MAX_TRAILERS} bytes")]
    TrailersTooLarge,
}

/// One step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'i> {
    /// Bytes of input used up, framing and data; drop them.
    pub consumed: usize,
    /// Body bytes of this step, a part of the input.
    pub data: &'i [u8],
    /// The body has ended; input after `consumed` is not part of it.
    pub done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before or among the digits of a size.
    Size {
        value: u64,
        digits: u8,
    },
    /// After the digits: white space before a `;`.
    BeforeExtension {
        value: u64,
        used: u32,
    },
    Extension {
        value: u64,
        used: u32,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    TrailerStart {
        used: u32,
    },
    TrailerName {
        used: u32,
    },
    TrailerValue {
        used: u32,
    },
    TrailerLf {
        used: u32,
    },
    LastLf,
    Done,
}

/// Decodes a chunked body piece by piece, without copying.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    excess: u64,
}

impl Default for ChunkedDecoder {
    fn default() -> ChunkedDecoder {
        ChunkedDecoder::new()
    }
}

impl ChunkedDecoder {
    pub fn new() -> ChunkedDecoder {
        ChunkedDecoder { state: State::Size { value: 0, digits: 0 }, excess: 0 }
    }

    /// Whether the body ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// One step: framing up to and with one run of data. Call again with the
    /// rest while `consumed > 0` and not `done`.
    ///
    /// # Errors
    /// See [`ChunkError`]; the body is lost, close the connection.
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> Result<Decoded<'i>, ChunkError> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Data { left } => {
                    let room = input.len() - at;
                    let take = usize::try_from(left).map_or(room, |left| left.min(room));
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    return Ok(Decoded { consumed: at + take, data: &input[at..at + take], done: false });
                }
                State::Done => break,
                framing => {
                    self.state = self.step(framing, input[at])?;
                    at += 1;
                }
            }
        }
        Ok(Decoded { consumed: at, data: &[], done: self.is_done() })
    }

    /// The state after one byte of framing.
    fn step(&mut self, state: State, byte: u8) -> Result<State, ChunkError> {
        match state {
            State::Size { value, digits } => {
                if let Some(digit) = (byte as char).to_digit(16) {
                    if digits == 16 {
                        return Err(ChunkError::SizeTooLong);
                    }
                    return Ok(State::Size { value: (value << 4) | u64::from(digit), digits: digits + 1 });
                }
                if digits == 0 {
                    return Err(ChunkError::Size);
                }
                match byte {
                    b'\r' => Ok(State::SizeLf { value }),
                    b';' => Ok(State::Extension { value, used: 1 }),
                    b' ' | b'\t' => Ok(State::BeforeExtension { value, used: 1 }),
                    _ => Err(ChunkError::Size),
                }
            }
            State::BeforeExtension { used: MAX_EXTENSION.., .. } | State::Extension { used: MAX_EXTENSION.., .. } => Err(ChunkError::ExtensionTooLong),
            State::BeforeExtension { value, used } => match byte {
                b' ' | b'\t' => Ok(State::BeforeExtension { value, used: used + 1 }),
                b';' => Ok(State::Extension { value, used: used + 1 }),
                _ => Err(ChunkError::Size),
            },
            State::Extension { value, used } => match byte {
                b'\r' => {
                    self.charge(u64::from(used), value)?;
                    Ok(State::SizeLf { value })
                }
                _ if is_value_byte(byte) => Ok(State::Extension { value, used: used + 1 }),
                _ => Err(ChunkError::Extension),
            },
            State::SizeLf { value } => match (byte, value) {
                (b'\n', 0) => Ok(State::TrailerStart { used: 0 }),
                (b'\n', left) => Ok(State::Data { left }),
                _ => Err(ChunkError::LineEnd),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { value: 0, digits: 0 }),
            State::DataCr | State::DataLf => Err(ChunkError::LineEnd),
            State::TrailerStart { used } if byte == b'\r' => {
                let _ = used;
                Ok(State::LastLf)
            }
            State::LastLf if byte == b'\n' => Ok(State::Done),
            State::LastLf => Err(ChunkError::LineEnd),
            State::TrailerStart { used: MAX_TRAILERS.. } | State::TrailerName { used: MAX_TRAILERS.. } | State::TrailerValue { used: MAX_TRAILERS.. } => {
                Err(ChunkError::TrailersTooLarge)
            }
            State::TrailerStart { used } if is_token_byte(byte) => Ok(State::TrailerName { used: used + 1 }),
            State::TrailerName { used } if is_token_byte(byte) => Ok(State::TrailerName { used: used + 1 }),
            State::TrailerName { used } if byte == b':' => Ok(State::TrailerValue { used: used + 1 }),
            State::TrailerValue { used } if byte == b'\r' => Ok(State::TrailerLf { used: used + 1 }),
            State::TrailerValue { used } if is_value_byte(byte) => Ok(State::TrailerValue { used: used + 1 }),
            State::TrailerLf { used } if byte == b'\n' => Ok(State::TrailerStart { used: used + 1 }),
            State::TrailerStart { .. } | State::TrailerName { .. } | State::TrailerValue { .. } | State::TrailerLf { .. } => Err(ChunkError::Trailer),
            State::Data { .. } | State::Done => Ok(state), // decode() takes these itself
        }
    }

    /// Counts extension bytes against what their chunk's data excuses.
    fn charge(&mut self, extension: u64, data: u64) -> Result<(), ChunkError> {
        self.excess = (self.excess + extension).saturating_sub(data.saturating_mul(2));
        if self.excess > MAX_EXCESS { Err(ChunkError::ExtensionTooLong) } else { Ok(()) }
    }
}

/// Appends the line before a chunk of `len` bytes: `1f` CR LF. A chunk is
/// never empty; the end of the body is `0` CR LF CR LF.
pub fn chunk_head(len: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for i in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(len >> (4 * i)) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}
