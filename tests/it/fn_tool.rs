//! Fn's own command-line tool, replayed: each of its commands as the requests
//! it sends, in its order and with its fields (recorded from fn 0.6.41, spec
//! http-api §5), and what it needs of the answers: the exact status, JSON it
//! decodes, names resolved by list and filter, the endpoints it calls.

use serde_json::{Map, Value, json};

use crate::harness::Server;
use crate::harness::http::{self, Response};

/// What the tool writes for "no time".
const NO_TIME: &str = "0001-01-01T00:00:00.000Z";

/// The tool. It reads `Fn` objects field by field: what it does not know it drops.
struct Tool<'s> {
    server: &'s Server,
    /// `FN_TOKEN`: sent with management requests, never with calls.
    token: Option<&'s str>,
}

impl Tool<'_> {
    fn request(&self, method: &str, target: &str, body: Option<&Value>) -> Response {
        let bearer = self.token.map(|t| format!("Bearer {t}"));
        // `Content-Type` on every method, DELETE included.
        let mut fields =
            vec![("User-Agent", "Go-http-client/1.1"), ("Accept", "application/json"), ("Content-Type", "application/json"), ("Accept-Encoding", "gzip")];
        if let Some(bearer) = &bearer {
            fields.push(("Authorization", bearer));
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        let got = http::send(self.server.address, method, target, &fields, text.as_bytes()).expect("an answer");
        assert_eq!(got.field("Content-Encoding"), None, "it asked for gzip, and may be answered without");
        got
    }

    /// The generated client takes 200 for everything but a delete.
    fn ok(&self, method: &str, target: &str, body: Option<&Value>) -> Value {
        let got = self.request(method, target, body);
        assert_eq!(got.status, 200, "{method} {target}: {got:?}");
        assert!(got.field("Content-Type").is_some_and(|t| t.starts_with("application/json")), "{got:?}");
        got.json()
    }

    fn delete(&self, target: &str) {
        let got = self.request("DELETE", target, None);
        assert_eq!((got.status, got.body.len()), (204, 0), "DELETE {target}: {got:?}");
    }

    /// `GET …?name=`: the first of the items, or "not found".
    fn one(&self, target: &str) -> Option<Value> {
        let found = self.ok("GET", target, None);
        let items = found["items"].as_array().expect("items are a list, never null").clone();
        assert!(items.len() <= 1, "a name is of one: {found}");
        items.into_iter().next()
    }

    fn app(&self, name: &str) -> Option<Value> {
        self.one(&format!("/v2/apps?name={name}"))
    }

    fn function(&self, app: &Value, name: &str) -> Option<Value> {
        self.one(&format!("/v2/fns?app_id={}&name={name}", id(app)))
    }

    fn trigger(&self, app: &Value, function: &Value, name: &str) -> Option<Value> {
        self.one(&format!("/v2/triggers?app_id={}&fn_id={}&name={name}", id(app), id(function)))
    }

    /// The tool's loop: until it has `wanted`, or would if the next page were
    /// as long as this one, or there is no cursor.
    fn list(&self, target: &str, wanted: usize) -> (Vec<Value>, usize) {
        let (mut items, mut requests, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let joint = if target.contains('?') { '&' } else { '?' };
            let target = if cursor.is_empty() { target.to_owned() } else { format!("{target}{joint}cursor={cursor}") };
            let page = self.ok("GET", &target, None);
            requests += 1;
            let of_page = page["items"].as_array().expect("items").clone();
            let size = of_page.len();
            items.extend(of_page);
            cursor = page["next_cursor"].as_str().unwrap_or_default().to_owned();
            if cursor.is_empty() || items.len() + size >= wanted {
                return (items, requests);
            }
        }
    }

    /// A whole object goes back, with only the changed keys of `config`.
    fn put(&self, kind: &str, mut object: Value, changed: Value) -> Value {
        if changed["config"].is_object() {
            object["config"] = json!({});
        }
        for (key, value) in changed.as_object().expect("an object") {
            object[key] = value.clone();
        }
        self.ok("PUT", &format!("/v2/{kind}/{}", id(&object)), Some(&object))
    }

    fn create_app(&self, name: &str, config: Value) -> Value {
        let body = json!({"annotations": null, "config": config, "created_at": NO_TIME, "name": name, "updated_at": NO_TIME});
        self.ok("POST", "/v2/apps", Some(&body))
    }

    fn create_function(&self, app: &Value, name: &str, image: &str) -> Value {
        let body = json!({"annotations": null, "app_id": id(app), "config": null, "created_at": NO_TIME, "idle_timeout": 30, "image": image, "memory": 64, "name": name, "timeout": 30, "updated_at": NO_TIME});
        self.ok("POST", "/v2/fns", Some(&body))
    }

    fn create_trigger(&self, app: &Value, function: &Value, name: &str, source: &str) -> Value {
        let body = json!({"annotations": null, "app_id": id(app), "created_at": NO_TIME, "fn_id": id(function), "name": name, "source": source, "type": "http", "updated_at": NO_TIME});
        self.ok("POST", "/v2/triggers", Some(&body))
    }

    /// A call goes to the annotation's URL, without the token.
    fn post_to(&self, endpoint: &str, body: &str) -> Response {
        let path = endpoint.strip_prefix("http://test").unwrap_or_else(|| panic!("an endpoint at the address the tool asked: {endpoint}"));
        http::send(self.server.address, "POST", path, &[("Content-Type", "text/plain"), ("User-Agent", "Go-http-client/1.1")], body.as_bytes())
            .expect("an answer")
    }
}

