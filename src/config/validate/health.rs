//! Active health checks: one kind of probe, its rhythm, and how a pool's keys go over the defaults.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::cx::Cx;
use super::databases;
use super::edits::{hop_by_hop, pairs};
use super::http_words::{header_name, host_value, method, path, status_range};
use super::pool::Part;
use super::words::{positive_duration, whole, word};
use crate::config::defaults;
use crate::config::model::{HealthCheck, HttpProbe, Initial, ProbeKind, Protocol};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::config::units::show_duration;

/// The kinds of probes there are.
const KINDS: [&str; 7] = ["http", "tcp", "tls", "grpc", "postgres", "redis", "mysql"];

/// Longest name of a gRPC service.
const SERVICE_BYTES: usize = 255;

/// What stands under `health_check`.
#[derive(Debug)]
pub enum Setting {
    Off,
    Keys(Box<Keys>),
}

/// Each key, proved; `None` is silence.
#[derive(Debug, Default)]
pub struct Keys {
    kind: Option<ProbeKind>,
    interval: Option<Duration>,
    interval_unsettled: Option<Duration>,
    timeout: Option<Duration>,
    fall: Option<u32>,
    rise: Option<u32>,
    initial: Option<Initial>,
    port: Option<u16>,
    address: Option<IpAddr>,
    /// A kind was given, but is wrong: no second report that it is missing.
    kind_reported: bool,
}

pub fn setting(cx: &mut Cx<'_>, at: &Path, raw: raw::HealthCheck) -> Option<Setting> {
    let parts = match raw {
        raw::HealthCheck::Word(text) => {
            return cx.text(at, Some(&text), |text| match text {
                "off" => Ok(Setting::Off),
                _ => {
                    let allowed = format!("off, or a map with one of {}", KINDS.join(", "));
                    let wrong = Wrong::new("not a health check", allowed);
                    Err(wrong.help("for example: health_check: {http: {path: /healthz}}"))
                }
            });
        }
        raw::HealthCheck::Parts(parts) => *parts,
    };
    let there: Vec<&str> = KINDS.into_iter().filter(|kind| cx.has(&at.key(kind))).collect();
    for more in there.iter().skip(1) {
        let one = format!("one of {}", KINDS.join(", "));
        cx.error(&at.key(more), None, Wrong::new("a health check has one kind of probe", one));
    }
    let http = parts.http.map(|raw| http_probe(cx, &at.key("http"), raw));
    let tcp = parts.tcp.map(tcp_probe);
    let tls = parts.tls.map(|_| ProbeKind::Tls);
    let grpc = parts.grpc.map(|raw| grpc_probe(cx, &at.key("grpc"), raw));
    let postgres = parts
        .postgres
        .and_then(|raw| databases::postgres(cx, &at.key("postgres"), raw).map(ProbeKind::Postgres));
    let redis = parts
        .redis
        .and_then(|raw| databases::redis(cx, &at.key("redis"), raw).map(ProbeKind::Redis));
    let mysql = parts
        .mysql
        .and_then(|raw| databases::mysql(cx, &at.key("mysql"), raw).map(ProbeKind::Mysql));
    let mut wait =
        |key: &str, text: &raw::Text| cx.text(&at.key(key), text.as_ref(), positive_duration);
    let interval = wait("interval", &parts.interval);
    let interval_unsettled = wait("interval_unsettled", &parts.interval_unsettled);
    let timeout = wait("timeout", &parts.timeout);
    let mut count = |key: &str, text: &raw::Text, range| {
        cx.text(&at.key(key), text.as_ref(), |text| whole(text, range)).map(|n| n as u32)
    };
    let fall = count("fall", &parts.fall, 1..=1000);
    let rise = count("rise", &parts.rise, 1..=1000);
    let port = count("port", &parts.port, 1..=65_535).map(|n| n as u16);
    let initial = cx.text(&at.key("initial"), parts.initial.as_ref(), |text| {
        word(text, &[("up", Initial::Up), ("down", Initial::Down)])
    });
    let address = cx.text(&at.key("address"), parts.address.as_ref(), |text| {
        let allowed = "an IP address; the port has a key of its own, `port`";
        text.parse::<IpAddr>().map_err(|_| Wrong::new("not an IP address", allowed))
    });
    let kind = http.or(tcp).or(tls).or(grpc).or(postgres).or(redis).or(mysql);
    let kind_reported = kind.is_none() && !there.is_empty();
    Some(Setting::Keys(Box::new(Keys {
        kind,
        interval,
        interval_unsettled,
        timeout,
        fall,
        rise,
        initial,
        port,
        address,
        kind_reported,
    })))
}

