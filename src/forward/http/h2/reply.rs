//! The answer's way to an HTTP/2 client: a stream's sending side, of which the story makes use and whose
//! reset ends the story.
//!
//! It goes from asked to begun to ended, and never back; a stream that becomes a tunnel is taken out of it.
//! Dropped before its end it resets the stream: what the client has got is not whole.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Response};

use super::tunnel::Tunnel;
use super::wire;
use crate::forward::buffer::Buffer;
use crate::outcome::Cause;
use crate::route::fields::Store;

/// The first piece of an answer, if it is no longer than this, is handed over without asking what the client
/// takes: most answers end with it, and nobody need wait then. What does not go out waits as it would in a
/// socket's buffer, 128 times at the most. But not while more of the request may come: the h2 crate loses
/// count of a stream that it has to reset (RFC 9113 8.1) before its data have found room.
const AT_ONCE: usize = 16 * 1024;

/// What an interim head takes in memory beside its fields, about.
const INTERIM_BYTES: usize = 2048;

#[derive(Debug)]
pub struct Reply(RefCell<Stage>);

#[derive(Debug)]
enum Stage {
    /// No head has been sent, but for interim ones, for which there is so much room.
    Asked { to: SendResponse<Bytes>, room: usize },
    /// It has, and more may follow; `fresh`: nothing has yet.
    Begun { to: SendStream<Bytes>, fresh: bool },
    /// All has been said.
    Ended,
    /// The answer was a change of protocol.
    Tunnel(Tunnel),
}

impl Reply {
    pub fn new(to: SendResponse<Bytes>) -> Reply {
        Reply(RefCell::new(Stage::Asked { to, room: AT_ONCE }))
    }

    /// Ready when the client has reset the stream, or its connection has ended.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.0.borrow_mut() {
            Stage::Asked { to, .. } => to.poll_reset(cx).map(drop),
            Stage::Begun { to, .. } => to.poll_reset(cx).map(drop),
            Stage::Ended | Stage::Tunnel(_) => Poll::Pending,
        }
    }

    /// Sends a head ahead of the answer's own (1xx), as long as there is room: nobody need have them, and a
    /// client that takes nothing is not to have them all waiting here. Whoever is gone need not know.
    pub fn interim(&self, head: Response<()>) {
        let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        let bytes = head.headers().iter().map(bytes).sum::<usize>() + INTERIM_BYTES;
        if let Stage::Asked { to, room } = &mut *self.0.borrow_mut()
            && let Some(left) = room.checked_sub(bytes)
        {
            *room = left;
            let _ = to.send_informational(head);
        }
    }

    /// Sends the head of the answer; `ends`: it is all there is. If the client is gone, that shows in what
    /// follows.
    pub fn begin(&self, head: Response<()>, ends: bool) {
        let mut stage = self.0.borrow_mut();
        if let Stage::Asked { to, .. } = &mut *stage
            && let Ok(to) = to.send_response(head, ends)
        {
            *stage = if ends { Stage::Ended } else { Stage::Begun { to, fresh: true } };
        }
    }

    /// The same where the stream becomes a tunnel by it.
    pub fn begin_tunnel(&self, head: Response<()>, from_client: RecvStream) {
        let mut stage = self.0.borrow_mut();
        if let Stage::Asked { to, .. } = &mut *stage
            && let Ok(to_client) = to.send_response(head, false)
        {
            *stage = Stage::Tunnel(Tunnel::with_client(to_client, from_client));
        }
    }

    /// What the stream has become by that.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self.0.replace(Stage::Ended) {
            Stage::Tunnel(tunnel) => Some(tunnel),
            before => {
                self.0.replace(before);
                None
            }
        }
    }

    /// Sends what the client takes of `piece`; ready when that was all of it. `last`: the answer ends
    /// with it. `asked`: the client has said all that it has to say. An error is the client's end.
    pub fn poll_send(
        &self,
        cx: &mut Context<'_>,
        piece: &mut Buffer,
        last: bool,
        asked: bool,
    ) -> Poll<Result<(), Cause>> {
        let mut stage = self.0.borrow_mut();
        while !piece.is_empty() {
            let Stage::Begun { to, fresh } = &mut *stage else {
                return Poll::Ready(Err(Cause::ClientGone));
            };
            match std::mem::take(fresh) && asked && piece.len() <= AT_ONCE {
                true => wire::send_all(to, piece, last).map_err(gone)?,
                false => ready!(wire::poll_send(to, cx, piece, last)).map_err(gone)?,
            }
            if last && piece.is_empty() {
                *stage = Stage::Ended;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the answer, if its last piece has not done so.
    pub fn end(&self, trailers: Option<&Store>) -> Result<(), Cause> {
        let mut stage = self.0.borrow_mut();
        let ended = match &mut *stage {
            Stage::Asked { .. } => return Err(Cause::ClientGone),
            Stage::Begun { to, .. } => wire::end(to, trailers),
            Stage::Ended | Stage::Tunnel(_) => return Ok(()),
        };
        *stage = Stage::Ended;
        ended.map_err(gone)
    }
}

fn gone(_: wire::Closed) -> Cause {
    Cause::ClientGone
}

impl Drop for Reply {
    fn drop(&mut self) {
        match self.0.get_mut() {
            Stage::Asked { to, .. } => to.send_reset(Reason::INTERNAL_ERROR),
            Stage::Begun { to, .. } => to.send_reset(Reason::INTERNAL_ERROR),
            Stage::Ended | Stage::Tunnel(_) => {}
        }
    }
}
