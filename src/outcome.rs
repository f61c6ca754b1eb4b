//! How a connection or a request ended: which side, at which stage, why, and what follows from it.
//!
//! `flow` makes outcomes; metrics, log, status and retries only read them. Every mapping is an
//! exhaustive match, so that a new cause cannot be forgotten anywhere.

use http::{Method, StatusCode};

/// Whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
    /// Our own limit, rule or shutdown.
    Proxy,
}

/// Why a request or a connection did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The request could be read in two ways, or not at all.
    BadRequest,
    /// CONNECT: this is no forward proxy.
    MethodNotAllowed,
    /// CONNECT with a protocol that is not known, or a WebSocket that its backend has not in HTTP/2.
    Unsupported,
    /// `allow`, `deny`, or a tcp route's `reject`.
    Denied,
    NoRoute,
    /// The head is larger than `limits.request_head` or has more than `limits.headers`.
    HeadTooLarge,
    /// The request's line alone is larger than `limits.request_head`.
    TargetTooLong,
    /// The body is larger than `limits.request_body`.
    BodyTooLarge,
    /// A peer that must begin with a PROXY header did not.
    ProxyMissing,
    /// A PROXY header is not as the protocol has it.
    ProxyMalformed,
    /// A PROXY header came from where none is taken.
    ProxyUnexpected,
    /// The client's TLS handshake failed, or took too long.
    Handshake,
    /// The client was silent for `client_header` or `client_body`, or not done in `proxy_header`.
    ClientTimeout,
    /// The client went away before its answer was whole.
    ClientGone,
    /// No backend of the pool serves.
    NoneServing,
    /// Every backend that serves has all the requests it may have, and so has the queue.
    Full,
    /// No backend could take it while it waited in the pool's queue.
    QueueTimeout,
    /// The client has sent more than its `rate_limit`.
    RateLimited,
    /// We are out of file descriptors, ports or memory.
    Shortage,
    /// The backend refused the connection or could not be reached.
    Connect,
    /// `timeouts.connect` passed.
    ConnectTimeout,
    /// The TLS handshake with the backend failed, or took too long: nothing was sent.
    Tls,
    /// The backend closed or reset before the head of its answer.
    Reset,
    /// The backend's answer is not HTTP.
    Garbage,
    /// `timeouts.response` or `timeouts.request` passed.
    Timeout,
    /// The backend stopped in the middle of a body, or was silent for `stream_idle`.
    Truncated,
    /// Its backend was taken out, and what was in progress there was to be closed.
    Released,
    /// We are stopping, and `drain_timeout` passed.
    Shutdown,
}

impl Cause {
    pub const ALL: [Cause; 28] = [
        Cause::BadRequest,
        Cause::MethodNotAllowed,
        Cause::Unsupported,
        Cause::Denied,
        Cause::NoRoute,
        Cause::HeadTooLarge,
        Cause::TargetTooLong,
        Cause::BodyTooLarge,
        Cause::ProxyMissing,
        Cause::ProxyMalformed,
        Cause::ProxyUnexpected,
        Cause::Handshake,
        Cause::ClientTimeout,
        Cause::ClientGone,
        Cause::NoneServing,
        Cause::Full,
        Cause::QueueTimeout,
        Cause::RateLimited,
        Cause::Shortage,
        Cause::Connect,
        Cause::ConnectTimeout,
        Cause::Tls,
        Cause::Reset,
        Cause::Garbage,
        Cause::Timeout,
        Cause::Truncated,
        Cause::Released,
        Cause::Shutdown,
    ];

