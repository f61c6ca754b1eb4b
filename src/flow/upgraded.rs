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
    let (mut stream, ahead) = conn.into_parts();
    let Exchange { lease, conn: backend, entered: _entered, .. } = exchange;
    let step = &client.session.deadline;
    let talk = Talk { client, lease: &lease, step, idle, whole: true };
    let end = match backend {
        Back::H1(conn) => {
            let (mut backend, early) = conn.into_socket();
            talk.unless_cut((&mut stream, ahead), (&mut backend, early), true).await
        }
        Back::H2(conn) => {
            let Some(mut backend) = conn.into_tunnel() else {
                return record.finish(Some(Cause::Garbage));
            };
            talk.unless_cut((&mut stream, ahead), (&mut backend, None), false).await
        }
    };
    finish(client, &lease, &record, end);
}

/// The same of a stream of HTTP/2, whose client has got 200 (RFC 8441 5). `step` is its deadline.
pub async fn stream(client: &Client, mut stream: Tunnel, upgrade: Upgrade, step: &Deadline) {
    let Upgrade { exchange, record, idle } = upgrade;
    let Exchange { lease, conn: backend, entered: _entered, .. } = exchange;
    // The client's connection counts its bytes, all streams in one.
    let talk = Talk { client, lease: &lease, step, idle, whole: false };
    let end = match backend {
        Back::H1(conn) => {
            let (mut backend, early) = conn.into_socket();
            talk.begin((&mut stream, None), (&mut backend, early), true).await
        }
        Back::H2(conn) => {
            let Some(mut backend) = conn.into_tunnel() else {
                return record.finish(Some(Cause::Garbage));
            };
            talk.begin((&mut stream, None), (&mut backend, None), false).await
        }
    };
    finish(client, &lease, &record, Some(end));
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
        // A client's connection of HTTP/2 that is cut takes its streams along.
        Some(End::ClientReset) if !client.session.is_cut() => Some(Cause::ClientGone),
        Some(End::ClientReset) | None => Some(Cause::Shutdown),
    });
}

/// Relays a TCP stream until it ends; `None` if it was cut.
pub async fn relay(
    client: &Client,
    lease: &Lease,
    stream: &mut ClientStream,
    backend: &mut BackendStream,
    idle: Duration,
) -> Option<End> {
    let session = &client.session;
    let talk = Talk { client, lease, step: &session.deadline, idle, whole: true };
    let end = session.unless_cut(talk.relay(stream, backend, true)).await;
    if end.is_none() {
        cut(stream, backend);
    }
    end
}

/// It ends in the middle: neither side is to take what it got for all.
fn cut(stream: &mut impl Socket, backend: &mut impl Socket) {
    stream.reset_on_close();
    backend.reset_on_close();
}

/// What is known of a stream beside its two ends.
struct Talk<'a> {
    client: &'a Client,
    lease: &'a Lease,
    step: &'a Deadline,
    /// Longest silence.
    idle: Duration,
    /// It is all of its client's connection.
    whole: bool,
}

impl Talk<'_> {
    /// `begin`, and `None` if the client's connection was cut meanwhile.
    async fn unless_cut<C, B>(
        &self,
        (stream, from_client): (&mut C, Option<Buffer>),
        (backend, from_backend): (&mut B, Option<Buffer>),
        own: bool,
    ) -> Option<End>
    where
        C: AsyncRead + AsyncWrite + Socket + Unpin,
        B: AsyncRead + AsyncWrite + Socket + Unpin,
    {
        let told = self.begin((&mut *stream, from_client), (&mut *backend, from_backend), own);
        let end = self.client.session.unless_cut(told).await;
        if end.is_none() {
            cut(stream, backend);
        }
        end
    }

    /// Relays once either side has got what the other has sent behind its head. `own`: the backend's end
    /// is all of a connection, too.
    async fn begin<C, B>(
        &self,
        (stream, from_client): (&mut C, Option<Buffer>),
        (backend, from_backend): (&mut B, Option<Buffer>),
        own: bool,
    ) -> End
    where
        C: AsyncRead + AsyncWrite + Socket + Unpin,
        B: AsyncRead + AsyncWrite + Socket + Unpin,
    {
        let early = early((stream, from_client), (backend, from_backend));
        if !matches!(self.step.within(self.idle, early).await, Ok(Ok(()))) {
            cut(stream, backend);
            return if self.step.is_cut() { End::Cut } else { End::ClientReset };
        }
        self.relay(stream, backend, own).await
    }

    async fn relay<C, B>(&self, stream: &mut C, backend: &mut B, own: bool) -> End
    where
        C: AsyncRead + AsyncWrite + Socket + Unpin,
        B: AsyncRead + AsyncWrite + Socket + Unpin,
    {
        let Talk { client, lease, step, idle, whole } = *self;
        let cells = lease.backend().cells.of(client.worker.id);
        let ours = client.session.cells();
        let said = Cell::new(false);
        let count = |way, bytes| match way {
            Way::ToBackend => {
                if whole {
                    ours.received_bytes.add(bytes);
                }
                if own {
                    cells.sent_bytes.add(bytes);
                }
            }
            Way::ToClient => {
                if own {
                    cells.received_bytes.add(bytes);
                }
                if whole {
                    ours.sent_bytes.add(bytes);
                }
                if !said.replace(true) {
                    judge::streams(&client.worker, lease);
                }
            }
        };
        judge::reached(lease);
        let _open = own.then(|| cells.open.while_held());
        let Worker { buffers, pipes, .. } = &*client.worker;
        tcp::relay(stream, backend, buffers, pipes, step, idle, count).await
    }
}

/// What either side has sent behind its head.
async fn early(
    (client, from_client): (&mut (impl AsyncWrite + Unpin), Option<Buffer>),
    (backend, from_backend): (&mut (impl AsyncWrite + Unpin), Option<Buffer>),
) -> io::Result<()> {
    if let Some(early) = from_client {
        backend.write_all(early.data()).await?;
        backend.flush().await?;
    }
    if let Some(early) = from_backend {
        client.write_all(early.data()).await?;
    }
    Ok(())
}
