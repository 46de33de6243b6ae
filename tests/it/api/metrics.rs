//! `/metrics` as a scraper reads it (spec http-api §8.2).

use std::collections::HashMap;

use serde_json::json;

use super::Api;

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
