//! From a request to its answer: `/metrics`, `/healthz`, `/readyz`, and what is none of them.
//!
//! Reads the snapshot and the status of the moment; does no work but that of the answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::Context;
use super::scrape::Scrape;
use super::view;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// RFC 9110 leaves the parameters' order free; this is what Prometheus itself sends.
const EXPOSITION: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A body that is there, or one that is made as it is sent.
#[derive(Debug)]
pub(super) enum Reply {
    Whole(Full<Bytes>),
    Scrape(Box<Scrape>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Reply::Whole(body) => Pin::new(body).poll_frame(cx),
            Reply::Scrape(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Whole(body) => body.is_end_stream(),
            Reply::Scrape(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Whole(body) => body.size_hint(),
            Reply::Scrape(_) => SizeHint::default(),
        }
    }
}

/// Answers one request. Bodies of requests are refused: nothing here takes one.
pub(super) fn answer<B: Body>(request: &Request<B>, context: &Context) -> Response<Reply> {
    if !request.body().is_end_stream() {
        let mut response = text(StatusCode::PAYLOAD_TOO_LARGE, "no request body is taken here\n");
        // The body is not read, so that nothing can follow it on this connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "try /metrics, /healthz, /readyz or /readyz?verbose\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(request.uri().query().unwrap_or_default(), context),
        _ => metrics(request.method(), context),
    }
}

fn readyz(query: &str, context: &Context) -> Response<Reply> {
    let snapshot = context.current.load();
    let why = view::readiness(&snapshot, *context.status.phase.borrow());
    let status = if why.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
    if verbose {
        text(status, view::verbose(&snapshot, &context.status, SystemTime::now()))
    } else {
        text(status, view::brief(&why))
    }
}

fn metrics(method: &Method, context: &Context) -> Response<Reply> {
    let body = if method == Method::HEAD {
        Reply::Whole(Full::default())
    } else {
        Reply::Scrape(Box::new(Scrape::new(context.scene(), context.scrape_took.clone())))
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, EXPOSITION);
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Full::new(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
