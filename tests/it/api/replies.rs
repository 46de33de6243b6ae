//! The shape of replies, times, ids, endpoints (spec http-api §1.3 to §1.7).

use serde_json::json;

use super::{Api, OLD, check};

/// §1.3, §1.4, §2.3: shapes of replies, times.
#[test]
fn replies_and_times() {
    // §11.62: whatever the host's zone.
    let Some(mut api) = Api::start(&[("TZ", "Asia/Tokyo")]) else { return };
    let got = api.ask("POST", "/v2/apps", &format!(r#"{{"name":"a1",{OLD}}}"#));
    assert_eq!(got.field("Content-Type"), Some("application/json; charset=utf-8"));
    assert_eq!(got.field("Content-Length"), Some(got.body.len().to_string().as_str()));
    let text = got.text();
    assert!(!text.ends_with('\n') && !text.contains("config"), "{text}");
    let created = got.json();
    let id = created["id"].as_str().expect("id").to_owned();
    let crockford = |c: char| "0123456789ABCDEFGHJKMNPQRSTVWXYZ".contains(c);
    assert!(id.len() == 26 && id.chars().all(crockford) && id.as_bytes()[0] <= b'7', "§1.5 {id}");
    assert_eq!(created["created_at"], created["updated_at"]);
    let time = created["created_at"].as_str().expect("time");
    assert!(time.len() == 24 && time.ends_with('Z') && time > "2020", "{time}");
    api.names.push(("A".into(), id));
    let same = api.ask("PUT", "/v2/apps/{A}", &created.to_string()).json();
    assert_eq!(same, created, "§11.15 nothing changed, updated_at does not move");
    let moved = api.ask("PUT", "/v2/apps/{A}", r#"{"config":{"a":"b"}}"#).json();
    assert!(moved["updated_at"].as_str() > created["updated_at"].as_str(), "§2.3 it moves with a change");
    assert_eq!(moved["created_at"], created["created_at"]);
    let got = api.ask("DELETE", "/v2/apps/{A}", "");
    assert_eq!((got.status, got.text().as_str(), got.field("Content-Type")), (204, "", Some("text/plain; charset=utf-8")));
    assert_eq!(got.field("Content-Length"), None, "§1.3");
    api.stop();
}

/// §1.5: ids are of one form for all, sorted by age, never given twice.
#[test]
fn ids_grow() {
    let Some(mut api) = Api::start(&[]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    for n in 0..20 {
        api.made(&format!("F{n}"), "/v2/fns", &format!(r#"{{"app_id":"{{A}}","name":"f{n}","image":"i"}}"#));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let ids: Vec<&String> = api.names.iter().map(|(_, id)| id).collect();
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "{ids:?}");
    api.stop();
}

/// §1.3: one JSON document per answer, errors are JSON, whatever went wrong.
#[test]
fn every_error_is_one_json_document() {
    let Some(mut api) = Api::start(&[]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    api.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    api.made("G", "/v2/fns", r#"{"app_id":"{A}","name":"g","image":"i"}"#);
    for (method, target, body, status) in [
        ("POST", "/v2/apps", "", 400),
        ("POST", "/v2/apps", "[1]", 400),
        ("POST", "/v2/fns", "{\"memory\":\"x\"}", 400),
        ("PUT", "/v2/fns/{F}", r#"{"id":"{G}","memory":777}"#, 400),
        ("PUT", "/v2/triggers/x", r#"{"id":"y"}"#, 400),
        ("GET", "/v2/triggers", "", 400),
        ("GET", "/v2/fns", "", 400),
        ("GET", "/v2/apps?cursor=%25", "", 400),
        ("GET", "/v2/apps/x", "", 404),
        ("DELETE", "/v2/fns/x", "", 404),
        ("POST", "/v2/apps", r#"{"name":"a"}"#, 409),
        ("PUT", "/v2/apps/{A}", r#"{"name":"b"}"#, 409),
        ("PATCH", "/v2/apps", "", 405),
        ("GET", "/nope", "", 404),
    ] {
        let got = api.ask(method, target, body);
        let about = format!("{method} {target} {body}: {got:?}");
        assert_eq!(got.status, status, "{about}");
        assert_eq!(got.field("Content-Type"), Some("application/json; charset=utf-8"), "{about}");
        let text = got.text();
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{about}");
        // §1.3: `message` and nothing else; a second document would not parse.
        assert_eq!(got.json().as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()), Some(vec!["message".to_owned()]), "{about}");
    }
    assert_eq!(api.ask("GET", "/v2/fns/{G}", "").json()["memory"], 128, "§2.4 nothing was changed by a refused request");
    api.stop();
}

/// §1.7: the endpoints' base is the request's Host, or FN_PUBLIC_LB_URL.
#[test]
fn endpoint_bases() {
    let Some(mut api) = Api::start(&[("FN_PUBLIC_LB_URL", "https://lb.example.com/")]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    api.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    check(
        &api,
        &[
            ("§11.28 fn", "GET", "/v2/fns/{F}", "", 200, r#"~"https://lb.example.com/invoke/{F}""#),
            (
                "§11.28 trigger",
                "POST",
                "/v2/triggers",
                r#"{"app_id":"{A}","fn_id":"{F}","name":"t","type":"http","source":"/x/y"}"#,
                200,
                r#"~"https://lb.example.com/t/a/x/y""#,
            ),
        ],
    );
    api.stop();
}

/// §2.5, §11.21: what is gone is gone for calls at once.
#[test]
fn a_deleted_function_is_not_called() {
    let Some(mut api) = Api::start(&[]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    api.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i"}"#);
    api.made("G", "/v2/fns", r#"{"app_id":"{A}","name":"g","image":"i"}"#);
    api.made("T", "/v2/triggers", r#"{"app_id":"{A}","fn_id":"{F}","name":"t","type":"http","source":"/t"}"#);
    check(
        &api,
        &[
            ("§2.5 delete", "DELETE", "/v2/fns/{F}", "", 204, ""),
            ("§2.5 no call", "POST", "/invoke/{F}", "", 404, "!Fn not found"),
            ("§2.5 no trigger", "GET", "/t/a/t", "", 404, "!Trigger not found"),
            ("§2.5 the app too", "DELETE", "/v2/apps/{A}", "", 204, ""),
            ("§11.21 no call", "POST", "/invoke/{G}", "", 404, "!Fn not found"),
            ("§11.21 no app", "GET", "/t/a/t", "", 404, "!App not found"),
        ],
    );
    assert_eq!(api.ask("POST", "/invoke/{G}", "").field("Fn-Call-Id"), None, "§3.1 there was no call");
    api.stop();
}

/// §4.4: what a fn is created with survives a restart to the last byte.
#[test]
fn what_is_shown_survives_a_restart() {
    let Some(mut api) = Api::start(&[]) else { return };
    api.made("A", "/v2/apps", r#"{"name":"é_1","config":{"K":"v","E":""},"annotations":{"z":{"b":1,"a":[ ]}},"syslog_url":"","shape":"GENERIC_ARM"}"#);
    api.made("F", "/v2/fns", r#"{"app_id":"{A}","name":"f","image":"i","config":{"a b":"1\n2"},"annotations":{"k":"\u00e9 < & >"}}"#);
    api.made("T", "/v2/triggers", r#"{"app_id":"{A}","fn_id":"{F}","name":"t","type":"http","source":"/a b?x"}"#);
    let all = ["/v2/apps/{A}", "/v2/fns/{F}", "/v2/triggers/{T}", "/v2/apps", "/v2/fns?app_id={A}", "/v2/triggers?app_id={A}"];
    let shown = |api: &Api| all.map(|target| api.ask("GET", target, "").text());
    let before = shown(&api);
    let folder = api.server.folder.clone();
    let names = std::mem::take(&mut api.names);
    api.stop();
    let mut api = Api { server: crate::harness::Server::start_in(folder, &[]).expect("an engine was there"), names };
    assert_eq!(shown(&api), before);
    api.made("B", "/v2/apps", &json!({"name": "after"}).to_string());
    api.stop();
}
