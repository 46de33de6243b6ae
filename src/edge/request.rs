//! From a request's head to what is to be done: checks, route, look-up. All
//! that outlives the head's buffer is copied here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Door;
use super::cors::{self, Cors, Verdict};
use super::fields::invoke_fields;
use super::forward::ForwardHead;
use super::route::{Route, Target, decode, route};
use super::triggers::request_fields;
use super::{Directory, Miss, follow, token};
use crate::call::Detached;
use crate::calls::check_url;
use crate::http1::{BodyFraming, Field, HeadError, RequestHead, fields, keep_alive, request_framing};
use crate::metrics;
use crate::model::{FnSpec, Id};
use crate::respond::Answer;

/// A detached call may be put off for at most a week.
const MAX_DELAY_S: u64 = 604_800;

/// A request whose head was read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) minor: u8,
    /// The client wants the connection kept.
    pub(super) keep: bool,
    pub(super) head_only: bool,
    pub(super) framing: BodyFraming,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects: bool,
    pub(super) accepted: Instant,
    /// `Access-Control-Allow-Origin` of the answer, whatever it is.
    pub(super) origin: Option<String>,
    pub(super) action: Action,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Action {
    Call {
        door: Door,
        /// As metrics name it.
        method: &'static str,
        spec: Arc<FnSpec>,
        fields: Vec<u8>,
        /// It is to run later.
        detached: Option<Box<Detached>>,
        /// It came through this trigger.
        trigger: Option<Id>,
        /// `Fn-Timing: 1`: the answer is to say where its time went.
        timed: bool,
    },
    Forward(ForwardHead),
    /// A live tail of a log.
    Follow(follow::Asked),
    /// Known without the body.
    Answer(Answer),
    /// A management request without the right token.
    Unauthorized,
    /// A page asks whether it may ask: it may.
    Preflight,
    /// A page of an origin that is not allowed.
    ForeignOrigin,
}

/// The request is answered and the connection closed: what follows on it
/// can't be told apart from a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Head(HeadError),
    /// An expectation other than `100-continue`.
    Expectation,
    Bad(&'static str),
}

impl Request {
    /// Checks `head` and decides.
    pub(super) fn read(head: &RequestHead<'_>, directory: &dyn Directory, api_token: Option<&str>, cors: Option<&Cors>) -> Result<Request, Refusal> {
        let framing = request_framing(head).map_err(Refusal::Head)?;
        let host = host(head)?;
        let expects = expectation(head)?;
        let target = Target::parse(head.target).ok_or(Refusal::Bad("the request target is neither a path nor a URL"))?;
        let path = decode(target.path).ok_or(Refusal::Bad("the path has a % that is not followed by two hex digits"))?;
        let not = |status, what| Action::Answer(Answer::new(status, format!("{what}: {} {path}", head.method)));
        let verdict = cors.map_or(Verdict::Silent, |cors| cors.judge(head, host));
        let action = match route(head.method, path.clone()) {
            _ if verdict == Verdict::Foreign => Action::ForeignOrigin,
            // Before the token: browsers ask without it.
            _ if verdict != Verdict::Silent && cors::is_preflight(head) => Action::Preflight,
            Route::Invoke(id) => invoke(head, &id, directory),
            Route::Trigger { app, source } => trigger(head, target, host, (&app, &source), directory),
            Route::Forward { open } if open || token::allows(api_token, &head.fields) => {
                follow::asked(head.method, &path, target, directory).unwrap_or_else(|| Action::Forward(ForwardHead::new(head, target, host)))
            }
            Route::Forward { .. } => Action::Unauthorized,
            Route::NotFound => not(404, "Path not found"),
            Route::MethodNotAllowed => not(405, "Method not allowed"),
        };
        Ok(Request {
            minor: head.minor,
            keep: keep_alive(head.minor, &head.fields),
            head_only: head.method == "HEAD",
            framing,
            expects,
            accepted: Instant::now(),
            origin: if let Verdict::Allowed(origin) = verdict { Some(origin) } else { None },
            action,
        })
    }
}

fn invoke(head: &RequestHead<'_>, id: &str, directory: &dyn Directory) -> Action {
    let spec = id.parse::<Id>().map_err(|_| Miss::Function).and_then(|id| directory.function(&id));
    match spec {
        Ok(spec) => {
            let mut fields = Vec::with_capacity(head.len);
            invoke_fields(&head.fields, &mut fields);
            call(head, Door::Invoke, spec, fields, None)
        }
        Err(miss) => Action::Answer(missed(miss)),
    }
}

