//! The contract against functions that break it, each on a real socket in a
//! real folder. After each the next call must get its own answer.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

mod answers;
mod connections;

use super::*;
use crate::call::{AnswerHead, ClientGone, WatchGuard};
use crate::pool::{Thread, spawn};
use crate::uds::iofs::Iofs;

type Fields = Vec<(String, Vec<u8>)>;

/// Records what it was given; fails from its `fails_at`th call on.
#[derive(Default)]
struct Client {
    whole: Option<(Fields, Vec<u8>)>,
    begun: Option<(Fields, Option<u64>)>,
    data: Vec<u8>,
    ended: bool,
    fails_at: Option<u32>,
    calls: u32,
    socket: Option<UnixStream>,
}

impl Client {
    fn told(&mut self) -> Result<(), ClientGone> {
        self.calls += 1;
        if self.fails_at.is_some_and(|at| self.calls >= at) { Err(ClientGone) } else { Ok(()) }
    }

    fn body(&self) -> Option<&[u8]> {
        match (&self.whole, self.ended) {
            (Some((_, body)), false) => Some(body),
            (None, true) => Some(&self.data),
            _ => None,
        }
    }
}

fn copy(head: &AnswerHead<'_>) -> Fields {
    head.fields.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect()
}

impl Caller for Client {
    fn whole(&mut self, head: &AnswerHead<'_>, body: &[u8]) -> Result<(), ClientGone> {
        assert!(self.whole.is_none() && self.begun.is_none(), "one answer only");
        self.whole = Some((copy(head), body.to_vec()));
        self.told()
    }
    fn begin(&mut self, head: &AnswerHead<'_>, len: Option<u64>) -> Result<(), ClientGone> {
        assert!(self.whole.is_none() && self.begun.is_none(), "one answer only");
        self.begun = Some((copy(head), len));
        self.told()
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        assert!(self.begun.is_some() && !self.ended, "data between begin and end");
        self.told()?;
        self.data.extend_from_slice(bytes);
        Ok(())
    }
    fn end(&mut self) -> Result<(), ClientGone> {
        assert!(self.begun.is_some() && !self.ended, "one end");
        self.ended = true;
        self.told()
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }
    fn watch(&self, _: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        None
    }
}

/// What a function does with one request. `early`: before it reads the body.
struct Act {
    early: bool,
    run: Box<Run>,
}

type Run = dyn FnOnce(&mut UnixStream, &Asked) + Send;

/// A request as the function read it.
struct Asked {
    head: String,
    id: String,
    len: usize,
    body: Vec<u8>,
    connection: usize,
}

fn act(run: impl FnOnce(&mut UnixStream, &Asked) + Send + 'static) -> Act {
    Act { early: false, run: Box::new(run) }
}

/// Writes, then closes.
fn says(text: impl Into<Vec<u8>>) -> Act {
    let text = text.into();
    act(move |s, _| drop(s.write_all(&text)))
}

/// Writes, then does nothing until the server closes.
fn says_and_waits(text: impl Into<Vec<u8>>) -> Act {
    let text = text.into();
    act(move |s, _| {
        let _ = s.write_all(&text);
        until_closed(s);
    })
}

fn until_closed(s: &mut UnixStream) {
    let _ = s.read_to_end(&mut Vec::new());
}

fn good(s: &mut UnixStream, asked: &Asked, echo: bool) -> bool {
    let id = if echo { format!("Fn-Call-Id: {}\r\n", asked.id) } else { String::new() };
    s.write_all(format!("HTTP/1.1 200 OK\r\n{id}X-Connection: {}\r\nContent-Length: 26\r\n\r\n{}", asked.connection, asked.id).as_bytes()).is_ok()
}

