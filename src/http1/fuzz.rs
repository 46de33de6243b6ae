//! What holds for any bytes: see `crate::fuzz`.

use super::fields::{is_token, is_token_byte, is_value, is_value_byte};
use super::*;

/// Beyond any input: the limits have tests of their own.
const NO_LIMIT: usize = 1 << 20;

/// What the two kinds of heads have in common.
#[derive(Debug, PartialEq, Eq)]
struct Plain<'b> {
    first: [&'b [u8]; 3],
    fields: Vec<(&'b [u8], &'b [u8])>,
    len: usize,
}

type Found<'b> = Result<Option<Plain<'b>>, ()>;

/// A request head: the naive reading agrees, and so does every prefix.
pub fn request_head(data: &[u8]) {
    fn ours(data: &[u8]) -> Found<'_> {
        let head = parse_request(data, NO_LIMIT).map_err(drop)?;
        Ok(head.map(|h| {
            let version: &[u8] = if h.minor == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" };
            Plain { first: [h.method.as_bytes(), h.target.as_bytes(), version], fields: pairs(&h.fields), len: h.len }
        }))
    }
    fn first(line: &[u8]) -> Option<[&[u8]; 3]> {
        let mut words = line.split(|b| *b == b' ');
        let words = [words.next()?, words.next()?, words.next().filter(|_| words.next().is_none())?];
        let target = !words[1].is_empty() && words[1].iter().all(u8::is_ascii_graphic);
        (is_token(words[0]) && target && is_version(words[2])).then_some(words)
    }
    let skipped = if data.starts_with(b"\r\n") { 2 } else { 0 };
    compare(data, skipped, ours, first);
    if let Ok(Some(head)) = parse_request(data, NO_LIMIT) {
        let framing = request_framing(&head);
        check_framing(&head.fields, head.minor, framing, BodyFraming::None);
        check_connection(head.minor, &head.fields);
    }
}

/// A response head, in the same way.
pub fn response_head(data: &[u8]) {
    fn ours(data: &[u8]) -> Found<'_> {
        let head = parse_response(data, NO_LIMIT).map_err(drop)?;
        Ok(head.map(|h| {
            let version: &[u8] = if h.minor == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" };
            assert!((100..=999).contains(&h.status));
            // The status is compared as the text it came from.
            assert_eq!(&data[9..12], h.status.to_string().as_bytes());
            Plain { first: [version, &data[9..12], b""], fields: pairs(&h.fields), len: h.len }
        }))
    }
    fn first(line: &[u8]) -> Option<[&[u8]; 3]> {
        let (version, rest) = (line.get(..8)?, line.get(8..)?);
        let code = rest.get(1..4)?;
        let reason = &rest[4..];
        let valid = is_version(version)
            && rest[0] == b' '
            && code.iter().all(u8::is_ascii_digit)
            && code[0] != b'0'
            && (reason.is_empty() || reason[0] == b' ')
            && is_value(reason);
        valid.then_some([version, code, b""])
    }
    compare(data, 0, ours, first);
    if let Ok(Some(head)) = parse_response(data, NO_LIMIT) {
        assert_eq!(response_framing(&head, true).ok().filter(|f| *f != BodyFraming::None), None);
        if head.status >= 200 && head.status != 204 && head.status != 304 {
            check_framing(&head.fields, head.minor, response_framing(&head, false), BodyFraming::UntilClose);
        }
        check_connection(head.minor, &head.fields);
    }
}

fn pairs<'b>(fields: &[Field<'b>]) -> Vec<(&'b [u8], &'b [u8])> {
    fields.iter().map(|f| (f.name.as_bytes(), f.value)).collect()
}

fn is_version(word: &[u8]) -> bool {
    word == b"HTTP/1.0" || word == b"HTTP/1.1"
}

fn compare(data: &[u8], skipped: usize, ours: fn(&[u8]) -> Found<'_>, first: fn(&[u8]) -> Option<[&[u8]; 3]>) {
    let whole = ours(data);
    if let Some(naive) = naive(data, skipped, first) {
        assert_eq!(whole, Ok(Some(naive)), "a head that is right was not read so");
    } else {
        assert!(!matches!(whole, Ok(Some(_))), "a head that is wrong was read: {whole:?}");
    }
    // Whatever was decided on a part of the bytes stays decided.
    let step = (data.len() / 64).max(1);
    for end in (0..data.len()).step_by(step) {
        match ours(&data[..end]) {
            Ok(None) => {}
            Err(()) => assert_eq!(whole, Err(()), "refused after {end} bytes, taken later"),
            done => assert_eq!(whole, done, "complete after {end} bytes, other bytes changed it"),
        }
    }
}

