//! `hob image`: what functions are made of, wherever it lies: with the
//! container engine, or in hob's own store in the data folder.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{Image, ImageArgs};
use super::error::CliError;
use super::{Output, progress, table};
use crate::config::{Config, Raw};
use crate::docker::{self, open_images};
use crate::pool::Stop;
use crate::sandbox::images::{self as own, Change, Options, Progress, Pull};

/// A pull without a limit of its own.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Reading and unpacking a saved image.
const LOAD: Duration = Duration::from_secs(3600);
/// Between two pictures of the progress.
const PICTURE: Duration = Duration::from_millis(100);
const BAR: u64 = 30;

/// Where images lie.
#[derive(Debug)]
pub(super) enum Place {
    Engine(Box<docker::Images>),
    Store { images: Box<own::Images>, stop: Stop, pull_limit: Duration },
}

/// One row of the list.
struct Row {
    name: String,
    id: String,
    size: u64,
}

/// The place that `--driver`, or else `HOB_DRIVER`, means; `auto` is the
/// engine if one answers, as for the server.
pub(super) fn place(driver: Option<&str>) -> Result<Place, CliError> {
    let config = Raw::from_env().parse()?;
    let failed = |e| CliError::EngineOpen(Box::new(e));
    match driver.unwrap_or(&config.driver) {
        "docker" => open_images(&config.docker).map(|i| Place::Engine(Box::new(i))).map_err(failed),
        "sandbox" => store(&config),
        _ => match open_images(&config.docker) {
            Ok(images) => Ok(Place::Engine(Box::new(images))),
            Err(_) => store(&config),
        },
    }
}

/// Builds a Dockerfile's context, telling what the engine says.
pub(super) fn build(engine: &docker::Images, image: &str, context: &mut dyn Read) -> Result<(), CliError> {
    engine.build(context, image, &mut |line| {
        let line = line.trim_end();
        if !line.is_empty() {
            progress(&format!("  {line}"));
        }
    })?;
    Ok(())
}

fn store(config: &Config) -> Result<Place, CliError> {
    let options = Options::of(&config.sandbox, &config.docker)?;
    let images = Box::new(own::Images::open(&config.data.join("images"), options)?);
    let stop = Stop::new().map_err(|source| CliError::Output { source })?;
    Ok(Place::Store { images, stop, pull_limit: config.pull_timeout.unwrap_or(NEVER) })
}

impl Place {
    /// What the name stands for now: `sha256:…`.
    pub(super) fn id(&self, image: &str) -> Result<Option<String>, CliError> {
        match self {
            Place::Engine(engine) => Ok(engine.id(image)?),
            Place::Store { images, .. } => Ok(images.find(image)?.map(|r| r.config)),
        }
    }

    /// Loads a saved image; returns the names it has.
    pub(super) fn load(&self, archive: &mut dyn Read, name: Option<&str>) -> Result<Vec<String>, CliError> {
        match self {
            Place::Engine(_) if name.is_some() => Err(CliError::OwnStoreOnly { what: "--name" }),
            Place::Engine(engine) => {
                let words = engine.load(archive)?;
                let named = |w: &String| w.trim().strip_prefix("Loaded image: ").or_else(|| w.trim().strip_prefix("Loaded image ID: ")).map(str::to_owned);
                Ok(words.iter().filter_map(named).collect())
            }
            Place::Store { images, stop, .. } => {
                let loaded = images.load(archive, name, Instant::now() + LOAD, stop)?;
                Ok(loaded.into_iter().map(|l| l.name).collect())
            }
        }
    }

    /// Makes `image` on `base`: of a build's context by the engine, of a layer
    /// in hob's own store, which pulls the base if it is not there.
    pub(super) fn stack(&self, image: &str, base: &str, archive: &mut dyn Read, change: &Change) -> Result<(), CliError> {
        match self {
            Place::Engine(engine) => build(engine, image, archive),
            Place::Store { images, stop, pull_limit } => {
                images.ensure(base, Pull::Missing, Instant::now() + *pull_limit, stop)?;
                images.stack(base, archive, image, change, Instant::now() + LOAD, stop)?;
                Ok(())
            }
        }
    }

    fn list(&self) -> Result<Vec<Row>, CliError> {
        let mut rows = Vec::new();
        match self {
            Place::Engine(engine) => {
                for row in engine.list()? {
                    let size = u64::try_from(row.size).unwrap_or(0);
                    for name in row.repo_tags.unwrap_or_default().into_iter().filter(|t| t != "<none>:<none>") {
                        rows.push(Row { name, id: row.id.clone(), size });
                    }
                }
            }
            Place::Store { images, .. } => rows.extend(images.list()?.into_iter().map(|r| Row { name: r.name, id: r.config, size: r.size })),
        }
        rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(rows)
    }

    fn remove(&self, image: &str) -> Result<bool, CliError> {
        match self {
            Place::Engine(engine) => Ok(engine.remove(image)?),
            Place::Store { images, .. } => Ok(images.remove(image)?),
        }
    }

    /// After `old` lost its name to another: it goes, unless it has another
    /// name. One still in use stays for the next pruning.
    pub(super) fn drop_nameless(&self, old: &str) -> Result<(), CliError> {
        match self {
            Place::Engine(engine) => {
                let nameless = |tags: Option<Vec<String>>| tags.unwrap_or_default().iter().all(|t| t == "<none>:<none>");
                if engine.list()?.into_iter().any(|row| row.id == old && nameless(row.repo_tags))
                    && let Err(e) = engine.remove(old)
                {
                    progress(&format!("the image before this one stays: {e}"));
                }
                Ok(())
            }
            Place::Store { images, .. } => images.prune().map(drop).map_err(CliError::from),
        }
    }
}

