//! One HTTP request, from its head to the last byte of its answer: route, pick, connect, forward, and
//! the attempts that follow when a backend fails.
//!
//! A request that fails ends with an answer of our own (`answer`) and its account (`record`). What is
//! safe to send again is decided in `outcome`; nothing is sent again once an answer has begun.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;

use super::answer::{self, Answer};
use super::attempt::{Attempt, Clocks};
use super::client::Client;
use super::decide::{Decision, Plan, decide};
use super::head::{self, Rules};
use super::record::{Ending, Record};
use super::worker::Here;
use crate::config::model::ErrorPages;
use crate::forward::http::upload::{Source, Watch};
use crate::forward::http::{BackendConn, Incoming, Reply, SendError};
use crate::observe::cells::{PoolCells, attempt_failed};
use crate::outcome::{Cause, Side};
use crate::pool::Lease;
use crate::pool::budget::{Budget, RequestGuard, RetryGuard};
use crate::pool::pick::{Ask, Tried};
use crate::timer::Deadline;

/// Attempts in all: the default of `retry.attempts`.
const ATTEMPTS: u32 = 3;

/// The backend's side of a connection that changes its protocol.
#[derive(Debug)]
pub struct Upgrade {
    pub conn: BackendConn,
    pub ending: Ending,
    /// Longest silence.
    pub idle: Duration,
}

/// Where a request that was answered with 101 leaves its backend, for its connection to go on with.
pub type Slot = Rc<RefCell<Option<Upgrade>>>;

