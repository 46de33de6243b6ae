//! Requests to one registry: its address, who we are to it, and what its
//! answers mean.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::Deserialize;
use ureq::http::Response;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::error::ImageError;
use super::wait::Until;
use crate::registry::{Credentials, ImageName, encode};

const CONNECT: Duration = Duration::from_secs(10);
/// A transfer that brings nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// A registry's words on an error, a token: bytes.
const MAX_WORDS: u64 = 256 * 1024;
/// Where systems keep the authorities they trust, the first there is.
const BUNDLES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem"];
/// Where docker looks for a registry's own authority.
const OWN_AUTHORITIES: &str = "/etc/docker/certs.d";

/// A request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Asking again may help, after this long if the registry said so.
    Passing(ImageError, Option<Duration>),
    Final(ImageError),
}

pub(super) struct Client<'c> {
    agent: Agent,
    image: &'c ImageName,
    /// Host and port as users write it.
    registry: String,
    /// `https://host:port/v2/repository`; `http:` as long as a loopback or
    /// listed registry takes it.
    base: Mutex<String>,
    repository: String,
    credentials: Credentials,
    authorization: Mutex<Option<String>>,
    until: Until<'c>,
}

impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("registry", &self.registry).field("repository", &self.repository).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// What a 401 asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl<'c> Client<'c> {
    pub(super) fn new(image: &'c ImageName, credentials: Credentials, insecure: &[String], until: Until<'c>) -> Client<'c> {
        let (registry, host) = match image.registry.as_str() {
            "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => ("docker.io".to_owned(), "registry-1.docker.io"),
            other => (other.to_owned(), other),
        };
        let repository =
            if registry == "docker.io" && !image.repository.contains('/') { format!("library/{}", image.repository) } else { image.repository.clone() };
        let listed = insecure.contains(&registry);
        let local = is_loopback(host);
        let tls = TlsConfig::builder().root_certs(roots(host)).disable_verification(listed).build();
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(5)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .tls_config(tls)
            .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")));
        if local {
            config = config.proxy(None);
        }
        let scheme = if listed || local { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}", encode(&repository, true));
        let authorization = (!credentials.registrytoken.is_empty()).then(|| format!("Bearer {}", credentials.registrytoken));
        Client {
            agent: config.build().new_agent(),
            image,
            registry,
            base: Mutex::new(base),
            repository,
            credentials,
            authorization: Mutex::new(authorization),
            until,
        }
    }

    /// To cut its requests off from another thread.
    pub(super) fn agent(&self) -> Agent {
        self.agent.clone()
    }

    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    /// One GET below the repository, authorised as the registry asks.
    pub(super) fn get(&self, path: &str, accept: &str, from: u64) -> Result<Response<Body>, Failure> {
        let mut response = self.send(path, accept, from)?;
        if response.status() == 401 {
            let challenge = challenge(&response);
            drop(response);
            self.authorize(challenge)?;
            response = self.send(path, accept, from)?;
        }
        match response.status().as_u16() {
            200 | 206 | 416 => Ok(response),
            status => Err(self.refused(status, response)),
        }
    }

    fn send(&self, path: &str, accept: &str, from: u64) -> Result<Response<Body>, Failure> {
        let first = self.send_once(path, accept, from);
        // Where plain HTTP may be spoken it is tried first, before anything
        // secret is known to be asked for; a server with TLS does not take it.
        let no_plain = match &first {
            Ok(response) => response.status() == 400,
            Err(ureq::Error::Io(e)) => e.kind() != std::io::ErrorKind::ConnectionRefused,
            Err(e) => matches!(e, ureq::Error::Protocol(_)),
        };
        if no_plain && self.base.lock().starts_with("http:") && !self.until.stop.fired() {
            let plain = self.base.lock().clone();
            *self.base.lock() = plain.replacen("http:", "https:", 1);
            let second = self.send_once(path, accept, from);
            if second.is_ok() {
                return second.map_err(|e| self.failure(e));
            }
            *self.base.lock() = plain;
        }
        first.map_err(|e| self.failure(e))
    }

    fn send_once(&self, path: &str, accept: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let url = format!("{}{path}", *self.base.lock());
        let mut request = self.agent.get(url).header("Accept", accept).header("Accept-Encoding", "identity");
        if let Some(authorization) = &*self.authorization.lock() {
            request = request.header("Authorization", authorization);
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.config().timeout_global(Some(self.until.left())).build().call()
    }

    /// What went wrong below HTTP.
    pub(super) fn failure(&self, error: ureq::Error) -> Failure {
        if let Err(e) = self.until.check("talking to the registry") {
            return Failure::Final(e);
        }
        let error = ImageError::Away { registry: self.registry.clone(), text: error.to_string() };
        Failure::Passing(error, None)
    }

    fn refused(&self, status: u16, mut response: Response<Body>) -> Failure {
        let after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).map(Duration::from_secs);
        let text = words(&mut response);
        let image = self.image.to_string();
        match status {
            401 | 403 => Failure::Final(ImageError::Denied { image, registry: self.registry.clone(), text }),
            404 => Failure::Final(ImageError::NotFound { image, why: format!(" at registry {}: {text}", self.registry) }),
            408 | 425 | 429 | 500..=599 => Failure::Passing(ImageError::Registry { registry: self.registry.clone(), status, text }, after),
            _ => Failure::Final(ImageError::Registry { registry: self.registry.clone(), status, text }),
        }
    }

    fn denied(&self, text: &str) -> Failure {
        Failure::Final(ImageError::Denied { image: self.image.to_string(), registry: self.registry.clone(), text: text.to_owned() })
    }

    fn basic(&self) -> Option<String> {
        let Credentials { username, password, .. } = &self.credentials;
        (!username.is_empty() && !password.is_empty()).then(|| format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
    }

    fn authorize(&self, challenge: Option<Challenge>) -> Result<(), Failure> {
        let value = match challenge {
            None => return Err(self.denied("it does not say how to log in")),
            Some(Challenge::Basic) => {
                let known = self.basic().ok_or_else(|| self.denied("it wants a user and a password, and none are known (docker login makes them known)"))?;
                if self.authorization.lock().as_ref() == Some(&known) {
                    return Err(self.denied("user or password are wrong"));
                }
                known
            }
            Some(Challenge::Bearer { realm, service, scope }) => format!("Bearer {}", self.token(&realm, &service, &scope)?),
        };
        *self.authorization.lock() = Some(value);
        Ok(())
    }

    fn token(&self, realm: &str, service: &str, scope: &str) -> Result<String, Failure> {
        // What opens a registry with TLS must not travel without.
        let plain = self.base.lock().starts_with("http:");
        if !(realm.starts_with("https://") || (plain && realm.starts_with("http://"))) {
            return Err(self.denied("it sends logins to a place that is not safe"));
        }
        let scope = if scope.is_empty() { format!("repository:{}:pull", self.repository) } else { scope.to_owned() };
        let left = Some(self.until.left());
        let answer = if self.credentials.identitytoken.is_empty() {
            let joint = if realm.contains('?') { '&' } else { '?' };
            let url = format!("{realm}{joint}service={}&scope={}", encode(service, false), encode(&scope, false));
            let mut request = self.agent.get(url);
            if let Some(basic) = self.basic() {
                request = request.header("Authorization", basic);
            }
            request.config().timeout_global(left).build().call()
        } else {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", self.credentials.identitytoken.as_str()),
                ("service", service),
                ("scope", scope.as_str()),
                ("client_id", "hob"),
            ];
            self.agent.post(realm).config().timeout_global(left).build().send_form(form)
        };
        let mut response = answer.map_err(|e| self.failure(e))?;
        match response.status().as_u16() {
            200 => {}
            status @ (400 | 404) => return Err(self.denied(&format!("its token service says {status}: {}", words(&mut response)))),
            status => return Err(self.refused(status, response)),
        }
        let token: Option<Token> = response.body_mut().with_config().limit(MAX_WORDS).read_to_vec().ok().and_then(|b| serde_json::from_slice(&b).ok());
        let token = token.map(|t| if t.token.is_empty() { t.access_token } else { t.token }).unwrap_or_default();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(self.denied("its token service gives no token"));
        }
        Ok(token)
    }
}

