//! One request over HTTP/2 on a connection of its own, for the kinds of probes that ask so.
//!
//! Judges nothing. Says goodbye by GOAWAY, and leaves the connection's end to a task of its own.

use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::http::failure;
use super::{ANSWER_BYTES, Failure, PARTING};
use crate::forward::backend_stream::BackendStream;

/// Runs what hyper needs beside the connection on the thread that probes.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, work: F) {
        tokio::task::spawn_local(work);
    }
}

/// Sends the request; what comes of it is for `judge` to say.
pub(super) async fn exchange<T>(
    stream: BackendStream,
    request: Request<Full<Bytes>>,
    judge: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (mut sender, connection) = http2::Builder::new(Here)
        .initial_stream_window_size(ANSWER_BYTES as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure(&error))?;
    let mut running = Box::pin(connection);
    let judged = {
        let mut judging = pin!(async {
            let answer = sender.send_request(request).await;
            judge(answer.map_err(|error| failure(&error))?).await
        });
        tokio::select! {
            biased;
            judged = &mut judging => judged,
            // All that will ever come is there.
            _ = &mut running => return judging.await,
        }
    };
    drop(sender);
    // Late or not, it ends.
    tokio::task::spawn_local(async move { drop(timeout(PARTING, running).await) });
    judged
}
