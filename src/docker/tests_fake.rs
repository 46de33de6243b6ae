//! The driver against an engine that is slow, odd, or gone: no real one needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use parking_lot::Mutex;

use super::testing::fake::{Fake, Reply};
use super::testing::{Folder, Told, config, wait_until};
use super::*;
use crate::model::PullPolicy;

fn json(status: u16, text: &str) -> Option<Reply> {
    Some(Reply::Json(status, text.to_owned()))
}

fn open(fake: &Fake, folder: &Folder) -> Docker {
    let mut config = config();
    config.host = fake.host.clone();
    config.auth = Some(serde_json::json!({"auths": {"r.io": {"auth": base64::prelude::BASE64_STANDARD.encode("user:p?ss>>>")}}}).to_string());
    let identity = Identity { store_id: Id::new(), instance_id: Id::new(), iofs: folder.path.clone(), iofs_docker: None };
    Docker::open(&config, &identity).expect("opens")
}

fn spec(folder: &Folder, image: &str) -> ContainerSpec {
    let mut spec = testing::spec(Id::new().as_str(), image, "");
    spec.iofs = folder.path.clone();
    spec
}

fn budget(ms: u64) -> StartBudget {
    StartBudget { pull_until: Instant::now() + Duration::from_millis(ms), start_within: Duration::from_millis(ms) }
}

#[test]
fn many_who_want_an_image_share_one_pull() {
    let (gate, there, folder) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Folder::new());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let fake = Fake::new({
        let (gate, there, heads) = (gate.clone(), there.clone(), heads.clone());
        move |line, head| match line {
            l if l.contains("/images/create") => {
                heads.lock().push(head.to_owned());
                let here = there.clone();
                here.store(true, Ordering::SeqCst);
                Some(Reply::When(gate.clone(), Box::new(Reply::Json(200, "{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n".to_owned()))))
            }
            l if l.contains("/images/") && there.load(Ordering::SeqCst) && gate.load(Ordering::SeqCst) => json(200, "{}"),
            _ => None,
        }
    });
    let docker = open(&fake, &folder);
    std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..10).map(|_| scope.spawn(|| docker.images().ensure("r.io/a/b:2", PullPolicy::IfMissing, Instant::now() + Duration::from_secs(20)))).collect();
        wait_until("all to ask", || (fake.count("/images/r.io") >= 10 && fake.count("/images/create") == 1).then_some(()));
        gate.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.join().expect("no panic").expect("there");
        }
    });
    assert_eq!(fake.count("/images/create?fromImage=r.io%2Fa%2Fb&tag=2 "), 1);
    let head = heads.lock()[0].clone();
    let header = head.lines().find_map(|l| l.strip_prefix("X-Registry-Auth: ")).expect("credentials");
    assert!(!header.contains(['+', '/']));
    let sent: serde_json::Value = serde_json::from_slice(&base64::prelude::BASE64_URL_SAFE.decode(header).expect("url-safe")).expect("json");
    assert_eq!((&sent["username"], &sent["password"]), (&"user".into(), &"p?ss>>>".into()));
}

#[test]
fn all_who_wait_for_a_pull_learn_why_it_failed() {
    let folder = Folder::new();
    let fake = Fake::new(|line, _| {
        line.contains("/images/create")
            .then(|| Reply::Json(200, "{\"status\":\"x\"}\n{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"manifest unknown\"}\n".to_owned()))
    });
    let docker = open(&fake, &folder);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| match docker.images().ensure("a/b", PullPolicy::IfMissing, Instant::now() + Duration::from_secs(20)) {
                Err(LaunchError::Pull { text, .. }) => assert_eq!(text, "manifest unknown"),
                other => panic!("{other:?}"),
            });
        }
    });
    // A failure is not remembered.
    assert!(docker.images().ensure("a/b", PullPolicy::IfMissing, Instant::now() + Duration::from_secs(20)).is_err());
}

