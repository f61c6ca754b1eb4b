//! What both roles of HTTP/2 have in common: the room that a stream has, and the fields behind a body.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::forward::buffer::Buffer;
use crate::forward::http::h1::chunked::is_trailer;
use crate::route::fields::{Field, Store};

/// Whoever is at the other end of a stream takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// So much may be sent at once (RFC 9113 5.2), `wanted` at the most.
pub fn poll_room(
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Result<usize, Closed>> {
    to.reserve_capacity(wanted);
    while to.capacity() == 0 {
        match ready!(to.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(Closed)),
        }
    }
    Poll::Ready(Ok(to.capacity().min(wanted)))
}

/// Sends what there is room for of a piece that has something in it, and uses it up. `last`: the body ends
/// with it.
pub fn poll_send(
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    piece: &mut Buffer,
    last: bool,
) -> Poll<Result<(), Closed>> {
    let n = ready!(poll_room(to, cx, piece.len()))?;
    Poll::Ready(send(to, piece, n, last))
}

/// Sends a piece whether there is room or not: what there is no room for waits in the stream.
pub fn send_all(to: &mut SendStream<Bytes>, piece: &mut Buffer, last: bool) -> Result<(), Closed> {
    send(to, piece, piece.len(), last)
}

fn send(
    to: &mut SendStream<Bytes>,
    piece: &mut Buffer,
    n: usize,
    last: bool,
) -> Result<(), Closed> {
    let data = Bytes::copy_from_slice(&piece.data()[..n]);
    to.send_data(data, last && n == piece.len()).map_err(|_| Closed)?;
    piece.consume(n);
    Ok(())
}

/// Ends a body whose last piece has not done so.
pub fn end(to: &mut SendStream<Bytes>, trailers: Option<&Store>) -> Result<(), Closed> {
    let sent = match trailers.map(map_of).filter(|trailers| !trailers.is_empty()) {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    };
    sent.map_err(|_| Closed)
}

/// Trailers as HTTP/2 sends them.
fn map_of(trailers: &Store) -> HeaderMap {
    let pair = |field: Field<'_>| {
        let name = HeaderName::from_bytes(field.name).ok()?;
        Some((name, HeaderValue::from_bytes(field.value).ok()?))
    };
    trailers.fields().iter().filter_map(pair).collect()
}

/// Trailers that came by HTTP/2, without what must not be one (RFC 9110 6.5.1).
pub fn store_of(trailers: &HeaderMap) -> Store {
    let mut store = Store::default();
    for (name, value) in trailers {
        if is_trailer(name.as_str().as_bytes()) {
            store.push(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    store
}
