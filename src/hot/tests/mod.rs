//! Fault by fault: the Nth thing a driver does, or a function at its socket,
//! fails, for every N, while callers come and the server goes. Each caller has exactly one outcome, and
//! nothing remains.

#![allow(clippy::disallowed_methods, reason = "functions are threads here")]

mod in_process;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use in_process::{Deed, FailsNth, InProcess, SocketFault, Wrong};

use super::{Hot, HotConfig, LogOptions, Sleeper, Turn};
use crate::agent::Agent;
use crate::call::{AnswerHead, Body, Call, CallError, Caller, ClientGone, Objection, WatchGuard, Woken};
use crate::config::Raw;
use crate::driver::Driver;
use crate::model::{FnSpec, Id, SlotKey};
use crate::pool::{Need, Tokens};
use crate::uds::iofs::Iofs;

/// A client that remembers what it was told.
#[derive(Debug, Default)]
struct Client {
    body: Vec<u8>,
    begun: u32,
    ended: u32,
}

impl Caller for Client {
    fn whole(&mut self, _: &AnswerHead<'_>, body: &[u8]) -> Result<(), ClientGone> {
        self.begun += 1;
        self.ended += 1;
        self.body.extend_from_slice(body);
        Ok(())
    }

    fn begin(&mut self, _: &AnswerHead<'_>, _: Option<u64>) -> Result<(), ClientGone> {
        self.begun += 1;
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), ClientGone> {
        self.ended += 1;
        Ok(())
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn watch(&self, _: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        None
    }
}

/// A call that waits without a thread; its caller hears of its turn.
struct Dozing {
    call: Call,
    turn: Option<Turn>,
    turns: crossbeam_channel::Sender<Dozing>,
}

impl Sleeper for Dozing {
    fn call(&self) -> &Call {
        &self.call
    }

    fn wake(mut self: Box<Self>, turn: Turn) -> Box<dyn Woken> {
        self.turn = Some(turn);
        self
    }

