//! A connection of an operator or a scraper: bytes for hyper, and the deadlines that bound it.
//!
//! Hyper's own header time-out counts idle time as well, so the deadlines are kept here: a
//! request's head has five seconds from its first byte, an answer and an idle connection sixty.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// From the first byte of a request to the end of its head.
pub(super) const HEAD: Duration = Duration::from_secs(5);
/// For a whole answer to be taken, and for the next request to begin.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// What a connection waits for, and until when.
#[derive(Clone, Debug)]
pub(super) struct Clock(watch::Sender<(Stage, Instant)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Head,
    Answer,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock(watch::Sender::new((Stage::Idle, Instant::now() + IDLE)))
    }

    fn go(&self, from: Stage, to: Stage, time: Duration) {
        self.0.send_if_modified(|now| {
            let moved = now.0 == from;
            if moved {
                *now = (to, Instant::now() + time);
            }
            moved
        });
    }

    /// A request's head is complete.
    pub(super) fn head_read(&self) {
        // A pipelined head needs no further byte, so that the stage may still be the last one.
        self.0.send_replace((Stage::Answer, Instant::now() + IDLE));
    }

    /// Comes back when the deadline of the moment has passed.
    pub(super) async fn expired(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let (_, deadline) = *changes.borrow_and_update();
            tokio::select! {
                () = sleep_until(deadline) => return,
                // `self` holds the sender, so this is always a change and never its end.
                _ = changes.changed() => {}
            }
        }
    }
}

/// A stream that tells the clock what it sees.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    clock: Clock,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, clock: Clock) -> Wire<S> {
        Wire { stream, clock }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.clock.go(Stage::Idle, Stage::Head, HEAD);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// Hyper flushes when it has written all it had: the answer, or a part of it, is out.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.clock.go(Stage::Answer, Stage::Idle, IDLE);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
