//! `hob image`: the engine's images, without the engine's own tool.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::json;

use super::args::Image;
use super::error::CliError;
use super::{Output, progress, table};
use crate::config::Raw;
use crate::docker::{Images, open_images};

/// The engine the settings name.
pub(super) fn engine() -> Result<Images, CliError> {
    let config = Raw::from_env().parse()?;
    open_images(&config.docker).map_err(|e| CliError::EngineOpen(Box::new(e)))
}

pub(super) fn images(command: &Image, json: bool) -> Result<Output, CliError> {
    match command {
        Image::Load { file } => load(file, json),
        Image::List => list(json),
        Image::Remove { image } => {
            if !engine()?.remove(image)? {
                return Err(CliError::NotFound { kind: "image", name: image.clone(), hint: "`hob image list` shows them".to_owned() });
            }
            Ok(Output::Text(if json { format!("{}\n", json!({ "deleted": image })) } else { format!("deleted image {image}\n") }))
        }
    }
}

fn load(file: &Path, json: bool) -> Result<Output, CliError> {
    let engine = engine()?;
    let words = if file == Path::new("-") {
        engine.load(&mut io::stdin())?
    } else {
        let failed = |source| CliError::Read { path: file.to_path_buf(), source };
        let mut opened = File::open(file).map_err(failed)?;
        let mib = opened.metadata().map_err(failed)?.len() >> 20;
        progress(&format!("loading {} ({mib} MiB)", file.display()));
        engine.load(&mut opened)?
    };
    let names: Vec<&str> =
        words.iter().filter_map(|w| w.trim().strip_prefix("Loaded image: ").or_else(|| w.trim().strip_prefix("Loaded image ID: "))).collect();
    Ok(Output::Text(if json { format!("{}\n", json!({ "loaded": names })) } else { words.iter().map(|w| format!("{}\n", w.trim())).collect() }))
}

fn list(json: bool) -> Result<Output, CliError> {
    let mut rows: Vec<(String, String, i64)> = Vec::new();
    for row in engine()?.list()? {
        let tags = row.repo_tags.unwrap_or_default();
        for tag in tags.into_iter().filter(|t| t != "<none>:<none>") {
            rows.push((tag, row.id.clone(), row.size));
        }
    }
    rows.sort();
    if json {
        let items: Vec<_> = rows.iter().map(|(name, id, size)| json!({ "name": name, "id": id, "size": size })).collect();
        return Ok(Output::Text(format!("{:#}\n", serde_json::Value::from(items))));
    }
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let rows: Vec<Vec<String>> = rows.iter().map(|(name, id, size)| vec![name.clone(), short(id), format!("{:.1} MB", *size as f64 / 1e6)]).collect();
    Ok(Output::Text(table::table(&["NAME", "ID", "SIZE"], &rows)))
}
