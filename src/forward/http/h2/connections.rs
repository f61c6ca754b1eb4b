//! A worker's HTTP/2 connections to backends: each carries many requests at once, and is driven by a task
//! of its own.
//!
//! Who needs one while another is being made waits for that, so that a burst after a start makes one
//! connection and not hundreds. A connection whose backend has said goodbye (GOAWAY), or that has ended,
//! gets no new request. One that may be dead is asked by a ping: a request that ends without an answer, or a
//! long silence before a new one, is reason to ask; never mere time, which some servers punish.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use rustc_hash::FxHashMap;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::backend::{Stream, cause};
use crate::forward::http::io::Counted;
use crate::forward::http::meter::Meter;
use crate::outcome::Cause;
use crate::timer::{Deadline, TICK, Wheel};

/// Requests of one connection at once, whatever more the backend allows: beyond them a further one is made.
const STREAMS: usize = 128;

/// What a backend may send of one answer before its client takes it. The whole connection's window is as
/// large as all of them together: clients that take nothing cannot hold up the others.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;

/// Of one request's body, what waits to be written.
const SEND_BYTES: usize = 64 * 1024;

/// Largest head of an answer; as of HTTP/1 (`h1::parse`).
const HEAD_BYTES: u32 = 64 * 1024;

/// A silence after which a connection is asked whether it lives, and how long it may take to say so.
const SILENCE: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);

/// A request that must not be sent twice takes no connection that has rested for longer than this.
const FRESH: Duration = Duration::from_secs(1);

/// By backend id. Clones are handles to the same ones.
#[derive(Clone, Debug, Default)]
pub struct SharedConns(Rc<RefCell<FxHashMap<u64, OfBackend>>>);

#[derive(Debug, Default)]
struct OfBackend {
    conns: Vec<Rc<SharedConn>>,
    /// One is being made.
    connecting: bool,
    /// The last one was not of HTTP/2: there is nothing to share, or to wait for.
    alone: bool,
    /// For those who wait for it.
    made: Rc<Notify>,
    /// How many were begun, and which of them failed last, and of what.
    begun: u64,
    failed: Option<(u64, Cause)>,
}

/// One connection, as its requests see it. It ends when nobody holds it any more.
#[derive(Debug)]
pub struct SharedConn {
    send: SendRequest<Bytes>,
    pulse: Rc<Pulse>,
    streams: Cell<usize>,
    /// The tick of its last request's end.
    rests_since: Cell<u64>,
    /// Ticks that it may rest.
    keep: u64,
    /// What it was made by.
    tls: Option<Arc<ClientConfig>>,
}

/// What a connection's task and its requests tell one another.
#[derive(Debug)]
pub struct Pulse {
    wheel: Rc<Wheel>,
    /// The tick at which something was read last.
    heard: Cell<u64>,
    /// Somebody wants to know whether it lives.
    doubted: Cell<bool>,
    ended: Cell<bool>,
}

impl Pulse {
    pub fn heard(&self) {
        self.heard.set(self.wheel.now());
    }

    fn is_silent(&self, since: Duration) -> bool {
        self.wheel.now().saturating_sub(self.heard.get()) >= ticks(since)
    }
}

impl SharedConn {
    /// For one more request; the connection's task hears of it when the request goes out.
    pub fn sender(&self) -> SendRequest<Bytes> {
        if self.pulse.is_silent(SILENCE) {
            self.pulse.doubted.set(true);
        }
        self.send.clone()
    }

