//! A call that finds no container: hob beside the bare engine.
//!
//! In each round, in turn: hob; the engine's API asked for the same container
//! by the shortest way (create, start, wait for the socket, call); and `docker
//! run`. For one call the second is the floor. For a burst it is not: it starts all
//! at once, while hob holds back what exceeds its start lanes.
//!
//! And the same again with parked networks: hob as it is by default, against
//! the API asked for a container that joins a network held by another one.
//! Both are waited for before the clock runs.
//!
//! `cargo bench --bench cold -- [--quick | --full] [--write]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::http::{Address, Connection, request};
use common::load::{Load, Until, run};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::{FUNCTION_MIB, Hob};
use common::{Failure, Options, Scratch, engine};

const MANY: usize = 16;
const ENGINE: &str = "/var/run/docker.sock";
const PARKED_IMAGE: &str = if cfg!(target_arch = "aarch64") { "hob/parked:1-arm64" } else { "hob/parked:1-amd64" };
const PATIENCE: Duration = Duration::from_secs(30);

/// What the rounds gave, in seconds.
#[derive(Default)]
struct Samples {
    hob: Vec<f64>,
    bare: Vec<f64>,
    run: Vec<f64>,
    many: Vec<f64>,
    many_bare: Vec<f64>,
    /// The first burst of a pool that does not know of bursts yet.
    first: Vec<f64>,
    /// Create, start, socket and call, remove: of the bare way.
    stages: [Vec<f64>; 4],
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    engine::prepare()?;
    let rounds = options.pick(1, 5, 9);
    // Single cold calls in a round; hob goes first in every other one.
    let turns = options.pick(2, 4, 4);
    let scratch = Scratch::new("cold")?;
    let (mut own, mut parked) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        let hob = Hob::start("cold-own", &[("HOB_PARKED_NETWORKS", "0".to_owned())])?;
        for turn in 0..turns {
            one_turn(&hob, &mut own, scratch.path(), &format!("{round}-{turn}"), turn % 2 == 0, None)?;
            own.run.push(docker_run(scratch.path(), &format!("r{round}-{turn}"))?);
        }
        own.many.push(hob_calls(&hob, "many", MANY)?);
        own.many_bare.push(bare_together(scratch.path(), &format!("m{round}"), Vec::new())?);
        hob.terminate()?;

        let hob = Hob::start("cold-parked", &[])?;
        let ready = hob.await_parked_steady()?;
        for turn in 0..turns {
            let name = format!("p{round}-{turn}");
            hob.await_parked(ready)?;
            let holder = Holder::start(&format!("h{name}"))?;
            one_turn(&hob, &mut parked, scratch.path(), &name, turn % 2 == 0, Some((&holder, ready)))?;
        }
        hob.terminate()?;

        // A server that has seen no burst yet: what it keeps ready from the start.
        let hob = Hob::start("cold-first", &[])?;
        hob.await_parked_steady()?;
        parked.first.push(hob_calls(&hob, "first", MANY)?);
        hob.await_parked(MANY)?;
        parked.many.push(hob_calls(&hob, "again", MANY)?);
        hob.terminate()?;
        let holders = (0..MANY).map(|n| Holder::start(&format!("hm{round}-{n}"))).collect::<Result<_, _>>()?;
        parked.many_bare.push(bare_together(scratch.path(), &format!("pm{round}"), holders)?);
    }
    publish("cold", &report(&about, (rounds, turns), &own, &parked), options)
}

/// One call of hob and one bare start, in either order.
fn one_turn(hob: &Hob, samples: &mut Samples, scratch: &Path, name: &str, hob_first: bool, holder: Option<(&Holder, usize)>) -> Result<(), Failure> {
    let mut ours = if hob_first { Some(hob_calls(hob, name, 1)?) } else { None };
    if let Some((_, ready)) = holder {
        // What the call used up is being made again: not while the floor is taken.
        hob.await_parked(ready)?;
    }
    let floor = bare(scratch, name, holder.map(|(holder, _)| holder))?;
    samples.bare.push(floor.total());
    for (stage, taken) in samples.stages.iter_mut().zip([floor.create, floor.start, floor.ready, floor.remove]) {
        stage.push(taken);
    }
    if ours.is_none() {
        ours = Some(hob_calls(hob, name, 1)?);
    }
    samples.hob.extend(ours);
    Ok(())
}

