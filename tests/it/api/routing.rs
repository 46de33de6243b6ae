//! Which path and method lead where (spec http-api §1.1, §1.2).

use super::{Api, check};

#[test]
fn routing() {
    let Some(mut api) = Api::start(&[]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    let version = format!("={{\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"));
    check(
        &api,
        &[
            ("§1.1 root", "GET", "/", "", 200, r#"={"goto":"https://github.com/fnproject/fn","hello":"world!"}"#),
            ("§1.1 root with a query", "GET", "/?a=b", "", 200, "~hello"),
            ("§1.1 version", "GET", "/version", "", 200, &version),
            ("§1.1 metrics", "GET", "/metrics", "", 200, "~# TYPE fn_calls counter"),
            ("hob: ping", "GET", "/ping", "", 200, r#"={"status":"ok"}"#),
            ("hob: ping by POST", "POST", "/ping", "", 405, "!Method not allowed: POST /ping"),
            ("hob: the document", "GET", "/openapi.yaml", "", 200, "~openapi: 3.0"),
            ("§1.1 no /shutdown", "GET", "/shutdown", "", 404, "!Path not found: GET /shutdown"),
            ("§10 calls of no function", "GET", "/v2/fns/x/calls", "", 404, "!Fn not found"),
            ("§10 a call of no function", "GET", "/v2/fns/x/calls/y", "", 404, "!Fn not found"),
            ("§10 a log of no function", "GET", "/v2/fns/x/calls/y/log", "", 404, "!Fn not found"),
            ("§1.1 calls by POST", "POST", "/v2/fns/x/calls", "", 405, "!Method not allowed: POST /v2/fns/x/calls"),
            ("§1.1 nothing below log", "GET", "/v2/fns/x/calls/y/log/z", "", 404, "!Path not found: GET /v2/fns/x/calls/y/log/z"),
            ("hob: the state, on loopback", "GET", "/debug/state", "", 200, "~\"queues\""),
            ("§1.1 no profiles", "GET", "/debug/pprof/", "", 404, "!Path not found: GET /debug/pprof/"),
            ("§1.1 no variables", "GET", "/debug/vars", "", 404, "!Path not found: GET /debug/vars"),
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
            ("§1.2 bad escape", "GET", "/v2/%zz", "", 400, "!Bad request: the path has a % that is not followed by two hex digits"),
            ("§1.1 invoke of nothing", "POST", "/invoke/nope", "", 404, "!Fn not found"),
            ("§1.1 invoke of an unknown id", "POST", "/invoke/01HF7YAT3V180G40RZJ0000001", "", 404, "!Fn not found"),
            ("§3.2 trigger of an unknown app", "GET", "/t/nope/x", "", 404, "!App not found"),
            ("§3.2 unknown trigger", "GET", "/t/a/x", "", 404, "!Trigger not found"),
            ("§3.2 unknown verb", "FOO", "/t/a/x", "", 405, "!Method not allowed: FOO /t/a/x"),
            ("§1.2 GET invoke", "GET", "/invoke/x", "", 405, "!Method not allowed: GET /invoke/x"),
            ("§1.2 below invoke", "POST", "/invoke/x/y", "", 404, "!Path not found: POST /invoke/x/y"),
            ("§1.2 /t/", "GET", "/t/", "", 404, "!Path not found: GET /t/"),
            ("§1.2 /v2 alone", "GET", "/v2", "", 404, "!Path not found: GET /v2"),
            ("§11.3 the redirect made nothing", "GET", "/v2/apps?name=z", "", 200, r#"={"items":[]}"#),
        ],
    );
    let got = api.ask("GET", "/v2/apps/?name=a&x=1", "");
    assert_eq!((got.status, got.field("Location"), got.field("Content-Type")), (301, Some("/v2/apps?name=a&x=1"), Some("text/html; charset=utf-8")));
    assert_eq!(api.ask("POST", "/v2/apps/", "").field("Location"), Some("/v2/apps"));
    assert_eq!(api.ask("GET", "/v2/apps%2f", "").field("Location"), Some("/v2/apps"));
    assert_eq!(api.ask("PATCH", "/v2/apps", "").field("Allow"), None);
    assert_eq!(api.ask("GET", "/metrics", "").field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    api.stop();
}
