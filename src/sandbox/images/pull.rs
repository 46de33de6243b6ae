//! An image from a registry: manifest, configuration, layers, each checked
//! against its digest before it has a name here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;

use super::client::{Client, Failure};
use super::digest::{Digest, Hashing};
use super::document::{self, Descriptor, Document, Manifest};
use super::error::{ImageError, io_at};
use super::limits::Limits;
use super::store::{Reference, Store};
use super::wait::Until;
use super::{Progress, full_name};
use crate::pool::{Stop, Thread, Woke, spawn, wait_for};
use crate::registry::ImageName;

/// Tries of one request that brings nothing new; one that does begins anew.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

pub(super) struct Puller<'p> {
    pub(super) store: &'p Store,
    pub(super) limits: &'p Limits,
    pub(super) client: Client<'p>,
    pub(super) image: &'p ImageName,
    pub(super) until: Until<'p>,
    pub(super) progress: &'p (dyn Fn(Progress) + Sync),
}

/// Cuts the client's requests off when the stop fires.
struct Watch {
    done: Arc<Stop>,
    _thread: Thread,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.fire();
    }
}

impl Puller<'_> {
    /// Fetches what is missing; returns what the name stands for, not yet set.
    ///
    /// # Errors
    /// The registry has none, denies it, fails or does not answer; what it
    /// sends is not what it says; no time or space is left.
    pub(super) fn pull(&self) -> Result<Reference, ImageError> {
        let _watch = self.watch()?;
        let (digest, manifest) = self.manifest()?;
        let config = manifest.config.digest()?;
        if manifest.config.size > self.limits.document {
            return Err(ImageError::TooBig { what: "the image's configuration, in bytes".to_owned(), limit: self.limits.document });
        }
        let name = full_name(self.image);
        let total = manifest.layers.iter().map(|l| l.size).sum::<u64>();
        let mut done = 0;
        self.blob(&manifest.config, &|_| {})?;
        // Before anything large travels: is it for this machine?
        document::settle(&name, &self.store.document(&config, self.limits)?)?;
        for (at, layer) in manifest.layers.iter().enumerate() {
            let step = |bytes: u64| (self.progress)(Progress { layer: at + 1, layers: manifest.layers.len(), done: done + bytes, total });
            step(0);
            self.blob(layer, &step)?;
            done += layer.size;
            (self.progress)(Progress { layer: at + 1, layers: manifest.layers.len(), done, total });
        }
        Ok(Reference::new(name, &digest, &config, total + manifest.config.size))
    }

    fn watch(&self) -> Result<Watch, ImageError> {
        let here = std::path::Path::new("image-watch");
        let done = Arc::new(Stop::new().map_err(io_at("start", here))?);
        let stop = self.until.stop.as_fd().try_clone_to_owned().map_err(io_at("start", here))?;
        let (agent, end) = (self.client.agent(), done.clone());
        let thread = spawn("image-watch", move || {
            // The stop as the "descriptor", the pull's end as the "stop": either ends the wait.
            if matches!(wait_for(stop.as_fd(), PollFlags::IN, None, Some(&end), None), Ok(Woke::Ready)) {
                agent.shutdown();
            }
        });
        let thread = thread.map_err(|e| ImageError::of_io(e.source, "start", here))?;
        Ok(Watch { done, _thread: thread })
    }

    /// `work` until it succeeds, fails for good, or has failed too often.
    fn persist<T>(&self, mut work: impl FnMut() -> Result<T, Failure>, mut got_on: impl FnMut() -> bool) -> Result<T, ImageError> {
        let mut tries = 0;
        loop {
            let (error, after) = match work() {
                Ok(done) => return Ok(done),
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Passing(e, after)) => (e, after),
            };
            self.until.check("talking to the registry")?;
            tries = if got_on() { 1 } else { tries + 1 };
            if tries >= TRIES {
                return Err(error);
            }
            let pause = after.unwrap_or(FIRST_PAUSE * (1 << tries)).min(LONGEST_PAUSE);
            log::debug!("{error}: again in {pause:?}");
            self.until.pause(pause, "talking to the registry")?;
        }
    }

    /// The manifest for this machine, kept in the store.
    fn manifest(&self) -> Result<(Digest, Manifest), ImageError> {
        let mut reference = self.image.reference.clone();
        for _ in 0..3 {
            let bytes = self.persist(|| self.fetch_manifest(&reference), || false)?;
            let digest = Digest::of(&bytes);
            if reference.contains(':') && reference != digest.as_str() {
                return Err(ImageError::WrongDigest { what: "the manifest".to_owned(), want: reference, got: digest.to_string() });
            }
            match document::parse(&bytes, self.limits)? {
                Document::Manifest(manifest) => {
                    self.store.add_bytes(&bytes)?;
                    return Ok((digest, manifest));
                }
                Document::Index(index) => reference = document::choose(&self.image.to_string(), &index)?.digest()?.to_string(),
            }
        }
        Err(ImageError::Malformed { what: "the manifest".to_owned(), text: "indexes lead to indexes".to_owned() })
    }

    fn fetch_manifest(&self, reference: &str) -> Result<Vec<u8>, Failure> {
        let accept = [document::OCI_MANIFEST, document::OCI_INDEX, document::DOCKER_MANIFEST, document::DOCKER_LIST].join(", ");
        let mut response = self.client.get(&format!("/manifests/{reference}"), &accept, 0)?;
        let mut bytes = Vec::new();
        let read = response.body_mut().as_reader().take(self.limits.document + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.client.failure(ureq::Error::Io(e)))?;
        if bytes.len() as u64 > self.limits.document {
            return Err(Failure::Final(ImageError::TooBig { what: "the manifest, in bytes".to_owned(), limit: self.limits.document }));
        }
        Ok(bytes)
    }

    /// One blob into the store, on from where an earlier transfer was cut.
    fn blob(&self, wanted: &Descriptor, step: &dyn Fn(u64)) -> Result<(), ImageError> {
        let digest = wanted.digest()?;
        if self.store.blob_size(&digest) == Some(wanted.size) {
            return Ok(());
        }
        let _alone = self.store.alone("blob", digest.as_str(), &self.until)?;
        if self.store.blob_size(&digest) == Some(wanted.size) {
            return Ok(());
        }
        let path = self.store.partial_path(&digest);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(io_at("open", &path))?;
        for last in [false, true] {
            self.transfer(&mut file, wanted, &digest, step)?;
            let got = self.hash(&mut file)?;
            if got == digest {
                return self.store.keep_partial(&file, &digest);
            }
            // A rotten start of an earlier transfer deserves one whole new one.
            file.set_len(0).map_err(io_at("write", &path))?;
            if last {
                let _ = std::fs::remove_file(&path);
                return Err(ImageError::WrongDigest { what: "a blob of the image".to_owned(), want: digest.to_string(), got: got.to_string() });
            }
        }
        Ok(())
    }

    fn hash(&self, file: &mut File) -> Result<Digest, ImageError> {
        let here = std::path::Path::new("partial");
        let mut hashing = Hashing::new(io::sink());
        file.seek(SeekFrom::Start(0)).and_then(|_| io::copy(file, &mut hashing)).map_err(io_at("read", here))?;
        Ok(hashing.finish().1)
    }

    /// Until the file is as long as it shall be.
    fn transfer(&self, file: &mut File, wanted: &Descriptor, digest: &Digest, step: &dyn Fn(u64)) -> Result<(), ImageError> {
        let here = self.store.partial_path(digest);
        let length = |file: &File| file.metadata().map(|m| m.len()).map_err(io_at("read", &here));
        if length(file)? > wanted.size {
            file.set_len(0).map_err(io_at("write", &here))?;
        }
        let have = std::cell::Cell::new(length(file)?);
        let before = std::cell::Cell::new(have.get());
        if have.get() == wanted.size {
            return Ok(());
        }
        self.persist(|| self.continue_transfer(file, wanted, digest, &have, step), || before.replace(have.get()) < have.get())
    }

    fn continue_transfer(&self, file: &mut File, wanted: &Descriptor, digest: &Digest, have: &std::cell::Cell<u64>, step: &dyn Fn(u64)) -> Result<(), Failure> {
        let here = self.store.partial_path(digest);
        let failed = |e: io::Error| Failure::Final(ImageError::of_io(e, "write", &here));
        let mut response = self.client.get(&format!("/blobs/{digest}"), "*/*", have.get())?;
        if have.get() > 0 && !continues_at(&response, have.get()) {
            // It can't go on in the middle: from the start.
            file.set_len(0).map_err(failed)?;
            have.set(0);
            if response.status() != 200 {
                response = self.client.get(&format!("/blobs/{digest}"), "*/*", 0)?;
            }
        }
        file.seek(SeekFrom::Start(have.get())).map_err(failed)?;
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            self.until.check("transferring the image").map_err(Failure::Final)?;
            let n = body.read(&mut buffer).map_err(|e| self.client.failure(ureq::Error::Io(e)))?;
            if n == 0 {
                break;
            }
            if have.get() + n as u64 > wanted.size {
                return Err(Failure::Final(ImageError::TooBig { what: "a blob than its manifest says, in bytes: it".to_owned(), limit: wanted.size }));
            }
            file.write_all(&buffer[..n]).map_err(failed)?;
            have.set(have.get() + n as u64);
            step(have.get());
        }
        if have.get() < wanted.size {
            let text = format!("a transfer ended after {} of {} bytes", have.get(), wanted.size);
            return Err(Failure::Passing(ImageError::Away { registry: self.client.registry().to_owned(), text }, None));
        }
        Ok(())
    }
}

fn continues_at(response: &ureq::http::Response<ureq::Body>, at: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    response.status() == 206 && range.strip_prefix("bytes ").and_then(|r| r.split('-').next()).is_some_and(|from| from.parse() == Ok(at))
}
