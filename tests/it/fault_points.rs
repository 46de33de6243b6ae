//! Faults on purpose in the running server: a handler panics, a write fails,
//! there is no thread, no descriptor, no room on the disk. Whoever is hit is
//! told clearly, once; the next ones are served; everything comes back.
//!
//! The points are in debug builds alone (`src/fault.rs`), and so are these
//! tests. Beside them stand the real thing: a full disk, a limit of open
//! files, a limit of threads.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::harness::{Folder, Server, command, http, sandbox, threads, together, wait_until};

/// Descriptors that may be open beside those before: a connection of the
/// test's own, a kept one to the engine; of the sandbox the control group files
/// of a place that was used and will be again.
fn allowed(containers: usize) -> usize {
    if sandbox::chosen() { 24 + 20 * containers } else { 6 + 10 * containers }
}
/// Bodies beyond this are kept in a file.
const LARGE: usize = 300_000;

fn armed(faults: &str) -> Option<Server> {
    Server::start(&[("HOB_FAULTS", faults)])
}

/// How many faults there were, once there is one: a client may see its
/// connection end a moment before the log is read.
fn fired(server: &Server) -> usize {
    wait_until("a fault", || Some(server.log().matches("fault on purpose: ").count()).filter(|count| *count > 0))
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count()
}

/// SIGTERM; as `Server::stop`, but a planned panic may be in the log.
fn end(mut server: Server) {
    server.signal(Signal::TERM);
    let code = server.wait();
    let log = server.log();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(server.containers(), Vec::<Value>::new(), "containers are left\n{log}");
    assert_eq!(server.socket_folders(), 0, "socket folders are left\n{log}");
    let unplanned = log.lines().find(|l| l.contains("illegal move") || (l.contains("panicked at") && !l.contains("src/fault.rs")));
    assert_eq!(unplanned, None, "{log}");
}

