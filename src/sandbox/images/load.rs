//! Saved images: docker archives (`docker save`) and OCI layouts, in one pass
//! over the stream. Their files become blobs as they come, under the digests
//! they turn out to have; what they are is read at the end.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use super::digest::Digest;
use super::document::{self, Descriptor, Document, Manifest};
use super::error::{ImageError, io_at};
use super::limits::Limits;
use super::store::{Reference, Store};
use super::tar::{Kind, Reader};
use super::wait::Until;
use super::{full_name, layer};
use crate::registry::ImageName;

/// Files of one archive.
const MAX_FILES: usize = 10_000;
/// Links from one file of an archive to another, one after the other.
const MAX_LINKS: usize = 8;
/// Of the oldest form of docker archives; nothing needs them.
const USELESS: &[&str] = &["VERSION", "json", "repositories"];
/// Where docker and others put an image's name into an index.
const NAMED: &[&str] = &["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub name: String,
    /// Digest of its configuration.
    pub id: String,
}

/// What the archive holds.
#[derive(Debug, Default)]
struct Files {
    blobs: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

struct Loader<'l> {
    store: &'l Store,
    limits: &'l Limits,
    files: Files,
    name: Option<&'l ImageName>,
}

fn malformed(text: impl Into<String>) -> ImageError {
    ImageError::Malformed { what: "the archive".to_owned(), text: text.into() }
}

/// Takes the archive's blobs into the store; returns what names stand for,
/// not yet set.
///
/// # Errors
/// It is no archive of images, damaged, too big, or of another machine.
pub(super) fn load(store: &Store, limits: &Limits, archive: &mut dyn Read, name: Option<&ImageName>, until: &Until<'_>) -> Result<Vec<Reference>, ImageError> {
    let here = Path::new("the archive");
    let plain = layer::plain(BufReader::with_capacity(64 * 1024, archive)).map_err(io_at("read", here))?;
    let files = spool(store, limits, plain, until)?;
    let loader = Loader { store, limits, files, name };
    let found = if let Some((manifest, _)) = loader.files.find("manifest.json") {
        loader.docker(manifest)?
    } else if let Some((index, _)) = loader.files.find("index.json") {
        loader.layout(index)?
    } else {
        return Err(malformed("it has neither manifest.json (docker save) nor index.json (OCI layout)"));
    };
    if found.is_empty() {
        return Err(malformed("it holds no image"));
    }
    Ok(found)
}

fn spool(store: &Store, limits: &Limits, archive: impl Read, until: &Until<'_>) -> Result<Files, ImageError> {
    let here = Path::new("the archive");
    let mut files = Files::default();
    let mut left = limits.bytes;
    let mut reader = Reader::new(archive);
    while let Some(entry) = reader.next().map_err(io_at("read", here))? {
        until.check("reading the archive")?;
        let path = tidy(&String::from_utf8_lossy(&entry.path));
        if files.blobs.len() + files.links.len() >= MAX_FILES {
            return Err(ImageError::TooBig { what: "the archive's number of files".to_owned(), limit: MAX_FILES as u64 });
        }
        match entry.kind {
            Kind::File if USELESS.contains(&path.rsplit('/').next().unwrap_or_default()) => {}
            Kind::File => {
                left = left.checked_sub(entry.size).ok_or_else(|| ImageError::TooBig { what: "the archive, in bytes".to_owned(), limit: limits.bytes })?;
                let mut blob = store.new_blob(limits.bytes)?;
                copy(&mut reader, &mut blob, until)?;
                let (digest, length) = store.keep_blob(blob)?;
                if let Some(hex) = path.strip_prefix("blobs/sha256/")
                    && hex != digest.hex()
                {
                    return Err(ImageError::WrongDigest { what: path.clone(), want: format!("sha256:{hex}"), got: digest.to_string() });
                }
                files.blobs.insert(path, (digest, length));
            }
            Kind::Symlink => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                files.links.insert(path.clone(), tidy(&format!("{folder}/{}", String::from_utf8_lossy(&entry.link))));
            }
            Kind::HardLink => drop(files.links.insert(path, tidy(&String::from_utf8_lossy(&entry.link)))),
            Kind::Folder | Kind::Device | Kind::Fifo => {}
        }
    }
    reader.drain().map_err(io_at("read", here))?;
    Ok(files)
}

pub(super) fn copy(from: &mut impl Read, to: &mut impl io::Write, until: &Until<'_>) -> Result<(), ImageError> {
    let here = Path::new("the archive");
    let mut buffer = vec![0u8; 128 * 1024];
    loop {
        until.check("reading the archive")?;
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ImageError::of_io(e, "read", here)),
        };
        to.write_all(&buffer[..n]).map_err(io_at("write", here))?;
    }
}

