//! Fields of requests and answers.

use super::{Case, case, post};

pub(crate) fn cases() -> Vec<Case> {
    let hi = |fields: &str| post(&format!("{fields}Content-Length: 2¶")) + "hi";
    vec![
        case("an answer has the call's id", "hob", hi(""), &["200"]).holds("Fn-Call-Id: "),
        case("the client's id is not taken for it", "hob", hi("Fn-Call-Id: MINE¶"), &["200"]).lacks("MINE"),
        case("who answers", "9110 §10.2.4", hi(""), &["200"]).holds("Server: hob/"),
        case("an answer's length", "9110 §8.6", hi(""), &["200"]).holds("Content-Length: 2\r\n").lacks("Transfer-Encoding"),
        case("no CORS unless asked for", "hob", hi("Origin: http://evil.t¶"), &["200"]).lacks("Access-Control"),
        case("a field named in Connection ends here", "9110 §7.6.1", hi("Connection: X-Size¶X-Size: 9¶"), &["200"]).holds("\r\n\r\nhi"),
        case("the same in a list", "9110 §7.6.1", hi("Connection: a, x-SIZE , b¶X-Size: 9¶"), &["200"]).holds("\r\n\r\nhi"),
        case("a field not named goes on", "9110 §7.6.1", hi("Connection: a¶X-Size: 9¶"), &["200"]).holds("\r\n\r\nxxxxxxxxx"),
        case("Connection may name what is not there", "9110 §7.6.1", hi("Connection: nothing¶"), &["200"]),
        case("Connection of commas", "9110 §5.6.1", hi("Connection: ,, ,¶"), &["200"]),
        case("blanks around a value", "9110 §5.5", hi("X-Size: \t 3 \t¶"), &["200"]).holds("\r\n\r\nxxx"),
        case("no blank before a value", "9112 §5", hi("X-Size:3¶"), &["200"]).holds("\r\n\r\nxxx"),
        case("names in other letters", "9110 §5.1", hi("x-sIZE: 3¶"), &["200"]).holds("\r\n\r\nxxx"),
        case("an empty value", "9110 §5.5", hi("X-Empty:¶"), &["200"]),
        case("bytes above ASCII in a value", "9110 §5.5", hi("X: \u{e9}\u{ff}¶"), &["200"]),
        case("a tab in a value", "9110 §5.5", hi("X: a\tb¶"), &["200"]),
        case("the same name often", "9110 §5.3", hi(&"X-Same: 1¶".repeat(60)), &["200"]),
        case("a name of every token character", "9110 §5.6.2", hi("!#$%&'*+-.^_`|~09azAZ: 1¶"), &["200"]),
        case("a secret is not said", "hob", hi("Authorization: Bearer s3cr3t¶Cookie: s3cr3t¶"), &["200"]).lacks("s3cr3t"),
        case("the type of a body comes back", "9110 §8.3", hi("Content-Type: text/x-mine¶"), &["200"]).holds("text/x-mine"),
        case("forwarded fields of a client change nothing", "hob", hi("X-Forwarded-For: 1.2.3.4¶X-Forwarded-Proto: https¶Forwarded: for=x¶"), &["200"]),
        case("TE and Trailer", "9110 §10.1.4", hi("TE: trailers, deflate¶Trailer: X¶"), &["200"]),
        case("an old proxy's field", "9112 §C.2.2", hi("Proxy-Connection: close¶Keep-Alive: 5¶"), &["200"]).lacks("Connection: close"),
        case("errors are JSON", "hob", "GET /nope HTTP/1.1¶Host: t¶¶", &["404"]).holds("application/json").holds("\"message\""),
        case("bytes of a bad request are not repeated", "hob", "GET /<script> HTTP/9.9¶Host: t¶¶", &["505"]).lacks("<script>"),
        case("a path is repeated as text, not as a page", "hob", "GET /<script> HTTP/1.1¶Host: t¶¶", &["404"]).holds("application/json"),
    ]
}
