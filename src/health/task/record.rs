//! What the health room knows of one backend, and the only writer of its bits
//! `unverified`, `down` and `wrong_role`.
//!
//! A change of state is one log event, one metric and the bits, together, here and nowhere else; the bits
//! go through the door, `standing`.
//! Verdicts come from `task`'s loops, on the control thread.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::standing::Standing;
use crate::config::model::Initial;
use crate::health::hysteresis::{Found, Hysteresis, State, Thresholds};
use crate::health::probe::{Failure, Verdict};
use crate::pool::{BackendState, Pool, Reason};

/// Kept as long as the backend is in use anywhere, probed at the moment or not.
#[derive(Debug)]
pub struct Record {
    backend: Arc<BackendState>,
    standing: Rc<Standing>,
    hysteresis: Hysteresis,
    /// When its state last changed.
    since: Instant,
    /// In what way it fails.
    ill: Ill,
    /// Who waits for the first verdict; `None` once it (or what counts in its place) is there.
    waiting: Option<Vec<Waiting>>,
}

/// The bits that are written here.
const OWN: [Reason; 3] = [Reason::Unverified, Reason::Down, Reason::WrongRole];

/// Dropped when what it waits for has come: see [`super::Settled`].
pub type Waiting = mpsc::Sender<()>;

impl Record {
    /// A backend that nothing is known of: it does not serve before its first verdict, unless it is
    /// `in_use` already (a health check was added): then it goes on until a verdict says otherwise.
    pub fn new(backend: Arc<BackendState>, standing: Rc<Standing>, in_use: bool) -> Record {
        let state = if in_use { State::Up } else { State::Unverified };
        let hysteresis = Hysteresis::new(state);
        let waiting = Some(Vec::new());
        let record = Record {
            backend,
            standing,
            hysteresis,
            since: Instant::now(),
            ill: Ill::default(),
            waiting,
        };
        record.write_bits("its health check begins");
        record
    }

    /// No verdict yet, and nothing has been put in its place.
    pub fn settling(&self) -> bool {
        self.waiting.is_some()
    }

    /// Keeps `waiting` until the backend has settled; drops it at once if it has.
    pub fn wait(&mut self, waiting: Waiting) {
        if let Some(all) = &mut self.waiting {
            all.push(waiting);
        }
    }

    /// Probes have stopped: nobody is to wait for them.
    pub fn stopped(&mut self) {
        if let Some(all) = &mut self.waiting {
            all.clear();
        }
    }

    pub fn unsettled(&self) -> bool {
        self.hysteresis.unsettled()
    }

    /// Nothing of its pool serves: clients wait for whoever is well next, or promoted.
    pub fn is_awaited(&self) -> bool {
        let none_serves = |pool: &Pool| !pool.members.iter().any(|m| m.state.serving());
        self.standing.with(&self.backend.pool, |_, pool| none_serves(pool)).unwrap_or(false)
    }

    /// Takes the verdict of one probe that took so long.
    pub fn judge(&mut self, verdict: &Verdict, took: Duration, thresholds: Thresholds) {
        let cells = &self.backend.probes;
        let found = match verdict {
            Verdict::Pass => {
                cells.passed.inc();
                Found::Well
            }
            Verdict::WrongRole(_) => {
                cells.wrong_role.inc();
                Found::WrongRole
            }
            Verdict::Fail(failure) => {
                cells.failed.inc();
                cells.failures[failure.index()].inc();
                Found::Ill
            }
            Verdict::NotMade(error) => {
                cells.not_made.inc();
                tracing::debug!(
                    pool = %self.backend.pool, backend = %self.backend.addr, %error,
                    "a probe could not be made"
                );
                return;
            }
        };
        cells.duration.observe(took);
        let former = self.hysteresis.state();
        let needed = self.hysteresis.needed(found, thresholds);
        if let Some(state) = self.hysteresis.judge(found, thresholds) {
            self.changed(former, state, &because(verdict, needed));
        }
        let down = self.hysteresis.state() == State::Down;
        if let (true, Verdict::Fail(failure)) = (down, verdict)
            && self.ill.turns(failure, former != State::Down, thresholds.fall)
        {
            tracing::warn!(
                pool = %self.backend.pool, backend = %self.backend.addr, reason = %failure,
                "still down, but for another reason"
            );
        }
        // After the bits: who waits goes on to use the backend.
        self.waiting = None;
    }

