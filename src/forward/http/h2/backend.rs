//! One request on an HTTP/2 connection to a backend, polled by whoever waits for its answer.
//!
//! Nothing is read that was not asked for, and what was read is acknowledged only then: a client that takes
//! nothing stops its backend by flow control, at one window. Dropping it before its end resets its stream.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode, header};

use super::connections::SharedConn;
use super::tunnel::Tunnel;
use super::wire;
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::http::back::Deaf;
use crate::forward::http::h1::body::Broken;
use crate::forward::http::head::{Framing, Heads, ResponseHead, number};
use crate::forward::http::websocket;
use crate::outcome::Cause;
use crate::route::fields::Store;

/// One request's stream.
#[derive(Debug)]
pub struct Stream {
    conn: Rc<SharedConn>,
    /// Not sent yet.
    request: Option<Request<()>>,
    /// Nothing follows the head.
    bodiless: bool,
    /// The request is for a tunnel; what HTTP/1.1 says where that is granted.
    accept: Option<String>,
    up: Option<SendStream<Bytes>>,
    answer: Option<ResponseFuture>,
    down: Option<RecvStream>,
    /// Of the answer's body, read ahead.
    held: Option<Buffer>,
    /// The answer's body has been read to its end.
    ended: bool,
    trailers: Option<HeaderMap>,
    /// The backend has said that it has not so much as looked at the request.
    unprocessed: bool,
    /// It is the connection that failed, not the one request.
    lost: bool,
}

impl Stream {
    pub fn new(conn: Rc<SharedConn>) -> Box<Stream> {
        conn.enter();
        Box::new(Stream {
            conn,
            request: None,
            bodiless: false,
            accept: None,
            up: None,
            answer: None,
            down: None,
            held: None,
            ended: false,
            trailers: None,
            unprocessed: false,
            lost: false,
        })
    }

    /// What is to be asked; `bodiless`: the head is all there is.
    pub fn set_request(&mut self, request: Request<()>, bodiless: bool) {
        (self.request, self.bodiless) = (Some(request), bodiless);
    }

    /// The same of a CONNECT for a WebSocket (RFC 8441). A success comes out as HTTP/1.1 would have it, as
    /// 101 with this in `Sec-WebSocket-Accept`.
    pub fn set_tunnel(&mut self, request: Request<()>, accept: String) {
        self.set_request(request, true);
        self.accept = Some(accept);
    }

    /// The backend has said that it takes such a CONNECT.
    pub fn takes_tunnels(&self) -> bool {
        self.conn.takes_tunnels()
    }

    /// What it has become by a success.
    pub fn into_tunnel(mut self: Box<Self>) -> Option<Tunnel> {
        Some(Tunnel::with_backend(self.conn.clone(), self.up.take()?, self.down.take()?))
    }

    /// Whether a body, be it an empty one, follows the head.
    pub fn has_body(&self) -> bool {
        !self.bodiless
    }

