//! What to do with one call, step by step, as its header `X-Script` says:
//! `verb:argument;verb:argument;…`, bytes that are no letters, digits or `-`
//! written as `%XX`. The request's body is read first, unless the first step
//! is `unread`. `@I` in a text is the call's id.
//!
//! | step | does |
//! |---|---|
//! | `say:TEXT` | writes it |
//! | `ok:BODY`, `bare:BODY` | a good answer with, without the call's id |
//! | `rep:N,TEXT`, `endless:TEXT` | writes it N times, until that fails |
//! | `drip:MS,TEXT` | writes it byte by byte with a pause after each |
//! | `unread`, `read` | not now; now: the rest of the request's body |
//! | `wait:MS`, `hang` | a pause, and one for ever |
//! | `aside` | what follows is done beside the next calls |
//! | `half`, `close` | ends its sending side, the connection |
//! | `exit:N`, `signal:N` | ends the process, sends it a signal |
//! | `unlink`, `link:TARGET`, `file`, `mkdir`, `fifo` | instead of its socket's name |
//! | `rebind` | another socket under the name, the old one closed |
//! | `swaps:TARGET` | from now on swaps the name between its socket and a link |
//! | `chmod:MODE`, `rmdir` | its socket's folder |
//! | `deaf`, `backlog:N`, `no-accept`, `accept-and-close` | its listener from now on |
//! | `print:WHERE,TEXT`, `flood:WHERE,BYTES,TEXT` | on `out`, `err` or `both` |
//! | `close-output`, `ignore-term` | |
//! | `eat`, `forks`, `threads`, `fds`, `spin:N`, `files:PATH,N`, `fill:PATH,BYTES`, `deep:PATH,N` | takes what it can get |

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Asked, LISTENER, MANNERS, Manners, forever, hogs};

/// Runs a call's script; false closes the connection.
pub fn run(stream: &mut UnixStream, asked: &Asked, path: &Path) -> Result<bool> {
    let steps: Vec<String> = asked.script.split(';').map(str::to_owned).collect();
    steps_of(stream, &steps, asked, path)
}

fn steps_of(stream: &mut UnixStream, steps: &[String], asked: &Asked, path: &Path) -> Result<bool> {
    for (at, step) in steps.iter().enumerate() {
        let (verb, argument) = step.split_once(':').unwrap_or((step, ""));
        if verb == "aside" {
            let (mut stream, rest, asked, path) = (stream.try_clone()?, steps[at + 1..].to_vec(), asked.clone(), path.to_owned());
            std::thread::spawn(move || steps_of(&mut stream, &rest, &asked, &path));
            return Ok(true);
        }
        if verb == "close" {
            stream.shutdown(Shutdown::Both)?;
            return Ok(false);
        }
        let argument = decode(argument, &asked.call_id);
        if !on_the_wire(stream, verb, &argument, asked)? {
            on_the_name(verb, &argument, path)?;
            on_the_host(verb, &argument)?;
        }
    }
    Ok(true)
}

