//! Pools for tests: backends 10.0.0.1:8080 and on, with the weights that a test wants.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{BackendAddr, BackendState, Member, Pool, PoolState};
use crate::config::defaults;
use crate::config::model::{self, Keepalive, Name};

pub(crate) const WORKERS: usize = 4;

pub(crate) fn pool(balance: model::Balance, weights: &[u32]) -> Arc<Pool> {
    let all: Vec<(u32, u32)> = (1..).zip(weights.iter().copied()).collect();
    pool_of(balance, &all)
}

/// `members`: the number of the backend, and its weight.
pub(crate) fn pool_of(balance: model::Balance, members: &[(u32, u32)]) -> Arc<Pool> {
    let name = Name::new("web").expect("a valid name");
    let config = model::Pool {
        balance,
        keepalive: Keepalive { max_idle: 0, idle_timeout: Duration::ZERO },
        ..defaults::pool(name.clone())
    };
    let members = members
        .iter()
        .map(|&(number, weight)| {
            let addr = BackendAddr(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)),
                8080,
            ));
            Member::new(Arc::new(BackendState::new(name.clone(), addr, WORKERS)), weight)
        })
        .collect();
    Arc::new(Pool::new(config, members, Arc::new(PoolState::new(WORKERS))))
}
