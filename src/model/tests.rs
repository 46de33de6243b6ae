//! The model against naive references, and its tables of rules.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn app(json: &str) -> Result<App, ModelError> {
    App::create(AppInput::parse(json.as_bytes())?, Timestamp(1_000))
}

fn function(json: &str) -> Result<Fn, ModelError> {
    let input = FnInput::parse(json.as_bytes())?;
    input.check_create()?;
    Fn::create(input, &app(r#"{"name":"a","shape":"GENERIC_ARM"}"#).expect("app"), Timestamp(1_000))
}

fn trigger(json: &str) -> Result<Trigger, ModelError> {
    let input = TriggerInput::parse(json.as_bytes())?;
    input.check_create()?;
    Ok(Trigger::create(input, Id::new(), Id::new(), Timestamp(1_000)))
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("serialises")
}

#[test]
fn first_broken_rule_of_an_app_wins() {
    use ModelError::*;
    let long = "x".repeat(256);
    for (body, error) in [
        (r#"{"id":"x","name":""}"#, AppIdProvided),
        (r#"{"annotations":{"":1}}"#, AppMissingName),
        (&format!(r#"{{"name":"{long}.","annotations":{{"":1}}}}"#), AppNameTooLong),
        (r#"{"name":"a.b","annotations":{"":1}}"#, AppNameInvalid),
        (r#"{"name":"a","annotations":{"":1},"syslog_url":"yo"}"#, AnnotationKey),
        (
            r#"{"name":"a","syslog_url":"yo","shape":"ARM"}"#,
            SyslogInvalid { url: "yo".into(), reason: "invalid scheme, only [tcp, udp, unix, unixgram, tcp+tls] are supported" },
        ),
        (r#"{"name":"a","shape":"ARM","config":{"":"x"}}"#, AppShapeInvalid),
        (r#"{"name":"a","config":{"":"x"}}"#, ConfigKeyEmpty),
        (r#"{"name":"a","config":{"a=b":"x"}}"#, ConfigKeyInvalid { key: "a=b".into() }),
        (r#"{"name":"a","config":{"a":"x\u0000"}}"#, ConfigValueNul { key: "a".into() }),
        (r#"{"name":"a","annotations":{"k":"\ud800"}}"#, InvalidJson),
    ] {
        assert_eq!(app(body).err(), Some(error), "{body}");
    }
}

#[test]
fn first_broken_rule_of_a_fn_wins() {
    use ModelError::*;
    for (body, error) in [
        (r#"{"id":"x"}"#, FnIdProvided),
        (r#"{"name":""}"#, FnMissingApp),
        (r#"{"app_id":"a","image":""}"#, FnMissingName),
        (r#"{"app_id":"a","name":"f/x"}"#, FnNameInvalid),
        (r#"{"app_id":"a","name":"f","timeout":301}"#, FnMissingImage),
        (r#"{"app_id":"a","name":"f","image":"x y","timeout":301}"#, FnImageInvalid),
        (r#"{"app_id":"a","name":"f","image":"i","timeout":301,"idle_timeout":3601}"#, FnTimeoutRange),
        (r#"{"app_id":"a","name":"f","image":"i","timeout":-1}"#, FnTimeoutRange),
        (r#"{"app_id":"a","name":"f","image":"i","idle_timeout":3601,"memory":8193}"#, FnIdleTimeoutRange),
        (r#"{"app_id":"a","name":"f","image":"i","memory":8193,"annotations":{"":1}}"#, FnMemoryRange),
        (r#"{"app_id":"a","name":"f","image":"i","memory":-1}"#, InvalidJson),
        (r#"{"app_id":"a","name":"f","image":"i","memory":1.5}"#, InvalidJson),
        (r#"{"app_id":"a","name":"f","image":"i","memory":128.0}"#, InvalidJson),
        (r#"{"app_id":"a","name":"f","image":"i","timeout":3000000000}"#, InvalidJson),
    ] {
        assert_eq!(function(body).err(), Some(error), "{body}");
    }
}

#[test]
fn first_broken_rule_of_a_trigger_wins() {
    use ModelError::*;
    for (body, error) in [
        (r#"{"id":"x","created_at":""}"#, TriggerIdProvided),
        (r#"{"created_at":"","updated_at":""}"#, TriggerCreatedProvided),
        (r#"{"created_at":"0001-01-01T00:00:00.000Z","updated_at":"2020-01-01T00:00:00Z"}"#, TriggerUpdatedProvided),
        (r#"{"name":"t"}"#, TriggerMissingApp),
        (r#"{"app_id":"a"}"#, TriggerMissingName),
        (r#"{"app_id":"a","name":"t t"}"#, TriggerNameInvalid),
        (r#"{"app_id":"a","name":"t"}"#, TriggerMissingFn),
        (r#"{"app_id":"a","name":"t","fn_id":"f"}"#, TriggerType),
        (r#"{"app_id":"a","name":"t","fn_id":"f","type":"http"}"#, TriggerMissingSource),
        (r#"{"app_id":"a","name":"t","fn_id":"f","type":"http","source":"x"}"#, TriggerSourcePrefix),
    ] {
        assert_eq!(trigger(body).err(), Some(error), "{body}");
    }
}

#[test]
fn loose_json() {
    let a = app("{\"NAME\":\"a3\",\"nope\":[1],\"Config\":{\"k\":null}} trailing").expect("accepted");
    assert_eq!((a.name.as_str(), a.config.get("k").map(String::as_str)), ("a3", Some("")));
    assert_eq!(app("null").err(), Some(ModelError::AppMissingName));
    for body in [
        "",
        " ",
        "[]",
        "1",
        "\"x\"",
        "{",
        "{\"name\":1}",
        "{\"config\":[]}",
        "{\"config\":{\"a\":1}}",
        "{\"created_at\":\"yesterday\"}",
        "{\"created_at\":5}",
        "{\"annotations\":[]}",
        "{\"name\":\"\\ud800\"}",
        "{\"x\":tru}",
    ] {
        assert_eq!(app(body).err(), Some(ModelError::InvalidJson), "{body}");
    }
}

#[test]
fn output_has_the_documented_order_and_omissions() {
    let mut a = app(r#"{"name":"a","annotations":{"z":{ "b" : 1, "a":[ ] },"fnproject.io/x":1},"syslog_url":""}"#).expect("valid");
    a.id = "01HF7YAT3V180G40RZJ0000001".parse().expect("id");
    assert_eq!(
        json(&a),
        r#"{"id":"01HF7YAT3V180G40RZJ0000001","name":"a","annotations":{"z":{"b":1,"a":[]}},"syslog_url":"","created_at":"1970-01-01T00:00:01.000Z","updated_at":"1970-01-01T00:00:01.000Z"}"#
    );
    let mut f = function(r#"{"app_id":"a","name":"f","image":"x/y:1"}"#).expect("valid");
    (f.id, f.app_id) = (a.id, a.id);
    assert_eq!(
        json(&f),
        r#"{"id":"01HF7YAT3V180G40RZJ0000001","name":"f","app_id":"01HF7YAT3V180G40RZJ0000001","image":"x/y:1","memory":128,"timeout":30,"idle_timeout":30,"config":{},"created_at":"1970-01-01T00:00:01.000Z","shape":"GENERIC_ARM","updated_at":"1970-01-01T00:00:01.000Z"}"#
    );
    let mut t = trigger(r#"{"app_id":"a","name":"t","fn_id":"f","type":"http","source":"/s"}"#).expect("valid");
    (t.id, t.app_id, t.fn_id) = (a.id, a.id, a.id);
    assert_eq!(
        json(&t),
        r#"{"id":"01HF7YAT3V180G40RZJ0000001","name":"t","app_id":"01HF7YAT3V180G40RZJ0000001","fn_id":"01HF7YAT3V180G40RZJ0000001","created_at":"1970-01-01T00:00:01.000Z","updated_at":"1970-01-01T00:00:01.000Z","type":"http","source":"/s"}"#
    );
}

#[test]
fn the_environment_is_what_the_function_gets() {
    let a = app(r#"{"name":"a","config":{"SAME":"app","A":"1","FN_MEMORY":"999"}}"#).expect("valid");
    let input = FnInput::parse(br#"{"app_id":"a","name":"f","image":"i","config":{"SAME":"fn","FN_FORMAT":"x","PATH":"/p","FN_NAME":"mine"}}"#).expect("json");
    let f = Fn::create(input, &a, Timestamp(0)).expect("valid");
    let spec = FnSpec::derive(&a, &f);
    let env: BTreeMap<&str, &str> = spec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let want = BTreeMap::from([
        ("A", "1"),
        ("SAME", "fn"),
        ("PATH", "/p"),
        ("FN_MEMORY", "128"),
        ("FN_TYPE", "sync"),
        ("FN_FN_ID", f.id.as_str()),
        ("FN_APP_ID", a.id.as_str()),
        ("FN_LISTENER", "unix:/tmp/iofs/lsnr.sock"),
        ("FN_FORMAT", "http-stream"),
        ("FN_APP_NAME", "a"),
        ("FN_FN_NAME", "f"),
        ("FN_NAME", "mine"),
    ]);
    assert_eq!(env, want);
}

#[test]
fn every_change_that_matters_changes_the_key() {
    let a = app(r#"{"name":"a"}"#).expect("valid");
    let f = Fn::create(FnInput::parse(br#"{"name":"f","image":"i"}"#).expect("json"), &a, Timestamp(0)).expect("valid");
    let base = FnSpec::derive(&a, &f).key;
    for change in
        [r#"{"config":{"a":"b"}}"#, r#"{"annotations":{"a":1}}"#, r#"{"image":"j"}"#, r#"{"memory":129}"#, r#"{"timeout":31}"#, r#"{"idle_timeout":31}"#]
    {
        let g = f.merged(FnInput::parse(change.as_bytes()).expect("json"), Timestamp(1)).expect("valid");
        assert_ne!(FnSpec::derive(&a, &g).key, base, "{change}");
    }
    for change in [r#"{"config":{"a":"b"}}"#, r#"{"annotations":{"a":1}}"#, r#"{"syslog_url":"udp://h"}"#] {
        let b = a.merged(AppInput::parse(change.as_bytes()).expect("json"), Timestamp(1)).expect("valid");
        assert_ne!(FnSpec::derive(&b, &f).key, base, "{change}");
    }
    let same = f.merged(FnInput::parse(br#"{"name":"g","memory":128}"#).expect("json"), Timestamp(1)).expect("valid");
    assert_eq!(FnSpec::derive(&a, &same).key, base);
}

#[test]
fn timestamps_in_and_out() {
    for (text, ms) in [
        ("", Some(0)),
        ("1970-01-01T00:00:00Z", Some(0)),
        ("0001-01-01T00:00:00.000Z", Some(Timestamp::NOT_GIVEN.0)),
        ("2026-11-24T02:36:37.770Z", Some(1_795_487_797_770)),
        ("2026-11-24T11:36:37.77+09:00", Some(1_795_487_797_770)),
        ("2026-11-24T02:36:37.770999999Z", Some(1_795_487_797_770)),
        ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
        ("2023-02-29T00:00:00Z", None),
        ("2023-13-01T00:00:00Z", None),
        ("2023-01-01t00:00:00z", None),
        ("2023-01-01 00:00:00Z", None),
        ("2023-01-01T24:00:00Z", None),
        ("2023-01-01T00:00:00", None),
        ("2023-01-01T00:00:00.Z", None),
        ("2023-01-01T00:00:00.1234567890Z", None),
        ("2023-01-01T00:00:00+9:00", None),
        ("+023-01-01T00:00:00Z", None),
        ("x", None),
    ] {
        assert_eq!(Timestamp::parse(text).map(|t| t.0), ms, "{text}");
    }
    assert_eq!(Timestamp(1_795_487_797_770).to_string(), "2026-11-24T02:36:37.770Z");
    assert_eq!(Timestamp::NOT_GIVEN.to_string(), "0001-01-01T00:00:00.000Z");
    assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999Z");
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "c"]).prop_map(str::to_owned)
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["K", "L", "M"]).prop_map(str::to_owned)
}

fn annotation() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["\"\"", "null", "1", "false", "[]", "{ \"z\" : 1 }", "\"a \\\" b\""]).prop_map(str::to_owned)
}

type Patch = (BTreeMap<String, String>, BTreeMap<String, String>, Option<String>, u64, i32);

fn patches() -> impl Strategy<Value = Vec<Patch>> {
    let patch =
        (prop::collection::btree_map(key(), word(), 0..4), prop::collection::btree_map(key(), annotation(), 0..4), prop::option::of(word()), 0u64..3, 0i32..3);
    prop::collection::vec(patch, 0..8)
}

fn members(map: &BTreeMap<String, String>, quote: bool) -> String {
    let parts: Vec<String> = map.iter().map(|(k, v)| if quote { format!("\"{k}\":\"{v}\"") } else { format!("\"{k}\":{v}") }).collect();
    format!("{{{}}}", parts.join(","))
}

proptest! {
    /// PUT is a merge (spec http-api §2.3), against the dumbest possible one.
    #[test]
    fn merge_is_the_naive_one(patches in patches()) {
        let owner = app(r#"{"name":"a"}"#).expect("valid");
        let mut f = Fn::create(FnInput::parse(br#"{"name":"f","image":"i"}"#).expect("json"), &owner, Timestamp(0)).expect("valid");
        let (mut config, mut notes, mut image, mut memory, mut timeout) = (BTreeMap::new(), BTreeMap::<String, String>::new(), "i".to_owned(), 128u64, 30u32);
        for (c, n, i, m, t) in patches {
            let body = format!(
                "{{\"config\":{},\"annotations\":{},\"image\":{},\"memory\":{m},\"timeout\":{t}}}",
                members(&c, true), members(&n, false), i.as_ref().map_or("null".to_owned(), |i| format!("\"{i}\""))
            );
            let before = (config.clone(), notes.clone(), image.clone(), memory, timeout);
            for (k, v) in c { if v.is_empty() { config.remove(&k); } else { config.insert(k, v); } }
            for (k, v) in n { if v == "null" || v == "\"\"" { notes.remove(&k); } else { notes.insert(k, if v.starts_with('{') { "{\"z\":1}".to_owned() } else { v }); } }
            if let Some(i) = i.filter(|i| !i.is_empty()) { image = i; }
            if m != 0 { memory = m; }
            if t > 0 { timeout = t.unsigned_abs(); }
            let next = f.merged(FnInput::parse(body.as_bytes()).expect("json"), Timestamp(0)).expect("valid");
            let got: BTreeMap<String, String> = next.annotations.iter().map(|(k, v)| (k.clone(), v.get().to_owned())).collect();
            prop_assert_eq!(&next.config, &config);
            prop_assert_eq!(&got, &notes);
            prop_assert_eq!((&next.image, next.memory, next.timeout), (&image, memory, timeout));
            prop_assert_eq!(next.updated_at > f.updated_at, before != (config.clone(), notes.clone(), image.clone(), memory, timeout));
            f = next;
        }
    }

    /// What is printed is read back, for every year that has four digits.
    #[test]
    fn timestamps_survive(ms in -62_167_219_200_000i64..253_402_300_800_000) {
        prop_assert_eq!(Timestamp::parse(&Timestamp(ms).to_string()), Some(Timestamp(ms)));
    }

    /// Days go up one by one.
    #[test]
    fn calendar_steps_by_one_day(day in -719_000i64..2_900_000) {
        let (a, b) = (Timestamp(day * 86_400_000).to_string(), Timestamp((day + 1) * 86_400_000).to_string());
        prop_assert!(a < b, "{} {}", a, b);
    }

    /// No input makes the parser panic, and no text is taken for two times.
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "\\PC{0,40}") {
        let _ = AppInput::parse(&bytes);
        let _ = FnInput::parse(text.as_bytes());
        let _ = Timestamp::parse(&text);
    }

    /// Compacting changes no value and is idempotent.
    #[test]
    fn compact_keeps_the_value(keys in prop::collection::vec("[ -~]{0,6}", 0..4)) {
        let value = serde_json::Value::from(keys);
        let pretty = serde_json::to_string_pretty(&value).expect("json");
        let short = super::input::compact(&pretty);
        prop_assert_eq!(&short, &value.to_string());
        prop_assert_eq!(super::input::compact(&short), short.clone());
    }
}
