//! What a load balancer changes in a head: a route's edits, hop-by-hop fields, X-Forwarded-*.
//!
//! In this order for a request: [`remove_hop_by_hop`], [`Forwarded::apply`], [`apply`]; so that no
//! client can name what we set in its Connection field, and the operator has the last word.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::model::HeaderEdits;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Removes, sets, adds, in this order.
pub fn apply(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name, value.clone());
    }
}

/// Removes what is meant for one connection only (RFC 9110 7.6.1): Connection and the fields it
/// names, Keep-Alive, Proxy-Connection, TE, Transfer-Encoding and Upgrade. Framing and upgrades are
/// the caller's: it reads them before, and sets its own after. Trailer stays, as trailers do.
///
/// Of TE `trailers` stays: trailers are passed on (RFC 9110 10.1.4), and gRPC servers insist. A caller
/// that speaks HTTP/1.1 onwards owes it a `Connection: te`; HTTP/2 has no such field.
///
/// Connection cannot take away what all recipients need ([`is_end_to_end`]): it was used to strip
/// X-Forwarded-For or credentials behind a proxy that obeys to the letter (CVE-2022-31813 of httpd,
/// CVE-2024-45410 of Traefik). Envoy refuses most of these names too; nginx and HAProxy obey none.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        headers.remove(name);
    }
    let trailers = headers.get_all(header::TE).iter().flat_map(members).any(|member| {
        // A weight may follow; it means nothing with `trailers`.
        let coding = member.split(|&byte| byte == b';').next().unwrap_or(member);
        coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
    });
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(header::TE);
    }
    headers.remove(header::CONNECTION);
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
}

/// The fields that Connection names and may take away. Empty, without an allocation, for the usual
/// `keep-alive`, `close`, `upgrade`.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(members)
        .filter(|name| !SETTLED.iter().any(|settled| name.eq_ignore_ascii_case(settled)))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !is_end_to_end(name))
        .collect()
}

/// Options that name no field, or one that is dealt with anyway.
const SETTLED: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b"te"];

/// Fields that are never one hop's: framing, addressing, credentials, caching, and who the client is.
fn is_end_to_end(name: &HeaderName) -> bool {
    const FIELDS: [HeaderName; 21] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRAILER,
        header::EXPECT,
        header::RANGE,
        header::AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::COOKIE,
        header::SET_COOKIE,
        header::ORIGIN,
        header::CACHE_CONTROL,
        header::DATE,
        header::ETAG,
        header::VARY,
        header::LOCATION,
        header::STRICT_TRANSPORT_SECURITY,
        header::FORWARDED,
        header::VIA,
    ];
    FIELDS.contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str() == "x-real-ip"
}

/// The members of a comma-separated field (RFC 9110 5.6.1); empty ones are left out.
fn members(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let all = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    all.filter(|member| !member.is_empty())
}

/// What backends are told of the client. The values are made once a connection, not once a request.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// Its address, without a port; `None` on a UNIX socket.
    pub client: Option<&'a HeaderValue>,
    /// `http` or `https`.
    pub scheme: &'a HeaderValue,
    /// The host that the client asked for, as it wrote it.
    pub host: Option<&'a HeaderValue>,
    /// The client is one of the listener's `trusted_proxies`.
    pub trusted: bool,
}

impl Forwarded<'_> {
    /// Sets X-Forwarded-For, -Proto and -Host. From a trusted proxy the first is extended and the
    /// others are kept if present. From anyone else all are replaced, and the other X-Forwarded-*
    /// and Forwarded (RFC 7239) are removed: a backend might believe them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let ours = [
            (&X_FORWARDED_FOR, self.client),
            (&X_FORWARDED_PROTO, Some(self.scheme)),
            (&X_FORWARDED_HOST, self.host),
        ];
        if !self.trusted {
            remove_claims(headers);
            for (name, value) in ours {
                if let Some(value) = value {
                    headers.insert(name, value.clone());
                }
            }
            return;
        }
        for (name, value) in ours {
            if let Some(value) = value
                && !headers.contains_key(name)
            {
                headers.insert(name, value.clone());
            } else if name == X_FORWARDED_FOR
                && let Some(client) = value
            {
                extend(headers, name, client);
            }
        }
    }
}

fn remove_claims(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

/// All values of `name` and then `value` on one line: many servers read only the first.
fn extend(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let mut line = Vec::with_capacity(64);
    for old in headers.get_all(name) {
        line.extend_from_slice(old.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(value.as_bytes());
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(line)) {
        Ok(line) => headers.insert(name, line).is_some(),
        // Valid values joined are valid; should that ever be wrong, a line of its own says the same.
        Err(_) => headers.append(name, value.clone()),
    };
}
