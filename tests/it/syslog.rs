//! An app's syslog URL: the engine, or hob itself, sends what its functions
//! print (spec http-api §4.4), and a syslog that is not there is told.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Server;

fn app_of(server: &Server, function: &str) -> String {
    let app = server.manage("GET", &format!("/v2/fns/{function}"), &Value::Null)["app_id"].clone();
    app.as_str().expect("an id").to_owned()
}

#[test]
fn what_functions_print_goes_to_the_apps_syslog() {
    let Some(server) = Server::start(&[]) else { return };
    let syslog = UdpSocket::bind("127.0.0.1:0").expect("a port");
    syslog.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let id = server.function("says", "hostile", json!({}));
    let app = app_of(&server, &id);
    let url = format!("udp://{}", syslog.local_addr().expect("bound"));
    server.manage("PUT", &format!("/v2/apps/{app}"), &json!({"syslog_url": url}));
    let call = server.good_call(&id, &[("X-Do", "say:1")], b"").field("Fn-Call-Id").expect("an id").to_owned();
    let mut lines = Vec::new();
    let mut buffer = [0u8; 4096];
    while lines.len() < 2 {
        let n = syslog.recv(&mut buffer).expect("a line within 30 s");
        lines.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    lines.sort();
    // Facility user; 3 is an error, 6 information.
    for (line, (priority, text)) in lines.iter().zip([("<11>1 ", format!("told 0 in {call}")), ("<14>1 ", format!("said 0 in {call}"))]) {
        assert!(line.starts_with(priority) && line.contains(&format!("app_id={app},fn_id={id}")) && line.trim_end().ends_with(&text), "{line}");
    }
    server.stop();
}

#[test]
fn a_syslog_that_is_not_there_is_told() {
    let Some(server) = Server::start(&[]) else { return };
    let id = server.function("says", "hostile", json!({}));
    let app = app_of(&server, &id);
    // A port that was free a moment ago, and where nobody listens now.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    server.manage("PUT", &format!("/v2/apps/{app}"), &json!({"syslog_url": format!("tcp://127.0.0.1:{port}")}));
    let answer = server.call(&id, &[], b"");
    assert!(answer.status == 500 && answer.message().starts_with("Syslog Unavailable"), "{answer:?}");
    assert!(answer.field("Fn-Call-Id").is_some());
    server.manage("PUT", &format!("/v2/apps/{app}"), &json!({"syslog_url": ""}));
    server.good_call(&id, &[], b"");
    server.stop();
}
