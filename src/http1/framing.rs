//! Where a body ends, and whether the connection lives on (RFC 9112 §6, §9.3).

use super::fields::{Field, connection_options, is_token};
use super::head::{HeadError, RequestHead, ResponseHead};

/// How a message's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body follows, whatever the fields say.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Chunks up to the last one.
    Chunked,
    /// Everything until the sender closes (responses only).
    UntilClose,
}

/// The framing of a request's body.
///
/// # Errors
/// When the fields leave room for two readings (smuggling): both lengths,
/// several `Content-Length`, one that is not only digits, any transfer coding
/// but a single `chunked`, a transfer coding in HTTP/1.0. A coding that is
/// written well but not known, before one last `chunked`, has an error of its
/// own (RFC 9112 §6.1).
pub fn request_framing(head: &RequestHead<'_>) -> Result<BodyFraming, HeadError> {
    Ok(declared(head.minor, &head.fields)?.unwrap_or(BodyFraming::None))
}

/// The framing of a response's body.
///
/// # Errors
/// As [`request_framing`].
pub fn response_framing(head: &ResponseHead<'_>, request_was_head: bool) -> Result<BodyFraming, HeadError> {
    let declared = declared(head.minor, &head.fields)?;
    if request_was_head || head.status < 200 || head.status == 204 || head.status == 304 {
        return Ok(BodyFraming::None);
    }
    Ok(declared.unwrap_or(BodyFraming::UntilClose))
}

/// Whether the sender keeps the connection open after this message.
pub fn keep_alive(minor: u8, fields: &[Field<'_>]) -> bool {
    let mut keep = false;
    for option in connection_options(fields) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keep || minor >= 1
}

fn declared(minor: u8, fields: &[Field<'_>]) -> Result<Option<BodyFraming>, HeadError> {
    let mut length = None;
    let mut codings = None;
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(HeadError::SeveralLengths);
            }
            length = Some(parse_length(field.value)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            codings.get_or_insert_with(Codings::default).read(field.value)?;
        }
    }
    match (length, codings) {
        (_, Some(_)) if minor == 0 => Err(HeadError::TransferCodingIn10),
        (Some(_), Some(_)) => Err(HeadError::LengthAndCoding),
        (Some(n), None) => Ok(Some(BodyFraming::Length(n))),
        // Without a last `chunked` nobody knows where the body ends.
        (None, Some(Codings { chunked: false, .. })) => Err(HeadError::TransferCoding),
        (None, Some(Codings { unknown: true, .. })) => Err(HeadError::UnknownCoding),
        (None, Some(_)) => Ok(Some(BodyFraming::Chunked)),
        (None, None) => Ok(None),
    }
}

/// The transfer codings of a message, of all its fields together: plain
/// tokens, nothing after `chunked`. None of those we know has parameters.
#[derive(Default)]
struct Codings {
    unknown: bool,
    chunked: bool,
}

impl Codings {
    fn read(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for coding in value.split(|b| *b == b',') {
            let coding = trimmed(coding);
            if self.chunked || !is_token(coding) {
                return Err(HeadError::TransferCoding);
            }
            match coding.eq_ignore_ascii_case(b"chunked") {
                true => self.chunked = true,
                false => self.unknown = true,
            }
        }
        Ok(())
    }
}

/// Without the blanks and tabs around it.
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() {
        return Err(HeadError::Length);
    }
    let mut n: u64 = 0;
    for &b in value {
        if !b.is_ascii_digit() {
            return Err(HeadError::Length);
        }
        n = n.checked_mul(10).and_then(|n| n.checked_add(u64::from(b - b'0'))).ok_or(HeadError::Length)?;
    }
    Ok(n)
}
