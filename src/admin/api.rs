//! What operators read and order under `/api/v1/`: from a request to JSON.
//!
//! For this machine alone: asked from elsewhere it says 403, and so it does where a browser was led here by
//! a name that is not this machine's (DNS rebinding). Orders are JSON, which no page of another origin
//! can send unasked. Carries nothing out: `health::task::operate` does.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, FORWARDED, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use serde::de::DeserializeOwned;

use super::Context;
use super::answer::Reply;
use super::view::pools::{self, Drain, Nothing, Problem, Switchover};
use crate::config::model::Name;
use crate::config::units::duration_argument;
use crate::health::failover::{Place, Refused};
use crate::health::task::operate::{Done, Order, Refusal};
use crate::pool::{BackendAddr, Pool};
use crate::snapshot::Snapshot;

/// What stands before every path here.
pub(super) const PREFIX: &str = "/api/v1/";

/// An order is a few words.
const BODY_BYTES: usize = 4096;

/// The two ends of an admin connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// Why a request is not done.
struct Fault {
    status: StatusCode,
    problem: Problem,
    allow: &'static str,
}

impl Fault {
    fn new(status: StatusCode, error: impl Into<String>) -> Fault {
        let problem = Problem { error: error.into(), known: Vec::new() };
        Fault { status, problem, allow: "" }
    }

    fn known<T: ToString>(mut self, known: impl IntoIterator<Item = T>) -> Fault {
        self.problem.known = known.into_iter().map(|one| one.to_string()).collect();
        self
    }
}