#[test]
fn a_pull_that_hangs_ends_in_time() {
    let folder = Folder::new();
    let fake = Fake::new(|line, _| line.contains("/images/create").then_some(Reply::Hang));
    let docker = open(&fake, &folder);
    let begun = Instant::now();
    assert!(matches!(docker.images().ensure("a/b", PullPolicy::IfMissing, begun + Duration::from_millis(100)), Err(LaunchError::PullTimeout { .. })));
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn an_unclear_create_is_cleaned_up_by_name() {
    for broken in ["close", "hang", "nonsense", "conflict"] {
        let folder = Folder::new();
        let fake = Fake::new(move |line, _| match line {
            l if l.starts_with("GET") && l.contains("/images/") => json(200, "{}"),
            l if l.contains("/containers/create") => match broken {
                "close" => Some(Reply::Close),
                "hang" => Some(Reply::Hang),
                "nonsense" => json(201, "[]"),
                _ => json(409, r#"{"message":"Conflict. The container name is already in use"}"#),
            },
            l if l.starts_with("DELETE") => json(204, ""),
            _ => None,
        });
        let docker = open(&fake, &folder);
        let (spec, told) = (spec(&folder, "a/b"), Told::new());
        let error = docker.start(&spec, &budget(300), told.clone()).expect_err(broken);
        match (broken, &error) {
            ("close" | "hang", LaunchError::EngineAway { step: "create", .. }) | ("nonsense" | "conflict", LaunchError::Engine { step: "create", .. }) => {}
            other => panic!("{other:?}"),
        }
        wait_until("its removal by name", || (fake.count(&format!("DELETE /v1.41/containers/{}?", spec.id)) == 1).then_some(()));
        assert!(told.all().is_empty());
    }
}

#[test]
fn a_refused_create_needs_no_cleaning() {
    let folder = Folder::new();
    let fake = Fake::new(|line, _| match line {
        l if l.starts_with("GET") && l.contains("/images/") => json(200, "{}"),
        l if l.contains("/containers/create") => json(400, r#"{"message":"invalid mount config"}"#),
        _ => None,
    });
    let docker = open(&fake, &folder);
    match docker.start(&spec(&folder, "a/b"), &budget(5000), Told::new()) {
        Err(LaunchError::Engine { step: "create", text }) => assert_eq!(text, "invalid mount config (status 400)"),
        other => panic!("{other:?}"),
    }
    docker.close();
    assert_eq!(fake.count("DELETE"), 0);
}

#[test]
fn a_cold_start_is_three_requests_and_its_removal_one() {
    let folder = Folder::new();
    let fake = Fake::new(|line, _| match line {
        l if l.starts_with("GET") && l.contains("/images/") => json(200, "{}"),
        l if l.contains("/containers/create") => json(201, r#"{"Id":"abc","Warnings":null}"#),
        l if l.contains("/containers/abc/start") || l.starts_with("DELETE") => json(204, ""),
        l if l.contains("/containers/abc/json") => json(200, r#"{"State":{"Running":true,"Pid":999999999}}"#),
        _ => None,
    });
    let docker = open(&fake, &folder);
    for round in 0..2 {
        // What the driver's own threads ask beside it is not the start's.
        let asked = || {
            fake.asked.lock().iter().filter(|l| !l.contains("/events") && !l.contains("/_ping") && !l.contains("/containers/json")).cloned().collect::<Vec<_>>()
        };
        let before = asked().len();
        let instance = docker.start(&spec(&folder, "a/b"), &budget(5000), Told::new()).expect("starts");
        let asked = asked().split_off(before);
        assert_eq!(asked.len(), if round == 0 { 4 } else { 3 }, "{asked:?}");
        docker.remove(&instance).expect("removed");
        assert_eq!(fake.count("DELETE /v1.41/containers/abc?force=1&v=1 "), round + 1);
    }
}

#[test]
fn a_removal_under_way_is_waited_for_and_a_gone_container_is_fine() {
    let folder = Folder::new();
    let fake = Fake::new({
        let answers = Mutex::new(vec![404, 409, 500, 409]);
        move |line, _| {
            line.starts_with("DELETE")
                .then(|| Reply::Json(answers.lock().pop().unwrap_or(404), r#"{"message":"removal of container abc is already in progress"}"#.to_owned()))
        }
    });
    let docker = open(&fake, &folder);
    let instance = Instance { id: "x".into(), engine_id: "abc".into(), pid: None, freezer: None, meter: None };
    docker.remove(&instance).expect("gone in the end");
    assert_eq!(fake.count("DELETE"), 4);
    docker.remove(&instance).expect("gone already");
}

#[test]
fn old_and_odd_engines_are_told_apart() {
    let open_with = |version: &'static str| {
        let folder = Folder::new();
        let fake = Fake::new(move |line, _| line.contains(" /version ").then(|| Reply::Json(200, version.to_owned())));
        let mut config = config();
        config.host = fake.host.clone();
        Docker::open(&config, &Identity { store_id: Id::new(), instance_id: Id::new(), iofs: folder.path.clone(), iofs_docker: None }).map(|d| d.describe())
    };
    assert!(matches!(open_with(r#"{"Version":"17.09.1-ce","ApiVersion":"1.32"}"#), Err(DockerOpenError::TooOld { .. })));
    assert!(open_with(r#"{"Version":"17.10.0-ce","ApiVersion":"1.33"}"#).is_ok());
    let podman = open_with(r#"{"Version":"4.3.1","ApiVersion":"1.41","Components":[{"Name":"Podman Engine"}]}"#).expect("podman");
    assert!(podman.starts_with("podman"), "{podman}");
    assert!(matches!(open_with("{}"), Err(DockerOpenError::Engine(EngineError { fault: Fault::Malformed { .. }, .. }))));
    assert!(matches!(open_with("<html>"), Err(DockerOpenError::Engine(EngineError { fault: Fault::Malformed { .. }, .. }))));
}

#[test]
fn a_volume_of_socket_folders_is_found_on_the_engines_host() {
    let folder = Folder::new();
    let fake = Fake::new(|line, _| match line {
        l if l.contains("/volumes/sockets ") => json(200, r#"{"Mountpoint":"/var/lib/docker/volumes/sockets/_data"}"#),
        l if l.contains("/volumes/") => json(200, r#"{"Mountpoint":""}"#),
        _ => None,
    });
    let mut config = config();
    config.host = fake.host.clone();
    let open = |name: &str| {
        Docker::open(&config, &Identity { store_id: Id::new(), instance_id: Id::new(), iofs: folder.path.clone(), iofs_docker: Some(name.to_owned()) })
    };
    let docker = open("sockets").expect("opens");
    assert_eq!(docker.shared.engine_iofs.as_deref(), Some(Path::new("/var/lib/docker/volumes/sockets/_data")));
    assert!(matches!(open("elsewhere"), Err(DockerOpenError::Volume { .. })));
    assert_eq!(open("/host/iofs").expect("opens").shared.engine_iofs.as_deref(), Some(Path::new("/host/iofs")));
}

#[test]
fn the_cleaner_removes_the_longest_unused_and_nothing_in_use() {
    let folder = Folder::new();
    let rows = [("used", "r/used:1", 1), ("old", "r/old:1", 2), ("kept", "r/kept:1", 0), ("held", "r/held:1", 3), ("new", "r/new:1", 4)]
        .map(|(id, tag, created)| format!(r#"{{"Id":"{id}","RepoTags":["{tag}"],"Size":1000,"Created":{created}}}"#))
        .join(",");
    let fake = Fake::new(move |line, _| match line {
        l if l.contains("/images/json") => json(200, &format!("[{rows}]")),
        l if l.starts_with("GET") && l.contains("/images/r/used:1/") => json(200, r#"{"Id":"used","RepoTags":["r/used:1"],"Size":1000}"#),
        l if l.contains("/containers/create") => json(201, r#"{"Id":"abc"}"#),
        l if l.contains("/containers/abc/start") => json(204, ""),
        l if l.contains("/containers/abc/json") => json(200, r#"{"State":{"Running":true,"Pid":999999999}}"#),
        // Somebody else's container uses it.
        l if l.starts_with("DELETE") && l.contains("/images/r/held:1") => json(409, r#"{"message":"conflict: container x is using it"}"#),
        l if l.starts_with("DELETE") => json(200, "[]"),
        _ => None,
    });
    let mut config = config();
    config.host = fake.host.clone();
    config.parked_networks = 0;
    config.clean_exempt = vec!["r/kept:1".to_owned()];
    // Room for three; the first look at the list comes when the start is done.
    config.clean_max_bytes = 3001;
    let identity = Identity { store_id: Id::new(), instance_id: Id::new(), iofs: folder.path.clone(), iofs_docker: None };
    let docker = Docker::open(&config, &identity).expect("opens");
    wait_until("the oldest to go", || (fake.count("DELETE /v1.41/images/r/used:1 ") == 1).then_some(()));
    docker.close();
    assert_eq!(fake.count("DELETE"), 1);

    config.clean_max_bytes = 1;
    let docker = Docker::open(&config, &identity).expect("opens");
    let instance = docker.start(&spec(&folder, "r/used:1"), &budget(5000), Told::new()).expect("starts");
    wait_until("all others to go", || (fake.count("images/r/new:1 ") == 1 && fake.count("images/r/old:1 ") == 1).then_some(()));
    wait_until("the one held to be tried", || (fake.count("DELETE /v1.41/images/r/held:1 ") == 1).then_some(()));
    assert_eq!(fake.count("images/r/kept:1"), 0);
    docker.remove(&instance).expect("removed");
    docker.close();
}
