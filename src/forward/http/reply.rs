//! An answer's body on its way to the client: our own few bytes, or a backend's stream.
//!
//! The stream drives its backend connection, watches for silence, and tells its [`Tail`] exactly
//! once how it ended: whole, cut short by the backend, or dropped because the client left.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{BackendConn, Incoming};
use crate::timer::Deadline;

/// Hears how a reply ended. Never called twice.
pub trait Tail {
    /// The whole answer has been handed over. `conn` can carry another request, if it is given.
    fn whole(self, conn: Option<BackendConn>);
    /// The backend broke off or fell silent.
    fn truncated(self);
    /// The client went away, or the process stops.
    fn dropped(self);
}

/// The body of an answer to a client.
#[derive(Debug)]
pub enum Reply<T: Tail> {
    Own(Option<Bytes>),
    Stream(Stream<T>),
}

/// A backend's body. All of it sits in one box: an idle client connection pays for a pointer.
#[derive(Debug)]
pub struct Stream<T: Tail>(Option<Box<Flow<T>>>);

#[derive(Debug)]
struct Flow<T> {
    incoming: Incoming,
    conn: BackendConn,
    tail: T,
    deadline: Deadline,
    /// Bounds the whole request, if that is configured.
    overall: Option<Deadline>,
    silence: Duration,
}

/// The backend's answer ended too soon; hyper cuts the client's connection for it.
#[derive(Debug, thiserror::Error)]
#[error("the backend's answer ended too soon")]
pub struct Truncated;

impl<T: Tail> Reply<T> {
    pub fn own(body: impl Into<Bytes>) -> Reply<T> {
        let body = body.into();
        Reply::Own((!body.is_empty()).then_some(body))
    }

    /// Streams `incoming`, which `conn` carries. Each silence may last `silence`.
    pub fn stream(
        incoming: Incoming,
        mut conn: BackendConn,
        tail: T,
        deadline: Deadline,
        overall: Option<Deadline>,
        silence: Duration,
    ) -> Reply<T> {
        if incoming.is_end_stream() {
            deadline.clear();
            let reusable = conn.is_ready();
            tail.whole(reusable.then_some(conn));
            return Reply::Own(None);
        }
        let flow = Flow { incoming, conn, tail, deadline, overall, silence };
        flow.wait();
        Reply::Stream(Stream(Some(Box::new(flow))))
    }
}

impl<T> Flow<T> {
    /// The next silence begins, within what the whole request has left.
    fn wait(&self) {
        let left = self.overall.as_ref().and_then(Deadline::left);
        self.deadline.set(left.map_or(self.silence, |left| left.min(self.silence)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        // Twice: asking for a frame is what lets the connection read the next one.
        for _ in 0..2 {
            let _ = self.conn.drive(cx);
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => {
                    self.wait();
                    return Poll::Ready(frame.map(|frame| frame.map_err(|_| Truncated)));
                }
                Poll::Pending => {}
            }
        }
        self.deadline.poll(cx).map(|()| Some(Err(Truncated)))
    }
}

impl<T: Tail> Stream<T> {
    fn end_whole(&mut self) {
        if let Some(flow) = self.0.take() {
            let Flow { mut conn, tail, deadline, .. } = *flow;
            deadline.clear();
            let reusable = conn.is_ready();
            tail.whole(reusable.then_some(conn));
        }
    }
}

impl<T: Tail + Unpin> Body for Reply<T> {
    type Data = Bytes;
    type Error = Truncated;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Truncated>>> {
        let stream = match self.get_mut() {
            Reply::Own(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Reply::Stream(stream) => stream,
        };
        let Some(flow) = &mut stream.0 else { return Poll::Ready(None) };
        let polled = flow.poll(cx);
        match &polled {
            Poll::Ready(None) => stream.end_whole(),
            Poll::Ready(Some(Ok(_))) if flow.incoming.is_end_stream() => stream.end_whole(),
            Poll::Ready(Some(Err(Truncated))) => {
                if let Some(flow) = stream.0.take() {
                    flow.deadline.clear();
                    flow.tail.truncated();
                }
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Own(bytes) => bytes.is_none(),
            Reply::Stream(stream) => stream.0.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Reply::Stream(stream) => match &stream.0 {
                Some(flow) => flow.incoming.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

impl<T: Tail> Drop for Stream<T> {
    fn drop(&mut self) {
        if let Some(flow) = self.0.take() {
            flow.deadline.clear();
            if flow.incoming.is_end_stream() { flow.tail.whole(None) } else { flow.tail.dropped() }
        }
    }
}
