//! The answers to challenges that are open now (RFC 8555, 8): one table that every thread reads.
//!
//! Written by the orders on the control thread; the data path asks it for a token (HTTP-01, RFC 8555
//! 8.3) or a name (TLS-ALPN-01, RFC 8737). Nearly always it is empty, and a look costs next to nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What the path of an HTTP-01 challenge begins with; its token follows.
pub const PATH: &str = "/.well-known/acme-challenge/";

/// The ALPN protocol of a TLS-ALPN-01 challenge (RFC 8737, 6.2).
pub const ALPN: &[u8] = b"acme-tls/1";

pub struct Challenges {
    /// Key authorizations by token.
    tokens: ArcSwap<HashMap<String, Bytes>>,
    names: Arc<Names>,
    tls: Option<Arc<ServerConfig>>,
}

/// Certificates by name, in lower case.
#[derive(Default)]
struct Names(ArcSwap<HashMap<String, Arc<CertifiedKey>>>);

/// What a challenge is to be answered with.
#[derive(Clone, Debug)]
pub enum Reply {
    Http { token: String, authorization: Bytes },
    Tls { name: String, certificate: Arc<CertifiedKey> },
}

impl Default for Challenges {
    fn default() -> Challenges {
        let names = Arc::new(Names::default());
        // Every provider has these versions.
        let tls = config(names.clone()).ok().map(Arc::new);
        Challenges { tokens: ArcSwap::default(), names, tls }
    }
}

/// What such a handshake goes by. It is the whole conversation: no client certificate, no ticket, and
/// no other protocol, whatever the listener has of these.
fn config(names: Arc<Names>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(names);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().get(hello.server_name()?).cloned()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", self.0.load().len())
    }
}

impl Challenges {
    /// What a request for this path is answered with; `None` if it is no challenge of ours.
    pub fn http(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(PATH)?;
        self.tokens.load().get(token).cloned()
    }

    /// What the handshake goes by if it is that of an ACME server: it speaks [`ALPN`] and nothing
    /// else (RFC 8737, 3). It fails then for names that have no challenge.
    pub fn tls(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut offered = hello.alpn()?;
        (offered.next() == Some(ALPN) && offered.next().is_none()).then(|| self.tls.clone())?
    }

    /// From now on, on every thread, until the guard is dropped.
    #[must_use]
    pub fn offer(self: &Arc<Self>, reply: Reply) -> Offered {
        match &reply {
            Reply::Http { token, authorization } => {
                change(&self.tokens, |all| drop(all.insert(token.clone(), authorization.clone())));
            }
            Reply::Tls { name, certificate } => {
                change(&self.names.0, |all| drop(all.insert(name.clone(), certificate.clone())));
            }
        }
        Offered { challenges: self.clone(), reply }
    }
}

fn change<V: Clone>(all: &ArcSwap<HashMap<String, V>>, change: impl Fn(&mut HashMap<String, V>)) {
    all.rcu(|before| {
        let mut now = HashMap::clone(before);
        change(&mut now);
        now
    });
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens, {:?}", self.tokens.load().len(), self.names)
    }
}

/// A challenge that is answered as long as this lives.
#[derive(Debug)]
pub struct Offered {
    challenges: Arc<Challenges>,
    reply: Reply,
}

impl Drop for Offered {
    fn drop(&mut self) {
        match &self.reply {
            Reply::Http { token, .. } => {
                change(&self.challenges.tokens, |all| drop(all.remove(token)));
            }
            Reply::Tls { name, certificate } => change(&self.challenges.names.0, |all| {
                // Two servers may be at the same name: what the later order put in its place is not
                // ours to take away.
                if all.get(name).is_some_and(|now| Arc::ptr_eq(now, certificate)) {
                    all.remove(name);
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::certificate;

    #[test]
    fn only_what_is_offered_is_answered_and_only_as_long() {
        let challenges = Arc::new(Challenges::default());
        let path = "/.well-known/acme-challenge/abc";
        assert_eq!(challenges.http(path), None);
        let authorization = Bytes::from_static(b"abc.thumb");
        let reply = Reply::Http { token: "abc".into(), authorization: authorization.clone() };
        let offered = challenges.offer(reply);
        assert_eq!(challenges.http(path), Some(authorization));
        for other in ["/abc", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/abcd"] {
            assert_eq!(challenges.http(other), None, "{other}");
        }
        drop(offered);
        assert_eq!(challenges.http(path), None);
    }

    #[test]
    fn the_answer_of_a_second_order_for_a_name_outlives_the_first_order() {
        let challenges = Arc::new(Challenges::default());
        let offer = |digest| {
            let certificate = certificate::of_challenge("a.example", &[digest; 32]).unwrap();
            challenges.offer(Reply::Tls { name: "a.example".into(), certificate })
        };
        let (first, second) = (offer(1), offer(2));
        drop(first);
        assert!(challenges.names.0.load().contains_key("a.example"));
        drop(second);
        assert!(challenges.names.0.load().is_empty());
    }
}
