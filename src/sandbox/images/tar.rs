//! A strict reader of tar archives, for layers and for saved images.
//!
//! Everything it keeps in memory has a bound, whatever the archive claims:
//! long names and extended headers are the parts where other readers take the
//! archive's word for how much to allocate.

use std::io::{self, Read};

use super::error::ImageError;

const BLOCK: usize = 512;
/// A path or link target, in any of the four ways to give one.
const MAX_PATH: usize = 4096;
/// An extended header.
const MAX_PAX: u64 = 1 << 20;
/// Extended attributes of one entry.
const MAX_XATTRS: usize = 64;
/// Headers of headers before one entry.
const MAX_META: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    /// Character or block.
    Device,
    Folder,
    Fifo,
}

/// One entry's head. Its data, if any, is read from the reader.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// As written, with every slash and dot.
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds since the Unix epoch.
    pub(super) mtime: i64,
    pub(super) mtime_nanos: u32,
    /// Bytes of data that follow; 0 for all but files.
    pub(super) size: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other; `Read` gives the current one's data.
#[derive(Debug)]
pub(super) struct Reader<R> {
    inner: R,
    /// Data of the current entry not read yet.
    left: u64,
    padding: u64,
    ended: bool,
}

/// What extended headers say about the entry that follows.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn bad(text: &str) -> io::Error {
    ImageError::Malformed { what: "the tar archive".to_owned(), text: text.to_owned() }.into_io()
}

fn unsupported(what: &str) -> io::Error {
    ImageError::Unsupported { what: what.to_owned() }.into_io()
}

impl<R: Read> Reader<R> {
    pub(super) fn new(inner: R) -> Reader<R> {
        Reader { inner, left: 0, padding: 0, ended: false }
    }

    /// Reads whatever follows the archive's end.
    pub(super) fn drain(mut self) -> io::Result<()> {
        io::copy(&mut self.inner, &mut io::sink()).map(drop)
    }

    /// The next entry; what was left of the one before is passed over.
    ///
    /// # Errors
    /// `ImageError` inside the I/O error for what is no archive or beyond bounds.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extended = Extended::default();
        for _ in 0..MAX_META {
            self.pass_over()?;
            let Some(head) = self.head()? else { return Ok(None) };
            let size = number(&head[124..136]).ok_or_else(|| bad("a size is no number"))?;
            match head[156] {
                b'L' => extended.path = Some(self.long(size)?),
                b'K' => extended.link = Some(self.long(size)?),
                b'x' => self.extended(size, &mut extended)?,
                // Defaults for the whole archive: nobody writes any that matter.
                b'g' => drop(self.meta(size, MAX_PAX)?),
                b'V' => drop(self.meta(size, MAX_PAX)?),
                _ => return self.entry(&head, size, extended).map(Some),
            }
        }
        Err(bad("too many headers before one entry"))
    }

    fn entry(&mut self, head: &[u8; BLOCK], size: u64, extended: Extended) -> io::Result<Entry> {
        let field = |from: usize, to: usize| number(&head[from..to]).ok_or_else(|| bad("a number in a header is none"));
        let mut path = extended.path.unwrap_or_else(|| name(head));
        let mut kind = match head[156] {
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            b'S' => return Err(unsupported("a sparse file in a tar archive")),
            _ => return Err(unsupported("an entry type of a tar archive")),
        };
        if kind == Kind::File && head[156] == 0 && path.ends_with(b"/") {
            kind = Kind::Folder;
        }
        if path.is_empty() {
            path = b".".to_vec();
        }
        let size = if kind == Kind::File { extended.size.unwrap_or(size) } else { 0 };
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let (mtime, mtime_nanos) = match extended.mtime {
            Some(time) => time,
            None => (i64::try_from(field(136, 148)?).unwrap_or(0), 0),
        };
        Ok(Entry {
            kind,
            path,
            link: extended.link.unwrap_or_else(|| until_nul(&head[157..257]).to_vec()),
            mode: u32::try_from(field(100, 108)? & 0o7777).unwrap_or(0),
            uid: extended.uid.map_or_else(|| field(108, 116), Ok)?,
            gid: extended.gid.map_or_else(|| field(116, 124), Ok)?,
            mtime,
            mtime_nanos,
            size,
            xattrs: extended.xattrs,
        })
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let total = self.left.checked_add(self.padding).ok_or_else(|| bad("a size is beyond all bounds"))?;
        (self.left, self.padding) = (0, 0);
        if io::copy(&mut (&mut self.inner).take(total), &mut io::sink())? < total {
            return Err(bad("it ends in the middle of an entry"));
        }
        Ok(())
    }

    /// The next header block; `None` at the end.
    fn head(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let mut head = [0u8; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut head[have..]) {
                Ok(0) if have == 0 => break,
                Ok(0) => return Err(bad("it ends in the middle of a header")),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if have == 0 || head.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(None);
        }
        let told = number(&head[148..156]).ok_or_else(|| bad("a checksum is no number"))?;
        let bytes = || head.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
        let unsigned: u64 = bytes().map(u64::from).sum();
        let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
        if told != unsigned && i64::try_from(told) != Ok(signed) {
            return Err(bad("a header's checksum is wrong"));
        }
        Ok(Some(head))
    }

    /// The whole data of a header of a header.
    fn meta(&mut self, size: u64, limit: u64) -> io::Result<Vec<u8>> {
        if size > limit {
            return Err(ImageError::TooBig { what: "a header in a tar archive".to_owned(), limit }.into_io());
        }
        let mut data = Vec::new();
        (&mut self.inner).take(size).read_to_end(&mut data)?;
        if (data.len() as u64) < size {
            return Err(bad("it ends in the middle of a header"));
        }
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(data)
    }

    fn long(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let data = self.meta(size, MAX_PATH as u64 + 1)?;
        Ok(until_nul(&data).to_vec())
    }

    fn extended(&mut self, size: u64, into: &mut Extended) -> io::Result<()> {
        let data = self.meta(size, MAX_PAX)?;
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let space = rest.iter().take(12).position(|b| *b == b' ').ok_or_else(|| bad("an extended header has no length"))?;
            let length = decimal(&rest[..space]).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(bad("an extended header has a wrong length"));
            }
            let record = &rest[space + 1..length - 1];
            rest = &rest[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| bad("an extended header has no value"))?;
            into.take(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }
}

