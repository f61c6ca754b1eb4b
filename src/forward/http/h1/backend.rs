//! One HTTP/1.1 connection to a backend, driven by whoever waits for its answer.
//!
//! Idle, nobody drives it: the close of a connection at rest is seen when it is taken up again. It
//! carries one exchange at a time, and another only if nothing about the last one was in doubt.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConfig;
use tokio::io::AsyncWrite;

use super::body::{Body, Broken, Form};
use super::parse::{self, Limits};
use crate::forward::backend_stream::BackendStream;
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::http::bulk::Source;
use crate::forward::http::head::{Heads, ResponseHead};
use crate::forward::http::meter::Meter;
use crate::listen::{Plain, Socket};
use crate::outcome::Cause;
use crate::pool::BackendState;

#[derive(Debug)]
pub struct BackendConn {
    stream: BackendStream,
    meter: Meter,
    /// Read and not used yet.
    input: Option<Buffer>,
    /// Bytes of a head that were looked at in vain.
    tried: usize,
    body: Body,
    /// Whether another request may follow, as far as the last answer says.
    kept: bool,
    /// The client whose connection the backend takes it for, by a number; 0 is nobody's in particular.
    owner: u64,
}

impl BackendConn {
    /// Takes over a fresh connection to `backend`, on behalf of worker number `worker`. It carries the
    /// requests of client number `owner`, or of all if that is 0.
    pub fn new(
        stream: BackendStream,
        backend: &Arc<BackendState>,
        worker: usize,
        owner: u64,
    ) -> BackendConn {
        let meter = Meter::new(backend, worker);
        BackendConn { stream, meter, input: None, tried: 0, body: Body::none(), kept: true, owner }
    }

    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// Whether it may carry another request: the last exchange ended in good order, and nothing has
    /// come since, not even an end.
    pub fn is_ready(&mut self) -> bool {
        self.is_at_rest() && self.stream.is_quiet()
    }

    /// Like `is_ready`, but asks the kernel itself whether the backend has closed it: the runtime may
    /// not have heard yet.
    pub fn is_live(&mut self) -> bool {
        self.is_at_rest() && self.stream.is_quiet_now()
    }

    /// Whether it is what these settings would make.
    pub fn suits(&self, tls: Option<&Arc<ClientConfig>>) -> bool {
        self.stream.suits(tls)
    }

    /// The last exchange ended in good order.
    pub fn is_at_rest(&self) -> bool {
        self.kept && self.body.is_ended() && self.input.is_none()
    }

    /// Writes once, and uses up what was written; with nothing to write, waits until all that was is on
    /// its way.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, from: &mut Buffer) -> Poll<io::Result<()>> {
        if from.is_empty() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        let n = ready!(from.poll_drain(cx, &mut self.stream))?;
        self.meter.sent(n);
        Poll::Ready(Ok(()))
    }

    /// Waits for the next head. Interim ones (1xx) come out as well; the caller asks again.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        to_head: bool,
        heads: &Heads,
        buffers: &Buffers,
    ) -> Poll<Result<ResponseHead, Cause>> {
        loop {
            if let Some(input) = &mut self.input
                && parse::is_worth_trying(input.data(), self.tried, Limits::RESPONSE)
            {
                self.tried = input.len();
                if let Some((head, length)) = parse::response(input.data(), to_head, heads)? {
                    input.consume(length);
                    if input.is_empty() {
                        self.input = None;
                    }
                    self.tried = 0;
                    return Poll::Ready(Ok(head));
                }
            }
            let mut input = match self.input.take() {
                Some(input) => input,
                None => Buffer::borrow(buffers),
            };
            let filled = input.poll_fill(cx, &mut self.stream);
            if !input.is_empty() {
                self.input = Some(input);
            }
            match ready!(filled) {
                Ok(n) if n > 0 => self.meter.received(n),
                // Closed before the end of a head: there is no answer.
                Ok(_) | Err(_) => return Poll::Ready(Err(Cause::Reset)),
            }
        }
    }

    /// The body of the answer whose head was read last.
    pub fn begin_body(&mut self, head: &ResponseHead, form: Form) {
        self.body = Body::new(head.framing, form, None);
        self.kept &= head.keep_alive;
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<Result<Option<Buffer>, Broken>> {
        let BackendConn { stream, meter, input, body, .. } = self;
        body.poll_piece(cx, stream, input, buffers, |n| meter.received(n))
    }

    /// Bytes behind the last head that are here already.
    pub fn held(&self) -> usize {
        self.input.as_ref().map_or(0, Buffer::len)
    }

    /// Reads on behind the last head, until `length` bytes of it are here.
    pub fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        while self.held() < length {
            let mut input = self.input.take().unwrap_or_else(|| Buffer::borrow(buffers));
            let filled = input.poll_fill(cx, &mut self.stream);
            if !input.is_empty() {
                self.input = Some(input);
            }
            match ready!(filled) {
                Ok(n) if n > 0 => self.meter.received(n),
                Ok(_) | Err(_) => return Poll::Ready(Err(Broken::Short)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Where the rest of the answer's body comes from in bulk, if nothing of it has been read ahead.
    pub fn bulk_source(&mut self) -> Option<Source<'_>> {
        match self.input {
            None => Some((self.stream.plain()?, &mut self.body)),
            Some(_) => None,
        }
    }

    /// Where bytes go in bulk, once all that was pending has been written.
    pub fn plain(&self) -> Option<Plain<'_>> {
        self.stream.plain()
    }

    /// Bytes went by in bulk.
    pub fn count_received(&self, bytes: u64) {
        self.meter.received(bytes as usize);
    }

    pub fn count_sent(&self, bytes: u64) {
        self.meter.sent(bytes as usize);
    }

    /// The reader of the answer's body.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// After an answer of 101: the socket, and what was read beyond the head.
    pub fn into_socket(self) -> (BackendStream, Option<Buffer>) {
        (self.stream, self.input)
    }
}
