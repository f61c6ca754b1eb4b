//! A stream of HTTP/2 to a backend that carries bytes both ways after an extended CONNECT (RFC 8441), as one
//! type with what TCP has: half-close (END_STREAM), and a reset (RST_STREAM).
//!
//! What was read is acknowledged when it is handed out: whoever does not take it stops the backend at one
//! window. Dropped before both sides have ended, it resets the stream.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backend::poll_room;
use super::connections::SharedConn;
use crate::forward::http::back::Deaf;
use crate::listen::{Plain, Socket};

#[derive(Debug)]
pub struct BackendTunnel {
    up: SendStream<Bytes>,
    down: RecvStream,
    /// Came, and was not handed out.
    unread: Bytes,
    /// The backend has said all that it has to say.
    ended: bool,
    /// So have we.
    shut: bool,
    conn: Rc<SharedConn>,
}

impl BackendTunnel {
    pub fn new(conn: Rc<SharedConn>, up: SendStream<Bytes>, down: RecvStream) -> BackendTunnel {
        conn.enter();
        BackendTunnel { up, down, unread: Bytes::new(), ended: false, shut: false, conn }
    }

    /// A backend that has ended its side may say that it needs nothing more of ours (RFC 9113 8.1): a
    /// socket would take that, and drop it.
    fn wants_no_more(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.up.poll_reset(cx), Poll::Ready(Ok(Reason::NO_ERROR)))
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Socket for BackendTunnel {
    fn plain(&self) -> Option<Plain<'_>> {
        None
    }

    fn reset_on_close(&mut self) {
        // What may still wait to be sent goes with it.
        self.up.send_reset(Reason::CANCEL);
    }
}

impl AsyncRead for BackendTunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() && !this.ended {
            match ready!(this.down.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(_)) => return Poll::Ready(Err(reset())),
                // Trailers would be nobody's.
                None => this.ended = true,
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread.split_to(n));
        // Never more than there is.
        let _ = this.down.flow_control().release_capacity(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BackendTunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sent = ready!(poll_room(&mut this.up, cx, buf.len())).and_then(|n| {
            let data = Bytes::copy_from_slice(&buf[..n]);
            this.up.send_data(data, false).map(|()| n).map_err(|_| Deaf)
        });
        Poll::Ready(match sent {
            Ok(n) => Ok(n),
            Err(Deaf) if this.wants_no_more(cx) => Ok(buf.len()),
            Err(Deaf) => Err(reset()),
        })
    }

    /// The connection's task sees to it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.shut = true;
        Poll::Ready(this.up.send_data(Bytes::new(), true).map_err(|_| reset()))
    }
}

impl Drop for BackendTunnel {
    fn drop(&mut self) {
        if !(self.ended && self.shut) {
            self.reset_on_close();
        }
        self.conn.leave(self.ended);
    }
}