fn id(object: &Value) -> &str {
    object["id"].as_str().expect("an id")
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {object}"))
}

fn invoke_endpoint(function: &Value) -> &str {
    text(function, "/annotations/fnproject.io~1fn~1invokeEndpoint")
}

fn http_endpoint(trigger: &Value) -> &str {
    text(trigger, "/annotations/fnproject.io~1trigger~1httpEndpoint")
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().expect("items").clone()
}

#[test]
fn version_and_apps() {
    let Some(server) = Server::start(&[]) else { return };
    let tool = Tool { server: &server, token: None };
    // fn version
    assert_eq!(text(&tool.ok("GET", "/version", None), "/version"), env!("CARGO_PKG_VERSION"));
    // fn list apps: none yet
    assert_eq!(tool.list("/v2/apps", 100), (Vec::new(), 1));
    // fn inspect app: "app a not found"
    assert_eq!(tool.app("a"), None);
    // fn create app a --config K=v --annotation x=1 --syslog-url udp://h:1 --shape GENERIC_X86
    let body = json!({"annotations": {"x": 1}, "config": {"K": "v"}, "created_at": NO_TIME, "name": "a", "shape": "GENERIC_X86", "syslog_url": "udp://h:1", "updated_at": NO_TIME});
    let made = tool.ok("POST", "/v2/apps", Some(&body));
    assert_eq!((text(&made, "/name"), text(&made, "/config/K"), text(&made, "/shape")), ("a", "v", "GENERIC_X86"));
    // The same again: an error it can decode.
    let refused = tool.request("POST", "/v2/apps", Some(&body));
    assert_eq!((refused.status, refused.message().as_str()), (409, "App already exists"));
    // fn inspect app a; fn list config app a; fn get config app a K
    let seen = tool.app("a").expect("found");
    assert_eq!(seen, made);
    // fn config app a N 1: the whole object, the changed key alone
    let put = tool.put("apps", seen, json!({"config": {"N": "1"}}));
    assert_eq!(put["config"], json!({"K": "v", "N": "1"}));
    // fn unset config app a K
    let put = tool.put("apps", tool.app("a").expect("found"), json!({"config": {"K": ""}}));
    assert_eq!(put["config"], json!({"N": "1"}));
    // fn update app a --annotation y='"z"' --syslog-url ''
    let put = tool.put("apps", tool.app("a").expect("found"), json!({"annotations": {"y": "z"}, "syslog_url": ""}));
    assert_eq!((put["annotations"].clone(), put.get("syslog_url")), (json!({"x": 1, "y": "z"}), None));
    // fn update app on one that went meanwhile: 404, decoded
    let gone = tool.request("PUT", "/v2/apps/01HF7YAT3V180G40RZJ0000001", Some(&json!({"config": {}})));
    assert_eq!((gone.status, gone.message().as_str()), (404, "App not found"));
    // fn delete app a -f
    tool.delete(&format!("/v2/apps/{}", id(&put)));
    assert_eq!(tool.app("a"), None);
    let gone = tool.request("DELETE", &format!("/v2/apps/{}", id(&put)), None);
    assert_eq!((gone.status, gone.message().as_str()), (404, "App not found"));
    server.stop();
}

#[test]
fn lists_in_pages() {
    let Some(server) = Server::start(&[]) else { return };
    let tool = Tool { server: &server, token: None };
    let a = tool.create_app("a000", Value::Null);
    for n in 1..139 {
        tool.create_app(&format!("a{n:03}"), Value::Null);
    }
    // fn list apps: it stops at 90 of 139, as it does with the original
    let (found, requests) = tool.list("/v2/apps", 100);
    assert_eq!((found.len(), requests), (90, 3));
    // fn list apps -n 500
    let (found, requests) = tool.list("/v2/apps", 500);
    assert_eq!((found.len(), requests), (139, 5));
    let names: Vec<&str> = found.iter().map(|a| text(a, "/name")).collect();
    assert!(names.is_sorted() && names[0] == "a000" && names[138] == "a138", "{names:?}");
    for n in 0..31 {
        tool.create_function(&a, &format!("f{n:02}"), "x");
    }
    // fn list functions a000
    let (found, requests) = tool.list(&format!("/v2/fns?app_id={}", id(&a)), 100);
    assert_eq!((found.len(), requests), (31, 2));
    assert!(found.iter().all(|f| invoke_endpoint(f).ends_with(id(f))), "each with its endpoint");
    server.stop();
}

