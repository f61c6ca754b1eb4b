//! A data worker: one thread with its own runtime, accept loops, client and backend connections.
//!
//! Here is what its tasks share (plain cells, as they never leave the thread), and the loop that obeys
//! the control thread. What happens to a connection is told in `connection`.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::Cache;
use rustc_hash::FxHashMap;
use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc, oneshot};

use super::connection;
use crate::config::model::Name;
use crate::forward::http::Idle;
use crate::forward::session::Session;
use crate::forward::tcp::Buffers;
use crate::lifecycle::status::Status;
use crate::listen::{Acceptor, Bound, Gate};
use crate::observe::limiter::Limiter;
use crate::outcome::Cause;
use crate::pool::Picker;
use crate::route::PoolId;
use crate::snapshot::{Current, Listener, Snapshot};
use crate::timer::{TICK, Wheel};

/// Log lines a second and kind of failure that a worker writes.
const LINES_PER_SECOND: u32 = 5;

/// What the control thread tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept from this socket, for the listener of this name. The number names the socket.
    Listen(u64, Name, Bound),
    /// Take what is queued there, then let the socket go.
    Unlisten(u64),
    /// The listener is gone: its connections are to leave, and are cut after this long.
    Retire(Name, Duration),
    /// Close all sockets; connections are to leave. The thread ends with the last of them.
    Drain,
    /// End what is left.
    Cut,
}

/// What every thread of the process has in common.
#[derive(Clone, Debug)]
pub struct Shared {
    pub current: Arc<Current>,
    pub status: Arc<Status>,
    pub gate: Arc<Gate>,
    /// When the process began: `now_nanos` of picks counts from here.
    pub epoch: Instant,
}

/// The state of one data thread.
#[derive(Debug)]
pub struct Worker {
    pub id: usize,
    pub shared: Shared,
    pub wheel: Rc<Wheel>,
    pub idle: Idle,
    pub buffers: Buffers,
    pub limiter: RefCell<Limiter>,
    cache: RefCell<Cache<Arc<Current>, Arc<Snapshot>>>,
    view: RefCell<Rc<View>>,
    sessions: RefCell<FxHashMap<u64, (Name, Weak<Session>)>>,
    next_session: Cell<u64>,
    draining: Cell<bool>,
    /// Told when the last session or accept loop ends, in a drain.
    empty: Notify,
}

/// A snapshot as this worker uses it.
#[derive(Debug)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pickers: Vec<Rc<Picker>>,
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
        Rc::new(View { snapshot, pickers })
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

/// A connection's entry in its worker's list; dropping it takes it off.
#[derive(Debug)]
pub struct Registered {
    worker: Rc<Worker>,
    key: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut sessions = self.worker.sessions.borrow_mut();
        sessions.remove(&self.key);
        if sessions.is_empty() && self.worker.draining.get() {
            self.worker.empty.notify_one();
        }
    }
}