impl Extended {
    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let whole = |what: &str| decimal(value).ok_or_else(|| bad(what));
        match key {
            b"path" | b"linkpath" => {
                if value.len() > MAX_PATH || value.contains(&0) {
                    return Err(bad("a path is too long or has a zero byte"));
                }
                let slot = if key == b"path" { &mut self.path } else { &mut self.link };
                *slot = Some(value.to_vec());
            }
            b"size" => self.size = Some(whole("a size is no number")?),
            b"uid" => self.uid = Some(whole("an owner is no number")?),
            b"gid" => self.gid = Some(whole("a group is no number")?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| bad("a time is no number"))?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(unsupported("a sparse file in a tar archive")),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if self.xattrs.len() >= MAX_XATTRS {
                        return Err(ImageError::TooBig { what: "the extended attributes of a file".to_owned(), limit: MAX_XATTRS as u64 }.into_io());
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..most])?;
        if n == 0 {
            return Err(bad("it ends in the middle of a file"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// Name and, in the POSIX form, its prefix.
fn name(head: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&head[..100]);
    let prefix = until_nul(&head[345..500]);
    if &head[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// Octal text, or GNU's base 256. Negative numbers (times before 1970) are 0.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        if field[0] == 0xff {
            return Some(0);
        }
        let (first, rest) = (u64::from(field[0] & 0x7f), &field[1..]);
        return rest.iter().try_fold(first, |n, b| n.checked_mul(256).map(|n| n | u64::from(*b)));
    }
    let text = field.iter().skip_while(|b| **b == b' ');
    let mut value = 0u64;
    for byte in text.take_while(|b| **b != 0 && **b != b' ') {
        let digit = byte.checked_sub(b'0').filter(|d| *d < 8)?;
        value = value.checked_mul(8)? | u64::from(digit);
    }
    Some(value)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `1700000000.123456789`; before 1970 is 0.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    if text.first() == Some(&b'-') {
        return Some((0, 0));
    }
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for i in 0..9 {
            nanos = nanos * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0'));
        }
    }
    Some((seconds, nanos))
}
