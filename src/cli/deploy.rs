//! `hob deploy`: a folder with func.yaml becomes an image, the image a
//! function.
//!
//! No registry takes part: a Dockerfile is built by the engine; else hob makes
//! a single-layer image of the folder's files (or of the program `cargo build`
//! gave) and loads it, into the engine or into its own store. The image's id is kept as an annotation, so that the
//! same name with other contents still means new containers.

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::args::Deploy;
use super::error::CliError;
use super::funcfile::{self, FuncFile};
use super::http::{Server, encode, id};
use super::image::{self, Content, Entry, ImageSpec};
use super::images::Place;
use super::resources::{fn_endpoint, trigger_endpoint};
use super::{Output, images, progress};
use crate::docker::Images;
use crate::sandbox::images::Change;

/// The annotation that tells one image from another of the same name.
const IMAGE_ID: &str = "hob/image-id";
/// Where a function's files lie in its image.
const HOME: &str = "function";
const TMP: &str = "tmp";
/// Never part of a function.
const LEFT_OUT: &[&str] = &[".git", "target"];

/// How a folder becomes an image.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Dockerfile,
    Cargo,
    Files,
    /// The image is made elsewhere.
    Ready,
}

pub(super) fn deploy(server: &Server, what: &Deploy, as_json: bool) -> Result<Output, CliError> {
    let folder = fs::canonicalize(&what.folder).ok().filter(|f| f.is_dir()).ok_or_else(|| CliError::NoFolder { folder: what.folder.clone() })?;
    let file = funcfile::read(&folder)?;
    for key in &file.unknown {
        progress(&format!("func.yaml: '{key}' is not known and has no effect"));
    }
    let name = match &file.name {
        Some(name) => name.clone(),
        None => folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    let way = choose(&folder, &file)?;
    let image = image_name(&what.app, &name, &file)?;
    // Before anything slow: does the server answer?
    let app = server.find_app(&what.app)?;

    let place = images::place(what.place.driver.as_deref())?;
    let before = place.id(&image)?;
    match way {
        Way::Dockerfile => match &place {
            Place::Engine(engine) => build(engine, &folder, &image)?,
            // The same function, said in func.yaml.
            Place::Store { .. } if file.run_image.is_some() && runs_something(&file) => load(&place, &image, &file, folder_entries(&folder)?)?,
            Place::Store { .. } => return Err(CliError::NoDockerfile { folder }),
        },
        Way::Cargo => load(&place, &image, &file, cargo_entries(&folder, &name)?)?,
        Way::Files => load(&place, &image, &file, folder_entries(&folder)?)?,
        Way::Ready => {}
    }
    let image_id = place.id(&image)?;
    if image_id.is_none() {
        progress(&format!("image {image} is not there yet: the server will pull it at the first call"));
    }

    if let Some(old) = before.filter(|old| image_id.as_ref() != Some(old)) {
        place.drop_nameless(&old)?;
    }

    let app = match app {
        Some(app) => app,
        None => server.post("/v2/apps", &json!({ "name": what.app }))?,
    };
    let function = write_function(server, &app, &name, &image, image_id.as_deref(), &file)?;
    let triggers = write_triggers(server, &app, &function, &file)?;
    Ok(Output::Text(report(server, &what.app, &function, &triggers, as_json)))
}

fn choose(folder: &Path, file: &FuncFile) -> Result<Way, CliError> {
    let runtime = file.runtime.as_deref().unwrap_or_default();
    if folder.join("Dockerfile").is_file() {
        Ok(Way::Dockerfile)
    } else if runtime == "rust" && folder.join("Cargo.toml").is_file() {
        Ok(Way::Cargo)
    } else if runs_something(file) {
        Ok(Way::Files)
    } else if file.image.is_some() {
        Ok(Way::Ready)
    } else {
        Err(CliError::NoBuilder { folder: folder.to_path_buf(), runtime: runtime.to_owned() })
    }
}

fn runs_something(file: &FuncFile) -> bool {
    !file.entrypoint.is_empty() || !file.cmd.is_empty()
}

/// `app/name:version`, or what func.yaml says, with the version where it has no tag.
fn image_name(app: &str, name: &str, file: &FuncFile) -> Result<String, CliError> {
    let version = file.version.as_deref().unwrap_or("0.0.1");
    let image = match &file.image {
        Some(image) if image.contains('@') || image.rsplit('/').next().is_some_and(|last| last.contains(':')) => image.clone(),
        Some(image) => format!("{image}:{version}"),
        None => format!("{}/{}:{version}", app.to_lowercase(), name.to_lowercase()),
    };
    let (path, tag) = image.rsplit_once(':').unwrap_or((&image, ""));
    let part_ok = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
            && !["..", ".-", "-.", "_.", "._", "-_", "_-", "___"].iter().any(|bad| part.contains(bad))
    };
    let tag_ok = tag.len() <= 128
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    // A given image may name a registry with a port, or a digest: the engine judges it.
    if file.image.is_none() && !(path.split('/').all(part_ok) && tag_ok) {
        return Err(CliError::ImageName { name: image });
    }
    Ok(image)
}

