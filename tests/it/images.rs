//! Images from a registry: a real one, open or with a password, over lines
//! that are slow or cut.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use serde_json::json;

use crate::harness::registry::{Line, PASSWORD, Registry, USER, config, header};
use crate::harness::{Server, engine, sandbox, together, wait_until};

/// An image in a registry; what a test pulled is removed with it.
struct Published {
    name: String,
}

impl Published {
    fn new(at: std::net::SocketAddr, path: &str, sample: &'static str, padding: usize, auth: &str) -> Published {
        let name = format!("{at}/{path}");
        engine::publish(&name, sample, padding, auth);
        Published { name }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            engine::remove_image(&self.name);
        }
    }
}

/// A registry, where there is an engine to pull through.
fn registry(locked: bool) -> Option<Registry> {
    // The sandbox pulls by itself; its room tests that.
    if sandbox::chosen() || !engine::answers() {
        return None;
    }
    Registry::start(locked)
}

/// A registry for tests of both drivers; the engine makes the images.
fn for_both(locked: bool) -> Option<Registry> {
    if engine::answers() { Registry::start(locked) } else { None }
}

/// One number of `/metrics`.
fn metric(server: &Server, name: &str) -> u64 {
    let text = server.send("GET", "/metrics", b"").text();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("no {name}"));
    line.parse().expect("a number")
}

#[test]
fn twenty_first_calls_cause_one_pull() {
    let Some(registry) = registry(false) else { return };
    let image = Published::new(registry.address, "open/hello:1", "hello", 1 << 20, "e30=");
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function_of("hello", &image.name, json!({}));
    let answers = together(20, |_| server.call(&id, &[], b"{}"));
    assert!(answers.iter().all(|a| a.status == 200), "{answers:?}");
    assert_eq!(metric(&server, "hob_image_pulls_total"), 1, "{}", server.log());
    assert!(metric(&server, "hob_image_pull_bytes_total") > 1 << 20);
    assert_eq!(server.log().matches("pulling image").count(), 1);
    server.stop();
}

#[test]
fn what_is_not_there_is_a_404_with_the_registrys_words() {
    let Some(registry) = registry(false) else { return };
    let _image = Published::new(registry.address, "open/hello:1", "hello", 0, "e30=");
    let Some(server) = Server::start(&[]) else { return };
    let in_registry = |path: &str| format!("{}/{path}", registry.address);
    for (name, missing) in [("tag", in_registry("open/hello:none")), ("repository", in_registry("no/such:1"))] {
        let id = server.function_of(name, &missing, json!({}));
        let answer = server.call(&id, &[], b"");
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.message().starts_with(&format!("Failed to pull image '{missing}': ")) && answer.message().contains("not found"), "{}", answer.message());
    }
    assert_eq!(metric(&server, "hob_image_pull_failures_total{cause=\"not_found\"}"), 2);
    server.stop();
}

#[test]
fn a_locked_repository_opens_to_the_right_credentials_only() {
    let Some(registry) = registry(true) else { return };
    let image = Published::new(registry.address, "secret/hello:1", "hello", 0, &header());
    let (right, wrong) = (config(registry.address, PASSWORD), config(registry.address, "wrong"));
    for auth in ["", wrong.as_str()] {
        let Some(server) = Server::start(&[("FN_DOCKER_AUTH", auth)]) else { return };
        let id = server.function_of("hello", &image.name, json!({}));
        let answer = server.call(&id, &[], b"");
        assert!(answer.status == 502 || answer.status / 100 == 4, "{answer:?}");
        assert!(answer.message().contains("the registry wants other credentials"), "{}", answer.message());
        assert_eq!(metric(&server, "hob_image_pull_failures_total{cause=\"denied\"}"), 1);
        assert!(!server.log().contains(PASSWORD));
        server.stop();
    }
    let Some(server) = Server::start(&[("FN_DOCKER_AUTH", &right)]) else { return };
    let id = server.function_of("hello", &image.name, json!({}));
    server.good_call(&id, &[], b"{}");
    assert!(!server.log().contains(PASSWORD));
    server.stop();
}

/// `docker-credential-test` is a script that does as told.
#[test]
fn credential_helpers_are_asked_and_do_not_hold_a_pull_up() {
    let Some(registry) = for_both(true) else { return };
    let image = Published::new(registry.address, "secret/hello:1", "hello", 0, &header());
    let folder = crate::harness::Folder::new();
    let helper = folder.path.join("docker-credential-test");
    let says = |script: &str| {
        std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("mode");
    };
    std::fs::write(folder.path.join("config.json"), json!({"credHelpers": {registry.address.to_string(): "test"}}).to_string()).expect("written");
    let path = format!("{}:/usr/bin:/bin", folder.path.display());
    let settings = [("DOCKER_CONFIG", folder.path.to_str().expect("UTF-8")), ("PATH", path.as_str()), ("FN_HOT_PULL_TIMEOUT_MSECS", "10000")];
    let Some(server) = Server::start(&settings) else { return };
    let id = server.function_of("hello", &image.name, json!({}));

    says("echo 'credentials not found in native keychain'; exit 1");
    let answer = server.call(&id, &[], b"");
    assert!(answer.message().contains("other credentials"), "{answer:?}");

    says("echo 'the keychain is locked'; exit 1");
    wait_until("the next start", || {
        let answer = server.call(&id, &[], b"");
        answer.message().contains("docker-credential-test failed: the keychain is locked").then_some(())
    });

    says("sleep 600 & wait");
    wait_until("a time-out", || {
        let answer = server.call(&id, &[], b"");
        (answer.status == 504).then_some(())
    });

    says(&format!("read server; [ \"$1 $server\" = 'get {}' ] && echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'", registry.address));
    wait_until("a good call", || (server.call(&id, &[], b"{}").status == 200).then_some(()));
    assert!(!server.log().contains(PASSWORD));
    server.stop();
}

