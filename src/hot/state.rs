//! The states of a container and every legal move between them. INVARIANT: no
//! other move happens; each is checked where it is recorded (`Pulse::become_`).
//!
//! ```text
//! Reserved → Creating → Booting → Idle ⇄ Busy        Idle → Freezing → Frozen → Thawing → Busy
//!    └→ Gone ← Stopping ← every state but Reserved and Gone
//! ```

/// Where a container is in its life. Ownership decides; this is for eyes,
/// metrics and asserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Reserved,
    Creating,
    Booting,
    Idle,
    Busy,
    Freezing,
    Frozen,
    Thawing,
    Stopping,
    Gone,
}

pub(super) const STATES: [State; 10] =
    [State::Reserved, State::Creating, State::Booting, State::Idle, State::Busy, State::Freezing, State::Frozen, State::Thawing, State::Stopping, State::Gone];

impl State {
    /// Whether a container in this state may become `next`.
    pub const fn can_become(self, next: State) -> bool {
        use State::*;
        matches!(
            (self, next),
            (Reserved, Creating | Gone)
                | (Creating, Booting | Stopping)
                | (Booting, Idle | Busy | Stopping)
                | (Idle, Busy | Freezing | Stopping)
                | (Busy, Idle | Busy | Stopping)
                | (Freezing, Idle | Frozen | Stopping)
                | (Frozen, Thawing | Stopping)
                | (Thawing, Busy | Stopping)
                | (Stopping, Gone)
        )
    }

    /// Who has it in this state.
    pub const fn owner(self) -> &'static str {
        match self {
            State::Reserved | State::Creating | State::Booting => "start lane",
            State::Idle | State::Frozen => "queue",
            State::Busy | State::Thawing => "call",
            State::Freezing => "launcher",
            State::Stopping => "stop lane",
            State::Gone => "nobody",
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            State::Reserved => "reserved",
            State::Creating => "creating",
            State::Booting => "booting",
            State::Idle => "idle",
            State::Busy => "busy",
            State::Freezing => "freezing",
            State::Frozen => "frozen",
            State::Thawing => "thawing",
            State::Stopping => "stopping",
            State::Gone => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, as text: rows are "from", columns "to".
    #[test]
    fn full_table() {
        let table: Vec<String> = STATES.iter().map(|from| STATES.iter().map(|to| if from.can_become(*to) { 'x' } else { '.' }).collect()).collect();
        let expected = [
            //RCBIBFFTSG
            ".x.......x", // Reserved
            "..x.....x.", // Creating
            "...xx...x.", // Booting
            "....xx..x.", // Idle
            "...xx...x.", // Busy
            "...x..x.x.", // Freezing
            ".......xx.", // Frozen
            "....x...x.", // Thawing
            ".........x", // Stopping
            "..........", // Gone
        ];
        assert_eq!(table, expected);
    }
}
