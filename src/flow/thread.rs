//! The thread of a data worker: its runtime, its clock, the commands it obeys, and its end.

use std::cell::Cell;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::runtime::LocalRuntime;
use tokio::sync::{mpsc, oneshot};

use super::arrivals::{self, Arrival};
use super::engaged;
use super::worker::{Shared, Worker};
use crate::config::model::{BindAddr, Name};
use crate::forward::session::Session;
use crate::listen::{Acceptor, Bound};
use crate::timer::TICK;

/// What the control thread tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept from this socket, for whichever listener has its address.
    Listen(BindAddr, Bound),
    /// Take what is queued there, then let the socket go, and last of all this sender.
    Unlisten(BindAddr, mpsc::Sender<()>),
    /// The listener is gone: its connections are to leave, and are cut after this long.
    Retire(Name, Duration),
    /// End what is in progress with the backend of this id, after this long, and let go the kept
    /// connections to it; then, and when what was in progress has ended by itself, this sender.
    Release { backend: u64, after: Option<Duration>, done: mpsc::Sender<()> },
    /// Close all sockets; connections are to leave. The thread ends with the last of them.
    Drain,
    /// End what is left.
    Cut,
}

/// What comes to a worker from other threads.
#[derive(Debug)]
pub struct Inbox {
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// The other end of its door.
    pub arrivals: mpsc::UnboundedReceiver<Arrival>,
}

/// Runs a worker on the current thread until it is drained or cut. Says first whether it runs: it
/// does not if the runtime cannot be made.
pub fn run(id: usize, shared: Shared, inbox: Inbox, started: oneshot::Sender<io::Result<()>>) {
    let runtime = match LocalRuntime::new() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    // Nobody listens only if the process is about to end.
    let _ = started.send(Ok(()));
    runtime.block_on(async {
        let worker = Worker::new(id, shared);
        tokio::task::spawn_local(keep_time(Rc::downgrade(&worker)));
        obey(&worker, inbox).await;
        worker.idle.clear();
        worker.shared_conns.clear();
    });
    // Tasks that a cut left behind end with the runtime.
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
        if worker.sessions.is_draining() {
            // A connection that was refused at once has no session whose end would be told.
            worker.sessions.nudge();
        }
        if now >= swept + 50 {
            swept = now;
            worker.idle.sweep(now);
            worker.shared_conns.sweep(now);
            // A worker without traffic lets an old snapshot go here.
            worker.view();
        }
    }
}

async fn obey(worker: &Rc<Worker>, mut inbox: Inbox) {
    let mut sockets: FxHashMap<BindAddr, oneshot::Sender<mpsc::Sender<()>>> = FxHashMap::default();
    let accepting = Rc::new(Cell::new(0_usize));
    loop {
        if worker.sessions.is_draining() && accepting.get() == 0 && worker.open() == 0 {
            inbox.arrivals.close();
            match inbox.arrivals.recv().await {
                Some(arrival) => arrivals::receive(worker, arrival),
                None => return,
            }
        }
        let command = tokio::select! {
            command = inbox.commands.recv() => command,
            Some(arrival) = inbox.arrivals.recv() => {
                arrivals::receive(worker, arrival);
                continue;
            }
            () = worker.sessions.ended() => continue,
        };
        match command {
            Some(Command::Listen(addr, bound)) => match Acceptor::new(bound) {
                Ok(acceptor) => {
                    let (stop, stopped) = oneshot::channel();
                    sockets.insert(addr.clone(), stop);
                    accepting.set(accepting.get() + 1);
                    let accept = arrivals::accept(worker.clone(), addr, acceptor, stopped);
                    let accepting = accepting.clone();
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move {
                        accept.await;
                        accepting.set(accepting.get() - 1);
                        worker.sessions.nudge();
                    });
                }
                Err(error) => tracing::error!(address = %addr, %error, "cannot accept"),
            },
            Some(Command::Unlisten(addr, done)) => {
                if let Some(stop) = sockets.remove(&addr) {
                    // A loop that has ended by itself has no socket to let go.
                    let _ = stop.send(done);
                }
            }
            Some(Command::Retire(name, after)) => {
                worker.sessions.tell(Some(&name), Session::leave);
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(after).await;
                    if worker.here(&name).is_none() {
                        worker.sessions.tell(Some(&name), Session::cut);
                    }
                });
            }
            Some(Command::Release { backend, after, done }) => {
                engaged::release(worker, backend, after, done);
            }
            Some(Command::Drain) => {
                sockets.clear();
                worker.sessions.drain();
            }
            Some(Command::Cut) | None => {
                // Those on their way to us included.
                let left = worker.open() as u64;
                worker.shared.status.cut.fetch_add(left, Ordering::Relaxed);
                worker.sessions.tell(None, Session::cut);
                // One turn of the runtime: sockets close, guards end their accounting.
                tokio::task::yield_now().await;
                return;
            }
        }
    }
}
