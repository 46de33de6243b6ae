//! Calls without a container in hob's own sandbox, beside the bare OCI
//! runtimes crun and runc (where installed) that start the same program.
//!
//! `cargo bench --bench sandbox -- [--quick | --full] [--write]`, as root.

#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "the rules for the server's threads and sleeps do not bind the bench")]

mod common;

use std::io::Cursor;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use common::http::{Address, request};
use common::load::{Load, Until, run};
use common::report::{Table, circumstances, median, publish, time, verdict};
use common::server::Hob;
use common::{Failure, Options, Scratch, engine, proc};
use hob::pool::Stop;
use hob::sandbox::images::{Images, Options as Store};

const MANY: usize = 16;
const CALLERS: usize = 32;
const HOT: usize = 500;
/// Reserved by each of them: so many fit an ordinary host.
const HOT_MIB: u64 = 32;
/// Containers of the engine to compare with.
const HOT_DOCKER: usize = 20;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let about = circumstances();
    let archive = image()?;
    let rounds = options.pick(3, 15, 40);
    let mut one = Vec::new();
    let mut many = Vec::new();
    let mut callers = Vec::new();
    let mut ends = Vec::new();
    for round in 0..rounds {
        let hob = start(&format!("sbx-{round}"), &archive, &[])?;
        one.push(cold(&hob, "one", 1)?);
        settle();
        many.push(cold(&hob, "many", MANY)?);
        settle();
        callers.push(from_zero(&hob)?);
        ends.push(hob.terminate()?.0.as_secs_f64());
    }
    let mut table = Table::new(&["what", "hob, sandbox", "promise", ""]);
    let mut row = |what: &str, values: &[f64], limit: f64| {
        let found = median(values);
        table.row([what.to_owned(), time(found), format!("≤ {}", time(limit)), verdict(found <= limit)]);
    };
    row("one cold call", &one, 5e-3);
    row(&format!("{MANY} cold calls, {MANY} functions, at once: last answer"), &many, 60e-3);
    row(&format!("{CALLERS} callers from zero, 100 ms function: last answer"), &callers, 0.2);
    row("SIGTERM after all that", &ends, 1.0);
    let mut text = format!("{about}; {rounds} rounds, medians\n\n{}", table.text());
    text.push_str(&runtimes(rounds)?);
    text.push_str(&hot(&archive, options.pick(100, HOT, HOT))?);
    publish("sandbox", &text, options)
}

/// The pool is filled again, as on a server that is not in a burst.
fn settle() {
    std::thread::sleep(Duration::from_millis(150));
}

fn start(name: &str, archive: &[u8], settings: &[(&str, String)]) -> Result<Hob, Failure> {
    let mut all = vec![("HOB_DRIVER", "sandbox".to_owned())];
    all.extend_from_slice(settings);
    let hob = Hob::start(name, &all)?;
    let images = Images::open(&hob.data().join("images"), Store::default())?;
    images.load(&mut Cursor::new(archive), None, Instant::now() + Duration::from_secs(60), &Stop::new()?)?;
    settle();
    Ok(hob)
}

fn cold(hob: &Hob, name: &str, count: usize) -> Result<f64, Failure> {
    let targets: Vec<String> = (0..count).map(|i| hob.function(&format!("{name}-{i}"))).collect::<Result<_, _>>()?;
    let requests = targets.iter().map(|t| request("POST", t, &[], b"x")).collect();
    let outcome = run(&Load { addresses: vec![Address::Tcp(hob.address)], requests, callers: count, until: Until::Calls(1) });
    if outcome.good() == count { Ok(outcome.quantile(1.0)) } else { Err(format!("{}\n{}", outcome.statuses(), hob.log()).into()) }
}

