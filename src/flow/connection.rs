//! One accepted socket, from accept to close: who may come in, then TCP or HTTP.

use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use tokio::io::AsyncWriteExt;

use super::client::Client;
use super::request::{self, Slot, Upgrade};
use super::worker::{Here, Worker};
use crate::config::model::Timeouts;
use crate::forward::connect::{connect, keep_alive};
use crate::forward::http::Tail;
use crate::forward::http::server::{self, Bounds, Break, Served};
use crate::forward::session::{Phase, Session};
use crate::forward::tcp::{self, End, Way};
use crate::listen::{ClientAddr, ClientStream, Permit};
use crate::observe::cells::attempt_failed;
use crate::outcome::Cause;
use crate::pool::balance::hash::hash_ip;
use crate::pool::pick::{Ask, Tried};
use crate::pool::{Lease, Picker};
use crate::route::access;
use crate::snapshot::Work;
use crate::sys::shortage::is_shortage;
use crate::timer::Deadline;

/// Serves one accepted connection until it ends. `gone`: its listener is; it gets one answer.
pub async fn serve(
    worker: Rc<Worker>,
    here: Here,
    gone: bool,
    stream: ClientStream,
    addr: ClientAddr,
    mut permit: Permit,
) {
    let config = &here.view.snapshot.config;
    if !permit.admit(addr, config.limits.connections_per_client) {
        return;
    }
    let deadline = Deadline::new(&worker.wheel);
    let session = Rc::new(Session::new(deadline, here.listener().state.clone(), worker.id));
    let client = Client::new(worker, session, here.clone(), addr, permit);
    if gone {
        client.session.leave();
    }
    match &here.listener().work {
        Work::Tcp(pool) => {
            let access = &here.listener().config.access;
            if !access::allows(access, addr.ip()) {
                client.session.cells().failures[Cause::Denied.index()].inc();
                return;
            }
            tcp(&client, &here, here.view.picker(*pool), stream).await;
        }
        Work::Http(_) => http(client, here, stream).await,
    }
}

async fn http(client: Rc<Client>, here: Here, mut stream: ClientStream) {
    let Timeouts { client_header, client_idle, stream_idle, .. } = here.listener().config.timeouts;
    let limits = &here.view.snapshot.config.limits;
    let bounds = Bounds {
        head_bytes: limits.request_head_bytes,
        headers: limits.headers,
        client_header,
        client_idle,
        stream_idle,
    };
    drop(here);
    let session = client.session.clone();
    session.rest(client_idle);
    let upgrade = Slot::default();
    let ahead = server::read_preface(&mut stream, &session, client_header);
    let served = match ahead.await {
        Err(why) => Served::Broken(why),
        Ok((false, ahead)) => {
            let service = service_fn(|request| {
                let deadline = client.session.deadline.clone();
                Box::pin(request::serve(client.clone(), deadline, upgrade.clone(), request))
            });
            let upgraded = || upgrade.borrow().is_some();
            server::serve_h1(stream, ahead, &session, &bounds, service, upgraded).await
        }
        Ok((true, ahead)) => {
            let (client, wheel) = (client.clone(), client.worker.wheel.clone());
            let service = move |request, deadline| {
                // HTTP/2 has no 101 (RFC 9113 8.6), so nothing is ever left in this slot.
                request::serve(client.clone(), deadline, Slot::default(), request)
            };
            server::serve_h2(stream, ahead, &session, &bounds, &wheel, service).await
        }
    };
    match served {
        Served::Done => {}
        Served::Broken(why) => account(&client, why),
        Served::Upgraded(stream, ahead) => {
            if let Some(upgrade) = upgrade.take() {
                relay_upgraded(&client, stream, ahead, upgrade).await;
            }
        }
    }
}

/// Counts a connection that broke outside of any request.
fn account(client: &Client, why: Break) {
    let limits = &client.worker.shared.status.limits;
    let cause = match why {
        Break::BadRequest => Cause::BadRequest,
        Break::HeadTooLarge => {
            limits.count_request_head();
            Cause::HeadTooLarge
        }
        Break::Timeout(Phase::Head) => Cause::ClientTimeout,
        // A request in progress keeps its own account; a client at rest may leave.
        Break::Timeout(Phase::Idle | Phase::Busy) | Break::Truncated | Break::Gone => return,
        Break::Cut => Cause::Shutdown,
    };
    client.session.cells().failures[cause.index()].inc();
}

/// After 101 the two ends speak what they like.
async fn relay_upgraded(
    client: &Client,
    mut stream: ClientStream,
    from_client: bytes::Bytes,
    upgrade: Upgrade,
) {
    let Upgrade { conn, ending, idle } = upgrade;
    let session = &client.session;
    let (mut backend, from_backend) = conn.into_socket();
    let early = async {
        backend.write_all(&from_client).await?;
        stream.write_all(&from_backend).await
    };
    if !matches!(session.deadline.within(idle, early).await, Ok(Ok(()))) {
        return ending.dropped();
    }
    match relay(client, &ending.lease, &mut stream, &mut backend, idle).await {
        Some(End::Finished | End::Idle) => ending.whole(None),
        Some(End::BackendReset) => ending.truncated(),
        Some(End::ClientReset) | None => ending.dropped(),
    }
}

