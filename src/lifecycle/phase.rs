//! Where the process is in its life. One writer (`app`), any number of readers.

/// In the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Sockets are bound, first verdicts are awaited.
    Starting,
    Running,
    /// Told to stop: `/readyz` says 503, still accepting for `shutdown_delay`.
    Leaving,
    /// Listeners are closed; open connections may finish.
    Draining,
    /// What is left is cut.
    Cutting,
}

impl Phase {
    pub const ALL: [Phase; 5] =
        [Phase::Starting, Phase::Running, Phase::Leaving, Phase::Draining, Phase::Cutting];

    pub fn label(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Leaving => "leaving",
            Phase::Draining => "draining",
            Phase::Cutting => "cutting",
        }
    }
}
