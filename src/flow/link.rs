//! What an attempt goes over: a connection that rests, room on one that is shared, or a fresh one, and of
//! which protocol that is.
//!
//! Says why there is none; whom that speaks against is not its matter. Nothing of the request is sent here.

use std::rc::Rc;
use std::time::Duration;

use super::attempt::Attempt;
use super::dial::{dial, tell, within};
use crate::config::model::{Protocol, Timeouts};
use crate::forward::backend_stream::{BackendStream, Offer};
use crate::forward::http::exchange::Clocks;
use crate::forward::http::h2::backend::Stream;
use crate::forward::http::h2::connections::{self, SharedConn};
use crate::forward::http::meter::Meter;
use crate::forward::http::{Back, BackendConn};
use crate::outcome::{Cause, Side};
use crate::pool::Lease;
use crate::timer::Elapsed;
use crate::tls::client::Trouble;

impl Attempt<'_> {
    /// A connection that rests since an earlier request, or one that is shared. In HTTP/1.1 a protocol is
    /// changed on a fresh one.
    pub(super) fn kept(&self, lease: &Lease) -> Option<Back> {
        let worker = &self.client.worker;
        let (id, now, careful) = (lease.backend().id, worker.wheel.now(), !self.plan.ask.safe);
        let tls = lease.tls().map(|tls| &tls.config);
        let owner = self.client.owner(lease.picker().pool());
        let alone = || worker.idle.take(id, owner, now, careful, tls).map(Back::H1);
        let shared = || worker.shared_conns.take(id, now, careful, tls).map(Back::H2);
        match lease.picker().pool().config.protocol {
            Protocol::Http1 if self.upgrade.is_some() => None,
            // It may be that only HTTP/1.1 has what was asked for.
            Protocol::Auto if self.upgrade.is_some() => shared().filter(|conn| self.fits(conn)),
            Protocol::Http1 => alone(),
            Protocol::H2 | Protocol::H2c => shared(),
            Protocol::Auto => shared().or_else(alone),
        }
    }

    /// A fresh connection; or room on a shared one that was made meanwhile.
    pub(super) async fn connect(&self, lease: &Lease, clocks: &Clocks) -> Result<Back, Cause> {
        match lease.picker().pool().config.protocol {
            Protocol::Http1 => self.alone(lease, clocks, Offer::Protocol).await,
            Protocol::Auto if self.upgrade.is_some() => self.either(lease, clocks).await,
            Protocol::H2 | Protocol::H2c | Protocol::Auto => self.shared(lease, clocks).await,
        }
    }

    /// For a change of protocol, what the backend has it in: a stream where it takes WebSocket over HTTP/2,
    /// else a fresh connection of HTTP/1.1.
    async fn either(&self, lease: &Lease, clocks: &Clocks) -> Result<Back, Cause> {
        if self.websocket {
            let (worker, id) = (&self.client.worker, lease.backend().id);
            let (now, tls) = (worker.wheel.now(), lease.tls().map(|tls| &tls.config));
            let found = match worker.shared_conns.take(id, now, false, tls) {
                Some(stream) => Back::H2(stream),
                None => self.shared(lease, clocks).await?,
            };
            if self.fits(&found) {
                return Ok(found);
            }
        }
        self.alone(lease, clocks, Offer::Http1).await
    }

    /// Whether the change of protocol that is asked for can be had there.
    fn fits(&self, conn: &Back) -> bool {
        match conn {
            Back::H1(_) => true,
            Back::H2(stream) => self.websocket && stream.takes_tunnels(),
        }
    }

    async fn alone(&self, lease: &Lease, clocks: &Clocks, offer: Offer) -> Result<Back, Cause> {
        let worker = &self.client.worker;
        let introduction = self.client.introduction(&lease.picker().pool().config, None);
        let opening = introduction.as_deref();
        let stream = dial(worker, lease, clocks, &self.plan.timeouts, (opening, offer)).await?;
        Ok(self.own(lease, stream))
    }

    fn own(&self, lease: &Lease, stream: BackendStream) -> Back {
        let owner = self.client.owner(lease.picker().pool());
        let conn = BackendConn::new(stream, lease.shared_backend(), self.client.worker.id, owner);
        Back::H1(Box::new(conn))
    }

    /// Whoever comes while a connection is being made waits for that one.
    async fn shared(&self, lease: &Lease, clocks: &Clocks) -> Result<Back, Cause> {
        let (worker, id) = (&self.client.worker, lease.backend().id);
        let Timeouts { connect, tls_handshake, .. } = self.plan.timeouts;
        let tls = lease.tls().map(|tls| &tls.config);
        let most = if tls.is_some() { connect + tls_handshake } else { connect };
        let making = loop {
            if let Some(making) = worker.shared_conns.make(id) {
                break making;
            }
            let made = worker.shared_conns.made(id);
            let failed = in_time(clocks, within(clocks, most, made).await)?;
            if let Some(stream) = worker.shared_conns.take(id, worker.wheel.now(), false, tls) {
                return Ok(Back::H2(stream));
            }
            // Else they would fail one after the other.
            if let Some(cause) = failed {
                return Err(cause);
            }
        };
        let made = match self.make(lease, clocks, most).await {
            Ok(made) => made,
            Err(cause) => {
                if cause.side() == Side::Backend && !clocks.is_over() {
                    making.failed(cause);
                }
                return Err(cause);
            }
        };
        let conn = match made {
            Made::Shared(conn) => conn,
            Made::Alone(stream) => {
                making.alone();
                return Ok(self.own(lease, stream));
            }
        };
        let pool = &lease.picker().pool().config;
        // With no reuse at all, this is the one request that it carries.
        Ok(Back::H2(match pool.keepalive.max_idle {
            0 => {
                making.alone();
                Stream::new(conn)
            }
            _ => making.done(conn),
        }))
    }

    async fn make(&self, lease: &Lease, clocks: &Clocks, most: Duration) -> Result<Made, Cause> {
        let worker = &self.client.worker;
        // No PROXY header: `validate` has seen to that.
        let dialled = dial(worker, lease, clocks, &self.plan.timeouts, (None, Offer::Protocol));
        let stream = dialled.await?;
        match (lease.picker().pool().config.protocol, stream.alpn()) {
            (Protocol::H2c, _) | (_, Some(b"h2")) => {}
            (Protocol::Auto | Protocol::Http1, _) => return Ok(Made::Alone(stream)),
            // Nothing was sent: the same as a handshake that failed.
            (Protocol::H2, _) => {
                tell(worker, lease, &Trouble::not_http2());
                return Err(Cause::Tls);
            }
        }
        let conn = self.begin(lease, stream);
        Ok(Made::Shared(in_time(clocks, within(clocks, most, conn).await)??))
    }

    async fn begin(&self, lease: &Lease, stream: BackendStream) -> Result<Rc<SharedConn>, Cause> {
        let worker = &self.client.worker;
        let meter = Meter::new(lease.shared_backend(), worker.id);
        let keep = lease.picker().pool().config.keepalive.idle_timeout;
        let tls = lease.tls().map(|tls| tls.config.clone());
        connections::begin(stream, meter, &worker.wheel, keep, tls).await
    }
}

/// What a backend's connection has turned out to be.
enum Made {
    Shared(Rc<SharedConn>),
    /// Of HTTP/1.1.
    Alone(BackendStream),
}

fn in_time<T>(clocks: &Clocks, done: Result<T, Elapsed>) -> Result<T, Cause> {
    done.map_err(|Elapsed| match clocks.step.is_cut() {
        true => Cause::Released,
        false => Cause::ConnectTimeout,
    })
}
