//! The folders functions put their sockets in, as a tmpfs each.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Server, container_pid, sandbox, wait_until};

/// Mounts below `path`, as the kernel lists them for `process`.
fn mounts(process: &str, path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/mounts")).expect("mounts");
    text.lines().filter(|l| l.split(' ').nth(1).is_some_and(|at| Path::new(at).starts_with(path))).map(str::to_owned).collect()
}

#[test]
fn a_function_has_a_small_tmpfs_for_its_socket_and_nothing_of_it_stays() {
    let Some(mut server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let pid = container_pid(&server.containers()[0]).to_string();
    let inside = mounts(&pid, Path::new("/tmp/iofs"));
    if !rustix::process::geteuid().is_root() {
        assert!(server.log().contains("sockets   plain folders in "), "{}", server.log());
        server.stop();
        return;
    }
    assert_eq!(inside.len(), 1, "{inside:?}\n{}", server.log());
    let mut words = vec!["tmpfs", "nosuid", "nodev", "noexec", "nr_inodes=64"];
    if !sandbox::chosen() {
        words.push("size=1024k");
        assert!(server.log().contains("sockets   a tmpfs for each container (size=1m,nr_inodes=64,mode=0777)"), "{}", server.log());
    }
    for word in words {
        assert!(inside[0].contains(word), "{word} in {inside:?}");
    }
    // Killed, it leaves its mounts to the next one.
    let folder = server.folder.clone();
    let left = || mounts("self", &folder.path).len();
    assert_eq!(left(), usize::from(!sandbox::chosen()));
    server.signal(Signal::KILL);
    server.wait();
    drop(server);
    let Some(server) = Server::start_in(folder.clone(), &[]) else { return };
    wait_until("the mounts of the killed server to go", || (left() == 0).then_some(()));
    server.good_call(&echo, &[], b"");
    server.stop();
    assert_eq!(left(), 0);
}

#[test]
fn told_so_it_has_a_plain_folder() {
    let Some(server) = Server::start(&[("FN_IOFS_TMPFS", "false")]) else { return };
    if sandbox::chosen() {
        server.stop();
        return;
    }
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    assert!(mounts("self", &server.folder.path).is_empty());
    assert!(server.log().contains("sockets   plain folders in ") && server.log().contains("FN_IOFS_TMPFS=false"), "{}", server.log());
    server.stop();
}
