//! What is known of a backend and of a pool, shared by all threads and carried across snapshots.
//!
//! Keyed by pool and address, never by weight, so that a reload forgets nothing it knew. The reason
//! bits sit on one cache line (written rarely, read by every pick), load on another.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::queue::Waiting;
use crate::config::model::Name;
use crate::observe::cells::{
    BackendCells, PassiveCells, PerWorker, PoolCells, ProbeCells, TierCells,
};

/// Where a backend listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendAddr(pub SocketAddr);

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a backend does not serve. Each bit has exactly one writer, on the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An operator took it out.
    Disabled,
    /// No new work, by an operator: what it has may finish, and clients that stick to it may stay.
    Draining,
    /// No verdict yet. Written by the health task.
    Unverified,
    /// The active check failed `fall` times in a row. Written by the health task.
    Down,
    /// It is well, but not what is wanted: a replica where a primary is. Written by the health task.
    WrongRole,
    /// Taken out by passive judgement, for a time. Written by the outlier task.
    Ejected,
}

/// Some of the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reasons(u32);

impl Reasons {
    pub const ALL: Reasons = Reasons(u32::MAX);

    /// What `when_none_serve: try_all` does not look past: an operator's word, and another role.
    pub const BINDING: Reasons =
        Reasons(Reason::Disabled.bit() | Reason::Draining.bit() | Reason::WrongRole.bit());

    /// What keeps clients away that stick to a backend.
    pub const BUT_DRAINING: Reasons = Reasons(!Reason::Draining.bit());

    /// What keeps a trial away from a backend that is ejected.
    pub const BUT_EJECTED: Reasons = Reasons(!Reason::Ejected.bit());
}

impl Reason {
    pub const ALL: [Reason; 6] = [
        Reason::Disabled,
        Reason::Draining,
        Reason::Unverified,
        Reason::Down,
        Reason::WrongRole,
        Reason::Ejected,
    ];

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The word in metrics, log and status.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Disabled => "disabled",
            Reason::Draining => "draining",
            Reason::Unverified => "unverified",
            Reason::Down => "down",
            Reason::WrongRole => "wrong_role",
            Reason::Ejected => "ejected",
        }
    }
}

/// One backend of one pool.
#[derive(Debug)]
pub struct BackendState {
    /// Unique in this process, never used again.
    pub id: u64,
    pub pool: Name,
    pub addr: BackendAddr,
    standing: Line<Standing>,
    pub(super) load: Line<Load>,
    pub cells: PerWorker<BackendCells>,
    /// Written by the control thread.
    pub probes: ProbeCells,
    /// Written by the control thread.
    pub passive: PassiveCells,
}

/// Keeps what is written often off the cache line of what is read often.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Line<T>(pub T);

/// What every pick reads and few things write.
#[derive(Debug, Default)]
struct Standing {
    reasons: AtomicU32,
    /// Failures in a row, over all workers; the top bit says that an answer broke off among them.
    failing: AtomicU32,
    /// When the last of them was.
    failed_at_nanos: AtomicU64,
    /// A request that an ejected backend may have, to see whether it is well again.
    trial: AtomicU32,
    /// It has asked to be spared until then, in nanoseconds since the process began.
    spared_until_nanos: AtomicU64,
    /// When the log was last told of it, in nanoseconds since the process began; 0 is never.
    told_at_nanos: AtomicU64,
    /// When it last came back, in nanoseconds since the process began; 0 is "not in this process".
    back_at_nanos: AtomicU64,
}

/// The one request that an ejected backend gets, and how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    None = 0,
    /// There is one, for a request that may safely be sent again elsewhere.
    Safe = 1,
    /// There is one, for whatever comes.
    Any = 2,
    /// A request is trying it.
    Taken = 3,
    /// The same, and its answer has begun, or (a stream) it has a connection.
    Reached = 4,
    Passed = 5,
    Failed = 6,
}

impl Trial {
    fn of(number: u32) -> Trial {
        match number {
            1 => Trial::Safe,
            2 => Trial::Any,
            3 => Trial::Taken,
            4 => Trial::Reached,
            5 => Trial::Passed,
            6 => Trial::Failed,
            _ => Trial::None,
        }
    }
}

/// In `failing`: an answer broke off.
const BROKEN: u32 = 1 << 31;

#[derive(Debug, Default)]
pub(super) struct Load {
    pub in_flight: AtomicU32,
    /// Peak EWMA of the time to the response head, in nanoseconds; 0 is "not known".
    pub latency_nanos: AtomicU64,
    /// When that was last written, in nanoseconds since the process began.
    pub latency_at_nanos: AtomicU64,
}

