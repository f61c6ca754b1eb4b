//! The heads of messages: what a request asks for, and what is passed on of it and of its answer.
//!
//! Refuses what two programs might read in two ways. Pure.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Version, response};

use crate::config::model::{HeaderEdits, Rewrite};
use crate::outcome::Cause;
use crate::route::{self, headers};

/// What a request asks for, in the one form that is matched and passed on.
#[derive(Debug)]
pub struct Asked<'a> {
    /// As `route::host` gives it; empty if there is none.
    pub host: Cow<'a, str>,
    /// As `route::target` gives it.
    pub path: Cow<'a, str>,
    pub query: Option<&'a str>,
}

/// Reads a request's head, or says why it is refused.
pub fn read(parts: &Parts) -> Result<Asked<'_>, Cause> {
    if parts.method == Method::CONNECT {
        return Err(Cause::MethodNotAllowed);
    }
    check_transfer_coding(parts)?;
    let host = match authority(parts)? {
        Some(host) => route::host::normalise(host).map_err(|_| Cause::BadRequest)?,
        None => Cow::Borrowed(""),
    };
    let path = match parts.uri.path() {
        "*" if parts.method == Method::OPTIONS => Cow::Borrowed("*"),
        path => route::target::normalise(path).map_err(|_| Cause::BadRequest)?,
    };
    Ok(Asked { host, path, query: parts.uri.query() })
}

/// RFC 9112 6.1: a coding that we do not know hides where the body ends.
fn check_transfer_coding(parts: &Parts) -> Result<(), Cause> {
    let known = parts.version == Version::HTTP_11 && is_chunked(&parts.headers);
    match parts.headers.contains_key(header::TRANSFER_ENCODING) && !known {
        true => Err(Cause::BadRequest),
        false => Ok(()),
    }
}

/// One coding, and that is `chunked`.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// Whom the request is for: RFC 9112 3.2 (the target's authority wins over Host, and HTTP/1.1 must
/// have exactly one Host), RFC 9113 8.3.1 (`:authority`, with which a Host must agree).
fn authority(parts: &Parts) -> Result<Option<&str>, Cause> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Cause::BadRequest);
    }
    let host = host.map(HeaderValue::to_str).transpose().map_err(|_| Cause::BadRequest)?;
    match (parts.uri.authority().map(|authority| authority.as_str()), host) {
        (Some(target), Some(host))
            if parts.version == Version::HTTP_2 && !target.eq_ignore_ascii_case(host) =>
        {
            Err(Cause::BadRequest)
        }
        (Some(target), None) if parts.version != Version::HTTP_11 => Ok(Some(target)),
        (Some(target), Some(_)) => Ok(Some(target)),
        (None, Some(host)) => Ok(Some(host)),
        (None, None) if parts.version == Version::HTTP_10 => Ok(None),
        (_, None) => Err(Cause::BadRequest),
    }
}

/// What is told of the client, and what the route says, for a request on its way to a backend.
#[derive(Debug)]
pub struct Rules<'a> {
    pub target: PathAndQuery,
    pub rewrite: &'a Rewrite,
    pub edits: &'a HeaderEdits,
    pub client: Option<&'a HeaderValue>,
    pub trusted: bool,
}

static HTTP: HeaderValue = HeaderValue::from_static("http");
static UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
static TE: HeaderValue = HeaderValue::from_static("te");

/// Turns a request's head into the one that a backend gets; says whether that asks for an upgrade.
pub fn pass_on(parts: &mut Parts, rules: Rules<'_>) -> Result<bool, Cause> {
    let upgrade = upgrade(parts);
    let headers = &mut parts.headers;
    // An absolute target, or HTTP/2: the authority becomes the Host (RFC 9112 3.2.2).
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Cause::BadRequest)?;
        headers.insert(header::HOST, host);
    }
    headers::remove_hop_by_hop(headers);
    // Hyper has asked, or will ask, the client to continue; the backend gets the body at once.
    headers.remove(header::EXPECT);
    headers.remove("http2-settings");
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    let host = headers.get(header::HOST).cloned();
    headers::Forwarded {
        client: rules.client,
        scheme: &HTTP,
        host: host.as_ref(),
        trusted: rules.trusted,
    }
    .apply(headers);
    headers::apply(rules.edits, headers);
    if let Some(host) = &rules.rewrite.host {
        headers.insert(header::HOST, host.clone());
    }
    let upgrades = upgrade.is_some();
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, UPGRADE.clone());
        headers.insert(header::UPGRADE, protocol);
    } else if headers.contains_key(header::TE) {
        headers.insert(header::CONNECTION, TE.clone());
    }
    parts.uri = Uri::from(rules.target);
    parts.version = Version::HTTP_11;
    Ok(upgrades)
}

