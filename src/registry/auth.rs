//! Registry credentials: docker configuration files, and the header of a pull.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use serde::{Deserialize, Serialize};

use super::helper::{self, HelperError};
use super::name::ImageName;
use crate::pool::Stop;

/// The name of the engine's default registry in helpers' stores.
const HUB: &str = "https://index.docker.io/v1/";

/// What a registry is shown. Empty fields are left out.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub struct Credentials {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serveraddress: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets stay out of logs.
        f.debug_struct("Credentials").field("username", &self.username).field("serveraddress", &self.serveraddress).finish_non_exhaustive()
    }
}

impl Credentials {
    /// The value of `X-Registry-Auth`, or `None` when there is nothing to
    /// show. URL-safe: with the standard alphabet the engine silently goes on
    /// anonymously.
    pub fn header(&self) -> Option<String> {
        if *self == Credentials::default() {
            return None;
        }
        serde_json::to_vec(self).ok().map(|json| URL_SAFE.encode(json))
    }
}

/// The configuration's text is not one.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("not a docker configuration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("credentials of '{server}': {why}")]
    Entry { server: String, why: &'static str },
}

/// All known credentials. Ordered, so that equal configurations choose equally.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    entries: Vec<(Vec<String>, Credentials)>,
    /// The helper for every registry that has none of its own.
    store: Option<String>,
    /// Helpers by host.
    helpers: BTreeMap<String, String>,
}

/// What is shown to a registry, and what was in the way of showing more.
#[derive(Debug, Default)]
pub struct Shown {
    pub credentials: Credentials,
    pub trouble: Option<HelperError>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

/// A docker configuration, not the bare map of its registries: it has one of
/// these. One without registries may have others only.
const FILE_KEYS: [&str; 3] = ["auths", "credsStore", "credHelpers"];

impl Registries {
    /// From `FN_DOCKER_AUTH`'s text, else from the first file that parses.
    ///
    /// # Errors
    /// Only for a given text that does not parse: files that are missing or
    /// are something else are passed over with a line in the log.
    pub fn load(text: Option<&str>, files: &[PathBuf]) -> Result<Registries, AuthError> {
        if let Some(text) = text {
            return Registries::parse(text);
        }
        for path in files {
            match std::fs::read_to_string(path) {
                Ok(text) => match Registries::parse(&text) {
                    Ok(registries) => return Ok(registries),
                    Err(e) => log::warn!("registry credentials: {}: {e}", path.display()),
                },
                Err(e) => log::debug!("registry credentials: {}: {e}", path.display()),
            }
        }
        Ok(Registries::default())
    }

    /// Parses `{"auths": {server: {"auth": base64}}}` or the bare inner map;
    /// `credsStore` and `credHelpers` beside it name programs to ask.
    ///
    /// # Errors
    /// Not JSON of that form, or an entry that does not decode.
    pub fn parse(text: &str) -> Result<Registries, AuthError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let File { auths, store, helpers } = if FILE_KEYS.iter().any(|key| value.get(key).is_some()) {
            serde_json::from_value(value)?
        } else {
            File { auths: serde_json::from_value(value)?, store: None, helpers: BTreeMap::new() }
        };
        let mut entries = Vec::new();
        for (server, entry) in auths {
            if entry.auth.is_empty() {
                continue;
            }
            let bad = |why| AuthError::Entry { server: server.clone(), why };
            let plain = STANDARD.decode(&entry.auth).or_else(|_| STANDARD_NO_PAD.decode(&entry.auth)).map_err(|_| bad("'auth' is not base64"))?;
            let plain = String::from_utf8(plain).map_err(|_| bad("'auth' is not text"))?;
            let (username, password) = plain.split_once(':').ok_or_else(|| bad("'auth' is not user:password"))?;
            let has_token = !entry.identitytoken.is_empty() || !entry.registrytoken.is_empty();
            let credentials = Credentials {
                username: username.to_owned(),
                password: if has_token { String::new() } else { password.trim_end_matches('\0').to_owned() },
                email: entry.email,
                serveraddress: server.clone(),
                identitytoken: entry.identitytoken,
                registrytoken: entry.registrytoken,
            };
            entries.push((hosts(&server).ok_or_else(|| bad("the server is not a host or URL"))?, credentials));
        }
        let helpers = helpers.into_iter().filter_map(|(server, helper)| Some((hosts(&server)?.into_iter().next()?, helper))).collect();
        Ok(Registries { entries, store: store.filter(|s| !s.is_empty()), helpers })
    }

    /// The credentials for an image's registry. A helper is asked first, as
    /// docker does; when it fails, what the file says is shown, and what was
    /// wrong is kept for the words of a refusal.
    pub fn show(&self, image: &ImageName, until: Instant, call_off: &Stop) -> Shown {
        let host = if image.registry.is_empty() { "index.docker.io" } else { image.registry.as_str() };
        let Some(name) = self.helpers.get(host).or(self.store.as_ref()) else { return Shown { credentials: self.lookup(image), trouble: None } };
        let server = if image.registry.is_empty() || image.registry == "docker.io" { HUB } else { image.registry.as_str() };
        match helper::ask(name, server, until, call_off) {
            Ok(Some(credentials)) => Shown { credentials, trouble: None },
            Ok(None) => Shown { credentials: self.lookup(image), trouble: None },
            Err(trouble) => {
                log::warn!("registry credentials for {host}: {trouble}");
                Shown { credentials: self.lookup(image), trouble: Some(trouble) }
            }
        }
    }

