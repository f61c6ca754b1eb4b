//! A fresh connection to a backend that was picked: the socket, then TLS where the pool wants it, each
//! step under its own deadline.
//!
//! Says what it failed of; whom that speaks against, and whether another is tried, is not its matter. A
//! backend whose TLS does not work is told of in the log, once in a while.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::worker::Worker;
use crate::config::model::Timeouts;
use crate::forward::backend_stream::{BackendStream, Offer};
use crate::forward::connect::connect_and_say;
use crate::forward::http::exchange::Clocks;
use crate::outcome::Cause;
use crate::pool::{Lease, MemberTls};
use crate::sys::shortage::is_shortage;
use crate::timer::Elapsed;
use crate::tls::client::{Trouble, has_no_protocol};

/// So often the log hears of the same backend.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// Of the pair, the first is what the backend is told before anything else, and then what TLS is to say of
/// the protocol.
pub async fn dial(
    worker: &Worker,
    lease: &Lease,
    clocks: &Clocks,
    timeouts: &Timeouts,
    (introduction, offer): (Option<&[u8]>, Offer),
) -> Result<BackendStream, Cause> {
    let began = Instant::now();
    let connecting = connect_and_say(lease.backend().addr, introduction);
    let connected = within(clocks, timeouts.connect, connecting).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_shortage(&error) => return Err(Cause::Shortage),
        Ok(Err(_)) => return Err(Cause::Connect),
        Err(Elapsed) if clocks.step.is_cut() => return Err(Cause::Released),
        Err(Elapsed) => return Err(Cause::ConnectTimeout),
    };
    lease.picker().pool().state.cells.of(worker.id).connect.observe(began.elapsed());
    match lease.tls() {
        None => Ok(BackendStream::Tcp(stream)),
        // In a box: a handshake is large, and few connections need one.
        Some(tls) => {
            let secured =
                secure(worker, lease, clocks, timeouts.tls_handshake, (tls, offer), stream);
            Box::pin(secured).await
        }
    }
}

async fn secure(
    worker: &Worker,
    lease: &Lease,
    clocks: &Clocks,
    most: Duration,
    (tls, offer): (&MemberTls, Offer),
    stream: TcpStream,
) -> Result<BackendStream, Cause> {
    let shaking =
        BackendStream::handshake(stream, &tls.config, tls.name.clone(), offer, &worker.buffers);
    let trouble = match within(clocks, most, shaking).await {
        Ok(Ok(stream)) => return Ok(stream),
        // Asked for a change of protocol that only HTTP/1.1 has: that is nothing against a backend without it.
        Ok(Err(error)) if offer == Offer::Http1 && has_no_protocol(&error) => {
            return Err(Cause::Unsupported);
        }
        Ok(Err(error)) => Trouble::from_io(&error),
        Err(Elapsed) if clocks.step.is_cut() => return Err(Cause::Released),
        Err(Elapsed) => Trouble::timeout(),
    };
    tell(worker, lease, &trouble);
    Err(Cause::Tls)
}

/// Why there is no secure connection, in the log.
pub fn tell(worker: &Worker, lease: &Lease, trouble: &Trouble) {
    let backend = lease.backend();
    let now_nanos = worker.nanos(Instant::now());
    if backend.may_tell(now_nanos, TOLD_EVERY) {
        tracing::warn!(
            pool = %backend.pool,
            backend = %backend.addr,
            why = %trouble,
            "no secure connection to a backend"
        );
    }
}

/// Bounds one step of it, and all by the request's own time.
pub async fn within<T>(
    clocks: &Clocks,
    most: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let work = clocks.step.within(most, work);
    match &clocks.overall {
        Some(overall) => overall.bound(work).await.unwrap_or(Err(Elapsed)),
        None => work.await,
    }
}
