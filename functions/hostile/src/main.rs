//! One function that does what no function should: hob's tests deploy it.
//!
//! `HOSTILE` (environment) chooses how it starts, the request header `X-Do`
//! how it answers one call, or `X-Script` step by step (`script.rs`). Without
//! any it answers `ok`.
//!
//! | HOSTILE | start |
//! |---|---|
//! | `never-listens` | runs, makes no socket |
//! | `exits` / `exits:N` | ends at once with 1 / N |
//! | `oom` | eats memory before it listens |
//! | `late` / `late:MS` | listens after 1000 / MS milliseconds |
//! | `direct` | binds the socket itself, no link |
//! | `plain-file` | an ordinary file instead of a socket |
//! | `folder` | a folder instead of a socket |
//! | `absolute-link`, `parent-link`, `link-chain`, `dangling-link` | links the contract forbids |
//! | `swap` | a good socket first, an outward link after the first call |
//! | `prints` | floods both outputs before it listens |
//! | `bound-not-listening` | shows a name nobody accepts on |
//! | `dot-link`, `hard-link`, `moved`, `late-link`, `bind-then-listen` | unusual, and allowed |
//! | `sub-folder`, `own-link`, `folder-link`, `trap-link`, `deep-link` | more links the contract forbids |
//! | `wrong-name`, `datagrams`, `packets`, `fifo`, `device-link` | nothing to connect to |
//! | `no-listen`, `gone`, `no-folder`, `closed-folder` | a socket that is never, or no longer, there |
//! | `never-accepts`, `accepts-and-closes`, `backlog-0` | listens, and then |
//! | `swaps` | from its start the name is now its socket, now a link to `TRAP` |
//! | `ends:MS` | without a socket, ends with 4 after MS milliseconds |
//! | `listens-and-ends` | ends with 5 as soon as its socket is there |
//! | `killed` | without a socket, kills itself |
//! | `stops` | stops itself before it listens |
//! | `prints-half`, `prints-bytes`, `silent` | half a line, no text; closes both outputs |
//! | `files`, `deep` | leaves 2,000 files, 300 nested folders beside its socket |
//! | `forks`, `fds` | takes all of them first |
//!
//! | X-Do | answer |
//! |---|---|
//! | `status:N` | a well-formed answer with that status |
//! | `redirect` | 302 with a Location |
//! | `twice` | two whole answers to one request |
//! | `late:MS` | answers after MS milliseconds, whatever the deadline |
//! | `stray:MS` | answers, then MS later writes another answer on the same connection |
//! | `short`, `long` | a Content-Length smaller / greater than the body; `long` closes |
//! | `truncated` | half of the announced body, then closes |
//! | `no-length` | a body that ends with the connection |
//! | `chunked`, `bad-chunk`, `cut-chunk` | a chunked body: right, wrong size line, ends early |
//! | `garbage`, `huge-head`, `endless-head`, `two-lengths`, `length-and-chunked` | no HTTP one should accept |
//! | `drip:MS` | one byte every MS milliseconds, for ever |
//! | `never` | reads the request, says nothing |
//! | `close` | closes without an answer |
//! | `close-mid-body` | closes while the request body still arrives |
//! | `exit:N`, `abort` | the process ends |
//! | `oom`, `fork-bomb`, `fd-hog` | takes all it can get, then answers `ok` with the count |
//! | `flood:N` | N megabytes (1) on both outputs, then answers |
//! | `say:N` | prints N lines on each output, then answers |
//! | `say-never` | prints a line, says nothing |
//! | `say-late:MS` | answers, then MS later prints a line |
//! | `say-exit:N` | prints a line and ends with N |
//! | `say-odd` | prints control characters, bytes that are no text and a very long line |
//! | `body:N` | N bytes |
//! | `wrong-id` | another call's Fn-Call-Id |
//! | `hop-fields` | hop-by-hop and forged fields |
//! | `echo`, `echo-bare` | the request's body, with and without the call's id; `X-Instance` names the process |
//! | `env` | its environment, a pair a line |
//! | `request` | the request head as it came |

mod hogs;
mod script;
mod start;

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The socket it listens on, for those who do something to it.
static LISTENER: Mutex<Option<UnixListener>> = Mutex::new(None);
static MANNERS: How = How(AtomicU8::new(0));

/// What it does with new connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    Serves = 0,
    NeverAccepts = 1,
    Closes = 2,
}

struct How(AtomicU8);

impl How {
    fn set(&self, manners: Manners) {
        self.0.store(manners as u8, Ordering::SeqCst);
    }

    fn is(&self, manners: Manners) -> bool {
        self.0.load(Ordering::SeqCst) == manners as u8
    }
}

