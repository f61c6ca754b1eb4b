//! A lease: a backend picked for one connection or request. Dropping it ends the accounting, so
//! in-flight counts can neither leak nor go negative, whatever way a connection ends.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{BackendState, Picker};

/// Counts as one in flight on its backend while it lives.
#[derive(Debug)]
pub struct Lease {
    picker: Rc<Picker>,
    index: usize,
}

impl Lease {
    /// `index` must be one of the picker's members; `pick` alone calls this. `None`: it is full.
    pub(super) fn new(picker: Rc<Picker>, index: usize) -> Option<Lease> {
        let member = &picker.pool().members[index];
        let in_flight = &member.state.load.0.in_flight;
        match member.max_requests {
            None => {
                in_flight.fetch_add(1, Ordering::Relaxed);
            }
            Some(most) => {
                let more = |now: u32| (now < most).then(|| now + 1);
                in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
            }
        }
        Some(Lease { picker, index })
    }

    pub fn backend(&self) -> &BackendState {
        &self.picker.pool().members[self.index].state
    }

    /// The same, for what outlives the lease: a connection that is kept.
    pub fn shared_backend(&self) -> &Arc<BackendState> {
        &self.picker.pool().members[self.index].state
    }

    pub fn picker(&self) -> &Rc<Picker> {
        &self.picker
    }

    /// The member's place in its pool: what [`super::pick::Tried`] remembers.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Tells the pool how long the backend took to the head of its answer, or to fail; `now_nanos` as
    /// in [`super::pick::Ask`]. Only `peak_ewma` listens; for the others it costs one comparison.
    pub fn observe_latency(&self, took_nanos: u64, now_nanos: u64) {
        let member = &self.picker.pool().members[self.index];
        // Every tier balances in the same way.
        self.picker.pool().tiers[0].balance.observe_latency(&member.state, took_nanos, now_nanos);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Before the look at the queue: who waits there has looked for room since it came.
        self.backend().load.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.picker.pool().state.waiting.wake();
    }
}
