//! Requests, connections, and the socket's place.

use super::*;

#[test]
fn the_request_on_the_wire() {
    let function = function(
        [act(|s, asked| {
            let text = format!("{}{}", asked.head, String::from_utf8_lossy(&asked.body));
            let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
        })],
        false,
    );
    let mut socket = function.open();
    let done = call(&mut socket, LONG);
    let wanted = format!(
        "POST /call HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nX-A: 2\r\nFn-Call-Id: {}\r\nFn-Deadline: 2023-11-14T22:13:20Z\r\nContent-Length: 4\r\n\r\nping",
        done.id
    );
    assert_eq!(done.client.body().map(|b| String::from_utf8_lossy(b).into_owned()), Some(wanted));
}

/// Answers with the length and a sum of what it read.
fn sums(s: &mut UnixStream, asked: &Asked) {
    let sum: u64 = asked.body.iter().map(|b| u64::from(*b)).sum();
    let text = format!("{} {sum}", asked.body.len());
    let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
}

fn file_of(bytes: &[u8]) -> Body {
    let path = std::env::temp_dir().join(format!("hob-body-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst)));
    std::fs::write(&path, bytes).expect("write");
    let file = std::fs::File::open(&path).expect("open");
    std::fs::remove_file(&path).expect("unlink");
    Body::File { file, len: bytes.len() as u64 }
}

#[test]
fn bodies_of_every_size_arrive() {
    let stop = Stop::new().expect("eventfd");
    for size in [0, 1, 1000, 200_000, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let sum: u64 = bytes.iter().map(|b| u64::from(*b)).sum();
        for body in [Body::Memory(bytes.clone()), file_of(&bytes)] {
            let function = function([act(sums)], false);
            let mut socket = function.open();
            let done = call_with(&mut socket, Client::default(), &body, &LIMITS, LONG, &stop);
            assert_eq!(done.client.body().map(|b| String::from_utf8_lossy(b).into_owned()), Some(format!("{size} {sum}")), "{:?}", done.result);
            next_is_own(&function, &mut socket, done.fate, "big body");
        }
    }
}

#[test]
fn a_stored_body_that_shrank_is_an_error_at_once() {
    let Body::File { file, .. } = file_of(b"short") else { panic!("a file") };
    let function = function([], false);
    let mut socket = function.open();
    let stop = Stop::new().expect("eventfd");
    let done = call_with(&mut socket, Client::default(), &Body::File { file, len: 6 }, &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::Internal(_))) && done.fate == Fate::Discard, "{:?}", done.result);
}

#[test]
fn early_answers_to_big_bodies() {
    let stop = Stop::new().expect("eventfd");
    let bytes = vec![7; 3_000_000];
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";
    let early = |close: bool| Act {
        early: true,
        run: Box::new(move |s, _| {
            let _ = s.write_all(answer.as_bytes());
            if !close {
                let _ = s.shutdown(std::net::Shutdown::Write);
                until_closed(s);
            }
        }),
    };
    for body in [Body::Memory(bytes.clone()), file_of(&bytes)] {
        let function = function([early(false), early(true), early(true)], true);
        let mut socket = function.open();
        let done = call_with(&mut socket, Client::default(), &body, &LIMITS, LONG, &stop);
        assert!(done.result.is_ok() && done.client.body() == Some(b"pong"), "{:?}", done.result);
        assert_eq!(done.fate, Fate::Reuse);
        socket.ready_next();
        // Answers and closes with the request unread: the reset may eat the
        // answer, but it is one or the other, never a hang.
        for _ in 0..2 {
            let done = call_with(&mut socket, Client::default(), &body, &LIMITS, LONG, &stop);
            assert!(done.client.body() == Some(b"pong") || no_answer_of(&done), "{:?}", done.result);
            if done.fate == Fate::Reuse { socket.ready_next() } else { socket = function.open() }
        }
        next_is_own(&function, &mut socket, Fate::Discard, "early");
    }
    // Hangs up without reading.
    let hang_up = Act { early: true, run: Box::new(|_, _| ()) };
    let function = function([hang_up], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(bytes.clone()), &LIMITS, LONG, &stop);
    assert!(no_answer_of(&done) && done.fate == Fate::Discard, "{:?}", done.result);
    // Never reads.
    let never = Act { early: true, run: Box::new(|_, asked| until_gone(asked)) };
    let function = self::function([never], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &file_of(&bytes), &LIMITS, SHORT, &stop);
    assert!(matches!(done.result, Err(CallError::Timeout { .. })) && done.fate == Fate::Discard, "{:?}", done.result);
    // Streams the body back while it still reads: neither side may block.
    let echo = Act {
        early: true,
        run: Box::new(|s, asked| {
            let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", asked.len).as_bytes());
            let mut piece = vec![0; 10_000];
            let mut left = asked.len;
            while left > 0 {
                let n = s.read(&mut piece).unwrap_or(0);
                if n == 0 || s.write_all(&piece[..n]).is_err() {
                    return;
                }
                left -= n;
            }
        }),
    };
    let function = self::function([echo], false);
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &file_of(&bytes), &Limits { max_body: 0, ..LIMITS }, LONG, &stop);
    assert!(done.result.is_ok() && done.client.body() == Some(&bytes), "{:?}", done.result);
    next_is_own(&function, &mut socket, done.fate, "echo");
}

