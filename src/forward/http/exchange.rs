//! One exchange with a backend, both ways at once: the request's body up, the answer's body down.
//!
//! [`ask`] sends a request and waits for the head of its answer, [`relay`] passes the answer on while
//! the rest of the request goes up. Both poll their deadlines where they wait: nothing is wrapped around
//! them. Whether a failed request may be sent again is not decided here.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::bulk::{Bulk, Moved};
use super::front::{Front, Line, Sink, Want};
use super::h1::backend::BackendConn;
use super::h1::body::Broken;
use super::h1::write;
use super::head::{Framing, Heads, ResponseHead};
use super::upload::Upload;
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::splice;
use crate::outcome::Cause;
use crate::timer::Deadline;

/// Interim answers (1xx) that one request may get: nobody is to send them for ever.
const INTERIM: usize = 64;

/// The deadlines of one request.
#[derive(Debug)]
pub struct Clocks {
    /// For whatever is waited for right now.
    pub step: Deadline,
    /// `timeouts.request`, if it is on.
    pub overall: Option<Deadline>,
}

impl Clocks {
    /// Ready when either has come.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.step.poll(cx).is_ready() || self.poll_overall(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_overall(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.overall.as_ref().map_or(Poll::Pending, |overall| overall.poll(cx))
    }

    /// The whole request has had its time.
    pub fn is_over(&self) -> bool {
        self.overall.as_ref().is_some_and(Deadline::expired)
    }
}

/// Sends a request and waits for the head of its answer; interim ones are passed on on the way, their
/// fields as `interim` writes them.
pub async fn ask(
    front: &mut Front<'_>,
    conn: &mut BackendConn,
    upload: &mut Upload,
    clocks: &Clocks,
    heads: &Heads,
    to_head: bool,
    interim: impl Fn(&ResponseHead, Sink<'_>),
) -> Result<ResponseHead, Cause> {
    clocks.step.set(upload.watch().response);
    let mut interims = 0;
    let answer = poll_fn(|cx| {
        // A client's fault ends it; that all was sent is no news.
        if let Poll::Ready(Err(cause)) = upload.poll(cx, front, conn, &clocks.step) {
            return Poll::Ready(Err(cause));
        }
        loop {
            // One interim answer that the client does not take holds up the next.
            if front.poll_flush(cx)?.is_pending() {
                break;
            }
            match conn.poll_head(cx, to_head, heads, front.buffers()) {
                Poll::Ready(Ok(head)) if head.is_interim() => {
                    interims += 1;
                    if interims > INTERIM {
                        return Poll::Ready(Err(Cause::Garbage));
                    }
                    upload.released();
                    let (framing, told_length) = (Framing::None, None);
                    let reason = head.reason();
                    let line = Line { status: head.status, reason, framing, told_length };
                    front.interim(&line, |to| interim(&head, to));
                }
                Poll::Ready(done) => return Poll::Ready(done),
                Poll::Pending => break,
            }
        }
        if front.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Cause::ClientGone));
        }
        clocks.poll(cx).map(|()| {
            Err(if upload.waits_for_client() { Cause::ClientTimeout } else { Cause::Timeout })
        })
    })
    .await;
    clocks.step.clear();
    answer
}

/// Waits until the client has taken what is queued for it, `silence` at the most.
pub async fn flush(front: &mut Front<'_>, step: &Deadline, silence: Duration) -> Result<(), Cause> {
    step.set(silence);
    let flushed = poll_fn(|cx| match front.poll_flush(cx) {
        Poll::Ready(flushed) => Poll::Ready(flushed),
        Poll::Pending => step.poll(cx).map(|()| Err(Cause::ClientGone)),
    });
    let flushed = flushed.await;
    step.clear();
    flushed
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has all of it. `reusable`: the backend's connection can carry another request.
    Whole { reusable: bool },
    /// The backend broke off or fell silent.
    Truncated,
    /// The client went away, took nothing for too long, or broke its own request.
    Gone,
    /// The whole request has had its time.
    Over,
}

