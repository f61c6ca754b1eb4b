//! The client's side of one request, HTTP/1 or HTTP/2: the seam at which the two meet.
//!
//! A request's story reads its body from here, and writes its answer here, head first. In what form the
//! answer's body is wanted is said by [`Front::want`].

use std::task::{Context, Poll};

use http::StatusCode;

use super::bulk::Source;
use super::h1::body::Form;
use super::h1::client::ClientConn;
use super::h1::write;
use super::h2;
use super::head::{Framing, RequestHead, Version};
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::session::Session;
use crate::listen::Plain;
use crate::outcome::Cause;
use crate::route::fields::Store;

#[derive(Debug)]
pub enum Front<'a> {
    H1(Http1<'a>),
    H2(h2::Stream<'a>),
}

/// One request on an HTTP/1 connection.
#[derive(Debug)]
pub struct Http1<'a> {
    conn: &'a mut ClientConn,
    version: Version,
    /// After this answer the connection is closed.
    closes: bool,
}

/// The head of an answer but for its fields.
#[derive(Debug)]
pub struct Line<'a> {
    pub status: StatusCode,
    /// The words behind the status; HTTP/2 has none.
    pub reason: &'a [u8],
    pub framing: Framing,
    /// A length that is told though no body follows (HEAD, 304).
    pub told_length: Option<u64>,
}

/// How an answer's body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// As the client will see it framed.
    pub framing: Framing,
    /// As it is to be read from the backend.
    pub form: Form,
    /// Each piece is to be made a chunk.
    pub chunk: bool,
    /// And the last one is to have the trailers behind it, if there are any.
    pub trailers: bool,
}

/// Writes fields one by one: name, value.
pub type Sink<'s> = &'s mut dyn FnMut(&[u8], &[u8]);

impl<'a> Front<'a> {
    /// `head` is the request that was read last on `conn`.
    pub fn http1(conn: &'a mut ClientConn, head: &RequestHead) -> Front<'a> {
        Front::H1(Http1 { conn, version: head.version, closes: !head.keep_alive })
    }

    /// For an answer to what could not be read.
    pub fn refusing(conn: &'a mut ClientConn) -> Front<'a> {
        Front::H1(Http1 { conn, version: Version::Http11, closes: true })
    }

    pub fn buffers(&self) -> &Buffers {
        match self {
            Front::H1(front) => front.conn.buffers(),
            Front::H2(stream) => stream.buffers(),
        }
    }

    /// The client's socket for bytes in bulk, where they are the body's own: HTTP/1 without TLS.
    pub fn plain(&self) -> Option<Plain<'_>> {
        match self {
            Front::H1(front) => front.conn.plain(),
            Front::H2(_) => None,
        }
    }

    /// Where the rest of the request's body comes from in bulk.
    pub fn bulk_source(&mut self) -> Option<Source<'_>> {
        match self {
            Front::H1(front) => front.conn.bulk_source(),
            Front::H2(_) => None,
        }
    }

    /// Bytes went by in bulk. (The session counts them; HTTP/2 never moves any.)
    pub fn session(&self) -> Option<&Session> {
        match self {
            Front::H1(front) => Some(front.conn.session()),
            Front::H2(_) => None,
        }
    }

    /// Says how the request's body is framed and bounded, before it is read.
    pub fn begin_body(&mut self, framing: Framing, limit: Option<u64>) {
        match self {
            Front::H1(front) => front.conn.begin_body(framing, limit),
            Front::H2(stream) => stream.begin_body(framing, limit),
        }
    }

    /// The request's body is to be read as data alone, from its first byte on: its backend may not speak
    /// HTTP/1.
    pub fn want_data(&mut self) {
        match self {
            Front::H1(front) => front.conn.want_data(),
            Front::H2(stream) => stream.want_data(),
        }
    }

    /// The trailers of a body that was read as data, once it has ended.
    pub fn trailers(&self) -> Option<Store> {
        match self {
            Front::H1(front) => front.conn.trailers(),
            Front::H2(stream) => stream.trailers(),
        }
    }

