//! Runs the tables: lanes of hostile functions, and the callers beside them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Case, Fate, answers, bodies, chunks, ends, floods, heads, hogs, late, order, sockets};
use super::{delete, delete_last, turn};
use crate::harness::{PATIENCE, Server, http::Response, sandbox};

/// Callers of the function that has nothing to do with it.
const NEIGHBOURS: usize = 2;
/// Between two calls of a caller that only watches.
const PAUSE: Duration = Duration::from_millis(15);
/// A function that lost its container serves again within this.
const AGAIN_WITHIN: Duration = PATIENCE;

/// Cases that one function runs through in turn.
pub(crate) struct Lane {
    name: &'static str,
    timeout_s: u32,
    /// Answers to good calls bear their ids: the connection is kept.
    keeps: bool,
    cases: Vec<Case>,
}

/// What all lanes share.
struct Bench<'s> {
    server: &'s Server,
    wrong: Mutex<Vec<String>>,
    own: AtomicU64,
    refused: AtomicU64,
}

impl Bench<'_> {
    fn wrong(&self, what: String) {
        self.wrong.lock().expect("list").push(what);
    }

    /// A good call with a body of its own. The function's instance, or nothing
    /// when hob said cleanly that it could not be served.
    fn own(&self, function: &str, how: &str, body: &[u8]) -> Result<Option<String>, String> {
        let answer = self.server.try_call(function, &[("X-Do", how)], body).map_err(|e| format!("no answer: {e}"))?;
        if answer.status == 200 {
            self.own.fetch_add(1, Ordering::Relaxed);
            let instance = answer.field("X-Instance").unwrap_or_default().to_owned();
            return if answer.body == body { Ok(Some(instance)) } else { Err(format!("not its own: {}", shown(&answer))) };
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        clean(&answer).map(|()| None)
    }

    /// Calls until it is served again; whatever comes before must be clean.
    fn served(&self, lane: &Lane, function: &str, tag: &str) -> Result<String, String> {
        let until = Instant::now() + AGAIN_WITHIN;
        for n in 0u32.. {
            if let Some(instance) = self.own(function, lane.how(), format!("{tag} {n}").as_bytes())? {
                return Ok(instance);
            }
            if Instant::now() > until {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("not served again within {AGAIN_WITHIN:?}"))
    }

    fn run(&self, lane: &Lane, function: &str) {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch(lane.name, function, lane.how(), &done, true));
            for case in &lane.cases {
                let result = timed(&format!("{}: {}", lane.name, case.name), || self.try_case(lane, function, case));
                if let Err(what) = result {
                    self.wrong(format!("{}: {} ({}): {what}", lane.name, case.name, case.rule));
                }
            }
            done.store(true, Ordering::SeqCst);
        });
    }

    fn try_case(&self, lane: &Lane, function: &str, case: &Case) -> Result<(), String> {
        let before = self.served(lane, function, &format!("before {}", case.name))?;
        let body = vec![b'b'; case.body];
        let result = match self.server.try_call(function, &[("X-Script", &case.script)], &body) {
            Ok(answer) => judge(case, &answer),
            Err(_) if case.allowed.iter().any(|a| a == "cut") => Ok(()),
            Err(e) => Err(format!("no answer: {e}")),
        };
        let after = self.served(lane, function, &format!("after {}", case.name));
        if case.spoiled {
            // Whoever is in it gets an error, and the next one another container.
            let _ = self.server.try_call(function, &[("X-Script", "exit:0")], b"");
        }
        result?;
        match (case.fate, after? == before) {
            (Fate::Stays, false) => Err("its container went".to_owned()),
            (Fate::Goes, true) => Err("its container stayed".to_owned()),
            _ => Ok(()),
        }
    }

    /// Calls all the time. `may_be_refused`: its own function is the hostile one.
    fn watch(&self, name: &str, function: &str, how: &str, done: &AtomicBool, may_be_refused: bool) {
        for n in 0u32.. {
            if done.load(Ordering::SeqCst) {
                return;
            }
            let mut body = format!("{name} {n} ").into_bytes();
            // Now and then one that is streamed.
            if n.is_multiple_of(16) {
                body.resize(100_000, b'0' + u8::try_from(n / 16 % 10).expect("a digit"));
            }
            match self.own(function, how, &body) {
                Ok(None) if !may_be_refused => self.wrong(format!("{name}: call {n} was refused")),
                Ok(_) => {}
                Err(what) => self.wrong(format!("{name}: call {n}: {what}")),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Lane {
    fn new(name: &'static str, cases: Vec<Case>) -> Lane {
        Lane { name, timeout_s: 20, keeps: false, cases }
    }

    fn timeout(self, timeout_s: u32) -> Lane {
        Lane { timeout_s, ..self }
    }

    fn keeps(self) -> Lane {
        Lane { keeps: true, ..self }
    }

    fn how(&self) -> &'static str {
        if self.keeps { "echo" } else { "echo-bare" }
    }
}

fn shown(answer: &Response) -> String {
    format!("{} {:?}", answer.status, answer.text().chars().take(200).collect::<String>())
}

/// An error of hob's own, with nothing of what the function said.
pub(super) fn clean(answer: &Response) -> Result<(), String> {
    let own = serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok_and(|v| v["message"].is_string());
    let says = answer.text().contains("evil") || answer.head.contains("evil");
    if matches!(answer.status, 502..=504) && own && !says { Ok(()) } else { Err(format!("no error of hob's: {} {}", answer.head, shown(answer))) }
}

fn judge(case: &Case, answer: &Response) -> Result<(), String> {
    if answer.status != 200 {
        clean(answer)?;
    }
    let fits = |allowed: &String| {
        let (status, wanted) = allowed.split_once(' ').unwrap_or((allowed, ""));
        if status != answer.status.to_string() {
            return false;
        }
        match (answer.status, wanted.strip_prefix('#')) {
            (200, Some(size)) => size.parse() == Ok(answer.body.len()) && answer.body.iter().all(|b| *b == b'x'),
            (200, None) => wanted == "*" || answer.body == wanted.as_bytes(),
            _ => answer.message().contains(wanted),
        }
    };
    if case.allowed.iter().any(fits) { Ok(()) } else { Err(format!("seen {}, allowed {:?}", shown(answer), case.allowed)) }
}

/// Every `n`th case, from the `first`: shares a table out among lanes.
fn share(cases: Vec<Case>, first: usize, n: usize) -> Vec<Case> {
    cases.into_iter().skip(first).step_by(n).collect()
}

/// With an engine each container costs a good part of a second. Of the answers
/// that cost one and differ in their bytes alone every fifth is tried there; all
/// with `HOB_TEST_FULL=1`, and always in the sandbox.
fn few_that_cost_a_container(lanes: &mut [Lane]) {
    let mut nth = 0;
    for lane in lanes.iter_mut().filter(|l| ["heads", "answers", "chunks", "lengths", "bodies"].iter().any(|t| l.name.starts_with(t))) {
        lane.cases.retain(|case| {
            nth += usize::from(case.fate == Fate::Goes);
            case.fate != Fate::Goes || nth % 5 == 0
        });
    }
}

/// Lanes at the same time: more would only stand in the engine's line.
fn at_once() -> usize {
    if sandbox::chosen() { 20 } else { 8 }
}

fn all_are_tried() -> bool {
    sandbox::chosen() || std::env::var("HOB_TEST_FULL").as_deref() == Ok("1")
}

fn lanes(trap: &str) -> Vec<Lane> {
    let mut lanes = all_lanes(trap);
    if !all_are_tried() {
        few_that_cost_a_container(&mut lanes);
    }
    lanes
}

fn all_lanes(trap: &str) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for n in 0..2 {
        lanes.push(Lane::new(["heads 1", "heads 2"][n], share(heads::cases(), n, 2)));
        lanes.push(Lane::new(["answers 1", "answers 2"][n], share(answers::cases(), n, 2)));
        lanes.push(Lane::new(["chunks 1", "chunks 2"][n], share(chunks::cases(), n, 2)));
        lanes.push(Lane::new(["late 1", "late 2"][n], share(late::cases(), n, 2)).timeout(2));
        lanes.push(Lane::new(["sockets 1", "sockets 2"][n], share(sockets::cases(trap), n, 2)).timeout(10));
    }
    lanes.extend([
        Lane::new("lengths", chunks::lengths()),
        Lane::new("bodies", bodies::cases()),
        Lane::new("ends", ends::cases()),
        Lane::new("order", order::on_fresh_connections()),
        Lane::new("order, kept", order::on_kept_connections()).timeout(10).keeps(),
        Lane::new("late, kept", late::on_kept_connections()).timeout(2).keeps(),
        Lane::new("floods", floods::cases()),
        Lane::new("hogs", hogs::cases()).timeout(10),
    ]);
    lanes
}

#[test]
fn there_are_enough_cases_and_no_two_of_a_name() {
    let lanes = lanes("/trap");
    let count = |part: &str| lanes.iter().filter(|l| l.name.starts_with(part)).map(|l| l.cases.len()).sum::<usize>();
    let groups = ["answers", "heads", "chunks", "lengths", "bodies", "order", "late", "ends", "sockets", "floods", "hogs"];
    let all: usize = lanes.iter().map(|l| l.cases.len()).sum();
    println!("{all} behaviours: {}", groups.map(|g| format!("{g} {}", count(g))).join(", "));
    assert_eq!(all, groups.iter().map(|g| count(g)).sum::<usize>());
    assert!(all >= 120, "{all}");
    let mut names = std::collections::HashSet::new();
    for lane in &lanes {
        let table = lane.name.trim_end_matches([' ', '1', '2']);
        for case in &lane.cases {
            assert!(names.insert((table, lane.keeps, case.name.as_str())), "two cases are called {}: {}", lane.name, case.name);
            assert!(!case.allowed.is_empty() && !case.rule.is_empty(), "{}", case.name);
        }
    }
}

/// A socket on the host that counts who connects: nobody may.
pub(super) struct Trap {
    listener: std::os::unix::net::UnixListener,
    pub(super) path: std::path::PathBuf,
}

impl Trap {
    pub(super) fn set(name: &str) -> Trap {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("hob-trap-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("open to all");
        listener.set_nonblocking(true).expect("non-blocking");
        Trap { listener, path }
    }

    pub(super) fn assert_untouched(&self) {
        let came = self.listener.accept();
        assert!(came.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "somebody was led to the host's socket: {came:?}");
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn every_behaviour_ends_as_its_rule_says_and_nobody_gets_anothers_answer() {
    let settings = [("FN_MAX_RESPONSE_SIZE", "1000000"), ("FN_MAX_TOTAL_MEMORY_BYTES", "8589934592")];
    let _turn = turn();
    let Some(server) = Server::start(&settings) else { return };
    let trap = Trap::set("lanes");
    let lanes = lanes(trap.path.to_str().expect("UTF-8"));
    let echo = server.function("echo", "echo", json!({"timeout": 60}));
    let functions: Vec<String> = lanes
        .iter()
        .enumerate()
        .map(|(n, lane)| server.function(&format!("lane{n}"), "hostile", json!({"timeout": lane.timeout_s, "annotations": {"hob/max-instances": 1}})))
        .collect();
    // The long ones, at the end of the list, first.
    let work: Vec<_> = lanes.iter().zip(&functions).rev().collect();
    let bench = Bench { server: &server, wrong: Mutex::default(), own: AtomicU64::new(0), refused: AtomicU64::new(0) };
    let begun = Instant::now();
    let (over, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let neighbours: Vec<_> = (0..NEIGHBOURS)
            .map(|n| {
                let (bench, echo, over) = (&bench, &echo, &over);
                scope.spawn(move || bench.watch(&format!("neighbour {n}"), echo, "", over, false))
            })
            .collect();
        let running: Vec<_> = (0..at_once())
            .map(|_| {
                scope.spawn(|| {
                    while let Some((lane, function)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        timed(lane.name, || bench.run(lane, function));
                        delete(&server, function);
                    }
                })
            })
            .collect();
        running.into_iter().for_each(|lane| lane.join().expect("a lane"));
        over.store(true, Ordering::SeqCst);
        neighbours.into_iter().for_each(|neighbour| neighbour.join().expect("a neighbour"));
    });
    let wrong = bench.wrong.into_inner().expect("list");
    let all: usize = lanes.iter().map(|l| l.cases.len()).sum();
    println!(
        "{all} behaviours in {:?}; beside them {} good calls got their own answer, {} an error of hob's, {} something wrong",
        begun.elapsed(),
        bench.own.into_inner(),
        bench.refused.into_inner(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} wrong of {all} cases:\n{}", wrong.len(), wrong.join("\n"));
    trap.assert_untouched();
    assert_eq!(server.good_call(&echo, &[], b"after").text(), "after");
    delete_last(&server, &echo);
    server.stop();
}

/// Says what took long.
fn timed<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = run();
    if begun.elapsed() > Duration::from_secs(5) {
        println!("  {name}: {:?}", begun.elapsed());
    }
    result
}
