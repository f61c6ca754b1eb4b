//! A client's HTTP/1 connection: heads and bodies of its requests in, answers out, and its end.
//!
//! It judges no request and knows no backend. Between requests it holds no buffer: an idle connection
//! is a socket and this struct.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::body::{Body, Broken, Form};
use super::parse::{self, Limits};
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::http::bulk::Source;
use crate::forward::http::head::{Framing, Heads, RequestHead};
use crate::forward::session::{Phase, Session};
use crate::listen::{ClientStream, Plain, Socket};
use crate::outcome::Cause;
use crate::route::fields::Store;

/// RFC 9113 3.4: what an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long, and how much, is still taken of a client that is being closed.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// What bounds the heads and pauses of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub head: Limits,
    pub client_header: Duration,
    pub client_idle: Duration,
}

/// What a client's connection brings.
#[derive(Debug)]
pub enum Next {
    Request(RequestHead),
    /// It speaks HTTP/2.
    Http2,
    /// The client, or its time at rest, has ended the connection.
    End,
}

/// What ended a connection before a head was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The head is refused; the client may be told why.
    Refused(Cause),
    /// It went away in the middle of a head.
    Gone,
    /// The session was cut.
    Cut,
}

#[derive(Debug)]
pub struct ClientConn {
    stream: ClientStream,
    session: Rc<Session>,
    buffers: Buffers,
    /// Read and not used yet.
    input: Option<Buffer>,
    /// Of an answer, not written yet.
    output: Option<Buffer>,
    body: Body,
    /// Something was seen behind the request: whether the client has left cannot be seen past that.
    unseen: bool,
}

impl ClientConn {
    pub fn new(stream: ClientStream, session: Rc<Session>, buffers: Buffers) -> ClientConn {
        let body = Body::none();
        ClientConn { stream, session, buffers, input: None, output: None, body, unseen: false }
    }

    /// Waits for the next request's head. `first`: it may turn out to be HTTP/2.
    pub fn next(
        &mut self,
        bounds: &Bounds,
        heads: &Heads,
        first: bool,
    ) -> impl Future<Output = Result<Next, Stop>> {
        // As many bytes were looked at in vain.
        let mut tried = 0;
        poll_fn(move |cx| {
            loop {
                if self.session.is_cut() {
                    return Poll::Ready(Err(Stop::Cut));
                }
                if let Some(next) = self.look(bounds, heads, first, &mut tried)? {
                    return Poll::Ready(Ok(next));
                }
                if self.session.deadline.poll(cx).is_ready() {
                    return Poll::Ready(match self.session.phase() {
                        Phase::Head => Err(Stop::Refused(Cause::ClientTimeout)),
                        Phase::Idle | Phase::Busy => Ok(Next::End),
                    });
                }
                let mut input = match self.input.take() {
                    Some(input) => input,
                    None => Buffer::borrow(&self.buffers),
                };
                let filled = input.poll_fill(cx, &mut self.stream);
                if !input.is_empty() {
                    self.input = Some(input);
                }
                match ready!(filled) {
                    Ok(n) if n > 0 => self.session.count_received(n),
                    Ok(_) if self.input.is_none() => return Poll::Ready(Ok(Next::End)),
                    Ok(_) | Err(_) => return Poll::Ready(Err(Stop::Gone)),
                }
            }
        })
    }

    /// Looks whether what has come so far is a head.
    fn look(
        &mut self,
        bounds: &Bounds,
        heads: &Heads,
        first: bool,
        tried: &mut usize,
    ) -> Result<Option<Next>, Stop> {
        let Some(input) = &mut self.input else { return Ok(None) };
        // RFC 9112 2.2: an empty line before a request is put up with.
        while input.data().starts_with(b"\r\n") {
            input.consume(2);
        }
        if input.is_empty() {
            self.input = None;
            return Ok(None);
        }
        let data = input.data();
        self.session.begin_head(bounds.client_header);
        if first
            && data[..data.len().min(PREFACE.len())] == PREFACE[..data.len().min(PREFACE.len())]
        {
            return Ok((data.len() >= PREFACE.len()).then_some(Next::Http2));
        }
        if data == b"\r" || !parse::is_worth_trying(data, *tried, bounds.head) {
            return Ok(None);
        }
        *tried = data.len();
        match parse::request(data, bounds.head, heads) {
            Ok(None) => Ok(None),
            Err(cause) => Err(Stop::Refused(cause)),
            Ok(Some((head, length))) => {
                input.consume(length);
                if input.is_empty() {
                    self.input = None;
                }
                self.unseen = false;
                Ok(Some(Next::Request(head)))
            }
        }
    }

    /// The body of the request that was read last: so framed, of at most `limit` bytes, to go on as it
    /// is.
    pub fn begin_body(&mut self, framing: Framing, limit: Option<u64>) {
        self.body = Body::new(framing, Form::Chunks, limit);
    }