#[test]
fn a_slow_pull_tells_how_far_it_is_and_ends_in_time() {
    let Some(registry) = registry(false) else { return };
    let line = Line::to(registry.address);
    let image = Published::new(line.address, "slow/hello:1", "hello", 4 << 20, "e30=");
    let Some(server) = Server::start(&[("FN_HOT_PULL_TIMEOUT_MSECS", "12000")]) else { return };
    let id = server.function_of("slow", &image.name, json!({}));
    line.rate.store(100_000, Ordering::SeqCst);
    let answer = server.call(&id, &[], b"");
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.message().starts_with("Image pull timed out") && answer.message().contains("FN_HOT_PULL_TIMEOUT_MSECS"), "{}", answer.message());
    assert!(server.log().lines().any(|l| l.contains("pulling image") && l.contains("MB fetched")), "{}", server.log());
    assert_eq!(metric(&server, "hob_image_pull_failures_total{cause=\"timed_out\"}"), 1);
    line.rate.store(0, Ordering::SeqCst);
    wait_until("a good call", || (server.call(&id, &[], b"{}").status == 200).then_some(()));
    server.stop();
}

/// The engine tries again by itself; hob's limit is the end of that.
#[test]
fn a_pull_that_is_cut_again_and_again_ends_in_time_and_may_be_tried_again() {
    let Some(registry) = registry(false) else { return };
    let line = Line::to(registry.address);
    let image = Published::new(line.address, "cut/hello:1", "hello", 1 << 20, "e30=");
    let Some(server) = Server::start(&[("FN_HOT_PULL_TIMEOUT_MSECS", "3000")]) else { return };
    let id = server.function_of("cut", &image.name, json!({}));
    line.cut_after.store(100_000, Ordering::SeqCst);
    let answer = server.call(&id, &[], b"");
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    assert!(answer.message().contains(&image.name), "{}", answer.message());
    line.cut_after.store(0, Ordering::SeqCst);
    wait_until("a good call", || (server.call(&id, &[], b"{}").status == 200).then_some(()));
    server.stop();
}

#[test]
fn a_functions_pull_policy_holds() {
    let Some(registry) = for_both(false) else { return };
    let image = Published::new(registry.address, "moving/tag:1", "hello", 0, "e30=");
    let Some(server) = Server::start(&[]) else { return };
    let never = server.function_of("never", &image.name, json!({"annotations": {"hob/pull": "never"}}));
    let answer = server.call(&never, &[], b"");
    assert!(answer.status == 404 && answer.message().contains("hob/pull"), "{answer:?}");

    // One call a container: each call is a start.
    let function = |name: &str, pull: &str| server.function_of(name, &image.name, json!({"annotations": {"hob/pull": pull, "hob/max-calls": 1}}));
    let (missing, always) = (function("missing", "if-missing"), function("always", "always"));
    for id in [&missing, &always] {
        assert_eq!(server.good_call(id, &[], b"{}").json()["message"], "Hello world", "{id}");
    }
    // After a failure the next start waits a moment.
    wait_until("the next start", || (server.call(&never, &[], b"{}").status == 200).then_some(()));

    // The tag moves in the registry; here it stays.
    let there = format!("{}/moving/tag:2", registry.address);
    engine::publish(&there, "echo", 0, "e30=");
    engine::move_tag(registry.address, "moving/tag", "2", "1");
    assert_eq!(server.good_call(&missing, &[], b"{}").json()["message"], "Hello world");
    wait_until("the moved tag", || (server.good_call(&always, &[], b"moved").text() == "moved").then_some(()));
    let refused = server.send("PUT", &format!("/v2/fns/{always}"), br#"{"annotations":{"hob/pull":"sometimes"}}"#);
    assert!(refused.status == 400 && refused.message().contains("hob/pull"), "{refused:?}");
    server.stop();
}

#[test]
fn an_image_for_another_machine_is_refused_unless_allowed() {
    if sandbox::chosen() || !engine::answers() {
        return;
    }
    let name = "hob-test/elsewhere:1";
    engine::load_for(name, "s390x");
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function_of("elsewhere", name, json!({}));
    let answer = server.call(&id, &[], b"");
    assert!(answer.status == 400 && answer.message().contains("linux/s390x"), "{answer:?}");
    server.stop();
    // The program is this machine's in truth.
    let Some(server) = Server::start(&[("HOB_IMAGE_ANY_PLATFORM", "true")]) else { return };
    let id = server.function_of("elsewhere", name, json!({}));
    server.good_call(&id, &[], b"{}");
    server.stop();
    engine::remove_image(name);
}

#[test]
fn a_file_of_images_is_loaded_at_the_start() {
    if sandbox::chosen() || !engine::answers() {
        return;
    }
    let (folder, name) = (crate::harness::Folder::new(), "hob-test/from-file:1");
    engine::remove_image(name);
    let file = folder.path.join("images.tar");
    std::fs::write(&file, engine::archive(name, &std::fs::read(engine::program("hello")).expect("built"))).expect("written");
    let Some(server) = Server::start(&[("FN_DOCKER_LOAD_FILE", file.to_str().expect("UTF-8"))]) else { return };
    let id = server.function_of("hello", name, json!({"annotations": {"hob/pull": "never"}}));
    server.good_call(&id, &[], b"{}");
    server.stop();
    engine::remove_image(name);
    assert!(!engine::has_image(name));
}
