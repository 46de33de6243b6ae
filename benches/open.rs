//! Calls at a constant rate: they come when they come, whether or not the ones
//! before have been answered. Latency counts from the moment a call was due, so
//! that a server that stalls is charged for everybody who came meanwhile.
//!
//! `cargo bench --bench open -- [--quick | --full] [--write] [--peer NAME=URL,PID]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::time::{Duration, Instant};

use common::http::Connection;
use common::load::quantile;
use common::plot::{Chart, Line};
use common::report::{Table, circumstances, median, publish, time, write};
use common::server::{FUNCTION_MIB, Hob, Nginx};
use common::ways::{Way, peers, warm_up, ways};
use common::{Failure, Options, engine, proc};

const CONTAINERS: u64 = 8;
/// Connections that share the calls: more than are ever under way at once.
const CONNECTIONS: usize = 64;
const RATES: [u32; 3] = [1000, 4000, 8000];
const SHARES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)];

/// What one way gave at one rate, the rounds' figures.
#[derive(Default)]
struct Series {
    /// By `SHARES`.
    latency: [Vec<f64>; SHARES.len()],
    answered: Vec<f64>,
    cpu: Vec<f64>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    peers()?;
    engine::prepare()?;
    let settings = [("FN_FREEZE_IDLE_MSECS", "-1".to_owned()), ("FN_MAX_TOTAL_MEMORY_BYTES", ((CONTAINERS * FUNCTION_MIB) << 20).to_string())];
    let hob = Hob::start("open", &settings)?;
    let target = hob.function("echo")?;
    warm_up(&hob, &target);
    let sockets = hob.sockets();
    let nginx = Nginx::start(&sockets, false)?;
    let ways = ways(&hob, &target, &sockets, nginx.as_ref())?;
    let (rounds, length) = (options.pick(1, 3, 5), Duration::from_millis(options.pick(1000, 3000, 10_000)));
    let mut table = Table::new(&["calls/s", "way", "answered/s", "p50", "p90", "p99", "p99.9", "most", "server CPU per call"]);
    let mut plotted = Vec::new();
    for rate in RATES {
        let mut all: Vec<Series> = ways.iter().map(|_| Series::default()).collect();
        for round in 0..rounds {
            eprintln!("{rate}/s, round {}", round + 1);
            for (way, series) in ways.iter().zip(&mut all) {
                one(way, rate, length, series)?;
            }
        }
        for (way, series) in ways.iter().zip(&all) {
            let mut cells = vec![rate.to_string(), way.name.clone(), format!("{:.0}", median(&series.answered))];
            cells.extend(series.latency.iter().map(|l| time(median(l))));
            cells.push(if way.pids.is_empty() { "-".to_owned() } else { time(median(&series.cpu)) });
            table.row(cells);
        }
        plotted =
            ways.iter().zip(&all).map(|(way, series)| Line { name: way.name.clone(), values: series.latency.iter().map(|l| median(l)).collect() }).collect();
    }
    drop(nginx);
    hob.terminate()?;
    let mut text = format!("{about}; {rounds} rounds of {:.1} s each, medians; {CONNECTIONS} connections\n\n{}", length.as_secs_f64(), table.text());
    if options.write {
        text.push_str("\n![latency at a constant rate](bench/open.svg)\n");
        let title = format!("latency at {} calls a second, from when each was due", RATES[RATES.len() - 1]);
        let ticks = SHARES.iter().map(|(name, _)| (*name).to_owned()).collect();
        write("open.svg", &Chart { title: &title, across: "share of the calls", ticks, label: time, lines: plotted }.svg())?;
    }
    publish("open", &text, options)
}

fn one(way: &Way, rate: u32, length: Duration, series: &mut Series) -> Result<(), Failure> {
    let cpu = proc::cpu(&way.pids);
    let mut took = constant(way, rate, length)?;
    series.cpu.push((proc::cpu(&way.pids) - cpu) / took.len() as f64);
    let (begun, ended) = (took.iter().map(|(due, _)| *due).min(), took.iter().map(|(due, took)| *due + *took).max());
    if let (Some(begun), Some(ended)) = (begun, ended) {
        series.answered.push(took.len() as f64 / (ended - begun).as_secs_f64());
    }
    let mut sorted: Vec<Duration> = took.drain(..).map(|(_, took)| took).collect();
    sorted.sort_unstable();
    for ((_, share), values) in SHARES.iter().zip(&mut series.latency) {
        values.push(quantile(&sorted, *share));
    }
    Ok(())
}

/// Each call's due time and how long after it the answer was there. Connection
/// `i` has every 64th call; one that is late asks at once and stays charged.
fn constant(way: &Way, rate: u32, length: Duration) -> Result<Vec<(Duration, Duration)>, Failure> {
    let start = Instant::now() + Duration::from_millis(50);
    let each = Duration::from_secs(1) / rate;
    let addresses = way.addresses(CONNECTIONS);
    let request = way.request(64);
    let count = usize::try_from(u128::from(rate) * length.as_millis() / 1000)?;
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            let (mut connection, request) = (Connection::new(addresses[index % addresses.len()].clone()), request.clone());
            std::thread::spawn(move || {
                let mut samples = Vec::with_capacity(count / CONNECTIONS + 1);
                let _ = connection.connect();
                for call in (index..count).step_by(CONNECTIONS) {
                    let due = each * u32::try_from(call).unwrap_or(u32::MAX);
                    let now = start.elapsed();
                    if now < due || Instant::now() < start {
                        std::thread::sleep((start + due).saturating_duration_since(Instant::now()));
                    }
                    let status = connection.ask(&request).map_or(0, |answer| answer.status);
                    samples.push((due, start.elapsed().saturating_sub(due), status));
                }
                samples
            })
        })
        .collect();
    let samples: Vec<_> = callers.into_iter().flat_map(|c| c.join().unwrap_or_default()).collect();
    let bad = samples.iter().filter(|(_, _, status)| *status != 200).count();
    if bad > 0 {
        return Err(format!("{}: {bad} of {} calls without 200", way.name, samples.len()).into());
    }
    Ok(samples.into_iter().map(|(due, took, _)| (due, took)).collect())
}
