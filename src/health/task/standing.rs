//! The door to what picks go by: whoever finds something out about a backend tells it here, and nobody
//! else writes its reason bits.
//!
//! One [`Standing`], shared on the control thread by the health task, the outlier task and the operator's
//! commands. It knows the pools of the snapshot in force. It decides nothing of a single backend: each
//! reason has its one writer, who comes through here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::model::Name;
use crate::pool::{BackendState, Pool, Reason};

/// What all workers are to end: see `flow::thread::Command::Release`.
#[derive(Clone, Debug)]
pub struct Release {
    /// By [`BackendState::id`].
    pub backend: u64,
    /// How long what is in progress may go on; `None` is not at all.
    pub after: Option<Duration>,
    /// Dropped by each worker once it has nothing to do with the backend any more.
    pub done: mpsc::Sender<()>,
}

/// Brings an order to all workers.
pub type Orders = Box<dyn Fn(Release)>;

/// The door. See the file's head.
pub struct Standing {
    /// When the process began: `came_back` counts from here, as picks do.
    epoch: std::time::Instant,
    #[expect(dead_code, reason = "the first order is still to come")]
    orders: Orders,
    pools: RefCell<HashMap<Name, Arc<Pool>>>,
}

impl Standing {
    /// `epoch`: when the process began.
    pub fn new(epoch: std::time::Instant, orders: Orders) -> Rc<Standing> {
        Rc::new(Standing { epoch, orders, pools: RefCell::default() })
    }

    /// One that nobody obeys, for tests.
    #[cfg(test)]
    pub fn alone() -> Rc<Standing> {
        Standing::new(Instant::now().into_std(), Box::new(|_| {}))
    }

    /// Sets and clears reasons of one backend, each for its one writer. `why`, a few words, stands in
    /// the log event of what follows from it. True if any bit changed.
    pub fn change(
        &self,
        backend: &Arc<BackendState>,
        set: &[Reason],
        clear: &[Reason],
        why: &str,
    ) -> bool {
        // A first verdict is no return: nothing ramps up at the start of the process.
        let first = backend.reasons().eq([Reason::Unverified]);
        let served = backend.serving();
        // Sets before it clears: in between, the backend must not seem to serve.
        let mut changed = false;
        for &reason in set {
            changed |= backend.set(reason);
        }
        let serves = backend.reasons().all(|reason| clear.contains(&reason));
        if serves && !served && !first {
            // Before the bits: whoever sees that it serves sees since when.
            backend.came_back(self.nanos());
        }
        for &reason in clear {
            changed |= backend.clear(reason);
        }
        if changed {
            tracing::debug!(pool = %backend.pool, backend = %backend.addr, why, "standing changed");
        }
        changed
    }

    /// These are the pools of the snapshot that is published next, before anything else happens.
    pub fn apply(&self, pools: &[Arc<Pool>]) {
        let pools = pools.iter().map(|pool| (pool.config.name.clone(), pool.clone()));
        self.pools.replace(pools.collect());
    }

    fn nanos(&self) -> u64 {
        Instant::now().into_std().duration_since(self.epoch).as_nanos() as u64
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("pools", &self.pools.borrow().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model;
    use crate::pool::sample;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn only_a_return_is_stamped_and_a_first_verdict_is_none() {
        use Reason::{Down, Ejected, Unverified};
        let standing = Standing::alone();
        let pool = sample::pool(model::Balance::Random, &[1]);
        let backend = &pool.members[0].state;
        assert!(standing.change(backend, &[Unverified], &[Down], "new"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(standing.change(backend, &[], &[Down, Unverified], "a probe passed"));
        assert_eq!(backend.back_at_nanos(), None);
        assert!(!standing.change(backend, &[], &[Down, Unverified], "again"));
        standing.change(backend, &[Down], &[], "dead");
        standing.change(backend, &[Ejected], &[], "dead too");
        tokio::time::advance(Duration::from_secs(1)).await;
        standing.change(backend, &[], &[Down], "well");
        assert_eq!(backend.back_at_nanos(), None, "it is ejected");
        standing.change(backend, &[], &[Ejected], "its time is over");
        assert_eq!(backend.back_at_nanos(), Some(2_000_000_000));
    }
}