    /// The credentials for an image's registry; empty ones if none are known.
    /// An entry for the very host wins over one that only shares a parent.
    pub fn lookup(&self, image: &ImageName) -> Credentials {
        if !image.registry.is_empty() {
            return self.for_host(&image.registry);
        }
        let found = self.for_host("hub.docker.com");
        if found == Credentials::default() { self.for_host("index.docker.io") } else { found }
    }

    fn for_host(&self, host: &str) -> Credentials {
        let exact = self.entries.iter().find(|(hosts, _)| hosts.first().is_some_and(|h| h == host));
        let found = exact.or_else(|| self.entries.iter().find(|(hosts, _)| hosts.iter().any(|h| h == host)));
        found.map(|(_, credentials)| credentials.clone()).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The server's host and its parents of at least two labels, port kept.
fn hosts(server: &str) -> Option<Vec<String>> {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if authority.is_empty() || authority.contains(char::is_whitespace) {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, format!(":{port}")),
        _ => (authority, String::new()),
    };
    let mut all = vec![format!("{host}{port}")];
    let mut parent = host;
    while let Some((_, up)) = parent.split_once('.') {
        if !up.contains('.') || host.parse::<std::net::IpAddr>().is_ok() {
            break;
        }
        all.push(format!("{up}{port}"));
        parent = up;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(registry: &str) -> ImageName {
        let text = if registry.is_empty() { "x/y".to_owned() } else { format!("{registry}/y") };
        let mut name = ImageName::parse(&text).expect("valid");
        name.registry = registry.to_owned();
        name
    }

    fn registries(servers: &[&str]) -> Registries {
        let auths: serde_json::Map<String, serde_json::Value> =
            servers.iter().map(|s| ((*s).to_owned(), serde_json::json!({"auth": STANDARD.encode(format!("user:{s}"))}))).collect();
        Registries::parse(&serde_json::json!({ "auths": auths }).to_string()).expect("valid")
    }

    #[test]
    fn lookups_of_the_original() {
        let known = registries(&["https://my.registry.com", "https://my.registry.com:5000", "https://index.docker.io/v2/", "rawregistry.com"]);
        for (registry, server) in [
            ("", "https://index.docker.io/v2/"),
            ("docker.io", "https://index.docker.io/v2/"),
            ("localhost", ""),
            ("registry.com", "https://my.registry.com"),
            ("registry.com:5000", "https://my.registry.com:5000"),
            ("rawregistry.com", "rawregistry.com"),
        ] {
            assert_eq!(known.lookup(&image(registry)).serveraddress, server, "{registry}");
        }
    }

    #[test]
    fn host_sets() {
        assert_eq!(hosts("a.b.com:5"), Some(vec!["a.b.com:5".to_owned(), "b.com:5".to_owned()]));
        assert_eq!(hosts("https://localhost:5000/v1/"), Some(vec!["localhost:5000".to_owned()]));
        assert_eq!(hosts("127.0.0.1:5000"), Some(vec!["127.0.0.1:5000".to_owned()]));
        assert_eq!(hosts("https:///x"), None);
    }

    #[test]
    fn header_is_url_safe_and_leaves_empty_fields_out() {
        let credentials = Credentials { username: "u".into(), password: "p>>>???".into(), ..Credentials::default() };
        let header = credentials.header().expect("not empty");
        assert!(!header.contains(['+', '/']), "{header}");
        assert_eq!(URL_SAFE.decode(&header).expect("base64"), br#"{"username":"u","password":"p>>>???"}"#);
        assert_eq!(Credentials::default().header(), None);
    }

    #[test]
    fn tokens_replace_the_password_and_bare_maps_work() {
        let text = serde_json::json!({"r.io": {"auth": STANDARD.encode("u:p"), "identitytoken": "t"}, "helper.io": {}}).to_string();
        let known = Registries::parse(&text).expect("valid");
        let found = known.lookup(&image("r.io"));
        assert_eq!((found.password.as_str(), found.identitytoken.as_str()), ("", "t"));
        assert_eq!(known.len(), 1);
        assert!(!format!("{found:?}").contains('t') || !format!("{found:?}").contains("identitytoken"));
    }

    #[test]
    fn helpers_are_found_in_the_file() {
        let text = r#"{"credsStore":"desktop","credHelpers":{"https://r.io/v2/":"ecr"},"HttpHeaders":{"A":"b"}}"#;
        let known = Registries::parse(text).expect("valid");
        assert_eq!((known.store.as_deref(), known.helpers.get("r.io").map(String::as_str), known.len()), (Some("desktop"), Some("ecr"), 0));
        assert!(Registries::parse("{}").expect("empty").is_empty());
        let bad = Registries::parse(r#"{"credsStore":"../x"}"#).expect("valid");
        let shown = bad.show(&image("r.io"), Instant::now(), &Stop::new().expect("a descriptor"));
        assert!(shown.credentials == Credentials::default() && matches!(shown.trouble, Some(HelperError::Name { .. })));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Registries::parse("[]").is_err());
        assert!(Registries::parse(r#"{"auths":{"a":{"auth":"!"}}}"#).is_err());
        assert!(Registries::load(Some("nope"), &[]).is_err());
        assert!(Registries::load(None, &[PathBuf::from("/nonexistent")]).expect("empty").is_empty());
    }
}
