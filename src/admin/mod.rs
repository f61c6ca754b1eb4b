//! The admin server: plain HTTP for operators and scrapers, on the control thread.
//!
//! `answer` maps a request to its answer, `api` takes operators' orders, `collector` reads the metrics off the current snapshot,
//! `view` writes what is read, `wire` bounds each connection. It reads facts and writes
//! none: what is ordered goes through `health::task::standing`. Small bounds: so many connections at once, five seconds for a request's head.

mod answer;
mod api;
mod certificates;
pub mod collector;
mod families;
mod scrape;
pub mod view;
mod wire;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use api::Ends;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::health::task::standing::Standing;
use crate::lifecycle::status::Status;
use crate::snapshot::Current;
use crate::sys::process;

/// Connections at once; further ones wait in the kernel's queue until one of these ends.
const CONNECTIONS: usize = 64;
/// A request's head, and what hyper keeps of it.
const HEAD_BYTES: usize = 16 * 1024;
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the answers are read from.
#[derive(Debug)]
pub struct Context {
    current: Arc<Current>,
    status: Arc<Status>,
    /// The control thread's time for the last scrape.
    scrape_took: Rc<Cell<Duration>>,
    /// Who carries out operators' orders.
    standing: Rc<Standing>,
}

impl Context {
    pub fn new(current: Arc<Current>, status: Arc<Status>, standing: Rc<Standing>) -> Context {
        Context { current, status, scrape_took: Rc::default(), standing }
    }

    fn scene(&self) -> collector::Scene {
        let (snapshot, status) = (self.current.load_full(), self.status.clone());
        collector::Scene::new(snapshot, status, process::usage(), self.scrape_took.get())
    }
}

/// Serves until it is dropped. Needs a `LocalRuntime` (or a `LocalSet`): connections are local
/// tasks, and go on until that runtime ends.
pub async fn serve(listener: TcpListener, context: Rc<Context>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed, so this is always a place.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin server could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small answers should not wait for an acknowledgement; a failure only means that they do.
        let _ = stream.set_nodelay(true);
        // Without it nobody could be told apart; a socket that was just accepted has one.
        let Ok(local) = stream.local_addr() else { continue };
        let ends = Ends { peer, local };
        let context = context.clone();
        tokio::task::spawn_local(async move {
            connection(stream, ends, &context).await;
            drop(place);
        });
    }
}

async fn connection<S>(stream: S, ends: Ends, context: &Rc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let clock = wire::Clock::new();
    let service = service_fn(|request: Request<Incoming>| {
        clock.head_read();
        async move {
            Ok::<_, Infallible>(match request.uri().path().starts_with(api::PREFIX) {
                true => api::answer(request, ends, context).await,
                false => answer::answer(&request, context),
            })
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        .half_close(true)
        .serve_connection(TokioIo::new(wire::Wire::new(stream, clock.clone())), service);
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an admin connection ended early");
            }
        }
        () = clock.expired() => tracing::debug!("an admin connection timed out"),
    }
}