#[test]
fn functions_and_triggers() {
    let Some(server) = Server::start(&[]) else { return };
    let tool = Tool { server: &server, token: None };
    tool.create_app("a", Value::Null);
    // fn create function a f image:1
    let app = tool.app("a").expect("found");
    let made = tool.create_function(&app, "f", "image:1");
    assert_eq!((made["config"].clone(), made["memory"].as_u64()), (json!({}), Some(64)));
    // fn inspect function a f --endpoint
    let seen = tool.function(&app, "f").expect("found");
    assert_eq!(seen, made, "a create and a list show the same");
    assert_eq!(invoke_endpoint(&seen), format!("http://test/invoke/{}", id(&seen)));
    // fn update function a f --memory 128: with the endpoint annotation inside
    let put = tool.put("fns", seen, json!({"memory": 128}));
    assert_eq!((put["memory"].as_u64(), put["timeout"].as_u64(), text(&put, "/image")), (Some(128), Some(30), "image:1"));
    // fn config function a f K v; fn unset config function a f K
    let put = tool.put("fns", tool.function(&app, "f").expect("found"), json!({"config": {"K": "v"}}));
    assert_eq!(put["config"], json!({"K": "v"}));
    let put = tool.put("fns", tool.function(&app, "f").expect("found"), json!({"config": {"K": ""}}));
    assert_eq!(put["config"], json!({}));
    // fn create trigger a f t --type http --source /s: prints the endpoint of the reply
    let function = tool.function(&app, "f").expect("found");
    let trigger = tool.create_trigger(&app, &function, "t", "/s");
    assert_eq!(http_endpoint(&trigger), "http://test/t/a/s");
    // fn list triggers a: and the function of each
    let all = items(&tool.ok("GET", &format!("/v2/triggers?app_id={}", id(&app)), None));
    assert_eq!((all.len(), http_endpoint(&all[0])), (1, "http://test/t/a/s"));
    assert_eq!(text(&tool.ok("GET", &format!("/v2/fns/{}", text(&all[0], "/fn_id")), None), "/name"), "f");
    // fn list triggers a f
    assert_eq!(items(&tool.ok("GET", &format!("/v2/triggers?app_id={}&fn_id={}", id(&app), id(&function)), None)), all);
    // fn inspect trigger a f t
    let mut seen = tool.trigger(&app, &function, "t").expect("found");
    assert_eq!(seen, trigger);
    // fn update trigger a f t --annotation k=1: the endpoint is not sent back
    seen["annotations"] = json!({"k": 1});
    let put = tool.put("triggers", seen, json!({}));
    assert_eq!((put["annotations"]["k"].as_u64(), text(&put, "/source")), (Some(1), "/s"));
    // fn delete trigger a f t
    tool.delete(&format!("/v2/triggers/{}", id(&put)));
    assert_eq!(tool.trigger(&app, &function, "t"), None);
    // fn delete function a f
    tool.delete(&format!("/v2/fns/{}", id(&function)));
    assert_eq!(tool.function(&app, "f"), None);
    let gone = tool.request("GET", &format!("/v2/fns/{}", id(&function)), None);
    assert_eq!((gone.status, gone.message().as_str()), (404, "Fn not found"));
    server.stop();
}

#[test]
fn recursive_delete() {
    let Some(server) = Server::start(&[]) else { return };
    let tool = Tool { server: &server, token: None };
    let app = tool.create_app("a", Value::Null);
    for name in ["f", "g"] {
        let function = tool.create_function(&app, name, "x");
        tool.create_trigger(&app, &function, "t1", &format!("/{name}/1"));
        tool.create_trigger(&app, &function, "t2", &format!("/{name}/2"));
    }
    // fn delete app a -r -f
    let app = tool.app("a").expect("found");
    let (functions, _) = tool.list(&format!("/v2/fns?app_id={}", id(&app)), 100);
    let mut triggers = Vec::new();
    for function in &functions {
        triggers.extend(tool.list(&format!("/v2/triggers?app_id={}&fn_id={}", id(&app), id(function)), 100).0);
    }
    assert_eq!((functions.len(), triggers.len()), (2, 4));
    triggers.iter().for_each(|t| tool.delete(&format!("/v2/triggers/{}", id(t))));
    functions.iter().for_each(|f| tool.delete(&format!("/v2/fns/{}", id(f))));
    tool.delete(&format!("/v2/apps/{}", id(&app)));
    assert_eq!(tool.list("/v2/apps", 100).0, Vec::<Value>::new());
    server.stop();
}

