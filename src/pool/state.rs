//! What is known of a backend and of a pool, shared by all threads and carried across snapshots.
//!
//! Keyed by pool and address, never by weight, so that a reload forgets nothing it knew. The reason
//! bits sit on one cache line (written rarely, read by every pick), load on another.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::config::model::Name;
use crate::observe::cells::{BackendCells, PerWorker, PoolCells, ProbeCells};

/// Where a backend listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendAddr(pub SocketAddr);

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a backend does not serve. Each bit has exactly one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No verdict yet. Written by the health task.
    Unverified,
    /// The active check failed `fall` times in a row. Written by the health task.
    Down,
}

impl Reason {
    pub const ALL: [Reason; 2] = [Reason::Unverified, Reason::Down];

    fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The word in metrics, log and status.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Unverified => "unverified",
            Reason::Down => "down",
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
    reasons: Line<AtomicU32>,
    pub(super) load: Line<Load>,
    pub cells: PerWorker<BackendCells>,
    /// Written by the control thread.
    pub probes: ProbeCells,
}

/// Keeps what is written often off the cache line of what is read often.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Line<T>(pub T);

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
            reasons: Line::default(),
            load: Line::default(),
            cells: PerWorker::new(workers),
            probes: ProbeCells::default(),
        }
    }

    /// No reason against it is set.
    pub fn serving(&self) -> bool {
        self.reasons.0.load(Ordering::Relaxed) == 0
    }

    pub fn has(&self, reason: Reason) -> bool {
        self.reasons.0.load(Ordering::Relaxed) & reason.bit() != 0
    }

    /// The reasons that are set.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        let bits = self.reasons.0.load(Ordering::Relaxed);
        Reason::ALL.into_iter().filter(move |reason| bits & reason.bit() != 0)
    }

    /// For the reason's one writer. True if that changed anything.
    pub fn set(&self, reason: Reason) -> bool {
        self.reasons.0.fetch_or(reason.bit(), Ordering::Relaxed) & reason.bit() == 0
    }

    /// For the reason's one writer. True if that changed anything.
    pub fn clear(&self, reason: Reason) -> bool {
        self.reasons.0.fetch_and(!reason.bit(), Ordering::Relaxed) & reason.bit() != 0
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
    /// Requests in a retry that counts against the budget.
    pub(super) retries: Line<AtomicU32>,
    /// How many pickers have begun: each starts one member further on, after a reload as well.
    pub(super) begun: AtomicUsize,
}

impl PoolState {
    pub fn new(workers: usize) -> PoolState {
        PoolState {
            cells: PerWorker::new(workers),
            retries: Line::default(),
            begun: AtomicUsize::new(0),
        }
    }
}
