//! `/t`: a request as the function's gateway event, and its answer back
//! (spec http-api §3.2).

use super::fields::{Outbound, canonical, push_line, value_is_trailers};
use crate::call::AnswerHead;
use crate::http1::{Field, fields::is_token, is_hop_by_hop};

const PREFIX: &str = "Fn-Http-H-";

/// What the gateway says of a request. FDKs show prefixed fields without the
/// prefix, some of them in the place of the plain ones: a client's own would
/// be taken for ours.
const OURS: [&str; 5] = ["fn-intent", "fn-call-id", "fn-deadline", "fn-http-method", "fn-http-request-url"];

/// The request's fields for the function: all but `Content-Type` prefixed, and
/// none of the gateway's own names, so that no client can forge what it says.
pub(super) fn request_fields(method: &str, url: &[&str], incoming: &[Field<'_>], out: &mut Vec<u8>) {
    let outbound = Outbound::new(incoming);
    for field in incoming {
        if field.name.eq_ignore_ascii_case("te") {
            if value_is_trailers(field.value) {
                push_line(out, PREFIX, canonical(field.name), field.value);
            }
        } else if field.name.eq_ignore_ascii_case("content-type") {
            push_line(out, "", canonical(field.name), field.value);
        } else if !field.name.eq_ignore_ascii_case("host") && outbound.passes(field.name) && !is_ours(field.name) {
            push_line(out, PREFIX, canonical(field.name), field.value);
        }
    }
    out.extend_from_slice(b"Fn-Intent: httprequest\r\nFn-Http-Method: ");
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(b"\r\nFn-Http-Request-Url: ");
    for part in url {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn is_ours(name: &str) -> bool {
    name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("fn-")) && OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// The client's status: the function's `Fn-Http-Status` where it is one.
///
/// # Errors
/// A number that is no final status.
pub(super) fn status(head: &AnswerHead<'_>) -> Result<u16, String> {
    let Some((_, value)) = head.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("fn-http-status")) else {
        return Ok(200);
    };
    // Not a number, or not a positive one: as if it were not there.
    let Some(number) = std::str::from_utf8(value).ok().and_then(|v| v.trim().parse::<i64>().ok()) else {
        return Ok(200);
    };
    match u16::try_from(number) {
        _ if number <= 0 => Ok(200),
        Ok(status @ 200..=599) => Ok(status),
        _ => Err(format!("Fn-Http-Status is {number}, a status is 200 to 599")),
    }
}

/// The client's fields: those with the prefix, without it, and `Content-Type`.
pub(super) fn fields<'h>(head: &AnswerHead<'h>) -> impl Iterator<Item = (&'h str, &'h [u8])> {
    let plain_type = head.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    head.fields.iter().filter_map(move |&(name, value)| {
        if name.eq_ignore_ascii_case("content-type") {
            return Some((name, value));
        }
        let prefixed = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        let name = prefixed.then(|| &name[PREFIX.len()..])?;
        // Framing is ours to say; the call's id is the real one.
        let dropped = !is_token(name.as_bytes())
            || is_hop_by_hop(name)
            || name.eq_ignore_ascii_case("content-length")
            || name.eq_ignore_ascii_case("fn-call-id")
            || (plain_type && name.eq_ignore_ascii_case("content-type"));
        (!dropped).then_some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<'a>(fields: &'a [(&'a str, &'a [u8])]) -> AnswerHead<'a> {
        AnswerHead { fields }
    }

    #[test]
    fn statuses() {
        let of = |value: &str| status(&head(&[("Fn-Http-Status", value.as_bytes())]));
        for (value, want) in [("418", 418), ("200", 200), ("599", 599), ("abc", 200), ("0", 200), ("-5", 200), ("", 200), (" 404 ", 404), ("4.5", 200)] {
            assert_eq!(of(value), Ok(want), "{value}");
        }
        for value in ["99", "100", "199", "600", "999", "70000", "4294967496"] {
            assert!(of(value).is_err(), "{value}");
        }
        assert_eq!(status(&head(&[])), Ok(200));
    }

    #[test]
    fn only_prefixed_fields_and_the_type_reach_the_client() {
        let answer: &[(&str, &[u8])] = &[
            ("Fn-Http-Status", b"418"),
            ("Fn-Http-H-X-A", b"1"),
            ("fn-http-h-x-a", b"2"),
            ("Fn-Http-H-", b"bare"),
            ("Fn-Http-H-Content-Length", b"99"),
            ("Fn-Http-H-Connection", b"close"),
            ("Fn-Http-H-Transfer-Encoding", b"chunked"),
            ("Fn-Http-H-Fn-Call-Id", b"forged"),
            ("Fn-Http-H-Content-Type", b"text/html"),
            ("Content-Type", b"application/x-foo"),
            ("X-Plain", b"drop"),
            ("Fn-Fdk-Version", b"x"),
        ];
        let passed: Vec<_> = fields(&head(answer)).collect();
        let want: Vec<(&str, &[u8])> = vec![("X-A", b"1"), ("x-a", b"2"), ("Content-Type", b"application/x-foo")];
        assert_eq!(passed, want);
    }

    #[test]
    fn a_prefixed_type_alone_is_the_type() {
        let answer: &[(&str, &[u8])] = &[("Fn-Http-H-Content-Type", b"text/html")];
        assert_eq!(fields(&head(answer)).count(), 1);
    }

    #[test]
    fn the_recorded_request() {
        // Spec http-api §3.5, without what the original's client library adds,
        // and without the call id that the client made up.
        let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
        let incoming = [
            field("host", "h:1"),
            field("user-agent", "ua"),
            field("X-FORWARDED-FOR", "1.2.3.4"),
            field("Fn-Call-Id", "mine"),
            field("Fn-Http-H-Foo", "bar"),
            field("fn-INTENT", "mine"),
            field("Fn-Deadline", "mine"),
            field("Fn-Http-Method", "mine"),
            field("Fn-Http-Request-Url", "mine"),
            field("Fn-Invoke-Type", "x"),
            field("Content-Type", "text/plain"),
            field("Content-Length", "2"),
            field("TE", "gzip"),
            field("X-Hop", "1"),
            field("Connection", "keep-alive, x-hop"),
        ];
        let mut out = Vec::new();
        request_fields("DELETE", &["http://", "h:1", "/t/raw/f?x=1"], &incoming, &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        let want = "Fn-Http-H-User-Agent: ua\r\nFn-Http-H-X-Forwarded-For: 1.2.3.4\r\nFn-Http-H-Fn-Http-H-Foo: bar\r\nFn-Http-H-Fn-Invoke-Type: x\r\nContent-Type: text/plain\r\nFn-Http-H-Content-Length: 2\r\nFn-Intent: httprequest\r\nFn-Http-Method: DELETE\r\nFn-Http-Request-Url: http://h:1/t/raw/f?x=1\r\n";
        assert_eq!(text, want);
    }
}
