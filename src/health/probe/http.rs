//! The HTTP probe: one request on a connection of its own; status and body are judged.
//!
//! Of HTTP/1.1 unless the pool speaks HTTP/2 alone. Says `connection: close`, so that the backend closes first and neither side sees a reset.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use http::uri::{self, Authority, Scheme, Uri};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::search::{Found, Search};
use super::{ANSWER_BYTES, Failure, PARTING, USER_AGENT, h2, part};
use crate::config::model::HttpProbe;
use crate::forward::backend_stream::BackendStream;

/// Passes if the status is among `expect_status` and `expect_body`, where given, in the body.
pub(super) async fn exchange(
    stream: BackendStream,
    target: SocketAddr,
    ask: &HttpProbe,
    secure: bool,
) -> Result<(), Failure> {
    if ask.http2 {
        let request = request_h2(target, ask, secure);
        let judge = async |mut answer: http::Response<Incoming>| judge(&mut answer, ask).await;
        return h2::exchange(stream, request, judge).await;
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER_BYTES)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| failure(&error))?;
    // Does the reading and the writing; gives the stream back at its end.
    let mut running = Box::pin(connection.without_shutdown());
    let mut judging = Box::pin(async move {
        let answer = sender.send_request(request(target, ask)).await;
        let mut answer = answer.map_err(|error| failure(&error))?;
        let verdict = judge(&mut answer, ask).await;
        Ok((verdict, answer.into_body()))
    });
    let ((verdict, body), ended) = tokio::select! {
        biased;
        judged = &mut judging => (judged?, None),
        // All that will ever come is there.
        ended = &mut running => (judging.await?, Some(ended)),
    };
    tokio::task::spawn_local(async move {
        let ended = match ended {
            Some(ended) => ended,
            None => {
                match timeout(PARTING, async { tokio::join!(read_on(body), running).1 }).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Ok(parts) = ended {
            part(parts.io.into_inner()).await;
        }
    });
    verdict
}

fn request(target: SocketAddr, ask: &HttpProbe) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = ask.method.clone();
    // The path was proved at load; were it not one, the root is asked for.
    *request.uri_mut() = ask.path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    let address = || HeaderValue::try_from(target.to_string()).ok();
    if let Some(host) = ask.host.clone().or_else(address) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    // What is configured replaces what we say, and may come several times.
    for (name, _) in &ask.headers {
        headers.remove(name);
    }
    for (name, value) in &ask.headers {
        headers.append(name, value.clone());
    }
    request
}

/// The same for HTTP/2: the host is the authority, and no connection is spoken of (RFC 9113 8.2.2).
fn request_h2(target: SocketAddr, ask: &HttpProbe, secure: bool) -> Request<Full<Bytes>> {
    let (mut head, _) = request(target, ask).into_parts();
    head.headers.remove(header::CONNECTION);
    let host = head.headers.remove(header::HOST);
    let mut uri = uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    uri.path_and_query = head.uri.into_parts().path_and_query;
    // All three are there, unless the host is none; then the server has something to say.
    head.uri = Uri::from_parts(uri).unwrap_or_default();
    Request::from_parts(head, Full::default())
}

/// Reads of the body what it takes to know.
async fn judge(answer: &mut http::Response<Incoming>, ask: &HttpProbe) -> Result<(), Failure> {
    let status = answer.status().as_u16();
    if !ask.expect_status.iter().any(|range| range.contains(&status)) {
        return Err(Failure::Status(status));
    }
    let Some(wanted) = &ask.expect_body else { return Ok(()) };
    let body = answer.body_mut();
    let mut search = Search::new(wanted.as_bytes());
    let mut found = search.feed(&[]);
    while found == Found::NotYet {
        found = match body.frame().await {
            None => Found::Never,
            Some(Err(error)) => return Err(failure(&error)),
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => search.feed(data),
                // Trailers.
                None => Found::NotYet,
            },
        };
    }
    if found == Found::Yes { Ok(()) } else { Err(Failure::Body) }
}

/// Lets the backend finish, so that it need not see a reset; within reason.
async fn read_on(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER_BYTES {
            return;
        }
    }
}

/// Finds out what is behind an error of hyper's.
pub(super) fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::NotHttp;
    }
    if error.is_incomplete_message() {
        return Failure::Closed;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return failure(error);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Failure::from_io(error);
        }
        source = error.source();
    }
    // The connection ended before the request was on its way; or something came unasked.
    if error.is_canceled() || error.is_closed() { Failure::Closed } else { Failure::NotHttp }
}
