//! A hot call through hob, through nginx, and straight to the function.
//!
//! One run, the three in turn within every round, so that whatever else the
//! machine does hits them alike; reported are medians and medians of ratios.
//! All three use the same live containers, which hob started.
//!
//! `cargo bench --bench hot -- [--quick | --full] [--write]`

#![allow(clippy::print_stdout, reason = "a bench prints")]

mod common;

use std::fmt::Write as _;
use std::time::Duration;

use common::http::{Address, Connection, request};
use common::load::{Load, Outcome, Until, run};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::{FUNCTION_MIB, Hob, Nginx};
use common::{Failure, Options, Scratch, engine, proc};

const CONTAINERS: u64 = 8;
const CALL_ID: &str = "01HF7YAT3V180G40RZJ0000001";

/// One of the three ways to the function.
struct Way {
    name: &'static str,
    /// For one caller, and for more.
    one: Vec<Address>,
    many: Vec<Address>,
    target: String,
    fields: Vec<(&'static str, &'static str)>,
    /// Whose CPU counts.
    pids: Vec<u32>,
}

#[derive(Debug, Default, Clone)]
struct Series {
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
    cpu: Vec<f64>,
    switches: Vec<f64>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    engine::prepare()?;
    let settings = [("FN_FREEZE_IDLE_MSECS", "-1".to_owned()), ("FN_MAX_TOTAL_MEMORY_BYTES", ((CONTAINERS * FUNCTION_MIB) << 20).to_string())];
    let hob = Hob::start("hot", &settings)?;
    let target = hob.function("echo")?;
    warm_up(&hob, &target);
    let sockets = hob.sockets();
    let nginx = Nginx::start(&sockets, false)?;
    let unbuffered = Nginx::start(&sockets, true)?;
    if nginx.is_none() {
        println!("nginx is not installed (apt-get install nginx-light): no ratios to it");
    }
    let rounds = options.pick(3, 7, 5);
    let length = Duration::from_millis(options.pick(700, 2000, 1000));
    let mut sizes = vec![64];
    if options.full {
        sizes.extend([64 << 10, 1 << 20]);
    }
    let mut text = format!("{about}; {rounds} rounds of {:.1} s each; {} containers\n\n", length.as_secs_f64(), sockets.len());
    let mut table = Table::new(&["body", "callers", "way", "p50", "p99", "calls/s", "server CPU per call", "switches per call"]);
    let mut ratios = Table::new(&["body", "callers", "hob to nginx", "ratio (median of rounds)", "promise", ""]);
    for size in sizes {
        let beside = if size == 64 { nginx.as_ref() } else { unbuffered.as_ref() };
        let ways = ways(&hob, &target, &sockets, beside);
        for callers in [1, 8, 32] {
            let series = measure(&ways, callers, size, rounds, length)?;
            for (way, series) in ways.iter().zip(&series) {
                table.row(absolute(size, callers, way, series));
            }
            if ways.len() == 3 {
                promises(&mut ratios, size, callers, &series[1], &series[2]);
            }
        }
    }
    let _ = write!(text, "{}\n{}\n", table.text(), ratios.text());
    text.push_str(&system_calls(&ways(&hob, &target, &sockets, nginx.as_ref()))?);
    drop((nginx, unbuffered));
    hob.terminate()?;
    publish("hot", &text, options)
}

/// Enough calls at once that hob starts all the containers it has room for.
fn warm_up(hob: &Hob, target: &str) {
    let slow = request("POST", target, &[("X-Sleep-Ms", "100")], b"warm");
    let load = Load { addresses: vec![Address::Tcp(hob.address)], requests: vec![slow], callers: 32, until: Until::Elapsed(Duration::from_secs(3)) };
    run(&load);
}

fn ways(hob: &Hob, target: &str, sockets: &[std::path::PathBuf], nginx: Option<&Nginx>) -> Vec<Way> {
    // What hob adds for the function, the others' caller sends himself.
    let fields = vec![("Content-Type", "text/plain"), ("Fn-Call-Id", CALL_ID), ("Fn-Deadline", "2099-01-01T00:00:00.000Z")];
    let direct: Vec<Address> = sockets.iter().cloned().map(Address::Unix).collect();
    let mut ways = vec![Way { name: "direct", one: direct[..1].to_vec(), many: direct, target: "/call".to_owned(), fields: fields.clone(), pids: Vec::new() }];
    if let Some(nginx) = nginx {
        ways.push(Way {
            name: "nginx",
            one: vec![Address::Tcp(nginx.one)],
            many: vec![Address::Tcp(nginx.all)],
            target: "/call".to_owned(),
            fields,
            pids: nginx.workers(),
        });
    }
    let address = vec![Address::Tcp(hob.address)];
    ways.push(Way {
        name: "hob",
        one: address.clone(),
        many: address,
        target: target.to_owned(),
        fields: vec![("Content-Type", "text/plain")],
        pids: vec![hob.pid()],
    });
    ways
}

fn load(way: &Way, callers: usize, size: usize, until: Until) -> Load {
    let addresses = if callers == 1 { way.one.clone() } else { way.many.clone() };
    Load { addresses, requests: vec![request("POST", &way.target, &way.fields, &vec![b'x'; size])], callers, until }
}

