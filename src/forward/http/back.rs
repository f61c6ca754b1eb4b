//! The backend's side of one exchange, HTTP/1 or HTTP/2: the seam at which the two meet, as [`Front`] is on
//! the client's side.
//!
//! A request's head goes out as the bytes that `Upload` begins with (HTTP/1), or was set beforehand
//! (HTTP/2); its body follows, and the answer is polled for, by whoever waits for it.
//!
//! [`Front`]: super::Front

use std::task::{Context, Poll};

use super::bulk::Source;
use super::h1::backend::BackendConn;
use super::h1::body::{Broken, Form};
use super::h2::backend::Stream;
use super::head::{Heads, ResponseHead};
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::listen::Plain;
use crate::outcome::Cause;
use crate::route::fields::Store;

#[derive(Debug)]
pub enum Back {
    /// A connection of its own.
    H1(Box<BackendConn>),
    /// A stream of a connection that others share.
    H2(Box<Stream>),
}

/// The backend takes no more of the request. What it has said before is still there to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deaf;

impl Back {
    /// Sends the head of a request that does not begin with bytes. Ready at once for one that does.
    pub fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        match self {
            Back::H1(_) => Poll::Ready(Ok(())),
            Back::H2(stream) => stream.poll_begin(cx),
        }
    }

    /// Writes once, and uses up what was written. `last`: nothing follows.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffer,
        last: bool,
    ) -> Poll<Result<(), Deaf>> {
        match self {
            Back::H1(conn) => conn.poll_write(cx, from).map_err(|_| Deaf),
            Back::H2(stream) => stream.poll_write(cx, from, last),
        }
    }

    /// Ends a body whose end is no part of what was written.
    pub fn finish(&mut self, trailers: Option<&Store>) -> Result<(), Deaf> {
        match self {
            Back::H1(_) => Ok(()),
            Back::H2(stream) => stream.finish(trailers),
        }
    }

    /// The backend has told that nothing of the request was processed.
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Back::H1(_) => false,
            Back::H2(stream) => stream.is_unprocessed(),
        }
    }

    /// It may have been the connection alone that failed, as it was there before the request.
    pub fn was_lost(&self) -> bool {
        match self {
            Back::H1(_) => true,
            Back::H2(stream) => stream.was_lost(),
        }
    }

    /// Waits for the next head. Interim ones (1xx) come out as well; the caller asks again.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        to_head: bool,
        heads: &Heads,
        buffers: &Buffers,
    ) -> Poll<Result<ResponseHead, Cause>> {
        match self {
            Back::H1(conn) => conn.poll_head(cx, to_head, heads, buffers),
            Back::H2(stream) => stream.poll_head(cx, to_head, heads),
        }
    }

    /// The body of the answer whose head was read last is wanted in this form.
    pub fn begin_body(&mut self, head: &ResponseHead, form: Form) {
        match self {
            Back::H1(conn) => conn.begin_body(head, form),
            Back::H2(_) => {} // it has only data
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
    ) -> Poll<Result<Option<Buffer>, Broken>> {
        match self {
            Back::H1(conn) => conn.poll_body(cx, buffers),
            Back::H2(stream) => stream.poll_body(cx, buffers),
        }
    }

    /// All of the answer's body has been read.
    pub fn is_body_ended(&self) -> bool {
        match self {
            Back::H1(conn) => conn.body().is_ended(),
            Back::H2(stream) => stream.is_ended(),
        }
    }

    /// The answer's trailers, once its body has ended and where they were not part of it.
    pub fn trailers(&self) -> Option<Store> {
        match self {
            Back::H1(conn) => conn.body().trailers(),
            Back::H2(stream) => stream.trailers(),
        }
    }

    /// Bytes behind the last head that are here already.
    pub fn held(&self) -> usize {
        match self {
            Back::H1(conn) => conn.held(),
            Back::H2(stream) => stream.held(),
        }
    }

    /// Reads on behind the last head, until `length` bytes of it are here.
    pub fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        match self {
            Back::H1(conn) => conn.poll_hold(cx, length, buffers),
            Back::H2(stream) => stream.poll_hold(cx, length, buffers),
        }
    }

    /// Where the rest of the answer's body comes from in bulk, if nothing of it has been read ahead.
    pub fn bulk_source(&mut self) -> Option<Source<'_>> {
        match self {
            Back::H1(conn) => conn.bulk_source(),
            Back::H2(_) => None,
        }
    }

    /// Where bytes go in bulk, once all that was pending has been written.
    pub fn plain(&self) -> Option<Plain<'_>> {
        match self {
            Back::H1(conn) => conn.plain(),
            Back::H2(_) => None,
        }
    }

    /// Bytes went by in bulk. (An HTTP/2 connection counts what it reads and writes, all requests in one.)
    pub fn count_received(&self, bytes: u64) {
        if let Back::H1(conn) = self {
            conn.count_received(bytes);
        }
    }

    pub fn count_sent(&self, bytes: u64) {
        if let Back::H1(conn) = self {
            conn.count_sent(bytes);
        }
    }
}
