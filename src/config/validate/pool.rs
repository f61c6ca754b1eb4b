//! One pool, and `pool_defaults`: each is read as a part, then the parts are laid over one another.
//!
//! A part is proved at its own place, so that a mistake in `pool_defaults` is reported once.

use std::collections::HashMap;
use std::time::Duration;

use super::cx::Cx;
use super::health::{self, Setting};
use super::http_words::{cookie_name, header_name};
use super::words::{or_off, positive_duration, whole, word};
use super::{addresses, failover, outlier, pool_tls, retry, sticky, timeouts, words};
use crate::config::defaults;
use crate::config::model::{
    Backend, Balance, HashBy, HealthCheck, Keepalive, Name, Pool, Protocol, ProxyVersion,
    TimeoutOverrides,
};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

const PROTOCOLS: [(&str, Protocol); 4] = [
    ("http1", Protocol::Http1),
    ("h2", Protocol::H2),
    ("h2c", Protocol::H2c),
    ("auto", Protocol::Auto),
];

const WORDS: [(&str, Balance); 5] = [
    ("round_robin", Balance::RoundRobin),
    ("least_requests", Balance::LeastRequests),
    ("peak_ewma", Balance::PeakEwma),
    ("random", Balance::Random),
    ("first", Balance::First),
];

/// What a pool or `pool_defaults` says; `None` is silence.
#[derive(Debug)]
pub struct Part {
    balance: Option<Balance>,
    pub health_check: Option<Setting>,
    max_idle: Option<usize>,
    idle_timeout: Option<Duration>,
    timeouts: TimeoutOverrides,
    failover: failover::Keys,
    outlier: Option<outlier::Setting>,
    retry: Option<retry::Setting>,
    queue: Option<retry::QueueSetting>,
    slow_start: Option<Option<Duration>>,
    sticky: Option<sticky::Setting>,
    tls: Option<pool_tls::Setting>,
    protocol: Option<Protocol>,
    send_proxy_protocol: Option<Option<ProxyVersion>>,
}

