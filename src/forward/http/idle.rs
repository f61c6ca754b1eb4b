//! A worker's kept-alive backend connections at rest, last in first out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustls::ClientConfig;

use super::BackendConn;
use crate::timer::TICK;

/// Time is the worker's tick count.
#[derive(Debug, Default)]
pub struct Idle {
    shelves: RefCell<FxHashMap<Shelf, Vec<Resting>>>,
    /// How many each backend has here that are for clients of their own.
    owned: RefCell<FxHashMap<u64, Rc<Cell<usize>>>>,
    owners: Cell<u64>,
}

/// Where a connection rests: whoever may take or drop it finds it without looking at others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shelf {
    /// Everybody's to this backend.
    Backend(u64),
    /// This client's, to whatever backends.
    Owner(u64),
}

impl Shelf {
    fn of(owner: u64, backend: u64) -> Shelf {
        if owner == 0 { Shelf::Backend(backend) } else { Shelf::Owner(owner) }
    }
}

#[derive(Debug)]
struct Resting {
    conn: Box<BackendConn>,
    backend: u64,
    since: u64,
    until: u64,
    _place: Option<Place>,
}

/// Of those that a backend may have here for clients of their own; dropping it makes room.
#[derive(Debug)]
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A request that must not be sent twice takes only a connection idle for less than this, and
/// found live that very moment.
const FRESH: Duration = Duration::from_secs(1);

impl Idle {
    /// Keeps a connection for `keep`, unless `most` of this backend's rest here already.
    pub fn put(&self, backend: u64, conn: Box<BackendConn>, now: u64, keep: Duration, most: usize) {
        let shelf = Shelf::of(conn.owner(), backend);
        let mut shelves = self.shelves.borrow_mut();
        let resting = shelves.entry(shelf).or_default();
        let place = match shelf {
            Shelf::Backend(_) => (resting.len() < most).then_some(None),
            Shelf::Owner(_) => self.place(backend, most).map(Some),
        };
        let ticks = ticks(keep);
        if let Some(_place) = place
            && ticks > 0
        {
            resting.push(Resting { conn, backend, since: now, until: now + ticks, _place });
        }
    }

    fn place(&self, backend: u64, most: usize) -> Option<Place> {
        let mut owned = self.owned.borrow_mut();
        let count = owned.entry(backend).or_default();
        (count.get() < most).then(|| {
            count.set(count.get() + 1);
            Place(count.clone())
        })
    }

    /// A number for a client whose connections are not to be anybody else's.
    pub fn next_owner(&self) -> u64 {
        self.owners.set(self.owners.get() + 1);
        self.owners.get()
    }

    /// The connection of this owner's that came last and still lives, if it is what `tls` would make: a
    /// reload may have changed that. 0 owns those that are everybody's. `careful`: for a request that can be
    /// sent only once.
    pub fn take(
        &self,
        backend: u64,
        owner: u64,
        now: u64,
        careful: bool,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Option<Box<BackendConn>> {
        let mut shelves = self.shelves.borrow_mut();
        let resting = shelves.get_mut(&Shelf::of(owner, backend))?;
        while let Some(at) = resting.iter().rposition(|found| found.backend == backend) {
            let found = &resting[at];
            // All below to this backend are older still; the sweep drops those whose time is up.
            let stale = careful && now.saturating_sub(found.since) >= ticks(FRESH);
            if found.until <= now || stale {
                return None;
            }
            let mut conn = resting.remove(at).conn;
            if conn.suits(tls) && if careful { conn.is_live() } else { conn.is_ready() } {
                return Some(conn);
            }
        }
        None
    }

    /// Drops what has rested long enough or was closed by its backend.
    pub fn sweep(&self, now: u64) {
        self.retain(|found| found.until > now && found.conn.is_ready());
        self.owned.borrow_mut().retain(|_, count| count.get() > 0);
    }

    /// Drops those to one backend.
    pub fn drop_all_of(&self, backend: u64) {
        self.retain(|found| found.backend != backend);
    }

    /// Drops those of one owner, who is gone.
    pub fn drop_all_for(&self, owner: u64) {
        self.shelves.borrow_mut().remove(&Shelf::Owner(owner));
    }

    fn retain(&self, keep: impl Fn(&mut Resting) -> bool) {
        self.shelves.borrow_mut().retain(|_, resting| {
            resting.retain_mut(&keep);
            !resting.is_empty()
        });
    }

    /// Drops everything: the worker stops.
    pub fn clear(&self) {
        self.shelves.borrow_mut().clear();
    }
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_nanos() / TICK.as_nanos()) as u64
}
