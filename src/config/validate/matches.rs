//! The `match` of a route: hosts, paths, methods, headers, query, clients.

use http::HeaderName;
use regex::Regex;

use super::cx::Cx;
use super::http_words::{header_name, host_pattern, method, path_pattern, value_pattern};
use super::words::network;
use crate::config::model::{Match, Pattern, ValuePattern};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

pub fn matches(cx: &mut Cx<'_>, at: &Path, raw: raw::Match) -> Match {
    if raw.sni.is_some() {
        let wrong =
            Wrong::plain("an http listener's routes match what is asked for, not TLS names");
        cx.error(&at.key("sni"), None, wrong.help("write host: ..., or set mode: tcp"));
    }
    let empty = [
        ("host", &raw.host),
        ("path", &raw.path),
        ("method", &raw.method),
        ("client", &raw.client),
    ];
    for (key, texts) in empty {
        if matches!(texts, Some(raw::Texts::Many(list)) if list.is_empty()) {
            let wrong = Wrong::plain("an empty list: it is not clear if all or none are meant");
            cx.error(&at.key(key), None, wrong.help("leave the key out to match everything"));
        }
    }
    let values = |list: Vec<(Path, _)>| list.into_iter().map(|(_, value)| value).collect();
    Match {
        host: values(cx.each(&at.key("host"), raw.host.as_ref(), host_pattern)),
        path: cx
            .each(&at.key("path"), raw.path.as_ref(), path_pattern)
            .into_iter()
            .map(|(_, path)| path)
            .collect(),
        path_regex: cx.text(&at.key("path_regex"), raw.path_regex.as_ref(), pattern),
        method: cx
            .each(&at.key("method"), raw.method.as_ref(), method)
            .into_iter()
            .map(|(_, method)| method)
            .collect(),
        header: header(cx, &at.key("header"), raw.header),
        query: query(cx, &at.key("query"), raw.query),
        client: cx
            .each(&at.key("client"), raw.client.as_ref(), network)
            .into_iter()
            .map(|(_, network)| network)
            .collect(),
    }
}

fn header(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: Option<raw::Pairs<String>>,
) -> Vec<(HeaderName, ValuePattern)> {
    let mut list = Vec::new();
    for (key, text) in raw.into_iter().flat_map(|pairs| pairs.0) {
        let at = at.key(&key);
        let name = cx.key(&at, &key, header_name);
        if name.as_ref() == Some(&http::header::HOST) {
            let wrong = Wrong::plain("the host has a key of its own");
            cx.key_error(&at, &key, wrong.help(format!("write match: {{host: {text}}}")));
            continue;
        }
        let value = cx.text(&at, Some(&text), value_pattern);
        list.extend(name.zip(value));
    }
    list
}

fn query(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: Option<raw::Pairs<String>>,
) -> Vec<(String, ValuePattern)> {
    let mut list = Vec::new();
    for (key, text) in raw.into_iter().flat_map(|pairs| pairs.0) {
        let at = at.key(&key);
        if key.is_empty() || key.chars().any(char::is_control) {
            let wrong = Wrong::plain("not the name of a query parameter");
            cx.key_error(&at, &key, wrong);
            continue;
        }
        list.extend(cx.text(&at, Some(&text), value_pattern).map(|value| (key, value)));
    }
    list
}

/// A regular expression of the crate `regex`: linear time, no look-around.
pub fn pattern(text: &str) -> Result<Pattern, Wrong> {
    const ALLOWED: &str = "a regular expression in the syntax of the Rust crate regex";
    Regex::new(text).map(Pattern).map_err(|error| {
        let message = match error {
            regex::Error::CompiledTooBig(_) => "the regular expression is too large".to_owned(),
            // The last line says what is wrong; those before it draw the place.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or("").trim();
                let last = last.strip_prefix("error: ").unwrap_or(last);
                format!("not a regular expression: {last}")
            }
        };
        Wrong::new(message, ALLOWED)
    })
}
