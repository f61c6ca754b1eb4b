//! What a route does: exactly one of `pool`, `split`, `redirect`, `respond`.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::cx::{Cx, Reference};
use super::edits::hop_by_hop;
use super::http_words::{final_status, header_name, header_value};
use super::words::{name, weight, whole, word};
use crate::config::model::{Action, Match, Name, PathPattern};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

const REDIRECTS: [(&str, StatusCode); 5] = [
    ("301", StatusCode::MOVED_PERMANENTLY),
    ("302", StatusCode::FOUND),
    ("303", StatusCode::SEE_OTHER),
    ("307", StatusCode::TEMPORARY_REDIRECT),
    ("308", StatusCode::PERMANENT_REDIRECT),
];

/// For good, and with the method it had: whoever asks for it has https.
const TO_HTTPS: StatusCode = StatusCode::PERMANENT_REDIRECT;

const HTTPS: u16 = 443;

#[derive(Debug, Default)]
pub struct Choices {
    pub pool: raw::Text,
    pub split: Option<raw::Pairs<String>>,
    pub redirect: Option<raw::Redirect>,
    pub respond: Option<raw::Respond>,
}

pub fn action(cx: &mut Cx<'_>, at: &Path, matches: &Match, choices: Choices) -> Option<Action> {
    let mut there = ["pool", "split", "redirect", "respond"].into_iter().filter(|key| {
        // What did not fit and was taken out counts as chosen.
        cx.has(&at.key(key))
    });
    match (there.next(), there.next()) {
        (None, _) => {
            let wrong =
                Wrong::new("this route does nothing", "one of pool, split, redirect, respond");
            cx.error(at, None, wrong.help("for example: pool: web"));
        }
        (Some(first), Some(second)) => {
            let text = format!("a route does one thing, and `{first}` stands here already");
            let wrong = Wrong::new(text, "one of pool, split, redirect, respond");
            cx.error(&at.key(second), None, wrong);
        }
        (Some(_), None) => {}
    }
    let pool = choices.pool.and_then(|text| {
        let at = at.key("pool");
        let pool = cx.text(&at, Some(&text), name)?;
        cx.references.push(Reference { at, pool: pool.clone(), by_key: false });
        Some(Action::Pool(pool))
    });
    let split = choices.split.and_then(|pairs| split(cx, &at.key("split"), pairs));
    let redirect = choices.redirect.and_then(|raw| redirect(cx, &at.key("redirect"), matches, raw));
    let respond = choices.respond.and_then(|raw| respond(cx, &at.key("respond"), raw));
    pool.or(split).or(redirect).or(respond)
}

fn split(cx: &mut Cx<'_>, at: &Path, pairs: raw::Pairs<String>) -> Option<Action> {
    let mut shares: Vec<(Name, u32)> = Vec::with_capacity(pairs.0.len());
    let mut sound = true;
    for (key, text) in pairs.0 {
        let at = at.key(&key);
        let pool = cx.key(&at, &key, name);
        let weight = cx.text(&at, Some(&text), |text| weight(text, 0..=1_000_000));
        sound &= pool.is_some() && weight.is_some();
        if let Some((pool, weight)) = pool.zip(weight) {
            cx.references.push(Reference { at, pool: pool.clone(), by_key: true });
            shares.push((pool, weight as u32));
        }
    }
    if sound && shares.iter().all(|(_, weight)| *weight == 0) {
        let wrong = Wrong::new("no pool of this split gets anything", "a weight above 0");
        cx.error(at, None, wrong.help("for example: split: {stable: 95, canary: 5}"));
        return None;
    }
    (!shares.is_empty()).then_some(Action::Split(shares))
}

/// `redirect: https`, or where to in full.
fn redirect(cx: &mut Cx<'_>, at: &Path, matches: &Match, raw: raw::Redirect) -> Option<Action> {
    let raw = match raw {
        raw::Redirect::Word(text) => {
            return cx.text(at, Some(&text), |text| match text {
                "https" => Ok(Action::RedirectHttps { status: TO_HTTPS, port: HTTPS }),
                _ => Err(Wrong::new("not a place to send a client to", "https, or {to: ...}")
                    .help("for example: redirect: {to: https://example.com/new}")),
            });
        }
        raw::Redirect::Parts(parts) => parts,
    };
    cx.missing(at, "to", "to: https://example.com/new");
    let status = cx.text(&at.key("status"), raw.status.as_ref(), |text| word(text, &REDIRECTS));
    let port = cx.text(&at.key("port"), raw.port.as_ref(), |text| whole(text, 1..=65_535));
    if raw.to.as_deref() == Some("https") {
        let status = status.unwrap_or(TO_HTTPS);
        return Some(Action::RedirectHttps { status, port: port.map_or(HTTPS, |n| n as u16) });
    }
    if let Some(port) = &raw.port {
        let wrong = Wrong::plain("only `to: https` has a port of its own");
        cx.error(&at.key("port"), Some(port), wrong.help("write it into `to`"));
    }
    let to = cx.text(&at.key("to"), raw.to.as_ref(), |text| target(text, matches))?;
    Some(Action::Redirect { to, status: status.unwrap_or(StatusCode::FOUND) })
}

/// Where a redirect goes to: absolute, or a path on the same host.
fn target(text: &str, matches: &Match) -> Result<String, Wrong> {
    const ALLOWED: &str =
        "https, http://..., https://... or /PATH; a * at the end for the rest of the path";
    let wrong = |message: &str| Wrong::new(message, ALLOWED);
    let schemes = ["http://", "https://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    // `//host` would leave for another host without looking like it.
    let path = text.starts_with('/') && !text.starts_with("//");
    if !path && !rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        return Err(wrong("not a place to send a client to"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("a Location is visible ASCII; the rest is percent-encoded"));
    }
    let Some(star) = text.find('*') else { return Ok(text.to_owned()) };
    if star + 1 != text.len() {
        return Err(wrong("`*` may only stand at the end"));
    }
    match matches.path.as_slice() {
        [PathPattern::Prefix(_)] => Ok(text.to_owned()),
        _ => Err(wrong("`*` stands for the rest of a path, and this route's match has none")
            .help("match one path that ends with /*, such as path: /old/*")),
    }
}

fn respond(cx: &mut Cx<'_>, at: &Path, raw: raw::Respond) -> Option<Action> {
    let status = cx.text(&at.key("status"), raw.status.as_ref(), final_status);
    let status = status.unwrap_or(StatusCode::OK);
    let body = raw.body.unwrap_or_default();
    // RFC 9110 15.3.5, 15.3.6, 15.4.5
    if matches!(status.as_u16(), 204 | 205 | 304) && !body.is_empty() {
        let text = format!("an answer with status {} has no body", status.as_u16());
        let wrong = Wrong::plain(text).help("leave `body` out, or use status: 200");
        cx.error(&at.key("body"), Some(&body), wrong);
    }
    let mut headers = HeaderMap::new();
    for (key, text) in raw.headers.into_iter().flat_map(|pairs| pairs.0) {
        let at = at.key("headers").key(&key);
        let name = cx.key(&at, &key, |text| header_name(text).and_then(hop_by_hop));
        let value = cx.text(&at, Some(&text), header_value);
        if let Some((name, value)) = name.zip(value) {
            headers.append(name, value);
        }
    }
    Some(Action::Respond { status, body: Bytes::from(body), headers })
}
