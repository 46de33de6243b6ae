//! `hob apps`, `hob fns`, `hob triggers`.

use serde_json::{Map, Value, json};

use super::Output;
use super::args::{AppWrite, Apps, FnLimits, Fns, Pairs, Triggers};
use super::error::CliError;
use super::http::{Server, encode, id, text};
use super::table;

const FN_ENDPOINT: &str = "fnproject.io/fn/invokeEndpoint";
const TRIGGER_ENDPOINT: &str = "fnproject.io/trigger/httpEndpoint";

pub(super) fn apps(server: &Server, command: &Apps, json: bool) -> Result<Output, CliError> {
    match command {
        Apps::Create(write) => {
            let mut body = app_body(write)?;
            body.insert("name".to_owned(), json!(write.app));
            Ok(show(&server.post("/v2/apps", &Value::Object(body))?, json))
        }
        Apps::List => {
            let items = server.list("/v2/apps")?;
            Ok(list(&items, json, &["NAME", "ID", "UPDATED"], |app| vec![text(app, "name").to_owned(), id(app).to_owned(), text(app, "updated_at").to_owned()]))
        }
        Apps::Inspect { app } => Ok(show(&server.app(app)?, json)),
        Apps::Update(write) => {
            let found = server.app(&write.app)?;
            let path = format!("/v2/apps/{}", encode(id(&found)));
            Ok(show(&server.put(&path, &Value::Object(app_body(write)?))?, json))
        }
        Apps::Delete { app } => {
            server.delete(&format!("/v2/apps/{}", encode(id(&server.app(app)?))))?;
            Ok(deleted("app", app, json))
        }
    }
}

fn app_body(write: &AppWrite) -> Result<Map<String, Value>, CliError> {
    let mut body = pairs(&write.pairs)?;
    if let Some(url) = &write.syslog_url {
        body.insert("syslog_url".to_owned(), json!(url));
    }
    Ok(body)
}

fn pairs(pairs: &Pairs) -> Result<Map<String, Value>, CliError> {
    let mut body = Map::new();
    if !pairs.config.is_empty() {
        let config: Map<String, Value> = pairs.config.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        body.insert("config".to_owned(), Value::Object(config));
    }
    if !pairs.annotation.is_empty() {
        let mut annotations = Map::new();
        for (name, value) in &pairs.annotation {
            let value = if value.is_empty() { "\"\"" } else { value };
            let parsed = serde_json::from_str(value).map_err(|source| CliError::Annotation { name: name.clone(), source })?;
            annotations.insert(name.clone(), parsed);
        }
        body.insert("annotations".to_owned(), Value::Object(annotations));
    }
    Ok(body)
}

pub(super) fn fns(server: &Server, command: &Fns, json: bool) -> Result<Output, CliError> {
    match command {
        Fns::Create { app, function, image, limits } => {
            let app = server.app(app)?;
            let mut body = fn_body(limits)?;
            body.insert("app_id".to_owned(), json!(id(&app)));
            body.insert("name".to_owned(), json!(function));
            body.insert("image".to_owned(), json!(image));
            Ok(show(&server.post("/v2/fns", &Value::Object(body))?, json))
        }
        Fns::List { app } => {
            let app = server.app(app)?;
            let items = server.list(&format!("/v2/fns?app_id={}", encode(id(&app))))?;
            Ok(list(&items, json, &["NAME", "IMAGE", "MEMORY", "TIMEOUT", "ID"], |f| {
                vec![text(f, "name").to_owned(), text(f, "image").to_owned(), format!("{} MiB", f["memory"]), format!("{} s", f["timeout"]), id(f).to_owned()]
            }))
        }
        Fns::Inspect { app, function, endpoint } => {
            let found = server.function(&server.app(app)?, function)?;
            if *endpoint { Ok(Output::Text(format!("{}\n", fn_endpoint(server, &found)))) } else { Ok(show(&found, json)) }
        }
        Fns::Update { app, function, image, limits } => {
            let found = server.function(&server.app(app)?, function)?;
            let mut body = fn_body(limits)?;
            if let Some(image) = image {
                body.insert("image".to_owned(), json!(image));
            }
            Ok(show(&server.put(&format!("/v2/fns/{}", encode(id(&found))), &Value::Object(body))?, json))
        }
        Fns::Delete { app, function } => {
            let found = server.function(&server.app(app)?, function)?;
            server.delete(&format!("/v2/fns/{}", encode(id(&found))))?;
            Ok(deleted("function", function, json))
        }
    }
}

