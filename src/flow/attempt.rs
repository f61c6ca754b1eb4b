//! One attempt of a request at one backend: a kept connection or a fresh one, the head of the answer.
//!
//! Says how it failed and what the backend may have seen; whether another follows is not its matter.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::uri::Scheme;
use http::{Method, StatusCode};

use super::client::Client;
use super::decide::Plan;
use super::engaged::Entered;
use super::head::{self, Rules};
use crate::forward::buffer::Buffer;
use crate::forward::http::exchange::{self, Clocks};
use crate::forward::http::front::Line;
use crate::forward::http::head::{Framing, RequestHead, ResponseHead};
use crate::forward::http::upload::Upload;
use crate::forward::http::{Back, Front, websocket};
use crate::outcome::{Cause, Sent};
use crate::pool::Lease;

/// Bytes of answers that a worker holds back at once: what comes beyond them is passed on as it comes.
const HELD_BYTES: usize = 16 << 20;

/// An attempt that got no answer, and how much of the request the backend may have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub cause: Cause,
    pub sent: Sent,
}

/// An attempt that brought the head of an answer.
#[derive(Debug)]
pub struct Answered {
    pub answer: ResponseHead,
    pub conn: Back,
    /// Interim answers that the client has not been given.
    pub interims: Option<Box<Vec<ResponseHead>>>,
    /// Dropped after the connection.
    pub entered: Entered,
}

/// What the attempts of one request have in common.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub client: &'a Rc<Client>,
    pub plan: &'a Plan<'a>,
    pub clocks: &'a Clocks,
    pub head: &'a RequestHead,
    pub rules: &'a Rules<'a>,
    /// The protocol that the client wants to change to.
    pub upgrade: Option<&'a [u8]>,
    /// That is WebSocket, for which HTTP/2 has a form as well.
    pub websocket: bool,
    /// An answer that is cut short may be asked for again.
    pub repeatable: bool,
    /// The request's body is read as data, not as HTTP/1 frames it.
    pub data: bool,
}

