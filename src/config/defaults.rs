//! Every default of the configuration file, in one place, for the code and for the documents.

use std::time::Duration;

use super::model::{
    Balance, Failback, Failover, FailoverMode, Keepalive, Limits, Name, OnChange, Outlier, Pool,
    Protocol, Retry, RetryOn, TimeoutOverrides, Timeouts, WhenNoneServe,
};

/// Probe intervals vary by this share, up and down, so that many load balancers do not fall in step.
pub const JITTER: f64 = 0.1;

pub const CONFIG_PATHS: [&str; 2] = ["/etc/evenkeel/evenkeel.yaml", "./evenkeel.yaml"];
pub const ADMIN_LISTEN: &str = "127.0.0.1:9901";
pub const LETSENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
pub const LETSENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
pub const SHUTDOWN_DELAY: Duration = Duration::ZERO;
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

pub const TIMEOUTS: Timeouts = Timeouts {
    client_header: Duration::from_secs(10),
    client_idle: Duration::from_secs(60),
    client_age: Some(Duration::from_secs(3600)),
    client_body: Duration::from_secs(30),
    connect: Duration::from_secs(2),
    response: Duration::from_secs(30),
    stream_idle: Duration::from_secs(300),
    tcp_idle: Duration::from_secs(3600),
    request: None,
    tls_handshake: Duration::from_secs(10),
    proxy_header: Duration::from_secs(5),
};

pub const LIMITS: Limits = Limits {
    connections: 100_000,
    connections_per_client: None,
    request_head_bytes: 64 * 1024,
    headers: 100,
    request_body_bytes: None,
};

/// Under the 5 s after which common servers (Node.js, Apache) close an idle connection.
pub const KEEPALIVE: Keepalive = Keepalive { max_idle: 128, idle_timeout: Duration::from_secs(4) };

pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
pub const PROBE_INTERVAL_UNSETTLED: Duration = Duration::from_millis(500);
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
pub const PROBE_FALL: u32 = 3;
pub const PROBE_RISE: u32 = 2;

pub const FAILOVER: Failover = Failover {
    mode: FailoverMode::Automatic,
    spill_below: None,
    failback: Failback::After(Duration::from_secs(30)),
    when_none_serve: WhenNoneServe::Reject,
    exclusive: false,
    // `close` where the pool is exclusive.
    on_down: OnChange::Keep,
    on_failback: OnChange::Keep,
};

pub const OUTLIER: Outlier = Outlier {
    consecutive_failures: Some(5),
    failure_share: Some(50),
    count_5xx: false,
    latency_times: None,
    window: Duration::from_secs(10),
    min_requests: 20,
    eject_for: Duration::from_secs(10),
    eject_for_max: Duration::from_secs(300),
    eject_at_most: 50,
    flap_damping: true,
};

pub const RETRY: Retry = Retry {
    attempts: 3,
    on: RetryOn::ALL,
    hedge: None,
    budget_percent: 20,
    budget_min: 3,
    buffer_bytes: 64 * 1024,
};

/// Of a queue that is asked for.
pub const QUEUE_SIZE: usize = 1000;
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool that says nothing of itself but its name; its backends are still to come.
pub fn pool(name: Name) -> Pool {
    Pool {
        name,
        balance: Balance::LeastRequests,
        backends: Vec::new(),
        health_check: None,
        keepalive: KEEPALIVE,
        timeouts: TimeoutOverrides::default(),
        failover: FAILOVER,
        outlier: Some(OUTLIER),
        retry: RETRY,
        queue: None,
        slow_start: None,
        sticky: None,
        protocol: Protocol::Http1,
        tls: None,
        send_proxy_protocol: None,
    }
}