/// True: it was one of these.
fn on_the_wire(stream: &mut UnixStream, verb: &str, argument: &[u8], asked: &Asked) -> Result<bool> {
    match verb {
        "say" => stream.write_all(argument)?,
        "ok" => answer(stream, &format!("Fn-Call-Id: {}\r\n", asked.call_id), argument)?,
        "bare" => answer(stream, "", argument)?,
        "rep" => {
            let (count, text) = number_and(argument);
            let block = text.repeat(usize::try_from(count).unwrap_or(1).min(1000));
            let mut left = count;
            while left > 0 {
                let now = left.min(1000);
                stream.write_all(&block[..text.len() * usize::try_from(now).unwrap_or(1)])?;
                left -= now;
            }
        }
        "endless" => loop {
            stream.write_all(&argument.repeat(1 + 4096 / argument.len().max(1)))?;
        },
        "drip" => {
            let (pause, text) = number_and(argument);
            for byte in text {
                stream.write_all(&[*byte])?;
                std::thread::sleep(Duration::from_millis(pause));
            }
        }
        "read" => asked.read_rest(stream)?,
        "half" => stream.shutdown(Shutdown::Write)?,
        "hang" => forever(),
        "wait" => std::thread::sleep(Duration::from_millis(number_and(argument).0)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn answer(stream: &mut UnixStream, fields: &str, body: &[u8]) -> Result<()> {
    let mut text = format!("HTTP/1.1 200 OK\r\n{fields}X-Instance: {}\r\nContent-Length: {}\r\n\r\n", crate::instance(), body.len()).into_bytes();
    text.extend_from_slice(body);
    stream.write_all(&text)
}

fn on_the_name(verb: &str, argument: &[u8], path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let text = String::from_utf8_lossy(argument).into_owned();
    let real = std::fs::read_link(path).unwrap_or_default();
    match verb {
        "unlink" => std::fs::remove_file(path)?,
        "link" => swap(path, &text)?,
        "file" => {
            std::fs::remove_file(path)?;
            std::fs::write(path, "not a socket")?;
        }
        "mkdir" => {
            std::fs::remove_file(path)?;
            std::fs::create_dir(path)?;
        }
        "fifo" => {
            std::fs::remove_file(path)?;
            fifo(path)?;
        }
        "rebind" => {
            let name = format!("again-{}.sock", std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos()));
            let listener = UnixListener::bind(folder.join(&name))?;
            std::fs::set_permissions(folder.join(&name), std::fs::Permissions::from_mode(0o666))?;
            swap(path, &name)?;
            let old = LISTENER.lock().map_err(|_| ErrorKind::Other)?.replace(listener.try_clone()?);
            if let Some(old) = old {
                hogs::shut(&old);
            }
            let path = path.to_owned();
            std::thread::spawn(move || crate::accept(&listener, false, &path));
        }
        "swaps" => {
            let (path, real) = (path.to_owned(), real.to_string_lossy().into_owned());
            std::thread::spawn(move || {
                loop {
                    let _ = swap(&path, &text);
                    let _ = swap(&path, &real);
                }
            });
        }
        // Not its own, so this is refused; where not, nobody comes in.
        "chmod" => drop(std::fs::set_permissions(folder, std::fs::Permissions::from_mode(u32::from_str_radix(&text, 8).unwrap_or(0)))),
        "rmdir" => drop(std::fs::remove_dir_all(folder)),
        _ => {}
    }
    Ok(())
}

/// In one step, as a race needs it.
pub fn swap(path: &Path, target: &str) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let new = path.with_extension(format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    symlink(target, &new)?;
    std::fs::rename(&new, path)
}

pub fn fifo(path: &Path) -> Result<()> {
    let name = std::ffi::CString::new(path.to_string_lossy().as_bytes())?;
    if unsafe { libc::mkfifo(name.as_ptr(), 0o666) } == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn on_the_host(verb: &str, argument: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(argument).into_owned();
    let (first, second) = text.split_once(',').unwrap_or((&text, ""));
    let count: u64 = second.split(',').next().unwrap_or("").parse().unwrap_or(0);
    match verb {
        "exit" => std::process::exit(text.parse().unwrap_or(1)),
        "signal" => drop(unsafe { libc::kill(libc::getpid(), text.parse().unwrap_or(9)) }),
        "deaf" => LISTENER.lock().map_err(|_| ErrorKind::Other)?.iter().for_each(hogs::shut),
        "backlog" => LISTENER.lock().map_err(|_| ErrorKind::Other)?.iter().for_each(|l| hogs::backlog(l, text.parse().unwrap_or(0))),
        "no-accept" => MANNERS.set(Manners::NeverAccepts),
        "accept-and-close" => MANNERS.set(Manners::Closes),
        "print" => hogs::print(first, &argument[first.len() + 1..], 1),
        "flood" => {
            let start = first.len() + 1 + second.split(',').next().map_or(0, str::len) + 1;
            hogs::print(first, &argument[start..], count);
        }
        "close-output" => drop(unsafe { (libc::close(1), libc::close(2)) }),
        "ignore-term" => drop(unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) }),
        "eat" => drop(hogs::eat_memory()),
        "forks" => drop(hogs::fork_bomb()),
        "threads" => hogs::threads(),
        "fds" => drop(hogs::take_descriptors()),
        "spin" => hogs::spin(text.parse().unwrap_or(1)),
        "files" => hogs::files(first, count),
        "fill" => hogs::fill(first, count),
        "deep" => hogs::deep(first, count),
        _ => {}
    }
    Ok(())
}

fn number_and(argument: &[u8]) -> (u64, &[u8]) {
    let end = argument.iter().position(|b| *b == b',').unwrap_or(argument.len());
    let number = std::str::from_utf8(&argument[..end]).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    (number, argument.get(end + 1..).unwrap_or_default())
}

/// `%XX` back into bytes, `@I` into the call's id.
fn decode(text: &str, id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        out.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    let mut whole = Vec::new();
    let mut rest = &out[..];
    while let Some(at) = rest.windows(2).position(|w| w == b"@I") {
        whole.extend_from_slice(&rest[..at]);
        whole.extend_from_slice(id.as_bytes());
        rest = &rest[at + 2..];
    }
    whole.extend_from_slice(rest);
    whole
}

impl Asked {
    /// Reads what is left of the request's body.
    pub fn read_rest(&self, stream: &mut UnixStream) -> Result<()> {
        let mut left = self.unread;
        let mut buf = [0u8; 8192];
        while left > 0 {
            match stream.read(&mut buf)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => left = left.saturating_sub(n),
            }
        }
        Ok(())
    }
}
