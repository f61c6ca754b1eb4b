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
use super::attempt::{Answered, Attempt};
use super::client::Client;
use super::decide::{Decision, Plan, Refused, decide};
use super::head::{self, Rules};
use super::record::{self, Record};
use super::relay::Exchange;
use super::retry::Retries;
use super::wait::Wait;
use super::worker::Here;
use super::{grpc, hedge, judge, relay};
use crate::config::model::{ErrorPages, Pool, Protocol, Timeouts};
use crate::forward::http::Front;
use crate::forward::http::exchange::{self, Clocks, End};
use crate::forward::http::h1::client::ClientConn;
use crate::forward::http::head::{RequestHead, ResponseHead};
use crate::forward::http::upload::{Upload, Watch};
use crate::outcome::{Cause, Side};
use crate::pool::pick::Ask;
use crate::route::Route;
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
            // To a tunnel's client every success is its tunnel.
            Ok(Decision::Answer(own)) if is_no_tunnel(&record.head, own.status) => {
                let own = failed(&record, Cause::Unsupported, &here, None);
                return finish(&record, &mut front, &step, &own, Some(Cause::Unsupported)).await;
            }
            Ok(Decision::Answer(own)) => {
                return finish(&record, &mut front, &step, own, None).await;
            }
            Err(Refused { cause, route, wait }) => {
                let own = failed(&record, *cause, &here, *route).retry_after(*wait);
                return finish(&record, &mut front, &step, &own, Some(*cause)).await;
            }
        };
        record.pool(&plan.picker);
        let clocks = clocks(&record, plan, &step);
        let mut upload = upload(plan, &record);
        let begun = forward(&here, plan, &clocks, &record, &mut front, &mut upload).await;
        let (mut exchange, answer) = match begun {
            Ok(begun) => begun,
            Err(cause) => {
                // Whose time is up is told so, wherever it went.
                let over = clocks.is_over() && grpc::is_call(&record.head);
                let told = if over { Cause::Timeout } else { cause };
                let own = failed(&record, told, &here, Some(plan.route));
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

/// A success that is not the change of protocol that was asked for: none of the client's doing makes it
/// one, and nothing of it can be passed on.
fn is_no_tunnel(head: &RequestHead, status: StatusCode) -> bool {
    head.is_websocket() && status.is_success()
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
    worker
        .date
        .with(worker.wheel.now(), |date| own.queue(front, method, close, date, client.hsts()));
    let idle = client.here().listener().config.timeouts.stream_idle;
    exchange::flush(front, step, idle).await
}

/// Our own answer to what failed of `cause`, in terms that its client understands.
fn failed(record: &Record, cause: Cause, here: &Here, route: Option<&Route>) -> Answer {
    match grpc::is_call(&record.head) {
        true => answer::grpc_error(cause),
        false => answer::error(cause, pages(here, route)),
    }
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

/// The request's clocks; a gRPC call may give itself less time than the configuration does.
fn clocks(record: &Record, plan: &Plan<'_>, step: &Deadline) -> Clocks {
    let all = [plan.timeouts.request, grpc::deadline(&record.head)];
    let overall = all.into_iter().flatten().min().map(|after| {
        let overall = Deadline::new(&record.client.worker.wheel);
        overall.set(after);
        overall
    });
    Clocks { step: step.clone(), overall }
}

fn upload(plan: &Plan<'_>, record: &Record) -> Upload {
    let Timeouts { client_body, response, .. } = plan.timeouts;
    let pipes = &record.client.worker.pipes;
    let keeps_bytes = plan.picker.pool().config.retry.buffer_bytes;
    let watch = Watch { client_body, response };
    Upload::new(watch, record.head.expects_continue, keeps_bytes, pipes)
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
    let (client, head, picker) = (&record.client, &record.head, &plan.picker);
    let worker = &client.worker;
    let rules = rules(client, here, plan, head);
    let Pool { retry, protocol, .. } = &picker.pool().config;
    let data = *protocol != Protocol::Http1;
    if data {
        front.want_data();
    }
    let upgrade = head::upgrade(head);
    let websocket = upgrade.is_some_and(|asked| head::asks_for_websocket(head, asked));
    // HTTP/2 has no other changes of protocol (RFC 9113 8.6); whoever asks for one gets his answer without.
    let has_it = websocket || matches!(protocol, Protocol::Http1 | Protocol::Auto);
    let upgrade = if has_it { upgrade } else { None };
    let repeatable = plan.ask.safe && retry.on.truncated && retry.attempts > 1;
    let attempt =
        Attempt { client, plan, clocks, head, rules: &rules, upgrade, websocket, repeatable, data };
    let in_progress = picker.begin_request(worker.id);
    let cells = picker.pool().state.cells.of(worker.id);
    let mut retries = Retries::new(plan.ask.safe);
    retries.tried.of_attempts(retry.attempts);
    let mut next = plan.stick();
    loop {
        // The first attempt is as old as its request, to the microsecond.
        let first = record.attempts.get() == 0;
        let mut began = if first { record.started } else { Instant::now() };
        let ask = Ask { now_nanos: worker.nanos(began), ..plan.ask };
        let lease = match next.take().map_or_else(|| picker.pick_in_turn(ask, &retries.tried), Ok) {
            Ok(lease) => lease,
            Err(why) => {
                let wait = Wait { worker, picker, ask, clocks, priority: priority(plan, head) };
                let gone = |cx: &mut Context<'_>| front.poll_gone(cx);
                let lease = Box::pin(wait.lease(&mut retries, why, gone)).await?;
                began = Instant::now();
                lease
            }
        };
        record.attempts.set(record.attempts.get() + 1);
        let tried = match hedge::after(&attempt, &worker.percentiles) {
            None => match attempt.run(&lease, front, upload).await {
                Ok(answered) => Ok((lease, answered)),
                Err(failed) => {
                    retries.left(worker, &lease, failed.cause);
                    Err(failed)
                }
            },
            Some(after) => {
                Box::pin(hedge::race(&attempt, lease, after, &mut retries, record, front)).await
            }
        };
        match tried {
            Ok((lease, Answered { answer, conn, interims, entered })) => {
                let answered = Instant::now();
                cells.first_byte.observe(answered - record.started);
                let took = (answered - began).as_nanos() as u64;
                let status = answer.status.as_u16();
                judge::answered(worker, &lease, status, took, worker.nanos(began));
                if answer.status.is_server_error() {
                    next = retries.instead(record, plan, &lease, &answer, upload.sent()).await;
                    if next.is_some() {
                        if !entered.is_ordered() {
                            relay::set_aside(worker, &lease, conn, &answer);
                        }
                        continue;
                    }
                }
                if is_no_tunnel(head, answer.status) {
                    return Err(Cause::Unsupported);
                }
                attempt.pass_on(interims, front);
                let masked = retries.masked;
                let conn = (conn, entered);
                return Ok((Exchange::new(lease, conn, &answer, masked, in_progress), answer));
            }
            Err(failed) if clocks.is_over() => return Err(counted(failed.cause, client)),
            Err(failed) => {
                let again = retries.again(record, picker, failed).await;
                again.map_err(|cause| counted(cause, client))?;
            }
        }
    }
}

/// The place in the queue that the request claims, if its pool lets it.
fn priority(plan: &Plan<'_>, head: &RequestHead) -> i32 {
    let queue = plan.picker.pool().config.queue.as_ref();
    let header = queue.and_then(|queue| queue.priority_header.as_ref());
    let value = header.and_then(|name| head.fields().all(name.as_str()).next());
    value.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok()).unwrap_or(0)
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
        secure: client.secure.is_some(),
        peer: client.secure.as_ref().and_then(|secure| secure.peer.as_ref()),
        trusted: client.is_trusted(here),
        sticky: plan.picker.pool().sticky.as_ref(),
    }
}