/// The folder as the context of a build.
fn build(engine: &Images, folder: &Path, image: &str) -> Result<(), CliError> {
    let entries = image::collect(folder, &[".git"])?;
    let mut context = BufWriter::new(image::scratch()?);
    image::write_tar(&entries, &mut context)?;
    let mut context = context.into_inner().map_err(|e| CliError::Output { source: e.into_error() })?;
    context.rewind().map_err(|source| CliError::Output { source })?;
    progress(&format!("building {image} from {}", folder.join("Dockerfile").display()));
    images::build(engine, image, &mut context)
}

/// An image of these files: on `run_image`, or alone, in a single layer.
fn load(place: &Place, image: &str, file: &FuncFile, files: Files) -> Result<(), CliError> {
    let mut entrypoint = if file.entrypoint.is_empty() { files.entrypoint } else { file.entrypoint.clone() };
    let mut cmd = file.cmd.clone();
    if let Some(program) = if entrypoint.is_empty() { cmd.first_mut() } else { entrypoint.first_mut() } {
        *program = in_home(program, &files.entries);
    }
    if let Some(base) = &file.run_image {
        return stack(place, image, base, Change { entrypoint, cmd, working_dir: format!("/{HOME}") }, files.entries);
    }
    let spec =
        ImageSpec { name: image.to_owned(), entrypoint, cmd, env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()], working_dir: format!("/{HOME}") };
    let mut layer = image::scratch()?;
    let archive = BufWriter::new(image::scratch()?);
    let (new_id, archive) = image::write_image(&spec, &files.entries, &mut layer, archive)?;
    if place.id(image)?.as_deref() == Some(&new_id) {
        progress(&format!("image {image} is up to date"));
        return Ok(());
    }
    let mut archive = archive.into_inner().map_err(|e| CliError::Output { source: e.into_error() })?;
    archive.rewind().map_err(|source| CliError::Output { source })?;
    progress(&format!("loading image {image}"));
    place.load(&mut archive, None)?;
    Ok(())
}

/// These files on another image, by the engine or in hob's own store.
fn stack(place: &Place, image: &str, base: &str, change: Change, mut entries: Vec<Entry>) -> Result<(), CliError> {
    // The image below has its own.
    entries.retain(|e| e.path != TMP);
    progress(&format!("making {image} of the files here on {base}"));
    let mut scratch = BufWriter::new(image::scratch()?);
    if let Place::Engine(_) = place {
        let words = |words: &[String]| Value::from(words.to_vec());
        let mut text = format!("FROM {base}\nCOPY files/ /\nWORKDIR {}\nENTRYPOINT {}\n", change.working_dir, words(&change.entrypoint));
        if !change.cmd.is_empty() {
            text.push_str(&format!("CMD {}\n", words(&change.cmd)));
        }
        for entry in &mut entries {
            entry.path = format!("files/{}", entry.path);
        }
        entries.push(Entry { path: "Dockerfile".to_owned(), mode: 0o644, content: Content::Bytes(text.into_bytes()) });
    }
    image::write_tar(&entries, &mut scratch)?;
    let mut archive = scratch.into_inner().map_err(|e| CliError::Output { source: e.into_error() })?;
    archive.rewind().map_err(|source| CliError::Output { source })?;
    place.stack(image, base, &mut archive, &change)
}

