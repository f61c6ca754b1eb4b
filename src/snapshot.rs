//! The snapshot: everything that the data path reads of the configuration, immutable, swapped as one.
//!
//! `lifecycle::publish` makes it and is the only writer of the swap. Each worker reads it through its
//! own cache; the control thread drops the old ones.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::model::{self, Config, Name};
use crate::observe::cells::ListenerState;
use crate::pool::Pool;
use crate::route::rate::Limiter;
use crate::route::{PoolId, Streams, Table};
use crate::tls;

/// The one place from which every thread takes the current snapshot.
pub type Current = ArcSwap<Snapshot>;

#[derive(Debug)]
pub struct Snapshot {
    /// Counts up by one with each swap; the first is 1.
    pub generation: u64,
    pub config: Arc<Config>,
    /// In the order of the file.
    pub listeners: Box<[Arc<Listener>]>,
    /// In the order of the file; a [`PoolId`] is a place here.
    pub pools: Box<[Arc<Pool>]>,
}

/// A listener as one snapshot has it.
#[derive(Debug)]
pub struct Listener {
    pub config: model::Listener,
    pub work: Work,
    pub state: Arc<ListenerState>,
    pub rate_limit: Option<Arc<Limiter>>,
    /// `None`: in clear.
    pub tls: Option<Arc<tls::Server>>,
}

/// What is done with a listener's connections.
#[derive(Debug)]
pub enum Work {
    Http(Table),
    Tcp(Streams),
}

impl Snapshot {
    /// Some backend wants to be told whom a connection is from.
    pub fn introduces(&self) -> bool {
        self.pools.iter().any(|pool| pool.config.send_proxy_protocol.is_some())
    }

    pub fn pool(&self, id: PoolId) -> &Arc<Pool> {
        // A PoolId is made by `route` from this very list; see `lifecycle::publish`.
        &self.pools[id.0]
    }

    pub fn pool_named(&self, name: &Name) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| pool.config.name == *name)
    }
}
