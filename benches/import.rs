//! 10,000 functions on the embedded store: how fast they are made, and that
//! neither lists, nor calls, nor the start get slower by them.
//!
//! Two servers run side by side, one with 10 functions and one with 10,000;
//! what is compared is asked of them in turn.
//!
//! `cargo bench --bench import -- [--quick | --full] [--write]`

#![allow(clippy::print_stdout, reason = "a bench prints")]

mod common;

use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::http::{Address, Connection, request};
use common::load::{Load, Until, quantile, run};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::Hob;
use common::{Failure, Options, Scratch, engine, proc};

const FEW: usize = 10;
const LIST: usize = 100;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    let many = options.pick(2_000, 10_000, 10_000);
    engine::prepare()?;
    let settings = [("FN_FREEZE_IDLE_MSECS", "-1".to_owned()), ("HOB_PARKED_NETWORKS", "0".to_owned())];
    let few = Hob::start("import-few", &settings)?;
    let mut full = Hob::start("import-many", &settings)?;
    import(&few, 0..FEW, 1)?;
    let mut table = Table::new(&["what", "measured", "promise", ""]);
    let mut row = |what: &str, measured: String, promise: &str, met: Option<bool>| {
        table.row([what.to_owned(), measured, promise.to_owned(), met.map(verdict).unwrap_or_default()]);
    };

    row("syncs of the disk beside it, one after the other", format!("{:.0}/s", syncs()?), "", None);
    let alone = import(&full, 0..many / 10, 1)?;
    row(&format!("creates, 1 client, {} functions", many / 10), format!("{alone:.0}/s"), "≥ 500/s", Some(alone >= 500.0));
    let together = import(&full, many / 10..many, 8)?;
    row(&format!("creates, 8 clients, up to {many} functions"), format!("{together:.0}/s"), "≥ 500/s", Some(together >= 500.0));

    let list = format!("/v2/fns?app_id={}&per_page={LIST}", full.app());
    let first = asked(&full, &list, 300)?;
    row(&format!("list of {LIST} of {many}: p50, p99"), format!("{}, {}", time(first.0), time(first.1)), "≤ 5 ms", Some(first.0 <= 5e-3));
    let deep = format!("{list}&cursor={}", cursor(&format!("f{:05}", many / 2)));
    let middle = asked(&full, &deep, 300)?;
    row("the same from the middle", format!("{}, {}", time(middle.0), time(middle.1)), "≤ 5 ms", Some(middle.0 <= 5e-3));
    let by_name = asked(&full, &format!("/v2/fns?app_id={}&name=f{:05}", full.app(), many - 1), 300)?;
    row("one by its name", format!("{}, {}", time(by_name.0), time(by_name.1)), "", None);

    let (ours, theirs, ratio) = calls(&full, &few, options)?;
    row(&format!("hot call p50 with {many} and with {FEW} functions"), format!("{}, {}", time(ours), time(theirs)), "", None);
    row("the one over the other (median of rounds)", format!("{ratio:.3}"), "within 5 %", Some((0.95..=1.05).contains(&ratio)));
    let resident = |hob: &Hob| proc::resident_kib(hob.pid()).unwrap_or(0) as f64 / 1024.0;
    row(&format!("resident memory with {many} and with {FEW}"), format!("{:.1} MiB, {:.1} MiB", resident(&full), resident(&few)), "", None);

    let mut starts = Vec::new();
    for _ in 0..options.pick(3, 5, 5) {
        let (next, took) = full.restarted(&settings)?;
        full = next;
        starts.push(took.as_secs_f64());
    }
    let start = median(&starts);
    row(&format!("start with {many} functions, until it listens"), time(start), "≤ 1 s", Some(start <= 1.0));
    for hob in [few, full] {
        hob.terminate()?;
    }
    publish("import", &format!("{about}\n\n{}", table.text()), options)
}

