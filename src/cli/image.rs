//! Archives made from files: the context of a Dockerfile build, and a whole
//! single-layer image as a docker archive.
//!
//! The same files always give the same bytes (sorted, no times, no owners,
//! plain modes), hence the same image id: deploying twice changes nothing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::ignore::Ignore;
use crate::sandbox::images::{Digest, Hashing, architecture};

/// Files of a folder that are read; beyond it somebody named the wrong folder.
const MAX_FILES: usize = 200_000;

/// Where a file's bytes come from.
#[derive(Debug, Clone)]
pub enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
    Link(PathBuf),
    Folder,
}

/// One file of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative, with `/`.
    pub path: String,
    pub mode: u32,
    pub content: Content,
}

/// What an image runs.
#[derive(Debug, Clone, Default)]
pub struct ImageSpec {
    /// `name:tag`.
    pub name: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
}

/// An archive could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the archive: {source}")]
    Write { source: io::Error },
    #[error("{} has more than {MAX_FILES} files: list what the function does not need in .dockerignore", folder.display())]
    TooMany { folder: PathBuf },
    #[error("'{path}' is not UTF-8")]
    Name { path: String },
}

fn write_error(source: io::Error) -> ArchiveError {
    ArchiveError::Write { source }
}

/// All files below `folder` that its `.dockerignore` and `also` leave in.
///
/// # Errors
/// Something can't be read, or there is far too much.
pub fn collect(folder: &Path, also: &[&str]) -> Result<Vec<Entry>, ArchiveError> {
    let ignore = match fs::read_to_string(folder.join(".dockerignore")) {
        Ok(text) => Ignore::parse(&(also.join("\n") + "\n" + &text)),
        Err(_) => Ignore::parse(&also.join("\n")),
    };
    let mut entries = Vec::new();
    walk(folder, folder, "", &ignore, &mut entries)?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn walk(top: &Path, folder: &Path, prefix: &str, ignore: &Ignore, entries: &mut Vec<Entry>) -> Result<(), ArchiveError> {
    let read_error = |source| ArchiveError::Read { path: folder.to_path_buf(), source };
    for item in fs::read_dir(folder).map_err(read_error)? {
        let item = item.map_err(read_error)?;
        let name = item.file_name().into_string().map_err(|n| ArchiveError::Name { path: n.to_string_lossy().into_owned() })?;
        let path = format!("{prefix}{name}");
        let left_out = ignore.leaves_out(&path);
        let kind = item.file_type().map_err(read_error)?;
        if left_out && !(kind.is_dir() && ignore.has_exceptions()) {
            continue;
        }
        if entries.len() >= MAX_FILES {
            return Err(ArchiveError::TooMany { folder: top.to_path_buf() });
        }
        let full = item.path();
        if kind.is_dir() {
            if !left_out {
                entries.push(Entry { path: path.clone(), mode: 0o755, content: Content::Folder });
            }
            walk(top, &full, &format!("{path}/"), ignore, entries)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&full).map_err(|source| ArchiveError::Read { path: full.clone(), source })?;
            entries.push(Entry { path, mode: 0o777, content: Content::Link(target) });
        } else if kind.is_file() {
            let mode = item.metadata().map_err(read_error)?.permissions().mode();
            entries.push(Entry { path, mode: if mode & 0o111 == 0 { 0o644 } else { 0o755 }, content: Content::File(full) });
        }
    }
    Ok(())
}

