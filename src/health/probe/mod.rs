//! One probe: one attempt on a fresh connection, bounded in time, that yields a verdict with a reason.
//!
//! It decides nothing about states and keeps nothing between attempts. What to ask comes from the
//! configuration's `health_check`. One file per kind of probe; all of them connect and part here.

pub mod failure;
pub mod grpc;
mod h2;
pub mod http;
pub mod mysql;
pub mod postgres;
pub mod redis;
mod search;
pub mod tcp;
pub mod tls;
mod wire;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

pub use failure::Failure;

use crate::config::model::{HealthCheck, ProbeKind};
use crate::forward::backend_stream::{BackendStream, Offer};
use crate::forward::buffers::Buffers;
use crate::forward::connect::connect_and_say;
use crate::listen::proxy::{self, Header};
use crate::pool::BackendAddr;
use crate::sys::shortage::is_shortage;
use crate::tls::client::Trouble;

/// Sent as `user-agent`, so that a backend's log tells probes from clients.
pub const USER_AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " probe");

/// So much of an answer is read, and no more.
const ANSWER_BYTES: usize = 64 * 1024;

/// How long a backend may take to close its side after a good probe.
const PARTING: Duration = Duration::from_secs(1);

/// What one probe says.
#[derive(Debug)]
pub enum Verdict {
    Pass,
    /// It is well, but in another role than the check wants; this one, as a sentence for the log.
    WrongRole(&'static str),
    Fail(Failure),
    /// No socket, port or memory was left on our side. Says nothing of the backend: running out of
    /// file descriptors must not take every backend out of service.
    NotMade(io::Error),
}

/// Makes probes: the network, or a script in a test.
pub trait Prober: 'static {
    /// Must end soon after `check.timeout`; dropping it ends it at once. `name`: what the backend has to
    /// prove that it is, where `check.tls` is set.
    fn probe(
        &self,
        check: &HealthCheck,
        backend: BackendAddr,
        name: Option<&ServerName<'static>>,
    ) -> impl Future<Output = Verdict> + 'static;
}

/// Probes over real sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network;

impl Prober for Network {
    fn probe(
        &self,
        check: &HealthCheck,
        backend: BackendAddr,
        name: Option<&ServerName<'static>>,
    ) -> impl Future<Output = Verdict> + 'static {
        let secure = check.tls.as_ref().zip(name);
        let secure = secure.map(|(tls, name)| (tls.config.clone(), name.clone()));
        let target = target(check, backend);
        let deadline = Instant::now() + check.timeout;
        let kind = check.kind.clone();
        // A header without ends: whoever wants one is told that nobody is behind it.
        let opening = check.introduce.map(|version| proxy::write(version, &Header::default()));
        async move {
            let connecting = connect_and_say(BackendAddr(target), opening.as_deref());
            let stream = match timeout_at(deadline, connecting).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) if is_shortage(&error) => return Verdict::NotMade(error),
                Ok(Err(error)) => return Verdict::Fail(Failure::from_connect(&error)),
                Err(_) => return Verdict::Fail(Failure::ConnectTimeout),
            };
            let over_tls = secure.is_some();
            let exchange = async {
                match &kind {
                    ProbeKind::Http(ask) => {
                        let offer = if ask.http2 { Offer::Protocol } else { Offer::Http1 };
                        let stream = secured(stream, secure, offer).await?;
                        let exchange = http::exchange(stream, target, ask, over_tls);
                        exchange.await.map(|()| Verdict::Pass)
                    }
                    ProbeKind::Tcp { send, expect } => {
                        let stream = secured(stream, secure, Offer::Nothing).await?;
                        let exchange = tcp::exchange(stream, send.as_deref(), expect.as_deref());
                        exchange.await.map(|()| Verdict::Pass)
                    }
                    ProbeKind::Grpc { service } => {
                        let stream = secured(stream, secure, Offer::Http2).await?;
                        let exchange = grpc::exchange(stream, target, service, over_tls);
                        exchange.await.map(|()| Verdict::Pass)
                    }
                    ProbeKind::Tls => {
                        let stream = secured(stream, secure, Offer::Nothing).await?;
                        tls::exchange(stream).await.map(|()| Verdict::Pass)
                    }
                    ProbeKind::Postgres(ask) => {
                        let stream = secured(stream, secure, Offer::Postgres).await?;
                        postgres::exchange(stream, ask).await
                    }
                    ProbeKind::Redis(ask) => {
                        let stream = secured(stream, secure, Offer::Nothing).await?;
                        redis::exchange(stream, ask).await
                    }
                    ProbeKind::Mysql(ask) => {
                        let stream = secured(stream, secure, Offer::Nothing).await?;
                        mysql::exchange(stream, ask).await
                    }
                }
            };
            match timeout_at(deadline, exchange).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(failure)) => Verdict::Fail(failure),
                Err(_) => Verdict::Fail(Failure::Timeout),
            }
        }
    }
}

/// Over TLS, if probes are to be. Each handshake is a whole one: it looks at the certificate.
async fn secured(
    stream: TcpStream,
    secure: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    offer: Offer,
) -> Result<BackendStream, Failure> {
    match secure {
        None => Ok(BackendStream::Tcp(stream)),
        Some((config, name)) => {
            BackendStream::handshake(stream, &config, name, offer, &Buffers::default())
                .await
                .map_err(|error| Failure::Tls(Trouble::from_io(&error)))
        }
    }
}

/// The backend, unless the check names another address or port.
fn target(check: &HealthCheck, backend: BackendAddr) -> SocketAddr {
    let BackendAddr(addr) = backend;
    SocketAddr::new(check.address.unwrap_or(addr.ip()), check.port.unwrap_or(addr.port()))
}

/// Reads on until the backend has closed, so that closing here does not reset the connection, which
/// some servers log as an error. Gives up after [`PARTING`] or [`ANSWER_BYTES`]: nothing waits for it.
///
/// Who closes first keeps the port in TIME_WAIT for a minute. HTTP backends do, as `connection: close`
/// asks them to. After a TCP probe it is us: a bare connection ends by our FIN, because a reset (the
/// way round TIME_WAIT) looks like a failure to the backend. That leaves 60 s / `interval` entries of
/// some 250 bytes a backend, each backend with ports of its own: 30 at the default, no storm.
async fn part(mut stream: impl AsyncRead + Unpin) {
    let read_on = async {
        let mut space = [0; 2048];
        let mut read = 0;
        while read < ANSWER_BYTES {
            match stream.read(&mut space).await {
                Ok(0) | Err(_) => return,
                Ok(more) => read += more,
            }
        }
    };
    // Late or not: the stream is closed at the end of this function.
    let _ = timeout(PARTING, read_on).await;
}

#[cfg(test)]
mod tests;
