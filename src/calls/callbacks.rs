//! Telling the end of a detached call to who asked for it: one POST, repeated
//! until it is taken, for a day. Beside the crew, which never waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::Ledger;
use super::address::{host, is_public, place};
use super::outbox::{Callback, CallbackPlace, Look};
use super::record::{Kept, Record};
use super::writer::Job;
use crate::metrics::LEDGER;
use crate::model::{Id, Timestamp};
use crate::pool::{SpawnError, Thread, spawn};

/// One try, from resolving to the answer's head.
const LIMIT: Duration = Duration::from_secs(10);
/// Before the second try, doubled each time.
const FIRST_PAUSE_MS: i64 = 1_000;
const LONGEST_PAUSE_MS: i64 = 3_600_000;
/// It is given up when the call has ended this long ago.
pub(super) const GIVEN_UP_MS: i64 = 86_400_000;
/// Reading past so many for hosts that have their threads is not done for
/// every call that ends, but after a pause.
const MANY: usize = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Read in one look; the next goes on behind them.
const LOOK: usize = 2_000;
/// Looks go on from one place for so long while they find something: then what
/// stands before it has its turn.
const GO_BACK: Duration = Duration::from_secs(30);
/// With nothing due.
const SLEEP: Duration = Duration::from_secs(60);
/// A stop waits so long for tries under way.
const STOP: Duration = Duration::from_secs(1);

/// What the threads know of each other.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Under way, with the host each goes to.
    claimed: HashMap<Id, String>,
    /// Counts what is new: a look before it is too old to sleep on.
    pub(super) news: u64,
    closing: bool,
    /// Threads that have not ended.
    alive: usize,
}

/// The threads `callback-N`. Dropping stops them.
#[derive(Debug)]
pub struct Callbacks {
    ledger: Arc<Ledger>,
    threads: Vec<Thread>,
}

impl Callbacks {
    /// # Errors
    /// When a thread cannot be had.
    pub fn start(ledger: &Arc<Ledger>) -> Result<Callbacks, SpawnError> {
        let mut callbacks = Callbacks { ledger: ledger.clone(), threads: Vec::new() };
        for n in 1..=ledger.shared.settings.callback_workers {
            let mut worker = Messenger::new(ledger.clone());
            ledger.shared.desk.lock().alive += 1;
            let alive = Alive(ledger.clone());
            callbacks.threads.push(spawn(format!("callback-{n}"), move || {
                let _alive = alive;
                worker.live();
            })?);
        }
        Ok(callbacks)
    }

    /// Begins no more tries and waits for those under way until `deadline`.
    /// What was not told by then is told after the next start.
    pub fn stop(&mut self, deadline: Instant) {
        let shared = &self.ledger.shared;
        let mut desk = shared.desk.lock();
        desk.closing = true;
        shared.told.notify_all();
        while desk.alive > 0 && !shared.told.wait_until(&mut desk, deadline).timed_out() {}
        let hangs = desk.alive > 0;
        drop(desk);
        for thread in self.threads.drain(..) {
            // One that waits for an answer ends with the process.
            if hangs { thread.leave() } else { thread.join() }
        }
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        self.stop(Instant::now() + STOP);
    }
}

/// Counts a thread until its end.
struct Alive(Arc<Ledger>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.shared.desk.lock().alive -= 1;
        self.0.shared.told.notify_all();
    }
}

struct Messenger {
    ledger: Arc<Ledger>,
    agent: ureq::Agent,
    /// Up to here nothing could be told, since `begun` or later.
    after: Option<CallbackPlace>,
    begun: Instant,
}