/// The protocol that an HTTP/1.1 request wants to change to (RFC 9110 7.8). Never to HTTP/2 (h2c):
/// what came after that would pass by routes and limits.
fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    if parts.version != Version::HTTP_11 || !names(&parts.headers, "upgrade") {
        return None;
    }
    let mut wanted = parts.headers.get_all(header::UPGRADE).iter();
    let protocols = wanted.next()?;
    let mut each = protocols.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let h2c = each.any(|protocol| protocol.to_ascii_lowercase().starts_with(b"h2"));
    (wanted.next().is_none() && !h2c).then(|| protocols.clone())
}

/// Whether Connection names `option`.
fn names(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut options = value.as_bytes().split(|&byte| byte == b',');
        options.any(|found| found.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    })
}

/// RFC 9113 8.2.3: crumbs of a Cookie are joined before they go to HTTP/1.1.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How long a backend says that it keeps the connection open; a second is taken off for the way.
pub fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(&KEEP_ALIVE)?.to_str().ok()?;
    let seconds: u64 = value
        .split(',')
        .find_map(|part| part.trim().strip_prefix("timeout="))
        .and_then(|seconds| seconds.trim().parse().ok())?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}

/// How a backend's answer says where its body ends. Hyper has read it so; what is passed on must not
/// say otherwise (RFC 9112 6.3), or a body cut short would look whole. `true`: both framings were
/// there, so the connection is in doubt and not to be used again.
pub fn check_framing(headers: &mut HeaderMap) -> Result<bool, Cause> {
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if coded && !is_chunked(headers) {
        return Err(Cause::Garbage);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (length, more) = (lengths.next(), lengths.next());
    let plain = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    if more.is_some() || length.is_some_and(|value| value.is_empty() || !plain(value)) {
        return Err(Cause::Garbage);
    }
    let both = coded && length.is_some();
    if both {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(both)
}

/// Turns the head of a backend's answer into the one that the client gets.
pub fn pass_back(parts: &mut response::Parts, edits: &HeaderEdits) {
    let upgraded = parts.headers.get(header::UPGRADE).cloned();
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::apply(edits, &mut parts.headers);
    if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
        parts.headers.insert(header::CONNECTION, UPGRADE.clone());
        upgraded.map(|protocol| parts.headers.insert(header::UPGRADE, protocol));
    }
    // Ours, not the backend's; hyper answers a client of HTTP/1.0 in its own.
    parts.version = Version::HTTP_11;
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, target: &str, version: Version, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use Cause::{BadRequest, MethodNotAllowed};
        let (v10, v11, v2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        type Case<'a> = (
            &'a str,
            &'a str,
            Version,
            &'a [(&'a str, &'a str)],
            Result<(&'a str, &'a str), Cause>,
        );
        let table: &[Case<'_>] = &[
            ("GET", "/a/../b", v11, &[("host", "A.example:80")], Ok(("a.example", "/b"))),
            ("GET", "http://b.example/x", v11, &[("host", "a")], Ok(("b.example", "/x"))),
            ("GET", "http://b.example", v11, &[("host", "a")], Ok(("b.example", "/"))),
            ("GET", "/", v10, &[], Ok(("", "/"))),
            ("OPTIONS", "*", v11, &[("host", "a")], Ok(("a", "*"))),
            ("GET", "https://a/x", v2, &[], Ok(("a", "/x"))),
            ("GET", "https://a/x", v2, &[("host", "a")], Ok(("a", "/x"))),
            ("GET", "https://a/x", v2, &[("host", "b")], Err(BadRequest)),
            ("GET", "/", v11, &[], Err(BadRequest)),
            ("GET", "http://a/", v11, &[], Err(BadRequest)),
            ("GET", "/", v11, &[("host", "a"), ("host", "a")], Err(BadRequest)),
            ("GET", "/", v11, &[("host", "a b")], Err(BadRequest)),
            ("GET", "/%00", v11, &[("host", "a")], Err(BadRequest)),
            ("GET", "/a%5cb", v11, &[("host", "a")], Err(BadRequest)),
            ("CONNECT", "a:443", v11, &[("host", "a")], Err(MethodNotAllowed)),
            ("POST", "/", v11, &[("host", "a"), ("transfer-encoding", "Chunked")], Ok(("a", "/"))),
            (
                "POST",
                "/",
                v11,
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
                Err(BadRequest),
            ),
            ("POST", "/", v10, &[("transfer-encoding", "chunked")], Err(BadRequest)),
        ];
        for (method, target, version, headers, expected) in table {
            let parts = parts(method, target, *version, headers);
            let read = read(&parts).map(|asked| (asked.host.into_owned(), asked.path.into_owned()));
            let expected = expected.map(|(host, path)| (host.to_owned(), path.to_owned()));
            assert_eq!(read, expected, "{method} {target} {version:?} {headers:?}");
        }
    }

    #[test]
    fn a_backend_gets_one_host_no_hop_by_hop_fields_and_who_the_client_is() {
        let mut parts = parts(
            "GET",
            "http://b.example/x",
            Version::HTTP_11,
            &[
                ("host", "a.example"),
                ("connection", "Upgrade, x-secret"),
                ("upgrade", "websocket"),
                ("x-secret", "1"),
                ("expect", "100-continue"),
                ("x-forwarded-for", "192.0.2.66"),
            ],
        );
        let client = HeaderValue::from_static("198.51.100.7");
        let rules = Rules {
            target: PathAndQuery::from_static("/y?z"),
            rewrite: &Rewrite::default(),
            edits: &HeaderEdits::default(),
            client: Some(&client),
            trusted: false,
        };
        assert_eq!(pass_on(&mut parts, rules), Ok(true));
        let mut lines: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "connection: upgrade",
                "host: b.example",
                "upgrade: websocket",
                "x-forwarded-for: 198.51.100.7",
                "x-forwarded-host: b.example",
                "x-forwarded-proto: http",
            ]
        );
        assert_eq!(parts.uri, "/y?z");
    }

    #[test]
    fn an_answer_is_framed_in_one_way_or_refused() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<bool, Cause>);
        let cases: [Case<'_>; 8] = [
            (&[], Ok(false)),
            (&[("content-length", "5")], Ok(false)),
            (&[("transfer-encoding", "chunked")], Ok(false)),
            (&[("transfer-encoding", "chunked"), ("content-length", "5")], Ok(true)),
            (&[("transfer-encoding", "gzip")], Err(Cause::Garbage)),
            (&[("transfer-encoding", "gzip, chunked")], Err(Cause::Garbage)),
            (&[("content-length", "5, 5")], Err(Cause::Garbage)),
            (&[("content-length", "5"), ("content-length", "5")], Err(Cause::Garbage)),
        ];
        for (fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(check_framing(&mut headers), expected, "{fields:?}");
            let both =
                headers.contains_key("transfer-encoding") && headers.contains_key("content-length");
            assert!(!both, "{fields:?}");
        }
    }

    #[test]
    fn nobody_upgrades_to_http_2_behind_our_back() {
        for (value, upgraded) in [("websocket", true), ("h2c", false), ("foo, H2C", false)] {
            let fields = [("connection", "upgrade"), ("upgrade", value)];
            let parts = parts("GET", "/", Version::HTTP_11, &fields);
            assert_eq!(upgrade(&parts).is_some(), upgraded, "{value}");
        }
    }

    #[test]
    fn a_backend_says_how_long_it_keeps_a_connection() {
        for (value, expected) in [
            ("timeout=5", Some(4)),
            ("timeout=5, max=100", Some(4)),
            ("max=100, timeout=1", Some(0)),
            ("max=3", None),
            ("timeout=x", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", HeaderValue::from_static(value));
            assert_eq!(keep_alive(&headers), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append("cookie", HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        let all: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }
}
