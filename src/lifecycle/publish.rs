//! Builds snapshots, and is the only writer of the one in force.
//!
//! What is known of a listener, a pool or a backend is found again by its name or address and carried
//! over; what is no longer in any snapshot is forgotten. Old snapshots are dropped here, on the
//! control thread, once no worker uses them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::config::model::{self, BackendHost, Config, Mode, Name};
use crate::observe::cells::ListenerState;
use crate::pool::{BackendAddr, BackendState, Member, MemberTls, Pool, PoolState};
use crate::route::rate::Limiter;
use crate::route::{PoolId, Streams, Table, UnknownPool};
use crate::snapshot::{Current, Listener, Snapshot, Work};
use crate::tls::server::{Kept, ServerError};
use crate::tls::{self, client};

use super::resolve::Addresses;

#[derive(Debug)]
pub struct Publisher {
    current: Arc<Current>,
    workers: usize,
    retired: Vec<Arc<Snapshot>>,
    listeners: Known<Name, ListenerState>,
    /// Ticket secrets and what ACME brought, by listener.
    tls: Known<Name, Kept>,
    pools: Known<Name, PoolState>,
    backends: Known<(Name, BackendAddr), BackendState>,
}

/// Why a configuration makes no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Route(#[from] UnknownPool),
    #[error("listener {0}: its TLS cannot be had: {1}")]
    Tls(Name, ServerError),
}

/// States that some snapshot, old or new, still holds.
type Known<K, V> = HashMap<K, Weak<V>>;

/// The empty snapshot that a process begins with, before its first configuration is in force.
pub fn nothing(config: Config) -> Arc<Current> {
    Arc::new(Current::new(Arc::new(Snapshot {
        generation: 0,
        config: Arc::new(config),
        listeners: Box::default(),
        pools: Box::default(),
    })))
}

impl Publisher {
    pub fn new(current: Arc<Current>, workers: usize) -> Publisher {
        Publisher {
            current,
            workers,
            retired: Vec::new(),
            listeners: Known::new(),
            tls: Known::new(),
            pools: Known::new(),
            backends: Known::new(),
        }
    }

