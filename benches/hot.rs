//! A hot call through hob, through nginx, and straight to the function.
//!
//! One run, all of them in turn within every round, so that whatever else the
//! machine does hits them alike; reported are medians and medians of ratios.
//! All of them but peers use the same live containers, which hob started.
//!
//! `cargo bench --bench hot -- [--quick | --full] [--write] [--peer NAME=URL,PID]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::fmt::Write as _;
use std::time::Duration;

use common::load::{Until, run};
use common::plot::{Chart, Line};
use common::report::{Table, circumstances, median, publish, time, verdict, write};
use common::server::{FUNCTION_MIB, Hob, Nginx};
use common::ways::{Way, peers, warm_up, ways};
use common::{Failure, Options, Scratch, engine, proc};

const CONTAINERS: u64 = 8;
const SMALL: usize = 64;
const SIZES: [usize; 3] = [SMALL, 64 << 10, 1 << 20];

#[derive(Debug, Default, Clone)]
struct Series {
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
    cpu: Vec<f64>,
    switches: Vec<f64>,
}

/// What one combination of body and callers gave, by way.
struct Measured {
    size: usize,
    callers: usize,
    names: Vec<String>,
    series: Vec<Series>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    peers()?;
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
    let mut table = Table::new(&["body", "callers", "way", "p50", "p99", "calls/s", "server CPU per call", "switches per call"]);
    let mut ratios = Table::new(&["body", "callers", "hob to nginx", "ratio (median of rounds)", "promise", ""]);
    let (mut all, mut resident) = (Vec::new(), Vec::new());
    let rounds = options.pick(2, 7, 9);
    let all_callers: &[usize] = options.pick(&[1, 32], &[1, 8, 32, 128], &[1, 8, 32, 128]);
    for size in SIZES {
        let length = Duration::from_millis(if size == SMALL { options.pick(400, 1500, 3000) } else { options.pick(300, 800, 2000) });
        let beside = if size == SMALL { nginx.as_ref() } else { unbuffered.as_ref() };
        let ways = ways(&hob, &target, &sockets, beside)?;
        for callers in all_callers.iter().copied() {
            eprintln!("{}, {callers} callers", bytes(size));
            let series = measure(&ways, callers, size, rounds, length)?;
            for (way, series) in ways.iter().zip(&series) {
                table.row(absolute(size, callers, way, series));
            }
            let of = |name: &str| ways.iter().zip(&series).find(|(w, _)| w.name == name).map(|(_, s)| s);
            if let (Some(nginx), Some(hob)) = (of("nginx"), of("hob")) {
                promises(&mut ratios, size, callers, nginx, hob);
            }
            all.push(Measured { size, callers, names: ways.iter().map(|w| w.name.clone()).collect(), series });
        }
        resident.push((bytes(size), proc::resident_kib(hob.pid()).unwrap_or(0) as f64 / 1024.0));
    }
    let quiet = options.pick(5, 12, 12);
    std::thread::sleep(Duration::from_secs(quiet));
    resident.push((format!("{quiet} s without calls"), proc::resident_kib(hob.pid()).unwrap_or(0) as f64 / 1024.0));
    let mut text = format!("{about}; {rounds} rounds; {} containers\n\n{}\n{}\n", sockets.len(), table.text(), ratios.text());
    let resident: Vec<String> = resident.iter().map(|(after, mib)| format!("{mib:.1} MiB after {after}")).collect();
    let _ = writeln!(text, "Resident memory of hob: {}.\n", resident.join(", "));
    text.push_str(&system_calls(&ways(&hob, &target, &sockets, nginx.as_ref())?)?);
    drop((nginx, unbuffered));
    hob.terminate()?;
    if options.write {
        text.push_str("\n![p50](bench/hot-p50.svg)\n![calls per second](bench/hot-rate.svg)\n");
        write("hot-p50.svg", &chart("p50 of a hot call, 64 B", &all, |s| &s.p50, time))?;
        write("hot-rate.svg", &chart("hot calls per second, 64 B", &all, |s| &s.rate, |v| format!("{v:.0}/s")))?;
    }
    publish("hot", &text, options)
}

/// Of small bodies, by callers.
fn chart(title: &str, all: &[Measured], of: fn(&Series) -> &Vec<f64>, label: fn(f64) -> String) -> String {
    let small: Vec<&Measured> = all.iter().filter(|m| m.size == SMALL).collect();
    let names = small.first().map(|m| m.names.clone()).unwrap_or_default();
    let lines = names.into_iter().enumerate().map(|(i, name)| Line { name, values: small.iter().map(|m| median(of(&m.series[i]))).collect() }).collect();
    Chart { title, across: "callers, each asking again as soon as it is answered", ticks: small.iter().map(|m| m.callers.to_string()).collect(), label, lines }
        .svg()
}

fn measure(ways: &[Way], callers: usize, size: usize, rounds: usize, length: Duration) -> Result<Vec<Series>, Failure> {
    for way in ways {
        way.try_once(callers, size)?;
    }
    let mut all = vec![Series::default(); ways.len()];
    for round in 0..=rounds {
        for (way, series) in ways.iter().zip(&mut all) {
            // The first round warms connections and caches, and is not kept.
            let length = if round == 0 { Duration::from_millis(200) } else { length };
            let (cpu, switches) = (proc::cpu(&way.pids), proc::switches(&way.pids));
            let outcome = run(&way.load(callers, size, Until::Elapsed(length)));
            let (cpu, switches) = (proc::cpu(&way.pids) - cpu, proc::switches(&way.pids).saturating_sub(switches));
            way.check(&outcome)?;
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

fn absolute(size: usize, callers: usize, way: &Way, series: &Series) -> Vec<String> {
    let (cpu, switches) =
        if way.pids.is_empty() { ("-".to_owned(), "-".to_owned()) } else { (time(median(&series.cpu)), format!("{:.1}", median(&series.switches))) };
    vec![
        bytes(size),
        callers.to_string(),
        way.name.clone(),
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
    if size == SMALL {
        row("p50", p50, if callers == 1 { "≤ 1.5, then ≤ 1.0" } else { "" }, if callers == 1 { staged(p50 <= 1.5, p50 <= 1.0) } else { String::new() });
        row("p99", p99, "", String::new());
        let promised = (8..=32).contains(&callers);
        row("throughput", rate, if promised { "≥ 0.8, then ≥ 1.0" } else { "" }, if promised { staged(rate >= 0.8, rate >= 1.0) } else { String::new() });
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
            run(&way.load(callers, SMALL, Until::Calls(5)));
            let Some(strace) = proc::Strace::attach(&way.pids, folder.path())? else {
                return Ok("(strace is not installed: no count of system calls)\n".to_owned());
            };
            let outcome = run(&way.load(callers, SMALL, Until::Calls(calls as u64)));
            let counts = strace.finish()?;
            let per_call = |n: u64| n as f64 / outcome.good() as f64;
            let total: u64 = counts.iter().map(|(_, n)| n).sum();
            let which: Vec<String> = counts.iter().filter(|(_, n)| per_call(*n) >= 0.05).map(|(name, n)| format!("{name} {:.1}", per_call(*n))).collect();
            table.row([callers.to_string(), way.name.clone(), format!("{:.1}", per_call(total)), which.join(", ")]);
        }
    }
    Ok(format!("{}\nPromise: ≤ 10 system calls per call in hob.\n", table.text()))
}
