//! What is to be done with a request: route, access, and where it goes.
//!
//! Reads the head and the snapshot, and does nothing yet but to count against a rate limit.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::answer::{self, Answer};
use super::client::Client;
use super::cookies;
use super::head;
use super::worker::{Here, Worker};
use crate::config::model::{self, HashBy, Timeouts};
use crate::forward::http::head::{Framing, RequestHead};
use crate::outcome::{self, Cause};
use crate::pool::balance::hash::{hash_bytes, hash_ip};
use crate::pool::pick::Ask;
use crate::pool::sticky::Stuck;
use crate::pool::{Lease, Picker};
use crate::route::debts::Verdict;
use crate::route::rate::Limiter;
use crate::route::{Action, Facts, Route, access, redirect, rewrite};
use crate::snapshot::Work;

/// Where a request goes, as its route has it.
#[derive(Debug)]
pub struct Plan<'a> {
    pub route: &'a Route,
    pub picker: Rc<Picker>,
    /// What the backend is asked for; `None`: what the client asked for, as it wrote it.
    pub target: Option<String>,
    pub ask: Ask,
    /// What the client's cookie says, in a pool that clients stick to.
    pub stuck: Option<Stuck>,
    pub timeouts: Timeouts,
}

impl Plan<'_> {
    /// The backend that the client sticks to, if it may have it.
    pub fn stick(&self) -> Option<Lease> {
        self.picker.stick(self.stuck?.index as usize)
    }
}

#[derive(Debug)]
pub enum Decision<'a> {
    Answer(Answer),
    Forward(Plan<'a>),
}

/// Why a request goes nowhere.
#[derive(Debug)]
pub struct Refused<'a> {
    pub cause: Cause,
    /// The route that made it so.
    pub route: Option<&'a Route>,
    /// When it is worth trying again.
    pub wait: Option<Duration>,
}

impl Refused<'_> {
    fn of(cause: Cause) -> Refused<'static> {
        Refused { cause, route: None, wait: None }
    }
}

/// Route, and what the listener and the route allow.
pub fn decide<'a>(
    here: &'a Here,
    client: &Client,
    head: &RequestHead,
) -> Result<Decision<'a>, Refused<'a>> {
    let listener = here.listener();
    let limits = &here.view.snapshot.config.limits;
    let Work::Http(routes) = &listener.work else {
        return Err(Refused::of(Cause::NoRoute)); // a reload made it a tcp listener
    };
    if head.fields().len() > limits.headers {
        client.worker.shared.status.limits.count_request_head();
        return Err(Refused::of(Cause::HeadTooLarge)); // HTTP/2; of HTTP/1 the parser counts them
    }
    let asked = head::read(head).map_err(Refused::of)?;
    let ip = client.addr.ip();
    if !access::allows(&listener.config.access, ip) {
        return Err(Refused::of(Cause::Denied));
    }
    let facts = Facts {
        host: &asked.host,
        path: &asked.path,
        query: asked.query,
        method: &head.method,
        headers: head.fields(),
        client: ip,
    };
    if let Some(limiter) = &listener.rate_limit {
        within(limiter, &facts, client, None)?;
    }
    let route = routes.find(&facts).ok_or(Refused::of(Cause::NoRoute))?;
    let refuse = |cause| Refused { cause, route: Some(route), wait: None };
    if !access::allows(&route.config.access, ip) {
        return Err(refuse(Cause::Denied));
    }
    if let Some(limiter) = &route.rate_limit {
        within(limiter, &facts, client, Some(route))?;
    }
    let declared = if let Framing::Length(length) = head.framing { length } else { 0 };
    if limits.request_body_bytes.is_some_and(|most| declared > most) {
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
    let written = (asked.written, asked.query);
    let target = rewrite::apply(&route.config.rewrite, written, &asked.path)
        .map_err(|_| refuse(Cause::BadRequest))?;
    let config = &picker.pool().config;
    let timeouts =
        listener.config.timeouts.overlaid(&config.timeouts).overlaid(&route.config.timeouts);
    let key = picker.pool().hash_by().map(|by| key(by, &facts));
    let safe = outcome::is_idempotent(&head.method)
        || head.fields().all("idempotency-key").next().is_some();
    let ask = Ask { key, draw: fastrand::u64(..), now_nanos: 0, safe };
    let sticky = picker.pool().sticky.as_ref();
    let stuck = sticky.and_then(|sticky| cookies::stuck(sticky, head.fields()));
    Ok(Decision::Forward(Plan { route, picker, target, ask, stuck, timeouts }))
}

/// Counts the request, unless its client has had too many.
fn within<'a>(
    limiter: &Limiter,
    facts: &Facts<'_>,
    client: &Client,
    route: Option<&'a Route>,
) -> Result<(), Refused<'a>> {
    match limiter.admit(facts, client.worker.nanos(Instant::now())) {
        Verdict::Admitted => Ok(()),
        Verdict::AdmittedForgetting => {
            client.worker.shared.status.limits.count_rate_limit_keys();
            Ok(())
        }
        Verdict::Refused(nanos) => {
            let wait = Some(Duration::from_nanos(nanos));
            Err(Refused { cause: Cause::RateLimited, route, wait })
        }
    }
}

impl Plan<'_> {
    /// What another attempt of the same request asks of its pool, as of now.
    pub fn again(&self, worker: &Worker) -> Ask {
        Ask { now_nanos: worker.nanos(Instant::now()), draw: fastrand::u64(..), ..self.ask }
    }
}

fn respond(action: &model::Action) -> Answer {
    match action {
        model::Action::Respond { status, body, headers } => {
            answer::fixed(*status, body.clone(), headers)
        }
        // `route` makes its actions from these very ones; the other kinds have their own arms.
        model::Action::Pool(_)
        | model::Action::Split(_)
        | model::Action::Redirect { .. }
        | model::Action::RedirectHttps { .. } => answer::error(Cause::NoRoute, []),
    }
}

/// What a `hash` pool balances this request by. Without the header or the cookie: the client.
fn key(by: &HashBy, facts: &Facts<'_>) -> u64 {
    let client = || facts.client.map_or(0, hash_ip);
    match by {
        HashBy::ClientIp => client(),
        HashBy::Path => hash_bytes(facts.path.as_bytes()),
        HashBy::Header(name) => {
            facts.headers.all(name.as_str()).next().map_or_else(client, hash_bytes)
        }
        HashBy::Cookie(name) => {
            cookies::named(facts.headers, name).next().map_or_else(client, hash_bytes)
        }
    }
}
