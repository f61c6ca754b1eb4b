//! The private mirror of the file for serde: every value still text, every key optional.
//!
//! `shape` has already reported and taken out what does not fit here; `validate` reads the text. A
//! list's item that was taken out is `None`, so that the others keep their numbers.

mod acme;
mod lenient;
mod pool;
mod tls;

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_yaml::Value;

pub use acme::Acme;
pub use lenient::Lenient;
pub use pool::*;
pub use tls::*;

pub type Text = Option<String>;

/// One text, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    One(String),
    Many(Vec<Option<String>>),
}

/// A map with free keys, in the order of the file.
#[derive(Clone, Debug)]
pub struct Pairs<T>(pub Vec<(String, T)>);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub listen: Text,
    pub ready_requires: Option<Texts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: Text,
    pub format: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub connections: Text,
    pub connections_per_client: Text,
    pub request_head: Text,
    pub headers: Text,
    pub request_body: Text,
}

/// Every key of every place; which one may stand where is for `shape` to say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    pub client_header: Text,
    pub client_idle: Text,
    pub client_age: Text,
    pub client_body: Text,
    pub connect: Text,
    pub response: Text,
    pub stream_idle: Text,
    pub tcp_idle: Text,
    pub request: Text,
    pub proxy_header: Text,
    pub tls_handshake: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub bind: Option<Texts>,
    pub mode: Text,
    pub tls: Option<ListenerTls>,
    pub trusted_proxies: Option<Texts>,
    pub allow: Option<Texts>,
    pub deny: Option<Texts>,
    pub pool: Text,
    /// Sections of their own.
    pub routes: Option<Vec<Value>>,
    pub timeouts: Option<Timeouts>,
    pub error_pages: Option<Pairs<String>>,
    pub rate_limit: Option<RateLimit>,
    pub accept_proxy_protocol: Option<ProxyPeers>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyPeers {
    pub from: Option<Texts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    pub pool: Text,
    pub split: Option<Pairs<String>>,
    pub redirect: Option<Redirect>,
    pub respond: Option<Respond>,
    pub allow: Option<Texts>,
    pub deny: Option<Texts>,
    pub request_headers: Option<HeaderEdits>,
    pub response_headers: Option<HeaderEdits>,
    pub rewrite: Option<Rewrite>,
    pub timeouts: Option<Timeouts>,
    pub error_pages: Option<Pairs<String>>,
    pub rate_limit: Option<RateLimit>,
    pub reject: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub rate: Text,
    pub burst: Text,
    pub by: Text,
    pub name: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    pub host: Option<Texts>,
    pub path: Option<Texts>,
    pub path_regex: Text,
    pub method: Option<Texts>,
    pub header: Option<Pairs<String>>,
    pub query: Option<Pairs<String>>,
    pub client: Option<Texts>,
    pub sni: Option<Texts>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Redirect {
    Word(String),
    Parts(RedirectParts),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedirectParts {
    pub to: Text,
    pub status: Text,
    pub port: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    pub status: Text,
    pub body: Text,
    pub headers: Option<Pairs<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    pub set: Option<Pairs<String>>,
    pub add: Option<Pairs<String>>,
    pub remove: Option<Texts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    pub strip_prefix: Text,
    pub path_regex: Text,
    pub replace: Text,
    pub add_prefix: Text,
    pub host: Text,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Walk<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Walk(PhantomData))
    }
}
