//! The choice of a backend for one connection or request.
//!
//! Decides nothing itself: the pool's `balance` chooses, among members that serve and were not tried.
//! A [`Picker`] belongs to one worker; what it asks for (key, randomness, time) comes in an [`Ask`].

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::balance::{Turn, View};
use super::{Lease, Pool};

/// Of a larger pool only so many members are begun with.
const STARTS: usize = 64;

/// One worker's hand on a pool: the pool as its snapshot has it, and this worker's turn in it.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    turn: Turn,
}

/// What a pick needs to know of its request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// The hash of the key that the pool balances by, if it does (`balance::hash`).
    pub key: Option<u64>,
    /// Random bits.
    pub draw: u64,
    /// Nanoseconds since the process began.
    pub now_nanos: u64,
}

/// The members that earlier attempts of the same request have used.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<usize>);

impl Tried {
    pub fn add(&mut self, lease: &Lease) {
        self.0.push(lease.index());
    }

    pub fn has(&self, index: usize) -> bool {
        self.0.contains(&index)
    }
}

impl Picker {
    /// One a worker and snapshot: the first takes its turns from the first member on, each further
    /// one of the same pool from one later, so that neither idle workers nor frequent reloads favour
    /// the first backends.
    pub fn new(pool: Arc<Pool>) -> Picker {
        let turn = pool.balance.turn();
        let begun = pool.state.begun.fetch_add(1, Ordering::Relaxed);
        let (ask, tried) = (Ask::default(), Tried::default());
        let view = View { members: &pool.members, tried: &tried, ask };
        for _ in 0..begun % pool.members.len().clamp(1, STARTS) {
            pool.balance.choose(&view, &turn);
        }
        Picker { pool, turn }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A serving backend that was not tried yet; `None` only if there is none.
    pub fn pick(self: &Rc<Self>, ask: Ask, tried: &Tried) -> Option<Lease> {
        let view = View { members: &self.pool.members, tried, ask };
        let index = self.pool.balance.choose(&view, &self.turn)?;
        Some(Lease::new(self.clone(), index))
    }
}
