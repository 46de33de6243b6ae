//! The log thread over real descriptors: whose a line is, what is kept of too
//! many, and that whoever prints is never held up.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Line, Log, LogOptions, LogSink, Logs, Turn, Voice};
use crate::driver::{Framing, Output, Stream};
use crate::model::Id;

const LONG: Duration = Duration::from_secs(120);

/// Remembers what it was given.
#[derive(Default)]
struct Sink {
    got: Mutex<(Vec<String>, Vec<Arc<Log>>)>,
    bell: Condvar,
}

impl LogSink for Sink {
    fn line(&self, line: &Line<'_>) {
        self.got.lock().0.push(format!("{} {} {}", line.call.map_or("-", Id::as_str), line.stream.name(), line.text));
        self.bell.notify_all();
    }

    fn finished(&self, log: &Arc<Log>) {
        self.got.lock().1.push(log.clone());
        self.bell.notify_all();
    }
}

impl Sink {
    fn wait<T>(&self, what: &str, look: impl Fn(&[String], &[Arc<Log>]) -> Option<T>) -> T {
        let until = Instant::now() + LONG;
        let mut got = self.got.lock();
        loop {
            if let Some(found) = look(&got.0, &got.1) {
                return found;
            }
            assert!(!self.bell.wait_until(&mut got, until).timed_out(), "waited in vain for {what}: {:?}", got.1);
        }
    }

    fn wait_lines(&self, count: usize) -> Vec<String> {
        self.wait("lines", |lines, _| (lines.len() >= count).then(|| lines.to_vec()))
    }

    fn wait_log(&self, call: Option<Id>) -> Arc<Log> {
        self.wait("a finished log", |_, logs| logs.iter().find(|l| l.call == call).cloned())
    }
}

fn voice() -> Arc<Voice> {
    Arc::new(Voice {
        app_id: Id::new(),
        fn_id: Id::new(),
        fn_name: "f".to_owned(),
        container: Id::new(),
        memory_mib: 64,
        syslog: None,
        turn: Turn::new(Instant::now()),
    })
}

fn logs(max_call_bytes: usize) -> (Logs, Arc<Sink>) {
    let logs = Logs::start(LogOptions { max_call_bytes, copy: true }).expect("starts");
    let sink = Arc::new(Sink::default());
    logs.send_to(sink.clone());
    (logs, sink)
}

/// The writing end of a container's output.
fn output(logs: &Logs, voice: &Arc<Voice>, stream: Stream) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    logs.read(voice, Output { fd: ours.into(), framing: Framing::Plain(stream), early: Vec::new() });
    theirs
}

#[test]
fn lines_belong_to_the_call_that_runs() {
    let (logs, sink) = logs(1 << 20);
    let voice = voice();
    let (mut out, mut err) = (output(&logs, &voice, Stream::Stdout), output(&logs, &voice, Stream::Stderr));
    out.write_all(b"starting\n").expect("write");
    sink.wait_lines(1);
    let (first, second) = (Id::new(), Id::new());
    voice.turn.begin(&first);
    out.write_all(b"one\n").expect("write");
    sink.wait_lines(2);
    err.write_all(b"two \x1b[1m\n").expect("write");
    sink.wait_lines(3);
    // Over, and its last line comes a moment later.
    voice.turn.end(Instant::now());
    out.write_all(b"late\n").expect("write");
    sink.wait_lines(4);
    let log = sink.wait_log(Some(first));
    assert_eq!(log.text, "one\ntwo \\u{1b}[1m\nlate\n");
    assert_eq!((log.container, log.lines_dropped), (voice.container, 0));
    assert_eq!(sink.wait_log(None).text, "starting\n");
    // Between calls, then the next one, then its end with the container's.
    out.write_all(b"idle\n").expect("write");
    sink.wait_lines(5);
    voice.turn.begin(&second);
    out.write_all(b"three\nno end").expect("write");
    sink.wait_lines(6);
    drop((out, err));
    assert_eq!(sink.wait_log(Some(second)).text, "three\nno end\n");
    let lines = sink.wait_lines(7);
    assert_eq!(lines[0], "- stdout starting");
    assert_eq!(lines[2], format!("{first} stderr two \\u{{1b}}[1m"));
    assert_eq!(lines[4], "- stdout idle");
    assert_eq!(lines[6], format!("{second} stdout no end"));
    let kept: Vec<_> = sink.got.lock().1.iter().map(|l| l.call).collect();
    assert_eq!(kept, [None, Some(first), None, Some(second)]);
}

