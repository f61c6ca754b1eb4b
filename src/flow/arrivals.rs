//! How accepted connections come to the worker that serves them: from accept loops of its own, or
//! from another worker's.
//!
//! None is lost on the way. A worker that ends closes its door first and serves what came through
//! before; whoever finds the door closed serves the connection itself.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::connection;
use super::worker::{Here, Shared, Worker};
use crate::config::model::BindAddr;
use crate::listen::{Accepted, Acceptor, ClientAddr, Permit};
use crate::snapshot::Snapshot;

/// An accepted connection on its way to the worker that is to serve it, and for which its permit
/// counts already.
#[derive(Debug)]
pub struct Arrival {
    at: BindAddr,
    socket: Accepted,
    client: ClientAddr,
    permit: Permit,
    /// In which its address has a listener, should it be gone when the connection arrives.
    snapshot: Arc<Snapshot>,
}

/// Accepts at one address until `stopped`, and brings each connection to the worker that has the
/// fewest. What is still queued when a reload has taken the address away is served as it would have
/// been before, but told to leave.
pub async fn accept(
    worker: Rc<Worker>,
    at: BindAddr,
    acceptor: Acceptor,
    stopped: oneshot::Receiver<mpsc::Sender<()>>,
) {
    let Shared { gate, status, .. } = worker.shared.clone();
    let limit = || {
        let configured = worker.shared.current.load().config.limits.connections;
        configured.min(status.connections_possible())
    };
    let mut last = worker.here_at(&at);
    acceptor
        .run(&gate, &status, limit, stopped, |socket, client, mut permit| {
            let now = worker.here_at(&at);
            let gone = now.is_none();
            last = now.or(last.take());
            let Some(here) = last.clone() else { return };
            let chosen = permit.place(worker.id);
            if chosen == worker.id {
                return begin(&worker, here, gone, socket, client, permit);
            }
            let snapshot = here.view.snapshot.clone();
            let arrival = Arrival { at: at.clone(), socket, client, permit, snapshot };
            if let Err(returned) = worker.shared.doors[chosen].send(arrival) {
                let Arrival { socket, client, mut permit, .. } = returned.0;
                permit.count_for(worker.id);
                begin(&worker, here, gone, socket, client, permit);
            }
        })
        .await;
}

/// Serves what another worker accepted.
pub fn receive(worker: &Rc<Worker>, arrival: Arrival) {
    let Arrival { at, socket, client, permit, snapshot } = arrival;
    let now = worker.here_at(&at);
    let gone = now.is_none();
    if let Some(here) = now.or_else(|| worker.here_before(snapshot, &at)) {
        begin(worker, here, gone, socket, client, permit);
    }
}

fn begin(
    worker: &Rc<Worker>,
    here: Here,
    gone: bool,
    socket: Accepted,
    client: ClientAddr,
    permit: Permit,
) {
    match socket.register() {
        Ok(stream) => {
            connection::serve(worker.clone(), here, gone, stream, client, permit);
        }
        Err(error) => {
            worker.shared.status.limits.open_files.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%client, %error, "cannot serve a connection");
        }
    }
}
