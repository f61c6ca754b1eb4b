//! Reads ahead of TLS. Rustls asks for 4 KiB at a time, and a full record has 16: what a socket has is
//! taken in one call, and handed out from here.
//!
//! The buffer is lent by the worker, and only while something is in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::Buffers;

#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    buffers: Buffers,
    held: Option<Held>,
}

/// Never empty.
#[derive(Debug)]
struct Held {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<S> Ahead<S> {
    pub fn new(stream: S, buffers: &Buffers) -> Ahead<S> {
        Ahead { stream, buffers: buffers.clone(), held: None }
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Hands out what was read ahead, as much as there is room for; 0 is nothing.
    pub fn hand_out(&mut self, to: &mut [u8]) -> usize {
        let Some(held) = &mut self.held else { return 0 };
        let n = to.len().min(held.end - held.start);
        to[..n].copy_from_slice(&held.bytes[held.start..][..n]);
        held.start += n;
        if held.start == held.end
            && let Some(held) = self.held.take()
        {
            self.buffers.give_back(held.bytes);
        }
        n
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_none() {
            let mut bytes = this.buffers.borrow();
            let mut room = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut room);
            match room.filled().len() {
                0 => this.buffers.give_back(bytes),
                end => this.held = Some(Held { bytes, start: 0, end }),
            }
            ready!(read)?;
        }
        let n = this.hand_out(buf.initialize_unfilled());
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
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
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S> Drop for Ahead<S> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.buffers.give_back(held.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn every_byte_comes_once_and_no_buffer_stays() {
        let buffers = Buffers::default();
        let (mut far, near) = tokio::io::duplex(100_000);
        let mut near = Ahead::new(near, &buffers);
        let bytes: Vec<u8> = (0..90_000_u32).map(|n| (n >> 2) as u8).collect();
        far.write_all(&bytes).await.unwrap();
        let mut got = vec![0; 70_000];
        for piece in got.chunks_mut(4096) {
            near.read_exact(piece).await.unwrap();
        }
        assert!(got == bytes[..70_000]);
        let mut space = [0; 30];
        assert_eq!(near.hand_out(&mut space), 30);
        assert_eq!(space, bytes[70_000..70_030]);
        drop(far);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert!(rest == bytes[70_030..]);
        assert_eq!((near.hand_out(&mut space), buffers.at_rest()), (0, 1));
    }

    #[test]
    fn what_is_held_goes_back_with_it() {
        let buffers = Buffers::default();
        let mut near = Ahead::new(&b"some bytes"[..], &buffers);
        let mut four = [0; 4];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let read = Pin::new(&mut near).poll_read(&mut cx, &mut ReadBuf::new(&mut four));
        assert!(read.is_ready() && four == *b"some" && buffers.at_rest() == 0);
        drop(near);
        assert_eq!(buffers.at_rest(), 1);
    }
}
