//! A client's connection while it is open: its deadline, its phase, and what it is told from outside.
//!
//! The connection's own task writes the phase; its worker tells it to leave or to be cut. One task
//! polls both, so everything here is plain cells.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::listen::ClientStream;
use crate::observe::cells::{ListenerCells, ListenerState};
use crate::timer::Deadline;

use super::http::io::Count;

/// How long a kept-alive connection at rest may still bring a request, when it is to leave: a client
/// that is just sending one shall get its answer, with `Connection: close`.
const LAST_REQUEST: Duration = Duration::from_secs(1);

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
    received: Cell<u64>,
    sent: Cell<u64>,
    /// What had been received and sent when the current phase began.
    mark: Cell<(u64, u64)>,
    leaving: Cell<bool>,
    cut: Cell<bool>,
    /// Something of the client's will stay unread: a close has to wait for it.
    unread: Cell<bool>,
    /// Bounds the request in progress, whatever moves (for HTTP/1: one at a time).
    overall: RefCell<Option<Deadline>>,
}

impl Session {
    pub fn new(deadline: Deadline, listener: Arc<ListenerState>, worker: usize) -> Session {
        let session = Session {
            deadline,
            listener,
            worker,
            phase: Cell::new(Phase::Idle),
            received: Cell::new(0),
            sent: Cell::new(0),
            mark: Cell::default(),
            leaving: Cell::new(false),
            cut: Cell::new(false),
            unread: Cell::new(false),
            overall: RefCell::default(),
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
        self.overall.take();
        self.enter(Phase::Idle);
        self.deadline.set(if self.leaving.get() { LAST_REQUEST } else { client_idle });
    }

    /// The request in progress is to end by `overall`, though its client may still be taking.
    pub fn end_by(&self, overall: Option<Deadline>) {
        self.overall.replace(overall);
    }

    /// Whether the request in progress has had all its time. Wakes the task when it has.
    pub fn is_over(&self, cx: &mut Context<'_>) -> bool {
        self.overall.borrow().as_ref().is_some_and(|overall| overall.poll(cx).is_ready())
    }

    /// The answer goes out before all of the request was read.
    pub fn leave_unread(&self) {
        self.unread.set(true);
    }

    pub fn is_unread(&self) -> bool {
        self.unread.get()
    }

    /// A request's head is whole.
    pub fn begin(&self) {
        self.enter(Phase::Busy);
        self.deadline.clear();
    }

    /// Looks whether the first bytes of a request have come since `rest`.
    pub fn notice_head(&self, client_header: Duration) {
        if self.phase.get() == Phase::Idle && self.received.get() > self.mark.get().0 {
            self.enter(Phase::Head);
            self.deadline.set(client_header);
        }
    }

    /// The last of an answer goes out when its request has ended already: `client_idle` runs from
    /// the last byte.
    pub fn notice_sent(&self, client_idle: Duration) {
        if self.phase.get() == Phase::Idle && self.sent.get() > self.mark.get().1 {
            self.rest(client_idle);
        }
    }

    /// A request's deadline has come, but the client is still taking what it was sent: once more,
    /// then.
    pub fn still_taking(&self, again: Duration) -> bool {
        let taken = self.sent.get() > self.mark.get().1 && self.phase.get() == Phase::Busy;
        if taken {
            self.mark.set((self.mark.get().0, self.sent.get()));
            self.deadline.set(again);
        }
        taken
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.mark.set((self.received.get(), self.sent.get()));
    }

    pub fn count_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        self.cells().received_bytes.add(bytes as u64);
    }

    /// No new work, please; work in progress may finish.
    pub fn leave(&self) {
        self.leaving.set(true);
        if self.phase.get() == Phase::Idle {
            self.deadline.set_at_most(LAST_REQUEST);
        }
        self.deadline.wake();
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
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

impl Count<ClientStream> for std::rc::Rc<Session> {
    fn received(&self, bytes: usize) {
        self.count_received(bytes);
    }

    fn sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        self.cells().sent_bytes.add(bytes as u64);
    }
}