    /// The snapshot that `config` makes. Fails only for what `config::validate` has ruled out.
    pub fn build(
        &mut self,
        config: Config,
        addresses: &Addresses,
    ) -> Result<Arc<Snapshot>, BuildError> {
        let before = self.current.load_full();
        let pools: Box<[Arc<Pool>]> =
            config.pools.iter().map(|pool| self.pool(pool, addresses, &before)).collect();
        let ids: HashMap<&Name, PoolId> =
            config.pools.iter().enumerate().map(|(i, pool)| (&pool.name, PoolId(i))).collect();
        let find = |name: &Name| ids.get(name).copied();
        let listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let old = before.listeners.iter().find(|old| old.config.name == listener.name);
                let work = match &listener.mode {
                    Mode::Http { routes } => {
                        let mut table = Table::new(routes, &find)?;
                        if let Some(Work::Http(old)) = old.map(|old| &old.work) {
                            table.carry_rate_limits(old);
                        }
                        Work::Http(table)
                    }
                    Mode::Tcp { routes } => Work::Tcp(Streams::new(routes, &find)?),
                };
                let workers = self.workers;
                let state = carry(&mut self.listeners, listener.name.clone(), || {
                    ListenerState::new(workers)
                });
                let rate_limit = rate_limit(listener, old.map(|old| &**old));
                let tls = self.tls(listener, old.map(|old| &**old))?;
                let config = listener.clone();
                Ok(Arc::new(Listener { config, work, state, rate_limit, tls }))
            })
            .collect::<Result<_, BuildError>>()?;
        Ok(Arc::new(Snapshot {
            generation: before.generation + 1,
            config: Arc::new(config),
            listeners,
            pools,
        }))
    }

    /// The one that there was, if it would be the same; else with the ticket secrets of before, so
    /// that a renewed certificate ends no session.
    fn tls(
        &mut self,
        now: &model::Listener,
        old: Option<&Listener>,
    ) -> Result<Option<Arc<tls::Server>>, BuildError> {
        let Some(config) = &now.tls else { return Ok(None) };
        let old = old.and_then(|old| old.tls.clone());
        if let Some(same) = old.filter(|old| old.is_of(config)) {
            return Ok(Some(same));
        }
        let kept = carry(&mut self.tls, now.name.clone(), || Kept::new(Instant::now()));
        let wrong = |error| BuildError::Tls(now.name.clone(), error);
        tls::Server::new(&now.name, config, kept)
            .map(|server| Some(Arc::new(server)))
            .map_err(wrong)
    }

    fn pool(
        &mut self,
        config: &model::Pool,
        addresses: &Addresses,
        before: &Snapshot,
    ) -> Arc<Pool> {
        let workers = self.workers;
        let old = before.pool_named(&config.name);
        let mut members: Vec<Member> = Vec::with_capacity(config.backends.len());
        for backend in &config.backends {
            for &addr in addresses.of(&backend.address) {
                let (pool, addr) = (config.name.clone(), BackendAddr(addr));
                // Two names of one address are one backend.
                if members.iter().any(|member| member.state.addr == addr) {
                    continue;
                }
                let state = carry(&mut self.backends, (pool.clone(), addr), || {
                    BackendState::new(pool, addr, workers)
                });
                let tls = member_tls(config, &backend.address, &state, old);
                let check = config.health_check.as_ref().and_then(|check| check.tls.as_ref());
                let probed_as =
                    check.map(|tls| client::server_name(tls, &backend.address, state.addr.0));
                members.push(Member {
                    state,
                    tls,
                    probed_as,
                    weight: backend.weight.into(),
                    tier: backend.tier,
                    max_requests: backend.max_requests,
                });
            }
        }
        // As the pool will have them.
        members.sort_by_key(|member| member.tier);
        let same = old.filter(|old| {
            let pairs = old.members.iter().zip(&members);
            old.config == *config
                && old.members.len() == members.len()
                && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(&a.state, &b.state))
        });
        if let Some(same) = same {
            return same.clone();
        }
        let state = carry(&mut self.pools, config.name.clone(), || PoolState::new(workers));
        Arc::new(Pool::new(config.clone(), members.into(), state))
    }

    /// Puts a snapshot in force: one swap.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.retired.push(self.current.swap(snapshot));
    }

    /// Drops the old snapshots that no worker uses any more, and forgets what only they knew.
    pub fn drop_retired(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        self.listeners.retain(|_, state| state.strong_count() > 0);
        self.tls.retain(|_, kept| kept.strong_count() > 0);
        self.pools.retain(|_, state| state.strong_count() > 0);
        self.backends.retain(|_, state| state.strong_count() > 0);
    }

    /// How many listeners, pools and backends are remembered.
    #[cfg(test)]
    pub fn known(&self) -> (usize, usize, usize) {
        (self.listeners.len(), self.pools.len(), self.backends.len())
    }
}

/// The one that there was, if it was the same.
fn rate_limit(now: &model::Listener, old: Option<&Listener>) -> Option<Arc<Limiter>> {
    let config = now.rate_limit.as_ref()?;
    let kept = old.and_then(|old| old.rate_limit.clone());
    let kept = kept.filter(|limiter| limiter.config == *config);
    Some(kept.unwrap_or_else(|| Arc::new(Limiter::new(config.clone()))))
}

/// The one that there was, with its sessions, if it was the same.
fn member_tls(
    config: &model::Pool,
    host: &BackendHost,
    state: &Arc<BackendState>,
    old: Option<&Arc<Pool>>,
) -> Option<Arc<MemberTls>> {
    let tls = config.tls.as_ref()?;
    let name = client::server_name(tls, host, state.addr.0);
    let known = old.filter(|old| old.config.tls.as_ref() == Some(tls)).and_then(|old| {
        let member = old.members.iter().find(|member| Arc::ptr_eq(&member.state, state))?;
        member.tls.clone().filter(|tls| tls.name == name)
    });
    Some(known.unwrap_or_else(|| {
        Arc::new(MemberTls { config: client::with_sessions(&tls.config), name })
    }))
}

fn carry<K: Hash + Eq, V>(known: &mut Known<K, V>, key: K, new: impl FnOnce() -> V) -> Arc<V> {
    if let Some(state) = known.get(&key).and_then(Weak::upgrade) {
        return state;
    }
    let state = Arc::new(new());
    known.insert(key, Arc::downgrade(&state));
    state
}
