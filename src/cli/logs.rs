//! `hob logs`: what functions print.

use std::io::{self, Read, Write};

use serde_json::Value;
use ureq::Body;
use ureq::http::Response;

use super::Output;
use super::args::Logs;
use super::error::CliError;
use super::http::{Server, encode, id};

/// Characters of a call's id.
const ID: usize = 26;

pub(super) fn logs(server: &Server, what: &Logs) -> Result<Output, CliError> {
    let app = server.app(&what.app)?;
    let follow = if what.follow { "?follow=1" } else { "" };
    let found = match server.find_fn(&app, &what.what)? {
        Some(function) => server.text(&format!("/v2/fns/{}/logs{follow}", encode(id(&function))))?,
        None if looks_like_id(&what.what) => of_call(server, &app, &what.what, follow)?,
        None => None,
    };
    let response = found.ok_or_else(|| CliError::NotFound {
        kind: "function or call with a log",
        name: what.what.clone(),
        hint: format!("`hob fns list {}` shows the functions, `hob calls list {0} FN` their calls", what.app),
    })?;
    pass_on(server, response)
}

fn looks_like_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// A call's id does not tell its function: it is looked for in each.
fn of_call(server: &Server, app: &Value, call: &str, follow: &str) -> Result<Option<Response<Body>>, CliError> {
    for function in server.list(&format!("/v2/fns?app_id={}", encode(id(app))))? {
        let path = format!("/v2/fns/{}/calls/{}/log{follow}", encode(id(&function)), encode(call));
        if let Some(found) = server.text(&path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// To standard output, as it comes.
fn pass_on(server: &Server, response: Response<Body>) -> Result<Output, CliError> {
    let mut text = response.into_body().into_reader();
    let mut out = io::stdout().lock();
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = text.read(&mut buf).map_err(|e| CliError::Broken { server: server.base().to_owned(), cause: e.to_string() })?;
        if n == 0 {
            return Ok(Output::Done);
        }
        match out.write_all(&buf[..n]).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Output::Done),
            other => other.map_err(|source| CliError::Output { source })?,
        }
    }
}
