//! The static probes that docs/PERFORMANCE.md names are in the program, with the
//! arguments it promises.

use std::collections::BTreeMap;

#[test]
fn each_probe_is_in_the_program() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_hob")).expect("the program");
    let mut found = BTreeMap::new();
    for at in positions(&program, b"stapsdt\0") {
        // Of an ELF note: three addresses, then provider, name, arguments.
        let Some(text) = program.get(at + 8 + 24..) else { continue };
        let parts: Vec<_> = text.split(|b| *b == 0).take(3).map(|part| std::str::from_utf8(part).unwrap_or("?")).collect();
        if let ["hob", name, arguments] = parts[..] {
            found.insert(name.to_owned(), arguments.split_whitespace().count());
        }
    }
    let promised = [("dispatch", 2), ("queue", 2), ("reply", 3), ("slot", 3)];
    assert_eq!(found, promised.map(|(name, arguments)| (name.to_owned(), arguments)).into());
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PERFORMANCE.md")).expect("the page");
    for (name, _) in promised {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is explained");
    }
}

fn positions<'b>(bytes: &'b [u8], what: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    bytes.windows(what.len()).enumerate().filter(move |(_, window)| *window == what).map(|(at, _)| at)
}
