//! A client that does nothing by itself: one request, one connection, over
//! TCP or a Unix socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any call of a test may wait and run.
const SILENCE: Duration = Duration::from_secs(300);

/// An answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// `message` of the JSON error body.
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_else(|| panic!("no message: {self:?}")).to_owned()
    }
}

/// Sends over TCP and reads to the end; silence beyond what a call may take and
/// wait is an error.
pub(crate) fn send(address: SocketAddr, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
    let mut stream = begin(address, method, target, fields, body)?;
    finish(&mut stream)
}

/// Sends a request and leaves the answer unread.
pub(crate) fn begin(address: SocketAddr, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(&request("HTTP/1.1", method, target, fields, body))?;
    Ok(stream)
}

pub(crate) fn request(version: &str, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} {version}\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads an answer that ends with its connection.
pub(crate) fn finish(stream: &mut impl Read) -> io::Result<Response> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let broken = |what: &str| io::Error::other(format!("{what}: {:?}", String::from_utf8_lossy(&all[..all.len().min(300)])));
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| broken("no head"))?;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| broken("no status"))?;
    let mut response = Response { status, head, body: all[end + 4..].to_vec() };
    if response.field("Transfer-Encoding").is_some() {
        response.body = dechunk(&response.body).ok_or_else(|| broken("bad chunks"))?;
    } else if let Some(length) = response.field("Content-Length")
        && length.parse() != Ok(response.body.len())
    {
        return Err(broken("cut short or too long"));
    }
    Ok(response)
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
