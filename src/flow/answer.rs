//! The answers that we make ourselves: errors, redirects, fixed responses.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use crate::config::model::{ErrorPage, ErrorPages};
use crate::forward::buffer::Buffer;
use crate::forward::http::Front;
use crate::forward::http::front::Line;
use crate::forward::http::head::Framing;
use crate::outcome::Cause;

/// One of our own, not sent yet.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

static TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The answer to a request that failed of `cause`: the first page for its status, or a short text.
pub fn error<'a>(cause: Cause, pages: impl IntoIterator<Item = &'a ErrorPages>) -> Answer {
    let status = cause.status();
    let page = pages.into_iter().find_map(|pages| pages.0.iter().find(|p| p.status == status));
    let mut answer = match page {
        Some(ErrorPage { body, content_type, .. }) => own(status, body.clone(), content_type),
        None => {
            let reason = status.canonical_reason().unwrap_or("Error");
            let text = format!("{} {reason}: {}\n", status.as_u16(), cause.message());
            own(status, text.into(), &TEXT)
        }
    };
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
            answer.fields.push((header::ALLOW, allowed));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            answer.fields.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        _ => {}
    }
    answer
}

/// The same to a gRPC call: everything that there is to say, in the head.
pub fn grpc_error(cause: Cause) -> Answer {
    let name = HeaderName::from_static;
    // The sentence is of letters, and some of the few signs that need no escape.
    let said = HeaderValue::from_str(cause.message()).unwrap_or(HeaderValue::from_static(""));
    let fields = vec![
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (name("grpc-status"), HeaderValue::from(u16::from(cause.grpc_status()))),
        (name("grpc-message"), said),
    ];
    Answer { status: StatusCode::OK, fields, body: Bytes::new() }
}

/// A fixed answer.
pub fn fixed(status: StatusCode, body: Bytes, headers: &HeaderMap) -> Answer {
    let mut answer = own(status, body, &TEXT);
    answer.fields.retain(|(name, _)| !headers.contains_key(name));
    answer.fields.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    answer
}

/// A redirect.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Answer {
    let reason = status.canonical_reason().unwrap_or("Redirect");
    let mut answer = own(status, format!("{} {reason}\n", status.as_u16()).into(), &TEXT);
    answer.fields.push((header::LOCATION, location));
    answer
}

fn own(status: StatusCode, body: Bytes, content_type: &HeaderValue) -> Answer {
    let kind = (!body.is_empty()).then(|| (header::CONTENT_TYPE, content_type.clone()));
    Answer { status, fields: kind.into_iter().collect(), body }
}

impl Answer {
    /// Says after what time it is worth trying again, in whole seconds, rounded up (RFC 9110 10.2.3).
    pub fn retry_after(mut self, wait: Option<Duration>) -> Answer {
        if let Some(wait) = wait {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            self.fields.retain(|(name, _)| name != header::RETRY_AFTER);
            self.fields.push((header::RETRY_AFTER, HeaderValue::from(seconds.max(1))));
        }
        self
    }

    /// Queues it for the client. `method` is `None` where the request could not be read.
    pub fn queue(
        &self,
        front: &mut Front<'_>,
        method: Option<&Method>,
        close: bool,
        date: &str,
        hsts: Option<&str>,
    ) {
        let length = self.body.len() as u64;
        let bare = self.status.is_informational()
            || self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED;
        let to_head = method == Some(&Method::HEAD);
        let (framing, told_length) = match bare || to_head {
            true => (Framing::None, (!bare).then_some(length)),
            false => (Framing::Length(length), None),
        };
        let reason = self.status.canonical_reason().unwrap_or("").as_bytes();
        let line = Line { status: self.status, reason, framing, told_length };
        let head = front.begin(&line, close, |to| {
            for (name, value) in self.fields.iter().filter(|(name, _)| !is_framing(name)) {
                to(name.as_str().as_bytes(), value.as_bytes());
            }
            to(b"date", date.as_bytes());
            if let Some(hsts) = hsts {
                to(super::head::HSTS.as_bytes(), hsts.as_bytes());
            }
        });
        let mut whole = head.unwrap_or_else(|| Buffer::borrow(front.buffers()));
        if framing != Framing::None {
            whole.extend(&self.body);
        }
        if !whole.is_empty() {
            front.queue(whole);
        }
        front.finish(None);
    }
}

/// What says where a body ends is not the operator's to set.
fn is_framing(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(name)
}
