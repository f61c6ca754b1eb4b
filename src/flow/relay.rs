//! A request whose answer has begun: its head on the way to the client, and what follows from its end.
//!
//! The bodies are moved by `forward::http::exchange`; here the account ends, and the backend's connection
//! is kept where that may be. Nothing is sent again from here on.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::StatusCode;

use super::decide::Plan;
use super::engaged::Entered;
use super::record::Record;
use super::request::After;
use super::worker::Worker;
use super::{cookies, head, judge};
use crate::forward::buffer::Buffer;
use crate::forward::http::exchange::End;
use crate::forward::http::front::{Line, Want};
use crate::forward::http::h1::body::Form;
use crate::forward::http::head::{Framing, ResponseHead};
use crate::forward::http::upload::Upload;
use crate::forward::http::{Back, Front, Sink};
use crate::outcome::Cause;
use crate::pool::Lease;
use crate::pool::budget::RequestGuard;
use crate::route::headers;

/// A request whose answer has begun.
#[derive(Debug)]
pub struct Exchange {
    pub lease: Lease,
    pub conn: Back,
    /// Dropped after the connection.
    pub entered: Entered,
    /// How long the backend's connection may be kept after this request; zero is not at all.
    keep: Duration,
    /// Answered with 101.
    pub switches: bool,
    /// Owed to a retry, a hedge or a wait.
    masked: bool,
    /// Counts the request against the pool's retry budget.
    _in_progress: RequestGuard,
}

impl Exchange {
    /// With what an attempt has brought.
    pub fn new(
        lease: Lease,
        (conn, entered): (Back, Entered),
        answer: &ResponseHead,
        masked: bool,
        in_progress: RequestGuard,
    ) -> Exchange {
        let keep = keeps(&lease, answer);
        let switches = answer.status == StatusCode::SWITCHING_PROTOCOLS;
        Exchange { lease, conn, entered, keep, switches, masked, _in_progress: in_progress }
    }

    /// Begins the client's answer: its head, which goes out with the first of its body, and how that
    /// is wanted.
    pub fn begin(
        &mut self,
        plan: &Plan<'_>,
        record: &Record,
        front: &mut Front<'_>,
        upload: &Upload,
        answer: ResponseHead,
    ) -> (Option<Buffer>, Want) {
        let (client, edits) = (&record.client, &plan.route.config.response_headers);
        let want = front.want(answer.framing, || headers::takes_trailers(record.head.fields()));
        let line = Line {
            status: answer.status,
            reason: answer.reason(),
            framing: want.framing,
            told_length: answer.told_length(),
        };
        // A client that was not told to send its body need not send it now (RFC 9110 10.1.1): what comes
        // next on its connection could be either.
        let close = client.session.is_leaving() || upload.is_held();
        let worker = &client.worker;
        let head = worker.date.with(worker.wheel.now(), |date| {
            let fields = |to: Sink<'_>| {
                head::pass_back(&answer, edits, date, client.hsts(), to);
                cookies::issue(plan, &self.lease, &answer, to);
            };
            front.begin(&line, close, fields)
        });
        record.status(answer.status.as_u16());
        self.conn.begin_body(&answer, want.form);
        (head, want)
    }

    /// Ends the account of an answer, and keeps the backend's connection where that may be.
    pub fn end(self, end: End, record: &Record, front: &Front<'_>) -> After {
        let worker = &record.client.worker;
        let Exchange { lease, conn, entered, keep, masked, .. } = self;
        match end {
            End::Whole { reusable } => {
                if reusable && !entered.is_ordered() {
                    put_by(worker, &lease, conn, keep);
                } else {
                    drop(conn);
                }
                // Before the record sets the deadline for what follows.
                drop(entered);
                if masked {
                    lease.picker().pool().state.cells.of(worker.id).masked.inc();
                }
                record.finish(None);
                let unread = !front.is_body_ended();
                let close = unread || front.closes();
                if close { After::Close { unread } } else { After::Keep }
            }
            End::Truncated => {
                judge::failed(worker, &lease, Cause::Truncated);
                record.finish(Some(Cause::Truncated));
                After::Reset
            }
            End::Gone => {
                record.finish(Some(Cause::ClientGone));
                After::Reset
            }
            End::Over => {
                record.finish(Some(Cause::Timeout));
                After::Reset
            }
            End::Cut => {
                record.finish(Some(Cause::Released));
                After::Reset
            }
        }
    }
}

/// An answer that another backend is to do better: where all of it is here, its connection can be kept.
pub fn set_aside(worker: &Worker, lease: &Lease, mut conn: Back, answer: &ResponseHead) {
    let Framing::Length(length) = answer.framing else { return };
    // What is left of a stream goes with it; the connection is shared, and kept anyway.
    if matches!(conn, Back::H2(_)) || conn.held() as u64 != length {
        return;
    }
    conn.begin_body(answer, Form::Data);
    let mut nobody = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok(Some(_))) = conn.poll_body(&mut nobody, &worker.buffers) {}
    put_by(worker, lease, conn, keeps(lease, answer));
}

/// How long the backend's connection may be kept after this answer; zero is not at all.
fn keeps(lease: &Lease, answer: &ResponseHead) -> Duration {
    let most = lease.picker().pool().config.keepalive.idle_timeout;
    // A second is taken off what the backend says, for the way.
    headers::keep_alive_seconds(answer.fields())
        .map_or(most, |said| Duration::from_secs(said.saturating_sub(1)).min(most))
}

fn put_by(worker: &Worker, lease: &Lease, conn: Back, keep: Duration) {
    let keepalive = &lease.picker().pool().config.keepalive;
    let most = keepalive.max_idle.div_ceil(worker.shared.status.workers);
    match conn {
        Back::H1(conn) if !keep.is_zero() && conn.is_at_rest() => {
            worker.idle.put(lease.backend().id, conn, worker.wheel.now(), keep, most);
        }
        Back::H1(_) => {}
        Back::H2(stream) => {
            drop(stream);
            worker.shared_conns.trim(lease.backend().id, most);
        }
    }
}
