//! Spreads containers over the configured networks: the least used is next.

use std::collections::HashMap;

use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(super) struct Networks {
    names: Vec<String>,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    counts: Vec<usize>,
    /// Index of each live container's network, by container name.
    by_container: HashMap<String, usize>,
}

impl Networks {
    pub(super) fn new(names: Vec<String>) -> Networks {
        let counts = vec![0; names.len()];
        Networks { names, used: Mutex::new(Used { counts, by_container: HashMap::new() }) }
    }

    /// The network for a new container; `None` when none is configured. A
    /// container that has one keeps it.
    pub(super) fn assign(&self, container: &str) -> Option<&str> {
        let mut used = self.used.lock();
        if let Some(index) = used.by_container.get(container) {
            return self.names.get(*index).map(String::as_str);
        }
        let index = used.counts.iter().enumerate().min_by_key(|(_, count)| **count)?.0;
        used.counts[index] += 1;
        used.by_container.insert(container.to_owned(), index);
        self.names.get(index).map(String::as_str)
    }

    /// The container is gone.
    pub(super) fn release(&self, container: &str) {
        let mut used = self.used.lock();
        if let Some(index) = used.by_container.remove(container) {
            used.counts[index] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_used_first() {
        let networks = Networks::new(vec!["a".into(), "b".into()]);
        assert_eq!(networks.assign("1"), Some("a"));
        assert_eq!(networks.assign("1"), Some("a"));
        assert_eq!(networks.assign("2"), Some("b"));
        assert_eq!(networks.assign("3"), Some("a"));
        networks.release("1");
        networks.release("1");
        networks.release("3");
        networks.release("never seen");
        assert_eq!(networks.assign("4"), Some("a"));
        assert_eq!(Networks::default().assign("1"), None);
    }
}