/// fn deploy --app a --local --create-app, twice, with a trigger.
#[test]
fn deploy() {
    let Some(server) = Server::start(&[]) else { return };
    let tool = Tool { server: &server, token: None };
    let deploy = |version: &str, memory: u64| {
        let app = tool.app("a").unwrap_or_else(|| tool.create_app("a", Value::Null));
        let image = format!("reg.example/f:{version}");
        let function = match tool.function(&app, "f") {
            None => tool.create_function(&app, "f", &image),
            // Neither name nor app.
            Some(old) => {
                let body = json!({"annotations": null, "config": {}, "created_at": NO_TIME, "id": id(&old), "idle_timeout": 30, "image": image, "memory": memory, "timeout": 30, "updated_at": NO_TIME});
                tool.ok("PUT", &format!("/v2/fns/{}", id(&old)), Some(&body))
            }
        };
        match tool.trigger(&app, &function, "t") {
            None => tool.create_trigger(&app, &function, "t", "/t"),
            Some(old) => {
                let body = json!({"app_id": id(&app), "created_at": NO_TIME, "fn_id": id(&function), "id": id(&old), "name": "t", "source": "/t", "type": "http", "updated_at": NO_TIME});
                tool.ok("PUT", &format!("/v2/triggers/{}", id(&old)), Some(&body))
            }
        };
        function
    };
    let first = deploy("0.0.1", 64);
    let second = deploy("0.0.2", 256);
    assert_eq!(id(&first), id(&second));
    assert_eq!((text(&second, "/image"), second["memory"].as_u64(), text(&second, "/name")), ("reg.example/f:0.0.2", Some(256), "f"));
    server.stop();
}

/// fn invoke a f: two look-ups, then the annotation's URL; and what it prints.
#[test]
fn invoke() {
    let Some(server) = Server::start(&[("HOB_API_TOKEN", "s3cret")]) else { return };
    let tool = Tool { server: &server, token: Some("s3cret") };
    let app = tool.create_app("a", Value::Null);
    let image = server.image("echo");
    tool.create_function(&app, "f", &image);
    let function = tool.function(&tool.app("a").expect("found"), "f").expect("found");
    let answer = tool.post_to(invoke_endpoint(&function), "from the tool");
    assert_eq!((answer.status, answer.text().as_str()), (200, "from the tool"));
    // --display-call-id
    assert!(answer.field("Fn-Call-Id").is_some_and(|id| id.len() == 26), "{answer:?}");
    // Without the token it manages nothing.
    let stranger = Tool { server: &server, token: None };
    let refused = stranger.request("GET", "/v2/apps", None);
    assert_eq!((refused.status, refused.json()["message"].is_string()), (401, true));
    // A function made anew under the same name: the endpoint kept by the tool fails cleanly.
    tool.delete(&format!("/v2/fns/{}", id(&function)));
    tool.create_function(&app, "f", &image);
    let stale = tool.post_to(invoke_endpoint(&function), "");
    assert_eq!((stale.status, stale.message().as_str()), (404, "Fn not found"));
    // status >= 400 and JSON with a message: "Error invoking function. status: 502 message: …"
    let broken = tool.create_function(&app, "broken", &server.image("hostile"));
    tool.put("fns", broken.clone(), json!({"config": {"HOSTILE": "exits"}}));
    let failed = tool.post_to(invoke_endpoint(&broken), "");
    assert!(failed.status >= 400 && !failed.message().is_empty(), "{failed:?}");
    server.stop();
}

/// The tool decodes into fixed types: a field of another type would end it.
#[test]
fn objects_have_the_types_the_tool_decodes() {
    let Some(server) = Server::start(&[]) else { return };
    let tool = Tool { server: &server, token: None };
    let app = tool.create_app("a", json!({"K": "v"}));
    let function = tool.create_function(&app, "f", "x");
    let trigger = tool.create_trigger(&app, &function, "t", "/t");
    let texts = |object: &Value, names: &[&str]| names.iter().for_each(|n| assert!(object[*n].is_string(), "{n} of {object}"));
    texts(&app, &["id", "name", "created_at", "updated_at"]);
    texts(&function, &["id", "name", "app_id", "image", "created_at", "updated_at"]);
    texts(&trigger, &["id", "name", "app_id", "fn_id", "type", "source", "created_at", "updated_at"]);
    for number in ["memory", "timeout", "idle_timeout"] {
        assert!(function[number].as_i64().is_some_and(|n| n > 0), "{number} of {function}");
    }
    for map in [&app["config"], &function["config"], &function["annotations"], &trigger["annotations"]] {
        assert!(map.as_object().is_some_and(|m: &Map<String, Value>| m.values().all(Value::is_string)), "{map}");
    }
    server.stop();
}
