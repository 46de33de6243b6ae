//! What functions print, sent to the syslog of their apps, where the driver
//! does not do that itself (spec http-api §4.4).
//!
//! Owns: the thread `hot-syslog`, begun with the first line, and its
//! connections. Called by: `hot`. Blocks on: its queue; a connect or a write,
//! each a second at most; the system's resolver where a name is given. Does not: hold anybody up, nor keep what cannot be
//! sent: lines that find the queue full or the syslog away are lost, and told.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::model::{Id, Timestamp};
use crate::pool::{Thread, spawn};

/// Lines waiting to be sent.
const QUEUED: usize = 4096;
/// For a connect, and for a write.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to reach a syslog that is away.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two words about one that is away.
const QUIET: Duration = Duration::from_secs(60);
/// What is queued at the stop may take so long.
const LAST: Duration = Duration::from_secs(1);
/// Connections kept.
const KEPT: usize = 256;
const PORT: u16 = 514;

/// Where the lines of one function go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    url: Arc<str>,
    place: Place,
    /// `app_id=…,fn_id=…`
    tag: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Udp(String),
    Tcp(String),
    Unix(String),
    Unixgram(String),
}

impl Destination {
    /// # Errors
    /// The URL names nothing that can be sent to, in words for the caller.
    pub fn parse(url: &str, app_id: &Id, fn_id: &Id) -> Result<Destination, String> {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url} is no URL"))?;
        let place = match scheme {
            "udp" => Place::Udp(with_port(rest)),
            "tcp" => Place::Tcp(with_port(rest)),
            "unix" => Place::Unix(rest.to_owned()),
            "unixgram" => Place::Unixgram(rest.to_owned()),
            _ => return Err(format!("{url}: without a container engine only udp, tcp, unix and unixgram are sent to")),
        };
        Ok(Destination { url: url.into(), place, tag: format!("app_id={app_id},fn_id={fn_id}").into() })
    }

    /// Whether somebody is there, as far as one can tell.
    ///
    /// # Errors
    /// Nobody, in words for the caller.
    pub fn probe(&self) -> Result<(), String> {
        Line::open(&self.place).map(drop).map_err(|e| format!("{}: {e}", self.url))
    }
}

fn with_port(rest: &str) -> String {
    let rest = rest.trim_end_matches('/');
    let has_port = rest.rsplit_once(':').is_some_and(|(host, port)| !port.contains(']') && (!host.contains(':') || host.ends_with(']')));
    if has_port { rest.to_owned() } else { format!("{rest}:{PORT}") }
}

struct Entry {
    to: Destination,
    text: String,
}

struct Running {
    queue: Sender<Entry>,
    thread: Thread,
}

/// The sender.
pub struct Syslog {
    running: Mutex<Option<Running>>,
    host: String,
    stopping: Arc<AtomicBool>,
    /// Lines that found the queue full.
    lost: AtomicU64,
}

impl std::fmt::Debug for Syslog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syslog").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Default for Syslog {
    fn default() -> Syslog {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "-".to_owned(), |name| name.trim().to_owned());
        Syslog { running: Mutex::default(), host, stopping: Arc::default(), lost: AtomicU64::new(0) }
    }
}

impl Syslog {
    /// Queues a line; never waits.
    pub fn send(&self, to: &Destination, is_error: bool, text: &str) {
        if self.stopping.load(Ordering::SeqCst) {
            return;
        }
        let mut running = self.running.lock();
        if running.is_none() {
            let (queue, lines) = bounded(QUEUED);
            let stopping = self.stopping.clone();
            match spawn("hot-syslog", move || run(&lines, &stopping)) {
                Ok(thread) => *running = Some(Running { queue, thread }),
                Err(error) => return log::warn!("nothing goes to {}: {error}", to.url),
            }
        }
        let text = message(to, is_error, &self.host, text, Timestamp::now());
        if let Some(running) = &*running
            && running.queue.try_send(Entry { to: to.clone(), text }).is_err()
        {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                log::warn!("syslog does not keep up: {lost} lines of functions were not sent");
            }
        }
    }

    /// What is queued is sent, for a second at most; the thread is joined.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let running = self.running.lock().take();
        if let Some(Running { queue, thread }) = running {
            drop(queue);
            thread.join();
        }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.stop();
    }
}

