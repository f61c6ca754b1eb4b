//! One HTTP/1.1 connection to a backend, driven by whoever waits for its answer.
//!
//! Idle, nobody drives it: the close of a connection at rest is seen when it is taken up again.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use hyper::client::conn::http1;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Incoming;
use super::io::{Count, Counted, HyperIo};
use super::upload::{Source, Upload};
use crate::outcome::{Cause, Sent};
use crate::pool::BackendState;

/// A connection that carries one request at a time.
pub struct BackendConn {
    sender: http1::SendRequest<Upload>,
    /// Boxed once a connection: it is large, and `BackendConn` is moved many times a request.
    conn: Box<http1::Connection<HyperIo<TcpStream, Meter>, Upload>>,
    ended: bool,
    /// Not to be used again, whatever it looks like.
    spoiled: bool,
    look: Rc<Cell<bool>>,
}

/// A request that got no answer, and how much of it the backend may have seen.
#[derive(Debug)]
pub struct SendError {
    pub cause: Cause,
    pub sent: Sent,
}

/// Counts for the backend's metrics while the connection is open.
struct Meter {
    backend: Arc<BackendState>,
    worker: usize,
    /// Look at the socket itself before the next read, whatever the runtime believes of it.
    look: Rc<Cell<bool>>,
}

impl Count<TcpStream> for Meter {
    fn received(&self, bytes: usize) {
        self.backend.cells.of(self.worker).received_bytes.add(bytes as u64);
    }

    fn sent(&self, bytes: usize) {
        self.backend.cells.of(self.worker).sent_bytes.add(bytes as u64);
    }

    /// A backend that answers early and closes resets what we go on sending. What it said before is
    /// still there to be read, and the read side will tell the end.
    fn write_failed(&self, error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    }

    fn before_read(&self, stream: &TcpStream) -> io::Result<()> {
        if !self.look.replace(false) {
            return Ok(());
        }
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match SockRef::from(stream).peek(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
            // End of stream, or bytes that nobody asked for.
            Ok(_) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.backend.cells.of(self.worker).open.dec();
    }
}

impl BackendConn {
    /// Takes over a fresh connection to `backend`, on behalf of worker number `worker`.
    pub async fn new(
        stream: TcpStream,
        backend: &Arc<BackendState>,
        worker: usize,
    ) -> Result<BackendConn, Cause> {
        let look = Rc::new(Cell::new(false));
        backend.cells.of(worker).connects.inc();
        backend.cells.of(worker).open.inc();
        let meter = Meter { backend: backend.clone(), worker, look: look.clone() };
        let (sender, conn) = http1::Builder::new()
            .handshake(Counted::new(stream, meter, Bytes::new()))
            .await
            .map_err(|_| Cause::Reset)?;
        let conn = Box::new(conn);
        Ok(BackendConn { sender, conn, ended: false, spoiled: false, look })
    }

    /// Whether it can carry a request now. Moves it on, without asking to be woken.
    pub fn is_ready(&mut self) -> bool {
        let _ = self.drive(&mut Context::from_waker(Waker::noop()));
        !self.ended && !self.spoiled && self.sender.is_ready()
    }

    /// Its framing is in doubt: after this exchange it is closed.
    pub fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Like `is_ready`, but asks the kernel whether the backend has closed it.
    pub fn is_live(&mut self) -> bool {
        self.look.set(true);
        self.is_ready()
    }

    /// Moves the connection on: writes what there is to write, reads what there is to read.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            // Its error, if it has one, comes out of the request or the body in progress as well.
            self.ended = self.conn.poll_without_shutdown(cx).is_ready();
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends a request; done when the head of the answer is here. `source` is its body's.
    pub async fn send(
        &mut self,
        request: Request<Upload>,
        source: &Source,
    ) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let result = poll_fn(|cx| {
            if !self.ended {
                self.ended = self.conn.poll_without_shutdown(cx).is_ready();
            }
            answer.as_mut().poll(cx)
        })
        .await;
        result.map_err(|mut error| match error.take_message() {
            Some(_) => SendError { cause: Cause::Reset, sent: Sent::Nothing },
            None => SendError {
                cause: source.failed().unwrap_or_else(|| cause(error.error())),
                sent: source.sent(),
            },
        })
    }

    /// After an answer of 101: the socket, and what was read beyond the head.
    pub fn into_socket(self) -> (TcpStream, Bytes) {
        let parts = self.conn.into_parts();
        (parts.io.into_inner().into_stream(), parts.read_buf)
    }
}

fn cause(error: &hyper::Error) -> Cause {
    if error.is_parse() { Cause::Garbage } else { Cause::Reset }
}

impl fmt::Debug for BackendConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendConn").field("ended", &self.ended).finish_non_exhaustive()
    }
}
