//! A function's exact run configuration, derived once per change and shared
//! by every call: what the hot path needs without touching maps or hashes.

use sha2::{Digest, Sha256};

use super::{Annotations, App, Fn, FnLimits, Id, Settings};

/// SHA-256 over the exact configuration (spec agent §2.3): calls with the same
/// key may share containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey(pub [u8; 32]);

/// What one slot queue runs.
#[derive(Debug, Clone)]
pub struct FnSpec {
    pub key: SlotKey,
    pub app_id: Id,
    pub app_name: String,
    pub fn_id: Id,
    pub fn_name: String,
    pub image: String,
    /// Complete environment: app config, fn config over it, fixed keys over both.
    pub env: Vec<(String, String)>,
    /// Execution limit, seconds.
    pub timeout_s: u32,
    /// An idle container lives this long, seconds.
    pub idle_timeout_s: u32,
    pub memory_mib: u64,
    /// 0 = not limited.
    pub cpu_milli: u64,
    /// 0 = not limited.
    pub tmpfs_mib: u64,
    pub syslog_url: Option<String>,
    pub limits: FnLimits,
}

/// Where a function's container listens, as the container sees it.
const LISTENER: &str = "unix:/tmp/iofs/lsnr.sock";

impl FnSpec {
    /// Derives the run configuration of `function` inside `app`.
    pub fn derive(app: &App, function: &Fn) -> FnSpec {
        let env = environment(app, function);
        let mut annotations = app.annotations.clone();
        annotations.extend(function.annotations.iter().map(|(k, v)| (k.clone(), v.clone())));
        let syslog_url = app.syslog_url.as_deref().unwrap_or_default();
        let key = KeyParts {
            app_id: app.id.as_str(),
            syslog_url,
            fn_id: function.id.as_str(),
            image: &function.image,
            timeout_s: function.timeout,
            idle_timeout_s: function.idle_timeout,
            tmpfs_mib: 0,
            memory_mib: function.memory,
            cpu_milli: 0,
            config: &env,
            annotations: &annotations,
            extension: "",
        }
        .hash();
        FnSpec {
            key,
            app_id: app.id,
            app_name: app.name.clone(),
            fn_id: function.id,
            fn_name: function.name.clone(),
            image: function.image.clone(),
            env: env.into_iter().collect(),
            timeout_s: function.timeout,
            idle_timeout_s: function.idle_timeout,
            memory_mib: function.memory,
            cpu_milli: 0,
            tmpfs_mib: 0,
            limits: FnLimits::read(&annotations),
            syslog_url: Some(syslog_url.trim()).filter(|url| !url.is_empty()).map(str::to_owned),
        }
    }
}

/// Later wins: app config, fn config, fixed keys. The names are a convenience
/// the original's documentation promises; a user's own value of theirs stays.
fn environment(app: &App, function: &Fn) -> Settings {
    let mut env = app.config.clone();
    env.extend(function.config.iter().map(|(k, v)| (k.clone(), v.clone())));
    for (key, value) in [("FN_APP_NAME", &app.name), ("FN_FN_NAME", &function.name), ("FN_NAME", &function.name)] {
        env.entry(key.to_owned()).or_insert_with(|| value.clone());
    }
    for (key, value) in [
        ("FN_MEMORY", function.memory.to_string()),
        ("FN_TYPE", "sync".to_owned()),
        ("FN_FN_ID", function.id.to_string()),
        ("FN_APP_ID", app.id.to_string()),
        ("FN_LISTENER", LISTENER.to_owned()),
        ("FN_FORMAT", "http-stream".to_owned()),
    ] {
        env.insert(key.to_owned(), value);
    }
    env
}

/// What goes into a slot key.
struct KeyParts<'a> {
    app_id: &'a str,
    syslog_url: &'a str,
    fn_id: &'a str,
    image: &'a str,
    timeout_s: u32,
    idle_timeout_s: u32,
    tmpfs_mib: u32,
    memory_mib: u64,
    cpu_milli: u64,
    config: &'a Settings,
    annotations: &'a Annotations,
    /// A driver's own addition.
    extension: &'a str,
}

impl KeyParts<'_> {
    /// The byte stream of spec agent §2.3.
    fn hash(&self) -> SlotKey {
        let mut sha = Sha256::new();
        let text = |sha: &mut Sha256, text: &str| {
            sha.update(text.as_bytes());
            sha.update([0]);
        };
        for part in [self.app_id, self.syslog_url, self.fn_id, self.image] {
            text(&mut sha, part);
        }
        sha.update(self.timeout_s.to_le_bytes());
        sha.update(self.idle_timeout_s.to_le_bytes());
        sha.update(self.tmpfs_mib.to_le_bytes());
        sha.update(self.memory_mib.to_le_bytes());
        sha.update(self.cpu_milli.to_le_bytes());
        sha.update([0]);
        for (key, value) in self.config {
            text(&mut sha, key);
            text(&mut sha, value);
        }
        sha.update([0]);
        for (key, value) in self.annotations {
            text(&mut sha, key);
            text(&mut sha, value.get());
        }
        if !self.extension.is_empty() {
            text(&mut sha, self.extension);
        }
        SlotKey(sha.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn hex(key: SlotKey) -> String {
        key.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("json")
    }

    /// The golden vectors of spec agent §2.3.
    #[test]
    fn golden_vectors() {
        let config = Settings::from([("B".to_owned(), "2".to_owned()), ("A".to_owned(), "1".to_owned())]);
        let annotations = Annotations::from([("z".to_owned(), raw("\"v\"")), ("a".to_owned(), raw("[\"x\"]"))]);
        let (empty, none) = (Settings::new(), Annotations::new());
        let first = || KeyParts {
            app_id: "app1",
            syslog_url: "",
            fn_id: "fn1",
            image: "img:1",
            timeout_s: 30,
            idle_timeout_s: 60,
            tmpfs_mib: 0,
            memory_mib: 128,
            cpu_milli: 0,
            config: &config,
            annotations: &none,
            extension: "",
        };
        let full = || KeyParts { syslog_url: "tcp://h:1", tmpfs_mib: 5, cpu_milli: 250, annotations: &annotations, ..first() };
        assert_eq!(hex(first().hash()), "5ffd806cdea754ac0b9e6093c7bff04a99c53d03d72211b37525ce6be7cfc1f5");
        assert_eq!(hex(KeyParts { config: &empty, ..first() }.hash()), "6239b8cd2ff0bf4e9cfadb475c577c68d74621db93428973de5e81965c3ddbcc");
        assert_eq!(hex(full().hash()), "e89d8b669bc4ff81cb09a8e40862727dbc8ce1136297ecece46323b34c3a7afb");
        assert_eq!(hex(KeyParts { extension: "ext", ..full() }.hash()), "8663dd5c10cae527586b4f3e7a9ca43524a6b92185f66aa7b30600d468bb6cb8");
    }
}