impl Messenger {
    fn new(ledger: Arc<Ledger>) -> Messenger {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(LIMIT))
            .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections(0)
            .build();
        let resolver = Guarded { private: ledger.shared.settings.callback_private, inner: DefaultResolver::default() };
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
        Messenger { ledger, agent, after: None, begun: Instant::now() }
    }

    fn live(&mut self) {
        while let Some(callback) = self.next() {
            let job = self.tell(&callback);
            if let Err(cause) = self.ledger.ask(job) {
                log::warn!("a callback of call {} may be made twice: {cause}", callback.id);
            }
            let mut desk = self.ledger.shared.desk.lock();
            desk.claimed.remove(&callback.id);
            desk.news += 1;
        }
    }

    /// The next one that is due, claimed; `None` when it is time to end.
    fn next(&mut self) -> Option<Callback> {
        let ledger = self.ledger.clone();
        let shared = &ledger.shared;
        loop {
            let (seen, claimed) = {
                let desk = shared.desk.lock();
                (desk.news, desk.claimed.clone())
            };
            // A host that does not answer holds half of the threads at most.
            let most = shared.settings.callback_workers.div_ceil(2);
            let full = |claimed: &HashMap<Id, String>, host: &str| claimed.values().filter(|h| *h == host).count() >= most;
            let now = shared.clock.now();
            // One that is due later than any pause was written by another clock.
            let later = |c: &Callback| c.due > now && c.due.0 <= now.0 + LONGEST_PAUSE_MS;
            let mut passed_over = 0;
            let found = ledger.readers.with(|r| {
                r.callback(self.after, LOOK, |c| {
                    let may = later(c) || !claimed.contains_key(&c.id) && !full(&claimed, &host(&c.url));
                    passed_over += usize::from(!may);
                    may
                })
            });
            let found = found.unwrap_or_else(|error| {
                log::error!("{error}");
                Look::Nothing
            });
            let mut desk = shared.desk.lock();
            if desk.closing {
                return None;
            }
            let sleep = match found {
                Look::Found(callback) if !later(&callback) => {
                    let host = host(&callback.url);
                    // Others may have taken it, or its host's threads, meanwhile.
                    if !desk.claimed.contains_key(&callback.id) && !full(&desk.claimed, &host) {
                        desk.claimed.insert(callback.id, host);
                        if self.begun.elapsed() >= GO_BACK {
                            self.after = None;
                        }
                        return Some(callback);
                    }
                    continue;
                }
                Look::Until(place) => {
                    if self.after.replace(place).is_none() {
                        self.begun = Instant::now();
                    }
                    LOOK_AGAIN
                }
                // What stands before has not been looked at this time.
                _ if self.after.take().is_some() => LOOK_AGAIN,
                Look::Found(callback) => u64::try_from(callback.due.0 - now.0).map_or(SLEEP, Duration::from_millis).min(SLEEP),
                Look::Nothing => SLEEP,
            };
            if passed_over > MANY {
                // Each end of a call is news, and no reason to read all these again.
                let until = Instant::now() + sleep.min(LOOK_AGAIN);
                while !desk.closing && !shared.told.wait_until(&mut desk, until).timed_out() {}
            } else if desk.news == seen {
                shared.told.wait_until(&mut desk, Instant::now() + sleep);
            }
        }
    }

    /// One try, and what is to be written down of it.
    fn tell(&self, callback: &Callback) -> impl FnOnce(super::wish::Done<()>) -> Job + use<> {
        let (id, ended, now) = (callback.id, callback.ended, self.ledger.shared.clock.now());
        let again = match self.send(callback) {
            Ok(()) => {
                LEDGER.callbacks.add(1);
                None
            }
            Err(failure) => {
                let pause = FIRST_PAUSE_MS.saturating_mul(1 << callback.tries.min(20)).min(LONGEST_PAUSE_MS);
                let late = now.0.saturating_add(pause) > callback.ended.0.saturating_add(GIVEN_UP_MS);
                let given_up = failure.is_final() || late;
                log::log!(
                    if given_up { log::Level::Warn } else { log::Level::Info },
                    "callback of call {id} to {} failed ({failure}); {}",
                    place(&callback.url),
                    if given_up { "it is given up" } else { "it is tried again" }
                );
                if given_up {
                    LEDGER.callbacks_lost.add(1);
                }
                (!given_up).then(|| (Timestamp(now.0 + pause), callback.tries + 1))
            }
        };
        move |done| Job::Told { id, ended, again, done }
    }

    fn send(&self, callback: &Callback) -> Result<(), Failure> {
        let read = self.ledger.readers.with(|r| Ok((r.record(&callback.fn_id, &callback.id)?, r.answer(&callback.id)?)));
        let (record, answer) = read.map_err(|e| Failure::Inside(e.to_string()))?;
        // Forgotten meanwhile: nobody could make anything of it.
        let Some(record) = record else { return Err(Failure::Forgotten) };
        if !record.status.is_final() {
            return Err(Failure::SentAgain);
        }
        let body = serde_json::to_vec(&Message::of(&record, answer)).map_err(|e| Failure::Inside(e.to_string()))?;
        let mut request = self
            .agent
            .post(&callback.url)
            .header("Content-Type", "application/json; charset=utf-8")
            .header("Fn-Call-Id", record.id.as_str())
            .header("Hob-Callback-Try", (callback.tries + 1).to_string());
        if let Some(secret) = &self.ledger.shared.settings.callback_secret {
            request = request.header("Hob-Signature", sign(secret.as_bytes(), Timestamp::now().0 / 1000, &body)?);
        }
        let answer = request.send(&body[..]).map_err(|e| Failure::Sending(e.to_string()))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            410 => Err(Failure::Gone),
            status => Err(Failure::Status(status)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Sending(String),
    #[error("status {0}")]
    Status(u16),
    #[error("status 410: it is not wanted any more")]
    Gone,
    #[error("the call was forgotten")]
    Forgotten,
    /// Then its next end is told.
    #[error("the call was sent again")]
    SentAgain,
    #[error("{0}")]
    Inside(String),
}

impl Failure {
    fn is_final(&self) -> bool {
        matches!(self, Failure::Gone | Failure::Forgotten)
    }
}

/// What is told.
#[derive(Debug, Serialize)]
struct Message {
    call_id: Id,
    app_id: Id,
    fn_id: Id,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    attempts: u32,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    /// The function's fields and body, of a success.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    body_cut: bool,
}

impl Message {
    fn of(record: &Record, answer: Option<Kept>) -> Message {
        Message {
            call_id: record.id,
            app_id: record.app_id,
            fn_id: record.fn_id,
            status: record.status.name(),
            error: record.error.clone(),
            attempts: record.attempts,
            created_at: record.created,
            completed_at: record.completed,
            headers: answer.as_ref().map_or_else(Vec::new, Kept::pairs),
            body_cut: answer.as_ref().is_some_and(|kept| kept.cut),
            body: answer.map(|kept| STANDARD.encode(kept.body)),
        }
    }
}

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 (RFC 2104) of `SECONDS.BODY`. The time keeps
/// an old message from being sent again by somebody else.
fn sign(secret: &[u8], now_s: i64, body: &[u8]) -> Result<String, Failure> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|e| Failure::Inside(format!("HOB_CALLBACK_SECRET: {e}")))?;
    [now_s.to_string().as_bytes(), b".", body].iter().for_each(|part| mac.update(part));
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("t={now_s},v1={hex}"))
}

