//! Request and response heads.

use std::mem::MaybeUninit;

use httparse::{Error as Parse, Header, ParserConfig, Status};

use super::fields::Field;

/// Most fields a head may have.
pub const MAX_FIELDS: usize = 128;

/// A complete request head, borrowed from the buffer it was received in.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead<'b> {
    pub method: &'b str,
    /// As received: origin form, absolute form, `*` or authority form.
    pub target: &'b str,
    /// Minor version: 0 or 1.
    pub minor: u8,
    pub fields: Vec<Field<'b>>,
    /// Bytes of the head, the blank line included; the body starts here.
    pub len: usize,
}

/// A complete response head, borrowed from the buffer it was received in.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead<'b> {
    /// 100 to 999.
    pub status: u16,
    /// Minor version: 0 or 1.
    pub minor: u8,
    pub fields: Vec<Field<'b>>,
    /// Bytes of the head, the blank line included; the body starts here.
    pub len: usize,
}

/// What is wrong with a message head. Nothing of its bytes is in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the request line is not 'METHOD target HTTP/1.1'")]
    RequestLine,
    #[error("the request target has bytes that must be percent-encoded")]
    Target,
    #[error("the status line is not 'HTTP/1.1 NNN reason'")]
    StatusLine,
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    Version,
    #[error("a line does not end in CR LF")]
    LineEnd,
    #[error("a header field's name is not a token followed by a colon, or a line is folded")]
    FieldName,
    #[error("a header field's value has a control character")]
    FieldValue,
    #[error("more than {MAX_FIELDS} header fields")]
    TooManyFields,
    #[error("the head is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request line is longer than {limit} bytes")]
    TargetTooLong { limit: usize },
    #[error("the Content-Length is not a number")]
    Length,
    #[error("more than one Content-Length")]
    SeveralLengths,
    #[error("a Transfer-Encoding that does not end in one plain 'chunked'")]
    TransferCoding,
    #[error("a Transfer-Encoding other than 'chunked'")]
    UnknownCoding,
    #[error("a Transfer-Encoding in HTTP/1.0")]
    TransferCodingIn10,
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
}

impl HeadError {
    /// The status a server answers it with.
    pub fn status(&self) -> u16 {
        match self {
            HeadError::UnknownCoding => 501,
            HeadError::Version => 505,
            HeadError::TooManyFields | HeadError::TooLarge { .. } => 431,
            HeadError::TargetTooLong { .. } => 414,
            HeadError::RequestLine
            | HeadError::Target
            | HeadError::StatusLine
            | HeadError::LineEnd
            | HeadError::FieldName
            | HeadError::FieldValue
            | HeadError::Length
            | HeadError::SeveralLengths
            | HeadError::TransferCoding
            | HeadError::TransferCodingIn10
            | HeadError::LengthAndCoding => 400,
        }
    }
}

type Slots<'b> = [MaybeUninit<Header<'b>>; MAX_FIELDS];

/// Reads a request head from the start of `buf`; `None` asks for more bytes.
/// One CR LF before it is skipped, as RFC 9112 §2.2 wants.
///
/// # Errors
/// See [`HeadError`]; a head that is not complete within `max_bytes` is one.
pub fn parse_request<'b>(buf: &'b [u8], max_bytes: usize) -> Result<Option<RequestHead<'b>>, HeadError> {
    if buf == b"\r" {
        return Ok(None); // its LF may be on the way
    }
    let skipped = if buf.starts_with(b"\r\n") { 2 } else { 0 };
    let text = &buf[skipped..];
    if matches!(text.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::RequestLine);
    }
    let mut slots: Slots<'b> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let len = match parsed.parse_with_uninit_headers(text, &mut slots) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return incomplete_request(text, max_bytes),
        Err(Parse::Version) => return Err(version_error(text, 2, HeadError::RequestLine)),
        Err(e) => return Err(named(e, HeadError::RequestLine)),
    };
    if len > max_bytes {
        return Err(too_large(text, max_bytes));
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::RequestLine);
    };
    if !target.is_ascii() {
        return Err(HeadError::Target);
    }
    let fields = checked_fields(text, len, parsed.headers)?;
    Ok(Some(RequestHead { method, target, minor, fields, len: len + skipped }))
}

