//! Requests and their answers by method, route, status and blame: management
//! requests and calls alike (spec http-api §8.2).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::registry::head;

/// Upper bounds of the latency buckets, milliseconds (the original's).
const BUCKETS_MS: [u32; 10] = [1, 10, 50, 100, 250, 500, 1_000, 10_000, 60_000, 120_000];

/// What a call may come by.
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "DELETE", "CONNECT", "TRACE"];

pub const INVOKE: &str = "/invoke/:fn_id";
pub const TRIGGER: &str = "/t/:app_name";

/// Whose fault an answer is; `SERVICE` also where there is none.
pub const SERVICE: &str = "service";
pub const USER: &str = "user";

/// Labels of an answer: the program's own words, so their number is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub method: &'static str,
    pub route: &'static str,
    pub status: u16,
    pub blame: &'static str,
}

/// The answers with the same labels.
#[derive(Debug, Clone, Default)]
struct Answers {
    count: u64,
    total_us: u64,
    /// Not cumulated; what is above the last bound is in `count` alone.
    buckets: [u64; BUCKETS_MS.len()],
}

/// The same for what happens thousands of times a second: calls with 200.
#[derive(Debug)]
struct Fast {
    count: AtomicU64,
    total_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MS.len()],
}

/// All requests, by their labels.
#[derive(Debug)]
pub struct Requests {
    /// Calls with 200 by `METHODS`: to `INVOKE`, then to `TRIGGER`.
    good_calls: [[Fast; METHODS.len()]; 2],
    others: Mutex<BTreeMap<Labels, Answers>>,
}

/// All requests, process-wide.
pub static REQUESTS: Requests = Requests::new();

/// A call's method, as labels have it. `other` is none of those that call.
pub fn method(text: &str) -> &'static str {
    METHODS.iter().find(|m| **m == text).copied().unwrap_or("other")
}

