//! How threads, memory and the cost of a call grow: with open connections, with
//! registered functions, with hot functions.
//!
//! The functions run in hob's own sandbox, so root is needed.
//! `cargo bench --bench scale -- [--quick | --full] [--write]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::http::{Connection, request};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::Hob;
use common::{Failure, Options, Scratch, engine, proc};

/// Memory of each hot function: small, so that hundreds have room at once. One
/// too many, and every call would be a cold one that evicts another.
const HOT_MIB: u64 = 16;

/// What the server holds at one moment.
struct Held {
    resident_kib: u64,
    threads: usize,
    descriptors: usize,
}

/// One server that all three growths are measured on, from a fresh start each.
struct Bench {
    archive: Scratch,
    rounds: usize,
    table: Table,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    engine::prepare()?;
    let archive = Scratch::new("scale-image")?;
    engine::docker(&["save", "-o", &archive.path().join("echo.tar").to_string_lossy(), engine::IMAGE])?;
    let columns = ["what there is", "threads", "descriptors", "resident", "each", "hot call p50", "server CPU per call", "promise", ""];
    let mut bench = Bench { archive, rounds: options.pick(3, 7, 15), table: Table::new(&columns) };
    bench.connections(options.pick(&[0, 500], &[0, 100, 1000], &[0, 100, 1000]))?;
    bench.registered(options.pick(&[10, 2000], &[10, 1000, 10_000], &[10, 1000, 10_000]))?;
    bench.hot(&[1, 50, options.pick(100, 500, 500)])?;
    let text = format!("{about}; a hot call is one of one caller, 64 B, medians of {} rounds\n\n{}", bench.rounds, bench.table.text());
    publish("scale", &text, options)
}

impl Bench {
    fn start(&self, name: &str) -> Result<Hob, Failure> {
        let settings =
            [("HOB_DRIVER", "sandbox".to_owned()), ("FN_FREEZE_IDLE_MSECS", "-1".to_owned()), ("FN_MAX_TOTAL_MEMORY_BYTES", (64u64 << 30).to_string())];
        let hob = Hob::start(name, &settings)?;
        load(&self.archive.path().join("echo.tar"), &hob.data())?;
        Ok(hob)
    }

    /// Clients that are connected and say nothing more after one call each.
    fn connections(&mut self, steps: &[usize]) -> Result<(), Failure> {
        let hob = self.start("scale-conn")?;
        let target = hob.function("echo")?;
        let call = request("POST", &target, &[("Content-Type", "text/plain")], &[b'x'; 64]);
        let mut open: Vec<Connection> = Vec::new();
        let mut first = None;
        for step in steps {
            while open.len() < *step {
                let mut connection = hob.connection();
                ask(&mut connection, &call)?;
                open.push(connection);
            }
            self.row(&hob, &format!("{step} idle connections"), *step, &mut first, std::slice::from_ref(&call), Some(12.0))?;
        }
        drop(open);
        hob.terminate()?;
        Ok(())
    }

    /// Functions that nobody calls, but for one.
    fn registered(&mut self, steps: &[usize]) -> Result<(), Failure> {
        let hob = self.start("scale-reg")?;
        let call = request("POST", &hob.function("f0")?, &[("Content-Type", "text/plain")], &[b'x'; 64]);
        let (mut made, mut first) = (1, None);
        for step in steps {
            while made < *step {
                hob.function(&format!("f{made}"))?;
                made += 1;
            }
            self.row(&hob, &format!("{step} registered functions"), *step, &mut first, std::slice::from_ref(&call), None)?;
        }
        hob.terminate()?;
        Ok(())
    }

