//! The store on real folders, with archives made byte by byte.

mod hostile;
mod pulling;
mod unpacking;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;

/// One entry of a tar archive, with whatever lies a header can tell.
#[derive(Clone)]
pub(super) struct Item {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    data: Vec<u8>,
    mode: u32,
    owner: u64,
    /// Told instead of the data's length.
    size: Option<u64>,
    pax: Vec<(String, Vec<u8>)>,
}

pub(super) fn item(kind: u8, path: &str) -> Item {
    Item { kind, path: path.as_bytes().to_vec(), link: Vec::new(), data: Vec::new(), mode: 0o755, owner: 0, size: None, pax: Vec::new() }
}

pub(super) fn file(path: &str, data: &str) -> Item {
    Item { data: data.as_bytes().to_vec(), mode: 0o644, ..item(b'0', path) }
}

pub(super) fn folder(path: &str) -> Item {
    item(b'5', path)
}

pub(super) fn symlink(path: &str, target: &str) -> Item {
    Item { link: target.as_bytes().to_vec(), ..item(b'2', path) }
}

pub(super) fn hard_link(path: &str, target: &str) -> Item {
    Item { link: target.as_bytes().to_vec(), ..item(b'1', path) }
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value < 1u64 << (3 * digits).min(63) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    } else {
        field.fill(0);
        let from = field.len() - 8;
        field[from..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
    }
}

impl Item {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in &self.pax {
                let rest = key.len() + value.len() + 3;
                let mut total = rest + 1;
                while total != rest + total.to_string().len() {
                    total = rest + total.to_string().len();
                }
                write!(records, "{total} {key}=").expect("memory");
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            Item { data: records, ..item(b'x', "pax") }.write(out);
        }
        if self.path.len() > 100 {
            Item { data: [self.path.as_slice(), b"\0"].concat(), ..item(b'L', "././@LongLink") }.write(out);
        }
        if self.link.len() > 100 {
            Item { data: [self.link.as_slice(), b"\0"].concat(), ..item(b'K', "././@LongLink") }.write(out);
        }
        let mut head = [0u8; 512];
        let put = |head: &mut [u8; 512], at: usize, text: &[u8]| head[at..at + text.len().min(100)].copy_from_slice(&text[..text.len().min(100)]);
        put(&mut head, 0, &self.path);
        put(&mut head, 157, &self.link);
        octal(&mut head[100..108], u64::from(self.mode));
        octal(&mut head[108..116], self.owner);
        octal(&mut head[116..124], self.owner);
        octal(&mut head[124..136], self.size.unwrap_or(self.data.len() as u64));
        octal(&mut head[136..148], 1_600_000_000);
        head[156] = self.kind;
        head[257..263].copy_from_slice(b"ustar\0");
        head[148..156].fill(b' ');
        let sum: u64 = head.iter().map(|b| u64::from(*b)).sum();
        octal(&mut head[148..155], sum);
        out.extend_from_slice(&head);
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

pub(super) fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        item.write(&mut out);
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).expect("memory");
    out.finish().expect("memory")
}

/// A docker archive called `t/x:1`. A layer is its bytes in the archive and
/// its plain form.
pub(super) fn docker_archive(layers: &[(Vec<u8>, Vec<u8>)], more: &serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|(_, plain)| Digest::of(plain).to_string()).collect();
    let config = serde_json::json!({
        "architecture": document::architecture(), "os": "linux", "config": more,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let names: Vec<String> = (0..layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["t/x:1"], "Layers": names }]);
    let mut items = vec![file("config.json", &config.to_string())];
    for (name, (bytes, _)) in names.iter().zip(layers) {
        items.push(Item { data: bytes.clone(), ..item(b'0', name) });
    }
    items.push(file("manifest.json", &manifest.to_string()));
    tar(&items)
}

pub(super) fn image_of(layers: &[Vec<Item>]) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(|items| (tar(items), tar(items))).collect();
    docker_archive(&layers, &serde_json::json!({}))
}

/// A folder of its own, with a store in it; removed at the end.
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) stop: Stop,
}

impl Place {
    pub(super) fn new() -> Place {
        let folder = std::env::temp_dir().join(format!("hob-images-{}", crate::model::Id::new()));
        std::fs::create_dir(&folder).expect("made");
        Place { folder, stop: Stop::new().expect("eventfd") }
    }

    pub(super) fn open(&self) -> Images {
        self.open_with(Limits::default())
    }

    pub(super) fn open_with(&self, limits: Limits) -> Images {
        Images::open(&self.folder.join("images"), Options { limits, ..Options::default() }).expect("opens")
    }

    pub(super) fn load(&self, images: &Images, archive: &[u8]) -> Result<Vec<Loaded>, ImageError> {
        images.load(&mut &archive[..], None, soon(), &self.stop)
    }

    pub(super) fn rootfs(&self, images: &Images) -> Rootfs {
        images.ensure("t/x:1", Pull::Never, soon(), &self.stop).expect("there")
    }

    /// What is left in tmp.
    pub(super) fn unfinished(&self) -> usize {
        std::fs::read_dir(self.folder.join("images/tmp")).expect("there").count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // No program is started for it: a fork would carry other tests' locks.
        let top = std::fs::File::open(std::env::temp_dir()).expect("there");
        let name = self.folder.file_name().expect("a name").as_encoded_bytes();
        let _ = tree::remove_all(std::os::fd::AsFd::as_fd(&top), name);
    }
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Every path below `folder` with what it is, in order.
pub(super) fn listing(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).expect("a folder").flatten() {
            let path = entry.path();
            let meta = std::fs::symlink_metadata(&path).expect("there");
            let name = path.strip_prefix(folder).expect("inside").display().to_string();
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_symlink() {
                found.push(format!("{name} -> {}", std::fs::read_link(&path).expect("a link").display()));
            } else if meta.is_dir() {
                found.push(format!("{name}/ {mode:o}"));
                folders.push(path);
            } else {
                let content = String::from_utf8_lossy(&std::fs::read(&path).expect("readable")).into_owned();
                found.push(format!("{name} {mode:o} {} {}", meta.nlink(), if content.len() > 20 { format!("{} bytes", content.len()) } else { content }));
            }
        }
    }
    found.sort();
    found
}
