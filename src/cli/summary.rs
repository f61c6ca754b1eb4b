//! What a valid configuration would run, in a page: listeners, their routes, pools, backends, and
//! how long a dead backend can go unnoticed.
//!
//! Only reads the model; `check` prints it.

mod tls;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use crate::config::defaults::JITTER;
use crate::config::model::{
    Action, Backend, Balance, Config, Failback, Failover, FailoverMode, HashBy, HealthCheck,
    HostPattern, Listener, Match, Mode, MysqlRole, PathPattern, Pool, PostgresRole, ProbeKind,
    Protocol, ProxyVersion, RedisRole, TcpAction, TcpRoute,
};
use crate::config::units::show_duration;

pub use tls::certificates_for_machines;

/// Of a long list the first few, and how many more there are.
const SHOWN: usize = 20;

pub fn write(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    for item in &config.listeners {
        listener(item, out)?;
    }
    for item in &config.pools {
        pool(item, out)?;
    }
    let workers = config.workers.map_or("one per usable CPU".to_owned(), |n| n.to_string());
    writeln!(out, "admin on http://{}, workers: {workers}", config.admin.listen)
}

fn listener(listener: &Listener, out: &mut dyn Write) -> io::Result<()> {
    let binds = listener.bind.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match &listener.mode {
        Mode::Tcp { routes } => {
            streams(listener, &binds, routes, out)?;
            proxied(listener, out)?;
            tls::write(listener.tls.as_ref(), out)
        }
        Mode::Http { routes } => {
            writeln!(out, "listener {}: http on {binds}", listener.name)?;
            proxied(listener, out)?;
            tls::write(listener.tls.as_ref(), out)?;
            for route in routes.iter().take(SHOWN) {
                writeln!(out, "  {} -> {}", matching(&route.matches), action(&route.action))?;
            }
            more(routes.len(), "routes", out)?;
            let open = routes.iter().any(|route| route.matches == Match::default());
            if open { Ok(()) } else { writeln!(out, "  everything else -> 404") }
        }
    }
}

fn proxied(listener: &Listener, out: &mut dyn Write) -> io::Result<()> {
    let Some(peers) = &listener.accept_proxy_protocol else { return Ok(()) };
    let networks = peers.networks.iter().map(ToString::to_string);
    let from: Vec<_> = networks.chain(peers.unix.then(|| "unix".to_owned())).collect();
    writeln!(out, "  PROXY header required from {}", from.join(", "))
}

fn streams(
    listener: &Listener,
    binds: &str,
    routes: &[TcpRoute],
    out: &mut dyn Write,
) -> io::Result<()> {
    let action = |route: &TcpRoute| match &route.action {
        TcpAction::Pool(pool) => format!("pool {pool}"),
        TcpAction::Reject => "closed".to_owned(),
    };
    if let [all] = routes
        && all.sni.is_empty()
    {
        return writeln!(out, "listener {}: tcp on {binds} -> {}", listener.name, action(all));
    }
    writeln!(out, "listener {}: tcp on {binds}, by TLS server name", listener.name)?;
    for route in routes.iter().take(SHOWN) {
        let names = match route.sni.as_slice() {
            [] => "everything".to_owned(),
            names => names.iter().map(host).collect::<Vec<_>>().join(" or "),
        };
        writeln!(out, "  {names} -> {}", action(route))?;
    }
    more(routes.len(), "routes", out)?;
    let open = routes.iter().any(|route| route.sni.is_empty());
    if open { Ok(()) } else { writeln!(out, "  everything else -> closed") }
}

