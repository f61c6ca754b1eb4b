//! TLS towards backends: the settings that handshakes go by, under which name a backend is to prove
//! itself, and what was wrong with one that did not.
//!
//! Reads no file but the system's roots, and those once. Who connects, and when, is not decided here.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use crate::config::model::{BackendHost, BackendTls, Bundle, Certificate, Protocol};
use crate::observe::printable::printable;

/// So much of what a stranger's certificate says is shown.
const SAID_CHARS: usize = 200;

/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 4;

/// TLS 1.3 sessions that are kept for one backend; rustls keeps no more for one name.
const SESSIONS: usize = 8;

/// Why no settings come of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BadSettings {
    #[error("the system has no certificates to trust")]
    NoRoots,
    #[error("certificate number {number} of the file cannot be used: {source}")]
    BadRoot { number: usize, source: rustls::Error },
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

/// Settings that make no use of earlier sessions: every handshake looks at the certificate, which is
/// what probes are for. [`with_sessions`] makes of them what requests go by.
pub fn settings(
    ca: Option<&Bundle>,
    client: Option<&Certificate>,
    verify: bool,
    protocol: Protocol,
) -> Result<Arc<ClientConfig>, BadSettings> {
    let provider = super::provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match (verify, ca) {
        (false, _) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        }
        (true, Some(ca)) => builder.with_root_certificates(roots(ca)?),
        (true, None) => builder.with_root_certificates(system_roots()?),
    };
    let mut config = match client {
        Some(client) => {
            let certified = SingleCertAndKey::from(client.certified.clone());
            builder.with_client_cert_resolver(Arc::new(certified))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn(protocol);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The same, for the connections to one backend: they resume its sessions, and no other's.
pub fn with_sessions(settings: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = settings.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Arc::new(config)
}

fn alpn(protocol: Protocol) -> Vec<Vec<u8>> {
    let names: &[&[u8]] = match protocol {
        Protocol::Http1 => &[b"http/1.1"],
        Protocol::H2 => &[b"h2"],
        Protocol::Auto => &[b"h2", b"http/1.1"],
        // Never over TLS; `validate` has seen to that.
        Protocol::H2c => &[],
    };
    names.iter().map(|name| name.to_vec()).collect()
}

fn roots(ca: &Bundle) -> Result<RootCertStore, BadSettings> {
    let mut store = RootCertStore::empty();
    for (index, der) in ca.der.iter().enumerate() {
        let number = index + 1;
        let root = CertificateDer::from(der.to_vec());
        store.add(root).map_err(|source| BadSettings::BadRoot { number, source })?;
    }
    Ok(store)
}

/// Read once: what the system trusts is not expected to change while we run.
fn system_roots() -> Result<Arc<RootCertStore>, BadSettings> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let store = SYSTEM.get_or_init(|| {
        let mut store = RootCertStore::empty();
        // Some of a system's certificates are ones that webpki cannot use; the others are enough.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    });
    if store.is_empty() { Err(BadSettings::NoRoots) } else { Ok(store.clone()) }
}

/// The name that a backend has to prove: as configured, or as its address is written.
pub fn server_name(tls: &BackendTls, host: &BackendHost, addr: SocketAddr) -> ServerName<'static> {
    let written = match host {
        // The dot at the end of a whole name is not a part of it in TLS (RFC 6066 3).
        BackendHost::Name { host, .. } => host.strip_suffix('.').unwrap_or(host),
        BackendHost::Addr(_) => "",
    };
    let written = || ServerName::try_from(written.to_owned()).ok();
    tls.server_name.clone().or_else(written).unwrap_or_else(|| addr.ip().into())
}

/// Takes any certificate, as `verify: off` says. That the other side holds its key is still proved.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What kind of trouble a handshake has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The certificate is not valid any more, or not yet.
    Expired,
    UnknownIssuer,
    WrongName,
    /// Anything else.
    Handshake,
}

/// Why a handshake with a backend failed, as a sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: Kind,
    said: String,
}

/// The backend speaks none of the protocols that it was offered (RFC 7301 3.2).
pub fn has_no_protocol(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let alert = AlertDescription::NoApplicationProtocol;
    matches!(inner, Some(rustls::Error::AlertReceived(received)) if *received == alert)
}

impl Trouble {
    pub fn timeout() -> Trouble {
        Trouble::new(Kind::Handshake, "the TLS handshake took longer than `tls_handshake`")
    }

    /// The handshake went well, and settled for another protocol (RFC 7301) or for none.
    pub fn not_http2() -> Trouble {
        Trouble::new(Kind::Handshake, "it does not speak HTTP/2 there, as `protocol: h2` has it")
    }

    /// Of an error that a handshake has ended with.
    pub fn from_io(error: &io::Error) -> Trouble {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(error)) => Trouble::certificate(error),
            Some(rustls::Error::InvalidMessage(_)) => {
                let said = format!("it does not speak TLS there: {}", Chain(error));
                Trouble::new(Kind::Handshake, &said)
            }
            Some(rustls::Error::AlertReceived(alert)) => {
                let said = format!("the backend refused the TLS handshake: {alert:?}");
                Trouble::new(Kind::Handshake, &said)
            }
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Trouble::new(Kind::Handshake, "the backend closed during the TLS handshake")
            }
            Some(_) | None => Trouble::new(
                Kind::Handshake,
                &format!("the TLS handshake failed: {}", Chain(error)),
            ),
        }
    }

    fn certificate(error: &CertificateError) -> Trouble {
        let on = |time: &UnixTime| {
            httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
        };
        let (kind, said) = match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                (Kind::Expired, format!("its certificate has expired on {}", on(not_after)))
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                (Kind::Expired, format!("its certificate is not valid before {}", on(not_before)))
            }
            CertificateError::Expired => (Kind::Expired, "its certificate has expired".to_owned()),
            CertificateError::NotValidYet => {
                (Kind::Expired, "its certificate is not valid yet".to_owned())
            }
            CertificateError::UnknownIssuer => {
                let said = "its certificate comes from no CA that is trusted here";
                (Kind::UnknownIssuer, said.to_owned())
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names: Vec<&str> =
                    presented.iter().take(NAMES_SHOWN).map(|name| bare(name)).collect();
                let more = if presented.len() > NAMES_SHOWN { ", ..." } else { "" };
                let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
                let said = format!(
                    "its certificate is not for {} but for {names}{more}",
                    expected.to_str()
                );
                (Kind::WrongName, said)
            }
            CertificateError::NotValidForName => {
                (Kind::WrongName, "its certificate is for another name".to_owned())
            }
            other => (Kind::Handshake, format!("its certificate was not accepted: {other}")),
        };
        Trouble::new(kind, &said)
    }

    fn new(kind: Kind, said: &str) -> Trouble {
        Trouble { kind, said: said.chars().take(SAID_CHARS).map(printable).collect() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

/// `web.test` of `DnsName("web.test")`, as rustls has it.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// An error with what is behind it.
struct Chain<'a>(&'a io::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
