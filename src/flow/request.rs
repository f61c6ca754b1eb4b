//! One HTTP request, from its head to the last byte of its answer: route, pick, connect, forward, and
//! the attempts that follow when a backend fails.
//!
//! A request that fails ends with an answer of our own (`answer`) and its account (`record`). What is
//! safe to send again is decided in `outcome`; nothing is sent again once an answer has begun.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::answer::{self, Answer};
use super::attempt::{Attempt, Failed};
use super::client::Client;
use super::decide::{Decision, Plan, Refused, decide};
use super::head::{self, Rules};
use super::judge;
use super::record::{self, Record};
use super::worker::Here;
use crate::config::model::{ErrorPages, Timeouts};
use crate::forward::buffer::Buffer;
use crate::forward::http::exchange::{self, Clocks, End};
use crate::forward::http::front::{Line, Want};
use crate::forward::http::h1::client::ClientConn;
use crate::forward::http::head::{RequestHead, ResponseHead};
use crate::forward::http::upload::{Upload, Watch};
use crate::forward::http::{BackendConn, Front, Sink};
use crate::observe::cells::PoolCells;
use crate::outcome::{Cause, Side};
use crate::pool::Lease;
use crate::pool::budget::{RequestGuard, RetryGuard};
use crate::pool::pick::{Ask, Tried};
use crate::route::{Route, headers};
use crate::timer::Deadline;

/// Of a body that nobody wants, what is read so that the connection can be kept.
const UNWANTED_BYTES: usize = 64 * 1024;

/// How an HTTP/1 connection goes on after a request. HTTP/2 needs no telling.
#[derive(Debug)]
pub enum After {
    Keep,
    /// The client has its answer; `unread`: not all that it sent was read.
    Close {
        unread: bool,
    },
    /// What the client got is not whole, and must not look so.
    Reset,
    /// The two ends speak what they like now.
    Upgraded(Box<Upgrade>),
}

/// A request whose connection changes its protocol.
#[derive(Debug)]
pub struct Upgrade {
    pub exchange: Exchange,
    pub record: Record,
    /// Longest silence.
    pub idle: Duration,
}

/// Serves one request to its end; `step` is the deadline of whatever is waited for.
pub fn serve(
    client: Rc<Client>,
    mut front: Front<'_>,
    head: RequestHead,
    step: Deadline,
) -> impl Future<Output = After> {
    client.begin_request();
    let here = client.here();
    front.begin_body(head.framing, here.view.snapshot.config.limits.request_body_bytes);
    let record = Record::new(client, head);
    // What comes before is not part of the future: it would be carried along to the end.
    async move {
        let decision = decide(&here, &record.client, &record.head);
        let plan = match &decision {
            Ok(Decision::Forward(plan)) => plan,
            Ok(Decision::Answer(own)) => {
                return finish(&record, &mut front, &step, own, None).await;
            }
            Err(Refused { cause, route, wait }) => {
                let own = answer::error(*cause, pages(&here, *route)).retry_after(*wait);
                return finish(&record, &mut front, &step, &own, Some(*cause)).await;
            }
        };
        record.pool(&plan.picker);
        let clocks = clocks(&record.client, plan, &step);
        let mut upload = upload(plan, &record);
        let begun = forward(&here, plan, &clocks, &record, &mut front, &mut upload).await;
        let (mut exchange, answer) = match begun {
            Ok(begun) => begun,
            Err(cause) => {
                let own = answer::error(cause, pages(&here, Some(plan.route)));
                return finish(&record, &mut front, &step, &own, Some(cause)).await;
            }
        };
        let (head, want) = exchange.begin(plan, &record, &mut front, &upload, answer);
        let (conn, idle) = (&mut exchange.conn, plan.timeouts.stream_idle);
        let end = exchange::relay(&mut front, conn, &mut upload, &clocks, head, want, idle).await;
        if exchange.switches && matches!(end, End::Whole { .. }) {
            return After::Upgraded(Box::new(Upgrade { exchange, record, idle }));
        }
        exchange.end(end, &record, &front)
    }
}

/// Ends a connection whose next head cannot be served, with an answer that says why.
pub async fn refuse(client: &Client, mut conn: ClientConn, cause: Cause) {
    let here = client.here();
    let limits = &client.worker.shared.status.limits;
    if matches!(cause, Cause::HeadTooLarge | Cause::TargetTooLong) {
        limits.count_request_head();
    }
    record::refused(client, cause);
    let own = answer::error(cause, pages(&here, None));
    let mut front = Front::refusing(&mut conn);
    if send(&own, client, &mut front, &client.session.deadline, None, true).await.is_ok() {
        conn.close(true).await;
    }
}