/// Serves one request. The answer's body ends its account.
pub async fn serve(
    client: Rc<Client>,
    deadline: Deadline,
    upgrade: Slot,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    client.begin_request();
    let (parts, body) = request.into_parts();
    // HTTP/2 has its own way to say that a connection is over (RFC 9113 6.8).
    let http1 = parts.version != Version::HTTP_2;
    let mut unread = !body.is_end_stream();
    let (mut answer, own) = answer(&client, deadline, upgrade, parts, body, &mut unread).await;
    // What is left of a request's body will not be read after an answer of our own.
    if unread {
        client.session.leave_unread();
    }
    if http1 && (client.session.is_leaving() || (own && unread)) {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

/// The answer, and whether it is our own; `unread` says whether some of the body still is.
async fn answer(
    client: &Rc<Client>,
    deadline: Deadline,
    upgrade: Slot,
    parts: Parts,
    body: Incoming,
    unread: &mut bool,
) -> (Answer, bool) {
    let here = client.here();
    let mut record = Record::new(client.clone(), parts.method.clone(), parts.uri.clone());
    let mut pages: [Option<&ErrorPages>; 2] = [None, Some(&here.listener().config.error_pages)];
    let failed = match decide(&here, client, &parts) {
        Ok(Decision::Answer(own)) => {
            record.status(own.status().as_u16());
            record.finish(None);
            return (own, true);
        }
        Ok(Decision::Forward(plan)) => {
            pages[0] = Some(&plan.route.config.error_pages);
            record.pool(&plan.picker);
            let clocks = Clocks::new(&deadline, &client.worker.wheel, &plan.timeouts);
            let source = source(&here, &plan, &clocks, &parts, body);
            match forward(client, &here, &plan, &clocks, parts, &source, &mut record).await {
                Ok(exchange) => {
                    *unread = source.is_unread();
                    source.answered();
                    return (exchange.answer(&plan, clocks, record, &upgrade), false);
                }
                Err(cause) => {
                    *unread = source.is_unread();
                    cause
                }
            }
        }
        Err((cause, route)) => {
            pages[0] = route.map(|route| &route.config.error_pages);
            cause
        }
    };
    deadline.clear();
    let own = answer::error(failed, pages.into_iter().flatten());
    record.status(own.status().as_u16());
    record.finish(Some(failed));
    (own, true)
}

/// The attempts, until one brings the head of an answer.
async fn forward(
    client: &Rc<Client>,
    here: &Here,
    plan: &Plan<'_>,
    clocks: &Clocks,
    mut parts: Parts,
    source: &Source,
    record: &mut Record,
) -> Result<Exchange, Cause> {
    let worker = &client.worker;
    let upgrade = head::pass_on(&mut parts, rules(client, here, plan))?;
    let in_progress = plan.picker.begin_request(worker.id);
    let cells = plan.picker.pool().state.cells.of(worker.id);
    let mut tried = Tried::default();
    let mut failed = None;
    // Held while an attempt counts against the pool's retry budget.
    let mut _retry: Option<RetryGuard> = None;
    loop {
        // The first attempt is as old as its request, to the microsecond.
        let began = if record.attempts == 0 { record.started } else { Instant::now() };
        let ask = Ask { now_nanos: worker.nanos(began), ..plan.ask };
        let Some(lease) = plan.picker.pick(ask, &tried) else {
            return Err(failed.unwrap_or_else(|| {
                cells.none_serving.inc();
                Cause::NoneServing
            }));
        };
        record.attempts += 1;
        let attempt = Attempt { client, plan, clocks, parts: &parts, source };
        match attempt.run(&lease, upgrade).await {
            Ok((answer, conn)) => {
                let answered = Instant::now();
                cells.first_byte.observe(answered - record.started);
                lease.observe_latency((answered - began).as_nanos() as u64, ask.now_nanos);
                lease.backend().cells.of(worker.id).requests.inc(answer.status().as_u16());
                return Ok(Exchange { lease, conn, in_progress, answer });
            }
            Err(SendError { cause, sent }) => {
                if cause.side() == Side::Backend {
                    attempt_failed(cells, lease.backend().cells.of(worker.id), cause);
                }
                let late = clocks.overall.as_ref().is_some_and(Deadline::expired);
                if late || !cause.retry(&parts.method, sent) {
                    return Err(counted(cause, client));
                }
                _retry = another(plan, cells, record.attempts).ok_or(cause)?;
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
        1 => Some(None),
        2..ATTEMPTS => {
            let guard = plan.picker.try_retry(Budget::DEFAULT);
            if guard.is_none() {
                cells.retry_budget_exhausted.inc();
            }
            guard.map(Some)
        }
        _ => None,
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

fn source(here: &Here, plan: &Plan<'_>, clocks: &Clocks, parts: &Parts, body: Incoming) -> Source {
    let watch = Watch {
        deadline: clocks.step.clone(),
        client_body: plan.timeouts.client_body,
        response: plan.timeouts.response,
        limit: here.view.snapshot.config.limits.request_body_bytes,
        http2: parts.version == Version::HTTP_2,
    };
    Source::new(body, watch)
}

fn rules<'a>(client: &'a Client, here: &Here, plan: &'a Plan<'_>) -> Rules<'a> {
    Rules {
        target: plan.target.clone(),
        rewrite: &plan.route.config.rewrite,
        edits: &plan.route.config.request_headers,
        client: client.addr_value.as_ref(),
        trusted: client.is_trusted(here),
    }
}

/// A request whose answer has begun.
struct Exchange {
    lease: Lease,
    conn: BackendConn,
    in_progress: RequestGuard,
    answer: Response<Incoming>,
}

impl Exchange {
    /// Makes the client's answer of the backend's: head now, body as it comes.
    fn answer(self, plan: &Plan<'_>, clocks: Clocks, mut record: Record, upgrade: &Slot) -> Answer {
        let Exchange { lease, mut conn, in_progress, answer } = self;
        let (mut parts, incoming) = answer.into_parts();
        let most = lease.picker().pool().config.keepalive.idle_timeout;
        let keep = head::keep_alive(&parts.headers).map_or(most, |said| said.min(most));
        head::pass_back(&mut parts, &plan.route.config.response_headers);
        record.status(parts.status.as_u16());
        let ending = Ending { record, lease, keep, in_progress };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // Let the connection see that its HTTP is over, so that the socket can be taken.
            conn.is_ready();
            let idle = plan.timeouts.stream_idle;
            upgrade.replace(Some(Upgrade { conn, ending, idle }));
            return Response::from_parts(parts, Reply::own(""));
        }
        let Clocks { step, overall } = clocks;
        ending.record.client.session.end_by(overall.clone());
        let silence = plan.timeouts.stream_idle;
        let body = Reply::stream(incoming, conn, ending, step, overall, silence);
        Response::from_parts(parts, body)
    }
}
