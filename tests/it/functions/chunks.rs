//! Where an answer's body ends: lengths, codings, chunks.

use super::{Case, case, endless, pong, rep, say};

const LIMIT: &str = "502 FN_MAX_RESPONSE_SIZE";

pub(crate) fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    let bad =
        ["-4", "+4", "4.0", "0x4", "4 4", "4, 4", "4,5", "", "four", "4;4", "4e0", "\u{b2}", "18446744073709551616", "99999999999999999999999999", "\"4\""];
    for value in bad {
        let fields = format!("Content-Length: {value}¶");
        cases.push(case(format!("Content-Length {value:?}"), "§6.3 (5), 9110 §8.6", [say(&format!("HTTP/1.1 200 OK¶{fields}¶evil"))], &["502 Content-Length"]));
    }
    let both = "502 both Content-Length and Transfer-Encoding";
    let other = "502 a Transfer-Encoding";
    let more = [
        ("two lengths that differ", "§6.3 (5)", "Content-Length: 4¶Content-Length: 5¶", "502 more than one Content-Length"),
        ("two lengths alike", "§6.3 (5)", "Content-Length: 4¶Content-Length: 4¶", "502 more than one Content-Length"),
        ("two lengths in other letters", "9110 §5.1", "content-length: 4¶CONTENT-LENGTH: 50¶", "502 more than one Content-Length"),
        ("a length and chunks", "§6.3 (3)", "Content-Length: 4¶Transfer-Encoding: chunked¶", both),
        ("chunks and a length", "§6.3 (3)", "Transfer-Encoding: chunked¶Content-Length: 4¶", both),
        ("gzip, then chunks", "§7", "Transfer-Encoding: gzip, chunked¶", other),
        ("chunks twice", "§7.1", "Transfer-Encoding: chunked¶Transfer-Encoding: chunked¶", other),
        ("chunks twice in one field", "§7.1", "Transfer-Encoding: chunked, chunked¶", other),
        ("chunks, then gzip", "§6.1", "Transfer-Encoding: chunked, gzip¶", other),
        ("an unknown coding", "§6.1", "Transfer-Encoding: evil¶", other),
        ("identity", "§7", "Transfer-Encoding: identity¶", other),
        ("an empty coding", "§6.1", "Transfer-Encoding: ¶", other),
        ("chunks with a parameter", "§7.1", "Transfer-Encoding: chunked;q=1¶", other),
        ("chunks behind a vertical tab", "9110 §5.5", "Transfer-Encoding: \u{b}chunked¶", "502 "),
    ];
    for (name, rule, fields, seen) in more {
        cases.push(case(name, rule, [say(&format!("HTTP/1.1 200 OK¶{fields}¶0¶¶"))], &[seen]));
    }
    cases.push(case("chunks in HTTP/1.0", "§6.1", [say("HTTP/1.0 200 OK¶Transfer-Encoding: chunked¶¶0¶¶")], &["502 in HTTP/1.0"]));
    cases.push(case("zeros before a length", "9110 §8.6", [pong("Content-Length: 0004¶")], &["200 pong"]));
    cases.push(case("blanks around a length", "9110 §5.5", [pong("Content-Length: \t 4 \t¶")], &["200 pong"]));
    cases.push(case("other letters for chunked", "§7", [say("HTTP/1.1 200 OK¶TRANSFER-encoding: ChUnKeD¶¶4¶pong¶0¶¶")], &["200 pong"]));
    cases.push(case("a length over the limit", "contract: FN_MAX_RESPONSE_SIZE", [pong("Content-Length: 1000001¶")], &[LIMIT]).stays());
    cases.push(case("a length of 2^64 - 1", "contract: FN_MAX_RESPONSE_SIZE", [pong("Content-Length: 18446744073709551615¶")], &[LIMIT]).stays());
    cases
}

