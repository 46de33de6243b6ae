//! The driver against a real engine. Each test makes and removes its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::containers::Listed;
use super::testing::{Folder, TestImage, Told, config, engine, image, wait_until};
use super::*;
use crate::driver::Instance;

/// A driver of a store of its own, and all a container needs.
struct Room {
    docker: Docker,
    image: Arc<TestImage>,
    folder: Folder,
    engine: Engine,
}

impl Room {
    fn new() -> Option<Room> {
        Room::with(&config(), Id::new())
    }

    fn with(config: &DockerConfig, store: Id) -> Option<Room> {
        let engine = engine()?;
        let folder = Folder::new();
        let docker = Docker::open(config, &identity(store, &folder)).expect("opens");
        Some(Room { docker, image: image(false), folder, engine })
    }

    fn spec(&self, mode: &str) -> ContainerSpec {
        let mut spec = testing::spec(Id::new().as_str(), &self.image.name, "");
        spec.iofs = self.folder.path.clone();
        spec.env.push(("MODE".to_owned(), mode.to_owned()));
        spec.no_network = true;
        spec
    }

    fn start(&self, mode: &str) -> (Instance, Arc<Told>) {
        let told = Told::new();
        let instance = self.docker.start(&self.spec(mode), &budget(), told.clone()).expect("starts");
        (instance, told)
    }

    fn remove(&self, instance: &Instance) {
        self.docker.remove(instance).expect("removed");
        assert!(self.engine.inspect(&instance.engine_id).expect_err("gone").is_gone());
    }

    fn ours(&self) -> Vec<Listed> {
        self.engine.list_store(self.docker.shared.identity.store_id.as_str()).expect("list")
    }
}

fn identity(store: Id, folder: &Folder) -> Identity {
    Identity { store_id: store, instance_id: Id::new(), iofs: folder.path.clone(), iofs_docker: None }
}

fn budget() -> StartBudget {
    StartBudget { pull_until: Instant::now() + Duration::from_secs(20), start_within: Duration::from_secs(60) }
}

fn raw(engine: &Engine, id: &str) -> Value {
    engine.ask(&Ask::new(Op::Inspect, id, "GET", format!("/containers/{id}/json"))).expect("inspect").json().expect("json")
}

#[test]
fn the_engine_sees_what_is_there_and_nothing_else() {
    let Some(room) = Room::new() else { return };
    assert!(room.docker.sees(&room.folder.path));
    assert!(!room.docker.sees(&room.folder.path.join("not-there")));
    assert!(!room.folder.path.join("not-there").exists(), "looking makes nothing");
    assert!(room.ours().is_empty(), "nothing is left");
}

#[test]
fn what_a_container_uses_is_read_and_else_asked_for() {
    let Some(room) = Room::new() else { return };
    let (instance, _told) = room.start("tick");
    let own = instance.meter.as_ref().expect("its cgroup is seen").read().expect("read");
    let told = wait_until("a use the engine knows of", || room.docker.usage(&instance.engine_id, Duration::from_secs(5)).filter(|usage| usage.cpu >= own.cpu));
    for usage in [own, told] {
        assert!(!usage.cpu.is_zero() && usage.memory.is_some_and(|bytes| bytes > 0), "{usage:?}");
    }
    room.remove(&instance);
    assert_eq!(room.docker.usage(&instance.engine_id, Duration::from_secs(5)), None, "gone");
    assert_eq!(instance.meter.as_ref().and_then(|meter| meter.read()), None, "gone");
}

