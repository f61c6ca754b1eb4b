//! A request's body on its way to a backend: streamed, counted against its limit, timed, and kept
//! up to a bound so that another backend can be sent the same.
//!
//! One [`Upload`] per attempt; all of a request share its state. While frames flow, the request's
//! deadline says who is waited for: the client (`client_body`) or the backend (`response`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::Incoming;
use crate::outcome::{Cause, Sent};
use crate::timer::Deadline;

/// Request body bytes kept for a replay.
pub const REPLAY_BYTES: usize = 64 * 1024;

/// Frames kept for a replay. Each costs more than its bytes: many tiny ones must not fill the memory.
const REPLAY_FRAMES: usize = 512;

/// The body of one attempt.
#[derive(Debug)]
pub struct Upload {
    shared: Option<Rc<Shared>>,
    /// Frames that this attempt has handed out.
    taken: usize,
}

/// A request's body, whatever attempt it goes out with.
#[derive(Clone, Debug, Default)]
pub struct Source(Option<Rc<Shared>>);

/// How a body is watched.
#[derive(Debug)]
pub struct Watch {
    pub deadline: Deadline,
    /// Longest silence of the client.
    pub client_body: Duration,
    /// From the last frame on, the backend's time runs.
    pub response: Duration,
    /// Largest body in bytes.
    pub limit: Option<u64>,
    /// HTTP/2 shows a stream that was reset as a body that ended, but for one flag.
    pub http2: bool,
}

#[derive(Debug)]
struct Shared {
    body: RefCell<Incoming>,
    hint: SizeHint,
    watch: Watch,
    kept: RefCell<Vec<Kept>>,
    kept_bytes: Cell<usize>,
    read_bytes: Cell<u64>,
    /// More was read than is kept.
    lost: Cell<bool>,
    ended: Cell<bool>,
    waiting_for_client: Cell<bool>,
    failed: Cell<Option<Cause>>,
    /// The answer has begun: nothing is sent again, and its own silence is what is timed.
    answered: Cell<bool>,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Why a body could not be passed on; hyper carries it, `Source::failed` tells it.
#[derive(Debug, thiserror::Error)]
#[error("the request's body failed: {}", .0.label())]
pub struct UploadError(Cause);

impl Source {
    pub fn new(body: Incoming, watch: Watch) -> Source {
        if body.is_end_stream() {
            return Source(None);
        }
        Source(Some(Rc::new(Shared {
            hint: body.size_hint(),
            body: RefCell::new(body),
            watch,
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            read_bytes: Cell::new(0),
            lost: Cell::new(false),
            ended: Cell::new(false),
            waiting_for_client: Cell::new(false),
            failed: Cell::new(None),
            answered: Cell::new(false),
        })))
    }

    /// The body for one more attempt. Only right while `sent` does not say `Lost`.
    pub fn upload(&self) -> Upload {
        Upload { shared: self.0.clone(), taken: 0 }
    }

    /// What a failed attempt that wrote something has used up of this body.
    pub fn sent(&self) -> Sent {
        match &self.0 {
            Some(shared) if shared.lost.get() => Sent::Lost,
            _ => Sent::Replayable,
        }
    }

    /// The client's own fault, if the body failed by it.
    pub fn failed(&self) -> Option<Cause> {
        self.0.as_ref().and_then(|shared| shared.failed.get())
    }

    /// Whose silence it is when the deadline comes.
    pub fn waits_for_client(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.waiting_for_client.get())
    }

    /// Some of the body is still to be read of the client.
    pub fn is_unread(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| !shared.ended.get())
    }

    /// The answer has begun. From now on nothing is kept, and the deadline is the answer's.
    pub fn answered(&self) {
        if let Some(shared) = &self.0 {
            shared.answered.set(true);
        }
    }
}

impl Upload {
    /// No body at all.
    pub fn empty() -> Upload {
        Upload { shared: None, taken: 0 }
    }
}

impl Shared {
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Kept, Cause>>> {
        if self.ended.get() {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if !self.waiting_for_client.replace(true) && !self.answered.get() {
                    self.watch.deadline.set(self.watch.client_body);
                }
                return Poll::Pending;
            }
        };
        self.waiting_for_client.set(false);
        if !self.answered.get() {
            self.watch.deadline.set(self.watch.response);
        }
        let kept = match frame {
            None if self.watch.http2 && !self.body.borrow().is_end_stream() => {
                return Poll::Ready(Some(Err(Cause::ClientGone)));
            }
            None => {
                self.ended.set(true);
                return Poll::Ready(None);
            }
            Some(Err(_)) => return Poll::Ready(Some(Err(Cause::ClientGone))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let read = self.read_bytes.get() + data.len() as u64;
                    self.read_bytes.set(read);
                    if self.watch.limit.is_some_and(|limit| read > limit) {
                        return Poll::Ready(Some(Err(Cause::BodyTooLarge)));
                    }
                    Kept::Data(data)
                }
                Err(frame) => Kept::Trailers(frame.into_trailers().unwrap_or_default()),
            },
        };
        if self.body.borrow().is_end_stream() {
            self.ended.set(true);
        }
        Poll::Ready(Some(Ok(kept)))
    }

    fn keep(&self, frame: &Kept) {
        if self.lost.get() {
            return;
        }
        let size = match frame {
            Kept::Data(data) => data.len(),
            Kept::Trailers(_) => 0, // bounded by the head's own limit
        };
        let total = self.kept_bytes.get() + size;
        let frames = self.kept.borrow().len();
        if total > REPLAY_BYTES || frames >= REPLAY_FRAMES || self.answered.get() {
            self.lost.set(true);
            self.kept.take();
        } else {
            self.kept_bytes.set(total);
            self.kept.borrow_mut().push(frame.clone());
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(shared) = self.shared.clone() else { return Poll::Ready(None) };
        let kept = shared.kept.borrow().get(self.taken).cloned();
        let frame = match kept {
            Some(frame) => frame,
            None => match ready!(shared.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    shared.keep(&frame);
                    frame
                }
                Some(Err(cause)) => {
                    shared.failed.set(Some(cause));
                    return Poll::Ready(Some(Err(UploadError(cause))));
                }
            },
        };
        self.taken += 1;
        Poll::Ready(Some(Ok(match frame {
            Kept::Data(data) => Frame::data(data),
            Kept::Trailers(trailers) => Frame::trailers(trailers),
        })))
    }

    fn is_end_stream(&self) -> bool {
        match &self.shared {
            None => true,
            Some(shared) => {
                let all_replayed = self.taken >= shared.kept.borrow().len();
                shared.ended.get() && (shared.lost.get() || all_replayed)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.shared {
            None => SizeHint::with_exact(0),
            Some(shared) if self.taken == 0 => shared.hint,
            Some(_) => SizeHint::default(),
        }
    }
}
