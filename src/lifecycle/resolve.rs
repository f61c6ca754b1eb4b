//! Backend names to addresses, at load and at each reload, all in parallel.
//!
//! A name that was known and cannot be resolved now keeps the addresses it had: a resolver that is
//! down must not take backends away.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::model::{BackendHost, Config};

/// For one name; the resolver's own limits are often 10 s and more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The addresses of every backend host of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Addresses(HashMap<BackendHost, Vec<SocketAddr>>);

#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host}, a backend's name: {source}")]
pub struct ResolveError {
    host: BackendHost,
    source: io::Error,
}

impl Addresses {
    /// Looks every name of `config` up; `before` is what was known.
    pub async fn find(config: &Config, before: &Addresses) -> Result<Addresses, ResolveError> {
        let mut found = HashMap::new();
        let mut lookups = JoinSet::new();
        for host in config.pools.iter().flat_map(|pool| &pool.backends).map(|b| &b.address) {
            match host {
                BackendHost::Addr(addr) => drop(found.insert(host.clone(), vec![*addr])),
                BackendHost::Name { .. } if found.contains_key(host) => {}
                BackendHost::Name { host: name, port } => {
                    found.insert(host.clone(), Vec::new());
                    let (key, name, port) = (host.clone(), name.clone(), *port);
                    lookups.spawn(async move { (key, lookup(&name, port).await) });
                }
            }
        }
        while let Some(done) = lookups.join_next().await {
            // A look-up that panicked leaves its name without addresses, and is told below.
            let Ok((host, result)) = done else { continue };
            match (result, before.0.get(&host)) {
                (Ok(addrs), _) => found.insert(host, addrs),
                (Err(error), Some(known)) => {
                    tracing::warn!(backend = %host, %error, "cannot resolve; keeping its addresses");
                    found.insert(host, known.clone())
                }
                (Err(source), None) => return Err(ResolveError { host, source }),
            };
        }
        Ok(Addresses(found))
    }

    /// Never empty for a host of the configuration that these were found for.
    pub fn of(&self, host: &BackendHost) -> &[SocketAddr] {
        self.0.get(host).map_or(&[], Vec::as_slice)
    }
}

async fn lookup(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let looked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, port))).await;
    let mut addrs: Vec<SocketAddr> =
        looked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.collect();
    // Resolvers rotate their answers; a backend's place in its pool should not.
    addrs.sort();
    addrs.dedup();
    if addrs.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addrs) }
}
