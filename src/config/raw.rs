//! The private mirror of the file for serde: every value still text, every key optional.
//!
//! `shape` has already reported and taken out what does not fit here; `validate` reads the text. A
//! list's item that was taken out is `None`, so that the others keep their numbers.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

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
    pub client_body: Text,
    pub connect: Text,
    pub response: Text,
    pub stream_idle: Text,
    pub tcp_idle: Text,
    pub request: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub bind: Option<Texts>,
    pub mode: Text,
    pub trusted_proxies: Option<Texts>,
    pub allow: Option<Texts>,
    pub deny: Option<Texts>,
    pub pool: Text,
    /// Sections of their own.
    pub routes: Option<Vec<Value>>,
    pub timeouts: Option<Timeouts>,
    pub error_pages: Option<Pairs<String>>,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    pub to: Text,
    pub status: Text,
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

/// A pool, and `pool_defaults` (which has no backends).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub balance: Option<Balance>,
    pub backends: Option<Vec<Option<Backend>>>,
    pub health_check: Option<HealthCheck>,
    pub keepalive: Option<Keepalive>,
    pub timeouts: Option<Timeouts>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Balance {
    Word(String),
    Hash { hash: Option<HashBy> },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashBy {
    pub by: Text,
    pub name: Text,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Backend {
    Short(String),
    Long { address: Text, weight: Text },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum HealthCheck {
    Word(String),
    Parts(Box<HealthParts>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthParts {
    pub http: Option<HttpProbe>,
    pub tcp: Option<TcpProbe>,
    pub interval: Text,
    pub interval_unsettled: Text,
    pub timeout: Text,
    pub fall: Text,
    pub rise: Text,
    pub initial: Text,
    pub port: Text,
    pub address: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    pub path: Text,
    pub host: Text,
    pub method: Text,
    pub expect_status: Option<Texts>,
    pub expect_body: Text,
    pub headers: Option<Pairs<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    pub send: Text,
    pub expect: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    pub max_idle: Text,
    pub idle_timeout: Text,
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

/// A whole file as serde reads it: keys as their text, and of a key that stands twice, the first.
/// (Serde's own reading stops there; the first reading has the place of every such key.)
#[derive(Debug)]
pub struct Lenient(pub Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Lenient;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Lenient, E> {
                Ok(Lenient(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Lenient, E> {
                Ok(Lenient(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Lenient, E> {
                Ok(Lenient(Value::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Lenient, E> {
                Ok(Lenient(Value::Number(value.into())))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Lenient, E> {
                Ok(Lenient(Value::Number(value.into())))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Lenient, E> {
                Ok(Lenient(Value::Number((value as f64).into())))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Lenient, E> {
                Ok(Lenient(Value::Number((value as f64).into())))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Lenient, E> {
                Ok(Lenient(Value::Number(value.into())))
            }

            fn visit_str<E>(self, value: &str) -> Result<Lenient, E> {
                Ok(Lenient(Value::String(value.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Lenient, A::Error> {
                let mut items = Vec::new();
                while let Some(Lenient(item)) = list.next_element()? {
                    items.push(item);
                }
                Ok(Lenient(Value::Sequence(items)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lenient, A::Error> {
                let mut entries = Mapping::new();
                while let Some((key, Lenient(value))) = map.next_entry::<String, Lenient>()? {
                    entries.entry(Value::String(key)).or_insert(value);
                }
                Ok(Lenient(Value::Mapping(entries)))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
