//! One exchange with a backend, both ways at once: the request's body up, the answer's body down.
//!
//! [`Upload`] outlives an attempt: it keeps, up to a bound, what was read of the client, so that another
//! backend can be sent the same. Nothing here decides whether that may be.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::bulk::{Bulk, Moved};
use super::front::{Front, Line, Sink, Want};
use super::h1::backend::BackendConn;
use super::h1::body::Broken;
use super::h1::write;
use super::head::{Framing, Heads, ResponseHead};
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::splice::{self, Pipes};
use crate::outcome::{Cause, Sent};
use crate::timer::Deadline;

/// Request body bytes kept for a replay, as they are on the wire.
pub const REPLAY_BYTES: usize = 64 * 1024;

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

/// How a request is timed until its answer begins.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Longest silence of the client.
    pub client_body: Duration,
    /// From the last byte that went out, the backend's time runs.
    pub response: Duration,
}

/// A request's body, whatever attempt it goes out with.
#[derive(Debug)]
pub struct Upload {
    watch: Watch,
    kept: Vec<u8>,
    /// More was read than is kept.
    lost: bool,
    /// The client waits for 100 before it sends: its silence is the backend's doing.
    held: bool,
    /// Whose silence it is when the deadline comes.
    waits_for_client: bool,
    /// The answer has begun: nothing is sent again, and its own silence is what is timed.
    answered: bool,
    /// For the rest of a long body, once nothing of it is kept any more.
    bulk: Bulk,
    /// Something of it has gone on since it was asked last.
    moved: bool,
    attempt: Attempt,
}

/// How far one attempt has come.
#[derive(Debug, Default)]
struct Attempt {
    /// Bytes to be written next, the head first.
    pending: Option<Buffer>,
    /// Kept bytes that it has taken again.
    replayed: usize,
    /// The first of the body was looked for, to go out with the head.
    joined: bool,
    /// Something was written.
    wrote: bool,
    /// The backend takes no more.
    deaf: bool,
}

impl Upload {
    pub fn new(watch: Watch, held: bool, pipes: &Pipes) -> Upload {
        Upload {
            watch,
            kept: Vec::new(),
            lost: false,
            held,
            waits_for_client: false,
            answered: false,
            bulk: Bulk::new(pipes),
            moved: false,
            attempt: Attempt::default(),
        }
    }

    /// Begins an attempt with this head. Only right while `sent` does not say `Lost`.
    pub fn begin(&mut self, head: Buffer) {
        self.attempt = Attempt { pending: Some(head), ..Attempt::default() };
    }

    /// What a failed attempt has used up of this request.
    pub fn sent(&self) -> Sent {
        match (self.attempt.wrote, self.lost) {
            (_, true) => Sent::Lost,
            (false, false) => Sent::Nothing,
            (true, false) => Sent::Replayable,
        }
    }

