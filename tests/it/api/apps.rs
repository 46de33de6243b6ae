//! Apps: fields, rules, updates (spec http-api §1.3, §1.4, §2).

use super::{Api, OLD, check};

#[test]
fn apps() {
    let Some(mut api) = Api::start(&[]) else { return };
    let (n255, n256, accents) = ("x".repeat(255), "x".repeat(256), "é".repeat(128));
    let post = |name: &str| format!(r#"{{"name":"{name}"}}"#);
    let annotation = |key: &str, value: &str| format!(r#"{{"name":"n","annotations":{{"{key}":{value}}}}}"#);
    let config = |key: &str, len: usize| format!(r#"{{"name":"c{len}","config":{{"{key}":"{}"}}}}"#, "v".repeat(len));
    let hundred = |n: usize| format!(r#"{{"name":"h{n}","annotations":{{{}}}}}"#, (0..n).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
    let value_error = "!Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays";
    let key_error = "!Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace";
    let scheme = "invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported";
    check(
        &api,
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
    api.made("A", "/v2/apps", r#"{"name":"a","config":{"K":"v","E":""},"annotations":{"k":1,"l":"x"},"syslog_url":"udp://h","shape":"GENERIC_X86"}"#);
    check(
        &api,
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
    api.stop();
}