/// RFC 5424, facility user, as the engine writes it.
fn message(to: &Destination, is_error: bool, host: &str, text: &str, now: Timestamp) -> String {
    let priority = if is_error { 11 } else { 14 };
    format!("<{priority}>1 {now} {host} {tag} {} {tag} - {text}", std::process::id(), tag = to.tag)
}

fn run(lines: &Receiver<Entry>, stopping: &AtomicBool) {
    let mut peers: HashMap<Arc<str>, Peer> = HashMap::new();
    let mut until = None;
    for entry in lines {
        if stopping.load(Ordering::SeqCst) && Instant::now() >= *until.get_or_insert_with(|| Instant::now() + LAST) {
            return;
        }
        if peers.len() >= KEPT && !peers.contains_key(&entry.to.url) {
            peers.clear();
        }
        peers.entry(entry.to.url.clone()).or_default().send(&entry);
    }
}

/// One syslog, there or not.
#[derive(Default)]
struct Peer {
    line: Option<Line>,
    away_since: Option<Instant>,
    told: Option<Instant>,
    lost: u64,
}

impl Peer {
    fn send(&mut self, entry: &Entry) {
        // A kept connection may have ended meanwhile: once more on a new one.
        let sent = match self.line.as_mut().map(|line| line.write(&entry.text)) {
            Some(Ok(())) => Ok(()),
            _ => self.anew(entry),
        };
        match sent {
            Ok(()) => self.away_since = None,
            Err(error) => {
                (self.line, self.away_since) = (None, Some(Instant::now()));
                self.lost += 1;
                if self.told.is_none_or(|at| at.elapsed() >= QUIET) {
                    self.told = Some(Instant::now());
                    log::warn!("syslog {}: {error}; {} lines of functions were not sent", entry.to.url, self.lost);
                }
            }
        }
    }

    fn anew(&mut self, entry: &Entry) -> io::Result<()> {
        self.line = None;
        if self.away_since.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(io::Error::other("it was away a moment ago"));
        }
        let mut line = Line::open(&entry.to.place)?;
        line.write(&entry.text)?;
        self.line = Some(line);
        Ok(())
    }
}

/// A connection.
enum Line {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixStream),
    Unixgram(UnixDatagram),
}

impl Line {
    fn open(place: &Place) -> io::Result<Line> {
        match place {
            Place::Udp(at) => {
                let to = resolve(at)?;
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(to)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Line::Udp(socket))
            }
            Place::Tcp(at) => {
                let stream = TcpStream::connect_timeout(&resolve(at)?, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Line::Tcp(stream))
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Line::Unix(stream))
            }
            Place::Unixgram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Line::Unixgram(socket))
            }
        }
    }

    /// A datagram each; on a stream lines end with a line feed.
    fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Line::Udp(socket) => socket.send(text.as_bytes()).map(drop),
            Line::Unixgram(socket) => socket.send(text.as_bytes()).map(drop),
            Line::Tcp(stream) => stream.write_all(format!("{text}\n").as_bytes()),
            Line::Unix(stream) => stream.write_all(format!("{text}\n").as_bytes()),
        }
    }
}

