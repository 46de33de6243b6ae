//! The scheduler under the loads it exists for, each beside its ideal.
//!
//! `cargo bench --bench sched -- [--quick | --full] [--write] [--only a..g]`

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::http::{Address, request};
use common::load::{Load, Outcome, Until, quantile, run};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::{FUNCTION_MIB, Hob};
use common::{Failure, Options, engine, proc};

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    engine::prepare()?;
    let mut table = Table::new(&["", "what", "measured", "ideal", "promise", ""]);
    type Scenario = fn(Options, &mut Table) -> Result<(), Failure>;
    let scenarios: [(&str, Scenario); 8] =
        [("a", from_zero), ("b", overload), ("c", crowd), ("d", thaw), ("e", cold_burst), ("f", in_turn), ("g", frozen_cost), ("h", many_hot)];
    let only = Options::value("--only");
    for (name, scenario) in scenarios {
        if only.as_deref().is_none_or(|o| o.contains(name)) {
            eprintln!("({name})");
            scenario(options, &mut table)?;
        }
    }
    publish("sched", &format!("{about}\n\n{}", table.text()), options)
}

fn room(containers: u64) -> (&'static str, String) {
    ("FN_MAX_TOTAL_MEMORY_BYTES", ((containers * FUNCTION_MIB) << 20).to_string())
}

fn slow(target: &str, ms: u64) -> Vec<u8> {
    request("POST", target, &[("X-Sleep-Ms", &ms.to_string())], b"body")
}

fn load(hob: &Hob, requests: Vec<Vec<u8>>, callers: usize, until: Until) -> Load {
    Load { addresses: vec![Address::Tcp(hob.address)], requests, callers, until }
}

fn row(table: &mut Table, scenario: &str, what: &str, measured: String, ideal: &str, promise: &str, met: Option<bool>) {
    println!("{scenario} {what}: {measured}");
    table.row([scenario.to_owned(), what.to_owned(), measured, ideal.to_owned(), promise.to_owned(), met.map(verdict).unwrap_or_default()]);
}

/// Stops the server: every scenario ends with it, clean or not.
fn stop(hob: Hob) -> Result<String, Failure> {
    let log = hob.log();
    let (took, code) = hob.terminate()?;
    if code != Some(0) {
        println!("hob ended with {code:?}; its log:\n{log}");
    }
    Ok(format!("{}, exit {}", time(took.as_secs_f64()), code.map_or("by signal".to_owned(), |c| c.to_string())))
}

/// Watches how many containers there are at most.
struct Most {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
}

