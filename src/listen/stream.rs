//! A client's connection, over TCP or a UNIX socket, as one type for the rest of the data path.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

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

    /// When it is dropped nothing is said that would tell the other side that this was all.
    fn break_off(&mut self) {}
}

impl Socket for ClientStream {
    fn reset_on_close(&mut self) {
        if let Some(stream) = self.tcp() {
            reset_on_close(stream);
        }
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
        reset_on_close(self);
    }

    fn plain(&self) -> Option<Plain<'_>> {
        Some(Plain::Tcp(self))
    }
}

fn reset_on_close(stream: &TcpStream) {
    // A socket that is already broken needs no reset.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
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

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            ClientStream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            ClientStream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            // Sockets have nothing to flush.
            ClientStream::Tcp(_) | ClientStream::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