fn main() {
    instance();
    let mode = std::env::var("HOSTILE").unwrap_or_default();
    let (verb, argument) = mode.split_once(':').unwrap_or((&mode, ""));
    let path = match fdk::listener_path() {
        Ok(path) => path,
        Err(problem) => {
            eprintln!("hostile: {problem}");
            std::process::exit(2)
        }
    };
    match start::listener(verb, argument, &path) {
        Ok(listener) => {
            *LISTENER.lock().expect("one thread") = listener.try_clone().ok();
            accept(&listener, verb == "swap", &path)
        }
        Err(error) => {
            eprintln!("hostile: {verb}: {error}");
            std::process::exit(3)
        }
    }
}

/// Differs for each started process.
fn instance() -> &'static str {
    static INSTANCE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    INSTANCE.get_or_init(|| format!("{:x}", std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos())))
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn forever_thread() {
    forever()
}

fn accept(listener: &UnixListener, swap: bool, path: &Path) -> ! {
    loop {
        if MANNERS.is(Manners::NeverAccepts) {
            forever();
        }
        match listener.accept() {
            Ok((stream, _)) if MANNERS.is(Manners::Closes) => drop(stream),
            Ok((stream, _)) if MANNERS.is(Manners::Serves) => {
                let path = path.to_path_buf();
                let _ = std::thread::Builder::new().spawn(move || {
                    let _ = serve(stream, swap, &path);
                });
            }
            // Accepted and never looked at.
            Ok((stream, _)) => std::mem::forget(stream),
            // Deaf: what it has is served on.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A request, read just well enough.
#[derive(Clone)]
struct Asked {
    head: String,
    body: Vec<u8>,
    what: String,
    script: String,
    call_id: String,
    /// Bytes of the body that were left in the connection.
    unread: usize,
}

fn serve(mut stream: UnixStream, swap: bool, path: &Path) -> std::io::Result<()> {
    while let Some(asked) = read_request(&mut stream)? {
        if swap {
            let _ = std::fs::remove_file(path);
            let _ = symlink("/var/run/docker.sock", path);
        }
        let stays = if asked.script.is_empty() { answer(&mut stream, &asked)? } else { script::run(&mut stream, &asked, path)? };
        if !stays {
            return Ok(());
        }
    }
    Ok(())
}

fn read_request(stream: &mut UnixStream) -> std::io::Result<Option<Asked>> {
    let mut data = Vec::new();
    let mut buf = [0u8; 8192];
    let end = loop {
        if let Some(at) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buf)? {
            0 => return Ok(None),
            n => data.extend_from_slice(&buf[..n]),
        }
    };
    let head = String::from_utf8_lossy(&data[..end]).into_owned();
    let field = |name: &str| -> Option<String> {
        head.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()))
    };
    let mut asked = Asked {
        what: field("X-Do").or_else(|| field("Fn-Http-H-X-Do")).unwrap_or_default(),
        script: field("X-Script").unwrap_or_default(),
        call_id: field("Fn-Call-Id").unwrap_or_default(),
        head: head.clone(),
        body: Vec::new(),
        unread: 0,
    };
    if asked.what == "close-mid-body" {
        return Ok(None);
    }
    if field("Transfer-Encoding").is_some() {
        while !data[end - 2..].windows(7).any(|w| w == b"\r\n0\r\n\r\n") {
            match stream.read(&mut buf)? {
                0 => return Ok(None),
                n => data.extend_from_slice(&buf[..n]),
            }
        }
    } else {
        let length: usize = field("Content-Length").and_then(|v| v.parse().ok()).unwrap_or(0);
        asked.body = data.split_off(end);
        asked.unread = length.saturating_sub(asked.body.len());
        while asked.unread > 0 && !asked.script.starts_with("unread") {
            match stream.read(&mut buf)? {
                0 => return Ok(None),
                n => {
                    asked.body.extend_from_slice(&buf[..n]);
                    asked.unread = asked.unread.saturating_sub(n);
                }
            }
        }
    }
    Ok(Some(asked))
}

