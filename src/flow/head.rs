//! The heads of messages: what a request asks for, and what is passed on of it and of its answer.
//!
//! Refuses what two programs might read in two ways. Pure. How bodies are framed was settled when the
//! head was read (`forward::http::h1::parse`).

use std::borrow::Cow;

use h2::ext::Protocol;
use http::uri::{self, Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};

use super::cookies;
use crate::config::model::{HeaderEdits, Rewrite};
use crate::forward::buffer::Buffer;
use crate::forward::http::Sink;
use crate::forward::http::h1::write;
use crate::forward::http::head::{Framing, RequestHead, ResponseHead, Special, Version, number};
use crate::forward::http::websocket;
use crate::outcome::Cause;
use crate::pool::BackendAddr;
use crate::pool::sticky::Cookies;
use crate::route::fields::{Known, members};
use crate::route::headers::{self, Connection, Forwarded};
use crate::route::{self, target};
use crate::tls::peer::Peer;

/// What a request asks for, in the one form that is matched and passed on.
#[derive(Debug)]
pub struct Asked<'a> {
    /// As `route::host` gives it; empty if there is none.
    pub host: Cow<'a, str>,
    /// As `route::target` gives it.
    pub path: Cow<'a, str>,
    /// The path as the client wrote it.
    pub written: &'a str,
    pub query: Option<&'a str>,
}

/// For clients of a listener that wants it.
pub const HSTS: &str = "strict-transport-security";

/// Reads a request's head, or says why it is refused.
pub fn read(head: &RequestHead) -> Result<Asked<'_>, Cause> {
    let refused = Cause::BadRequest;
    match head.special {
        Some(Special::OtherScheme) => return Err(refused),
        // RFC 9220 3: of a protocol that is not known.
        Some(Special::OtherProtocol) => return Err(Cause::Unsupported),
        None if head.method == Method::CONNECT => return Err(Cause::MethodNotAllowed),
        // RFC 9110 9.3.6: what follows a CONNECT is the tunnel's.
        Some(Special::WebSocket) if matches!(head.framing, Framing::Length(1..)) => {
            return Err(refused);
        }
        None | Some(Special::WebSocket) => {}
    }
    // RFC 9113 8.2.1. What HTTP/1 would take for padding could be part of a value to somebody else.
    let padded = |value: &[u8]| value.trim_ascii().len() != value.len();
    let http2 = head.version == Version::Http2;
    if http2 && head.fields().iter().any(|field| padded(field.value)) {
        return Err(refused);
    }
    let host = match authority(head)? {
        Some(host) => route::host::normalise(host).map_err(|_| refused)?,
        None => Cow::Borrowed(""),
    };
    // In HTTP/1 the parser has seen to it; of HTTP/2's the first alone was held against the body, and an
    // empty one was taken for 0.
    let mut lengths = head.fields().of(Known::ContentLength);
    let first = lengths.next();
    if lengths.next().is_some() || (http2 && first.is_some_and(|length| number(length).is_none())) {
        return Err(refused);
    }
    let (written, query) = head.split_target();
    let path = match written {
        // RFC 9113 8.3.1: there it begins with a slash, or is the asterisk.
        "" if http2 => return Err(refused),
        "*" if head.method == Method::OPTIONS => Cow::Borrowed("*"),
        // `OPTIONS http://a.example` asks about the server (RFC 9112 3.2.4).
        "" if head.method == Method::OPTIONS && query.is_none() => Cow::Borrowed("*"),
        // `http://a.example?q` asks for the root (RFC 9112 3.2.1).
        "" => Cow::Borrowed("/"),
        path => target::normalise(path).map_err(|_| refused)?,
    };
    match query.is_none_or(target::is_query) {
        true => Ok(Asked { host, path, written, query }),
        false => Err(refused),
    }
}

/// Whom the request is for: RFC 9112 3.2 (the target's authority wins over Host, and HTTP/1.1 must
/// have exactly one Host, a sound one), RFC 9113 8.3.1 (`:authority`, with which a Host must agree).
fn authority(head: &RequestHead) -> Result<Option<&str>, Cause> {
    let refused = Cause::BadRequest;
    let mut hosts = head.fields().of(Known::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(refused);
    }
    let host = host.map(std::str::from_utf8).transpose().map_err(|_| refused)?;
    match (head.authority(), host) {
        (Some(target), Some(host)) if head.version == Version::Http2 => {
            let same = target.eq_ignore_ascii_case(host);
            same.then_some(Some(target)).ok_or(refused)
        }
        (Some(target), Some(host)) => {
            route::host::normalise(host).map(|_| Some(target)).map_err(|_| refused)
        }
        (Some(target), None) if head.version != Version::Http11 => Ok(Some(target)),
        (None, Some(host)) => Ok(Some(host)),
        (None, None) if head.version == Version::Http10 => Ok(None),
        (_, None) => Err(refused),
    }
}