/// A TCP stream: pick, connect, relay. A backend that cannot be reached costs the client nothing:
/// every serving one is tried once, within three times `connect`, before a byte of it is read.
async fn tcp(client: &Rc<Client>, here: &Here, picker: &Rc<Picker>, mut stream: ClientStream) {
    let worker = &client.worker;
    let pool = picker.pool();
    let cells = pool.state.cells.of(worker.id);
    let timeouts = here.listener().config.timeouts.overlaid(&pool.config.timeouts);
    let began = Instant::now();
    cells.streams.inc();
    client.session.begin();
    let overall = Deadline::new(&worker.wheel);
    overall.set(timeouts.connect * 3);
    let reached = overall.bound(reach(client, picker, timeouts.connect)).await;
    drop(overall);
    let failed = match reached {
        Ok(Ok((lease, mut backend))) => {
            let end = relay(client, &lease, &mut stream, &mut backend, timeouts.tcp_idle).await;
            let backend_failed = end == Some(End::BackendReset);
            if backend_failed {
                attempt_failed(cells, lease.backend().cells.of(worker.id), Cause::Truncated);
            }
            backend_failed.then_some(Cause::Truncated)
        }
        Ok(Err(cause)) => Some(cause),
        Err(_) => Some(Cause::ConnectTimeout),
    };
    cells.duration.observe(began.elapsed());
    if let Some(cause) = failed {
        client.session.cells().failures[cause.index()].inc();
        let mut limiter = worker.limiter.borrow_mut();
        if let Some(held_back) = limiter.admit(cause.index(), worker.shared.epoch.elapsed()) {
            tracing::warn!(
                listener = %client.name,
                client = %client.addr,
                pool = %pool.config.name,
                cause = cause.label(),
                millis = began.elapsed().as_millis() as u64,
                held_back,
                "stream failed"
            );
        }
    }
}

/// Tries the serving backends one after the other.
async fn reach(
    client: &Client,
    picker: &Rc<Picker>,
    connect_timeout: Duration,
) -> Result<(Lease, tokio::net::TcpStream), Cause> {
    let worker = &client.worker;
    let cells = picker.pool().state.cells.of(worker.id);
    let key = picker.pool().hash_by().map(|_| client.addr.ip().map_or(0, hash_ip));
    let mut tried = Tried::default();
    let mut failed: Option<Cause> = None;
    loop {
        let began = Instant::now();
        let now_nanos = worker.nanos(began);
        let ask = Ask { key, draw: fastrand::u64(..), now_nanos };
        let Some(lease) = picker.pick(ask, &tried) else {
            return Err(failed.unwrap_or_else(|| {
                cells.none_serving.inc();
                Cause::NoneServing
            }));
        };
        if let Some(cause) = failed {
            cells.retries[cause.index()].inc();
        }
        let backend = lease.backend();
        let connecting = connect(backend.addr);
        let cause = match client.session.deadline.within(connect_timeout, connecting).await {
            Ok(Ok(stream)) => {
                keep_alive(&stream);
                cells.connect.observe(began.elapsed());
                backend.cells.of(worker.id).connects.inc();
                lease.observe_latency(began.elapsed().as_nanos() as u64, now_nanos);
                return Ok((lease, stream));
            }
            Ok(Err(error)) if is_shortage(&error) => return Err(Cause::Shortage),
            Ok(Err(_)) => Cause::Connect,
            Err(_) => Cause::ConnectTimeout,
        };
        attempt_failed(cells, backend.cells.of(worker.id), cause);
        tried.add(&lease);
        failed = Some(cause);
    }
}

/// Relays until the stream ends; `None` if it was cut.
async fn relay(
    client: &Client,
    lease: &Lease,
    stream: &mut ClientStream,
    backend: &mut tokio::net::TcpStream,
    idle: Duration,
) -> Option<End> {
    let session = &client.session;
    let cells = lease.backend().cells.of(client.worker.id);
    let ours = session.cells();
    let count = |way, bytes| match way {
        Way::ToBackend => {
            ours.received_bytes.add(bytes);
            cells.sent_bytes.add(bytes);
        }
        Way::ToClient => {
            cells.received_bytes.add(bytes);
            ours.sent_bytes.add(bytes);
        }
    };
    let _open = cells.open.while_held();
    let Worker { buffers, pipes, .. } = &*client.worker;
    let relay = tcp::relay(stream, backend, buffers, pipes, &session.deadline, idle, count);
    session.unless_cut(relay).await
}
