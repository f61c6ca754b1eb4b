//! The client's side of one HTTP/2 request: its body as it is read, its answer as it is written.

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use h2::RecvStream;
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::reply::Reply;
use super::wire;
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::http::front::{Line, Sink};
use crate::forward::http::h1::write;
use crate::forward::http::head::Framing;
use crate::outcome::Cause;
use crate::route::fields::Store;

/// Room for the fields of most answers, and for their values.
const FIELDS: usize = 12;
const VALUES_BYTES: usize = 256;

/// Fields that are of a connection, which HTTP/2 has other means for (RFC 9113 8.2.2); the h2 crate takes no
/// head that has one.
const OF_A_CONNECTION: [&[u8]; 6] =
    [b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"];

/// One request, as its story sees it.
pub struct Stream<'a> {
    reply: &'a Reply,
    /// `None` once it is a tunnel's.
    body: Option<RecvStream>,
    framing: Framing,
    /// Body bytes that may still come.
    left_allowed: u64,
    body_ended: bool,
    /// The body is wanted as data alone; else what has no declared length is framed as HTTP/1.
    as_data: bool,
    trailers: Option<Box<Store>>,
    buffers: Buffers,
    /// Of the answer, not taken yet.
    piece: Option<Buffer>,
    /// Nothing follows it, but for these trailers.
    finished: bool,
    last: Option<Box<Store>>,
}

impl<'a> Stream<'a> {
    pub fn new(reply: &'a Reply, body: RecvStream, buffers: Buffers) -> Stream<'a> {
        Stream {
            reply,
            body: Some(body),
            framing: Framing::None,
            left_allowed: u64::MAX,
            body_ended: true,
            as_data: false,
            trailers: None,
            buffers,
            piece: None,
            finished: false,
            last: None,
        }
    }

    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    pub fn begin_body(&mut self, framing: Framing, limit: Option<u64>) {
        self.framing = framing;
        self.left_allowed = limit.unwrap_or(u64::MAX);
        self.body_ended = matches!(framing, Framing::None | Framing::Length(0));
    }

    /// The body is read as data alone, from its first byte on.
    pub fn want_data(&mut self) {
        self.as_data = true;
    }

    /// The trailers of a body that was read as data, once it has ended.
    pub fn trailers(&self) -> Option<Store> {
        self.trailers.as_deref().cloned()
    }

    pub fn is_body_ended(&self) -> bool {
        self.body_ended
    }

    /// Frames as they come, made chunks where the length was not declared, unless data is wanted.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buffer>, Cause>> {
        let mut piece = None;
        while !self.body_ended && piece.is_none() {
            let Some(body) = &mut self.body else { break };
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => {
                    let ended = body.is_end_stream();
                    // Never more than there is.
                    let _ = body.flow_control().release_capacity(data.len());
                    let allowed = self.left_allowed.checked_sub(data.len() as u64);
                    self.left_allowed = allowed.ok_or(Cause::BodyTooLarge)?;
                    if !data.is_empty() {
                        let mut more = Buffer::borrow(&self.buffers);
                        more.extend(&data);
                        if self.chunks() {
                            write::chunk(&mut more);
                        }
                        piece = Some(more);
                    }
                    if ended {
                        self.end_body(&mut piece, None);
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(Cause::ClientGone)),
                None => {
                    let trailers = ready!(body.poll_trailers(cx)).map_err(|_| Cause::ClientGone)?;
                    self.end_body(&mut piece, trailers);
                }
            }
        }
        Poll::Ready(Ok(piece))
    }

    /// The body is framed as HTTP/1 frames one of which the length is not known.
    fn chunks(&self) -> bool {
        self.framing == Framing::Chunked && !self.as_data
    }

    fn end_body(&mut self, piece: &mut Option<Buffer>, trailers: Option<HeaderMap>) {
        self.body_ended = true;
        let trailers = trailers.map(|trailers| wire::store_of(&trailers));
        if self.as_data {
            self.trailers = trailers.map(Box::new);
        } else if self.chunks() {
            let last = piece.get_or_insert_with(|| Buffer::borrow(&self.buffers));
            write::last_chunk(last, trailers.as_ref());
        }
    }

    /// An answer's head ahead of its own (1xx).
    pub fn interim(&mut self, status: StatusCode, fields: impl FnOnce(Sink<'_>)) {
        self.reply.interim(head(status, fields));
    }

    pub fn begin(&mut self, line: &Line<'_>, fields: impl FnOnce(Sink<'_>)) {
        if line.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441 5: success is all that is said of it.
            let mut head = head(StatusCode::OK, fields);
            head.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
            if let Some(body) = self.body.take() {
                self.reply.begin_tunnel(head, body);
            }
            return;
        }
        let length = match line.framing {
            Framing::Length(length) => Some(length),
            Framing::None => line.told_length,
            Framing::Chunked | Framing::UntilClose => None,
        };
        let head = head(line.status, |to| {
            fields(&mut *to);
            if let Some(length) = length {
                to(b"content-length", write::decimal(length, &mut [0; 20]));
            }
        });
        let ends = matches!(line.framing, Framing::None | Framing::Length(0));
        self.reply.begin(head, ends);
    }

    /// The next piece of the answer; as a rule, the one before has been taken.
    pub fn queue(&mut self, piece: Buffer) {
        match &mut self.piece {
            Some(before) => before.extend(piece.data()),
            None => self.piece = Some(piece),
        }
    }

    pub fn finish(&mut self, trailers: Option<Store>) {
        (self.finished, self.last) = (true, trailers.map(Box::new));
    }

    /// Bytes of the answer that were not taken yet.
    pub fn queued(&self) -> usize {
        self.piece.as_ref().map_or(0, Buffer::len)
    }

    /// Done when there is room for all that was queued. An error is the client's end.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        if let Some(piece) = &mut self.piece {
            let last = self.finished && self.last.is_none();
            let asked = self.body.as_ref().is_none_or(RecvStream::is_end_stream);
            ready!(self.reply.poll_send(cx, piece, last, asked))?;
            self.piece = None;
        }
        match self.finished {
            true => Poll::Ready(self.reply.end(self.last.take().as_deref())),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("framing", &self.framing).finish_non_exhaustive()
    }
}

fn head(status: StatusCode, fields: impl FnOnce(Sink<'_>)) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    let mut headers = HeaderMap::with_capacity(FIELDS);
    let mut values = BytesMut::with_capacity(VALUES_BYTES);
    fields(&mut |name, value| {
        // What was a field of a parsed head, or of the configuration, is one here.
        if !OF_A_CONNECTION.iter().any(|known| known.eq_ignore_ascii_case(name))
            && let Ok(name) = HeaderName::from_bytes(name)
            && let Ok(value) = one_of(&mut values, &name, value)
        {
            headers.append(name, value);
        }
    });
    *head.headers_mut() = headers;
    head
}

/// A value, in memory that it shares with the others of its head: of many at once the allocator would keep none
/// at hand. But not the date: the h2 crate keeps the last few for its table (RFC 7541 2.3.2), and with each
/// all that shares its memory.
fn one_of(
    values: &mut BytesMut,
    name: &HeaderName,
    value: &[u8],
) -> Result<HeaderValue, InvalidHeaderValue> {
    if *name == header::DATE {
        return HeaderValue::from_bytes(value);
    }
    values.extend_from_slice(value);
    HeaderValue::from_maybe_shared(values.split().freeze())
}
