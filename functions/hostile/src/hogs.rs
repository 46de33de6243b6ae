//! Takes all it can get.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// Takes and touches memory until the kernel objects; 16 GiB is enough.
pub fn eat_memory() -> usize {
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
pub fn fork_bomb() -> usize {
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

/// Threads that only sleep, until refused.
pub fn threads() {
    for _ in 0..4096 {
        if std::thread::Builder::new().stack_size(16 << 10).spawn(crate::forever_thread).is_err() {
            break;
        }
    }
}

pub fn take_descriptors() -> usize {
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
        if held.len() > 1 << 20 {
            break;
        }
    }
    held.len()
}

/// Threads that never sleep.
pub fn spin(count: u64) {
    for _ in 0..count {
        let _ = std::thread::Builder::new().spawn(|| {
            let mut n = 0u64;
            loop {
                n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(7));
            }
        });
    }
}

/// Files without anything in them, until refused.
pub fn files(folder: &str, count: u64) {
    for n in 0..count {
        if File::create(PathBuf::from(folder).join(format!("file-{n}"))).is_err() {
            break;
        }
    }
}

/// One file, until refused.
pub fn fill(folder: &str, bytes: u64) {
    let Ok(mut file) = File::create(PathBuf::from(folder).join("filler")) else { return };
    let block = vec![b'f'; 1 << 20];
    for _ in 0..bytes >> 20 {
        if file.write_all(&block).is_err() {
            break;
        }
    }
}

/// A folder in a folder in a folder …
pub fn deep(folder: &str, depth: u64) {
    if std::env::set_current_dir(folder).is_err() {
        return;
    }
    for n in 0..depth {
        if std::fs::create_dir("d").and_then(|()| File::create("f")).and_then(|_| std::env::set_current_dir("d")).is_err() {
            eprintln!("depth {n}");
            break;
        }
    }
}

/// The text over and over until so many bytes are out, at least once.
pub fn print(target: &str, text: &[u8], bytes: u64) {
    let block = if bytes > 1 { text.repeat(1 + 8192 / text.len().max(1)) } else { text.to_vec() };
    let mut left = bytes;
    loop {
        let piece = &block[..usize::try_from(left).map_or(block.len(), |left| if bytes > 1 { left.min(block.len()) } else { block.len() })];
        if target != "err" {
            let mut out = std::io::stdout();
            let _ = out.write_all(piece).and_then(|()| out.flush());
        }
        if target != "out" {
            let _ = std::io::stderr().write_all(piece);
        }
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 || piece.is_empty() {
            return;
        }
    }
}

/// Nobody can connect any more.
pub fn shut(listener: &UnixListener) {
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

pub fn backlog(listener: &UnixListener, length: i32) {
    unsafe { libc::listen(listener.as_raw_fd(), length) };
}
