//! The API as clients meet it: the real server on a real socket, asked with
//! raw requests. Each case names the rule it guards (spec http-api).

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::model::Id;

struct Server {
    api: Api,
    store: Arc<Store>,
    dir: PathBuf,
    /// `{A}` in a request or an expectation is replaced by the id kept under `A`.
    names: Vec<(String, String)>,
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|l| l.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("json")
    }
}

impl Server {
    fn new() -> Server {
        Server::with(|options| options)
    }

    fn with(change: impl FnOnce(ApiOptions) -> ApiOptions) -> Server {
        let dir = std::env::temp_dir().join(format!("hob-api-{}", Id::new()));
        fs::create_dir(&dir).expect("folder");
        let store = Arc::new(Store::open(&dir.join("fn.db")).expect("store"));
        let options = ApiOptions { store: store.clone(), socket: dir.join("api.sock"), public_url: None, threads: 4, debug_state: None };
        Server { api: Api::start(change(options)).expect("api"), store, dir, names: Vec::new() }
    }

    fn filled(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, id)| text.replace(&format!("{{{name}}}"), id))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join("api.sock")).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Got {
        self.ask_with(method, target, "", &self.filled(body))
    }

    /// As the edge asks: original target and Host, Content-Length.
    fn ask_with(&self, method: &str, target: &str, fields: &str, body: &str) -> Got {
        let mut stream = self.connect();
        let target = self.filled(target);
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: h.example:1\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
            .expect("write");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("an answer and its end");
        parse(&text)
    }

    /// Creates something and keeps its id under `name`.
    fn made(&mut self, name: &str, target: &str, body: &str) {
        let got = self.ask("POST", target, body);
        assert_eq!(got.status, 200, "{body}: {got:?}");
        self.names.push((name.to_owned(), got.json()["id"].as_str().expect("id").to_owned()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.api.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn parse(answer: &[u8]) -> Got {
    let text = String::from_utf8(answer.to_vec()).expect("utf-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Got { status, head: head.to_owned(), body: body.to_owned() }
}

/// Rule, method, target, body, status, expectation: `!text` is exactly the
/// error with that text; `=text` exactly that body; `~text` a part of it;
/// `^text` is no part of it; the empty text an empty body.
type Case<'c> = (&'c str, &'c str, &'c str, &'c str, u16, &'c str);

fn check(server: &Server, cases: &[Case<'_>]) {
    for (rule, method, target, body, status, want) in cases {
        let got = server.ask(method, target, body);
        let want = server.filled(want);
        let about = format!("{rule}: {method} {target} {body}\n got {} {}", got.status, got.body);
        assert_eq!(got.status, *status, "{about}");
        match want.split_at_checked(1) {
            Some(("!", text)) => {
                assert_eq!(got.body, format!("{{\"message\":{}}}\n", Value::from(text)), "{about}");
                assert_eq!(got.field("Content-Type"), Some("application/json; charset=utf-8"), "{about}");
            }
            Some(("=", text)) => assert_eq!(got.body, text, "{about}"),
            Some(("~", text)) => assert!(got.body.contains(text), "{about}\nwant {text}"),
            Some(("^", text)) => assert!(!got.body.contains(text), "{about}\nnot {text}"),
            _ => assert_eq!((got.body.as_str(), want.as_str()), ("", ""), "{about}"),
        }
    }
}

const OLD: &str = r#""created_at":"0001-01-01T00:00:00.000Z","updated_at":"0001-01-01T00:00:00.000Z""#;

#[test]
fn routing() {
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    let version = format!("={{\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"));
    check(
        &server,
        &[
            ("§1.1 root", "GET", "/", "", 200, r#"={"goto":"https://github.com/fnproject/fn","hello":"world!"}"#),
            ("§1.1 root with a query", "GET", "/?a=b", "", 200, "~hello"),
            ("§1.1 version", "GET", "/version", "", 200, &version),
            ("§1.1 metrics", "GET", "/metrics", "", 200, "~# TYPE fn_calls counter"),
            ("§1.1 no /ping", "GET", "/ping", "", 404, "!Path not found: GET /ping"),
            ("§1.1 no /shutdown", "GET", "/shutdown", "", 404, "!Path not found: GET /shutdown"),
            ("§1.1 calls are gone", "GET", "/v2/fns/x/calls", "", 410, ""),
            ("§1.1 a call is gone", "GET", "/v2/fns/x/calls/y", "", 410, ""),
            ("§1.1 logs are gone", "GET", "/v2/fns/x/calls/y/log", "", 410, ""),
            ("§1.1 calls by POST", "POST", "/v2/fns/x/calls", "", 405, "!Method not allowed: POST /v2/fns/x/calls"),
            ("§1.1 nothing below log", "GET", "/v2/fns/x/calls/y/log/z", "", 404, "!Path not found: GET /v2/fns/x/calls/y/log/z"),
            ("§1.1 no debug state unless given", "GET", "/debug/state", "", 404, "!Path not found: GET /debug/state"),
            ("§1.1 PATCH is not routed", "PATCH", "/v2/apps", "", 405, "!Method not allowed: PATCH /v2/apps"),
            ("§1.1 PATCH of an app", "PATCH", "/v2/apps/{A}", "{}", 405, "!Method not allowed: PATCH /v2/apps/{A}"),
            ("§1.2 unknown path", "GET", "/nope", "", 404, "!Path not found: GET /nope"),
            ("§1.2 no query in the text", "GET", "/nope?x=1", "", 404, "!Path not found: GET /nope"),
            ("§1.2 decoded path in the text", "GET", "/n%6fpe", "", 404, "!Path not found: GET /nope"),
            ("§1.2 unknown path, any method", "DELETE", "/nope", "", 404, "!Path not found: DELETE /nope"),
            ("§1.2 HEAD on a GET route", "HEAD", "/v2/apps", "", 405, ""),
            ("§1.2 OPTIONS", "OPTIONS", "/v2/apps", "", 405, "!Method not allowed: OPTIONS /v2/apps"),
            ("§1.2 unknown verb", "FOO", "/v2/apps", "", 405, "!Method not allowed: FOO /v2/apps"),
            ("§1.2 unknown verb, unknown path", "FOO", "/nope", "", 404, "!Path not found: FOO /nope"),
            ("§1.2 PUT on a list", "PUT", "/v2/fns", "{}", 405, "!Method not allowed: PUT /v2/fns"),
            ("§1.2 DELETE on a list", "DELETE", "/v2/triggers", "", 405, "!Method not allowed: DELETE /v2/triggers"),
            ("§1.2 POST on an item", "POST", "/v2/apps/{A}", "{}", 405, "!Method not allowed: POST /v2/apps/{A}"),
            ("§1.2 POST on the root", "POST", "/", "", 405, "!Method not allowed: POST /"),
            ("§1.2 POST on version", "POST", "/version", "", 405, "!Method not allowed: POST /version"),
            ("§1.2 slash by GET", "GET", "/v2/apps/", "", 301, "=<a href=\"/v2/apps\">Moved Permanently</a>.\n\n"),
            ("§1.2 slash by GET on an item", "GET", "/v2/apps/{A}/", "", 301, "~<a href=\"/v2/apps/{A}\">"),
            ("§1.2 slash by POST", "POST", "/v2/apps/", r#"{"name":"z"}"#, 307, ""),
            ("§1.2 slash by PUT on an item", "PUT", "/v2/fns/x/", "{}", 307, ""),
            ("§1.2 slash by DELETE on an item", "DELETE", "/v2/apps/{A}/", "", 307, ""),
            ("§1.2 slash by DELETE on a list", "DELETE", "/v2/apps/", "", 404, "!Path not found: DELETE /v2/apps/"),
            ("§1.2 slash by PATCH", "PATCH", "/v2/apps/", "", 404, "!Path not found: PATCH /v2/apps/"),
            ("§1.2 two slashes", "GET", "/v2/apps//", "", 404, "!Path not found: GET /v2/apps//"),
            ("§1.2 no cleaning", "GET", "//v2/apps", "", 404, "!Path not found: GET //v2/apps"),
            ("§1.2 no dot segments", "GET", "/v2/./apps", "", 404, "!Path not found: GET /v2/./apps"),
            ("§1.2 case-sensitive", "GET", "/V2/apps", "", 404, "!Path not found: GET /V2/apps"),
            ("§1.2 routed by the decoded path", "GET", "/v2/%61pps", "", 200, "~\"items\""),
            ("§1.2 an escaped slash separates", "GET", "/v2%2Fapps", "", 200, "~\"items\""),
            ("§1.2 bad escape", "GET", "/v2/%zz", "", 400, "!Invalid path: bad percent escape"),
            ("§1.2 GET invoke", "GET", "/invoke/x", "", 405, "!Method not allowed: GET /invoke/x"),
            ("§1.2 below invoke", "POST", "/invoke/x/y", "", 404, "!Path not found: POST /invoke/x/y"),
            ("§1.2 /t/", "GET", "/t/", "", 404, "!Path not found: GET /t/"),
            ("§1.2 /v2 alone", "GET", "/v2", "", 404, "!Path not found: GET /v2"),
            ("§11.3 the redirect made nothing", "GET", "/v2/apps?name=z", "", 200, r#"={"items":[]}"#),
        ],
    );
    let got = server.ask("GET", "/v2/apps/?name=a&x=1", "");
    assert_eq!((got.status, got.field("Location"), got.field("Content-Type")), (301, Some("/v2/apps?name=a&x=1"), Some("text/html; charset=utf-8")));
    assert_eq!(server.ask("POST", "/v2/apps/", "").field("Location"), Some("/v2/apps"));
    assert_eq!(server.ask("GET", "/v2/apps%2f", "").field("Location"), Some("/v2/apps"));
    assert_eq!(server.ask("PATCH", "/v2/apps", "").field("Allow"), None);
    assert_eq!(server.ask("GET", "/metrics", "").field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
}

#[test]
fn apps() {
    let mut server = Server::new();
    let (n255, n256, accents) = ("x".repeat(255), "x".repeat(256), "é".repeat(128));
    let post = |name: &str| format!(r#"{{"name":"{name}"}}"#);
    let annotation = |key: &str, value: &str| format!(r#"{{"name":"n","annotations":{{"{key}":{value}}}}}"#);
    let config = |key: &str, len: usize| format!(r#"{{"name":"c{len}","config":{{"{key}":"{}"}}}}"#, "v".repeat(len));
    let hundred = |n: usize| format!(r#"{{"name":"h{n}","annotations":{{{}}}}}"#, (0..n).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
    let value_error = "!Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays";
    let key_error = "!Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace";
    let scheme = "invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported";
    check(
        &server,
        &[
            ("§11.3 fresh list", "GET", "/v2/apps", "", 200, r#"={"items":[]}"#),
            ("§1.3 empty body", "POST", "/v2/apps", "", 400, "!Invalid JSON"),
            ("§1.3 null is the empty object", "POST", "/v2/apps", "null", 400, "!Missing Name"),
            ("§1.3 empty object", "POST", "/v2/apps", "{}", 400, "!Missing Name"),
            ("§1.3 array", "POST", "/v2/apps", "[]", 400, "!Invalid JSON"),
            ("§1.3 wrong type", "POST", "/v2/apps", r#"{"name":1}"#, 400, "!Invalid JSON"),
            ("§1.3 half an object", "POST", "/v2/apps", r#"{"name":"a""#, 400, "!Invalid JSON"),
            ("§1.3 bad timestamp", "POST", "/v2/apps", r#"{"name":"q","created_at":"x"}"#, 400, "!Invalid JSON"),
            ("§1.3 keys in any case", "POST", "/v2/apps", r#"{"NAME":"a3"}"#, 200, r#"~"name":"a3""#),
            ("§1.3 unknown keys", "POST", "/v2/apps", r#"{"name":"a4","nope":{"x":[1]}}"#, 200, r#"~"name":"a4""#),
            ("§1.3 after the first value", "POST", "/v2/apps", r#"{"name":"a5"} and more"#, 200, r#"~"name":"a5""#),
            ("§1.3 CLI's zero times", "POST", "/v2/apps", &format!(r#"{{"annotations":null,"config":{{}},{OLD},"name":"cli"}}"#), 200, r#"^0001-01-01"#),
            ("§2.1 id on create", "POST", "/v2/apps", r#"{"id":"x","name":"a"}"#, 400, "!App ID cannot be supplied on create"),
            ("§2.2 blank in a name", "POST", "/v2/apps", &post("a b"), 400, "!Invalid app name"),
            ("§2.2 dot in a name", "POST", "/v2/apps", &post("a.b"), 400, "!Invalid app name"),
            ("§2.2 slash in a name", "POST", "/v2/apps", &post("a/b"), 400, "!Invalid app name"),
            ("§2.2 letters of any script", "POST", "/v2/apps", &post("été"), 200, "~été"),
            ("§2.2 digits, _ and -", "POST", "/v2/apps", &post("1_-٣"), 200, "~1_-"),
            ("§2.2 255 bytes", "POST", "/v2/apps", &post(&n255), 200, "~xxx"),
            ("§2.2 256 bytes", "POST", "/v2/apps", &post(&n256), 400, "!App name must be 255 characters or less"),
            ("§2.2 bytes count, not letters", "POST", "/v2/apps", &post(&accents), 400, "!App name must be 255 characters or less"),
            ("§2.5 name taken", "POST", "/v2/apps", &post("a3"), 409, "!App already exists"),
            ("§1.4 bad shape", "POST", "/v2/apps", r#"{"name":"s","shape":"ARM"}"#, 400, "!Invalid app shape"),
            ("§1.4 shape", "POST", "/v2/apps", r#"{"name":"s1","shape":"GENERIC_ARM"}"#, 200, r#"~"shape":"GENERIC_ARM""#),
            ("§1.4 two-way shape", "POST", "/v2/apps", r#"{"name":"s2","shape":"GENERIC_X86_ARM"}"#, 200, r#"~"shape":"GENERIC_X86_ARM""#),
            ("§2.1 syslog without scheme", "POST", "/v2/apps", r#"{"name":"s","syslog_url":"yo"}"#, 400, &format!("!invalid syslog url: \"yo\" {scheme}")),
            ("§2.2 syslog scheme", "POST", "/v2/apps", r#"{"name":"s","syslog_url":"http://h"}"#, 400, &format!("!invalid syslog url: \"http://h\" {scheme}")),
            ("§2.2 syslog without host", "POST", "/v2/apps", r#"{"name":"s3","syslog_url":"udp://"}"#, 200, r#"~"syslog_url":"udp://""#),
            ("§2.2 syslog kept untrimmed", "POST", "/v2/apps", r#"{"name":"s4","syslog_url":" tcp+tls://h:1 "}"#, 200, r#"~"syslog_url":" tcp+tls://h:1 ""#),
            ("§1.4 empty syslog is echoed", "POST", "/v2/apps", r#"{"name":"s5","syslog_url":""}"#, 200, r#"~"syslog_url":"""#),
            ("§1.4 null syslog is not there", "POST", "/v2/apps", r#"{"name":"s6","syslog_url":null}"#, 200, "^syslog"),
            ("§2.1 annotation key empty", "POST", "/v2/apps", &annotation("", "1"), 400, key_error),
            ("§2.1 annotation key with a blank", "POST", "/v2/apps", &annotation("k k", "1"), 400, key_error),
            ("§2.1 annotation key not ascii", "POST", "/v2/apps", &annotation("é", "1"), 400, key_error),
            (
                "§2.1 annotation key 129 bytes",
                "POST",
                "/v2/apps",
                &annotation(&"k".repeat(129), "1"),
                400,
                "!Invalid annotation key length, annotation keys may not be larger than 128 bytes",
            ),
            ("§2.1 annotation value empty", "POST", "/v2/apps", &annotation("k", "\"\""), 400, value_error),
            ("§11.12 annotation value null", "POST", "/v2/apps", &annotation("k", "null"), 400, value_error),
            (
                "§2.2 annotation value 513 bytes",
                "POST",
                "/v2/apps",
                &annotation("k", &format!("\"{}\"", "v".repeat(511))),
                400,
                "!Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON",
            ),
            ("§2.2 annotation value 512 bytes", "POST", "/v2/apps", &format!(r#"{{"name":"v512","annotations":{{"k":"{}"}}}}"#, "v".repeat(510)), 200, "~vvv"),
            ("§2.2 blanks do not count", "POST", "/v2/apps", &format!(r#"{{"name":"vb","annotations":{{"k":[{}1 ]}}}}"#, " ".repeat(600)), 200, r#"~"k":[1]"#),
            (
                "§2.2 any other JSON",
                "POST",
                "/v2/apps",
                r#"{"name":"vj","annotations":{"a":false,"b":[],"c":{},"d":0}}"#,
                200,
                r#"~"annotations":{"a":false,"b":[],"c":{},"d":0}"#,
            ),
            ("§2.2 key order in a value", "POST", "/v2/apps", r#"{"name":"vo","annotations":{"k":{"z": 1,"a": 2}}}"#, 200, r#"~{"k":{"z":1,"a":2}}"#),
            (
                "§2.2 101 annotations",
                "POST",
                "/v2/apps",
                &hundred(101),
                400,
                "!Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)",
            ),
            ("§2.2 100 annotations", "POST", "/v2/apps", &hundred(100), 200, "~k99"),
            ("§1.7 reserved keys are dropped", "POST", "/v2/apps", r#"{"name":"rk","annotations":{"fnproject.io/x":1}}"#, 200, "^annotations"),
            ("§2.2 config key empty", "POST", "/v2/apps", r#"{"name":"c","config":{"":"v"}}"#, 400, "!Invalid config, keys must not be empty"),
            ("§2.2 config key with =", "POST", "/v2/apps", r#"{"name":"c","config":{"a=b":"v"}}"#, 400, "~must not contain '='"),
            ("§2.2 config value with NUL", "POST", "/v2/apps", r#"{"name":"c","config":{"a":"\u0000"}}"#, 400, "~must not contain NUL"),
            ("§2.2 config key with NUL", "POST", "/v2/apps", r#"{"name":"c","config":{"\u0000":"a"}}"#, 400, "~must not contain '=' or NUL"),
            ("§2.2 config too long for the kernel", "POST", "/v2/apps", &config("k", 131_070), 400, "~may not be larger than"),
            ("§2.2 config just short enough", "POST", "/v2/apps", &config("k", 131_069), 200, "~vvv"),
            ("§2.2 config with blanks and newlines", "POST", "/v2/apps", r#"{"name":"cb","config":{"a b":"1\n2"}}"#, 200, r#"~"config":{"a b":"1\n2"}"#),
            ("§1.3 maps are sorted", "POST", "/v2/apps", r#"{"name":"ms","config":{"b":"1","a":"2"}}"#, 200, r#"~"config":{"a":"2","b":"1"}"#),
            ("§2.3 empty config value is kept on create", "POST", "/v2/apps", r#"{"name":"ce","config":{"E":""}}"#, 200, r#"~"config":{"E":""}"#),
            ("§2.1 unknown app", "GET", "/v2/apps/nope", "", 404, "!App not found"),
            ("§2.1 unknown app, id-shaped", "GET", "/v2/apps/01HF7YAT3V180G40RZJ0000001", "", 404, "!App not found"),
            ("§2.1 update of an unknown app", "PUT", "/v2/apps/nope", "{}", 404, "!App not found"),
            ("§2.1 delete of an unknown app", "DELETE", "/v2/apps/nope", "", 404, "!App not found"),
        ],
    );
    server.made("A", "/v2/apps", r#"{"name":"a","config":{"K":"v","E":""},"annotations":{"k":1,"l":"x"},"syslog_url":"udp://h","shape":"GENERIC_X86"}"#);
    check(
        &server,
        &[
            ("§2.2 update with bad JSON", "PUT", "/v2/apps/{A}", "nope", 400, "!Invalid JSON"),
            ("§2.3 id differs", "PUT", "/v2/apps/{A}", r#"{"id":"zz","config":{"X":"1"}}"#, 400, "!App ID in path does not match ID in body"),
            ("§2.2 mismatch before unknown", "PUT", "/v2/apps/nope", r#"{"id":"zz"}"#, 400, "!App ID in path does not match ID in body"),
            ("§2.3 name differs", "PUT", "/v2/apps/{A}", r#"{"name":"other","config":{"X":"1"}}"#, 409, "!Could not update - name is immutable"),
            ("§2.3 the same name is fine", "PUT", "/v2/apps/{A}", r#"{"id":"{A}","name":"a"}"#, 200, r#"~"name":"a""#),
            ("§2.3 refused updates change nothing", "GET", "/v2/apps/{A}", "", 200, r#"~"config":{"E":"","K":"v"}"#),
            ("§11.14 config merges by key", "PUT", "/v2/apps/{A}", r#"{"config":{"K":"","N":"1","absent":""}}"#, 200, r#"~"config":{"E":"","N":"1"}"#),
            ("§2.3 an empty config changes nothing", "PUT", "/v2/apps/{A}", r#"{"config":{}}"#, 200, r#"~"config":{"E":"","N":"1"}"#),
            ("§2.3 annotation deleted by the empty text", "PUT", "/v2/apps/{A}", r#"{"annotations":{"l":""}}"#, 200, r#"~"annotations":{"k":1}"#),
            ("§11.13 annotation deleted by null", "PUT", "/v2/apps/{A}", r#"{"annotations":{"k":null}}"#, 200, "^annotations"),
            ("§11.13 and the store lives on", "GET", "/v2/apps/{A}", "", 200, "^annotations"),
            ("§2.3 bad annotation in an update", "PUT", "/v2/apps/{A}", r#"{"annotations":{"k k":1}}"#, 400, key_error),
            ("§2.3 shape is ignored", "PUT", "/v2/apps/{A}", r#"{"shape":"WRONG"}"#, 200, r#"~"shape":"GENERIC_X86""#),
            ("§2.3 null syslog is unchanged", "PUT", "/v2/apps/{A}", r#"{"syslog_url":null}"#, 200, r#"~"syslog_url":"udp://h""#),
            ("§2.3 bad syslog", "PUT", "/v2/apps/{A}", r#"{"syslog_url":"yo"}"#, 400, &format!("!invalid syslog url: \"yo\" {scheme}")),
            ("§2.3 empty syslog clears", "PUT", "/v2/apps/{A}", r#"{"syslog_url":""}"#, 200, "^syslog"),
            ("§2.2 config checked in updates", "PUT", "/v2/apps/{A}", r#"{"config":{"a=b":"v"}}"#, 400, "~must not contain '='"),
            ("§1.6 filter by name", "GET", "/v2/apps?name=a", "", 200, r#"~{"items":[{"id":"{A}","name":"a","#),
            ("§1.6 filter by an unknown name", "GET", "/v2/apps?name=zz", "", 200, r#"={"items":[]}"#),
        ],
    );
}

/// §1.3, §1.4, §2.3: shapes of replies, times.
#[test]
fn replies_and_times() {
    let mut server = Server::new();
    let got = server.ask("POST", "/v2/apps", &format!(r#"{{"name":"a1",{OLD}}}"#));
    assert_eq!(got.field("Content-Type"), Some("application/json; charset=utf-8"));
    assert_eq!(got.field("Content-Length"), Some(got.body.len().to_string().as_str()));
    assert!(!got.body.ends_with('\n') && !got.body.contains("config"), "{}", got.body);
    let created = got.json();
    assert_eq!(created["id"].as_str().expect("id").len(), 26);
    assert_eq!(created["created_at"], created["updated_at"]);
    let time = created["created_at"].as_str().expect("time");
    assert!(time.len() == 24 && time.ends_with('Z') && time > "2020", "{time}");
    server.names.push(("A".into(), created["id"].as_str().expect("id").into()));
    let same = server.ask("PUT", "/v2/apps/{A}", &created.to_string()).json();
    assert_eq!(same, created, "§11.15 nothing changed, updated_at does not move");
    let moved = server.ask("PUT", "/v2/apps/{A}", r#"{"config":{"a":"b"}}"#).json();
    assert!(moved["updated_at"].as_str() > created["updated_at"].as_str(), "§2.3 it moves with a change");
    assert_eq!(moved["created_at"], created["created_at"]);
    let got = server.ask("DELETE", "/v2/apps/{A}", "");
    assert_eq!((got.status, got.body.as_str(), got.field("Content-Type")), (204, "", Some("text/plain; charset=utf-8")));
}

#[test]
fn fns() {
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a","shape":"GENERIC_X86"}"#);
    server.made("B", "/v2/apps", r#"{"name":"b"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"img:1","annotations":{"k":1}}"#);
    server.made("G", "/v2/fns", r#"{"app_id":"{A}","name":"g","image":"img:2"}"#);
    let with = |extra: &str| format!(r#"{{"app_id":"{{A}}","name":"x{}","image":"i",{extra}}}"#, extra.bytes().map(usize::from).sum::<usize>());
    let named = |name: &str| format!(r#"{{"app_id":"{{A}}","name":"{name}","image":"i"}}"#);
    let (range_memory, range_timeout, range_idle) = (
        "!memory value is out of range. It should be between 0 and 8192",
        "!timeout value is out of range, must be between 0 and 300",
        "!idle_timeout value is out of range, must be between 0 and 3600",
    );
    check(
        &server,
        &[
            (
                "§11.22 defaults",
                "GET",
                "/v2/fns/{F}",
                "",
                200,
                r#"~"name":"f","app_id":"{A}","image":"img:1","memory":128,"timeout":30,"idle_timeout":30,"config":{},"annotations":{"fnproject.io/fn/invokeEndpoint":"http://h.example:1/invoke/{F}","k":1},"created_at""#,
            ),
            ("§1.4 shape is the app's", "GET", "/v2/fns/{F}", "", 200, r#"~"shape":"GENERIC_X86","updated_at""#),
            ("§11.26 a given shape is ignored", "POST", "/v2/fns", &with(r#""shape":"GENERIC_ARM""#), 200, r#"~"shape":"GENERIC_X86""#),
            ("§1.4 even a wrong one", "POST", "/v2/fns", &with(r#""shape":"NONE""#), 200, r#"~"shape":"GENERIC_X86""#),
            ("§1.7 create replies are annotated", "POST", "/v2/fns", &named("c1"), 200, "~\"http://h.example:1/invoke/01"),
            ("§2.1 id on create", "POST", "/v2/fns", &with(r#""id":"x""#), 400, "!ID cannot be provided for Fn creation"),
            ("§2.2 app before name", "POST", "/v2/fns", "{}", 400, "!Missing AppID on Fn"),
            ("§2.2 name before image", "POST", "/v2/fns", r#"{"app_id":"{A}"}"#, 400, "!Missing Fn name"),
            ("§2.2 name length", "POST", "/v2/fns", &named(&"x".repeat(256)), 400, "!Fn name must be 255 characters or less"),
            ("§11.24 name with a slash", "POST", "/v2/fns", &named("f/x"), 400, "!name must be a valid string"),
            ("§2.2 name with a blank", "POST", "/v2/fns", &named("f x"), 400, "!name must be a valid string"),
            ("§2.2 name not ascii", "POST", "/v2/fns", &named("é"), 400, "!name must be a valid string"),
            ("§2.2 name with ;", "POST", "/v2/fns", &named("a;b"), 400, "!name must be a valid string"),
            ("§2.2 name with %", "POST", "/v2/fns", &named("a%b"), 400, "!name must be a valid string"),
            ("§2.2 every allowed sign", "POST", "/v2/fns", &named("aZ9-_.~$&+=:@"), 200, "~aZ9-_.~$&+=:@"),
            ("§2.2 image", "POST", "/v2/fns", r#"{"app_id":"{A}","name":"i"}"#, 400, "!Missing image on Fn"),
            ("§1.4 any image text", "POST", "/v2/fns", r#"{"app_id":"{A}","name":"xy","image":"x y"}"#, 200, r#"~"image":"x y""#),
            ("§11.23 memory 8193", "POST", "/v2/fns", &with(r#""memory":8193"#), 400, range_memory),
            ("§11.23 memory 8192", "POST", "/v2/fns", &with(r#""memory":8192"#), 200, r#"~"memory":8192"#),
            ("§11.23 memory negative", "POST", "/v2/fns", &with(r#""memory":-1"#), 400, "!Invalid JSON"),
            ("§11.23 memory as text", "POST", "/v2/fns", &with(r#""memory":"128""#), 400, "!Invalid JSON"),
            ("§1.3 memory fractional", "POST", "/v2/fns", &with(r#""memory":1.5"#), 400, "!Invalid JSON"),
            ("§1.4 memory 0 is the default", "POST", "/v2/fns", &with(r#""memory":0"#), 200, r#"~"memory":128"#),
            ("§11.23 timeout 301", "POST", "/v2/fns", &with(r#""timeout":301"#), 400, range_timeout),
            ("§11.23 timeout negative", "POST", "/v2/fns", &with(r#""timeout":-1"#), 400, range_timeout),
            ("§11.23 timeout 0 is the default", "POST", "/v2/fns", &with(r#""timeout":0"#), 200, r#"~"timeout":30"#),
            ("§2.2 timeout 300", "POST", "/v2/fns", &with(r#""timeout":300"#), 200, r#"~"timeout":300"#),
            ("§2.2 idle timeout 3601", "POST", "/v2/fns", &with(r#""idle_timeout":3601"#), 400, range_idle),
            ("§2.2 idle timeout 3600", "POST", "/v2/fns", &with(r#""idle_timeout":3600"#), 200, r#"~"idle_timeout":3600"#),
            ("§2.2 annotations checked", "POST", "/v2/fns", &with(r#""annotations":{"k":""}"#), 400, "~Invalid annotation value,"),
            ("§2.2 config checked", "POST", "/v2/fns", &with(r#""config":{"a=b":""}"#), 400, "~Invalid config key"),
            ("§11.24 unknown app", "POST", "/v2/fns", r#"{"app_id":"nope","name":"n","image":"i"}"#, 404, "!App not found"),
            ("§11.25 name taken", "POST", "/v2/fns", &named("f"), 409, "!Fn with specified name already exists"),
            ("§11.25 free in another app", "POST", "/v2/fns", r#"{"app_id":"{B}","name":"f","image":"i"}"#, 200, r#"~"app_id":"{B}""#),
            ("§11.25 app without shape", "GET", "/v2/fns?app_id={B}", "", 200, "^shape"),
            ("§11.27 list without app", "GET", "/v2/fns", "", 400, "!Missing AppID on Fn"),
            ("§1.6 list of an unknown app", "GET", "/v2/fns?app_id=nope", "", 200, r#"={"items":[]}"#),
            ("§1.6 filter by name", "GET", "/v2/fns?app_id={A}&name=g", "", 200, r#"~{"items":[{"id":"{G}","#),
            ("§1.7 lists are annotated", "GET", "/v2/fns?app_id={A}&name=g", "", 200, "~http://h.example:1/invoke/{G}"),
            ("§1.6 unknown query keys", "GET", "/v2/fns?app_id={B}&sort_by=x&display_name=y", "", 200, r#"~"name":"f""#),
            ("§2.1 unknown fn", "GET", "/v2/fns/nope", "", 404, "!Fn not found"),
            ("§2.1 update of an unknown fn", "PUT", "/v2/fns/nope", "{}", 404, "!Fn not found"),
            ("§2.1 delete of an unknown fn", "DELETE", "/v2/fns/nope", "", 404, "!Fn not found"),
            ("§2.4 id mismatch: one object", "PUT", "/v2/fns/{F}", r#"{"id":"{G}","memory":777}"#, 400, "!Fn ID in path does not match that in body"),
            ("§11.17 the other fn is untouched", "GET", "/v2/fns/{G}", "", 200, r#"~"memory":128"#),
            ("§11.26 name and app are ignored", "PUT", "/v2/fns/{F}", r#"{"name":"zz","app_id":"{B}","shape":"X"}"#, 200, r#"~"name":"f","app_id":"{A}""#),
            (
                "§2.3 limits replaced",
                "PUT",
                "/v2/fns/{F}",
                r#"{"memory":256,"timeout":5,"idle_timeout":6,"image":"new"}"#,
                200,
                r#"~"image":"new","memory":256,"timeout":5,"idle_timeout":6"#,
            ),
            (
                "§2.3 zero is unchanged",
                "PUT",
                "/v2/fns/{F}",
                r#"{"memory":0,"timeout":0,"idle_timeout":0,"image":""}"#,
                200,
                r#"~"image":"new","memory":256,"timeout":5,"idle_timeout":6"#,
            ),
            ("§2.3 limits checked", "PUT", "/v2/fns/{F}", r#"{"memory":9000}"#, 400, range_memory),
            ("§2.3 timeout checked", "PUT", "/v2/fns/{F}", r#"{"timeout":-5}"#, 400, range_timeout),
            ("§2.3 idle timeout checked", "PUT", "/v2/fns/{F}", r#"{"idle_timeout":9999}"#, 400, range_idle),
            (
                "§1.7 update replies are annotated",
                "PUT",
                "/v2/fns/{F}",
                r#"{"annotations":{"fnproject.io/fn/invokeEndpoint":"stale","j":2}}"#,
                200,
                r#"~{"fnproject.io/fn/invokeEndpoint":"http://h.example:1/invoke/{F}","j":2,"k":1}"#,
            ),
            ("§2.3 config by key", "PUT", "/v2/fns/{F}", r#"{"config":{"A":"1","B":"2"}}"#, 200, r#"~"config":{"A":"1","B":"2"}"#),
            ("§2.3 config key deleted", "PUT", "/v2/fns/{F}", r#"{"config":{"A":""}}"#, 200, r#"~"config":{"B":"2"}"#),
            ("§2.3 null body", "PUT", "/v2/fns/{F}", "null", 200, r#"~"config":{"B":"2"}"#),
            ("§2.5 delete", "DELETE", "/v2/fns/{G}", "", 204, ""),
            ("§2.5 second delete", "DELETE", "/v2/fns/{G}", "", 404, "!Fn not found"),
            ("§2.5 gone", "GET", "/v2/fns/{G}", "", 404, "!Fn not found"),
        ],
    );
    let id = server.filled("{F}").parse().expect("id");
    assert!(
        !serde_json::to_string(&*server.store.snapshot().target(&id).expect("fn").function).expect("json").contains("fnproject.io"),
        "§1.7 nothing reserved is stored"
    );
}

#[test]
fn triggers() {
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("B", "/v2/apps", r#"{"name":"b"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    server.made("G", "/v2/fns", r#"{"app_id":"{A}","name":"g","image":"i"}"#);
    server.made("O", "/v2/fns", r#"{"app_id":"{B}","name":"o","image":"i"}"#);
    let post = |name: &str, source: &str, f: &str| format!(r#"{{"app_id":"{{A}}","fn_id":"{{{f}}}","name":"{name}","type":"http","source":"{source}"}}"#);
    server.made("T", "/v2/triggers", &post("t", "/hello", "F"));
    server.made("U", "/v2/triggers", &post("u", "/u", "F"));
    let with = |extra: &str| format!(r#"{{"app_id":"{{A}}","fn_id":"{{F}}","name":"w","type":"http","source":"/w",{extra}}}"#);
    let source_taken = "!Trigger with the same type and source exists on this app";
    check(
        &server,
        &[
            (
                "§11.29 create reply has the endpoint",
                "POST",
                "/v2/triggers",
                &post("e", "/a b?x=1", "F"),
                200,
                r#"~"annotations":{"fnproject.io/trigger/httpEndpoint":"http://h.example:1/t/a/a b?x=1"}"#,
            ),
            ("§1.4 order of keys", "GET", "/v2/triggers/{T}", "", 200, r#"~{"id":"{T}","name":"t","app_id":"{A}","fn_id":"{F}","created_at":"#),
            (
                "§1.4 type and source",
                "GET",
                "/v2/triggers/{T}",
                "",
                200,
                r#"~"type":"http","source":"/hello","annotations":{"fnproject.io/trigger/httpEndpoint":"http://h.example:1/t/a/hello"}}"#,
            ),
            ("§2.1 id on create", "POST", "/v2/triggers", &with(r#""id":"x""#), 400, "!ID cannot be provided for Trigger creation"),
            (
                "§2.1 created_at on create",
                "POST",
                "/v2/triggers",
                &with(r#""created_at":"2020-01-01T00:00:00Z""#),
                400,
                "!Trigger Created At Provided for Create",
            ),
            ("§1.3 the empty time counts as given", "POST", "/v2/triggers", &with(r#""created_at":"""#), 400, "!Trigger Created At Provided for Create"),
            (
                "§2.1 updated_at on create",
                "POST",
                "/v2/triggers",
                &with(r#""updated_at":"2020-01-01T00:00:00.123456789Z""#),
                400,
                "!Trigger ID Provided for Create",
            ),
            ("§1.3 CLI's zero times", "POST", "/v2/triggers", &with(OLD), 200, r#"~"name":"w""#),
            ("§2.2 app first", "POST", "/v2/triggers", "{}", 400, "!Missing App ID on Trigger"),
            ("§2.2 then name", "POST", "/v2/triggers", r#"{"app_id":"{A}"}"#, 400, "!Missing name on Trigger"),
            ("§2.2 name length", "POST", "/v2/triggers", &post(&"x".repeat(256), "/l", "F"), 400, "!Trigger name must be 255 characters or less"),
            ("§2.2 name runes", "POST", "/v2/triggers", &post("a.b", "/l", "F"), 400, "!Invalid name for Trigger"),
            ("§2.2 then fn", "POST", "/v2/triggers", r#"{"app_id":"{A}","name":"n"}"#, 400, "!Missing Fn ID on Trigger"),
            ("§2.2 then type", "POST", "/v2/triggers", r#"{"app_id":"{A}","name":"n","fn_id":"{F}","source":"/n"}"#, 400, "!Trigger Type Not Supported"),
            (
                "§11.32 other type",
                "POST",
                "/v2/triggers",
                r#"{"app_id":"{A}","name":"n","fn_id":"{F}","type":"kafka","source":"/n"}"#,
                400,
                "!Trigger Type Not Supported",
            ),
            ("§2.2 then source", "POST", "/v2/triggers", r#"{"app_id":"{A}","name":"n","fn_id":"{F}","type":"http"}"#, 400, "!Missing Trigger Source"),
            ("§11.32 source prefix", "POST", "/v2/triggers", &post("n", "x", "F"), 400, "!Missing Trigger Source Prefix '/'"),
            ("§2.2 annotations", "POST", "/v2/triggers", &with(r#""annotations":{"":1}"#), 400, "~Invalid annotation key,"),
            ("§2.2 unknown app", "POST", "/v2/triggers", r#"{"app_id":"nope","name":"n","fn_id":"{F}","type":"http","source":"/n"}"#, 404, "!App not found"),
            ("§2.2 unknown fn", "POST", "/v2/triggers", r#"{"app_id":"{A}","name":"n","fn_id":"nope","type":"http","source":"/n"}"#, 404, "!Fn not found"),
            ("§11.32 fn of another app", "POST", "/v2/triggers", &post("n", "/n", "O"), 400, "!Invalid Fn ID - not owned by specified app"),
            ("§11.30 source taken", "POST", "/v2/triggers", &post("n", "/hello", "G"), 409, source_taken),
            ("§11.31 name taken on the fn", "POST", "/v2/triggers", &post("t", "/other", "F"), 409, "!Trigger already exists"),
            ("§11.31 name free on another fn", "POST", "/v2/triggers", &post("t", "/other", "G"), 200, r#"~"name":"t""#),
            ("§2.2 source before name", "POST", "/v2/triggers", &post("t", "/hello", "F"), 409, source_taken),
            ("§11.34 list without app: one object", "GET", "/v2/triggers", "", 400, "!Missing App ID on Trigger"),
            ("§1.6 list of an unknown app", "GET", "/v2/triggers?app_id=nope", "", 200, r#"={"items":[]}"#),
            ("§1.6 filter by fn", "GET", "/v2/triggers?app_id={A}&fn_id={G}", "", 200, r#"^"fn_id":"{F}""#),
            ("§1.6 filter by fn finds", "GET", "/v2/triggers?app_id={A}&fn_id={G}", "", 200, r#"~"source":"/other""#),
            ("§1.6 filter by name", "GET", "/v2/triggers?app_id={A}&fn_id={F}&name=t", "", 200, r#"~{"items":[{"id":"{T}","#),
            ("§1.7 lists are annotated", "GET", "/v2/triggers?app_id={A}&name=u", "", 200, "~http://h.example:1/t/a/u"),
            ("§2.1 unknown trigger", "GET", "/v2/triggers/nope", "", 404, "!Trigger not found"),
            ("§2.1 update of an unknown trigger", "PUT", "/v2/triggers/nope", "{}", 404, "!Trigger not found"),
            ("§2.4 id mismatch: one object", "PUT", "/v2/triggers/{U}", r#"{"id":"{T}","source":"/hacked"}"#, 400, "!ID in path does not match ID in body"),
            ("§2.4 the other is untouched", "GET", "/v2/triggers/{T}", "", 200, r#"~"source":"/hello""#),
            ("§11.33 source of another", "PUT", "/v2/triggers/{U}", r#"{"source":"/hello"}"#, 409, source_taken),
            ("§2.3 name of another", "PUT", "/v2/triggers/{U}", r#"{"name":"t"}"#, 409, "!Trigger already exists"),
            ("§11.33 unknown fn", "PUT", "/v2/triggers/{U}", r#"{"fn_id":"nope"}"#, 404, "!Fn not found"),
            ("§2.3 fn of another app", "PUT", "/v2/triggers/{U}", r#"{"fn_id":"{O}"}"#, 400, "!Invalid Fn ID - not owned by specified app"),
            ("§2.3 another app", "PUT", "/v2/triggers/{U}", r#"{"app_id":"{B}"}"#, 400, "!Invalid App ID - a trigger cannot move to another app"),
            ("§2.3 bad source", "PUT", "/v2/triggers/{U}", r#"{"source":"x"}"#, 400, "!Missing Trigger Source Prefix '/'"),
            ("§2.3 type is ignored", "PUT", "/v2/triggers/{U}", r#"{"type":"kafka"}"#, 200, r#"~"type":"http","source":"/u""#),
            ("§2.3 its own source and name", "PUT", "/v2/triggers/{U}", r#"{"source":"/u","name":"u","app_id":"{A}","fn_id":"{F}"}"#, 200, r#"~"source":"/u""#),
            ("§1.7 update replies are annotated", "PUT", "/v2/triggers/{U}", r#"{"source":"/u2"}"#, 200, "~http://h.example:1/t/a/u2"),
            ("§2.3 moved to another fn", "PUT", "/v2/triggers/{U}", r#"{"fn_id":"{G}"}"#, 200, r#"~"fn_id":"{G}""#),
            ("§1.1 by source, one slash stripped", "GET", "/v2/runner/apps/{A}/triggerBySource/http/hello", "", 404, "!Trigger not found"),
            ("§1.1 by source", "GET", "/v2/runner/apps/{A}/triggerBySource/http//hello", "", 200, r#"~"id":"{T}""#),
            ("§1.1 by source is not annotated", "GET", "/v2/runner/apps/{A}/triggerBySource/http//hello", "", 200, "^httpEndpoint"),
            ("§1.1 by source, other type", "GET", "/v2/runner/apps/{A}/triggerBySource/kafka//hello", "", 404, "!Trigger not found"),
            ("§1.1 by source, other app", "GET", "/v2/runner/apps/{B}/triggerBySource/http//hello", "", 404, "!Trigger not found"),
            ("§1.1 by source, no source", "GET", "/v2/runner/apps/{A}/triggerBySource/http/", "", 404, "!Trigger not found"),
            (
                "§1.1 by source, no wildcard",
                "GET",
                "/v2/runner/apps/{A}/triggerBySource/http",
                "",
                404,
                "!Path not found: GET /v2/runner/apps/{A}/triggerBySource/http",
            ),
            ("§2.5 delete", "DELETE", "/v2/triggers/{T}", "", 204, ""),
            ("§2.5 second delete", "DELETE", "/v2/triggers/{T}", "", 404, "!Trigger not found"),
            ("§2.5 the source is free again", "POST", "/v2/triggers", &post("t", "/hello", "F"), 200, "~/hello"),
            ("§2.5 deleting a fn", "DELETE", "/v2/fns/{F}", "", 204, ""),
            ("§2.5 takes its triggers", "GET", "/v2/triggers?app_id={A}&fn_id={F}", "", 200, r#"={"items":[]}"#),
            ("§2.5 not the others'", "GET", "/v2/triggers/{U}", "", 200, r#"~"id":"{U}""#),
            ("§11.21 deleting an app", "DELETE", "/v2/apps/{A}", "", 204, ""),
            ("§11.21 takes its fns", "GET", "/v2/fns?app_id={A}", "", 200, r#"={"items":[]}"#),
            ("§11.21 and triggers", "GET", "/v2/triggers/{U}", "", 404, "!Trigger not found"),
            ("§11.21 again", "DELETE", "/v2/apps/{A}", "", 404, "!App not found"),
        ],
    );
}

/// Follows the cursors; the names on each page.
fn pages(server: &Server, target: &str) -> Vec<Vec<String>> {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let got = server.ask("GET", &format!("{target}&cursor={cursor}"), "");
        assert_eq!(got.status, 200, "{got:?}");
        let page = got.json();
        pages.push(page["items"].as_array().expect("a list").iter().map(|i| i["name"].as_str().expect("name").to_owned()).collect());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return pages,
        }
    }
}

#[test]
fn paging() {
    let mut server = Server::new();
    for name in ["a3", "a1", "a2"] {
        server.made(name, "/v2/apps", &format!(r#"{{"name":"{name}"}}"#));
    }
    assert_eq!(pages(&server, "/v2/apps?per_page=2"), [vec!["a1", "a2"], vec!["a3"]], "§11.18");
    assert_eq!(pages(&server, "/v2/apps?per_page=3"), [vec!["a1", "a2", "a3"], vec![]], "§11.19");
    assert_eq!(server.ask("GET", "/v2/apps?per_page=2", "").json()["next_cursor"], "YTI", "§1.6 the cursor is the name");
    let bad = "!Invalid cursor: pass next_cursor of the previous page, or none";
    check(
        &server,
        &[
            ("§11.20 bad cursor", "GET", "/v2/apps?cursor=%25%25", "", 400, bad),
            ("§1.6 padded cursor", "GET", "/v2/apps?cursor=YQ==", "", 400, bad),
            ("§1.6 cursor that is no UTF-8", "GET", "/v2/apps?cursor=_w", "", 400, bad),
            ("§1.6 bad cursor for fns", "GET", "/v2/fns?app_id={a1}&cursor=%25", "", 400, bad),
            ("§1.6 a name is no trigger cursor", "GET", "/v2/triggers?app_id={a1}&cursor=YTI", "", 400, bad),
            ("§1.6 cursor past the end", "GET", "/v2/apps?cursor=eno", "", 200, r#"={"items":[]}"#),
            ("§1.6 cursor and name", "GET", "/v2/apps?name=a1&cursor=YTI", "", 200, r#"={"items":[]}"#),
            ("§1.6 a full page of one", "GET", "/v2/apps?name=a1&per_page=1", "", 200, r#"~{"next_cursor":"YTE","items":["#),
        ],
    );
    for n in 0..120 {
        server.made(&format!("f{n}"), "/v2/fns", &format!(r#"{{"app_id":"{{a1}}","name":"f{n:03}","image":"i"}}"#));
    }
    let shape = |query: &str| pages(&server, &format!("/v2/fns?app_id={{a1}}{query}")).iter().map(Vec::len).collect::<Vec<_>>();
    for (query, want) in [
        ("", vec![30, 30, 30, 30, 0]),
        ("&per_page=abc", vec![30, 30, 30, 30, 0]),
        ("&per_page=0", vec![30, 30, 30, 30, 0]),
        ("&per_page=-1", vec![30, 30, 30, 30, 0]),
        ("&per_page=1000", vec![100, 20]),
        ("&per_page=50", vec![50, 50, 20]),
        ("&per_page=50&per_page=1", vec![50, 50, 20]),
    ] {
        assert_eq!(shape(query), want, "§1.6 {query}");
    }
    let all: Vec<String> = pages(&server, "/v2/fns?app_id={a1}").concat();
    assert_eq!(all, (0..120).map(|n| format!("f{n:03}")).collect::<Vec<_>>(), "§1.6 order");
    for n in 0..3 {
        server.made("T", "/v2/triggers", &format!(r#"{{"app_id":"{{a1}}","fn_id":"{{f{n}}}","name":"same","type":"http","source":"/{n}"}}"#));
    }
    assert_eq!(pages(&server, "/v2/triggers?app_id={a1}&per_page=2"), [vec!["same"; 2], vec!["same"]], "§11.35");
}

/// §1.7, §11.28: where the endpoints' base comes from.
#[test]
fn endpoint_bases() {
    let mut server = Server::with(|o| ApiOptions { public_url: Some("https://lb.example.com/".into()), ..o });
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    check(&server, &[("§11.28", "GET", "/v2/fns/{F}", "", 200, r#"~"https://lb.example.com/invoke/{F}""#)]);
    let mut server = Server::new();
    server.made("A", "/v2/apps", r#"{"name":"a"}"#);
    server.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    let got = server.ask_with("GET", "/v2/fns/{F}", "X-Forwarded-Proto: https\r\n", "");
    assert!(got.body.contains(&server.filled("\"https://h.example:1/invoke/{F}\"")), "{}", got.body);
}

/// §11.63: a panic costs its request only.
#[test]
fn a_panic_is_a_500() {
    let server = Server::with(|o| ApiOptions { debug_state: Some(Arc::new(|| panic!("on purpose"))), ..o });
    for _ in 0..8 {
        check(&server, &[("§11.63", "GET", "/debug/state", "", 500, "!internal server error"), ("§11.63", "GET", "/v2/apps", "", 200, r#"={"items":[]}"#)]);
    }
    let server = Server::with(|o| ApiOptions { debug_state: Some(Arc::new(|| r#"{"queues":[]}"#.to_owned())), ..o });
    check(
        &server,
        &[("debug state", "GET", "/debug/state", "", 200, r#"={"queues":[]}"#), ("only GET", "POST", "/debug/state", "", 405, "~Method not allowed")],
    );
}

/// Bodies too large are read to their end and refused; the server lives on.
#[test]
fn large_bodies() {
    let server = Server::new();
    let body = " ".repeat(8 * 1024 * 1024 + 1);
    check(&server, &[("§2.1 too large", "POST", "/v2/apps", &body, 413, "!Content-Length too large for this server, 8388609 > max 8388608")]);
    check(&server, &[("an unwanted body is read too", "GET", "/version", &body, 200, "~version")]);
    let big = format!(r#"{{"name":"big","config":{{{}}}}}"#, (0..60).map(|i| format!("\"k{i}\":\"{}\"", "v".repeat(60_000))).collect::<Vec<_>>().join(","));
    check(&server, &[("a large app", "POST", "/v2/apps", &big, 200, "~vvv")]);
    let got = server.ask("GET", "/v2/apps", "");
    assert_eq!(got.field("Content-Length"), Some(got.body.len().to_string().as_str()), "never chunked");
    // A body cut short gives no change.
    let mut stream = server.connect();
    write!(stream, "POST /v2/apps HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n{{\"name\":\"cut\"}}").expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    assert!(server.store.snapshot().app_by_name("cut").is_none(), "{}", String::from_utf8_lossy(&answer));
}

/// Several requests on one kept-alive connection, as the edge sends them.
#[test]
fn keep_alive() {
    let server = Server::new();
    let mut stream = server.connect();
    for n in 0..50 {
        let body = format!(r#"{{"name":"a{n}"}}"#);
        write!(stream, "POST /v2/apps HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("write");
        let mut text = Vec::new();
        let mut byte = [0u8];
        while !text.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("head");
            text.push(byte[0]);
        }
        let got = parse(&text);
        let mut body = vec![0; got.field("Content-Length").expect("length").parse().expect("number")];
        stream.read_exact(&mut body).expect("body");
        assert_eq!(got.status, 200);
    }
    assert_eq!(server.store.snapshot().apps_after("").count(), 50);
}

/// The socket is the user's alone, stop joins and removes it, a stale one is
/// replaced, another file is not.
#[test]
fn the_socket() {
    let server = Server::new();
    let socket = server.dir.join("api.sock");
    assert_eq!(fs::metadata(&socket).expect("metadata").permissions().mode() & 0o777, 0o600);
    let started = Instant::now();
    server.api.stop();
    server.api.stop();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!socket.exists());
    let options = || ApiOptions { store: server.store.clone(), socket: socket.clone(), public_url: None, threads: 1, debug_state: None };
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bind"));
    drop(Api::start(options()).expect("a stale socket is replaced"));
    fs::write(&socket, "precious").expect("write");
    assert!(matches!(Api::start(options()), Err(ApiError::Listen { .. })));
    assert_eq!(fs::read_to_string(&socket).expect("read"), "precious");
}

/// tiny_http gives up listening on any accept error; the API listens anew.
#[test]
fn it_outlives_its_listener() {
    let dir = std::env::temp_dir().join(format!("hob-api-{}", Id::new()));
    fs::create_dir(&dir).expect("folder");
    let store = Arc::new(Store::open(&dir.join("fn.db")).expect("store"));
    let socket = dir.join("api.sock");
    let listener = serve::listen(&socket).expect("listen");
    let handle = listener.try_clone().expect("clone");
    let options = ApiOptions { store: store.clone(), socket: socket.clone(), public_url: None, threads: 2, debug_state: None };
    let server = Server { api: Api::start_on(listener, options).expect("api"), store, dir, names: Vec::new() };
    check(&server, &[("before", "GET", "/version", "", 200, "~version")]);
    rustix::net::shutdown(&handle, rustix::net::Shutdown::Both).expect("shutdown");
    drop(handle);
    let deadline = Instant::now() + Duration::from_secs(10);
    // The old one refuses from its shutdown on, so who accepts is the new one.
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "no new listener");
        std::thread::yield_now();
    }
    for _ in 0..10 {
        check(&server, &[("after", "GET", "/version", "", 200, "~version")]);
    }
    server.api.stop();
    assert!(!socket.exists());
}