/// The URL to call: the server's word, else made from the address we use.
pub(super) fn fn_endpoint(server: &Server, function: &Value) -> String {
    match function["annotations"][FN_ENDPOINT].as_str() {
        Some(url) => url.to_owned(),
        None => format!("{}/invoke/{}", server.base(), id(function)),
    }
}

/// The URL of a trigger.
pub(super) fn trigger_endpoint(trigger: &Value) -> String {
    trigger["annotations"][TRIGGER_ENDPOINT].as_str().unwrap_or_default().to_owned()
}

fn fn_body(limits: &FnLimits) -> Result<Map<String, Value>, CliError> {
    let mut body = pairs(&limits.pairs)?;
    for (name, value) in [("memory", limits.memory), ("timeout", limits.timeout), ("idle_timeout", limits.idle_timeout)] {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    }
    Ok(body)
}

pub(super) fn triggers(server: &Server, command: &Triggers, json: bool) -> Result<Output, CliError> {
    match command {
        Triggers::Create { app, function, trigger, source } => {
            let app = server.app(app)?;
            let function = server.function(&app, function)?;
            let body = json!({ "app_id": id(&app), "fn_id": id(&function), "name": trigger, "type": "http", "source": source });
            Ok(show(&server.post("/v2/triggers", &body)?, json))
        }
        Triggers::List { app, function } => {
            let app = server.app(app)?;
            let mut path = format!("/v2/triggers?app_id={}", encode(id(&app)));
            if let Some(function) = function {
                path += &format!("&fn_id={}", encode(id(&server.function(&app, function)?)));
            }
            let items = server.list(&path)?;
            Ok(list(&items, json, &["NAME", "SOURCE", "ID", "ENDPOINT"], |t| {
                vec![text(t, "name").to_owned(), text(t, "source").to_owned(), id(t).to_owned(), trigger_endpoint(t)]
            }))
        }
        Triggers::Inspect { app, function, trigger } => Ok(show(&find(server, app, function, trigger)?, json)),
        Triggers::Delete { app, function, trigger } => {
            let found = find(server, app, function, trigger)?;
            server.delete(&format!("/v2/triggers/{}", encode(id(&found))))?;
            Ok(deleted("trigger", trigger, json))
        }
    }
}

fn find(server: &Server, app: &str, function: &str, trigger: &str) -> Result<Value, CliError> {
    let found_app = server.app(app)?;
    let found_fn = server.function(&found_app, function)?;
    server.find_trigger(&found_app, &found_fn, trigger)?.ok_or_else(|| CliError::NotFound {
        kind: "trigger",
        name: trigger.to_owned(),
        hint: format!("`hob triggers list {app} {function}` shows those of the function"),
    })
}

/// One resource: JSON, or its members a line each.
pub(super) fn show(value: &Value, json: bool) -> Output {
    if json {
        return Output::Text(format!("{value:#}\n"));
    }
    let mut lines = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        match member {
            Value::Null => {}
            Value::String(text) => lines.push((name.clone(), text.clone())),
            Value::Object(map) => lines.extend(map.iter().map(|(k, v)| (format!("{name}.{k}"), v.as_str().map_or_else(|| v.to_string(), str::to_owned)))),
            other => lines.push((name.clone(), other.to_string())),
        }
    }
    Output::Text(table::pairs(&lines))
}

pub(super) fn list(items: &[Value], json: bool, head: &[&str], row: impl Fn(&Value) -> Vec<String>) -> Output {
    Output::Text(if json { format!("{:#}\n", Value::from(items)) } else { table::table(head, &items.iter().map(row).collect::<Vec<_>>()) })
}

pub(super) fn deleted(kind: &str, name: &str, json: bool) -> Output {
    Output::Text(if json { format!("{}\n", json!({ "deleted": name })) } else { format!("deleted {kind} {name}\n") })
}
