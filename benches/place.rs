//! What it would be worth to choose the CPU on which a call runs: the caller,
//! the server and the function left to the kernel, all on one CPU, or apart.
//!
//! One run, the placements in turn within every round.
//!
//! `cargo bench --bench place -- [--quick | --full] [--write]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::time::Duration;

use common::load::{Until, run};
use common::report::{Table, circumstances, median, publish, time};
use common::server::{FUNCTION_MIB, Hob};
use common::ways::{warm_up, ways};
use common::{Failure, Options, engine, proc};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const CONTAINERS: u64 = 8;
const CALLERS: [usize; 3] = [1, 8, 32];
const BODY: usize = 64;

/// Where caller, server and functions may run: the first CPU, the second, or any.
#[derive(Debug, Clone, Copy)]
enum Cpu {
    Any,
    First,
    Second,
}

const PLACES: [(&str, Cpu, Cpu, Cpu); 4] = [
    ("left to the kernel", Cpu::Any, Cpu::Any, Cpu::Any),
    ("caller, server and functions on one CPU", Cpu::First, Cpu::First, Cpu::First),
    ("server and functions on one CPU, the caller on another", Cpu::Second, Cpu::First, Cpu::First),
    ("caller and server on one CPU, the functions on another", Cpu::First, Cpu::First, Cpu::Second),
];

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    let all = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).take(2).collect();
    let &[first, second] = cpus.as_slice() else {
        println!("one CPU alone: there is nothing to choose");
        return Ok(());
    };
    let set = |cpu: Cpu| {
        let mut set = CpuSet::new();
        match cpu {
            Cpu::Any => return all,
            Cpu::First => set.set(first),
            Cpu::Second => set.set(second),
        }
        set
    };
    engine::prepare()?;
    let settings = [("FN_FREEZE_IDLE_MSECS", "-1".to_owned()), ("FN_MAX_TOTAL_MEMORY_BYTES", ((CONTAINERS * FUNCTION_MIB) << 20).to_string())];
    let hob = Hob::start("place", &settings)?;
    let target = hob.function("echo")?;
    warm_up(&hob, &target);
    let way = ways(&hob, &target, &hob.sockets(), None)?.pop().ok_or("no way to hob")?;
    let functions = proc::named(engine::PROGRAM);
    if functions.len() as u64 != CONTAINERS {
        return Err(format!("{} functions run, {CONTAINERS} of them this bench's: another hob is at work", functions.len()).into());
    }
    let mut table = Table::new(&["callers", "placed", "p50", "p99", "calls/s", "server CPU per call", "p50 to the kernel's choice", "calls/s to it"]);
    let rounds = options.pick(3, 7, 15);
    let length = Duration::from_millis(options.pick(300, 1000, 2000));
    for callers in CALLERS {
        let mut seen: Vec<[Vec<f64>; 4]> = vec![Default::default(); PLACES.len()];
        for round in 0..=rounds {
            for ((_, caller, server, function), seen) in PLACES.iter().zip(&mut seen) {
                // The callers' threads inherit it from this one.
                sched_setaffinity(None, &set(*caller))?;
                place(&[hob.pid()], &set(*server));
                place(&functions, &set(*function));
                let cpu = proc::cpu(&way.pids);
                let outcome = run(&way.load(callers, BODY, Until::Elapsed(length)));
                let cpu = proc::cpu(&way.pids) - cpu;
                way.check(&outcome)?;
                if round > 0 {
                    let values = [outcome.quantile(0.5), outcome.quantile(0.99), outcome.rate(), cpu / outcome.good() as f64];
                    seen.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
                }
            }
        }
        let ratio = |of: &[Vec<f64>; 4], what: usize| median(&of[what].iter().zip(&seen[0][what]).map(|(value, free)| value / free).collect::<Vec<_>>());
        for ((name, ..), of) in PLACES.iter().zip(&seen) {
            let [p50, p99, rate, cpu] = of;
            table.row([
                callers.to_string(),
                (*name).to_owned(),
                time(median(p50)),
                time(median(p99)),
                format!("{:.0}", median(rate)),
                time(median(cpu)),
                format!("{:.2}", ratio(of, 0)),
                format!("{:.2}", ratio(of, 2)),
            ]);
        }
    }
    sched_setaffinity(None, &all)?;
    hob.terminate()?;
    publish("place", &format!("{about}; {rounds} rounds; {CONTAINERS} containers\n\n{}\n", table.text()), options)
}

/// All threads of these processes; one that has ended meanwhile needs no place.
fn place(pids: &[u32], cpus: &CpuSet) {
    for pid in pids {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let id = task.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if id.is_some() {
                let _ = sched_setaffinity(id, cpus);
            }
        }
    }
}