/// A function in a folder of its own. Its acts are used up one per request;
/// after that it answers every call with the call's id.
struct Function {
    folder: Option<Folder>,
    parent: PathBuf,
    thread: Option<Thread>,
    stop: Arc<Stop>,
    acts: Arc<Mutex<VecDeque<Act>>>,
    _iofs: Iofs,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn folder() -> (Iofs, Folder, PathBuf) {
    let parent = std::env::temp_dir().join(format!("hob-function-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst)));
    let _ = std::fs::remove_dir_all(&parent);
    let iofs = Iofs::open(&parent).expect("iofs");
    let folder = iofs.create("f").expect("folder");
    (iofs, folder, parent)
}

fn function(acts: impl IntoIterator<Item = Act>, echo: bool) -> Function {
    let (iofs, folder, parent) = folder();
    let listener = UnixListener::bind(folder.path().join("phonylsnr.sock")).expect("bind");
    symlink("phonylsnr.sock", folder.path().join(SOCKET_NAME)).expect("link");
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let acts = Arc::new(Mutex::new(acts.into_iter().collect::<VecDeque<_>>()));
    let thread = spawn("test-function", {
        let (stop, acts) = (stop.clone(), acts.clone());
        move || {
            let mut connections: Vec<(UnixStream, Thread)> = Vec::new();
            loop {
                if crate::pool::wait_for(listener.as_fd(), rustix::event::PollFlags::IN, None, Some(&stop), None).expect("poll") != crate::pool::Woke::Ready {
                    break;
                }
                let (stream, _) = listener.accept().expect("accept");
                let other = stream.try_clone().expect("dup");
                let (acts, n) = (acts.clone(), connections.len());
                connections.push((other, spawn("test-connection", move || serve(stream, n, &acts, echo)).expect("thread")));
            }
            for (stream, thread) in connections {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                thread.join();
            }
        }
    })
    .expect("thread");
    Function { folder: Some(folder), parent, thread: Some(thread), stop, acts, _iofs: iofs }
}

fn serve(mut stream: UnixStream, connection: usize, acts: &Mutex<VecDeque<Act>>, echo: bool) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).expect("text");
        let field = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)).expect("field").to_owned();
        let mut asked =
            Asked { id: field("Fn-Call-Id: "), len: field("Content-Length: ").parse().expect("length"), head: head.clone(), body: Vec::new(), connection };
        let next = acts.lock().pop_front();
        let early = next.as_ref().is_some_and(|a| a.early);
        if !early {
            asked.body = vec![0; asked.len];
            if stream.read_exact(&mut asked.body).is_err() {
                return;
            }
        }
        match next {
            Some(act) => {
                // The function's end of an act is the end of its connection.
                (act.run)(&mut stream, &asked);
                // `serve` keeps no other copy: but the listener's does.
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            None => {
                if !good(&mut stream, &asked, echo) {
                    return;
                }
            }
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.stop.fire();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
        drop(self.folder.take());
        let _ = std::fs::remove_dir_all(&self.parent);
    }
}

impl Function {
    fn open(&self) -> FunctionSocket {
        let stop = Stop::new().expect("eventfd");
        FunctionSocket::open(self.folder.as_ref().expect("folder"), Instant::now() + Duration::from_secs(5), &stop).expect("open")
    }
}

const LIMITS: Limits = Limits { max_body: 1000, max_head: 2048, hold: 100 };
const LONG: Duration = Duration::from_secs(90);
const SHORT: Duration = Duration::from_millis(80);

struct Done {
    id: Id,
    result: Result<(), CallError>,
    fate: Fate,
    client: Client,
    took: Duration,
}

fn call_with(socket: &mut FunctionSocket, mut client: Client, body: &Body, limits: &Limits, timeout: Duration, stop: &Stop) -> Done {
    let id = Id::new();
    let begun = Instant::now();
    let request =
        FnRequest { call_id: &id, fields: b"X-A: 1\r\nX-A: 2\r\n", body, deadline: begun + timeout, deadline_wall: Timestamp(1_700_000_000_123), timeout };
    let (result, fate) = match socket.send(&request, stop) {
        Ok(sent) => socket.receive(sent, &request, &mut client, limits, stop),
        Err(e) => (Err(e), Fate::Discard),
    };
    Done { id, result, fate, client, took: begun.elapsed() }
}

fn call(socket: &mut FunctionSocket, timeout: Duration) -> Done {
    let stop = Stop::new().expect("eventfd");
    call_with(socket, Client::default(), &Body::Memory(b"ping".to_vec()), &LIMITS, timeout, &stop)
}

/// The promise: whatever happened before, this call gets its own answer.
fn next_is_own(function: &Function, socket: &mut FunctionSocket, fate: Fate, name: &str) {
    if fate == Fate::Reuse {
        socket.ready_next();
    } else {
        *socket = function.open();
    }
    let done = call(socket, LONG);
    assert!(done.result.is_ok(), "{name}: the next call failed: {:?}", done.result);
    assert_eq!(done.client.body(), Some(done.id.as_str().as_bytes()), "{name}: the next call got another's answer");
}

/// One hostile act, once as a first call and once on a kept connection.
fn expect(name: &str, make: impl Fn() -> Act, timeout: Duration, fate: Fate, check: impl Fn(&Done) -> bool) {
    let function = function([make()], false);
    let mut socket = function.open();
    let done = call(&mut socket, timeout);
    assert!(check(&done), "{name}: {:?}, body {:?}, begun {:?}", done.result, done.client.body().map(|b| b.escape_ascii().to_string()), done.client.begun);
    assert_eq!(done.fate, fate, "{name}: {:?}", done.result);
    assert!(done.took < timeout + Duration::from_secs(60), "{name} took {:?}", done.took);
    next_is_own(&function, &mut socket, fate, name);
}

fn delivers(name: &str, text: impl AsRef<[u8]>, body: &[u8]) {
    for waits in [false, true] {
        let make = || if waits { says_and_waits(text.as_ref()) } else { says(text.as_ref()) };
        expect(name, make, LONG, Fate::Reuse, |d| d.result.is_ok() && d.client.body() == Some(body));
    }
}

fn no_answer_of(d: &Done) -> bool {
    matches!(d.result, Err(CallError::NoAnswer { .. })) && d.client.calls == 0
}

fn bad_of(d: &Done) -> bool {
    matches!(d.result, Err(CallError::BadAnswer { .. })) && d.client.calls == 0
}