/// A relative program that is one of the files, by its place in the image.
fn in_home(program: &str, entries: &[Entry]) -> String {
    let inside = format!("{HOME}/{}", program.trim_start_matches("./"));
    if !program.starts_with('/') && entries.iter().any(|e| e.path == inside) { format!("/{inside}") } else { program.to_owned() }
}

/// What goes into an image, and what it runs unless func.yaml says else.
struct Files {
    entries: Vec<Entry>,
    entrypoint: Vec<String>,
}

fn folders() -> Vec<Entry> {
    let folder = |path: &str, mode| Entry { path: path.to_owned(), mode, content: Content::Folder };
    vec![folder(HOME, 0o755), folder(TMP, 0o1777)]
}

fn folder_entries(folder: &Path) -> Result<Files, CliError> {
    let mut entries = folders();
    for mut entry in image::collect(folder, LEFT_OUT)? {
        entry.path = format!("{HOME}/{}", entry.path);
        entries.push(entry);
    }
    Ok(Files { entries, entrypoint: Vec::new() })
}

/// Builds the crate in `folder`; its program alone makes the image.
fn cargo_entries(folder: &Path, name: &str) -> Result<Files, CliError> {
    progress(&format!("cargo build --release in {}", folder.display()));
    let program = cargo_build(folder, name)?;
    let bytes = fs::read(&program).map_err(|source| CliError::Read { path: program.clone(), source })?;
    if image::needs_loader(&bytes) {
        return Err(CliError::NotStatic { program });
    }
    let file_name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let path = format!("{HOME}/{file_name}");
    let entrypoint = vec![format!("/{path}")];
    let mut entries = folders();
    entries.push(Entry { path, mode: 0o755, content: Content::Bytes(bytes) });
    Ok(Files { entries, entrypoint })
}

/// The one program cargo says it made, or the one named like the function.
fn cargo_build(folder: &Path, name: &str) -> Result<PathBuf, CliError> {
    #[allow(clippy::disallowed_methods, reason = "the client runs the user's build")]
    let mut child = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--message-format=json-render-diagnostics"])
        // In the folder, for cargo looks for its configuration from there.
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| CliError::CargoMissing { source })?;
    let mut programs = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
            if let Some(path) = said["executable"].as_str() {
                programs.push(PathBuf::from(path));
            }
        }
    }
    let status = child.wait().map_err(|source| CliError::CargoMissing { source })?;
    if !status.success() {
        return Err(CliError::CargoFailed { folder: folder.to_path_buf(), status: status.to_string() });
    }
    let count = programs.len();
    let named = programs.iter().position(|p| p.file_name().is_some_and(|n| n == name));
    match named.or((count == 1).then_some(0)) {
        Some(at) => Ok(programs.swap_remove(at)),
        None => Err(CliError::Programs { folder: folder.to_path_buf(), count }),
    }
}

fn write_function(server: &Server, app: &Value, name: &str, image: &str, image_id: Option<&str>, file: &FuncFile) -> Result<Value, CliError> {
    let mut body = Map::new();
    body.insert("image".to_owned(), json!(image));
    for (key, value) in [("memory", file.memory), ("timeout", file.timeout), ("idle_timeout", file.idle_timeout)] {
        if let Some(value) = value {
            body.insert(key.to_owned(), json!(value));
        }
    }
    if !file.config.is_empty() {
        body.insert("config".to_owned(), json!(file.config));
    }
    let mut annotations = file.annotations.clone();
    if let Some(image_id) = image_id {
        annotations.insert(IMAGE_ID.to_owned(), json!(image_id));
    }
    if !annotations.is_empty() {
        body.insert("annotations".to_owned(), Value::Object(annotations));
    }
    match server.find_fn(app, name)? {
        Some(function) => {
            let path = format!("/v2/fns/{}", encode(id(&function)));
            server.put(&path, &Value::Object(body))?;
            server.get(&path)
        }
        None => {
            body.insert("app_id".to_owned(), json!(id(app)));
            body.insert("name".to_owned(), json!(name));
            server.post("/v2/fns", &Value::Object(body))
        }
    }
}

