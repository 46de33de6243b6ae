//! What must hold for any bytes whatever, one function per parser.
//!
//! Owns: the list of fuzz targets and the replay of their corpus. Called by:
//! `fuzz/fuzz_targets` (coverage-guided, `make fuzz`) and the tests here, which
//! replay `fuzz/corpus` in `make test`. Blocks on: nothing. Does not: exist in
//! the server; each room states its own properties in its `fuzz.rs`.
//!
//! A property is more than "no panic": a second, naive reading must agree, and
//! bytes that come in pieces must mean what they mean in one.

pub use crate::cli::fuzz::func_yaml;
pub use crate::edge::fuzz::trigger;
pub use crate::http1::fuzz::{chunked, request_head, response_head};
pub use crate::model::fuzz::id;
pub use crate::sandbox::images::fuzz::archive;

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Property = fn(&[u8]);

    /// Every input of the corpus, and every one with its tail cut or a byte
    /// changed: the same on each run.
    fn replay(name: &str, property: Property, variants: usize) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for file in files {
            let input = std::fs::read(&file).expect("an input");
            println!("{}", file.display());
            property(&input);
            for i in 0..variants.min(input.len()) {
                let at = i * input.len() / variants.min(input.len());
                property(&input[..at]);
                let mut changed = input.clone();
                changed[at] ^= 1 << (i % 8);
                property(&changed);
            }
        }
    }

    #[test]
    fn corpus_of_request_heads() {
        replay("request_head", super::request_head, 16);
    }

    #[test]
    fn corpus_of_response_heads() {
        replay("response_head", super::response_head, 16);
    }

    #[test]
    fn corpus_of_chunked_bodies() {
        replay("chunked", super::chunked, 16);
    }

    #[test]
    fn corpus_of_ids() {
        replay("id", super::id, 26);
    }

    #[test]
    fn corpus_of_triggers() {
        replay("trigger", super::trigger, 16);
    }

    #[test]
    fn corpus_of_function_files() {
        replay("func_yaml", super::func_yaml, 16);
    }

    #[test]
    fn corpus_of_archives() {
        replay("archive", super::archive, 2);
    }
}