pub fn part(cx: &mut Cx<'_>, at: &Path, raw: raw::Pool) -> Part {
    let balance = raw.balance.and_then(|raw| balance(cx, &at.key("balance"), raw));
    let health_check =
        raw.health_check.and_then(|raw| health::setting(cx, &at.key("health_check"), raw));
    let timeouts = timeouts::overrides(cx, &at.key("timeouts"), &raw.timeouts.unwrap_or_default());
    let failover = failover::keys(cx, &at.key("failover"), raw.failover.unwrap_or_default());
    let outlier = raw.outlier.and_then(|raw| outlier::setting(cx, &at.key("outlier"), raw));
    let retry = raw.retry.and_then(|raw| retry::setting(cx, &at.key("retry"), raw));
    let queue = raw.queue.and_then(|raw| retry::queue(cx, &at.key("queue"), raw));
    let slow_start = cx.text(&at.key("slow_start"), raw.slow_start.as_ref(), |text| {
        or_off(text, positive_duration)
    });
    let sticky = raw.sticky.and_then(|raw| sticky::setting(cx, &at.key("sticky"), raw));
    let tls = raw.tls.and_then(|raw| pool_tls::setting(cx, &at.key("tls"), raw));
    let send_proxy_protocol =
        cx.text(&at.key("send_proxy_protocol"), raw.send_proxy_protocol.as_ref(), |text| {
            word(
                text,
                &[("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))],
            )
        });
    let protocol =
        cx.text(&at.key("protocol"), raw.protocol.as_ref(), |text| word(text, &PROTOCOLS));
    let (max_idle, idle_timeout) =
        keepalive(cx, &at.key("keepalive"), raw.keepalive.unwrap_or_default());
    Part {
        balance,
        health_check,
        max_idle,
        idle_timeout,
        timeouts,
        failover,
        outlier,
        retry,
        queue,
        slow_start,
        sticky,
        tls,
        protocol,
        send_proxy_protocol,
    }
}

fn keepalive(cx: &mut Cx<'_>, at: &Path, raw: raw::Keepalive) -> (Option<usize>, Option<Duration>) {
    let max_idle =
        cx.text(&at.key("max_idle"), raw.max_idle.as_ref(), |text| whole(text, 0..=100_000));
    let key = at.key("idle_timeout");
    let idle_timeout = cx.text(&key, raw.idle_timeout.as_ref(), positive_duration);
    if idle_timeout.is_some_and(|idle| idle.as_secs_f64() > 5.0) {
        let wrong = Wrong::plain(
            "many servers close an idle connection after 5s; a request could meet that moment",
        );
        let help = "stay below the keep-alive time of the backends, or keep 4s, the default";
        cx.warn(&key, wrong.help(help));
    }
    (max_idle.map(|n| n as usize), idle_timeout)
}

pub fn pool(cx: &mut Cx<'_>, at: &Path, name: Name, mut raw: raw::Pool, shared: &Part) -> Pool {
    cx.missing(at, "backends", "backends: [10.0.0.11:8080, 10.0.0.12:8080]");
    let backends = raw.backends.take().map(|list| backends(cx, &at.key("backends"), list));
    let own = part(cx, at, raw);
    let health_check = health::settle(cx, at, own.health_check.as_ref(), shared);
    let said = own.health_check.is_some() || matches!(shared.health_check, Some(Setting::Off));
    if health_check.is_none() && !said && !cx.has(&at.key("health_check")) {
        let wrong = Wrong::plain("no health check: a dead backend is found only by failing");
        let help = "for example: health_check: {http: {path: /healthz}}; or health_check: off to \
                    say that it is meant so";
        cx.warn(at, wrong.help(help));
    }
    let all = defaults::pool(name);
    let sent = own.send_proxy_protocol.or(shared.send_proxy_protocol);
    let send_proxy_protocol = sent.unwrap_or(all.send_proxy_protocol);
    // What listens at a place of its own for probes is no part of what the clients use.
    let introduce = |check: &HealthCheck| {
        let elsewhere = check.port.is_some() || check.address.is_some();
        send_proxy_protocol.filter(|_| !elsewhere)
    };
    let mut health_check =
        health_check.map(|check| HealthCheck { introduce: introduce(&check), ..check });
    let timeouts = laid_over(&own.timeouts, &shared.timeouts);
    let max_idle = own.max_idle.or(shared.max_idle).unwrap_or(defaults::KEEPALIVE.max_idle);
    let idle_timeout =
        own.idle_timeout.or(shared.idle_timeout).unwrap_or(defaults::KEEPALIVE.idle_timeout);
    let protocol = own.protocol.or(shared.protocol).unwrap_or(all.protocol);
    let (own_tls, shared_tls) = (own.tls.as_ref(), shared.tls.as_ref());
    let tls = pool_tls::settle(cx, at, own_tls, shared_tls, protocol);
    fits(cx, at, protocol, pool_tls::is_off(own_tls, shared_tls), send_proxy_protocol.is_some());
    if let Some(check) = &mut health_check {
        pool_tls::of_probes(check, tls.as_ref());
        health::speak(check, protocol);
    }
    Pool {
        balance: own.balance.or_else(|| shared.balance.clone()).unwrap_or(all.balance),
        backends: backends.unwrap_or_default(),
        health_check,
        keepalive: Keepalive { max_idle, idle_timeout },
        timeouts,
        failover: failover::settle(cx, at, &own.failover, &shared.failover),
        outlier: outlier::settle(cx, at, own.outlier.as_ref(), shared.outlier.as_ref()),
        retry: retry::settle(own.retry.as_ref(), shared.retry.as_ref()),
        queue: retry::settle_queue(own.queue.as_ref(), shared.queue.as_ref()),
        slow_start: own.slow_start.or(shared.slow_start).unwrap_or(all.slow_start),
        sticky: sticky::settle(cx, at, own.sticky.as_ref(), shared.sticky.as_ref()),
        protocol,
        tls,
        send_proxy_protocol,
        name: all.name,
    }
}

/// What else a protocol wants of its pool, and does not go with.
fn fits(cx: &mut Cx<'_>, at: &Path, protocol: Protocol, in_clear: bool, introduces: bool) {
    let place = at.key("protocol");
    let place = if cx.has(&place) { place } else { at.clone() };
    if in_clear && matches!(protocol, Protocol::H2 | Protocol::Auto) {
        let allowed = "with `tls`, or http1 or h2c, which are spoken in clear";
        let wrong =
            Wrong::new("this protocol is settled by TLS, which the pool does not have", allowed);
        let help = "give the pool `tls: {}`, or write protocol: h2c for HTTP/2 in clear";
        cx.error(&place, None, wrong.help(help));
    }
    if introduces && protocol != Protocol::Http1 {
        let text = "a connection of HTTP/2 carries the requests of many clients, and a PROXY header tells of one";
        let wrong = Wrong::new(text, "protocol: http1, or no `send_proxy_protocol`");
        cx.error(
            &place,
            None,
            wrong.help("backends are told of a request's client by X-Forwarded-For"),
        );
    }
}

fn laid_over(own: &TimeoutOverrides, under: &TimeoutOverrides) -> TimeoutOverrides {
    TimeoutOverrides {
        client_body: own.client_body.or(under.client_body),
        connect: own.connect.or(under.connect),
        response: own.response.or(under.response),
        stream_idle: own.stream_idle.or(under.stream_idle),
        tcp_idle: own.tcp_idle.or(under.tcp_idle),
        request: own.request.or(under.request),
        tls_handshake: own.tls_handshake.or(under.tls_handshake),
    }
}

fn balance(cx: &mut Cx<'_>, at: &Path, raw: raw::Balance) -> Option<Balance> {
    match raw {
        raw::Balance::Word(text) => cx.text(at, Some(&text), |text| {
            let near = match text {
                "hash" | "ip_hash" | "source" | "maglev" => {
                    Some("write balance: {hash: {by: client_ip}}")
                }
                "least_conn" | "leastconn" | "least_connections" => {
                    Some("did you mean `least_requests`?")
                }
                "roundrobin" | "rr" => Some("did you mean `round_robin`?"),
                _ => None,
            };
            word(text, &WORDS).map_err(|mut wrong| {
                wrong.allowed =
                    wrong.allowed.map(|words| format!("{words}, {{hash: {{by: ...}}}}"));
                wrong.help_if(near.map(str::to_owned))
            })
        }),
        raw::Balance::Hash { hash } => {
            cx.missing(at, "hash", "balance: {hash: {by: client_ip}}");
            hash_by(cx, &at.key("hash"), hash?).map(Balance::Hash)
        }
    }
}

fn hash_by(cx: &mut Cx<'_>, at: &Path, raw: raw::HashBy) -> Option<HashBy> {
    cx.missing(at, "by", "by: client_ip");
    let words = [("client_ip", 0), ("header", 1), ("cookie", 2), ("path", 3)];
    let by = cx.text(&at.key("by"), raw.by.as_ref(), |text| word(text, &words))?;
    let key = at.key("name");
    if let (0 | 3, Some(name)) = (by, &raw.name) {
        let wrong = Wrong::plain("only a header or a cookie has a name");
        cx.error(&key, Some(name), wrong.help("leave `name` out"));
        return None;
    }
    match by {
        0 => Some(HashBy::ClientIp),
        1 => {
            cx.missing(at, "name", "hash: {by: header, name: x-user}");
            cx.text(&key, raw.name.as_ref(), header_name).map(HashBy::Header)
        }
        2 => {
            cx.missing(at, "name", "hash: {by: cookie, name: uid}");
            cx.text(&key, raw.name.as_ref(), cookie_name).map(HashBy::Cookie)
        }
        _ => Some(HashBy::Path),
    }
}

fn backends(cx: &mut Cx<'_>, at: &Path, list: Vec<Option<raw::Backend>>) -> Vec<Backend> {
    if list.is_empty() {
        let wrong = Wrong::plain("a pool needs at least one backend");
        cx.error(at, None, wrong.help("for example: backends: [10.0.0.11:8080]"));
    }
    let whole_list = list.iter().all(Option::is_some);
    let mut seen = HashMap::new();
    let mut backends: Vec<Backend> = Vec::with_capacity(list.len());
    let count = list.len();
    for (i, raw) in list.into_iter().enumerate() {
        let Some(raw) = raw else { continue };
        let at = at.index(i);
        let (address, address_at, weight, tier, most) = match raw {
            raw::Backend::Short(text) => (Some(text), at.clone(), None, None, None),
            raw::Backend::Long { address, weight, tier, max_requests } => {
                cx.missing(&at, "address", "{address: 10.0.0.11:8080, weight: 2}");
                (address, at.key("address"), weight, tier, max_requests)
            }
        };
        let weight =
            cx.text(&at.key("weight"), weight.as_ref(), |text| words::weight(text, 0..=65_535));
        let tier = cx.text(&at.key("tier"), tier.as_ref(), |text| whole(text, 0..=255));
        let max_requests = cx.text(&at.key("max_requests"), most.as_ref(), |text| {
            let none = matches!(text, "0" | "off" | "none" | "unlimited");
            let help = none.then(|| "for no limit leave `max_requests` out".to_owned());
            whole(text, 1..=10_000_000).map_err(|wrong| wrong.help_if(help))
        });
        let read = cx.text(&address_at, address.as_ref(), addresses::backend);
        let Some(read) = read else { continue };
        if let Some(first) = seen.insert(read.clone(), i) {
            let text = format!("the address is in this pool already, as backends[{first}]");
            let wrong = Wrong::plain(text).help("give one of them a larger weight instead");
            cx.error(&address_at, address.as_deref(), wrong);
            continue;
        }
        backends.push(Backend {
            address: read,
            weight: weight.map_or(1, |n| n as u16),
            tier: tier.map_or(0, |n| n as u8),
            max_requests: max_requests.map(|n| n as u32),
        });
    }
    let complete = whole_list && backends.len() == count && count > 0;
    if complete && backends.iter().all(|backend| backend.weight == 0) {
        let wrong = Wrong::new("no backend of this pool gets anything", "a weight above 0");
        cx.error(at, None, wrong.help("0 takes a backend out; leave one with a weight of 1"));
    }
    backends
}
