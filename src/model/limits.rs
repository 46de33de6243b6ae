//! A function's own scheduling limits, given as annotations:
//!
//! | annotation | meaning |
//! |---|---|
//! | `hob/min-instances` | this many containers are kept up, called or not |
//! | `hob/max-instances` | never more than this many at once |
//! | `hob/max-calls` | a container is replaced after this many calls |
//! | `hob/max-age-secs` | a container is replaced when it is this old |
//! | `hob/max-attempts` | a detached call is run at most this often |
//! | `hob/pull` | when its image is pulled: `"if-missing"`, `"always"` (at every start of a container), `"never"` |
//!
//! Values are whole numbers, of the last one a text. The app's annotations hold for all its functions;
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
        }
    }
}

/// Refuses values of the keys above that are no numbers or too large.
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
    Ok(())
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
    fn numbers_only() {
        assert_eq!(FnLimits::read(&annotations("hob/max-calls", "7")).max_calls, 7);
        assert_eq!(FnLimits::read(&annotations("other", "7")), FnLimits::default());
        assert!(check(&annotations("hob/max-instances", "3")).is_ok());
        for bad in ["\"3\"", "-1", "1.5", "[1]", "1e3", "100001"] {
            assert!(check(&annotations("hob/max-instances", bad)).is_err(), "{bad}");
        }
    }
}
