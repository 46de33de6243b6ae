//! `hob invoke`: standard input to the function, its answer to standard output.

use std::io::{self, IsTerminal, Read, Write};

use ureq::SendBody;

use super::Output;
use super::args::Invoke;
use super::error::CliError;
use super::http::{Server, id, message};

/// An error's words are read up to this.
const MAX_MESSAGE: u64 = 64 * 1024;

pub(super) fn invoke(server: &Server, what: &Invoke, json: bool) -> Result<Output, CliError> {
    let function = server.function(&server.app(&what.app)?, &what.function)?;
    let mut headers = what.header.clone();
    if let Some(kind) = &what.content_type {
        headers.push(("Content-Type".to_owned(), kind.clone()));
    }
    if what.detached {
        headers.push(("Fn-Invoke-Type".to_owned(), "detached".to_owned()));
    }
    let typed = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    // A person at a keyboard has nothing to send.
    let response = if io::stdin().is_terminal() {
        server.call(id(&function), &headers, ())?
    } else {
        if !typed {
            headers.push(("Content-Type".to_owned(), "text/plain".to_owned()));
        }
        server.call(id(&function), &headers, SendBody::from_owned_reader(io::stdin()))?
    };
    if what.call_id
        && let Some(call_id) = response.headers().get("Fn-Call-Id").and_then(|v| v.to_str().ok())
    {
        eprintln!("call id: {call_id}");
    }
    let status = response.status().as_u16();
    if what.detached && status == 202 {
        let call_id = response.headers().get("Fn-Call-Id").and_then(|v| v.to_str().ok()).unwrap_or_default();
        return Ok(Output::Text(if json { format!("{}\n", serde_json::json!({ "call_id": call_id })) } else { format!("{call_id}\n") }));
    }
    let mut body = response.into_body().into_reader();
    let broken = |e: io::Error| CliError::Broken { server: server.base().to_owned(), cause: e.to_string() };
    if !(200..300).contains(&status) {
        let mut text = Vec::new();
        body.take(MAX_MESSAGE).read_to_end(&mut text).map_err(broken)?;
        return Err(CliError::CallFailed { status, message: message(&text, status) });
    }
    let mut out = io::stdout().lock();
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = match body.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) => return Err(broken(e)),
        };
        match out.write_all(&buf[..n]) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Output::Done),
            other => other.map_err(|source| CliError::Output { source })?,
        }
    }
    out.flush().map_err(|source| CliError::Output { source })?;
    Ok(Output::Done)
}
