//! What the tasks of one data worker share: plain cells, as they never leave their thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::Cache;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc::UnboundedSender;

use super::arrivals::Arrival;
use super::engaged::Engaged;
use super::entrance::Handshakes;
use super::hedge::Percentiles;
use super::sessions::Sessions;
use super::tellers::Tellers;
use crate::acme::challenges::Challenges;
use crate::config::model::{BindAddr, Name};
use crate::forward::buffers::Buffers;
use crate::forward::http::date::Date;
use crate::forward::http::head::Heads;
use crate::forward::http::{Idle, h2};
use crate::forward::splice::Pipes;
use crate::lifecycle::status::Status;
use crate::listen::Gate;
use crate::observe::limiter::Limiter;
use crate::outcome::Cause;
use crate::pool::{BackendState, Picker};
use crate::route::PoolId;
use crate::snapshot::{Current, Listener, Snapshot};
use crate::timer::Wheel;

/// Log lines a second and kind of failure that a worker writes.
const LINES_PER_SECOND: u32 = 5;

/// What every thread of the process has in common.
#[derive(Clone, Debug)]
pub struct Shared {
    pub current: Arc<Current>,
    pub status: Arc<Status>,
    pub gate: Arc<Gate>,
    pub challenges: Arc<Challenges>,
    /// Where each worker is handed connections that another accepted.
    pub doors: Arc<[UnboundedSender<Arrival>]>,
    /// Where a backend goes of which traffic has said something that is to be decided at once.
    pub votes: UnboundedSender<Arc<BackendState>>,
    /// When the process began: `now_nanos` of picks counts from here.
    pub epoch: Instant,
}

/// The state of one data thread.
#[derive(Debug)]
pub struct Worker {
    pub id: usize,
    pub shared: Shared,
    pub wheel: Rc<Wheel>,
    /// Connections to backends at rest, and those that many requests share.
    pub idle: Idle,
    pub shared_conns: h2::SharedConns,
    pub buffers: Buffers,
    pub heads: Heads,
    pub date: Date,
    pub pipes: Pipes,
    pub limiter: RefCell<Limiter>,
    /// Of answers that are held back until they are whole.
    pub held_bytes: Cell<usize>,
    pub percentiles: Percentiles,
    cache: RefCell<Cache<Arc<Current>, Arc<Snapshot>>>,
    view: RefCell<Rc<View>>,
    pub sessions: Rc<Sessions>,
    pub engaged: Engaged,
    pub handshakes: Handshakes,
    pub tellers: Rc<Tellers>,
}

/// A snapshot as this worker uses it.
#[derive(Debug)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pickers: Vec<Rc<Picker>>,
    /// Whose listener an address is.
    by_addr: FxHashMap<BindAddr, usize>,
}

impl View {
    fn new(snapshot: Arc<Snapshot>, before: Option<&View>) -> Rc<View> {
        let known: FxHashMap<_, _> = before
            .iter()
            .flat_map(|view| &view.pickers)
            .map(|picker| (Arc::as_ptr(picker.pool()), picker))
            .collect();
        let pickers = snapshot
            .pools
            .iter()
            .map(|pool| match known.get(&Arc::as_ptr(pool)) {
                Some(&picker) => picker.clone(),
                None => Rc::new(Picker::new(pool.clone())),
            })
            .collect();
        let listeners = snapshot.listeners.iter().enumerate();
        let by_addr = listeners
            .flat_map(|(index, l)| l.config.bind.iter().map(move |addr| (addr.clone(), index)))
            .collect();
        Rc::new(View { snapshot, pickers, by_addr })
    }

    pub fn picker(&self, pool: PoolId) -> &Rc<Picker> {
        // As many as the snapshot has pools, in the same order; see `Snapshot::pool`.
        &self.pickers[pool.0]
    }
}

/// A listener in a snapshot: what a connection or a request goes by.
#[derive(Clone, Debug)]
pub struct Here {
    pub view: Rc<View>,
    index: usize,
}

impl Here {
    pub fn listener(&self) -> &Listener {
        &self.view.snapshot.listeners[self.index]
    }
}

impl Worker {
    pub fn new(id: usize, shared: Shared) -> Rc<Worker> {
        let mut cache = Cache::new(shared.current.clone());
        let view = View::new(cache.load().clone(), None);
        let pipes = Pipes::new(shared.status.pipes_per_worker(), shared.status.clone());
        Rc::new(Worker {
            id,
            shared,
            wheel: Wheel::new(),
            idle: Idle::default(),
            shared_conns: h2::SharedConns::default(),
            buffers: Buffers::default(),
            heads: Heads::default(),
            date: Date::default(),
            pipes,
            held_bytes: Cell::new(0),
            percentiles: Percentiles::default(),
            limiter: RefCell::new(Limiter::new(Cause::ALL.len(), LINES_PER_SECOND)),
            cache: RefCell::new(cache),
            view: RefCell::new(view),
            sessions: Rc::default(),
            engaged: Engaged::default(),
            handshakes: Handshakes::default(),
            tellers: Rc::default(),
        })
    }

    /// The current snapshot.
    pub fn view(&self) -> Rc<View> {
        let mut cache = self.cache.borrow_mut();
        let current = cache.load();
        let mut view = self.view.borrow_mut();
        if current.generation != view.snapshot.generation {
            *view = View::new(current.clone(), Some(&view));
        }
        view.clone()
    }

    /// The current snapshot's listener of this name; `None` if it has none.
    pub fn here(&self, name: &Name) -> Option<Here> {
        let view = self.view();
        let index = view.snapshot.listeners.iter().position(|l| l.config.name == *name)?;
        Some(Here { view, index })
    }

    /// The current snapshot's listener on this address; `None` if it has none.
    pub fn here_at(&self, addr: &BindAddr) -> Option<Here> {
        let view = self.view();
        let index = *view.by_addr.get(addr)?;
        Some(Here { view, index })
    }

    /// That of an older snapshot, for what is left of it.
    pub fn here_before(&self, snapshot: Arc<Snapshot>, addr: &BindAddr) -> Option<Here> {
        let view = View::new(snapshot, Some(&self.view()));
        let index = *view.by_addr.get(addr)?;
        Some(Here { view, index })
    }

    /// Client connections that are open here, or on their way.
    pub fn open(&self) -> usize {
        self.shared.status.open_by_worker[self.id].load(Ordering::Relaxed)
    }

    /// Nanoseconds since the process began.
    pub fn nanos(&self, now: Instant) -> u64 {
        now.duration_since(self.shared.epoch).as_nanos() as u64
    }
}