pub(super) fn images(args: &ImageArgs, json: bool) -> Result<Output, CliError> {
    let place = place(args.place.driver.as_deref())?;
    match &args.command {
        Image::Load { file, name } => load(&place, file, name.as_deref(), json),
        Image::Pull { image } => pull(&place, image, json),
        Image::List => list(&place, json),
        Image::Remove { image } => {
            if !place.remove(image)? {
                return Err(CliError::NotFound { kind: "image", name: image.clone(), hint: "`hob image list` shows them".to_owned() });
            }
            Ok(Output::Text(if json { format!("{}\n", json!({ "deleted": image })) } else { format!("deleted image {image}\n") }))
        }
        Image::Prune => prune(&place, json),
    }
}

fn load(place: &Place, file: &Path, name: Option<&str>, json: bool) -> Result<Output, CliError> {
    let names = if file == Path::new("-") {
        place.load(&mut io::stdin(), name)?
    } else {
        let failed = |source| CliError::Read { path: file.to_path_buf(), source };
        let mut opened = File::open(file).map_err(failed)?;
        let mib = opened.metadata().map_err(failed)?.len() >> 20;
        progress(&format!("loading {} ({mib} MiB)", file.display()));
        place.load(&mut opened, name)?
    };
    Ok(Output::Text(if json { format!("{}\n", json!({ "loaded": names })) } else { names.iter().map(|n| format!("loaded image {n}\n")).collect() }))
}

fn pull(place: &Place, image: &str, json: bool) -> Result<Output, CliError> {
    let id = match place {
        Place::Engine(engine) => {
            progress(&format!("the engine pulls {image}"));
            engine.refresh(image, Instant::now() + NEVER).map_err(|e| CliError::PullFailed { text: e.to_string() })?;
            engine.id(image)?.unwrap_or_default()
        }
        Place::Store { images, stop, pull_limit } => {
            let bar = Bar::new();
            let pulled = images.fetch(image, Pull::Always, Instant::now() + *pull_limit, stop, &|p| bar.show(p));
            bar.end();
            pulled?.id
        }
    };
    Ok(Output::Text(if json { format!("{}\n", json!({ "pulled": image, "id": id })) } else { format!("pulled image {image}\n") }))
}

fn list(place: &Place, json: bool) -> Result<Output, CliError> {
    let rows = place.list()?;
    if json {
        let items: Vec<_> = rows.iter().map(|r| json!({ "name": r.name, "id": r.id, "size": r.size })).collect();
        return Ok(Output::Text(format!("{:#}\n", serde_json::Value::from(items))));
    }
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let rows: Vec<Vec<String>> = rows.iter().map(|r| vec![r.name.clone(), short(&r.id), format!("{:.1} MB", r.size as f64 / 1e6)]).collect();
    Ok(Output::Text(table::table(&["NAME", "ID", "SIZE"], &rows)))
}

fn prune(place: &Place, json: bool) -> Result<Output, CliError> {
    let Place::Store { images, .. } = place else { return Err(CliError::OwnStoreOnly { what: "prune" }) };
    let swept = images.prune()?;
    if swept.busy {
        return Err(CliError::StoreBusy);
    }
    Ok(Output::Text(if json {
        format!("{}\n", json!({ "blobs": swept.blobs, "roots": swept.roots, "bytes": swept.bytes, "in_use": swept.in_use }))
    } else {
        let stay = if swept.in_use > 0 { format!("; {} without a name are in use and stay", swept.in_use) } else { String::new() };
        format!("removed {} unpacked images and {} blobs ({:.1} MB){stay}\n", swept.roots, swept.blobs, swept.bytes as f64 / 1e6)
    }))
}

/// A bar on a terminal, else a line per layer.
struct Bar {
    terminal: bool,
    begun: Instant,
    last: parking_lot::Mutex<(Option<Instant>, usize)>,
}

impl Bar {
    fn new() -> Bar {
        Bar { terminal: io::stderr().is_terminal(), begun: Instant::now(), last: parking_lot::Mutex::default() }
    }

    fn show(&self, at: Progress) {
        let mut last = self.last.lock();
        let new_layer = last.1 != at.layer;
        if self.terminal {
            let whole = at.done >= at.total;
            if !new_layer && !whole && last.0.is_some_and(|then| then.elapsed() < PICTURE) {
                return;
            }
            *last = (Some(Instant::now()), at.layer);
            let _ = write!(io::stderr(), "\r\x1b[K{}", picture(at, self.begun.elapsed()));
        } else if new_layer {
            last.1 = at.layer;
            progress(&format!("layer {} of {}", at.layer, at.layers));
        }
    }

    fn end(&self) {
        if self.terminal && self.last.lock().0.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

fn picture(at: Progress, since: Duration) -> String {
    let full = (at.done.min(at.total) * BAR).checked_div(at.total).unwrap_or(BAR);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let speed = mb(at.done) / since.as_secs_f64().max(0.001);
    let bar: String = (0..BAR).map(|n| if n < full { '#' } else { '.' }).collect();
    format!("[{bar}] {:.1} of {:.1} MB, layer {} of {}, {speed:.1} MB/s", mb(at.done), mb(at.total), at.layer, at.layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar() {
        let at = |done, total| picture(Progress { layer: 1, layers: 2, done, total }, Duration::from_secs(1));
        assert_eq!(at(5_000_000, 10_000_000), format!("[{}{}] 5.0 of 10.0 MB, layer 1 of 2, 5.0 MB/s", "#".repeat(15), ".".repeat(15)));
        assert!(at(0, 0).starts_with("[####"));
    }
}
