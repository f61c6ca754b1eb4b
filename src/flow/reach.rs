//! A backend for a TCP stream: pick, connect, and on to the next when one cannot be reached.
//!
//! A backend that cannot be reached costs the client nothing: not a byte of it has been read. Every
//! serving one is tried once; where all have failed and `retry.attempts` has more, they are gone round
//! again after a pause. All that is bounded by three times `connect`, beside the time in the queue and that
//! of one TLS handshake.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::ReadBuf;

use super::client::Client;
use super::dial::dial;
use super::engaged::Entered;
use super::judge;
use super::retry::Retries;
use super::wait::Wait;
use crate::config::model::{self, ProbeKind, Timeouts};
use crate::forward::backend_stream::{BackendStream, Offer};
use crate::forward::connect::keep_alive;
use crate::forward::http::exchange::Clocks;
use crate::listen::ClientStream;
use crate::outcome::Cause;
use crate::pool::balance::hash::hash_ip;
use crate::pool::pick::{Ask, NoPick};
use crate::pool::{Lease, Picker};
use crate::timer::Deadline;

/// A connection to a backend of the pool, for the client of `stream`; the first it is told is `opening`.
pub async fn reach(
    client: &Client,
    picker: &Rc<Picker>,
    stream: &ClientStream,
    opening: Option<&[u8]>,
    timeouts: &Timeouts,
) -> Result<(Lease, Entered, BackendStream), Cause> {
    let worker = &client.worker;
    let pool = picker.pool();
    let cells = pool.state.cells.of(worker.id);
    let overall = Deadline::new(&worker.wheel);
    let queued = pool.config.queue.as_ref().map_or(Duration::ZERO, |queue| queue.timeout);
    let shaking = pool.config.tls.as_ref().map_or(Duration::ZERO, |_| timeouts.tls_handshake);
    overall.set(timeouts.connect * 3 + shaking + queued);
    let clocks = Clocks { step: client.session.deadline.clone(), overall: Some(overall) };
    let key = pool.hash_by().map(|_| client.addr.ip().map_or(0, hash_ip));
    let mut retries = Retries::new(true);
    let mut seen = false;
    for attempts in 0.. {
        let began = Instant::now();
        let now_nanos = worker.nanos(began);
        let ask = Ask { key, draw: fastrand::u64(..), now_nanos, safe: true };
        let lease = match picker.pick_in_turn(ask, &retries.tried) {
            Ok(lease) => lease,
            Err(NoPick::AllTried) if attempts >= pool.config.retry.attempts => break,
            Err(why) => {
                let wait = Wait { worker, picker, ask, clocks: &clocks, priority: 0 };
                let gone = |cx: &mut Context<'_>| poll_gone(cx, stream, &mut seen);
                wait.lease(&mut retries, why, gone).await?
            }
        };
        if let Some(cause) = retries.failed {
            cells.retries[cause.index()].inc();
        }
        let backend = lease.backend();
        let entered = worker.engaged.enter(backend.id, &clocks.step);
        let opening = (opening, offer(&pool.config));
        let cause = match dial(worker, &lease, &clocks, timeouts, opening).await {
            Ok(stream) => {
                keep_alive(stream.socket());
                backend.cells.of(worker.id).connects.inc();
                lease.observe_latency(began.elapsed().as_nanos() as u64, now_nanos);
                return Ok((lease, entered, stream));
            }
            Err(Cause::Shortage) => return Err(Cause::Shortage),
            Err(cause) => cause,
        };
        if cause != Cause::Released {
            judge::failed(worker, &lease, cause);
        }
        retries.leave(&lease);
        retries.failed = Some(cause);
        if clocks.is_over() || !pool.config.retry.on.connect || pool.config.retry.attempts == 1 {
            break;
        }
    }
    Err(retries.failed.unwrap_or(Cause::ConnectTimeout))
}

/// What the streams of a pool speak is known where its probes speak it.
fn offer(pool: &model::Pool) -> Offer {
    match pool.health_check.as_ref().map(|check| &check.kind) {
        Some(ProbeKind::Postgres(_)) => Offer::Postgres,
        _ => Offer::Nothing,
    }
}

/// Ready when the client has reset its connection. `seen`: it has sent something, behind which nothing
/// can be seen.
fn poll_gone(cx: &mut Context<'_>, stream: &ClientStream, seen: &mut bool) -> Poll<()> {
    let ClientStream::Tcp(stream) = stream else { return Poll::Pending };
    if *seen {
        return Poll::Pending;
    }
    let mut byte = [0];
    match ready!(stream.poll_peek(cx, &mut ReadBuf::new(&mut byte))) {
        Ok(_) => {
            *seen = true;
            Poll::Pending
        }
        Err(_) => Poll::Ready(()),
    }
}
