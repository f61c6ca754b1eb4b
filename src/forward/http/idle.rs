//! A worker's kept-alive backend connections at rest, last in first out.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustls::ClientConfig;

use super::BackendConn;
use crate::timer::TICK;

/// By backend id. Time is the worker's tick count.
#[derive(Debug, Default)]
pub struct Idle {
    resting: RefCell<FxHashMap<u64, Vec<Resting>>>,
    owners: Cell<u64>,
}

#[derive(Debug)]
struct Resting {
    conn: Box<BackendConn>,
    since: u64,
    until: u64,
}

/// A request that must not be sent twice takes only a connection idle for less than this, and
/// found live that very moment.
const FRESH: Duration = Duration::from_secs(1);

impl Idle {
    /// Keeps a connection for `keep`, unless `most` of this backend's rest here already.
    pub fn put(&self, backend: u64, conn: Box<BackendConn>, now: u64, keep: Duration, most: usize) {
        let mut map = self.resting.borrow_mut();
        let resting = map.entry(backend).or_default();
        let ticks = ticks(keep);
        if resting.len() < most && ticks > 0 {
            resting.push(Resting { conn, since: now, until: now + ticks });
        }
    }

    /// A number for a client whose connections are not to be anybody else's.
    pub fn next_owner(&self) -> u64 {
        self.owners.set(self.owners.get() + 1);
        self.owners.get()
    }

    /// The connection of this owner's that came last and still lives, if it is what `tls` would make (a
    /// reload may have changed that); owner 0 has those that are everybody's. `careful`: for a request that
    /// can be sent only once.
    pub fn take(
        &self,
        backend: u64,
        owner: u64,
        now: u64,
        careful: bool,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Option<Box<BackendConn>> {
        let mut map = self.resting.borrow_mut();
        let resting = map.get_mut(&backend)?;
        while let Some(at) = resting.iter().rposition(|found| found.conn.owner() == owner) {
            let found = &resting[at];
            // All below are older still; the sweep drops those whose time is up.
            let stale = careful && now.saturating_sub(found.since) >= ticks(FRESH);
            if found.until <= now || stale {
                return None;
            }
            let mut found = resting.remove(at);
            let conn = &mut found.conn;
            if conn.suits(tls) && if careful { conn.is_live() } else { conn.is_ready() } {
                return Some(found.conn);
            }
        }
        None
    }

    /// Drops what has rested long enough or was closed by its backend.
    pub fn sweep(&self, now: u64) {
        self.resting.borrow_mut().retain(|_, resting| {
            resting.retain_mut(|found| found.until > now && found.conn.is_ready());
            !resting.is_empty()
        });
    }

    /// Drops those to one backend.
    pub fn drop_all_of(&self, backend: u64) {
        self.resting.borrow_mut().remove(&backend);
    }

    /// Drops those of one owner, who is gone.
    pub fn drop_all_for(&self, owner: u64) {
        for resting in self.resting.borrow_mut().values_mut() {
            resting.retain(|found| found.conn.owner() != owner);
        }
    }

    /// Drops everything: the worker stops.
    pub fn clear(&self) {
        self.resting.borrow_mut().clear();
    }
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_nanos() / TICK.as_nanos()) as u64
}
