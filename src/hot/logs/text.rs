//! From bytes to lines: the engine's frames taken apart, lines cut at a limit,
//! everything that is not plain text escaped. Pure.

use std::fmt::Write as _;

use crate::driver::{Framing, Stream};

/// A longer line continues as the next one.
pub(super) const LINE_BYTES: usize = 4 * 1024;
/// Frame header of a multiplexed stream.
const HEADER: usize = 8;

/// The stream is not what its framing promised: nothing after it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadFrame;

/// One descriptor's bytes on their way to lines.
#[derive(Debug)]
pub(super) struct Splitter {
    framing: Framing,
    header: [u8; HEADER],
    header_len: usize,
    stream: Stream,
    /// Bytes of the current frame still to come.
    left: u32,
    /// The beginning of a line, by stream.
    partial: [Vec<u8>; 2],
}

impl Splitter {
    pub(super) fn new(framing: Framing) -> Splitter {
        let stream = match framing {
            Framing::Plain(stream) => stream,
            Framing::Frames => Stream::Stdout,
        };
        Splitter { framing, header: [0; HEADER], header_len: 0, stream, left: 0, partial: [Vec::new(), Vec::new()] }
    }

    /// Takes what was read; `line` gets every line that is complete now,
    /// without its end.
    pub(super) fn take(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(Stream, &[u8])) -> Result<(), BadFrame> {
        if matches!(self.framing, Framing::Plain(_)) {
            self.lines(bytes, line);
            return Ok(());
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                let n = (HEADER - self.header_len).min(bytes.len());
                self.header[self.header_len..self.header_len + n].copy_from_slice(&bytes[..n]);
                self.header_len += n;
                bytes = &bytes[n..];
                if self.header_len == HEADER {
                    self.header_len = 0;
                    self.stream = match self.header {
                        [0 | 1, 0, 0, 0, ..] => Stream::Stdout,
                        // 3 is the engine's own word of an error.
                        [2 | 3, 0, 0, 0, ..] => Stream::Stderr,
                        _ => return Err(BadFrame),
                    };
                    let [.., a, b, c, d] = self.header;
                    self.left = u32::from_be_bytes([a, b, c, d]);
                }
            } else {
                let n = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.lines(&bytes[..n], line);
                self.left -= u32::try_from(n).unwrap_or(self.left);
                bytes = &bytes[n..];
            }
        }
        Ok(())
    }

    fn lines(&mut self, mut bytes: &[u8], line: &mut dyn FnMut(Stream, &[u8])) {
        let (stream, partial) = (self.stream, &mut self.partial[self.stream as usize]);
        while !bytes.is_empty() {
            let room = LINE_BYTES - partial.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            let (text, used) = match window.iter().position(|b| *b == b'\n') {
                Some(at) => (&bytes[..at], at + 1),
                None if bytes.len() >= room => (&bytes[..room], room),
                None => {
                    partial.extend_from_slice(bytes);
                    return;
                }
            };
            if partial.is_empty() {
                line(stream, text);
            } else {
                partial.extend_from_slice(text);
                line(stream, partial);
                partial.clear();
            }
            bytes = &bytes[used..];
        }
    }

    /// The end, of all or of whose lines they were: a line without its end counts too.
    pub(super) fn finish(&mut self, line: &mut dyn FnMut(Stream, &[u8])) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                line(stream, &rest);
            }
        }
    }
}

/// Text as it may stand in a log: valid UTF-8, no control characters but tabs.
/// A carriage return at the end goes.
pub(super) fn escape(line: &[u8], out: &mut String) {
    out.clear();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    for chunk in line.utf8_chunks() {
        let text = chunk.valid();
        if text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f && b < 0xc2)) {
            out.push_str(text);
        } else {
            for c in text.chars() {
                match c {
                    '\t' => out.push(c),
                    // The two separators end a line for some readers.
                    c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                        let _ = write!(out, "{}", c.escape_default());
                    }
                    c => out.push(c),
                }
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(framing: Framing, pieces: &[&[u8]]) -> (Vec<(Stream, String)>, bool) {
        let (mut splitter, mut out, mut bad) = (Splitter::new(framing), Vec::new(), false);
        let mut keep = |stream, line: &[u8]| out.push((stream, String::from_utf8_lossy(line).into_owned()));
        for piece in pieces {
            bad |= splitter.take(piece, &mut keep).is_err();
        }
        splitter.finish(&mut keep);
        (out, bad)
    }

    fn frame(stream: u8, text: &[u8]) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
        out.extend_from_slice(text);
        out
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let plain = Framing::Plain(Stream::Stderr);
        let text = |s: &str| (Stream::Stderr, s.to_owned());
        assert_eq!(split(plain, &[b"a\nb", b"c\n", b"\nlast"]).0, [text("a"), text("bc"), text(""), text("last")]);
        assert_eq!(split(plain, &[b"", b"\n"]).0, [text("")]);
        let long = vec![b'x'; LINE_BYTES * 2 + 5];
        let lengths: Vec<_> = split(plain, &[&long, b"\nend\n"]).0.iter().map(|(_, l)| l.len()).collect();
        assert_eq!(lengths, [LINE_BYTES, LINE_BYTES, 5, 3]);
        // Exactly a line's length, and its end in the next piece.
        let exact = vec![b'x'; LINE_BYTES];
        assert_eq!(split(plain, &[&exact[..], b"\nend\n"]).0.iter().map(|(_, l)| l.len()).collect::<Vec<_>>(), [LINE_BYTES, 0, 3]);
    }

    #[test]
    fn frames_keep_the_streams_apart() {
        let bytes = [frame(1, b"out 1\nou"), frame(2, b"err 1\ner"), frame(1, b"t 2\n"), frame(2, b""), frame(2, b"r 2\n")].concat();
        let want = [(Stream::Stdout, "out 1"), (Stream::Stderr, "err 1"), (Stream::Stdout, "out 2"), (Stream::Stderr, "err 2")];
        let want: Vec<_> = want.iter().map(|(s, t)| (*s, (*t).to_owned())).collect();
        assert_eq!(split(Framing::Frames, &[&bytes]), (want.clone(), false));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(split(Framing::Frames, &single), (want, false));
        assert!(split(Framing::Frames, &[b"HTTP/1.1 500 no"]).1);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_lines(text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..20_000), cuts in proptest::collection::vec(1usize..9000, 1..10)) {
            let plain = Framing::Plain(Stream::Stdout);
            let (mut pieces, mut rest, mut n) = (Vec::new(), &text[..], 0);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts[n % cuts.len()].min(rest.len()));
                pieces.push(piece);
                rest = after;
                n += 1;
            }
            prop_assert_eq!(split(plain, &pieces), split(plain, &[&text]));
        }

        #[test]
        fn escaped_text_is_one_plain_line(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = String::new();
            escape(&line, &mut out);
            prop_assert!(out.chars().all(|c| c == '\t' || !c.is_control()));
        }
    }

    #[test]
    fn what_is_escaped() {
        let escaped = |line: &[u8]| {
            let mut out = String::new();
            escape(line, &mut out);
            out
        };
        assert_eq!(escaped("plain, with\ttab and ünïcödé ✓".as_bytes()), "plain, with\ttab and ünïcödé ✓");
        assert_eq!(escaped(b"ends\r"), "ends");
        assert_eq!(escaped(b"\x1b[31mred\x07 \xff\xfe end"), "\\u{1b}[31mred\\u{7} \\xff\\xfe end");
        assert_eq!(escaped("fake\rline \u{2028}\u{85}".as_bytes()), "fake\\rline \\u{2028}\\u{85}");
    }
}
