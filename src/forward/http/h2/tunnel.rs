//! A stream of HTTP/2 that carries bytes both ways after an extended CONNECT (RFC 8441), with a client or
//! with a backend, as one type with what TCP has: half-close (END_STREAM), and a reset (RST_STREAM).
//!
//! What was read is acknowledged when it is handed out: whoever does not take it stops the other end at one
//! window. Dropped before both sides have ended, it resets the stream.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::SharedConn;
use super::wire::{Closed, poll_room};
use crate::listen::{Plain, Socket};

#[derive(Debug)]
pub struct Tunnel {
    to: SendStream<Bytes>,
    from: RecvStream,
    /// Came, and was not handed out.
    unread: Bytes,
    /// The other end has said all that it has to say.
    ended: bool,
    /// So have we.
    shut: bool,
    /// Of a backend: what the stream is one of.
    backend: Option<Rc<SharedConn>>,
}

impl Tunnel {
    pub fn with_client(to: SendStream<Bytes>, from: RecvStream) -> Tunnel {
        Tunnel::new(to, from, None)
    }

    pub fn with_backend(conn: Rc<SharedConn>, to: SendStream<Bytes>, from: RecvStream) -> Tunnel {
        conn.enter();
        Tunnel::new(to, from, Some(conn))
    }

    fn new(to: SendStream<Bytes>, from: RecvStream, backend: Option<Rc<SharedConn>>) -> Tunnel {
        Tunnel { to, from, unread: Bytes::new(), ended: false, shut: false, backend }
    }

    /// Whether the stream was reset. A backend that has ended its side may say that it needs nothing more
    /// of ours (RFC 9113 8.1): a socket would take that, and drop it.
    fn reset(&mut self, cx: &mut Context<'_>) -> Option<Reset> {
        match self.to.poll_reset(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(Reason::NO_ERROR)) if self.backend.is_some() => Some(Reset::Content),
            Poll::Ready(_) => Some(Reset::Broken),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// Nothing more is wanted.
    Content,
    Broken,
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Socket for Tunnel {
    fn plain(&self) -> Option<Plain<'_>> {
        None
    }

    fn reset_on_close(&mut self) {
        // What may still wait to be sent goes with it.
        self.to.send_reset(Reason::CANCEL);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() && !this.ended {
            match ready!(this.from.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(_)) => return Poll::Ready(Err(reset())),
                // Trailers would be nobody's.
                None => this.ended = true,
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread.split_to(n));
        // Never more than there is.
        let _ = this.from.flow_control().release_capacity(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sent = ready!(poll_room(&mut this.to, cx, buf.len())).and_then(|n| {
            let data = Bytes::copy_from_slice(&buf[..n]);
            this.to.send_data(data, false).map(|()| n).map_err(|_| Closed)
        });
        Poll::Ready(match sent {
            Ok(n) => Ok(n),
            Err(Closed) if this.reset(cx) == Some(Reset::Content) => Ok(buf.len()),
            Err(Closed) => Err(reset()),
        })
    }

    /// The connection's task sees to it. A reset by an end that has said all shows in nothing else.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match !this.shut && this.reset(cx) == Some(Reset::Broken) {
            true => Poll::Ready(Err(reset())),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.shut = true;
        Poll::Ready(this.to.send_data(Bytes::new(), true).map_err(|_| reset()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !(self.ended && self.shut) {
            self.reset_on_close();
        }
        if let Some(conn) = &self.backend {
            conn.leave(self.ended);
        }
    }
}
