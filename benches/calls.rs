//! What keeping calls costs, and how fast they are kept.
//!
//! `cargo bench --bench calls -- [--quick | --full] [--write] [--only abc]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::time::{Duration, Instant};

use common::http::{Address, request};
use common::load::{Load, Until, run};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::Hob;
use common::{Failure, Options, engine, proc};
use hob::calls::{Phases, Record, Status, packed};
use hob::model::{Id, Timestamp};

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    engine::prepare()?;
    let mut table = Table::new(&["what", "measured", "promise", ""]);
    type Scenario = fn(Options, &mut Table) -> Result<(), Failure>;
    let scenarios: [(&str, Scenario); 3] = [("a", records), ("b", accepted), ("c", many)];
    let only = Options::value("--only");
    for (name, scenario) in scenarios {
        if only.as_deref().is_none_or(|o| o.contains(name)) {
            eprintln!("({name})");
            scenario(options, &mut table)?;
        }
    }
    publish("calls", &format!("{about}\n\n{}", table.text()), options)
}

fn row(table: &mut Table, what: &str, measured: String, promise: &str, met: Option<bool>) {
    println!("{what}: {measured}");
    table.row([what.to_owned(), measured, promise.to_owned(), met.map(verdict).unwrap_or_default()]);
}

/// (a) Hot calls with every record written and output read, beside none, in
/// turns.
fn records(options: Options, table: &mut Table) -> Result<(), Failure> {
    let nothing = [("HOB_CALL_RECORDS", "none"), ("HOB_CALL_LOGS", "false"), ("FN_MAX_LOG_SIZE_BYTES", "0")];
    let off = Hob::start("calls-off", &nothing.map(|(name, value)| (name, value.to_owned())))?;
    let on = Hob::start("calls-on", &[("HOB_CALL_RECORDS", "all".to_owned())])?;
    let sides = [(&off, off.function("echo")?), (&on, on.function("echo")?)];
    for callers in [1, 8] {
        let (mut p50, mut cpu) = (Vec::new(), Vec::new());
        for round in 0..=options.pick(3, 9, 15) {
            let mut both = Vec::new();
            for (hob, target) in &sides {
                let length = Duration::from_millis(if round == 0 { 300 } else { options.pick(700, 1500, 1500) });
                let before = proc::cpu_nanos(hob.pid());
                let body = request("POST", target, &[("Content-Type", "text/plain")], &[b'x'; 64]);
                let outcome = run(&Load { addresses: vec![Address::Tcp(hob.address)], requests: vec![body], callers, until: Until::Elapsed(length) });
                let used = (proc::cpu_nanos(hob.pid()) - before) as f64;
                both.push((outcome.quantile(0.5), used / outcome.good().max(1) as f64));
            }
            if round > 0 {
                p50.push(both[1].0 / both[0].0);
                cpu.push(both[1].1 / both[0].1);
            }
        }
        let (p50, cpu) = (median(&p50), median(&cpu));
        row(table, &format!("records and logs of all calls, to none: p50, {callers} callers"), format!("{p50:.2}"), "≤ 1.05", Some(p50 <= 1.05));
        row(table, &format!("the same: server CPU per call, {callers} callers"), format!("{cpu:.2}"), "≤ 1.05", Some(cpu <= 1.05));
    }
    off.terminate()?;
    on.terminate()?;
    Ok(())
}

/// (b) Detached calls acknowledged, each on disk.
fn accepted(options: Options, table: &mut Table) -> Result<(), Failure> {
    let hob = Hob::start("calls-b", &[("HOB_DETACHED_MAX_QUEUED", "10000000".to_owned())])?;
    let target = hob.function("echo")?;
    // Due later: the runs themselves are another matter.
    let body = request("POST", &target, &[("Fn-Invoke-Type", "detached"), ("Hob-Delay-Secs", "3600")], &[b'x'; 64]);
    for callers in [1, 32, 128] {
        let until = Until::Elapsed(Duration::from_secs(options.pick(1, 5, 10)));
        let outcome = run(&Load { addresses: vec![Address::Tcp(hob.address)], requests: vec![body.clone()], callers, until });
        let good = outcome.samples.iter().filter(|s| s.status == 202).count();
        let rate = good as f64 / outcome.elapsed.as_secs_f64();
        let promise = if callers == 128 { "≥ 2,000/s" } else { "" };
        let met = (callers == 128).then_some(rate >= 2000.0 && good == outcome.samples.len());
        row(table, &format!("detached calls accepted, {callers} callers"), format!("{rate:.0}/s"), promise, met);
    }
    hob.terminate()?;
    Ok(())
}

