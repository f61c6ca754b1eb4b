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

    /// Somebody had room on it and asked nothing: it has rested all the while.
    pub fn leave_unused(&self) {
        self.streams.set(self.streams.get() - 1);
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
        // A tunnel may be silent for minutes, and its connection be long dead.
        let heard = |conn: &SharedConn| !(careful && conn.pulse.is_silent(SILENCE));
        let good = |conn: &&Rc<SharedConn>| {
            let rested = conn.has_rested(now, most(conn));
            conn.has_room() && conn.suits(tls) && !rested && heard(conn)
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
        self.0.borrow_mut().retain(|_, OfBackend { conns, connecting, made, .. }| {
            conns.retain(|conn| conn.is_open() && !conn.has_rested(now, conn.keep));
            // Who waited for one that has failed, and has not had his turn yet, is to hear of it.
            *connecting || !conns.is_empty() || Rc::strong_count(made) > 1
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::config::model::Name;
    use crate::forward::http::head::Heads;
    use crate::pool::{BackendAddr, BackendState};

    /// RFC 9113 3.4: a server's first frame, and its word that it has seen ours.
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
    const PING: u8 = 6;

    /// A connection that may rest for a minute, and the backend's end of it.
    async fn begun(wheel: &Rc<Wheel>) -> (Rc<SharedConn>, DuplexStream) {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(SETTINGS).await.unwrap();
        let addr = BackendAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let backend = BackendState::new(Name::new("web").unwrap(), addr, 1);
        let meter = Meter::new(&Arc::new(backend), 0);
        let conn = begin(near, meter, wheel, Duration::from_secs(60), None).await.unwrap();
        (conn, far)
    }

    /// Everything that has come, frame by frame, once nothing more comes: kind and payload.
    async fn heard(far: &mut DuplexStream) -> Vec<(u8, Vec<u8>)> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        let brief = Duration::from_millis(1);
        while let Ok(Ok(n @ 1..)) = tokio::time::timeout(brief, far.read(&mut piece)).await {
            bytes.extend_from_slice(&piece[..n]);
        }
        let mut rest = bytes.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_or(&bytes);
        let mut frames = Vec::new();
        while let [_, high, low, kind, _, _, _, _, _, behind @ ..] = rest {
            let (payload, next) = behind.split_at(usize::from(*high) << 8 | usize::from(*low));
            frames.push((*kind, payload.to_vec()));
            rest = next;
        }
        frames
    }

    async fn pings(far: &mut DuplexStream) -> Vec<Vec<u8>> {
        let all = heard(far).await.into_iter();
        all.filter(|(kind, _)| *kind == PING).map(|(_, payload)| payload).collect()
    }

    async fn ask(mut stream: Box<Stream>) -> Box<Stream> {
        stream.set_request(Request::new(()), true);
        poll_fn(|cx| stream.poll_begin(cx)).await.unwrap();
        stream
    }

    async fn run(all: impl Future<Output = ()>) {
        let set = LocalSet::new();
        let all = tokio::time::timeout(Duration::from_secs(60), set.run_until(all));
        all.await.expect("it comes to its end");
    }

    fn after(wheel: &Wheel, time: Duration) {
        wheel.advance(wheel.now() + ticks(time));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_one_connection_hear_together_that_it_failed() {
        let of = SharedConns::default();
        let wait = || {
            let of = of.clone();
            spawn_local(async move { of.made(7).await })
        };
        let all = async {
            let making = of.make(7).unwrap();
            assert!(of.make(7).is_none() && of.make(8).is_some(), "one, of each backend");
            let waiting: Vec<_> = (0..5).map(|_| wait()).collect();
            yield_now().await;
            making.failed(Cause::Connect);
            // The worker's clock may strike before they have had their turn.
            of.sweep(0);
            for one in waiting {
                assert_eq!(one.await.unwrap(), Some(Cause::Connect));
            }
            // It tells nothing of the next one; and who gives up before it is there, nothing of the backend.
            let making = of.make(7).unwrap();
            let waiting = [wait(), wait()];
            yield_now().await;
            drop(making);
            for one in waiting {
                assert_eq!(one.await.unwrap(), None);
            }
            assert!(of.make(7).is_some());
            of.sweep(0);
            assert!(of.0.borrow().is_empty(), "nobody waits");
        };
        run(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_silent_is_asked_and_its_connection_given_up() {
        let all = async {
            let (of, wheel) = (SharedConns::default(), Wheel::new());
            let (conn, mut far) = begun(&wheel).await;
            let mut first = ask(of.make(7).unwrap().done(conn)).await;
            assert_eq!(pings(&mut far).await.len(), 0);
            // Mere time is no reason, and neither is a request before it is long enough.
            after(&wheel, SILENCE - TICK);
            let take = || of.take(7, wheel.now(), false, None);
            let _second = ask(take().unwrap()).await;
            assert_eq!(pings(&mut far).await.len(), 0);
            after(&wheel, TICK);
            assert_eq!(pings(&mut far).await.len(), 0);
            let _third = ask(take().unwrap()).await;
            assert_eq!(pings(&mut far).await.len(), 1);
            after(&wheel, PONG - TICK);
            assert_eq!(heard(&mut far).await.len(), 0);
            assert!(take().is_some(), "it may still answer");
            after(&wheel, 2 * TICK);
            let heads = Heads::default();
            let failed = poll_fn(|cx| first.poll_head(cx, false, &heads)).await.unwrap_err();
            // The same as if it had been reset: what is safe is asked for elsewhere.
            assert!(failed == Cause::Reset && first.was_lost() && !first.is_unprocessed());
            assert!(take().is_none() && of.make(7).is_some(), "others make a fresh one");
        };
        run(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_answers_a_ping_keeps_its_connection() {
        let all = async {
            let (of, wheel) = (SharedConns::default(), Wheel::new());
            let (conn, mut far) = begun(&wheel).await;
            let first = ask(of.make(7).unwrap().done(conn)).await;
            // It was answered by nobody: who gives up after so long asks.
            after(&wheel, FRESH - TICK);
            let take = || of.take(7, wheel.now(), false, None);
            drop(ask(take().unwrap()).await);
            assert_eq!(pings(&mut far).await.len(), 0, "too soon to tell");
            after(&wheel, TICK);
            drop(first);
            let asked = pings(&mut far).await;
            assert_eq!(asked.len(), 1);
            let pong = [&[0, 0, 8, PING, 1, 0, 0, 0, 0], &asked[0][..]].concat();
            far.write_all(&pong).await.unwrap();
            heard(&mut far).await;
            after(&wheel, 2 * PONG - TICK);
            assert!(take().is_some());
            // Nor is it asked all the time.
            drop(ask(take().unwrap()).await);
            assert_eq!(pings(&mut far).await.len(), 0);
        };
        run(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_not_be_sent_twice_goes_over_no_connection_that_has_rested() {
        let all = async {
            let (of, wheel) = (SharedConns::default(), Wheel::new());
            let (conn, mut far) = begun(&wheel).await;
            let first = ask(of.make(7).unwrap().done(conn)).await;
            after(&wheel, 2 * FRESH);
            let take = |careful| of.take(7, wheel.now(), careful, None);
            assert!(take(true).is_some(), "it is in use");
            drop(first);
            heard(&mut far).await;
            after(&wheel, FRESH - TICK);
            assert!(take(true).is_some());
            after(&wheel, FRESH);
            assert!(take(true).is_none() && take(false).is_some());
            after(&wheel, Duration::from_secs(60));
            assert!(take(false).is_none(), "it has had its time");
        };
        run(all).await;
    }
}
