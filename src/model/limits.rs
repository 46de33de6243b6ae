//! A function's own limits, given as annotations:
//!
//! | annotation | meaning |
//! |---|---|
//! | `hob/min-instances` | this many containers are kept up, called or not |
//! | `hob/max-instances` | never more than this many at once |
//! | `hob/max-calls` | a container is replaced after this many calls |
//! | `hob/max-age-secs` | a container is replaced when it is this old |
//! | `hob/max-attempts` | a detached call is run at most this often |
//! | `hob/pull` | when its image is pulled: `"if-missing"`, `"always"` (at every start of a container), `"never"` |
//! | `hob/network` | `"none"`: its containers have loopback and nothing else; `"default"`: as without |
//!
//! Values are whole numbers, of the last two a text. The app's annotations hold for all its functions;
//! a function's own win.

use std::time::Duration;

use super::{Annotations, ModelError};

/// See the module's table. 0 = not limited (for `min`: none kept).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FnLimits {
    pub min_instances: usize,
    pub max_instances: usize,
    pub max_calls: u64,
    pub max_age: Option<Duration>,
    /// Runs of a detached call; 0 = the server's setting.
    pub max_attempts: u32,
    pub pull: PullPolicy,
    /// Containers without a network.
    pub no_network: bool,
}

/// When an image is looked for in its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    #[default]
    IfMissing,
    /// At every start: a tag that was moved is followed.
    Always,
    Never,
}

const PULL: &str = "hob/pull";

impl PullPolicy {
    fn parse(json: &str) -> Option<PullPolicy> {
        match json {
            "\"if-missing\"" => Some(PullPolicy::IfMissing),
            "\"always\"" => Some(PullPolicy::Always),
            "\"never\"" => Some(PullPolicy::Never),
            _ => None,
        }
    }
}

const KEYS: [(&str, u64); 5] =
    [("hob/min-instances", 1_000), ("hob/max-instances", 100_000), ("hob/max-calls", u64::MAX), ("hob/max-age-secs", 1 << 32), ("hob/max-attempts", 1_000)];

const NETWORK: &str = "hob/network";

fn number(annotations: &Annotations, key: &str) -> u64 {
    annotations.get(key).and_then(|value| value.get().parse().ok()).unwrap_or(0)
}

impl FnLimits {
    /// Reads the limits; anything that is no number counts as not given.
    pub(super) fn read(annotations: &Annotations) -> FnLimits {
        let size = |key| usize::try_from(number(annotations, key)).unwrap_or(usize::MAX);
        FnLimits {
            min_instances: size("hob/min-instances"),
            max_instances: size("hob/max-instances"),
            max_calls: number(annotations, "hob/max-calls"),
            max_age: Some(number(annotations, "hob/max-age-secs")).filter(|s| *s > 0).map(Duration::from_secs),
            max_attempts: u32::try_from(number(annotations, "hob/max-attempts")).unwrap_or(u32::MAX),
            pull: annotations.get(PULL).and_then(|value| PullPolicy::parse(value.get())).unwrap_or_default(),
            no_network: annotations.get(NETWORK).is_some_and(|value| value.get() == "\"none\""),
        }
    }
}

/// Refuses values of the keys above that mean nothing.
pub(super) fn check(annotations: &Annotations) -> Result<(), ModelError> {
    for (key, most) in KEYS {
        if let Some(value) = annotations.get(key)
            && value.get() != "\"\""
            && !value.get().parse::<u64>().is_ok_and(|n| n <= most)
        {
            return Err(ModelError::AnnotationLimit { key, most });
        }
    }
    if annotations.get(PULL).is_some_and(|value| value.get() != "\"\"" && PullPolicy::parse(value.get()).is_none()) {
        return Err(ModelError::AnnotationPull);
    }
    match annotations.get(NETWORK).map(|value| value.get()) {
        None | Some("\"none\"" | "\"default\"" | "\"\"") => Ok(()),
        Some(_) => Err(ModelError::AnnotationNetwork { key: NETWORK }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    fn annotations(key: &str, value: &str) -> Annotations {
        [(key.to_owned(), RawValue::from_string(value.to_owned()).expect("JSON"))].into()
    }

    #[test]
    fn pull_policies() {
        assert_eq!(FnLimits::read(&annotations("hob/pull", "\"always\"")).pull, PullPolicy::Always);
        assert_eq!(FnLimits::read(&annotations("hob/pull", "\"\"")).pull, PullPolicy::IfMissing);
        assert!(check(&annotations("hob/pull", "\"never\"")).is_ok() && check(&annotations("hob/pull", "\"\"")).is_ok());
        for bad in ["\"sometimes\"", "true", "[\"always\"]"] {
            assert!(check(&annotations("hob/pull", bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_or_none() {
        assert!(FnLimits::read(&annotations("hob/network", "\"none\"")).no_network);
        assert!(!FnLimits::read(&annotations("hob/network", "\"default\"")).no_network);
        for (value, good) in [("\"none\"", true), ("\"default\"", true), ("\"bridge\"", false), ("1", false), ("{}", false)] {
            assert_eq!(check(&annotations("hob/network", value)).is_ok(), good, "{value}");
        }
    }

    #[test]
    fn numbers_only() {
        assert_eq!(FnLimits::read(&annotations("hob/max-calls", "7")).max_calls, 7);
        assert_eq!(FnLimits::read(&annotations("other", "7")), FnLimits::default());
        assert!(check(&annotations("hob/max-instances", "3")).is_ok());
        for bad in ["\"3\"", "-1", "1.5", "[1]", "1e3", "100001"] {
            assert!(check(&annotations("hob/max-instances", bad)).is_err(), "{bad}");
        }
    }

    /// Whoever adds a key tells users of it.
    #[test]
    fn every_key_is_documented() {
        let documents = [include_str!("../../docs/openapi.yaml"), include_str!("../../docs/COMPATIBILITY.md")];
        for key in KEYS.iter().map(|(key, _)| *key).chain([PULL, NETWORK, "hob/invoke-type", "hob/image-id"]) {
            assert!(documents.iter().all(|document| document.contains(key)), "{key}");
        }
    }
}
