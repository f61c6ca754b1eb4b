//! Writes down how a request ended, once: counters, histograms, and a log line if it failed.
//!
//! A [`Record`] goes with its request from the head to the last byte of the answer; whoever ends the
//! request finishes it. It also keeps the head, which the log may still need at the very end.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Instant;

use super::client::Client;
use crate::forward::http::head::RequestHead;
use crate::outcome::{Cause, Side};
use crate::pool::Picker;

/// One request's account.
#[derive(Debug)]
pub struct Record {
    pub client: Rc<Client>,
    pub head: RequestHead,
    pub started: Instant,
    /// Attempts that were made at a backend.
    pub attempts: Cell<u32>,
    picker: OnceCell<Rc<Picker>>,
    status: Cell<u16>,
    finished: Cell<bool>,
}

impl Record {
    pub fn new(client: Rc<Client>, head: RequestHead) -> Record {
        Record {
            client,
            head,
            started: Instant::now(),
            attempts: Cell::new(0),
            picker: OnceCell::new(),
            status: Cell::new(0),
            finished: Cell::new(false),
        }
    }

    pub fn pool(&self, picker: &Rc<Picker>) {
        // A request has one plan, so nothing is set twice.
        let _ = self.picker.set(picker.clone());
    }

    /// The status that goes to the client.
    pub fn status(&self, status: u16) {
        self.status.set(status);
    }

    /// Ends the account. `failed` says of what, if it did.
    pub fn finish(&self, failed: Option<Cause>) {
        if self.finished.replace(true) {
            return;
        }
        let worker = &self.client.worker;
        let listener = self.client.session.cells();
        listener.requests.inc(self.status.get());
        if let Some(cause) = failed {
            listener.failures[cause.index()].inc();
        }
        if let Some(picker) = self.picker.get() {
            let pool = picker.pool().state.cells.of(worker.id);
            pool.requests.inc(self.status.get());
            pool.duration.observe(self.started.elapsed());
        }
        if let Some(cause) = failed {
            self.log(cause);
        }
        self.client.finish_request();
    }

    fn log(&self, cause: Cause) {
        let pool = self.picker.get().map_or("-", |picker| picker.pool().config.name.as_str());
        let line = Line {
            method: self.head.method.as_str(),
            path: self.head.path(),
            pool,
            status: self.status.get(),
            attempts: self.attempts.get(),
            millis: self.started.elapsed().as_millis() as u64,
        };
        line.write(&self.client, cause);
    }
}

impl Drop for Record {
    /// The request's story was dropped: the client left, or the process stops.
    fn drop(&mut self) {
        let cut = self.client.session.is_cut();
        self.finish(Some(if cut { Cause::Shutdown } else { Cause::ClientGone }));
    }
}

/// Counts and logs a request whose head was refused; it has no account of its own.
pub fn refused(client: &Client, cause: Cause) {
    let status = cause.status().as_u16();
    let listener = client.session.cells();
    listener.requests.inc(status);
    listener.failures[cause.index()].inc();
    Line { method: "-", path: "-", pool: "-", status, attempts: 0, millis: 0 }.write(client, cause);
}

/// What a line of the log says of a request.
struct Line<'a> {
    method: &'a str,
    path: &'a str,
    pool: &'a str,
    status: u16,
    attempts: u32,
    millis: u64,
}

impl Line<'_> {
    fn write(&self, client: &Client, cause: Cause) {
        let since_start = client.worker.shared.epoch.elapsed();
        let mut limiter = client.worker.limiter.borrow_mut();
        let Some(held_back) = limiter.admit(cause.index(), since_start) else { return };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    listener = %client.name,
                    client = %client.addr,
                    method = self.method,
                    path = self.path,
                    pool = self.pool,
                    status = self.status,
                    cause = cause.label(),
                    attempts = self.attempts,
                    millis = self.millis,
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
