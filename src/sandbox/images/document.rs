//! Manifests, indexes and configurations: what of them matters, strictly.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;
use super::limits::Limits;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What an image runs, from its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` and so on; empty: root.
    pub user: String,
    /// Paths the image wants volumes at.
    pub volumes: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(super) annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
}

impl Descriptor {
    pub(super) fn plain(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.to_owned(), digest: digest.to_string(), size, platform: None, annotations: std::collections::BTreeMap::new() }
    }

    pub(super) fn digest(&self) -> Result<Digest, ImageError> {
        Digest::parse(&self.digest)
    }
}

/// A manifest, an index, or something older.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Anything {
    #[serde(default)]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    pub(super) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest { schema_version: 2, media_type: OCI_MANIFEST, config, layers }
    }
}

#[derive(Debug)]
pub(super) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

fn malformed(what: &str, error: &dyn std::fmt::Display) -> ImageError {
    ImageError::Malformed { what: what.to_owned(), text: error.to_string() }
}

/// # Errors
/// Not JSON of a known form, or with more layers than allowed.
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Document, ImageError> {
    let any: Anything = serde_json::from_slice(bytes).map_err(|e| malformed("the manifest", &e))?;
    match any {
        Anything { schema_version: 1, config: None, manifests: None, .. } => Err(ImageError::Unsupported { what: "a manifest of schema version 1".to_owned() }),
        Anything { manifests: Some(manifests), .. } => Ok(Document::Index(manifests)),
        Anything { config: Some(config), layers: Some(layers), .. } => {
            if layers.len() > limits.layers {
                return Err(ImageError::TooBig { what: "the image's number of layers".to_owned(), limit: limits.layers as u64 });
            }
            let total = layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
            if total.is_none_or(|total| total > limits.bytes) {
                return Err(ImageError::TooBig { what: "the image, in bytes".to_owned(), limit: limits.bytes });
            }
            if let Some(foreign) = layers.iter().find(|l| l.media_type.contains("nondistributable") || l.media_type.contains("foreign")) {
                return Err(ImageError::Unsupported { what: format!("a layer of type {}", foreign.media_type) });
            }
            Ok(Document::Manifest(Manifest::new(config, layers)))
        }
        _ => Err(malformed("the manifest", &"it is neither a manifest nor an index")),
    }
}

/// This machine's entry of an index.
///
/// # Errors
/// There is none.
pub(super) fn choose<'d>(image: &str, index: &'d [Descriptor]) -> Result<&'d Descriptor, ImageError> {
    let here = architecture();
    let fits = |d: &&Descriptor| {
        let Some(platform) = &d.platform else { return index.len() == 1 };
        platform.os == "linux" && platform.architecture == here && variant_fits(&platform.variant)
    };
    if let Some(found) = index.iter().find(fits) {
        return Ok(found);
    }
    let have: Vec<String> = index.iter().filter_map(|d| d.platform.as_ref()).take(16).map(|p| format!("{}/{}", p.os, p.architecture)).collect();
    let have = if have.is_empty() { "nothing with a platform".to_owned() } else { have.join(", ") };
    Err(ImageError::WrongArchitecture { image: image.to_owned(), want: here.to_owned(), have })
}

fn variant_fits(variant: &str) -> bool {
    match architecture() {
        "arm64" => matches!(variant, "" | "v8"),
        // Anything newer than the baseline may use what this machine lacks.
        "amd64" => matches!(variant, "" | "v1"),
        _ => true,
    }
}

/// This machine's architecture by the name images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[derive(Debug, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Runs>,
    #[serde(default)]
    rootfs: RootLayers,
}

#[derive(Debug, Default, Deserialize)]
struct RootLayers {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Runs {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<std::collections::BTreeMap<String, serde_json::Value>>,
}

/// A configuration, read.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) config: ImageConfig,
    /// Digests of the layers before compression.
    pub(super) diff_ids: Vec<Digest>,
}

/// # Errors
/// Not a configuration, or of another machine.
pub(super) fn settle(image: &str, bytes: &[u8]) -> Result<Settled, ImageError> {
    let file: ConfigFile = serde_json::from_slice(bytes).map_err(|e| malformed("the image's configuration", &e))?;
    let here = architecture();
    let ours = |text: &str, want: &str| text.is_empty() || text == want;
    if !ours(&file.architecture, here) || !ours(&file.os, "linux") {
        let have = format!("{}/{}", file.os, file.architecture);
        return Err(ImageError::WrongArchitecture { image: image.to_owned(), want: here.to_owned(), have });
    }
    let runs = file.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: runs.entrypoint.unwrap_or_default(),
        cmd: runs.cmd.unwrap_or_default(),
        env: runs.env.unwrap_or_default(),
        working_dir: runs.working_dir.unwrap_or_default(),
        user: runs.user.unwrap_or_default(),
        volumes: runs.volumes.unwrap_or_default().into_keys().collect(),
    };
    let texts = config.entrypoint.iter().chain(&config.cmd).chain(&config.env).chain([&config.working_dir, &config.user]).chain(&config.volumes);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(malformed("the image's configuration", &"a text in it has a zero byte"));
    }
    Ok(Settled { config, diff_ids: file.rootfs.diff_ids.iter().map(|d| Digest::parse(d)).collect::<Result<_, _>>()? })
}
