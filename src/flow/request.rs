//! One HTTP request, from its head to the last byte of its answer: route, pick, connect, forward, and
//! the attempts that follow when a backend fails.
//!
//! A request that fails ends with an answer of our own (`answer`) and its account (`record`). What is
//! safe to send again is decided in `outcome`; nothing is sent again once an answer has begun.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Instant;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use super::answer::{self, Answer};
use super::connection::{Client, Upgrade};
use super::head::{self, Asked, Rules};
use super::record::{Ending, Record};
use super::worker::Here;
use crate::config::model::{self, ErrorPages, HashBy, Timeouts};
use crate::forward::connect::connect;
use crate::forward::http::upload::{Source, Watch};
use crate::forward::http::{BackendConn, Incoming, Reply, SendError};
use crate::observe::cells::attempt_failed;
use crate::outcome::{Cause, Sent};
use crate::pool::balance::hash::{hash_bytes, hash_ip};
use crate::pool::budget::{Budget, RetryGuard};
use crate::pool::pick::{Ask, Tried};
use crate::pool::{Lease, Picker};
use crate::route::{Action, Facts, Route, access, redirect, rewrite};
use crate::snapshot::Work;
use crate::timer::{Deadline, Elapsed};

/// Attempts in all: the default of `retry.attempts`.
const ATTEMPTS: u32 = 3;

/// Where a request goes, as its route has it.
struct Plan<'a> {
    route: &'a Route,
    picker: Rc<Picker>,
    target: PathAndQuery,
    ask: Ask,
    timeouts: Timeouts,
}

enum Decision<'a> {
    Answer(Answer),
    Forward(Plan<'a>),
}

/// The deadlines of one request.
struct Clocks {
    /// For whatever is waited for right now.
    step: Deadline,
    /// `timeouts.request`, if it is on.
    overall: Option<Deadline>,
}

