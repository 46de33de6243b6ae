//! Which images functions may have (`HOB_IMAGE_ALLOW`).

/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Its other names.
const ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// The images that are allowed. Without a pattern every image is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageAllow {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`.
    All,
    /// All names that begin so: `registry.io/team/*`.
    Prefix(String),
    /// A repository, any tag or digest of it: `registry.io/team/x`.
    Repository(String),
    /// One tag or digest: `registry.io/team/x:1`.
    Exact(String),
}

impl ImageAllow {
    /// From the setting's words. A `*` counts at a word's end only; elsewhere
    /// no image's name has one, so nothing matches.
    pub fn new(words: &[String]) -> ImageAllow {
        let pattern = |word: &String| match word.strip_suffix('*') {
            Some("") => Pattern::All,
            // Whole first, so that `registry.io*` is never the start of another
            // registry's name.
            Some(start) => Pattern::Prefix(with_registry(start)),
            None => match split(&with_registry(word)) {
                (repository, "") => Pattern::Repository(repository.to_owned()),
                (repository, reference) => Pattern::Exact(format!("{repository}{reference}")),
            },
        };
        ImageAllow { patterns: words.iter().map(pattern).collect() }
    }

    /// Whether `image` may run.
    pub fn allows(&self, image: &str) -> bool {
        if self.patterns.is_empty() {
            return true;
        }
        let full = with_registry(image);
        let (repository, reference) = split(&full);
        let whole = format!("{repository}{}", if reference.is_empty() { ":latest" } else { reference });
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::All => true,
            Pattern::Prefix(start) => whole.starts_with(start),
            Pattern::Repository(allowed) => repository == allowed,
            Pattern::Exact(allowed) => whole == *allowed,
        })
    }
}

/// `alpine` is `docker.io/library/alpine`, `team/x` is `docker.io/team/x`.
fn with_registry(name: &str) -> String {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            let registry = if ALIASES.contains(&first) { DEFAULT_REGISTRY } else { first };
            let library = if registry == DEFAULT_REGISTRY && !rest.contains('/') && !rest.is_empty() { "library/" } else { "" };
            format!("{registry}/{library}{rest}")
        }
        Some(_) => format!("{DEFAULT_REGISTRY}/{name}"),
        None => format!("{DEFAULT_REGISTRY}/library/{name}"),
    }
}

/// Repository, and its reference with the `:` or `@` before it: a digest wins
/// over a tag, which then says nothing.
fn split(name: &str) -> (&str, &str) {
    let (before, digest) = name.find('@').map_or((name, ""), |at| name.split_at(at));
    let slash = before.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = before[slash..].find(':').map_or((before, ""), |at| before.split_at(slash + at));
    (repository, if digest.is_empty() { tag } else { digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(words: &str) -> ImageAllow {
        ImageAllow::new(&words.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_list_and_with_a_star_all_are_allowed() {
        assert!(ImageAllow::default().allows("anything/at:all"));
        assert!(allow("*").allows("registry.io/x"));
    }

    #[test]
    fn what_matches_and_what_does_not() {
        for (words, image, allowed) in [
            ("alpine", "alpine", true),
            ("alpine", "alpine:3.20", true),
            ("alpine", "docker.io/library/alpine:3", true),
            ("docker.io/alpine", "alpine", true),
            ("index.docker.io/library/alpine", "alpine", true),
            ("alpine", "evil.io/alpine", false),
            ("alpine", "team/alpine", false),
            ("alpine", "alpine2", false),
            ("team/x:1", "team/x:1", true),
            ("team/x:1", "team/x:2", false),
            ("team/x:1", "team/x", false),
            ("team/x:latest", "team/x", true),
            // The digest decides what runs, whatever tag is written before it.
            ("team/x:1", "team/x:1@sha256:abc", false),
            ("team/x@sha256:abc", "team/x:9@sha256:abc", true),
            ("team/x@sha256:abc", "team/x", false),
            ("team/x", "team/x@sha256:abc", true),
            ("ghcr.io/team/*", "ghcr.io/team/x:1", true),
            ("ghcr.io/team/*", "ghcr.io/team-evil/x:1", false),
            ("ghcr.io/team/*", "ghcr.io/team", false),
            ("ghcr.io/team/x:1.*", "ghcr.io/team/x:1.7", true),
            ("ghcr.io/team/x:1.*", "ghcr.io/team/x:2", false),
            // No start of a registry's name is ever enough.
            ("ghcr.io*", "ghcr.io.evil.com/x", false),
            ("ghcr.io*", "ghcr.io/x", false),
            ("ghcr.io/*", "ghcr.io/a/b/c", true),
            ("ghcr.io/*", "ghcr.io.evil.com/x", false),
            ("team/*", "team/x", true),
            ("team/*", "evil.io/team/x", false),
            ("localhost:5000/*", "localhost:5000/x", true),
            ("localhost:5000/*", "localhost:50001/x", false),
            ("a,b/*", "b/c", true),
            ("a,b/*", "c", false),
            ("a*b", "aXb", false),
        ] {
            assert_eq!(allow(words).allows(image), allowed, "{words} {image}");
        }
    }
}
