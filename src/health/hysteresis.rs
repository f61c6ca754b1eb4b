//! When verdicts change a state: the first one settles it; after that it takes `fall` failures in a
//! row to go down and `rise` passes in a row to come back.
//!
//! Pure: verdicts come in, changes come out. Writes no bit and no log; `record` does.

use crate::config::model::HealthCheck;

/// What is known of a backend by its probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No verdict, and nothing assumed.
    Unverified,
    Up,
    Down,
}

impl State {
    /// The word in the log.
    pub fn label(self) -> &'static str {
        match self {
            State::Unverified => "unverified",
            State::Up => "up",
            State::Down => "down",
        }
    }
}

/// How many verdicts in a row it takes; both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub fall: u32,
    pub rise: u32,
}

impl From<&HealthCheck> for Thresholds {
    fn from(check: &HealthCheck) -> Thresholds {
        Thresholds { fall: check.fall, rise: check.rise }
    }
}

/// The state of one backend and what speaks against it so far.
#[derive(Clone, Debug)]
pub struct Hysteresis {
    state: State,
    /// A verdict has been given; before it, the state is unverified or assumed.
    judged: bool,
    /// Verdicts in a row that contradict the state.
    against: u32,
}

impl Hysteresis {
    /// `Unverified` for a backend nobody used yet, or what is assumed until its first verdict.
    pub fn new(state: State) -> Hysteresis {
        Hysteresis { state, judged: false, against: 0 }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// A verdict has been given.
    pub fn judged(&self) -> bool {
        self.judged
    }

    /// Between states: probes should come faster.
    pub fn unsettled(&self) -> bool {
        !self.judged || self.against > 0
    }

    /// Takes a verdict in; `Some` if it changed the state. Thresholds may differ from call to call:
    /// what was counted before still counts.
    pub fn judge(&mut self, passed: bool, thresholds: Thresholds) -> Option<State> {
        let (verdict, needed) = match passed {
            true => (State::Up, thresholds.rise),
            false => (State::Down, thresholds.fall),
        };
        let first = !std::mem::replace(&mut self.judged, true);
        if verdict == self.state {
            self.against = 0;
            return None;
        }
        self.against += 1;
        (first || self.against >= needed).then(|| self.enter(verdict))
    }

    /// What counts while no verdict is there; no effect after one. `Some` if it changed the state.
    pub fn assume(&mut self, state: State) -> Option<State> {
        (!self.judged && self.state != state).then(|| self.enter(state))
    }

    fn enter(&mut self, state: State) -> State {
        self.against = 0;
        self.state = state;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::seed;

    const USUAL: Thresholds = Thresholds { fall: 3, rise: 2 };

    /// Feeds `+` and `-`, and writes down the state after each.
    fn run(mut hysteresis: Hysteresis, verdicts: &str) -> String {
        let feed = |verdict| {
            hysteresis.judge(verdict == '+', USUAL);
            match hysteresis.state() {
                State::Up => 'U',
                State::Down => 'D',
                State::Unverified => '?',
            }
        };
        verdicts.chars().map(feed).collect()
    }

    #[test]
    fn states_follow_runs_of_verdicts() {
        for (start, verdicts, states) in [
            (State::Unverified, "+", "U"),
            (State::Unverified, "-", "D"),
            (State::Unverified, "+---", "UUUD"),
            (State::Unverified, "-+-++", "DDDDU"),
            (State::Unverified, "+--+--+---", "UUUUUUUUUD"),
            (State::Up, "-+", "DD"),
            (State::Up, "+--", "UUU"),
            (State::Down, "+", "U"),
            (State::Down, "-+", "DD"),
        ] {
            assert_eq!(run(Hysteresis::new(start), verdicts), states, "{start:?} {verdicts}");
        }
    }

    #[test]
    fn an_assumption_yields_to_the_first_verdict_and_never_overrides_one() {
        let mut one = Hysteresis::new(State::Unverified);
        assert_eq!(one.assume(State::Up), Some(State::Up));
        assert!(one.unsettled());
        assert_eq!(one.judge(false, USUAL), Some(State::Down));
        assert!(!one.unsettled());
        assert_eq!(one.assume(State::Up), None);
        assert_eq!(one.state(), State::Down);
    }

    #[test]
    fn new_thresholds_count_what_was_counted() {
        let mut one = Hysteresis::new(State::Up);
        one.judge(true, USUAL);
        one.judge(false, USUAL);
        assert_eq!(one.judge(false, Thresholds { fall: 2, rise: 2 }), Some(State::Down));
    }

    #[test]
    fn in_any_sequence_changes_are_earned() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for case in 0..500 {
            let thresholds = Thresholds { fall: rng.u32(1..6), rise: rng.u32(1..6) };
            let flappy = rng.f64();
            let mut one = Hysteresis::new(State::Unverified);
            // The verdicts in a row that are alike.
            let (mut row, mut last) = (0, None);
            for step in 0..200 {
                let told = format!("seed {seed}, case {case}, step {step}, {thresholds:?}");
                let passed = rng.f64() < flappy;
                row = if last == Some(passed) { row + 1 } else { 1 };
                let first = last.replace(passed).is_none();
                let before = one.state();
                let change = one.judge(passed, thresholds);
                let needed = if passed { thresholds.rise } else { thresholds.fall };
                let target = if passed { State::Up } else { State::Down };
                match change {
                    Some(to) => {
                        assert!(to == target && to != before, "{told}");
                        assert!(first || row >= needed, "{told}: not earned");
                    }
                    None => {
                        assert!(!first, "{told}: the first settles");
                        assert!(before == target || row < needed, "{told}: due");
                    }
                }
                assert_eq!(one.unsettled(), one.state() != target, "{told}");
            }
        }
    }

    #[test]
    fn flapping_below_the_thresholds_changes_nothing() {
        let mut one = Hysteresis::new(State::Unverified);
        one.judge(true, USUAL);
        for verdict in "--+--+-+--+".repeat(50).chars() {
            assert_eq!(one.judge(verdict == '+', USUAL), None);
        }
    }
}
