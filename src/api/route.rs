//! Which handler a method and a path mean (spec http-api §1.1, §1.2). Pure.

/// A resource, with what its path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'p> {
    Root,
    Ping,
    Version,
    OpenApi,
    Metrics,
    DebugState,
    Apps,
    App(&'p str),
    Fns,
    Fn(&'p str),
    Triggers,
    Trigger(&'p str),
    /// A function's calls (spec http-api §10).
    Calls(&'p str),
    Call(&'p str, &'p str),
    CallAnswer(&'p str, &'p str),
    CallLog(&'p str, &'p str),
    CallAgain(&'p str, &'p str),
    Logs(&'p str),
    TriggerBySource {
        app_id: &'p str,
        kind: &'p str,
        source: &'p str,
    },
    /// Served by the edge; here only to tell 405 from 404.
    Invoke,
}

/// The methods there are, as metric labels too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    pub(super) fn parse(text: &str) -> Option<Method> {
        match text {
            "GET" => Some(Method::Get),
            "POST" => Some(Method::Post),
            "PUT" => Some(Method::Put),
            "DELETE" => Some(Method::Delete),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }
}

/// What a method and a path lead to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed<'p> {
    To(Method, Resource<'p>),
    /// The path without its last slash would have been found.
    Slash(Method),
    NotAllowed,
    NotFound,
}

/// `path` is decoded, without the query.
pub(super) fn find<'p>(method: &str, path: &'p str, debug: bool) -> Routed<'p> {
    let method = Method::parse(method);
    let allowed = |resource: Resource<'_>| method.filter(|m| methods(resource).contains(m));
    if let Some(resource) = resource(path, debug) {
        return match allowed(resource) {
            Some(_) if resource == Resource::Invoke => Routed::NotFound,
            Some(method) => Routed::To(method, resource),
            None => Routed::NotAllowed,
        };
    }
    let bare = path.strip_suffix('/').filter(|bare| !bare.is_empty()).and_then(|bare| resource(bare, debug));
    match bare.and_then(allowed) {
        Some(method) => Routed::Slash(method),
        None => Routed::NotFound,
    }
}

fn resource(path: &str, debug: bool) -> Option<Resource<'_>> {
    // No path has more parts, except that a source may have slashes in it.
    let mut parts = [""; 8];
    let mut count = 0;
    for part in path.strip_prefix('/')?.splitn(8, '/') {
        parts[count] = part;
        count += 1;
    }
    let id = |id: &str| !id.is_empty();
    match &parts[..count] {
        [""] => Some(Resource::Root),
        ["ping"] => Some(Resource::Ping),
        ["version"] => Some(Resource::Version),
        ["openapi.yaml"] => Some(Resource::OpenApi),
        ["metrics"] => Some(Resource::Metrics),
        ["debug", "state"] if debug => Some(Resource::DebugState),
        ["v2", "apps"] => Some(Resource::Apps),
        ["v2", "apps", app] if id(app) => Some(Resource::App(app)),
        ["v2", "fns"] => Some(Resource::Fns),
        ["v2", "fns", function] if id(function) => Some(Resource::Fn(function)),
        ["v2", "fns", function, "calls"] if id(function) => Some(Resource::Calls(function)),
        ["v2", "fns", function, "logs"] if id(function) => Some(Resource::Logs(function)),
        ["v2", "fns", function, "calls", call] if id(function) && id(call) => Some(Resource::Call(function, call)),
        ["v2", "fns", function, "calls", call, "log"] if id(function) && id(call) => Some(Resource::CallLog(function, call)),
        ["v2", "fns", function, "calls", call, "answer"] if id(function) && id(call) => Some(Resource::CallAnswer(function, call)),
        ["v2", "fns", function, "calls", call, "again"] if id(function) && id(call) => Some(Resource::CallAgain(function, call)),
        ["v2", "triggers"] => Some(Resource::Triggers),
        ["v2", "triggers", trigger] if id(trigger) => Some(Resource::Trigger(trigger)),
        ["v2", "runner", "apps", app_id, "triggerBySource", kind, source @ ..] if id(app_id) && id(kind) && !source.is_empty() => {
            // What follows the type's slash, whatever slashes it has itself.
            let taken = 1 + parts[..6].iter().map(|p| p.len() + 1).sum::<usize>();
            Some(Resource::TriggerBySource { app_id, kind, source: path.get(taken..)? })
        }
        ["invoke", function] if id(function) => Some(Resource::Invoke),
        _ => None,
    }
}

