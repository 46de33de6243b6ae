//! From a request to its reply: the handlers of every route.

use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::to_raw_value;

use super::query::{Query, decode, name_and_id_cursor, name_cursor};
use super::route::{Method, Resource, Routed, find};
use super::serve::BodyFault;
use super::{Containers, DebugState, OPENAPI};
use crate::calls::Ledger;
use crate::metrics;
use crate::model::{Annotations, App, AppInput, Fn, FnInput, Id, ImageAllow, ModelError, Trigger, TriggerInput};
use crate::respond::{Answer, model_answer};
use crate::store::{Snapshot, Store, WriteError};

const JSON: &str = "application/json; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const YAML: &str = "application/yaml; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const FN_ENDPOINT: &str = "fnproject.io/fn/invokeEndpoint";
const TRIGGER_ENDPOINT: &str = "fnproject.io/trigger/httpEndpoint";

/// What every handler may use.
pub(super) struct Context {
    pub(super) store: Arc<Store>,
    pub(super) ledger: Option<Arc<Ledger>>,
    /// Without a slash at its end.
    pub(super) public_url: Option<String>,
    pub(super) containers: Option<Containers>,
    pub(super) images: ImageAllow,
    pub(super) debug_state: Option<DebugState>,
}

/// One request, read completely.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) method: String,
    /// Path and query as sent.
    pub(super) target: String,
    pub(super) host: String,
    pub(super) https: bool,
    pub(super) body: Result<Vec<u8>, BodyFault>,
}

/// What is sent back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Empty = no such field.
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) location: Option<String>,
    /// For the metrics: the method and the route's pattern.
    pub(super) method: &'static str,
    pub(super) route: &'static str,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, content_type, body: body.into(), location: None, method: "other", route: "invalid" }
    }

    pub(super) fn internal_error() -> Reply {
        Reply::from(Answer::new(500, "internal server error"))
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        Reply::new(answer.status, JSON, answer.json())
    }
}

/// Why a handler has no result: the answer to give instead.
pub(super) struct Refusal(pub(super) Answer);

impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Refusal {
        Refusal(model_answer(&error))
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Refusal {
        match error {
            WriteError::Model(error) => error.into(),
            WriteError::Full { .. } => {
                log::error!("{error}");
                Refusal(Answer::new(507, "the server has no room to keep the change: its disk is full"))
            }
            WriteError::Database { .. } => {
                log::error!("{error}");
                Refusal(Answer::new(500, "internal server error"))
            }
        }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Refusal {
        log::error!("a reply cannot be written as JSON: {error}");
        Refusal(Answer::new(500, "internal server error"))
    }
}

pub(super) type Handled = Result<Reply, Refusal>;

/// The reply to a request.
pub(super) fn answer_to(context: &Context, incoming: &Incoming) -> Reply {
    let _ = crate::fault::at("api.handler");
    let (raw_path, query) = incoming.target.split_once('?').unwrap_or((&incoming.target, ""));
    let Some(path) = decode(raw_path, false) else {
        return Answer::new(400, "Invalid path: bad percent escape").into();
    };
    match find(&incoming.method, &path, context.debug_state.is_some()) {
        Routed::To(method, resource) => {
            let request = Handler { context, incoming, query: Query::parse(query), snapshot: context.store.snapshot() };
            let reply = request.run(method, resource).unwrap_or_else(|Refusal(answer)| answer.into());
            Reply { method: method.name(), route: resource.pattern(), ..reply }
        }
        Routed::Slash(method) => slash_redirect(method, raw_path, query),
        Routed::NotAllowed => Answer::new(405, format!("Method not allowed: {} {path}", incoming.method)).into(),
        Routed::NotFound => Answer::new(404, format!("Path not found: {} {path}", incoming.method)).into(),
    }
}

fn slash_redirect(method: Method, raw_path: &str, query: &str) -> Reply {
    let bare = raw_path.strip_suffix('/').or_else(|| raw_path.get(..raw_path.len().saturating_sub("%2F".len()))).unwrap_or(raw_path);
    let location = if query.is_empty() { bare.to_owned() } else { format!("{bare}?{query}") };
    let reply = if method == Method::Get {
        let shown = location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;");
        Reply::new(301, HTML, format!("<a href=\"{shown}\">Moved Permanently</a>.\n\n"))
    } else {
        Reply::new(307, "", "")
    };
    Reply { location: Some(location), method: method.name(), ..reply }
}

/// One page of a list.
#[derive(Serialize)]
pub(super) struct Page<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
    pub(super) items: Vec<T>,
}

