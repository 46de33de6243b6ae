//! Parked networks, with a real engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::containers::Listed;
use super::testing::{Folder, TestImage, Told, config, engine, image, wait_until};
use super::*;

struct Room {
    docker: Docker,
    image: Arc<TestImage>,
    folder: Folder,
    engine: Engine,
}

impl Room {
    fn new(set: impl FnOnce(&mut DockerConfig)) -> Option<Room> {
        let engine = engine()?;
        let folder = Folder::new();
        let mut config = config();
        config.parked_networks = 2;
        set(&mut config);
        let identity = Identity { store_id: Id::new(), instance_id: Id::new(), iofs: folder.path.clone(), iofs_docker: None };
        let docker = Docker::open(&config, &identity).expect("opens");
        Some(Room { docker, image: image(false), folder, engine })
    }

    /// Waits until so many are ready; their engine ids.
    fn ready(&self, count: usize) -> Vec<String> {
        wait_until("parked networks", || Some(self.docker.shared.parked.ready()).filter(|ids| ids.len() == count))
    }

    fn start(&self, mode: &str) -> (crate::driver::Instance, Arc<Told>) {
        let mut spec = testing::spec(Id::new().as_str(), &self.image.name, "");
        spec.iofs = self.folder.path.clone();
        spec.env.push(("MODE".to_owned(), mode.to_owned()));
        let told = Told::new();
        let budget = StartBudget { pull_until: Instant::now() + Duration::from_secs(20), start_within: Duration::from_secs(60) };
        (self.docker.start(&spec, &budget, told.clone()).expect("starts"), told)
    }

    fn raw(&self, id: &str) -> Value {
        self.engine.ask(&Ask::new(Op::Inspect, id, "GET", format!("/containers/{id}/json"))).expect("inspect").json().expect("json")
    }

    fn mode(&self, id: &str) -> String {
        self.raw(id)["HostConfig"]["NetworkMode"].as_str().expect("a mode").to_owned()
    }

    fn kill(&self, id: &str) {
        self.engine.ask(&Ask::new(Op::Remove, id, "POST", format!("/containers/{id}/kill"))).expect("killed");
    }

    fn is_gone(&self, id: &str) -> bool {
        self.engine.inspect(id).is_err_and(|e| e.is_gone())
    }

    fn ours(&self) -> Vec<Listed> {
        self.engine.list_store(self.docker.shared.identity.store_id.as_str()).expect("list")
    }
}

#[test]
fn a_start_joins_a_parked_network_nobody_else_ever_has() {
    let Some(room) = Room::new(|_| {}) else { return };
    let parked = room.ready(2);
    for id in &parked {
        let found = room.raw(id);
        let (config, host) = (&found["Config"], &found["HostConfig"]);
        assert_eq!(config["User"], "65534:65534");
        assert_eq!((&host["ReadonlyRootfs"], &host["CapDrop"][0], &host["LogConfig"]["Type"]), (&true.into(), &"all".into(), &"none".into()));
        assert_eq!(host["SecurityOpt"][0], "no-new-privileges");
        assert_eq!(config["Labels"][LABEL_PARKED], "1");
        assert_eq!(config["Labels"][LABEL_STORE], room.docker.shared.identity.store_id.as_str());
        assert_eq!(config["Hostname"], room.docker.shared.hostname);
    }
    let (one, _a) = room.start("look");
    let (two, _b) = room.start("");
    let modes = [room.mode(&one.engine_id), room.mode(&two.engine_id)];
    assert_ne!(modes[0], modes[1]);
    for mode in &modes {
        assert!(parked.contains(&mode.strip_prefix("container:").expect("joined").to_owned()), "{mode}");
    }
    // A network as it had one of its own: loopback and one more.
    assert!(room.folder.read("look").lines().any(|l| l == "net=2"));
    // Ready again, with others; and used-up ones go with their user.
    let again = room.ready(2);
    assert!(again.iter().all(|id| !parked.contains(id)));
    room.docker.remove(&one).expect("removed");
    room.docker.remove(&two).expect("removed");
    wait_until("both to go", || parked.iter().all(|id| room.is_gone(id)).then_some(()));
    room.docker.call_off();
    room.docker.close();
    assert!(room.ours().is_empty(), "nothing is left");
}

#[test]
fn a_function_without_a_network_joins_none_and_an_empty_pool_stops_nobody() {
    let Some(room) = Room::new(|config| config.parked_networks = 1) else { return };
    room.ready(1);
    let (first, _a) = room.start("");
    let (second, _b) = room.start("");
    assert!(room.mode(&first.engine_id).starts_with("container:"));
    assert_eq!(room.mode(&second.engine_id), "default");
    for instance in [&first, &second] {
        room.docker.remove(instance).expect("removed");
    }
}

#[test]
fn a_dead_one_is_replaced_and_takes_its_user_with_it() {
    let Some(room) = Room::new(|_| {}) else { return };
    let parked = room.ready(2);
    room.kill(&parked[0]);
    wait_until("another one", || {
        let ready = room.docker.shared.parked.ready();
        (ready.len() == 2 && !ready.contains(&parked[0]) && room.is_gone(&parked[0])).then_some(())
    });
    let (instance, told) = room.start("");
    let used = room.mode(&instance.engine_id);
    room.kill(used.strip_prefix("container:").expect("joined"));
    told.first();
    wait_until("the user to go", || room.is_gone(&instance.engine_id).then_some(()));
    room.docker.remove(&instance).expect("gone is removed");
}

#[test]
fn one_that_died_unseen_costs_a_start_nothing_but_time() {
    let Some(room) = Room::new(|_| {}) else { return };
    let parked = room.ready(2);
    // Nobody listens any more.
    let events = room.docker.events.lock().take().expect("running");
    room.docker.shared.engine.stop.fire();
    events.join();
    room.engine.remove(&parked[0], Duration::from_secs(20)).expect("removed");
    room.kill(&parked[1]);
    for _ in 0..2 {
        let (instance, _told) = room.start("");
        assert_eq!(room.mode(&instance.engine_id), "default");
        room.docker.remove(&instance).expect("removed");
    }
}

#[test]
fn the_next_process_removes_what_was_parked() {
    let Some(room) = Room::new(|_| {}) else { return };
    room.ready(2);
    let mut identity = room.docker.shared.identity.clone();
    identity.instance_id = Id::new();
    let mut config = config();
    config.parked_networks = 0;
    let after = Docker::open(&config, &identity).expect("opens");
    assert!(after.reclaim().expect("reclaimed") >= 2);
}

#[test]
fn networks_that_cannot_be_made_stop_nobody() {
    let Some(room) = Room::new(|config| config.networks = vec!["none".to_owned(), "hob-no-such-network".to_owned()]) else { return };
    // The one that exists has one; for the other, tries fail and are not repeated soon.
    room.ready(1);
    let (instance, _told) = room.start("");
    assert!(room.mode(&instance.engine_id).starts_with("container:"));
    room.docker.remove(&instance).expect("removed");
}