fn http_probe(cx: &mut Cx<'_>, at: &Path, raw: raw::HttpProbe) -> ProbeKind {
    let target = |text: &str| {
        // A probe may have a query; the path before it is held to the usual rules.
        let (before, query) = text.split_once('?').map_or((text, None), |(p, q)| (p, Some(q)));
        path(before)?;
        if query.is_some_and(|q| !q.bytes().all(|b| b.is_ascii_graphic() && b != b'#')) {
            return Err(Wrong::new("not a query", "visible ASCII without #"));
        }
        Ok(text.to_owned())
    };
    let path = cx.text(&at.key("path"), raw.path.as_ref(), target);
    let host = cx.text(&at.key("host"), raw.host.as_ref(), host_value);
    let method = cx.text(&at.key("method"), raw.method.as_ref(), method);
    let key = at.key("expect_status");
    let statuses = cx.each(&key, raw.expect_status.as_ref(), status_range);
    if matches!(&raw.expect_status, Some(raw::Texts::Many(list)) if list.is_empty()) {
        cx.error(&key, None, Wrong::plain("an empty list: no probe could ever succeed"));
    }
    let headers = pairs(cx, &at.key("headers"), raw.headers, |text| {
        let name = header_name(text).and_then(hop_by_hop)?;
        if name == http::header::HOST {
            let wrong = Wrong::plain("the host has a key of its own");
            return Err(wrong.help("write http: {host: ...}"));
        }
        Ok(name)
    });
    let method = method.unwrap_or(Method::GET);
    if method == Method::HEAD && raw.expect_body.is_some() {
        let wrong = Wrong::plain("an answer to HEAD has no body (RFC 9110 9.3.2)");
        cx.error(&at.key("expect_body"), raw.expect_body.as_deref(), wrong.help("use method: GET"));
    }
    let expect_status: Vec<_> = statuses.into_iter().map(|(_, range)| range).collect();
    ProbeKind::Http(HttpProbe {
        http2: false,
        path: path.unwrap_or_else(|| "/".to_owned()),
        host,
        method,
        expect_status: if expect_status.is_empty() { vec![200..=299] } else { expect_status },
        expect_body: raw.expect_body.filter(|text| !text.is_empty()),
        headers,
    })
}

fn grpc_probe(cx: &mut Cx<'_>, at: &Path, raw: raw::GrpcProbe) -> ProbeKind {
    let service = cx.text(&at.key("service"), raw.service.as_ref(), |text| {
        let sound = text.len() <= SERVICE_BYTES
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
        let allowed =
            "letters, digits, `.`, `_`, `-` and `/`, 255 at most; empty for the whole server";
        if sound { Ok(text.to_owned()) } else { Err(Wrong::new("not a gRPC service", allowed)) }
    });
    ProbeKind::Grpc { service: service.unwrap_or_default() }
}

fn tcp_probe(raw: raw::TcpProbe) -> ProbeKind {
    let bytes = |text: raw::Text| text.filter(|text| !text.is_empty()).map(Bytes::from);
    ProbeKind::Tcp { send: bytes(raw.send), expect: bytes(raw.expect) }
}

