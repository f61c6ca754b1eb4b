//! When verdicts change a state: the first one settles it; after that it takes `fall` failures in a
//! row to go down and `rise` passes in a row to come back.
//!
//! A wrong role is another matter: a server says it of itself, so there is nothing to wait for. One
//! such verdict takes a serving backend out, that no client writes to a primary that was demoted. It
//! is no failure: it ends a row of failures, and a backend that was down and now answers, in whatever
//! role, is no longer down after `rise` answers. The way back to serving is always `rise` passes.
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
    /// It is well, but in another role than is wanted.
    WrongRole,
}

/// What one probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Well,
    Ill,
    WrongRole,
}

impl Found {
    fn state(self) -> State {
        match self {
            Found::Well => State::Up,
            Found::Ill => State::Down,
            Found::WrongRole => State::WrongRole,
        }
    }
}

impl State {
    /// The word in the log.
    pub fn label(self) -> &'static str {
        match self {
            State::Unverified => "unverified",
            State::Up => "up",
            State::Down => "down",
            State::WrongRole => "wrong role",
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
    /// Verdicts in a row that are alike and contradict the state.
    against: u32,
    /// What they say.
    row: Option<Found>,
}

impl Hysteresis {
    /// `Unverified` for a backend nobody used yet, or what is assumed until its first verdict.
    pub fn new(state: State) -> Hysteresis {
        Hysteresis { state, judged: false, against: 0, row: None }
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
    pub fn judge(&mut self, found: Found, thresholds: Thresholds) -> Option<State> {
        let first = !std::mem::replace(&mut self.judged, true);
        if found.state() == self.state {
            self.against = 0;
            return None;
        }
        self.against = if self.row.replace(found) == Some(found) { self.against + 1 } else { 1 };
        let due = first || self.against >= self.needed(found, thresholds);
        due.then(|| self.enter(found.state()))
    }

    /// How many such verdicts in a row it takes to leave the present state.
    pub fn needed(&self, found: Found, thresholds: Thresholds) -> u32 {
        match found {
            _ if !self.judged => 1,
            Found::Well => thresholds.rise,
            Found::Ill => thresholds.fall,
            Found::WrongRole if self.state == State::Down => thresholds.rise,
            Found::WrongRole => 1,
        }
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

    fn found(verdict: char) -> Found {
        match verdict {
            '+' => Found::Well,
            '-' => Found::Ill,
            'r' => Found::WrongRole,
            other => panic!("no verdict {other}"),
        }
    }

    /// Feeds `+`, `-` and `r` (wrong role), and writes down the state after each.
    fn run(mut hysteresis: Hysteresis, verdicts: &str) -> String {
        let feed = |verdict| {
            hysteresis.judge(found(verdict), USUAL);
            match hysteresis.state() {
                State::Up => 'U',
                State::Down => 'D',
                State::WrongRole => 'R',
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
    fn a_wrong_role_acts_at_once_and_the_way_back_is_earned() {
        for (verdicts, states) in [
            // A replica from the start; then it is promoted.
            ("r", "R"),
            ("rr++", "RRRU"),
            // A primary that is demoted.
            ("+r", "UR"),
            ("++--r", "UUUUR"),
            // A replica that dies, with its alarm, and comes back as one.
            ("r---rr", "RRRDDR"),
            ("r--r--r---", "RRRRRRRRRD"),
            // Nothing but passes in a row make it serve.
            ("r+r+-+r++", "RRRRRRRRU"),
            // A primary that dies, and comes back as a replica.
            ("+---rr", "UUUDDR"),
            ("+---r+r+rr", "UUUDDDDDDR"),
            ("+---+r++", "UUUDDDDU"),
        ] {
            assert_eq!(run(Hysteresis::new(State::Unverified), verdicts), states, "{verdicts}");
        }
        // What is assumed yields to it as well.
        assert_eq!(run(Hysteresis::new(State::Up), "r"), "R");
        assert_eq!(run(Hysteresis::new(State::Down), "r"), "R");
    }

    #[test]
    fn an_assumption_yields_to_the_first_verdict_and_never_overrides_one() {
        let mut one = Hysteresis::new(State::Unverified);
        assert_eq!(one.assume(State::Up), Some(State::Up));
        assert!(one.unsettled());
        assert_eq!(one.judge(Found::Ill, USUAL), Some(State::Down));
        assert!(!one.unsettled());
        assert_eq!(one.assume(State::Up), None);
        assert_eq!(one.state(), State::Down);
    }

    #[test]
    fn new_thresholds_count_what_was_counted() {
        let mut one = Hysteresis::new(State::Up);
        one.judge(Found::Well, USUAL);
        one.judge(Found::Ill, USUAL);
        assert_eq!(one.judge(Found::Ill, Thresholds { fall: 2, rise: 2 }), Some(State::Down));
    }

    #[test]
    fn in_any_sequence_changes_are_earned() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for case in 0..2000 {
            let thresholds = Thresholds { fall: rng.u32(1..6), rise: rng.u32(1..6) };
            let (well, role) = (rng.f64(), if case % 2 == 0 { 0.0 } else { rng.f64() });
            let mut one = Hysteresis::new(State::Unverified);
            // The verdicts in a row that are alike.
            let (mut row, mut last) = (0, None);
            for step in 0..200 {
                let told = format!("seed {seed}, case {case}, step {step}, {thresholds:?}");
                let found = match (rng.f64() < role, rng.f64() < well) {
                    (true, _) => Found::WrongRole,
                    (false, true) => Found::Well,
                    (false, false) => Found::Ill,
                };
                row = if last == Some(found) { row + 1 } else { 1 };
                let first = last.replace(found).is_none();
                let before = one.state();
                let change = one.judge(found, thresholds);
                let needed = match (found, before) {
                    (Found::Well, _) | (Found::WrongRole, State::Down) => thresholds.rise,
                    (Found::Ill, _) => thresholds.fall,
                    (Found::WrongRole, _) => 1,
                };
                let target = found.state();
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
                // Whatever came before: it does not serve in a role that is not wanted.
                assert!(found != Found::WrongRole || one.state() != State::Up, "{told}");
            }
        }
    }

    #[test]
    fn flapping_below_the_thresholds_changes_nothing() {
        let mut one = Hysteresis::new(State::Unverified);
        one.judge(Found::Well, USUAL);
        for verdict in "--+--+-+--+".repeat(50).chars() {
            assert_eq!(one.judge(found(verdict), USUAL), None);
        }
    }
}