/// The protocol that an HTTP/1.1 request wants to change to (RFC 9110 7.8). Never to HTTP/2 (h2c):
/// what came after that would pass by routes and limits.
pub fn upgrade(head: &RequestHead) -> Option<&[u8]> {
    let mut wanted = head.fields().of(Known::Upgrade);
    let protocols = wanted.next()?;
    let has_upgrades = head.version == Version::Http11 || head.is_websocket();
    let asks = has_upgrades && Connection::of(head.fields()).upgrade;
    let mut each = protocols.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let h2 = |name: &[u8]| name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"h2"));
    (asks && wanted.next().is_none() && !each.any(h2)).then_some(protocols)
}

/// Whether an answer of 101 changes to one of the protocols that were asked for (RFC 9110 7.8). Where the
/// client has not begun the handshake itself, it is for us to see to its end.
pub fn switches_to(head: &RequestHead, answer: &ResponseHead, asked: &[u8]) -> bool {
    let accepted = !head.is_websocket() || websocket::accepts(&head.store, &answer.store);
    accepted
        && answer
            .fields()
            .members_of(Known::Upgrade)
            .any(|protocol| members(asked).any(|asked| asked.eq_ignore_ascii_case(protocol)))
}

/// Whether a change to `asked` is one that HTTP/2 has a form for: WebSocket is the only one (RFC 8441), and
/// only its handshake as RFC 6455 has it can be put into the other form.
pub fn asks_for_websocket(head: &RequestHead, asked: &[u8]) -> bool {
    let bodiless = matches!(head.framing, Framing::None | Framing::Length(0));
    let named = || members(asked).any(|asked| asked.eq_ignore_ascii_case(b"websocket"));
    head.is_websocket()
        || (head.method == Method::GET && bodiless && named() && websocket::is_asked(&head.store))
}

/// What is told of the client, and what the route says, for a request on its way to a backend.
#[derive(Debug)]
pub struct Rules<'a> {
    pub target: &'a str,
    pub rewrite: &'a Rewrite,
    pub edits: &'a HeaderEdits,
    pub client: Option<&'a HeaderValue>,
    /// The client speaks TLS.
    pub secure: bool,
    /// Whom its verified certificate names, if backends are to be told.
    pub peer: Option<&'a Peer>,
    pub trusted: bool,
    /// The cookie that is ours, and not the backend's to see.
    pub sticky: Option<&'a Cookies>,
}

/// Writes the head that a backend of HTTP/1 gets. `upgrade` is as [`upgrade`] gave it.
pub fn pass_on(
    head: &RequestHead,
    rules: &Rules<'_>,
    upgrade: Option<&[u8]>,
    backend: BackendAddr,
    to: &mut Buffer,
) {
    write::request_line(to, head.method.as_str(), rules.target);
    match host(head, rules) {
        Some(host) => write::field(to, b"host", host),
        // A client of HTTP/1.0 may name no host; a server of HTTP/1.1 insists on one.
        None => write::field(to, b"host", backend.to_string().as_bytes()),
    }
    let trailers = fields(head, rules, |name, value| write::field(to, name, value));
    match head.framing {
        Framing::Length(length) => write::content_length(to, length),
        Framing::Chunked => write::chunked(to),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(protocol) = upgrade {
        write::field(to, b"connection", b"upgrade");
        write::field(to, b"upgrade", protocol);
    } else if trailers {
        write::field(to, b"te", b"trailers");
        write::field(to, b"connection", b"te");
    }
    write::end_of_head(to);
}

/// The same for a backend of HTTP/2 (RFC 9113 8.3.1). Refused is what it has no form for. `websocket`: it is
/// the handshake of one, which is a CONNECT there (RFC 8441 5).
pub fn pass_on_h2(
    head: &RequestHead,
    rules: &Rules<'_>,
    backend: BackendAddr,
    scheme: Scheme,
    websocket: bool,
) -> Result<Request<()>, Cause> {
    let refused = Cause::BadRequest;
    let mut uri = uri::Parts::default();
    let authority = match host(head, rules) {
        Some(host) => Authority::try_from(host),
        None => Authority::try_from(backend.to_string()),
    };
    uri.authority = Some(authority.map_err(|_| refused)?);
    uri.path_and_query = Some(PathAndQuery::try_from(rules.target).map_err(|_| refused)?);
    uri.scheme = Some(scheme);
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    if websocket {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| refused)?;
    let headers = request.headers_mut();
    let mut sound = true;
    let mut push = |name: &[u8], value: &[u8]| match (
        HeaderName::from_bytes(name),
        HeaderValue::from_bytes(value),
    ) {
        (Ok(name), Ok(value)) => sound &= headers.try_append(name, value).is_ok(),
        (Err(_), _) | (_, Err(_)) => sound = false,
    };
    let trailers = fields(head, rules, &mut push);
    if trailers {
        push(b"te", b"trailers");
    }
    match head.framing {
        _ if websocket => drop(request.headers_mut().remove(websocket::KEY)),
        Framing::Length(length) => push(b"content-length", length.to_string().as_bytes()),
        Framing::None | Framing::Chunked | Framing::UntilClose => {}
    }
    if sound { Ok(request) } else { Err(refused) }
}

/// Whom the backend is told that the request is for. An absolute target, or HTTP/2: the authority becomes
/// the Host (RFC 9112 3.2.2).
fn host<'a>(head: &'a RequestHead, rules: &'a Rules<'_>) -> Option<&'a [u8]> {
    rules.rewrite.host.as_ref().map(HeaderValue::as_bytes).or_else(|| named(head))
}