fn pool(pool: &Pool, out: &mut dyn Write) -> io::Result<()> {
    let count = pool.backends.len();
    let noun = if count == 1 { "backend" } else { "backends" };
    writeln!(out, "pool {}: {} over {count} {noun}", pool.name, balance(&pool.balance))?;
    for backend in pool.backends.iter().take(SHOWN) {
        writeln!(out, "  {}{}", backend.address, of_backend(backend))?;
    }
    more(count, "backends", out)?;
    if let Some(protocol) = spoken(pool.protocol) {
        writeln!(out, "  spoken to: {protocol}")?;
    }
    if let Some(tls) = &pool.tls {
        let whom = match (&tls.ca, tls.verify) {
            (_, false) => "any certificate will do".to_owned(),
            (Some(ca), true) => format!("of a CA in {}", ca.path.display()),
            (None, true) => "of a CA that the system trusts".to_owned(),
        };
        writeln!(out, "  over TLS: {whom}")?;
    }
    failover(pool, out)?;
    let version = pool.send_proxy_protocol.map(|version| match version {
        ProxyVersion::V1 => 1,
        ProxyVersion::V2 => 2,
    });
    if let Some(version) = version {
        writeln!(out, "  backends are told who the client is: PROXY protocol, version {version}")?;
    }
    match (&pool.health_check, &pool.outlier) {
        (None, None) => writeln!(out, "  no health check: a dead backend is not taken out"),
        (None, Some(_)) => {
            writeln!(out, "  no health check: a dead backend is found by requests that fail")
        }
        (Some(check), _) => writeln!(out, "  {}\n  {}", probe(check), detection(check)),
    }
}

/// Nothing is said of what most speak.
fn spoken(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Http1 => None,
        Protocol::H2 => Some("HTTP/2"),
        Protocol::H2c => Some("HTTP/2 without TLS"),
        Protocol::Auto => Some("HTTP/2, or HTTP/1.1 where a backend has nothing else"),
    }
}

fn of_backend(backend: &Backend) -> String {
    let mut text = String::new();
    if backend.weight != 1 {
        text += &format!(" weight {}", backend.weight);
    }
    if backend.tier != 0 {
        text += &format!(" tier {}", backend.tier);
    }
    if let Some(most) = backend.max_requests {
        text += &format!(" max_requests {most}");
    }
    text
}

/// What happens when a tier serves nothing; nothing is said of a pool that has just one.
fn failover(pool: &Pool, out: &mut dyn Write) -> io::Result<()> {
    let Failover { mode, failback, exclusive, .. } = &pool.failover;
    let tiers: BTreeSet<u8> = pool.backends.iter().map(|backend| backend.tier).collect();
    if *exclusive {
        writeln!(out, "  exclusive: one backend is used at a time")?;
    }
    if tiers.len() < 2 {
        return Ok(());
    }
    let tiers = tiers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
    let mode = match mode {
        FailoverMode::Automatic => "a tier in which nothing serves hands over to the next",
        FailoverMode::Manual => "an operator switches",
    };
    let back = match failback {
        Failback::Automatic => "failback at once".to_owned(),
        Failback::Manual => "failback by an operator".to_owned(),
        Failback::After(time) => format!("failback after {} of health", show_duration(*time)),
    };
    writeln!(out, "  tier {tiers}: {mode}, {back}")
}

fn more(count: usize, what: &str, out: &mut dyn Write) -> io::Result<()> {
    match count.checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(rest) => writeln!(out, "  and {rest} more {what}"),
    }
}

fn probe(check: &HealthCheck) -> String {
    let interval = show_duration(check.interval);
    match &check.kind {
        ProbeKind::Http(http) => {
            format!("health check: {} {} every {interval}", http.method, http.path)
        }
        ProbeKind::Tcp { .. } => format!("health check: tcp every {interval}"),
        ProbeKind::Grpc { service } if service.is_empty() => {
            format!("health check: grpc every {interval}")
        }
        ProbeKind::Grpc { service } => {
            format!("health check: grpc {service} every {interval}")
        }
        ProbeKind::Tls => format!("health check: a TLS handshake every {interval}"),
        ProbeKind::Postgres(ask) => role("postgres", &PostgresRole::WORDS, ask.role, &interval),
        ProbeKind::Redis(ask) => role("redis", &RedisRole::WORDS, ask.role, &interval),
        ProbeKind::Mysql(ask) => role("mysql", &MysqlRole::WORDS, ask.role, &interval),
    }
}

fn role<T: PartialEq>(kind: &str, words: &[(&str, T)], role: T, interval: &str) -> String {
    let word = words.iter().find(|(_, known)| *known == role).map_or("", |(word, _)| *word);
    format!("health check: {kind}, role {word}, every {interval}")
}

