//! The sources keep the house's rules: arrows between rooms, the head of each
//! room, sizes, no unwrap outside tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A room and the rooms it may name (`use crate::…`). `server` wires all and
/// `metrics` and `fault` are leaves for everybody; every other arrow is a decision: change
/// ARCHITECTURE.md first.
const ARROWS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("main", &["cli"]),
    ("cli", &["config", "docker", "doctor", "model", "pool", "registry", "sandbox", "server"]),
    ("config", &[]),
    ("doctor", &["config", "docker", "model", "pool", "sandbox"]),
    ("edge", &["call", "calls", "config", "http1", "model", "pool", "respond", "store", "uds"]),
    ("http1", &[]),
    ("agent", &["call", "config", "extend", "hot", "model", "pool", "uds"]),
    ("call", &["model"]),
    ("extend", &["call", "driver", "model"]),
    ("calls", &["agent", "call", "config", "model", "pool", "respond"]),
    ("hot", &["call", "driver", "model", "pool", "syslog", "uds"]),
    ("syslog", &["model", "pool"]),
    ("uds", &["call", "http1", "model", "pool"]),
    ("driver", &["call", "model"]),
    ("docker", &["call", "config", "driver", "model", "pool", "registry", "uds"]),
    ("registry", &["pool"]),
    ("sandbox", &["call", "config", "driver", "model", "pool", "registry", "uds"]),
    ("api", &["calls", "model", "pool", "respond", "store"]),
    ("model", &[]),
    ("store", &["model"]),
    ("respond", &["call", "model"]),
    ("pool", &[]),
    ("metrics", &[]),
    ("fault", &[]),
    // Of tests and of the fuzzer only.
    ("fuzz", &["cli", "edge", "http1", "model", "sandbox"]),
];

struct Source {
    /// Relative to the project.
    path: PathBuf,
    text: String,
    /// Without its test code.
    code: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let code = without_tests(&text);
                found.push(Source { path: path.strip_prefix(root).expect("inside").to_owned(), text, code });
            }
        }
    }
    assert!(!found.is_empty());
    found
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.components().any(|c| {
            let name = c.as_os_str().to_string_lossy();
            let name = name.trim_end_matches(".rs");
            ["tests", "testing", "schedules", "fuzz"].contains(&name) || name.starts_with("tests_") || name.ends_with("_tests")
        })
    }

    fn room(&self) -> String {
        let second = self.path.components().nth(1).expect("below src");
        second.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    }
}

/// Drops what follows a `#[cfg(…test…)]` that opens a module in the file's own
/// last part, and comment lines.
fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let end = (0..lines.len())
        .find(|&n| lines[n].starts_with("#[cfg(") && lines[n].contains("test") && lines.get(n + 1).is_some_and(|l| l.starts_with("mod ") && l.ends_with('{')));
    lines[..end.unwrap_or(lines.len())].iter().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

/// Rooms named by `crate::room` anywhere, and by `use crate::{a::…, b::…}`.
fn named_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            rooms.insert(name);
        } else if let Some(group) = part.strip_prefix('{') {
            let inside = group.split(';').next().unwrap_or_default();
            let mut depth = 0;
            let mut word = String::new();
            for c in inside.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => word.clear(),
                    ':' if depth == 0 => drop(rooms.insert(std::mem::take(&mut word))),
                    c if depth == 0 && !c.is_whitespace() => word.push(c),
                    _ => {}
                }
            }
        }
    }
    rooms.remove("");
    rooms
}

#[test]
fn arrows_between_rooms_are_the_drawn_ones() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| !s.is_test()) {
        let room = source.room();
        if room == "server" {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room {room} is not in the table", source.path.display()));
            continue;
        };
        for named in named_rooms(&source.code) {
            // Only rooms: `crate::CONST` and macros of the crate are no arrows.
            let is_room = named == "server" || ARROWS.iter().any(|(name, _)| *name == named);
            if is_room && named != room && named != "metrics" && named != "fault" && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{}: {room} → {named} is not drawn", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_arrow_reader_reads() {
    let code = "use crate::call::Call;\nuse crate::{agent::Agent, hot::{Hot, x::Y}};\nfn f() { crate::metrics::X.add(1) }";
    let rooms: Vec<_> = named_rooms(code).into_iter().collect();
    assert_eq!(rooms, ["agent", "call", "hot", "metrics"]);
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nb\n}\n"), "a\n");
}

#[test]
fn every_room_says_what_it_is() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| !s.is_test()) {
        let parts = source.path.components().count();
        // The room itself: src/x/mod.rs or src/x.rs.
        if !(source.path.ends_with("mod.rs") && parts == 3) {
            continue;
        }
        let head: String = source.text.lines().take_while(|l| l.starts_with("//!")).collect::<Vec<_>>().join(" ").replace("//! ", "");
        let missing: Vec<_> = ["Owns", "Called by", "Blocks on", "Does not"].into_iter().filter(|word| !head.contains(word)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{}: its head lacks {missing:?}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    // Tables of cases may be longer than code.
    let limit = |source: &Source| if source.is_test() { 800 } else { 700 };
    let all = sources("src").into_iter().chain(sources("tests"));
    let long: Vec<_> = all.filter(|s| s.text.lines().count() > limit(s)).map(|s| format!("{}: {} lines", s.path.display(), s.text.lines().count())).collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn errors_are_handled_outside_tests() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| !s.is_test()) {
        for (n, line) in source.code.lines().enumerate() {
            if line.contains(".unwrap()") {
                wrong.push(format!("{} (code line {n}): {}", source.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_scenario_is_switched_off() {
    let switch = concat!("#[", "ignore");
    let off: Vec<_> = sources("tests").into_iter().filter(|s| s.text.contains(switch)).map(|s| s.path).collect();
    assert!(off.is_empty(), "{off:?}");
}

/// Names of modules, functions and types in the sources.
fn known_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources("src").into_iter().chain(sources("tests")) {
        let parts = source.path.components().map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned());
        names.extend(parts);
        let mut words = source.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        while let Some(word) = words.next() {
            if ["fn", "mod", "struct", "enum", "trait"].contains(&word) {
                names.extend(words.next().map(str::to_owned));
            }
        }
    }
    names
}

/// `a::b::c` in a document's backticks, without the arguments around it.
fn paths_in(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let paths = quoted.map(|word| word.trim_start_matches("…::").trim_end_matches("::"));
    let is_path =
        |word: &&str| word.contains("::") && word.split("::").all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    paths.filter(is_path).map(str::to_owned).collect()
}

/// A promise whose test was renamed is a promise without a test.
#[test]
fn what_documents_name_is_there() {
    let (root, names) = (Path::new(env!("CARGO_MANIFEST_DIR")), known_names());
    // A filter of tests may be the beginning of their names.
    let begins_a_name = |part: &str| names.range(part.to_owned()..).next().is_some_and(|name| name.starts_with(part));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in ["SPECIFICATION.md", "ARCHITECTURE.md", "docs/COMPATIBILITY.md", "docs/SECURITY.md", "docs/TESTING.md"] {
        for path in paths_in(&std::fs::read_to_string(root.join(document)).expect("UTF-8")) {
            seen += 1;
            if let Some(missing) = path.split("::").find(|part| !begins_a_name(part)) {
                wrong.push(format!("{document}: {path}: there is no {missing}"));
            }
        }
    }
    assert!(seen > 150, "only {seen} names were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(paths_in("x `a::b` and `--lib c::D` but `GET /x::` nor `e`, `…::f::g`"), ["a::b", "c::D", "f::g"]);
}