#[test]
fn a_container_is_as_the_specification_says() {
    let Some(room) = Room::new() else { return };
    let (instance, told) = room.start("look");
    let found = raw(&room.engine, &instance.engine_id);
    let (host, config) = (&found["HostConfig"], &found["Config"]);
    assert_eq!(found["Name"], format!("/{}", instance.id));
    assert_eq!(config["Image"], room.image.name);
    assert_eq!(config["User"], "1000:1000");
    for pair in ["A=1", "B=x=y", "MODE=look"] {
        assert!(config["Env"].as_array().expect("env").contains(&pair.into()), "{pair}");
    }
    let identity = &room.docker.shared.identity;
    assert_eq!(config["Labels"]["hob.store"], identity.store_id.as_str());
    assert_eq!(config["Labels"]["hob.instance"], identity.instance_id.as_str());
    for field in ["OpenStdin", "StdinOnce", "AttachStdin", "Tty"] {
        assert_eq!(config[field], false, "{field}");
    }
    assert_eq!((&host["Memory"], &host["MemorySwap"], &host["MemorySwappiness"]), (&134_217_728.into(), &134_217_728.into(), &0.into()));
    assert_eq!((&host["CpuPeriod"], &host["CpuQuota"], &host["PidsLimit"]), (&100_000.into(), &50_000.into(), &50.into()));
    let ulimits: Vec<(&str, i64, i64)> = host["Ulimits"]
        .as_array()
        .expect("ulimits")
        .iter()
        .map(|u| (u["Name"].as_str().expect("name"), u["Soft"].as_i64().expect("soft"), u["Hard"].as_i64().expect("hard")))
        .collect();
    assert_eq!(ulimits, [("nofile", 350, 350), ("memlock", 65536, 65536), ("sigpending", 5000, 5000), ("msgqueue", 819_200, 819_200)]);
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["Tmpfs"]["/tmp"], "size=16m");
    assert_eq!(host["Binds"][0], format!("{}:/tmp/iofs", room.folder.path.display()));
    assert_eq!(host["LogConfig"]["Type"], "none");
    assert_eq!(host["NetworkMode"], "none");
    assert_eq!((&host["CapDrop"][0], &host["SecurityOpt"][0], &host["Init"]), (&"all".into(), &"no-new-privileges".into(), &true.into()));
    assert_eq!((&host["Privileged"], &host["AutoRemove"], &host["RestartPolicy"]["MaximumRetryCount"]), (&false.into(), &false.into(), &0.into()));

    // And the same seen from inside.
    let look = room.folder.read("look");
    for line in [
        "root=false",
        "tmp=true",
        "net=1",
        "lo=true",
        "one=docker-init",
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(look.lines().any(|l| l == line), "{line} in\n{look}");
    }
    assert!(look.lines().any(|l| l.starts_with("Max open files            350                  350")), "{look}");
    assert!(told.all().is_empty());
    room.remove(&instance);
    assert_eq!(told.all().len(), 1, "removal is an end too, told once");
}

