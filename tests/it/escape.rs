//! A hostile function in the sandbox: every probe of `functions/probe` is
//! refused, the host is unharmed. Each is also run as root without the sandbox, to
//! see that what it tries can succeed at all; `NEEDS` lists what that takes.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use serde_json::json;

use crate::harness::{Server, engine, sandbox};

/// What a probe needs that not every host has, or not every root may (one in a
/// container): without the sandbox it may fail for the want of that, and then
/// proves nothing on that host. All others must succeed there.
const NEEDS: &[(&str, &str)] = &[
    ("terminal-input", "a kernel that lets terminals be typed into (`dev.tty.legacy_tiocsti`)"),
    ("kernel-keys", "a kernel with keys"),
    ("keys", "a kernel with keys"),
    ("machine-socket", "a kernel with sockets of virtual machines"),
    ("crypto-socket", "a kernel with sockets for its ciphers"),
    ("block-devices", "a disk that is seen in /dev"),
    ("mount-cgroups", "control groups that are mounted once more"),
    ("perf-events", "`kernel.perf_event_paranoid` or CAP_PERFMON"),
    ("bpf", "CAP_BPF"),
    ("userfaultfd", "a kernel with it"),
    ("io-uring", "a kernel with it, not switched off (`kernel.io_uring_disabled`)"),
    ("ports", "a kernel with I/O ports, and CAP_SYS_RAWIO"),
    ("kernel-core", "a kernel with /proc/kcore"),
    ("kernel-log-file", "CAP_SYSLOG"),
    ("kernel-timers", "a kernel with /proc/timer_list"),
    ("kernel-symbols", "a kernel with /proc/kallsyms"),
    ("sysrq", "a kernel with it"),
    ("write-irq", "a /proc/irq that may be written"),
    ("kexec", "a kernel that can be replaced, and CAP_SYS_BOOT"),
    ("load-module", "a kernel with modules, and CAP_SYS_MODULE"),
    ("accounting", "a kernel with process accounting"),
    ("quotas", "a kernel with quotas"),
    ("swap", "a kernel with swapping"),
    ("engine-socket", "a container engine"),
    ("host-passwords", "an /etc/shadow"),
    ("interfaces", "a network beside loopback"),
    ("inherited-descriptors", "a parent that leaves descriptors open"),
    ("cgroup-path", "a process below the top of a hierarchy"),
    ("leave-cgroup", "control groups that may be written"),
    ("no-address-randomness", "a host that lets programs choose"),
    ("real-time", "a share of real time for the group"),
    ("setuid-honoured", "a root that honours setuid files"),
    ("devices-honoured", "a root that honours devices"),
    ("spare-me-memory", "CAP_SYS_RESOURCE"),
    ("map-users", "a user namespace whose map was not written yet: this host's own always was"),
];

/// Must be able to succeed outside, or the whole proves little.
const AT_LEAST_OUTSIDE: usize = 50;

#[test]
fn every_probe_is_contained() {
    let Some(server) = Server::start(&[("HOB_DRIVER", "sandbox")]) else { return };
    let program = engine::program("probe");
    let image = sandbox::install(&server.folder.path.join("data"), "probe");
    let id = server.function_of("probe", &image, json!({"timeout": 30}));
    let list = Command::new(&program).arg("--list").output().expect("the probe runs");
    let names: Vec<String> = String::from_utf8_lossy(&list.stdout).lines().map(str::to_owned).collect();
    assert!(names.len() >= 40, "{} probes", names.len());

    // Things of the host that a probe tries to reach.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let abstract_name = format!("hob-probe-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(abstract_name.as_bytes()).expect("a name")).expect("a socket");
    let argument = |name: &str| match name {
        "host-port" => port.local_addr().expect("address").to_string(),
        "host-abstract-socket" => abstract_name.clone(),
        _ => String::new(),
    };

    let mut escaped = BTreeMap::new();
    for name in &names {
        let answer = server.call(&id, &[("X-Do", name), ("X-Arg", &argument(name))], b"");
        // Killed with the whole function for what it took is contained, too.
        let said = if answer.status == 502 { format!("no {}", answer.message()) } else { answer.text() };
        println!("{name:<28} {said}");
        if !said.starts_with("no") {
            escaped.insert(name.clone(), said);
        }
    }
    assert!(escaped.is_empty(), "not contained: {escaped:#?}\n{}", server.log());
    // The server, its other functions and the host went on.
    let echo = server.function_of("echo", &sandbox::install(&server.folder.path.join("data"), "echo"), json!({}));
    assert_eq!(server.good_call(&echo, &[], b"still here").text(), "still here");
    server.stop();

    let outside = without_sandbox(&program, &names, &argument);
    let succeeded = outside.values().filter(|said| said.starts_with("yes")).count();
    let mut failed = Vec::new();
    for (name, said) in outside.iter().filter(|(_, said)| !said.starts_with("yes")) {
        match NEEDS.iter().find(|(needy, _)| needy == name) {
            Some((_, what)) => println!("{name:<28} not shown here, it needs {what}: {said}"),
            None => failed.push((name, said)),
        }
    }
    println!("without the sandbox {succeeded} of {} succeed", outside.len());
    assert!(failed.is_empty(), "these fail without the sandbox as well and prove nothing: {failed:#?}");
    assert!(succeeded >= AT_LEAST_OUTSIDE, "{succeeded}: {outside:#?}");
}

/// As root, in mounts, host name and queues of its own, so that nothing of the
/// host is changed. What asks after the first process has one of its own.
fn without_sandbox(program: &std::path::Path, names: &[String], argument: &dyn Fn(&str) -> String) -> BTreeMap<String, String> {
    let scratch = std::env::temp_dir();
    let folder = scratch.to_str().expect("UTF-8");
    let one = |name: &String| {
        let arg = match name.as_str() {
            "execute-from-folder" | "fill-socket-folder" | "files-in-socket-folder" | "fill-tmp" | "fill-shared-memory" => folder.to_owned(),
            other => argument(other),
        };
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--uts", "--ipc"]);
        if name.starts_with("first-process") || name == "enter-namespace" {
            unshare.args(["--pid", "--fork", "--mount-proc", "sh", "-c", "\"$0\" \"$@\"; exit"]);
        }
        let output = unshare.arg(program).args([name, &arg]).output().expect("unshare runs");
        (name.clone(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    names.iter().map(one).collect()
}