/// However soon the next call begins: it was one line of several calls, in the
/// log of the last of them.
#[test]
fn a_line_without_its_end_is_of_the_call_that_printed_it() {
    let (logs, sink) = logs(1 << 20);
    let voice = voice();
    let mut out = output(&logs, &voice, Stream::Stdout);
    let calls: Vec<Id> = (0..3).map(|_| Id::new()).collect();
    for (n, call) in calls.iter().enumerate() {
        voice.turn.begin(call);
        out.write_all(format!("said {n}\nrest {n}").as_bytes()).expect("write");
        sink.wait("the line", |lines, _| lines.contains(&format!("{call} stdout said {n}")).then_some(()));
        voice.turn.end(Instant::now());
    }
    // The last one's is closed without anything that comes after it.
    for (n, call) in calls.iter().enumerate() {
        assert_eq!(sink.wait_log(Some(*call)).text, format!("said {n}\nrest {n}\n"));
    }
    out.write_all(b"idle\nrest").expect("write");
    assert_eq!(sink.wait_log(None).text, "idle\nrest\n");
}

#[test]
fn a_flood_is_read_to_its_end_and_its_newest_lines_are_kept() {
    let (logs, sink) = logs(100_000);
    let (voice, quiet) = (voice(), voice());
    let (mut out, mut other) = (output(&logs, &voice, Stream::Stdout), output(&logs, &quiet, Stream::Stdout));
    let (call, neighbour) = (Id::new(), Id::new());
    voice.turn.begin(&call);
    quiet.turn.begin(&neighbour);
    let block: Vec<u8> = (0..1000).flat_map(|n| format!("{n:>98}\n").into_bytes()).collect();
    for n in 0..100 {
        out.write_all(&block).expect("never blocks for ever");
        if n == 50 {
            other.write_all(b"heard\n").expect("write");
        }
    }
    out.write_all(b"the end\n").expect("write");
    drop((out, other));
    let log = sink.wait_log(Some(call));
    assert!(log.text.len() <= 100_000 && log.text.ends_with("999\nthe end\n"), "{}", log.text.len());
    assert_eq!(log.bytes_dropped + log.text.len() as u64, 100 * 99_000 + 8);
    assert_eq!(sink.wait_log(Some(neighbour)).text, "heard\n");
}

#[test]
fn a_stream_that_makes_no_sense_is_left_alone() {
    let (logs, sink) = logs(1 << 20);
    let voice = voice();
    let (ours, mut theirs) = UnixStream::pair().expect("pair");
    logs.read(&voice, Output { fd: ours.into(), framing: Framing::Frames, early: vec![1, 0, 0, 0, 0, 0, 0] });
    theirs.write_all(b"\x06early\n").expect("write");
    theirs.write_all(b"garbage that is no frame").expect("write");
    assert_eq!(sink.wait_log(None).text, "early\n");
    // Closed by the reader: writing fails instead of filling a buffer.
    let until = Instant::now() + LONG;
    while theirs.write_all(b"more").is_ok() {
        assert!(Instant::now() < until);
    }
}

#[test]
fn nothing_kept_still_reads() {
    let (logs, sink) = logs(0);
    let voice = voice();
    let mut out = output(&logs, &voice, Stream::Stdout);
    out.write_all(&vec![b'\n'; 1 << 20]).expect("read");
    sink.wait_lines(1 << 20);
    logs.stop();
    assert!(sink.got.lock().1.is_empty());
}

#[test]
fn a_stop_reads_what_is_there() {
    let (logs, sink) = logs(1 << 20);
    let voice = voice();
    let call = Id::new();
    voice.turn.begin(&call);
    let mut out = output(&logs, &voice, Stream::Stdout);
    out.write_all(b"last words\n").expect("write");
    logs.stop();
    assert_eq!(sink.wait_log(Some(call)).text, "last words\n");
    assert_eq!(sink.got.lock().1.len(), 1);
}
