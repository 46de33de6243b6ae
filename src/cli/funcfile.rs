//! A function folder's `func.yaml`, in the Fn format.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::yaml::{self, Node, YamlError};

/// Names tried in this order.
const NAMES: &[&str] = &["func.yaml", "func.yml", "func.json"];
/// A larger file is none.
const MAX_BYTES: u64 = 1 << 20;

/// What the file says; `None` and empty where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct FuncFile {
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
    pub(super) image: Option<String>,
    /// The image that the function's files are put on.
    pub(super) run_image: Option<String>,
    pub(super) runtime: Option<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) memory: Option<u64>,
    pub(super) timeout: Option<u64>,
    pub(super) idle_timeout: Option<u64>,
    pub(super) config: BTreeMap<String, String>,
    pub(super) annotations: Map<String, Value>,
    pub(super) triggers: Vec<TriggerEntry>,
    /// Keys nobody knows, for a warning.
    pub(super) unknown: Vec<String>,
}

/// One entry of `triggers`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TriggerEntry {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) annotations: Map<String, Value>,
}

/// The file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FuncFileError {
    #[error("there is no func.yaml in {}: make one with at least `name:` and `runtime:` (functions/hello shows one)", folder.display())]
    Missing { folder: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {what}", path.display())]
    Yaml { path: PathBuf, what: String },
    #[error("{}: {problem}", path.display())]
    Field { path: PathBuf, problem: FieldError },
}

/// One key's value is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct FieldError {
    key: String,
    what: String,
}

/// Reads the function file of `folder`.
///
/// # Errors
/// None there, unreadable, not YAML, or a value of the wrong form.
pub(super) fn read(folder: &Path) -> Result<FuncFile, FuncFileError> {
    let path = NAMES.iter().map(|n| folder.join(n)).find(|p| p.is_file()).ok_or_else(|| FuncFileError::Missing { folder: folder.to_path_buf() })?;
    let failed = |source| FuncFileError::Read { path: path.clone(), source };
    if fs::metadata(&path).map_err(failed)?.len() > MAX_BYTES {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = fs::read_to_string(&path).map_err(failed)?;
    let node = yaml::parse(&text).map_err(|e: YamlError| FuncFileError::Yaml { path: path.clone(), what: e.to_string() })?;
    interpret(&node).map_err(|problem| FuncFileError::Field { path, problem })
}

fn wrong<T>(key: &str, what: impl Into<String>) -> Result<T, FieldError> {
    Err(FieldError { key: key.to_owned(), what: what.into() })
}

pub(super) fn interpret(node: &Node) -> Result<FuncFile, FieldError> {
    let Node::Map(pairs) = node else { return wrong("the file", "it must be a map of keys to values") };
    let mut file = FuncFile::default();
    for (key, value) in pairs {
        if value.is_null() {
            continue;
        }
        match key.as_str() {
            "name" => file.name = Some(text(key, value)?),
            "version" => file.version = Some(text(key, value)?),
            "image" => file.image = Some(text(key, value)?),
            "run_image" => file.run_image = Some(text(key, value)?),
            "runtime" => file.runtime = Some(text(key, value)?),
            "entrypoint" => file.entrypoint = words(key, value)?,
            "cmd" => file.cmd = words(key, value)?,
            "memory" => file.memory = Some(number(key, value)?),
            "timeout" => file.timeout = Some(number(key, value)?),
            "idle_timeout" => file.idle_timeout = Some(number(key, value)?),
            "config" => {
                for (k, v) in map(key, value)? {
                    file.config.insert(k.clone(), text(&format!("config.{k}"), v)?);
                }
            }
            "annotations" => file.annotations = annotations(key, value)?,
            "triggers" => {
                let Node::List(items) = value else { return wrong(key, "it must be a list") };
                file.triggers = items.iter().enumerate().map(|(i, item)| trigger(&format!("triggers[{i}]"), item)).collect::<Result<_, _>>()?;
            }
            // Of the format, and of no use here.
            "schema_version" | "build_image" | "content_type" | "type" | "build" | "expects" | "format" | "shape" | "path" => {}
            _ => file.unknown.push(key.clone()),
        }
    }
    Ok(file)
}

fn map<'n>(key: &str, node: &'n Node) -> Result<&'n [(String, Node)], FieldError> {
    match node {
        Node::Map(pairs) => Ok(pairs),
        _ => wrong(key, "it must be a map of keys to values"),
    }
}

