//! One function that does what no function should: hob's tests deploy it.
//!
//! `HOSTILE` (environment) chooses how it starts, the request header `X-Do`
//! how it answers one call. Without either it answers `ok`.
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
//! | `env` | its environment, a pair a line |
//! | `request` | the request head as it came |

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() {
    let mode = std::env::var("HOSTILE").unwrap_or_default();
    let (verb, argument) = mode.split_once(':').unwrap_or((&mode, ""));
    let number: u64 = argument.parse().unwrap_or(0);
    let path = match fdk::listener_path() {
        Ok(path) => path,
        Err(problem) => {
            eprintln!("hostile: {problem}");
            std::process::exit(2)
        }
    };
    match start(verb, number, argument, &path) {
        Ok(listener) => accept(&listener, verb == "swap", &path),
        Err(error) => {
            eprintln!("hostile: {verb}: {error}");
            std::process::exit(3)
        }
    }
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn start(verb: &str, number: u64, argument: &str, path: &Path) -> std::io::Result<UnixListener> {
    let folder = path.parent().unwrap_or(Path::new("/")).to_path_buf();
    match verb {
        "never-listens" => forever(),
        "says-exits" => {
            eprintln!("cannot start");
            std::process::exit(i32::try_from(number).unwrap_or(1))
        }
        "exits" => std::process::exit(if argument.is_empty() { 1 } else { i32::try_from(number).unwrap_or(1) }),
        "oom" => {
            eat_memory();
            forever()
        }
        "late" => {
            std::thread::sleep(Duration::from_millis(if argument.is_empty() { 1000 } else { number }));
            fdk::publish(path)
        }
        "direct" => UnixListener::bind(path),
        "plain-file" => {
            std::fs::write(path, "not a socket")?;
            forever()
        }
        "folder" => {
            std::fs::create_dir(path)?;
            forever()
        }
        "absolute-link" => linked(path, &folder.join("real.sock"), &folder.join("real.sock")),
        "parent-link" => {
            let name = folder.file_name().map(PathBuf::from).unwrap_or_default();
            linked(path, &folder.join("real.sock"), &Path::new("..").join(name).join("real.sock"))
        }
        "link-chain" => {
            symlink("/var/run/docker.sock", folder.join("middle.sock"))?;
            symlink("middle.sock", path)?;
            forever()
        }
        "dangling-link" => {
            symlink("nothing.sock", path)?;
            forever()
        }
        "bound-not-listening" => {
            let listener = UnixListener::bind(folder.join("gone.sock"))?;
            drop(listener);
            symlink("gone.sock", path)?;
            forever()
        }
        "prints" => {
            (0..number.max(1)).for_each(|_| flood(1 << 20));
            fdk::publish(path)
        }
        _ => fdk::publish(path),
    }
}

fn linked(path: &Path, real: &Path, target: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(real)?;
    std::fs::set_permissions(real, std::fs::Permissions::from_mode(0o666))?;
    symlink(target, path)?;
    Ok(listener)
}

fn accept(listener: &UnixListener, swap: bool, path: &Path) -> ! {
    loop {
        if let Ok((stream, _)) = listener.accept() {
            let path = path.to_path_buf();
            std::thread::spawn(move || {
                let _ = serve(stream, swap, &path);
            });
        }
    }
}

/// A request, read just well enough.
struct Asked {
    head: String,
    what: String,
    call_id: String,
}

fn serve(mut stream: UnixStream, swap: bool, path: &Path) -> std::io::Result<()> {
    while let Some(asked) = read_request(&mut stream)? {
        if swap {
            let _ = std::fs::remove_file(path);
            let _ = symlink("/var/run/docker.sock", path);
        }
        if !answer(&mut stream, &asked)? {
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
    let asked = Asked {
        what: field("X-Do").or_else(|| field("Fn-Http-H-X-Do")).unwrap_or_default(),
        call_id: field("Fn-Call-Id").unwrap_or_default(),
        head: head.clone(),
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
        let mut left = length.saturating_sub(data.len() - end);
        while left > 0 {
            match stream.read(&mut buf)? {
                0 => return Ok(None),
                n => left = left.saturating_sub(n),
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
        "oom" => (ok(&format!("{} MiB", eat_memory())), true),
        "fork-bomb" => (ok(&format!("{} processes", fork_bomb())), true),
        "fd-hog" => (ok(&format!("{} descriptors", take_descriptors())), true),
        "flood" => {
            flood(1 << 20);
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
        "env" => (ok(&std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect::<String>()), true),
        "request" => (ok(&asked.head), true),
        _ => (ok("ok"), true),
    };
    stream.write_all(text.as_bytes())?;
    Ok(stays)
}

/// Takes and touches memory until the kernel objects; 16 GiB is enough.
fn eat_memory() -> usize {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for mib in 0..16_384 {
        let mut block = vec![0u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            page[0] = mib as u8 | 1;
        }
        held.push(block);
    }
    held.len()
}

/// Starts copies of itself that only sleep, until refused; 4,096 is enough.
fn fork_bomb() -> usize {
    let Ok(program) = std::env::current_exe() else { return 0 };
    let mut children = 0;
    while children < 4096 {
        let spawned = std::process::Command::new(&program).env("HOSTILE", "never-listens").spawn();
        match spawned {
            Ok(_) => children += 1,
            Err(_) => break,
        }
    }
    children
}

fn take_descriptors() -> usize {
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
        if held.len() > 1 << 20 {
            break;
        }
    }
    held.len()
}

fn flood(bytes: usize) {
    let line = "printed by a function that does not know when to stop ................\n";
    let mut left = bytes;
    while left > 0 {
        let _ = std::io::stdout().write_all(line.as_bytes());
        let _ = std::io::stderr().write_all(line.as_bytes());
        left = left.saturating_sub(line.len());
    }
}
