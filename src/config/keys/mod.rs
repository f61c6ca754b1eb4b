//! Every key of the file, by place: what is known, what comes later, and what is often mistaken.
//!
//! `shape` reads these tables for its reports; a test holds docs/configuration.md against them, and
//! serde's mirror in `raw` refuses what is not in both.

mod acme;
mod failover;
mod pool_tls;
mod probes;
mod route;
mod tls;

use failover::{FAILOVER, OUTLIER, QUEUE, RETRY, STICKY};
use pool_tls::POOL_TLS;
use probes::HEALTH_CHECK;
use route::{PROXY_PEERS, RATE_LIMIT, ROUTE};
use tls::LISTENER_TLS;

use super::shape::Keys;
use super::shape::Shape::{List, Map, Named, Pairs, Text, TextOr, Texts};

const OF_A_POOL: &str = "it belongs to a pool, or to `pool_defaults`";

pub static FILE: Keys = Keys {
    place: "the file",
    known: &[
        ("workers", Text),
        ("shutdown_delay", Text),
        ("drain_timeout", Text),
        ("admin", Map(&ADMIN)),
        ("log", Map(&LOG)),
        ("timeouts", Map(&TIMEOUTS)),
        ("limits", Map(&LIMITS)),
        ("listeners", Named(&Map(&LISTENER))),
        ("pool_defaults", Map(&POOL_DEFAULTS)),
        ("pools", Named(&Map(&POOL))),
    ],
    later: &["access_log", "vip", "pair", "cluster", "state"],
    advice: &[
        ("frontends", "call them `listeners`"),
        ("entrypoints", "call them `listeners`"),
        ("backends", "backends belong to a pool: pools: {NAME: {backends: [...]}}"),
        ("upstreams", "call them `pools`"),
        ("clusters", "call them `pools`"),
        ("routes", "routes belong to a listener: listeners: {NAME: {routes: [...]}}"),
        ("health_check", OF_A_POOL),
        ("keepalive", OF_A_POOL),
        ("failover", OF_A_POOL),
        ("outlier", OF_A_POOL),
        ("retry", OF_A_POOL),
        ("queue", OF_A_POOL),
        ("slow_start", OF_A_POOL),
        ("threads", "call it `workers`"),
    ],
};

static ADMIN: Keys = Keys {
    place: "admin",
    known: &[("listen", Text), ("ready_requires", Texts)],
    later: &["token_file"],
    advice: &[("bind", "call it `listen`")],
};

static LOG: Keys = Keys {
    place: "log",
    known: &[("level", Text), ("format", Text)],
    later: &[],
    advice: &[("path", "the log goes to standard error; redirect that")],
};

static TIMEOUTS: Keys = Keys {
    place: "timeouts",
    known: &[
        ("client_header", Text),
        ("client_idle", Text),
        ("client_age", Text),
        ("client_body", Text),
        ("connect", Text),
        ("response", Text),
        ("stream_idle", Text),
        ("tcp_idle", Text),
        ("request", Text),
        ("tls_handshake", Text),
        ("proxy_header", Text),
    ],
    later: &[],
    advice: &[
        ("max_connection_age", "call it `client_age`"),
        (
            "client_hello",
            "it is a part of `proxy_header`: what comes before a connection is served",
        ),
        ("client", "that is `client_header`, `client_body` or `client_idle`"),
        ("backend", "that is `response` (until its head) or `stream_idle` (after it)"),
        ("idle", "that is `client_idle`, `stream_idle` or `tcp_idle`"),
    ],
};

const OF_THE_CLIENT: &str = "it counts before a route is known: put it into the `timeouts` of the \
                             listener or of the file";

static POOL_TIMEOUTS: Keys = Keys {
    place: "a pool's timeouts",
    known: &[
        ("client_body", Text),
        ("connect", Text),
        ("response", Text),
        ("stream_idle", Text),
        ("tcp_idle", Text),
        ("request", Text),
        ("tls_handshake", Text),
    ],
    later: &[],
    advice: &[
        ("client_header", OF_THE_CLIENT),
        ("client_idle", OF_THE_CLIENT),
        ("client_age", OF_THE_CLIENT),
        ("proxy_header", OF_THE_CLIENT),
    ],
};

static LIMITS: Keys = Keys {
    place: "limits",
    known: &[
        ("connections", Text),
        ("connections_per_client", Text),
        ("request_head", Text),
        ("headers", Text),
        ("request_body", Text),
    ],
    later: &[],
    advice: &[],
};

static LISTENER: Keys = Keys {
    place: "a listener",
    known: &[
        ("bind", Texts),
        ("mode", Text),
        ("tls", Map(&LISTENER_TLS)),
        ("trusted_proxies", Texts),
        ("allow", Texts),
        ("deny", Texts),
        ("pool", Text),
        ("routes", List(&Map(&ROUTE))),
        ("timeouts", Map(&TIMEOUTS)),
        ("error_pages", Pairs),
        ("rate_limit", Map(&RATE_LIMIT)),
        ("accept_proxy_protocol", Map(&PROXY_PEERS)),
    ],
    later: &[],
    advice: &[
        ("proxy_protocol", "call it `accept_proxy_protocol`: {from: [10.0.0.0/8]}"),
        ("send_proxy_protocol", OF_A_POOL),
        ("listen", "call it `bind`"),
        ("address", "call it `bind`"),
        ("port", "it is a part of `bind`, as in 0.0.0.0:8080"),
        ("protocol", "call it `mode`"),
        ("backends", "backends belong to a pool, and the listener names the pool"),
        ("limits", "`limits` holds for the whole file"),
        ("certificates", "they belong in `tls`: tls: {certificates: [{cert: ..., key: ...}]}"),
        ("ssl", "call it `tls`"),
        ("failover", OF_A_POOL),
        ("retry", OF_A_POOL),
        ("queue", OF_A_POOL),
    ],
};

