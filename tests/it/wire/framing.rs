//! Where a body ends. Whoever is unsure must refuse, and close.

use super::{Case, case, post};

/// Refused, and nothing after it is read as a request.
const REFUSED: &[&str] = &["400"];
/// The same, for a transfer coding that is not known.
const UNKNOWN: &[&str] = &["501"];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    lengths(&mut cases);
    codings(&mut cases);
    both(&mut cases);
    disguised(&mut cases);
    chunks(&mut cases);
    good(&mut cases);
    cases
}

fn lengths(cases: &mut Vec<Case>) {
    let bad = [
        "-1",
        "+1",
        "1.0",
        "0x1",
        "1 1",
        "1,1",
        "1, 1",
        "1;1",
        "",
        "abc",
        "1a",
        "a1",
        "1e3",
        "\"1\"",
        "1\t1",
        "--1",
        "0 0",
        "1\u{a0}",
        "\u{b2}",
        "18446744073709551616",
        "99999999999999999999999999",
        "1/1",
        "(1)",
    ];
    for value in bad {
        cases.push(case(format!("Content-Length {value:?}"), "9112 §6.3 (5), 9110 §8.6", post(&format!("Content-Length: {value}¶")) + "a@H", REFUSED));
    }
    cases.push(case("two lengths that differ", "9112 §6.3 (5)", post("Content-Length: 1¶Content-Length: 2¶") + "a@H", REFUSED));
    cases.push(case("two lengths alike", "9112 §6.3 (5)", post("Content-Length: 1¶Content-Length: 1¶") + "a@H", REFUSED));
    cases.push(case("two lengths in other letters", "9110 §5.1", post("Content-Length: 1¶CONTENT-length: 50¶") + "a@H", REFUSED));
    for (length, name) in [("1000000000000000", "10^15"), ("18446744073709551615", "2^64 - 1"), ("9223372036854775808", "2^63")] {
        cases.push(case(format!("a length of {name}"), "9110 §15.5.14", post(&format!("Content-Length: {length}¶")) + "a@H", &["413"]));
    }
    cases.push(case("a body cut short", "9112 §8", post("Content-Length: 9¶") + "abc", &["", "400"]));
    cases.push(case("no body at all", "9112 §8", post("Content-Length: 9¶"), &["", "400"]));
    cases.push(case("bytes after the body are a new message", "9112 §6.3", post("Content-Length: 3¶") + "abcGARBAGE¶¶@H", &["200 400"]));
    cases.push(case("a body of a GET that needs none", "9110 §9.3.1", "GET /ping HTTP/1.1¶Host: t¶Content-Length: 3¶¶abc", &["200"]));
    cases.push(case("a request inside a body", "9112 §6.3", post("Content-Length: 30¶") + "GET / HTTP/1.1¶Host: evil.t¶¶¶¶", &["200", "200 400"]));
}

fn codings(cases: &mut Vec<Case>) {
    let bad = [
        "gzip",
        "identity",
        "chunked, chunked",
        "gzip, chunked, chunked",
        "gzip;q=1, chunked",
        "gzip,, chunked",
        "g\u{e9}zip, chunked",
        "chunked, gzip",
        "chunked;q=1",
        "xchunked",
        "chunked-",
        "chun ked",
        "\"chunked\"",
        "chunked,",
        "",
        ", chunked",
        "deflate",
        "compress",
        "chunked\t;a",
        "CHUNKED, identity",
        "trailers",
        "\u{b}chunked",
        "chunked\u{0}",
        "chunked\u{a0}",
        "chunked\u{7f}",
    ];
    for value in bad {
        cases.push(case(format!("Transfer-Encoding {value:?}"), "9112 §6.1, §6.3 (4)", post(&format!("Transfer-Encoding: {value}¶")) + "0¶¶@H", REFUSED));
    }
    // Written well, but nothing we can decode.
    for value in ["gzip, chunked", "identity,chunked", "x-own \t, deflate, CHUNKED", "trailers, chunked"] {
        let text = post(&format!("Transfer-Encoding: {value}¶")) + "0¶¶@H";
        cases.push(case(format!("Transfer-Encoding {value:?}"), "9112 §6.1 (501)", text, UNKNOWN).holds("Connection: close"));
    }
    cases.push(case("two fields, an unknown coding first", "9112 §6.1 (501)", post("Transfer-Encoding: gzip¶Transfer-Encoding: chunked¶") + "0¶¶@H", UNKNOWN));
    cases.push(case("an unknown coding in HTTP/1.0", "9112 §6.1", "POST @E HTTP/1.0¶Transfer-Encoding: gzip, chunked¶¶0¶¶@H", REFUSED));
    cases.push(case("two codings", "9112 §6.1", post("Transfer-Encoding: chunked¶Transfer-Encoding: chunked¶") + "0¶¶@H", REFUSED));
    cases.push(case("a second coding", "9112 §6.1", post("Transfer-Encoding: chunked¶Transfer-Encoding: identity¶") + "0¶¶@H", REFUSED));
    cases.push(case("a coding in HTTP/1.0", "9112 §6.1", "POST @E HTTP/1.0¶Transfer-Encoding: chunked¶¶0¶¶@H", REFUSED));
    cases.push(case("a coding in HTTP/1.0, kept alive", "9112 §6.1", "POST @E HTTP/1.0¶Connection: keep-alive¶Transfer-Encoding: chunked¶¶0¶¶@H", REFUSED));
}

