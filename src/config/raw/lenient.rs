//! A whole file as serde reads it, before anything is known of it.
//!
//! Reads every value whatever it is; what may stand where is for `shape`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

/// Keys as their text, and of a key that stands twice, the first.
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
