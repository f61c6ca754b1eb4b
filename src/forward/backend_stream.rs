//! A connection to a backend, in clear or over TLS, as one type for the rest of the data path.
//!
//! Moves bytes and tells whether anything has come; the handshake is `flow::dial`'s to bound and to
//! judge. What TLS was given to write may rest with it until it is flushed.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::listen::{Plain, Socket};

#[derive(Debug)]
pub enum BackendStream {
    Tcp(TcpStream),
    Tls(Box<Tls>),
}

/// What the handshake says of the protocol within (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What the pool speaks.
    Protocol,
    /// HTTP/1.1, whatever the pool speaks.
    Http1,
    /// HTTP/2 likewise.
    Http2,
    /// Nothing: what goes by is the client's matter.
    Nothing,
}

/// A stream over TLS. Dropped, it tells the backend that this was all (RFC 8446 6.1).
#[derive(Debug)]
pub struct Tls {
    stream: TlsStream<TcpStream>,
    /// What it was made by: after a reload another may be asked for.
    config: Arc<ClientConfig>,
    /// What was sent is not whole, and is not to look so.
    broken: bool,
}

impl BackendStream {
    /// Shakes hands with the backend that `name` says this is. Whoever calls bounds it in time.
    pub async fn handshake(
        stream: TcpStream,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        offer: Offer,
    ) -> io::Result<BackendStream> {
        let connector = TlsConnector::from(config.clone());
        let stream = match offer {
            Offer::Protocol => connector.connect(name, stream).await?,
            Offer::Http1 => {
                let offered = vec![b"http/1.1".to_vec()];
                connector.with_alpn(offered).connect(name, stream).await?
            }
            Offer::Http2 => connector.with_alpn(vec![b"h2".to_vec()]).connect(name, stream).await?,
            Offer::Nothing => connector.with_alpn(Vec::new()).connect(name, stream).await?,
        };
        let (config, broken) = (config.clone(), false);
        Ok(BackendStream::Tls(Box::new(Tls { stream, config, broken })))
    }

    /// Whether it is what these settings would make.
    pub fn suits(&self, tls: Option<&Arc<ClientConfig>>) -> bool {
        match (self, tls) {
            (BackendStream::Tcp(_), None) => true,
            (BackendStream::Tls(own), Some(wanted)) => Arc::ptr_eq(&own.config, wanted),
            (BackendStream::Tcp(_), Some(_)) | (BackendStream::Tls(_), None) => false,
        }
    }

    /// The protocol that TLS has settled, if it was asked to.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            BackendStream::Tcp(_) => None,
            BackendStream::Tls(tls) => tls.stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The socket below, whatever is spoken on it.
    pub fn socket(&self) -> &TcpStream {
        match self {
            BackendStream::Tcp(stream) => stream,
            BackendStream::Tls(tls) => tls.stream.get_ref().0,
        }
    }

    /// When it is dropped the backend gets a reset instead of an orderly end.
    pub fn reset_on_close(&mut self) {
        // A socket that is already broken needs no reset.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
        if let BackendStream::Tls(tls) = self {
            tls.broken = true;
        }
    }

    /// Whether nothing has come, not even an end, as far as the runtime has heard. What TLS says on its
    /// own account (session tickets) is taken in on the way and is nothing.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            BackendStream::Tcp(stream) => {
                // A task that has used up its turn is told that nothing has come, whatever has.
                if !tokio::task::coop::has_budget_remaining() {
                    return is_quiet_now(stream);
                }
                let mut byte = [0];
                let mut byte = ReadBuf::new(&mut byte);
                let mut nobody = Context::from_waker(std::task::Waker::noop());
                stream.poll_peek(&mut nobody, &mut byte).is_pending()
            }
            BackendStream::Tls(tls) => tls.is_quiet(|socket, to| socket.try_read(to)),
        }
    }

    /// Like `is_quiet`, but asks the kernel itself: the runtime may not have heard yet.
    pub fn is_quiet_now(&mut self) -> bool {
        match self {
            BackendStream::Tcp(stream) => is_quiet_now(stream),
            BackendStream::Tls(tls) => {
                tls.is_quiet(|socket, to| (&*SockRef::from(socket)).read(to))
            }
        }
    }
}

fn is_quiet_now(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let peeked = SockRef::from(stream).peek(&mut byte);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Tls {
    /// Takes in what `read` brings, until that is nothing (good), or something that is the reader's.
    fn is_quiet(&mut self, read: impl Fn(&TcpStream, &mut [u8]) -> io::Result<usize>) -> bool {
        let (socket, session) = self.stream.get_mut();
        let mut records = Records { socket, read };
        loop {
            let Ok(state) = session.process_new_packets() else { return false };
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                return false;
            }
            match session.read_tls(&mut records) {
                Ok(1..) => {}
                Ok(0) => return false,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        let (socket, session) = self.stream.get_mut();
        session.send_close_notify();
        // A courtesy: what the socket does not take at once is not waited for.
        let _ = session.write_tls(&mut Alerts(socket));
    }
}

/// The socket below TLS as `std` reads.
struct Records<'a, R> {
    socket: &'a TcpStream,
    read: R,
}

impl<R: Fn(&TcpStream, &mut [u8]) -> io::Result<usize>> Read for Records<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        (self.read)(self.socket, to)
    }
}

/// The socket below TLS as `std` writes.
struct Alerts<'a>(&'a TcpStream);

impl io::Write for Alerts<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for BackendStream {
    fn plain(&self) -> Option<Plain<'_>> {
        match self {
            BackendStream::Tcp(stream) => stream.plain(),
            BackendStream::Tls(_) => None,
        }
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            BackendStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            BackendStream::Tls(tls) => Pin::new(&mut tls.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            BackendStream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            BackendStream::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, buf),
        }
    }

    /// Ready when the kernel has all of what was written.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            BackendStream::Tcp(_) => Poll::Ready(Ok(())), // sockets have nothing to flush
            BackendStream::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    /// Over TLS: close_notify, then the socket's end; what the backend still says can be read.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            BackendStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            BackendStream::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            BackendStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            BackendStream::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
