//! A client's connection while it is open: its deadline, its phase, and what it is told from outside.
//!
//! The connection's own task writes the phase; its worker tells it to leave or to be cut. One task
//! polls both, so everything here is plain cells.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::observe::cells::{ListenerCells, ListenerState};
use crate::timer::Deadline;

/// How long a kept-alive connection at rest may still bring a request, when it is to leave: a client
/// that is just sending one shall get its answer, with `Connection: close`.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// A connection may have to leave by this share earlier than others of the same age.
const AGE_JITTER: f64 = 0.1;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No request in progress; `client_idle` runs.
    Idle,
    /// A request's first byte is here, its head is not whole; `client_header` runs.
    Head,
    /// A request or a stream is in progress; whoever moves it sets the deadline.
    Busy,
}

#[derive(Debug)]
pub struct Session {
    pub deadline: Deadline,
    pub listener: Arc<ListenerState>,
    worker: usize,
    phase: Cell<Phase>,
    leaving: Cell<bool>,
    cut: Cell<bool>,
    /// The tick from which on it is to leave.
    old_at: Cell<u64>,
    sent: Cell<u64>,
}

impl Session {
    pub fn new(deadline: Deadline, listener: Arc<ListenerState>, worker: usize) -> Session {
        let session = Session {
            deadline,
            listener,
            worker,
            phase: Cell::new(Phase::Idle),
            leaving: Cell::new(false),
            cut: Cell::new(false),
            old_at: Cell::new(u64::MAX),
            sent: Cell::new(0),
        };
        session.cells().connections.inc();
        session.cells().open.inc();
        session
    }

    /// This worker's counters of the listener.
    pub fn cells(&self) -> &ListenerCells {
        self.listener.cells.of(self.worker)
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// No request is in progress any more.
    pub fn rest(&self, client_idle: Duration) {
        self.phase.set(Phase::Idle);
        self.deadline.set(if self.leaving.get() { LAST_REQUEST } else { client_idle });
    }

    /// A request's head is whole.
    pub fn begin(&self) {
        self.phase.set(Phase::Busy);
        self.deadline.clear();
    }

    /// The first bytes of a request are here, if it is at rest.
    pub fn begin_head(&self, client_header: Duration) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.deadline.set(client_header);
        }
    }

    pub fn count_received(&self, bytes: usize) {
        self.cells().received_bytes.add(bytes as u64);
    }

    pub fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get().wrapping_add(bytes as u64));
        self.cells().sent_bytes.add(bytes as u64);
    }

    /// What has gone to the client so far, but for what went by in bulk.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }

    /// No new work, please; work in progress may finish.
    pub fn leave(&self) {
        self.leaving.set(true);
        if self.phase.get() == Phase::Idle {
            self.deadline.set_at_most(LAST_REQUEST);
        }
        self.deadline.wake();
    }

    /// It leaves when it is so old, at the next chance: with an answer, or by GOAWAY. Of many that came at
    /// once not all shall go at once.
    pub fn grow_old(&self, age: Duration) {
        let age = age.mul_f64(1.0 - AGE_JITTER * fastrand::f64());
        self.old_at.set(self.deadline.tick_after(age));
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.get() || self.deadline.is_past(self.old_at.get())
    }

    /// End at once.
    pub fn cut(&self) {
        self.cut.set(true);
        self.deadline.wake();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Runs `work` until it is done; `None` if the session is cut before.
    pub async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match self.is_cut() {
            true => Poll::Ready(None),
            false => work.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cells().open.dec();
    }
}