/// Passes an answer on to its last byte, while the rest of the request goes up. `head` was begun by
/// `front` and goes out with the first of the body. Each silence may last `silence`.
pub async fn relay(
    front: &mut Front<'_>,
    conn: &mut BackendConn,
    upload: &mut Upload,
    clocks: &Clocks,
    mut head: Option<Buffer>,
    want: Want,
    silence: Duration,
) -> End {
    upload.answered();
    let step = &clocks.step;
    let mut bulk = upload.another_bulk();
    let mut finished = false;
    poll_fn(|cx| {
        let mut moved = false;
        let end = loop {
            if !upload.is_done(front)
                && matches!(upload.poll(cx, front, conn, step), Poll::Ready(Err(_)))
            {
                break Some(End::Gone);
            }
            moved |= upload.has_moved();
            let queued = front.queued();
            let flushed = front.poll_flush(cx);
            moved |= front.queued() < queued;
            match flushed {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => break Some(End::Gone),
                Poll::Pending => break None,
            }
            if finished {
                let reusable = upload.is_done(front);
                break Some(End::Whole { reusable });
            }
            if head.is_none() {
                let mut n = 0;
                let polled = poll_bulk(cx, &mut bulk, front, conn, &mut n);
                moved |= n > 0;
                match polled {
                    Poll::Ready(None) => {}
                    Poll::Ready(end) => break end,
                    Poll::Pending => break None,
                }
            }
            let mut piece = match conn.poll_body(cx, front.buffers()) {
                Poll::Ready(Ok(piece)) => piece,
                Poll::Ready(Err(Broken::Short | Broken::Coding | Broken::TooLarge)) => {
                    break Some(End::Truncated);
                }
                Poll::Pending if head.is_some() => None,
                Poll::Pending => break None,
            };
            moved = true;
            if want.chunk {
                chunk(&mut piece, conn.body().is_ended(), front.buffers());
            }
            if conn.body().is_ended() {
                finished = true;
                front.finish(conn.body().trailers());
            }
            queue(front, head.take(), piece);
        };
        // Nothing is to be written to it just now, so only looking tells that it has gone.
        let gone = || front.poll_gone(cx).is_ready().then_some(End::Gone);
        if let Some(end) = end.or_else(gone) {
            step.clear();
            return Poll::Ready(end);
        }
        if moved || step.left().is_none() {
            step.set(silence);
        }
        if clocks.poll_overall(cx).is_ready() {
            return Poll::Ready(End::Over);
        }
        // Whose silence it was: bytes that the client does not take, or none that came.
        step.poll(cx).map(|()| match front.poll_flush(cx) {
            Poll::Ready(Ok(())) => End::Truncated,
            Poll::Ready(Err(_)) | Poll::Pending => End::Gone,
        })
    })
    .await
}

/// The rest of a long answer; `None`: what comes next is to be copied. `moved`: bytes that went.
fn poll_bulk(
    cx: &mut Context<'_>,
    bulk: &mut Bulk,
    front: &Front<'_>,
    conn: &mut BackendConn,
    moved: &mut u64,
) -> Poll<Option<End>> {
    let (Some(source), Some(to)) = (conn.bulk_source(), front.plain()) else {
        return Poll::Ready(None);
    };
    let polled = bulk.poll(cx, source, to, |n| *moved = n);
    if *moved > 0 {
        conn.count_received(*moved);
        front.session().into_iter().for_each(|session| session.count_sent(*moved as usize));
    }
    polled.map(|stopped| match stopped {
        Ok(Moved::CopyNext) => None,
        Ok(Moved::Short) | Err(splice::Broken::From) => Some(End::Truncated),
        Err(splice::Broken::To) => Some(End::Gone),
    })
}

/// The head and the first of the body go out together.
fn queue(front: &mut Front<'_>, head: Option<Buffer>, piece: Option<Buffer>) {
    match (head, piece) {
        (Some(head), Some(mut first)) => {
            first.prepend(head.data());
            front.queue(first);
        }
        (Some(only), None) | (None, Some(only)) => front.queue(only),
        (None, None) => {}
    }
}

/// Frames a piece for a client that is to be told where the body ends.
fn chunk(piece: &mut Option<Buffer>, last: bool, buffers: &Buffers) {
    if let Some(piece) = piece {
        write::chunk(piece);
    }
    if last {
        piece.get_or_insert_with(|| Buffer::borrow(buffers)).extend(write::LAST_CHUNK);
    }
}
