//! `hob calls`: records of calls, and what can be done to detached ones.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Output;
use super::args::Calls;
use super::error::CliError;
use super::http::{Server, encode, id, looks_like_id, text};
use super::resources::{list, show};

pub(super) fn calls(server: &Server, command: &Calls, json: bool) -> Result<Output, CliError> {
    match command {
        Calls::List { app, function, status, from, to, last } => {
            let mut query = format!("{}?", path(server, app, function)?);
            let wanted = [("status", status.clone()), ("from_time", from.map(|s| s.to_string())), ("to_time", to.map(|s| s.to_string()))];
            for (name, value) in wanted.iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value))) {
                query += &format!("{name}={}&", encode(value));
            }
            let items = server.list_up_to(query.trim_end_matches(['?', '&']), *last)?;
            Ok(list(&items, json, &["ID", "STATUS", "CREATED", "START", "WAITED", "RAN", "ERROR"], |call| {
                let ms = |name: &str| format!("{:.1} ms", call[name].as_f64().unwrap_or_default());
                let words = ["id", "status", "created_at", "start"].map(|name| text(call, name).to_owned());
                words.into_iter().chain([ms("waited_ms"), ms("ran_ms"), text(call, "error").to_owned()]).collect()
            }))
        }
        Calls::Inspect { app, function, call } => of_one(server, (app, function, call), |path| Ok(show(&server.get(path)?, json))),
        Calls::Answer { app, function, call } => of_one(server, (app, function, call), |path| answer(server, path, json)),
        Calls::Cancel { app, function, call } => of_one(server, (app, function, call), |path| {
            server.delete(path)?;
            Ok(Output::Text(if json { format!("{}\n", serde_json::json!({ "cancelled": call })) } else { format!("cancelled call {call}\n") }))
        }),
        Calls::Again { app, function, call } => {
            of_one(server, (app, function, call), |path| Ok(show(&server.post(&format!("{path}/again"), &Value::Null)?, json)))
        }
    }
}

fn path(server: &Server, app: &str, function: &str) -> Result<String, CliError> {
    let found = server.function(&server.app(app)?, function)?;
    Ok(format!("/v2/fns/{}/calls", encode(id(&found))))
}

/// What is asked of one call, by its path.
fn of_one(server: &Server, (app, function, call): (&str, &str, &str), ask: impl FnOnce(&str) -> Result<Output, CliError>) -> Result<Output, CliError> {
    let none = || CliError::NotFound {
        kind: "call",
        name: call.to_owned(),
        hint: format!("`hob calls list {app} {function}` shows those that are kept, HOB_CALL_RECORDS of the server says which are"),
    };
    let path = path(server, app, function)?;
    if !looks_like_id(call) {
        return Err(none());
    }
    ask(&format!("{path}/{}", encode(call))).map_err(|error| match error {
        CliError::Refused { status: 404, message, .. } if message.starts_with("Call not found") => none(),
        other => other,
    })
}

fn answer(server: &Server, path: &str, json: bool) -> Result<Output, CliError> {
    let answer = server.get(&format!("{path}/answer"))?;
    if json {
        return Ok(show(&answer, true));
    }
    let strange = |what: String| CliError::Strange { server: server.base().to_owned(), what };
    let body = STANDARD.decode(text(&answer, "body")).map_err(|e| strange(e.to_string()))?;
    std::io::stdout().lock().write_all(&body).map_err(|source| CliError::Output { source })?;
    Ok(Output::Done)
}
