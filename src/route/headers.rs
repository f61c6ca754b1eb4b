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
/// CVE-2024-45410 of Traefik). Envoy refuses such a request; we ignore the name and keep the field,
/// since RFC 9110 7.6.1 already forbids a sender to name it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // One walk over the names is cheaper than a look-up of each: most heads have one of them or none.
    let mut present = [false; HOP_BY_HOP.len()];
    for name in headers.keys() {
        if let Some(place) = HOP_BY_HOP.iter().position(|hop| hop == name) {
            present[place] = true;
        }
    }
    if present[CONNECTION] {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    let trailers = present[TE] && wants_trailers(headers);
    for (name, _) in HOP_BY_HOP.iter().zip(present).filter(|(_, present)| *present) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What never goes further than one hop.
static HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Places in [`HOP_BY_HOP`].
const CONNECTION: usize = 0;
const TE: usize = 1;

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().flat_map(members).any(|member| {
        // A weight may follow; it means nothing with `trailers`.
        let coding = member.split(|&byte| byte == b';').next().unwrap_or(member);
        coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn edits(remove: &[&'static str], set: &[(&'static str, &'static str)]) -> HeaderEdits {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        HeaderEdits {
            remove: remove.iter().map(|name| HeaderName::from_static(name)).collect(),
            set: set.iter().map(field).collect(),
            add: Vec::new(),
        }
    }

    #[test]
    fn edits_come_in_the_order_remove_set_add() {
        let mut headers = map(&[("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-c", "1")]);
        let mut edits = edits(&["x-a", "x-none"], &[("x-a", "set"), ("x-b", "set")]);
        edits.add = vec![(HeaderName::from_static("x-b"), HeaderValue::from_static("added"))];
        apply(&edits, &mut headers);
        assert_eq!(headers, map(&[("x-a", "set"), ("x-b", "set"), ("x-b", "added"), ("x-c", "1")]));
    }

    #[test]
    fn hop_by_hop_fields_go_and_all_others_stay() {
        let mut headers = map(&[
            ("connection", "Keep-Alive, X-Mine"),
            ("connection", "\t, ,x-other,not a name"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
            ("host", "a.example"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-sum"), ("x-kept", "1"), ("host", "a.example")]));
    }

    #[test]
    fn connection_cannot_take_away_what_belongs_to_all() {
        let kept = map(&[
            ("host", "a.example"),
            ("content-length", "3"),
            ("authorization", "Basic eDp5"),
            ("cookie", "a=b"),
            ("cache-control", "no-store"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-anything", "1"),
            ("x-real-ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("trailer", "x-sum"),
        ]);
        let mut headers = kept.clone();
        let names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
        headers.insert("connection", HeaderValue::try_from(names.join(", ")).unwrap());
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, kept);
    }

    #[test]
    fn of_te_only_trailers_stays() {
        for (before, after) in [
            ("trailers", Some("trailers")),
            ("gzip, Trailers", Some("trailers")),
            ("trailers;q=0.5", Some("trailers")),
            ("gzip;q=0.5", None),
            ("trailersx", None),
            ("", None),
        ] {
            let mut headers = map(&[("te", before), ("connection", "TE")]);
            remove_hop_by_hop(&mut headers);
            let found = headers.get("te").map(|value| value.to_str().unwrap());
            assert_eq!((found, headers.len()), (after, after.iter().len()), "{before:?}");
        }
    }

    fn forwarded(trusted: bool, client: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let scheme = HeaderValue::from_static("http");
        let host = HeaderValue::from_static("a.example:8080");
        Forwarded { client, scheme: &scheme, host: Some(&host), trusted }.apply(headers);
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let client = HeaderValue::from_static("192.0.2.9");
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=10.0.0.1"),
            ("x-kept", "1"),
        ]);
        forwarded(false, Some(&client), &mut headers);
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.example:8080"),
            ("x-kept", "1"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn without_an_address_nothing_is_said_of_it() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1")]);
        forwarded(false, None, &mut headers);
        let expected =
            map(&[("x-forwarded-proto", "http"), ("x-forwarded-host", "a.example:8080")]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_extended() {
        let client = HeaderValue::from_static("10.0.0.7");
        let mut headers = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2, 192.0.2.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
        ]);
        forwarded(true, Some(&client), &mut headers);
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-host", "a.example:8080"),
        ]);
        assert_eq!(headers, expected);

        let mut headers = HeaderMap::new();
        forwarded(true, Some(&client), &mut headers);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.7");
    }
}
