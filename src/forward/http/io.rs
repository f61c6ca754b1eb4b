//! Streams as the h2 crate gets them: every byte is counted on its way. Of a client's the session hears, of
//! a backend's its meter; what was read ahead comes first.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h2::connections::Pulse;
use super::meter::Meter;
use crate::forward::session::Session;

/// Who hears of the bytes.
pub trait Tally {
    /// Something came; 0 is the end.
    fn received(&self, bytes: usize);
    fn sent(&self, bytes: usize);
}

/// A client's.
impl Tally for Rc<Session> {
    fn received(&self, bytes: usize) {
        self.count_received(bytes);
    }

    fn sent(&self, bytes: usize) {
        self.count_sent(bytes);
    }
}

/// A backend's.
impl Tally for (Meter, Rc<Pulse>) {
    fn received(&self, bytes: usize) {
        self.0.received(bytes);
        self.1.heard();
    }

    fn sent(&self, bytes: usize) {
        self.0.sent(bytes);
    }
}

#[derive(Debug)]
pub struct Counted<S, T> {
    stream: S,
    tally: T,
    /// Bytes that were read ahead, and counted then; handed out first.
    ahead: Bytes,
}

impl<S, T: Tally> Counted<S, T> {
    pub fn new(stream: S, tally: T, ahead: Bytes) -> Counted<S, T> {
        Counted { stream, tally, ahead }
    }

    fn wrote(&self, result: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(n) = &result {
            self.tally.sent(*n);
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, T: Tally + Unpin> AsyncRead for Counted<S, T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let n = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.tally.received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, T: Tally + Unpin> AsyncWrite for Counted<S, T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write(cx, buf));
        this.wrote(result)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs));
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
