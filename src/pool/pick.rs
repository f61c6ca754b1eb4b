//! The choice of a backend for one connection or request.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::{Lease, Pool};

/// One worker's hand on a pool: the pool as its snapshot has it, and this worker's turn in it.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    turn: Cell<usize>,
}

/// What a pick needs to know of its request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// The hash of the key that the pool balances by, if it does.
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
    pub fn new(pool: Arc<Pool>) -> Picker {
        Picker { pool, turn: Cell::new(0) }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A serving backend that was not tried yet; `None` if there is none.
    pub fn pick(self: &Rc<Self>, _ask: Ask, tried: &Tried) -> Option<Lease> {
        let members = &self.pool.members;
        let start = self.turn.get();
        self.turn.set((start + 1) % members.len().max(1));
        (0..members.len())
            .map(|step| (start + step) % members.len())
            .find(|&i| members[i].state.serving() && members[i].weight > 0 && !tried.has(i))
            .map(|i| Lease::new(self.clone(), i))
    }
}
