//! A worker's kept-alive backend connections at rest, last in first out.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustls::ClientConfig;

use super::BackendConn;
use crate::timer::TICK;

/// By backend id. Time is the worker's tick count.
#[derive(Debug, Default)]
pub struct Idle(RefCell<FxHashMap<u64, Vec<Resting>>>);

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
        let mut map = self.0.borrow_mut();
        let resting = map.entry(backend).or_default();
        let ticks = ticks(keep);
        if resting.len() < most && ticks > 0 {
            resting.push(Resting { conn, since: now, until: now + ticks });
        }
    }

    /// The connection that came last and still lives, if it is what `tls` would make: a reload may have
    /// changed that. `careful`: for a request that can be sent only once.
    pub fn take(
        &self,
        backend: u64,
        now: u64,
        careful: bool,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Option<Box<BackendConn>> {
        let mut map = self.0.borrow_mut();
        let resting = map.get_mut(&backend)?;
        while let Some(mut found) = resting.pop() {
            // All below are older still; the sweep drops those whose time is up.
            if found.until <= now {
                return None;
            }
            if careful && now.saturating_sub(found.since) >= ticks(FRESH) {
                resting.push(found);
                return None;
            }
            let conn = &mut found.conn;
            if conn.suits(tls) && if careful { conn.is_live() } else { conn.is_ready() } {
                return Some(found.conn);
            }
        }
        None
    }

    /// Drops what has rested long enough or was closed by its backend.
    pub fn sweep(&self, now: u64) {
        self.0.borrow_mut().retain(|_, resting| {
            resting.retain_mut(|found| found.until > now && found.conn.is_ready());
            !resting.is_empty()
        });
    }

    /// Drops those to one backend.
    pub fn drop_all_of(&self, backend: u64) {
        self.0.borrow_mut().remove(&backend);
    }

    /// Drops everything: the worker stops.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_nanos() / TICK.as_nanos()) as u64
}