/// Serves one request. The answer's body ends its account.
pub async fn serve(
    client: Rc<Client>,
    deadline: Deadline,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    client.begin_request();
    let here = client.here();
    let (parts, body) = request.into_parts();
    let mut record = Record::new(client.clone(), parts.method.clone(), parts.uri.clone());
    let mut pages: [Option<&ErrorPages>; 2] = [None, Some(&here.listener().config.error_pages)];
    let failed = match decide(&here, &client, &parts) {
        Ok(Decision::Answer(own)) => {
            record.status(own.status().as_u16());
            record.finish(None);
            return Ok(own);
        }
        Ok(Decision::Forward(plan)) => {
            pages[0] = Some(&plan.route.config.error_pages);
            record.pool(&plan.picker);
            let overall = plan.timeouts.request.map(|after| {
                let overall = Deadline::new(&client.worker.wheel);
                overall.set(after);
                overall
            });
            let clocks = Clocks { step: deadline.clone(), overall };
            match forward(&client, &here, &plan, clocks, parts, body, record).await {
                Ok(answer) => return Ok(answer),
                Err((cause, back)) => {
                    record = back;
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
    Ok(own)
}

/// Route, and what the listener and the route allow. Errors name the route that made them.
fn decide<'a>(
    here: &'a Here,
    client: &Client,
    parts: &Parts,
) -> Result<Decision<'a>, (Cause, Option<&'a Route>)> {
    let listener = here.listener();
    let limits = &here.view.snapshot.config.limits;
    let Work::Http(routes) = &listener.work else {
        return Err((Cause::NoRoute, None)); // a reload made it a tcp listener
    };
    let asked = head::read(parts).map_err(|cause| (cause, None))?;
    let ip = client.addr.ip();
    if !access::allows(&listener.config.access, ip) {
        return Err((Cause::Denied, None));
    }
    let facts = Facts {
        host: &asked.host,
        path: &asked.path,
        query: asked.query,
        method: &parts.method,
        headers: &parts.headers,
        client: ip,
    };
    let route = routes.find(&facts).ok_or((Cause::NoRoute, None))?;
    let refuse = |cause| (cause, Some(route));
    if !access::allows(&route.config.access, ip) {
        return Err(refuse(Cause::Denied));
    }
    if limits.request_body_bytes.is_some_and(|most| declared_length(parts) > most) {
        client.worker.shared.status.limits.count_request_body();
        return Err(refuse(Cause::BodyTooLarge));
    }
    let draw = fastrand::u64(..);
    let pool = match &route.action {
        Action::Pool(pool) => *pool,
        Action::Split(split) => split.choose(draw),
        Action::Redirect => {
            let (status, to) =
                redirect::location(route, &facts).ok_or(refuse(Cause::BadRequest))?;
            return Ok(Decision::Answer(answer::redirect(status, to)));
        }
        Action::Respond => return Ok(Decision::Answer(respond(&route.config.action))),
    };
    let picker = here.view.picker(pool).clone();
    let target = target(route, parts, &asked).ok_or(refuse(Cause::BadRequest))?;
    let config = &picker.pool().config;
    let timeouts =
        listener.config.timeouts.overlaid(&config.timeouts).overlaid(&route.config.timeouts);
    let key = picker.pool().hash_by().map(|by| key(by, &facts));
    let ask = Ask { key, draw: fastrand::u64(..), now_nanos: 0 };
    Ok(Decision::Forward(Plan { route, picker, target, ask, timeouts }))
}

fn declared_length(parts: &Parts) -> u64 {
    let length = parts.headers.get(header::CONTENT_LENGTH);
    length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

fn respond(action: &model::Action) -> Answer {
    match action {
        model::Action::Respond { status, body, headers } => {
            answer::fixed(*status, body.clone(), headers)
        }
        // `route` makes its actions from these very ones; the other kinds have their own arms.
        model::Action::Pool(_) | model::Action::Split(_) | model::Action::Redirect { .. } => {
            answer::error(Cause::NoRoute, [])
        }
    }
}

fn target(route: &Route, parts: &Parts, asked: &Asked<'_>) -> Option<PathAndQuery> {
    let rewrite = &route.config.rewrite;
    match parts.uri.path_and_query() {
        Some(original) => rewrite::apply_to(rewrite, original, &asked.path),
        None => rewrite::apply(rewrite, &asked.path, asked.query),
    }
    .ok()
}

/// What a `hash` pool balances this request by. Without the header or the cookie: the client.
fn key(by: &HashBy, facts: &Facts<'_>) -> u64 {
    let client = || facts.client.map_or(0, hash_ip);
    match by {
        HashBy::ClientIp => client(),
        HashBy::Path => hash_bytes(facts.path.as_bytes()),
        HashBy::Header(name) => {
            facts.headers.get(name).map_or_else(client, |value| hash_bytes(value.as_bytes()))
        }
        HashBy::Cookie(name) => cookie(facts.headers, name).map_or_else(client, hash_bytes),
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(header::COOKIE).iter().find_map(|value| {
        value.as_bytes().split(|&byte| byte == b';').find_map(|pair| {
            let (found, value) = pair.split_at(pair.iter().position(|&byte| byte == b'=')?);
            (found.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
        })
    })
}

/// The attempts. On failure the record comes back, for the answer that we make ourselves.
async fn forward(
    client: &Rc<Client>,
    here: &Here,
    plan: &Plan<'_>,
    clocks: Clocks,
    mut parts: Parts,
    body: Incoming,
    mut record: Record,
) -> Result<Answer, (Cause, Record)> {
    let limits = &here.view.snapshot.config.limits;
    let worker = &client.worker;
    let upgrade = head::upgrade(&parts).is_some();
    let rules = Rules {
        target: plan.target.clone(),
        rewrite: &plan.route.config.rewrite,
        edits: &plan.route.config.request_headers,
        client: client.addr_value.as_ref(),
        trusted: client.is_trusted(here),
    };
    if let Err(cause) = head::pass_on(&mut parts, rules) {
        return Err((cause, record));
    }
    let source = Source::new(
        body,
        Watch {
            deadline: clocks.step.clone(),
            client_body: plan.timeouts.client_body,
            response: plan.timeouts.response,
            limit: limits.request_body_bytes,
        },
    );
    let in_progress = plan.picker.begin_request(worker.id);
    let cells = plan.picker.pool().state.cells.of(worker.id);
    let mut tried = Tried::default();
    let mut failed = None;
    let mut retry: Option<RetryGuard> = None;
    loop {
        let now = Instant::now();
        let ask = Ask { now_nanos: worker.nanos(now), ..plan.ask };
        let Some(lease) = plan.picker.pick(ask, &tried) else {
            let cause = failed.unwrap_or(Cause::NoneServing);
            if failed.is_none() {
                cells.none_serving.inc();
            }
            return Err((cause, record));
        };
        record.attempts += 1;
        let attempt = Attempt { client, plan, clocks: &clocks, parts: &parts, source: &source };
        match attempt.run(&lease, upgrade).await {
            Ok((answer, conn)) => {
                let took = record.started.elapsed();
                cells.first_byte.observe(took);
                lease.observe_latency(now.elapsed().as_nanos() as u64, ask.now_nanos);
                lease.backend().cells.of(worker.id).requests.inc(answer.status().as_u16());
                drop(retry);
                let ending = Exchange { lease, conn, in_progress };
                return Ok(ending.finish(client, plan, clocks, answer, record));
            }
            Err(SendError { cause, sent }) => {
                attempt_failed(cells, lease.backend().cells.of(worker.id), cause);
                if cause == Cause::BodyTooLarge {
                    worker.shared.status.limits.count_request_body();
                }
                failed = Some(cause);
                tried.add(&lease);
                let late = clocks.overall.as_ref().is_some_and(Deadline::expired);
                if late || record.attempts >= ATTEMPTS || !cause.retry(&parts.method, sent) {
                    return Err((cause, record));
                }
                // A request's first retry is free, so that half a pool may die unnoticed.
                if record.attempts > 1 {
                    retry = plan.picker.try_retry(Budget::DEFAULT);
                    if retry.is_none() {
                        cells.retry_budget_exhausted.inc();
                        return Err((cause, record));
                    }
                }
                cells.retries[cause.index()].inc();
            }
        }
    }
}

/// One attempt of a request at one backend.
struct Attempt<'a> {
    client: &'a Rc<Client>,
    plan: &'a Plan<'a>,
    clocks: &'a Clocks,
    parts: &'a Parts,
    source: &'a Source,
}

impl Attempt<'_> {
    /// Done when the head of the answer is here.
    async fn run(
        &self,
        lease: &Lease,
        upgrade: bool,
    ) -> Result<(Response<Incoming>, BackendConn), SendError> {
        let worker = &self.client.worker;
        let careful = !crate::outcome::is_idempotent(&self.parts.method);
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
                Ok(answer) => return Ok((answer, conn)),
                // The backend closed it while it was idle: once more, on a fresh one.
                Err(SendError { cause: Cause::Reset, sent })
                    if reused && Cause::Reset.retry(&self.parts.method, sent) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn connect(&self, lease: &Lease) -> Result<BackendConn, SendError> {
        let refused = |cause| SendError { cause, sent: Sent::Nothing };
        let worker = &self.client.worker;
        let began = Instant::now();
        let connecting = connect(lease.backend().addr);
        let stream = match self.bounded(self.plan.timeouts.connect, connecting).await {
            Ok(Ok(stream)) => stream,
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
        after: std::time::Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let step = self.clocks.step.within(after, work);
        match &self.clocks.overall {
            Some(overall) => overall.bound(step).await?,
            None => step.await,
        }
    }
}

/// A request whose answer has begun.
struct Exchange {
    lease: Lease,
    conn: BackendConn,
    in_progress: crate::pool::budget::RequestGuard,
}

impl Exchange {
    /// Makes the client's answer of the backend's: head now, body as it comes.
    fn finish(
        self,
        client: &Rc<Client>,
        plan: &Plan<'_>,
        clocks: Clocks,
        answer: Response<Incoming>,
        mut record: Record,
    ) -> Answer {
        let (mut parts, incoming) = answer.into_parts();
        let most = self.lease.picker().pool().config.keepalive.idle_timeout;
        let keep = head::keep_alive(&parts.headers).map_or(most, |said| said.min(most));
        head::pass_back(&mut parts, &plan.route.config.response_headers);
        record.status(parts.status.as_u16());
        let Exchange { lease, mut conn, in_progress } = self;
        let ending = Ending { record, lease, keep, in_progress };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // Let the connection see that its HTTP is over, so that the socket can be taken.
            conn.is_ready();
            let idle = plan.timeouts.stream_idle;
            client.upgrade.replace(Some(Upgrade { conn, ending, idle }));
            return Response::from_parts(parts, Reply::own(""));
        }
        let silence = plan.timeouts.stream_idle;
        let Clocks { step, overall } = clocks;
        let body = Reply::stream(incoming, conn, ending, step, overall, silence);
        Response::from_parts(parts, body)
    }
}
