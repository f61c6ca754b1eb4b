//! Bytes both ways, whatever they say: TCP streams, and what HTTP becomes when its two ends have agreed to
//! speak something else, on a connection of HTTP/1.1 or a stream of HTTP/2.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::client::Client;
use super::judge;
use super::record::Record;
use super::relay::Exchange;
use super::request::Upgrade;
use super::worker::Worker;
use crate::forward::backend_stream::BackendStream;
use crate::forward::buffer::Buffer;
use crate::forward::http::Back;
use crate::forward::http::h1::client::ClientConn;
use crate::forward::http::h2::tunnel::Tunnel;
use crate::forward::tcp::{self, End, Way};
use crate::listen::{ClientStream, Socket};
use crate::outcome::Cause;
use crate::pool::Lease;
use crate::timer::Deadline;

/// After 101 the two ends speak what they like.
pub async fn connection(client: &Client, conn: ClientConn, upgrade: Upgrade) {
    let Upgrade { exchange, record, idle } = upgrade;
    let (mut stream, from_client) = conn.into_parts();
    let Exchange { lease, conn: backend, entered: _entered, .. } = exchange;
    let Some((mut backend, from_backend)) = own(backend) else {
        return record.finish(Some(Cause::Garbage));
    };
    let early = early(&mut stream, &mut backend, (from_client, from_backend));
    if !matches!(client.session.deadline.within(idle, early).await, Ok(Ok(()))) {
        return record.finish(Some(Cause::ClientGone));
    }
    let end = relay(client, &lease, &mut stream, &mut backend, idle).await;
    finish(client, &lease, &record, end);
}

/// The same of a stream of HTTP/2, whose client has got 200 (RFC 8441 5). `step` is its deadline.
pub async fn stream(client: &Client, tunnel: Tunnel, upgrade: Upgrade, step: &Deadline) {
    let Upgrade { exchange, record, idle } = upgrade;
    let Exchange { lease, conn: backend, entered: _entered, .. } = exchange;
    let Some((mut backend, from_backend)) = own(backend) else {
        return record.finish(Some(Cause::Garbage));
    };
    let Some(mut stream) = tunnel.open().await else {
        return record.finish(Some(Cause::ClientGone));
    };
    let early = early(&mut stream, &mut backend, (None, from_backend));
    if !matches!(step.within(idle, early).await, Ok(Ok(()))) {
        backend.reset_on_close();
        stream.reset_on_close();
        return record.finish(Some(Cause::ClientGone));
    }
    // The client's connection counts its bytes, all streams in one.
    let end = counted(client, &lease, (&mut stream, &mut backend), step, idle, false).await;
    finish(client, &lease, &record, Some(end));
}

/// No stream of HTTP/2 to a backend changes its protocol: an attempt takes an answer of 101 for garbage
/// there.
fn own(conn: Back) -> Option<(BackendStream, Option<Buffer>)> {
    match conn {
        Back::H1(conn) => Some(conn.into_socket()),
        Back::H2(_) => None,
    }
}

/// What either side has sent behind its head.
async fn early(
    client: &mut (impl AsyncWrite + Unpin),
    backend: &mut BackendStream,
    (from_client, from_backend): (Option<Buffer>, Option<Buffer>),
) -> io::Result<()> {
    if let Some(early) = &from_client {
        backend.write_all(early.data()).await?;
        backend.flush().await?;
    }
    if let Some(early) = &from_backend {
        client.write_all(early.data()).await?;
    }
    Ok(())
}

fn finish(client: &Client, lease: &Lease, record: &Record, end: Option<End>) {
    record.finish(match end {
        // What is spoken there has ends of its own, and many never say close_notify.
        Some(End::Finished | End::Idle | End::ClientBroke | End::BackendBroke) => None,
        Some(End::BackendReset) => {
            judge::failed(&client.worker, lease, Cause::Truncated);
            Some(Cause::Truncated)
        }
        Some(End::Cut) => Some(Cause::Released),
        Some(End::ClientReset) | None => Some(Cause::ClientGone),
    });
}

/// Relays until the stream ends; `None` if it was cut.
pub async fn relay(
    client: &Client,
    lease: &Lease,
    stream: &mut ClientStream,
    backend: &mut BackendStream,
    idle: Duration,
) -> Option<End> {
    let session = &client.session;
    let relay = counted(client, lease, (stream, backend), &session.deadline, idle, true);
    let end = session.unless_cut(relay).await;
    if end.is_none() {
        // Cut in the middle: neither side is to take it for all.
        stream.reset_on_close();
        backend.reset_on_close();
    }
    end
}

/// `whole`: the stream is all of its client's connection.
async fn counted<C>(
    client: &Client,
    lease: &Lease,
    (stream, backend): (&mut C, &mut BackendStream),
    deadline: &Deadline,
    idle: Duration,
    whole: bool,
) -> End
where
    C: AsyncRead + AsyncWrite + Socket + Unpin,
{
    let cells = lease.backend().cells.of(client.worker.id);
    let ours = client.session.cells();
    let said = Cell::new(false);
    let count = |way, bytes| match way {
        Way::ToBackend => {
            if whole {
                ours.received_bytes.add(bytes);
            }
            cells.sent_bytes.add(bytes);
        }
        Way::ToClient => {
            cells.received_bytes.add(bytes);
            if whole {
                ours.sent_bytes.add(bytes);
            }
            if !said.replace(true) {
                judge::streams(&client.worker, lease);
            }
        }
    };
    judge::reached(lease);
    let _open = cells.open.while_held();
    let Worker { buffers, pipes, .. } = &*client.worker;
    tcp::relay(stream, backend, buffers, pipes, deadline, idle, count).await
}