impl<T> Page<T> {
    /// A full page has a cursor, even when nothing follows it.
    pub(super) fn new(items: Vec<T>, limit: usize, cursor: impl FnOnce(&T) -> String) -> Page<T> {
        let next_cursor = items.last().filter(|_| items.len() == limit).map(cursor);
        Page { next_cursor, items }
    }
}

pub(super) struct Handler<'a> {
    pub(super) context: &'a Context,
    pub(super) incoming: &'a Incoming,
    pub(super) query: Query,
    pub(super) snapshot: Arc<Snapshot>,
}

impl Handler<'_> {
    fn run(&self, method: Method, resource: Resource<'_>) -> Handled {
        use Method::{Delete, Get, Post, Put};
        let store = &self.context.store;
        match (resource, method) {
            (Resource::Root, _) => Ok(Reply::new(200, JSON, r#"{"goto":"https://github.com/fnproject/fn","hello":"world!"}"#)),
            (Resource::Ping, _) => Ok(Reply::new(200, JSON, r#"{"status":"ok"}"#)),
            (Resource::OpenApi, _) => Ok(Reply::new(200, YAML, OPENAPI)),
            (Resource::Version, _) => Ok(Reply::new(200, JSON, concat!(r#"{"version":""#, env!("CARGO_PKG_VERSION"), r#""}"#))),
            (Resource::Metrics, _) => {
                Ok(Reply::new(200, PROMETHEUS, metrics::render(&self.context.containers.as_ref().map(|gather| gather()).unwrap_or_default())))
            }
            (Resource::DebugState, _) => Ok(Reply::new(200, JSON, self.context.debug_state.as_ref().map_or_else(String::new, |state| state()))),
            (Resource::Calls(function), _) => self.list_calls(function),
            (Resource::Call(function, call), Get) => self.show_call(function, call),
            (Resource::Call(function, call), _) => self.cancel_call(function, call),
            (Resource::CallAnswer(function, call), _) => self.call_answer(function, call),
            (Resource::CallLog(function, call), _) => self.call_log(function, call),
            (Resource::Logs(function), _) => self.fn_logs(function),
            (Resource::CallAgain(function, call), _) => self.call_again(function, call),
            (Resource::Invoke, _) => Err(Refusal(Answer::new(404, "Fn not found"))),

            (Resource::Apps, Post) => json(&*store.create_app(AppInput::parse(self.body()?)?)?),
            (Resource::Apps, _) => self.list_apps(),
            (Resource::App(id), Get) => json(&**look_up(id, |id| self.snapshot.app(&id), ModelError::AppNotFound)?),
            (Resource::App(id), Put) => json(&*store.update_app(id, AppInput::parse(self.body()?)?)?),
            (Resource::App(id), Delete | Post) => deleted(store.delete_app(id)),

            (Resource::Fns, Post) => json(&self.shown_fn(&store.create_fn(self.new_fn()?)?.function)),
            (Resource::Fns, _) => self.list_fns(),
            (Resource::Fn(id), Get) => json(&self.shown_fn(&look_up(id, |id| self.snapshot.target(&id), ModelError::FnNotFound)?.function)),
            (Resource::Fn(id), Put) => json(&self.shown_fn(&store.update_fn(id, self.allowed(FnInput::parse(self.body()?)?)?)?.function)),
            (Resource::Fn(id), Delete | Post) => deleted(store.delete_fn(id)),

            (Resource::Triggers, Post) => {
                let trigger = store.create_trigger(TriggerInput::parse(self.body()?)?)?;
                // Its app may be newer than the snapshot taken before the write.
                json(&self.shown_trigger(&store.snapshot(), &trigger))
            }
            (Resource::Triggers, _) => self.list_triggers(),
            (Resource::Trigger(id), Get) => {
                json(&self.shown_trigger(&self.snapshot, look_up(id, |id| self.snapshot.trigger_by_id(&id), ModelError::TriggerNotFound)?))
            }
            (Resource::Trigger(id), Put) => {
                let trigger = store.update_trigger(id, TriggerInput::parse(self.body()?)?)?;
                json(&self.shown_trigger(&store.snapshot(), &trigger))
            }
            (Resource::Trigger(id), Delete | Post) => deleted(store.delete_trigger(id)),

            (Resource::TriggerBySource { app_id, kind, source }, _) => {
                json(&**look_up(app_id, |id| self.snapshot.trigger_by_source(&id, kind, source), ModelError::TriggerNotFound)?)
            }
        }
    }

    fn body(&self) -> Result<&[u8], Refusal> {
        match &self.incoming.body {
            Ok(body) => Ok(body),
            Err(BodyFault::TooLarge { len, max }) => Err(Refusal(Answer::new(413, format!("Content-Length too large for this server, {len} > max {max}")))),
            Err(BodyFault::Cut) => Err(Refusal(Answer::new(400, "The body ended before its Content-Length"))),
        }
    }

    fn new_fn(&self) -> Result<FnInput, Refusal> {
        let input = FnInput::parse(self.body()?)?;
        // First what is wrong with it anywhere.
        input.check_create()?;
        self.allowed(input)
    }

    /// An update without an image keeps the one there is: its start will tell.
    fn allowed(&self, input: FnInput) -> Result<FnInput, Refusal> {
        if !input.image.is_empty() && !self.context.images.allows(&input.image) {
            return Err(ModelError::FnImageForbidden { image: input.image }.into());
        }
        Ok(input)
    }

    fn list_apps(&self) -> Handled {
        let (limit, after) = (self.query.limit(), self.query.after_name()?);
        let items: Vec<&App> = if self.query.name.is_empty() {
            self.snapshot.apps_after(&after).take(limit).map(|app| &**app).collect()
        } else {
            self.snapshot.app_by_name(&self.query.name).into_iter().filter(|app| app.name > after).map(|app| &**app).collect()
        };
        json(&Page::new(items, limit, |app| name_cursor(&app.name)))
    }

    fn list_fns(&self) -> Handled {
        if self.query.app_id.is_empty() {
            return Err(ModelError::FnMissingApp.into());
        }
        let (limit, after) = (self.query.limit(), self.query.after_name()?);
        let items: Vec<Fn> = match Id::from_str(&self.query.app_id) {
            Err(_) => Vec::new(),
            Ok(app_id) if self.query.name.is_empty() => self.snapshot.fns_after(&app_id, &after).take(limit).map(|t| self.shown_fn(&t.function)).collect(),
            Ok(app_id) => {
                let named = self.snapshot.fn_by_name(&app_id, &self.query.name);
                named.into_iter().filter(|t| t.function.name > after).map(|t| self.shown_fn(&t.function)).collect()
            }
        };
        json(&Page::new(items, limit, |function| name_cursor(&function.name)))
    }

    fn list_triggers(&self) -> Handled {
        let Query { app_id, fn_id, name, .. } = &self.query;
        if app_id.is_empty() {
            return Err(ModelError::TriggerMissingApp.into());
        }
        let limit = self.query.limit();
        let (after_name, after_id) = self.query.after_name_and_id()?;
        let items: Vec<Trigger> = match Id::from_str(app_id) {
            Err(_) => Vec::new(),
            Ok(app_id) => self
                .snapshot
                .triggers_after(&app_id, (&after_name, after_id))
                .filter(|t| (fn_id.is_empty() || t.fn_id.as_str() == fn_id) && (name.is_empty() || t.name == *name))
                .take(limit)
                .map(|t| self.shown_trigger(&self.snapshot, t))
                .collect(),
        };
        json(&Page::new(items, limit, |t| name_and_id_cursor(&t.name, &t.id)))
    }

    /// The fn as clients see it: with the URL that invokes it.
    fn shown_fn(&self, function: &Fn) -> Fn {
        let mut shown = function.clone();
        self.annotate(&mut shown.annotations, FN_ENDPOINT, &format!("invoke/{}", function.id));
        shown
    }

    /// The trigger as clients see it: with its URL, which is not escaped.
    fn shown_trigger(&self, snapshot: &Snapshot, trigger: &Trigger) -> Trigger {
        let mut shown = trigger.clone();
        if let Some(app) = snapshot.app(&trigger.app_id).filter(|_| trigger.kind == Trigger::HTTP) {
            let source = trigger.source.strip_prefix('/').unwrap_or(&trigger.source);
            self.annotate(&mut shown.annotations, TRIGGER_ENDPOINT, &format!("t/{}/{source}", app.name));
        }
        shown
    }

    fn annotate(&self, annotations: &mut Annotations, key: &str, path: &str) {
        let url = match &self.context.public_url {
            Some(base) => format!("{base}/{path}"),
            None => format!("{}://{}/{path}", if self.incoming.https { "https" } else { "http" }, self.incoming.host),
        };
        if let Ok(value) = to_raw_value(&url) {
            annotations.insert(key.to_owned(), value);
        }
    }
}

pub(super) fn look_up<'s, T>(id: &str, find: impl FnOnce(Id) -> Option<&'s T>, missing: ModelError) -> Result<&'s T, ModelError> {
    Id::from_str(id).ok().and_then(find).ok_or(missing)
}

pub(super) fn json<T: Serialize>(value: &T) -> Handled {
    Ok(Reply::new(200, JSON, serde_json::to_vec(value)?))
}

fn deleted(done: Result<(), WriteError>) -> Handled {
    done?;
    Ok(Reply::new(204, TEXT, ""))
}
