//! Pages of other origins (spec http-api §8.4): off unless origins are named.
//! A named one is told so with every answer, its preflights are answered here;
//! any other gets 403, whatever it asks for.

use crate::http1::{RequestHead, fields};

/// Which origins' pages may ask.
#[derive(Debug, Clone)]
pub(super) struct Cors {
    any: bool,
    origins: Vec<String>,
    /// Request fields a page may set.
    fields: String,
}

/// What an origin means for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No page of another origin, or nobody cares.
    Silent,
    /// Answers carry this `Access-Control-Allow-Origin`.
    Allowed(String),
    Foreign,
}

impl Cors {
    /// `origins` empty: off. `*` as the first: every page of the world.
    pub(super) fn new(origins: &[String], fields: &[String]) -> Option<Cors> {
        let any = origins.first()? == "*";
        Some(Cors { any, origins: origins.to_vec(), fields: fields.join(",") })
    }

    pub(super) fn judge(&self, head: &RequestHead<'_>, host: &str) -> Verdict {
        let Some(origin) = fields::find(&head.fields, "origin") else { return Verdict::Silent };
        if self.any {
            return Verdict::Allowed("*".to_owned());
        }
        let origin = String::from_utf8_lossy(origin.value);
        if fields::count(&head.fields, "origin") == 1 && self.origins.iter().any(|o| *o == origin) {
            return Verdict::Allowed(origin.into_owned());
        }
        // A browser names the origin also when a page asks its own server.
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if own == Some(host) && !host.is_empty() { Verdict::Silent } else { Verdict::Foreign }
    }

    /// The fields of a preflight's answer.
    pub(super) fn preflight(&self) -> [(&'static str, &str); 3] {
        [("Access-Control-Allow-Methods", "GET,POST,PUT,HEAD,DELETE"), ("Access-Control-Allow-Headers", &self.fields), ("Access-Control-Max-Age", "43200")]
    }
}

/// Whether a page asks whether it may ask.
pub(super) fn is_preflight(head: &RequestHead<'_>) -> bool {
    head.method == "OPTIONS" && fields::find(&head.fields, "access-control-request-method").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::parse_request;

    fn judge(origins: &[&str], fields: &str) -> Verdict {
        let origins: Vec<String> = origins.iter().map(|o| (*o).to_owned()).collect();
        let text = format!("GET / HTTP/1.1\r\nHost: me:8080\r\n{fields}\r\n");
        let head = parse_request(text.as_bytes(), 4096).expect("a head").expect("whole");
        Cors::new(&origins, &[]).expect("on").judge(&head, "me:8080")
    }

    #[test]
    fn verdicts() {
        assert!(Cors::new(&[], &["X".to_owned()]).is_none(), "off by default");
        let named = ["http://a.t", "https://b.t"];
        for (origins, fields, want) in [
            (&named[..], "", Verdict::Silent),
            (&named, "Origin: http://a.t\r\n", Verdict::Allowed("http://a.t".to_owned())),
            (&named, "Origin: https://b.t\r\n", Verdict::Allowed("https://b.t".to_owned())),
            (&named, "Origin: http://b.t\r\n", Verdict::Foreign),
            (&named, "Origin: http://a.t.evil\r\n", Verdict::Foreign),
            (&named, "Origin: null\r\n", Verdict::Foreign),
            (&named, "Origin: http://me:8080\r\n", Verdict::Silent),
            (&named, "Origin: http://me\r\n", Verdict::Foreign),
            (&named, "Origin: http://a.t\r\nOrigin: http://evil\r\n", Verdict::Foreign),
            (&["*"], "Origin: http://any\r\n", Verdict::Allowed("*".to_owned())),
            (&["http://a.t", "*"], "Origin: http://any\r\n", Verdict::Foreign),
        ] {
            assert_eq!(judge(origins, fields), want, "{origins:?} {fields}");
        }
    }
}