const fn methods(resource: Resource<'_>) -> &'static [Method] {
    use Method::{Delete, Get, Post, Put};
    match resource {
        Resource::Root
        | Resource::Ping
        | Resource::Version
        | Resource::OpenApi
        | Resource::Metrics
        | Resource::DebugState
        | Resource::Calls(_)
        | Resource::CallAnswer(..)
        | Resource::CallLog(..)
        | Resource::Logs(_)
        | Resource::TriggerBySource { .. } => &[Get],
        Resource::Call(..) => &[Get, Delete],
        Resource::CallAgain(..) => &[Post],
        Resource::Apps | Resource::Fns | Resource::Triggers => &[Get, Post],
        Resource::App(_) | Resource::Fn(_) | Resource::Trigger(_) => &[Get, Put, Delete],
        Resource::Invoke => &[Post],
    }
}

impl Resource<'_> {
    /// The route's pattern, as metrics show it.
    pub(super) const fn pattern(self) -> &'static str {
        match self {
            Resource::Root => "/",
            Resource::Ping => "/ping",
            Resource::Version => "/version",
            Resource::OpenApi => "/openapi.yaml",
            Resource::Metrics => "/metrics",
            Resource::DebugState => "/debug/state",
            Resource::Apps => "/v2/apps",
            Resource::App(_) => "/v2/apps/:app_id",
            Resource::Fns => "/v2/fns",
            Resource::Fn(_) => "/v2/fns/:fn_id",
            Resource::Triggers => "/v2/triggers",
            Resource::Trigger(_) => "/v2/triggers/:trigger_id",
            Resource::Calls(_) => "/v2/fns/:fn_id/calls",
            Resource::Call(..) => "/v2/fns/:fn_id/calls/:call_id",
            Resource::CallAnswer(..) => "/v2/fns/:fn_id/calls/:call_id/answer",
            Resource::CallLog(..) => "/v2/fns/:fn_id/calls/:call_id/log",
            Resource::Logs(_) => "/v2/fns/:fn_id/logs",
            Resource::CallAgain(..) => "/v2/fns/:fn_id/calls/:call_id/again",
            Resource::TriggerBySource { .. } => "/v2/runner/apps/:app_id/triggerBySource/:type/*source",
            Resource::Invoke => "/invoke/:fn_id",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path that leads to a resource like this one, in the words of
    /// docs/openapi.yaml. A new resource does not compile until it is here.
    const fn documented(resource: Resource<'_>) -> &'static [&'static str] {
        match resource {
            Resource::Root => &["/"],
            Resource::Ping => &["/ping"],
            Resource::Version => &["/version"],
            Resource::OpenApi => &["/openapi.yaml"],
            Resource::Metrics => &["/metrics"],
            Resource::DebugState => &["/debug/state"],
            Resource::Apps => &["/v2/apps"],
            Resource::App(_) => &["/v2/apps/{app_id}"],
            Resource::Fns => &["/v2/fns"],
            Resource::Fn(_) => &["/v2/fns/{fn_id}"],
            Resource::Triggers => &["/v2/triggers"],
            Resource::Trigger(_) => &["/v2/triggers/{trigger_id}"],
            Resource::Calls(_) => &["/v2/fns/{fn_id}/calls"],
            Resource::Call(..) => &["/v2/fns/{fn_id}/calls/{call_id}"],
            Resource::CallAnswer(..) => &["/v2/fns/{fn_id}/calls/{call_id}/answer"],
            Resource::CallLog(..) => &["/v2/fns/{fn_id}/calls/{call_id}/log"],
            Resource::Logs(_) => &["/v2/fns/{fn_id}/logs"],
            Resource::CallAgain(..) => &["/v2/fns/{fn_id}/calls/{call_id}/again"],
            Resource::TriggerBySource { .. } => &["/v2/runner/apps/{app_id}/triggerBySource/{type}/{source}"],
            Resource::Invoke => &["/invoke/{fn_id}"],
        }
    }

    const ALL: [Resource<'static>; 20] = [
        Resource::Root,
        Resource::Ping,
        Resource::Version,
        Resource::OpenApi,
        Resource::Metrics,
        Resource::DebugState,
        Resource::Apps,
        Resource::App(""),
        Resource::Fns,
        Resource::Fn(""),
        Resource::Triggers,
        Resource::Trigger(""),
        Resource::Calls(""),
        Resource::Call("", ""),
        Resource::CallAnswer("", ""),
        Resource::CallLog("", ""),
        Resource::CallAgain("", ""),
        Resource::Logs(""),
        Resource::TriggerBySource { app_id: "", kind: "", source: "" },
        Resource::Invoke,
    ];

    /// Paths with their methods as docs/openapi.yaml has them: two blanks before
    /// a path, four before a method.
    fn document() -> Vec<(String, Vec<String>)> {
        let mut paths: Vec<(String, Vec<String>)> = Vec::new();
        let within = crate::api::OPENAPI.lines().skip_while(|l| *l != "paths:").skip(1).take_while(|l| l.is_empty() || l.starts_with([' ', '#']));
        for line in within {
            if let Some(path) = line.strip_prefix("  /") {
                paths.push((format!("/{}", path.trim_end_matches(':')), Vec::new()));
            } else if let Some((word, _)) = line.strip_prefix("    ").filter(|w| !w.starts_with(' ')).and_then(|w| w.split_once(':'))
                && word != "parameters"
                && let Some((_, methods)) = paths.last_mut()
            {
                methods.push(word.to_ascii_uppercase());
            }
        }
        paths
    }

    /// What is served is documented, and nothing else, except what the edge
    /// serves itself.
    #[test]
    fn the_document_has_every_route_and_method() {
        let mut left = document();
        for resource in ALL {
            for path in documented(resource) {
                let concrete = path.replace(['{', '}'], "");
                let found = super::resource(&concrete, true).unwrap_or_else(|| panic!("{concrete} leads nowhere"));
                assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&resource), "{concrete}");
                let at = left.iter().position(|(p, _)| p == path).unwrap_or_else(|| panic!("docs/openapi.yaml lacks {path}"));
                let (_, said) = left.remove(at);
                let served: Vec<&str> = methods(resource).iter().map(|m| m.name()).collect();
                assert_eq!(said, served, "{path}");
            }
        }
        let triggers: Vec<&str> = left.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(triggers, ["/t/{app_name}", "/t/{app_name}/{source}"]);
        for (path, said) in &left {
            assert_eq!(said.join(" "), "GET POST PUT PATCH DELETE HEAD OPTIONS TRACE", "{path}: all that the edge passes on and OpenAPI has a word for");
        }
    }
}
