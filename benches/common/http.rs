//! A plain HTTP/1.1 client on one kept-alive connection: just enough to ask
//! as fast as a caller can.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// No answer within this is counted as none at all.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// An answer; its body stays in the connection's buffer.
#[derive(Debug)]
pub(crate) struct Answer<'c> {
    pub(crate) status: u16,
    pub(crate) head: &'c str,
    pub(crate) body: &'c [u8],
}

impl Answer<'_> {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(self.head, name)
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    address: Address,
    stream: Option<Stream>,
    /// As received; a chunked body is moved together in place.
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) fn new(address: Address) -> Connection {
        Connection { address, stream: None, buffer: vec![0; 64 * 1024], filled: 0 }
    }

    pub(crate) fn connect(&mut self) -> io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(match &self.address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address)?;
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Stream::Tcp(stream)
                }
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    Stream::Unix(stream)
                }
            });
        }
        Ok(())
    }

    /// Sends `request` as it is and waits for the whole answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.connect()?;
        let asked = self.exchange(request);
        match asked {
            Ok((status, head, body, close)) => {
                if close {
                    self.stream = None;
                }
                let head = std::str::from_utf8(&self.buffer[..head]).map_err(io::Error::other)?;
                Ok(Answer { status, head, body: &self.buffer[body] })
            }
            Err(error) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, usize, std::ops::Range<usize>, bool)> {
        match self.stream.as_mut() {
            Some(Stream::Tcp(stream)) => stream.write_all(request)?,
            Some(Stream::Unix(stream)) => stream.write_all(request)?,
            None => return Err(io::ErrorKind::NotConnected.into()),
        }
        self.filled = 0;
        let head = loop {
            self.fill()?;
            if let Some(at) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..head]).map_err(io::Error::other)?;
        let status = text.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other("no status line"))?;
        let close = field(text, "Connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if field(text, "Transfer-Encoding").is_some() {
            let len = self.chunks(head)?;
            return Ok((status, head, head..head + len, close));
        }
        let len: usize = match field(text, "Content-Length") {
            Some(len) => len.parse().map_err(io::Error::other)?,
            None => 0,
        };
        while self.filled < head + len {
            self.fill()?;
        }
        Ok((status, head, head..head + len, close))
    }

    fn chunks(&mut self, head: usize) -> io::Result<usize> {
        let (mut at, mut len) = (head, 0);
        loop {
            let line = loop {
                if let Some(end) = find(&self.buffer[at..self.filled], b"\r\n") {
                    break at + end;
                }
                self.fill()?;
            };
            let digits = std::str::from_utf8(&self.buffer[at..line]).map_err(io::Error::other)?;
            let size = usize::from_str_radix(digits.trim(), 16).map_err(io::Error::other)?;
            at = line + 2;
            while self.filled < at + size + 2 {
                self.fill()?;
            }
            self.buffer.copy_within(at..at + size, head + len);
            len += size;
            at += size + 2;
            if size == 0 {
                return Ok(len);
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        let room = &mut self.buffer[self.filled..];
        let read = match self.stream.as_mut() {
            Some(Stream::Tcp(stream)) => stream.read(room)?,
            Some(Stream::Unix(stream)) => stream.read(room)?,
            None => 0,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += read;
        Ok(())
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A request's bytes.
pub(crate) fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