/// The table of the specification's create request, field by field, as the
/// engine has it and as it looks from inside.
#[test]
fn every_field_of_a_container_is_as_the_table_says() {
    let mut config = config();
    config.max_tmpfs_inodes = 100;
    config.label_tag = Some("tagged".to_owned());
    let Some(room) = Room::with(&config, Id::new()) else { return };
    let mut spec = room.spec("look");
    spec.no_network = false;
    // Nobody has to listen for datagrams.
    spec.syslog_url = Some("udp://127.0.0.1:514".to_owned());
    let instance = room.docker.start(&spec, &budget(), Told::new()).expect("starts");
    let found = raw(&room.engine, &instance.engine_id);
    let identity = &room.docker.shared.identity;
    let (store, process) = (identity.store_id.to_string(), identity.instance_id.to_string());
    let ulimit = |name: &str, n: u64| serde_json::json!({"Name": name, "Soft": n, "Hard": n});
    let rows: Vec<(&str, Value)> = vec![
        ("/Name", format!("/{}", spec.id).into()),
        ("/Config/Image", room.image.name.clone().into()),
        ("/Config/Cmd", Value::Null),
        ("/Config/Entrypoint", serde_json::json!(["/prog"])),
        ("/Config/User", "1000:1000".into()),
        ("/Config/AttachStdout", false.into()),
        ("/Config/AttachStderr", false.into()),
        ("/Config/OpenStdin", false.into()),
        ("/Config/StdinOnce", false.into()),
        ("/Config/AttachStdin", false.into()),
        ("/Config/WorkingDir", "".into()),
        ("/Config/Volumes", Value::Null),
        ("/Config/Hostname", room.docker.shared.hostname.clone().into()),
        ("/Config/Labels", serde_json::json!({"fn-agent-classifier": "tagged", "fn-agent-instance": process, "hob.store": store, "hob.instance": process})),
        ("/HostConfig/Memory", 134_217_728.into()),
        ("/HostConfig/MemorySwap", 134_217_728.into()),
        ("/HostConfig/CpuQuota", 50_000.into()),
        ("/HostConfig/CpuPeriod", 100_000.into()),
        ("/HostConfig/PidsLimit", 50.into()),
        ("/HostConfig/Ulimits", vec![ulimit("nofile", 350), ulimit("memlock", 65536), ulimit("sigpending", 5000), ulimit("msgqueue", 819_200)].into()),
        ("/HostConfig/ReadonlyRootfs", true.into()),
        ("/HostConfig/Tmpfs", serde_json::json!({"/tmp": "size=16m,nr_inodes=100"})),
        ("/HostConfig/StorageOpt", Value::Null),
        ("/HostConfig/Binds", serde_json::json!([format!("{}:/tmp/iofs", room.folder.path.display())])),
        (
            "/HostConfig/LogConfig",
            serde_json::json!({"Type": "syslog", "Config": {"syslog-address": "udp://127.0.0.1:514", "syslog-facility": "user", "syslog-format": "rfc5424", "tag": "app_id=app,fn_id=fn"}}),
        ),
        ("/HostConfig/NetworkMode", "default".into()),
        ("/HostConfig/CapAdd", Value::Null),
        ("/HostConfig/CapDrop", serde_json::json!(["all"])),
        ("/HostConfig/SecurityOpt", serde_json::json!(["no-new-privileges"])),
        ("/HostConfig/Init", true.into()),
        ("/HostConfig/Privileged", false.into()),
        ("/HostConfig/AutoRemove", false.into()),
        ("/HostConfig/PidMode", "".into()),
        ("/HostConfig/RestartPolicy/MaximumRetryCount", 0.into()),
        ("/HostConfig/PublishAllPorts", false.into()),
    ];
    for (field, expected) in rows {
        assert_eq!(found.pointer(field).unwrap_or(&Value::Null), &expected, "{field}");
    }
    for pair in ["A=1", "B=x=y", "MODE=look"] {
        assert!(found["Config"]["Env"].as_array().expect("env").contains(&pair.into()), "{pair}");
    }

    let look = room.folder.read("look");
    let has = |words: &[&str]| assert!(look.lines().any(|l| words.iter().all(|w| l.contains(w))), "{words:?} in\n{look}");
    for words in [
        &["Max open files ", " 350 "][..],
        &["Max locked memory ", " 65536 "],
        &["Max pending signals ", " 5000 "],
        &["Max msgqueue size ", " 819200 "],
        &["root=false"],
        &["tmp=true"],
        &["lo=true"],
        &["net=2"],
        &["one=docker-init"],
        &["CapBnd:", "0000000000000000"],
        &["NoNewPrivs:", "1"],
        &[" /tmp tmpfs ", "nosuid", "nodev", "noexec", "size=16384k", "nr_inodes=100"],
        &[&format!("name={}", room.docker.shared.hostname)],
    ] {
        has(words);
    }
    let info: Value = room.engine.ask(&Ask::new(Op::Info, "engine", "GET", "/info".to_owned())).expect("info").json().expect("json");
    if info["SecurityOptions"].to_string().contains("seccomp") {
        has(&["Seccomp:", "2"]);
    }
    room.remove(&instance);
}