/// Sends an answer of our own, and waits until the client has taken it.
async fn send(
    own: &Answer,
    client: &Client,
    front: &mut Front<'_>,
    step: &Deadline,
    method: Option<&Method>,
    close: bool,
) -> Result<(), Cause> {
    let worker = &client.worker;
    worker.date.with(worker.wheel.now(), |date| own.queue(front, method, close, date));
    let idle = client.here().listener().config.timeouts.stream_idle;
    exchange::flush(front, step, idle).await
}

/// The error pages that hold, the nearest first.
fn pages<'a>(
    here: &'a Here,
    route: Option<&'a Route>,
) -> impl Iterator<Item = &'a ErrorPages> + 'a {
    let own = route.map(|route| &route.config.error_pages);
    own.into_iter().chain([&here.listener().config.error_pages])
}

/// Ends a request with an answer of our own; `failed` says of what it failed, if it did.
async fn finish(
    record: &Record,
    front: &mut Front<'_>,
    step: &Deadline,
    own: &Answer,
    failed: Option<Cause>,
) -> After {
    let client = &record.client;
    if failed == Some(Cause::ClientGone) {
        record.finish(failed);
        return After::Reset; // nobody is there to read an answer
    }
    let fault = failed.is_some_and(|cause| cause.side() == Side::Client);
    let unread = fault || !skip_body(front);
    let close = client.session.is_leaving() || unread;
    record.status(own.status.as_u16());
    match send(own, client, front, step, Some(&record.head.method), close).await {
        Ok(()) => record.finish(failed),
        Err(_) => {
            record.finish(failed.or(Some(Cause::ClientGone)));
            return After::Reset;
        }
    }
    if front.closes() { After::Close { unread } } else { After::Keep }
}

/// Reads what has come of a body that nobody wants; true if that was all of it.
fn skip_body(front: &mut Front<'_>) -> bool {
    let mut nobody = Context::from_waker(Waker::noop());
    let mut skipped = 0;
    while !front.is_body_ended() && skipped < UNWANTED_BYTES {
        match front.poll_body(&mut nobody) {
            Poll::Ready(Ok(Some(piece))) => skipped += piece.len(),
            Poll::Ready(_) | Poll::Pending => break,
        }
    }
    front.is_body_ended()
}

fn clocks(client: &Client, plan: &Plan<'_>, step: &Deadline) -> Clocks {
    let overall = plan.timeouts.request.map(|after| {
        let overall = Deadline::new(&client.worker.wheel);
        overall.set(after);
        overall
    });
    Clocks { step: step.clone(), overall }
}

fn upload(plan: &Plan<'_>, record: &Record) -> Upload {
    let Timeouts { client_body, response, .. } = plan.timeouts;
    let pipes = &record.client.worker.pipes;
    Upload::new(Watch { client_body, response }, record.head.expects_continue, pipes)
}

/// The attempts, until one brings the head of an answer.
async fn forward(
    here: &Here,
    plan: &Plan<'_>,
    clocks: &Clocks,
    record: &Record,
    front: &mut Front<'_>,
    upload: &mut Upload,
) -> Result<(Exchange, ResponseHead), Cause> {
    let (client, head) = (&record.client, &record.head);
    let worker = &client.worker;
    let rules = rules(client, here, plan, head);
    let upgrade = head::upgrade(head);
    let attempt = Attempt { client, plan, clocks, head, rules: &rules, upgrade };
    let in_progress = plan.picker.begin_request(worker.id);
    let cells = plan.picker.pool().state.cells.of(worker.id);
    let mut tried = Tried::default();
    let mut failed = None;
    // Held while an attempt counts against the pool's retry budget.
    let mut _retry: Option<RetryGuard> = None;
    loop {
        // The first attempt is as old as its request, to the microsecond.
        let attempts = record.attempts.get();
        let began = if attempts == 0 { record.started } else { Instant::now() };
        let ask = Ask { now_nanos: worker.nanos(began), ..plan.ask };
        let Ok(lease) = plan.picker.pick(ask, &tried) else {
            return Err(failed.unwrap_or_else(|| {
                cells.none_serving.inc();
                Cause::NoneServing
            }));
        };
        record.attempts.set(attempts + 1);
        match attempt.run(&lease, front, upload).await {
            Ok((answer, conn)) => {
                let answered = Instant::now();
                cells.first_byte.observe(answered - record.started);
                let took = (answered - began).as_nanos() as u64;
                judge::answered(worker, &lease, answer.status.as_u16(), took, ask.now_nanos);
                let most = plan.picker.pool().config.keepalive.idle_timeout;
                // A second is taken off what the backend says, for the way.
                let keep = headers::keep_alive_seconds(answer.fields())
                    .map_or(most, |said| Duration::from_secs(said.saturating_sub(1)).min(most));
                let switches = answer.status == StatusCode::SWITCHING_PROTOCOLS;
                let _in_progress = in_progress;
                return Ok((Exchange { lease, conn, keep, switches, _in_progress }, answer));
            }
            Err(Failed { cause, sent }) => {
                if cause.side() == Side::Backend {
                    judge::failed(worker, &lease, cause);
                }
                if clocks.is_over() || !cause.retry(&head.method, sent) {
                    return Err(counted(cause, client));
                }
                _retry = another(plan, cells, record.attempts.get()).ok_or(cause)?;
                cells.retries[cause.index()].inc();
                tried.add(&lease);
                failed = Some(cause);
            }
        }
    }
}