fn write_triggers(server: &Server, app: &Value, function: &Value, file: &FuncFile) -> Result<Vec<Value>, CliError> {
    let mut written = Vec::new();
    for entry in &file.triggers {
        let mut body = json!({ "name": entry.name, "source": entry.source });
        if !entry.annotations.is_empty() {
            body["annotations"] = Value::Object(entry.annotations.clone());
        }
        written.push(match server.find_trigger(app, function, &entry.name)? {
            Some(found) => {
                let path = format!("/v2/triggers/{}", encode(id(&found)));
                server.put(&path, &body)?;
                server.get(&path)?
            }
            None => {
                body["app_id"] = json!(id(app));
                body["fn_id"] = json!(id(function));
                body["type"] = json!("http");
                server.post("/v2/triggers", &body)?
            }
        });
    }
    Ok(written)
}

fn report(server: &Server, app: &str, function: &Value, triggers: &[Value], as_json: bool) -> String {
    if as_json {
        return format!("{:#}\n", json!({ "fn": function, "triggers": triggers }));
    }
    let name = function["name"].as_str().unwrap_or_default();
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    let _ = writeln!(text, "deployed {app}/{name} as {}", function["image"].as_str().unwrap_or_default());
    let _ = writeln!(text, "  invoke   {}", fn_endpoint(server, function));
    for trigger in triggers {
        let _ = writeln!(text, "  trigger  {}", trigger_endpoint(trigger));
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names() {
        let named = |app: &str, name: &str, image: Option<&str>, version: Option<&str>| {
            image_name(app, name, &FuncFile { image: image.map(str::to_owned), version: version.map(str::to_owned), ..FuncFile::default() }).ok()
        };
        assert_eq!(named("demo", "hello", None, Some("0.10")).as_deref(), Some("demo/hello:0.10"));
        assert_eq!(named("Demo", "Hello", None, None).as_deref(), Some("demo/hello:0.0.1"));
        assert_eq!(named("d", "h", Some("host:5000/x/y"), Some("2")).as_deref(), Some("host:5000/x/y:2"));
        assert_eq!(named("d", "h", Some("x:latest"), Some("2")).as_deref(), Some("x:latest"));
        assert_eq!(named("d", "h", Some("x@sha256:00"), Some("2")).as_deref(), Some("x@sha256:00"));
        for (app, name, version) in [("été", "h", "1"), ("d", "a b", "1"), ("d", "-h", "1"), ("d", "h", "a/b"), ("d", "h", ""), ("d", "", "1")] {
            assert_eq!(named(app, name, None, Some(version)), None, "{app} {name} {version}");
        }
    }

    #[test]
    fn ways() {
        let folder = std::env::temp_dir().join(format!("hob-ways-{}", crate::model::Id::new()));
        fs::create_dir_all(&folder).expect("made");
        let file = |runtime: &str| FuncFile { runtime: Some(runtime.to_owned()), ..FuncFile::default() };
        assert!(matches!(choose(&folder, &file("python")), Err(CliError::NoBuilder { .. })));
        assert!(choose(&folder, &file("rust")).is_err());
        assert_eq!(choose(&folder, &FuncFile { image: Some("x".into()), ..file("python") }).ok(), Some(Way::Ready));
        assert_eq!(choose(&folder, &FuncFile { entrypoint: vec!["./x".into()], ..file("rust") }).ok(), Some(Way::Files));
        fs::write(folder.join("Cargo.toml"), "").expect("written");
        assert_eq!(choose(&folder, &file("rust")).ok(), Some(Way::Cargo));
        fs::write(folder.join("Dockerfile"), "").expect("written");
        assert_eq!(choose(&folder, &file("rust")).ok(), Some(Way::Dockerfile));
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn programs_of_the_folder_are_found_in_the_image() {
        let entries = vec![Entry { path: "function/prog".into(), mode: 0o755, content: Content::Folder }];
        assert_eq!(in_home("./prog", &entries), "/function/prog");
        assert_eq!(in_home("prog", &entries), "/function/prog");
        assert_eq!(in_home("/bin/prog", &entries), "/bin/prog");
        assert_eq!(in_home("other", &entries), "other");
    }
}