    /// There was no verdict in time.
    pub fn assume(&mut self, initial: Initial) {
        let former = self.hysteresis.state();
        let state = match initial {
            Initial::Up => State::Up,
            Initial::Down => State::Down,
        };
        if former == State::Unverified && self.hysteresis.assume(state).is_some() {
            self.changed(former, state, "no verdict in time: `initial` counts");
        }
        self.waiting = None;
    }

    /// Makes the bits agree with what is known, after a time without probes.
    pub fn write_bits(&self, why: &str) {
        let is = match self.hysteresis.state() {
            State::Unverified => Some(Reason::Unverified),
            State::Down => Some(Reason::Down),
            State::WrongRole => Some(Reason::WrongRole),
            State::Up => None,
        };
        let others: Vec<Reason> = OWN.into_iter().filter(|other| Some(*other) != is).collect();
        self.standing.change(&self.backend, is.as_slice(), &others, why);
    }

    /// The backend is in a pool without a health check: nothing it knew keeps it from serving.
    pub fn clear_bits(&self) {
        self.standing.change(&self.backend, &[], &OWN, "it has no health check");
    }

    fn changed(&mut self, former: State, state: State, reason: &str) {
        self.write_bits(reason);
        self.backend.probes.changes.inc();
        let (pool, backend) = (&self.backend.pool, self.backend.addr);
        let now = Instant::now();
        let lasted = now - std::mem::replace(&mut self.since, now);
        let former = former.label();
        match state {
            State::Down => tracing::warn!(
                %pool, %backend, reason, former, lasted_ms = lasted.as_millis() as u64,
                "backend is down"
            ),
            State::WrongRole => tracing::info!(
                %pool, %backend, reason, former, lasted_ms = lasted.as_millis() as u64,
                "backend is in another role"
            ),
            State::Up | State::Unverified => tracing::info!(
                %pool, %backend, reason, former, lasted_ms = lasted.as_millis() as u64,
                "backend is up"
            ),
        }
    }
}

/// In what way a backend that is down fails. A server that cannot be reached and then lets nobody in is
/// down all along; who reads the log must learn of both.
#[derive(Debug, Default)]
struct Ill {
    /// The index of the failure that was told.
    told: usize,
    /// Another one since, and how often in a row.
    other: usize,
    row: u32,
}

impl Ill {
    /// Takes a failure in, the `first` one of this time that it is down or a later one. True if it is
    /// to be told: another one than before, `fall` times in a row.
    fn turns(&mut self, failure: &Failure, first: bool, fall: u32) -> bool {
        let is = failure.index();
        if first || is == self.told {
            (self.told, self.row) = (is, 0);
            return false;
        }
        self.row = if is == self.other { self.row + 1 } else { 1 };
        self.other = is;
        let turns = self.row >= fall;
        if turns {
            (self.told, self.row) = (is, 0);
        }
        turns
    }
}

/// Why a state changed, for the log: after so many verdicts like this one.
fn because(verdict: &Verdict, needed: u32) -> String {
    let (passed, detail) = match verdict {
        Verdict::Pass => ("passed", None),
        Verdict::WrongRole(is) => ("found another role", Some((*is).to_owned())),
        Verdict::Fail(failure) => ("failed", Some(failure.to_string())),
        Verdict::NotMade(error) => ("could not be made", Some(error.to_string())),
    };
    let (row, last) = match needed {
        0 | 1 => (format!("a probe {passed}"), ""),
        needed => (format!("{needed} probes in a row {passed}"), "the last: "),
    };
    match detail {
        Some(detail) => format!("{row}: {last}{detail}"),
        None => row,
    }
}
