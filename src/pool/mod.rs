//! A pool: a named set of backends that serve the same thing, and the choice among them.
//!
//! `state` is what is known of a backend and of a pool; `tier` is the backends of one rank; `pick`
//! chooses one that serves by the pool's `balance` and hands out a [`Lease`]; `budget` bounds retries,
//! `queue` is where requests wait for a lease.
//! Pure: no clock, no socket, no spawn. This room only reads the reason bits and the tier floor; the
//! control thread writes them, one writer a fact.

pub mod balance;
pub mod budget;
pub mod lease;
pub mod pick;
pub mod queue;
#[cfg(test)]
pub(crate) mod sample;
pub mod state;
pub mod sticky;
pub mod tier;
mod trial;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

pub use lease::Lease;
pub use pick::Picker;
pub use state::{BackendAddr, BackendState, PoolState, Reason};
pub use tier::Tier;

use crate::config::model::{self, HashBy};

/// A pool as one snapshot has it: immutable. What changes lives in the states.
#[derive(Debug)]
pub struct Pool {
    /// What was configured: health check, keep-alive, time-outs, failover.
    pub config: model::Pool,
    /// Tier by tier; within a tier in the order of the file.
    pub members: Box<[Member]>,
    /// At least one, the active one first.
    pub tiers: Box<[Tier]>,
    pub state: Arc<PoolState>,
    /// The cookies by which clients stick to their backends, if they do.
    pub sticky: Option<sticky::Cookies>,
}

/// A backend with what this snapshot says of it.
#[derive(Debug)]
pub struct Member {
    pub state: Arc<BackendState>,
    pub weight: u32,
    /// As in the file: 0 is active.
    pub tier: u8,
    /// Leases at once, over all workers.
    pub max_requests: Option<u32>,
    /// How connections to it are made secure; `None`: they are in clear.
    pub tls: Option<Arc<MemberTls>>,
    /// What it has to prove that it is to a probe over TLS, if its probes are.
    pub probed_as: Option<ServerName<'static>>,
}

/// TLS towards one backend.
#[derive(Debug)]
pub struct MemberTls {
    /// The pool's settings, with the sessions of this backend that can be resumed.
    pub config: Arc<ClientConfig>,
    /// What the backend has to prove that it is.
    pub name: ServerName<'static>,
}

impl Member {
    /// An active one without a cap.
    pub fn new(state: Arc<BackendState>, weight: u32) -> Member {
        Member { state, weight, tier: 0, max_requests: None, tls: None, probed_as: None }
    }
}

impl Pool {
    /// `members` in the order of the file; the same state never twice.
    pub fn new(config: model::Pool, mut members: Box<[Member]>, state: Arc<PoolState>) -> Pool {
        members.sort_by_key(|member| member.tier);
        let tiers = tier::split(&config.balance, &members);
        let sticky = config.sticky.as_ref();
        let sticky = sticky.map(|s| sticky::Cookies::new(s, &config.name, &members));
        Pool { config, members, tiers, state, sticky }
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
