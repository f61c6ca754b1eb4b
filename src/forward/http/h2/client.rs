//! HTTP/2 clients, through hyper: their requests become heads like any other, and the story of each
//! request goes on in the task in which hyper polls the stream, for its answer's body or beside it.
//!
//! A stream that the client resets takes its whole story with it.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::backend::{map_of, store_of};
use super::request::{blamed, head};
use super::told::{BrokeOff, Next, Slot, Story, Streams, Telling, Told};
use super::tunnel::{Tether, Tunnel};
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::http::front::{Line, Sink};
use crate::forward::http::h1::client::Bounds;
use crate::forward::http::h1::write;
use crate::forward::http::head::{Framing, Heads, RequestHead};
use crate::forward::http::io::Counted;
use crate::forward::session::Session;
use crate::listen::ClientStream;
use crate::observe::cells::CALM;
use crate::outcome::Cause;
use crate::route::fields::Store;
use crate::timer::{Deadline, Wheel};

/// Streams of one connection at once; what Envoy and nginx users are used to.
const STREAMS: u32 = 128;

/// Streams that were reset before we so much as looked at them, and streams that we had to reset, of one
/// connection: beyond them it is closed (rapid reset, CVE-2023-44487, and what came after it).
const TAKEN_BACK: usize = 32;
const MISTAKES: usize = 128;

/// What a client may send ahead: of one stream, and of all. Those whose backends take nothing must not keep
/// the others waiting.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 16 * STREAM_WINDOW;

/// What of an answer waits for a client that takes nothing, in hyper.
const SEND_BYTES: usize = 64 * 1024;
/// Fields of 101 that HTTP/2 has no use for (RFC 8441 5).
const OF_A_SWITCH: [&[u8]; 3] = [b"connection", b"upgrade", b"sec-websocket-accept"];

/// The client's side of one request.
pub struct Stream {
    incoming: Incoming,
    framing: Framing,
    /// Body bytes that may still come.
    left_allowed: u64,
    body_ended: bool,
    /// The body is wanted as data alone; else what has no declared length is framed as HTTP/1.
    as_data: bool,
    trailers: Option<Store>,
    buffers: Buffers,
    slot: Rc<Slot>,
}

impl Stream {
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// What the stream becomes if its answer is a change of protocol.
    pub fn tunnel(&self) -> Option<Tunnel> {
        let upgrade = self.slot.upgrade.take()?;
        let tether = Rc::<Tether>::default();
        self.slot.tunnel.replace(Some(tether.clone()));
        Some(Tunnel { upgrade, tether })
    }

    pub fn begin_body(&mut self, framing: Framing, limit: Option<u64>) {
        self.framing = framing;
        self.left_allowed = limit.unwrap_or(u64::MAX);
        self.body_ended = matches!(framing, Framing::None | Framing::Length(0));
    }

    /// The body is read as data alone, from its first byte on.
    pub fn want_data(&mut self) {
        self.as_data = true;
    }

    /// The trailers of a body that was read as data, once it has ended.
    pub fn trailers(&self) -> Option<Store> {
        self.trailers.clone()
    }

    pub fn is_body_ended(&self) -> bool {
        self.body_ended
    }