fn both(cases: &mut Vec<Case>) {
    for (name, fields) in [
        ("length then coding", "Content-Length: 5¶Transfer-Encoding: chunked¶"),
        ("coding then length", "Transfer-Encoding: chunked¶Content-Length: 5¶"),
        ("length 0 and coding", "Content-Length: 0¶Transfer-Encoding: chunked¶"),
        ("other letters", "content-LENGTH: 5¶transfer-ENCODING: Chunked¶"),
        ("length and identity", "Content-Length: 5¶Transfer-Encoding: identity¶"),
        ("length and nonsense", "Content-Length: 5¶Transfer-Encoding: x¶"),
        ("length and what is unknown", "Content-Length: 5¶Transfer-Encoding: gzip, chunked¶"),
    ] {
        cases.push(case(format!("both: {name}"), "9112 §6.1, §6.3 (3)", post(fields) + "0¶¶@H", REFUSED));
    }
}

fn disguised(cases: &mut Vec<Case>) {
    for (name, fields) in [
        ("blank before the colon of a length", "Content-Length : 5¶"),
        ("tab before the colon of a coding", "Transfer-Encoding\t: chunked¶"),
        ("blank before the colon of a coding", "Transfer-Encoding : chunked¶"),
        ("a folded coding", "Transfer-Encoding:¶ chunked¶"),
        ("a coding folded into another field", "X: y¶ Transfer-Encoding: chunked¶"),
        ("a coding folded with a tab", "X: y¶\tTransfer-Encoding: chunked¶"),
        ("a coding after a bare CR", "X: y\rTransfer-Encoding: chunked¶"),
        ("a coding after a bare LF", "X: y\nTransfer-Encoding: chunked¶"),
        ("a length after NUL", "X: y\u{0}Content-Length: 5¶"),
        ("a blank in the name", "Transfer Encoding: chunked¶"),
        ("NUL in the name", "Transfer-Encoding\u{0}: chunked¶"),
        ("a byte above ASCII in the name", "Transfer-Encoding\u{ff}: chunked¶"),
        ("a name in front of the length", " Content-Length: 5¶"),
        ("CR before the colon", "Content-Length\r: 5¶"),
        ("a line of CR", "\r¶"),
    ] {
        cases.push(case(format!("disguised: {name}"), "9112 §5.1, §5.2, §2.2", post(fields) + "0¶¶@H", REFUSED));
    }
    cases.push(case("an underscore is another name", "9110 §5.1", post("Content_Length: 5¶"), &["200"]));
}

