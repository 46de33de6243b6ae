//! Clients people have, on a real server: each makes a call, sends a body of
//! some size, and sees an error as an error. One that is not installed is said
//! to be skipped; with `CI=true` all but the browser must be there.

use std::process::{Command, Output};

use serde_json::json;

use crate::harness::{Folder, Server};

const PYTHON: &str = r#"
import sys, urllib.request, urllib.error
base, echo = sys.argv[1], sys.argv[2]
body = b"x" * 300000
def post(path, data): return urllib.request.urlopen(urllib.request.Request(base + path, data=data), timeout=20)
assert post("/invoke/" + echo, b"mine").read() == b"mine"
assert post("/invoke/" + echo, body).read() == body
assert urllib.request.urlopen(base + "/t/app/echo", timeout=20).status == 200
try:
    post("/invoke/none", b""); sys.exit("no error")
except urllib.error.HTTPError as error:
    assert error.code == 404, error
print("fine")
"#;

const REQUESTS: &str = r#"
import sys, requests
base, echo = sys.argv[1], sys.argv[2]
session = requests.Session()
for n in range(20):
    assert session.post(base + "/invoke/" + echo, data=b"%d" % n, timeout=20).content == b"%d" % n
def pieces():
    for n in range(50): yield b"y" * 5000
assert len(session.post(base + "/invoke/" + echo, data=pieces(), timeout=20).content) == 250000
assert session.head(base + "/t/app/echo", timeout=20).status_code == 200
assert session.post(base + "/invoke/none", timeout=20).json()["message"] == "Fn not found"
print("fine")
"#;

const NODE: &str = r#"
const [base, echo] = process.argv.slice(1);
const ask = async (path, init) => { const answer = await fetch(base + path, init); return [answer.status, await answer.text()]; };
const must = (seen, want) => { if (JSON.stringify(seen) !== JSON.stringify(want)) { console.error(seen, want); process.exit(1); } };
(async () => {
  must(await ask("/invoke/" + echo, {method: "POST", body: "mine"}), [200, "mine"]);
  const all = await Promise.all([...Array(20).keys()].map(n => ask("/invoke/" + echo, {method: "POST", body: "n" + n})));
  all.forEach((seen, n) => must(seen, [200, "n" + n]));
  must((await ask("/invoke/" + echo, {method: "POST", body: "z".repeat(300000)}))[1].length, 300000);
  must((await ask("/invoke/none", {method: "POST"}))[0], 404);
  console.log("fine");
})();
"#;

/// Runs a program; `None` when it is not installed.
fn run(program: &str, args: &[&str]) -> Option<Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{program}: {error}, and CI=true promises it");
            println!("SKIPPED: no {program}");
            None
        }
    }
}

fn text(program: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {}: {out} {err}", output.status);
    out
}

