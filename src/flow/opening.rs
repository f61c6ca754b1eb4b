//! What a TCP client says first, where that decides: the server name of its TLS, by which a listener
//! routes without decrypting, and the PROXY header that it has no right to.
//!
//! What was read is the backend's: it is sent on before anything else.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, Interest};

use super::client::Client;
use super::worker::Here;
use crate::forward::backend_stream::BackendStream;
use crate::forward::buffer::Buffer;
use crate::listen::{ClientStream, Plain, Socket, proxy};
use crate::outcome::Cause;
use crate::pool::Lease;
use crate::route::{Streams, Taken};
use crate::sys::socket;
use crate::tls::sni::{self, Hello, Step};

/// Where a stream goes, and what its client has said so far.
#[derive(Debug)]
pub struct Opening {
    pub taken: Taken,
    pub hello: Option<Hello>,
    pub early: Option<Buffer>,
}

impl Opening {
    /// Nobody need say anything.
    pub fn silent(taken: Taken) -> Opening {
        Opening { taken, hello: None, early: None }
    }
}

/// Reads so much of a stream as it takes to know where it goes.
pub async fn read(
    client: &Client,
    here: &Here,
    streams: &Streams,
    stream: &mut ClientStream,
) -> Result<Opening, Cause> {
    let refuses = refuses_headers(client, here);
    let mut held: Option<Buffer> = None;
    let reading = poll_fn(|cx| {
        loop {
            let early = held.get_or_insert_with(|| Buffer::borrow(&client.worker.buffers));
            let came = match early.poll_fill(cx, stream) {
                Poll::Ready(came) => came.map_err(|_| Cause::ClientGone)?,
                Poll::Pending => {
                    // As long as it says nothing it costs no buffer.
                    held.take_if(|early| early.is_empty());
                    return Poll::Pending;
                }
            };
            client.session.count_received(came);
            if refuses && proxy::is_header(early.data()) == Some(true) {
                return Poll::Ready(Err(Cause::ProxyUnexpected));
            }
            match sni::read(early.data()) {
                Ok(Step::Hello(hello)) => return Poll::Ready(Ok(Some(hello))),
                // It goes where those go that name no server.
                Err(sni::NotTls) => return Poll::Ready(Ok(None)),
                Ok(Step::NeedMore) if came == 0 && early.is_empty() => {
                    return Poll::Ready(Err(Cause::ClientGone));
                }
                Ok(Step::NeedMore) if came == 0 => return Poll::Ready(Ok(None)),
                Ok(Step::NeedMore) => {}
            }
        }
    });
    let within = here.listener().config.timeouts.proxy_header;
    let reading = client.session.deadline.within(within, reading);
    let hello = match client.session.unless_cut(reading).await {
        Some(Ok(done)) => done?,
        // It had its time, but for one that is to leave: nothing of it is in progress.
        Some(Err(_)) if client.session.is_leaving() => return Err(Cause::ClientGone),
        Some(Err(_)) => return Err(Cause::ClientTimeout),
        None => return Err(Cause::Shutdown),
    };
    let name = hello.as_ref().and_then(|hello| hello.server_name.as_deref());
    Ok(Opening { taken: streams.find(name), hello, early: held })
}

/// Some clients of this listener begin with a PROXY header, and this one must not.
fn refuses_headers(client: &Client, here: &Here) -> bool {
    let told = client.origin.as_ref().is_some_and(|origin| origin.told);
    here.listener().config.accept_proxy_protocol.is_some() && !told
}

/// Sends the backend what the client has said already. Truncated is the backend's end.
pub async fn pass_on(
    client: &Client,
    here: &Here,
    lease: &Lease,
    (stream, backend): (&mut ClientStream, &mut BackendStream),
    early: Option<Buffer>,
    idle: Duration,
) -> Result<(), Cause> {
    let passing = async {
        let early = match early {
            None if refuses_headers(client, here) => {
                without_header(client, stream, backend).await?
            }
            early => early,
        };
        let Some(early) = early else { return Ok(()) };
        backend.write_all(early.data()).await.map_err(|_| Cause::Truncated)?;
        backend.flush().await.map_err(|_| Cause::Truncated)?;
        let cells = lease.backend().cells.of(client.worker.id);
        cells.sent_bytes.add(early.len() as u64);
        Ok(())
    };
    let deadline = &client.session.deadline;
    match client.session.unless_cut(deadline.within(idle, passing)).await {
        Some(Ok(done)) => done,
        Some(Err(_)) if deadline.is_cut() => Err(Cause::Released),
        // Neither has said anything for long, or we stop.
        Some(Err(_)) | None => Err(Cause::ClientGone),
    }
}

/// Waits for who speaks first, and sees to it that a client that does begins with no PROXY header: the
/// backend would take that for ours. Gives what it has read of the client.
async fn without_header(
    client: &Client,
    stream: &mut ClientStream,
    backend: &mut BackendStream,
) -> Result<Option<Buffer>, Cause> {
    let mut early: Option<Buffer> = None;
    poll_fn(|cx| {
        loop {
            if backend_has_spoken(cx, backend) {
                return Poll::Ready(Ok(()));
            }
            let into = early.get_or_insert_with(|| Buffer::borrow(&client.worker.buffers));
            let Poll::Ready(came) = into.poll_fill(cx, stream) else {
                // As long as it says nothing it costs no buffer.
                early.take_if(|early| early.is_empty());
                return Poll::Pending;
            };
            let came = came.map_err(|_| Cause::ClientGone)?;
            client.session.count_received(came);
            match proxy::is_header(into.data()) {
                Some(true) => return Poll::Ready(Err(Cause::ProxyUnexpected)),
                None if came > 0 => {}
                Some(false) | None => return Poll::Ready(Ok(())),
            }
        }
    })
    .await?;
    Ok(early.filter(|early| !early.is_empty()))
}

/// The same of a backend; what TLS says on its own account is nothing.
fn backend_has_spoken(cx: &mut Context<'_>, backend: &mut BackendStream) -> bool {
    if let Some(plain) = backend.plain() {
        return has_spoken(cx, plain);
    }
    while backend.is_quiet() {
        if backend.socket().poll_read_ready(cx).is_pending() {
            return false;
        }
    }
    true
}

/// Something has come, be it the end.
fn has_spoken(cx: &mut Context<'_>, socket: Plain<'_>) -> bool {
    while socket.poll_read_ready(cx).is_ready() {
        let peeked = socket.try_io(Interest::READABLE, |fd| socket::peek(fd, &mut [0]));
        if !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return true;
        }
    }
    false
}
