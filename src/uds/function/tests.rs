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
    run: Box<dyn FnOnce(&mut UnixStream, &Asked) + Send>,
}

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
        let mut asked = Asked { id: field("Fn-Call-Id: "), len: field("Content-Length: ").parse().expect("length"), head: head.clone(), body: Vec::new(), connection };
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
const LONG: Duration = Duration::from_secs(10);
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
    let request = FnRequest { call_id: &id, fields: b"X-A: 1\r\nX-A: 2\r\n", body, deadline: begun + timeout, deadline_wall: Timestamp(1_700_000_000_123), timeout };
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
    assert!(done.took < timeout + Duration::from_secs(4), "{name} took {:?}", done.took);
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

#[test]
fn answers_that_are_good() {
    delivers("counted", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"");
    delivers("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n2;x\r\nng\r\n0\r\nA: b\r\n\r\n", b"pong");
    delivers("chunked and empty", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"");
    delivers("HTTP/1.0 counted", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("no reason", "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("interim ones first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("says close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("another's id where only this was asked", "HTTP/1.1 200 OK\r\nFn-Call-Id: 01HF7YAT3V180G40RZJ0000001\r\nContent-Length: 4\r\n\r\npong", b"pong");
    delivers("answers twice", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npongHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"pong");
    delivers("length too short", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npongevil", b"pong");
    delivers("exactly held", format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(100)), &[b'x'; 100]);
    delivers("streamed by length", format!("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n{}", "x".repeat(101)), &[b'x'; 101]);
    delivers("exactly the limit", format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000)), &[b'x'; 1000]);
    delivers("streamed in chunks", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "28\r\n0123456789012345678901234567890123456789\r\n".repeat(5)), "0123456789".repeat(20).as_bytes());
    expect("until it closes", || says("HTTP/1.0 200 OK\r\n\r\npong"), LONG, Fate::Reuse, |d| d.client.body() == Some(b"pong"));
    expect("until it closes, long", || says([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 500]].concat()), LONG, Fate::Reuse, |d| d.client.body() == Some(&[b'x'; 500]) && d.client.begun == Some((vec![], None)));
    // In single bytes.
    let drip = |text: &'static [u8]| {
        act(move |s, _| {
            for byte in text {
                let _ = s.write_all(&[*byte]);
                std::thread::yield_now();
            }
        })
    };
    expect("drip", || drip(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"), LONG, Fate::Reuse, |d| d.client.body() == Some(b"pong"));
    expect("drip in chunks", || drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n2\r\nng\r\n0\r\n\r\n"), LONG, Fate::Reuse, |d| d.client.body() == Some(b"pong"));
}

#[test]
fn answers_that_are_cut_at_any_byte_are_no_answers() {
    for text in [&b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\npong"[..], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n2\r\nng\r\n0\r\n\r\n"] {
        for end in 0..text.len() {
            expect("cut", || says(&text[..end]), LONG, Fate::Discard, no_answer_of);
        }
    }
    expect("length too long", || says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong"), LONG, Fate::Discard, no_answer_of);
    expect("chunk longer than sent", || says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npong"), LONG, Fate::Discard, no_answer_of);
    let broken = |d: &Done| matches!(d.result, Err(CallError::Broken { sent: 150, .. })) && !d.client.ended && d.client.data.len() == 150;
    expect("a long one cut", || says([b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".to_vec(), vec![b'x'; 150]].concat()), LONG, Fate::Discard, broken);
    expect("long chunks cut", || says([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n96\r\n".to_vec(), vec![b'x'; 150]].concat()), LONG, Fate::Discard, broken);
    expect("long chunks gone bad", || says([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n96\r\n".to_vec(), vec![b'x'; 150], b"evil".to_vec()].concat()), LONG, Fate::Discard, broken);
    expect("an interim one only", || says("HTTP/1.1 100 Continue\r\n\r\n"), LONG, Fate::Discard, no_answer_of);
}

#[test]
fn answers_that_are_malformed() {
    let bad = |name: &str, text: &str| {
        expect(name, || says_and_waits(text), LONG, Fate::Discard, |d| {
            // The text is ours alone: nothing a function wrote comes through.
            bad_of(d) && !d.result.as_ref().is_err_and(|e| e.to_string().contains("evil"))
        });
    };
    bad("garbage", "evil garbage");
    bad("not HTTP", "EVIL/1.1 200 OK\r\n\r\n");
    bad("HTTP/2", "HTTP/2.0 200 OK\r\nevil: 1\r\n\r\n");
    bad("status no number", "HTTP/1.1 evil OK\r\n\r\n");
    bad("empty lines first", "\r\nHTTP/1.1 200 OK\r\nevil: 1\r\nContent-Length: 0\r\n\r\n");
    bad("LF only", "HTTP/1.1 200 OK\nevil: 1\nContent-Length: 0\n\n");
    bad("LF in a field", "HTTP/1.1 200 OK\r\nA: b\nevil: c\r\nContent-Length: 0\r\n\r\n");
    bad("CR in a value", "HTTP/1.1 200 OK\r\nA: b\revil\r\nContent-Length: 0\r\n\r\n");
    bad("NUL in a value", "HTTP/1.1 200 OK\r\nA: b\0evil\r\nContent-Length: 0\r\n\r\n");
    bad("folded line", "HTTP/1.1 200 OK\r\nA: b\r\n evil\r\nContent-Length: 0\r\n\r\n");
    bad("space before colon", "HTTP/1.1 200 OK\r\nevil : b\r\nContent-Length: 0\r\n\r\n");
    bad("name not a token", "HTTP/1.1 200 OK\r\nev il: b\r\nContent-Length: 0\r\n\r\n");
    bad("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!");
    bad("length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nevil");
    bad("length no number", "HTTP/1.1 200 OK\r\nContent-Length: evil\r\n\r\n");
    bad("length negative", "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil");
    bad("odd coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: evil, chunked\r\n\r\n");
    bad("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    bad("chunk size no number", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzevil\r\n");
    bad("chunk size too long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000004\r\nevil");
    bad("no end of chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil!!");
    bad("endless extension", &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;{}", "evil".repeat(100)));
    bad("huge trailers", &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}", "evil: x\r\n".repeat(2000)));
    bad("interim flood", &"HTTP/1.1 100 Continue\r\n\r\n".repeat(40));
    bad("129 fields", &format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(129)));
    let too_big = |d: &Done| matches!(d.result, Err(CallError::AnswerHeadTooBig { limit: 2048 })) && d.client.calls == 0;
    expect("huge head", || says_and_waits(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(5000))), LONG, Fate::Discard, too_big);
    expect("huge complete head", || says_and_waits(format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(2040))), LONG, Fate::Discard, too_big);
    expect("endless status line", || says_and_waits(format!("HTTP/1.1 200 {}", "x".repeat(5000))), LONG, Fate::Discard, too_big);
}

#[test]
fn statuses_of_the_contract() {
    for (status, fate) in [(201, Fate::Discard), (204, Fate::Discard), (301, Fate::Discard), (302, Fate::Discard), (304, Fate::Discard), (400, Fate::Discard), (404, Fate::Discard), (500, Fate::Discard), (503, Fate::Discard), (999, Fate::Discard), (101, Fate::Discard)] {
        let text = format!("HTTP/1.1 {status} X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n");
        expect("status", || says_and_waits(text.as_str()), LONG, fate, |d| matches!(d.result, Err(CallError::InvalidAnswer { status: s }) if s == status) && d.client.calls == 0);
    }
    for (status, name) in [(502, "failed"), (504, "timeout")] {
        let check = move |d: &Done| d.client.calls == 0 && if status == 502 { matches!(d.result, Err(CallError::FunctionFailed)) } else { matches!(d.result, Err(CallError::FunctionTimeout)) };
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nevil");
        expect(name, || says_and_waits(text.as_str()), LONG, Fate::Reuse, check);
        let text = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n");
        expect(name, || says_and_waits(text.as_str()), LONG, Fate::Reuse, check);
        let text = [format!("HTTP/1.1 {status} X\r\n\r\n").into_bytes(), vec![b'x'; 3 << 20]].concat();
        expect(name, || says_and_waits(text.as_slice()), LONG, Fate::Reuse, check);
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nevil");
        expect(name, || says(text.as_str()), LONG, Fate::Discard, check);
        expect(name, || says_and_waits(text.as_str()), LONG, Fate::Discard, check);
    }
}

#[test]
fn bodies_over_the_limit() {
    let too_big = |d: &Done| matches!(d.result, Err(CallError::AnswerTooBig { limit: 1000 })) && d.client.calls == 0;
    expect("by length", || says_and_waits([b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_vec(), vec![b'x'; 1001]].concat()), LONG, Fate::Reuse, too_big);
    expect("by a huge length", || says_and_waits("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nx"), LONG, Fate::Reuse, too_big);
    let broken = |d: &Done| matches!(d.result, Err(CallError::Broken { .. })) && !d.client.ended && d.client.data.len() <= 1000;
    expect("by chunks", || says_and_waits([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n200\r\n".to_vec(), vec![b'x'; 512], b"\r\n200\r\n".to_vec(), vec![b'x'; 512]].concat()), LONG, Fate::Reuse, broken);
    expect("by not ending", || act(|s, _| while s.write_all(&[b'x'; 100]).is_ok() {}), LONG, Fate::Discard, bad_of);
    // When all of it would be held, nothing has been sent yet: a clean error.
    let function = function([says_and_waits([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 60]].concat())], false);
    let mut socket = function.open();
    let stop = Stop::new().expect("eventfd");
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &Limits { max_body: 50, ..LIMITS }, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::AnswerTooBig { limit: 50 })) && done.client.calls == 0, "{:?}", done.result);
    next_is_own(&function, &mut socket, done.fate, "held over the limit");
    assert_eq!(done.fate, Fate::Reuse);
    // No limit.
    let function = self::function([says([b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n".to_vec(), vec![b'x'; 3_000_000]].concat())], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &Limits { max_body: 0, ..LIMITS }, LONG, &stop);
    assert!(done.result.is_ok() && done.client.data.len() == 3_000_000 && done.client.begun == Some((vec![], Some(3_000_000))));
    next_is_own(&function, &mut socket, done.fate, "unlimited");
}

#[test]
fn too_late_is_a_timeout() {
    let late = |d: &Done| matches!(d.result, Err(CallError::Timeout { limit: SHORT })) && d.client.calls == 0;
    expect("never answers", || says_and_waits(""), SHORT, Fate::Discard, late);
    expect("half a head", || says_and_waits("HTTP/1.1 200 OK\r\nContent-"), SHORT, Fate::Discard, late);
    expect("half a body", || says_and_waits("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npo"), SHORT, Fate::Discard, late);
    expect("half the chunks", || says_and_waits("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npo\r\n"), SHORT, Fate::Discard, late);
    expect("an interim one only", || says_and_waits("HTTP/1.1 100 Continue\r\n\r\n"), SHORT, Fate::Discard, late);
    let drip = |text: &'static str| {
        act(move |s, _| {
            let _ = s.write_all(text.as_bytes());
            let tick = Stop::new().expect("eventfd");
            while s.write_all(b"x").is_ok() {
                crate::uds::net::pause(Some(&tick), Duration::from_millis(3));
            }
        })
    };
    expect("head drips for ever", || drip("HTTP/1.1 200 OK\r\nA: "), SHORT, Fate::Discard, late);
    expect("body drips for ever", || drip("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n"), SHORT, Fate::Discard, late);
    expect("a long one drips", || drip("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"), SHORT, Fate::Discard, |d| matches!(d.result, Err(CallError::Broken { .. })) && !d.client.ended);
    expect("answers after the deadline", || act(|s, asked| {
        until_closed(s);
        good(s, asked, false);
    }), SHORT, Fate::Discard, late);
}

#[test]
fn the_answers_fields_are_filtered() {
    let text = "HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: X-Secret , keep-alive\r\nx-secret: s\r\nKeep-Alive: 5\r\nTE: x\r\nTrailer: x\r\nUpgrade: x\r\nProxy-Connection: x\r\nProxy-Authenticate: x\r\nProxy-Authorization: x\r\nFn-Call-Id: evil\r\nfn-call-id: evil\r\nSet-Cookie: a=1\r\nx-a: 2\r\nSet-Cookie: b=2\r\nX-Raw: \u{e4}\r\nX-Empty:\r\nContent-Length: 4\r\n\r\npong";
    let wanted: Fields = [("X-A", "1"), ("Set-Cookie", "a=1"), ("x-a", "2"), ("Set-Cookie", "b=2"), ("X-Raw", "\u{e4}"), ("X-Empty", "")].map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec())).into();
    expect("filter", || says_and_waits(text), LONG, Fate::Reuse, |d| d.client.whole == Some((wanted.clone(), b"pong".to_vec())));
    let chunked = text.replace("Content-Length: 4\r\n\r\npong", &format!("Transfer-Encoding: chunked\r\n\r\nc8\r\n{}\r\n0\r\n\r\n", "x".repeat(200)));
    expect("filter, streamed", || says_and_waits(chunked.as_str()), LONG, Fate::Reuse, |d| d.client.begun == Some((wanted.clone(), None)) && d.client.ended);
}

#[test]
fn the_request_on_the_wire() {
    let function = function([act(|s, asked| {
        let text = format!("{}{}", asked.head, String::from_utf8_lossy(&asked.body));
        let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
    })], false);
    let mut socket = function.open();
    let done = call(&mut socket, LONG);
    let wanted = format!("POST /call HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nX-A: 2\r\nFn-Call-Id: {}\r\nFn-Deadline: 2023-11-14T22:13:20Z\r\nContent-Length: 4\r\n\r\nping", done.id);
    assert_eq!(done.client.body().map(|b| String::from_utf8_lossy(b).into_owned()), Some(wanted));
}

/// Answers with the length and a sum of what it read.
fn sums(s: &mut UnixStream, asked: &Asked) {
    let sum: u64 = asked.body.iter().map(|b| u64::from(*b)).sum();
    let text = format!("{} {sum}", asked.body.len());
    let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
}

fn file_of(bytes: &[u8]) -> Body {
    let path = std::env::temp_dir().join(format!("hob-body-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst)));
    std::fs::write(&path, bytes).expect("write");
    let file = std::fs::File::open(&path).expect("open");
    std::fs::remove_file(&path).expect("unlink");
    Body::File { file, len: bytes.len() as u64 }
}

#[test]
fn bodies_of_every_size_arrive() {
    let stop = Stop::new().expect("eventfd");
    for size in [0, 1, 1000, 200_000, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
        for body in [Body::Memory(bytes.clone()), file_of(&bytes)] {
            let function = function([act(sums)], false);
            let mut socket = function.open();
            let done = call_with(&mut socket, Client::default(), &body, &LIMITS, LONG, &stop);
            assert_eq!(done.client.body().map(|b| String::from_utf8_lossy(b).into_owned()), Some(format!("{size} {sum}")), "{:?}", done.result);
            next_is_own(&function, &mut socket, done.fate, "big body");
        }
    }
}

#[test]
fn early_answers_to_big_bodies() {
    let stop = Stop::new().expect("eventfd");
    let bytes = vec![7; 3_000_000];
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";
    let early = |close: bool| Act {
        early: true,
        run: Box::new(move |s, _| {
            let _ = s.write_all(answer.as_bytes());
            if !close {
                let _ = s.shutdown(std::net::Shutdown::Write);
                until_closed(s);
            }
        }),
    };
    for body in [Body::Memory(bytes.clone()), file_of(&bytes)] {
        let function = function([early(false), early(true), early(true)], true);
        let mut socket = function.open();
        let done = call_with(&mut socket, Client::default(), &body, &LIMITS, LONG, &stop);
        assert!(done.result.is_ok() && done.client.body() == Some(b"pong"), "{:?}", done.result);
        assert_eq!(done.fate, Fate::Reuse);
        socket.ready_next();
        // Answers and closes with the request unread: the reset may eat the
        // answer, but it is one or the other, never a hang.
        for _ in 0..2 {
            let done = call_with(&mut socket, Client::default(), &body, &LIMITS, LONG, &stop);
            assert!(done.client.body() == Some(b"pong") || no_answer_of(&done), "{:?}", done.result);
            if done.fate == Fate::Reuse { socket.ready_next() } else { socket = function.open() }
        }
        next_is_own(&function, &mut socket, Fate::Discard, "early");
    }
    // Hangs up without reading.
    let hang_up = Act { early: true, run: Box::new(|_, _| ()) };
    let function = function([hang_up], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(bytes.clone()), &LIMITS, LONG, &stop);
    assert!(no_answer_of(&done) && done.fate == Fate::Discard, "{:?}", done.result);
    // Never reads.
    let never = Act { early: true, run: Box::new(|_, asked| until_gone(asked)) };
    let function = self::function([never], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &file_of(&bytes), &LIMITS, SHORT, &stop);
    assert!(matches!(done.result, Err(CallError::Timeout { .. })) && done.fate == Fate::Discard, "{:?}", done.result);
    // Streams the body back while it still reads: neither side may block.
    let echo = Act {
        early: true,
        run: Box::new(|s, asked| {
            let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", asked.len).as_bytes());
            let mut piece = vec![0; 10_000];
            let mut left = asked.len;
            while left > 0 {
                let n = s.read(&mut piece).unwrap_or(0);
                if n == 0 || s.write_all(&piece[..n]).is_err() {
                    return;
                }
                left -= n;
            }
        }),
    };
    let function = self::function([echo], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &file_of(&bytes), &Limits { max_body: 0, ..LIMITS }, LONG, &stop);
    assert!(done.result.is_ok() && done.client.body() == Some(&bytes), "{:?}", done.result);
    next_is_own(&function, &mut socket, done.fate, "echo");
}

/// Waits a while without reading: longer than the call's own time-out.
fn until_gone(_: &Asked) {
    crate::uds::net::pause(None, SHORT * 4);
}

#[test]
fn a_client_that_leaves() {
    let stop = Stop::new().expect("eventfd");
    let ping = Body::Memory(b"ping".to_vec());
    // It leaves while the function works; the function ends within the grace.
    let (here, there) = UnixStream::pair().expect("pair");
    let function = function([act(move |s, asked| {
        drop(there);
        crate::uds::net::pause(None, Duration::from_millis(50));
        good(s, asked, false);
    })], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client { socket: Some(here), ..Client::default() }, &ping, &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::ClientGone)) && done.fate == Fate::Reuse && done.client.calls == 0, "{:?}", done.result);
    next_is_own(&function, &mut socket, done.fate, "left, in time");
    // It leaves and the function does not end.
    let (here, there) = UnixStream::pair().expect("pair");
    let function = self::function([act(move |s, _| {
        drop(there);
        until_closed(s);
    })], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client { socket: Some(here), ..Client::default() }, &ping, &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::ClientGone)) && done.fate == Fate::Discard && done.client.calls == 0, "{:?}", done.result);
    assert!(done.took >= Duration::from_millis(900) && done.took < Duration::from_secs(5), "{:?}", done.took);
    next_is_own(&function, &mut socket, done.fate, "left, never ends");
    // Writing to it fails: at the whole answer, the begin, the data, the end.
    let long = [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".to_vec(), vec![b'x'; 500]].concat();
    let small = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong".to_vec();
    for (text, fails_at) in [(small, 1), (long.clone(), 1), (long.clone(), 2), (long, 3)] {
        let function = self::function([says_and_waits(text)], false);
        let mut socket = function.open();
        let done = call_with(&mut socket, Client { fails_at: Some(fails_at), ..Client::default() }, &ping, &LIMITS, LONG, &stop);
        assert!(matches!(done.result, Err(CallError::ClientGone)) && done.fate == Fate::Reuse, "{fails_at}: {:?}", done.result);
        next_is_own(&function, &mut socket, done.fate, "write failed");
    }
}

#[test]
fn a_stop_ends_the_wait() {
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let firing = stop.clone();
    let function = function([act(move |s, _| {
        firing.fire();
        until_closed(s);
    })], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::Draining)) && done.fate == Fate::Discard, "{:?}", done.result);
    // Also while the function never falls silent.
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let firing = stop.clone();
    let function = self::function([act(move |s, _| {
        let _ = s.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let mut n = 0;
        while s.write_all(&[b'x'; 60_000]).is_ok() {
            n += 1;
            if n == 100 {
                firing.fire();
            }
        }
    })], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &Limits { max_body: 0, ..LIMITS }, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::Broken { .. })) && done.fate == Fate::Discard, "{:?}", done.result);
    assert!(done.took < Duration::from_secs(5));
}

fn connection_of(done: &Done) -> String {
    let (fields, _) = done.client.whole.as_ref().expect("whole");
    String::from_utf8(fields.iter().find(|(n, _)| n == "X-Connection").expect("field").1.clone()).expect("text")
}

#[test]
fn connections_are_fresh_or_kept_by_the_rule() {
    for (echo, wanted) in [(false, ["0", "1", "2", "3"]), (true, ["0", "0", "0", "0"])] {
        let function = function([], echo);
        let mut socket = function.open();
        for wanted in wanted {
            let done = call(&mut socket, LONG);
            assert_eq!((done.client.body(), connection_of(&done).as_str()), (Some(done.id.as_str().as_bytes()), wanted), "{:?}", done.result);
            socket.ready_next();
        }
    }
    // Forgetting ready_next costs time, never an answer.
    let function = function([], false);
    let mut socket = function.open();
    for _ in 0..3 {
        let done = call(&mut socket, LONG);
        assert_eq!(done.client.body(), Some(done.id.as_str().as_bytes()));
    }
}

/// Brings a connection into the kept state, then plays `act` on it.
fn on_kept(name: &str, then: Act, timeout: Duration, check: impl Fn(&Done) -> bool, fate: Fate) {
    let function = function([], true);
    let mut socket = function.open();
    for _ in 0..2 {
        let done = call(&mut socket, LONG);
        assert_eq!(connection_of(&done), "0");
        socket.ready_next();
    }
    function.acts.lock().push_back(then);
    let done = call(&mut socket, timeout);
    assert!(check(&done), "{name}: {:?} {:?}", done.result, done.client.body().map(|b| b.escape_ascii().to_string()));
    assert_eq!(done.fate, fate, "{name}");
    next_is_own(&function, &mut socket, fate, name);
}

#[test]
fn on_a_kept_connection_only_the_own_answer_counts() {
    let answer = |id: &str, body: &str| format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let foreign = answer("01HF7YAT3V180G40RZJ0000001", "evil");
    let pong = |d: &Done| d.result.is_ok() && d.client.body() == Some(b"pong");
    let late = |d: &Done| matches!(d.result, Err(CallError::Timeout { .. })) && d.client.calls == 0;
    let text = foreign.clone();
    on_kept("a foreign answer first", act(move |s, a| {
        let _ = s.write_all((text + &answer(&a.id, "pong")).as_bytes());
        until_closed(s);
    }), LONG, pong, Fate::Reuse);
    let text = foreign.replace("Content-Length: 4\r\n\r\nevil", "Transfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n");
    on_kept("a chunked foreign answer first", act(move |s, a| {
        let _ = s.write_all((text + &answer(&a.id, "pong")).as_bytes());
        until_closed(s);
    }), LONG, pong, Fate::Reuse);
    on_kept("a foreign 404 first", act(move |s, a| {
        let _ = s.write_all(("HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nevil".to_owned() + &answer(&a.id, "pong")).as_bytes());
        until_closed(s);
    }), LONG, pong, Fate::Reuse);
    on_kept("only a foreign answer", says_and_waits(foreign.as_str()), SHORT, late, Fate::Discard);
    on_kept("only a nameless answer", says_and_waits("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), SHORT, late, Fate::Discard);
    on_kept("foreign, then closed", says(foreign.as_str()), LONG, no_answer_of, Fate::Discard);
    on_kept("foreign flood", says_and_waits(foreign.repeat(40)), LONG, bad_of, Fate::Discard);
    on_kept("two ids", act(move |s, a| {
        let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {}\r\nFn-Call-Id: x\r\nContent-Length: 4\r\n\r\nevil", a.id).as_bytes());
        until_closed(s);
    }), SHORT, late, Fate::Discard);
    on_kept("its own, then another", act(move |s, a| {
        let _ = s.write_all((answer(&a.id, "pong") + &answer(&a.id, "evil")).as_bytes());
        until_closed(s);
    }), LONG, pong, Fate::Reuse);
    on_kept("its own, with close", act(move |s, a| {
        let _ = s.write_all(answer(&a.id, "pong").replace("Content-", "Connection: close\r\nContent-").as_bytes());
        until_closed(s);
    }), LONG, pong, Fate::Reuse);
    on_kept("its own until it closes", act(move |s, a| {
        let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {}\r\n\r\npong", a.id).as_bytes());
    }), LONG, pong, Fate::Reuse);
    on_kept("dies with the request", act(|_, _| ()), LONG, no_answer_of, Fate::Discard);
}

#[test]
fn a_second_answer_between_calls_retires_the_connection() {
    // The answer carries the id, so the connection would be kept; then the
    // function says more, or closes, before the next call.
    for more in ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", ""] {
        let (mut told, tell) = UnixStream::pair().expect("pair");
        let function = function([act(move |s, a| {
            good(s, a, true);
            // Only once the answer was taken: this is a late one, not a long one.
            let _ = (&tell).read(&mut [0]);
            let _ = s.write_all(more.as_bytes());
            if more.is_empty() {
                let _ = s.shutdown(std::net::Shutdown::Both);
            }
            let _ = (&tell).write_all(b"x");
            until_closed(s);
        })], false);
        let mut socket = function.open();
        let done = call(&mut socket, LONG);
        assert!(done.result.is_ok() && matches!(socket.connection, Connection::Kept(_)));
        told.write_all(b"x").expect("tell");
        told.read_exact(&mut [0]).expect("told");
        next_is_own(&function, &mut socket, done.fate, "late");
    }
    // The same on a connection that was dialled ahead: nothing was asked yet.
    let function = function([], false);
    let listener_saw = |socket: &mut FunctionSocket| {
        let done = call(socket, LONG);
        assert_eq!(done.client.body(), Some(done.id.as_str().as_bytes()));
    };
    let mut socket = function.open();
    listener_saw(&mut socket);
    socket.ready_next();
    if let Connection::Fresh(fd) = &socket.connection {
        rustix::net::shutdown(fd, rustix::net::Shutdown::Both).expect("shutdown");
    }
    listener_saw(&mut socket);
}

#[test]
fn links_and_files_that_are_no_sockets() {
    let stop = Stop::new().expect("eventfd");
    let (_iofs, folder, parent) = folder();
    let at = |name: &str| folder.path().join(name);
    let outside = UnixListener::bind(parent.join("host.sock")).expect("bind");
    let _inside = UnixListener::bind(at("real.sock")).expect("bind");
    std::fs::create_dir(at("dir")).expect("dir");
    let open = || FunctionSocket::open(&folder, Instant::now() + Duration::from_millis(50), &stop);
    let relink = |target: &str| {
        let _ = std::fs::remove_file(at(SOCKET_NAME));
        symlink(target, at(SOCKET_NAME)).expect("link");
    };
    assert!(matches!(open(), Err(SocketError::Missing)));
    let absolute = at("real.sock").display().to_string();
    for target in [absolute.as_str(), "../host.sock", "/", "..", ".", "dir/../real.sock", "dir/x", "./../host.sock", "././real.sock", "/proc/self/fd/0", "./"] {
        relink(target);
        assert!(matches!(open(), Err(SocketError::LinkLeavesFolder)), "{target}: {:?}", open().err());
    }
    symlink("../host.sock", at("second")).expect("link");
    relink("second");
    assert!(matches!(open(), Err(SocketError::LinkToLink)));
    relink(SOCKET_NAME);
    assert!(matches!(open(), Err(SocketError::LinkToLink)));
    relink("nothing");
    assert!(matches!(open(), Err(SocketError::Dangling)));
    relink("dir");
    assert!(matches!(open(), Err(SocketError::NotASocket { kind: "folder" })));
    std::fs::write(at("file"), "x").expect("file");
    relink("file");
    assert!(matches!(open(), Err(SocketError::NotASocket { kind: "regular file" })));
    std::fs::remove_file(at(SOCKET_NAME)).expect("unlink");
    std::fs::write(at(SOCKET_NAME), "x").expect("file");
    assert!(matches!(open(), Err(SocketError::NotASocket { kind: "regular file" })));
    for target in ["real.sock", "./real.sock"] {
        relink(target);
        open().expect("a socket beside it");
    }
    // Swapped after open: the held socket is dialled, not what the name says now.
    let mut socket = open().expect("open");
    relink("../host.sock");
    socket.ready_next();
    assert!(matches!(socket.connection, Connection::Fresh(_)));
    // The held one gone and the name pointing out: no connection, no answer.
    drop(_inside);
    socket.ready_next();
    assert!(matches!(socket.connection, Connection::None));
    let done = call(&mut socket, LONG);
    assert!(no_answer_of(&done) && done.fate == Fate::Discard, "{:?}", done.result);
    outside.set_nonblocking(true).expect("nonblocking");
    assert!(outside.accept().is_err(), "nobody connected to the host's socket");
    // Never opened at all: no connection reached it either.
    drop(folder);
    let _ = std::fs::remove_dir_all(&parent);
}

#[test]
fn a_socket_bound_before_it_listens_and_one_bound_again() {
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let (_iofs, folder, parent) = folder();
    let path = folder.path().join(SOCKET_NAME);
    let bind = |path: &PathBuf| {
        let fd = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).expect("socket");
        rustix::net::bind(&fd, &rustix::net::SocketAddrUnix::new(path).expect("address")).expect("bind");
        fd
    };
    let first = bind(&path);
    let begun = Instant::now();
    let refused = FunctionSocket::open(&folder, begun + Duration::from_millis(60), &stop);
    assert!(matches!(refused, Err(SocketError::Refused)) && begun.elapsed() >= Duration::from_millis(60));
    let listening = spawn("test-listen", {
        let first = first.try_clone().expect("dup");
        move || {
            crate::uds::net::pause(None, Duration::from_millis(40));
            rustix::net::listen(&first, 8).expect("listen");
        }
    })
    .expect("thread");
    let mut socket = FunctionSocket::open(&folder, Instant::now() + LONG, &stop).expect("listens later");
    listening.join();
    // Bound anew: the old file is dead, the new one is found on the next dial.
    drop(first);
    std::fs::remove_file(&path).expect("unlink");
    let second = UnixListener::bind(&path).expect("bind");
    socket.ready_next();
    assert!(matches!(socket.connection, Connection::Fresh(_)));
    drop(second);
    let stopped = Stop::new().expect("eventfd");
    stopped.fire();
    assert!(matches!(FunctionSocket::open(&folder, Instant::now() + LONG, &stopped), Err(SocketError::Stopped)));
    drop(folder);
    let _ = std::fs::remove_dir_all(&parent);
}