#[test]
fn freezing_by_the_cgroup_stops_it_and_a_frozen_one_can_be_removed() {
    let Some(room) = Room::new() else { return };
    let (instance, told) = room.start("tick");
    let Some(freezer) = &instance.freezer else {
        println!("SKIPPED: the freezer cgroup of containers cannot be written here");
        return room.remove(&instance);
    };
    room.folder.read("tick");
    room.docker.freeze(&instance).expect("frozen");
    room.docker.freeze(&instance).expect("twice is once");
    wait_until("FROZEN", || matches!(freezer.state().expect("state").as_str(), "FROZEN" | "1").then_some(()));
    let at = room.folder.read("tick");
    // Nothing to wait for can show that nothing happens: a moment must do.
    room.engine.pause(Duration::from_millis(50));
    assert_eq!(room.folder.read("tick"), at);
    room.docker.thaw(&instance).expect("thawed");
    room.docker.thaw(&instance).expect("twice is once");
    wait_until("a later tick", || (room.folder.read("tick") != at).then_some(()));
    room.docker.freeze(&instance).expect("frozen");
    let begun = Instant::now();
    room.remove(&instance);
    assert!(begun.elapsed() < Duration::from_secs(60), "a frozen container was killed in {:?}", begun.elapsed());
    assert_eq!(told.first().code, 137);
}