    /// Sends the head, if that has not been done.
    pub fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        let Some(request) = self.request.take() else { return Poll::Ready(Ok(())) };
        let mut sender = self.conn.sender();
        match sender.poll_ready(cx) {
            // It never is: that would be for a request that this very handle has sent.
            Poll::Pending => {
                self.request = Some(request);
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.not_sent(&error))),
        }
        match sender.send_request(request, self.bodiless && self.accept.is_none()) {
            Ok((answer, up)) => {
                (self.answer, self.up) = (Some(answer), Some(up));
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.not_sent(&error))),
        }
    }

    fn not_sent(&mut self, error: &h2::Error) -> Cause {
        (self.unprocessed, self.lost) = (true, true);
        cause(error)
    }

    /// The backend has told that nothing of the request was processed (RFC 9113 8.7): it can be sent again,
    /// whatever it asks for.
    pub fn is_unprocessed(&self) -> bool {
        self.unprocessed
    }

    /// It was not the request that failed but its connection, or the room on it: on a fresh one it may be
    /// sent again, as far as what was sent allows.
    pub fn was_lost(&self) -> bool {
        self.lost
    }

    /// Sends what the backend takes of `from`; `last`: the body ends with it. An error: it takes no more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffer,
        last: bool,
    ) -> Poll<Result<(), Deaf>> {
        let Some(up) = &mut self.up else { return Poll::Ready(Err(Deaf)) };
        if from.is_empty() {
            return Poll::Ready(Ok(())); // the connection's task sees to it
        }
        wire::poll_send(up, cx, from, last).map_err(|wire::Closed| Deaf)
    }

    /// Ends the request's body, if its last piece has not done so. An error: the backend takes no more.
    pub fn finish(&mut self, trailers: Option<&Store>) -> Result<(), Deaf> {
        let up = self.up.as_mut().ok_or(Deaf)?;
        wire::end(up, trailers).map_err(|wire::Closed| Deaf)
    }

    /// Waits for the next head. Interim ones (1xx) come out as well; the caller asks again.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        to_head: bool,
        heads: &Heads,
    ) -> Poll<Result<ResponseHead, Cause>> {
        let Some(answer) = &mut self.answer else { return Poll::Pending };
        // Where an error is told here, it is told once more below.
        if let Some(Ok(interim)) = ready!(answer.poll_informational(cx)) {
            return Poll::Ready(Ok(head(&interim, Framing::None, heads)));
        }
        match ready!(Pin::new(answer).poll(cx)) {
            Ok(answer) => {
                let (parts, down) = answer.into_parts();
                let answer = Response::from_parts(parts, ());
                if let Some(accept) = self.accept.take() {
                    if answer.status().is_success() {
                        (self.ended, self.down) = (true, Some(down));
                        return Poll::Ready(Ok(switched(answer, &accept, heads)));
                    }
                    // There is no tunnel, and so nothing more to be said. Whoever is gone need not know.
                    let _ = self.finish(None);
                }
                let framing = framing(&answer, to_head, down.is_end_stream());
                // Where no body belongs, an empty frame may still follow that says so.
                let bare = matches!(framing, Framing::None | Framing::Length(0));
                self.ended = down.is_end_stream() || bare;
                self.down = Some(down);
                Poll::Ready(Ok(head(&answer, framing, heads)))
            }
            Err(error) => {
                self.unprocessed |= is_unprocessed(&error);
                // A stream that was refused tells nothing of its connection.
                self.lost |= error.is_go_away() || error.is_io();
                Poll::Ready(Err(cause(&error)))
            }
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<Result<Option<Buffer>, Broken>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Ok(Some(held)));
        }
        self.poll_more(cx, buffers)
    }

    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<Result<Option<Buffer>, Broken>> {
        let Some(down) = &mut self.down else { return Poll::Ready(Ok(None)) };
        while !self.ended {
            match ready!(down.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.ended = down.is_end_stream();
                    // Never more than there is.
                    let _ = down.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        let mut piece = Buffer::borrow(buffers);
                        piece.extend(&data);
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(Broken::Short)),
                None => {
                    self.trailers = ready!(down.poll_trailers(cx)).map_err(|_| Broken::Short)?;
                    self.ended = true;
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Bytes of the answer's body that were read ahead.
    pub fn held(&self) -> usize {
        self.held.as_ref().map_or(0, Buffer::len)
    }

    /// Reads ahead until `length` bytes of the answer's body are here.
    pub fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        while self.held() < length {
            match ready!(self.poll_more(cx, buffers))? {
                None => return Poll::Ready(Err(Broken::Short)),
                Some(more) => match &mut self.held {
                    None => self.held = Some(more),
                    Some(held) => held.extend(more.data()),
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    /// All of the answer's body has been read, and handed out.
    pub fn is_ended(&self) -> bool {
        self.ended && self.held.is_none()
    }

    /// The answer's trailers, once its body has ended.
    pub fn trailers(&self) -> Option<Store> {
        self.trailers.as_ref().map(wire::store_of)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The stream first: its reset is what the connection's task hears.
        let asked = self.answer.is_some();
        (self.up, self.answer, self.down) = (None, None, None);
        match asked {
            true => self.conn.leave(self.ended),
            false => self.conn.leave_unused(),
        }
    }
}

/// What a failed connection or stream is to the request on it.
pub fn cause(error: &h2::Error) -> Cause {
    match error.is_library() {
        // It was we who found fault with what came.
        true => Cause::Garbage,
        false => Cause::Reset,
    }
}

/// RFC 9113 8.7: a stream that was refused, or that is above the last one that a GOAWAY answers for (the h2
/// crate fails just those with the GOAWAY itself).
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// How the body behind an answer's head ends. The h2 crate holds a declared length against the frames.
fn framing(answer: &Response<()>, to_head: bool, ended: bool) -> Framing {
    let bare = matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = answer.headers().get(header::CONTENT_LENGTH);
    match length.and_then(|length| number(length.as_bytes())) {
        _ if to_head || bare => Framing::None,
        _ if ended => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    }
}

/// An answer's head as HTTP/1 would have brought it.
fn head(answer: &Response<()>, framing: Framing, heads: &Heads) -> ResponseHead {
    let mut store = heads.borrow();
    for (name, value) in answer.headers() {
        // RFC 9113 8.2.1 allows no white space around it; who sends some means the value.
        store.push(name.as_str().as_bytes(), value.as_bytes().trim_ascii());
    }
    let (status, reason) = (answer.status(), 0..0);
    ResponseHead { status, framing, keep_alive: true, reason, store }
}

/// The head by which HTTP/1.1 would have granted a WebSocket.
fn switched(mut answer: Response<()>, accept: &str, heads: &Heads) -> ResponseHead {
    answer.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let mut head = head(&answer, Framing::None, heads);
    head.store.push(b"upgrade", b"websocket");
    head.store.push(websocket::ACCEPT.as_bytes(), accept.as_bytes());
    head
}
