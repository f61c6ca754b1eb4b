//! What a load balancer changes in a head: hop-by-hop fields, X-Forwarded-*, a route's edits.
//!
//! A head is written out field by field, and each field is judged once on its way: nothing is built
//! and then taken apart again. What a client names in its Connection field never touches what we add,
//! and the operator has the last word.

use http::HeaderValue;

use super::fields::{Field, Fields, Known, members};
use crate::config::model::HeaderEdits;

/// What the Connection field says (RFC 9110 7.6.1).
#[derive(Debug, Default)]
pub struct Connection<'a> {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Fields that it takes away: those of one hop that only the two ends know.
    nominated: Vec<&'a [u8]>,
}

impl<'a> Connection<'a> {
    /// No allocation for the usual `keep-alive`, `close`, `upgrade`.
    pub fn of(fields: Fields<'a>) -> Connection<'a> {
        let mut connection = Connection::default();
        // Twice a `for`, and no `members_of`: it is the one list that nearly every head has.
        for value in fields.of(Known::Connection) {
            for option in members(value) {
                match option {
                    _ if option.eq_ignore_ascii_case(b"close") => connection.close = true,
                    _ if option.eq_ignore_ascii_case(b"keep-alive") => connection.keep_alive = true,
                    _ if option.eq_ignore_ascii_case(b"upgrade") => connection.upgrade = true,
                    _ if is_end_to_end(option) => {}
                    _ => connection.nominated.push(option),
                }
            }
        }
        connection
    }

    /// Whether a field is meant for one connection only: Connection and what it names, Keep-Alive,
    /// Proxy-Connection, TE, Transfer-Encoding, Upgrade. Content-Length counts as one here: whoever
    /// writes the head says how its body is framed. Trailer stays, as trailers do.
    pub fn ends_here(&self, field: &Field<'_>) -> bool {
        match field.known {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Te
            | Known::TransferEncoding
            | Known::ContentLength
            | Known::Upgrade
            | Known::Http2Settings => true,
            Known::Trailer
            | Known::Expect
            | Known::Host
            | Known::Cookie
            | Known::Date
            | Known::Forwarded
            | Known::ForwardedFor
            | Known::ForwardedProto
            | Known::ForwardedHost
            | Known::ForwardedOther
            | Known::ClientCert => false,
            Known::Other => {
                !self.nominated.is_empty()
                    && self.nominated.iter().any(|name| name.eq_ignore_ascii_case(field.name))
            }
        }
    }
}

/// Of TE only `trailers` goes on: trailers are passed on (RFC 9110 10.1.4), and gRPC servers insist. A
/// caller that speaks HTTP/1.1 onwards owes it a `Connection: te`; HTTP/2 has no such field.
pub fn takes_trailers(fields: Fields<'_>) -> bool {
    fields.members_of(Known::Te).any(|member| {
        // A weight may follow; it means nothing with `trailers`.
        let coding = member.split(|&byte| byte == b';').next().unwrap_or(member);
        coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// What all recipients need is no one's to take away by naming it in Connection: that was used to strip
/// X-Forwarded-For or credentials behind a proxy that obeys to the letter (CVE-2022-31813 of httpd,
/// CVE-2024-45410 of Traefik). Envoy refuses such a request; we ignore the name and keep the field,
/// since RFC 9110 7.6.1 already forbids a sender to name it.
fn is_end_to_end(name: &[u8]) -> bool {
    const FIELDS: [&str; 20] = [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "content-range",
        "trailer",
        "expect",
        "range",
        "authorization",
        "www-authenticate",
        "cookie",
        "set-cookie",
        "origin",
        "cache-control",
        "etag",
        "vary",
        "location",
        "strict-transport-security",
        "via",
        "x-real-ip",
    ];
    // What `Connection::ends_here` has decided by its kind cannot be named away either.
    Known::of(name) != Known::Other
        || FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

/// Whether a route's edits remove this field, or set it and so replace it.
pub fn is_replaced(edits: &HeaderEdits, name: &[u8]) -> bool {
    let same = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    edits.remove.iter().any(|name| same(name.as_str()))
        || edits.set.iter().any(|(name, _)| same(name.as_str()))
}

/// What a route's edits set and add, in this order.
pub fn additions(edits: &HeaderEdits) -> impl Iterator<Item = (&[u8], &[u8])> {
    let both = edits.set.iter().chain(&edits.add);
    both.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// What backends are told of the client. The values are made once a connection, not once a request.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// Its address, without a port; `None` on a UNIX socket.
    pub client: Option<&'a HeaderValue>,
    /// `http` or `https`.
    pub scheme: &'a [u8],
    /// The host that the client asked for, as it wrote it; `None` if it named none.
    pub host: Option<&'a [u8]>,
    /// The client is one of the listener's `trusted_proxies`.
    pub trusted: bool,
}

impl Forwarded<'_> {
    /// Whether a field is one that [`Forwarded::write`] replaces. Of strangers that is every
    /// X-Forwarded-* and Forwarded (RFC 7239): a backend might believe them. From a trusted proxy only
    /// X-Forwarded-For is written anew, with what it said and the proxy's own address.
    pub fn replaces(&self, known: Known) -> bool {
        match known {
            Known::ForwardedFor => !self.trusted || self.client.is_some(),
            Known::Forwarded
            | Known::ForwardedProto
            | Known::ForwardedHost
            | Known::ForwardedOther => !self.trusted,
            _ => false,
        }
    }

    /// X-Forwarded-For, -Proto and -Host, as far as `fields` may not keep saying them themselves.
    pub fn write(&self, fields: Fields<'_>, mut to: impl FnMut(&[u8], &[u8])) {
        if let Some(client) = self.client {
            match self.trusted.then(|| self.extended(fields, client)).flatten() {
                Some(line) => to(b"x-forwarded-for", &line),
                None => to(b"x-forwarded-for", client.as_bytes()),
            }
        }
        let said = |known| self.trusted && fields.of(known).next().is_some();
        if !said(Known::ForwardedProto) {
            to(b"x-forwarded-proto", self.scheme);
        }
        if let Some(host) = self.host
            && !said(Known::ForwardedHost)
        {
            to(b"x-forwarded-host", host);
        }
    }

    /// All that was said and then the client, on one line: many servers read only the first.
    fn extended(&self, fields: Fields<'_>, client: &HeaderValue) -> Option<Vec<u8>> {
        let mut lines = fields.of(Known::ForwardedFor).peekable();
        lines.peek()?;
        let mut all = Vec::with_capacity(64);
        for line in lines {
            all.extend_from_slice(line);
            all.extend_from_slice(b", ");
        }
        all.extend_from_slice(client.as_bytes());
        Some(all)
    }
}

/// How long a backend says that it keeps a connection at rest open: `Keep-Alive: timeout=5`.
pub fn keep_alive_seconds(fields: Fields<'_>) -> Option<u64> {
    let seconds = fields.of(Known::KeepAlive).flat_map(members).find_map(|part| {
        let (name, value) = part.split_at_checked(b"timeout=".len())?;
        name.eq_ignore_ascii_case(b"timeout=").then(|| value.trim_ascii())
    })?;
    std::str::from_utf8(seconds).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::route::fields::Store;

    fn store(fields: &[(&str, &str)]) -> Store {
        let mut store = Store::default();
        for (name, value) in fields {
            store.push(name.as_bytes(), value.as_bytes());
        }
        store
    }

    fn names(store: &Store) -> Vec<&str> {
        let connection = Connection::of(store.fields());
        let kept = store.fields().iter().filter(|field| !connection.ends_here(field));
        kept.map(|field| std::str::from_utf8(field.name).unwrap()).collect()
    }

    #[test]
    fn edits_remove_and_replace_what_they_name_and_add_the_rest() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edits = HeaderEdits {
            remove: vec![name("x-a")],
            set: vec![(name("x-b"), value("set"))],
            add: vec![(name("x-c"), value("added"))],
        };
        for (field, replaced) in [("X-A", true), ("x-B", true), ("x-c", false), ("x-d", false)] {
            assert_eq!(is_replaced(&edits, field.as_bytes()), replaced, "{field}");
        }
        let added: Vec<_> = additions(&edits).collect();
        assert_eq!(added, [(&b"x-b"[..], &b"set"[..]), (b"x-c", b"added")]);
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_all_others_go_on() {
        let head = store(&[
            ("Connection", "Keep-Alive, X-Mine"),
            ("connection", "\t, ,x-other,not a name"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("X-mine", "1"),
            ("x-other", "1"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
            ("host", "a.example"),
        ]);
        assert_eq!(names(&head), ["trailer", "x-kept", "host"]);
        let connection = Connection::of(head.fields());
        assert!(connection.keep_alive && !connection.close && !connection.upgrade);
    }

    #[test]
    fn connection_cannot_take_away_what_belongs_to_all() {
        let all = "host, authorization, cookie, cache-control, x-forwarded-for, date, \
                   x-forwarded-anything, x-real-ip, forwarded, trailer, via, expect";
        let mut head = store(&[("connection", all)]);
        for name in all.split(", ") {
            head.push(name.as_bytes(), b"1");
        }
        assert_eq!(names(&head), all.split(", ").collect::<Vec<_>>());
    }

    #[test]
    fn of_te_only_trailers_counts() {
        for (value, trailers) in [
            ("trailers", true),
            ("gzip, Trailers", true),
            ("trailers;q=0.5", true),
            ("gzip;q=0.5", false),
            ("trailersx", false),
            ("", false),
        ] {
            assert_eq!(takes_trailers(store(&[("te", value)]).fields()), trailers, "{value:?}");
        }
    }

    /// What a backend reads of the client.
    fn told(trusted: bool, client: Option<&str>, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let head = store(fields);
        let client = client.map(|client| HeaderValue::try_from(client).unwrap());
        let host = Some(&b"a.example:8080"[..]);
        let forwarded = Forwarded { client: client.as_ref(), scheme: b"http", host, trusted };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let kept = head.fields().iter().filter(|field| !forwarded.replaces(field.known));
        let mut all: Vec<_> = kept.map(|field| (text(field.name), text(field.value))).collect();
        forwarded.write(head.fields(), |name, value| all.push((text(name), text(value))));
        all
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    const CLAIMS: [(&str, &str); 6] = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.2, 192.0.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=10.0.0.1"),
        ("x-kept", "1"),
    ];

    #[test]
    fn a_stranger_is_not_believed() {
        let expected = pairs(&[
            ("x-kept", "1"),
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.example:8080"),
        ]);
        assert_eq!(told(false, Some("192.0.2.9"), &CLAIMS), expected);
        // On a UNIX socket there is no address to tell.
        let expected: Vec<_> =
            expected.into_iter().filter(|(n, _)| n != "x-forwarded-for").collect();
        assert_eq!(told(false, None, &CLAIMS), expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_extended() {
        let expected = pairs(&[
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=10.0.0.1"),
            ("x-kept", "1"),
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.7"),
            ("x-forwarded-host", "a.example:8080"),
        ]);
        assert_eq!(told(true, Some("10.0.0.7"), &CLAIMS), expected);
        let first = &told(true, Some("10.0.0.7"), &[])[0];
        assert_eq!((first.0.as_str(), first.1.as_str()), ("x-forwarded-for", "10.0.0.7"));
    }

    #[test]
    fn a_backend_says_how_long_it_keeps_a_connection() {
        for (value, expected) in [
            ("timeout=5", Some(5)),
            ("Timeout=5, max=100", Some(5)),
            ("max=100, timeout=1", Some(1)),
            ("max=3", None),
            ("timeout=x", None),
        ] {
            let head = store(&[("keep-alive", value)]);
            assert_eq!(keep_alive_seconds(head.fields()), expected, "{value}");
        }
    }
}