/// Resolves names to public addresses only, unless told otherwise. What was
/// checked is what is connected to: a name that changes meanwhile gains nothing.
#[derive(Debug)]
struct Guarded {
    private: bool,
    inner: DefaultResolver,
}

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, config: &ureq::config::Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        found.iter().filter(|address| self.private || is_public(address.ip())).for_each(|address| allowed.push(*address));
        if allowed.is_empty() {
            let refused = "its address is not a public one (HOB_CALLBACK_PRIVATE=true allows it)";
            return Err(ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::PermissionDenied, refused)));
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Room, call};
    use super::super::{Accepted, Record, Status, record::Ended};
    use super::*;

    /// However many wait for a host that does not answer, another's is found.
    #[test]
    fn a_host_that_hangs_hides_no_other() {
        let (room, fn_id) = (Room::new(), Id::new());
        let ledger = Arc::new(room.open());
        let end = |url: &str| {
            let accepted = Accepted { callback: Some(url.to_owned()), ..call(fn_id, None) };
            ledger.accept(accepted.clone()).expect("accepted");
            let record = Box::new(Record { status: Status::Success, completed: Some(Timestamp::now()), ..Record::of(&accepted) });
            ledger.ended(Ended::Done { record, answer: None });
            ledger.cancel(&fn_id, &accepted.id).expect("it waits no more");
            accepted.id
        };
        let hanging: Vec<Id> = (0..90).map(|_| end("http://hangs.example/")).collect();
        let good = end("http://good.example/");
        let mut messenger = Messenger::new(ledger.clone());
        let first = messenger.next().expect("one");
        assert!(hanging.contains(&first.id));
        assert_eq!(messenger.next().expect("another").id, good);
    }

    /// Neither does it make a look longer, nor is what stands before forgotten.
    #[test]
    fn a_look_is_bounded_and_the_next_goes_on() {
        let (room, fn_id) = (Room::new(), Id::new());
        let ledger = Arc::new(room.open());
        let database = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
        let now = ledger.shared.clock.now().0;
        let put = |url: &str, due: i64| {
            let sql = "INSERT INTO callbacks VALUES (?1, ?2, ?3, ?4, ?4, 0)";
            let id = Id::new();
            database.execute(sql, rusqlite::params![id.as_str(), fn_id.as_str(), url, due]).expect("written");
            id
        };
        database.execute_batch("BEGIN").expect("begun");
        for _ in 0..2 * LOOK {
            put("http://hangs.example/", now - 5_000);
        }
        let goods = [put("http://good.example/1", now - 3_000), put("http://good.example/2", now - 2_000)];
        database.execute_batch("COMMIT").expect("written");
        ledger.shared.desk.lock().claimed.insert(Id::new(), "hangs.example".to_owned());
        let mut messenger = Messenger::new(ledger.clone());
        for good in goods {
            let Callback { id, ended, .. } = messenger.next().expect("one");
            assert_eq!(id, good);
            assert!(messenger.after.is_some(), "the next look begins behind those that were passed over");
            ledger.ask(|done| Job::Told { id: good, ended, again: None, done }).expect("written");
            ledger.shared.desk.lock().claimed.remove(&good);
        }
        ledger.shared.desk.lock().claimed.clear();
        let hangs = messenger.next().expect("one");
        assert_eq!((hangs.url.as_str(), messenger.after), ("http://hangs.example/", None));
    }

    /// To one host half of what may be, whatever becomes of the calls; and what
    /// is not told in a day is given up without a try.
    #[test]
    fn what_is_to_be_told_is_bounded() {
        let (room, fn_id) = (Room::new(), Id::new());
        let wants = |url: &str| Accepted { callback: Some(url.to_owned()), ..call(fn_id, None) };
        let full = |ledger: &Ledger, url: &str| matches!(ledger.accept(wants(url)), Err(crate::call::DetachError::FullCallbacks { .. }));
        let given_up = LEDGER.callbacks_lost.get();
        {
            let ledger = room.open_with(|s| s.max_callbacks = 4);
            let over = ledger.accept(wants("http://a.example/1")).expect("accepted");
            ledger.accept(wants("http://A.example.:8080/2")).expect("accepted");
            for url in ["http://a.example/3", "http://a.example:81/", "https://A.EXAMPLE./", "http://a.example:80/"] {
                assert!(full(&ledger, url), "the same host: {url}");
            }
            ledger.cancel(&fn_id, &over).expect("written");
            assert!(full(&ledger, "http://a.example/3"), "its end is still to be told");
            let ended = ledger.readers.with(|r| r.callback(None, 1, |_| true)).expect("read");
            let Look::Found(Callback { ended, .. }) = ended else { panic!("{ended:?}") };
            ledger.ask(|done| Job::Told { id: over, ended, again: None, done }).expect("written");
            for url in ["http://a.example/3", "http://b.example/", "http://c.example/"] {
                ledger.accept(wants(url)).expect("accepted");
            }
            assert!(full(&ledger, "http://d.example/"));
            ledger.accept(call(fn_id, None)).expect("others are accepted");
        }
        let ledger = room.open_with(|s| s.max_callbacks = 4);
        assert!(full(&ledger, "http://d.example/"), "after a restart too");
        // All that wait end; a day passes.
        while let Some(waiting) = { ledger.shared.ready.lock().take(Timestamp::now(), |_| true) } {
            let record = Record { status: Status::Success, ..ledger.record(&fn_id, &waiting.id).expect("read").expect("known") };
            ledger.ended(Ended::Done { record: Box::new(record), answer: None });
        }
        drop(ledger);
        let database = rusqlite::Connection::open(room.path.join("calls.db")).expect("opened");
        assert_eq!(database.execute("UPDATE callbacks SET ended = ended - ?1, due = ended", [GIVEN_UP_MS + 1]).expect("written"), 4);
        let ledger = room.open_with(|s| s.max_callbacks = 4);
        super::super::tests::wait_until("the tidying", || !full(&ledger, "http://a.example/"));
        assert!(LEDGER.callbacks_lost.get() >= given_up + 4);
        let left: i64 = database.query_row("SELECT count(*) FROM callbacks", [], |row| row.get(0)).expect("a count");
        assert_eq!(left, 0);
    }

    /// Whatever the spelling: it would be tried for a day, and never be called.
    #[test]
    fn addresses_that_are_not_public_are_refused_at_once() {
        let (room, fn_id) = (Room::new(), Id::new());
        let ledger = room.open_with(|s| s.callback_private = false);
        let accept = |ledger: &Ledger, url: &str| ledger.accept(Accepted { callback: Some(url.to_owned()), ..call(fn_id, None) });
        for url in ["http://127.0.0.1/", "http://127.1:99/", "http://0x7f000001", "http://[::1]/", "http://[::ffff:10.0.0.1]/", "http://169.254.169.254./x"] {
            let refused = accept(&ledger, url);
            assert!(matches!(&refused, Err(crate::call::DetachError::PrivateCallback { .. })), "{url}: {refused:?}");
        }
        for url in ["http://8.8.8.8/", "http://localhost/", "http://[2606:4700::1]/"] {
            accept(&ledger, url).expect(url);
        }
        accept(&Room::new().open(), "http://127.0.0.1/").expect("where that is allowed");
    }
}