/// Calls go well again, nothing is held, the descriptors are back.
fn recovered(server: &Server, function: &str, before: usize) {
    wait_until("calls to go well again", || server.try_call(function, &[], b"again").ok().filter(|r| r.status == 200 && r.body == b"again"));
    for body in [b"one", b"two"] {
        assert_eq!(server.good_call(function, &[], body).body, body);
    }
    for number in ["waiting", "busy", "starting"] {
        server.await_queue(function, number, 0);
    }
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        // Each container holds some: its socket, folder, output, freezer.
        let (now, containers) = (descriptors(server), server.containers().len());
        if now <= before + allowed(containers) {
            return;
        }
        if Instant::now() > until {
            let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").flatten();
            let open: Vec<_> = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
            panic!("{now} descriptors with {containers} containers, {before} before: {open:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What `count` calls in a row came to, an error without a status as 0.
fn statuses(server: &Server, function: &str, count: usize, size: usize) -> Vec<u16> {
    let body = vec![b'x'; size];
    (0..count)
        .map(|_| match server.try_call(function, &[], &body) {
            Ok(answer) => {
                let sound = if answer.status == 200 { answer.body == body } else { !answer.message().is_empty() };
                assert!(sound, "{answer:?}");
                answer.status
            }
            Err(_) => 0,
        })
        .collect()
}

/// One fault among calls: exactly one caller is hit, with `status`.
fn one_is_hit(point: &str, passages: &[usize], kind: &str, size: usize, status: u16) {
    for k in passages {
        let Some(server) = armed(&format!("{point}@{k}={kind}")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let before = descriptors(&server);
        let seen = statuses(&server, &echo, 6, size);
        assert_eq!(fired(&server), 1, "{point}@{k}: {seen:?}\n{}", server.log());
        assert_eq!(seen.iter().filter(|s| **s == status).count(), 1, "{point}@{k}: {seen:?}\n{}", server.log());
        assert!(seen.iter().all(|s| *s == 200 || *s == status), "{point}@{k}: {seen:?}");
        recovered(&server, &echo, before);
        end(server);
    }
}

#[test]
fn a_panic_in_a_handler_costs_its_own_request() {
    one_is_hit("call.begin", &[1, 3], "panic", 10, 500);
    one_is_hit("call.run", &[1, 2, 5], "panic", 10, 500);
    // The first two are the requests that make the function.
    one_is_hit("edge.request", &[3, 6], "panic", 10, 500);
}

#[test]
fn a_panic_among_many_callers_costs_one_of_them() {
    let Some(server) = armed("call.run@7=panic,edge.request@20=panic") else { return };
    let echo = server.function("echo", "echo", json!({}));
    let before = descriptors(&server);
    let seen: Vec<u16> = together(8, |_| statuses(&server, &echo, 5, 100)).concat();
    assert_eq!((seen.iter().filter(|s| **s == 500).count(), seen.iter().filter(|s| **s == 200).count()), (2, 38), "{seen:?}");
    recovered(&server, &echo, before);
    end(server);
}

#[test]
fn a_panic_in_the_management_api_costs_its_own_request() {
    for k in [1, 2, 4] {
        let Some(server) = armed(&format!("api.handler@{k}=panic")) else { return };
        for n in 1..=5 {
            let answer = server.send("POST", "/v2/apps", json!({"name": format!("app{n}")}).to_string().as_bytes());
            assert_eq!(answer.status, if n == k { 500 } else { 200 }, "{answer:?}");
            assert!(answer.json().is_object(), "{answer:?}");
        }
        end(server);
    }
}

#[test]
fn a_panic_in_a_start_is_told_and_the_next_start_goes_well() {
    for k in [1, 2] {
        let Some(server) = armed(&format!("start.job@{k}=panic")) else { return };
        // Two functions: the second start is another one's.
        let functions = [server.function("one", "echo", json!({})), server.function("two", "echo", json!({}))];
        let before = descriptors(&server);
        for (n, function) in (1..).zip(&functions) {
            let answer = server.call(function, &[], b"a");
            assert_eq!(answer.status, if n == k { 502 } else { 200 }, "{answer:?}\n{}", server.log());
        }
        functions.iter().for_each(|function| recovered(&server, function, before));
        end(server);
    }
}

#[test]
fn a_panic_of_a_launcher_leaves_no_caller_alone() {
    for k in [1, 2] {
        let Some(server) = armed(&format!("launcher.round@{k}=panic")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let before = descriptors(&server);
        assert_eq!(statuses(&server, &echo, 3, 100), [200; 3], "{}", server.log());
        assert_eq!(fired(&server), 1);
        recovered(&server, &echo, before);
        end(server);
    }
    // For two seconds always: no container comes, and each is told when its time
    // is over, the first, who waits in a thread, and those who sleep behind it.
    let Some(server) = Server::start(&[("HOB_FAULTS", "launcher.round@1-20=panic"), ("HOB_MAX_WAIT_MSECS", "600")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let before = descriptors(&server);
    let mut line = Vec::new();
    for n in 1..=6 {
        line.push(server.begin_call(&echo, &[]));
        server.await_queue(&echo, "waiting", n);
    }
    for stream in &mut line {
        let answer = http::finish(stream).expect("an answer");
        assert!(answer.status == 503 && answer.message().contains("HOB_MAX_WAIT_MSECS"), "{answer:?}");
    }
    recovered(&server, &echo, before);
    end(server);
}

#[test]
fn a_panic_in_a_detached_run_is_only_one_try() {
    for k in [1, 2] {
        let Some(server) = armed(&format!("detached.run@{k}=panic")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let calls: Vec<String> = (0..3)
            .map(|_| {
                let answer = server.call(&echo, &[("Fn-Invoke-Type", "detached")], b"later");
                assert_eq!(answer.status, 202, "{answer:?}");
                answer.field("Fn-Call-Id").expect("an id").to_owned()
            })
            .collect();
        for call in calls {
            wait_until("the detached call's good end", || {
                let record = server.send("GET", &format!("/v2/fns/{echo}/calls/{call}"), b"");
                (record.status == 200 && record.json()["status"] == "success").then_some(())
            });
        }
        assert_eq!(fired(&server), 1);
        end(server);
    }
}

#[test]
fn a_write_that_fails_costs_its_own_client() {
    // The answer cannot be written: that client sees its connection end.
    one_is_hit("client.write", &[3, 5, 8], "write-fails", 10, 0);
    one_is_hit("client.write", &[4], "write-fails", LARGE, 0);
}

#[test]
fn a_write_to_a_function_that_fails_is_made_again_or_told() {
    // Once: on a new connection, and nobody notices.
    for k in [1, 3] {
        let Some(server) = armed(&format!("function.write@{k}=write-fails")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        assert_eq!(statuses(&server, &echo, 5, 100), [200; 5]);
        assert_eq!(fired(&server), 1);
        end(server);
    }
    // Always, for a while: the caller is told, and it ends.
    let Some(server) = armed("function.write@2-40=write-fails") else { return };
    let echo = server.function("echo", "echo", json!({}));
    let before = descriptors(&server);
    let seen = statuses(&server, &echo, 3, 100);
    assert!(seen[0] == 200 && seen[1] == 502, "{seen:?}\n{}", server.log());
    recovered(&server, &echo, before);
    end(server);
}

#[test]
fn without_a_thread_for_a_client_it_is_told_or_waits_for_another() {
    for which in ["2", "3", "2-4"] {
        // The first one is `edge-poll`.
        let Some(server) = armed(&format!("thread.edge-@{which}=no-thread")) else { return };
        let made = wait_until("an app", || {
            let answer = server.send("POST", "/v2/apps", br#"{"name": "first"}"#);
            assert!(answer.status == 503 || answer.status == 200 || answer.status == 409, "{answer:?}");
            (answer.status != 503).then_some(answer)
        });
        assert_eq!(made.status, 200);
        let echo = server.function("echo", "echo", json!({}));
        let before = descriptors(&server);
        let seen = together(6, |_| server.call(&echo, &[("X-Sleep-Ms", "50")], b"x").status);
        assert!(seen.iter().all(|s| [200, 503].contains(s)), "{seen:?}");
        recovered(&server, &echo, before);
        end(server);
    }
}

#[test]
fn without_a_thread_for_a_new_queue_its_caller_is_told_to_come_again() {
    let Some(server) = armed("thread.hot-launch@1=no-thread") else { return };
    let echo = server.function("echo", "echo", json!({}));
    let before = descriptors(&server);
    let answer = server.call(&echo, &[], b"");
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")), "{answer:?}");
    recovered(&server, &echo, before);
    end(server);
}

/// Crews grow as work comes; without one more thread others do it, or whoever
/// asked for it.
#[test]
fn without_a_thread_for_slow_work_it_is_done_all_the_same() {
    for name in ["hot-start-@1", "hot-start-@1+", "hot-stop-@1+", "detached-@2+"] {
        let Some(server) = armed(&format!("thread.{name}=no-thread")) else { return };
        let functions = [server.function("one", "echo", json!({})), server.function("two", "echo", json!({"annotations": {"hob/max-calls": 1}}))];
        let before = descriptors(&server);
        let seen: Vec<u16> = together(4, |n| statuses(&server, &functions[n % 2], 2, 100)).concat();
        assert_eq!(seen, [200; 8], "{name}: {}", server.log());
        let calls: Vec<_> = (0..3).map(|_| server.call(&functions[0], &[("Fn-Invoke-Type", "detached")], b"later")).collect();
        for call in calls {
            let (id, function) = (call.field("Fn-Call-Id").expect("an id").to_owned(), &functions[0]);
            wait_until("the detached call's good end", || {
                let record = server.send("GET", &format!("/v2/fns/{function}/calls/{id}"), b"");
                (record.status == 200 && record.json()["status"] == "success").then_some(())
            });
        }
        assert!(fired(&server) > 0, "{name}: {}", server.log());
        functions.iter().for_each(|function| recovered(&server, function, before));
        end(server);
    }
}

/// Runs the program until it ends by itself; its code and last words.
fn run_to_end(folder: &Folder, faults: &str) -> (Option<i32>, String) {
    let mut child = command(folder, &[("HOB_FAULTS", faults)]).spawn().expect("the program starts");
    let status = wait_until("the end of a server that cannot start", || child.try_wait().expect("status"));
    let mut said = String::new();
    let _ = std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut said);
    (status.code(), said)
}

#[test]
fn a_start_without_a_thread_ends_and_leaves_nothing() {
    let folder = Folder::new();
    let Some(server) = Server::start_in(folder.clone(), &[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.stop();
    let mut names = vec!["edge-poll", "api-2", "hot-logs", "uds-watch", "calls-writer", "detached-1"];
    names.extend(if sandbox::chosen() { &["sandbox-reaper"][..] } else { &["docker-events", "docker-discard", "docker-pulse"] });
    for name in names {
        let (code, said) = run_to_end(&folder, &format!("thread.{name}@1=no-thread"));
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.contains(name), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    // The lock, the socket and the database are free again.
    let Some(server) = Server::start_in(folder, &[("HOB_FAULTS", "thread.hob-signals@1=no-thread")]) else { return };
    server.good_call(&echo, &[], b"");
    // And a stop without its second listener for signals is a stop.
    end(server);
}

#[test]
fn without_a_descriptor_to_accept_clients_wait_and_are_served() {
    for which in ["1", "4-6", "3-9"] {
        let Some(server) = armed(&format!("accept@{which}=no-descriptor")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let before = descriptors(&server);
        let seen: Vec<u16> = together(6, |_| statuses(&server, &echo, 3, 100)).concat();
        assert_eq!(seen, [200; 18], "{}", server.log());
        assert!(fired(&server) > 0);
        recovered(&server, &echo, before);
        end(server);
    }
}

#[test]
fn without_a_descriptor_on_the_way_of_a_call_its_caller_is_told() {
    // To keep a body: 503 and to come again.
    one_is_hit("spool.open", &[1, 4], "no-descriptor", LARGE, 503);
    // To watch for the function's socket: the start fails.
    let mut starts = vec!["watch.add"];
    if !sandbox::chosen() {
        starts.push("iofs.open");
    }
    for point in starts {
        let Some(server) = armed(&format!("{point}@1=no-descriptor")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let before = descriptors(&server);
        let answer = server.call(&echo, &[], b"");
        assert!(answer.status == 500 && answer.message().contains("open files"), "{point}: {answer:?}");
        recovered(&server, &echo, before);
        end(server);
    }
    // To ask the function: another try, another container, or a 502.
    for which in ["1", "2", "3-6", "2-30"] {
        let Some(server) = armed(&format!("function.dial@{which}=no-descriptor")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let before = descriptors(&server);
        let seen = statuses(&server, &echo, 5, 100);
        assert!(seen.iter().all(|s| [200, 502].contains(s)), "{which}: {seen:?}");
        recovered(&server, &echo, before);
        end(server);
    }
}

/// The way to the management API and, with docker, to the engine.
#[test]
fn without_a_descriptor_for_a_connection_inside_the_request_is_told() {
    for k in 1..=14 {
        let folder = Folder::new();
        let faults = format!("dial@{k}=no-descriptor");
        if !sandbox::chosen() && k == 1 {
            // The engine is asked first of all.
            let (code, said) = run_to_end(&folder, &faults);
            assert!(code == Some(1) && said.contains("open files"), "{k}: {code:?} {said}");
            continue;
        }
        let Some(server) = Server::start_in(folder, &[("HOB_FAULTS", &faults)]) else { return };
        let create = |name: &str| {
            wait_until("a function", || {
                let app = server.send("POST", "/v2/apps", json!({"name": name}).to_string().as_bytes());
                assert!([200, 409, 502, 503].contains(&app.status), "{app:?}");
                (app.status == 200).then(|| app.json()["id"].as_str().expect("id").to_owned())
            })
        };
        let app = create("mine");
        let spec = json!({"app_id": app, "name": "echo", "image": server.image("echo"), "memory": 64, "timeout": 20});
        let made = wait_until("a function", || {
            let made = server.send("POST", "/v2/fns", spec.to_string().as_bytes());
            assert!([200, 502, 503].contains(&made.status), "{made:?}");
            (made.status == 200).then_some(made)
        });
        let echo = made.json()["id"].as_str().expect("id").to_owned();
        let seen = statuses(&server, &echo, 2, 100);
        assert!(seen.iter().all(|s| [200, 502, 503].contains(s)), "{k}: {seen:?}\n{}", server.log());
        recovered(&server, &echo, descriptors(&server));
        end(server);
    }
}

#[test]
fn a_full_disk_is_told_to_whom_it_hits() {
    // Three writes for each body.
    one_is_hit("spool.write", &[1, 2, 5], "disk-full", LARGE, 507);
    for k in [1, 2, 4] {
        let Some(server) = armed(&format!("store.commit@{k}=disk-full")) else { return };
        for n in 1..=5 {
            let answer = server.send("POST", "/v2/apps", json!({"name": format!("app{n}")}).to_string().as_bytes());
            assert_eq!(answer.status, if n == k { 507 } else { 200 }, "{answer:?}");
        }
        let listed = server.manage("GET", "/v2/apps", &Value::Null);
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(4), "what was refused is not there: {listed}");
        end(server);
    }
    if !sandbox::chosen() {
        let Some(server) = armed("iofs.make@1=disk-full") else { return };
        let echo = server.function("echo", "echo", json!({}));
        let answer = server.call(&echo, &[], b"");
        assert!(answer.status == 500 && answer.message().contains("No space left"), "{answer:?}");
        recovered(&server, &echo, descriptors(&server));
        end(server);
    }
}

#[test]
fn a_full_disk_of_kept_calls_refuses_detached_ones_and_no_others() {
    for which in ["1", "2-4"] {
        let Some(server) = armed(&format!("calls.commit@{which}=disk-full")) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let mut kept = Vec::new();
        let mut refused = 0;
        for _ in 0..8 {
            let answer = server.call(&echo, &[("Fn-Invoke-Type", "detached")], b"later");
            match answer.status {
                202 => kept.push(answer.field("Fn-Call-Id").expect("an id").to_owned()),
                503 => refused += 1,
                _ => panic!("{answer:?}"),
            }
            assert_eq!(server.good_call(&echo, &[], b"now").body, b"now");
        }
        assert!(fired(&server) > 0 && kept.len() + refused == 8, "{}", server.log());
        for call in kept {
            wait_until("an accepted call's good end", || {
                let record = server.send("GET", &format!("/v2/fns/{echo}/calls/{call}"), b"");
                (record.status == 200 && record.json()["status"] == "success").then_some(())
            });
        }
        end(server);
    }
}

/// Whatever hangs at the stop is named, and the exit code says so; the next
/// start takes away what was left.
#[test]
fn what_does_not_end_at_the_stop_is_named_and_the_code_is_3() {
    let cases = [
        ("call.run@1=hang", "calls that did not end"),
        ("start.job@1=hang", "container start"),
        // The first two are the requests that make the function.
        ("edge.request@3=hang", "edge-"),
        ("api.handler@3=hang", "the management API"),
    ];
    for (faults, words) in cases {
        let folder = Folder::new();
        let Some(mut server) = Server::start_in(folder.clone(), &[("HOB_FAULTS", faults), ("HOB_DRAIN_MSECS", "300")]) else { return };
        let echo = server.function("echo", "echo", json!({}));
        let held = if faults.starts_with("api.") {
            http::begin(server.address, "GET", "/v2/apps", &[], b"").expect("connected")
        } else {
            server.begin_call(&echo, &[])
        };
        wait_until("the fault", || (fired(&server) == 1).then_some(()));
        server.signal(Signal::TERM);
        let code = server.wait();
        let log = server.log();
        let last = log.lines().rfind(|l| l.contains("left behind")).unwrap_or_default().to_owned();
        assert!(code == Some(3) && last.contains(words), "{faults}: {code:?}, {log}");
        drop((held, server));
        let Some(server) = Server::start_in(folder, &[]) else { return };
        recovered(&server, &echo, descriptors(&server));
        end(server);
    }
}

/// A small file system of the test's own, taken away with it.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// `None`: skipped, nothing may be mounted here; with `CI=true` that fails.
    fn mount(path: &Path, mib: u32) -> Option<Disk> {
        std::fs::create_dir_all(path).expect("a folder");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "hob-it"]).arg(path).output();
        if done.as_ref().is_ok_and(|d| d.status.success()) {
            return Some(Disk { path: path.to_owned() });
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no tmpfs can be mounted, and CI=true promises one: {done:?}");
        println!("SKIPPED: no tmpfs can be mounted");
        None
    }

    /// Takes all the room there is, until the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = std::fs::File::create(&path).expect("created");
        let part = vec![0; 64 * 1024];
        while std::io::Write::write_all(&mut file, &part).is_ok() {}
        while std::io::Write::write_all(&mut file, &part[..1024]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[test]
fn a_disk_that_is_really_full_is_survived() {
    let folder = Folder::new();
    let Some(disk) = Disk::mount(&folder.path.join("data"), 96) else { return };
    {
        let Some(server) = Server::start_in(folder.clone(), &[]) else { return };
        let warm = server.function("warm", "echo", json!({}));
        let cold = server.function("cold", "echo", json!({}));
        server.good_call(&warm, &[], b"");
        let before = descriptors(&server);
        let filler = disk.fill();

        let seen = statuses(&server, &warm, 2, LARGE);
        assert_eq!(seen, [507; 2], "a large body: {}", server.log());
        assert_eq!(statuses(&server, &warm, 3, 1000), [200; 3], "warm calls need no disk");
        // What fits into pages that are there already may still be written.
        let refused = wait_until("a write that is refused", || {
            let name: String = format!("app-{}", "x".repeat(200));
            let answer = server.send("POST", "/v2/apps", json!({"name": name, "config": {"K": "y".repeat(60_000)}}).to_string().as_bytes());
            (answer.status != 200 && answer.status != 409).then_some(answer)
        });
        assert_eq!(refused.status, 507, "{refused:?}\n{}", server.log());
        let detached = server.call(&warm, &[("Fn-Invoke-Type", "detached")], &vec![b'd'; 200_000]);
        assert_eq!(detached.status, 503, "{detached:?}\n{}", server.log());
        let start = server.call(&cold, &[], b"");
        assert!(start.status == 200 || (start.status == 500 && start.message().contains("No space left")), "{start:?}");
        assert_eq!(server.send("GET", "/v2/apps", b"").status, 200);

        std::fs::remove_file(filler).expect("removed");
        assert_eq!(statuses(&server, &warm, 2, LARGE), [200; 2]);
        recovered(&server, &warm, before);
        recovered(&server, &cold, before);
        wait_until("writes to go well again", || {
            let answer = server.send("POST", "/v2/apps", br#"{"name": "after"}"#);
            assert!([200, 507].contains(&answer.status), "{answer:?}");
            (answer.status == 200).then_some(())
        });
        assert_eq!(server.call(&warm, &[("Fn-Invoke-Type", "detached")], b"d").status, 202);
        end(server);
        // What was answered is there; a full disk at the stop is one, too.
        let Some(server) = Server::start_in(folder.clone(), &[]) else { return };
        let list = server.manage("GET", "/v2/apps", &Value::Null);
        assert!(list["items"].as_array().is_some_and(|apps| apps.iter().any(|a| a["name"] == "after")), "{list}");
        server.good_call(&warm, &[], b"");
        let _filler = disk.fill();
        end(server);
    }
    drop(disk);
}

#[test]
fn a_real_limit_of_open_files_is_survived() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let other = server.function("other", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let before = descriptors(&server);
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid"));
    let set = |limit: Rlimit| prlimit(pid, Resource::Nofile, limit).expect("the limit is set");
    // The soft limit only: that may be raised again without a privilege.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let whole = set(Rlimit { current: Some(before as u64 + 4), maximum });
    let seen: Vec<u16> = std::thread::scope(|scope| {
        let callers = scope.spawn(|| {
            together(16, |n| {
                let size = if n % 4 == 0 { LARGE } else { 100 };
                statuses(&server, if n % 5 == 0 { &other } else { &echo }, 3, size)
            })
            .concat()
        });
        wait_until("the server to feel it", || server.log().contains("cannot accept connections").then_some(()));
        set(whole);
        callers.join().expect("callers")
    });
    assert!(seen.iter().all(|s| [200, 500, 502, 503].contains(s)), "each has one whole answer: {seen:?}\n{}", server.log());
    assert!(seen.contains(&200), "{seen:?}");
    recovered(&server, &echo, before);
    recovered(&server, &other, before);
    end(server);
}

/// A control group of the test's own that counts tasks.
struct Tasks {
    path: PathBuf,
    /// Where its processes go back to.
    parent: PathBuf,
}

impl Tasks {
    fn new(tag: &str) -> Option<Tasks> {
        let old = Path::new("/sys/fs/cgroup/pids");
        let parent = if old.is_dir() { old.to_owned() } else { PathBuf::from("/sys/fs/cgroup") };
        let path = parent.join(format!("hob-{tag}"));
        let made = std::fs::create_dir(&path).and_then(|()| std::fs::read_to_string(path.join("pids.max")));
        if made.is_ok() {
            return Some(Tasks { path, parent });
        }
        let _ = std::fs::remove_dir(&path);
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no control group for tasks, and CI=true promises one: {made:?}");
        println!("SKIPPED: no control group for tasks");
        None
    }

    fn set(&self, file: &str, value: &str) {
        std::fs::write(self.path.join(file), value).unwrap_or_else(|e| panic!("{file} = {value}: {e}"));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for pid in std::fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write(self.parent.join("cgroup.procs"), pid);
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[test]
fn a_real_limit_of_threads_is_survived() {
    let folder: Arc<Folder> = Folder::new();
    let Some(tasks) = Tasks::new(&folder.tag) else { return };
    let Some(server) = Server::start_in(folder, &[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let before = descriptors(&server);
    tasks.set("cgroup.procs", &server.pid().to_string());
    tasks.set("pids.max", &(threads(server.pid()).len() + 1).to_string());
    // More callers than there are threads, one of them on a new queue.
    let other = server.function("other", "echo", json!({}));
    let seen: Vec<u16> = together(20, |n| {
        let function = if n == 7 { &other } else { &echo };
        let answer = http::send(server.address, "POST", &format!("/invoke/{function}"), &[("X-Sleep-Ms", "20")], b"x").expect("one whole answer");
        answer.status
    });
    assert!(seen.iter().all(|s| [200, 503].contains(s)) && seen.contains(&200), "{seen:?}\n{}", server.log());
    assert!(server.log().contains("cannot start thread"), "it was felt: {}", server.log());
    tasks.set("pids.max", "max");
    recovered(&server, &echo, before);
    recovered(&server, &other, before);
    end(server);
}
