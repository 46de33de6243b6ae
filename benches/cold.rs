//! A call that finds no container: hob beside the bare engine.
//!
//! In each round, in turn: hob; the engine's API asked for the same container
//! by the shortest way (create, start, wait for the socket, call); and `docker
//! run`. For one call the second is the floor. For a burst it is not: it starts all
//! at once, while hob holds back what exceeds its start lanes.
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
/// Single cold calls in a round; hob goes first in every other one.
const TURNS: usize = 4;
const ENGINE: &str = "/var/run/docker.sock";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    engine::prepare()?;
    let rounds = options.pick(2, 5, 9);
    let scratch = Scratch::new("cold")?;
    let (mut one, mut many) = (vec![Vec::new(); 3], vec![Vec::new(); 2]);
    let mut stages = vec![Vec::new(); 4];
    for round in 0..rounds {
        let hob = Hob::start("cold-hob", &[])?;
        for turn in 0..TURNS {
            let mut ours = if turn % 2 == 0 { Some(hob_calls(&hob, &format!("one{turn}"), 1)?) } else { None };
            let floor = bare(scratch.path(), &format!("a{round}-{turn}"))?;
            one[1].push(floor.total());
            for (stage, taken) in stages.iter_mut().zip([floor.create, floor.start, floor.ready, floor.remove]) {
                stage.push(taken);
            }
            if ours.is_none() {
                ours = Some(hob_calls(&hob, &format!("one{turn}"), 1)?);
            }
            one[0].extend(ours);
            one[2].push(docker_run(scratch.path(), &format!("r{round}-{turn}"))?);
        }
        many[0].push(hob_calls(&hob, "many", MANY)?);
        many[1].push(bare_together(scratch.path(), &format!("m{round}"))?);
        hob.terminate()?;
    }
    let over = |a: &[f64], b: &[f64]| median(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>());
    let mut table = Table::new(&["what", "hob", "bare API", "docker run", "hob over bare API", "promise", ""]);
    let extra = over(&one[0], &one[1]);
    table.row([
        "one cold call".to_owned(),
        time(median(&one[0])),
        time(median(&one[1])),
        time(median(&one[2])),
        signed(extra),
        "≤ floor + 5 ms".to_owned(),
        verdict(extra <= 5e-3),
    ]);
    let last = median(&many[0]);
    let name = format!("{MANY} cold calls, {MANY} functions, at once: last answer");
    table.row([name, time(last), time(median(&many[1])), "-".to_owned(), signed(over(&many[0], &many[1])), "≤ 2 s".to_owned(), verdict(last <= 2.0)]);
    let s: Vec<String> = stages.iter().map(|s| time(median(s))).collect();
    let text = format!(
        "{about}; {rounds} rounds, each with {TURNS} single calls and one burst\n\n{}\nThe floor's parts: create {}, start {}, socket and call {}; remove (off the caller's way) {}.\n",
        table.text(),
        s[0],
        s[1],
        s[2],
        s[3]
    );
    publish("cold", &text, options)
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
fn bare(scratch: &Path, name: &str) -> Result<Bare, Failure> {
    let launched = launch(scratch, name);
    let removed = remove(name);
    let mut bare = launched?;
    bare.remove = removed?;
    Ok(bare)
}

fn container(name: &str) -> String {
    format!("/v1.41/containers/hob-bench-{}-{name}", std::process::id())
}

/// Until the first answer; the container stays.
fn launch(scratch: &Path, name: &str) -> Result<Bare, Failure> {
    let folder = socket_folder(scratch, name)?;
    let mut engine = Connection::new(Address::Unix(ENGINE.into()));
    engine.connect().map_err(|e| format!("{ENGINE}: {e}"))?;
    let asked = Instant::now();
    let create = format!("/v1.41/containers/create?name=hob-bench-{}-{name}", std::process::id());
    post(&mut engine, &create, &body(&folder), 201)?;
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
fn body(folder: &Path) -> Value {
    let memory = FUNCTION_MIB << 20;
    json!({
        "Image": engine::IMAGE, "User": "1000:1000", "Hostname": "bench",
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
    })
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
fn bare_together(scratch: &Path, name: &str) -> Result<f64, Failure> {
    let barrier = Arc::new(Barrier::new(MANY));
    let threads: Vec<_> = (0..MANY)
        .map(|i| {
            let (barrier, scratch, name) = (barrier.clone(), scratch.to_owned(), format!("{name}-{i}"));
            std::thread::spawn(move || {
                barrier.wait();
                let launched = launch(&scratch, &name);
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
