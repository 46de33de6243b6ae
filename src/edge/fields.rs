//! Which fields of a request go on, and in which capitals.

use crate::http1::fields::connection_options;
use crate::http1::{Field, is_hop_by_hop};

/// The filter of one request: hop-by-hop fields end here, by rule and by
/// being named in `Connection`.
pub(super) struct Outbound<'f, 'b> {
    fields: &'f [Field<'b>],
    names_some: bool,
}

impl<'f, 'b> Outbound<'f, 'b> {
    pub(super) fn new(fields: &'f [Field<'b>]) -> Outbound<'f, 'b> {
        let names_some = connection_options(fields).any(|o| !o.eq_ignore_ascii_case(b"keep-alive") && !o.eq_ignore_ascii_case(b"close"));
        Outbound { fields, names_some }
    }

    /// Whether a field of this name goes on.
    pub(super) fn passes(&self, name: &str) -> bool {
        let ends_here = is_hop_by_hop(name) || (self.names_some && connection_options(self.fields).any(|o| o.eq_ignore_ascii_case(name.as_bytes())));
        !ends_here
    }
}

/// A direct call's fields for the function (spec http-api §3.1). `Host`,
/// lengths, the call's id and deadline are written where they are known;
/// `Expect` was between the client and us.
pub(super) fn invoke_fields(incoming: &[Field<'_>], out: &mut Vec<u8>) {
    let outbound = Outbound::new(incoming);
    for field in incoming {
        let passes = match field.name.len() {
            2 if field.name.eq_ignore_ascii_case("te") => value_is_trailers(field.value),
            _ => outbound.passes(field.name) && !is_ours(field.name),
        };
        if passes {
            push_line(out, "", canonical(field.name), field.value);
        }
    }
}

fn is_ours(name: &str) -> bool {
    let candidate = match name.len() {
        4 => "host",
        6 => "expect",
        9 => "fn-timing",
        10 => "fn-call-id",
        11 => "fn-deadline",
        14 => "content-length",
        _ => return false,
    };
    name.eq_ignore_ascii_case(candidate)
}

/// `Te` goes on only where it says that trailers are understood.
pub(super) fn value_is_trailers(value: &[u8]) -> bool {
    value == b"trailers"
}

/// The bytes of a name in canonical capitals: the first letter and each one
/// after a hyphen upper, the others lower. One FDK looks names up that way.
pub(super) fn canonical(name: &str) -> impl Iterator<Item = u8> {
    let mut first = true;
    name.bytes().map(move |b| {
        let b = if first { b.to_ascii_uppercase() } else { b.to_ascii_lowercase() };
        first = b == b'-';
        b
    })
}

/// Appends `<prefix><name>: <value>` and CR LF.
pub(super) fn push_line(out: &mut Vec<u8>, prefix: &str, name: impl Iterator<Item = u8>, value: &[u8]) {
    out.extend_from_slice(prefix.as_bytes());
    out.extend(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_direct_call() {
        let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
        let incoming = [
            field("Host", "h"),
            field("content-type", "application/json"),
            field("X-CUSTOM", "a"),
            field("x-custom", "b"),
            field("Cookie", "c=1"),
            field("TE", "trailers"),
            field("Keep-Alive", "5"),
            field("Upgrade", "foo"),
            field("Fn-Call-Id", "mine"),
            field("Fn-Deadline", "zz"),
            field("Fn-Intent", "httprequest"),
            field("Authorization", "Basic x"),
            field("Content-Length", "2"),
            field("Expect", "100-continue"),
            field("Proxy-Authorization", "x"),
            field("Connection", "close, X-Mine"),
            field("x-mine", "1"),
        ];
        let mut out = Vec::new();
        invoke_fields(&incoming, &mut out);
        let want = "Content-Type: application/json\r\nX-Custom: a\r\nX-Custom: b\r\nCookie: c=1\r\nTe: trailers\r\nFn-Intent: httprequest\r\nAuthorization: Basic x\r\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), want);
    }

    #[test]
    fn capitals() {
        for (name, want) in [("x-foo", "X-Foo"), ("ETAG", "Etag"), ("a-b-C-dd", "A-B-C-Dd"), ("-x", "-X"), ("x_y-z", "X_y-Z")] {
            assert_eq!(String::from_utf8(canonical(name).collect()).expect("ASCII"), want);
        }
    }
}
