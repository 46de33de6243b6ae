//! Bodies that are long, cut, endless, or followed by more.

use super::{Case, case, endless, pong, rep, say};

pub(crate) fn cases() -> Vec<Case> {
    let counted = |n: usize| say(&format!("HTTP/1.1 200 OK¶Content-Length: {n}¶¶"));
    let open = || say("HTTP/1.1 200 OK¶¶");
    vec![
        case("64 KiB", "contract: held until whole", [counted(65_536), rep(65_536, "x")], &["200 #65536"]),
        case("64 KiB and a byte", "contract: streamed", [counted(65_537), rep(65_537, "x")], &["200 #65537"]),
        case("exactly the limit", "contract: FN_MAX_RESPONSE_SIZE", [counted(1_000_000), rep(1_000_000, "x")], &["200 #1000000"]),
        case("until the close", "§6.3 (8)", [open(), say("pong"), "close".into()], &["200 pong"]),
        case("until its half is closed", "§6.3 (8)", [open(), say("pong"), "half".into()], &["200 pong"]),
        case("until the close, nothing", "§6.3 (8)", [open(), "close".into()], &["200 "]),
        case("until the close, 200 KB", "§6.3 (8)", [open(), rep(200_000, "x"), "close".into()], &["200 #200000"]),
        case("until the close, over the limit", "contract: FN_MAX_RESPONSE_SIZE", [open(), rep(1_000_001, "x"), "close".into()], &["cut"]).stays(),
        case("without end", "contract: FN_MAX_RESPONSE_SIZE", [open(), endless("evil")], &["cut"]).stays(),
        case("cut before a byte of it", "§8", [counted(4), "close".into()], &["502 cut short"]),
        case("cut in the middle", "§8", [counted(400), say("evil"), "close".into()], &["502 cut short"]),
        case("cut at its last byte", "§8", [counted(5), say("evil"), "close".into()], &["502 cut short"]),
        case("half closed in the middle", "§8", [counted(400), say("evil"), "half".into()], &["502 cut short"]),
        case("64 KiB cut at the last byte", "§8", [counted(65_536), rep(65_535, "x"), "close".into()], &["502 cut short"]),
        case("200 KB cut after 100", "§8", [counted(200_000), rep(100_000, "x"), "close".into()], &["cut"]),
        case("bytes after it", "§6.3", [pong("Content-Length: 4¶"), say("evil")], &["200 pong"]),
        case("bytes after nothing", "§6.3", [counted(0), say("evil")], &["200 "]),
        case("bytes without end after it", "§6.3", [pong("Content-Length: 4¶"), endless("evil")], &["200 pong"]),
        case("empty lines after it", "§2.2", [pong("Content-Length: 4¶"), say("¶¶¶")], &["200 pong"]),
        case("in single bytes", "§6.3", [super::drip(0, "HTTP/1.1 200 OK¶Content-Length: 4¶¶pong")], &["200 pong"]),
        case("chunks in single bytes", "§7.1", [super::drip(0, "HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶2¶po¶2¶ng¶0¶¶")], &["200 pong"]),
        case("closed without a byte", "§8", ["close".into()], &["502 closed the connection"]),
        case("half closed without a byte", "§8", ["half".into()], &["502 closed the connection"]),
        case("closed before the request is read", "§8", ["unread".into(), "close".into()], &["502 "]).body(1_000_000),
    ]
}
