//! What traffic says of a backend: every attempt that ends, well or not, is told here and nowhere else.
//!
//! Counts it for the pool and for the backend. Decides nothing: who is taken out is the control thread's
//! to say.

use super::worker::Worker;
use crate::observe::cells::attempt_failed;
use crate::outcome::Cause;
use crate::pool::Lease;

/// An attempt failed at its backend.
pub fn failed(worker: &Worker, lease: &Lease, cause: Cause) {
    let pool = lease.picker().pool().state.cells.of(worker.id);
    attempt_failed(pool, lease.backend().cells.of(worker.id), cause);
}

/// A backend has begun to answer, with this status, `took_nanos` after the attempt's begin at `now_nanos`.
pub fn answered(worker: &Worker, lease: &Lease, status: u16, took_nanos: u64, now_nanos: u64) {
    lease.observe_latency(took_nanos, now_nanos);
    lease.backend().cells.of(worker.id).requests.inc(status);
}
