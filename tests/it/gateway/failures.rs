//! How calls fail before their function is asked, and how that is told: the
//! beginnings of the texts are the original's (spec http-api §2.1, §3.4), so
//! that whoever compares them goes on working.

use serde_json::{Value, json};

use crate::harness::{Server, engine, sandbox};

const INIT_FAILED: &str = "Container failed to initialize, please ensure you are using the latest fdk and check the logs";
const INIT_TIMEOUT: &str = "Container initialization timed out, please ensure you are using the latest fdk and check the logs";

/// A function that is not as it should be.
struct Failure {
    name: &'static str,
    /// Its image; nothing: the function `hostile`.
    image: Option<String>,
    spec: Value,
    status: u16,
    text: String,
    /// There was a call, and so it has an id.
    call: bool,
}

fn starts(name: &'static str, how: &str, status: u16, text: &str) -> Failure {
    Failure { name, image: None, spec: json!({"config": {"HOSTILE": how}}), status, text: text.to_owned(), call: true }
}

fn volume(server: &Server) -> String {
    format!("hob-test/volume:{}", server.folder.tag)
}

fn failures(server: &Server) -> Vec<Failure> {
    let volume = &volume(server);
    let program = std::fs::read(engine::program("hello")).expect("built");
    let archive = engine::archive_with(volume, &[("function", &program)], &json!({"Volumes": {"/data": {}}}));
    if sandbox::chosen() {
        sandbox::load(&server.folder.path.join("data"), &archive);
    } else {
        engine::load_archive(volume, &archive);
    }
    let nowhere = "127.0.0.1:1/no/such:1";
    vec![
        starts("exits", "exits:9", 502, INIT_FAILED),
        starts("exits-well", "exits:0", 502, INIT_FAILED),
        starts("file", "plain-file", 502, INIT_FAILED),
        starts("folder", "folder", 502, INIT_FAILED),
        starts("absolute", "absolute-link", 502, INIT_FAILED),
        starts("parent", "parent-link", 502, INIT_FAILED),
        starts("chain", "link-chain", 502, INIT_FAILED),
        Failure {
            name: "large",
            image: None,
            spec: json!({"memory": 8192}),
            status: 400,
            text: "Requested CPU/Memory cannot be allocated".to_owned(),
            call: false,
        },
        Failure {
            name: "volume",
            image: Some(volume.to_owned()),
            spec: json!({}),
            status: 400,
            text: format!("image has Volume definition: '{volume}'"),
            call: true,
        },
        Failure {
            name: "nowhere",
            image: Some(nowhere.to_owned()),
            spec: json!({}),
            status: 502,
            text: format!("Failed to pull image '{nowhere}': "),
            call: true,
        },
    ]
}

#[test]
fn what_cannot_be_started_is_told_in_the_protocols_words() {
    let Some(server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "1073741824")]) else { return };
    check(&server, failures(&server));
    if !sandbox::chosen() {
        engine::remove_image(&volume(&server));
    }
    server.stop();
    // What nothing but the limit ends.
    let Some(server) = Server::start(&[("FN_HOT_START_TIMEOUT_MSECS", "4000")]) else { return };
    check(&server, vec![starts("silent", "never-listens", 504, INIT_TIMEOUT)]);
    server.stop();
}

fn check(server: &Server, failures: Vec<Failure>) {
    let mut wrong = Vec::new();
    for failure in failures {
        let id = match &failure.image {
            Some(image) => server.function_of(failure.name, image, failure.spec.clone()),
            None => server.function(failure.name, "hostile", failure.spec.clone()),
        };
        let answer = server.call(&id, &[], b"");
        let fine = answer.status == failure.status && answer.message().starts_with(&failure.text) && answer.field("Fn-Call-Id").is_some() == failure.call;
        if !fine {
            wrong.push(format!("{}: {answer:?}", failure.name));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), server.log());
}

/// §2.1, §3.4: a node without room, and one without detached calls.
#[test]
fn a_busy_server_says_so_in_the_protocols_words() {
    let settings = [("FN_MAX_TOTAL_MEMORY_BYTES", "104857600"), ("FN_ENABLE_NB_RESOURCE_TRACKER", "true"), ("HOB_DETACHED_WORKERS", "0")];
    let Some(server) = Server::start(&settings) else { return };
    let (one, two) = (server.function("one", "echo", json!({})), server.function("two", "echo", json!({})));
    let running = server.hold(&one);
    let busy = server.call(&two, &[], b"");
    assert!(busy.status == 503 && busy.message().starts_with("Timed out - server too busy"), "{busy:?}");
    assert!(busy.field("Retry-After").is_some_and(|s| s.parse::<u32>().is_ok()) && busy.field("Fn-Call-Id").is_some(), "{busy:?}");
    let off = server.call(&one, &[("Fn-Invoke-Type", "detached")], b"");
    assert!(off.status == 501 && off.message().contains("HOB_DETACHED_WORKERS"), "{off:?}");
    assert_eq!(running.release().status, 200);
    server.stop();
}

/// §3.3: what is not accepted is told at once, and nothing of it runs.
#[test]
fn detached_calls_that_cannot_be_kept_are_refused() {
    let Some(server) = Server::start(&[("HOB_DETACHED_MAX_BODY", "100")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let detached = ("Fn-Invoke-Type", "detached");
    let large = server.call(&echo, &[detached], &[b'x'; 101]);
    assert!(large.status == 413 && large.message().starts_with("Content-Length too large for this server, 101 > max 100"), "{large:?}");
    for (field, value, text) in [
        ("Hob-Priority", "3", "Bad request: Hob-Priority"),
        ("Hob-Delay-Secs", "-1", "Bad request: Hob-Delay-Secs"),
        ("Hob-Delay-Secs", "604801", "Bad request: Hob-Delay-Secs"),
        ("Idempotency-Key", "", "Bad request: Idempotency-Key"),
    ] {
        let refused = server.call(&echo, &[detached, (field, value)], b"");
        assert!(refused.status == 400 && refused.message().starts_with(text), "{field}: {value}: {refused:?}");
        // For others they are fields like any other.
        assert_eq!(server.good_call(&echo, &[(field, value)], b"in").text(), "in");
    }
    assert_eq!(server.send("POST", "/invoke/01HF7YAT3V180G40RZJ0000001", b"").status, 404);
    assert_eq!(server.manage("GET", &format!("/v2/fns/{echo}/calls"), &Value::Null)["items"], json!([]), "nothing was kept");
    server.stop();
}