    fn watch(&self, _: Arc<dyn Fn() + Send + Sync>) -> Option<Box<dyn WatchGuard>> {
        None
    }
}

impl Woken for Dozing {
    fn go_on(self: Box<Self>) {
        let turns = self.turns.clone();
        turns.send(*self).expect("its caller waits");
    }
}

/// Runs the call: without a thread until its turn where a line stands.
fn submit(agent: &Agent, call: Call, client: &mut Client) -> Result<(), CallError> {
    if !agent.has_line(&call.spec) {
        return agent.submit(&call, client, None);
    }
    let (turns, turn) = crossbeam_channel::bounded(1);
    match agent.line_up(Box::new(Dozing { call, turn: None, turns })) {
        Ok(()) => {
            let Dozing { call, turn, .. } = turn.recv_timeout(Duration::from_secs(20)).expect("its turn comes");
            agent.submit(&call, client, turn)
        }
        Err(back) => {
            let back: Box<dyn std::any::Any> = back;
            agent.submit(&back.downcast::<Dozing>().expect("the same").call, client, None)
        }
    }
}

const CALLERS: usize = 8;
const CALLS: usize = 3;
const MIB: u64 = 64;

fn function(n: u8, image: &str) -> Arc<FnSpec> {
    Arc::new(FnSpec {
        key: SlotKey([n; 32]),
        app_id: Id::new(),
        app_name: "app".to_owned(),
        fn_id: Id::new(),
        fn_name: format!("f{n}"),
        image: image.to_owned(),
        env: Vec::new(),
        timeout_s: 5,
        idle_timeout_s: 30,
        memory_mib: MIB,
        cpu_milli: 0,
        tmpfs_mib: 0,
        syslog_url: None,
        limits: crate::model::FnLimits::default(),
    })
}

struct Outcome {
    good: usize,
    failed: Vec<String>,
}

fn settings() -> HotConfig {
    HotConfig {
        freeze_idle: Some(Duration::ZERO),
        launcher_timeout: None,
        pull_timeout: Some(Duration::from_secs(5)),
        start_timeout: Some(Duration::from_secs(5)),
        max_queued: 100,
        max_queued_node: 1000,
        non_blocking: false,
        start_lanes: 4,
        stop_lanes: 2,
        logs: LogOptions { max_call_bytes: 1 << 20, copy: false },
    }
}

/// Callers on the given functions, room for two containers; the server is
/// asked to end when `stop_after` calls have their outcome.
fn scenario(images: &[&str], driver: Arc<dyn Driver>, inner: &InProcess, stop_after: usize) -> Outcome {
    let folder = std::env::temp_dir().join(format!("hob-hot-{}", Id::new()));
    let mut raw = Raw::default();
    raw.set("HOB_MAX_WAIT_MSECS", "10000");
    let config = raw.parse().expect("valid");
    let mut hot_config = settings();
    if images.contains(&"NeverListens") {
        // Short only where it is waited for.
        hot_config.start_timeout = Some(Duration::from_millis(300));
    }
    let tokens = Tokens::new(Need { mib: 2 * MIB, mcpu: 1000 });
    let hot = Hot::open(hot_config, driver, tokens, Iofs::open(&folder).expect("folder")).expect("opens");
    let agent = Agent::new(&config, hot).expect("agent");
    let functions: Vec<_> = images.iter().zip(1..).map(|(image, n)| function(n, image)).collect();
    let outcomes = AtomicUsize::new(0);
    let round = Barrier::new(CALLERS);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (agent, functions, outcomes, failed, round) = (&agent, &functions, &outcomes, &failed, &round);
            scope.spawn(move || {
                for n in 0..CALLS {
                    // In rounds, so that what is idle between them freezes.
                    if round.wait().is_leader() {
                        let until = Instant::now() + Duration::from_millis(100);
                        while !inner.all_frozen() && Instant::now() < until {
                            std::thread::yield_now();
                        }
                    }
                    round.wait();
                    let body = format!("caller {caller}, call {n}").into_bytes();
                    let spec = functions[caller % functions.len()].clone();
                    let call = Call { id: Id::new(), spec, fields: Vec::new(), body: Body::Memory(body.clone()), accepted: Instant::now(), trigger: None };
                    let mut client = Client::default();
                    let result = submit(agent, call, &mut client);
                    match result {
                        Ok(()) => assert!(client.begun == 1 && client.ended == 1 && client.body == body, "an answer of its own, once: {client:?}"),
                        Err(CallError::Broken { .. }) => assert!(client.begun == 1 && client.ended == 0, "{client:?}"),
                        Err(ref error) => {
                            assert!(client.begun == 0, "an error or an answer, not both: {client:?} {error}");
                            failed.lock().push(format!("{error:?}"));
                        }
                    }
                    outcomes.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while outcomes.load(Ordering::SeqCst) < stop_after {
            std::thread::yield_now();
        }
        agent.refuse();
        assert!(agent.wait_idle(Instant::now() + Duration::from_secs(120)), "every caller got its outcome: {}", agent.debug_state());
        assert_eq!(agent.close(Instant::now() + Duration::from_secs(30)), Vec::<String>::new(), "tokens and folders are back");
    });
    assert_eq!(outcomes.load(Ordering::SeqCst), CALLERS * CALLS);
    assert!(inner.live.lock().is_empty(), "containers remain");
    assert!(!inner.asked_frozen.load(Ordering::SeqCst), "a frozen container was asked");
    assert_eq!(entries(&folder), 0, "socket folders remain");
    std::fs::remove_dir_all(&folder).expect("removed");
    let failed = failed.into_inner();
    Outcome { good: CALLERS * CALLS - failed.len(), failed }
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Fails loudly instead of hanging.
fn within<T: Send + 'static>(limit: Duration, what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = crossbeam_channel::bounded(1);
    let thread = std::thread::spawn(move || drop(done.send(run())));
    match finished.recv_timeout(limit) {
        Ok(value) => value,
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => panic!("{what}: not over after {limit:?}"),
        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it panicked"));
        }
    }
}

const LIMIT: Duration = Duration::from_secs(240);

/// Promise: whatever driver operation fails, each caller gets exactly one
/// outcome and tokens, containers, folders and threads come back.
#[test]
fn every_driver_fault() {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    let all = CALLERS * CALLS;
    for nth in 1.. {
        let mut fault = false;
        // Two functions, and one more than there is room for; a server that
        // ends after its calls, and one that ends among them.
        for (functions, stop_after) in [(2, all), (2, all / 2), (3, all), (3, all / 2)] {
            let (failed, outcome) = within(LIMIT, &format!("fault {nth}"), move || {
                let inner = Arc::new(InProcess::default());
                let driver = FailsNth::new(inner.clone(), nth);
                let outcome = scenario(&vec!["Echoes"; functions], driver.clone(), &inner, stop_after);
                let failed = driver.failed.lock().take();
                (failed, outcome)
            });
            match failed {
                Some(verb) => *seen.entry(verb).or_default() += 1,
                None if stop_after == all => assert_eq!(outcome.good, all, "without a fault every call succeeds: {:?}", outcome.failed),
                None => {}
            }
            fault |= failed.is_some();
        }
        if !fault {
            break;
        }
    }
    println!("faults tried: {seen:?}");
    for verb in ["start", "freeze", "thaw", "remove"] {
        assert!(seen.contains_key(verb), "{verb} was never failed: {seen:?}");
    }
}

/// One run in which deed `nth` goes wrong; which deed that was, if it was
/// reached. The number also decides how many functions there are, and whether
/// the server ends after all calls or among them.
fn with_socket_fault(nth: u64, how: Wrong) -> Option<Deed> {
    let all = CALLERS * CALLS;
    // A fixed sequence without a pattern in it.
    let chance = (nth * 2 + how as u64).wrapping_mul(6_364_136_223_846_793_005).rotate_left(29);
    let functions = 2 + usize::from(chance & 1 == 1);
    let middle = 1 + usize::try_from(chance >> 2).unwrap_or(0) % (all - 1);
    let stop_after = if chance & 2 == 2 { middle } else { all };
    let (hit, outcome) = within(LIMIT, &format!("{how:?} at deed {nth}, {functions} functions, stop after {stop_after}"), move || {
        let sockets = Arc::new(SocketFault { nth, how, ..SocketFault::default() });
        let inner = Arc::new(InProcess { sockets: sockets.clone(), ..InProcess::default() });
        let outcome = scenario(&vec!["Echoes"; functions], inner.clone(), &inner, stop_after);
        let hit = sockets.hit.lock().take();
        (hit, outcome)
    });
    if stop_after == all {
        assert!(outcome.good + 1 >= all, "{how:?} at deed {nth} ({hit:?}) costs one caller at most: {:?}", outcome.failed);
    }
    hit
}

/// Promise: whatever happens at a function's socket, at whatever moment, each
/// caller gets exactly one outcome, a good answer is its own, and tokens,
/// containers, folders and threads come back.
#[test]
fn every_socket_fault() {
    let mut seen: HashMap<(Deed, Wrong), u32> = HashMap::new();
    let (mut nth, mut beyond) = (1u64, 0);
    // How many deeds there are differs from run to run: on until none is hit.
    while beyond < 4 {
        let runs: Vec<_> = [nth, nth + 1].into_iter().flat_map(|nth| [(nth, Wrong::Closes), (nth, Wrong::Strange)]).collect();
        let hits: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = runs.iter().map(|&(nth, how)| scope.spawn(move || Some((with_socket_fault(nth, how)?, how)))).collect();
            running.into_iter().filter_map(|run| run.join().expect("a run")).collect()
        });
        beyond = if hits.is_empty() { beyond + 1 } else { 0 };
        hits.into_iter().for_each(|hit| *seen.entry(hit).or_default() += 1);
        nth += 2;
    }
    println!("socket faults tried, up to deed {nth}: {seen:?}");
    for deed in [Deed::Accept, Deed::Read, Deed::Head, Deed::Body] {
        for how in [Wrong::Closes, Wrong::Strange] {
            assert!(seen.contains_key(&(deed, how)), "{deed:?} never went wrong as {how:?}: {seen:?}");
        }
    }
}