fn text(key: &str, node: &Node) -> Result<String, FieldError> {
    match node {
        Node::Scalar { text, .. } => Ok(text.clone()),
        _ => wrong(key, "it must be one text"),
    }
}

fn number(key: &str, node: &Node) -> Result<u64, FieldError> {
    let text = text(key, node)?;
    text.parse().or_else(|_| wrong(key, format!("'{text}' is not a whole number of 0 or more")))
}

fn annotations(key: &str, node: &Node) -> Result<Map<String, Value>, FieldError> {
    Ok(map(key, node)?.iter().map(|(k, v)| (k.clone(), v.json())).collect())
}

/// A list of texts, or one text split at blanks as a shell would, with quotes.
fn words(key: &str, node: &Node) -> Result<Vec<String>, FieldError> {
    if let Node::List(items) = node {
        return items.iter().map(|item| text(key, item)).collect();
    }
    let line = text(key, node)?;
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return wrong(key, "a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

fn trigger(at: &str, node: &Node) -> Result<TriggerEntry, FieldError> {
    let mut entry = TriggerEntry::default();
    for (key, value) in map(at, node)? {
        match key.as_str() {
            "name" => entry.name = text(key, value)?,
            "source" => entry.source = text(key, value)?,
            "type" => match text(key, value)?.as_str() {
                "http" => {}
                other => return wrong(&format!("{at}.type"), format!("'{other}' is not supported, only http is")),
            },
            "annotations" => entry.annotations = annotations(key, value)?,
            _ => {}
        }
    }
    if entry.name.is_empty() {
        return wrong(at, "it has no name");
    }
    if !entry.source.starts_with('/') {
        return wrong(at, "its source must start with /");
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<FuncFile, FieldError> {
        interpret(&yaml::parse(text).expect("YAML"))
    }

    #[test]
    fn everything_the_format_has() {
        let file = from(
            "schema_version: 20180708\nname: hello\nversion: 0.0.10\nruntime: go\nbuild_image: x\nrun_image: y:1\nentrypoint: ./func --flag 'a b'\ncmd: [one, two]\n\
             memory: 256\ntimeout: 60\nidle_timeout: 120\nconfig:\n  PORT: 0755\n  DEBUG: true\n  EMPTY: \"\"\n\
             annotations:\n  a: [1, x]\ntriggers:\n- name: t\n  type: http\n  source: /t\nwhatever: 1\nimage:\n",
        )
        .expect("valid");
        assert_eq!(file.name.as_deref(), Some("hello"));
        assert_eq!(file.version.as_deref(), Some("0.0.10"));
        assert_eq!(file.entrypoint, ["./func", "--flag", "a b"]);
        assert_eq!(file.run_image.as_deref(), Some("y:1"));
        assert_eq!(file.cmd, ["one", "two"]);
        assert_eq!((file.memory, file.timeout, file.idle_timeout), (Some(256), Some(60), Some(120)));
        assert_eq!(file.config.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["DEBUG=true", "EMPTY=", "PORT=0755"]);
        assert_eq!(file.annotations["a"].to_string(), r#"[1,"x"]"#);
        assert_eq!(file.triggers.len(), 1);
        assert_eq!(file.unknown, ["whatever"]);
        assert_eq!(file.image, None);
    }

    #[test]
    fn problems_name_the_key() {
        for (text, key) in [
            ("memory: lots", "memory"),
            ("memory: -1", "memory"),
            ("name: [a]", "name"),
            ("config: x", "config"),
            ("config: {A: {B: 1}}", "config.A"),
            ("triggers: x", "triggers"),
            ("triggers: [{name: t, source: x}]", "triggers[0]"),
            ("triggers: [{source: /x}]", "triggers[0]"),
            ("triggers: [{name: t, source: /x, type: kafka}]", "triggers[0].type"),
            ("cmd: 'a \"b'", "cmd"),
            ("[]", "the file"),
        ] {
            assert_eq!(from(text).expect_err(text).key, key, "{text}");
        }
    }
}