/// (c) Very many records: the newest hundred, and what retention leaves.
fn many(options: Options, table: &mut Table) -> Result<(), Failure> {
    let count: u64 = options.pick(50_000, 1_000_000, 1_000_000);
    let hob = Hob::start("calls-c", &[("HOB_CALLS_PER_FN", "1000".to_owned()), ("HOB_CALL_RECORDS", "all".to_owned())])?;
    let target = hob.function("echo")?;
    let fn_id = target.trim_start_matches("/invoke/").to_owned();
    fill(&hob, &fn_id, count)?;
    let list = request("GET", &format!("/v2/fns/{fn_id}/calls?per_page=100"), &[], b"");
    let mut connection = hob.connection();
    let mut taken = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        let answer = connection.ask(&list)?;
        taken.push(asked.elapsed().as_secs_f64());
        if answer.status != 200 {
            return Err(format!("list: {}", answer.status).into());
        }
    }
    let newest = median(&taken);
    row(table, &format!("list of the newest 100 of {count} records"), time(newest), "≤ 10 ms", Some(newest <= 0.010));
    let left = await_retention(&hob)?;
    row(table, &format!("records left of {count} with HOB_CALLS_PER_FN=1000"), format!("{} after {:.0} s", left.0, left.1), "≤ 1000", Some(left.0 <= 1000));
    // What was freed is used again: as many once more make the file no larger.
    let before = size(&hob)?;
    fill(&hob, &fn_id, count / 2)?;
    await_retention(&hob)?;
    let after = size(&hob)?;
    let bounded = after <= before + before / 10;
    let mib = |bytes: u64| bytes >> 20;
    row(table, "the file then, and with half as many once more", format!("{} MiB, {} MiB", mib(before), mib(after)), "no larger", Some(bounded));
    hob.terminate()?;
    Ok(())
}

/// Records left once the server has forgotten enough, and the seconds it took.
fn await_retention(hob: &Hob) -> Result<(u64, f64), Failure> {
    let begun = Instant::now();
    loop {
        let left = rows(hob)?;
        if left <= 1000 || begun.elapsed() > Duration::from_secs(600) {
            return Ok((left, begun.elapsed().as_secs_f64()));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Bytes of the database's file.
fn size(hob: &Hob) -> Result<u64, Failure> {
    Ok(std::fs::metadata(hob.data().join("calls.db"))?.len())
}

fn database(hob: &Hob) -> Result<rusqlite::Connection, Failure> {
    let connection = rusqlite::Connection::open(hob.data().join("calls.db"))?;
    connection.busy_timeout(Duration::from_secs(30))?;
    Ok(connection)
}

fn rows(hob: &Hob) -> Result<u64, Failure> {
    let sql = "SELECT (SELECT count(*) FROM calls) + (SELECT coalesce(sum(count), 0) FROM packs)";
    let count: i64 = database(hob)?.query_row(sql, [], |row| row.get(0))?;
    Ok(u64::try_from(count)?)
}

/// Records as the server writes them, made by the other hand: every second one
/// went well and is packed, the others have rows.
fn fill(hob: &Hob, fn_id: &str, count: u64) -> Result<(), Failure> {
    let mut connection = database(hob)?;
    let of_row = "INSERT INTO calls (fn_id, id, app_id, detached, status, created, started, completed, attempts, start, waited_us, ran_us, request_bytes, \
                  response_bytes, container, error, function_us) VALUES (?1, ?2, ?1, 0, 4, ?3, ?3, ?3, 0, 'hot', 10, 100, 64, 64, ?2, 'text', 90)";
    let of_pack = "INSERT INTO packs (fn_id, app_id, first, last, oldest, newest, count, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let parsed: Id = fn_id.parse()?;
    let (mut rest, mut ids) = (count, Vec::new());
    while rest > 0 {
        let part = rest.min(20_000);
        ids.clear();
        ids.extend((0..part).map(|_| Id::new()));
        let transaction = connection.transaction()?;
        {
            let (mut row, mut pack) = (transaction.prepare(of_row)?, transaction.prepare(of_pack)?);
            let mut good = Vec::new();
            for (n, id) in ids.iter().enumerate() {
                let now = Timestamp::now();
                if n % 2 == 0 {
                    good.push(record(*id, parsed, now));
                } else {
                    row.execute(rusqlite::params![fn_id, id.as_str(), now.0])?;
                }
            }
            for p in packed(&mut good.iter().collect::<Vec<_>>()) {
                let (first, last) = (p.first.as_str(), p.last.as_str());
                pack.execute(rusqlite::params![fn_id, fn_id, first, last, p.oldest.0, p.newest.0, p.count, p.data])?;
            }
        }
        transaction.commit()?;
        rest -= part;
    }
    println!("{count} records made");
    Ok(())
}

fn record(id: Id, fn_id: Id, now: Timestamp) -> Record {
    Record {
        id,
        app_id: fn_id,
        fn_id,
        detached: false,
        status: Status::Success,
        created: now,
        started: Some(now),
        completed: Some(now),
        attempts: 0,
        start: "hot",
        waited_us: 10,
        ran_us: 100,
        request_bytes: 64,
        response_bytes: 64,
        container: Some(id),
        error: None,
        trigger: None,
        phases: Phases { function_us: 90, ..Phases::default() },
        cpu_us: None,
        memory_peak: None,
    }
}
