//! Shows a request as a function gets it, and gives any answer: hob's tests
//! deploy it.
//!
//! A request whose body begins with `HTTP/1.` is answered with that body, byte
//! for byte. Any other is answered with itself: head and body as they came,
//! as text. `X-Wait-Ms: 100` waits first, `X-Exit: 3` ends the process instead.
//! One answer a connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A longer request is cut.
const MAX: usize = 8 << 20;

fn main() {
    let listener = match fdk::listener_path().and_then(|path| fdk::publish(&path).map_err(|e| e.to_string())) {
        Ok(listener) => listener,
        Err(problem) => {
            eprintln!("mirror: {problem}");
            std::process::exit(2)
        }
    };
    for stream in listener.incoming().flatten() {
        // Connections are made ahead of calls: each waits in a thread of its own.
        std::thread::spawn(move || {
            let _ = serve(stream);
        });
    }
}

fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    let Some((head, body)) = request(&mut stream)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&head).into_owned();
    let number = |name: &str| field(&text, name).and_then(|v| v.parse::<u64>().ok());
    if let Some(ms) = number("X-Wait-Ms") {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if let Some(code) = number("X-Exit") {
        std::process::exit(i32::try_from(code).unwrap_or(1));
    }
    if body.starts_with(b"HTTP/1.") {
        return stream.write_all(&body);
    }
    let length = head.len() + body.len();
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
    stream.write_all(&head)?;
    stream.write_all(&body)
}

/// A field's value, sent as it is or through a trigger.
fn field<'t>(head: &'t str, name: &str) -> Option<&'t str> {
    let is = |n: &str| n.eq_ignore_ascii_case(name) || n.get(..10).is_some_and(|p| p.eq_ignore_ascii_case("Fn-Http-H-")) && n[10..].eq_ignore_ascii_case(name);
    head.lines().filter_map(|line| line.split_once(':')).find(|(n, _)| is(n)).map(|(_, value)| value.trim())
}

/// Head, and the body its `Content-Length` announces. `None`: nothing was asked.
fn request(stream: &mut UnixStream) -> std::io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (mut data, mut block) = (Vec::new(), [0u8; 8192]);
    let mut end = None;
    while data.len() < MAX {
        if end.is_none() {
            end = data.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        }
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&data[..end]).into_owned();
            let mut lengths = head.lines().filter_map(|l| l.split_once(": ")).filter(|(n, _)| *n == "Content-Length");
            let length = lengths.next().and_then(|(_, v)| v.parse::<usize>().ok()).unwrap_or(0);
            if data.len() >= end + length {
                let body = data.split_off(end);
                return Ok(Some((data, body)));
            }
        }
        match stream.read(&mut block)? {
            0 => return Ok(None),
            n => data.extend_from_slice(&block[..n]),
        }
    }
    Ok(None)
}