/// Leave for one more attempt after `attempts`: so many in all, and the first retry of a request is
/// free, so that half a pool may die unnoticed. `None` is no.
fn another(plan: &Plan<'_>, cells: &PoolCells, attempts: u32) -> Option<Option<RetryGuard>> {
    match attempts {
        most if most >= plan.picker.pool().config.retry.attempts => None,
        1 => Some(None),
        _ => {
            let guard = plan.picker.try_retry();
            if guard.is_none() {
                cells.retry_budget_exhausted.inc();
            }
            guard.map(Some)
        }
    }
}

fn counted(cause: Cause, client: &Client) -> Cause {
    let limits = &client.worker.shared.status.limits;
    match cause {
        Cause::BodyTooLarge => limits.count_request_body(),
        Cause::Shortage => limits.count_open_files(),
        _ => {}
    }
    cause
}

fn rules<'a>(
    client: &'a Client,
    here: &Here,
    plan: &'a Plan<'_>,
    head: &'a RequestHead,
) -> Rules<'a> {
    Rules {
        target: plan.target.as_deref().unwrap_or(head.target()),
        rewrite: &plan.route.config.rewrite,
        edits: &plan.route.config.request_headers,
        client: client.addr_value.as_ref(),
        trusted: client.is_trusted(here),
    }
}

/// A request whose answer has begun.
#[derive(Debug)]
pub struct Exchange {
    pub lease: Lease,
    pub conn: Box<BackendConn>,
    /// How long the backend's connection may be kept after this request; zero is not at all.
    keep: Duration,
    /// Answered with 101.
    switches: bool,
    /// Counts the request against the pool's retry budget.
    _in_progress: RequestGuard,
}

impl Exchange {
    /// Begins the client's answer: its head, which goes out with the first of its body, and how that
    /// is wanted.
    fn begin(
        &mut self,
        plan: &Plan<'_>,
        record: &Record,
        front: &mut Front<'_>,
        upload: &Upload,
        answer: ResponseHead,
    ) -> (Option<Buffer>, Want) {
        let (client, edits) = (&record.client, &plan.route.config.response_headers);
        let want = front.want(answer.framing, || headers::takes_trailers(record.head.fields()));
        let line = Line {
            status: answer.status,
            reason: answer.reason(),
            framing: want.framing,
            told_length: answer.told_length(),
        };
        // A client that was not told to send its body need not send it now (RFC 9110 10.1.1): what comes
        // next on its connection could be either.
        let close = client.session.is_leaving() || upload.is_held();
        let worker = &client.worker;
        let head = worker.date.with(worker.wheel.now(), |date| {
            let fields = |to: Sink<'_>| head::pass_back(&answer, edits, date, to);
            front.begin(&line, close, fields)
        });
        record.status(answer.status.as_u16());
        self.conn.begin_body(&answer, want.form);
        (head, want)
    }

    /// Ends the account of an answer, and keeps the backend's connection where that may be.
    fn end(self, end: End, record: &Record, front: &Front<'_>) -> After {
        let worker = &record.client.worker;
        let Exchange { lease, conn, keep, .. } = self;
        match end {
            End::Whole { reusable } => {
                if reusable && !keep.is_zero() && conn.is_at_rest() {
                    let keepalive = &lease.picker().pool().config.keepalive;
                    let most = keepalive.max_idle.div_ceil(worker.shared.status.workers);
                    worker.idle.put(lease.backend().id, conn, worker.wheel.now(), keep, most);
                }
                record.finish(None);
                let unread = !front.is_body_ended();
                let close = unread || front.closes();
                if close { After::Close { unread } } else { After::Keep }
            }
            End::Truncated => {
                judge::failed(worker, &lease, Cause::Truncated);
                record.finish(Some(Cause::Truncated));
                After::Reset
            }
            End::Gone => {
                record.finish(Some(Cause::ClientGone));
                After::Reset
            }
            End::Over => {
                record.finish(Some(Cause::Timeout));
                After::Reset
            }
        }
    }
}