impl BackendState {
    pub fn new(pool: Name, addr: BackendAddr, workers: usize) -> BackendState {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        BackendState {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            pool,
            addr,
            standing: Line::default(),
            load: Line::default(),
            cells: PerWorker::new(workers),
            probes: ProbeCells::default(),
            passive: PassiveCells::default(),
        }
    }

    /// No reason against it is set.
    pub fn serving(&self) -> bool {
        !self.any(Reasons::ALL)
    }

    /// One of these is set.
    pub fn any(&self, of: Reasons) -> bool {
        self.standing.0.reasons.load(Ordering::Relaxed) & of.0 != 0
    }

    pub fn has(&self, reason: Reason) -> bool {
        self.any(Reasons(reason.bit()))
    }

    /// The reasons that are set.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        let bits = self.standing.0.reasons.load(Ordering::Relaxed);
        Reason::ALL.into_iter().filter(move |reason| bits & reason.bit() != 0)
    }

    /// For the reason's one writer. True if that changed anything.
    pub fn set(&self, reason: Reason) -> bool {
        self.standing.0.reasons.fetch_or(reason.bit(), Ordering::SeqCst) & reason.bit() == 0
    }

    /// For the reason's one writer. True if that changed anything.
    pub fn clear(&self, reason: Reason) -> bool {
        self.standing.0.reasons.fetch_and(!reason.bit(), Ordering::SeqCst) & reason.bit() != 0
    }

    /// An attempt at it failed; `broken`: with an answer that broke off. Returns how many in a row that
    /// makes, over all workers.
    pub fn failed(&self, now_nanos: u64, broken: bool) -> u32 {
        let Standing { failing, failed_at_nanos, .. } = &self.standing.0;
        failed_at_nanos.store(now_nanos, Ordering::Relaxed);
        if broken {
            failing.fetch_or(BROKEN, Ordering::Relaxed);
        }
        // At two thousand million it would begin anew.
        (failing.fetch_add(1, Ordering::Relaxed) & !BROKEN).wrapping_add(1)
    }

    /// It lets somebody wait and has answered nobody meanwhile: shunned as if it had failed, until it
    /// brings a good answer.
    pub fn late(&self, now_nanos: u64) {
        let (standing, order) = (&self.standing.0, Ordering::Relaxed);
        standing.failed_at_nanos.store(now_nanos, order);
        // One that fails already does not fail more for that.
        let _ = standing.failing.compare_exchange(0, 1, order, order);
    }

    /// An attempt at it went well, up to the head of its answer or (`whole`) to its end. True if that
    /// ended a row of failures: a head ends none in which answers broke off.
    pub fn succeeded(&self, whole: bool) -> bool {
        let failing = &self.standing.0.failing;
        // A store only when there is something to forget: otherwise the line stays shared.
        let row = failing.load(Ordering::Relaxed);
        row != 0 && (whole || row & BROKEN == 0) && failing.swap(0, Ordering::Relaxed) != 0
    }

    /// For the control thread: it comes back, and what it failed of before is over.
    pub fn forget_failures(&self) {
        self.standing.0.failing.store(0, Ordering::Relaxed);
    }

    /// Failures in a row, a moment old.
    pub fn failing(&self) -> u32 {
        self.standing.0.failing.load(Ordering::Relaxed) & !BROKEN
    }

    /// When it last failed, in nanoseconds since the process began.
    pub fn failed_at_nanos(&self) -> u64 {
        self.standing.0.failed_at_nanos.load(Ordering::Relaxed)
    }

    /// It has asked, by `Retry-After`, to be spared until then.
    pub fn spare_until(&self, nanos: u64) {
        self.standing.0.spared_until_nanos.fetch_max(nanos, Ordering::Relaxed);
    }

    pub fn is_spared(&self, now_nanos: u64) -> bool {
        now_nanos < self.standing.0.spared_until_nanos.load(Ordering::Relaxed)
    }

    /// For the outlier task, the one who ejects.
    pub fn set_trial(&self, trial: Trial) {
        self.standing.0.trial.store(trial as u32, Ordering::Relaxed);
    }

    /// As it is now.
    pub fn trial(&self) -> Trial {
        Trial::of(self.standing.0.trial.load(Ordering::Relaxed))
    }

    /// A trial is there for a request to take.
    pub fn has_trial(&self) -> bool {
        matches!(self.trial(), Trial::Safe | Trial::Any)
    }

    /// Takes the trial, if there is one for a request of this kind; only one request can.
    pub fn take_trial(&self, safe: bool) -> bool {
        let there = self.trial();
        let fits = there == Trial::Any || (safe && there == Trial::Safe);
        fits && self.move_trial(there, Trial::Taken)
    }

    /// From one state to another; false, and nothing happens, if it is not in the first.
    pub fn move_trial(&self, from: Trial, to: Trial) -> bool {
        let (from, to) = (from as u32, to as u32);
        let trial = &self.standing.0.trial;
        trial.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the log may be told of a trouble that comes with every connection: of all workers one may,
    /// so often.
    pub fn may_tell(&self, now_nanos: u64, every: Duration) -> bool {
        let told_at = &self.standing.0.told_at_nanos;
        let last = told_at.load(Ordering::Relaxed);
        let due = last == 0 || now_nanos.saturating_sub(last) >= every.as_nanos() as u64;
        due && told_at
            .compare_exchange(last, now_nanos.max(1), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// For the control thread: it is back since `at_nanos`; its weight ramps up from there.
    pub fn came_back(&self, at_nanos: u64) {
        self.standing.0.back_at_nanos.store(at_nanos.max(1), Ordering::Relaxed);
    }

    /// When it came back; `None` if it was there from the start.
    pub fn back_at_nanos(&self) -> Option<u64> {
        Some(self.standing.0.back_at_nanos.load(Ordering::Relaxed)).filter(|&at| at != 0)
    }

    /// Requests and streams that hold a lease, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.load.0.in_flight.load(Ordering::Relaxed)
    }
}

/// What is known of a pool beyond its backends.
#[derive(Debug)]
pub struct PoolState {
    pub cells: PerWorker<PoolCells>,
    /// Written by the control thread.
    pub tiers: TierCells,
    rule: Line<Rule>,
    /// Requests that wait for a backend.
    pub waiting: Waiting,
    /// Requests in a retry that counts against the budget.
    pub(super) retries: Line<AtomicU32>,
    /// How many pickers have begun: each starts one member further on, after a reload as well.
    pub(super) begun: AtomicUsize,
}

/// What the control thread says of a pool, and every pick reads.
#[derive(Debug, Default)]
struct Rule {
    /// The number of the tier that picks begin with.
    floor: AtomicU32,
    /// Backends that may have a trial.
    trials: AtomicU32,
    /// Of an exclusive pool the one backend that is used, by its id; 0 is none.
    chosen: AtomicU64,
    /// Until then a backend has asked to be spared, in nanoseconds since the process began.
    spares_until_nanos: AtomicU64,
}

impl PoolState {
    pub fn new(workers: usize) -> PoolState {
        PoolState {
            cells: PerWorker::new(workers),
            tiers: TierCells::default(),
            rule: Line::default(),
            waiting: Waiting::default(),
            retries: Line::default(),
            begun: AtomicUsize::new(0),
        }
    }

    /// The number of the tier that picks begin with.
    pub fn floor(&self) -> u8 {
        self.rule.0.floor.load(Ordering::Relaxed) as u8
    }

    /// For the failover task, its one writer.
    pub fn set_floor(&self, tier: u8) {
        // Before a reason is cleared in a better tier: whoever sees that sees this.
        self.rule.0.floor.store(tier.into(), Ordering::SeqCst);
    }

    /// Of an exclusive pool the one backend that is used, by its id.
    pub fn chosen(&self) -> Option<u64> {
        Some(self.rule.0.chosen.load(Ordering::Relaxed)).filter(|&id| id != 0)
    }

    /// For the failover task, its one writer.
    pub fn choose(&self, id: Option<u64>) {
        self.rule.0.chosen.store(id.unwrap_or(0), Ordering::SeqCst);
    }

    /// A backend of the pool has asked to be spared until then.
    pub fn spare_until(&self, nanos: u64) {
        self.rule.0.spares_until_nanos.fetch_max(nanos, Ordering::Relaxed);
    }

    /// Some backend may have asked to be spared.
    pub fn spares(&self, now_nanos: u64) -> bool {
        now_nanos < self.rule.0.spares_until_nanos.load(Ordering::Relaxed)
    }

    /// Backends that may have a trial.
    pub fn trials(&self) -> u32 {
        self.rule.0.trials.load(Ordering::Relaxed)
    }

    /// For the outlier task, its one writer.
    pub fn set_trials(&self, trials: u32) {
        self.rule.0.trials.store(trials, Ordering::Relaxed);
    }
}