    /// Its place in [`Cause::ALL`], and so its metric cell.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The metric label, and the word in the log.
    pub fn label(self) -> &'static str {
        match self {
            Cause::BadRequest => "bad_request",
            Cause::MethodNotAllowed => "method_not_allowed",
            Cause::Unsupported => "unsupported",
            Cause::Denied => "denied",
            Cause::NoRoute => "no_route",
            Cause::HeadTooLarge => "head_too_large",
            Cause::TargetTooLong => "target_too_long",
            Cause::BodyTooLarge => "body_too_large",
            Cause::ProxyMissing => "proxy_missing",
            Cause::ProxyMalformed => "proxy_malformed",
            Cause::ProxyUnexpected => "proxy_unexpected",
            Cause::Handshake => "handshake",
            Cause::ClientTimeout => "client_timeout",
            Cause::ClientGone => "client_gone",
            Cause::NoneServing => "none_serving",
            Cause::Full => "full",
            Cause::QueueTimeout => "queue_timeout",
            Cause::RateLimited => "rate_limited",
            Cause::Shortage => "shortage",
            Cause::Connect => "connect",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::Tls => "tls",
            Cause::Reset => "reset",
            Cause::Garbage => "garbage",
            Cause::Timeout => "timeout",
            Cause::Truncated => "truncated",
            Cause::Released => "released",
            Cause::Shutdown => "shutdown",
        }
    }

    pub fn side(self) -> Side {
        match self {
            Cause::BadRequest
            | Cause::MethodNotAllowed
            | Cause::Unsupported
            | Cause::HeadTooLarge
            | Cause::TargetTooLong
            | Cause::BodyTooLarge
            | Cause::ProxyMissing
            | Cause::ProxyMalformed
            | Cause::ProxyUnexpected
            | Cause::Handshake
            | Cause::ClientTimeout
            | Cause::ClientGone => Side::Client,
            Cause::Denied
            | Cause::NoRoute
            | Cause::NoneServing
            | Cause::Full
            | Cause::QueueTimeout
            | Cause::RateLimited
            | Cause::Shortage
            | Cause::Released
            | Cause::Shutdown => Side::Proxy,
            Cause::Connect
            | Cause::ConnectTimeout
            | Cause::Tls
            | Cause::Reset
            | Cause::Garbage
            | Cause::Timeout
            | Cause::Truncated => Side::Backend,
        }
    }

    /// The status of the answer that we make ourselves.
    pub fn status(self) -> StatusCode {
        match self {
            Cause::BadRequest => StatusCode::BAD_REQUEST,
            Cause::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Cause::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Cause::Denied => StatusCode::FORBIDDEN,
            Cause::NoRoute => StatusCode::NOT_FOUND,
            Cause::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Cause::TargetTooLong => StatusCode::URI_TOO_LONG,
            Cause::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Cause::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            // Nobody reads these; they keep the mapping whole.
            Cause::ProxyMissing
            | Cause::ProxyMalformed
            | Cause::ProxyUnexpected
            | Cause::Handshake
            | Cause::ClientGone => StatusCode::BAD_REQUEST,
            Cause::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Cause::NoneServing
            | Cause::Full
            | Cause::QueueTimeout
            | Cause::Shortage
            | Cause::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
            Cause::Connect
            | Cause::Tls
            | Cause::Reset
            | Cause::Garbage
            | Cause::Truncated
            | Cause::Released => StatusCode::BAD_GATEWAY,
            Cause::ConnectTimeout | Cause::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The same for a gRPC call: its status' number (doc/statuscodes.md of gRPC), by what gRPC makes of
    /// [`Cause::status`] (doc/http-grpc-status-mapping.md) where it has no better word.
    pub fn grpc_status(self) -> u8 {
        const CANCELLED: u8 = 1;
        const UNKNOWN: u8 = 2;
        const DEADLINE_EXCEEDED: u8 = 4;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        match self {
            Cause::BadRequest => INTERNAL,
            Cause::MethodNotAllowed | Cause::ClientTimeout | Cause::Handshake => UNKNOWN,
            Cause::Denied
            | Cause::ProxyMissing
            | Cause::ProxyMalformed
            | Cause::ProxyUnexpected => PERMISSION_DENIED,
            Cause::NoRoute | Cause::Unsupported => UNIMPLEMENTED,
            Cause::HeadTooLarge | Cause::TargetTooLong | Cause::BodyTooLarge => RESOURCE_EXHAUSTED,
            Cause::ClientGone => CANCELLED,
            // UNAVAILABLE says that the call may be tried again; who had all its time may have done it.
            Cause::Timeout => DEADLINE_EXCEEDED,
            Cause::RateLimited
            | Cause::NoneServing
            | Cause::Full
            | Cause::QueueTimeout
            | Cause::Shortage
            | Cause::Shutdown
            | Cause::Connect
            | Cause::ConnectTimeout
            | Cause::Tls
            | Cause::Reset
            | Cause::Garbage
            | Cause::Truncated
            | Cause::Released => UNAVAILABLE,
        }
    }

    /// One sentence for the client: which side failed, and how.
    pub fn message(self) -> &'static str {
        match self {
            Cause::BadRequest => "The request is malformed or ambiguous.",
            Cause::MethodNotAllowed => "CONNECT is not served here.",
            Cause::Unsupported => "The protocol that was asked for is not spoken here.",
            Cause::Denied => "This client is not allowed here.",
            Cause::NoRoute => "No route matches this request.",
            Cause::HeadTooLarge => "The request's head is too large.",
            Cause::TargetTooLong => "The request's target is too long.",
            Cause::BodyTooLarge => "The request's body is too large.",
            Cause::ProxyMissing => "The connection did not begin with a PROXY header.",
            Cause::ProxyMalformed => "The connection's PROXY header is malformed.",
            Cause::ProxyUnexpected => "No PROXY header is taken from here.",
            Cause::Handshake => "The client's TLS handshake failed.",
            Cause::ClientTimeout => "The client took too long to send its request.",
            Cause::ClientGone => "The client went away.",
            Cause::NoneServing => "No backend can serve this request at the moment.",
            Cause::Full => "Every backend has as many requests as it may have.",
            Cause::QueueTimeout => "No backend was free in time.",
            Cause::RateLimited => "This client has sent too many requests.",
            Cause::Shortage => "The load balancer is out of connections.",
            Cause::Connect => "No connection to a backend could be made.",
            Cause::ConnectTimeout => "The backend did not accept a connection in time.",
            Cause::Tls => "No secure connection to a backend could be made.",
            Cause::Reset => "The backend closed the connection before it answered.",
            Cause::Garbage => "The backend's answer is not valid HTTP.",
            Cause::Timeout => "The backend did not answer in time.",
            Cause::Truncated => "The backend's answer ended too soon.",
            Cause::Released => "The backend was taken out of service before it answered.",
            Cause::Shutdown => "The load balancer is stopping.",
        }
    }

    /// An attempt that failed of it may be followed by another, if what was sent of the request allows.
    pub fn is_retryable(self) -> bool {
        // What is a backend's doing, another backend may do better.
        self.side() == Side::Backend || self == Cause::Released
    }
}

/// How much of a request a failed attempt may have shown to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte was written.
    Nothing,
    /// Something was, and all of it can be sent again.
    Replayable,
    /// More of the body than is kept for a replay.
    Lost,
}

impl Sent {
    /// Whether the request may go to another backend. `repeatable`: a second execution has the effect
    /// of one.
    pub fn allows_another(self, repeatable: bool) -> bool {
        match self {
            Sent::Nothing => true,
            Sent::Replayable => repeatable,
            Sent::Lost => false,
        }
    }
}

/// RFC 9110 9.2.1: asks for nothing to be changed.
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// RFC 9110 9.2.2: a second execution has the effect of one.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    )
}
