//! A connection from one message to the next.

use super::{Case, case, post};

pub(crate) fn cases() -> Vec<Case> {
    let ping = "GET /ping HTTP/1.1¶Host: t¶¶";
    let call = |n: usize| post("Content-Length: 4¶") + &format!("{n:04}");
    let statuses = |n: usize| vec!["200"; n].join(" ");
    let mut cases = vec![
        case("two in a row", "9112 §9.3.2", ping.repeat(2), &["200 200"]),
        case("fifty in a row", "9112 §9.3.2", ping.repeat(50), &[&statuses(50)]),
        case("byte by byte", "9112 §2.2", ping.repeat(2), &["200 200"]).drip(),
        case("an empty line between", "9112 §2.2", format!("{ping}¶{ping}"), &["200 200"]),
        case("close", "9112 §9.6", format!("GET /ping HTTP/1.1¶Host: t¶Connection: close¶¶{ping}"), &["200"]).holds("Connection: close").open(),
        case("close in a list", "9112 §9.6", format!("GET /ping HTTP/1.1¶Host: t¶Connection: x, Close¶¶{ping}"), &["200"]).open(),
        case("close in a second field", "9110 §5.3", format!("GET /ping HTTP/1.1¶Host: t¶Connection: x¶Connection: close¶¶{ping}"), &["200"]).open(),
        case("close wins over keep-alive", "9112 §9.3", format!("GET /ping HTTP/1.1¶Host: t¶Connection: keep-alive, close¶¶{ping}"), &["200"]).open(),
        case("HTTP/1.0 closes", "9112 §9.3", format!("GET /ping HTTP/1.0¶¶{ping}"), &["200"]).open(),
        case("HTTP/1.0 kept alive", "9112 §9.3", format!("GET /ping HTTP/1.0¶Connection: keep-alive¶¶{ping}"), &["200 200"]).holds("Connection: keep-alive"),
        case("HTTP/1.0 call", "9112 §9.3", "POST @E HTTP/1.0¶Content-Length: 2¶¶hi", &["200"]).holds("\r\n\r\nhi").lacks("Transfer-Encoding"),
        case("a close after a call", "9112 §9.6", post("Connection: close¶Content-Length: 2¶") + "hi@H", &["200"]).open(),
        case("half-closed and answered", "9112 §9.6", post("X-Sleep-Ms: 50¶Content-Length: 2¶") + "hi", &["200"]).holds("\r\n\r\nhi"),
        case("unknown path, then a call", "9112 §9.3", "POST /nope HTTP/1.1¶Host: t¶Content-Length: 3¶¶abc".to_owned() + &call(1), &["404 200"]),
        case("unknown function, then a call", "9112 §9.3", "POST /invoke/none HTTP/1.1¶Host: t¶¶".to_owned() + &call(1), &["404 200"]),
        case("a wrong method, then a call", "9112 §9.3", "PATCH /v2/apps HTTP/1.1¶Host: t¶Content-Length: 2¶¶{}".to_owned() + &call(1), &["405 200"]),
        case("a good one, then a bad one, then a hidden one", "9112 §2.2", format!("{ping}BAD¶¶@H"), &["200 400"]),
        case("a large body, then a call", "9112 §9.3.2", post("Content-Length: 90000¶") + &"a".repeat(90_000) + &call(2), &["200 200"]),
        case("Expect", "9110 §10.1.1", post("Expect: 100-continue¶Content-Length: 2¶") + "hi", &["200"]).holds("\r\n\r\nhi"),
        case("Expect in other letters", "9110 §10.1.1", post("Expect: 100-Continue¶Content-Length: 2¶") + "hi", &["200"]),
        case("Expect without a body", "9110 §10.1.1", post("Expect: 100-continue¶"), &["200"]).lacks("100 Continue"),
        case("Expect for what is not there", "9110 §10.1.1", "POST /invoke/none HTTP/1.1¶Host: t¶Expect: 100-continue¶Content-Length: 2¶¶", &["404"])
            .lacks("100 Continue"),
        case("another expectation", "9110 §15.5.18", post("Expect: miracles¶Content-Length: 2¶") + "hi@H", &["417"]),
        case("two expectations", "9110 §10.1.1", post("Expect: 100-continue¶Expect: 100-continue¶Content-Length: 2¶") + "hi@H", &["417", "400"]),
        case("Expect in HTTP/1.0", "9110 §10.1.1", "POST @E HTTP/1.0¶Expect: 100-continue¶Content-Length: 2¶¶hi", &["200"]).lacks("100 Continue"),
        case("HEAD", "9110 §9.3.2", "HEAD /t/app/echo HTTP/1.1¶Host: t¶¶", &["200"]).bodyless(),
        case("HEAD twice", "9110 §9.3.2", "HEAD /t/app/echo HTTP/1.1¶Host: t¶¶HEAD /t/none HTTP/1.1¶Host: t¶¶", &["200 404"]).bodyless(),
        case("HEAD with a long answer", "9110 §9.3.2", "HEAD /t/app/echo HTTP/1.1¶Host: t¶X-Size: 9¶¶", &["200"]).bodyless().lacks("xxx"),
        case("HEAD of an error", "9110 §9.3.2", "HEAD /v2/apps HTTP/1.1¶Host: t¶¶", &["405"]).bodyless().lacks("message"),
        case("an upgrade nobody wants", "9110 §7.8", post("Connection: Upgrade¶Upgrade: h2c¶Content-Length: 2¶") + "hi", &["200"]),
        case("a web socket nobody wants", "9110 §7.8", "GET /ping HTTP/1.1¶Host: t¶Connection: Upgrade¶Upgrade: websocket¶¶", &["200"]),
    ];
    let many: String = (0..20).map(call).collect();
    let mut pipelined = case("calls are answered in order", "9112 §9.3.2", many, &[&statuses(20)]);
    for n in 0..20 {
        pipelined = pipelined.holds(format!("\r\n\r\n{n:04}"));
    }
    cases.push(pipelined);
    cases
}