fn from_zero(hob: &Hob) -> Result<f64, Failure> {
    let target = hob.function("slow")?;
    let requests = vec![request("POST", &target, &[("X-Sleep-Ms", "100")], b"x")];
    let outcome = run(&Load { addresses: vec![Address::Tcp(hob.address)], requests, callers: CALLERS, until: Until::Calls(1) });
    if outcome.good() == CALLERS { Ok(outcome.quantile(1.0)) } else { Err(format!("{}\n{}", outcome.statuses(), hob.log()).into()) }
}

/// A docker archive with the echo function.
fn image() -> Result<Vec<u8>, Failure> {
    let program = std::fs::read(engine::build()?)?;
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let append = |tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, bytes)
    };
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, engine::PROGRAM, &program)?;
    let layer = layer.into_inner()?;
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {"Entrypoint": [format!("/{}", engine::PROGRAM)]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [engine::IMAGE], "Layers": ["layer.tar"]}]);
    let mut all = tar::Builder::new(Vec::new());
    append(&mut all, "layer.tar", &layer)?;
    append(&mut all, "config.json", config.to_string().as_bytes())?;
    append(&mut all, "manifest.json", manifest.to_string().as_bytes())?;
    Ok(all.into_inner()?)
}

/// What the usual OCI runtimes take to run a program that ends at once: less
/// than a function needs, and without hob's way around it.
fn runtimes(rounds: usize) -> Result<String, Failure> {
    let scratch = Scratch::new("sbx-oci")?;
    let root = scratch.path().join("rootfs");
    std::fs::create_dir_all(&root)?;
    std::fs::copy(engine::build()?, root.join("program"))?;
    let mut text = String::from("\nThe same program, told to end at once (it has no listener's name), by an OCI runtime, create to delete:");
    for runtime in ["crun", "runc"] {
        let Ok(spec) = Command::new(runtime).arg("spec").current_dir(scratch.path()).status() else {
            text.push_str(&format!(" {runtime} is not installed;"));
            continue;
        };
        if spec.success() {
            adapt(&scratch.path().join("config.json"))?;
        }
        let mut taken = Vec::new();
        for round in 0..rounds {
            let asked = Instant::now();
            Command::new(runtime)
                .args(["run", &format!("hob-bench-{}-{round}", std::process::id())])
                .current_dir(scratch.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            taken.push(asked.elapsed().as_secs_f64());
        }
        let _ = std::fs::remove_file(scratch.path().join("config.json"));
        text.push_str(&format!(" {runtime} {};", time(median(&taken))));
    }
    text.push('\n');
    Ok(text)
}

fn adapt(path: &Path) -> Result<(), Failure> {
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    config["process"]["args"] = json!(["/program"]);
    config["process"]["terminal"] = json!(false);
    std::fs::write(path, config.to_string())?;
    Ok(())
}

/// So many functions hot at once: all answer, twice, and none was started
/// again; what they cost, beside an engine's.
fn hot(archive: &[u8], count: usize) -> Result<String, Failure> {
    let settings = [("FN_MAX_TOTAL_MEMORY_BYTES", (64u64 << 30).to_string()), ("FN_FREEZE_IDLE_MSECS", "-1".to_owned())];
    let hob = start("sbx-hot", archive, &settings)?;
    let room = hob_room(&hob);
    let count = count.min(room);
    let before = (available_kib(), proc::resident_kib(hob.pid()).unwrap_or(0));
    let targets: Vec<String> = (0..count).map(|n| hob.function_of(&format!("hot{n}"), HOT_MIB)).collect::<Result<_, _>>()?;
    let asked = Instant::now();
    let first = each_once(&hob, &targets)?;
    let taken = asked.elapsed();
    let again = each_once(&hob, &targets)?;
    let same = first.iter().zip(&again).filter(|(a, b)| a == b).count();
    settle();
    let after = (available_kib(), proc::resident_kib(hob.pid()).unwrap_or(0));
    let processes: Vec<u32> = proc::children(hob.pid()).into_iter().flat_map(proc::descendants).filter(|pid| !proc::is_named(*pid, "hob-parked")).collect();
    let own: u64 = processes.iter().filter_map(|pid| proc::shared_fairly_kib(*pid)).sum();
    let each = |kib: u64| kib as f64 / count as f64;
    let (server, host) = (each(after.1.saturating_sub(before.1)), each(before.0.saturating_sub(after.0)));
    let stopped = hob.terminate()?;
    let mut text = format!(
        "\n{count} functions ({HOT_MIB} MiB each reserved; {room} fit this host), called one after the other, all answer and stay hot: {:.2} s. Called once more, {same} answer from the container they had. SIGTERM with all of them: {}, exit {:?}.\n\nMemory of one idle function (its processes' own share, by `smaps_rollup`): {:.0} KiB with its first process, {server:.0} KiB of the server's; the host's free memory went down by {host:.0} KiB for each, with the pool of waiting cells.",
        taken.as_secs_f64(),
        time(stopped.0.as_secs_f64()),
        stopped.1,
        each(own),
    );
    match engine_memory(count.min(HOT_DOCKER)) {
        Ok((function, helpers)) => {
            text.push_str(&format!(" With the engine: {function:.0} KiB, and {helpers:.0} KiB of its helper processes for each container.\n"))
        }
        Err(e) => text.push_str(&format!(" No engine to compare with ({e}).\n")),
    }
    Ok(text)
}

/// The instance that answered, of each.
fn each_once(hob: &Hob, targets: &[String]) -> Result<Vec<String>, Failure> {
    let mut connection = hob.connection();
    let one = |target: &String| {
        let answer = connection.ask(&request("POST", target, &[], b"x"))?;
        let instance = answer.field("X-Instance").map(str::to_owned);
        match (answer.status, instance) {
            (200, Some(instance)) => Ok(instance),
            (status, _) => Err(Failure::from(format!("{status} {}", String::from_utf8_lossy(answer.body)))),
        }
    };
    targets.iter().map(one).collect()
}

/// The same functions with the engine, fewer of them: KiB of the containers'
/// processes and of the engine's own for each.
fn engine_memory(count: usize) -> Result<(f64, f64), Failure> {
    engine::prepare()?;
    let tag = format!("bench-{}", std::process::id());
    let settings = [("HOB_DRIVER", "docker".to_owned()), ("HOB_PARKED_NETWORKS", "0".to_owned()), ("FN_CONTAINER_LABEL_TAG", tag.clone())];
    let hob = Hob::start("sbx-docker", &settings)?;
    let targets: Vec<String> = (0..count).map(|n| hob.function_of(&format!("hot{n}"), HOT_MIB)).collect::<Result<_, _>>()?;
    each_once(&hob, &targets)?;
    let ids = engine::docker(&["ps", "-q", "--no-trunc", "--filter", &format!("label=fn-agent-classifier={tag}")])?;
    let (mut own, mut helpers) = (0, 0);
    for id in ids.lines() {
        let pid: u32 = engine::docker(&["inspect", "-f", "{{.State.Pid}}", id])?.parse()?;
        let inside: Vec<u32> = std::iter::once(pid).chain(proc::descendants(pid)).collect();
        own += inside.iter().filter_map(|pid| proc::shared_fairly_kib(*pid)).sum::<u64>();
        helpers += proc::parent(pid).and_then(proc::shared_fairly_kib).unwrap_or(0);
    }
    hob.terminate()?;
    let each = |kib: u64| kib as f64 / ids.lines().count().max(1) as f64;
    Ok((each(own), each(helpers)))
}

fn hob_room(hob: &Hob) -> usize {
    let log = hob.log();
    let mib = log.lines().find_map(|l| l.trim().strip_prefix("capacity")).and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<usize>().ok());
    mib.unwrap_or(6400) / usize::try_from(HOT_MIB).unwrap_or(usize::MAX)
}

fn available_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