impl Attempt<'_> {
    /// Done when the head of the answer is here, and so much of its body as is held back.
    pub async fn run(
        &self,
        lease: &Lease,
        front: &mut Front<'_>,
        upload: &mut Upload,
    ) -> Result<Answered, Failed> {
        let entered = self.client.worker.engaged.enter(lease.backend().id, &self.clocks.step);
        let mut kept = self.kept(lease);
        loop {
            let reused = kept.is_some();
            let mut conn = match kept.take() {
                Some(conn) => conn,
                // In a box: most requests make no connection, and need not carry what that takes.
                None => Box::pin(self.connect(lease, self.clocks)).await.map_err(unsent)?,
            };
            match self.ask(lease, &mut conn, front, upload).await {
                Ok(answer) => {
                    let switching = answer.status == StatusCode::SWITCHING_PROTOCOLS;
                    if switching && !(self.may_switch(&answer) && upload.is_done(front)) {
                        return Err(Failed { cause: Cause::Garbage, sent: upload.sent() });
                    }
                    if let Some(length) = self.holds(&answer, &conn)
                        && upload.is_done(front)
                        && upload.sent() == Sent::Replayable
                    {
                        let gone = |cx: &mut Context<'_>| front.poll_gone(cx);
                        let answered = Answered { answer, conn, interims: None, entered };
                        return Box::pin(self.hold(answered, length, self.clocks, gone)).await;
                    }
                    return Ok(Answered { answer, conn, interims: None, entered });
                }
                // The backend closed it while it was idle: once more, on a fresh one.
                Err(Failed { cause: Cause::Reset, sent })
                    if reused && conn.was_lost() && sent.allows_another(self.plan.ask.safe) => {}
                Err(failed) => return Err(failed),
            }
        }
    }

    /// The same for a request that has no body, without touching the client's side.
    pub async fn run_alone(&self, lease: &Lease, clocks: &Clocks) -> Result<Answered, Failed> {
        let worker = &self.client.worker;
        let entered = worker.engaged.enter(lease.backend().id, &clocks.step);
        let mut kept = self.kept(lease);
        loop {
            let reused = kept.is_some();
            let mut conn = match kept.take() {
                Some(conn) => conn,
                None => Box::pin(self.connect(lease, clocks)).await.map_err(unsent)?,
            };
            let request = self.request(lease, &mut conn)?;
            let to_head = self.head.method == Method::HEAD;
            clocks.step.set(self.plan.timeouts.response);
            let asked = exchange::ask_alone(
                &mut conn,
                request,
                clocks,
                &worker.heads,
                &worker.buffers,
                to_head,
            );
            let asked = asked.await;
            clocks.step.clear();
            let sent = |wrote| if wrote { Sent::Replayable } else { Sent::Nothing };
            match asked {
                // Nobody has asked for another protocol.
                Ok((answer, _)) if answer.status == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Failed { cause: Cause::Garbage, sent: sent(true) });
                }
                Ok((answer, interims)) => {
                    let length = self.holds(&answer, &conn);
                    let interims = (!interims.is_empty()).then(|| Box::new(interims));
                    let answered = Answered { answer, conn, interims, entered };
                    return match length {
                        Some(length) => {
                            self.hold(answered, length, clocks, |_| Poll::Pending).await
                        }
                        None => Ok(answered),
                    };
                }
                Err((Cause::Reset, _)) if reused && conn.was_lost() => {}
                Err((cause, wrote)) => return Err(Failed { cause, sent: sent(wrote) }),
            }
        }
    }

    /// The request's head in the form of its backend's protocol: bytes to begin with, or set there.
    fn request(&self, lease: &Lease, conn: &mut Back) -> Result<Option<Buffer>, Failed> {
        let addr = lease.backend().addr;
        match conn {
            Back::H1(_) => {
                let mut request = Buffer::borrow(&self.client.worker.buffers);
                head::pass_on(self.head, self.rules, self.upgrade, addr, &mut request);
                Ok(Some(request))
            }
            Back::H2(stream) => {
                let scheme = if lease.tls().is_some() { Scheme::HTTPS } else { Scheme::HTTP };
                let (head, websocket) = (self.head, self.websocket);
                // Of those that there are to this backend, each says the same.
                if websocket && !stream.takes_tunnels() {
                    return Err(unsent(Cause::Unsupported));
                }
                let request = head::pass_on_h2(head, self.rules, addr, scheme, websocket);
                let request = request.map_err(unsent)?;
                let bodiless = matches!(head.framing, Framing::None | Framing::Length(0));
                match websocket::accept(&head.store).filter(|_| websocket) {
                    Some(accept) => stream.set_tunnel(request, accept),
                    None => stream.set_request(request, bodiless),
                }
                Ok(None)
            }
        }
    }

    /// The length of an answer that is to be held back until it is whole: it can be asked for again as
    /// long as nothing of it has gone to the client. `None` for one that is whole already.
    fn holds(&self, answer: &ResponseHead, conn: &Back) -> Option<usize> {
        let Framing::Length(length) = answer.framing else { return None };
        let length = usize::try_from(length).ok()?;
        let most = self.plan.picker.pool().config.retry.buffer_bytes;
        let worker = &self.client.worker;
        let fits = self.repeatable && length <= most && conn.held() < length;
        (fits && worker.held_bytes.get() + length <= HELD_BYTES).then_some(length)
    }

    /// All of the request has been sent.
    async fn hold(
        &self,
        mut answered: Answered,
        length: usize,
        clocks: &Clocks,
        gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Answered, Failed> {
        let worker = &self.client.worker;
        let cells = self.plan.picker.pool().state.cells.of(worker.id);
        cells.held_back.inc();
        let _counted = cells.held_back_bytes.raised_by(length as u64);
        let _held = Held::new(&worker.held_bytes, length);
        let conn = &mut answered.conn;
        match exchange::hold(conn, length, clocks, &worker.buffers, gone).await {
            Ok(()) => Ok(answered),
            Err(cause) => Err(Failed { cause, sent: Sent::Replayable }),
        }
    }

    /// The client is given what it was not given on the way.
    pub fn pass_on(&self, interims: Option<Box<Vec<ResponseHead>>>, front: &mut Front<'_>) {
        let edits = &self.plan.route.config.response_headers;
        for head in interims.iter().flat_map(|all| all.iter()) {
            let (framing, told_length) = (Framing::None, None);
            let line = Line { status: head.status, reason: head.reason(), framing, told_length };
            front.interim(&line, |to| self::head::pass_back(head, edits, "", None, to));
        }
    }

    /// Whether it was this change of protocol that the client has asked for.
    fn may_switch(&self, answer: &ResponseHead) -> bool {
        self.upgrade.is_some_and(|asked| head::switches_to(self.head, answer, asked))
    }

    async fn ask(
        &self,
        lease: &Lease,
        conn: &mut Back,
        front: &mut Front<'_>,
        upload: &mut Upload,
    ) -> Result<ResponseHead, Failed> {
        match (self.request(lease, conn)?, &*conn) {
            (Some(bytes), _) => {
                upload.begin(bytes, self.data && self.head.framing == Framing::Chunked)
            }
            (None, Back::H2(stream)) => upload.begin_stream(stream.has_body()),
            (None, Back::H1(_)) => {} // it always begins with bytes
        }
        let to_head = self.head.method == Method::HEAD;
        let edits = &self.plan.route.config.response_headers;
        let heads = &self.client.worker.heads;
        let asked =
            exchange::ask(front, conn, upload, self.clocks, heads, to_head, |interim, to| {
                head::pass_back(interim, edits, "", None, to);
            });
        asked.await.map_err(|cause| {
            if conn.is_unprocessed() {
                upload.unprocessed();
            }
            Failed { cause, sent: upload.sent() }
        })
    }
}

fn unsent(cause: Cause) -> Failed {
    Failed { cause, sent: Sent::Nothing }
}

/// Bytes that are held back, until it is dropped.
struct Held<'a>(&'a Cell<usize>, usize);

impl Held<'_> {
    fn new(of: &Cell<usize>, bytes: usize) -> Held<'_> {
        of.set(of.get() + bytes);
        Held(of, bytes)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - self.1);
    }
}
