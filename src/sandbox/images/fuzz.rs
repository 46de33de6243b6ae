//! What holds for any bytes: see `crate::fuzz`.

use std::io::{self, Read};
use std::time::Duration;

use super::*;

/// Small: an input is a few kilobytes and may not become much more.
const BYTES: u64 = 1 << 20;

/// A saved image: read as a tar in one piece and byte by byte, then taken into
/// a store. Nothing is unpacked; how trees are kept inside has its own tests.
pub fn archive(data: &[u8]) {
    let data = with_checksums(data);
    let whole = entries(&mut data.as_slice());
    assert_eq!(entries(&mut Drip(&data)), whole, "read byte by byte");
    PLACE.with(|place| {
        let Place { images, stop, .. } = place.as_ref().expect("a folder and a descriptor");
        let until = Until { deadline: Instant::now() + Duration::from_secs(60), stop };
        {
            let _session = images.store.session(&until);
            if let Ok(found) = load::load(&images.store, &images.options.limits, &mut data.as_slice(), None, &until) {
                assert!(!found.is_empty());
            }
        }
        // Without a name, nothing of it stays.
        assert!(images.list().is_ok_and(|names| names.is_empty()));
        assert!(images.prune().is_ok());
    });
}

/// Each entry with its data; `Err` where it is broken, and whatever came
/// before that: a decompressor sees damage sooner in longer pieces.
fn entries(source: &mut dyn Read) -> Result<Vec<String>, ()> {
    let mut found = Vec::new();
    let plain = layer::plain(io::BufReader::new(source)).map_err(drop)?;
    let mut reader = tar::Reader::new(plain.take(BYTES));
    while let Some(entry) = reader.next().map_err(drop)? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(drop)?;
        assert_eq!(data.len() as u64, entry.size);
        assert!(entry.path.len() <= 4096 && entry.link.len() <= 4096);
        found.push(format!("{entry:?} {data:?}"));
    }
    reader.drain().map_err(drop)?;
    Ok(found)
}

/// Gives every block that looks like a header its right checksum: else no
/// change of a header would get past the first test.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        block[154] = 0;
    }
    data
}

/// A store of its own for each thread; in memory, where there is a place for that.
struct Place {
    folder: PathBuf,
    images: Images,
    stop: Stop,
}

impl Place {
    fn new() -> Option<Place> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory } else { Path::new("/tmp") };
        let folder = base.join(format!("hob-fuzz-{}", crate::model::Id::new()));
        let limits = Limits { bytes: BYTES, ..Limits::default() };
        let images = Images::open(&folder, Options { limits, ..Options::default() }).ok()?;
        Some(Place { folder, images, stop: Stop::new().ok()? })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

thread_local! {
    static PLACE: Option<Place> = Place::new();
}

struct Drip<'d>(&'d [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(1);
        self.0.read(&mut buf[..most])
    }
}