/// A registry's own words on an error, made safe to print.
fn words(response: &mut Response<Body>) -> String {
    let mut bytes = Vec::new();
    let _ = response.body_mut().as_reader().take(MAX_WORDS).read_to_end(&mut bytes);
    let json: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let message = json.as_ref().and_then(|json| {
        let first = &json["errors"][0];
        let told = [&first["message"], &first["code"], &json["details"], &json["message"]];
        told.into_iter().find_map(|t| t.as_str().filter(|t| !t.is_empty()).map(str::to_owned))
    });
    let text = message.unwrap_or_else(|| response.status().canonical_reason().unwrap_or("no words").to_lowercase());
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The system's authorities and the registry's own; Mozilla's where the system has none.
fn roots(host: &str) -> RootCerts {
    let mut found = Vec::new();
    if let Some(bytes) = BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) {
        found.extend(certificates(&bytes));
    }
    if found.is_empty() {
        return RootCerts::WebPki;
    }
    // `host` has passed as an image's name: no slash, no dots alone.
    let own = std::fs::read_dir(Path::new(OWN_AUTHORITIES).join(host));
    for entry in own.into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| e == "crt")
            && let Ok(bytes) = std::fs::read(entry.path())
        {
            found.extend(certificates(&bytes));
        }
    }
    RootCerts::Specific(Arc::new(found))
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    parse_pem(pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect()
}

/// The strongest challenge we can answer.
fn challenge(response: &Response<Body>) -> Option<Challenge> {
    let all: Vec<Challenge> = response.headers().get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok()).filter_map(parse_challenge).collect();
    let bearer = all.iter().position(|c| matches!(c, Challenge::Bearer { .. }));
    all.into_iter().nth(bearer.unwrap_or(0))
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (String::new(), String::new(), String::new());
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => value.clone_into(&mut realm),
            "service" => value.clone_into(&mut service),
            "scope" => value.clone_into(&mut scope),
            _ => {}
        }
        rest = after;
    }
    (!realm.is_empty()).then_some(Challenge::Bearer { realm, service, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: &str, scope: &str| Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() });
        assert_eq!(
            parse_challenge(r#"Bearer realm="https://a/token",service="r.io",scope="repository:x/y:pull,push""#),
            bearer("https://a/token", "r.io", "repository:x/y:pull,push")
        );
        assert_eq!(parse_challenge("bearer realm=https://a, service=s"), bearer("https://a", "s", ""));
        assert_eq!(parse_challenge(r#"Basic realm="Registry""#), Some(Challenge::Basic));
        for none in ["", "Digest realm=x", "Bearer", r#"Bearer realm="unclosed"#, "Bearer service=x"] {
            assert_eq!(parse_challenge(none), None, "{none}");
        }
    }

    #[test]
    fn loopback_hosts() {
        for (host, is) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.evil.io", false),
        ] {
            assert_eq!(is_loopback(host), is, "{host}");
        }
    }
}
