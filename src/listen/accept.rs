//! A worker's accept loop on one socket. It does no slow work: what it accepts is handed on at once.
//!
//! It waits at the connection limit, backs off when file descriptors run out, and takes what the
//! kernel has queued before it lets a socket go.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{Bound, ClientAddr, ClientStream, Gate, Permit};
use crate::lifecycle::status::Status;

/// A listening socket, registered with the current runtime.
#[derive(Debug)]
pub enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    pub fn new(bound: Bound) -> io::Result<Acceptor> {
        Ok(match bound {
            Bound::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(listener) => Acceptor::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<(ClientStream, ClientAddr)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                Ok((ClientStream::Tcp(stream), ClientAddr::Ip(addr)))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((ClientStream::Unix(stream), ClientAddr::Unix))
            }
        }
    }

    /// Accepts until `stop` is done, then takes what is queued and returns.
    pub async fn run(
        self,
        gate: &Arc<Gate>,
        status: &Status,
        limit: impl Fn() -> usize,
        stop: impl Future<Output = ()>,
        mut take: impl FnMut(ClientStream, ClientAddr, Permit),
    ) {
        let mut stop = std::pin::pin!(stop);
        let mut backoff = Backoff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((stream, addr)) => {
                    backoff = Backoff::default();
                    let permit = tokio::select! {
                        biased;
                        () = &mut stop => return,
                        permit = gate.enter(&limit) => permit,
                    };
                    take(stream, addr, permit);
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    status.limits.open_files.fetch_add(1, Ordering::Relaxed);
                    let wait = backoff.next();
                    tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept; waiting");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = &mut stop => break,
                    }
                }
            }
        }
        self.take_queued(gate, limit, take).await;
    }

    /// Clients whose connection the kernel completed before the socket goes are served, as far as
    /// the connection limit lets them in at once.
    async fn take_queued(
        self,
        gate: &Arc<Gate>,
        limit: impl Fn() -> usize,
        mut take: impl FnMut(ClientStream, ClientAddr, Permit),
    ) {
        let Ok(bound) = self.into_bound() else { return };
        for _ in 0..QUEUED {
            match accept_now(&bound) {
                Ok((stream, addr)) => {
                    let permit = tokio::select! {
                        biased;
                        permit = gate.enter(&limit) => permit,
                        () = std::future::ready(()) => return,
                    };
                    take(stream, addr, permit);
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    fn into_bound(self) -> io::Result<Bound> {
        Ok(match self {
            Acceptor::Tcp(listener) => Bound::Tcp(listener.into_std()?),
            Acceptor::Unix(listener) => Bound::Unix(listener.into_std()?),
        })
    }
}

/// More than this many queued connections are not taken at the end: new ones may come without end.
const QUEUED: usize = 4096;

/// Asks the kernel itself: the runtime may not have heard yet of what came last.
fn accept_now(bound: &Bound) -> io::Result<(ClientStream, ClientAddr)> {
    match bound {
        Bound::Tcp(listener) => {
            let (stream, addr) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((ClientStream::Tcp(TcpStream::from_std(stream)?), ClientAddr::Ip(addr)))
        }
        Bound::Unix(listener) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((ClientStream::Unix(UnixStream::from_std(stream)?), ClientAddr::Unix))
        }
    }
}

/// The client was gone before we came (accept(2) lists these as errors to be treated like EAGAIN).
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// 10 ms, doubled each time, up to a second.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    fn next(&mut self) -> Duration {
        let wait = Duration::from_millis(10 << self.0.min(7)).min(Duration::from_secs(1));
        self.0 += 1;
        wait
    }
}
