//! Rate limits: whose request it is, and whether that one has had too many.
//!
//! Kept by `debts`, one table a limit, for the whole process. A limit that a reload does not change goes
//! on with what it knew. `now` comes in.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;

use super::Facts;
use super::debts::{Debts, Terms, Verdict};
use crate::config::model::{RateBy, RateLimit};

/// A limit of a listener or a route, with the debts of its keys.
#[derive(Debug)]
pub struct Limiter {
    pub config: RateLimit,
    terms: Terms,
    debts: Debts,
    /// With a secret of this process, so that nobody can choose keys that meet.
    hasher: RandomState,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    V4([u8; 4]),
    /// Within a /64 a client can take any address it likes.
    V6([u8; 8]),
    /// Over a UNIX socket.
    Local,
    Header(&'a [u8]),
}

impl Limiter {
    pub fn new(config: RateLimit) -> Limiter {
        // Rounded up, so that never more than the rate comes of it.
        let step = (config.per.as_nanos() as u64).div_ceil(config.rate.max(1).into()).max(1);
        let most = step.saturating_mul(config.burst.max(1).into());
        let (debts, hasher) = (Debts::new(), RandomState::new());
        Limiter { config, terms: Terms { step, most }, debts, hasher }
    }

    /// One request with these facts. `now` is in nanoseconds since any fixed moment.
    pub fn admit(&self, facts: &Facts<'_>, now: u64) -> Verdict {
        self.debts.admit(self.hasher.hash_one(self.key(facts)), now, self.terms)
    }

    /// A request without the header counts for its client: leaving it out is no way around the limit.
    fn key<'a>(&self, facts: &Facts<'a>) -> Key<'a> {
        let header = match &self.config.by {
            RateBy::ClientIp => None,
            RateBy::Header(name) => facts.headers.all(name.as_str()).next(),
        };
        match (header, facts.client.map(|ip| ip.to_canonical())) {
            (Some(value), _) => Key::Header(value),
            (None, Some(IpAddr::V4(ip))) => Key::V4(ip.octets()),
            (None, Some(IpAddr::V6(ip))) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Key::V6([a, b, c, d, e, f, g, h])
            }
            (None, None) => Key::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, Method};

    use super::*;
    use crate::route::fields::Store;

    fn limiter(by: RateBy) -> Limiter {
        Limiter::new(RateLimit { rate: 60, per: Duration::from_secs(60), burst: 1, by })
    }

    fn facts<'a>(client: Option<&str>, store: &'a Store) -> Facts<'a> {
        let client = client.map(|ip| ip.parse().unwrap());
        let headers = store.fields();
        Facts { host: "", path: "/", query: None, method: &Method::GET, headers, client }
    }

    #[test]
    fn clients_are_told_apart_by_address_and_networks() {
        let limiter = limiter(RateBy::ClientIp);
        let none = Store::default();
        let admitted = |ip| limiter.admit(&facts(ip, &none), 0) == Verdict::Admitted;
        assert!(admitted(Some("10.0.0.1")));
        assert!(!admitted(Some("10.0.0.1")));
        assert!(!admitted(Some("::ffff:10.0.0.1")), "the same client in IPv6's clothes");
        assert!(admitted(Some("10.0.0.2")));
        assert!(admitted(Some("2001:db8:0:1::1")));
        assert!(!admitted(Some("2001:db8:0:1:ffff::7")), "the same /64");
        assert!(admitted(Some("2001:db8:0:2::1")));
        assert!(admitted(None));
        assert!(!admitted(None));
    }

    #[test]
    fn a_header_names_the_key_and_without_it_the_client_does() {
        let limiter = limiter(RateBy::Header(HeaderName::from_static("x-api-key")));
        let with = |value: &str| {
            let mut store = Store::default();
            store.push(b"X-Api-Key", value.as_bytes());
            store
        };
        let (a, b, none) = (with("a"), with("b"), Store::default());
        let admitted = |ip, store| limiter.admit(&facts(Some(ip), store), 0) == Verdict::Admitted;
        assert!(admitted("10.0.0.1", &a));
        assert!(!admitted("10.0.0.9", &a), "whoever has that key");
        assert!(admitted("10.0.0.1", &b));
        assert!(admitted("10.0.0.1", &none));
        assert!(!admitted("10.0.0.1", &none));
        assert!(admitted("10.0.0.9", &none));
    }

    #[test]
    fn the_wait_is_until_the_next_one_is_due() {
        let limiter = limiter(RateBy::ClientIp);
        let none = Store::default();
        let facts = facts(Some("10.0.0.1"), &none);
        assert_eq!(limiter.admit(&facts, 0), Verdict::Admitted);
        assert_eq!(limiter.admit(&facts, 400_000_000), Verdict::Refused(600_000_000));
        assert_eq!(limiter.admit(&facts, 1_000_000_000), Verdict::Admitted);
    }
}
