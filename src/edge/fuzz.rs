//! What holds for any bytes: see `crate::fuzz`.

use super::route::{Route, Target, decode, route};
use super::triggers;
use crate::call::AnswerHead;
use crate::http1::{is_hop_by_hop, parse_request, parse_response};

const LIMIT: usize = 1 << 20;
/// What the gateway itself says, each once.
const OURS: &[&str] = &["Fn-Intent", "Fn-Http-Method", "Fn-Http-Request-Url"];
/// What FDKs look up; a prefixed one would be taken for it.
const LOOKED_UP: &[&str] = &["fn-intent", "fn-http-method", "fn-http-request-url", "fn-call-id", "fn-deadline"];

/// A request or an answer on its way through a trigger.
pub fn trigger(data: &[u8]) {
    if let Ok(Some(head)) = parse_request(data, LIMIT) {
        check_route(head.method, head.target);
        // The function reads what was written as one head, and no field of the
        // client's stands where the gateway's own are.
        let mut text = b"POST /call HTTP/1.1\r\n".to_vec();
        triggers::request_fields(head.method, &["http://h", "/t/a/b"], &head.fields, &mut text);
        text.extend_from_slice(b"\r\n");
        let Ok(Some(sent)) = parse_request(&text, LIMIT) else {
            // More fields than one head may have: those of ours came on top.
            assert!(head.fields.len() + OURS.len() > crate::http1::MAX_FIELDS);
            return;
        };
        assert_eq!(sent.len, text.len());
        for name in OURS {
            assert_eq!(sent.fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).count(), 1, "{name}");
        }
        for field in &sent.fields {
            let known = OURS.contains(&field.name) || field.name == "Content-Type" || field.name.starts_with("Fn-Http-H-");
            assert!(known, "{} reached the function", field.name);
            let bare = field.name.strip_prefix("Fn-Http-H-").unwrap_or_default().to_ascii_lowercase();
            assert!(!LOOKED_UP.contains(&bare.as_str()), "{} reached the function", field.name);
            assert!(field.name == "Fn-Http-H-Te" || !field.name.strip_prefix("Fn-Http-H-").is_some_and(is_hop_by_hop), "{}", field.name);
        }
    }
    if let Ok(Some(head)) = parse_response(data, LIMIT) {
        let fields: Vec<(&str, &[u8])> = head.fields.iter().map(|f| (f.name, f.value)).collect();
        let answer = AnswerHead { fields: &fields };
        if let Ok(status) = triggers::status(&answer) {
            assert!((200..=599).contains(&status));
        }
        for (name, value) in triggers::fields(&answer) {
            assert!(!is_hop_by_hop(name) && !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("fn-call-id"), "{name}");
            assert!(crate::http1::fields::is_token(name.as_bytes()) && crate::http1::fields::is_value(value), "{name}");
        }
    }
}

/// The route against one found by splitting the text.
fn check_route(method: &str, target: &str) {
    let Some(target) = Target::parse(target) else { return };
    let Some(path) = decode(target.path) else {
        assert!(target.path.contains('%'));
        return;
    };
    let invokes = ["GET", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "DELETE", "CONNECT", "TRACE"].contains(&method);
    let parts: Vec<&str> = path.split('/').collect();
    let source = format!("/{}", parts.get(3..).unwrap_or_default().join("/"));
    let want = match parts.as_slice() {
        ["", "invoke"] | ["", "t"] | ["*"] | ["", "t", "", ..] | ["", "invoke", ""] | ["", "invoke", _, _, ..] => Route::NotFound,
        ["", "invoke", _] if method != "POST" => Route::MethodNotAllowed,
        ["", "invoke", id] => Route::Invoke((*id).into()),
        ["", "t", ..] if !invokes => Route::MethodNotAllowed,
        ["", "t", app, ..] => Route::Trigger { app: (*app).into(), source: source.into() },
        ["", "" | "ping"] => Route::Forward { open: true },
        _ => Route::Forward { open: false },
    };
    assert_eq!(route(method, path.clone()), want, "{method} {path}");
}
