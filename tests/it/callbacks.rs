//! The end of a detached call told to who asked for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use base64::Engine;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Folder, PATIENCE, Server, wait_until};

/// A request as it came.
struct Told {
    head: String,
    body: Vec<u8>,
}

impl Told {
    fn read(stream: &mut TcpStream) -> std::io::Result<Told> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut all = Vec::new();
        let mut piece = [0u8; 4096];
        loop {
            let n = stream.read(&mut piece)?;
            all.extend_from_slice(&piece[..n]);
            if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
                let told = Told { head: String::from_utf8_lossy(&all[..end]).into_owned(), body: all[end + 4..].to_vec() };
                if told.field("content-length").parse() == Ok(told.body.len()) {
                    return Ok(told);
                }
            }
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn field(&self, name: &str) -> &str {
        self.head.lines().skip(1).find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name))).map_or("", |(_, v)| v.trim())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// Answers with these statuses, one request each, and hands them on.
fn endpoint(listener: TcpListener, statuses: Vec<u16>) -> Receiver<Told> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for status in statuses {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let Ok(request) = Told::read(&mut stream) else { return };
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:1/\r\nConnection: close\r\n\r\n");
            if tell.send(request).is_err() {
                return;
            }
        }
    });
    told
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn detach(server: &Server, function: &str, callback: &str, fields: &[(&str, &str)]) -> String {
    let mut all = vec![("Fn-Invoke-Type", "detached"), ("Hob-Callback", callback)];
    all.extend_from_slice(fields);
    let answer = server.call(function, &all, b"later");
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.field("Fn-Call-Id").expect("an id").to_owned()
}

fn hmac(key: &[u8], text: &[u8]) -> String {
    let pad = |byte: u8| -> Vec<u8> { (0..64).map(|n| key.get(n).copied().unwrap_or(0) ^ byte).collect() };
    let inner = Sha256::digest([pad(0x36), text.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_end_of_a_call_is_told_signed_and_again_until_it_is_taken() {
    let Some(server) = Server::start(&[("HOB_CALLBACK_PRIVATE", "true"), ("HOB_CALLBACK_SECRET", "s3cret"), ("HOB_DETACHED_ATTEMPTS", "1")]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let (listener, address) = listener();
    // A redirect is not followed, it is a failure like any other.
    let told = endpoint(listener, vec![500, 302, 204, 410]);
    let call = detach(&server, &echo, &format!("http://{address}/done?x=1"), &[("Content-Type", "text/plain")]);
    for tries in 1..=3 {
        let request = told.recv_timeout(PATIENCE).expect("told");
        assert!(request.head.starts_with("POST /done?x=1 HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!((request.field("Fn-Call-Id"), request.field("Hob-Callback-Try")), (call.as_str(), tries.to_string().as_str()));
        let message = request.json();
        assert_eq!((&message["call_id"], &message["status"], &message["fn_id"]), (&json!(call), &json!("success"), &json!(echo)), "{message}");
        let body = base64::engine::general_purpose::STANDARD.decode(message["body"].as_str().expect("text")).expect("base 64");
        assert_eq!(body, b"later");
        let (time, mac) = request.field("Hob-Signature").strip_prefix("t=").and_then(|t| t.split_once(",v1=")).expect("signed");
        assert_eq!(mac, hmac(b"s3cret", &[time.as_bytes(), b".", &request.body].concat()));
    }
    // A failure is told too; who does not want it any more is left alone.
    let failed = detach(&server, &echo, &format!("http://{address}/"), &[("X-Status", "502")]);
    let message = told.recv_timeout(PATIENCE).expect("told").json();
    assert_eq!((&message["call_id"], &message["status"], &message["error"]), (&json!(failed), &json!("error"), &json!("function failed")), "{message}");
    wait_until("it to be given up", || server.log().contains(&format!("callback of call {failed} to {address} failed (status 410")).then_some(()));
    for bad in ["ftp://x/", "/x", "http://user@x/"] {
        let answer = server.call(&echo, &[("Fn-Invoke-Type", "detached"), ("Hob-Callback", bad)], b"");
        assert!(answer.status == 400 && answer.message().contains("Hob-Callback"), "{answer:?}");
    }
    server.stop();
}

#[test]
fn what_is_not_public_is_not_called_back_unless_allowed() {
    let Some(server) = Server::start(&[]) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let (listener, address) = listener();
    listener.set_nonblocking(true).expect("set");
    for host in ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/", address.port());
        let answer = server.call(&echo, &[("Fn-Invoke-Type", "detached"), ("Hob-Callback", &url)], b"");
        assert!(answer.status == 400 && answer.message().contains("HOB_CALLBACK_PRIVATE"), "{answer:?}");
    }
    let call = detach(&server, &echo, &format!("http://localhost:{}/", address.port()), &[]);
    wait_until("a refusal", || {
        let log = server.log();
        log.lines().any(|line| line.contains(&format!("callback of call {call}")) && line.contains("HOB_CALLBACK_PRIVATE")).then_some(())
    });
    assert_eq!(listener.accept().map(drop).map_err(|e| e.kind()), Err(std::io::ErrorKind::WouldBlock), "nobody came");
    server.stop();
}

#[test]
fn a_callback_survives_a_kill_and_a_stop_does_not_wait_for_one() {
    let (folder, env) = (Folder::new(), [("HOB_CALLBACK_PRIVATE", "true")]);
    let Some(mut server) = Server::start_in(folder.clone(), &env) else { return };
    let echo = server.function("echo", "echo", json!({}));
    let (listener, address) = listener();
    // It is accepted by the kernel, and nobody answers.
    let call = detach(&server, &echo, &format!("http://{address}/"), &[]);
    let (mut first, _) = listener.accept().expect("a try");
    Told::read(&mut first).expect("the whole message");
    server.signal(Signal::KILL);
    server.wait();
    drop(first);
    let Some(server) = Server::start_in(folder.clone(), &env) else { return };
    let (mut second, _) = listener.accept().expect("another try");
    assert_eq!(Told::read(&mut second).expect("the message").json()["call_id"], json!(call));
    // Within the time that any stop may take, which `stop` checks.
    server.stop();
    drop(second);
    let Some(server) = Server::start_in(folder, &env) else { return };
    let told = endpoint(listener, vec![200]);
    assert_eq!(told.recv_timeout(PATIENCE).expect("told").json()["call_id"], json!(call));
    server.stop();
}
