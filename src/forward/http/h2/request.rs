//! A client's request as HTTP/2 brought it, made a head like any other; and what is wrong with a client
//! whose connection had to be ended. Pure.
//!
//! What the h2 crate has refused before (RFC 9113 8.2, 8.3: upper case, fields of a connection, pseudo-fields
//! that are unknown or missing, CR, LF and NUL) does not come here; the rest is `flow::head`'s to judge.

use h2::Reason;
use h2::ext::Protocol;
use http::request::Parts;
use http::{HeaderValue, Method, header};

use crate::forward::http::head::{Framing, Heads, RequestHead, Special, Version};
use crate::forward::http::websocket;
use crate::observe::cells::HTTP2_ERRORS;

/// A request's head as HTTP/1 would have brought it; `ended`: there is no body.
pub fn head(parts: Parts, ended: bool, heads: &Heads) -> RequestHead {
    let mut store = heads.borrow();
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    store.bytes.extend_from_slice(authority.as_bytes());
    let after_authority = store.bytes.len() as u32;
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    store.bytes.extend_from_slice(target.as_bytes());
    let after_target = store.bytes.len() as u32;
    let special = special(&parts);
    let websocket = special == Some(Special::WebSocket);
    if websocket {
        websocket::ask(&mut store);
    }
    for (name, value) in &parts.headers {
        // In HTTP/2 nobody needs a key (RFC 8441 5): the one that there is is ours.
        let key = *name == header::SEC_WEBSOCKET_KEY && websocket;
        if *name != header::COOKIE && !key {
            store.push(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    // RFC 9113 8.2.3: crumbs of a Cookie are joined before they go to HTTP/1.1.
    let crumbs: Vec<_> =
        parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !crumbs.is_empty() {
        store.push(b"cookie", &crumbs.join(&b"; "[..]));
    }
    // The h2 crate has refused a length that is none or that the frames contradict.
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let framing = match length {
        Some(length) => Framing::Length(length),
        // What follows a CONNECT is a tunnel's (RFC 9113 8.5).
        None if ended || parts.method == Method::CONNECT => Framing::None,
        None => Framing::Chunked,
    };
    RequestHead {
        method: if websocket { Method::GET } else { parts.method },
        version: Version::Http2,
        framing,
        keep_alive: true,
        expects_continue: false,
        authority: 0..after_authority,
        target: after_authority..after_target,
        path_len: RequestHead::path_len(target),
        special,
        store,
    }
}

fn special(parts: &Parts) -> Option<Special> {
    let known =
        |scheme: &str| ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    // RFC 9113 8.3.1: other schemes are for proxies to translate, which we do not.
    if parts.uri.scheme_str().is_some_and(|scheme| !known(scheme)) {
        return Some(Special::OtherScheme);
    }
    let protocol = parts.extensions.get::<Protocol>()?;
    match protocol.as_str().eq_ignore_ascii_case("websocket") {
        true => Some(Special::WebSocket),
        false => Some(Special::OtherProtocol),
    }
}

/// Of [`HTTP2_ERRORS`], what a connection was ended for, if that was the client's doing.
pub fn blamed(error: &h2::Error) -> Option<usize> {
    // An end of the connection, or the client's own GOAWAY, is nobody's fault.
    if !error.is_library() {
        return None;
    }
    let label = match error.reason()? {
        Reason::ENHANCE_YOUR_CALM => "enhance_your_calm",
        Reason::PROTOCOL_ERROR => "protocol",
        Reason::FLOW_CONTROL_ERROR => "flow_control",
        Reason::FRAME_SIZE_ERROR => "frame_size",
        Reason::COMPRESSION_ERROR => "compression",
        _ => "other",
    };
    HTTP2_ERRORS.iter().position(|known| *known == label)
}
