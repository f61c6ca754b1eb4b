//! What a pool does when its backends fail: tiers, outliers, retries, queue, slow start, stickiness.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How a pool's tiers take over from one another.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    pub mode: FailoverMode,
    /// A tier whose serving weight is under this share of its whole weight (in percent, 1 to 100)
    /// shares load with the next, in proportion.
    pub spill_below: Option<u32>,
    pub failback: Failback,
    pub when_none_serve: WhenNoneServe,
    /// At most one backend of the pool serves.
    pub exclusive: bool,
    /// What becomes of the connections and requests in progress of a backend that went down.
    pub on_down: OnChange,
    /// What becomes of those on a standby tier when a better one is back.
    pub on_failback: OnChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverMode {
    /// A tier that serves nothing hands over to the next.
    Automatic,
    /// Only an operator switches.
    Manual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// As soon as the better tier serves.
    Automatic,
    /// When an operator says so.
    Manual,
    /// After so long a time of stable health.
    After(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenNoneServe {
    /// 503; a TCP client is closed.
    Reject,
    /// Backends that are down, ejected or unverified are tried all the same.
    TryAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    Keep,
    Close,
    CloseAfter(Duration),
}

/// Passive judgement by real traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// In a row; at least 1. `None` is off.
    pub consecutive_failures: Option<u32>,
    /// Percent of the requests in the window, 1 to 100. `None` is off.
    pub failure_share: Option<u32>,
    /// 5xx other than 502, 503 and 504 count as failures.
    pub count_5xx: bool,
    /// A windowed median of so many times its tier's. `None` is off.
    pub latency_times: Option<f64>,
    pub window: Duration,
    /// A share or a median of fewer requests says nothing; at least 1.
    pub min_requests: u32,
    pub eject_for: Duration,
    pub eject_for_max: Duration,
    /// Percent of a tier, 1 to 100; rounded up, so always at least one.
    pub eject_at_most: u32,
    pub flap_damping: bool,
}

/// What is sent again, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// In all; 1 is no retry.
    pub attempts: u32,
    pub on: RetryOn,
    pub hedge: Option<HedgeAfter>,
    /// Of the pool's requests in progress, percent.
    pub budget_percent: u32,
    pub budget_min: u32,
    /// Of a request's body kept for a replay, and of an answer held back.
    pub buffer_bytes: usize,
}

/// What may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// Refused, unreachable, or `timeouts.connect` passed.
    pub connect: bool,
    pub reset: bool,
    pub garbage: bool,
    pub timeout: bool,
    pub truncated: bool,
    pub status_502: bool,
    pub status_503: bool,
    pub status_504: bool,
}

impl RetryOn {
    pub const ALL: RetryOn = RetryOn {
        connect: true,
        reset: true,
        garbage: true,
        timeout: true,
        truncated: true,
        status_502: true,
        status_503: true,
        status_504: true,
    };
    pub const NONE: RetryOn = RetryOn {
        connect: false,
        reset: false,
        garbage: false,
        timeout: false,
        truncated: false,
        status_502: false,
        status_503: false,
        status_504: false,
    };
}

/// When a second copy of a safe request goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    Time(Duration),
    /// The pool's own 99th percentile of the time to the head of an answer.
    P99,
}

/// Where requests wait while no backend can take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// At least 1.
    pub size: usize,
    pub timeout: Duration,
    /// Requests with a larger number in this header go first; without it: 0.
    pub priority_header: Option<HeaderName>,
}

/// A cookie that names a client's backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Sticky {
    pub cookie: String,
    pub key: Secret,
    /// How long a cookie is believed; `None`: as long as the browser keeps it.
    pub ttl: Option<Duration>,
    pub same_site: SameSite,
    /// Told to be sent over HTTPS only.
    pub secure: bool,
}

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// A token bucket per key.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// So many requests ...
    pub rate: u32,
    /// ... in so long a time.
    pub per: Duration,
    /// At once; at least 1.
    pub burst: u32,
    pub by: RateBy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateBy {
    /// IPv6 by /64.
    ClientIp,
    Header(HeaderName),
}

/// A probe that asks PostgreSQL for its role.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresProbe {
    pub user: String,
    pub database: String,
    pub password: Option<Secret>,
    pub role: PostgresRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresRole {
    Primary,
    Replica,
    Any,
}

impl PostgresRole {
    pub const WORDS: [(&'static str, PostgresRole); 3] = [
        ("primary", PostgresRole::Primary),
        ("replica", PostgresRole::Replica),
        ("any", PostgresRole::Any),
    ];
}

/// A probe that asks Redis (or Valkey) for its role.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisProbe {
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub role: RedisRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisRole {
    Master,
    /// With its link to the master up.
    Replica,
    Any,
}

impl RedisRole {
    pub const WORDS: [(&'static str, RedisRole); 3] =
        [("master", RedisRole::Master), ("replica", RedisRole::Replica), ("any", RedisRole::Any)];
}

/// A probe at the level of MySQL's handshake; with credentials it logs in and asks for `read_only`.
#[derive(Clone, Debug, PartialEq)]
pub struct MysqlProbe {
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub role: MysqlRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MysqlRole {
    /// `read_only` is off.
    Writable,
    ReadOnly,
    Any,
}

impl MysqlRole {
    pub const WORDS: [(&'static str, MysqlRole); 3] = [
        ("writable", MysqlRole::Writable),
        ("read_only", MysqlRole::ReadOnly),
        ("any", MysqlRole::Any),
    ];
}