/// Answers one request under [`PREFIX`].
pub(super) async fn answer<B>(request: Request<B>, ends: Ends, context: &Context) -> Response<Reply>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let has_body = !request.body().is_end_stream();
    let done = match is_for_us(request.headers(), ends) {
        Ok(()) => serve(request, context).await,
        Err(fault) => Err(fault),
    };
    let (status, body, allow) = match done {
        Ok(body) => (StatusCode::OK, body, ""),
        Err(Fault { status, problem, allow }) => (status, json(&problem), allow),
    };
    let mut response = Response::new(Reply::Whole(Full::new(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !allow.is_empty() {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if has_body && status != StatusCode::OK {
        // It may not have been read, so that nothing can follow it on this connection.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether it comes from this machine, and knew where it went.
fn is_for_us(headers: &HeaderMap, ends: Ends) -> Result<(), Fault> {
    let refuse = |text: String| Err(Fault::new(StatusCode::FORBIDDEN, text));
    let peer = ends.peer.ip().to_canonical();
    if !peer.is_loopback() {
        return refuse(format!(
            "{PREFIX} is served to this machine only, and you come from {peer}; run the command on \
             the machine where evenkeel runs"
        ));
    }
    // A proxy on this machine, perhaps this very one, would make everybody a neighbour.
    if headers.contains_key("x-forwarded-for") || headers.contains_key(FORWARDED) {
        return refuse("asked through a proxy; ask the machine itself".to_owned());
    }
    let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
    let [host] = hosts[..] else { return refuse("exactly one Host is needed".to_owned()) };
    let named = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let ours = named.is_some_and(|named| {
        let host = named.host();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match ip {
            Ok(ip) => ip.to_canonical().is_loopback() || ip == ends.local.ip(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    });
    match ours {
        true => Ok(()),
        false => refuse(format!(
            "{host:?} is no name of this machine: ask by localhost or by an address"
        )),
    }
}

async fn serve<B>(request: Request<B>, context: &Context) -> Result<Bytes, Fault>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.strip_prefix(PREFIX).unwrap_or_default().split('/').collect();
    match parts[..] {
        ["pools"] => {
            only(&request, &[Method::GET, Method::HEAD], "GET, HEAD")?;
            let snapshot = context.current.load();
            let pools = snapshot.pools.iter().map(|pool| pools::Pool::of(pool)).collect();
            Ok(json(&pools::Pools { pools }))
        }
        ["pools", pool] => {
            only(&request, &[Method::GET, Method::HEAD], "GET, HEAD")?;
            let snapshot = context.current.load();
            Ok(json(&pools::Pool::of(find(&snapshot, pool)?)))
        }
        ["pools", pool, word @ ("switchover" | "failback")] => {
            let body = order_text(request).await?;
            let pool = find(&context.current.load(), pool)?.config.name.clone();
            let order = if word == "switchover" {
                let Switchover { tier } = read(&body)?;
                Order::Switchover { pool, to: tier }
            } else {
                let Nothing {} = read(&body)?;
                Order::Failback { pool }
            };
            operate(context, order)
        }
        ["pools", pool, "backends", backend, word @ ("drain" | "disable" | "enable")] => {
            let body = order_text(request).await?;
            let (pool, backend) = backend_of(&context.current.load(), pool, backend)?;
            let order = match word {
                "drain" => {
                    let Drain { deadline } = read(&body)?;
                    let deadline = deadline.as_deref().map(duration_argument).transpose();
                    let bad =
                        |text| Fault::new(StatusCode::BAD_REQUEST, format!("deadline: {text}"));
                    Order::Drain { pool, backend, deadline: deadline.map_err(bad)? }
                }
                "disable" => {
                    let Nothing {} = read(&body)?;
                    Order::Disable { pool, backend }
                }
                _ => {
                    let Nothing {} = read(&body)?;
                    Order::Enable { pool, backend }
                }
            };
            operate(context, order)
        }
        _ => Err(Fault::new(StatusCode::NOT_FOUND, format!("{path} is not here")).known([
            "GET /api/v1/pools",
            "GET /api/v1/pools/POOL",
            "POST /api/v1/pools/POOL/switchover",
            "POST /api/v1/pools/POOL/failback",
            "POST /api/v1/pools/POOL/backends/ADDRESS/drain",
            "POST /api/v1/pools/POOL/backends/ADDRESS/disable",
            "POST /api/v1/pools/POOL/backends/ADDRESS/enable",
        ])),
    }
}

fn only<B>(request: &Request<B>, methods: &[Method], allow: &'static str) -> Result<(), Fault> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    let fault = Fault::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow} here"));
    Err(Fault { allow, ..fault })
}

/// The text of an order: a POST with JSON.
async fn order_text<B>(request: Request<B>) -> Result<Bytes, Fault>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    only(&request, &[Method::POST], "POST")?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let text = "an order needs `Content-Type: application/json`, also where it has no body";
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let body = Limited::new(request.into_body(), BODY_BYTES).collect().await;
    let too_long = |_| Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "an order has at most 4 KiB");
    Ok(body.map_err(too_long)?.to_bytes())
}

fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Fault> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| Fault::new(StatusCode::BAD_REQUEST, format!("cannot be read: {error}")))
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Pool, Fault> {
    let found = Name::new(name).and_then(|name| snapshot.pool_named(&name));
    found.map(|pool| &**pool).ok_or_else(|| {
        let fault = Fault::new(StatusCode::NOT_FOUND, format!("there is no pool {name:?}"));
        fault.known(snapshot.pools.iter().map(|pool| &pool.config.name))
    })
}

fn backend_of(
    snapshot: &Snapshot,
    pool: &str,
    address: &str,
) -> Result<(Name, BackendAddr), Fault> {
    let pool = find(snapshot, pool)?;
    // Some clients write the brackets of an IPv6 address as %5B and %5D.
    let text = address.replace("%5B", "[").replace("%5b", "[").replace("%5D", "]");
    let text = text.replace("%5d", "]").replace("%3A", ":").replace("%3a", ":");
    let found = text.parse().ok().map(BackendAddr);
    let found = found.filter(|addr| pool.members.iter().any(|member| member.state.addr == *addr));
    let name = pool.config.name.clone();
    found.map(|addr| (name.clone(), addr)).ok_or_else(|| {
        let error = format!("pool {name} has no backend {text:?}");
        let known = pool.members.iter().map(|member| member.state.addr);
        Fault::new(StatusCode::NOT_FOUND, error).known(known)
    })
}

fn operate(context: &Context, order: Order) -> Result<Bytes, Fault> {
    let said = order.clone();
    let done = context.standing.operate(order);
    let snapshot = context.current.load();
    let name = match &said {
        Order::Switchover { pool, .. }
        | Order::Failback { pool }
        | Order::Disable { pool, .. }
        | Order::Drain { pool, .. }
        | Order::Enable { pool, .. } => pool,
    };
    let pool = find(&snapshot, name.as_str())?;
    match done {
        Ok(done) => {
            let (word, message) = (word(done), message(pool, &said, done));
            Ok(json(&pools::Done { done: word, message, pool: pools::Pool::of(pool) }))
        }
        Err(refusal) => Err(refused(pool, &said, refusal)),
    }
}

fn refused(pool: &Pool, order: &Order, refusal: Refusal) -> Fault {
    let name = &pool.config.name;
    let status = match refusal {
        Refusal::UnknownPool | Refusal::UnknownBackend => StatusCode::NOT_FOUND,
        Refusal::Refused(Refused::UnknownTier) => StatusCode::NOT_FOUND,
        Refusal::Refused(Refused::ServesNothing | Refused::AlreadyThere | Refused::Leaving) => {
            StatusCode::CONFLICT
        }
    };
    let why = match (refusal, order) {
        (Refusal::Refused(Refused::ServesNothing), Order::Switchover { to: None, .. }) => {
            "nothing else serves that traffic could go to".to_owned()
        }
        (Refusal::Refused(Refused::ServesNothing), Order::Switchover { to: Some(tier), .. }) => {
            format!("nothing serves in tier {tier}")
        }
        _ => refusal.to_string(),
    };
    let fault = Fault::new(status, format!("pool {name}: {why}"));
    match refusal {
        Refusal::Refused(Refused::UnknownTier) => {
            fault.known(pool.tiers.iter().map(|tier| tier.number))
        }
        _ => fault,
    }
}

fn word(done: Done) -> &'static str {
    match done {
        Done::Moved { .. } => "moved",
        Done::Closing => "closing",
        Done::NoLongerHeld => "no_longer_held",
        Done::Standing { changed: true } => "changed",
        Done::Standing { changed: false } => "unchanged",
    }
}

/// What was done, for people.
fn message(pool: &Pool, order: &Order, done: Done) -> String {
    let name = &pool.config.name;
    match (done, order) {
        (Done::Moved { from, to }, _) => {
            let (from, to) = (place(pool, from), place(pool, to));
            format!("pool {name}: traffic goes to {to} from now on; it went to {from}")
        }
        (Done::Closing, _) => format!(
            "pool {name}: the connections of the backend that is left are being closed; then \
             traffic goes to the next"
        ),
        (Done::NoLongerHeld, _) => format!(
            "pool {name}: no better tier serves yet; the first that does takes over by the rules of \
             `failback`"
        ),
        (
            Done::Standing { changed },
            Order::Drain { backend, .. }
            | Order::Disable { backend, .. }
            | Order::Enable { backend, .. },
        ) => {
            let now = match order {
                Order::Drain { .. } => "draining",
                Order::Disable { .. } => "disabled",
                _ => "enabled",
            };
            let already = if changed { "" } else { " already" };
            let member = pool.members.iter().find(|member| member.state.addr == *backend);
            let in_flight = member.map_or(0, |member| member.state.in_flight());
            let reasons: Vec<_> = member
                .into_iter()
                .flat_map(|member| member.state.reasons())
                .map(|reason| reason.label())
                .collect();
            let but = match (order, reasons.is_empty()) {
                (Order::Enable { .. }, false) => format!(", but {}", reasons.join(", ")),
                _ => String::new(),
            };
            format!("{name}/{backend} is {now}{already}{but}; {in_flight} in progress there")
        }
        (Done::Standing { .. }, Order::Switchover { .. } | Order::Failback { .. }) => {
            format!("pool {name}: done")
        }
    }
}

fn place(pool: &Pool, place: Place) -> String {
    let member = pool.members.iter().find(|member| Some(member.state.id) == place.backend);
    match member {
        None => format!("tier {}", place.tier),
        Some(member) => format!("{} (tier {})", member.state.addr, place.tier),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Bytes {
    // Views are plain structs with text for keys: they can always be written.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

#[cfg(test)]
mod tests;
