//! The answer of a route that sends its clients elsewhere: the status and the Location.
//!
//! What comes from the client can neither end the header line nor choose another host: everything
//! but visible ASCII is percent-encoded, and a carried-over path never starts a new authority.

use http::{HeaderValue, StatusCode};

use super::matching::below;
use super::target::push_escape;
use super::{Facts, Route};
use crate::config::model::{Action, PathPattern};

/// `None` if the route does not redirect, or to https a client that names no host. A `*` at the end of `to` stands for what the path
/// pattern's own star matched; the query is kept unless `to` has one.
pub fn location(route: &Route, facts: &Facts<'_>) -> Option<(StatusCode, HeaderValue)> {
    let (to, status) = match &route.config.action {
        Action::Redirect { to, status } => (to, status),
        Action::RedirectHttps { status, port } => {
            return Some((*status, to_https(facts, *port)?));
        }
        Action::Pool(_) | Action::Split(_) | Action::Respond { .. } => return None,
    };
    // A query goes before the fragment (RFC 3986 3).
    let (to, fragment) = to.split_at(to.find('#').unwrap_or(to.len()));
    let mut out = String::with_capacity(to.len() + facts.path.len() + 16);
    match to.strip_suffix('*') {
        Some(base) => carry_over(&mut out, base, rest(route, facts)),
        None => push_visible(&mut out, to),
    }
    if !to.contains('?')
        && let Some(query) = facts.query
    {
        out.push('?');
        push_visible(&mut out, query);
    }
    push_visible(&mut out, fragment);
    // Visible ASCII alone is always a field value.
    Some((*status, HeaderValue::try_from(out).ok()?))
}

/// The same host, path and query by https; `None` where the client names no host.
fn to_https(facts: &Facts<'_>, port: u16) -> Option<HeaderValue> {
    if facts.host.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(facts.host.len() + facts.path.len() + 16);
    out.push_str("https://");
    push_visible(&mut out, facts.host);
    if port != 443 {
        out.push(':');
        out.push_str(&port.to_string());
    }
    // `*` (of OPTIONS) is no path.
    push_visible(&mut out, if facts.path.starts_with('/') { facts.path } else { "/" });
    if let Some(query) = facts.query {
        out.push('?');
        push_visible(&mut out, query);
    }
    HeaderValue::try_from(out).ok()
}

/// What the star of the route's one path pattern stands for: empty, or it starts with a slash.
fn rest<'a>(route: &Route, facts: &Facts<'a>) -> &'a str {
    match route.config.matches.path.as_slice() {
        [PathPattern::Prefix(prefix)] => below(facts.path, prefix).unwrap_or(""),
        _ => "",
    }
}

/// One slash between `base` and `rest`, so that `https://a.example*` cannot become
/// `https://a.example.evil`; and one only at the start, since `//evil` names a host (RFC 3986 4.2).
fn carry_over(out: &mut String, base: &str, rest: &str) {
    let trimmed = base.trim_end_matches('/');
    push_visible(out, trimmed);
    if trimmed.is_empty() {
        out.push('/');
        push_visible(out, rest.trim_start_matches('/'));
    } else {
        push_visible(out, rest);
    }
}

fn push_visible(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            push_escape(out, byte);
        }
    }
}
