//! Triggers: fields, rules, updates, what a delete takes along (spec http-api §1.4, §2).

use super::{Api, OLD, check};

#[test]
fn triggers() {
    let Some(mut api) = Api::start(&[]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    api.made("B", "/v2/apps", r#"{"name":"b"}"#);
    api.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    api.made("G", "/v2/fns", r#"{"app_id":"{A}","name":"g","image":"i"}"#);
    api.made("O", "/v2/fns", r#"{"app_id":"{B}","name":"o","image":"i"}"#);
    let post = |name: &str, source: &str, f: &str| format!(r#"{{"app_id":"{{A}}","fn_id":"{{{f}}}","name":"{name}","type":"http","source":"{source}"}}"#);
    api.made("T", "/v2/triggers", &post("t", "/hello", "F"));
    api.made("U", "/v2/triggers", &post("u", "/u", "F"));
    let with = |extra: &str| format!(r#"{{"app_id":"{{A}}","fn_id":"{{F}}","name":"w","type":"http","source":"/w",{extra}}}"#);
    let source_taken = "!Trigger with the same type and source exists on this app";
    check(
        &api,
        &[
            (
                "§11.29 create reply has the endpoint",
                "POST",
                "/v2/triggers",
                &post("e", "/a b?x=1", "F"),
                200,
                r#"~"annotations":{"fnproject.io/trigger/httpEndpoint":"http://test/t/a/a b?x=1"}"#,
            ),
            ("§1.4 order of keys", "GET", "/v2/triggers/{T}", "", 200, r#"~{"id":"{T}","name":"t","app_id":"{A}","fn_id":"{F}","created_at":"#),
            (
                "§1.4 type and source",
                "GET",
                "/v2/triggers/{T}",
                "",
                200,
                r#"~"type":"http","source":"/hello","annotations":{"fnproject.io/trigger/httpEndpoint":"http://test/t/a/hello"}}"#,
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
            (
                "hob: invoke type",
                "POST",
                "/v2/triggers",
                &with(r#""annotations":{"hob/invoke-type":"later"}"#),
                400,
                "!Invalid annotation value, hob/invoke-type must be \"detached\" or \"sync\"",
            ),
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
            ("§1.7 lists are annotated", "GET", "/v2/triggers?app_id={A}&name=u", "", 200, "~http://test/t/a/u"),
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
            ("§1.7 update replies are annotated", "PUT", "/v2/triggers/{U}", r#"{"source":"/u2"}"#, 200, "~http://test/t/a/u2"),
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
    api.stop();
}
