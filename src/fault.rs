//! Faults on purpose, for tests of the whole server.
//!
//! Owns: the rules a test gave (`HOB_FAULTS`) and how often each point was
//! passed. Called by: every room with a point, `server` (arms). Blocks on:
//! nothing. Does not: exist in release builds: a point there is no code at
//! all, and the setting is unknown.
//!
//! `HOB_FAULTS=spool.write@2=disk-full,thread.edge@3-5=no-thread` makes the
//! second passage of `spool.write` fail as on a full disk, and the third to
//! fifth start of a thread whose name begins with `edge`. `@4+` means from the
//! fourth on.

#[cfg(not(debug_assertions))]
use std::io;

/// Passes a point: an error, or a panic, when a test asked for one here.
///
/// # Errors
/// What the system call in this place could fail with.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn at(_point: &str) -> io::Result<()> {
    Ok(())
}

/// A point with a name of its own beneath it: `thread` and the thread's name.
///
/// # Errors
/// As [`at`].
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn at_named(_point: &str, _name: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use armed::{arm, at, at_named};

#[cfg(debug_assertions)]
mod armed {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;

    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();

    #[derive(Debug)]
    struct Rule {
        point: String,
        from: u64,
        to: u64,
        kind: Kind,
        passed: AtomicU64,
    }

    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Panic,
        Hangs,
        Fails(Errno),
    }

    /// Sets the rules, once in a process's life.
    ///
    /// # Errors
    /// The part that is not understood.
    pub fn arm(text: &str) -> Result<(), String> {
        let rules = text.split(',').filter(|part| !part.is_empty()).map(|part| rule(part).ok_or_else(|| format!("HOB_FAULTS: '{part}' is not POINT@N=KIND")));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        RULES.set(rules).map_err(|_| "HOB_FAULTS: armed already".to_owned())
    }

    fn rule(text: &str) -> Option<Rule> {
        let (place, kind) = text.split_once('=')?;
        let (point, which) = place.split_once('@')?;
        let kind = match kind {
            "panic" => Kind::Panic,
            "hang" => Kind::Hangs,
            "disk-full" => Kind::Fails(Errno::NOSPC),
            "no-descriptor" => Kind::Fails(Errno::MFILE),
            "no-thread" => Kind::Fails(Errno::AGAIN),
            "write-fails" => Kind::Fails(Errno::PIPE),
            _ => return None,
        };
        let (from, to) = match which.strip_suffix('+') {
            Some(from) => (from.parse().ok()?, u64::MAX),
            None => match which.split_once('-') {
                Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
                None => (which.parse().ok()?, which.parse().ok()?),
            },
        };
        Some(Rule { point: point.to_owned(), from, to, kind, passed: AtomicU64::new(0) })
    }

    /// See the release build's.
    pub fn at(point: &str) -> io::Result<()> {
        RULES.get().map_or(Ok(()), |rules| pass(rules, point, |rule| rule == point))
    }

    /// See the release build's.
    pub fn at_named(point: &str, name: &str) -> io::Result<()> {
        let named = |rule: &str| rule.strip_prefix(point).and_then(|rest| rest.strip_prefix('.')).is_some_and(|start| name.starts_with(start));
        RULES.get().map_or(Ok(()), |rules| pass(rules, point, named))
    }

    fn pass(rules: &[Rule], point: &str, matches: impl Fn(&str) -> bool) -> io::Result<()> {
        for rule in rules.iter().filter(|rule| matches(&rule.point)) {
            let passage = rule.passed.fetch_add(1, Ordering::SeqCst) + 1;
            if !(rule.from..=rule.to).contains(&passage) {
                continue;
            }
            log::warn!("fault on purpose: {}, passage {passage}", rule.point);
            match rule.kind {
                Kind::Hangs => loop {
                    std::thread::park();
                },
                Kind::Panic => panic!("a fault on purpose at {point}"),
                Kind::Fails(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_named_passages_fail_and_no_others() {
            let rules: Vec<Rule> = ["a@2=disk-full", "thread.edge-@1-2=no-thread", "b@2+=panic"].iter().map(|text| rule(text).expect("a rule")).collect();
            let fails = |point: &str| pass(&rules, point, |rule| rule == point).is_err();
            assert_eq!([fails("a"), fails("a"), fails("a"), fails("c")], [false, true, false, false]);
            let spawn = |name: &str| pass(&rules, "thread", |rule| rule.strip_prefix("thread.").is_some_and(|start| name.starts_with(start))).is_err();
            assert_eq!([spawn("edge-poll"), spawn("hot"), spawn("edge-1"), spawn("edge-2")], [true, false, true, false]);
            assert!(!fails("b"));
            assert!(std::panic::catch_unwind(|| fails("b")).is_err());
            for wrong in ["a", "a@x=panic", "a@1", "a@1=nonsense", "@=", "a@1-=panic"] {
                assert!(rule(wrong).is_none(), "{wrong}");
            }
        }
    }
}
