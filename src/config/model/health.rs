//! Active health checks, as the configuration settles them: the kind of probe and its rhythm.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

use super::{
    BackendTls, MysqlProbe, MysqlRole, PostgresProbe, PostgresRole, ProxyVersion, RedisProbe,
    RedisRole,
};

#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    pub kind: ProbeKind,
    pub interval: Duration,
    pub interval_unsettled: Duration,
    pub timeout: Duration,
    /// At least 1.
    pub fall: u32,
    /// At least 1.
    pub rise: u32,
    pub initial: Initial,
    /// Probe another port of the backend's address.
    pub port: Option<u16>,
    /// Probe another address altogether.
    pub address: Option<IpAddr>,
    /// Probes go over TLS, as the pool's connections do.
    pub tls: Option<BackendTls>,
    /// Probes begin with a PROXY header that says that they speak for nobody.
    pub introduce: Option<ProxyVersion>,
}

impl HealthCheck {
    /// The worst case from the death of a backend to `down`: it dies just after a good probe, the
    /// interval passes with its jitter, then `fall` probes time out, unsettled intervals between.
    pub fn worst_detection(&self) -> Duration {
        let interval = self.interval.mul_f64(1.0 + crate::config::defaults::JITTER);
        let unsettled = self.interval_unsettled.mul_f64(1.0 + crate::config::defaults::JITTER);
        interval + self.timeout * self.fall + unsettled * (self.fall - 1)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    Http(HttpProbe),
    /// Connect; then send and expect, where given.
    Tcp {
        send: Option<Bytes>,
        expect: Option<Bytes>,
    },
    /// A TLS handshake.
    Tls,
    /// `grpc.health.v1.Health/Check` of this service; empty is the server as a whole.
    Grpc {
        service: String,
    },
    Postgres(PostgresProbe),
    Redis(RedisProbe),
    Mysql(MysqlProbe),
}

impl ProbeKind {
    /// It wants one role of several: a backend may be well and yet not wanted.
    pub fn tells_role(&self) -> bool {
        match self {
            ProbeKind::Http(_)
            | ProbeKind::Tcp { .. }
            | ProbeKind::Tls
            | ProbeKind::Grpc { .. } => false,
            ProbeKind::Postgres(probe) => probe.role != PostgresRole::Any,
            ProbeKind::Redis(probe) => probe.role != RedisRole::Any,
            ProbeKind::Mysql(probe) => probe.role != MysqlRole::Any,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// Over HTTP/2: the pool's backends may speak nothing else.
    pub http2: bool,
    /// Starts with a slash.
    pub path: String,
    /// `None`: the address that is probed.
    pub host: Option<HeaderValue>,
    pub method: Method,
    pub expect_status: Vec<RangeInclusive<u16>>,
    /// Must occur in the first 64 KiB of the body.
    pub expect_body: Option<String>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What counts of a backend that has no verdict yet when its time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    Up,
    Down,
}
