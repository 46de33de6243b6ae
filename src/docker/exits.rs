//! Who is to be told about a container's end. INVARIANT: exactly once, whoever
//! learns of it first.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::call::{EXIT_UNKNOWN, Exit};
use crate::driver::ExitSink;

/// The exit status of a container that vanished without telling one.
pub(super) const UNKNOWN_CODE: i64 = EXIT_UNKNOWN;
/// SIGKILL, which is also what the out-of-memory killer sends.
const KILLED: i64 = 137;

struct Entry {
    sink: Arc<dyn ExitSink>,
    /// The kernel killed one of its processes for memory.
    oom: bool,
    /// We are removing it: its end needs no explanation.
    removing: bool,
}

/// Live containers by the engine's id. A sink leaves the table with the one
/// who tells it: that is what makes it "once".
#[derive(Default)]
pub(super) struct Exits {
    entries: Mutex<HashMap<String, Entry>>,
}

impl std::fmt::Debug for Exits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exits({})", self.entries.lock().len())
    }
}

impl Exits {
    pub(super) fn register(&self, id: &str, sink: Arc<dyn ExitSink>) {
        self.entries.lock().insert(id.to_owned(), Entry { sink, oom: false, removing: false });
    }

    /// Its start failed: nobody is to be told.
    pub(super) fn cancel(&self, id: &str) {
        self.entries.lock().remove(id);
    }

    pub(super) fn note_oom(&self, id: &str) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.oom = true;
        }
    }

    pub(super) fn note_removal(&self, id: &str) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.removing = true;
        }
    }

    /// Whether somebody waits for this end and `code` alone does not say why.
    pub(super) fn is_unexplained(&self, id: &str, code: i64) -> bool {
        self.entries.lock().get(id).is_some_and(|e| code == KILLED && !e.oom && !e.removing)
    }

    /// The container ended. Tells its sink, if nobody did before.
    pub(super) fn ended(&self, id: &str, code: i64, oom: bool) {
        let Some(entry) = self.entries.lock().remove(id) else { return };
        entry.sink.exited(Exit { code, oom_killed: oom || (entry.oom && code == KILLED) });
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.entries.lock().keys().cloned().collect()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.entries.lock().contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::testing::Told;

    #[test]
    fn told_once_whoever_comes_first() {
        let (exits, told) = (Exits::default(), Told::new());
        exits.register("a", told.clone());
        exits.ended("a", 3, false);
        exits.ended("a", 137, true);
        assert_eq!(told.all(), [Exit { code: 3, oom_killed: false }]);
        assert!(!exits.contains("a") && exits.ids().is_empty());
    }

    #[test]
    fn out_of_memory_is_remembered_until_the_end() {
        let (exits, told) = (Exits::default(), Told::new());
        exits.register("a", told.clone());
        assert!(exits.is_unexplained("a", 137) && !exits.is_unexplained("a", 1));
        exits.note_oom("a");
        assert!(!exits.is_unexplained("a", 137));
        exits.ended("a", 137, false);
        // A function that outlives the killing of its child and ends by itself.
        exits.register("b", told.clone());
        exits.note_oom("b");
        exits.ended("b", 1, false);
        assert_eq!(told.all(), [Exit { code: 137, oom_killed: true }, Exit { code: 1, oom_killed: false }]);
    }

    #[test]
    fn a_removal_needs_no_explanation_and_a_cancelled_start_no_word() {
        let (exits, told) = (Exits::default(), Told::new());
        exits.register("a", told.clone());
        exits.note_removal("a");
        assert!(!exits.is_unexplained("a", 137));
        exits.cancel("a");
        exits.ended("a", 137, false);
        assert!(told.all().is_empty());
    }
}
