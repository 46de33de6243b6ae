//! Requests to the server.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, Body};

use super::error::CliError;

const CONNECT: Duration = Duration::from_secs(5);
/// A management request, whole.
const MANAGE: Duration = Duration::from_secs(60);
/// A call: the longest wait and the longest execution there are, and time to start.
const CALL_HEAD: Duration = Duration::from_secs(900);
const MAX_ANSWER: u64 = 64 << 20;
/// Pages of a list: a server that never ends one is broken.
const MAX_PAGES: usize = 10_000;

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    agent: Agent,
    base: String,
    token: Option<String>,
}

impl Server {
    /// The server at `url`, or the one the environment names.
    pub(super) fn new(url: Option<&str>) -> Result<Server, CliError> {
        let url = url.map(str::to_owned).or_else(|| env("HOB_URL")).or_else(|| env("FN_API_URL")).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
        let token = env("FN_TOKEN").or_else(|| env("HOB_API_TOKEN"));
        Server::at(&url, token)
    }

    /// The server at exactly this address.
    pub(super) fn at(url: &str, token: Option<String>) -> Result<Server, CliError> {
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let base = with_scheme.trim_end_matches('/').to_owned();
        let valid = base.parse::<ureq::http::Uri>().is_ok_and(|u| u.host().is_some_and(|h| !h.is_empty()) && matches!(u.scheme_str(), Some("http" | "https")));
        if !valid {
            return Err(CliError::Address { url: url.to_owned() });
        }
        let agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Server { agent, base, token })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, CliError> {
        self.manage("GET", path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.manage("POST", path, Some(body))
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.manage("PUT", path, Some(body))
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), CliError> {
        self.manage("DELETE", path, None).map(drop)
    }

    fn manage(&self, method: &'static str, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let mut builder = Request::builder().method(method).uri(format!("{}{path}", self.base)).header("Accept", "application/json");
        if let Some(token) = &self.token {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        let invalid = |e: ureq::http::Error| CliError::Strange { server: self.base.clone(), what: e.to_string() };
        let result = match body {
            Some(body) => {
                let request = builder.header("Content-Type", "application/json").body(body.to_string()).map_err(invalid)?;
                self.agent.run(self.agent.configure_request(request).timeout_global(Some(MANAGE)).build())
            }
            None => self.agent.run(self.agent.configure_request(builder.body(()).map_err(invalid)?).timeout_global(Some(MANAGE)).build()),
        };
        let mut response = result.map_err(|e| self.failed(&e))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|e| self.failed(&e))?;
        match status {
            204 => Ok(Value::Null),
            200..=299 => serde_json::from_slice(&text).map_err(|e| CliError::Strange { server: self.base.clone(), what: e.to_string() }),
            _ => Err(CliError::Refused { what: format!("{method} {path}"), status, message: message(&text, status) }),
        }
    }

    /// A text, as it comes: nothing bounds how long. `None`: there is none.
    pub(super) fn text(&self, path: &str) -> Result<Option<Response<Body>>, CliError> {
        let mut builder = Request::builder().method("GET").uri(format!("{}{path}", self.base)).header("Accept", "text/plain");
        if let Some(token) = &self.token {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        let request = builder.body(()).map_err(|e| CliError::Strange { server: self.base.clone(), what: e.to_string() })?;
        let mut response = self.agent.run(self.agent.configure_request(request).timeout_recv_response(Some(MANAGE)).build()).map_err(|e| self.failed(&e))?;
        match response.status().as_u16() {
            200 => Ok(Some(response)),
            404 => Ok(None),
            status => {
                let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|e| self.failed(&e))?;
                Err(CliError::Refused { what: format!("GET {path}"), status, message: message(&text, status) })
            }
        }
    }

    /// Calls a function.
    pub(super) fn call(&self, fn_id: &str, headers: &[(String, String)], body: impl AsSendBody) -> Result<Response<Body>, CliError> {
        let mut builder = Request::builder().method("POST").uri(format!("{}/invoke/{fn_id}", self.base));
        for (name, value) in headers {
            builder = builder.header(name, value);
            if let Some(e) = builder.headers_ref().is_none().then_some("not a valid header") {
                return Err(CliError::Header { name: name.clone(), cause: e.to_owned() });
            }
        }
        let request = builder.body(body).map_err(|e| CliError::Strange { server: self.base.clone(), what: e.to_string() })?;
        self.agent.run(self.agent.configure_request(request).timeout_recv_response(Some(CALL_HEAD)).build()).map_err(|e| self.failed(&e))
    }

    /// All items of a list, over its pages. `path` may have a query.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>, CliError> {
        self.list_up_to(path, usize::MAX)
    }