/// Waits a while without reading: longer than the call's own time-out.
fn until_gone(_: &Asked) {
    crate::uds::net::pause(None, SHORT * 4);
}

#[test]
fn a_client_that_leaves() {
    let stop = Stop::new().expect("eventfd");
    let ping = Body::Memory(b"ping".to_vec());
    // It leaves while the function works; the function ends within the grace.
    let (here, there) = UnixStream::pair().expect("pair");
    let function = function(
        [act(move |s, asked| {
            drop(there);
            crate::uds::net::pause(None, Duration::from_millis(50));
            good(s, asked, false);
        })],
        false,
    );
    let mut socket = function.open();
    let done = call_with(&mut socket, Client { socket: Some(here), ..Client::default() }, &ping, &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::ClientGone)) && done.fate == Fate::Reuse && done.client.calls == 0, "{:?}", done.result);
    next_is_own(&function, &mut socket, done.fate, "left, in time");
    // It leaves and the function does not end.
    let (here, there) = UnixStream::pair().expect("pair");
    let function = self::function(
        [act(move |s, _| {
            drop(there);
            until_closed(s);
        })],
        false,
    );
    let mut socket = function.open();
    let done = call_with(&mut socket, Client { socket: Some(here), ..Client::default() }, &ping, &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::ClientGone)) && done.fate == Fate::Discard && done.client.calls == 0, "{:?}", done.result);
    assert!(done.took >= Duration::from_millis(900) && done.took < Duration::from_secs(60), "{:?}", done.took);
    next_is_own(&function, &mut socket, done.fate, "left, never ends");
    // Writing to it fails: at the whole answer, the begin, the data, the end.
    let long = [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".to_vec(), vec![b'x'; 500]].concat();
    let small = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong".to_vec();
    for (text, fails_at) in [(small, 1), (long.clone(), 1), (long.clone(), 2), (long, 3)] {
        let function = self::function([says_and_waits(text)], false);
        let mut socket = function.open();
        let done = call_with(&mut socket, Client { fails_at: Some(fails_at), ..Client::default() }, &ping, &LIMITS, LONG, &stop);
        assert!(matches!(done.result, Err(CallError::ClientGone)) && done.fate == Fate::Reuse, "{fails_at}: {:?}", done.result);
        next_is_own(&function, &mut socket, done.fate, "write failed");
    }
}