/// Functions that end in the middle of an answer or without one: their
/// callers are told, everybody else is served.
#[test]
fn functions_that_die() {
    for image in ["DiesMidBody", "DiesUnasked"] {
        for stop_after in [CALLERS * CALLS, CALLERS * CALLS / 2] {
            let outcome = within(LIMIT, image, move || {
                let inner = Arc::new(InProcess::default());
                scenario(&[image, "Echoes"], inner.clone(), &inner, stop_after)
            });
            if stop_after == CALLERS * CALLS {
                assert!(outcome.good >= CALLERS * CALLS / 2, "the healthy half is served: {:?}", outcome.failed);
                assert!(outcome.failed.iter().all(|e| e.contains("NoAnswer")), "{:?}", outcome.failed);
            }
        }
    }
}

/// Functions that never come up: their callers are told why in time.
#[test]
fn functions_that_never_listen() {
    for (image, why) in [("NeverListens", "NoSocket"), ("ExitsAtOnce", "Exited")] {
        for stop_after in [CALLERS * CALLS, CALLERS * CALLS / 3] {
            let outcome = within(LIMIT, image, move || {
                let inner = Arc::new(InProcess::default());
                scenario(&[image, "Echoes"], inner.clone(), &inner, stop_after)
            });
            if stop_after == CALLERS * CALLS {
                assert_eq!(outcome.good, CALLERS * CALLS / 2, "the healthy half is served: {:?}", outcome.failed);
                assert!(outcome.failed.iter().all(|e| e.contains(why)), "{:?}", outcome.failed);
            }
        }
    }
}

