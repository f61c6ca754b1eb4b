//! What a listener answers handshakes with: its configuration made into one of rustls. (P)
//!
//! Versions, ALPN, certificates by name, client certificates, tickets. No 0-RTT: what it carries may be
//! sent again by anyone who saw it (RFC 8446 8). No session cache: tickets need no memory here, work
//! across workers and across a pair, and are bound to what they must not outlive (`tickets`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::names::Names;
use super::tickets::{Scope, Secrets, Source, Ticketer};
use crate::config::model::{Alpn, Certificate, ClientAuth, ListenerTls, Name, TlsVersion};

/// The protocol by which an ACME server looks for its challenge (RFC 8737 6.2). A connection that
/// settled on it has done its work with the handshake: close it.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

impl Alpn {
    pub fn wire(self) -> &'static [u8] {
        match self {
            Alpn::H2 => b"h2",
            Alpn::Http1 => b"http/1.1",
        }
    }
}

/// Why a listener's TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("client_auth: {0}")]
    ClientAuth(#[from] VerifierBuilderError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The TLS of one listener, as one configuration has it.
#[derive(Debug)]
pub struct Server {
    pub config: Arc<ServerConfig>,
    made_of: ListenerTls,
    resolver: Arc<Resolver>,
}

/// What a listener keeps from one configuration to the next.
#[derive(Debug)]
pub struct Kept {
    tickets: Arc<Source>,
    /// By ACME: beside those of the configuration.
    issued: ArcSwap<Vec<Certificate>>,
    /// Answers to TLS-ALPN-01, by the name that is to be proved, in lower case.
    challenges: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
}

impl Kept {
    pub fn new(now: Instant) -> Kept {
        Kept {
            tickets: Arc::new(Source::new(now)),
            issued: ArcSwap::default(),
            challenges: ArcSwap::default(),
        }
    }
}

impl Server {
    pub fn new(listener: &Name, tls: &ListenerTls, kept: Arc<Kept>) -> Result<Server, ServerError> {
        let names = Names::new(&all(tls, &kept), tls.strict_sni);
        let acme = tls.acme.is_some();
        let resolver = Arc::new(Resolver { names: ArcSwap::from_pointee(names), acme, kept });
        let versions: &[_] = match tls.min_version {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(versions)?;
        let builder = match &tls.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => builder.with_client_cert_verifier(verifier(auth)?),
        };
        let mut config = builder.with_cert_resolver(resolver.clone());
        config.alpn_protocols = tls.alpn.iter().map(|alpn| alpn.wire().to_vec()).collect();
        if acme {
            // The last: whoever speaks something else as well gets that.
            config.alpn_protocols.push(ACME_TLS.to_vec());
        }
        config.max_early_data_size = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let scope = Scope::new(listener, tls.client_auth.as_ref());
        config.ticketer = Arc::new(match &tls.ticket_keys {
            Some(keys) => Ticketer::of_file(Secrets::new(keys.secrets.clone()), scope),
            None => Ticketer::random(resolver.kept.tickets.clone(), scope),
        });
        Ok(Server { config: Arc::new(config), made_of: tls.clone(), resolver })
    }

    /// Whether it is what `tls` would make.
    pub fn is_of(&self, tls: &ListenerTls) -> bool {
        self.made_of == *tls
    }

    /// What the listener keeps when its configuration changes.
    pub fn kept(&self) -> &Arc<Kept> {
        &self.resolver.kept
    }

    /// Those of the configuration, then those that ACME brought.
    pub fn certificates(&self) -> Vec<Certificate> {
        all(&self.made_of, self.kept())
    }

    /// Serves these beside those of the configuration, from the next handshake on, and in place of
    /// those that were issued before. Only the control thread issues, as only it publishes.
    pub fn issue(&self, certificates: Vec<Certificate>) {
        self.kept().issued.store(Arc::new(certificates));
        let names = Names::new(&self.certificates(), self.made_of.strict_sni);
        self.resolver.names.store(Arc::new(names));
    }

    /// What to answer TLS-ALPN-01 with (RFC 8737 3), in place of all that was answered before.
    pub fn answer_challenges(&self, answers: HashMap<String, Arc<CertifiedKey>>) {
        self.kept().challenges.store(Arc::new(answers));
    }

    /// To be called now and then: replaces random ticket secrets when it is time.
    pub fn rotate_tickets(&self, now: Instant) {
        self.kept().tickets.rotate(now);
    }
}

fn all(tls: &ListenerTls, kept: &Kept) -> Vec<Certificate> {
    tls.certificates.iter().chain(kept.issued.load().iter()).cloned().collect()
}

fn verifier(auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, ServerError> {
    let mut roots = RootCertStore::empty();
    for der in auth.ca.der.iter() {
        roots.add(CertificateDer::from(der.to_vec()))?;
    }
    let lists = auth.crl.iter().flat_map(|crl| crl.der.iter());
    let lists = lists.map(|der| CertificateRevocationListDer::from(der.to_vec()));
    // Every link of the chain is looked up, and an authority without a list is a refusal, as OpenSSL
    // has it with CRL_CHECK_ALL. A list that is past its next update still counts: one that nobody
    // renewed in time must not lock everybody out (there is a warning).
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), super::provider())
        .with_crls(lists);
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    Ok(builder.build()?)
}

#[derive(Debug)]
struct Resolver {
    names: ArcSwap<Names>,
    acme: bool,
    kept: Arc<Kept>,
}

impl Resolver {
    /// Only what asks for the challenge and nothing else that is served here (RFC 8737 3).
    fn is_challenge(&self, hello: &ClientHello<'_>) -> bool {
        let ours = [Alpn::H2.wire(), Alpn::Http1.wire()];
        let offers = |wanted: &dyn Fn(&[u8]) -> bool| {
            hello.alpn().is_some_and(|mut offered| offered.any(wanted))
        };
        self.acme && offers(&|name| name == ACME_TLS) && !offers(&|name| ours.contains(&name))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        if self.is_challenge(&hello) {
            return self.kept.challenges.load().get(name?).cloned();
        }
        // A trailing dot is no part of the name (RFC 6066 3); rustls refuses one.
        let names = self.names.load();
        names.pick(name, hello.signature_schemes(), SystemTime::now()).cloned()
    }
}
