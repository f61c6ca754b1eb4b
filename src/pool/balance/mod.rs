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
use super::state::Reasons;
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

/// The members of a tier as one pick sees them.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub members: &'a [Member],
    /// The first one's place in the pool.
    pub first: usize,
    pub tried: &'a Tried,
    pub ask: Ask,
    /// The reasons that count.
    pub against: Reasons,
    /// Those that have asked to be spared at this time are passed over.
    pub spare: bool,
    /// Those that have failed lately are passed over.
    pub sound: bool,
    /// The time in which the weight of one that came back ramps up; `None` is at once.
    pub slow_start_nanos: Option<u64>,
}

/// The least share of its weight that a member ramps up from, in percent: with nothing it would show
/// nothing.
const RAMP_FROM: u64 = 10;

impl View<'_> {
    /// Nothing that counts is against it, it has room and was not tried. (That its weight is above 0
    /// is for the caller to know.)
    fn may_take(&self, index: usize) -> bool {
        let Member { state, max_requests, .. } = &self.members[index];
        !state.any(self.against)
            && !self.tried.has(self.first + index)
            && (!self.sound || !fails(state, self.ask.now_nanos))
            && (!self.spare || !state.is_spared(self.ask.now_nanos))
            && max_requests.is_none_or(|most| state.in_flight() < most)
            && self.slow_start_nanos.is_none_or(|ramp| self.has_ramped(state, ramp))
    }

    /// A member that ramps up is passed over by chance, ever more rarely: that gives it its share
    /// whatever the way to balance. The same key always draws the same, so each moves once.
    fn has_ramped(&self, state: &BackendState, ramp_nanos: u64) -> bool {
        let Some(back) = state.back_at_nanos() else { return true };
        let gone = self.ask.now_nanos.saturating_sub(back);
        if gone >= ramp_nanos {
            return true;
        }
        let percent = (u128::from(gone) * 100 / u128::from(ramp_nanos)) as u64;
        let draw = hash::mix(self.ask.key.unwrap_or(self.ask.draw) ^ state.id);
        draw % 100 < percent.max(RAMP_FROM)
    }
}

/// So long a failure makes a backend look worse: where nothing else is wrong with it, it is not to be
/// shunned for ever.
const SHUNNED_NANOS: u64 = 5_000_000_000;

/// A backend that fails, and fast, has little in flight and looks quick: each failure in a row doubles
/// what it costs, until an answer is good or some time has passed.
fn worse_by_failures(state: &BackendState, cost: u128, now_nanos: u64) -> u128 {
    match state.failing() {
        row if fails(state, now_nanos) => cost.max(1) << row.min(16),
        _ => cost,
    }
}

/// Its last attempt has failed, and not long ago.
fn fails(state: &BackendState, now_nanos: u64) -> bool {
    let ago = now_nanos.saturating_sub(state.failed_at_nanos());
    state.failing() != 0 && ago <= SHUNNED_NANOS
}

#[cfg(test)]
mod tests;