pub(crate) fn cases() -> Vec<Case> {
    let chunked = |body: &str| say(&format!("HTTP/1.1 200 OK¶Transfer-Encoding: chunked¶¶{body}"));
    let mut cases = vec![
        case("chunks", "§7.1", [chunked("2¶po¶2¶ng¶0¶¶")], &["200 pong"]),
        case("no chunk", "§7.1", [chunked("0¶¶")], &["200 "]),
        case("extensions and trailers", "§7.1.1, §7.1.2", [chunked("2;a=b;c¶po¶002 ;x=\"y\"¶ng¶0¶T: dropped¶Content-Length: 9¶¶")], &["200 pong"]),
        case("a chunk for each byte", "§7.1", [chunked(""), rep(5_000, "1¶x¶"), say("0¶¶")], &["200 #5000"]),
        case("a large chunk", "§7.1", [chunked("C350¶"), rep(50_000, "x"), say("¶0¶¶")], &["200 #50000"]),
        case("bytes after the last chunk", "§7.1", [chunked("4¶pong¶0¶¶evil")], &["200 pong"]),
        case("an extension of 8 KB", "§7.1.1: bounded", [chunked("4;"), rep(2_000, "evil"), say("¶pong¶0¶¶")], &["502 chunk extension"]),
        case("an extension without end", "§7.1.1: bounded", [chunked("4;"), endless("evil")], &["502 chunk extension"]),
        case(
            "small chunks with long extensions",
            "§7.1.1: bounded",
            [chunked(""), rep(1_000, &format!("1;{}¶x¶", "e".repeat(200)))],
            &["502 chunk extensions"],
        ),
        case("trailers of 16 KB", "§7.1.2: bounded", [chunked("0¶"), rep(2_000, "evil: 1¶"), say("¶")], &["502 trailer"]),
        case("trailers without end", "§7.1.2: bounded", [chunked("0¶"), endless("evil: 1¶")], &["502 trailer"]),
        case("digits without end", "§7.1", [chunked(""), endless("0")], &["502 16 digits"]),
        case("chunks without end", "contract: FN_MAX_RESPONSE_SIZE", [chunked(""), endless("4¶evil¶")], &["cut"]).stays(),
        case("a chunk over the limit", "contract: FN_MAX_RESPONSE_SIZE", [chunked("F4241¶"), rep(1_000_001, "x"), say("¶0¶¶")], &["cut"]).stays(),
        case("a bad chunk after 100 KB", "§7.1, §8", [chunked("186A0¶"), rep(100_000, "x"), say("evil")], &["cut"]),
    ];
    let bad = [
        ("no size", "¶evil¶0¶¶", "502 hexadecimal"),
        ("a size that is no number", "evil¶evil¶0¶¶", "502 "),
        ("a negative size", "-4¶evil¶0¶¶", "502 hexadecimal"),
        ("a size with a plus", "+4¶evil¶0¶¶", "502 hexadecimal"),
        ("a size with 0x", "0x4¶evil¶0¶¶", "502 "),
        ("a blank before the size", " 4¶evil¶0¶¶", "502 hexadecimal"),
        ("a size of 17 digits", "00000000000000004¶evil¶0¶¶", "502 16 digits"),
        ("a size line that ends in LF", "4\nevil¶0¶¶", "502 "),
        ("a size line with a bare CR", "4\r4¶evil¶0¶¶", "502 CR LF"),
        ("more than the size says", "4¶evil!¶0¶¶", "502 CR LF"),
        ("data that ends in LF", "4¶evil\n0¶¶", "502 CR LF"),
        ("an extension with a NUL", "4;\u{0}¶evil¶0¶¶", "502 extension"),
        ("an extension without its semicolon", "4 evil¶evil¶0¶¶", "502 invalid function response"),
        ("a trailer without a colon", "4¶evil¶0¶evil¶¶", "502 trailer"),
        ("a folded trailer", "4¶evil¶0¶A: b¶ evil¶¶", "502 trailer"),
        ("a last line that ends in LF", "4¶evil¶0¶\n", "502 trailer"),
    ];
    for (name, body, seen) in bad {
        cases.push(case(name, "§7.1", [chunked(body)], &[seen]));
    }
    let ends = [
        ("at the head", ""),
        ("in a size", "4"),
        ("after a size line", "4¶"),
        ("in data", "4¶ev"),
        ("after data", "4¶evil"),
        ("after a chunk", "4¶evil¶"),
        ("after the last size", "4¶evil¶0¶"),
        ("in a trailer", "4¶evil¶0¶A: b"),
        ("before the last line end", "4¶evil¶0¶\r"),
        ("in a chunk of 2^64 - 1 bytes", "FFFFFFFFFFFFFFFF¶evil"),
    ];
    for (name, body) in ends {
        cases.push(case(format!("chunks cut {name}"), "§8", [chunked(body), "close".into()], &["502 cut short"]));
    }
    cases
}
