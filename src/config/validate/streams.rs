//! The routes of a tcp listener: TLS server names, and the pool that takes the stream undecrypted.

use serde_yaml::Value;

use super::cx::{Cx, Reference};
use super::http_words::host_pattern;
use super::shadow::{each, host_covers};
use super::words::{name, word};
use crate::config::model::{HostPattern, TcpAction, TcpRoute};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

/// `None` if not all of them came out: what is looked at further goes by their numbers.
pub fn routes(cx: &mut Cx<'_>, at: &Path, values: Vec<Value>) -> Option<Vec<TcpRoute>> {
    if values.is_empty() {
        let wrong = Wrong::plain("no route: every connection would be closed");
        cx.error(at, None, wrong.help("for example: routes: [{match: {sni: a.example}, pool: a}]"));
    }
    let count = values.len();
    let mut routes: Vec<(Path, TcpRoute)> = Vec::with_capacity(count);
    for (i, value) in values.into_iter().enumerate() {
        // A null is what `shape` took out, and reported.
        if !value.is_null() {
            let at = at.index(i);
            let raw = cx.section(&at, value);
            let Some(route) = route(cx, &at, raw) else { continue };
            let covers =
                |(_, earlier): &&(Path, TcpRoute)| each(&earlier.sni, &route.sni, host_covers);
            if let Some((by, _)) = routes.iter().find(covers) {
                let text = format!("this route is never reached: {by} matches all that it matches");
                cx.warn(&at, Wrong::plain(text).help("put the more special route first"));
            }
            routes.push((at, route));
        }
    }
    (routes.len() == count).then(|| routes.into_iter().map(|(_, route)| route).collect())
}

/// `None` if it has no sound action; then there are problems.
fn route(cx: &mut Cx<'_>, at: &Path, raw: raw::Route) -> Option<TcpRoute> {
    only_for_http(cx, at, &raw);
    let matches = raw.matches.unwrap_or_default();
    let sni = names(cx, &at.key("match"), &matches);
    if let (Some(pool), Some(_)) = (&raw.pool, &raw.reject) {
        let wrong = Wrong::plain("a route has one action: here are `pool` and `reject`");
        cx.error(&at.key("pool"), Some(pool), wrong);
        return None;
    }
    let rejected = cx.text(&at.key("reject"), raw.reject.as_ref(), |text| {
        word(text, &[("true", ())]).map_err(|wrong| wrong.help("or leave it out, and name a pool"))
    });
    if raw.reject.is_some() {
        return rejected.map(|()| TcpRoute { sni, action: TcpAction::Reject });
    }
    cx.missing(at, "pool", "pool: web-tls; or reject: true");
    let at = at.key("pool");
    let pool = cx.text(&at, raw.pool.as_ref(), name)?;
    cx.references.push(Reference { at, pool: pool.clone(), by_key: false });
    Some(TcpRoute { sni, action: TcpAction::Pool(pool) })
}

fn names(cx: &mut Cx<'_>, at: &Path, matches: &raw::Match) -> Vec<HostPattern> {
    let at = at.key("sni");
    if matches!(&matches.sni, Some(raw::Texts::Many(list)) if list.is_empty()) {
        let wrong = Wrong::plain("an empty list: it is not clear if all or none are meant");
        cx.error(&at, None, wrong.help("leave the key out to match everything"));
    }
    let read = cx.each(&at, matches.sni.as_ref(), |text| {
        let allowed = "a name such as example.com or *.example.com";
        if text == "*" {
            let wrong = Wrong::new("`*` alone is no name", allowed);
            return Err(wrong.help("leave `match` out to match everything"));
        }
        let pattern = host_pattern(text).map_err(|mut wrong| {
            wrong.allowed = Some(allowed.to_owned());
            wrong
        })?;
        let HostPattern::Exact(host) = &pattern else { return Ok(pattern) };
        // RFC 6066 3 permits none, and clients send none.
        let address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
        match address {
            true => Err(Wrong::new("an address is no TLS server name", allowed)),
            false => Ok(pattern),
        }
    });
    read.into_iter().map(|(_, pattern)| pattern).collect()
}

/// What is known only of requests, which nobody sees here.
fn only_for_http(cx: &mut Cx<'_>, at: &Path, raw: &raw::Route) {
    let matches = raw.matches.as_ref();
    let keys = [
        ("split", raw.split.is_some()),
        ("redirect", raw.redirect.is_some()),
        ("respond", raw.respond.is_some()),
        ("allow", raw.allow.is_some()),
        ("deny", raw.deny.is_some()),
        ("request_headers", raw.request_headers.is_some()),
        ("response_headers", raw.response_headers.is_some()),
        ("rewrite", raw.rewrite.is_some()),
        ("timeouts", raw.timeouts.is_some()),
        ("error_pages", raw.error_pages.is_some()),
        ("rate_limit", raw.rate_limit.is_some()),
    ];
    for (key, _) in keys.iter().filter(|(_, there)| *there) {
        let wrong = Wrong::plain(format!("a tcp listener's route has no `{key}`"));
        let help = match *key {
            "allow" | "deny" | "timeouts" => "put it into the listener itself",
            _ => "a tcp route has `match: {sni: ...}`, and `pool` or `reject`",
        };
        cx.error(&at.key(key), None, wrong.help(help));
    }
    let of_match = [
        ("host", matches.is_some_and(|matches| matches.host.is_some())),
        ("path", matches.is_some_and(|matches| matches.path.is_some())),
        ("path_regex", matches.is_some_and(|matches| matches.path_regex.is_some())),
        ("method", matches.is_some_and(|matches| matches.method.is_some())),
        ("header", matches.is_some_and(|matches| matches.header.is_some())),
        ("query", matches.is_some_and(|matches| matches.query.is_some())),
        ("client", matches.is_some_and(|matches| matches.client.is_some())),
    ];
    for (key, _) in of_match.iter().filter(|(_, there)| *there) {
        let wrong = Wrong::plain(format!("a tcp listener's route cannot match by `{key}`"));
        let help = match *key {
            "host" => "the name that a TLS client asks for is `sni`",
            _ => "all that it sees is the name that a TLS client asks for: sni",
        };
        cx.error(&at.key("match").key(key), None, wrong.help(help));
    }
}
