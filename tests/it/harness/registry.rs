//! A real registry on loopback, and a line to it that can be slow or cut.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::json;

use super::{Folder, http, wait_until};

pub(crate) const USER: &str = "hob";
pub(crate) const PASSWORD: &str = "open sesame";
/// The same for the registry: `htpasswd -Bbn`.
const HTPASSWD: &str = "hob:$2y$05$0dXOS2v4Mk7oMsLyNOyrIuvoQKWsKq9TAO3lqRenFdI.n.sISfL.6\n";

/// A registry with what it stores in a folder of its own.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: SocketAddr,
    _folder: Arc<Folder>,
}

impl Registry {
    /// With `locked` it wants a password. `None`: skipped, there is none here.
    pub(crate) fn start(locked: bool) -> Option<Registry> {
        let folder = Folder::new();
        // Free now, and nobody else's for the moment it takes to start.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: '{address}'}}\n",
            folder.path.join("storage").display()
        );
        if locked {
            let passwords = folder.path.join("htpasswd");
            std::fs::write(&passwords, HTPASSWD).expect("written");
            let _ = write!(config, "auth:\n  htpasswd: {{realm: test, path: {}}}\n", passwords.display());
        }
        let file = folder.path.join("config.yml");
        std::fs::write(&file, config).expect("written");
        let child = match Command::new("docker-registry").arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(e) => {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "docker-registry: {e}, and CI=true promises it");
                println!("SKIPPED: no docker-registry");
                return None;
            }
        };
        let registry = Registry { child, address, _folder: folder };
        let expected = if locked { 401 } else { 200 };
        wait_until("the registry", || http::send(address, "GET", "/v2/", &[], b"").ok().filter(|r| r.status == expected));
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `X-Registry-Auth` of the user who may.
pub(crate) fn header() -> String {
    BASE64_URL_SAFE.encode(json!({"username": USER, "password": PASSWORD}).to_string())
}

/// A docker configuration for `registry` with this password.
pub(crate) fn config(registry: SocketAddr, password: &str) -> String {
    json!({"auths": {registry.to_string(): {"auth": BASE64_STANDARD.encode(format!("{USER}:{password}"))}}}).to_string()
}

/// A line to a server. Both figures may change while it is used.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    /// Bytes a second towards the client; 0 = as fast as it goes.
    pub(crate) rate: Arc<AtomicU64>,
    /// A connection is cut after so many bytes; 0 = never.
    pub(crate) cut_after: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Line {
    pub(crate) fn to(server: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("address");
        let (rate, cut_after, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (limits, ending) = ((rate.clone(), cut_after.clone()), over.clone());
        let accepting = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let (mut up_from, mut up_to) = (client.try_clone().expect("dup"), server.try_clone().expect("dup"));
                // These end with their connections.
                thread::spawn(move || {
                    let _ = std::io::copy(&mut up_from, &mut up_to);
                    let _ = up_to.shutdown(Shutdown::Write);
                });
                let (limits, ending) = (limits.clone(), ending.clone());
                thread::spawn(move || down(server, client, &limits.0, &limits.1, &ending));
            }
        });
        Line { address, rate, cut_after, over, accepting: Some(accepting) }
    }
}

fn down(mut server: TcpStream, mut client: TcpStream, rate: &AtomicU64, cut_after: &AtomicU64, over: &AtomicBool) {
    let (mut part, mut sent) = ([0; 16 * 1024], 0u64);
    while let Ok(n) = server.read(&mut part) {
        let (rate, cut_after) = (rate.load(Ordering::SeqCst), cut_after.load(Ordering::SeqCst));
        sent += n as u64;
        if n == 0 || (cut_after > 0 && sent > cut_after) || over.load(Ordering::SeqCst) || client.write_all(&part[..n]).is_err() {
            break;
        }
        if rate > 0 {
            thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

impl Drop for Line {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}
