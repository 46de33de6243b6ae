//! How it starts.

use std::io::{ErrorKind, Write};
use std::os::fd::FromRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{MANNERS, Manners, forever, hogs, script};

/// The socket to serve on, if the mode has one.
pub fn listener(verb: &str, argument: &str, path: &Path) -> std::io::Result<UnixListener> {
    let number: u64 = argument.parse().unwrap_or(0);
    let folder = path.parent().unwrap_or(Path::new("/")).to_path_buf();
    match verb {
        "never-listens" => forever(),
        "exits" => std::process::exit(if argument.is_empty() { 1 } else { i32::try_from(number).unwrap_or(1) }),
        "ends" => {
            std::thread::sleep(Duration::from_millis(number));
            std::process::exit(4)
        }
        "listens-and-ends" => {
            let _listener = fdk::publish(path)?;
            std::process::exit(5)
        }
        "killed" => signal(libc::SIGKILL),
        "stops" => signal(libc::SIGSTOP),
        "oom" => {
            hogs::eat_memory();
            forever()
        }
        "forks" => {
            hogs::fork_bomb();
            fdk::publish(path)
        }
        "fds" => {
            hogs::take_descriptors();
            fdk::publish(path)
        }
        "late" => {
            std::thread::sleep(Duration::from_millis(if argument.is_empty() { 1000 } else { number }));
            fdk::publish(path)
        }
        "says-exits" => {
            eprintln!("cannot start");
            std::process::exit(i32::try_from(number).unwrap_or(1))
        }
        "prints" => {
            (0..number.max(1)).for_each(|_| flood(1 << 20));
            fdk::publish(path)
        }
        "prints-half" => {
            print!("half a line");
            std::io::stdout().flush()?;
            fdk::publish(path)
        }
        "prints-bytes" => {
            let every: Vec<u8> = (0..=255).cycle().take(100_000).collect();
            std::io::stdout().write_all(&every)?;
            fdk::publish(path)
        }
        "silent" => {
            unsafe { (libc::close(0), libc::close(1), libc::close(2)) };
            fdk::publish(path)
        }
        "files" => {
            let listener = fdk::publish(path)?;
            hogs::files(&folder.to_string_lossy(), 2_000);
            Ok(listener)
        }
        "deep" => {
            let listener = fdk::publish(path)?;
            hogs::deep(&folder.to_string_lossy(), 300);
            Ok(listener)
        }
        _ => named(verb, path, &folder),
    }
}

