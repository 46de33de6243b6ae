//! Bounds on what an image may make of this machine.

/// A hostile image costs at most this much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers unpacked, and of all blobs of one image.
    pub bytes: u64,
    /// Entries of all layers together.
    pub entries: u64,
    /// Folders in folders.
    pub depth: usize,
    pub layers: usize,
    /// Bytes that come out of a layer for each that goes in …
    pub ratio: u64,
    /// … counted beyond this many: small files of zeros are common.
    pub ratio_from: u64,
    /// A manifest, an index, a configuration: bytes.
    pub document: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 16 << 30, entries: 1_000_000, depth: 100, layers: 127, ratio: 250, ratio_from: 64 << 20, document: 4 << 20 }
    }
}
