//! A client's connection of HTTP/2: what is asked on it, and how it ends.
//!
//! Its task reads and writes for all of its streams. What is asked is handed out at once; whoever tells the
//! story of a request has the stream for himself, and a reset, or the connection's end, shows there.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};

use super::calm::Calm;
use super::request::{blamed, head};
use crate::forward::http::h1::client::Bounds;
use crate::forward::http::head::{Heads, RequestHead};
use crate::forward::http::io::Counted;
use crate::forward::session::Session;
use crate::listen::ClientStream;
use crate::observe::cells::CALM;

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

/// What of an answer waits for a client that takes nothing.
const SEND_BYTES: usize = 64 * 1024;

/// One request.
#[derive(Debug)]
pub struct Asked {
    pub head: RequestHead,
    pub body: RecvStream,
    pub reply: SendResponse<Bytes>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// The client, or our own time-out, broke something off.
    Broken,
    Cut,
}

/// Serves HTTP/2 until the connection ends; `ahead` is what was read to tell that it is. `tell` begins the
/// story of a request.
pub async fn serve(
    stream: ClientStream,
    ahead: Bytes,
    session: &Rc<Session>,
    bounds: &Bounds,
    heads: &Heads,
    calm: &Calm,
    mut tell: impl FnMut(Asked),
) -> End {
    session.rest(bounds.client_idle);
    let io = Counted::new(stream, session.clone(), ahead);
    let mut conn = match begin(io, session, bounds).await {
        Ok(conn) => conn,
        Err(end) => return end,
    };
    let (mut told, mut spared) = (false, None);
    poll_fn(|cx| {
        loop {
            if session.is_cut() {
                return Poll::Ready(End::Cut);
            }
            if calm.is_lost() {
                session.cells().http2_errors[CALM].inc();
                conn.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // As far as there is room: whoever it is for has no claim to it.
                let _ = conn.poll_closed(cx);
                return Poll::Ready(End::Broken);
            }
            if session.is_leaving() && !told {
                told = true;
                conn.graceful_shutdown();
            }
            match conn.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, reply)))) => {
                    calm.begun();
                    let (parts, body) = request.into_parts();
                    let head = head(parts, body.is_end_stream(), heads);
                    tell(Asked { head, body, reply });
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(broken(session, &error)),
                Poll::Ready(None) => return Poll::Ready(End::Done),
                Poll::Pending => {}
            }
            if session.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            // All is answered, but a slow client has not got it all: it has its time once more, and again
            // as long as something goes out.
            if conn.has_streams() && spared != Some(session.sent_bytes()) {
                spared = Some(session.sent_bytes());
                session.deadline.set(bounds.client_idle);
                continue;
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

type Conn = Connection<Counted<ClientStream, Rc<Session>>, Bytes>;

/// The two ends say what they speak, and what they want of one another.
async fn begin(
    io: Counted<ClientStream, Rc<Session>>,
    session: &Session,
    bounds: &Bounds,
) -> Result<Conn, End> {
    let head_bytes = u32::try_from(bounds.head.bytes).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .max_local_error_reset_streams(Some(MISTAKES))
        .max_header_list_size(head_bytes)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(SEND_BYTES)
        .enable_connect_protocol();
    let mut beginning = pin!(builder.handshake(io));
    poll_fn(|cx: &mut Context<'_>| {
        if session.is_cut() {
            return Poll::Ready(Err(End::Cut));
        }
        match beginning.as_mut().poll(cx) {
            Poll::Ready(begun) => Poll::Ready(begun.map_err(|error| broken(session, &error))),
            Poll::Pending => session.deadline.poll(cx).map(|()| Err(End::Broken)),
        }
    })
    .await
}

fn broken(session: &Session, error: &h2::Error) -> End {
    if let Some(at) = blamed(error) {
        session.cells().http2_errors[at].inc();
    }
    End::Broken
}