impl Worker {
    pub fn new(id: usize, shared: Shared) -> Rc<Worker> {
        let mut cache = Cache::new(shared.current.clone());
        let view = View::new(cache.load().clone(), None);
        Rc::new(Worker {
            id,
            shared,
            wheel: Wheel::new(),
            idle: Idle::default(),
            buffers: Buffers::default(),
            limiter: RefCell::new(Limiter::new(Cause::ALL.len(), LINES_PER_SECOND)),
            cache: RefCell::new(cache),
            view: RefCell::new(view),
            sessions: RefCell::default(),
            next_session: Cell::new(0),
            draining: Cell::new(false),
            empty: Notify::new(),
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

    /// Nanoseconds since the process began.
    pub fn nanos(&self, now: Instant) -> u64 {
        now.duration_since(self.shared.epoch).as_nanos() as u64
    }

    /// Puts a connection on the list of those that are told to leave.
    pub fn register(self: &Rc<Self>, name: &Name, session: &Rc<Session>) -> Registered {
        let key = self.next_session.get();
        self.next_session.set(key + 1);
        self.sessions.borrow_mut().insert(key, (name.clone(), Rc::downgrade(session)));
        Registered { worker: self.clone(), key }
    }

    fn tell(&self, of: Option<&Name>, what: impl Fn(&Session)) {
        let told: Vec<_> = self
            .sessions
            .borrow()
            .values()
            .filter(|(name, _)| of.is_none_or(|of| of == name))
            .filter_map(|(_, session)| session.upgrade())
            .collect();
        told.iter().for_each(|session| what(session));
    }
}

/// Runs a worker on the current thread until it is drained or cut. Ends early only if the runtime
/// cannot be made.
pub fn run(
    id: usize,
    shared: Shared,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = LocalRuntime::new()?;
    runtime.block_on(async {
        let worker = Worker::new(id, shared);
        tokio::task::spawn_local(keep_time(Rc::downgrade(&worker)));
        obey(&worker, commands).await;
        worker.idle.clear();
    });
    // Tasks that a cut left behind end with the runtime.
    Ok(())
}

/// Moves the wheel on with the clock, and drops idle backend connections that are old.
async fn keep_time(worker: Weak<Worker>) {
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut swept = 0;
    loop {
        let at = ticks.tick().await;
        let Some(worker) = worker.upgrade() else { return };
        let now = (at.duration_since(began).as_nanos() / TICK.as_nanos()) as u64;
        worker.wheel.advance(now);
        if now >= swept + 50 {
            swept = now;
            worker.idle.sweep(now);
            // A worker without traffic lets an old snapshot go here.
            worker.view();
        }
    }
}

async fn obey(worker: &Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut sockets: FxHashMap<u64, oneshot::Sender<()>> = FxHashMap::default();
    let accepting = Rc::new(Cell::new(0_usize));
    loop {
        if worker.draining.get() && accepting.get() == 0 && worker.sessions.borrow().is_empty() {
            return;
        }
        let command = tokio::select! {
            command = commands.recv() => command,
            () = worker.empty.notified() => continue,
        };
        match command {
            Some(Command::Listen(socket, name, bound)) => match Acceptor::new(bound) {
                Ok(acceptor) => {
                    let (stop, stopped) = oneshot::channel();
                    sockets.insert(socket, stop);
                    accepting.set(accepting.get() + 1);
                    let accept = accept(worker.clone(), name, acceptor, stopped);
                    let accepting = accepting.clone();
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move {
                        accept.await;
                        accepting.set(accepting.get() - 1);
                        worker.empty.notify_one();
                    });
                }
                Err(error) => tracing::error!(listener = %name, %error, "cannot accept"),
            },
            Some(Command::Unlisten(socket)) => drop(sockets.remove(&socket)),
            Some(Command::Retire(name, after)) => {
                worker.tell(Some(&name), Session::leave);
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(after).await;
                    if worker.here(&name).is_none() {
                        worker.tell(Some(&name), Session::cut);
                    }
                });
            }
            Some(Command::Drain) => {
                worker.draining.set(true);
                sockets.clear();
                worker.tell(None, Session::leave);
            }
            Some(Command::Cut) | None => {
                let left = worker.sessions.borrow().len() as u64;
                worker.shared.status.cut.fetch_add(left, Ordering::Relaxed);
                worker.tell(None, Session::cut);
                // One turn of the runtime: sockets close, guards end their accounting.
                tokio::task::yield_now().await;
                return;
            }
        }
    }
}

/// Accepts for one listener until `stopped`.
async fn accept(
    worker: Rc<Worker>,
    name: Name,
    acceptor: Acceptor,
    stopped: oneshot::Receiver<()>,
) {
    let Shared { gate, status, .. } = worker.shared.clone();
    let limit = || worker.shared.current.load().config.limits.connections;
    let stopped = async {
        let _ = stopped.await; // dropped or sent: the same
    };
    acceptor
        .run(&gate, &status, limit, stopped, |stream, addr, permit| {
            let story = connection::serve(worker.clone(), name.clone(), stream, addr, permit);
            tokio::task::spawn_local(story);
        })
        .await;
}
