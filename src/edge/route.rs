//! Where a request goes: decided from method and path alone.
//!
//! Routing uses the percent-decoded path, without any other cleaning, and
//! letters' case counts (spec http-api §1.2).

use std::borrow::Cow;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'t> {
    /// `POST /invoke/:id`; the id as text, any text.
    Invoke(Cow<'t, str>),
    /// `/t/:app[/*source]`.
    Trigger {
        app: Cow<'t, str>,
        source: Cow<'t, str>,
    },
    /// To the management API; `open` needs no token (liveness).
    Forward {
        open: bool,
    },
    NotFound,
    MethodNotAllowed,
}

/// A request target taken apart, nothing decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'t> {
    /// `host[:port]` of an absolute-form target.
    pub(super) authority: Option<&'t str>,
    /// Starts with `/`, or is `*`.
    pub(super) path: &'t str,
    /// Path and query as sent (`/` where an absolute form has neither).
    pub(super) path_and_query: &'t str,
}

impl<'t> Target<'t> {
    /// `None`: neither origin form, absolute form nor `*`.
    pub(super) fn parse(target: &'t str) -> Option<Target<'t>> {
        if target.starts_with('/') {
            return Some(Target { authority: None, path: without_query(target), path_and_query: target });
        }
        if target == "*" {
            return Some(Target { authority: None, path: target, path_and_query: target });
        }
        let scheme_end = target.find("://")?;
        let scheme = &target[..scheme_end];
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let rest = &target[scheme_end + 3..];
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match path_and_query.bytes().next() {
            Some(b'/') => Some(Target { authority: Some(authority), path: without_query(path_and_query), path_and_query }),
            // `http://h?q` means `http://h/?q`; nobody routes on that query.
            _ => Some(Target { authority: Some(authority), path: "/", path_and_query: "/" }),
        }
    }
}

fn without_query(text: &str) -> &str {
    text.find(['?', '#']).map_or(text, |at| &text[..at])
}

/// The route of a decoded path (see [`decode`]).
pub(super) fn route<'t>(method: &str, path: Cow<'t, str>) -> Route<'t> {
    if let Some(at) = prefix(&path, "/invoke/") {
        return match cut(path, at) {
            id if id.is_empty() || id.contains('/') => Route::NotFound,
            _ if method != "POST" => Route::MethodNotAllowed,
            id => Route::Invoke(id),
        };
    }
    if let Some(at) = prefix(&path, "/t/") {
        let rest = cut(path, at);
        let (app, source) = match rest.find('/') {
            Some(at) => (cut_to(&rest, at), cut(rest, at)),
            None => (rest, Cow::Borrowed("/")),
        };
        return if app.is_empty() {
            Route::NotFound
        } else if invokes(method) {
            Route::Trigger { app, source }
        } else {
            Route::MethodNotAllowed
        };
    }
    match path.as_ref() {
        "/invoke" | "/t" | "*" => Route::NotFound,
        "/" | "/ping" => Route::Forward { open: true },
        _ => Route::Forward { open: false },
    }
}

/// The methods a trigger passes on.
fn invokes(method: &str) -> bool {
    matches!(method, "GET" | "POST" | "PUT" | "PATCH" | "HEAD" | "OPTIONS" | "DELETE" | "CONNECT" | "TRACE")
}

fn prefix(path: &str, prefix: &str) -> Option<usize> {
    path.starts_with(prefix).then_some(prefix.len())
}

fn cut(text: Cow<'_, str>, from: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[from..]),
        Cow::Owned(text) => Cow::Owned(text[from..].to_owned()),
    }
}

fn cut_to<'t>(text: &Cow<'t, str>, to: usize) -> Cow<'t, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..to]),
        Cow::Owned(text) => Cow::Owned(text[..to].to_owned()),
    }
}

