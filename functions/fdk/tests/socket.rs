//! The contract, seen from the socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

struct Function {
    folder: PathBuf,
}

impl Function {
    fn start(name: &str) -> Function {
        let folder = std::env::temp_dir().join(format!("fdk-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("lsnr.sock");
        std::fs::write(&path, "a leftover").unwrap();
        std::fs::write(folder.join("phonylsnr.sock"), "another").unwrap();
        let listener = fdk::publish(&path).unwrap();
        std::thread::spawn(move || {
            fdk::run(listener, |request: &fdk::Request<'_>| match request.header("X-Do") {
                Some("panic") => panic!("as asked"),
                Some("timeout") => fdk::Response::failed("late").status(504),
                Some("left") => fdk::Response::json(request.time_left().as_secs().to_string()),
                Some("teapot") => fdk::Response::json("{}").status(418).header("X-One", "1").header("Bad", "a\r\nInjected: 1"),
                _ => fdk::Response::new("text/plain", request.body().to_vec()),
            })
        });
        Function { folder }
    }

    fn dial(&self) -> UnixStream {
        UnixStream::connect(self.folder.join("lsnr.sock")).unwrap()
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = self.dial();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn the_socket_appears_as_the_contract_says() {
    let function = Function::start("publish");
    assert_eq!(std::fs::read_link(function.folder.join("lsnr.sock")).unwrap(), PathBuf::from("phonylsnr.sock"));
    let mode = std::fs::metadata(function.folder.join("phonylsnr.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[test]
fn bodies_of_both_kinds_and_keep_alive() {
    let function = Function::start("bodies");
    let answer = function.ask(
        "POST /call HTTP/1.1\r\nHost: x\r\nFn-Call-Id: A1\r\nContent-Length: 3\r\n\r\nabc\
         POST /call HTTP/1.1\r\nHost: x\r\nFn-Call-Id: A2\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nde\n\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n\
         POST /call HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    let parts: Vec<&str> = answer.split("HTTP/1.1 ").collect();
    assert_eq!(parts.len(), 4, "{answer}");
    assert!(parts[1].starts_with("200 ") && parts[1].contains("Fn-Call-Id: A1\r\n") && parts[1].ends_with("\r\n\r\nabc"), "{answer}");
    assert!(parts[2].contains("Fn-Call-Id: A2\r\n") && parts[2].ends_with("\r\n\r\nde\n0123456789"), "{answer}");
    assert!(parts[3].contains("Connection: close\r\n") && !parts[3].contains("Fn-Call-Id"), "{answer}");
    assert!(parts.iter().skip(1).all(|p| p.contains("Fn-Fdk-Version: fdk-rust/")));
}

#[test]
fn every_split_of_a_request_reads_the_same() {
    let function = Function::start("splits");
    let request = b"POST /call HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for at in 1..request.len() {
        let mut stream = function.dial();
        stream.write_all(&request[..at]).unwrap();
        std::thread::yield_now();
        stream.write_all(&request[at..]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nabcde"), "{at}: {answer}");
    }
}

#[test]
fn failures_have_their_statuses_and_the_function_lives_on() {
    let function = Function::start("failures");
    assert!(function.ask("POST /call HTTP/1.1\r\nX-Do: panic\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 502 "));
    assert!(function.ask("POST /call HTTP/1.1\r\nX-Do: timeout\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 504 "));
    assert!(function.ask("POST /call HTTP/1.1\r\nX-Do: teapot\r\nContent-Length: 0\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert!(function.ask("POST /call HTTP/1.1\r\nX-Do: left\r\nContent-Length: 0\r\n\r\n").ends_with("\r\n\r\n30"));
    for bad in [
        "POST /call HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /call HTTP/2\r\n\r\n",
        "POST /call HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /call HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        assert_eq!(function.ask(bad), "", "{bad}");
    }
}

#[test]
fn behind_a_trigger() {
    let function = Function::start("trigger");
    let answer = function.ask("POST /call HTTP/1.1\r\nFn-Intent: httprequest\r\nFn-Http-Method: GET\r\nFn-Http-H-X-Do: teapot\r\nContent-Length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for line in ["Fn-Http-Status: 418\r\n", "Fn-Http-H-X-One: 1\r\n", "\r\nContent-Type: application/json\r\n", "Fn-Http-H-Bad: aInjected: 1\r\n"] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
}

#[test]
fn many_connections_at_once_and_big_bodies() {
    let function = Function::start("many");
    let idle: Vec<UnixStream> = (0..30).map(|_| function.dial()).collect();
    let body = "x".repeat(3 << 20);
    let mut stream = function.dial();
    let head = format!("POST /call HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&body));
    drop(idle);
    for _ in 0..100 {
        assert!(function.ask("POST /call HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi").ends_with("hi"));
    }
}