    /// The backend takes an extended CONNECT on it (RFC 8441 3).
    pub fn takes_tunnels(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// A request has begun on it.
    pub fn enter(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    /// A request has ended on it; `whole`: with all of its answer.
    pub fn leave(&self, whole: bool) {
        self.streams.set(self.streams.get() - 1);
        self.rests_since.set(self.pulse.wheel.now());
        // Its stream is reset, which wakes the task.
        if !whole && self.pulse.is_silent(FRESH) {
            self.pulse.doubted.set(true);
        }
    }

    fn is_open(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        // An error is the end, or a GOAWAY.
        !self.pulse.ended.get()
            && matches!(self.send.clone().poll_ready(&mut nobody), Poll::Ready(Ok(())))
    }

    /// Whether it is what these settings would make: a reload may have changed them.
    fn suits(&self, tls: Option<&Arc<ClientConfig>>) -> bool {
        match (&self.tls, tls) {
            (None, None) => true,
            (Some(own), Some(wanted)) => Arc::ptr_eq(own, wanted),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn has_room(&self) -> bool {
        self.streams.get() < self.send.current_max_send_streams().min(STREAMS)
    }

    fn has_rested(&self, now: u64, most: u64) -> bool {
        self.streams.get() == 0 && now.saturating_sub(self.rests_since.get()) >= most
    }
}

/// Makes a connection, for itself and for all who wait for it meanwhile.
#[derive(Debug)]
pub struct Making {
    of: SharedConns,
    backend: u64,
}

impl Making {
    /// It is made, and may carry requests: the first is this one.
    pub fn done(self, conn: Rc<SharedConn>) -> Box<Stream> {
        self.of.with(self.backend, |of| {
            of.alone = false;
            of.conns.push(conn.clone());
        });
        Stream::new(conn)
    }

    /// The backend has let it fail, for all who wait for it.
    pub fn failed(self, cause: Cause) {
        self.of.with(self.backend, |of| of.failed = Some((of.begun, cause)));
    }

    /// It is made, and nobody else's.
    pub fn alone(self) {
        self.of.with(self.backend, |of| of.alone = true);
    }
}

impl Drop for Making {
    /// Made or not: somebody else may try.
    fn drop(&mut self) {
        if let Some(conns) = self.of.0.borrow_mut().get_mut(&self.backend) {
            conns.connecting = false;
            conns.made.notify_waiters();
        }
    }
}

impl SharedConns {
    /// Room on a connection that is there. `careful`: for a request that can be sent only once.
    pub fn take(
        &self,
        backend: u64,
        now: u64,
        careful: bool,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Option<Box<Stream>> {
        let mut map = self.0.borrow_mut();
        let conns = &mut map.get_mut(&backend)?.conns;
        conns.retain(|conn| conn.is_open());
        let most =
            |conn: &SharedConn| if careful { ticks(FRESH).min(conn.keep) } else { conn.keep };
        let good = |conn: &&Rc<SharedConn>| {
            conn.has_room() && conn.suits(tls) && !conn.has_rested(now, most(conn))
        };
        let found = conns.iter().find(good)?;
        Some(Stream::new(found.clone()))
    }

    /// Leave to make a further one; `None` while another is being made.
    pub fn make(&self, backend: u64) -> Option<Making> {
        let free = self.with(backend, |of| {
            let free = of.alone || !std::mem::replace(&mut of.connecting, true);
            of.begun += u64::from(free);
            free
        });
        free.then(|| Making { of: self.clone(), backend })
    }

    fn with<T>(&self, backend: u64, work: impl FnOnce(&mut OfBackend) -> T) -> T {
        work(self.0.borrow_mut().entry(backend).or_default())
    }

    /// Done when the one that is being made is there, or will not be; then of what it failed, if that was
    /// the backend's doing.
    pub async fn made(&self, backend: u64) -> Option<Cause> {
        let (made, waits_for) = self.with(backend, |of| (of.made.clone(), of.begun));
        made.notified().await;
        let failed = self.with(backend, |of| of.failed);
        failed.filter(|(begun, _)| *begun >= waits_for).map(|(_, cause)| cause)
    }

    /// Of the connections to a backend that rest, no more than `most` are kept.
    pub fn trim(&self, backend: u64, most: usize) {
        let mut map = self.0.borrow_mut();
        let Some(OfBackend { conns, .. }) = map.get_mut(&backend) else { return };
        let mut resting = 0;
        conns.retain(|conn| {
            resting += usize::from(conn.streams.get() == 0);
            conn.streams.get() > 0 || resting <= most
        });
    }

    /// Lets go what has rested long enough, or has ended.
    pub fn sweep(&self, now: u64) {
        self.0.borrow_mut().retain(|_, OfBackend { conns, connecting, .. }| {
            conns.retain(|conn| conn.is_open() && !conn.has_rested(now, conn.keep));
            *connecting || !conns.is_empty()
        });
    }

    /// Those to one backend get no new request; what is in progress on them goes on.
    pub fn drop_all_of(&self, backend: u64) {
        if let Some(OfBackend { conns, .. }) = self.0.borrow_mut().get_mut(&backend) {
            conns.clear();
        }
    }

    /// The same of all: the worker stops.
    pub fn clear(&self) {
        self.0.borrow_mut().values_mut().for_each(|OfBackend { conns, .. }| conns.clear());
    }
}

/// Begins HTTP/2 on a fresh connection. Done when the backend has said how many requests it takes at once
/// (RFC 9113 3.4): then it does speak HTTP/2, and nothing that cannot be sent again has been sent.
pub async fn begin<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    meter: Meter,
    wheel: &Rc<Wheel>,
    keep: Duration,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Rc<SharedConn>, Cause> {
    let pulse = Rc::new(Pulse {
        wheel: wheel.clone(),
        heard: Cell::new(wheel.now()),
        doubted: Cell::new(false),
        ended: Cell::new(false),
    });
    let io = Counted::new(stream, (meter, pulse.clone()), Bytes::new());
    let begun = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES)
        .max_send_buffer_size(SEND_BYTES)
        .handshake(io)
        .await;
    let (send, mut conn) = begun.map_err(|error| cause(&error))?;
    poll_fn(|cx| match Pin::new(&mut conn).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(Cause::Reset)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(cause(&error))),
        Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    let (streams, rests_since) = (Cell::new(0), Cell::new(wheel.now()));
    let shared =
        SharedConn { send, pulse: pulse.clone(), streams, rests_since, keep: ticks(keep), tls };
    tokio::task::spawn_local(drive(conn, pulse));
    Ok(Rc::new(shared))
}

/// Reads and writes for all requests of a connection, until it has ended. Dropping it fails what is left.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut conn: Connection<Counted<S, (Meter, Rc<Pulse>)>, Bytes>,
    pulse: Rc<Pulse>,
) {
    let mut asked = conn.ping_pong().map(|pings| Asked {
        pings,
        pong_by: Deadline::new(&pulse.wheel),
        waits: false,
        since: 0,
    });
    poll_fn(|cx| {
        loop {
            if Pin::new(&mut conn).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match asked.as_mut().map(|asked| asked.poll(cx, &pulse)) {
                // The ping goes out with the next poll.
                Some(Ask::Sent) => {}
                Some(Ask::Dead) => return Poll::Ready(()),
                Some(Ask::Waits) | None => return Poll::Pending,
            }
        }
    })
    .await;
    pulse.ended.set(true);
}

/// Whether a connection lives.
struct Asked {
    pings: PingPong,
    pong_by: Deadline,
    waits: bool,
    /// The tick of the last ping.
    since: u64,
}

enum Ask {
    Waits,
    Sent,
    Dead,
}

impl Asked {
    fn poll(&mut self, cx: &mut Context<'_>, pulse: &Pulse) -> Ask {
        if self.waits {
            if self.pings.poll_pong(cx).is_ready() {
                self.waits = false;
                self.pong_by.clear();
            } else if self.pong_by.poll(cx).is_ready() {
                return Ask::Dead;
            }
            return Ask::Waits;
        }
        let now = pulse.wheel.now();
        let lately = self.since > 0 && now.saturating_sub(self.since) < ticks(SILENCE);
        if !pulse.doubted.take() || lately || self.pings.send_ping(Ping::opaque()).is_err() {
            return Ask::Waits;
        }
        self.since = now.max(1);
        self.waits = true;
        self.pong_by.set(PONG);
        // Both must know whom to wake.
        match self.pings.poll_pong(cx).is_pending() && self.pong_by.poll(cx).is_pending() {
            true => Ask::Sent,
            false => Ask::Dead,
        }
    }
}

fn ticks(duration: Duration) -> u64 {
    (duration.as_nanos() / TICK.as_nanos()) as u64
}
