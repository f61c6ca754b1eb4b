//! Writes down how a request ended, once: counters, histograms, and a log line if it failed.
//!
//! A [`Record`] goes with its request from the head to the last byte of the answer; whoever ends the
//! request finishes it. The backend's share of that end (lease, connection) is [`Ending`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, Uri};

use super::client::Client;
use crate::forward::http::{BackendConn, Tail};
use crate::observe::cells::attempt_failed;
use crate::outcome::{Cause, Side};
use crate::pool::budget::RequestGuard;
use crate::pool::{Lease, Picker};

/// One request's account.
#[derive(Debug)]
pub struct Record {
    pub client: Rc<Client>,
    pub started: Instant,
    method: Method,
    uri: Uri,
    picker: Option<Rc<Picker>>,
    status: u16,
    /// Attempts that were made at a backend.
    pub attempts: u32,
    finished: bool,
}

impl Record {
    pub fn new(client: Rc<Client>, method: Method, uri: Uri) -> Record {
        let started = Instant::now();
        let (picker, status) = (None, 0);
        Record { client, started, method, uri, picker, status, attempts: 0, finished: false }
    }

    pub fn pool(&mut self, picker: &Rc<Picker>) {
        self.picker = Some(picker.clone());
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The status that goes to the client.
    pub fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// Ends the account. `failed` says of what, if it did.
    pub fn finish(mut self, failed: Option<Cause>) {
        self.write(failed);
    }

    fn write(&mut self, failed: Option<Cause>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let worker = &self.client.worker;
        let listener = self.client.session.cells();
        listener.requests.inc(self.status);
        if let Some(cause) = failed {
            listener.failures[cause.index()].inc();
        }
        if let Some(picker) = &self.picker {
            let pool = picker.pool().state.cells.of(worker.id);
            pool.requests.inc(self.status);
            pool.duration.observe(self.started.elapsed());
        }
        if let Some(cause) = failed {
            self.log(cause);
        }
        self.client.finish_request();
    }

    fn log(&self, cause: Cause) {
        let since_start = self.client.worker.shared.epoch.elapsed();
        let mut limiter = self.client.worker.limiter.borrow_mut();
        let Some(held_back) = limiter.admit(cause.index(), since_start) else { return };
        let pool = self.picker.as_ref().map_or("-", |picker| picker.pool().config.name.as_str());
        let millis = self.started.elapsed().as_millis() as u64;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    listener = %self.client.name,
                    client = %self.client.addr,
                    method = %self.method,
                    path = self.uri.path(),
                    pool,
                    status = self.status,
                    cause = cause.label(),
                    attempts = self.attempts,
                    millis,
                    held_back,
                    "request failed"
                )
            };
        }
        match cause.side() {
            // An ordinary disconnect is no news.
            Side::Client if cause == Cause::ClientGone => line!(debug),
            Side::Client | Side::Proxy => line!(info),
            Side::Backend => line!(warn),
        }
    }
}

impl Drop for Record {
    /// The request's task was dropped: the client left, or the process stops.
    fn drop(&mut self) {
        self.write(Some(Cause::ClientGone));
    }
}

/// What ends with the last byte of a backend's answer.
#[derive(Debug)]
pub struct Ending {
    pub record: Record,
    pub lease: Lease,
    /// How long the backend's connection may be kept after this request; zero is not at all.
    pub keep: Duration,
    /// Counts the request against the pool's retry budget.
    pub in_progress: RequestGuard,
}

impl Tail for Ending {
    fn whole(self, conn: Option<BackendConn>) {
        if let Some(conn) = conn
            && !self.keep.is_zero()
        {
            let worker = &self.record.client.worker;
            let keepalive = &self.lease.picker().pool().config.keepalive;
            let most = keepalive.max_idle.div_ceil(worker.shared.status.workers);
            worker.idle.put(self.lease.backend().id, conn, worker.wheel.now(), self.keep, most);
        }
        self.record.finish(None);
    }

    fn truncated(self) {
        let worker = self.record.client.worker.id;
        let pool = self.lease.picker().pool().state.cells.of(worker);
        attempt_failed(pool, self.lease.backend().cells.of(worker), Cause::Truncated);
        self.record.finish(Some(Cause::Truncated));
    }

    fn dropped(self) {
        self.record.finish(Some(Cause::ClientGone));
    }
}
