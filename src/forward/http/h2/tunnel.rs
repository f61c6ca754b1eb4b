//! A stream of HTTP/2 that carries bytes both ways after an extended CONNECT (RFC 8441), as one type with
//! what TCP has: half-close, and a reset that tells either side that the other's bytes are not all there.
//!
//! hyper hands the bytes over, and knows a half-close (END_STREAM); of resets it tells little. But it writes
//! in a task that it has us run: that it ends by itself is the client's reset, and that we end it is ours.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listen::{Plain, Socket};

/// What a stream and the task that writes it know of one another.
#[derive(Debug, Default)]
pub struct Tether {
    /// The stream has been reset from here.
    cut: Cell<bool>,
    /// Our side has said all that it has to say.
    shut: Cell<bool>,
    /// The task has ended.
    ended: Cell<bool>,
    writer: RefCell<Option<Waker>>,
    /// Whoever waits for the client.
    reader: RefCell<Option<Waker>>,
}

/// A stream that is to be one, once its client has been answered.
#[derive(Debug)]
pub struct Tunnel {
    pub upgrade: OnUpgrade,
    pub tether: Rc<Tether>,
}

/// The client's end of it.
pub struct TunnelStream {
    io: TokioIo<Upgraded>,
    tether: Rc<Tether>,
    /// An end was read, and may yet turn out to be a reset.
    ending: bool,
}

impl Tether {
    /// Runs hyper's task until it is done or cut off: dropped then, it resets the stream.
    pub async fn hold(self: Rc<Self>, task: impl Future<Output = ()>) {
        {
            let mut task = pin!(task);
            poll_fn(|cx| {
                if self.cut.get() {
                    return Poll::Ready(());
                }
                self.writer.replace(Some(cx.waker().clone()));
                task.as_mut().poll(cx)
            })
            .await;
        }
        self.ended.set(true);
        wake(&self.reader);
    }

    fn check(&self) -> io::Result<()> {
        match self.ended.get() && !self.shut.get() {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Tunnel {
    /// `None` if the client has gone.
    pub async fn open(self) -> Option<TunnelStream> {
        let io = TokioIo::new(self.upgrade.await.ok()?);
        Some(TunnelStream { io, tether: self.tether, ending: false })
    }
}

impl TunnelStream {
    /// When it is dropped the client gets a reset instead of an orderly end.
    fn reset(&self) {
        self.tether.cut.set(true);
        wake(&self.tether.writer);
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("tether", &self.tether).finish_non_exhaustive()
    }
}

impl Socket for TunnelStream {
    fn plain(&self) -> Option<Plain<'_>> {
        None
    }

    fn reset_on_close(&mut self) {
        self.reset();
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.tether.check()?;
        if this.ending {
            return Poll::Ready(Ok(()));
        }
        this.tether.reader.replace(Some(cx.waker().clone()));
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        // hyper takes RST_STREAM with CANCEL, as browsers leave, for an end in order. The task that writes
        // was woken together with this one, and knows better: it has its turn first.
        this.ending = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.tether.check()?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.tether.check()?;
        this.tether.reader.replace(Some(cx.waker().clone()));
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.tether.check()?;
        this.tether.shut.set(true);
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
