//! A pool: a named set of backends that serve the same thing, and the choice among them.
//!
//! `state` is what is known of a backend; `pick` chooses a serving one by the pool's `balance` and
//! hands out a [`Lease`]; `budget` bounds retries. Pure: no clock, no socket, no spawn. This room only reads the reason bits;
//! `health` and the operator's commands write them, one writer a bit.

pub mod balance;
pub mod budget;
pub mod lease;
pub mod pick;
#[cfg(test)]
pub(crate) mod sample;
pub mod state;

use std::sync::Arc;

pub use lease::Lease;
pub use pick::Picker;
pub use state::{BackendAddr, BackendState, PoolState, Reason};

use crate::config::model::{self, HashBy};

/// A pool as one snapshot has it: immutable. What changes lives in the states.
#[derive(Debug)]
pub struct Pool {
    /// What was configured: health check, keep-alive, time-outs.
    pub config: model::Pool,
    pub members: Box<[Member]>,
    pub balance: balance::Balance,
    pub state: Arc<PoolState>,
}

/// A backend with what this snapshot says of it.
#[derive(Debug)]
pub struct Member {
    pub state: Arc<BackendState>,
    pub weight: u32,
}

impl Pool {
    /// `members` in the order of the file; the same state never twice.
    pub fn new(config: model::Pool, members: Box<[Member]>, state: Arc<PoolState>) -> Pool {
        let balance = balance::Balance::new(&config.balance, &members);
        Pool { config, members, balance, state }
    }

    /// What the key of a request is made of, if this pool balances by one.
    pub fn hash_by(&self) -> Option<&HashBy> {
        match &self.config.balance {
            model::Balance::Hash(by) => Some(by),
            model::Balance::RoundRobin
            | model::Balance::LeastRequests
            | model::Balance::PeakEwma
            | model::Balance::Random
            | model::Balance::First => None,
        }
    }

    /// Backends that no reason keeps from serving.
    pub fn serving(&self) -> usize {
        self.members.iter().filter(|member| member.state.serving()).count()
    }
}
