//! An accept loop on one socket. It does no slow work: what it accepts is handed on at once.
//!
//! It waits at the connection limit, backs off when file descriptors run out, and takes what the
//! kernel has queued before it lets a socket go. Who serves a connection is not its business.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Accepted, Bound, ClientAddr, Gate, Permit};
use crate::lifecycle::status::Status;
use crate::sys::socket;

/// One worker in so many accepts, and gives to the others. A new connection wakes every worker that
/// waits for one, so fewer is cheaper; but to take a connection and hand it over costs some 5 µs,
/// a tenth or twentieth of what serving it does, so one must not feed too many.
pub const ONE_ACCEPTS_FOR: usize = 4;

/// A listening socket, registered with the current runtime.
#[derive(Debug)]
pub struct Acceptor {
    socket: AsyncFd<OwnedFd>,
    /// How many are queued at least; when the runtime says that there is something: one.
    left: Cell<Option<u32>>,
}

impl Acceptor {
    pub fn new(bound: Bound) -> io::Result<Acceptor> {
        Ok(Acceptor { socket: socket::readable(bound.into())?, left: Cell::new(None) })
    }

    /// Accepts one, or says `WouldBlock` when none is left. Where it can it asks how many there are
    /// before it tries: the kernel makes a socket first and looks then, so a try in vain costs it
    /// eight times the question.
    fn next(&self, listening: &OwnedFd) -> io::Result<(Accepted, ClientAddr)> {
        let left = match self.left.get() {
            None => 1,
            Some(0) => socket::queued(listening).unwrap_or(1),
            Some(left) => left,
        };
        let result = match left {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => accept(listening),
        };
        let none = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.left.set(match result.as_ref().is_err_and(none) {
            true => None,
            false => Some(left - 1),
        });
        result
    }

    /// Accepts until `stop` is done. Then closes the socket, drops what `stop` gave, and goes on
    /// until all that were queued are served.
    pub async fn run<T>(
        self,
        gate: &Arc<Gate>,
        status: &Status,
        limit: impl Fn() -> usize,
        stop: impl Future<Output = T>,
        mut take: impl FnMut(Accepted, ClientAddr, Permit),
    ) {
        let mut stop = std::pin::pin!(stop);
        let mut backoff = Backoff::default();
        let mut queued = Queued { status, sockets: VecDeque::new() };
        let stopped = loop {
            let accepted = tokio::select! {
                biased;
                stopped = &mut stop => break stopped,
                accepted = self.socket.async_io(Interest::READABLE, |fd| self.next(fd)) => accepted,
            };
            match accepted {
                Ok((socket, addr)) => {
                    backoff = Backoff::default();
                    let permit = tokio::select! {
                        biased;
                        permit = gate.enter(&limit) => permit,
                        stopped = &mut stop => {
                            queued.sockets.push_back((socket, addr));
                            break stopped;
                        }
                    };
                    take(socket, addr, permit);
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    status.limits.open_files.fetch_add(1, Ordering::Relaxed);
                    let wait = backoff.next();
                    tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept; waiting");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        stopped = &mut stop => break stopped,
                    }
                }
            }
        };
        // An end without loss: no new handshake begins, those under way may finish, and then the
        // queue is empty for good. Where the kernel refuses that, only the last instant is at risk.
        let _ = socket::turn_away(self.socket.get_ref());
        queued.fill(self.socket.get_ref());
        let handshakes = tokio::time::sleep(HANDSHAKES);
        let admitted = queued.admit(gate, &limit, &mut take);
        let ((), _) = tokio::join!(handshakes, tokio::time::timeout(HANDSHAKES, admitted));
        let socket = self.socket.into_inner();
        queued.fill(&socket);
        drop(socket);
        drop(stopped);
        queued.admit(gate, &limit, &mut take).await;
    }
}

/// How long a client may take to answer our part of the handshake when a socket goes.
const HANDSHAKES: Duration = Duration::from_millis(250);

/// More than this many queued connections are not taken at the end: new ones may come without end.
const QUEUED: usize = 4096;

/// Clients whose connection the kernel completed before the socket went. They wait for their turn
/// where the connection limit is reached; those that do not get it any more are cut.
struct Queued<'a> {
    sockets: VecDeque<(Accepted, ClientAddr)>,
    status: &'a Status,
}

impl Queued<'_> {
    /// Asks the kernel itself: the runtime may not have heard yet of what came last.
    fn fill(&mut self, listening: &OwnedFd) {
        while self.sockets.len() < QUEUED {
            match accept(listening) {
                Ok(accepted) => self.sockets.push_back(accepted),
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Serves them, each as soon as the connection limit allows. Loses none if it is dropped.
    async fn admit(
        &mut self,
        gate: &Arc<Gate>,
        limit: impl Fn() -> usize,
        mut take: impl FnMut(Accepted, ClientAddr, Permit),
    ) {
        while !self.sockets.is_empty() {
            let permit = gate.enter(&limit).await;
            if let Some((socket, addr)) = self.sockets.pop_front() {
                take(socket, addr, permit);
            }
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.status.cut.fetch_add(self.sockets.len() as u64, Ordering::Relaxed);
    }
}

fn accept(listening: &OwnedFd) -> io::Result<(Accepted, ClientAddr)> {
    let (socket, addr) = socket::accept(listening)?;
    Ok(match addr {
        Some(addr) => (Accepted::Tcp(socket.into()), ClientAddr::Ip(addr)),
        None => (Accepted::Unix(socket.into()), ClientAddr::Unix),
    })
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