/// Lines split at CR LF and nothing else looked at.
fn naive<'b>(data: &'b [u8], skipped: usize, first: fn(&[u8]) -> Option<[&[u8]; 3]>) -> Option<Plain<'b>> {
    let text = &data[skipped..];
    let end = text.windows(4).position(|w| w == b"\r\n\r\n")?;
    let mut lines = Vec::new();
    let mut rest = &text[..end];
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let mut fields = Vec::new();
    for line in &lines[1..] {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if !is_token(name) || !is_value(value) {
            return None;
        }
        fields.push((name, value));
    }
    (fields.len() <= MAX_FIELDS).then_some(Plain { first: first(lines[0])?, fields, len: skipped + end + 4 })
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A body has one length or none, and two readers could not differ about it.
fn check_framing(fields: &[Field<'_>], minor: u8, framing: Result<BodyFraming, HeadError>, undeclared: BodyFraming) {
    let values = |name: &str| -> Vec<&[u8]> { fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect() };
    let want = match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
        ([], []) => Some(undeclared),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(length).ok().and_then(|text| text.parse().ok()).map(BodyFraming::Length)
        }
        ([], [coding]) if minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => Some(BodyFraming::Chunked),
        _ => None,
    };
    // What we can't decode is told from what nobody could.
    if framing == Err(HeadError::UnknownCoding) {
        let all = values("transfer-encoding").join(&b","[..]).to_ascii_lowercase();
        let (before, last) = all.split_at(all.iter().rposition(|b| *b == b',').expect("two codings at least"));
        assert!(minor == 1 && values("content-length").is_empty() && trim(&last[1..]) == b"chunked");
        assert!(before.split(|b| *b == b',').all(|coding| is_token(trim(coding)) && trim(coding) != b"chunked"));
    }
    assert_eq!(framing.ok(), want);
}

fn check_connection(minor: u8, fields: &[Field<'_>]) {
    let all: Vec<u8> = fields.iter().filter(|f| f.name.eq_ignore_ascii_case("connection")).flat_map(|f| [b",", f.value].concat()).collect();
    let all = all.to_ascii_lowercase();
    let has = |option: &[u8]| all.split(|b| *b == b',').any(|o| o.trim_ascii() == option);
    assert_eq!(keep_alive(minor, fields), !has(b"close") && (minor == 1 || has(b"keep-alive")));
}

/// The outcome of a chunked body: its data, and how many bytes it took.
type Body = (Vec<u8>, usize, bool);

/// A chunked body. The first byte says in what pieces it comes.
pub fn chunked(data: &[u8]) {
    let Some((&seed, input)) = data.split_first() else { return };
    let whole = decode(input, input.len().max(1));
    // A body that is broken may give its first parts before that is seen.
    for piece in [1, usize::from(seed).max(1)] {
        assert_eq!(decode(input, piece), whole, "in pieces of {piece}");
    }
    match naive_chunks(input) {
        Some((body, used)) => match &whole {
            Ok(got) => assert_eq!(*got, (body, used, true)),
            Err(e) => assert!(matches!(e, ChunkError::ExtensionTooLong | ChunkError::TrailersTooLarge), "a body that is right was refused: {e}"),
        },
        None => assert!(!matches!(whole, Ok((_, _, true))), "a body that is wrong was read"),
    }
    // What we write, we read.
    let mut written = Vec::new();
    for part in input.chunks(usize::from(seed) + 1) {
        chunk_head(part.len(), &mut written);
        written.extend_from_slice(part);
        written.extend_from_slice(b"\r\n");
    }
    written.extend_from_slice(b"0\r\n\r\n");
    let used = written.len();
    assert_eq!(decode(&written, used), Ok((input.to_vec(), used, true)));
}

fn decode(input: &[u8], piece: usize) -> Result<Body, ChunkError> {
    let mut decoder = ChunkedDecoder::new();
    let mut body = Vec::new();
    let mut used = 0;
    for part in input.chunks(piece) {
        let mut rest = part;
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.decode(rest)?;
            assert!(step.consumed > 0 && step.consumed <= rest.len() && step.data.len() <= step.consumed);
            assert_eq!(step.done, decoder.is_done());
            body.extend_from_slice(step.data);
            used += step.consumed;
            rest = &rest[step.consumed..];
        }
    }
    Ok((body, used, decoder.is_done()))
}

/// The whole body at once, line by line, without the limits.
fn naive_chunks(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    let line = |at: usize| -> Option<&[u8]> { input[at..].windows(2).position(|w| w == b"\r\n").map(|end| &input[at..at + end]) };
    loop {
        let head = line(at)?;
        let digits = head.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let extension = trim_start(&head[digits..]);
        let extended = extension.first() == Some(&b';') && extension.iter().all(|&b| is_value_byte(b));
        if digits == 0 || digits > 16 || !(extended || head.len() == digits) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(&head[..digits]).ok()?, 16).ok()?;
        at += head.len() + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size;
        if input.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let field = line(at)?;
        at += field.len() + 2;
        if field.is_empty() {
            return Some((body, at));
        }
        let name = field.iter().take_while(|&&b| is_token_byte(b)).count();
        if name == 0 || field.get(name) != Some(&b':') || !is_value(&field[name + 1..]) {
            return None;
        }
    }
}

fn trim_start(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    value
}
