//! `.dockerignore`: which files of a folder stay at home.

/// One line: what it matches, and whether it brings files back (`!`).
#[derive(Debug)]
struct Rule {
    parts: Vec<String>,
    back: bool,
}

/// The rules of one folder, the last that matches decides.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

impl Ignore {
    /// Rules from the file's text.
    pub(super) fn parse(text: &str) -> Ignore {
        let rules = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(|line| {
            let (line, back) = line.strip_prefix('!').map_or((line, false), |rest| (rest.trim(), true));
            Rule { parts: line.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned).collect(), back }
        });
        Ignore { rules: rules.filter(|r| !r.parts.is_empty()).collect() }
    }

    /// Whether the file or folder at this relative path is left out.
    pub(super) fn leaves_out(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        self.rules.iter().rev().find(|rule| (1..=path.len()).any(|n| matches(&rule.parts, &path[..n]))).is_some_and(|rule| !rule.back)
    }

    /// Whether something below an ignored folder may come back.
    pub(super) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|r| r.back)
    }
}

fn matches(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => (0..=path.len()).any(|n| matches(rest, &path[n..])),
        (Some((first, rest)), Some((name, below))) => matches_name(first.as_bytes(), name.as_bytes()) && matches(rest, below),
        _ => false,
    }
}

/// `*` any run, `?` any one byte.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|n| matches_name(rest, &name[n..])),
        (Some((b'?', rest)), Some((_, more))) => matches_name(rest, more),
        (Some((a, rest)), Some((b, more))) => a == b && matches_name(rest, more),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let ignore = Ignore::parse("# comment\n\n*.log\n/target\nnode_modules/\n**/*.tmp\nsecret?\n!keep.log\na/*/c\n");
        for (path, left_out) in [
            ("x.log", true),
            ("sub/x.log", false),
            ("keep.log", false),
            ("target", true),
            ("target/release/x", true),
            ("src/target", false),
            ("node_modules/a/b", true),
            ("deep/er/x.tmp", true),
            ("x.tmp", true),
            ("secret1", true),
            ("secret12", false),
            ("a/b/c", true),
            ("a/b/d", false),
            ("main.rs", false),
        ] {
            assert_eq!(ignore.leaves_out(path), left_out, "{path}");
        }
        assert!(ignore.has_exceptions() && !Ignore::default().leaves_out("x"));
    }
}
