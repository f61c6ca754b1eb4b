//! What serde reads of a pool, its backends and its checks.
//!
//! As all of `raw`: every value still text, every key optional.

use serde::Deserialize;

use super::{Pairs, Text, Texts, Timeouts};

/// A pool, and `pool_defaults` (which has no backends).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub balance: Option<Balance>,
    pub backends: Option<Vec<Option<Backend>>>,
    pub health_check: Option<HealthCheck>,
    pub keepalive: Option<Keepalive>,
    pub timeouts: Option<Timeouts>,
    pub outlier: Option<Outlier>,
    pub failover: Option<Failover>,
    pub retry: Option<Retry>,
    pub queue: Option<Queue>,
    pub slow_start: Text,
    pub sticky: Option<Sticky>,
    pub tls: Option<PoolTls>,
    pub protocol: Text,
    pub send_proxy_protocol: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Balance {
    Word(String),
    Hash { hash: Option<HashBy> },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashBy {
    pub by: Text,
    pub name: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Backend {
    Short(String),
    Long { address: Text, weight: Text, tier: Text, max_requests: Text },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum HealthCheck {
    Word(String),
    Parts(Box<HealthParts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthParts {
    pub http: Option<HttpProbe>,
    pub tcp: Option<TcpProbe>,
    pub tls: Option<TlsProbe>,
    pub grpc: Option<GrpcProbe>,
    pub postgres: Option<DatabaseProbe>,
    pub redis: Option<DatabaseProbe>,
    pub mysql: Option<DatabaseProbe>,
    pub interval: Text,
    pub interval_unsettled: Text,
    pub timeout: Text,
    pub fall: Text,
    pub rise: Text,
    pub initial: Text,
    pub port: Text,
    pub address: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    pub path: Text,
    pub host: Text,
    pub method: Text,
    pub expect_status: Option<Texts>,
    pub expect_body: Text,
    pub headers: Option<Pairs<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    pub send: Text,
    pub expect: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsProbe {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcProbe {
    pub service: Text,
}

/// Every key of every kind; which one may stand where is for `shape` to say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseProbe {
    pub user: Text,
    pub database: Text,
    pub password_file: Text,
    pub role: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    pub max_idle: Text,
    pub idle_timeout: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Outlier {
    Word(String),
    Parts(Box<OutlierParts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierParts {
    pub consecutive_failures: Text,
    pub failure_share: Text,
    pub count_5xx: Text,
    pub latency: Option<Latency>,
    pub window: Text,
    pub min_requests: Text,
    pub eject_for: Text,
    pub eject_for_max: Text,
    pub eject_at_most: Text,
    pub flap_damping: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Latency {
    Word(String),
    Parts { times: Text },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    pub mode: Text,
    pub spill_below: Text,
    pub failback: Option<Failback>,
    pub when_none_serve: Text,
    pub exclusive: Text,
    pub on_down: Option<OnChange>,
    pub on_failback: Option<OnChange>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Failback {
    Word(String),
    Parts { after: Text },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OnChange {
    Word(String),
    Parts { close_after: Text },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Retry {
    Word(String),
    Parts(Box<RetryParts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryParts {
    pub attempts: Text,
    pub on: Option<Texts>,
    pub hedge: Option<Hedge>,
    pub budget: Text,
    pub budget_min: Text,
    pub buffer: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Hedge {
    Word(String),
    Parts { after: Text },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Queue {
    Word(String),
    Parts(QueueParts),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueParts {
    pub size: Text,
    pub timeout: Text,
    pub priority_header: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Sticky {
    Word(String),
    Parts(Box<StickyParts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StickyParts {
    pub cookie: Text,
    pub key_file: Text,
    pub ttl: Text,
    pub same_site: Text,
    pub secure: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum PoolTls {
    Word(String),
    Parts(Box<PoolTlsParts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTlsParts {
    pub ca: Text,
    pub server_name: Text,
    pub cert: Text,
    pub key: Text,
    pub verify: Text,
}
