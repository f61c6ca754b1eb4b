//! One exchange with a backend, both ways at once: the request's body up, the answer's body down.
//!
//! [`ask`] sends a request and waits for the head of its answer, [`relay`] passes the answer on while
//! the rest of the request goes up. Both poll their deadlines where they wait: nothing is wrapped around
//! them. Whether a failed request may be sent again is not decided here.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::back::Back;
use super::bulk::{Bulk, Moved};
use super::front::{Front, Line, Sink, Want};
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

/// How long an answer is held back at the most, while it may still be asked for again.
const HOLD: Duration = Duration::from_millis(50);

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
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.step.poll(cx).is_ready() || self.poll_overall(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_overall(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.overall.as_ref().map_or(Poll::Pending, |overall| overall.poll(cx))
    }

    /// Why it ended, for which either has come.
    fn why(&self) -> Cause {
        if self.step.is_cut() { Cause::Released } else { Cause::Timeout }
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
    conn: &mut Back,
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
            Err(match upload.waits_for_client() {
                true if !clocks.step.is_cut() => Cause::ClientTimeout,
                true | false => clocks.why(),
            })
        })
    })
    .await;
    clocks.step.clear();
    answer
}

/// Sends a request that has no body, and waits for the head of its answer, without the client: the
/// interim ones are kept for it. `request`: as in [`Upload::begin`]. The error says whether anything was
/// written.
pub async fn ask_alone(
    conn: &mut Back,
    mut request: Option<Buffer>,
    clocks: &Clocks,
    heads: &Heads,
    buffers: &Buffers,
    to_head: bool,
) -> Result<(ResponseHead, Vec<ResponseHead>), (Cause, bool)> {
    let mut interims = Vec::new();
    let (mut wrote, mut flushed) = (false, false);
    let answer = poll_fn(|cx| {
        if request.is_none() && !wrote && conn.poll_begin(cx)?.is_ready() {
            (wrote, flushed) = (true, true);
        }
        while let Some(bytes) = request.as_mut().filter(|_| !flushed) {
            let all = bytes.is_empty();
            match conn.poll_write(cx, bytes, true) {
                Poll::Ready(Ok(())) if all => flushed = true,
                Poll::Ready(Ok(())) => wrote = true,
                // It may have said something before it closed.
                Poll::Ready(Err(_)) => break,
                Poll::Pending => break,
            }
        }
        loop {
            match conn.poll_head(cx, to_head, heads, buffers) {
                Poll::Ready(Ok(head)) if head.is_interim() => {
                    interims.push(head);
                    if interims.len() > INTERIM {
                        return Poll::Ready(Err(Cause::Garbage));
                    }
                }
                Poll::Ready(done) => return Poll::Ready(done),
                Poll::Pending => return clocks.poll(cx).map(|()| Err(clocks.why())),
            }
        }
    })
    .await;
    match answer {
        Ok(head) => Ok((head, interims)),
        Err(cause) => Err((cause, wrote && !conn.is_unprocessed())),
    }
}

