//! Counts for a backend's metrics while a connection to it is open.

use std::sync::Arc;

use crate::pool::BackendState;

/// One connection's account, on behalf of one worker; dropping it ends it.
#[derive(Debug)]
pub struct Meter {
    backend: Arc<BackendState>,
    worker: usize,
}

impl Meter {
    /// A connection to `backend` was made by worker number `worker`.
    pub fn new(backend: &Arc<BackendState>, worker: usize) -> Meter {
        backend.cells.of(worker).connects.inc();
        backend.cells.of(worker).open.inc();
        Meter { backend: backend.clone(), worker }
    }

    pub fn received(&self, bytes: usize) {
        self.backend.cells.of(self.worker).received_bytes.add(bytes as u64);
    }

    pub fn sent(&self, bytes: usize) {
        self.backend.cells.of(self.worker).sent_bytes.add(bytes as u64);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.backend.cells.of(self.worker).open.dec();
    }
}
