//! A client's HTTP connection over hyper: HTTP/1, or HTTP/2 by prior knowledge.
//!
//! Hyper parses and frames; this file runs its connection under the session's deadline, passes on the
//! word to leave, and hands back the socket after an upgrade.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Incoming;
use super::io::Counted;
use super::reply::{Reply, Tail};
use crate::forward::session::{Phase, Session};
use crate::listen::ClientStream;
use crate::timer::{Deadline, Wheel};

/// RFC 9113 3.4: what an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long, and how much, is still taken of a client that is being closed.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Streams of one HTTP/2 connection at once; what Envoy and nginx users are used to.
const H2_STREAMS: u32 = 128;

/// What bounds the heads and pauses of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub head_bytes: usize,
    pub headers: usize,
    pub client_header: Duration,
    pub client_idle: Duration,
    pub stream_idle: Duration,
}

/// How a connection ended.
#[derive(Debug)]
pub enum Served {
    /// In order, or because the client left.
    Done,
    /// The client, or our own time-out, broke something off.
    Broken(Break),
    /// A request was answered with 101: the socket, and what was read beyond the request.
    Upgraded(ClientStream, Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Not HTTP.
    BadRequest,
    HeadTooLarge,
    Timeout(Phase),
    /// The answer's body failed on its way.
    Truncated,
    Cut,
    Gone,
}

/// Reads ahead until it is clear which HTTP it is. What was read is to be handed on.
pub async fn read_preface(
    stream: &mut ClientStream,
    session: &Session,
    client_header: Duration,
) -> Result<(bool, Bytes), Break> {
    let mut ahead = BytesMut::with_capacity(2048);
    loop {
        let read = session.unless_cut(session.deadline.bound(stream.read_buf(&mut ahead))).await;
        let n = read
            .ok_or(Break::Cut)?
            .map_err(|_| Break::Timeout(session.phase()))?
            .map_err(|_| Break::Gone)?;
        if n == 0 {
            return Ok((false, ahead.freeze()));
        }
        session.count_received(n);
        session.notice_head(client_header);
        let common = ahead.len().min(PREFACE.len());
        if ahead[..common] != PREFACE[..common] {
            return Ok((false, ahead.freeze()));
        }
        if common == PREFACE.len() {
            return Ok((true, ahead.freeze()));
        }
    }
}

/// Serves HTTP/1 until the connection ends. `upgraded` says, once hyper lets go of the connection,
/// whether that was for an upgrade.
pub async fn serve_h1<S, F, T>(
    stream: ClientStream,
    ahead: Bytes,
    session: &Rc<Session>,
    bounds: &Bounds,
    service: S,
    upgraded: impl Fn() -> bool,
) -> Served
where
    S: Service<Request<Incoming>, Response = Response<Reply<T>>, Error = Infallible, Future = F>,
    S: Unpin,
    F: Future<Output = Result<Response<Reply<T>>, Infallible>> + Unpin,
    T: Tail + Unpin + 'static,
{
    let io = Counted::new(stream, session.clone(), ahead);
    let mut conn = http1::Builder::new()
        .half_close(true)
        .max_headers(bounds.headers)
        .max_header_size(bounds.head_bytes)
        .serve_connection(io, service);
    let mut told = false;
    let result = poll_fn(|cx| {
        loop {
            if session.is_cut() {
                return Poll::Ready(Err(Break::Cut));
            }
            if session.is_leaving() && session.phase() == Phase::Busy && !told {
                told = true;
                Pin::new(&mut conn).graceful_shutdown();
            }
            if let Poll::Ready(done) = conn.poll_without_shutdown(cx) {
                return Poll::Ready(done.map_err(|error| broken(&error)));
            }
            session.notice_sent(bounds.client_idle);
            session.notice_head(bounds.client_header);
            if session.is_leaving() && session.phase() == Phase::Busy && !told {
                continue; // the request has just begun: its answer is to say `Connection: close`
            }
            let over = session.is_over(cx);
            if !over && session.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if over || !session.still_taking(bounds.stream_idle) {
                return Poll::Ready(Err(Break::Timeout(session.phase())));
            }
        }
    })
    .await;
    let parts = conn.into_parts();
    let stream = parts.io.into_inner().into_stream();
    match result {
        Ok(()) if upgraded() => return Served::Upgraded(stream, parts.read_buf),
        Ok(()) if session.is_unread() => close(stream, session).await,
        Ok(()) => drop(stream), // which closes in order: nothing is left unread
        Err(Break::BadRequest | Break::HeadTooLarge) => close(stream, session).await,
        // An answer that was not whole must not look whole: HTTP/1.0 knows no other end than this.
        Err(Break::Truncated | Break::Timeout(Phase::Busy)) => stream.reset_on_close(),
        Err(Break::Cut) if session.phase() == Phase::Busy => stream.reset_on_close(),
        Err(Break::Timeout(_) | Break::Cut | Break::Gone) => {}
    }
    match result {
        Ok(()) => Served::Done,
        Err(why) => Served::Broken(why),
    }
}

/// Closes in order: our side first, then what the client is still sending is taken for a while. A
/// socket that is closed on unread bytes is reset, and our last answer may be lost with it
/// (RFC 9112 9.6).
async fn close(mut stream: ClientStream, session: &Session) {
    let mut left = LINGER_BYTES;
    let mut buffer = [0; 4096];
    let lingering = async {
        stream.shutdown().await?;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        std::io::Result::Ok(())
    };
    // Gone, late or cut: there is nothing left to do for it.
    let _ = session.unless_cut(session.deadline.within(LINGER, lingering)).await;
}

/// Serves HTTP/2 until the connection ends. Every stream runs as a task of this worker; `service` gets
/// the deadline that its stream is bound by.
pub async fn serve_h2<S, F, T>(
    stream: ClientStream,
    ahead: Bytes,
    session: &Rc<Session>,
    bounds: &Bounds,
    wheel: &Rc<Wheel>,
    service: S,
) -> Served
where
    S: Fn(Request<Incoming>, Deadline) -> F + 'static,
    F: Future<Output = Result<Response<Reply<T>>, Infallible>> + 'static,
    T: Tail + Unpin + 'static,
{
    session.rest(bounds.client_idle);
    let io = Counted::new(stream, session.clone(), ahead);
    let head_bytes = u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX);
    let streams = Streams::default();
    let (wheel, next) = (wheel.clone(), streams.next.clone());
    let service = service_fn(move |request| {
        let deadline = Deadline::new(&wheel);
        next.replace(Some(deadline.clone()));
        service(request, deadline)
    });
    let mut conn = pin!(
        http2::Builder::new(streams)
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(head_bytes)
            .serve_connection(io, service)
    );
    let mut told = false;
    let result = poll_fn(|cx| {
        loop {
            if session.is_cut() {
                return Poll::Ready(Err(Break::Cut));
            }
            if session.is_leaving() && !told {
                told = true;
                conn.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(done) = conn.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(|error| broken(&error)));
            }
            if session.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if told {
                return Poll::Ready(Err(Break::Timeout(session.phase())));
            }
            // GOAWAY first, so that a request on its way knows that it may be sent again.
            session.leave();
            session.rest(bounds.client_idle);
        }
    })
    .await;
    match result {
        Ok(()) => Served::Done,
        Err(why) => Served::Broken(why),
    }
}

fn broken(error: &hyper::Error) -> Break {
    if error.is_parse_too_large() {
        Break::HeadTooLarge
    } else if error.is_parse() {
        Break::BadRequest
    } else if error.is_user() {
        Break::Truncated
    } else {
        Break::Gone
    }
}

/// Runs hyper's HTTP/2 streams as tasks of the thread that their connection lives on, each under its
/// request's deadline: while a client takes nothing hyper asks for nothing more, and the answer itself
/// cannot see its time pass.
#[derive(Clone, Debug, Default)]
struct Streams {
    /// Left by the service for the stream that hyper is about to start.
    next: Rc<RefCell<Option<Deadline>>>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(deadline) = self.next.take() else {
            tokio::task::spawn_local(stream);
            return;
        };
        tokio::task::spawn_local(async move {
            // Dropping the stream resets it.
            let _ = deadline.bound(stream).await;
        });
    }
}