/// Percent-decodes a path; `None` when an escape is not two hex digits. Bytes
/// that are not UTF-8 become U+FFFD, which no resource's name matches by
/// accident: names are checked when they are made.
pub(super) fn decode(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        bytes.push(hex(*high)? << 4 | hex(*low)?);
        rest = after;
    }
    Some(match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    })
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(method: &'static str, target: &'static str) -> Route<'static> {
        let target = Target::parse(target).expect("a target");
        route(method, decode(target.path).expect("decodes"))
    }

    fn trigger(app: &'static str, source: &'static str) -> Route<'static> {
        Route::Trigger { app: app.into(), source: source.into() }
    }

    #[test]
    fn table() {
        let cases = [
            ("POST", "/invoke/x", Route::Invoke("x".into())),
            ("POST", "/invoke/x?a=/b", Route::Invoke("x".into())),
            ("POST", "/%69nvoke/%78", Route::Invoke("x".into())),
            ("POST", "http://h:1/invoke/x", Route::Invoke("x".into())),
            ("GET", "/invoke/x", Route::MethodNotAllowed),
            ("FOO", "/invoke/x", Route::MethodNotAllowed),
            ("HEAD", "/invoke/x", Route::MethodNotAllowed),
            ("POST", "/invoke/x/y", Route::NotFound),
            ("POST", "/invoke/x%2Fy", Route::NotFound),
            ("POST", "/invoke/", Route::NotFound),
            ("POST", "/invoke", Route::NotFound),
            ("GET", "/t/raw", trigger("raw", "/")),
            ("GET", "/t/raw/", trigger("raw", "/")),
            ("GET", "/t/raw?x=1", trigger("raw", "/")),
            ("GET", "/t/raw/x%2Fy", trigger("raw", "/x/y")),
            ("GET", "/t/raw/a%20b", trigger("raw", "/a b")),
            ("GET", "/t/raw/hello/", trigger("raw", "/hello/")),
            ("GET", "/t/raw//f", trigger("raw", "//f")),
            ("GET", "/t/raw/./f", trigger("raw", "/./f")),
            ("CONNECT", "/t/raw/f", trigger("raw", "/f")),
            ("TRACE", "/t/raw/f", trigger("raw", "/f")),
            ("FOO", "/t/raw/f", Route::MethodNotAllowed),
            ("get", "/t/raw/f", Route::MethodNotAllowed),
            ("GET", "/t/", Route::NotFound),
            ("GET", "/t", Route::NotFound),
            ("GET", "/t//x", Route::NotFound),
            ("GET", "/", Route::Forward { open: true }),
            ("GET", "http://h", Route::Forward { open: true }),
            ("GET", "/ping", Route::Forward { open: true }),
            ("GET", "/v2/apps", Route::Forward { open: false }),
            ("GET", "//invoke/x", Route::Forward { open: false }),
            ("POST", "/Invoke/x", Route::Forward { open: false }),
            ("OPTIONS", "*", Route::NotFound),
        ];
        for (method, target, want) in cases {
            assert_eq!(of(method, target), want, "{method} {target}");
        }
    }

    #[test]
    fn targets() {
        assert_eq!(Target::parse("x"), None);
        assert_eq!(Target::parse("h:443"), None);
        assert_eq!(Target::parse("ftp://h/x"), None);
        let target = Target::parse("HTTP://u@h:1/a?b=c").expect("absolute");
        assert_eq!(target, Target { authority: Some("h:1"), path: "/a", path_and_query: "/a?b=c" });
        assert_eq!(Target::parse("/a?b#c").expect("origin").path, "/a");
    }

    #[test]
    fn bad_escapes() {
        for path in ["/%", "/%4", "/%zz", "/%4g", "/a%"] {
            assert_eq!(decode(path), None, "{path}");
        }
        assert_eq!(decode("/%ff").as_deref(), Some("/\u{fffd}"));
    }

    proptest! {
        #[test]
        fn an_encoded_path_decodes_to_itself(path in "(/[a-z%/ é]{0,8}){1,4}") {
            let encoded: String = path.bytes().map(|b| if b == b'/' { "/".to_owned() } else { format!("%{b:02x}") }).collect();
            prop_assert_eq!(decode(&encoded), Some(Cow::from(path)));
        }

        #[test]
        fn any_target_is_routed_without_panic(method in "[A-Z]{1,7}", target in "[!-~]{1,40}") {
            if let Some(target) = Target::parse(&target) && let Some(path) = decode(target.path) {
                let _ = route(&method, path);
            }
        }
    }
}
