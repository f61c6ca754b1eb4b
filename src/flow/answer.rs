//! The answers that we make ourselves: errors, redirects, fixed responses.

use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::record::Ending;
use crate::config::model::{ErrorPage, ErrorPages};
use crate::forward::http::Reply;
use crate::outcome::{Cause, Side};

pub type Answer = Response<Reply<Ending>>;

static TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
static CLOSE: HeaderValue = HeaderValue::from_static("close");
static SECONDS: HeaderValue = HeaderValue::from_static("1");

/// The answer to a request that failed of `cause`: the first page for its status, or a short text.
pub fn error<'a>(cause: Cause, pages: impl IntoIterator<Item = &'a ErrorPages>) -> Answer {
    let status = cause.status();
    let page = pages.into_iter().find_map(|pages| pages.0.iter().find(|p| p.status == status));
    let mut answer = match page {
        Some(ErrorPage { body, content_type, .. }) => own(status, body.clone(), content_type),
        None => {
            let reason = status.canonical_reason().unwrap_or("Error");
            let text = format!("{} {reason}: {}\n", status.as_u16(), cause.message());
            own(status, text, &TEXT)
        }
    };
    let headers = answer.headers_mut();
    match cause {
        Cause::MethodNotAllowed => {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
            headers.insert(header::ALLOW, allowed);
        }
        Cause::NoneServing | Cause::Shortage | Cause::Shutdown => {
            headers.insert(header::RETRY_AFTER, SECONDS.clone());
        }
        _ => {}
    }
    // What else the client sent cannot be trusted, or will not be read.
    if cause.side() == Side::Client {
        headers.insert(header::CONNECTION, CLOSE.clone());
    }
    answer
}

/// A fixed answer.
pub fn fixed(status: StatusCode, body: bytes::Bytes, headers: &HeaderMap) -> Answer {
    let mut answer = own(status, body, &TEXT);
    for name in headers.keys() {
        answer.headers_mut().remove(name);
    }
    for (name, value) in headers {
        answer.headers_mut().append(name, value.clone());
    }
    answer
}

/// A redirect.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Answer {
    let reason = status.canonical_reason().unwrap_or("Redirect");
    let mut answer = own(status, format!("{} {reason}\n", status.as_u16()), &TEXT);
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

fn own(status: StatusCode, body: impl Into<bytes::Bytes>, content_type: &HeaderValue) -> Answer {
    let body = body.into();
    let mut answer = Response::new(Reply::own(body.clone()));
    *answer.status_mut() = status;
    if !body.is_empty() {
        answer.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    answer
}
