//! A lease: a backend picked for one connection or request. Dropping it ends the accounting, so
//! in-flight counts can neither leak nor go negative, whatever way a connection ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::state::Trial;
use super::{BackendState, MemberTls, Picker};

/// Counts as one in flight on its backend while it lives.
#[derive(Debug)]
pub struct Lease {
    picker: Rc<Picker>,
    index: u32,
    /// It is the trial of a backend that is ejected.
    on_trial: bool,
    told: Cell<Told>,
}

/// What was said of the backend by what this lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Well,
    Failed,
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
        let (index, told) = (index as u32, Cell::new(Told::Nothing));
        Some(Lease { picker, index, on_trial: false, told })
    }

    /// The same lease, as the trial of its backend.
    pub(super) fn into_trial(mut self) -> Lease {
        self.on_trial = true;
        self
    }

    pub fn backend(&self) -> &BackendState {
        &self.picker.pool().members[self.index()].state
    }

    /// The same, for what outlives the lease: a connection that is kept.
    pub fn shared_backend(&self) -> &Arc<BackendState> {
        &self.picker.pool().members[self.index()].state
    }

    /// How connections to the backend are made secure, if they are.
    pub fn tls(&self) -> Option<&Arc<MemberTls>> {
        self.picker.pool().members[self.index()].tls.as_ref()
    }

    pub fn picker(&self) -> &Rc<Picker> {
        &self.picker
    }

    /// The member's place in its pool: what [`super::pick::Tried`] remembers.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Tells the pool how long the backend took to the head of its answer, or to fail; `now_nanos` as
    /// in [`super::pick::Ask`]. Only `peak_ewma` listens; for the others it costs one comparison.
    pub fn observe_latency(&self, took_nanos: u64, now_nanos: u64) {
        let member = &self.picker.pool().members[self.index()];
        // Every tier balances in the same way.
        self.picker.pool().tiers[0].balance.observe_latency(&member.state, took_nanos, now_nanos);
    }
}

impl Lease {
    /// The backend has begun to answer well; it may break off yet. False if that was said before.
    pub fn went_well(&self) -> bool {
        let first = self.told.replace(Told::Well) == Told::Nothing;
        self.backend().succeeded(false);
        self.reached();
        first
    }

    /// It has failed, at `now_nanos`. Returns how many failures in a row that makes, and whether it had
    /// been said to go well.
    pub fn failed(&self, now_nanos: u64, broken: bool) -> (u32, bool) {
        let before = self.told.replace(Told::Failed);
        if self.on_trial {
            let backend = self.backend();
            let _ = backend.move_trial(Trial::Taken, Trial::Failed)
                || backend.move_trial(Trial::Reached, Trial::Failed);
        }
        (self.backend().failed(now_nanos, broken), before == Told::Well)
    }

    /// A stream has its connection, or an answer has begun: where it is a trial, that is most of what
    /// there is to see.
    pub fn reached(&self) {
        if self.on_trial {
            self.backend().move_trial(Trial::Taken, Trial::Reached);
        }
    }

    /// It is the trial of a backend that is ejected.
    pub fn on_trial(&self) -> bool {
        self.on_trial
    }

    /// What ended with nothing said, or well.
    fn settle(&self) {
        match self.told.get() {
            Told::Well => {
                self.backend().succeeded(true);
            }
            Told::Nothing | Told::Failed => {}
        }
        if self.on_trial {
            // It came to its end; or nobody knows: the next one is to try.
            let backend = self.backend();
            let _ = backend.move_trial(Trial::Reached, Trial::Passed)
                || backend.move_trial(Trial::Taken, Trial::Safe);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle();
        // Before the look at the queue: who waits there has looked for room since it came.
        self.backend().load.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.picker.pool().state.waiting.wake();
    }
}
