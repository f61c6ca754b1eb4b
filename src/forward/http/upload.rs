//! A request's body on its way to a backend: streamed, timed, and kept up to a bound so that another
//! backend can be sent the same.
//!
//! An [`Upload`] is one request's; it outlives its attempts. Whether there may be another is decided
//! elsewhere, by what [`Upload::sent`] says.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::back::{Back, Deaf};
use super::bulk::{Bulk, Moved};
use super::front::Front;
use super::h1::write;
use crate::forward::buffer::Buffer;
use crate::forward::splice::{self, Pipes};
use crate::outcome::{Cause, Sent};
use crate::timer::Deadline;

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
    /// Bytes kept for a replay, as the client's side gave them, and how many may be.
    kept: Vec<u8>,
    keeps_bytes: usize,
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
    /// Bytes to be written next, the head first. Empty, they wait to be on their way.
    pending: Option<Buffer>,
    /// The head is none of them, and has not been sent.
    owes_head: bool,
    /// What tells the end of the body has not been sent, and is no part of the body's bytes.
    owes_end: bool,
    /// Data is to be made chunks.
    chunk: bool,
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
    /// `keeps_bytes`: so much of the body may be sent again.
    pub fn new(watch: Watch, held: bool, keeps_bytes: usize, pipes: &Pipes) -> Upload {
        Upload {
            watch,
            kept: Vec::new(),
            keeps_bytes,
            lost: false,
            held,
            waits_for_client: false,
            answered: false,
            bulk: Bulk::new(pipes),
            moved: false,
            attempt: Attempt::default(),
        }
    }

    /// Begins an attempt with this head; `chunk`: the body is read as data, and this backend wants it
    /// chunked. Only right while `sent` does not say `Lost`.
    pub fn begin(&mut self, head: Buffer, chunk: bool) {
        self.attempt =
            Attempt { pending: Some(head), owes_end: chunk, chunk, ..Attempt::default() };
    }

    /// Begins an attempt whose head the backend's side has, and which may have a body.
    pub fn begin_stream(&mut self, body: bool) {
        self.attempt =
            Attempt { owes_head: true, owes_end: body, joined: true, ..Attempt::default() };
    }

    /// The backend has told that it has processed nothing of this attempt.
    pub fn unprocessed(&mut self) {
        self.attempt.wrote = false;
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
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        conn: &mut Back,
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
                let all = pending.is_empty();
                let last = self.attempt.owes_end
                    && !self.attempt.chunk
                    && self.attempt.replayed == self.kept.len()
                    && front.is_body_ended()
                    && front.trailers().is_none();
                match conn.poll_write(cx, pending, last) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if all => self.attempt.pending = None,
                    Poll::Ready(Ok(())) => {
                        self.attempt.wrote = true;
                        self.moved = true;
                        self.attempt.owes_end &= !(last && pending.is_empty());
                    }
                    // A backend that answers early and closes resets what we go on sending. What it said
                    // before is still there to be read, and the read side will tell the end.
                    Poll::Ready(Err(Deaf)) => self.attempt.deaf = true,
                }
                continue;
            }
            if self.attempt.owes_head {
                ready!(conn.poll_begin(cx))?;
                self.attempt.owes_head = false;
                (self.attempt.wrote, self.moved) = (true, true);
            }
            if self.lost || self.answered {
                match self.poll_bulk(cx, front, conn, step) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(moved) => moved?,
                }
            }
            match self.poll_more(cx, front, step)? {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) if self.attempt.owes_end => self.end(front, conn),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(piece) => self.attempt.pending = piece,
            }
        }
    }

    /// Tells the backend that the body has ended, in the way that its protocol has for that.
    fn end(&mut self, front: &Front<'_>, conn: &mut Back) {
        self.attempt.owes_end = false;
        let trailers = front.trailers();
        if self.attempt.chunk {
            let mut last = Buffer::borrow(front.buffers());
            write::last_chunk(&mut last, trailers.as_ref());
            self.attempt.pending = Some(last);
        } else if conn.finish(trailers.as_ref()).is_err() {
            self.attempt.deaf = true;
        }
    }

    /// The rest of a long body, which is not kept for another attempt.
    fn poll_bulk(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        conn: &Back,
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

    /// The next bytes of the body, as the backend wants them.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        step: &Deadline,
    ) -> Result<Poll<Option<Buffer>>, Cause> {
        let mut piece = self.poll_piece(cx, front, step)?;
        if let Poll::Ready(Some(data)) = &mut piece
            && self.attempt.chunk
        {
            write::chunk(data);
        }
        Ok(piece)
    }

    /// The next bytes of the body: those that an earlier attempt has read, then the client's.
    fn poll_piece(
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
        if self.answered || self.kept.len() + piece.len() > self.keeps_bytes {
            self.lost = true;
            self.kept = Vec::new();
            self.attempt.replayed = 0;
        } else {
            self.kept.extend_from_slice(piece);
            self.attempt.replayed = self.kept.len();
        }
    }

    pub fn watch(&self) -> Watch {
        self.watch
    }

    /// It is the client's silence that lasts.
    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client
    }

    /// Whether anything of it has gone on since this was asked last.
    pub fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// For the rest of a long answer.
    pub fn another_bulk(&self) -> Bulk {
        self.bulk.another()
    }

    /// The client has been told something: whatever it waited for, its silence is its own now.
    pub fn released(&mut self) {
        self.held = false;
    }

    /// The client still waits for 100 before it sends its body.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The answer has begun. From now on nothing is kept, and the deadline is the answer's.
    pub fn answered(&mut self) {
        self.answered = true;
        self.kept = Vec::new();
        self.attempt.replayed = 0;
    }

    /// Moves on what is left of it behind its answer's head; `false`: the client has broken it.
    pub fn go_on(
        &mut self,
        cx: &mut Context<'_>,
        front: &mut Front<'_>,
        conn: &mut Back,
        step: &Deadline,
    ) -> bool {
        self.is_done(front) || !matches!(self.poll(cx, front, conn, step), Poll::Ready(Err(_)))
    }

    /// The whole request has reached the backend, so that its connection may carry another.
    pub fn is_done(&self, front: &Front<'_>) -> bool {
        let Attempt { pending, owes_head, owes_end, deaf, .. } = &self.attempt;
        front.is_body_ended() && pending.is_none() && !(*owes_head || *owes_end || *deaf)
    }
}
