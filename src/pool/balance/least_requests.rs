//! `least_requests`, the default: fewest requests in flight for its weight, counted exactly over all
//! workers.
//!
//! The cost is (in flight + 1) / weight, what it would be with this request. Idle members tie
//! whatever their weight: otherwise a light one would get nothing while the load is low.

use super::least::Least;
use super::{Turn, View, worse_by_failures};
use crate::pool::Member;

#[derive(Debug)]
pub(super) struct LeastRequests {
    least: Least,
}

impl LeastRequests {
    pub fn new(members: &[Member]) -> LeastRequests {
        LeastRequests { least: Least::new(members) }
    }

    pub fn turn(&self) -> Turn {
        self.least.turn()
    }

    pub fn choose(&self, view: &View<'_>, turn: &Turn) -> Option<usize> {
        self.least.choose(view, turn, |member| {
            let cost = match member.state.in_flight() {
                0 => 0,
                busy => u128::from(busy) + 1,
            };
            worse_by_failures(&member.state, cost, view.ask.now_nanos)
        })
    }
}