#[test]
fn programs_people_have_get_their_answers() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let found = server.manage("GET", &format!("/v2/fns/{echo}"), &json!({}));
    server.manage("POST", "/v2/triggers", &json!({"app_id": found["app_id"], "fn_id": echo, "name": "echo", "type": "http", "source": "/echo"}));
    let base = format!("http://{}", server.address);
    let url = format!("{base}/invoke/{echo}");
    let file = server.folder.path.join("body");
    std::fs::write(&file, vec![b'x'; 2_000_000]).expect("written");
    let upload = format!("@{}", file.display());

    if let Some(output) = run("curl", &["-sS", "--fail", "--max-time", "20", "-d", "mine", &url]) {
        assert_eq!(text("curl", &output), "mine");
        // From 1 MB on it asks with Expect before it sends.
        let output = run(
            "curl",
            &[
                "-sS",
                "--fail",
                "--max-time",
                "20",
                "--data-binary",
                &upload,
                &url,
                "--next",
                "-sS",
                "--fail",
                "-T",
                &file.to_string_lossy(),
                "-X",
                "POST",
                "-H",
                "Transfer-Encoding: chunked",
                &url,
            ],
        );
        assert_eq!(text("curl", &output.expect("installed")).len(), 4_000_000);
        let output = run("curl", &["-sS", "--max-time", "20", "-I", &format!("{base}/t/app/echo")]).expect("installed");
        assert!(text("curl -I", &output).starts_with("HTTP/1.1 200 OK"));
        let output = run("curl", &["-sS", "--max-time", "20", "--http1.0", "-d", "old", &url]).expect("installed");
        assert_eq!(text("curl --http1.0", &output), "old");
        // Offers HTTP/2; hob declines by going on in HTTP/1.1.
        let output = run("curl", &["-sS", "--max-time", "20", "--http2", "-d", "new", &url]).expect("installed");
        assert_eq!(text("curl --http2", &output), "new");
    }
    if let Some(output) = run("wget", &["-q", "-O", "-", "--tries=1", "--timeout=20", "--post-data=mine", &url]) {
        assert_eq!(text("wget", &output), "mine");
        let output = run("wget", &["-q", "-O", "-", "--tries=1", &format!("{base}/invoke/none")]).expect("installed");
        assert!(!output.status.success(), "an error is an error");
    }
    if let Some(output) = run("/usr/bin/python3", &["-c", PYTHON, &base, &echo]) {
        assert_eq!(text("python3", &output).trim(), "fine");
        if run("/usr/bin/python3", &["-c", "import requests"]).is_some_and(|o| o.status.success()) {
            assert_eq!(text("requests", &run("/usr/bin/python3", &["-c", REQUESTS, &base, &echo]).expect("installed")).trim(), "fine");
        } else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true promises python3-requests");
            println!("SKIPPED: no python3-requests");
        }
    }
    if let Some(output) = run("node", &["-e", NODE, &base, &echo]) {
        assert_eq!(text("node", &output).trim(), "fine");
    }
    if let Some(output) = run("h2load", &["--h1", "-n", "2000", "-c", "8", "-d", &small(&server), &url]) {
        let said = text("h2load", &output);
        assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains("status codes: 2000 2xx"), "{said}");
    }
    server.stop();
}

fn small(server: &Server) -> String {
    let path = server.folder.path.join("small");
    std::fs::write(&path, b"0123456789").expect("written");
    path.to_string_lossy().into_owned()
}

/// A page of another origin in a browser: it may read what the server lets it.
#[test]
fn a_browser_reads_what_cors_allows() {
    // Pages without a server of their own have the origin "null".
    let Some(server) = Server::start(&[("FN_API_CORS_ORIGINS", "null, http://a.t")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let url = format!("http://{}/invoke/{echo}", server.address);
    let asked =
        |fields: &[(&str, &str)], method: &str| crate::harness::http::send(server.address, method, &format!("/invoke/{echo}"), fields, b"").expect("an answer");
    let answer = asked(&[("Origin", "http://a.t")], "POST");
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin"), answer.field("Vary")), (200, Some("http://a.t"), Some("Origin")));
    let answer = asked(&[("Origin", "http://a.t"), ("Access-Control-Request-Method", "POST")], "OPTIONS");
    assert_eq!((answer.status, answer.field("Access-Control-Max-Age"), answer.body.len()), (200, Some("43200"), 0));
    assert_eq!(answer.field("Access-Control-Allow-Headers"), Some("Origin,Content-Length,Content-Type"));
    for (fields, method) in [(&[("Origin", "http://b.t")][..], "POST"), (&[("Origin", "http://b.t"), ("Access-Control-Request-Method", "POST")], "OPTIONS")] {
        let answer = asked(fields, method);
        assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin"), answer.body.len()), (403, None, 0));
    }
    browse(&url);
    server.stop();
}

fn browse(url: &str) {
    let folder = Folder::new();
    let page = folder.path.join("page.html");
    let script = format!(
        "<body>none<script>fetch('{url}', {{method: 'POST', body: 'mine', headers: {{'Content-Type': 'application/json'}}}})\
         .then(a => a.text()).then(t => document.body.textContent = 'got ' + t, e => document.body.textContent = e)</script>"
    );
    std::fs::write(&page, script).expect("written");
    let profile = format!("--user-data-dir={}", folder.path.join("profile").display());
    let args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000", &profile, "--dump-dom"];
    let Ok(output) = Command::new("chromium").args(args).arg(format!("file://{}", page.display())).output() else {
        println!("SKIPPED: no chromium");
        return;
    };
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("got mine"), "{shown} {}", String::from_utf8_lossy(&output.stderr));
    println!("a browser read the answer");
}