#[test]
fn a_stop_ends_the_wait() {
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let firing = stop.clone();
    let function = function(
        [act(move |s, _| {
            firing.fire();
            until_closed(s);
        })],
        false,
    );
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &LIMITS, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::Draining)) && done.fate == Fate::Discard, "{:?}", done.result);
    // Also while the function never falls silent.
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let firing = stop.clone();
    let function = self::function(
        [act(move |s, _| {
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let mut n = 0;
            while s.write_all(&[b'x'; 60_000]).is_ok() {
                n += 1;
                if n == 100 {
                    firing.fire();
                }
            }
        })],
        false,
    );
    let mut socket = function.open();
    let done = call_with(&mut socket, Client::default(), &Body::Memory(vec![]), &Limits { max_body: 0, ..LIMITS }, LONG, &stop);
    assert!(matches!(done.result, Err(CallError::Broken { .. })) && done.fate == Fate::Discard, "{:?}", done.result);
    assert!(done.took < Duration::from_secs(60));
}

fn connection_of(done: &Done) -> String {
    let (fields, _) = done.client.whole.as_ref().expect("whole");
    String::from_utf8(fields.iter().find(|(n, _)| n == "X-Connection").expect("field").1.clone()).expect("text")
}

#[test]
fn connections_are_fresh_or_kept_by_the_rule() {
    for (echo, wanted) in [(false, ["0", "1", "2", "3"]), (true, ["0", "0", "0", "0"])] {
        let function = function([], echo);
        let mut socket = function.open();
        for wanted in wanted {
            let done = call(&mut socket, LONG);
            assert_eq!((done.client.body(), connection_of(&done).as_str()), (Some(done.id.as_str().as_bytes()), wanted), "{:?}", done.result);
            socket.ready_next();
        }
    }
    // Forgetting ready_next costs time, never an answer.
    let function = function([], false);
    let mut socket = function.open();
    for _ in 0..3 {
        let done = call(&mut socket, LONG);
        assert_eq!(done.client.body(), Some(done.id.as_str().as_bytes()));
    }
}

/// Brings a connection into the kept state, then plays `act` on it.
fn on_kept(name: &str, then: Act, timeout: Duration, check: impl Fn(&Done) -> bool, fate: Fate) {
    let function = function([], true);
    let mut socket = function.open();
    for _ in 0..2 {
        let done = call(&mut socket, LONG);
        assert_eq!(connection_of(&done), "0");
        socket.ready_next();
    }
    function.acts.lock().push_back(then);
    let done = call(&mut socket, timeout);
    assert!(check(&done), "{name}: {:?} {:?}", done.result, done.client.body().map(|b| b.escape_ascii().to_string()));
    assert_eq!(done.fate, fate, "{name}");
    next_is_own(&function, &mut socket, fate, name);
}