#[test]
fn freezing_through_the_engine_survives_its_lagging_flag() {
    let Some(room) = Room::new() else { return };
    let (mut instance, _told) = room.start("tick");
    instance.freezer = None;
    room.folder.read("tick");
    for round in 0..10 {
        room.docker.freeze(&instance).unwrap_or_else(|e| panic!("round {round}: {e}"));
        room.docker.thaw(&instance).unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    let at = room.folder.read("tick");
    wait_until("a later tick", || (room.folder.read("tick") != at).then_some(()));
    room.docker.freeze(&instance).expect("frozen");
    room.remove(&instance);
}

#[test]
fn an_exit_is_told_once_with_its_code() {
    let Some(room) = Room::new() else { return };
    let (instance, told) = room.start("exit=7");
    assert_eq!(told.first(), crate::call::Exit { code: 7, oom_killed: false });
    room.remove(&instance);
    assert_eq!(told.all().len(), 1);
}

#[test]
fn out_of_memory_is_told_as_such() {
    let Some(room) = Room::new() else { return };
    let told = Told::new();
    let mut spec = room.spec("eat");
    spec.memory_mib = 16;
    let instance = room.docker.start(&spec, &budget(), told.clone()).expect("starts");
    std::fs::write(spec.iofs.join("go"), "").expect("written");
    assert_eq!(told.first(), crate::call::Exit { code: 137, oom_killed: true });
    room.remove(&instance);
    // A plain kill has the same code and is not that.
    let (instance, told) = room.start("");
    room.engine.ask(&Ask::new(Op::Remove, &instance.engine_id, "POST", format!("/containers/{}/kill", instance.engine_id))).expect("killed");
    assert_eq!(told.first(), crate::call::Exit { code: 137, oom_killed: false });
    room.remove(&instance);
}

#[test]
fn a_missing_image_names_its_cause() {
    let Some(room) = Room::new() else { return };
    let mut spec = room.spec("");
    // A registry on this host's port 1: nobody is there.
    spec.image = "127.0.0.1:1/hob/none:1".to_owned();
    match room.docker.start(&spec, &budget(), Told::new()) {
        Err(LaunchError::Pull { image, status, text }) => assert!(image == spec.image && status == Some(500) && text.contains("refused"), "{status:?} {text}"),
        other => panic!("{other:?}"),
    }
    spec.image = "Not An Image".to_owned();
    assert!(matches!(room.docker.start(&spec, &budget(), Told::new()), Err(LaunchError::Pull { status: Some(400), .. })));
    spec.image = "UPPER/case".to_owned();
    assert!(matches!(room.docker.start(&spec, &budget(), Told::new()), Err(LaunchError::Pull { .. } | LaunchError::Engine { .. })));
    assert!(room.ours().is_empty());
}

#[test]
fn an_image_with_a_volume_is_refused_unless_allowed() {
    let Some(room) = Room::new() else { return };
    let image = image(true);
    let mut spec = room.spec("");
    spec.image = image.name.clone();
    assert!(matches!(room.docker.start(&spec, &budget(), Told::new()), Err(LaunchError::ImageVolume { .. })));
    let mut config = config();
    config.allow_volume = true;
    let room = Room::with(&config, Id::new()).expect("engine");
    let instance = room.docker.start(&spec, &budget(), Told::new()).expect("starts");
    room.remove(&instance);
}

#[test]
fn an_image_that_went_away_is_noticed_at_create() {
    let Some(room) = Room::new() else { return };
    let mut spec = room.spec("");
    spec.image = "127.0.0.1:1/hob/gone:1".to_owned();
    room.docker.images().believe(&spec.image);
    assert!(matches!(room.docker.start(&spec, &budget(), Told::new()), Err(LaunchError::Pull { .. })));
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let Some(room) = Room::new() else { return };
    let told = Told::new();
    let mut spec = room.spec("");
    // A network that is not there fails the start, after the create.
    spec.no_network = false;
    let mut config = config();
    config.networks = vec!["hob-no-such-network".to_owned()];
    let failing = Room::with(&config, Id::new()).expect("engine");
    match failing.docker.start(&spec, &budget(), told.clone()) {
        Err(LaunchError::Engine { step, text }) => assert!(text.contains("hob-no-such-network"), "{step}: {text}"),
        other => panic!("{other:?}"),
    }
    wait_until("its removal", || failing.ours().is_empty().then_some(()));
    assert!(told.all().is_empty());
    assert!(failing.docker.shared.exits.ids().is_empty());
}

#[test]
fn reclaim_removes_what_is_ours_and_nothing_else() {
    let Some(before) = Room::new() else { return };
    let store = before.docker.shared.identity.store_id;
    let (frozen, _a) = before.start("tick");
    let (_paused, _b) = before.start("");
    let (_ended, told) = before.start("exit=0");
    told.first();
    before.docker.freeze(&frozen).expect("frozen");
    let stranger = Room::new().expect("engine");
    let (other, _c) = stranger.start("");
    // The same store, a new process.
    let after = Room::with(&config(), store).expect("engine");
    let (own, _d) = after.start("");
    assert_eq!(after.docker.reclaim().expect("reclaimed"), 3);
    assert_eq!(after.ours().iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), [own.engine_id.as_str()]);
    assert_eq!(stranger.ours().len(), 1);
    assert_eq!(after.docker.reclaim().expect("nothing more"), 0);
    after.remove(&own);
    stranger.remove(&other);
}

#[test]
fn what_nobody_knows_of_is_found_by_a_look_and_nothing_else() {
    let Some(room) = Room::new() else { return };
    let (owned, _a) = room.start("");
    let (lost, _b) = room.start("");
    room.docker.shared.exits.cancel(&lost.engine_id);
    let stranger = Room::new().expect("engine");
    let (other, _c) = stranger.start("");
    let shared = &room.docker.shared;
    let look = leftovers(&shared.engine, &shared.exits, &shared.identity);
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_secs()).expect("fits");
    assert_eq!(look.sweep(now).expect("looked"), 0, "too young to be lost");
    assert_eq!(look.sweep(now + 1000).expect("looked"), 1);
    assert_eq!(room.ours().iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), [owned.engine_id.as_str()]);
    assert_eq!(stranger.ours().len(), 1);
    room.remove(&owned);
    stranger.remove(&other);
}

