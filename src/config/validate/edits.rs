//! What a route changes: headers of requests and responses, the path and the host.
//!
//! Headers that frame a message or belong to one connection are the proxy's own affair
//! (RFC 9110 7.6.1); editing them is refused.

use http::{HeaderName, HeaderValue};

use super::cx::Cx;
use super::http_words::{header_name, header_value, host_value, path};
use super::matches::pattern;
use crate::config::model::{HeaderEdits, Rewrite};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub fn hop_by_hop(name: HeaderName) -> Result<HeaderName, Wrong> {
    if HOP_BY_HOP.contains(&name.as_str()) {
        let text =
            format!("`{name}` is about one message or one connection: the proxy's own affair");
        return Err(Wrong::plain(text).help("leave it out"));
    }
    Ok(name)
}

pub fn request(cx: &mut Cx<'_>, at: &Path, raw: Option<raw::HeaderEdits>) -> HeaderEdits {
    edits(cx, at, raw, |name| {
        if name == http::header::HOST {
            let wrong = Wrong::plain("the host is not changed as a header");
            return Err(wrong.help("write rewrite: {host: internal.example.com}"));
        }
        hop_by_hop(name)
    })
}

pub fn response(cx: &mut Cx<'_>, at: &Path, raw: Option<raw::HeaderEdits>) -> HeaderEdits {
    edits(cx, at, raw, hop_by_hop)
}

fn edits(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: Option<raw::HeaderEdits>,
    permit: fn(HeaderName) -> Result<HeaderName, Wrong>,
) -> HeaderEdits {
    let Some(raw) = raw else { return HeaderEdits::default() };
    let name = |text: &str| header_name(text).and_then(permit);
    let removed = cx.each(&at.key("remove"), raw.remove.as_ref(), name);
    HeaderEdits {
        remove: removed.into_iter().map(|(_, name)| name).collect(),
        set: pairs(cx, &at.key("set"), raw.set, name),
        add: pairs(cx, &at.key("add"), raw.add, name),
    }
}

/// Headers with their values.
pub fn pairs(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: Option<raw::Pairs<String>>,
    name: impl Fn(&str) -> Result<HeaderName, Wrong>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut list = Vec::new();
    for (key, text) in raw.into_iter().flat_map(|pairs| pairs.0) {
        let at = at.key(&key);
        let name = cx.key(&at, &key, &name);
        let value = cx.text(&at, Some(&text), header_value);
        list.extend(name.zip(value));
    }
    list
}

pub fn rewrite(cx: &mut Cx<'_>, at: &Path, raw: raw::Rewrite) -> Rewrite {
    let strip_prefix = cx.text(&at.key("strip_prefix"), raw.strip_prefix.as_ref(), prefix);
    let add_prefix = cx.text(&at.key("add_prefix"), raw.add_prefix.as_ref(), prefix);
    let host = cx.text(&at.key("host"), raw.host.as_ref(), host_value);
    let regex = cx.text(&at.key("path_regex"), raw.path_regex.as_ref(), pattern);
    if raw.path_regex.is_some() {
        cx.missing(at, "replace", "replace: /new/$1");
    } else if raw.replace.is_some() {
        cx.missing(at, "path_regex", "path_regex: ^/old/(.*)");
    }
    let replace = cx.text(&at.key("replace"), raw.replace.as_ref(), |text| {
        if text.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'?') {
            return Ok(text.to_owned());
        }
        Err(Wrong::new("a path is visible ASCII without ? and #", "text with $1 or ${name}"))
    });
    Rewrite { strip_prefix, path_regex: regex.zip(replace), add_prefix, host }
}

/// A path without its last slash; `/` alone would change nothing.
fn prefix(text: &str) -> Result<String, Wrong> {
    const ALLOWED: &str = "a path such as /v1";
    if let Some(stem) = text.strip_suffix("/*") {
        return Err(Wrong::new("a prefix has no star", ALLOWED).help(format!("write {stem}")));
    }
    let path = path(text)?;
    let stem = path.trim_end_matches('/');
    if stem.is_empty() {
        return Err(Wrong::new("this prefix changes nothing", ALLOWED).help("leave it out"));
    }
    Ok(stem.to_owned())
}