fn bucket(took: Duration) -> Option<usize> {
    BUCKETS_MS.iter().position(|bound| took <= Duration::from_millis(u64::from(*bound)))
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

impl Requests {
    const fn new() -> Requests {
        Requests { good_calls: [const { [const { Fast::new() }; METHODS.len()] }; 2], others: Mutex::new(BTreeMap::new()) }
    }

    /// One more answer, given after `took`.
    pub fn count(&self, labels: Labels, took: Duration) {
        if let Some(fast) = self.fast(&labels) {
            fast.count.fetch_add(1, Ordering::Relaxed);
            fast.total_us.fetch_add(micros(took), Ordering::Relaxed);
            if let Some(at) = bucket(took) {
                fast.buckets[at].fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let mut others = self.others.lock();
        let answers = others.entry(labels).or_default();
        answers.count += 1;
        answers.total_us = answers.total_us.saturating_add(micros(took));
        if let Some(at) = bucket(took) {
            answers.buckets[at] += 1;
        }
    }

    fn fast(&self, labels: &Labels) -> Option<&Fast> {
        let row = match labels.route {
            _ if labels.status != 200 || labels.blame != SERVICE => return None,
            INVOKE => &self.good_calls[0],
            TRIGGER => &self.good_calls[1],
            _ => return None,
        };
        METHODS.iter().position(|m| *m == labels.method).map(|at| &row[at])
    }

    fn all(&self) -> BTreeMap<Labels, Answers> {
        let mut all = self.others.lock().clone();
        for (row, route) in self.good_calls.iter().zip([INVOKE, TRIGGER]) {
            for (fast, method) in row.iter().zip(METHODS) {
                let answers = fast.read();
                if answers.count > 0 {
                    all.insert(Labels { method, route, status: 200, blame: SERVICE }, answers);
                }
            }
        }
        all
    }

    pub(super) fn render(&self, out: &mut String) {
        let all = self.all();
        let mut requests: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (labels, answers) in &all {
            *requests.entry((labels.method, labels.route)).or_default() += answers.count;
        }
        head(out, "fn_api_request_count", "counter", "requests, management's and calls");
        for ((method, path), n) in requests {
            let _ = writeln!(out, "fn_api_request_count{{method=\"{method}\",path=\"{path}\"}} {n}");
        }
        head(out, "fn_api_response_count", "counter", "answers; blame is user where a function failed");
        for (labels, answers) in &all {
            let _ = writeln!(out, "fn_api_response_count{{{}}} {}", labels.text(), answers.count);
        }
        head(out, "fn_api_latency", "histogram", "milliseconds from a request to its answer");
        for (labels, answers) in &all {
            answers.render(&labels.text(), out);
        }
    }
}

impl Labels {
    fn text(&self) -> String {
        let Labels { method, route, status, blame } = self;
        format!("method=\"{method}\",path=\"{route}\",status=\"{status}\",blame=\"{blame}\"")
    }
}

impl Fast {
    const fn new() -> Fast {
        Fast { count: AtomicU64::new(0), total_us: AtomicU64::new(0), buckets: [const { AtomicU64::new(0) }; BUCKETS_MS.len()] }
    }

    /// Each number is right; together they may be one call apart.
    fn read(&self) -> Answers {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let buckets = std::array::from_fn(|at| get(&self.buckets[at]));
        // Not below the buckets' sum: a histogram that says less in all than in its parts is refused.
        Answers { count: get(&self.count).max(buckets.iter().sum()), total_us: get(&self.total_us), buckets }
    }
}

impl Answers {
    fn render(&self, labels: &str, out: &mut String) {
        let mut below = 0;
        for (bound, n) in BUCKETS_MS.iter().zip(self.buckets) {
            below += n;
            let _ = writeln!(out, "fn_api_latency_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "fn_api_latency_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "fn_api_latency_sum{{{labels}}} {}.{:03}", self.total_us / 1_000, self.total_us % 1_000);
        let _ = writeln!(out, "fn_api_latency_count{{{labels}}} {}", self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_and_rare_answers_are_counted_alike() {
        let requests = Requests::new();
        let labels = |method: &str, route, status, blame| Labels { method: super::method(method), route, status, blame };
        for (labels, ms) in [
            (labels("POST", INVOKE, 200, SERVICE), 1),
            (labels("POST", INVOKE, 200, SERVICE), 2),
            (labels("POST", INVOKE, 200, SERVICE), 600_000),
            (labels("POST", INVOKE, 504, USER), 20),
            (labels("DELETE", TRIGGER, 200, SERVICE), 7),
            (labels("GET", "/v2/apps", 200, SERVICE), 7),
        ] {
            requests.count(labels, Duration::from_millis(ms));
        }
        let mut text = String::new();
        requests.render(&mut text);
        let good = r#"method="POST",path="/invoke/:fn_id",status="200",blame="service""#;
        for line in [
            r#"fn_api_request_count{method="POST",path="/invoke/:fn_id"} 4"#.to_owned(),
            format!("fn_api_response_count{{{good}}} 3"),
            format!("fn_api_latency_bucket{{{good},le=\"1\"}} 1"),
            format!("fn_api_latency_bucket{{{good},le=\"10\"}} 2"),
            format!("fn_api_latency_bucket{{{good},le=\"120000\"}} 2"),
            format!("fn_api_latency_bucket{{{good},le=\"+Inf\"}} 3"),
            format!("fn_api_latency_sum{{{good}}} 600003.000"),
            r#"fn_api_response_count{method="POST",path="/invoke/:fn_id",status="504",blame="user"} 1"#.to_owned(),
            r#"fn_api_response_count{method="DELETE",path="/t/:app_name",status="200",blame="service"} 1"#.to_owned(),
            r#"fn_api_response_count{method="GET",path="/v2/apps",status="200",blame="service"} 1"#.to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} of\n{text}");
        }
    }

    #[test]
    fn a_method_that_calls_nothing_is_other() {
        assert_eq!((method("GET"), method("get"), method("BREW")), ("GET", "other", "other"));
    }
}