const POOL_LATER: &[&str] = &["discover", "discovery"];

const OF_A_BACKEND: &str =
    "it belongs to a backend: {address: ..., weight: 2, tier: 1, max_requests: 200}";

static POOL_DEFAULTS: Keys = Keys {
    place: "pool_defaults",
    known: &[
        ("balance", TextOr(&BALANCE)),
        ("health_check", TextOr(&HEALTH_CHECK)),
        ("keepalive", Map(&KEEPALIVE)),
        ("timeouts", Map(&POOL_TIMEOUTS)),
        ("outlier", TextOr(&OUTLIER)),
        ("failover", Map(&FAILOVER)),
        ("retry", TextOr(&RETRY)),
        ("queue", TextOr(&QUEUE)),
        ("slow_start", Text),
        ("sticky", TextOr(&STICKY)),
        ("tls", TextOr(&POOL_TLS)),
        ("protocol", Text),
        ("send_proxy_protocol", Text),
    ],
    later: POOL_LATER,
    advice: &[
        ("backends", "each pool has its own"),
        ("tier", OF_A_BACKEND),
        ("max_requests", OF_A_BACKEND),
        ("weight", OF_A_BACKEND),
    ],
};

static POOL: Keys = Keys {
    place: "a pool",
    known: &[
        ("balance", TextOr(&BALANCE)),
        ("backends", List(&TextOr(&BACKEND))),
        ("health_check", TextOr(&HEALTH_CHECK)),
        ("keepalive", Map(&KEEPALIVE)),
        ("timeouts", Map(&POOL_TIMEOUTS)),
        ("outlier", TextOr(&OUTLIER)),
        ("failover", Map(&FAILOVER)),
        ("retry", TextOr(&RETRY)),
        ("queue", TextOr(&QUEUE)),
        ("slow_start", Text),
        ("sticky", TextOr(&STICKY)),
        ("tls", TextOr(&POOL_TLS)),
        ("protocol", Text),
        ("send_proxy_protocol", Text),
    ],
    later: POOL_LATER,
    advice: &[
        ("ssl", "call it `tls`"),
        ("server_name", "it belongs in `tls`: tls: {server_name: ...}"),
        ("servers", "call them `backends`"),
        ("endpoints", "call them `backends`"),
        ("hash", "it belongs in `balance`: balance: {hash: {by: client_ip}}"),
        ("algorithm", "call it `balance`"),
        ("weight", OF_A_BACKEND),
        ("interval", "it belongs in `health_check`"),
        ("tier", OF_A_BACKEND),
        ("tiers", "each backend names its own: {address: ..., tier: 1}"),
        ("max_requests", OF_A_BACKEND),
        ("exclusive", "it belongs in `failover`: failover: {exclusive: true}"),
        ("failback", "it belongs in `failover`: failover: {failback: ...}"),
        ("on_down", "it belongs in `failover`: failover: {on_down: ...}"),
        ("hedge", "it belongs in `retry`: retry: {hedge: {after: 300ms}}"),
        ("attempts", "it belongs in `retry`: retry: {attempts: 3}"),
        ("retries", "write retry: {attempts: 3}; the first one counts"),
        ("outlier_detection", "call it `outlier`"),
        ("proxy_protocol", "call it `send_proxy_protocol`: off, v1 or v2"),
        ("accept_proxy_protocol", "it belongs to a listener"),
    ],
};

static BALANCE: Keys = Keys {
    place: "balance",
    known: &[("hash", Map(&HASH))],
    later: &[],
    advice: &[("by", "write balance: {hash: {by: ...}}")],
};

static HASH: Keys =
    Keys { place: "hash", known: &[("by", Text), ("name", Text)], later: &[], advice: &[] };

static BACKEND: Keys = Keys {
    place: "a backend",
    known: &[("address", Text), ("weight", Text), ("tier", Text), ("max_requests", Text)],
    later: &[],
    advice: &[
        ("host", "write address: HOST:PORT"),
        ("port", "write address: HOST:PORT"),
        ("url", "write address: HOST:PORT"),
        ("backup", "write tier: 1"),
        ("priority", "call it `tier`: 0 is active, 1 and up stand by"),
        ("max_connections", "call it `max_requests`: of a tcp listener it counts connections"),
        ("maxconn", "call it `max_requests`: of a tcp listener it counts connections"),
    ],
};

static KEEPALIVE: Keys = Keys {
    place: "keepalive",
    known: &[("max_idle", Text), ("idle_timeout", Text)],
    later: &[],
    advice: &[],
};
