//! What traffic says of a backend: every attempt that ends, well or not, is told here and nowhere else.
//!
//! Counts it for the pool and for the backend, and sends the backend to be voted on when its failures in
//! a row are too many. Decides nothing: who is taken out is the control thread's to say. What a client
//! gave up is no fault of the backend's and is not told.

use std::time::Instant;

use super::worker::Worker;
use crate::config::model::Outlier;
use crate::observe::cells::attempt_failed;
use crate::outcome::Cause;
use crate::pool::Lease;

/// An attempt failed at its backend, before an answer or in the middle of one.
pub fn failed(worker: &Worker, lease: &Lease, cause: Cause) {
    let pool = lease.picker().pool().state.cells.of(worker.id);
    attempt_failed(pool, lease.backend().cells.of(worker.id), cause);
    badly(worker, lease, cause == Cause::Truncated);
}

/// A backend has begun to answer, with this status, `took_nanos` after the attempt's begin at `now_nanos`.
pub fn answered(worker: &Worker, lease: &Lease, status: u16, took_nanos: u64, now_nanos: u64) {
    lease.observe_latency(took_nanos, now_nanos);
    let cells = lease.backend().cells.of(worker.id);
    cells.requests.inc(status);
    let outlier = lease.picker().pool().config.outlier.as_ref();
    if status >= 500 && is_trouble(status, outlier) {
        return badly(worker, lease, false);
    }
    well(worker, lease);
    if outlier.is_some_and(|outlier| outlier.latency_times.is_some()) {
        cells.times.get_or_init(Box::default).observe(took_nanos);
    }
}

/// A stream has its connection to a backend.
pub fn reached(lease: &Lease) {
    lease.reached();
}

/// A stream has brought something from its backend.
pub fn streams(worker: &Worker, lease: &Lease) {
    well(worker, lease);
}

/// Whether an answer with this status speaks against its backend.
fn is_trouble(status: u16, outlier: Option<&Outlier>) -> bool {
    matches!(status, 502..=504) || outlier.is_some_and(|outlier| outlier.count_5xx)
}

fn well(worker: &Worker, lease: &Lease) {
    if lease.went_well() {
        lease.backend().cells.of(worker.id).good.inc();
    }
}

fn badly(worker: &Worker, lease: &Lease, broken: bool) {
    let cells = lease.backend().cells.of(worker.id);
    let (row, was_good) = lease.failed(worker.nanos(Instant::now()), broken);
    cells.bad.inc();
    if was_good {
        cells.broken.inc();
    }
    let outlier = lease.picker().pool().config.outlier.as_ref();
    let most = outlier.and_then(|outlier| outlier.consecutive_failures);
    // At each multiple: whom the pool could not spare before it perhaps can now.
    if lease.on_trial() || most.is_some_and(|most| row.is_multiple_of(most)) {
        vote(worker, lease);
    }
}

/// There is something to decide at once.
fn vote(worker: &Worker, lease: &Lease) {
    // Nobody listens only when the process is about to end.
    let _ = worker.shared.votes.send(lease.shared_backend().clone());
}