fn report(about: &str, (rounds, turns): (usize, usize), own: &Samples, parked: &Samples) -> String {
    let mut table = Table::new(&["what", "hob", "bare API", "docker run", "hob over bare API", "promise", ""]);
    for (name, samples) in [("one cold call", own), ("one cold call, parked network", parked)] {
        let extra = median(&samples.hob.iter().zip(&samples.bare).map(|(a, b)| a - b).collect::<Vec<_>>());
        let run = if samples.run.is_empty() { "-".to_owned() } else { time(median(&samples.run)) };
        let row = [name.to_owned(), time(median(&samples.hob)), time(median(&samples.bare)), run, signed(extra)];
        table.row([&row[..], &["≤ floor + 5 ms".to_owned(), verdict(extra <= 5e-3)]].concat());
    }
    let half = median(&parked.hob) / median(&own.hob);
    let row = ["parked against not".to_owned(), format!("{half:.2}"), format!("{:.2}", median(&parked.bare) / median(&own.bare)), "-".to_owned()];
    table.row([&row[..], &["-".to_owned(), "about half".to_owned(), String::new()]].concat());
    let what = format!("{MANY} cold calls, {MANY} functions, at once: last answer");
    let rows = [
        (", no network parked", &own.many, &own.many_bare),
        (", a server's first burst", &parked.first, &parked.many_bare),
        (", networks parked for all", &parked.many, &parked.many_bare),
    ];
    for (how, last, bare) in rows {
        let (last, bare) = (median(last), median(bare));
        let row = [format!("{what}{how}"), time(last), time(bare), "-".to_owned(), signed(last - bare)];
        table.row([&row[..], &["≤ 2 s".to_owned(), verdict(last <= 2.0)]].concat());
    }
    let parts = |s: &Samples| s.stages.iter().map(|s| time(median(s))).collect::<Vec<_>>();
    let (a, b) = (parts(own), parts(parked));
    format!(
        "{about}; {rounds} rounds, each with {turns} single calls of each kind and a burst of each\n\n{}\nThe floor's parts: create {}, start {}, socket and call {}; remove (off the caller's way) {}. With a network to join: create {}, start {}, socket and call {}; remove {}.\n",
        table.text(),
        a[0],
        a[1],
        a[2],
        a[3],
        b[0],
        b[1],
        b[2],
        b[3]
    )
}

fn signed(seconds: f64) -> String {
    if seconds < 0.0 { format!("-{}", time(-seconds)) } else { format!("+{}", time(seconds)) }
}

/// So many new functions, called at once; until the last answer.
fn hob_calls(hob: &Hob, name: &str, count: usize) -> Result<f64, Failure> {
    let targets: Vec<String> = (0..count).map(|i| hob.function(&format!("{name}-{i}"))).collect::<Result<_, _>>()?;
    let requests = targets.iter().map(|t| request("POST", t, &[], b"x")).collect();
    let outcome = run(&Load { addresses: vec![Address::Tcp(hob.address)], requests, callers: count, until: Until::Calls(1) });
    if outcome.good() == count { Ok(outcome.quantile(1.0)) } else { Err(format!("hob answers {}; its log:\n{}", outcome.statuses(), hob.log()).into()) }
}

/// Seconds of each part of a bare start.
struct Bare {
    create: f64,
    start: f64,
    ready: f64,
    remove: f64,
}

impl Bare {
    fn total(&self) -> f64 {
        self.create + self.start + self.ready
    }
}

/// One container by the engine's API, nothing in between.
fn bare(scratch: &Path, name: &str, holder: Option<&Holder>) -> Result<Bare, Failure> {
    let launched = launch(scratch, name, holder);
    let removed = remove(name);
    let mut bare = launched?;
    bare.remove = removed?;
    Ok(bare)
}

fn container(name: &str) -> String {
    format!("/v1.41/containers/hob-bench-{}-{name}", std::process::id())
}

/// Until the first answer; the container stays.
fn launch(scratch: &Path, name: &str, holder: Option<&Holder>) -> Result<Bare, Failure> {
    let folder = socket_folder(scratch, name)?;
    let mut engine = Connection::new(Address::Unix(ENGINE.into()));
    engine.connect().map_err(|e| format!("{ENGINE}: {e}"))?;
    let asked = Instant::now();
    let create = format!("/v1.41/containers/create?name=hob-bench-{}-{name}", std::process::id());
    post(&mut engine, &create, &body(&folder, holder), 201)?;
    let created = Instant::now();
    post(&mut engine, &format!("{}/start", container(name)), &Value::Null, 204)?;
    let started = Instant::now();
    first_call(&folder)?;
    let (create, start, ready) = ((created - asked).as_secs_f64(), (started - created).as_secs_f64(), started.elapsed().as_secs_f64());
    Ok(Bare { create, start, ready, remove: 0.0 })
}

/// How long it took, in seconds.
fn remove(name: &str) -> Result<f64, Failure> {
    let asked = Instant::now();
    let mut engine = Connection::new(Address::Unix(ENGINE.into()));
    let status = engine.ask(&request("DELETE", &format!("{}?force=true&v=true", container(name)), &[], b""))?.status;
    if status == 204 { Ok(asked.elapsed().as_secs_f64()) } else { Err(format!("removing {name}: {status}").into()) }
}

fn post(engine: &mut Connection, target: &str, body: &Value, expected: u16) -> Result<(), Failure> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = engine.ask(&request("POST", target, &[("Content-Type", "application/json")], &bytes))?;
    if answer.status == expected { Ok(()) } else { Err(format!("{target}: {} {}", answer.status, String::from_utf8_lossy(answer.body)).into()) }
}