    /// The first `most` items of a list, over its pages.
    pub(super) fn list_up_to(&self, path: &str, most: usize) -> Result<Vec<Value>, CliError> {
        let mut items = Vec::new();
        if most == 0 {
            return Ok(items);
        }
        let mut cursor = String::new();
        let joint = if path.contains('?') { '&' } else { '?' };
        for _ in 0..MAX_PAGES {
            let per_page = most.saturating_sub(items.len()).clamp(1, 100);
            let mut page = self.get(&format!("{path}{joint}per_page={per_page}{cursor}"))?;
            let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) else {
                return Err(CliError::Strange { server: self.base.clone(), what: "a list without items".to_owned() });
            };
            items.extend(found.into_iter().take(most - items.len()));
            match page["next_cursor"].as_str() {
                Some(next) if !next.is_empty() && items.len() < most => cursor = format!("&cursor={}", encode(next)),
                _ => return Ok(items),
            }
        }
        Err(CliError::Strange { server: self.base.clone(), what: "a list without end".to_owned() })
    }

    fn first(&self, path: &str) -> Result<Option<Value>, CliError> {
        Ok(self.list(path)?.into_iter().next())
    }

    /// The app of this name, if there is one.
    pub(super) fn find_app(&self, name: &str) -> Result<Option<Value>, CliError> {
        self.first(&format!("/v2/apps?name={}", encode(name)))
    }

    pub(super) fn app(&self, name: &str) -> Result<Value, CliError> {
        self.find_app(name)?.ok_or_else(|| CliError::NotFound {
            kind: "app",
            name: name.to_owned(),
            hint: format!("`hob apps list` shows them, `hob apps create {name}` makes it"),
        })
    }

    /// The function of this name in an app, if there is one.
    pub(super) fn find_fn(&self, app: &Value, name: &str) -> Result<Option<Value>, CliError> {
        self.first(&format!("/v2/fns?app_id={}&name={}", encode(id(app)), encode(name)))
    }

    pub(super) fn function(&self, app: &Value, name: &str) -> Result<Value, CliError> {
        self.find_fn(app, name)?.ok_or_else(|| CliError::NotFound {
            kind: "function",
            name: name.to_owned(),
            hint: format!("`hob fns list {}` shows those of the app, `hob deploy DIR --app {0}` makes one", text(app, "name")),
        })
    }

    /// The trigger of this name at a function, if there is one.
    pub(super) fn find_trigger(&self, app: &Value, function: &Value, name: &str) -> Result<Option<Value>, CliError> {
        self.first(&format!("/v2/triggers?app_id={}&fn_id={}&name={}", encode(id(app)), encode(id(function)), encode(name)))
    }

    fn failed(&self, error: &ureq::Error) -> CliError {
        let server = self.base.clone();
        let cause = error.to_string();
        match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                CliError::Connect { server, cause }
            }
            ureq::Error::Io(e)
                if matches!(e.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable) =>
            {
                CliError::Connect { server, cause }
            }
            ureq::Error::Protocol(_) | ureq::Error::Http(_) => CliError::Strange { server, what: cause },
            _ => CliError::Broken { server, cause },
        }
    }
}

/// The words of an error answer: its `message`, else its text.
pub(super) fn message(body: &[u8], status: u16) -> String {
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|v| v["message"].as_str().map(str::to_owned));
    let text = said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(2000)]).trim().to_owned());
    match status {
        401 => format!("{text}; set HOB_API_TOKEN to the server's token"),
        _ if text.is_empty() => "no explanation".to_owned(),
        _ => text,
    }
}

/// A text member of a resource; empty where there is none.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

pub(super) fn id(value: &Value) -> &str {
    text(value, "id")
}

/// Whether a text may be a resource's or a call's id.
pub(super) fn looks_like_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// Percent-encodes everything but unreserved characters.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A variable of the client's environment.
#[allow(clippy::disallowed_methods, reason = "the client's own few variables; the server's are in config.rs")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}