/// Without `.`, `..` and doubled slashes: a key, not a place.
fn tidy(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Files {
    fn find(&self, path: &str) -> Option<(&Digest, u64)> {
        let mut path = tidy(path);
        for _ in 0..MAX_LINKS {
            if let Some((digest, size)) = self.blobs.get(&path) {
                return Some((digest, *size));
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }

    fn need(&self, path: &str) -> Result<(&Digest, u64), ImageError> {
        let shown: String = path.chars().take(100).collect();
        self.find(path).ok_or_else(|| malformed(format!("'{}' is named in it and is not in it", shown.escape_debug())))
    }
}

impl Loader<'_> {
    fn json<T: serde::de::DeserializeOwned>(&self, digest: &Digest, what: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.store.document(digest, self.limits)?).map_err(|e| malformed(format!("{what}: {e}")))
    }

    fn docker(&self, manifest: &Digest) -> Result<Vec<Reference>, ImageError> {
        let saved: Vec<Saved> = self.json(manifest, "manifest.json")?;
        let only = saved.len() == 1;
        let mut found = Vec::new();
        for image in saved {
            let (config, config_size) = self.files.need(&image.config)?;
            let mut layers = Vec::new();
            for layer in &image.layers {
                let (digest, size) = self.files.need(layer)?;
                layers.push(Descriptor::plain(document::OCI_LAYER, digest, size));
            }
            let manifest = Manifest::new(Descriptor::plain(document::OCI_CONFIG, config, config_size), layers);
            let bytes = serde_json::to_vec(&manifest).map_err(|e| malformed(e.to_string()))?;
            // Read back with every check a manifest from elsewhere meets.
            document::parse(&bytes, self.limits)?;
            let digest = self.store.add_bytes(&bytes)?;
            let names = self.names(image.repo_tags.unwrap_or_default().iter().map(String::as_str), only)?;
            for name in names {
                found.push(self.reference(name, &digest, &manifest)?);
            }
        }
        Ok(found)
    }

    fn layout(&self, index: &Digest) -> Result<Vec<Reference>, ImageError> {
        let index: Index = self.json(index, "index.json")?;
        let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for descriptor in index.manifests {
            let name = NAMED.iter().find_map(|key| descriptor.annotations.get(*key)).filter(|name| name.contains(['/', ':'])).cloned();
            groups.entry(name).or_default().push(descriptor);
        }
        let only = groups.len() == 1;
        let mut found = Vec::new();
        for (name, group) in groups {
            let chosen = if let [one] = group.as_slice() { one } else { document::choose(name.as_deref().unwrap_or("the image"), &group)? };
            let (digest, manifest) = self.manifest(chosen.digest()?, name.as_deref().unwrap_or("the image"))?;
            for name in self.names(name.as_deref().into_iter(), only)? {
                found.push(self.reference(name, &digest, &manifest)?);
            }
        }
        Ok(found)
    }

    /// An index may lead to an index once more.
    fn manifest(&self, mut digest: Digest, name: &str) -> Result<(Digest, Manifest), ImageError> {
        for _ in 0..3 {
            self.files.need(&format!("blobs/sha256/{}", digest.hex()))?;
            match document::parse(&self.store.document(&digest, self.limits)?, self.limits)? {
                Document::Manifest(manifest) => return Ok((digest, manifest)),
                Document::Index(index) => digest = document::choose(name, &index)?.digest()?,
            }
        }
        Err(malformed("indexes lead to indexes"))
    }

    /// The given name, if there is one image to give it to; else the archive's own.
    fn names<'n>(&self, own: impl Iterator<Item = &'n str>, only: bool) -> Result<Vec<ImageName>, ImageError> {
        match self.name {
            Some(name) if only => Ok(vec![name.clone()]),
            Some(_) => Err(malformed("it holds several images, so none can be given that name")),
            None => {
                let names: Vec<ImageName> = own.map(ImageName::parse).collect::<Result<_, _>>()?;
                if names.is_empty() { Err(malformed("it does not say what its image is called: give it a name")) } else { Ok(names) }
            }
        }
    }

    fn reference(&self, name: ImageName, digest: &Digest, manifest: &Manifest) -> Result<Reference, ImageError> {
        let config = manifest.config.digest()?;
        let name = full_name(&name);
        let settled = document::settle(&name, &self.store.document(&config, self.limits)?)?;
        if settled.diff_ids.len() != manifest.layers.len() {
            return Err(malformed(format!("{} layers, and {} in the configuration", manifest.layers.len(), settled.diff_ids.len())));
        }
        let mut size = manifest.config.size;
        for layer in &manifest.layers {
            let digest = layer.digest()?;
            size += self.store.blob_size(&digest).ok_or_else(|| malformed(format!("layer {digest} is not in it")))?;
        }
        Ok(Reference::new(name, digest, &config, size))
    }
}
