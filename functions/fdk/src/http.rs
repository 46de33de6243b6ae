//! HTTP/1.1 on one connection, blocking: one buffer for input, one for output,
//! both kept between requests.

use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Handler, Request, Response, VERSION};

const MAX_HEAD: usize = 1 << 20;
const MAX_BODY: usize = 256 << 20;
/// Heads and bodies up to this together leave in one copied write; above it
/// the body is written from where it lies.
const COPY_BELOW: usize = 32 * 1024;
/// A buffer that grew beyond this is given back after the request.
const KEEP_BELOW: usize = 4 << 20;

/// Where one header lies in the head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldAt {
    name: (u32, u32),
    value: (u32, u32),
}

impl FieldAt {
    pub(crate) fn name(self) -> Range<usize> {
        self.name.0 as usize..self.name.1 as usize
    }

    pub(crate) fn value(self) -> Range<usize> {
        self.value.0 as usize..self.value.1 as usize
    }
}

/// `FN_LOGFRAME_NAME` and `FN_LOGFRAME_HDR`: a line before each call's output.
#[derive(Debug)]
pub(crate) struct LogFrame {
    name: String,
    header: String,
}

impl LogFrame {
    pub(crate) fn from_env() -> Option<LogFrame> {
        let get = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        Some(LogFrame { name: get("FN_LOGFRAME_NAME")?, header: get("FN_LOGFRAME_HDR")? })
    }