/// The worst case and how it comes about; see [`HealthCheck::worst_detection`].
fn detection(check: &HealthCheck) -> String {
    let worst = seconds(rounded_up(check.worst_detection()));
    let (fall, timeout) = (check.fall, show_duration(check.timeout));
    let share = (JITTER * 100.0).round();
    let interval = show_duration(check.interval);
    let mut sum = format!("interval {interval} + {share}%, then {fall} x timeout {timeout}");
    if fall > 1 {
        let unsettled = show_duration(check.interval_unsettled);
        sum += &format!(", {} x interval_unsettled {unsettled} + {share}% between", fall - 1);
    }
    format!("a dead backend is taken out after {worst} at worst: {sum}")
}

/// `3.7s`: easier to add up than `3s700ms`.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) || duration >= Duration::from_secs(60) {
        return show_duration(duration);
    }
    format!("{}s", duration.as_secs_f64())
}

/// To whole milliseconds: a bound must not be shown too low.
fn rounded_up(duration: Duration) -> Duration {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    // A float's last digit is no millisecond: 1.1 x 1s is not 1101ms.
    let exact = (duration.as_secs_f64() * 1000.0).round();
    if (duration.as_secs_f64() * 1000.0 - exact).abs() < 1e-3 {
        return Duration::from_millis(exact as u64);
    }
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

fn matching(matches: &Match) -> String {
    let mut parts = Vec::new();
    let hosts = matches.host.iter().map(host);
    let paths = matches.path.iter().map(|path| match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
    });
    parts.extend(either(hosts.collect()));
    parts.extend(either(paths.collect()));
    parts.extend(matches.path_regex.as_ref().map(|pattern| format!("~ {}", pattern.0)));
    parts.extend(either(matches.method.iter().map(ToString::to_string).collect()));
    parts.extend(matches.header.iter().map(|(name, _)| format!("header {name}")));
    parts.extend(matches.query.iter().map(|(name, _)| format!("query {name}")));
    let clients = either(matches.client.iter().map(ToString::to_string).collect());
    parts.extend(clients.map(|clients| format!("from {clients}")));
    if parts.is_empty() { "everything else".to_owned() } else { parts.join(" ") }
}

fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(suffix) => format!("*{suffix}"),
    }
}

fn either(words: Vec<String>) -> Option<String> {
    (!words.is_empty()).then(|| words.join("|"))
}

fn action(action: &Action) -> String {
    match action {
        Action::Pool(pool) => format!("pool {pool}"),
        Action::Split(shares) => {
            let total: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let share = |weight: u32| f64::from(weight) * 100.0 / total.max(1) as f64;
            let shares = shares.iter().map(|(pool, w)| format!("pool {pool} {:.1}%", share(*w)));
            shares.collect::<Vec<_>>().join(", ")
        }
        Action::Redirect { to, status } => format!("redirect {} {to}", status.as_u16()),
        Action::RedirectHttps { status, port: 443 } => {
            format!("redirect {} to https", status.as_u16())
        }
        Action::RedirectHttps { status, port } => {
            format!("redirect {} to https, port {port}", status.as_u16())
        }
        Action::Respond { status, body, .. } => {
            format!("answer {} with {} bytes", status.as_u16(), body.len())
        }
    }
}

fn balance(balance: &Balance) -> String {
    match balance {
        Balance::RoundRobin => "round_robin".to_owned(),
        Balance::LeastRequests => "least_requests".to_owned(),
        Balance::PeakEwma => "peak_ewma".to_owned(),
        Balance::Random => "random".to_owned(),
        Balance::First => "first".to_owned(),
        Balance::Hash(HashBy::ClientIp) => "hash by client_ip".to_owned(),
        Balance::Hash(HashBy::Header(name)) => format!("hash by header {name}"),
        Balance::Hash(HashBy::Cookie(name)) => format!("hash by cookie {name}"),
        Balance::Hash(HashBy::Path) => "hash by path".to_owned(),
    }
}

/// For `--format json`: each pool with its backends and the worst-case time to detect a dead one.
pub fn pools_for_machines(config: &Config) -> Vec<serde_json::Value> {
    let one = |pool: &Pool| {
        let worst = pool
            .health_check
            .as_ref()
            .map(|check| rounded_up(check.worst_detection()).as_secs_f64());
        json!({
            "name": pool.name.as_str(),
            "backends": pool.backends.iter().map(|b| b.address.to_string()).collect::<Vec<_>>(),
            "worst_detection_seconds": worst,
        })
    };
    config.pools.iter().map(one).collect()
}
