//! TLS at both ends, and the PROXY protocol, as the configuration settles them.
//!
//! Certificates, keys and lists were read and proved at load; equal are two of these whose files held
//! the same. No key ever shows in `Debug`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;

use super::HostPattern;

/// What a listener decrypts with.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Those that are named, in the order of the file, then those of `certificate_dir` by name. The
    /// first is the default. Empty only where `acme` will bring one.
    pub certificates: Vec<Certificate>,
    /// How many of them are named; the others are of `certificate_dir`.
    pub named: usize,
    pub certificate_dir: Option<PathBuf>,
    /// Refuse names that no certificate covers.
    pub strict_sni: bool,
    pub min_version: TlsVersion,
    pub client_auth: Option<ClientAuth>,
    /// `None`: random ones, rotated.
    pub ticket_keys: Option<TicketKeys>,
    /// In the order of preference; empty is none (tcp).
    pub alpn: Vec<Alpn>,
    pub hsts: Option<Duration>,
    pub acme: Option<Acme>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    H2,
    Http1,
}

/// A certificate with its chain and its key, which belong together.
#[derive(Clone)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub certified: Arc<CertifiedKey>,
    /// The DNS names that it covers.
    pub names: Vec<HostPattern>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:?}", self.cert.display(), self.names)
    }
}

impl Certificate {
    /// What it is called in metrics and logs: its first name, or what its file is called.
    pub fn label(&self) -> String {
        match self.names.first() {
            Some(name) => name.to_string(),
            None => self.cert.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

impl PartialEq for Certificate {
    /// A key that fits its certificate is settled by it.
    fn eq(&self, other: &Certificate) -> bool {
        self.cert == other.cert
            && self.key == other.key
            && self.certified.cert == other.certified.cert
    }
}

/// A file of certificates or revocation lists, in DER.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    pub path: PathBuf,
    pub der: Arc<[Bytes]>,
    /// Of revocation lists: the first moment at which one of them should have been replaced by a newer
    /// one.
    pub next_update: Option<SystemTime>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.der.len())
    }
}

/// What clients have to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// A client without a certificate is refused.
    pub required: bool,
    pub ca: Bundle,
    pub crl: Option<Bundle>,
    /// Backends are told whom the certificate names.
    pub headers: bool,
}

/// The secrets from which session ticket keys are derived, at least one: the first makes tickets, all
/// are good for reading them.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKeys {
    pub path: PathBuf,
    pub secrets: Arc<[Bytes]>,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} keys)", self.path.display(), self.secrets.len())
    }
}

/// Certificates from an ACME server (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// At least one; lower case.
    pub domains: Vec<String>,
    /// `mailto:...`
    pub contact: Option<String>,
    /// The URL of the directory.
    pub directory: String,
    pub state_dir: PathBuf,
    /// Whom to trust as the directory's server; `None` is the system's roots.
    pub ca: Option<Bundle>,
}

impl super::Listener {
    /// What certificates are ordered for it, if any are.
    pub fn acme(&self) -> Option<&Acme> {
        self.tls.as_ref()?.acme.as_ref()
    }
}

/// TLS towards backends.
#[derive(Clone, Debug)]
pub struct BackendTls {
    /// `None`: the system's roots.
    pub ca: Option<Bundle>,
    /// `None`: the backend's host name, or its IP address.
    pub server_name: Option<ServerName<'static>>,
    pub client: Option<Certificate>,
    /// `false`: any certificate will do.
    pub verify: bool,
    /// Made of the above and of the pool's `protocol`. Resumes nothing: probes look at the certificate each
    /// time, and the connections to each backend go by a copy that keeps its sessions (`pool::MemberTls`).
    pub config: Arc<ClientConfig>,
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &BackendTls) -> bool {
        self.ca == other.ca
            && self.server_name == other.server_name
            && self.client == other.client
            && self.verify == other.verify
            && self.config.alpn_protocols == other.config.alpn_protocols
    }
}

/// What a pool's backends speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// Over TLS.
    H2,
    /// In clear, from the first byte.
    H2c,
    /// Over TLS: what ALPN settles.
    Auto,
}

/// Who must begin with a PROXY header. Those of others are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPeers {
    pub networks: Vec<IpNet>,
    /// Who comes by a UNIX socket.
    pub unix: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    V2,
}

/// A route of a tcp listener, by the TLS server name that the client sends.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// Empty: everything, clients that send no name and those that speak no TLS among it.
    pub sni: Vec<HostPattern>,
    pub action: TcpAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpAction {
    Pool(super::Name),
    Reject,
}
