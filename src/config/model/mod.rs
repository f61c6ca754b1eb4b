//! The configuration as the rest of the program sees it: plain values that are already proved.
//!
//! A value of these types cannot be wrong: names exist, durations are positive where they must be,
//! patterns compile, files were read. Only `config::validate` makes them; nobody parses text again.
//! Every default is settled here (by `validate`, from `config::defaults`); an `Option` that is left
//! means "off", never "default".

mod failover;
mod health;
mod patterns;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

pub use failover::*;
pub use health::*;
pub use patterns::*;
pub use tls::*;

/// The name of a listener or a pool: `[a-z0-9_-]`, 1 to 63 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks the characters and the length; `None` if either is off.
    pub fn new(text: &str) -> Option<Name> {
        let ok = (1..=63).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        ok.then(|| Name(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A whole, valid configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data threads; `None` is `auto`: the CPUs this process may use.
    pub workers: Option<usize>,
    pub shutdown_delay: Duration,
    pub drain_timeout: Duration,
    pub admin: Admin,
    pub log: Log,
    pub limits: Limits,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file.
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub listen: SocketAddr,
    pub ready_requires: Vec<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Open client connections, whole process; at least 1.
    pub connections: usize,
    /// Open connections of one client address (IPv6: one /64).
    pub connections_per_client: Option<u32>,
    pub request_head_bytes: usize,
    pub headers: usize,
    pub request_body_bytes: Option<u64>,
}

/// Every time-out, settled for one place. Resolution: 10 ms (the workers' tick).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub client_header: Duration,
    pub client_idle: Duration,
    /// After it an HTTP connection is asked to go; `None` is never.
    pub client_age: Option<Duration>,
    pub client_body: Duration,
    pub connect: Duration,
    pub response: Duration,
    pub stream_idle: Duration,
    pub tcp_idle: Duration,
    /// Whole request, all attempts included; `None` is off.
    pub request: Option<Duration>,
    /// A whole TLS handshake: a client's, and that with a backend.
    pub tls_handshake: Duration,
    /// Until a client's PROXY header, or its TLS ClientHello, is here.
    pub proxy_header: Duration,
}

/// What a pool or a route changes of its listener's time-outs.
/// Order: file < listener < pool < route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    pub client_body: Option<Duration>,
    pub connect: Option<Duration>,
    pub response: Option<Duration>,
    pub stream_idle: Option<Duration>,
    pub tcp_idle: Option<Duration>,
    /// `Some(None)` turns it off.
    pub request: Option<Option<Duration>>,
    pub tls_handshake: Option<Duration>,
}

impl Timeouts {
    pub fn overlaid(mut self, over: &TimeoutOverrides) -> Timeouts {
        self.client_body = over.client_body.unwrap_or(self.client_body);
        self.connect = over.connect.unwrap_or(self.connect);
        self.response = over.response.unwrap_or(self.response);
        self.stream_idle = over.stream_idle.unwrap_or(self.stream_idle);
        self.tcp_idle = over.tcp_idle.unwrap_or(self.tcp_idle);
        self.request = over.request.unwrap_or(self.request);
        self.tls_handshake = over.tls_handshake.unwrap_or(self.tls_handshake);
        self
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Name,
    /// At least one.
    pub bind: Vec<BindAddr>,
    pub mode: Mode,
    pub tls: Option<ListenerTls>,
    /// `None`: nobody begins with a PROXY header, and what looks like one is what it is.
    pub accept_proxy_protocol: Option<ProxyPeers>,
    pub trusted_proxies: Vec<IpNet>,
    pub access: Access,
    /// The file's time-outs with this listener's own laid over them.
    pub timeouts: Timeouts,
    pub error_pages: ErrorPages,
    pub rate_limit: Option<RateLimit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for BindAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindAddr::Tcp(addr) => addr.fmt(f),
            BindAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// First match wins. No match: 404.
    Http { routes: Vec<Route> },
    /// First match wins. No match: closed.
    Tcp { routes: Vec<TcpRoute> },
}

/// Who may come in. An empty `allow` is everybody; `deny` wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
}

/// Bodies for the errors that the proxy makes itself, read at load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorPages(pub Vec<ErrorPage>);

#[derive(Clone, Debug, PartialEq)]
pub struct ErrorPage {
    pub status: StatusCode,
    pub body: Bytes,
    /// By the file's extension: `.html` text/html, `.json` application/json, else text/plain.
    pub content_type: HeaderValue,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub matches: Match,
    pub action: Action,
    pub access: Access,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub rewrite: Rewrite,
    pub timeouts: TimeoutOverrides,
    pub error_pages: ErrorPages,
    pub rate_limit: Option<RateLimit>,
}

/// All parts must match; an empty part matches everything. Within a list one is enough,
/// but every header and every query parameter that is named must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    pub host: Vec<HostPattern>,
    pub path: Vec<PathPattern>,
    pub path_regex: Option<Pattern>,
    pub method: Vec<Method>,
    pub header: Vec<(HeaderName, ValuePattern)>,
    pub query: Vec<(String, ValuePattern)>,
    pub client: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Pool(Name),
    /// Weighted choice; at least one weight is above 0.
    Split(Vec<(Name, u32)>),
    /// 301, 302, 303, 307 or 308. `to` may end in `*` only if the one path pattern is a prefix:
    /// the rest of the path goes there; the query is kept unless `to` has one.
    Redirect {
        to: String,
        status: StatusCode,
    },
    /// To the same host, path and query, by https. Port 443 need not be told.
    RedirectHttps {
        status: StatusCode,
        port: u16,
    },
    Respond {
        status: StatusCode,
        body: Bytes,
        headers: HeaderMap,
    },
}

/// Applied in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// What the backend gets in place of what was matched. Order: strip_prefix, path_regex, add_prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    pub strip_prefix: Option<String>,
    /// Every match in the path is replaced; `$1` and `${name}` stand for groups.
    pub path_regex: Option<(Pattern, String)>,
    pub add_prefix: Option<String>,
    pub host: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: Name,
    pub balance: Balance,
    /// At least one; no address twice.
    pub backends: Vec<Backend>,
    pub health_check: Option<HealthCheck>,
    pub keepalive: Keepalive,
    pub timeouts: TimeoutOverrides,
    pub failover: Failover,
    /// `None` is off.
    pub outlier: Option<Outlier>,
    pub retry: Retry,
    pub queue: Option<Queue>,
    /// The time in which a recovered backend's weight ramps up.
    pub slow_start: Option<Duration>,
    pub sticky: Option<Sticky>,
    pub protocol: Protocol,
    pub tls: Option<BackendTls>,
    pub send_proxy_protocol: Option<ProxyVersion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequests,
    PeakEwma,
    Random,
    First,
    Hash(HashBy),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    ClientIp,
    Header(HeaderName),
    Cookie(String),
    Path,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub address: BackendHost,
    /// 1 to 65535 in proportion to the others; 0 takes no traffic.
    pub weight: u16,
    /// 0 is active; 1 and up stand by, in order.
    pub tier: u8,
    /// Requests (streams) at once, over all workers; at least 1.
    pub max_requests: Option<u32>,
}

/// As written: an address, or a name to be resolved at load and at each reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendHost {
    Addr(SocketAddr),
    Name { host: String, port: u16 },
}

impl fmt::Display for BackendHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendHost::Addr(addr) => addr.fmt(f),
            BackendHost::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle connections per backend, all workers together; 0 is no reuse.
    pub max_idle: usize,
    pub idle_timeout: Duration,
}
