//! A client's connection, over TCP or a UNIX socket, as one type for the rest of the data path.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::pass_on::pass_on;
use crate::sys::socket;

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    Ip(SocketAddr),
    /// A UNIX socket: some process on this machine.
    Unix,
}

impl ClientAddr {
    /// IPv4 in IPv6 clothes (::ffff:192.0.2.1) comes out as IPv4.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            ClientAddr::Ip(addr) => Some(addr.ip().to_canonical()),
            ClientAddr::Unix => None,
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddr::Ip(addr) => addr.fmt(f),
            ClientAddr::Unix => f.write_str("unix"),
        }
    }
}

/// A client's connection that no runtime knows of yet: it may go to any worker.
#[derive(Debug)]
pub enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// From now on the current runtime's.
    pub fn register(self) -> io::Result<ClientStream> {
        Ok(match self {
            Accepted::Tcp(stream) => ClientStream::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => ClientStream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

#[derive(Debug)]
pub enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Over one of the others.
    Tls(Box<TlsStream<ClientStream>>),
}

impl ClientStream {
    /// The TCP connection that it goes over.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            ClientStream::Tcp(stream) => Some(stream),
            ClientStream::Unix(_) => None,
            ClientStream::Tls(stream) => stream.get_ref().0.tcp(),
        }
    }

    /// What was written may still lie here, and its end has to be told (RFC 8446 6.1).
    pub fn is_tls(&self) -> bool {
        matches!(self, ClientStream::Tls(_))
    }
}

/// A stream of bytes that may be a socket and nothing else.
pub trait Socket {
    /// The socket whose bytes are the stream's as they are; `None` if they are not (TLS).
    fn plain(&self) -> Option<Plain<'_>>;

    /// When it is dropped the other side gets a reset instead of an orderly end.
    fn reset_on_close(&mut self);

    /// When it is dropped the other side learns that it has not got all: in clear by a reset, over TLS
    /// by an end without close_notify (RFC 8446 6.1), before which it gets all that was written.
    fn break_off(&mut self) {
        self.reset_on_close();
    }

    /// The other side has all that was written and flushed. `None` where that cannot be seen: to break such
    /// a stream off would lose what came before, so it is ended in order instead: a reset of HTTP/2's takes
    /// along what still waits to be sent.
    fn is_delivered(&self) -> Option<bool> {
        None
    }
}

impl Socket for ClientStream {
    fn reset_on_close(&mut self) {
        if let Some(stream) = self.tcp() {
            socket::reset_on_close(stream);
        }
    }

    /// A UNIX socket knows no reset.
    fn break_off(&mut self) {
        match self {
            // It says close_notify only when it is shut down.
            ClientStream::Tls(_) => {}
            ClientStream::Tcp(_) | ClientStream::Unix(_) => self.reset_on_close(),
        }
    }

    fn is_delivered(&self) -> Option<bool> {
        Some(self.tcp().is_none_or(socket::is_delivered))
    }

    fn plain(&self) -> Option<Plain<'_>> {
        match self {
            ClientStream::Tcp(stream) => Some(Plain::Tcp(stream)),
            ClientStream::Unix(stream) => Some(Plain::Unix(stream)),
            ClientStream::Tls(_) => None,
        }
    }
}

impl Socket for TcpStream {
    fn reset_on_close(&mut self) {
        socket::reset_on_close(self);
    }

    fn is_delivered(&self) -> Option<bool> {
        Some(socket::is_delivered(self))
    }

    fn plain(&self) -> Option<Plain<'_>> {
        Some(Plain::Tcp(self))
    }
}

/// A socket for who calls the kernel himself, with the runtime's word on its readiness.
#[derive(Clone, Copy, Debug)]
pub enum Plain<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

impl Plain<'_> {
    pub fn poll_read_ready(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Plain::Tcp(stream) => stream.poll_read_ready(cx),
            Plain::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub fn poll_write_ready(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Plain::Tcp(stream) => stream.poll_write_ready(cx),
            Plain::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Calls `work`; what it was ready for it is no longer if that gives `WouldBlock`.
    pub fn try_io<T>(
        self,
        interest: Interest,
        work: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Plain::Tcp(stream) => stream.try_io(interest, || work(stream.as_fd())),
            Plain::Unix(stream) => stream.try_io(interest, || work(stream.as_fd())),
        }
    }
}

pass_on!(ClientStream { Tcp(stream) => stream, Unix(stream) => stream, Tls(stream) => stream });
