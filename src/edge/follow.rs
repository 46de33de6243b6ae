//! Live tails of logs: the one management request that the edge answers
//! itself, for it has no length and lasts; the API's front end has few threads
//! and answers whole.

use std::os::fd::AsFd;

use super::Directory;
use super::conn::{After, Shared};
use super::reply::Reply;
use super::request::{Action, missed};
use super::route::Target;
use crate::calls::{FollowError, lines};
use crate::model::Id;
use crate::respond::{Answer, INVALID_TAIL, NO_LOG};

/// Whose log is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    fn_id: Id,
    call: Option<Id>,
    /// So many lines of what is there come first.
    last: Option<usize>,
}

/// What a management request for a live tail leads to; `None`: it is none.
/// `path` is decoded.
pub(super) fn asked(method: &str, path: &str, target: Target<'_>, directory: &dyn Directory) -> Option<Action> {
    if method != "GET" || !follows(target.path_and_query) {
        return None;
    }
    let mut parts = path.strip_prefix("/v2/fns/")?.split('/');
    let (function, call) = match (parts.next()?, parts.next()?, parts.next(), parts.next(), parts.next()) {
        (function, "logs", None, None, None) => (function, None),
        (function, "calls", Some(call), Some("log"), None) => (function, Some(call)),
        _ => return None,
    };
    let function = function.parse::<Id>().ok().map_or(Err(super::Miss::Function), |id| directory.function(&id));
    let call = call.map(str::parse::<Id>).transpose();
    Some(match (function, call) {
        (Err(miss), _) => Action::Answer(missed(miss)),
        (_, Err(_)) => Action::Answer(unknown()),
        (Ok(spec), Ok(call)) => match last(target.path_and_query) {
            Ok(last) => Action::Follow(Asked { fn_id: spec.fn_id, call, last }),
            Err(()) => Action::Answer(Answer::new(400, INVALID_TAIL)),
        },
    })
}

fn follows(path_and_query: &str) -> bool {
    let (_, query) = path_and_query.split_once('?').unwrap_or_default();
    query.split('&').any(|pair| matches!(pair, "follow" | "follow=1" | "follow=true"))
}

fn last(path_and_query: &str) -> Result<Option<usize>, ()> {
    let (_, query) = path_and_query.split_once('?').unwrap_or_default();
    match query.split('&').find_map(|pair| pair.strip_prefix("tail=")) {
        None | Some("") => Ok(None),
        Some(text) => lines(text).map(Some).ok_or(()),
    }
}

fn unknown() -> Answer {
    Answer::new(404, NO_LOG)
}

/// Sends what comes until the call, the tail, the client or the server ends.
pub(super) fn answer(shared: &Shared, reply: &mut Reply<'_>, asked: Asked) -> After {
    let mut follow = match shared.calls.follow(asked.fn_id, asked.call, asked.last) {
        Ok(follow) => follow,
        Err(error) => {
            let answer = match &error {
                FollowError::Unknown => unknown(),
                FollowError::Full => {
                    Answer { retry_after_s: Some(10), ..Answer::new(503, format!("Too many logs are followed at once: {error}, try again when one has ended")) }
                }
                FollowError::Descriptor(_) | FollowError::Ledger(_) => {
                    log::error!("a log cannot be followed: {error}");
                    Answer::new(500, "internal server error")
                }
            };
            let sent = reply.message(&answer, None);
            return After::answered(sent, reply.keep);
        }
    };
    reply.status(200);
    reply.field("Content-Type", b"text/plain; charset=utf-8");
    reply.own_fields(false, false);
    let mut long = reply.start(200, None);
    // The head goes out at once: the client knows that it listens.
    let mut sent = reply.flush(&mut long);
    while sent.is_ok() {
        let Some(text) = follow.next(reply.sock.as_fd(), &shared.stop) else { break };
        sent = reply.data(&mut long, text.as_bytes());
    }
    After::answered(sent.and_then(|()| reply.end(long)), reply.keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_with_the_word_is_one() {
        for (query, is) in
            [("/x?follow=1", true), ("/x?a=b&follow=true", true), ("/x?follow", true), ("/x?follow=0", false), ("/x", false), ("/follow=1", false)]
        {
            assert_eq!(follows(query), is, "{query}");
        }
        for (query, most) in
            [("/x?follow=1&tail=3", Ok(Some(3))), ("/x?tail=&follow=1", Ok(None)), ("/x?tails=3", Ok(None)), ("/x?tail=x", Err(())), ("/x?tail=-1", Err(()))]
        {
            assert_eq!(last(query), most, "{query}");
        }
    }
}