    /// Writes what there is to write; ready when the body is whole at the backend.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        conn: &mut BackendConn,
        step: &Deadline,
    ) -> Poll<Result<(), Cause>> {
        loop {
            if self.attempt.deaf {
                return Poll::Pending; // the answer, or its end, will tell
            }
            if let Some(pending) = &mut self.attempt.pending {
                if !self.attempt.joined {
                    self.attempt.joined = true;
                    if let Poll::Ready(Some(mut first)) = self.poll_more(cx, front, step)? {
                        if let Some(head) = self.attempt.pending.take() {
                            first.prepend(head.data());
                        }
                        self.attempt.pending = Some(first);
                    }
                    continue;
                }
                match conn.poll_write(cx, pending) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {
                        self.attempt.wrote = true;
                        self.moved = true;
                        if pending.is_empty() {
                            self.attempt.pending = None;
                        }
                    }
                    // A backend that answers early and closes resets what we go on sending. What it said
                    // before is still there to be read, and the read side will tell the end.
                    Poll::Ready(Err(_)) => self.attempt.deaf = true,
                }
                continue;
            }
            if self.lost || self.answered {
                match self.poll_bulk(cx, front, conn, step) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(moved) => moved?,
                }
            }
            match self.poll_more(cx, front, step)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(piece) => self.attempt.pending = piece,
            }
        }
    }

    /// The rest of a long body, which is not kept for another attempt.
    fn poll_bulk(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        conn: &BackendConn,
        step: &Deadline,
    ) -> Poll<Result<(), Cause>> {
        let (Some(source), Some(to)) = (front.bulk_source(), conn.plain()) else {
            return Poll::Ready(Ok(()));
        };
        let mut moved = 0;
        let polled = self.bulk.poll(cx, source, to, |n| moved = n);
        if moved > 0 {
            conn.count_sent(moved);
            front.session().into_iter().for_each(|session| session.count_received(moved as usize));
            self.moved = true;
            self.waits_for_client = false;
            if !self.answered {
                step.set(self.watch.response);
            }
        }
        if polled.is_pending() && !self.bulk.holds_bytes() {
            self.wait_for_client(step);
        }
        match ready!(polled) {
            Ok(Moved::CopyNext) => Poll::Ready(Ok(())),
            Ok(Moved::Short) | Err(splice::Broken::From) => Poll::Ready(Err(Cause::ClientGone)),
            Err(splice::Broken::To) => {
                self.attempt.deaf = true;
                Poll::Pending // the answer, or its end, will tell
            }
        }
    }

    /// The next bytes of the body: those that an earlier attempt has read, then the client's.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        step: &Deadline,
    ) -> Result<Poll<Option<Buffer>>, Cause> {
        let again = &self.kept[self.attempt.replayed..];
        if !again.is_empty() {
            let mut piece = Buffer::borrow(front.buffers());
            piece.extend(again);
            self.attempt.replayed = self.kept.len();
            return Ok(Poll::Ready(Some(piece)));
        }
        if front.is_body_ended() {
            return Ok(Poll::Ready(None));
        }
        let piece = match front.poll_body(cx) {
            Poll::Ready(piece) => piece?,
            Poll::Pending => {
                self.wait_for_client(step);
                return Ok(Poll::Pending);
            }
        };
        self.held = false;
        self.waits_for_client = false;
        if !self.answered {
            step.set(self.watch.response);
        }
        if let Some(piece) = &piece {
            self.keep(piece.data());
        }
        Ok(Poll::Ready(piece))
    }

    /// The client's silence begins, if it is one that it can help.
    fn wait_for_client(&mut self, step: &Deadline) {
        let known = std::mem::replace(&mut self.waits_for_client, !self.held);
        if !self.held && !known && !self.answered {
            step.set(self.watch.client_body);
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.lost {
            return;
        }
        if self.answered || self.kept.len() + piece.len() > REPLAY_BYTES {
            self.lost = true;
            self.kept = Vec::new();
            self.attempt.replayed = 0;
        } else {
            self.kept.extend_from_slice(piece);
            self.attempt.replayed = self.kept.len();
        }
    }

    /// The client still waits for 100 before it sends its body.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The answer has begun. From now on nothing is kept, and the deadline is the answer's.
    fn answered(&mut self) {
        self.answered = true;
        self.kept = Vec::new();
        self.attempt.replayed = 0;
    }

    /// The whole request has reached the backend, so that its connection may carry another.
    pub fn is_done(&self, front: &Front<'_>) -> bool {
        front.is_body_ended() && self.attempt.pending.is_none() && !self.attempt.deaf
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
    clocks.step.set(upload.watch.response);
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
                    upload.held = false; // whatever it waited for
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
            Err(if upload.waits_for_client { Cause::ClientTimeout } else { Cause::Timeout })
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
    let mut bulk = upload.bulk.another();
    let mut finished = false;
    poll_fn(|cx| {
        let mut moved = false;
        let end = loop {
            if !upload.is_done(front)
                && matches!(upload.poll(cx, front, conn, step), Poll::Ready(Err(_)))
            {
                break Some(End::Gone);
            }
            moved |= std::mem::take(&mut upload.moved);
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