    fn print(&self, request: &Request<'_>) {
        if let Some(value) = request.raw_header(&self.header) {
            let line = format!("\n{}={value}\n", self.name);
            let _ = io::stdout().write_all(line.as_bytes());
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

struct Input {
    stream: UnixStream,
    buf: Vec<u8>,
    /// `buf[..len]` is data.
    len: usize,
}

impl Input {
    /// Reads once; false at the end of the stream.
    fn fill(&mut self, at_least: usize) -> io::Result<bool> {
        if self.buf.len() - self.len < at_least.max(1) {
            let target = (self.len + at_least.max(1)).max(self.buf.len() * 2);
            self.buf.resize(target, 0);
        }
        loop {
            match self.stream.read(&mut self.buf[self.len..]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.len += n;
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Forgets the first `n` bytes.
    fn consume(&mut self, n: usize) {
        self.buf.copy_within(n..self.len, 0);
        self.len -= n;
        if self.buf.len() > KEEP_BELOW && self.len < KEEP_BELOW {
            self.buf.truncate(KEEP_BELOW);
            self.buf.shrink_to_fit();
        }
    }
}

struct Head {
    len: usize,
    body: BodyLen,
    keep_alive: bool,
    gateway: bool,
}

enum BodyLen {
    Known(usize),
    Chunked,
}

fn bad(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Serves one connection until its end.
pub(crate) fn serve<H: Handler>(stream: UnixStream, handler: &H, frame: Option<&LogFrame>) -> io::Result<()> {
    let mut input = Input { stream, buf: vec![0; 16 * 1024], len: 0 };
    let mut fields = Vec::with_capacity(32);
    let mut out = Vec::with_capacity(4 * 1024);
    loop {
        let head = loop {
            if let Some(end) = find_head_end(&input.buf[..input.len]) {
                break parse_head(&input.buf[..end], &mut fields)?;
            }
            if input.len > MAX_HEAD {
                return Err(bad("request head too large"));
            }
            if !input.fill(1)? {
                return Ok(());
            }
        };
        let (body, end) = read_body(&mut input, &head)?;
        let request = Request { fields: &fields, head: &input.buf[..head.len], body: &input.buf[body], gateway: head.gateway };
        if let Some(frame) = frame {
            frame.print(&request);
        }
        let response = catch_unwind(AssertUnwindSafe(|| handler(&request))).unwrap_or_else(|_| Response::failed("the function panicked"));
        write_response(&input.stream, &request, &response, head.keep_alive, &mut out)?;
        drop(response);
        if !head.keep_alive {
            return Ok(());
        }
        input.consume(end);
    }
}

/// Length of the head with its blank line.
fn find_head_end(data: &[u8]) -> Option<usize> {
    data.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

fn parse_head(data: &[u8], fields: &mut Vec<FieldAt>) -> io::Result<Head> {
    fields.clear();
    let line_end = data.windows(2).position(|w| w == b"\r\n").ok_or_else(|| bad("no request line"))?;
    let line = &data[..line_end];
    let http_1_1 = line.ends_with(b" HTTP/1.1");
    if !http_1_1 && !line.ends_with(b" HTTP/1.0") {
        return Err(bad("not HTTP/1"));
    }
    let mut head = Head { len: data.len(), body: BodyLen::Known(0), keep_alive: http_1_1, gateway: false };
    let mut at = line_end + 2;
    while at + 2 < data.len() {
        let end = at + data[at..].windows(2).position(|w| w == b"\r\n").ok_or_else(|| bad("header without end"))?;
        let colon = at + data[at..end].iter().position(|&b| b == b':').ok_or_else(|| bad("header without colon"))?;
        let name = &data[at..colon];
        let raw = &data[colon + 1..end];
        let lead = raw.len() - raw.trim_ascii_start().len();
        let value = raw.trim_ascii();
        let from = colon + 1 + lead.min(raw.len());
        fields.push(FieldAt { name: (at as u32, colon as u32), value: (from as u32, (from + value.len()) as u32) });
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit())).and_then(|v| v.parse::<usize>().ok());
            if !matches!(head.body, BodyLen::Chunked) {
                head.body = BodyLen::Known(length.filter(|&n| n <= MAX_BODY).ok_or_else(|| bad("content-length"))?);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(bad("transfer-encoding"));
            }
            head.body = BodyLen::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for word in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                if word.eq_ignore_ascii_case(b"close") {
                    head.keep_alive = false;
                } else if word.eq_ignore_ascii_case(b"keep-alive") {
                    head.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case(b"fn-intent") {
            head.gateway = value == b"httprequest";
        }
        at = end + 2;
    }
    Ok(head)
}

/// The body's place in the buffer (a chunked one is moved together), and where
/// the next request starts.
fn read_body(input: &mut Input, head: &Head) -> io::Result<(Range<usize>, usize)> {
    let start = head.len;
    match head.body {
        BodyLen::Known(length) => {
            let end = start + length;
            while input.len < end {
                if !input.fill(end - input.len)? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok((start..end, end))
        }
        BodyLen::Chunked => {
            let mut write = start;
            let mut read = start;
            loop {
                let line = read_line(input, read)?;
                let size = chunk_size(&input.buf[read..line])?;
                if write - start + size > MAX_BODY {
                    return Err(bad("request body too large"));
                }
                read = line + 2;
                if size == 0 {
                    break;
                }
                while input.len < read + size + 2 {
                    let missing = read + size + 2 - input.len;
                    if !input.fill(missing)? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                input.buf.copy_within(read..read + size, write);
                write += size;
                read += size;
                if &input.buf[read..read + 2] != b"\r\n" {
                    return Err(bad("chunk end"));
                }
                read += 2;
            }
            loop {
                let line = read_line(input, read)?;
                let empty = line == read;
                read = line + 2;
                if empty {
                    return Ok((start..write, read));
                }
            }
        }
    }
}

/// The index of the CR LF that ends the line starting at `from`.
fn read_line(input: &mut Input, from: usize) -> io::Result<usize> {
    loop {
        if let Some(at) = input.buf[from..input.len].windows(2).position(|w| w == b"\r\n") {
            return Ok(from + at);
        }
        if input.len - from > 8 * 1024 {
            return Err(bad("line too long"));
        }
        if !input.fill(1)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn chunk_size(line: &[u8]) -> io::Result<usize> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| bad("chunk size"))?;
    usize::from_str_radix(text, 16).map_err(|_| bad("chunk size"))
}

fn write_response(mut stream: &UnixStream, request: &Request<'_>, response: &Response<'_>, keep_alive: bool, out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    let wire = match response.status {
        status @ (502 | 504) if !request.gateway => status,
        _ => 200,
    };
    out.extend_from_slice(match wire {
        502 => b"HTTP/1.1 502 Bad Gateway\r\n",
        504 => b"HTTP/1.1 504 Gateway Timeout\r\n",
        _ => b"HTTP/1.1 200 OK\r\n",
    });
    put(out, "", "Content-Type", &response.content_type);
    put(out, "", "Fn-Fdk-Version", VERSION);
    put(out, "", "Fn-Fdk-Runtime", "rust");
    if let Some(id) = request.call_id() {
        put(out, "", "Fn-Call-Id", id);
    }
    let prefix = if request.gateway { "Fn-Http-H-" } else { "" };
    if request.gateway {
        let _ = write!(out, "Fn-Http-Status: {}\r\n", response.status);
    }
    for (name, value) in &response.fields {
        put(out, prefix, name, value);
    }
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\n\r\n", response.body.len());
    if out.len() + response.body.len() <= COPY_BELOW {
        out.extend_from_slice(&response.body);
        return stream.write_all(out);
    }
    let total = out.len() + response.body.len();
    let mut sent = 0;
    while sent < total {
        let result = if sent < out.len() {
            stream.write_vectored(&[IoSlice::new(&out[sent..]), IoSlice::new(&response.body)])
        } else {
            stream.write(&response.body[sent - out.len()..])
        };
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, prefix: &str, name: &str, value: &str) {
    for part in [prefix, name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}
