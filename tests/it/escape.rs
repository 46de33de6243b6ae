//! A hostile function in the sandbox: every probe of `functions/probe` is
//! refused, the host is unharmed. Each is also run as root without the sandbox,
//! where that is safe, to see that what it tries can succeed at all.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use serde_json::json;

use crate::harness::{Server, engine, sandbox};

/// Without the sandbox these say no on a usual host as well, or would harm it:
/// there is nothing to compare with.
#[rustfmt::skip]
const NOT_OUTSIDE: &[&str] = &[
    // Depends on the host: its devices, files, modules, terminals, kernel options.
    "terminal-input", "kernel-keys", "machine-socket", "crypto-socket", "block-devices", "mount-cgroups", "perf-events", "ports", "kernel-core",
    "load-module", "accounting", "quotas", "swap", "engine-socket", "host-passwords", "interfaces", "inherited-descriptors", "io-uring", "userfaultfd",
    "bpf", "keys", "write-irq", "cgroup-path", "kernel-log-file", "kernel-timers", "kernel-symbols", "no-address-randomness", "real-time", "leave-cgroup",
    "setuid-honoured", "devices-honoured", "map-users",
    // Depends on what root may do to the host's first process and to itself.
    "enter-namespace", "first-process-environment", "first-process-memory", "spare-me-memory",
];

/// Must be able to succeed outside, or the probe proves nothing.
const AT_LEAST_OUTSIDE: usize = 40;

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
    let failed: Vec<_> = outside.iter().filter(|(name, said)| !said.starts_with("yes") && !NOT_OUTSIDE.contains(&name.as_str())).collect();
    println!("without the sandbox {succeeded} of {} succeed", outside.len());
    assert!(failed.is_empty(), "these fail without the sandbox as well and prove nothing: {failed:#?}");
    assert!(succeeded >= AT_LEAST_OUTSIDE, "{succeeded}: {outside:#?}");
}

/// As root, in mounts, host name and queues of its own, so that nothing of the
/// host is changed; what would harm it even so is left out.
fn without_sandbox(program: &std::path::Path, names: &[String], argument: &dyn Fn(&str) -> String) -> BTreeMap<String, String> {
    let harmful = ["sysrq", "kexec", "unmount"];
    let scratch = std::env::temp_dir();
    let folder = scratch.to_str().expect("UTF-8");
    names
        .iter()
        .filter(|name| !harmful.contains(&name.as_str()))
        .map(|name| {
            let arg = match name.as_str() {
                "execute-from-folder" | "fill-socket-folder" | "files-in-socket-folder" | "fill-tmp" | "fill-shared-memory" => folder.to_owned(),
                other => argument(other),
            };
            let output = Command::new("unshare").args(["--mount", "--uts", "--ipc"]).arg(program).args([name, &arg]).output().expect("unshare runs");
            (name.clone(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
        })
        .collect()
}