/// What stands under the socket's name.
fn named(verb: &str, path: &Path, folder: &Path) -> std::io::Result<UnixListener> {
    let trap = std::env::var("TRAP").unwrap_or_else(|_| "/var/run/docker.sock".to_owned());
    let away = |target: &str| {
        symlink(target, path)?;
        forever()
    };
    match verb {
        "direct" => UnixListener::bind(path),
        "dot-link" => linked(path, &folder.join("real.sock"), Path::new("./real.sock")),
        "hard-link" => {
            let listener = open_to_all(&folder.join("real.sock"))?;
            std::fs::hard_link(folder.join("real.sock"), path)?;
            Ok(listener)
        }
        "moved" => {
            let listener = open_to_all(&folder.join("real.sock"))?;
            std::fs::rename(folder.join("real.sock"), path)?;
            Ok(listener)
        }
        "late-link" => {
            let listener = open_to_all(&folder.join("real.sock"))?;
            std::thread::sleep(Duration::from_millis(200));
            symlink("real.sock", path)?;
            Ok(listener)
        }
        "bind-then-listen" => {
            let listener = bound(path)?;
            std::thread::sleep(Duration::from_millis(200));
            hogs::backlog(&listener, 16);
            Ok(listener)
        }
        "no-listen" => {
            let _bound = bound(path)?;
            forever()
        }
        "plain-file" => {
            std::fs::write(path, "not a socket")?;
            forever()
        }
        "folder" => {
            std::fs::create_dir(path)?;
            forever()
        }
        "fifo" => {
            script::fifo(path)?;
            forever()
        }
        "datagrams" => {
            let _socket = UnixDatagram::bind(path)?;
            forever()
        }
        "packets" => {
            let _socket = socket(path, libc::SOCK_SEQPACKET)?;
            forever()
        }
        "wrong-name" => {
            let _listener = UnixListener::bind(folder.join("other.sock"))?;
            forever()
        }
        "sub-folder" => {
            std::fs::create_dir(folder.join("sub"))?;
            linked(path, &folder.join("sub/real.sock"), Path::new("sub/real.sock"))
        }
        "absolute-link" => linked(path, &folder.join("real.sock"), &folder.join("real.sock")),
        "parent-link" => {
            let name = folder.file_name().map(PathBuf::from).unwrap_or_default();
            linked(path, &folder.join("real.sock"), &Path::new("..").join(name).join("real.sock"))
        }
        "link-chain" => {
            symlink(&trap, folder.join("middle.sock"))?;
            away("middle.sock")
        }
        "trap-link" => away(&trap),
        "deep-link" => away("../../../../../../../../../../../../var/run/docker.sock"),
        "device-link" => away("/dev/null"),
        "own-link" => away("lsnr.sock"),
        "folder-link" => away("."),
        "dangling-link" => away("nothing.sock"),
        "bound-not-listening" => {
            drop(UnixListener::bind(folder.join("gone.sock"))?);
            away("gone.sock")
        }
        "gone" => {
            let _listener = UnixListener::bind(path)?;
            std::fs::remove_file(path)?;
            forever()
        }
        "no-folder" => {
            std::fs::remove_dir(folder)?;
            forever()
        }
        "closed-folder" => {
            let listener = fdk::publish(path)?;
            // Not its own, so this is refused; where not, nobody comes in.
            let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o000));
            Ok(listener)
        }
        "never-accepts" => {
            MANNERS.set(Manners::NeverAccepts);
            fdk::publish(path)
        }
        "accepts-and-closes" => {
            MANNERS.set(Manners::Closes);
            fdk::publish(path)
        }
        "backlog-0" => {
            let listener = fdk::publish(path)?;
            hogs::backlog(&listener, 0);
            Ok(listener)
        }
        "swaps" => {
            let listener = open_to_all(&folder.join("real.sock"))?;
            let path = path.to_owned();
            std::thread::spawn(move || {
                loop {
                    let _ = script::swap(&path, &trap);
                    let _ = script::swap(&path, "real.sock");
                }
            });
            Ok(listener)
        }
        _ => fdk::publish(path),
    }
}

fn signal(number: i32) -> ! {
    unsafe { libc::kill(libc::getpid(), number) };
    forever()
}

fn open_to_all(path: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

fn linked(path: &Path, real: &Path, target: &Path) -> std::io::Result<UnixListener> {
    let listener = open_to_all(real)?;
    symlink(target, path)?;
    Ok(listener)
}

/// Bound, and not listening.
fn bound(path: &Path) -> std::io::Result<UnixListener> {
    socket(path, libc::SOCK_STREAM)
}

fn socket(path: &Path, kind: i32) -> std::io::Result<UnixListener> {
    let name = path.to_string_lossy();
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    if name.len() >= address.sun_path.len() {
        return Err(ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) };
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    if fd < 0 || unsafe { libc::bind(fd, (&raw const address).cast(), size) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(unsafe { UnixListener::from_raw_fd(fd) })
}

pub fn flood(bytes: usize) {
    let line = "printed by a function that does not know when to stop ................\n";
    let mut left = bytes;
    while left > 0 {
        let _ = std::io::stdout().write_all(line.as_bytes());
        let _ = std::io::stderr().write_all(line.as_bytes());
        left = left.saturating_sub(line.len());
    }
}
