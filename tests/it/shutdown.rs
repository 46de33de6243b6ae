//! Ends: asked for, sudden, refused.

use std::io::Read;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Folder, Server, command, http, sandbox, together, wait_until};

#[test]
fn a_running_call_is_answered_before_the_end() {
    let Some(mut server) = Server::start(&[("HOB_DRAIN_MSECS", "120000")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    let running = server.hold(&echo);
    server.signal(Signal::TERM);
    wait_until("the stop's begin", || server.log().contains("a second signal ends them").then_some(()));
    assert_eq!(running.release().status, 200, "{}", server.log());
    server.gone();
}

#[test]
fn a_call_longer_than_the_drain_is_answered_with_an_error() {
    let Some(mut server) = Server::start(&[("HOB_DRAIN_MSECS", "500")]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 300}));
    let mut running = server.begin_call(&echo, &[("X-Sleep-Ms", "250000")]);
    server.await_queue(&echo, "busy", 1);
    server.signal(Signal::TERM);
    let answer = http::finish(&mut running).expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");
    server.gone();
}

#[test]
fn a_second_signal_ends_running_calls_at_once() {
    let Some(mut server) = Server::start(&[("HOB_DRAIN_MSECS", "250000")]) else { return };
    let echo = server.function("echo", "echo", json!({"timeout": 300}));
    let mut running = server.begin_call(&echo, &[("X-Sleep-Ms", "250000")]);
    server.await_queue(&echo, "busy", 1);
    server.signal(Signal::TERM);
    wait_until("the first signal's word", || server.log().contains("a second signal ends them").then_some(()));
    server.signal(Signal::TERM);
    assert_eq!(http::finish(&mut running).expect("an answer").status, 503);
    server.gone();
}

/// Callers on all sides, and the end in the middle: an answer or an error
/// each, and nothing left.
#[test]
fn an_end_under_load_leaves_nobody_without_an_answer() {
    let Some(mut server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "146800640")]) else { return };
    let functions = [server.function("a", "echo", json!({})), server.function("b", "echo", json!({})), server.function("c", "echo", json!({}))];
    let (address, answered) = (server.address, std::sync::atomic::AtomicU32::new(0));
    let statuses = std::thread::scope(|scope| {
        let (functions, answered) = (&functions, &answered);
        let callers: Vec<_> = (0..24)
            .map(|n| {
                scope.spawn(move || {
                    let mut statuses = Vec::new();
                    loop {
                        // A connection the server no longer takes is the end of this caller.
                        let Ok(mut stream) = http::begin(address, "POST", &format!("/invoke/{}", functions[n % 3]), &[("X-Sleep-Ms", "20")], b"mine") else {
                            break;
                        };
                        let Ok(answer) = http::finish(&mut stream) else { break };
                        assert!(answer.status != 200 || answer.text() == "mine", "{answer:?}");
                        statuses.push(answer.status);
                        answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        if answer.status != 200 {
                            break;
                        }
                    }
                    statuses
                })
            })
            .collect();
        wait_until("calls under way", || (answered.load(std::sync::atomic::Ordering::SeqCst) > 50).then_some(()));
        server.signal(Signal::TERM);
        callers.into_iter().flat_map(|c| c.join().expect("a caller")).collect::<Vec<_>>()
    });
    assert!(statuses.iter().all(|s| [200, 503].contains(s)), "{statuses:?}");
    server.gone();
}

#[test]
fn waiting_callers_are_told_at_once() {
    let Some(mut server) = Server::start(&[("FN_MAX_TOTAL_MEMORY_BYTES", "104857600"), ("HOB_DRAIN_MSECS", "120000")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let running = server.hold(&echo);
    let mut waiting = server.begin_call(&echo, &[]);
    server.await_queue(&echo, "waiting", 1);
    server.signal(Signal::TERM);
    let told = http::finish(&mut waiting).expect("an answer");
    assert_eq!(told.status, 503, "{told:?}");
    assert_eq!(running.release().status, 200, "that went on meanwhile");
    server.gone();
}

#[test]
fn ten_hot_functions_go_in_time() {
    let Some(server) = Server::start(&[]) else { return };
    let functions: Vec<_> = (0..10).map(|n| server.function(&format!("f{n}"), "echo", json!({"memory": 32}))).collect();
    together(10, |n| drop(server.good_call(&functions[n], &[], b"")));
    assert_eq!(server.containers().len(), 10);
    println!("SIGTERM with 10 hot functions: {:?}", server.stop());
}

#[test]
fn a_start_under_way_is_called_off() {
    let Some(mut server) = Server::start(&[("FN_HOT_START_TIMEOUT_MSECS", "300000")]) else { return };
    let late = server.function("late", "hostile", json!({"config": {"HOSTILE": "late:250000"}}));
    let mut waiting = server.begin_call(&late, &[]);
    server.await_queue(&late, "starting", 1);
    server.signal(Signal::TERM);
    assert_eq!(http::finish(&mut waiting).expect("an answer").status, 503);
    server.gone();
}

#[test]
fn a_pull_under_way_is_called_off() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (_registry, image) = crate::launch::silent_registry();
    let id = server.function_of("silent", &image, json!({}));
    let mut waiting = server.begin_call(&id, &[]);
    server.await_queue(&id, "starting", 1);
    server.signal(Signal::TERM);
    assert_eq!(http::finish(&mut waiting).expect("an answer").status, 503);
    server.gone();
}

/// kill -9 leaves containers and folders; the next start removes them first.
#[test]
fn what_a_killed_server_left_is_removed_at_the_next_start() {
    let folder = Folder::new();
    let Some(mut server) = Server::start_in(folder.clone(), &[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    server.good_call(&echo, &[], b"");
    server.signal(Signal::KILL);
    assert_eq!(server.wait(), None, "killed");
    if sandbox::chosen() {
        // A sandbox outlives its server by a moment: nobody has to come for it.
        wait_until("the end of what was left", || server.containers().is_empty().then_some(()));
    } else {
        assert_eq!((server.containers().len(), server.socket_folders()), (1, 1));
    }
    drop(server);
    let server = Server::start_in(folder, &[]).expect("an engine was there");
    assert_eq!((server.containers().len(), server.socket_folders()), (0, 0), "{}", server.log());
    assert_eq!(server.good_call(&echo, &[], b"again").text(), "again", "the function was kept");
    server.stop();
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let first = server.good_call(&echo, &[], b"");
    let mut second = command(&server.folder, &[]).spawn().expect("the program starts");
    let status = wait_until("the second server's end", || second.try_wait().expect("status"));
    let mut said = String::new();
    second.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(!status.success(), "{said}");
    assert!(said.contains("cannot start") && said.contains("fn.db"), "names the store: {said}");
    let next = server.good_call(&echo, &[], b"");
    assert_eq!(first.field("X-Instance"), next.field("X-Instance"), "the first server's container was left alone");
    server.stop();
}