/// A pool's own setting over that of `pool_defaults`, key by key. `at` is the pool.
pub fn settle(
    cx: &mut Cx<'_>,
    at: &Path,
    own: Option<&Setting>,
    shared: &Part,
) -> Option<HealthCheck> {
    let silent = Keys::default();
    let under = match &shared.health_check {
        Some(Setting::Keys(keys)) => keys,
        Some(Setting::Off) | None => &silent,
    };
    let over = match own {
        Some(Setting::Off) => return None,
        Some(Setting::Keys(keys)) => keys,
        None => &silent,
    };
    let at = at.key("health_check");
    let Some(kind) = over.kind.clone().or_else(|| under.kind.clone()) else {
        if own.is_some() && !over.kind_reported && !under.kind_reported {
            let allowed = format!("one of {}", KINDS.join(", "));
            let wrong = Wrong::new("the kind of probe is missing", allowed);
            cx.error(&at, None, wrong.help("for example: health_check: {http: {path: /healthz}}"));
        }
        return None;
    };
    // A role that nobody has confirmed is not assumed: the first client could write to a replica.
    let initial = if kind.tells_role() { Initial::Down } else { Initial::Up };
    let interval = over.interval.or(under.interval).unwrap_or(defaults::PROBE_INTERVAL);
    let check = HealthCheck {
        kind,
        interval,
        interval_unsettled: over
            .interval_unsettled
            .or(under.interval_unsettled)
            .unwrap_or(defaults::PROBE_INTERVAL_UNSETTLED.min(interval)),
        timeout: over.timeout.or(under.timeout).unwrap_or(defaults::PROBE_TIMEOUT),
        fall: over.fall.or(under.fall).unwrap_or(defaults::PROBE_FALL),
        rise: over.rise.or(under.rise).unwrap_or(defaults::PROBE_RISE),
        initial: over.initial.or(under.initial).unwrap_or(initial),
        port: over.port.or(under.port),
        address: over.address.or(under.address),
        tls: None,
        introduce: None,
    };
    if check.timeout >= check.interval {
        let place = if over.timeout.is_some() { at.key("timeout") } else { at.clone() };
        let text = format!(
            "the probe's timeout ({}) is not below its interval ({}): a slow backend is probed \
             less often than the interval says",
            show_duration(check.timeout),
            show_duration(check.interval)
        );
        cx.warn(&place, Wrong::plain(text));
    }
    if check.interval_unsettled > check.interval {
        let place = if over.interval_unsettled.is_some() {
            at.key("interval_unsettled")
        } else {
            at.clone()
        };
        let text = format!(
            "interval_unsettled ({}) is longer than interval ({}): a backend that fails is probed \
             less often than one that is well",
            show_duration(check.interval_unsettled),
            show_duration(check.interval)
        );
        cx.warn(&place, Wrong::plain(text).help("it is there to find out sooner: make it shorter"));
    }
    Some(check)
}

/// Probes of HTTP speak as the pool's requests do, where those are HTTP/2 alone; what listens at a port or
/// an address of its own for probes is not what takes the requests, and is asked without TLS.
pub fn speak(check: &mut HealthCheck, protocol: Protocol) {
    if let ProbeKind::Http(probe) = &mut check.kind {
        let alone = matches!(protocol, Protocol::H2 | Protocol::H2c);
        probe.http2 = alone && check.port.is_none() && check.address.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_probe_speaks_http2_where_the_requests_go_and_nowhere_else() {
        for (elsewhere, expected) in
            [("", true), (", port: 81", false), (", address: 127.0.0.2", false)]
        {
            let text = format!(
                "
listeners: {{web: {{bind: 127.0.0.1:8080, routes: [{{pool: web}}]}}}}
pools:
  web:
    protocol: h2c
    backends: [127.0.0.1:80]
    health_check: {{http: {{path: /}}{elsewhere}}}
"
            );
            let loaded = parse(&text, "x", std::path::Path::new("."), &|_| None).unwrap();
            let check = loaded.config.pools[0].health_check.as_ref().unwrap();
            let ProbeKind::Http(probe) = &check.kind else { panic!("{:?}", check.kind) };
            assert_eq!(probe.http2, expected, "{elsewhere}");
        }
    }
}