fn whole(status: u16, call_id: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Said So\r\nContent-Type: text/plain\r\nFn-Call-Id: {call_id}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers; false closes the connection.
fn answer(stream: &mut UnixStream, asked: &Asked) -> std::io::Result<bool> {
    let (verb, argument) = asked.what.split_once(':').unwrap_or((&asked.what, ""));
    let number: u64 = argument.parse().unwrap_or(0);
    let id = asked.call_id.as_str();
    let pause = Duration::from_millis(number);
    let ok = |body: &str| whole(200, id, "", body);
    // Most behaviours are one text and whether the connection stays open.
    let (text, stays): (String, bool) = match verb {
        "status" => (whole(u16::try_from(number).unwrap_or(200), id, "", "said so"), true),
        "redirect" => (whole(302, id, "Location: /other\r\n", ""), true),
        "twice" => (ok("first") + &ok("second"), true),
        "late" => {
            std::thread::sleep(pause);
            (ok("late"), true)
        }
        "stray" => {
            stream.write_all(ok("answer").as_bytes())?;
            std::thread::sleep(pause);
            (ok("stray"), true)
        }
        "short" => (format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nContent-Length: 2\r\n\r\nmore than two"), true),
        "long" | "truncated" => (format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nContent-Length: 1000\r\n\r\nless"), false),
        "no-length" => (format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\n\r\nuntil the end"), false),
        "chunked" => (format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=1\r\ndefg\r\n0\r\nT: 1\r\n\r\n"), true),
        "bad-chunk" => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n".to_owned(), true),
        "cut-chunk" => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc".to_owned(), false),
        "garbage" => ("\u{1}\u{2}ßthis is no HTTP\r\n\r\n".to_owned(), true),
        "huge-head" => (whole(200, id, &format!("X-Huge: {}\r\n", "h".repeat(2 << 20)), "ok"), true),
        "two-lengths" => ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc".to_owned(), true),
        "length-and-chunked" => ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), true),
        "wrong-id" => (whole(200, "01HF7YAT3V180G40RZJ0000001", "", "not yours"), true),
        "hop-fields" => (
            whole(
                200,
                id,
                "Connection: close, X-Gone\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-Plain: 1\r\nFn-Http-H-Content-Length: 99\r\nFn-Http-H-X-Kept: 1\r\nFn-Http-Status: 418\r\n",
                "ok",
            ),
            false,
        ),
        "close" => return Ok(false),
        "never" => forever(),
        "say-never" => {
            println!("waits for ever in {id}");
            forever()
        }
        "exit" => std::process::exit(i32::try_from(number).unwrap_or(1)),
        "abort" => std::process::abort(),
        "endless-head" => loop {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-More: 1\r\n")?;
        },
        "drip" => {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "d".repeat(1000));
            for byte in text.bytes().cycle() {
                stream.write_all(&[byte])?;
                std::thread::sleep(pause);
            }
            return Ok(false);
        }
        "oom" => (ok(&format!("{} MiB", hogs::eat_memory())), true),
        "fork-bomb" => (ok(&format!("{} processes", hogs::fork_bomb())), true),
        "fd-hog" => (ok(&format!("{} descriptors", hogs::take_descriptors())), true),
        "flood" => {
            (0..number.max(1)).for_each(|_| start::flood(1 << 20));
            (ok("flooded"), true)
        }
        "say" => {
            for n in 0..number {
                println!("said {n} in {id}");
                eprintln!("told {n} in {id}");
            }
            (ok("said"), true)
        }
        "say-late" => {
            stream.write_all(ok("answered").as_bytes())?;
            std::thread::sleep(pause);
            println!("late in {id}");
            return Ok(true);
        }
        "say-exit" => {
            eprintln!("cannot go on: {id}");
            std::process::exit(i32::try_from(number).unwrap_or(1))
        }
        "say-odd" => {
            let mut out = std::io::stdout();
            out.write_all(b"forged\r2026-11-24 ERROR hob: all is lost\x1b[2J \xff\xfe end\n")?;
            out.write_all(&[b'x'; 10_000])?;
            out.write_all(b"\n")?;
            (ok("said"), true)
        }
        "body" => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nContent-Length: {number}\r\n\r\n").as_bytes())?;
            let block = [b'b'; 8192];
            let mut left = number;
            while left > 0 {
                let n = left.min(8192);
                stream.write_all(&block[..usize::try_from(n).unwrap_or(8192)])?;
                left -= n;
            }
            return Ok(true);
        }
        "echo" | "echo-bare" => {
            let id = if verb == "echo" { format!("Fn-Call-Id: {id}\r\n") } else { String::new() };
            let mut all = format!("HTTP/1.1 200 OK\r\n{id}X-Instance: {}\r\nContent-Length: {}\r\n\r\n", instance(), asked.body.len()).into_bytes();
            all.extend_from_slice(&asked.body);
            stream.write_all(&all)?;
            return Ok(true);
        }
        "env" => (ok(&std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect::<String>()), true),
        "request" => (ok(&asked.head), true),
        _ => (ok("ok"), true),
    };
    stream.write_all(text.as_bytes())?;
    Ok(stays)
}