    /// The next piece of the request's body, framed as HTTP/1 unless data was wanted; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buffer>, Cause>> {
        match self {
            Front::H1(front) => front.conn.poll_body(cx),
            Front::H2(stream) => stream.poll_body(cx),
        }
    }

    /// All of the request's body has been read.
    pub fn is_body_ended(&self) -> bool {
        match self {
            Front::H1(front) => front.conn.is_body_ended(),
            Front::H2(stream) => stream.is_body_ended(),
        }
    }

    /// Ready when the client has left without waiting for its answer. HTTP/2 drops the whole story.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Front::H1(front) => front.conn.poll_gone(cx),
            Front::H2(_) => Poll::Pending,
        }
    }

    /// How an answer that is framed so by its backend is wanted here. `trailers`: whether the request
    /// said that it takes them.
    pub fn want(&self, framing: Framing, trailers: impl FnOnce() -> bool) -> Want {
        let (http2, old) = match self {
            Front::H1(front) => (false, front.version == Version::Http10),
            Front::H2(_) => (true, false),
        };
        let data = |framing, chunk| Want { framing, form: Form::Data, chunk, trailers: false };
        match framing {
            Framing::Chunked if !http2 && !old => {
                let form = if trailers() { Form::Chunks } else { Form::ChunksOnly };
                Want { framing: Framing::Chunked, form, chunk: false, trailers: false }
            }
            Framing::Chunked => data(Framing::UntilClose, false),
            Framing::UntilClose if !http2 && !old => {
                Want { trailers: trailers(), ..data(Framing::Chunked, true) }
            }
            Framing::None | Framing::Length(_) | Framing::UntilClose => data(framing, false),
        }
    }

    /// Passes on an interim answer (1xx). Clients of HTTP/1.0 know none.
    pub fn interim(&mut self, line: &Line<'_>, fields: impl FnOnce(Sink<'_>)) {
        match self {
            Front::H1(front) if front.version == Version::Http11 => {
                let mut head = Buffer::borrow(front.conn.buffers());
                write::status_line(&mut head, line.status, line.reason);
                fields(&mut |name, value| write::field(&mut head, name, value));
                write::end_of_head(&mut head);
                front.conn.queue(head);
            }
            Front::H1(_) => {}
            Front::H2(stream) => stream.interim(line.status, fields),
        }
    }

    /// Begins the answer. `close`: the client's connection shall end with it. What comes back is to be
    /// queued, with the first of the body behind it; `None` where heads go another way.
    pub fn begin(
        &mut self,
        line: &Line<'_>,
        close: bool,
        fields: impl FnOnce(Sink<'_>),
    ) -> Option<Buffer> {
        match self {
            Front::H1(front) => Some(front.begin(line, close, fields)),
            Front::H2(stream) => {
                stream.begin(line, fields);
                None
            }
        }
    }

    /// Bytes of the answer to be written next, in the form that was wanted.
    pub fn queue(&mut self, piece: Buffer) {
        match self {
            Front::H1(front) => front.conn.queue(piece),
            Front::H2(stream) => stream.queue(piece),
        }
    }

    /// The answer's body is whole; `trailers` are its trailers, where they were not part of it.
    pub fn finish(&mut self, trailers: Option<Store>) {
        match self {
            Front::H1(_) => {}
            Front::H2(stream) => stream.finish(trailers),
        }
    }

    /// Bytes that the client has not taken yet.
    pub fn queued(&self) -> usize {
        match self {
            Front::H1(front) => front.conn.queued(),
            Front::H2(stream) => stream.queued(),
        }
    }

    /// Done when the client has taken what was queued. An error is the client's end.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        match self {
            Front::H1(front) => front.conn.poll_flush(cx),
            Front::H2(stream) => stream.poll_flush(cx),
        }
    }

    /// Whether the client's connection ends with this answer.
    pub fn closes(&self) -> bool {
        match self {
            Front::H1(front) => front.closes,
            Front::H2(_) => false,
        }
    }
}

impl Http1<'_> {
    fn begin(&mut self, line: &Line<'_>, close: bool, fields: impl FnOnce(Sink<'_>)) -> Buffer {
        let mut head = Buffer::borrow(self.conn.buffers());
        write::status_line(&mut head, line.status, line.reason);
        fields(&mut |name, value| write::field(&mut head, name, value));
        match (line.framing, line.told_length) {
            (Framing::Length(length), _) | (Framing::None, Some(length)) => {
                write::content_length(&mut head, length);
            }
            (Framing::Chunked, _) => write::chunked(&mut head),
            (Framing::UntilClose | Framing::None, _) => {}
        }
        if line.status == StatusCode::SWITCHING_PROTOCOLS {
            self.closes = true; // what comes after it is no HTTP any more
        } else {
            self.closes |= close || line.framing == Framing::UntilClose;
            match self.version {
                Version::Http10 if !self.closes => {
                    write::field(&mut head, b"connection", b"keep-alive");
                }
                _ if self.closes => write::field(&mut head, b"connection", b"close"),
                _ => {}
            }
        }
        write::end_of_head(&mut head);
        head
    }
}