/// What hob asks for, but its labels, swappiness and the function's own variables.
fn body(folder: &Path, holder: Option<&Holder>) -> Value {
    let memory = FUNCTION_MIB << 20;
    let mut body = json!({
        "Image": engine::IMAGE, "User": "1000:1000",
        "Env": ["FN_FORMAT=http-stream", "FN_LISTENER=unix:/tmp/iofs/lsnr.sock"],
        "AttachStdout": false, "AttachStderr": false,
        "HostConfig": {
            "Binds": [format!("{}:/tmp/iofs", folder.display())],
            "Memory": memory, "MemorySwap": memory, "PidsLimit": 50, "ReadonlyRootfs": true, "Init": true,
            "Tmpfs": {"/tmp": ""}, "LogConfig": {"Type": "none"}, "CapDrop": ["all"], "SecurityOpt": ["no-new-privileges"],
            "Ulimits": [
                {"Name": "nofile", "Soft": 350, "Hard": 350}, {"Name": "memlock", "Soft": 65536, "Hard": 65536},
                {"Name": "sigpending", "Soft": 5000, "Hard": 5000}, {"Name": "msgqueue", "Soft": 819_200, "Hard": 819_200},
            ],
        },
    });
    match holder {
        Some(holder) => body["HostConfig"]["NetworkMode"] = format!("container:{}", holder.name).into(),
        None => body["Hostname"] = "bench".into(),
    }
    body
}

/// A container that holds a network for another one to join.
struct Holder {
    name: String,
}

impl Holder {
    fn start(name: &str) -> Result<Holder, Failure> {
        let name = format!("hob-bench-{}-{name}", std::process::id());
        // Where hob has it from: it loads the image at its own first start.
        engine::docker(&["run", "-d", "--name", &name, "--log-driver", "none", "--read-only", "--cap-drop", "all", PARKED_IMAGE])?;
        Ok(Holder { name })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The engine's refusal leaves a container a person can see.
        let _ = engine::docker(&["rm", "-f", &self.name]);
    }
}

fn socket_folder(scratch: &Path, name: &str) -> Result<PathBuf, Failure> {
    let folder = scratch.join(name);
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

fn first_call(folder: &Path) -> Result<(), Failure> {
    let call = request("POST", "/call", &[("Fn-Call-Id", "01HF7YAT3V180G40RZJ0000001"), ("Fn-Deadline", "2099-01-01T00:00:00.000Z")], b"x");
    let mut connection = Connection::new(Address::Unix(folder.join("lsnr.sock")));
    let until = Instant::now() + PATIENCE;
    while connection.connect().is_err() {
        if Instant::now() > until {
            return Err("no socket in time".into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    if connection.ask(&call)?.status == 200 { Ok(()) } else { Err("a bad answer from the bare container".into()) }
}

/// The same for many at once: until the last answer, or so long it takes to tell.
/// With `holders` each start joins the network of one of them.
fn bare_together(scratch: &Path, name: &str, holders: Vec<Holder>) -> Result<f64, Failure> {
    let barrier = Arc::new(Barrier::new(MANY));
    let holders = Arc::new(holders);
    let threads: Vec<_> = (0..MANY)
        .map(|i| {
            let (barrier, holders, scratch, name) = (barrier.clone(), holders.clone(), scratch.to_owned(), format!("{name}-{i}"));
            std::thread::spawn(move || {
                barrier.wait();
                let launched = launch(&scratch, &name, holders.get(i));
                // No removal competes with a start that is still measured.
                barrier.wait();
                let removed = remove(&name);
                launched.and_then(|b| removed.map(|_| b.total())).map_err(|e| e.to_string())
            })
        })
        .collect();
    let mut last = 0.0_f64;
    for thread in threads {
        last = last.max(thread.join().map_err(|_| "a bare start failed")??);
    }
    Ok(last)
}

fn docker_run(scratch: &Path, name: &str) -> Result<f64, Failure> {
    let folder = socket_folder(scratch, name)?;
    let container = format!("hob-bench-{}-{name}", std::process::id());
    let bind = format!("{}:/tmp/iofs", folder.display());
    let options = [
        "--user",
        "1000:1000",
        "--read-only",
        "--init",
        "--log-driver",
        "none",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--tmpfs",
        "/tmp",
    ];
    let asked = Instant::now();
    let arguments = [
        &["run", "-d", "--name", &container, "-v", &bind, "-e", "FN_FORMAT=http-stream", "-e", "FN_LISTENER=unix:/tmp/iofs/lsnr.sock"],
        &options[..],
        &[engine::IMAGE],
    ]
    .concat();
    let called = engine::docker(&arguments).and_then(|_| first_call(&folder));
    let taken = asked.elapsed().as_secs_f64();
    engine::docker(&["rm", "-f", &container])?;
    called.map(|()| taken)
}
