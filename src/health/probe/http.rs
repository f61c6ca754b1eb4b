//! The HTTP probe: one HTTP/1.1 request on a connection of its own; status and body are judged.
//!
//! Says `connection: close`, so that the backend closes first and neither side sees a reset.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::search::{Found, Search};
use super::{ANSWER_BYTES, Failure, PARTING, USER_AGENT, part};
use crate::config::model::HttpProbe;
use crate::forward::backend_stream::BackendStream;

/// Passes if the status is among `expect_status` and `expect_body`, where given, in the body.
pub(super) async fn exchange(
    stream: BackendStream,
    target: SocketAddr,
    ask: &HttpProbe,
) -> Result<(), Failure> {
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
fn failure(error: &hyper::Error) -> Failure {
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