#[test]
fn on_a_kept_connection_only_the_own_answer_counts() {
    let answer = |id: &str, body: &str| format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {id}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let foreign = answer("01HF7YAT3V180G40RZJ0000001", "evil");
    let pong = |d: &Done| d.result.is_ok() && d.client.body() == Some(b"pong");
    let late = |d: &Done| matches!(d.result, Err(CallError::Timeout { .. })) && d.client.calls == 0;
    let text = foreign.clone();
    on_kept(
        "a foreign answer first",
        act(move |s, a| {
            let _ = s.write_all((text + &answer(&a.id, "pong")).as_bytes());
            until_closed(s);
        }),
        LONG,
        pong,
        Fate::Reuse,
    );
    let text = foreign.replace("Content-Length: 4\r\n\r\nevil", "Transfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n");
    on_kept(
        "a chunked foreign answer first",
        act(move |s, a| {
            let _ = s.write_all((text + &answer(&a.id, "pong")).as_bytes());
            until_closed(s);
        }),
        LONG,
        pong,
        Fate::Reuse,
    );
    on_kept(
        "a foreign 404 first",
        act(move |s, a| {
            let _ = s.write_all(("HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nevil".to_owned() + &answer(&a.id, "pong")).as_bytes());
            until_closed(s);
        }),
        LONG,
        pong,
        Fate::Reuse,
    );
    on_kept("only a foreign answer", says_and_waits(foreign.as_str()), SHORT, late, Fate::Discard);
    on_kept("only a nameless answer", says_and_waits("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), SHORT, late, Fate::Discard);
    on_kept("foreign, then closed", says(foreign.as_str()), LONG, no_answer_of, Fate::Discard);
    on_kept("foreign flood", says_and_waits(foreign.repeat(40)), LONG, bad_of, Fate::Discard);
    on_kept(
        "two ids",
        act(move |s, a| {
            let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {}\r\nFn-Call-Id: x\r\nContent-Length: 4\r\n\r\nevil", a.id).as_bytes());
            until_closed(s);
        }),
        SHORT,
        late,
        Fate::Discard,
    );
    on_kept(
        "its own, then another",
        act(move |s, a| {
            let _ = s.write_all((answer(&a.id, "pong") + &answer(&a.id, "evil")).as_bytes());
            until_closed(s);
        }),
        LONG,
        pong,
        Fate::Reuse,
    );
    on_kept(
        "its own, with close",
        act(move |s, a| {
            let _ = s.write_all(answer(&a.id, "pong").replace("Content-", "Connection: close\r\nContent-").as_bytes());
            until_closed(s);
        }),
        LONG,
        pong,
        Fate::Reuse,
    );
    on_kept(
        "its own until it closes",
        act(move |s, a| {
            let _ = s.write_all(format!("HTTP/1.1 200 OK\r\nFn-Call-Id: {}\r\n\r\npong", a.id).as_bytes());
        }),
        LONG,
        pong,
        Fate::Reuse,
    );
    on_kept("dies with the request", act(|_, _| ()), LONG, no_answer_of, Fate::Discard);
}

#[test]
fn a_second_answer_between_calls_retires_the_connection() {
    // The answer carries the id, so the connection would be kept; then the
    // function says more, or closes, before the next call.
    for more in ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", ""] {
        let (mut told, tell) = UnixStream::pair().expect("pair");
        let function = function(
            [act(move |s, a| {
                good(s, a, true);
                // Only once the answer was taken: this is a late one, not a long one.
                let _ = (&tell).read(&mut [0]);
                let _ = s.write_all(more.as_bytes());
                if more.is_empty() {
                    let _ = s.shutdown(std::net::Shutdown::Both);
                }
                let _ = (&tell).write_all(b"x");
                until_closed(s);
            })],
            false,
        );
        let mut socket = function.open();
        let done = call(&mut socket, LONG);
        assert!(done.result.is_ok() && matches!(socket.connection, Connection::Kept(_)));
        told.write_all(b"x").expect("tell");
        told.read_exact(&mut [0]).expect("told");
        next_is_own(&function, &mut socket, done.fate, "late");
    }
    // The same on a connection that was dialled ahead: nothing was asked yet.
    let function = function([], false);
    let listener_saw = |socket: &mut FunctionSocket| {
        let done = call(socket, LONG);
        assert_eq!(done.client.body(), Some(done.id.as_str().as_bytes()));
    };
    let mut socket = function.open();
    listener_saw(&mut socket);
    socket.ready_next();
    if let Connection::Fresh(fd) = &socket.connection {
        rustix::net::shutdown(fd, rustix::net::Shutdown::Both).expect("shutdown");
    }
    listener_saw(&mut socket);
}

#[test]
fn links_and_files_that_are_no_sockets() {
    let stop = Stop::new().expect("eventfd");
    let (_iofs, folder, parent) = folder();
    let at = |name: &str| folder.path().join(name);
    let outside = UnixListener::bind(parent.join("host.sock")).expect("bind");
    let _inside = UnixListener::bind(at("real.sock")).expect("bind");
    std::fs::create_dir(at("dir")).expect("dir");
    let open = || FunctionSocket::open(&folder, Instant::now() + Duration::from_millis(50), &stop);
    let relink = |target: &str| {
        let _ = std::fs::remove_file(at(SOCKET_NAME));
        symlink(target, at(SOCKET_NAME)).expect("link");
    };
    assert!(matches!(open(), Err(SocketError::Missing)));
    let absolute = at("real.sock").display().to_string();
    for target in [absolute.as_str(), "../host.sock", "/", "..", ".", "dir/../real.sock", "dir/x", "./../host.sock", "././real.sock", "/proc/self/fd/0", "./"] {
        relink(target);
        assert!(matches!(open(), Err(SocketError::LinkLeavesFolder)), "{target}: {:?}", open().err());
    }
    symlink("../host.sock", at("second")).expect("link");
    relink("second");
    assert!(matches!(open(), Err(SocketError::LinkToLink)));
    relink(SOCKET_NAME);
    assert!(matches!(open(), Err(SocketError::LinkToLink)));
    relink("nothing");
    assert!(matches!(open(), Err(SocketError::Dangling)));
    relink("dir");
    assert!(matches!(open(), Err(SocketError::NotASocket { kind: "folder" })));
    std::fs::write(at("file"), "x").expect("file");
    relink("file");
    assert!(matches!(open(), Err(SocketError::NotASocket { kind: "regular file" })));
    std::fs::remove_file(at(SOCKET_NAME)).expect("unlink");
    std::fs::write(at(SOCKET_NAME), "x").expect("file");
    assert!(matches!(open(), Err(SocketError::NotASocket { kind: "regular file" })));
    for target in ["real.sock", "./real.sock"] {
        relink(target);
        open().expect("a socket beside it");
    }
    // Swapped after open: the held socket is dialled, not what the name says now.
    let mut socket = open().expect("open");
    relink("../host.sock");
    socket.ready_next();
    assert!(matches!(socket.connection, Connection::Fresh(_)));
    // The held one gone and the name pointing out: no connection, no answer.
    drop(_inside);
    socket.ready_next();
    assert!(matches!(socket.connection, Connection::None));
    let done = call(&mut socket, LONG);
    assert!(no_answer_of(&done) && done.fate == Fate::Discard, "{:?}", done.result);
    outside.set_nonblocking(true).expect("nonblocking");
    assert!(outside.accept().is_err(), "nobody connected to the host's socket");
    // Never opened at all: no connection reached it either.
    drop(folder);
    let _ = std::fs::remove_dir_all(&parent);
}

#[test]
fn a_socket_bound_before_it_listens_and_one_bound_again() {
    let stop = Arc::new(Stop::new().expect("eventfd"));
    let (_iofs, folder, parent) = folder();
    let path = folder.path().join(SOCKET_NAME);
    let bind = |path: &PathBuf| {
        let fd = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).expect("socket");
        rustix::net::bind(&fd, &rustix::net::SocketAddrUnix::new(path).expect("address")).expect("bind");
        fd
    };
    let first = bind(&path);
    let begun = Instant::now();
    let refused = FunctionSocket::open(&folder, begun + Duration::from_millis(60), &stop);
    assert!(matches!(refused, Err(SocketError::Refused)) && begun.elapsed() >= Duration::from_millis(60));
    let listening = spawn("test-listen", {
        let first = first.try_clone().expect("dup");
        move || {
            crate::uds::net::pause(None, Duration::from_millis(40));
            rustix::net::listen(&first, 8).expect("listen");
        }
    })
    .expect("thread");
    let mut socket = FunctionSocket::open(&folder, Instant::now() + LONG, &stop).expect("listens later");
    listening.join();
    // Bound anew: the old file is dead, the new one is found on the next dial.
    drop(first);
    std::fs::remove_file(&path).expect("unlink");
    let second = UnixListener::bind(&path).expect("bind");
    socket.ready_next();
    assert!(matches!(socket.connection, Connection::Fresh(_)));
    drop(second);
    let stopped = Stop::new().expect("eventfd");
    stopped.fire();
    assert!(matches!(FunctionSocket::open(&folder, Instant::now() + LONG, &stopped), Err(SocketError::Stopped)));
    drop(folder);
    let _ = std::fs::remove_dir_all(&parent);
}