fn trigger(head: &RequestHead<'_>, target: Target<'_>, host: &str, (app, source): (&str, &str), directory: &dyn Directory) -> Action {
    match directory.trigger(app, source) {
        Ok(found) => {
            let mut fields = Vec::with_capacity(head.len + 256);
            let url: &[&str] = if target.authority.is_some() { &[head.target] } else { &["http://", host, target.path_and_query] };
            request_fields(head.method, url, &head.fields, &mut fields);
            call(head, Door::Trigger, Arc::clone(&found.spec), fields, Some(&found))
        }
        Err(miss) => Action::Answer(missed(miss)),
    }
}

fn call(head: &RequestHead<'_>, door: Door, spec: Arc<FnSpec>, fields: Vec<u8>, through: Option<&super::Route>) -> Action {
    match detached(head, through.is_some_and(|found| found.detached)) {
        Ok(detached) => {
            Action::Call { door, method: metrics::method(head.method), spec, fields, detached, trigger: through.map(|found| found.trigger), timed: timed(head) }
        }
        Err(what) => Action::Answer(Answer::new(400, what)),
    }
}

const ONCE: [(&str, &str); 4] = [
    ("idempotency-key", "Bad request: more than one Idempotency-Key"),
    ("hob-delay-secs", "Bad request: more than one Hob-Delay-Secs"),
    ("hob-priority", "Bad request: more than one Hob-Priority"),
    ("hob-callback", "Bad request: more than one Hob-Callback"),
];

/// How the call is to run later, if it is (spec http-api §3.3).
fn detached(head: &RequestHead<'_>, always: bool) -> Result<Option<Box<Detached>>, &'static str> {
    // In these letters: any other value means an ordinary call.
    let asked = fields::find(&head.fields, "fn-invoke-type").is_some_and(|field| field.value == b"detached");
    if !asked && !always {
        return Ok(None);
    }
    // Of two of them nobody knows which one is meant.
    for (name, refused) in ONCE {
        if fields::count(&head.fields, name) > 1 {
            return Err(refused);
        }
    }
    let text = |name| fields::find(&head.fields, name).map(|field| std::str::from_utf8(field.value).unwrap_or("?"));
    let number = |name, most: u64| text(name).map_or(Some(0), |value| value.parse().ok().filter(|n| *n <= most && !value.starts_with('+')));
    let priority = number("hob-priority", 2).ok_or("Bad request: Hob-Priority must be 0, 1 or 2")?;
    let delay = number("hob-delay-secs", MAX_DELAY_S).ok_or("Bad request: Hob-Delay-Secs must be a whole number of at most 604800")?;
    let key = text("idempotency-key").map(str::to_owned);
    // Other bytes than UTF-8 would make different keys the same one.
    let whole = fields::find(&head.fields, "idempotency-key").is_none_or(|field| std::str::from_utf8(field.value).is_ok());
    if !whole || key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        return Err("Bad request: Idempotency-Key must have 1 to 255 bytes of UTF-8");
    }
    let callback = text("hob-callback").map(str::to_owned);
    callback.as_deref().map_or(Ok(()), check_url)?;
    Ok(Some(Box::new(Detached { priority: u8::try_from(priority).unwrap_or(0), delay: Duration::from_secs(delay), key, callback })))
}

fn timed(head: &RequestHead<'_>) -> bool {
    fields::find(&head.fields, "fn-timing").is_some_and(|field| field.value == b"1")
}

pub(super) fn missed(miss: Miss) -> Answer {
    Answer::new(
        404,
        match miss {
            Miss::Function => "Fn not found",
            Miss::App => "App not found",
            Miss::Trigger => "Trigger not found",
        },
    )
}

/// The value of the one `Host` field, `""` where HTTP/1.0 has none.
fn host<'b>(head: &RequestHead<'b>) -> Result<&'b str, Refusal> {
    let mut hosts = head.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("host"));
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(Refusal::Bad("more than one Host field")),
        (None, _) if head.minor >= 1 => Err(Refusal::Bad("no Host field")),
        (None, _) => Ok(""),
        (Some(host), None) => host_text(host).ok_or(Refusal::Bad("the Host field is not a host and port")),
    }
}

fn host_text<'b>(host: &Field<'b>) -> Option<&'b str> {
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(b);
    if host.value.iter().all(legal) { std::str::from_utf8(host.value).ok() } else { None }
}

/// Whether the client waits for `100 Continue`. HTTP/1.0 has no such thing.
fn expectation(head: &RequestHead<'_>) -> Result<bool, Refusal> {
    if head.minor == 0 {
        return Ok(false);
    }
    match fields::find(&head.fields, "expect") {
        None => Ok(false),
        Some(field) if field.value.eq_ignore_ascii_case(b"100-continue") && fields::count(&head.fields, "expect") == 1 => Ok(true),
        Some(_) => Err(Refusal::Expectation),
    }
}
