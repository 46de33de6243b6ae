//! The log thread: epoll over every container's output, lines to their call.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::{Errno, ioctl_fionbio, read};

use super::ring::{Log, Ring};
use super::tail::Ear;
use super::text::{Splitter, escape};
use super::{BELL, Line, Shared, Told, Voice};
use crate::driver::{Output, Stream};
use crate::model::{Id, Timestamp};

/// Read from one descriptor before the next has its turn.
const PIECE: usize = 64 * 1024;
/// Lines that arrive so soon after a call's end are still its own: they come
/// through the engine and may be overtaken by the answer.
const LATE: Duration = Duration::from_millis(100);
/// A container's own lines are gathered for so long.
const OWN: Duration = Duration::from_secs(1);
/// How often open logs are looked at; with none open the thread sleeps.
const TICK: Duration = Duration::from_millis(50);
/// A container in trouble gets so long for its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The last lines of one that has ended are remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(3);
/// Last lines that are told with a container's trouble.
const TAIL_LINES: usize = 10;
const TAIL_CHARS: usize = 400;
/// Lines of one container copied into hob's log in a second.
const COPIED: u32 = 1000;

pub(super) fn run(shared: &Shared) {
    let mut reader = Reader { shared, pipes: HashMap::new(), speakers: HashMap::new(), next: BELL + 1, line: String::new() };
    let mut buffer = vec![0u8; PIECE];
    let mut events: Vec<Event> = Vec::with_capacity(64);
    let mut tick = None;
    loop {
        let timeout = tick.map(|at: Instant| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|left| Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()).max(1) });
        events.clear();
        match epoll::wait(&shared.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                log::error!("containers' output is no longer read: epoll failed: {error}");
                return;
            }
        }
        for event in &events {
            match event.data.u64() {
                BELL => reader.told(&mut buffer),
                key => reader.read(key, &mut buffer),
            }
        }
        if shared.stop.load(Ordering::SeqCst) {
            reader.told(&mut buffer);
            return reader.end(&mut buffer);
        }
        if tick.is_some_and(|at| Instant::now() >= at) {
            reader.look(Instant::now());
            tick = None;
        }
        let listened = shared.listening.load(Ordering::Relaxed) > 0;
        if tick.is_none() && (listened || reader.speakers.values().any(Speaker::is_waiting)) {
            tick = Some(Instant::now() + TICK);
        }
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    pipes: HashMap<u64, Pipe>,
    speakers: HashMap<Id, Speaker>,
    next: u64,
    /// The escaped line, kept for its memory.
    line: String,
}

struct Pipe {
    fd: OwnedFd,
    container: Id,
    splitter: Splitter,
}

/// One container.
struct Speaker {
    voice: Arc<Voice>,
    /// Its outputs' keys.
    pipes: Vec<u64>,
    open: Option<Open>,
    tail: VecDeque<String>,
    /// What happened to it, and when it must be told at the latest.
    trouble: Option<(String, Instant)>,
    /// When its last output ended.
    ended: Option<Instant>,
    /// Lines copied in the current second, and since when that is.
    copied: u32,
    copied_since: Instant,
}

/// The log that lines go to at the moment.
struct Open {
    owner: Owner,
    ring: Ring,
    since: Instant,
    from: Timestamp,
    to: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The number tells apart two calls of one id.
    Call(u64, Id),
    Container,
}

