//! A machine with nothing but hob: no engine answers and no program of one is
//! to be found. Functions are deployed into hob's own store and run there.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Server, engine, sandbox};

const NOWHERE: (&str, &str) = ("DOCKER_HOST", "unix:///nonexistent/engine.sock");

/// The client on the server's own data, as on the same machine.
fn client(server: &Server, arguments: &[&str]) -> (bool, String) {
    let mut hob = Command::new(env!("CARGO_BIN_EXE_hob"));
    hob.args(["--server", &format!("http://{}", server.address)]).args(arguments).env_clear().env(NOWHERE.0, NOWHERE.1);
    hob.env("HOB_DATA", server.folder.path.join("data")).stdin(Stdio::null());
    let output = hob.output().expect("the program runs");
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn folder(server: &Server, name: &str, func_yaml: &str, sample: &'static str) -> String {
    let folder = server.folder.path.join(name);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("func.yaml"), func_yaml).expect("written");
    std::fs::copy(engine::program(sample), folder.join("program")).expect("copied");
    folder.to_str().expect("UTF-8").to_owned()
}

fn invoke(server: &Server, name: &str, body: &str) -> String {
    let listed = server.send("GET", "/v2/apps?name=demo", b"").json();
    let app = listed["items"][0]["id"].as_str().expect("the app").to_owned();
    let listed = server.send("GET", &format!("/v2/fns?app_id={app}&name={name}"), b"").json();
    server.good_call(listed["items"][0]["id"].as_str().expect("the function"), &[], body.as_bytes()).text()
}

#[test]
fn functions_are_deployed_and_run_without_an_engine() {
    if !sandbox::answers() {
        return;
    }
    let Some(server) = Server::start(&[NOWHERE, ("HOB_DRIVER", "auto")]) else { return };
    assert!(server.log().contains("driver    sandbox"), "{}", server.log());
    let at = folder(&server, "plain", "name: plain\nruntime: binary\nentrypoint: ./program\nmemory: 64\n", "echo");
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(well, "{said}");
    assert_eq!(invoke(&server, "plain", "hello"), "hello");

    // The same folder again changes nothing; another program is another image.
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(well && said.contains("up to date"), "{said}");
    std::fs::copy(engine::program("hello"), Path::new(&at).join("program")).expect("copied");
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(well, "{said}");
    assert!(invoke(&server, "plain", "{}").contains("Hello world"));

    // Upon a base image of the store; what the base has stays.
    let base = server.folder.path.join("base.tar");
    std::fs::write(&base, engine::archive_of("base/image:1", &[("base/echo", &std::fs::read(engine::program("echo")).expect("built"))], engine::ARCHITECTURE))
        .expect("written");
    let (well, said) = client(&server, &["image", "load", base.to_str().expect("UTF-8")]);
    assert!(well, "{said}");
    let yaml = "name: upon\nruntime: binary\nrun_image: base/image:1\nentrypoint: ./program\n";
    let at = folder(&server, "upon", yaml, "hello");
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(well && said.contains("on base/image:1"), "{said}");
    assert!(invoke(&server, "upon", "{}").contains("Hello world"));
    let yaml = "name: bases\nruntime: binary\nrun_image: base/image:1\nentrypoint: /base/echo\n";
    std::fs::write(Path::new(&at).join("func.yaml"), yaml).expect("written");
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(well, "{said}");
    assert_eq!(invoke(&server, "bases", "x"), "x");

    // What is nowhere is told, and what only an engine can do.
    let yaml = "name: nowhere\nruntime: binary\nrun_image: 127.0.0.1:1/no/image:1\nentrypoint: ./program\n";
    let at = folder(&server, "nowhere", yaml, "hello");
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(!well && said.contains("127.0.0.1:1"), "{said}");
    std::fs::write(Path::new(&at).join("func.yaml"), "name: nowhere\nruntime: docker\n").expect("written");
    std::fs::write(Path::new(&at).join("Dockerfile"), "FROM scratch\n").expect("written");
    let (well, said) = client(&server, &["deploy", &at, "--app", "demo"]);
    assert!(!well && said.contains("Dockerfile"), "{said}");
    server.stop();
}

#[test]
fn a_function_without_network_has_none_where_others_have_the_hosts() {
    if !sandbox::answers() {
        return;
    }
    let Some(server) = Server::start(&[("HOB_DRIVER", "sandbox"), ("HOB_SANDBOX_NETWORK", "host")]) else { return };
    let probe = sandbox::install(&server.folder.path.join("data"), "probe");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("address").to_string();
    let reaches = |id: &str| server.good_call(id, &[("X-Do", "host-port"), ("X-Arg", &address)], b"").text();
    let open = server.function_of("open", &probe, json!({}));
    assert!(reaches(&open).starts_with("yes"), "{}", reaches(&open));
    let closed = server.function_of("closed", &probe, json!({"annotations": {"hob/network": "none"}}));
    assert!(reaches(&closed).starts_with("no"), "{}", reaches(&closed));
    server.stop();
}
