//! What is to be done with a request: route, access, and where it goes.
//!
//! Reads the head and the snapshot, and does nothing yet.

use std::rc::Rc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, header};

use super::answer::{self, Answer};
use super::client::Client;
use super::head::{self, Asked};
use super::worker::Here;
use crate::config::model::{self, HashBy, Timeouts};
use crate::outcome::Cause;
use crate::pool::Picker;
use crate::pool::balance::hash::{hash_bytes, hash_ip};
use crate::pool::pick::Ask;
use crate::route::{Action, Facts, Route, access, redirect, rewrite};
use crate::snapshot::Work;

/// Where a request goes, as its route has it.
#[derive(Debug)]
pub struct Plan<'a> {
    pub route: &'a Route,
    pub picker: Rc<Picker>,
    pub target: PathAndQuery,
    pub ask: Ask,
    pub timeouts: Timeouts,
}

#[derive(Debug)]
pub enum Decision<'a> {
    Answer(Answer),
    Forward(Plan<'a>),
}

/// Route, and what the listener and the route allow. Errors name the route that made them.
pub fn decide<'a>(
    here: &'a Here,
    client: &Client,
    parts: &Parts,
) -> Result<Decision<'a>, (Cause, Option<&'a Route>)> {
    let listener = here.listener();
    let limits = &here.view.snapshot.config.limits;
    let Work::Http(routes) = &listener.work else {
        return Err((Cause::NoRoute, None)); // a reload made it a tcp listener
    };
    if parts.headers.len() > limits.headers {
        client.worker.shared.status.limits.count_request_head();
        return Err((Cause::HeadTooLarge, None)); // HTTP/2; of HTTP/1 hyper counts them
    }
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