/// Makes the functions of these numbers by so many clients; how many a second.
fn import(hob: &Hob, numbers: std::ops::Range<usize>, clients: usize) -> Result<f64, Failure> {
    let (count, next, failed) = (numbers.len(), Mutex::new(numbers), Mutex::new(None));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut connection = hob.connection();
                while let Some(n) = next.lock().ok().and_then(|mut left| left.next()) {
                    if let Err(error) = make(hob, &mut connection, n) {
                        *failed.lock().expect("not poisoned") = Some(error.to_string());
                        return;
                    }
                }
            });
        }
    });
    match failed.into_inner()? {
        Some(error) => Err(error.into()),
        None => Ok(count as f64 / begun.elapsed().as_secs_f64()),
    }
}

fn make(hob: &Hob, connection: &mut Connection, n: usize) -> Result<(), Failure> {
    let body = format!(
        r#"{{"app_id":"{}","name":"f{n:05}","image":"{}","memory":64,"timeout":60,"idle_timeout":3600,"config":{{"NUMBER":"{n}"}},"annotations":{{"team":"bench"}}}}"#,
        hob.app(),
        engine::IMAGE
    );
    let answer = connection.ask(&request("POST", "/v2/fns", &[("Content-Type", "application/json")], body.as_bytes()))?;
    if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", answer.status, String::from_utf8_lossy(answer.body)).into()) }
}

/// p50 and p99, in seconds, of a GET asked over and over on one connection.
fn asked(hob: &Hob, target: &str, times: usize) -> Result<(f64, f64), Failure> {
    let mut connection = hob.connection();
    let get = request("GET", target, &[], b"");
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = Instant::now();
        let answer = connection.ask(&get)?;
        if answer.status != 200 || answer.body.len() < 100 {
            return Err(format!("{target}: {} {}", answer.status, String::from_utf8_lossy(answer.body)).into());
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok((quantile(&took, 0.5), quantile(&took, 0.99)))
}

/// As the server writes it: unpadded URL-safe base 64.
fn cursor(name: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(name)
}

/// Small appends to a file, each synced: what a store with one commit per
/// write, and nothing else to do, could reach.
fn syncs() -> Result<f64, Failure> {
    let folder = Scratch::new("syncs")?;
    let mut file = std::fs::File::create(folder.path().join("file"))?;
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// p50 of one caller on one hot container of each server, in turn; the ratio is
/// the median of the rounds'.
fn calls(full: &Hob, few: &Hob, options: Options) -> Result<(f64, f64, f64), Failure> {
    let target = |hob: &Hob| -> Result<String, Failure> {
        let mut connection = hob.connection();
        let list = format!("/v2/fns?app_id={}&per_page=1&name=f00007", hob.app());
        let answer = connection.ask(&request("GET", &list, &[], b""))?;
        let value: serde_json::Value = serde_json::from_slice(answer.body)?;
        let id = value["items"][0]["id"].as_str().ok_or("the list has no such function")?;
        Ok(format!("/invoke/{id}"))
    };
    let load = |hob: &Hob, until: Until| -> Result<Load, Failure> {
        let call = request("POST", &target(hob)?, &[("Content-Type", "text/plain")], &[b'x'; 64]);
        Ok(Load { addresses: vec![Address::Tcp(hob.address)], requests: vec![call], callers: 1, until })
    };
    let length = Until::Elapsed(Duration::from_millis(options.pick(300, 700, 1500)));
    let (full_load, few_load) = (load(full, length)?, load(few, length)?);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=options.pick(5, 15, 15) {
        // Who goes first changes with each round.
        let mut pair = [(&full_load, &mut ours), (&few_load, &mut theirs)];
        if round % 2 == 1 {
            pair.reverse();
        }
        for (load, series) in pair {
            let outcome = run(load);
            if outcome.good() == 0 || outcome.good() != outcome.samples.len() {
                return Err(format!("calls fail: {}", outcome.statuses()).into());
            }
            series.push(outcome.quantile(0.5));
        }
        if round == 0 {
            // The containers' starts, not kept.
            ours.clear();
            theirs.clear();
            continue;
        }
        ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
    }
    Ok((median(&ours), median(&theirs), median(&ratios)))
}
