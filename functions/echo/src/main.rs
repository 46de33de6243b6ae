//! Sends the body back. Request headers ask for more: `X-Sleep-Ms: 100` waits
//! first (`X-Sleep-Ms: config` as long as its configuration's `SLEEP_MS` says, so
//! that it can be changed for calls made already), `X-Status: 502` answers with that status, `X-Exit: 3` ends the
//! process with that code instead of answering, `X-Panic: 1` panics, `X-Size:
//! 1000` answers that many bytes. `X-Pid` of the answer is the process's id,
//! `X-Instance` differs for each started process, `X-Count` counts its calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static CALLS: AtomicU64 = AtomicU64::new(0);

fn main() {
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let instance = format!("{started:x}");
    fdk::serve(move |request| answer(request, &instance));
}

fn answer<'a>(request: &fdk::Request<'a>, instance: &str) -> fdk::Response<'a> {
    let count = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let number = |name: &str| request.header(name).and_then(|v| v.parse::<u64>().ok());
    let configured = || std::env::var("SLEEP_MS").ok()?.parse().ok();
    let sleep = if request.header("X-Sleep-Ms") == Some("config") { configured() } else { number("X-Sleep-Ms") };
    if let Some(ms) = sleep {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if let Some(code) = number("X-Exit") {
        std::process::exit(i32::try_from(code).unwrap_or(1));
    }
    assert!(number("X-Panic").is_none(), "as asked");
    let content_type = request.header("Content-Type").unwrap_or("application/octet-stream").to_owned();
    let response = match number("X-Size") {
        Some(size) => fdk::Response::new(content_type, vec![b'x'; usize::try_from(size).unwrap_or(0)]),
        None => fdk::Response::new(content_type, request.body()),
    };
    let status = number("X-Status").and_then(|s| u16::try_from(s).ok()).unwrap_or(200);
    response.status(status).header("X-Pid", std::process::id().to_string()).header("X-Instance", instance).header("X-Count", count.to_string())
}
