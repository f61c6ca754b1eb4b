//! Whether one route matches one request: every part of its `match`, one after the other.
//!
//! The truth that `index` only speeds up. Reads the facts alone: host and path are normalised by
//! then, patterns were proved by `config::validate`.

use super::{Facts, access, target};
use crate::config::model::{HostPattern, Match, PathPattern, ValuePattern};

/// All parts must match; an empty part matches everything. Cheap parts come first.
pub(super) fn matches(wanted: &Match, facts: &Facts<'_>) -> bool {
    any_or_empty(&wanted.method, |method| method == facts.method)
        && any_or_empty(&wanted.host, |pattern| host(pattern, facts.host))
        && any_or_empty(&wanted.path, |pattern| path(pattern, facts.path))
        && client(wanted, facts)
        && wanted
            .header
            .iter()
            .all(|(name, value)| facts.headers.all(name.as_str()).any(|found| header(value, found)))
        && wanted.query.iter().all(|(name, value)| parameter(facts.query, name, value))
        && wanted.path_regex.as_ref().is_none_or(|pattern| pattern.0.is_match(facts.path))
}

/// What follows `prefix` in `path`, up to a segment's end: empty, or it starts with a slash.
/// `None` if the path is not under the prefix.
pub(super) fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn any_or_empty<T>(list: &[T], matches: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

fn host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => name == host,
        // One label in place of the star, neither none nor several.
        HostPattern::Wildcard(suffix) => host
            .strip_suffix(suffix.as_str())
            .is_some_and(|label| !label.is_empty() && !label.contains('.')),
    }
}

fn path(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact == path,
        PathPattern::Prefix(prefix) => below(path, prefix).is_some(),
    }
}

/// A client without an address is in no network.
fn client(wanted: &Match, facts: &Facts<'_>) -> bool {
    wanted.client.is_empty()
        || facts.client.is_some_and(|client| access::within(&wanted.client, client))
}

fn header(pattern: &ValuePattern, found: &[u8]) -> bool {
    match pattern {
        ValuePattern::Present => true,
        ValuePattern::Exact(value) => found == value.as_bytes(),
    }
}

/// Whether any parameter of that name matches. Names and values are compared percent-decoded. A
/// `+` is a plus, as RFC 3986 has it: that it means a space is a custom of HTML forms, which we
/// cannot know to have made the query. A parameter without `=` has the empty value.
fn parameter(query: Option<&str>, name: &str, pattern: &ValuePattern) -> bool {
    query.is_some_and(|query| {
        query.split('&').any(|pair| {
            let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(found).eq(name.bytes())
                && match pattern {
                    ValuePattern::Present => true,
                    ValuePattern::Exact(wanted) => decoded(value).eq(wanted.bytes()),
                }
        })
    })
}

/// The bytes of `text` with its escapes decoded; what is no escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        if let Some(byte) = target::escape(rest) {
            rest = &rest[3..];
            return Some(byte);
        }
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(byte)
    })
}