#[test]
fn an_exit_while_the_stream_is_down_is_still_told() {
    let Some(room) = Room::new() else { return };
    let (ends, told_end) = room.start("");
    let (vanishes, told_gone) = room.start("");
    let (stays, told_stays) = room.start("");
    // Not told of by a stream: the follower must look for itself.
    let follower = room.docker.events.lock().take().expect("running");
    room.docker.shared.engine.stop.fire();
    follower.join();
    room.engine.ask(&Ask::new(Op::Remove, "x", "POST", format!("/containers/{}/kill?signal=KILL", ends.engine_id))).expect("killed");
    room.engine.remove(&vanishes.engine_id, Duration::from_secs(20)).expect("removed");
    assert!(told_end.all().is_empty());
    let engine = Arc::new(testing::engine().expect("engine"));
    let again = Events::start(engine.clone(), room.docker.shared.exits.clone(), room.docker.shared.identity.store_id.to_string(), false).expect("thread");
    assert_eq!(told_end.first().code, 137);
    told_gone.first();
    // And cut in the middle it comes back.
    again.interrupt();
    room.engine.ask(&Ask::new(Op::Remove, "x", "POST", format!("/containers/{}/kill", stays.engine_id))).expect("killed");
    assert_eq!(told_stays.first().code, 137);
    engine.stop.fire();
    again.join();
    for instance in [&ends, &vanishes, &stays] {
        room.docker.remove(instance).expect("removed");
    }
    for told in [told_end, told_gone, told_stays] {
        assert_eq!(told.all().len(), 1);
    }
}

#[test]
fn closing_is_quick_and_ends_the_threads() {
    let Some(room) = Room::new() else { return };
    let begun = Instant::now();
    room.docker.close();
    room.docker.close();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn several_starts_at_once() {
    let Some(room) = Room::new() else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (instance, told) = room.start("");
                assert!(instance.pid.is_some());
                room.remove(&instance);
                assert_eq!(told.all().len(), 1);
            });
        }
    });
    assert!(room.ours().is_empty());
}

#[test]
fn images_are_listed_and_removed() {
    let Some(room) = Room::new() else { return };
    let named = |name: &str| room.docker.images().list().expect("list").iter().any(|row| row.repo_tags.iter().flatten().any(|t| t == name));
    let own = testing::load("hob-docker-test-remove:1");
    assert!(named(&own));
    assert!(room.docker.images().remove(&own).expect("removed"));
    assert!(!room.docker.images().remove(&own).expect("gone already"));
    assert!(!named(&own));
    assert!(room.docker.images().load(&mut &b"not a tar"[..]).is_err());
}

#[test]
fn an_engine_reached_by_tcp_does_the_same() {
    let Some(local) = engine() else { return };
    let Some(socket) = local.address().strip_prefix("unix://") else { return };
    let relay = testing::fake::Relay::to(socket);
    let mut config = config();
    config.host = relay.host.clone();
    let room = Room::with(&config, Id::new()).expect("engine");
    let own = testing::load_through(&config, "hob-docker-test-tcp:1");
    assert!(room.docker.images().remove(&own).expect("removed"));
    let (mut instance, told) = room.start("tick");
    room.folder.read("tick");
    instance.freezer = None;
    room.docker.freeze(&instance).expect("frozen");
    room.docker.thaw(&instance).expect("thawed");
    room.remove(&instance);
    assert_eq!(told.all().len(), 1);
    let (instance, told) = room.start("exit=7");
    assert_eq!(told.first().code, 7);
    room.remove(&instance);
    let begun = Instant::now();
    room.docker.close();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// `cargo test --release --lib cold_start_steps -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cold_start_steps() {
    let Some(room) = Room::new() else { return };
    let mut whole = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let (instance, _told) = room.start("");
        whole.push(begun.elapsed());
        room.remove(&instance);
    }
    whole.sort_unstable();
    println!("start: median {:?}, best {:?}, worst {:?}", whole[10], whole[0], whole[19]);
}