fn resolve(at: &str) -> io::Result<SocketAddr> {
    at.to_socket_addrs()?.next().ok_or_else(|| io::Error::other(format!("{at} has no address")))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn to(url: &str) -> Destination {
        Destination::parse(url, &Id::MIN, &Id::MIN).expect("a URL")
    }

    #[test]
    fn urls() {
        for (url, place) in [
            ("udp://logs", Place::Udp("logs:514".to_owned())),
            ("udp://logs:5514/", Place::Udp("logs:5514".to_owned())),
            (" tcp://10.0.0.1 ", Place::Tcp("10.0.0.1:514".to_owned())),
            ("tcp://[::1]:99", Place::Tcp("[::1]:99".to_owned())),
            ("tcp://[::1]", Place::Tcp("[::1]:514".to_owned())),
            ("unix:///dev/log", Place::Unix("/dev/log".to_owned())),
            ("unixgram:///dev/log", Place::Unixgram("/dev/log".to_owned())),
        ] {
            assert_eq!(to(url).place, place, "{url}");
        }
        for url in ["tcp+tls://logs:1", "http://logs", "logs", ""] {
            assert!(Destination::parse(url, &Id::MIN, &Id::MIN).is_err(), "{url}");
        }
    }

    #[test]
    fn a_line_is_what_the_engine_writes() {
        let line = message(&to("udp://x"), true, "host", "told", Timestamp(0));
        let (tag, pid) = (format!("app_id={0},fn_id={0}", Id::MIN), std::process::id());
        assert_eq!(line, format!("<11>1 1970-01-01T00:00:00.000Z host {tag} {pid} {tag} - told"));
        assert!(message(&to("udp://x"), false, "h", "said", Timestamp(0)).starts_with("<14>1 "));
    }

    #[test]
    fn lines_arrive_in_order_and_the_stop_sends_what_is_queued() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let there = to(&format!("tcp://{}", listener.local_addr().expect("bound")));
        assert_eq!(there.probe(), Ok(()));
        drop(listener.accept().expect("the probe"));
        let syslog = Syslog::default();
        for n in 0..100 {
            syslog.send(&there, false, &format!("line {n}"));
        }
        syslog.stop();
        let mut text = String::new();
        listener.accept().expect("the sender").0.read_to_string(&mut text).expect("text");
        let wanted: Vec<String> = (0..100).map(|n| format!("- line {n}")).collect();
        assert!(text.lines().zip(&wanted).all(|(line, end)| line.ends_with(end)) && text.lines().count() == 100, "{text}");
    }

    #[test]
    fn one_that_is_away_holds_nobody_up_and_is_found_again() {
        let path = std::env::temp_dir().join(format!("hob-syslog-{}", Id::new()));
        let there = to(&format!("unix://{}", path.display()));
        assert!(there.probe().is_err());
        let mut peer = Peer::default();
        let entry = |text: &str| Entry { to: there.clone(), text: text.to_owned() };
        peer.send(&entry("lost"));
        peer.send(&entry("lost too, without another try"));
        assert_eq!((peer.lost, peer.line.is_some()), (2, false));
        let listener = UnixListener::bind(&path).expect("bound");
        peer.away_since = None;
        peer.send(&entry("found"));
        let mut text = [0u8; 6];
        let (mut stream, _) = listener.accept().expect("it");
        stream.read_exact(&mut text).expect("text");
        assert_eq!(&text, b"found\n");
        // Its other end goes: the next line gets a new connection.
        drop(stream);
        peer.send(&entry("again"));
        listener.accept().expect("it").0.read_exact(&mut text).expect("text");
        assert_eq!((&text, peer.lost), (b"again\n", 2));
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn datagrams() {
        let path = std::env::temp_dir().join(format!("hob-syslog-{}", Id::new()));
        let socket = UnixDatagram::bind(&path).expect("bound");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let syslog = Syslog::default();
        syslog.send(&to(&format!("unixgram://{}", path.display())), true, "told");
        syslog.send(&to(&format!("udp://{}", udp.local_addr().expect("bound"))), true, "told");
        syslog.stop();
        let mut text = [0u8; 500];
        let n = socket.recv(&mut text).expect("one");
        assert!(text[..n].ends_with(b"- told"));
        let n = udp.recv(&mut text).expect("one");
        assert!(text[..n].ends_with(b"- told"));
        let _ = std::fs::remove_file(path);
    }
}
