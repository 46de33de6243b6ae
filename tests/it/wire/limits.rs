//! Too much, and too slow. The server of the suite takes heads of 16 KiB,
//! bodies of 100,000 bytes, and three seconds of silence.

use super::{Case, case, post};

pub(crate) fn cases() -> Vec<Case> {
    let many = |n: usize| (0..n).map(|i| format!("X-{i}: {i}¶")).collect::<String>();
    let chunk = |n: usize| format!("{n:x}¶{}¶", "a".repeat(n));
    let chunked = post("Transfer-Encoding: chunked¶");
    vec![
        case("a target of 20,000 bytes", "9110 §15.5.15", format!("GET /{} HTTP/1.1¶Host: t¶¶@H", "a".repeat(20_000)), &["414"]),
        case("a target of 1 MB", "9110 §15.5.15", format!("GET /{} HTTP/1.1¶Host: t¶¶@H", "a".repeat(1_000_000)), &["414", ""]),
        case("a target of 8,000 bytes", "9112 §3", format!("GET /{} HTTP/1.1¶Host: t¶¶", "a".repeat(8_000)), &["404"]),
        case("a method of 20,000 bytes", "9112 §3", format!("{} /ping HTTP/1.1¶Host: t¶¶@H", "A".repeat(20_000)), &["414", "400", "501"]),
        case("a field of 20,000 bytes", "6585 §5", post(&format!("X: {}¶", "a".repeat(20_000))) + "@H", &["431"]),
        case("a name of 20,000 bytes", "6585 §5", post(&format!("{}: a¶", "a".repeat(20_000))) + "@H", &["431"]),
        case("a field of 8,000 bytes", "9112 §5", post(&format!("X: {}¶", "a".repeat(8_000))), &["200"]),
        case("many fields of 20,000 bytes together", "6585 §5", post(&format!("X: {}¶", "a".repeat(200)).repeat(100)) + "@H", &["431"]),
        case("129 fields", "6585 §5", post(&many(128)) + "@H", &["431"]),
        case("128 fields", "6585 §5", post(&many(127)), &["200"]),
        case("a head without an end", "6585 §5", format!("GET /ping HTTP/1.1¶{}", many(2_000)), &["431"]),
        case("a body one byte too long", "9110 §15.5.14", post("Content-Length: 100001¶") + &"a".repeat(100_001) + "@H", &["413"]),
        case("a body as long as may be", "9110 §8.6", post("Content-Length: 100000¶") + &"a".repeat(100_000), &["200"]),
        case("chunks one byte too long", "9110 §15.5.14", chunked.clone() + &chunk(60_000) + &chunk(40_001) + "0¶¶@H", &["413"]),
        case("chunks as long as may be", "9112 §7.1", chunked.clone() + &chunk(60_000) + &chunk(40_000) + "0¶¶", &["200"]),
        case("chunks of one byte", "9112 §7.1", chunked.clone() + &chunk(1).repeat(3_000) + "0¶¶", &["200"]),
        case("a chunk extension of 300 bytes", "9112 §7.1.1", chunked.clone() + &format!("1;{}¶a¶0¶¶@H", "x".repeat(300)), &["400"]),
        case("extensions that outweigh the data", "9112 §7.1.1", chunked.clone() + &format!("1;{}¶a¶", "x".repeat(200)).repeat(200) + "0¶¶@H", &["400"]),
        case("trailers of 10,000 bytes", "9112 §7.1.2", chunked + &format!("0¶X: {}¶¶@H", "x".repeat(10_000)), &["400"]),
        case("a long body that nobody wants", "9112 §9.3", format!("POST /nope HTTP/1.1¶Host: t¶Content-Length: 90000¶¶{}", "a".repeat(90_000)), &["404"]),
        case("Expect before a body too long", "9110 §10.1.1", post("Expect: 100-continue¶Content-Length: 200000¶"), &["413"]).lacks("100 Continue"),
        case("a head that never ends", "9110 §15.5.9", "GET /ping HTTP/1.1¶Host:", &["408", ""]).open(),
        case("a second head that never ends", "9110 §15.5.9", "GET /ping HTTP/1.1¶Host: t¶¶GET", &["200 408", "200"]).open(),
        case("a body that never comes", "9110 §15.5.9", post("Content-Length: 9¶") + "a", &["408", ""]).open(),
        case("chunks that never end", "9110 §15.5.9", post("Transfer-Encoding: chunked¶") + "1¶a¶", &["408", ""]).open(),
        case("a client that says nothing", "9112 §9.5", "", &[""]).open(),
        case("a client that asks no more", "9112 §9.5", "GET /ping HTTP/1.1¶Host: t¶¶", &["200"]).open(),
    ]
}
