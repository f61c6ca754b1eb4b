//! One attempt of a request at one backend: a kept connection or a fresh one, the head of the answer.
//!
//! Says how it failed and what the backend may have seen; whether another follows is not its matter.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};

use super::client::Client;
use super::decide::Plan;
use super::head;
use crate::config::model::Timeouts;
use crate::forward::connect::connect;
use crate::forward::http::upload::Source;
use crate::forward::http::{BackendConn, Incoming, SendError};
use crate::outcome::{self, Cause, Sent};
use crate::pool::Lease;
use crate::sys::shortage::is_shortage;
use crate::timer::{Deadline, Elapsed, Wheel};

/// The deadlines of one request.
#[derive(Debug)]
pub struct Clocks {
    /// For whatever is waited for right now.
    pub step: Deadline,
    /// `timeouts.request`, if it is on.
    pub overall: Option<Deadline>,
}

impl Clocks {
    pub fn new(step: &Deadline, wheel: &Rc<Wheel>, timeouts: &Timeouts) -> Clocks {
        let overall = timeouts.request.map(|after| {
            let overall = Deadline::new(wheel);
            overall.set(after);
            overall
        });
        Clocks { step: step.clone(), overall }
    }
}

/// One attempt of a request at one backend.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub client: &'a Rc<Client>,
    pub plan: &'a Plan<'a>,
    pub clocks: &'a Clocks,
    pub parts: &'a Parts,
    pub source: &'a Source,
}

impl Attempt<'_> {
    /// Done when the head of the answer is here.
    pub async fn run(
        &self,
        lease: &Lease,
        upgrade: bool,
    ) -> Result<(Response<Incoming>, BackendConn), SendError> {
        let worker = &self.client.worker;
        let careful = !outcome::is_idempotent(&self.parts.method);
        let mut kept = match upgrade {
            true => None,
            false => worker.idle.take(lease.backend().id, worker.wheel.now(), careful),
        };
        loop {
            let reused = kept.is_some();
            let mut conn = match kept.take() {
                Some(conn) => conn,
                None => self.connect(lease).await?,
            };
            match self.send(lease, &mut conn).await {
                Ok(mut answer) => {
                    self.check(&mut answer, &mut conn, upgrade)?;
                    return Ok((answer, conn));
                }
                // The backend closed it while it was idle: once more, on a fresh one.
                Err(SendError { cause: Cause::Reset, sent })
                    if reused && Cause::Reset.retry(&self.parts.method, sent) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What hyper lets pass of an answer's head, and must not go on to the client.
    fn check(
        &self,
        answer: &mut Response<Incoming>,
        conn: &mut BackendConn,
        upgrade: bool,
    ) -> Result<(), SendError> {
        let garbage = |cause| SendError { cause, sent: self.source.sent() };
        if head::check_framing(answer.headers_mut()).map_err(garbage)? {
            conn.spoil();
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrade {
            return Err(garbage(Cause::Garbage));
        }
        Ok(())
    }

    async fn connect(&self, lease: &Lease) -> Result<BackendConn, SendError> {
        let refused = |cause| SendError { cause, sent: Sent::Nothing };
        let worker = &self.client.worker;
        let began = Instant::now();
        let connecting = connect(lease.backend().addr);
        let stream = match self.bounded(self.plan.timeouts.connect, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_shortage(&error) => return Err(refused(Cause::Shortage)),
            Ok(Err(_)) => return Err(refused(Cause::Connect)),
            Err(Elapsed) => return Err(refused(Cause::ConnectTimeout)),
        };
        let pool = lease.picker().pool();
        pool.state.cells.of(worker.id).connect.observe(began.elapsed());
        BackendConn::new(stream, lease.shared_backend(), worker.id).await.map_err(refused)
    }

    async fn send(
        &self,
        lease: &Lease,
        conn: &mut BackendConn,
    ) -> Result<Response<Incoming>, SendError> {
        let mut request = Request::new(self.source.upload());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        if !self.parts.headers.contains_key(header::HOST) {
            // A client of HTTP/1.0 may name no host; a server of HTTP/1.1 insists on one.
            let host = HeaderValue::try_from(lease.backend().addr.to_string());
            host.map(|host| request.headers_mut().insert(header::HOST, host)).ok();
        }
        let sending = conn.send(request, self.source);
        match self.bounded(self.plan.timeouts.response, sending).await {
            Ok(result) => result,
            Err(Elapsed) => Err(SendError {
                cause: match self.source.waits_for_client() {
                    true => Cause::ClientTimeout,
                    false => Cause::Timeout,
                },
                sent: self.source.sent(),
            }),
        }
    }

    /// Bounds one step by its own time and by the whole request's.
    async fn bounded<T>(
        &self,
        after: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let step = self.clocks.step.within(after, work);
        match &self.clocks.overall {
            Some(overall) => overall.bound(step).await?,
            None => step.await,
        }
    }
}