    /// Functions with a container each, called in turn.
    fn hot(&mut self, steps: &[usize]) -> Result<(), Failure> {
        let hob = self.start("scale-hot")?;
        let (mut calls, mut first) = (Vec::new(), None);
        let room = hob.capacity_mib().map_or(usize::MAX, |mib| usize::try_from(mib / HOT_MIB).unwrap_or(usize::MAX));
        for step in steps {
            let step = &room.min(*step);
            while calls.len() < *step {
                let target = hob.function_of(&format!("hot{}", calls.len()), HOT_MIB)?;
                let call = request("POST", &target, &[("Content-Type", "text/plain")], &[b'x'; 64]);
                ask(&mut hob.connection(), &call)?;
                calls.push(call);
            }
            self.row(&hob, &format!("{step} hot functions"), *step, &mut first, &calls, Some(51.2))?;
        }
        let (took, code) = hob.terminate()?;
        println!("SIGTERM with {} hot functions: {}, exit {code:?}", calls.len(), time(took.as_secs_f64()));
        Ok(())
    }

    /// `each` is what one of them adds beyond the first row, in KiB: `promise`.
    fn row(&mut self, hob: &Hob, what: &str, count: usize, first: &mut Option<(usize, u64)>, calls: &[Vec<u8>], promise: Option<f64>) -> Result<(), Failure> {
        let (p50, cpu) = self.called(hob, calls)?;
        // Idle workers end after ten seconds.
        let held = held(hob, if what.ends_with("connections") && count > 0 { Duration::from_secs(12) } else { Duration::from_millis(500) });
        let (few, base) = *first.get_or_insert((count, held.resident_kib));
        let each = (count > few).then(|| held.resident_kib.saturating_sub(base) as f64 / (count - few) as f64);
        self.table.row([
            what.to_owned(),
            held.threads.to_string(),
            held.descriptors.to_string(),
            format!("{:.1} MiB", held.resident_kib as f64 / 1024.0),
            each.map(|kib| format!("{kib:.1} KiB")).unwrap_or_default(),
            time(p50),
            time(cpu),
            each.and(promise).map(|kib| format!("≤ {kib} KiB each")).unwrap_or_default(),
            each.zip(promise).map(|(each, promise)| verdict(each <= promise)).unwrap_or_default(),
        ]);
        println!("{what}: {} threads, {:.1} MiB, p50 {}", held.threads, held.resident_kib as f64 / 1024.0, time(p50));
        Ok(())
    }

    /// p50 and CPU of one caller's calls, `calls` in turn.
    fn called(&self, hob: &Hob, calls: &[Vec<u8>]) -> Result<(f64, f64), Failure> {
        let (mut p50, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let mut connection = hob.connection();
            let mut took = Vec::new();
            let before = proc::cpu(&[hob.pid()]);
            for call in calls.iter().cycle().take(2000.max(calls.len() * 2)) {
                let begun = Instant::now();
                ask(&mut connection, call)?;
                took.push(begun.elapsed().as_secs_f64());
            }
            cpu.push((proc::cpu(&[hob.pid()]) - before) / took.len() as f64);
            p50.push(median(&took));
        }
        Ok((median(&p50), median(&cpu)))
    }
}

fn ask(connection: &mut Connection, call: &[u8]) -> Result<(), Failure> {
    let answer = connection.ask(call)?;
    if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", answer.status, String::from_utf8_lossy(answer.body)).into()) }
}

/// After `pause`: threads that were only there for the last calls have ended.
fn held(hob: &Hob, pause: Duration) -> Held {
    std::thread::sleep(pause);
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", hob.pid())).map_or(0, Iterator::count);
    Held { resident_kib: proc::resident_kib(hob.pid()).unwrap_or(0), threads: count("task"), descriptors: count("fd") }
}

/// The image into the store of a server's data folder.
fn load(archive: &Path, data: &Path) -> Result<(), Failure> {
    let output = Command::new(env!("CARGO_BIN_EXE_hob")).args(["image", "load", "--driver", "sandbox"]).arg(archive).env("HOB_DATA", data).output()?;
    if output.status.success() { Ok(()) } else { Err(format!("hob image load: {}", String::from_utf8_lossy(&output.stderr)).into()) }
}
