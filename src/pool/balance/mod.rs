//! The ways to balance, one file each: given the members as they are now, which one is next.
//!
//! [`Balance`] is what a way computes ahead, shared by all workers; [`Turn`] is one worker's place in
//! it. A member of weight 0 takes no traffic; one that does not serve or was tried is passed over.
//! Looking at every member in one pick is the exception: small pools, and pools mostly down.

mod first;
pub mod hash;
mod least;
mod least_requests;
mod maglev;
mod peak_ewma;
mod random;
mod round_robin;
mod weighted;

use std::cell::Cell;

use super::pick::{Ask, Tried};
use super::{BackendState, Member};
use crate::config::model;

/// A way to balance with what it computed ahead, shared by all workers.
#[derive(Debug)]
pub struct Balance {
    way: Way,
}

#[derive(Debug)]
enum Way {
    RoundRobin(round_robin::RoundRobin),
    LeastRequests(least_requests::LeastRequests),
    PeakEwma(peak_ewma::PeakEwma),
    Random(random::Random),
    First(first::First),
    Hash(hash::Hash),
}

impl Balance {
    /// `members` must be the ones that [`Balance::choose`] is called with. Takes time in proportion
    /// to their number (`hash`: tens of milliseconds at 10,000), so it is not for a data worker.
    pub fn new(config: &model::Balance, members: &[Member]) -> Balance {
        let way = match config {
            model::Balance::RoundRobin => Way::RoundRobin(round_robin::RoundRobin::new(members)),
            model::Balance::LeastRequests => {
                Way::LeastRequests(least_requests::LeastRequests::new(members))
            }
            model::Balance::PeakEwma => Way::PeakEwma(peak_ewma::PeakEwma::new(members)),
            model::Balance::Random => Way::Random(random::Random::new(members)),
            model::Balance::First => Way::First(first::First),
            model::Balance::Hash(_) => Way::Hash(hash::Hash::new(members)),
        };
        Balance { way }
    }

    /// A worker's place in the rotation, at the first member.
    pub(super) fn turn(&self) -> Turn {
        match &self.way {
            Way::RoundRobin(way) => way.turn(),
            Way::LeastRequests(way) => way.turn(),
            Way::PeakEwma(way) => way.turn(),
            Way::Random(_) | Way::First(_) | Way::Hash(_) => Turn::default(),
        }
    }

    /// The place of a member that may be taken; `None` only if there is none.
    pub(super) fn choose(&self, view: &View<'_>, turn: &Turn) -> Option<usize> {
        match &self.way {
            Way::RoundRobin(way) => way.choose(view, turn),
            Way::LeastRequests(way) => way.choose(view, turn),
            Way::PeakEwma(way) => way.choose(view, turn),
            Way::Random(way) => way.choose(view),
            Way::First(way) => way.choose(view),
            Way::Hash(way) => way.choose(view),
        }
    }

    /// Feeds what a request took into the estimate that `peak_ewma` picks by. Nothing for the others.
    pub(super) fn observe_latency(&self, backend: &BackendState, took_nanos: u64, now_nanos: u64) {
        if let Way::PeakEwma(_) = self.way {
            peak_ewma::observe(&backend.load.0, took_nanos, now_nanos);
        }
    }
}

/// One worker's place in a rotation by weight; its meaning is its way's own.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// What each entry is owed, in weights.
    owed: Box<[Cell<i64>]>,
    /// The next one within each entry.
    next: Box<[Cell<u32>]>,
}

impl Turn {
    fn new(entries: usize) -> Turn {
        Turn { owed: vec![Cell::new(0); entries].into(), next: vec![Cell::new(0); entries].into() }
    }
}

/// The members as one pick sees them.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub members: &'a [Member],
    pub tried: &'a Tried,
    pub ask: Ask,
}

impl View<'_> {
    /// It serves and was not tried. (That its weight is above 0 is for the caller to know.)
    fn may_take(&self, index: usize) -> bool {
        self.members[index].state.serving() && !self.tried.has(index)
    }
}

#[cfg(test)]
mod tests;
