//! `hob calls`: records of calls, and what can be done to detached ones.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Output;
use super::args::Calls;
use super::error::CliError;
use super::http::{Server, encode, id, text};
use super::resources::{deleted, list, show};

pub(super) fn calls(server: &Server, command: &Calls, json: bool) -> Result<Output, CliError> {
    let path = |app: &str, function: &str| -> Result<String, CliError> {
        let found = server.function(&server.app(app)?, function)?;
        Ok(format!("/v2/fns/{}/calls", encode(id(&found))))
    };
    match command {
        Calls::List { app, function, status, from, to, last } => {
            let mut query = format!("{}?", path(app, function)?);
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
        Calls::Inspect { app, function, call } => Ok(show(&server.get(&format!("{}/{}", path(app, function)?, encode(call)))?, json)),
        Calls::Answer { app, function, call } => {
            let answer = server.get(&format!("{}/{}/answer", path(app, function)?, encode(call)))?;
            if json {
                return Ok(show(&answer, true));
            }
            let strange = |what: String| CliError::Strange { server: server.base().to_owned(), what };
            let body = STANDARD.decode(text(&answer, "body")).map_err(|e| strange(e.to_string()))?;
            std::io::stdout().lock().write_all(&body).map_err(|source| CliError::Output { source })?;
            Ok(Output::Done)
        }
        Calls::Cancel { app, function, call } => {
            server.delete(&format!("{}/{}", path(app, function)?, encode(call)))?;
            Ok(if json { deleted("call", call, true) } else { Output::Text(format!("cancelled call {call}\n")) })
        }
        Calls::Again { app, function, call } => Ok(show(&server.post(&format!("{}/{}/again", path(app, function)?, encode(call)), &Value::Null)?, json)),
    }
}