/// Reads a response head from the start of `buf`; `None` asks for more bytes.
///
/// # Errors
/// See [`HeadError`]; a head that is not complete within `max_bytes` is one.
pub fn parse_response<'b>(buf: &'b [u8], max_bytes: usize) -> Result<Option<ResponseHead<'b>>, HeadError> {
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::StatusLine);
    }
    let mut slots: Slots<'b> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let len = match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, buf, &mut slots) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if buf.len() >= max_bytes => return Err(HeadError::TooLarge { limit: max_bytes }),
        Ok(Status::Partial) => return Ok(None),
        Err(Parse::Version) => return Err(version_error(buf, 0, HeadError::StatusLine)),
        Err(e) => return Err(named(e, HeadError::StatusLine)),
    };
    if len > max_bytes {
        return Err(HeadError::TooLarge { limit: max_bytes });
    }
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::StatusLine);
    };
    if status < 100 {
        return Err(HeadError::StatusLine);
    }
    let fields = checked_fields(buf, len, parsed.headers)?;
    Ok(Some(ResponseHead { status, minor, fields, len }))
}

fn incomplete_request<'b>(text: &[u8], max_bytes: usize) -> Result<Option<RequestHead<'b>>, HeadError> {
    if text.len() < max_bytes {
        return Ok(None);
    }
    Err(too_large(text, max_bytes))
}

/// The same name for it whether the rest has arrived or not.
fn too_large(text: &[u8], limit: usize) -> HeadError {
    if text[..limit].contains(&b'\n') { HeadError::TooLarge { limit } } else { HeadError::TargetTooLong { limit } }
}

/// `HTTP/2.0` is a version we don't speak; `HTTX/1.1` is not a version.
fn version_error(text: &[u8], word: usize, otherwise: HeadError) -> HeadError {
    let line = text.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    match line.split(|&b| b == b' ').nth(word) {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => HeadError::Version,
        _ => otherwise,
    }
}

fn named(error: Parse, first_line: HeadError) -> HeadError {
    match error {
        Parse::HeaderName => HeadError::FieldName,
        Parse::HeaderValue => HeadError::FieldValue,
        Parse::TooManyHeaders => HeadError::TooManyFields,
        Parse::NewLine => HeadError::LineEnd,
        Parse::Status | Parse::Token | Parse::Version => first_line,
    }
}

/// Copies the fields out and proves that every line of the head ended in CR
/// LF: `httparse` takes LF alone, which another reader may not. Each line must
/// start exactly where the one before it ended, so nothing hides between.
fn checked_fields<'b>(text: &'b [u8], len: usize, headers: &[Header<'b>]) -> Result<Vec<Field<'b>>, HeadError> {
    let base = text.as_ptr() as usize;
    let blank = len.saturating_sub(2);
    if text.get(blank..len) != Some(b"\r\n") {
        return Err(HeadError::LineEnd);
    }
    let first = headers.first().map_or(blank, |h| h.name.as_ptr() as usize - base);
    if first < 2 || &text[first - 2..first] != b"\r\n" {
        return Err(HeadError::LineEnd);
    }
    let mut fields = Vec::with_capacity(headers.len());
    let mut line = first;
    for header in headers {
        if header.name.as_ptr() as usize - base != line {
            return Err(HeadError::LineEnd);
        }
        let mut end = header.value.as_ptr() as usize - base + header.value.len();
        while matches!(text.get(end), Some(b' ' | b'\t')) {
            end += 1;
        }
        if text.get(end..end + 2) != Some(b"\r\n") {
            return Err(HeadError::LineEnd);
        }
        line = end + 2;
        fields.push(Field { name: header.name, value: header.value });
    }
    if line != blank { Err(HeadError::LineEnd) } else { Ok(fields) }
}
