//! The sandbox of a server that is a plain user: it runs functions with what
//! the host allows, says what that is not, and runs none if told so.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;

use crate::harness::{Folder, Server, command, engine, sandbox};

/// Nobody, on most hosts.
const USER: u32 = 65534;

/// What the start line says is missing, and so is possible.
const NOT_CONTAINED: &[&str] = &["memory", "fill-socket-folder", "files-in-socket-folder"];

struct Plain {
    folder: Arc<Folder>,
    program: PathBuf,
}

impl Plain {
    /// A place where a plain user finds the program, and owns the rest.
    fn new() -> Plain {
        let folder = Folder::below(&std::env::temp_dir());
        let program = folder.path.join("hob");
        std::fs::copy(env!("CARGO_BIN_EXE_hob"), &program).expect("the program is copied");
        std::os::unix::fs::chown(&folder.path, Some(USER), Some(USER)).expect("root");
        Plain { folder, program }
    }

    fn become_it(&self, mut command: Command) -> Command {
        command.uid(USER).gid(USER).current_dir(&self.folder.path);
        command
    }

    fn serve(&self, env: &[(&str, &str)]) -> Command {
        let named = command(&self.folder, env);
        let mut command = Command::new(&self.program);
        command.args(named.get_args()).env_clear();
        command.envs(named.get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.env("HOB_DRIVER", "sandbox").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.become_it(command)
    }

    /// Whether the host lets it make a user namespace at all.
    fn may(&self) -> bool {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]);
        self.become_it(unshare).status().is_ok_and(|s| s.success())
    }

    fn load(&self, sample: &'static str) -> String {
        let name = format!("hob-test/{sample}:1");
        let archive = self.folder.path.join(format!("{sample}.tar"));
        std::fs::write(&archive, engine::archive(&name, &std::fs::read(engine::program(sample)).expect("built"))).expect("written");
        let mut load = Command::new(&self.program);
        load.args(["image", "load"]).arg(&archive).env("HOB_DRIVER", "sandbox").env("HOB_DATA", self.folder.path.join("data"));
        assert!(self.become_it(load).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runs").success());
        name
    }

    /// Processes of this copy of the program.
    fn processes(&self) -> usize {
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        all.filter(|e| std::fs::read_link(e.path().join("exe")).is_ok_and(|exe| exe == self.program)).count()
    }
}

#[test]
fn a_plain_users_functions_run_with_what_the_host_allows() {
    if !sandbox::answers() {
        return;
    }
    let plain = Plain::new();
    if !plain.may() {
        let output = plain.serve(&[]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("user namespace"), "{said}");
        return;
    }
    let (echo, probe) = (plain.load("echo"), plain.load("probe"));
    let server = Server::spawn(plain.folder.clone(), plain.serve(&[]));
    let log = server.log();
    let line = log.lines().find(|l| l.trim_start().starts_with("driver")).expect("the driver's line").to_owned();
    for missing in ["MISSING: ", "the memory cgroup", "the pids cgroup", "the cpu cgroup", "the freezer cgroup", "user ids", "owners", "socket folders"] {
        assert!(line.contains(missing), "{missing} in {line}");
    }
    let id = server.function_of("echo", &echo, json!({}));
    assert_eq!(server.good_call(&id, &[], b"hello").text(), "hello");
    let mut doctor = Command::new(&plain.program);
    doctor.args(["doctor", "--json"]).env_clear().env("HOB_DRIVER", "sandbox").env("HOB_DATA", plain.folder.path.join("data")).env("FN_PORT", "0");
    let output = plain.become_it(doctor).output().expect("runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = report["findings"].as_array().expect("findings").iter().find(|f| f["name"] == "sandbox").expect("a row").clone();
    for missing in ["the memory cgroup", "the freezer cgroup", "user ids", "socket folders"] {
        assert!(row["verdict"] == "warning" && row["what"].as_str().is_some_and(|what| what.contains(missing)), "{missing} in {row}");
    }
    // A second container, and one that ends by itself.
    assert_eq!(server.call(&id, &[("X-Exit", "3")], b"").status, 502);
    assert_eq!(server.good_call(&id, &[], b"again").text(), "again");

    let id = server.function_of("probe", &probe, json!({"timeout": 30}));
    let list = Command::new(engine::program("probe")).arg("--list").output().expect("the probe runs");
    let names = String::from_utf8_lossy(&list.stdout).into_owned();
    let mut escaped = Vec::new();
    for name in names.lines().filter(|n| !NOT_CONTAINED.contains(n)) {
        let answer = server.call(&id, &[("X-Do", name)], b"");
        let said = if answer.status == 502 { format!("no {}", answer.message()) } else { answer.text() };
        if !said.starts_with("no") {
            escaped.push(format!("{name}: {said}"));
        }
    }
    assert!(escaped.is_empty(), "not contained: {escaped:#?}\n{}", server.log());
    assert_eq!(server.good_call(&server.function_of("after", &echo, json!({})), &[], b"still").text(), "still");
    server.stop();
    assert_eq!(plain.processes(), 0, "processes are left");
}

#[test]
fn strict_refuses_to_run_with_less_and_names_it() {
    if !sandbox::answers() {
        return;
    }
    let plain = Plain::new();
    let output = plain.serve(&[("HOB_SANDBOX_STRICT", "true")]).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    for word in ["HOB_SANDBOX_STRICT", "the memory cgroup", "user ids"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(plain.processes(), 0, "processes are left");
}
