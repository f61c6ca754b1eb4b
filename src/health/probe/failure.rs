//! Why a probe failed: a closed set, with a label for metrics and a sentence for the log.

use std::fmt;
use std::io;

use super::wire::Said;
use crate::observe::cells::PROBE_FAILURES;
use crate::tls::client::{Kind, Trouble};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// No way to the backend: host or network unreachable, or forbidden.
    Unreachable,
    /// `timeout` passed before there was a connection.
    ConnectTimeout,
    /// `timeout` passed before the answer was whole.
    Timeout,
    /// The backend reset the connection.
    Reset,
    /// The backend closed the connection before the answer was whole.
    Closed,
    /// The answer is not HTTP.
    NotHttp,
    /// None of `expect_status`.
    Status(u16),
    /// `expect_body` is not in it.
    Body,
    /// `expect` is not in the answer over TCP.
    Answer,
    /// An error of the socket that is none of the above.
    Socket(io::ErrorKind),
    /// The server does not let the probe in: no password, a wrong one, or no right to connect.
    Login(Said),
    /// The server answers with an error: it still loads, or has too many clients.
    ServerError(Said),
    /// The answer is not of the protocol that was spoken; what is wrong, as a sentence.
    Protocol(&'static str),
    /// The TLS handshake failed, or the backend does not accept it; the certificate was looked at.
    Tls(Trouble),
    /// The server says that it does not serve what was asked for.
    NotServing,
    /// A replica whose link to its master is in this state.
    Replication(Said),
}

impl Failure {
    /// The metric labels, in the order of [`Failure::index`].
    pub const LABELS: [&str; PROBE_FAILURES] = [
        "refused",
        "unreachable",
        "connect_timeout",
        "timeout",
        "reset",
        "closed",
        "not_http",
        "status",
        "body",
        "answer",
        "socket",
        "login",
        "server_error",
        "protocol",
        "replication",
        "certificate_expired",
        "certificate_issuer",
        "certificate_name",
        "tls",
        "not_serving",
    ];

    /// Its place in [`Failure::LABELS`], and so its metric cell.
    pub fn index(&self) -> usize {
        match self {
            Failure::Refused => 0,
            Failure::Unreachable => 1,
            Failure::ConnectTimeout => 2,
            Failure::Timeout => 3,
            Failure::Reset => 4,
            Failure::Closed => 5,
            Failure::NotHttp => 6,
            Failure::Status(_) => 7,
            Failure::Body => 8,
            Failure::Answer => 9,
            Failure::Socket(_) => 10,
            Failure::Login(_) => 11,
            Failure::ServerError(_) => 12,
            Failure::Protocol(_) => 13,
            Failure::Replication(_) => 14,
            Failure::NotServing => 19,
            Failure::Tls(trouble) => match trouble.kind {
                Kind::Expired => 15,
                Kind::UnknownIssuer => 16,
                Kind::WrongName => 17,
                Kind::Handshake => 18,
            },
        }
    }

    pub fn label(&self) -> &'static str {
        Failure::LABELS[self.index()]
    }

    pub(super) fn from_connect(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::TimedOut => Failure::ConnectTimeout,
            _ => Failure::from_io(error),
        }
    }

    /// Whether TLS, and not the socket, has failed.
    pub(super) fn is_tls(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
    }

    pub(super) fn from_io(error: &io::Error) -> Failure {
        use io::ErrorKind;
        if Failure::is_tls(error) {
            return Failure::Tls(Trouble::from_io(error));
        }
        match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied => Failure::Unreachable,
            ErrorKind::TimedOut => Failure::Timeout,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                Failure::Reset
            }
            ErrorKind::UnexpectedEof => Failure::Closed,
            // How hyper reports a body whose chunks cannot be read.
            ErrorKind::InvalidData | ErrorKind::InvalidInput => Failure::NotHttp,
            other => Failure::Socket(other),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("the connection was refused"),
            Failure::Unreachable => f.write_str("the backend cannot be reached"),
            Failure::ConnectTimeout => f.write_str("no connection within the time-out"),
            Failure::Timeout => f.write_str("connected, but no whole answer within the time-out"),
            Failure::Reset => f.write_str("the backend reset the connection"),
            Failure::Closed => f.write_str("the backend closed before its answer was whole"),
            Failure::NotHttp => f.write_str("the answer is not HTTP"),
            Failure::Status(status) => write!(f, "status {status} is not among `expect_status`"),
            Failure::Body => f.write_str("`expect_body` is not in the first 64 KiB of the body"),
            Failure::Answer => f.write_str("`expect` is not in the first 64 KiB of the answer"),
            Failure::Socket(kind) => write!(f, "the connection failed: {kind}"),
            Failure::Login(said) => write!(f, "the probe cannot log in: {said}"),
            Failure::ServerError(said) => write!(f, "the server answers with an error: {said}"),
            Failure::Protocol(what) => f.write_str(what),
            Failure::NotServing => f.write_str("the server says that it does not serve this"),
            Failure::Tls(trouble) => trouble.fmt(f),
            Failure::Replication(state) => {
                write!(f, "it is a replica, but its link to the master is `{state}`")
            }
        }
    }
}