/// Writes `entries` as a tar archive, in the order given.
///
/// # Errors
/// A file can't be read, or the archive not written.
pub fn write_tar<W: Write>(entries: &[Entry], out: W) -> Result<W, ArchiveError> {
    let mut builder = Builder::new(out);
    for entry in entries {
        let kind = match entry.content {
            Content::Folder => EntryType::Directory,
            Content::Link(_) => EntryType::Symlink,
            Content::Bytes(_) | Content::File(_) => EntryType::Regular,
        };
        let mut header = header(kind, entry.mode);
        match &entry.content {
            Content::Folder => builder.append_data(&mut header, format!("{}/", entry.path), io::empty()).map_err(write_error)?,
            Content::Link(target) => builder.append_link(&mut header, &entry.path, target).map_err(write_error)?,
            Content::Bytes(bytes) => append(&mut builder, header, &entry.path, bytes.len() as u64, bytes.as_slice())?,
            Content::File(path) => {
                let failed = |source| ArchiveError::Read { path: path.clone(), source };
                let file = File::open(path).map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                // A file that shrinks meanwhile must not shift what follows it.
                let mut exact = Exactly { inner: file, left: length };
                append(&mut builder, header, &entry.path, length, &mut exact)?;
            }
        }
    }
    builder.into_inner().map_err(write_error)
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

fn append<W: Write>(builder: &mut Builder<W>, mut header: Header, path: &str, length: u64, data: impl Read) -> Result<(), ArchiveError> {
    header.set_size(length);
    builder.append_data(&mut header, path, data).map_err(write_error)
}

/// A reader that fails when its file ends before the length it had.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..most])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file shrank while it was read"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Writes a docker archive (`docker load` takes it) of one layer with these
/// files. `layer` is scratch space. Returns the image's id, `sha256:…`.
///
/// # Errors
/// A file can't be read, or the archive not written.
pub fn write_image<W: Write>(spec: &ImageSpec, entries: &[Entry], layer: &mut (impl Read + Write + Seek), out: W) -> Result<(String, W), ArchiveError> {
    let (_, digest, length) = write_tar(entries, Hashing::new(&mut *layer))?.finish();
    layer.rewind().map_err(write_error)?;

    let config = config_json(spec, &digest);
    let id = Digest::of(config.as_bytes());
    let layer_name = format!("{}/layer.tar", digest.hex());
    let manifest = json!([{ "Config": format!("{}.json", id.hex()), "RepoTags": [spec.name], "Layers": [layer_name] }]).to_string();

    let mut builder = Builder::new(out);
    let file = || header(EntryType::Regular, 0o644);
    append(&mut builder, file(), &format!("{}.json", id.hex()), config.len() as u64, config.as_bytes())?;
    append(&mut builder, file(), &layer_name, length, &mut Exactly { inner: layer, left: length })?;
    append(&mut builder, file(), "manifest.json", manifest.len() as u64, manifest.as_bytes())?;
    let out = builder.into_inner().map_err(write_error)?;
    Ok((id.to_string(), out))
}

fn config_json(spec: &ImageSpec, digest: &Digest) -> String {
    const THEN: &str = "1970-01-01T00:00:00Z";
    json!({
        "architecture": architecture(),
        "os": "linux",
        "created": THEN,
        "config": {
            "User": "1000:1000",
            "WorkingDir": spec.working_dir,
            "Entrypoint": spec.entrypoint,
            "Cmd": spec.cmd,
            "Env": spec.env,
        },
        "rootfs": { "type": "layers", "diff_ids": [digest.as_str()] },
        "history": [{ "created": THEN, "created_by": "hob deploy" }],
    })
    .to_string()
}

/// An unnamed temporary file.
///
/// # Errors
/// The folder for temporary files can't be written.
pub fn scratch() -> Result<File, ArchiveError> {
    let path = std::env::temp_dir().join(format!("hob-{}.tmp", crate::model::Id::new()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(|source| ArchiveError::Read { path: path.clone(), source })?;
    fs::remove_file(&path).map_err(|source| ArchiveError::Read { path, source })?;
    Ok(file)
}

/// Whether an ELF program needs a dynamic loader, which an image of its own
/// does not have. False for anything that is no 64-bit little-endian ELF.
pub fn needs_loader(program: &[u8]) -> bool {
    let int = |at: usize, len: usize| -> Option<usize> {
        let bytes = program.get(at..at.checked_add(len)?)?;
        usize::try_from(bytes.iter().rev().fold(0u64, |n, b| (n << 8) | u64::from(*b))).ok()
    };
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (Some(table), Some(size), Some(count)) = (int(32, 8), int(54, 2), int(56, 2)) else { return false };
    const PT_INTERP: usize = 3;
    (0..count).any(|i| table.checked_add(i * size).and_then(|at| int(at, 4)) == Some(PT_INTERP))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn sample() -> Vec<Entry> {
        vec![
            Entry { path: "function".into(), mode: 0o755, content: Content::Folder },
            Entry { path: format!("function/{}", "long-name-".repeat(20)), mode: 0o644, content: Content::Bytes(b"long".to_vec()) },
            Entry { path: "function/link".into(), mode: 0o777, content: Content::Link("prog".into()) },
            Entry { path: "function/prog".into(), mode: 0o755, content: Content::Bytes(vec![7; 3000]) },
        ]
    }

    fn image(entries: &[Entry]) -> (String, Vec<u8>) {
        let spec = ImageSpec { name: "demo/x:1".into(), entrypoint: vec!["/function/prog".into()], working_dir: "/function".into(), ..ImageSpec::default() };
        write_image(&spec, entries, &mut Cursor::new(Vec::new()), Vec::new()).expect("written")
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let (id, bytes) = image(&sample());
        assert_eq!((id, bytes), image(&sample()));
        let mut other = sample();
        other[3].mode = 0o644;
        assert_ne!(image(&other).0, image(&sample()).0);
    }

    #[test]
    fn an_image_holds_what_its_manifest_says() {
        let (id, bytes) = image(&sample());
        let mut files = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().expect("tar") {
            let mut entry = entry.expect("entry");
            assert_eq!(entry.header().mtime().expect("mtime"), 0);
            let path = entry.path().expect("path").to_string_lossy().into_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).expect("data");
            files.insert(path, data);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
        let config = &files[manifest[0]["Config"].as_str().expect("text")];
        assert_eq!(Digest::of(config).to_string(), id);
        let config: serde_json::Value = serde_json::from_slice(config).expect("JSON");
        let layer = &files[manifest[0]["Layers"][0].as_str().expect("text")];
        assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(layer).as_str());
        assert_eq!(config["config"]["User"], "1000:1000");
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .expect("tar")
            .map(|e| e.expect("entry").path().expect("path").to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.len(), 4);
        assert!(names[1].len() > 200);
    }

    #[test]
    fn a_folder_is_read_sorted_and_without_what_is_ignored() {
        let folder = std::env::temp_dir().join(format!("hob-collect-{}", crate::model::Id::new()));
        fs::create_dir_all(folder.join("sub/target")).expect("made");
        for (path, text) in [("b", "1"), ("a", "2"), ("sub/x.log", "3"), ("sub/target/y", "4"), (".dockerignore", "**/*.log\n")] {
            fs::write(folder.join(path), text).expect("written");
        }
        std::os::unix::fs::symlink("a", folder.join("z")).expect("linked");
        let entries = collect(&folder, &["target"]).expect("read");
        let paths: Vec<&str> = entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, [".dockerignore", "a", "b", "sub", "sub/target", "sub/target/y", "z"]);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn loaders_are_noticed() {
        assert!(!needs_loader(b"#!/bin/sh\n") && !needs_loader(b"\x7fELF\x02\x01"));
        let shell = fs::read("/bin/sh").expect("there is a shell");
        if shell.starts_with(b"\x7fELF\x02\x01") {
            assert!(needs_loader(&shell));
        }
    }
}
