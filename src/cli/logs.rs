//! `hob logs`: what functions print.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde_json::{Value, json};
use ureq::Body;
use ureq::http::Response;

use super::Output;
use super::args::Logs;
use super::error::CliError;
use super::http::{Server, encode, id, looks_like_id};

pub(super) fn logs(server: &Server, what: &Logs, json: bool) -> Result<Output, CliError> {
    let app = server.app(&what.app)?;
    let query = match (what.follow, what.tail) {
        (false, None) => String::new(),
        (true, None) => "?follow=1".to_owned(),
        (false, Some(tail)) => format!("?tail={tail}"),
        (true, Some(tail)) => format!("?follow=1&tail={tail}"),
    };
    let found = match server.find_fn(&app, &what.what)? {
        Some(function) => server.text(&format!("/v2/fns/{}/logs{query}", encode(id(&function))))?.map(|response| (response, None)),
        None if looks_like_id(&what.what) => of_call(server, &app, &what.what, &query)?.map(|response| (response, Some(what.what.as_str()))),
        None => None,
    };
    let (response, call) = found.ok_or_else(|| CliError::NotFound {
        kind: "function or call with a log",
        name: what.what.clone(),
        hint: format!("`hob fns list {}` shows the functions, `hob calls list {0} FN` their calls", what.app),
    })?;
    let text = response.into_body().into_reader();
    if json { as_json(server, text, call) } else { pass_on(server, text) }
}

/// A call's id does not tell its function: it is looked for in each.
fn of_call(server: &Server, app: &Value, call: &str, query: &str) -> Result<Option<Response<Body>>, CliError> {
    for function in server.list(&format!("/v2/fns?app_id={}", encode(id(app))))? {
        let path = format!("/v2/fns/{}/calls/{}/log{query}", encode(id(&function)), encode(call));
        if let Some(found) = server.text(&path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// To standard output, as it comes.
fn pass_on(server: &Server, mut text: impl Read) -> Result<Output, CliError> {
    let mut out = io::stdout().lock();
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = text.read(&mut buf).map_err(|e| broken(server, &e))?;
        if n == 0 {
            return Ok(Output::Done);
        }
        if !written(out.write_all(&buf[..n]).and_then(|()| out.flush()))? {
            return Ok(Output::Done);
        }
    }
}

/// The same, each line as an object.
fn as_json(server: &Server, text: impl Read, call: Option<&str>) -> Result<Output, CliError> {
    let mut text = BufReader::new(text);
    let mut out = io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if text.read_until(b'\n', &mut line).map_err(|e| broken(server, &e))? == 0 {
            return Ok(Output::Done);
        }
        let said = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
        if !written(writeln!(out, "{}", object(&said, call)).and_then(|()| out.flush()))? {
            return Ok(Output::Done);
        }
    }
}

/// A line of the log of `call`, or of a function's, where each stands behind the
/// id of its call or `-`.
fn object(line: &str, call: Option<&str>) -> Value {
    let (call, text) = match (call, line.split_once(' ')) {
        (None, Some(("-", text))) => (None, text),
        (None, Some((id, text))) if looks_like_id(id) => (Some(id), text),
        (call, _) => (call, line),
    };
    json!({ "call_id": call, "text": text })
}

fn broken(server: &Server, error: &io::Error) -> CliError {
    CliError::Broken { server: server.base().to_owned(), cause: error.to_string() }
}

/// False: whoever read our output has enough.
fn written(result: io::Result<()>) -> Result<bool, CliError> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(CliError::Output { source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_objects_of_their_calls() {
        let id = "01HF7YAT3V180G40RZJ0000001";
        for (line, call, want) in [
            ("said \"it\"", Some(id), json!({"call_id": id, "text": "said \"it\""})),
            ("- starts", Some(id), json!({"call_id": id, "text": "- starts"})),
            (&format!("{id} said it"), None, json!({"call_id": id, "text": "said it"})),
            (&format!("{id} "), None, json!({"call_id": id, "text": ""})),
            ("- starts", None, json!({"call_id": null, "text": "starts"})),
            ("hob: 3 lines were left out", None, json!({"call_id": null, "text": "hob: 3 lines were left out"})),
        ] {
            assert_eq!(object(line, call), want, "{line}");
        }
    }
}
