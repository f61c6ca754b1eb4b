//! The top of the file: takes it apart into sections and puts the model together.

use serde_yaml::{Mapping, Value};

use super::cx::{Cx, Reference};
use super::words::{any_duration, or_off, size_within, whole, word};
use super::{addresses, coverage, cross, gaps, listener, pool, timeouts};
use crate::config::defaults;
use crate::config::model::{Admin, Config, Limits, Log, LogFormat, LogLevel, Name};
use crate::config::path::Path;
use crate::config::raw;

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// A browser's cookies alone may take 4 KiB; beyond 1 MiB a head is an attack.
const REQUEST_HEAD: std::ops::RangeInclusive<u64> = 8 * 1024..=1024 * 1024;

pub fn config(cx: &mut Cx<'_>, value: Value) -> Option<Config> {
    // Anything else was reported by `shape`.
    let Value::Mapping(mut sections) = value else { return None };
    let root = Path::root();
    let workers = scalar(&mut sections, "workers");
    let workers = cx.text(&root.key("workers"), workers.as_ref(), |text| match text {
        "auto" => Ok(None),
        text => whole(text, 1..=512).map(|n| Some(n as usize)).map_err(|mut wrong| {
            wrong.allowed = Some("auto, or a whole number from 1 to 512".to_owned());
            wrong
        }),
    });
    let mut wait = |cx: &mut Cx<'_>, key: &str, default| {
        let text = scalar(&mut sections, key);
        cx.text(&root.key(key), text.as_ref(), any_duration).unwrap_or(default)
    };
    let shutdown_delay = wait(cx, "shutdown_delay", defaults::SHUTDOWN_DELAY);
    let drain_timeout = wait(cx, "drain_timeout", defaults::DRAIN_TIMEOUT);

    let admin = admin(cx, &mut sections);
    let log = log(cx, &mut sections);
    let limits = limits(cx, &mut sections);
    let raw_timeouts: raw::Timeouts = section(cx, &mut sections, "timeouts");
    let base = timeouts::base(cx, &root.key("timeouts"), &raw_timeouts, defaults::TIMEOUTS);

    let shared: raw::Pool = section(cx, &mut sections, "pool_defaults");
    let shared = pool::part(cx, &root.key("pool_defaults"), shared);
    let mut pools = Vec::new();
    for (name, at, value) in named(cx, &mut sections, "pools") {
        let raw = cx.section(&at, value);
        pools.push(pool::pool(cx, &at, name, raw, &shared));
    }
    let mut listeners = Vec::new();
    for (name, at, value) in named(cx, &mut sections, "listeners") {
        let raw = cx.section(&at, value);
        listeners.extend(listener::listener(cx, &at, name, raw, base));
    }
    cx.missing(&root, "listeners", "listeners: {web: {bind: 0.0.0.0:8080, routes: [{pool: web}]}}");
    cx.missing(&root, "pools", "pools: {web: {backends: [10.0.0.11:8080]}}");
    let workers = workers.flatten();
    let config =
        Config { workers, shutdown_delay, drain_timeout, admin, log, limits, listeners, pools };
    cross::check(cx, &config);
    gaps::check(cx, &config);
    coverage::check(cx, &config);
    Some(config)
}

fn scalar(sections: &mut Mapping, key: &str) -> Option<String> {
    match sections.remove(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn section<T>(cx: &mut Cx<'_>, sections: &mut Mapping, key: &str) -> T
where
    T: serde::de::DeserializeOwned + Default,
{
    match sections.remove(key) {
        Some(value) => cx.section(&Path::root().key(key), value),
        None => T::default(),
    }
}

/// The sections of a map of names.
fn named(cx: &mut Cx<'_>, sections: &mut Mapping, key: &str) -> Vec<(Name, Path, Value)> {
    let at = Path::root().key(key);
    let Some(Value::Mapping(map)) = sections.remove(key) else { return Vec::new() };
    if map.is_empty() && key == "listeners" {
        let wrong = crate::config::source::Wrong::plain("no listener: nothing would be served");
        cx.error(&at, None, wrong);
    }
    map.into_iter()
        .filter_map(|(key, value)| {
            // Keys that are no names were taken out by `shape`.
            let name = Name::new(key.as_str()?)?;
            let at = at.key(name.as_str());
            Some((name, at, value))
        })
        .collect()
}

fn admin(cx: &mut Cx<'_>, sections: &mut Mapping) -> Admin {
    let raw: raw::Admin = section(cx, sections, "admin");
    let at = Path::root().key("admin");
    let listen = cx.text(&at.key("listen"), raw.listen.as_ref(), addresses::listen);
    let at = at.key("ready_requires");
    let required = cx.each(&at, raw.ready_requires.as_ref(), super::words::name);
    let references = required.iter().map(|(at, pool)| Reference {
        at: at.clone(),
        pool: pool.clone(),
        by_key: false,
    });
    cx.references.extend(references);
    Admin {
        listen: listen.unwrap_or_else(default_admin),
        ready_requires: required.into_iter().map(|(_, name)| name).collect(),
    }
}

fn default_admin() -> std::net::SocketAddr {
    // Proof: a constant that the test `the_defaults_hold` reads.
    defaults::ADMIN_LISTEN.parse().expect("the default admin address is an address")
}

fn log(cx: &mut Cx<'_>, sections: &mut Mapping) -> Log {
    let raw: raw::Log = section(cx, sections, "log");
    let at = Path::root().key("log");
    let level = cx.text(&at.key("level"), raw.level.as_ref(), |text| word(text, &LEVELS));
    let format = cx.text(&at.key("format"), raw.format.as_ref(), |text| word(text, &FORMATS));
    Log { level: level.unwrap_or(LogLevel::Info), format: format.unwrap_or(LogFormat::Text) }
}

fn limits(cx: &mut Cx<'_>, sections: &mut Mapping) -> Limits {
    let raw: raw::Limits = section(cx, sections, "limits");
    let at = Path::root().key("limits");
    let all = defaults::LIMITS;
    let connections = cx
        .text(&at.key("connections"), raw.connections.as_ref(), |text| whole(text, 1..=10_000_000));
    let key = at.key("connections_per_client");
    let per_client = cx.text(&key, raw.connections_per_client.as_ref(), |text| {
        or_off(text, |text| whole(text, 1..=10_000_000))
    });
    let head = cx.text(&at.key("request_head"), raw.request_head.as_ref(), |text| {
        size_within(text, REQUEST_HEAD)
    });
    let headers = cx.text(&at.key("headers"), raw.headers.as_ref(), |text| whole(text, 1..=10_000));
    let body = cx.text(&at.key("request_body"), raw.request_body.as_ref(), |text| {
        or_off(text, |text| size_within(text, 0..=1 << 50))
    });
    Limits {
        connections: connections.map_or(all.connections, |n| n as usize),
        connections_per_client: per_client
            .map_or(all.connections_per_client, |n| n.map(|n| n as u32)),
        request_head_bytes: head.map_or(all.request_head_bytes, |n| n as usize),
        headers: headers.map_or(all.headers, |n| n as usize),
        request_body_bytes: body.unwrap_or(all.request_body_bytes),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_defaults_hold() {
        assert!(super::default_admin().ip().is_loopback());
    }
}