    /// The body is read as data alone, from its first byte on.
    pub fn want_data(&mut self) {
        self.body.set_form(Form::Data);
    }

    /// The trailers of a body that was read as data, once it has ended.
    pub fn trailers(&self) -> Option<Store> {
        self.body.trailers()
    }

    /// The next piece of the request's body, framed as it came; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buffer>, Cause>> {
        let ClientConn { stream, session, buffers, input, body, .. } = self;
        let heard = |n| session.count_received(n);
        body.poll_piece(cx, stream, input, buffers, heard).map_err(|broken| match broken {
            Broken::Short => Cause::ClientGone,
            Broken::Coding => Cause::BadRequest,
            Broken::TooLarge => Cause::BodyTooLarge,
        })
    }

    /// All of the request's body has been read.
    pub fn is_body_ended(&self) -> bool {
        self.body.is_ended()
    }

    /// Bytes to be written next. What is there already goes before them.
    pub fn queue(&mut self, more: Buffer) {
        match &mut self.output {
            Some(output) => output.extend(more.data()),
            None => self.output = Some(more),
        }
    }

    /// Bytes that are queued and not written yet.
    pub fn queued(&self) -> usize {
        self.output.as_ref().map_or(0, Buffer::len)
    }

    /// Writes what is queued. An error is the client's end.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        while let Some(output) = &mut self.output {
            let n = ready!(output.poll_drain(cx, &mut self.stream));
            let n = n.map_err(|_| Cause::ClientGone)?;
            self.session.count_sent(n);
            if output.is_empty() {
                self.output = None;
            }
        }
        if self.stream.is_tls() {
            let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
            flushed.map_err(|_| Cause::ClientGone)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when a client that sends nothing more has reset its connection. Only having shut its side
    /// (FIN) is no leaving: it may wait for its answer.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = self.stream.tcp() else { return Poll::Pending };
        if self.unseen || self.input.is_some() || !self.body.is_ended() {
            return Poll::Pending;
        }
        let mut byte = [0];
        match ready!(stream.poll_peek(cx, &mut tokio::io::ReadBuf::new(&mut byte))) {
            Ok(_) => {
                self.unseen = true;
                Poll::Pending
            }
            Err(_) => Poll::Ready(()),
        }
    }

    /// Where the rest of the request's body comes from in bulk, if nothing of it has been read ahead.
    pub fn bulk_source(&mut self) -> Option<Source<'_>> {
        match self.input {
            None => Some((self.stream.plain()?, &mut self.body)),
            Some(_) => None,
        }
    }

    /// Where bytes go in bulk, once all that was queued has been written.
    pub fn plain(&self) -> Option<Plain<'_>> {
        self.stream.plain()
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The socket, and what was read beyond the last request.
    pub fn into_parts(self) -> (ClientStream, Option<Buffer>) {
        (self.stream, self.input)
    }

    /// The client's stream ends here, but not in good order: what it got is not whole.
    pub fn reset(mut self) {
        self.stream.reset_on_close();
    }

    /// Whether the kernel has something of the client's that nobody has read.
    fn has_unread(&self) -> bool {
        let Some(stream) = self.stream.tcp() else { return false };
        let mut byte = [MaybeUninit::uninit()];
        SockRef::from(stream).peek(&mut byte).is_ok_and(|n| n > 0)
    }

    /// Whether dropping it closes it in good order: all was written, and nothing of the client's lies
    /// unread. (TLS has an end of its own to tell.)
    pub fn is_clean(&self) -> bool {
        let done = self.output.is_none() && self.input.is_none() && !self.stream.is_tls();
        done && !self.has_unread()
    }

    /// Closes between two requests; a TLS client is told that this is the end, if it can be told at once.
    pub fn part(mut self) {
        if self.stream.is_tls() {
            let mut nobody = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut nobody);
        }
    }

    /// Writes what is queued and closes in order: our side first, then what the client is still sending
    /// is taken for a while. A socket that is closed on unread bytes is reset, and our last answer may
    /// be lost with it (RFC 9112 9.6).
    pub async fn close(mut self, unread: bool) {
        let (session, deadline) = (self.session.clone(), self.session.deadline.clone());
        let lingering = async {
            let flushed = poll_fn(|cx| self.poll_flush(cx)).await.is_ok();
            let unread = unread || self.input.take().is_some() || self.has_unread();
            if !flushed || !(unread || self.stream.is_tls()) {
                return;
            }
            // An error tells of the client's end, as the reading below does.
            let _ = self.stream.shutdown().await;
            if !unread {
                return;
            }
            let mut left = LINGER_BYTES;
            let mut buffer = Buffer::borrow(&self.buffers);
            while left > 0 {
                match poll_fn(|cx| buffer.poll_fill(cx, &mut self.stream)).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => left = left.saturating_sub(n),
                }
                buffer.truncate(0);
            }
        };
        // Gone, late or cut: there is nothing left to do for it.
        let _ = session.unless_cut(deadline.within(LINGER, lingering)).await;
    }
}