fn named(head: &RequestHead) -> Option<&[u8]> {
    head.authority().map(str::as_bytes).or_else(|| head.fields().of(Known::Host).next())
}

/// Writes the fields that a backend gets, but for those that are its protocol's own. True if it is to be
/// told that trailers are taken.
fn fields(head: &RequestHead, rules: &Rules<'_>, mut to: impl FnMut(&[u8], &[u8])) -> bool {
    let (fields, named) = (head.fields(), named(head));
    let scheme: &[u8] = if rules.secure { b"https" } else { b"http" };
    let forwarded = Forwarded { client: rules.client, scheme, host: named, trusted: rules.trusted };
    // A proxy before us may have seen the client's certificate; a client itself has nothing to say.
    let keeps_claims = rules.trusted && rules.peer.is_none();
    let connection = Connection::of(fields);
    let expects = head.version == Version::Http11;
    let edited = !rules.edits.is_empty();
    let is_replaced = |name: &[u8]| edited && headers::is_replaced(rules.edits, name);
    for field in fields.iter() {
        let ours = field.known == Known::Host
            || (field.known == Known::Expect && !expects)
            || connection.ends_here(&field)
            || forwarded.replaces(field.known)
            || (field.known == Known::ClientCert && !keeps_claims);
        if ours || is_replaced(field.name) {
            continue;
        }
        match rules.sticky.filter(|_| field.known == Known::Cookie) {
            None => to(field.name, field.value),
            Some(sticky) => {
                if let Some(value) = cookies::without(field.value, sticky.name()) {
                    to(field.name, &value);
                }
            }
        }
    }
    forwarded.write(fields, |name, value| {
        if !is_replaced(name) {
            to(name, value);
        }
    });
    if let Some(peer) = rules.peer {
        tell_peer(peer, |name, value| {
            if !is_replaced(name) {
                to(name, value);
            }
        });
    }
    for (name, value) in headers::additions(rules.edits) {
        to(name, value);
    }
    headers::takes_trailers(fields) && !is_replaced(b"te")
}

/// What a certificate does not say is left out.
fn tell_peer(peer: &Peer, mut to: impl FnMut(&[u8], &[u8])) {
    let told: [(&[u8], &str); 3] = [
        (b"x-client-cert-subject", &peer.subject),
        (b"x-client-cert-sans", &peer.sans),
        (b"x-client-cert-fingerprint", &peer.fingerprint),
    ];
    for (name, value) in told.iter().filter(|(_, value)| !value.is_empty()) {
        to(name, value.as_bytes());
    }
}

/// Writes the fields of a backend's answer that the client gets; `date` is for one that has none
/// (RFC 9110 6.6.1), and so is `hsts` (RFC 6797 6.1). Framing and Connection are whoever writes them to the client's.
pub fn pass_back(
    head: &ResponseHead,
    edits: &HeaderEdits,
    date: &str,
    hsts: Option<&str>,
    to: Sink<'_>,
) {
    let fields = head.fields();
    let connection = Connection::of(fields);
    let edited = !edits.is_empty();
    let is_replaced = |name: &[u8]| edited && headers::is_replaced(edits, name);
    let mut dated = head.status.is_informational();
    for field in fields.iter() {
        dated |= field.known == Known::Date;
        if !connection.ends_here(&field) && !is_replaced(field.name) {
            to(field.name, field.value);
        }
    }
    for (name, value) in headers::additions(edits) {
        to(name, value);
    }
    if !dated && !is_replaced(b"date") {
        to(b"date", date.as_bytes());
    }
    if let Some(hsts) = hsts
        && !head.status.is_informational()
        && fields.all(HSTS).next().is_none()
    {
        to(HSTS.as_bytes(), hsts.as_bytes());
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        to(b"connection", b"upgrade");
        if let Some(protocol) = fields.of(Known::Upgrade).next() {
            to(b"upgrade", protocol);
        }
    }
}