fn measure(ways: &[Way], callers: usize, size: usize, rounds: usize, length: Duration) -> Result<Vec<Series>, Failure> {
    for way in ways {
        let load = load(way, callers, size, Until::Calls(1));
        let mut connection = Connection::new(load.addresses[0].clone());
        let answer = connection.ask(&load.requests[0])?;
        if answer.status != 200 || answer.body.len() != size {
            return Err(format!("{}: {} with {} of {size} bytes", way.name, answer.status, answer.body.len()).into());
        }
    }
    let mut all = vec![Series::default(); ways.len()];
    for round in 0..=rounds {
        for (way, series) in ways.iter().zip(&mut all) {
            // The first round warms connections and caches, and is not kept.
            let length = if round == 0 { Duration::from_millis(200) } else { length };
            let (cpu, switches) = (proc::cpu(&way.pids), proc::switches(&way.pids));
            let outcome = run(&load(way, callers, size, Until::Elapsed(length)));
            let (cpu, switches) = (proc::cpu(&way.pids) - cpu, proc::switches(&way.pids).saturating_sub(switches));
            check(way, &outcome)?;
            if round > 0 {
                let calls = outcome.good() as f64;
                series.p50.push(outcome.quantile(0.5));
                series.p99.push(outcome.quantile(0.99));
                series.rate.push(outcome.rate());
                series.cpu.push(cpu / calls);
                series.switches.push(switches as f64 / calls);
            }
        }
    }
    Ok(all)
}

/// A number is worth nothing when calls failed.
fn check(way: &Way, outcome: &Outcome) -> Result<(), Failure> {
    if outcome.good() == outcome.samples.len() && outcome.good() > 0 { Ok(()) } else { Err(format!("{}: answers {}", way.name, outcome.statuses()).into()) }
}

fn absolute(size: usize, callers: usize, way: &Way, series: &Series) -> Vec<String> {
    let (cpu, switches) =
        if way.pids.is_empty() { ("-".to_owned(), "-".to_owned()) } else { (time(median(&series.cpu)), format!("{:.1}", median(&series.switches))) };
    vec![
        bytes(size),
        callers.to_string(),
        way.name.to_owned(),
        time(median(&series.p50)),
        time(median(&series.p99)),
        format!("{:.0}", median(&series.rate)),
        cpu,
        switches,
    ]
}

fn promises(table: &mut Table, size: usize, callers: usize, nginx: &Series, hob: &Series) {
    let ratio = |of: fn(&Series) -> &Vec<f64>| median(&of(hob).iter().zip(of(nginx)).map(|(h, n)| h / n).collect::<Vec<_>>());
    let mut row = |what: &str, ratio: f64, promise: &str, met: String| {
        table.row([bytes(size), callers.to_string(), what.to_owned(), format!("{ratio:.2}"), promise.to_owned(), met]);
    };
    let (p50, p99, rate, cpu) = (ratio(|s| &s.p50), ratio(|s| &s.p99), ratio(|s| &s.rate), ratio(|s| &s.cpu));
    if size == 64 {
        row("p50", p50, if callers == 1 { "≤ 1.5, then ≤ 1.0" } else { "" }, if callers == 1 { staged(p50 <= 1.5, p50 <= 1.0) } else { String::new() });
        row("p99", p99, "", String::new());
        row(
            "throughput",
            rate,
            if callers == 1 { "" } else { "≥ 0.8, then ≥ 1.0" },
            if callers == 1 { String::new() } else { staged(rate >= 0.8, rate >= 1.0) },
        );
        row("CPU per call", cpu, "≤ 2, then ≤ 1.2", staged(cpu <= 2.0, cpu <= 1.2));
    } else {
        row("throughput", rate, "≥ 1 (nginx unbuffered)", verdict(rate >= 1.0));
        row("CPU per call", cpu, "", String::new());
    }
}

/// Of a promise in two steps.
fn staged(first: bool, second: bool) -> String {
    match (first, second) {
        (_, true) => "both met".to_owned(),
        (true, false) => "first met".to_owned(),
        (false, false) => verdict(false),
    }
}

fn bytes(size: usize) -> String {
    match size {
        s if s >= 1 << 20 => format!("{} MiB", s >> 20),
        s if s >= 1 << 10 => format!("{} KiB", s >> 10),
        s => format!("{s} B"),
    }
}

/// A pass of its own: tracing slows what it counts.
fn system_calls(ways: &[Way]) -> Result<String, Failure> {
    let folder = Scratch::new("strace")?;
    let mut table = Table::new(&["callers", "way", "system calls per call", "which"]);
    for callers in [1, 32] {
        for way in ways.iter().filter(|w| !w.pids.is_empty()) {
            let calls = 1024 / callers;
            // Connections are opened and first served outside the count.
            run(&load(way, callers, 64, Until::Calls(5)));
            let Some(strace) = proc::Strace::attach(&way.pids, folder.path())? else {
                return Ok("(strace is not installed: no count of system calls)\n".to_owned());
            };
            let outcome = run(&load(way, callers, 64, Until::Calls(calls as u64)));
            let counts = strace.finish()?;
            let per_call = |n: u64| n as f64 / outcome.good() as f64;
            let total: u64 = counts.iter().map(|(_, n)| n).sum();
            let which: Vec<String> = counts.iter().filter(|(_, n)| per_call(*n) >= 0.05).map(|(name, n)| format!("{name} {:.1}", per_call(*n))).collect();
            table.row([callers.to_string(), way.name.to_owned(), format!("{:.1}", per_call(total)), which.join(", ")]);
        }
    }
    Ok(format!("{}\nPromise: ≤ 10 system calls per call in hob.\n", table.text()))
}
