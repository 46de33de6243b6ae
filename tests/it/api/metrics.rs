//! `/metrics` as a scraper reads it (spec http-api §8.2).

use std::collections::HashMap;

use serde_json::json;

use super::Api;
use crate::harness::wait_until;

/// Every sample by its name with labels. Panics on a line that is no sample of
/// a declared family.
fn samples(text: &str) -> HashMap<String, f64> {
    let mut types: HashMap<&str, &str> = HashMap::new();
    let mut found = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "declared twice: {line}");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("name and value");
            let name = series.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end)).find(|f| types.get(f) == Some(&"histogram"));
            assert!(family.is_some() || types.contains_key(name), "no type: {line}");
            assert!(found.insert(series.to_owned(), value.parse().expect("a number")).is_none(), "twice: {line}");
        }
    }
    found
}

#[test]
fn counters_count_and_the_process_is_described() {
    let Some(mut api) = Api::start(&[]) else { return };
    let read = |api: &Api| {
        let got = api.ask("GET", "/metrics", "");
        assert_eq!((got.status, got.field("Content-Type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
        samples(&got.text())
    };
    let first = read(&api);
    for name in [
        "fn_calls",
        "fn_completed",
        "fn_errors",
        "fn_timeouts",
        "fn_canceled",
        "fn_server_busy",
        "fn_queued",
        "fn_running",
        "fn_util_cpu_used",
        "fn_util_mem_used",
        "fn_container_evictions",
    ] {
        assert_eq!(first.get(name), Some(&0.0), "{name}");
    }
    for name in [
        "fn_util_cpu_avail",
        "fn_util_mem_avail",
        "fn_process_resident_memory_bytes",
        "fn_process_virtual_memory_bytes",
        "fn_process_open_fds",
        "fn_process_max_fds",
        "fn_process_threads",
        "fn_process_start_time_seconds",
    ] {
        assert!(first.get(name).is_some_and(|v| *v > 0.0), "{name}: {:?}", first.get(name));
    }
    api.made("A", "/v2/apps", r#"{"name":"a"}"#);
    assert_eq!(api.ask("POST", "/v2/apps", r#"{"name":"a"}"#).status, 409);
    assert_eq!(api.ask("GET", "/v2/apps/{A}", "").status, 200);
    assert_eq!(api.ask("GET", "/nope", "").status, 404);
    let echo = api.server.function("echo", "echo", json!({}));
    api.server.good_call(&echo, &[], b"x");
    let second = read(&api);
    for (series, value) in [
        ("fn_calls", 1.0),
        ("fn_completed", 1.0),
        ("fn_running", 0.0),
        (r#"fn_api_response_count{method="POST",path="/v2/apps",status="409",blame="service"}"#, 1.0),
        (r#"fn_api_request_count{method="GET",path="/v2/apps/:app_id"}"#, 1.0),
        (r#"fn_api_request_count{method="other",path="invalid"}"#, 1.0),
        (r#"fn_api_latency_count{method="GET",path="/v2/apps/:app_id",status="200",blame="service"}"#, 1.0),
        (r#"fn_api_latency_bucket{method="GET",path="/v2/apps/:app_id",status="200",blame="service",le="+Inf"}"#, 1.0),
    ] {
        assert_eq!(second.get(series), Some(&value), "{series}");
    }
    api.stop();
}

/// §8.2: calls by method, route, status and blame; §11.65: a client that leaves is a 444.
#[test]
fn calls_are_counted_by_what_they_became() {
    let Some(mut api) = Api::start(&[]) else { return };
    let echo = api.server.function("echo", "echo", json!({}));
    let hostile = api.server.function("hostile", "hostile", json!({"timeout": 1}));
    let app = api.server.manage("GET", &format!("/v2/fns/{echo}"), &json!(null))["app_id"].as_str().expect("app").to_owned();
    api.made("T", "/v2/triggers", &json!({"app_id": app, "fn_id": echo, "name": "t", "type": "http", "source": "/t"}).to_string());
    for _ in 0..3 {
        api.server.good_call(&echo, &[], b"x");
    }
    assert_eq!(api.ask("DELETE", "/t/app/t", "").status, 200);
    assert_eq!(api.server.call(&hostile, &[("X-Do", "never")], b"").status, 504);
    drop(api.server.begin_call(&echo, &[("X-Sleep-Ms", "100000")]));
    let series = |method: &str, path: &str, status: u16, blame: &str| {
        format!("fn_api_response_count{{method=\"{method}\",path=\"{path}\",status=\"{status}\",blame=\"{blame}\"}}")
    };
    let left = series("POST", "/invoke/:fn_id", 444, "service");
    let all = wait_until("the client that left is counted", || {
        let all = samples(&api.ask("GET", "/metrics", "").text());
        all.contains_key(&left).then_some(all)
    });
    for (series, count) in [
        (series("POST", "/invoke/:fn_id", 200, "service"), 3.0),
        (series("DELETE", "/t/:app_name", 200, "service"), 1.0),
        (series("POST", "/invoke/:fn_id", 504, "user"), 1.0),
        (left, 1.0),
        ("fn_timeouts".to_owned(), 1.0),
        ("fn_canceled".to_owned(), 1.0),
    ] {
        assert_eq!(all.get(&series), Some(&count), "{series}");
    }
    api.stop();
}
