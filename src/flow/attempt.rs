//! One attempt of a request at one backend: a kept connection or a fresh one, the head of the answer.
//!
//! Says how it failed and what the backend may have seen; whether another follows is not its matter.

use std::rc::Rc;
use std::time::Instant;

use http::{Method, StatusCode};

use super::client::Client;
use super::decide::Plan;
use super::head::{self, Rules};
use crate::forward::buffer::Buffer;
use crate::forward::connect::connect;
use crate::forward::http::exchange::{self, Clocks};
use crate::forward::http::head::{RequestHead, ResponseHead};
use crate::forward::http::upload::Upload;
use crate::forward::http::{BackendConn, Front};
use crate::outcome::{Cause, Sent};
use crate::pool::Lease;
use crate::sys::shortage::is_shortage;
use crate::timer::Elapsed;

/// An attempt that got no answer, and how much of the request the backend may have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub cause: Cause,
    pub sent: Sent,
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
}

impl Attempt<'_> {
    /// Done when the head of the answer is here.
    pub async fn run(
        &self,
        lease: &Lease,
        front: &mut Front<'_>,
        upload: &mut Upload,
    ) -> Result<(ResponseHead, Box<BackendConn>), Failed> {
        let worker = &self.client.worker;
        let careful = !self.plan.ask.safe;
        let mut kept = match self.upgrade {
            Some(_) => None,
            None => worker.idle.take(lease.backend().id, worker.wheel.now(), careful),
        };
        loop {
            let reused = kept.is_some();
            let mut conn = match kept.take() {
                Some(conn) => conn,
                // In a box: most requests make no connection, and need not carry what that takes.
                None => Box::pin(self.connect(lease)).await?,
            };
            match self.ask(lease, &mut conn, front, upload).await {
                Ok(answer) => {
                    let switching = answer.status == StatusCode::SWITCHING_PROTOCOLS;
                    if switching && !(self.may_switch(&answer) && upload.is_done(front)) {
                        return Err(Failed { cause: Cause::Garbage, sent: upload.sent() });
                    }
                    return Ok((answer, conn));
                }
                // The backend closed it while it was idle: once more, on a fresh one.
                Err(Failed { cause: Cause::Reset, sent })
                    if reused && Cause::Reset.retry(&self.head.method, sent) => {}
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Whether it was this change of protocol that the client has asked for.
    fn may_switch(&self, answer: &ResponseHead) -> bool {
        self.upgrade.is_some_and(|asked| head::switches_to(answer, asked))
    }

    async fn connect(&self, lease: &Lease) -> Result<Box<BackendConn>, Failed> {
        let refused = |cause| Failed { cause, sent: Sent::Nothing };
        let worker = &self.client.worker;
        let began = Instant::now();
        let connecting = connect(lease.backend().addr);
        let Clocks { step, overall } = self.clocks;
        let connecting = step.within(self.plan.timeouts.connect, connecting);
        let connected = match overall {
            Some(overall) => overall.bound(connecting).await.unwrap_or(Err(Elapsed)),
            None => connecting.await,
        };
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_shortage(&error) => return Err(refused(Cause::Shortage)),
            Ok(Err(_)) => return Err(refused(Cause::Connect)),
            Err(Elapsed) => return Err(refused(Cause::ConnectTimeout)),
        };
        let pool = lease.picker().pool();
        pool.state.cells.of(worker.id).connect.observe(began.elapsed());
        Ok(Box::new(BackendConn::new(stream, lease.shared_backend(), worker.id)))
    }

    async fn ask(
        &self,
        lease: &Lease,
        conn: &mut BackendConn,
        front: &mut Front<'_>,
        upload: &mut Upload,
    ) -> Result<ResponseHead, Failed> {
        let mut request = Buffer::borrow(front.buffers());
        head::pass_on(self.head, self.rules, self.upgrade, lease.backend().addr, &mut request);
        upload.begin(request);
        let to_head = self.head.method == Method::HEAD;
        let edits = &self.plan.route.config.response_headers;
        let heads = &self.client.worker.heads;
        let asked =
            exchange::ask(front, conn, upload, self.clocks, heads, to_head, |interim, to| {
                head::pass_back(interim, edits, "", to);
            });
        asked.await.map_err(|cause| Failed { cause, sent: upload.sent() })
    }
}
