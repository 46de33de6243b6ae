//! An engine that answers what the test wants, and a relay that makes the
//! real one reachable by TCP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Folder;
use crate::pool::{Thread, spawn};

/// What the fake does with one request.
pub(in super::super) enum Reply {
    Json(u16, String),
    /// Closes without a word.
    Close,
    /// Says nothing until the client goes away.
    Hang,
    /// The head of a stream, and then nothing.
    Silence,
    /// Waits until the gate is open, then as told.
    When(Arc<AtomicBool>, Box<Reply>),
}

type Handler = dyn Fn(&str, &str) -> Option<Reply> + Send + Sync;

/// `GET /version` and `/info` are answered like an engine; the rest, by the
/// handler: it gets the request line and the whole head.
pub(in super::super) struct Fake {
    pub(in super::super) host: String,
    pub(in super::super) asked: Arc<Mutex<Vec<String>>>,
    folder: Folder,
    over: Arc<AtomicBool>,
    accepting: Option<Thread>,
}

impl Fake {
    pub(in super::super) fn new(handler: impl Fn(&str, &str) -> Option<Reply> + Send + Sync + 'static) -> Fake {
        let folder = Folder::new();
        let path = folder.path.join("engine.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let (asked, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, stop) = (asked.clone(), over.clone());
        let accepting = spawn("fake-engine", move || {
            let mut serving = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (handler, log) = (handler.clone(), log.clone());
                let stream = stream.expect("accept");
                serving.push(spawn("fake-serve", move || serve(stream, &*handler, &log)).expect("thread"));
            }
        })
        .expect("thread");
        Fake { host: format!("unix://{}", path.display()), asked, folder, over, accepting: Some(accepting) }
    }

    pub(in super::super) fn count(&self, part: &str) -> usize {
        self.asked.lock().iter().filter(|line| line.contains(part)).count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.folder.path.join("engine.sock"));
        drop(self.accepting.take());
    }
}

fn serve(stream: UnixStream, handler: &Handler, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("dup"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let line = head.lines().next().unwrap_or_default().to_owned();
    asked.lock().push(line.clone());
    let reply = handler(&line, &head).unwrap_or_else(|| usual(&line));
    answer(stream, reader, reply);
}

fn answer(mut stream: UnixStream, mut reader: BufReader<UnixStream>, reply: Reply) {
    match reply {
        Reply::Close => {}
        Reply::Hang => {
            let _ = reader.read(&mut [0]);
        }
        Reply::Silence => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let _ = reader.read(&mut [0]);
        }
        Reply::When(gate, then) => {
            while !gate.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            answer(stream, reader, *then);
        }
        Reply::Json(status, text) => {
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
        }
    }
}

fn usual(line: &str) -> Reply {
    match line {
        l if l.contains(" /version ") => Reply::Json(200, r#"{"Version":"20.10.0","ApiVersion":"1.41"}"#.to_owned()),
        l if l.contains("/info ") => Reply::Json(200, "{}".to_owned()),
        l if l.contains("/events") => Reply::Silence,
        _ => Reply::Json(404, r#"{"message":"nothing here"}"#.to_owned()),
    }
}

/// TCP in front of the engine's socket.
pub(in super::super) struct Relay {
    pub(in super::super) host: String,
    address: std::net::SocketAddr,
    over: Arc<AtomicBool>,
    accepting: Option<Thread>,
}

impl Relay {
    pub(in super::super) fn to(socket: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let over = Arc::new(AtomicBool::new(false));
        let (stop, socket) = (over.clone(), socket.to_owned());
        let accepting = spawn("relay", move || {
            let mut copying = Vec::new();
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                copying.extend(relay(client.expect("accept"), &socket));
            }
        })
        .expect("thread");
        Relay { host: format!("tcp://{address}"), address, over, accepting: Some(accepting) }
    }
}

fn relay(client: TcpStream, socket: &str) -> [Thread; 2] {
    let engine = UnixStream::connect(socket).expect("engine");
    let (mut client_in, mut engine_out) = (client.try_clone().expect("dup"), engine.try_clone().expect("dup"));
    let (mut engine_in, mut client_out) = (engine, client);
    let up = spawn("relay-up", move || {
        let _ = io::copy(&mut client_in, &mut engine_out);
        let _ = engine_out.shutdown(Shutdown::Both);
    });
    let down = spawn("relay-down", move || {
        let _ = io::copy(&mut engine_in, &mut client_out);
        let _ = client_out.shutdown(Shutdown::Both);
    });
    [up.expect("thread"), down.expect("thread")]
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        drop(self.accepting.take());
    }
}
