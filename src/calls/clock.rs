//! The time by which calls are due: the wall clock as it was at the start, and
//! from then on what has passed. A clock that is set meanwhile puts nothing off
//! and calls nothing early.

use std::time::Instant;

use crate::model::Timestamp;

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: Timestamp,
    begun: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { wall: Timestamp::now(), begun: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { own: self.now(), wall: Timestamp::now() }
    }

    fn at(&self, now: Instant) -> Timestamp {
        let passed = now.saturating_duration_since(self.begun).as_millis();
        Timestamp(self.wall.0.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
    }
}

/// One moment by two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The server's own: what is due is compared with it.
    pub(super) own: Timestamp,
    /// The host's, which may be set: what stands in the file is by it, for the
    /// next server begins with it.
    pub(super) wall: Timestamp,
}

impl Moment {
    /// A time of the server's clock as it stands in the file.
    pub(super) fn for_file(&self, own: Timestamp) -> Timestamp {
        Timestamp(self.wall.0.saturating_add(own.0.saturating_sub(self.own.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Whatever the wall clock says meanwhile: it is asked once.
    #[test]
    fn only_what_has_passed_counts() {
        let clock = Clock { wall: Timestamp(5_000), begun: Instant::now() };
        assert_eq!(clock.at(clock.begun + Duration::from_millis(1_500)), Timestamp(6_500));
        assert_eq!(clock.at(clock.begun), Timestamp(5_000));
    }

    #[test]
    fn the_file_keeps_distances() {
        let set_back = Moment { own: Timestamp(90_000), wall: Timestamp(5_000) };
        assert_eq!(set_back.for_file(Timestamp(91_000)), Timestamp(6_000));
    }
}
