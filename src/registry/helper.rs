//! Credential helpers: `docker-credential-NAME get`, a program that is told a
//! server's name and answers with a secret. It may be slow, odd or missing.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;

use super::auth::Credentials;
use crate::pool::{Stop, Woke, wait_for};

/// A helper that has not answered by then is ended.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// The user name that says "the secret is an identity token".
const TOKEN_USER: &str = "<token>";

/// A helper gave no credentials, and not because it has none.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("'{name}' cannot be the name of a credential helper")]
    Name { name: String },
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: std::io::Error },
    #[error("{program} did not answer within {limit:?}")]
    TimedOut { program: String, limit: Duration },
    #[error("{program}: the server is shutting down")]
    CalledOff { program: String },
    #[error("{program} failed: {text}")]
    Failed { program: String, text: String },
    #[error("{program} answered with what is no credentials: {source}")]
    Answer { program: String, source: serde_json::Error },
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default, rename = "Username")]
    username: String,
    #[serde(default, rename = "Secret")]
    secret: String,
}

/// Asks helper `name` for `server`'s credentials; `None` when it has none.
/// Ended at `until`, at its own limit, and when `call_off` fires.
///
/// # Errors
/// See [`HelperError`].
pub(super) fn ask(name: &str, server: &str, until: Instant, call_off: &Stop) -> Result<Option<Credentials>, HelperError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(HelperError::Name { name: name.chars().take(80).collect() });
    }
    let program = format!("docker-credential-{name}");
    let failed = |source| HelperError::Run { program: program.clone(), source };
    // A group of its own: whatever it starts ends with it.
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut running = Running { child: command.spawn().map_err(failed)?, ended: false };
    // Some read nothing: then its answer, not this, says what happened. The
    // name fits into an empty pipe, so this does not block.
    if let Some(mut stdin) = running.child.stdin.take() {
        let _ = stdin.write_all(server.as_bytes());
    }
    let begun = Instant::now();
    let until = until.min(begun + WITHIN);
    let ready = |fd: &dyn AsFd| match wait_for(fd.as_fd(), PollFlags::IN, None, Some(call_off), Some(until)).map_err(failed)? {
        Woke::Ready | Woke::PeerGone => Ok(()),
        Woke::Stop => Err(HelperError::CalledOff { program: program.clone() }),
        Woke::Deadline => Err(HelperError::TimedOut { program: program.clone(), limit: until - begun }),
    };
    let mut answer = Vec::new();
    if let Some(mut stdout) = running.child.stdout.take() {
        let mut part = [0u8; 4096];
        while answer.len() < MAX_ANSWER {
            ready(&stdout)?;
            match stdout.read(&mut part).map_err(failed)? {
                0 => break,
                n => answer.extend_from_slice(&part[..n]),
            }
        }
    }
    let pid = Pid::from_child(&running.child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed(e.into()))?;
    ready(&pidfd)?;
    let status = running.child.wait().map_err(failed)?;
    running.ended = true;
    if !status.success() {
        let text = one_line(&answer);
        // The protocol's words for "none".
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(HelperError::Failed { program, text });
    }
    let secret: Secret = serde_json::from_slice(&answer).map_err(|source| HelperError::Answer { program, source })?;
    if secret.secret.is_empty() {
        return Ok(None);
    }
    let mut credentials = Credentials { serveraddress: server.to_owned(), ..Credentials::default() };
    if secret.username == TOKEN_USER {
        credentials.identitytoken = secret.secret;
    } else {
        (credentials.username, credentials.password) = (secret.username, secret.secret);
    }
    Ok(Some(credentials))
}

/// Its words, for a log: one line, at most 300 characters.
fn one_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// A helper's process: ended and reaped on every way out.
struct Running {
    child: Child,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