/// Objects to what it is told to, changes a field, remembers the rest.
#[derive(Default)]
struct Ears {
    heard: Mutex<Vec<String>>,
}

impl crate::extend::CallListener for Ears {
    fn before_call(&self, call: &Call) -> Result<(), Objection> {
        self.heard.lock().push("before".to_owned());
        match &call.fields[..] {
            b"X-Bad: listener\r\n" => Err(Objection { status: 402, message: "no credit".to_owned() }),
            _ => Ok(()),
        }
    }

    fn after_call(&self, _call: &Call, result: &Result<(), CallError>) {
        self.heard.lock().push(format!("after {}", result.is_ok()));
    }
}

impl crate::extend::CallOverrider for Ears {
    fn override_call(&self, call: &mut Call) -> Result<(), Objection> {
        match &call.fields[..] {
            b"X-Bad: overrider\r\n" => Err(Objection { status: 403, message: "not here".to_owned() }),
            _ => {
                call.body = Body::Memory(b"changed".to_vec());
                Ok(())
            }
        }
    }
}

/// An objection costs no container; who objected to is not told of its end.
#[test]
fn extensions_hear_of_calls_change_them_and_object() {
    let folder = std::env::temp_dir().join(format!("hob-hot-{}", Id::new()));
    let config = Raw::default().parse().expect("valid");
    let inner = Arc::new(InProcess::default());
    let hot = Hot::open(settings(), inner.clone(), Tokens::new(Need { mib: 2 * MIB, mcpu: 1000 }), Iofs::open(&folder).expect("folder")).expect("opens");
    let ears = Arc::new(Ears::default());
    let extensions = crate::extend::Extensions::default().listener(ears.clone()).overrider(ears.clone()).expect("the first");
    assert_eq!(extensions.clone().overrider(ears.clone()).expect_err("the second").to_string(), "a call overrider is registered already");
    let agent = Agent::new(&config, hot).expect("agent").extended(extensions);
    let spec = function(1, "Echoes");
    let run = |fields: &[u8]| {
        let mut call =
            Call { id: Id::new(), spec: spec.clone(), fields: fields.to_vec(), body: Body::Memory(b"sent".to_vec()), accepted: Instant::now(), trigger: None };
        let mut client = Client::default();
        let result = agent.prepare(&mut call).and_then(|()| agent.submit(&call, &mut client, None));
        (result, client.body)
    };
    let objection = |result| match result {
        Err(CallError::Objected(objection)) => objection.status,
        other => panic!("{other:?}"),
    };
    let (result, body) = run(b"");
    assert!(result.is_ok() && body == b"changed", "{result:?}");
    assert_eq!(objection(run(b"X-Bad: overrider\r\n").0), 403);
    for _ in 0..3 {
        // Frozen again each time: it is thawed before it is given back.
        let until = Instant::now() + Duration::from_secs(120);
        while !inner.all_frozen() {
            assert!(Instant::now() < until, "it freezes");
            std::thread::yield_now();
        }
        assert_eq!(objection(run(b"X-Bad: listener\r\n").0), 402);
    }
    assert!(run(b"").0.is_ok());
    assert_eq!(*ears.heard.lock(), ["before", "after true", "before", "before", "before", "before", "after true"]);
    assert_eq!(inner.started.load(Ordering::SeqCst), 1, "one container did it all");
    agent.refuse();
    assert_eq!(agent.close(Instant::now() + Duration::from_secs(30)), Vec::<String>::new());
    std::fs::remove_dir_all(&folder).expect("removed");
}