fn chunks(cases: &mut Vec<Case>) {
    for line in [
        "-1",
        "+1",
        "0x1",
        "g",
        " 1",
        "",
        "1 x",
        "1_",
        "1\u{b2}",
        "fffffffffffffffff",
        "10000000000000000",
        "1;\u{0}",
        "1;a\n",
        "1\n",
        "1\r",
        "1,2",
        "\t1",
        "1;a\rb",
    ] {
        cases.push(case(format!("chunk size {line:?}"), "9112 §7.1", post("Transfer-Encoding: chunked¶") + line + "¶a¶0¶¶@H", REFUSED));
    }
    for (name, body) in [
        ("longer than it says", "3¶abcd¶0¶¶@H"),
        ("shorter than it says", "3¶ab¶0¶¶@H"),
        ("ends in LF", "3¶abc\n0¶¶@H"),
        ("ends in CR", "3¶abc\r0¶¶@H"),
        ("ends in nothing", "3¶abc0¶¶@H"),
        ("last chunk line ends in LF", "3¶abc¶0\n\n@H"),
        ("a trailer without a colon", "0¶trailer¶¶@H"),
        ("a trailer with a blank in its name", "0¶a b: c¶¶@H"),
        ("a trailer with NUL", "0¶a: \u{0}¶¶@H"),
        ("a folded trailer", "0¶a: b¶ c¶¶@H"),
        ("a trailer that ends in LF", "0¶a: b\n\n@H"),
        ("a request in the place of trailers", "0¶GET / HTTP/1.1¶Host: t¶¶@H"),
    ] {
        cases.push(case(format!("chunk {name}"), "9112 §7.1", post("Transfer-Encoding: chunked¶") + body, REFUSED));
    }
    cases.push(case("a chunk of 2^64 - 1", "9112 §7.1", post("Transfer-Encoding: chunked¶") + "ffffffffffffffff¶a¶0¶¶@H", &["", "400", "413"]));
    for (name, body) in [
        ("in the size", "3"),
        ("after the size", "3¶"),
        ("in the data", "3¶ab"),
        ("after the data", "3¶abc¶"),
        ("in the last line", "3¶abc¶0¶"),
        ("in the trailers", "0¶a: b¶"),
    ] {
        cases.push(case(format!("chunks cut {name}"), "9112 §8", post("Transfer-Encoding: chunked¶") + body, &["", "400"]));
    }
}

fn good(cases: &mut Vec<Case>) {
    for (name, body, echoed) in [
        ("one chunk", "5¶hello¶0¶¶", "¶¶hello"),
        ("hexadecimal, upper", "A¶0123456789¶0¶¶", "¶¶0123456789"),
        ("hexadecimal, lower", "a¶0123456789¶0¶¶", "¶¶0123456789"),
        ("leading zeros", "0005¶hello¶000¶¶", "¶¶hello"),
        ("an extension", "5;a=b¶hello¶0;c¶¶", "¶¶hello"),
        ("a quoted extension", "5;a=\"b;c\"¶hello¶0¶¶", "¶¶hello"),
        ("blanks before an extension", "5 ;a¶hello¶0¶¶", "¶¶hello"),
        ("several chunks", "2¶he¶3¶llo¶0¶¶", "¶¶hello"),
        ("trailers", "5¶hello¶0¶X-Status: 502¶X-Trail: er¶¶", "¶¶hello"),
        ("an empty body", "0¶¶", "Content-Length: 0"),
    ] {
        let case = case(format!("good: {name}"), "9112 §7.1", post("Transfer-Encoding: chunked¶") + body, &["200"]);
        cases.push(case.holds(echoed.replace('¶', "\r\n")).lacks("X-Trail"));
    }
    let two = post("Transfer-Encoding: chunked¶") + "1¶a¶0¶¶" + &post("Content-Length: 1¶") + "b";
    cases.push(case("chunks, then a length", "9112 §9.3.2", two.clone(), &["200 200"]));
    cases.push(case("the same, byte by byte", "9112 §9.3.2", two, &["200 200"]).drip());
    cases.push(case("a coding in capitals", "9112 §7", post("Transfer-Encoding: CHUNKED¶") + "1¶a¶0¶¶", &["200"]));
    cases.push(case("blanks around a length", "9112 §5", post("Content-Length: \t 1 \t¶") + "a", &["200"]));
    cases.push(case("zeros before a length", "9110 §8.6", post("Content-Length: 0001¶") + "a", &["200"]));
    cases.push(case("a POST without a length has no body", "9112 §6.3 (6)", post(""), &["200"]).holds("Content-Length: 0"));
}