    /// Frames as they come, made chunks where the length was not declared, unless data is wanted.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buffer>, Cause>> {
        let chunked = self.framing == Framing::Chunked && !self.as_data;
        let mut piece = Buffer::borrow(&self.buffers);
        while !self.body_ended && piece.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Err(_)) => return Poll::Ready(Err(Cause::ClientGone)),
                // A stream that was reset looks like a body that ended, but for one flag.
                None if !self.incoming.is_end_stream() => {
                    return Poll::Ready(Err(Cause::ClientGone));
                }
                None => self.end_body(&mut piece, None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let allowed = self.left_allowed.checked_sub(data.len() as u64);
                        self.left_allowed = allowed.ok_or(Cause::BodyTooLarge)?;
                        piece.extend(&data);
                        if chunked && !data.is_empty() {
                            write::chunk(&mut piece);
                        }
                        if self.incoming.is_end_stream() {
                            self.end_body(&mut piece, None);
                        }
                    }
                    Err(frame) => self.end_body(&mut piece, frame.into_trailers().ok()),
                },
            }
        }
        Poll::Ready(Ok((!piece.is_empty()).then_some(piece)))
    }

    fn end_body(&mut self, piece: &mut Buffer, trailers: Option<HeaderMap>) {
        self.body_ended = true;
        let trailers = trailers.map(|trailers| store_of(&trailers));
        if self.as_data {
            self.trailers = trailers;
        } else if self.framing == Framing::Chunked {
            write::last_chunk(piece, trailers.as_ref());
        }
    }

    pub fn begin(&mut self, line: &Line<'_>, fields: impl FnOnce(Sink<'_>)) {
        let mut head = Response::new(());
        let switches = line.status == StatusCode::SWITCHING_PROTOCOLS;
        if !switches {
            self.slot.tunnel.take();
        }
        // RFC 8441 5: success is all that is said of it.
        *head.status_mut() = if switches { StatusCode::OK } else { line.status };
        let headers = head.headers_mut();
        fields(&mut |name, value| {
            let ours = |known: &&[u8]| known.eq_ignore_ascii_case(name);
            if switches && OF_A_SWITCH.iter().any(ours) {
                return;
            }
            // What was a field of a parsed head, or of the configuration, is one here.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        });
        let length = match line.framing {
            Framing::Length(length) => Some(length),
            Framing::None => line.told_length,
            Framing::Chunked | Framing::UntilClose => None,
        };
        length.map(|length| headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length)));
        let ends = matches!(line.framing, Framing::None | Framing::Length(0));
        self.slot.ended.set(ends);
        self.slot.head.replace(Some(head));
    }

    pub fn queue(&mut self, piece: Buffer) {
        let data = Bytes::copy_from_slice(piece.data());
        self.slot.frame.replace(Some(Frame::data(data)));
    }

    pub fn finish(&mut self, trailers: Option<Store>) {
        self.slot.trailers.replace(trailers.map(|trailers| map_of(&trailers)));
        self.slot.ended.set(true);
    }

    /// Whoever takes what is there asks again by himself; but for the last, which nothing follows.
    pub fn poll_flush(&self) -> Poll<Result<(), Cause>> {
        let handed = self.slot.handed.get() && !self.slot.ended.get();
        match handed || self.slot.frame.borrow().is_some() {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("framing", &self.framing).finish_non_exhaustive()
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// The client, or our own time-out, broke something off.
    Broken,
    Cut,
}

/// What a worker lends to a connection.
#[derive(Clone, Debug)]
pub struct Means {
    pub wheel: Rc<Wheel>,
    pub heads: Heads,
    pub buffers: Buffers,
}

/// Serves HTTP/2 until the connection ends; `ahead` is what was read to tell that it is. Every stream
/// runs as a task of this worker; `tell` begins the story of a request and gets the deadline that its
/// stream is bound by.
pub async fn serve(
    stream: ClientStream,
    ahead: Bytes,
    session: &Rc<Session>,
    bounds: &Bounds,
    means: Means,
    tell: impl Fn(RequestHead, Stream, Deadline) -> Story + 'static,
) -> End {
    session.rest(bounds.client_idle);
    let head_bytes = u32::try_from(bounds.head.bytes).unwrap_or(u32::MAX);
    let streams = Streams::new(session.clone());
    let (next, calm) = (streams.next.clone(), streams.calm.clone());
    let io = TokioIo::new(Counted::new(stream, (session.clone(), calm.clone()), ahead));
    let wheel = means.wheel.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let deadline = Deadline::new(&wheel);
        let next = next.clone();
        let (mut parts, incoming) = request.into_parts();
        let connect = parts.method == Method::CONNECT;
        let slot = Rc::<Slot>::default();
        let head = head(&parts, incoming.is_end_stream(), &means.heads);
        if head.is_websocket() {
            slot.upgrade.replace(parts.extensions.remove());
        }
        let stream = Stream {
            incoming,
            framing: Framing::None,
            left_allowed: u64::MAX,
            body_ended: true,
            as_data: false,
            trailers: None,
            buffers: means.buffers.clone(),
            slot: slot.clone(),
        };
        let told = Told::new(tell(head, stream, deadline.clone()), slot);
        next.replace(Some(Next::Stream(deadline, told.clone())));
        let mut telling = Some(Telling(told));
        poll_fn(move |cx| {
            let Some(told) = &mut telling else { return Poll::Pending };
            let head = ready!(told.poll_head(cx))?;
            // To a CONNECT every success opens a tunnel (RFC 9110 9.3.6).
            if connect && head.status().is_success() {
                let tether = told.0.slot.tunnel.take().ok_or(BrokeOff)?;
                next.replace(Some(Next::Tunnel(tether)));
                // hyper drops the body: the story goes on by itself.
                told.0.go_alone();
            }
            // It has just been there.
            let body = telling.take();
            Poll::Ready(body.map(|body| head.map(|()| body)).ok_or(BrokeOff))
        })
    });
    let mut conn = pin!(
        http2::Builder::new(streams)
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(Some(TAKEN_BACK))
            .max_local_error_reset_streams(Some(MISTAKES))
            .max_header_list_size(head_bytes)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BYTES)
            .enable_connect_protocol()
            .serve_connection(io, service)
    );
    let mut told = false;
    poll_fn(|cx| {
        loop {
            if session.is_cut() {
                return Poll::Ready(End::Cut);
            }
            if calm.is_lost() {
                session.cells().http2_errors[CALM].inc();
                // It is told so by what it reads next (`io`).
                let _ = conn.as_mut().poll(cx);
                return Poll::Ready(End::Broken);
            }
            if session.is_leaving() && !told {
                told = true;
                conn.as_mut().graceful_shutdown();
            }
            match conn.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Done),
                Poll::Ready(Err(error)) => {
                    if let Some(at) = blamed(&error) {
                        session.cells().http2_errors[at].inc();
                    }
                    return Poll::Ready(End::Broken);
                }
                Poll::Pending => {}
            }
            if session.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if told {
                return Poll::Ready(End::Broken);
            }
            // GOAWAY first, so that a request on its way knows that it may be sent again.
            session.leave();
            session.rest(bounds.client_idle);
        }
    })
    .await
}