impl Reader<'_> {
    fn told(&mut self, buffer: &mut [u8]) {
        let mut count = [0u8; 8];
        let _ = read(&self.shared.bell, &mut count);
        let told = std::mem::take(&mut *self.shared.told.lock());
        for told in told {
            match told {
                Told::Output { voice, output } => self.add(voice, output),
                Told::Ear(ear, begun) => {
                    self.listen(&ear);
                    let _ = begun.try_send(Instant::now());
                }
                Told::Trouble { voice, what } => {
                    let keys: Vec<u64> = self.pipes.iter().filter(|(_, p)| p.container == voice.container).map(|(key, _)| *key).collect();
                    keys.into_iter().for_each(|key| self.read(key, buffer));
                    let container = voice.container;
                    self.speaker(voice).trouble = Some((what, Instant::now() + LAST_WORDS));
                    self.part(container);
                }
            }
        }
    }

    fn speaker(&mut self, voice: Arc<Voice>) -> &mut Speaker {
        self.speakers.entry(voice.container).or_insert_with(|| Speaker {
            voice,
            pipes: Vec::new(),
            open: None,
            tail: VecDeque::new(),
            trouble: None,
            ended: None,
            copied: 0,
            copied_since: Instant::now(),
        })
    }

    fn add(&mut self, voice: Arc<Voice>, output: Output) {
        let (container, key) = (voice.container, self.next);
        self.next += 1;
        let ready = ioctl_fionbio(&output.fd, true).and_then(|()| epoll::add(&self.shared.epoll, &output.fd, EventData::new_u64(key), EventFlags::IN));
        if let Err(error) = ready {
            return log::warn!("output of container {container} cannot be read: {error}");
        }
        let speaker = self.speaker(voice);
        speaker.pipes.push(key);
        speaker.ended = None;
        self.pipes.insert(key, Pipe { fd: output.fd, container, splitter: Splitter::new(output.framing) });
        if !output.early.is_empty() {
            self.take(key, &output.early);
        }
    }

    /// A new tail begins with what its call has printed so far.
    fn listen(&mut self, ear: &Arc<Ear>) {
        for speaker in self.speakers.values_mut() {
            let (voice, call) = (&speaker.voice, speaker.open.as_ref().and_then(|open| open.owner.call()));
            if let (Some(open), true) = (&mut speaker.open, ear.wants(&voice.fn_id, call.as_ref())) {
                ear.hear(call.as_ref(), open.ring.text());
            }
        }
        let mut ears = self.shared.ears.lock();
        ears.push(Arc::downgrade(ear));
        self.shared.listening.store(ears.len(), Ordering::Relaxed);
    }

    /// Tails whose call is over have heard all; those nobody reads go.
    fn part_from_ears(&mut self, now: Instant) {
        if self.shared.listening.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut ears = self.shared.ears.lock();
        ears.retain(|ear| {
            let Some(ear) = ear.upgrade() else { return false };
            let Some(call) = ear.call else { return true };
            let wanted = Some(call);
            let runs = self.speakers.values().any(|s| {
                let owner = if !s.pipes.is_empty() { s.owner(now).call() } else { None };
                owner == wanted || s.open.as_ref().is_some_and(|open| open.owner.call() == wanted)
            });
            if runs {
                ear.see();
            } else if ear.has_seen() {
                ear.end();
                return false;
            }
            true
        });
        self.shared.listening.store(ears.len(), Ordering::Relaxed);
    }

    /// One piece of one container's output.
    fn read(&mut self, key: u64, buffer: &mut [u8]) {
        let Some(pipe) = self.pipes.get(&key) else { return };
        match read(&pipe.fd, &mut *buffer) {
            Ok(0) => self.close(key),
            Ok(n) => {
                if !self.take(key, &buffer[..n]) {
                    self.close(key);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.close(key),
        }
    }

    /// False when the stream makes no sense any more.
    fn take(&mut self, key: u64, bytes: &[u8]) -> bool {
        let Some(container) = self.pipes.get(&key).map(|pipe| pipe.container) else { return true };
        let Some(speaker) = self.speakers.get_mut(&container) else { return true };
        let (shared, text, now) = (self.shared, &mut self.line, Instant::now());
        if speaker.open.as_ref().is_some_and(|open| open.owner != speaker.owner(now)) {
            speaker.end_lines(&mut self.pipes, shared, text);
        }
        speaker.turn_to(shared, now);
        let Some(pipe) = self.pipes.get_mut(&key) else { return true };
        let taken = pipe.splitter.take(bytes, &mut |stream, line| speaker.line(shared, stream, line, text));
        if taken.is_err() {
            log::warn!("output of container {} is not understood; the rest is dropped", pipe.container);
        }
        taken.is_ok()
    }

    fn close(&mut self, key: u64) {
        let Some(mut pipe) = self.pipes.remove(&key) else { return };
        // Closing takes it out of epoll too: nobody else holds it.
        let _ = epoll::delete(&self.shared.epoll, &pipe.fd);
        let Some(speaker) = self.speakers.get_mut(&pipe.container) else { return };
        let (shared, text) = (self.shared, &mut self.line);
        pipe.splitter.finish(&mut |stream, line| speaker.line(shared, stream, line, text));
        speaker.pipes.retain(|open| *open != key);
        self.part(pipe.container);
    }

    /// A container without outputs has said all it will.
    fn part(&mut self, container: Id) {
        if let Some(speaker) = self.speakers.get_mut(&container)
            && speaker.pipes.is_empty()
        {
            speaker.finish(self.shared);
            speaker.ended.get_or_insert_with(Instant::now);
            speaker.tell();
        }
    }

    /// Closes logs of calls that are over, tells troubles that are due.
    fn look(&mut self, now: Instant) {
        for speaker in self.speakers.values_mut() {
            if speaker.is_stale(now) {
                speaker.end_lines(&mut self.pipes, self.shared, &mut self.line);
                speaker.finish(self.shared);
            }
            if speaker.trouble.as_ref().is_some_and(|(_, at)| now >= *at) {
                speaker.tell();
            }
        }
        self.part_from_ears(now);
        // The word of its end may come after its last line.
        self.speakers.retain(|_, s| s.ended.is_none_or(|at| now.saturating_duration_since(at) < REMEMBERED));
    }

    fn end(mut self, buffer: &mut [u8]) {
        for key in self.pipes.keys().copied().collect::<Vec<_>>() {
            self.read(key, buffer);
            self.close(key);
        }
        for ear in std::mem::take(&mut *self.shared.ears.lock()).iter().filter_map(std::sync::Weak::upgrade) {
            ear.end();
        }
    }
}

impl Owner {
    fn call(&self) -> Option<Id> {
        match self {
            Owner::Call(_, id) => Some(*id),
            Owner::Container => None,
        }
    }
}

impl Speaker {
    fn is_waiting(&self) -> bool {
        self.open.is_some() || self.trouble.is_some() || self.ended.is_some()
    }

    /// Whose the next lines are.
    fn owner(&self, now: Instant) -> Owner {
        let seen = self.voice.turn.seen();
        match (seen.call, seen.ended) {
            (Some(call), None) => Owner::Call(seen.number, call),
            (Some(call), Some(ended)) if now.saturating_duration_since(ended) <= LATE => Owner::Call(seen.number, call),
            _ => Owner::Container,
        }
    }

    fn turn_to(&mut self, shared: &Shared, now: Instant) {
        let owner = self.owner(now);
        if self.open.as_ref().is_none_or(|open| open.owner != owner) {
            self.finish(shared);
            let at = Timestamp::now();
            self.open = Some(Open { owner, ring: Ring::new(shared.options.max_call_bytes), since: now, from: at, to: at });
        }
    }

    /// INVARIANT: whose log is closed has no line begun: what comes next would be
    /// taken for the rest of it, and both for somebody else's.
    fn end_lines(&mut self, pipes: &mut HashMap<u64, Pipe>, shared: &Shared, text: &mut String) {
        let keys = std::mem::take(&mut self.pipes);
        for key in &keys {
            if let Some(pipe) = pipes.get_mut(key) {
                pipe.splitter.finish(&mut |stream, line| self.line(shared, stream, line, text));
            }
        }
        self.pipes = keys;
    }

    /// The open log is of a call that is over, or has gathered for long enough.
    fn is_stale(&self, now: Instant) -> bool {
        match &self.open {
            None => false,
            Some(open) if open.owner == Owner::Container => now.saturating_duration_since(open.since) >= OWN,
            Some(open) => self.owner(now) != open.owner,
        }
    }

    fn line(&mut self, shared: &Shared, stream: Stream, line: &[u8], text: &mut String) {
        escape(line, text);
        if self.open.is_none() {
            self.turn_to(shared, Instant::now());
        }
        let Some(open) = &mut self.open else { return };
        open.ring.push(text);
        open.to = Timestamp::now();
        let owner = open.owner.call();
        let call = owner.as_ref();
        let voice = &self.voice;
        shared.each_ear(&voice.fn_id, call, |ear| ear.hear(call, text));
        if let Some(sink) = &*shared.sink.read() {
            sink.line(&Line { app_id: &voice.app_id, fn_id: &voice.fn_id, container: &voice.container, call, stream, text });
        }
        if let Some(to) = voice.syslog() {
            shared.syslog.send(to, stream == Stream::Stderr, text);
        }
        if shared.options.copy && log::log_enabled!(log::Level::Debug) {
            let call = call.map_or("-", Id::as_str);
            if self.copied_since.elapsed() >= Duration::from_secs(1) {
                (self.copied, self.copied_since) = (0, Instant::now());
            }
            self.copied += 1;
            if self.copied <= COPIED {
                log::debug!("user_log app_id={} fn_id={} container_id={} call_id={call} {}: {text}", voice.app_id, voice.fn_id, voice.container, stream.name());
            } else if self.copied == COPIED + 1 {
                log::debug!("user_log container_id={}: more than {COPIED} lines in a second, the others of this second are not copied", voice.container);
            }
        }
        let mut kept = if self.tail.len() == TAIL_LINES { self.tail.pop_front().unwrap_or_default() } else { String::new() };
        kept.clear();
        kept.extend(text.chars().take(TAIL_CHARS));
        self.tail.push_back(kept);
    }

    /// The log is complete: to memory and to whoever wants it.
    fn finish(&mut self, shared: &Shared) {
        let Some(open) = self.open.take() else { return };
        let (lines_dropped, bytes_dropped) = (open.ring.lines_dropped, open.ring.bytes_dropped);
        let text = open.ring.into_text();
        if shared.options.max_call_bytes == 0 || (text.is_empty() && lines_dropped == 0) {
            return;
        }
        let call = open.owner.call();
        let voice = &self.voice;
        let log = Arc::new(Log {
            app_id: voice.app_id,
            fn_id: voice.fn_id,
            container: voice.container,
            call,
            text,
            lines_dropped,
            bytes_dropped,
            from: open.from,
            to: open.to,
            last: self.pipes.is_empty(),
            done: Instant::now(),
        });
        let sink = shared.sink.read().clone();
        if let Some(sink) = sink {
            sink.finished(&log);
        }
    }

    /// Says what happened to it, with its last lines.
    fn tell(&mut self) {
        let Some((what, _)) = self.trouble.take() else { return };
        let mut words = String::new();
        for line in &self.tail {
            let _ = write!(words, "\n| {line}");
        }
        let heard = if words.is_empty() { "it printed nothing" } else { "the last lines it printed:" };
        log::warn!("container {} of {} ({}) {what}; {heard}{words}", self.voice.container, self.voice.fn_name, self.voice.fn_id);
    }
}
