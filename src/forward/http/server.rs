//! A client's HTTP connection over hyper: HTTP/1, or HTTP/2 by prior knowledge.
//!
//! Hyper parses and frames; this file runs its connection under the session's deadline, passes on the
//! word to leave, and hands back the socket after an upgrade.

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
use hyper::service::Service;
use tokio::io::AsyncReadExt;

use super::Incoming;
use super::io::Counted;
use super::reply::{Reply, Tail};
use crate::forward::session::{Phase, Session};
use crate::listen::ClientStream;

/// RFC 9113 3.4: what an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
            if session.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !session.still_taking(bounds.stream_idle) {
                return Poll::Ready(Err(Break::Timeout(session.phase())));
            }
        }
    })
    .await;
    match result {
        Ok(()) if upgraded() => {
            let parts = conn.into_parts();
            Served::Upgraded(parts.io.into_inner().into_stream(), parts.read_buf)
        }
        Ok(()) => {
            let mut stream = conn.into_parts().io.into_inner().into_stream();
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
            Served::Done
        }
        Err(why) => Served::Broken(why),
    }
}

/// Serves HTTP/2 until the connection ends. Every stream runs as a task of this worker.
pub async fn serve_h2<S, F, T>(
    stream: ClientStream,
    ahead: Bytes,
    session: &Rc<Session>,
    bounds: &Bounds,
    service: S,
) -> Served
where
    S: Service<Request<Incoming>, Response = Response<Reply<T>>, Error = Infallible, Future = F>,
    S: 'static,
    F: Future<Output = Result<Response<Reply<T>>, Infallible>> + 'static,
    T: Tail + Unpin + 'static,
{
    let io = Counted::new(stream, session.clone(), ahead);
    let head_bytes = u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX);
    let mut conn = pin!(
        http2::Builder::new(Local)
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(head_bytes)
            .serve_connection(io, service)
    );
    let mut told = false;
    let result = poll_fn(|cx| {
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
        session.notice_sent(bounds.client_idle);
        if session.deadline.poll(cx).is_ready() {
            return Poll::Ready(Err(Break::Timeout(session.phase())));
        }
        Poll::Pending
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
    } else {
        Break::Gone
    }
}

/// Runs hyper's HTTP/2 streams as tasks of the thread that their connection lives on.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stream);
    }
}
