//! Image references and what they become in a path.

use std::fmt;

/// The text cannot be an image's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid image name: {why}")]
pub struct NameError {
    pub text: String,
    pub why: &'static str,
}

/// An image reference, split the way registries see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Host and port; empty = the engine's default registry.
    pub registry: String,
    /// With the implied `library/` of the default registry's own images.
    pub repository: String,
    /// A tag, or a digest (`sha256:…`), which wins over a tag.
    pub reference: String,
    /// What the user wrote before the tag or digest.
    written: String,
}

const MAX_LEN: usize = 512;

impl ImageName {
    /// Splits `text` (spec agent §8.9).
    ///
    /// # Errors
    /// `NameError` for what no registry or engine could take, and for what
    /// would leave its place in a path (`..`).
    pub fn parse(text: &str) -> Result<ImageName, NameError> {
        let wrong = |why| Err(NameError { text: text.chars().take(80).collect(), why });
        if text.is_empty() || text.len() > MAX_LEN {
            return wrong("it must have 1 to 512 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&b)) {
            return wrong("it has characters that no image name may have");
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let after_slash = name.rfind('/').map_or(0, |at| at + 1);
        let (written, tag) = match name[after_slash..].find(':') {
            Some(at) => (&name[..after_slash + at], Some(&name[after_slash + at + 1..])),
            None => (name, None),
        };
        let reference = digest.or(tag).unwrap_or("latest");
        if reference.is_empty() || reference.contains('/') || tag == Some("") {
            return wrong("its tag or digest is empty or has a slash");
        }
        let (registry, rest) = match written.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("", written),
        };
        if rest.split('/').any(|part| matches!(part, "" | "." | "..")) || matches!(registry, "." | "..") {
            return wrong("a part between slashes is empty or made of dots");
        }
        let repository = if registry.is_empty() && !rest.contains('/') { format!("library/{rest}") } else { rest.to_owned() };
        Ok(ImageName { registry: registry.to_owned(), repository, reference: reference.to_owned(), written: written.to_owned() })
    }

    /// The `fromImage` of a pull: what the user wrote, without tag or digest.
    pub fn from_image(&self) -> &str {
        &self.written
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.reference.contains(':') { '@' } else { ':' };
        write!(f, "{}{separator}{}", self.written, self.reference)
    }
}

/// Percent-encodes for a path segment or a query value. `keep_slash` for image
/// names, which the engine takes with their slashes.
pub fn encode(text: &str, keep_slash: bool) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && b"/:@".contains(&byte));
        if plain {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn samples_of_the_spec() {
        for (text, registry, repository, reference) in [
            ("mongo", "", "library/mongo", "latest"),
            ("quay.com:8080/a/b:v2", "quay.com:8080", "a/b", "v2"),
            ("x:1@sha256:2", "", "library/x", "sha256:2"),
            ("localhost/x", "localhost", "x", "latest"),
            ("fnproject/hello:0.1", "", "fnproject/hello", "0.1"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000", "x", "latest"),
        ] {
            let name = ImageName::parse(text).expect(text);
            assert_eq!((name.registry.as_str(), name.repository.as_str(), name.reference.as_str()), (registry, repository, reference), "{text}");
        }
        assert_eq!(ImageName::parse("x:1@sha256:2").expect("valid").from_image(), "x");
        assert_eq!(ImageName::parse("a.b:5/x").expect("valid").to_string(), "a.b:5/x:latest");
    }

    #[test]
    fn impossible_names() {
        for text in ["", "a b", "x:", "x@", "../containers/x", "a//b", "a/..", "a/b/", "x\n", "é", "a?b", "a#b", "a%2e"] {
            assert!(ImageName::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_text_is_safe_in_a_target(text in any::<String>()) {
            let encoded = encode(&text, false);
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
        }

        #[test]
        fn no_text_panics_or_leaves_its_place(text in any::<String>()) {
            if let Ok(name) = ImageName::parse(&text) {
                prop_assert!(!name.repository.split('/').any(|p| p == ".." || p.is_empty()));
            }
        }
    }
}