fn watch_containers(hob: &Arc<Hob>) -> (Most, std::thread::JoinHandle<()>) {
    let watch = Most { stop: Arc::default(), most: Arc::default() };
    let (stop, most, hob) = (watch.stop.clone(), watch.most.clone(), hob.clone());
    let thread = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            most.fetch_max(hob.sockets().len(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    (watch, thread)
}

/// Runs a load and tells how many containers stood at most.
fn watched(hob: Hob, load: &Load) -> Result<(Hob, Outcome, usize), Failure> {
    let hob = Arc::new(hob);
    let (watch, thread) = watch_containers(&hob);
    let outcome = run(load);
    watch.stop.store(true, Ordering::Relaxed);
    thread.join().map_err(|_| "the watch failed")?;
    let most = watch.most.load(Ordering::Relaxed).max(hob.sockets().len());
    Ok((Arc::into_inner(hob).ok_or("the watch is over")?, outcome, most))
}

/// (a) 32 callers at once on a function of 100 ms that has no container yet.
fn from_zero(options: Options, table: &mut Table) -> Result<(), Failure> {
    let (mut last, mut middle, mut containers, mut bad) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    for _ in 0..options.pick(1, 3, 7) {
        let hob = Hob::start("sched-a", &[])?;
        let target = hob.function("sleepy")?;
        let asked = load(&hob, vec![slow(&target, 100)], 32, Until::Calls(1));
        let (hob, outcome, most) = watched(hob, &asked)?;
        last.push(outcome.quantile(1.0));
        middle.push(outcome.quantile(0.5));
        containers.push(most as f64);
        if outcome.good() != 32 {
            bad = format!(" ({})", outcome.statuses());
        }
        stop(hob)?;
    }
    let worst = median(&last);
    row(
        table,
        "a",
        "32 callers from zero, 100 ms function: last answer",
        format!("{}{bad}", time(worst)),
        "100 ms",
        "≤ 1.2 s",
        Some(worst <= 1.2 && bad.is_empty()),
    );
    row(table, "a", "the same: median answer; containers started", format!("{}; {:.0}", time(median(&middle)), median(&containers)), "", "", None);
    Ok(())
}

/// (b) Two functions of 10 ms, 64 callers each, room for two containers.
fn overload(options: Options, table: &mut Table) -> Result<(), Failure> {
    let length = Duration::from_secs(options.pick(5, 20, 20));
    let hob = Hob::start("sched-b", &[room(2)])?;
    let requests = vec![slow(&hob.function("even")?, 10), slow(&hob.function("odd")?, 10)];
    // The two first starts are not what this measures.
    run(&load(&hob, requests.clone(), 2, Until::Calls(1)));
    let outcome = run(&load(&hob, requests, 128, Until::Elapsed(length)));
    let halves = [outcome.of(|c| c % 2 == 0), outcome.of(|c| c % 2 == 1)];
    let (less, more) = (halves[0].good().min(halves[1].good()), halves[0].good().max(halves[1].good()));
    let share = less as f64 / more as f64;
    // Two containers, each busy 10 ms a call, for as long as it lasted.
    let goodput = outcome.good() as f64 * 0.010 / (2.0 * outcome.elapsed.as_secs_f64());
    let unanswered = outcome.samples.iter().filter(|s| s.status == 0).count();
    let silent = (0..128).filter(|c| outcome.of(|i| i == *c).samples.is_empty()).count();
    row(
        table,
        "b",
        "overload, 2 x 64 callers, room for 2: weaker function's calls over the stronger's",
        format!("{share:.2} ({} and {})", halves[0].good(), halves[1].good()),
        "1",
        "≥ 0.8",
        Some(share >= 0.8),
    );
    row(table, "b", "goodput: container time spent in the function", format!("{:.0} %", goodput * 100.0), "100 %", "≥ 95 %", Some(goodput >= 0.95));
    for (name, half) in ["first", "second"].iter().zip(&halves) {
        let (p50, p99) = (half.quantile(0.5), half.quantile(0.99));
        row(
            table,
            "b",
            &format!("p99 to p50, {name} function"),
            format!("{:.1} ({} to {})", p99 / p50, time(p99), time(p50)),
            "1 (640 ms)",
            "≤ 2",
            Some(p99 / p50 <= 2.0),
        );
    }
    row(table, "b", "answers", outcome.statuses(), "", "each call answered", Some(unanswered == 0 && silent == 0));
    let stopped = stop(hob)?;
    row(table, "b", "SIGTERM afterwards", stopped.clone(), "", "≤ 6 s, exit 0", Some(stopped.ends_with("exit 0") && seconds(&stopped) <= 6.0));
    Ok(())
}

/// Reads back `time`'s text.
fn seconds(text: &str) -> f64 {
    let mut words = text.split([' ', ',']);
    let number: f64 = words.next().and_then(|w| w.parse().ok()).unwrap_or(f64::NAN);
    match words.next() {
        Some("s") => number,
        Some("ms") => number / 1e3,
        _ => number / 1e6,
    }
}

/// (c) 128 callers in a closed loop on one function that does no work.
fn crowd(options: Options, table: &mut Table) -> Result<(), Failure> {
    let hob = Hob::start("sched-c", &[])?;
    let target = hob.function("echo")?;
    let calls = vec![request("POST", &target, &[], &[b'x'; 64])];
    // Starts over: what is measured is the steady state.
    run(&load(&hob, calls.clone(), 128, Until::Elapsed(Duration::from_secs(3))));
    let asked = load(&hob, calls, 128, Until::Elapsed(Duration::from_secs(options.pick(3, 10, 20))));
    let (hob, outcome, most) = watched(hob, &asked)?;
    let (p50, p99) = (outcome.quantile(0.5), outcome.quantile(0.99));
    let bad = if outcome.good() == outcome.samples.len() { String::new() } else { format!("; {}", outcome.statuses()) };
    row(
        table,
        "c",
        "128 callers, one function: p99 to p50",
        format!("{:.1} ({} to {}; {:.0} calls/s; {most} containers{bad})", p99 / p50, time(p99), time(p50), outcome.rate()),
        "1",
        "≤ 5",
        Some(p99 / p50 <= 5.0),
    );
    let stopped = stop(hob)?;
    row(table, "c", "SIGTERM afterwards", stopped.clone(), "", "≤ 6 s, exit 0", Some(stopped.ends_with("exit 0") && seconds(&stopped) <= 6.0));
    Ok(())
}

/// (d) A call after 300 ms of silence: frozen meanwhile, or never frozen.
fn thaw(options: Options, table: &mut Table) -> Result<(), Failure> {
    let freezing = Hob::start("sched-d1", &[room(2)])?;
    let awake = Hob::start("sched-d2", &[room(2), ("FN_FREEZE_IDLE_MSECS", "-1".to_owned())])?;
    let mut sides = Vec::new();
    for hob in [&freezing, &awake] {
        let call = request("POST", &hob.function("echo")?, &[], &[b'x'; 64]);
        let mut connection = hob.connection();
        connection.ask(&call)?;
        sides.push((connection, call, Vec::new()));
    }
    std::thread::sleep(Duration::from_millis(300));
    let frozen = proc::frozen(&proc::named(engine::PROGRAM));
    for _ in 0..options.pick(10, 40, 100) {
        std::thread::sleep(Duration::from_millis(300));
        for (connection, call, taken) in &mut sides {
            let asked = Instant::now();
            let answer = connection.ask(call)?;
            if answer.status != 200 {
                return Err(format!("thaw: answer {}", answer.status).into());
            }
            taken.push(asked.elapsed());
        }
    }
    let difference = median(&sides[0].2.iter().zip(&sides[1].2).map(|(f, a)| f.as_secs_f64() - a.as_secs_f64()).collect::<Vec<_>>());
    sides.iter_mut().for_each(|s| s.2.sort_unstable());
    let (cold, warm) = (quantile(&sides[0].2, 0.5), quantile(&sides[1].2, 0.5));
    row(
        table,
        "d",
        "call on a frozen function, over a never frozen one",
        format!("+{} ({} and {}; {frozen} of 2 frozen)", time(difference.max(0.0)), time(cold), time(warm)),
        "0",
        "≤ 0.3 ms",
        Some(difference <= 0.3e-3 && frozen == 1),
    );
    stop(freezing)?;
    stop(awake)?;
    Ok(())
}

/// (e) 16 callers at once on a function without a container, nothing to do.
fn cold_burst(options: Options, table: &mut Table) -> Result<(), Failure> {
    let (mut last, mut started, mut used) = (Vec::new(), Vec::new(), Vec::new());
    let mut bad = String::new();
    for _ in 0..options.pick(1, 3, 7) {
        let hob = Hob::start("sched-e", &[])?;
        let target = hob.function("echo")?;
        let asked = load(&hob, vec![request("POST", &target, &[], b"x")], 16, Until::Calls(1));
        let (hob, outcome, most) = watched(hob, &asked)?;
        last.push(outcome.quantile(1.0));
        used.push(outcome.instances() as f64);
        started.push(most as f64);
        if outcome.good() != 16 {
            bad = format!(" ({})", outcome.statuses());
        }
        stop(hob)?;
    }
    row(
        table,
        "e",
        "16 cold calls, one function: containers that answered; started",
        format!("{:.0}; {:.0}; last answer {}{bad}", median(&used), median(&started), time(median(&last))),
        "1; 1",
        "no more than the work needs",
        None,
    );
    Ok(())
}

/// (f) Many functions called once each, with room for ten containers.
fn in_turn(options: Options, table: &mut Table) -> Result<(), Failure> {
    let count = options.pick(20, 40, 1000);
    let hob = Hob::start("sched-f", &[room(10)])?;
    let targets: Vec<String> = (0..count).map(|i| hob.function(&format!("f{i}"))).collect::<Result<_, _>>()?;
    let mut connection = hob.connection();
    let (mut taken, mut errors, mut first) = (Vec::new(), 0, String::new());
    for target in &targets {
        let asked = Instant::now();
        let answer = connection.ask(&request("POST", target, &[], b"x"))?;
        taken.push(asked.elapsed());
        if answer.status != 200 {
            errors += 1;
            first = format!("; first error {} {}", answer.status, String::from_utf8_lossy(answer.body).trim());
        }
    }
    // The first ten find room; what comes after pays for an eviction.
    let mut early = taken[..10].to_vec();
    let mut late = taken[10..].to_vec();
    early.sort_unstable();
    late.sort_unstable();
    let measured = format!(
        "{errors}; cold call p50 {} with room, {} (p99 {}) with an eviction{first}",
        time(quantile(&early, 0.5)),
        time(quantile(&late, 0.5)),
        time(quantile(&late, 0.99))
    );
    row(table, "f", &format!("{count} functions in turn, room for 10: errors"), measured, "0", "0", Some(errors == 0));
    let stopped = stop(hob)?;
    row(table, "f", "SIGTERM afterwards", stopped.clone(), "", "≤ 6 s, exit 0", Some(stopped.ends_with("exit 0") && seconds(&stopped) <= 6.0));
    Ok(())
}

/// (g) What five frozen functions cost while nobody calls.
fn frozen_cost(options: Options, table: &mut Table) -> Result<(), Failure> {
    let length = Duration::from_secs(options.pick(4, 20, 60));
    let hob = Hob::start("sched-g", &[room(10)])?;
    let engine_pids = [proc::named("dockerd"), proc::named("containerd")].concat();
    std::thread::sleep(Duration::from_secs(1));
    let idle_kib = proc::resident_kib(hob.pid()).unwrap_or(0);
    let before = proc::cpu(&engine_pids);
    std::thread::sleep(length);
    let engine_alone = proc::cpu(&engine_pids) - before;
    for i in 0..5 {
        let target = hob.function(&format!("f{i}"))?;
        hob.connection().ask(&request("POST", &target, &[], b"x"))?;
    }
    // The engine goes on for a while after starts.
    std::thread::sleep(Duration::from_secs(3));
    let frozen = proc::frozen(&proc::named(engine::PROGRAM));
    let (server, engine_before) = (proc::cpu_nanos(hob.pid()), proc::cpu(&engine_pids));
    std::thread::sleep(length);
    let server = proc::cpu_nanos(hob.pid()).saturating_sub(server);
    let served_kib = proc::resident_kib(hob.pid()).unwrap_or(0);
    let engine = proc::cpu(&engine_pids) - engine_before;
    let per_second = server as f64 / 1e9 / length.as_secs_f64();
    let what = format!("5 frozen functions, {} s without calls: CPU of hob per second", length.as_secs());
    row(table, "g", &what, format!("{} ({frozen} of 5 frozen)", time(per_second)), "0", "0 (≤ 10 µs counts)", Some(per_second <= 10e-6 && frozen == 5));
    let other = format!("{} (without any: {})", time(engine / length.as_secs_f64()), time(engine_alone / length.as_secs_f64()));
    row(table, "g", "the same: CPU of the engine per second", other, "as without", "", None);
    row(table, "g", "resident memory, idle server", format!("{:.1} MiB", idle_kib as f64 / 1024.0), "", "≤ 6 MB", Some(idle_kib * 1024 <= 6_000_000));
    row(table, "g", "the same once it has served: 5 functions frozen", format!("{:.1} MiB", served_kib as f64 / 1024.0), "", "", None);
    stop(hob)?;
    Ok(())
}

/// (h) How long the end takes with fifty functions hot.
fn many_hot(options: Options, table: &mut Table) -> Result<(), Failure> {
    let count = options.pick(10, 50, 50);
    let hob = Hob::start("sched-h", &[room(count)])?;
    let targets: Vec<String> = (0..count).map(|i| hob.function(&format!("h{i}"))).collect::<Result<_, _>>()?;
    let requests: Vec<Vec<u8>> = targets.iter().map(|target| request("POST", target, &[], b"x")).collect();
    let callers = requests.len();
    let outcome = run(&load(&hob, requests, callers, Until::Calls(1)));
    let hot = proc::named(engine::PROGRAM).len();
    let stopped = stop(hob)?;
    let met = stopped.ends_with("exit 0") && seconds(&stopped) <= 6.0 && outcome.good() == callers;
    row(table, "h", &format!("{count} hot functions ({hot} containers): SIGTERM"), stopped, "", "≤ 6 s, exit 0", Some(met));
    Ok(())
}