/// Waits until `length` bytes of the answer's body are here, [`HOLD`] at the most; what waits is the
/// client, whose leaving ends it.
pub async fn hold(
    conn: &mut Back,
    length: usize,
    clocks: &Clocks,
    buffers: &Buffers,
    mut gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Result<(), Cause> {
    clocks.step.set(HOLD);
    let held = poll_fn(|cx| {
        if let Poll::Ready(held) = conn.poll_hold(cx, length, buffers) {
            return Poll::Ready(held.map_err(|_| Cause::Truncated));
        }
        if gone(cx).is_ready() {
            return Poll::Ready(Err(Cause::ClientGone));
        }
        // Whatever it has had, it begins now.
        clocks.poll(cx).map(|()| if clocks.step.is_cut() { Err(Cause::Released) } else { Ok(()) })
    });
    let held = held.await;
    clocks.step.clear();
    held
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
    /// It was ordered to end.
    Cut,
}

/// Passes an answer on to its last byte, while the rest of the request goes up. `head` was begun by
/// `front` and goes out with the first of the body. Each silence may last `silence`.
pub async fn relay(
    front: &mut Front<'_>,
    conn: &mut Back,
    upload: &mut Upload,
    clocks: &Clocks,
    head: Option<Buffer>,
    want: Want,
    silence: Duration,
) -> End {
    upload.answered();
    let step = &clocks.step;
    let mut down = Down { head, want, bulk: upload.another_bulk(), read: false };
    poll_fn(|cx| {
        let mut moved = false;
        let sound = upload.go_on(cx, front, conn, step);
        let end = match down.poll(cx, front, conn, &mut moved) {
            _ if !sound => Some(End::Gone),
            Poll::Ready(Ok(())) => {
                // What has come of the request in the meantime; what it is worth shows in `is_done`.
                upload.go_on(cx, front, conn, step);
                Some(End::Whole { reusable: upload.is_done(front) })
            }
            Poll::Ready(Err(end)) => Some(end),
            // Nothing is to be written to it just now, so only looking tells that it has gone.
            Poll::Pending => front.poll_gone(cx).is_ready().then_some(End::Gone),
        };
        moved |= upload.has_moved();
        if let Some(end) = end {
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
            _ if step.is_cut() => End::Cut,
            Poll::Ready(Ok(())) => End::Truncated,
            Poll::Ready(Err(_)) | Poll::Pending => End::Gone,
        })
    })
    .await
}

/// An answer on its way down.
struct Down {
    /// Begun, and not sent yet: it waits for the first of the body.
    head: Option<Buffer>,
    want: Want,
    bulk: Bulk,
    /// All of it has been read.
    read: bool,
}

impl Down {
    /// Moves on what there is to move; ready when the client has all of it. `moved`: something went.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        conn: &mut Back,
        moved: &mut bool,
    ) -> Poll<Result<(), End>> {
        loop {
            let queued = front.queued();
            let flushed = front.poll_flush(cx);
            *moved |= front.queued() < queued;
            ready!(flushed).map_err(|_| End::Gone)?;
            if self.read {
                return Poll::Ready(Ok(()));
            }
            if self.head.is_none() {
                ready!(self.poll_bulk(cx, front, conn, moved))?;
            }
            let mut piece = match conn.poll_body(cx, front.buffers()) {
                Poll::Ready(Ok(piece)) => piece,
                Poll::Ready(Err(Broken::Short | Broken::Coding | Broken::TooLarge)) => {
                    return Poll::Ready(Err(End::Truncated));
                }
                // The head need not wait for a body that is slow to come.
                Poll::Pending if self.head.is_some() => None,
                Poll::Pending => return Poll::Pending,
            };
            *moved = true;
            if self.want.chunk {
                self.chunk(&mut piece, conn, front.buffers());
            }
            if conn.is_body_ended() {
                self.read = true;
                front.finish(conn.trailers());
            }
            queue(front, self.head.take(), piece);
        }
    }

    /// Frames a piece for a client that is to be told where the body ends.
    fn chunk(&self, piece: &mut Option<Buffer>, conn: &Back, buffers: &Buffers) {
        if let Some(piece) = piece {
            write::chunk(piece);
        }
        if conn.is_body_ended() {
            let trailers = if self.want.trailers { conn.trailers() } else { None };
            let last = piece.get_or_insert_with(|| Buffer::borrow(buffers));
            write::last_chunk(last, trailers.as_ref());
        }
    }

    /// The rest of a long body; ready when what comes next, if anything does, is to be copied.
    fn poll_bulk(
        &mut self,
        cx: &mut Context<'_>,
        front: &Front<'_>,
        conn: &mut Back,
        moved: &mut bool,
    ) -> Poll<Result<(), End>> {
        let (Some(source), Some(to)) = (conn.bulk_source(), front.plain()) else {
            return Poll::Ready(Ok(()));
        };
        let mut bytes = 0;
        let polled = self.bulk.poll(cx, source, to, |n| bytes = n);
        if bytes > 0 {
            *moved = true;
            conn.count_received(bytes);
            front.session().into_iter().for_each(|session| session.count_sent(bytes as usize));
        }
        polled.map(|stopped| match stopped {
            Ok(Moved::CopyNext) => Ok(()),
            Ok(Moved::Short) | Err(splice::Broken::From) => Err(End::Truncated),
            Err(splice::Broken::To) => Err(End::Gone),
        })
    }
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
