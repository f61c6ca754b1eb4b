//! A client's connection, as its requests see it: who it is, on which listener, of which snapshot.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use http::HeaderValue;

use super::entrance::Secure;
use super::origin::Origin;
use super::sessions::Registered;
use super::worker::{Here, Worker};
use crate::config::model::{self, Name};
use crate::forward::session::Session;
use crate::listen::{ClientAddr, Permit};
use crate::pool::Pool;
use crate::route::access;
use crate::tls::sni::Hello;

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    pub worker: Rc<Worker>,
    pub session: Rc<Session>,
    pub name: Name,
    pub addr: ClientAddr,
    /// The client's address as a header's value.
    pub addr_value: Option<HeaderValue>,
    /// `None`: it speaks in clear.
    pub secure: Option<Box<Secure>>,
    /// What backends that want to know are told; `None` where nobody did when it came.
    pub origin: Option<Box<Origin>>,
    /// Its number with backends that take a connection for one client's; 0 as long as it has none.
    owner: Cell<u64>,
    here: RefCell<Here>,
    /// HTTP/2 has several at once.
    in_progress: Cell<usize>,
    _registered: Registered,
    _permit: Permit,
}

impl Client {
    pub fn new(
        worker: Rc<Worker>,
        session: Rc<Session>,
        here: Here,
        (addr, secure, origin): (ClientAddr, Option<Box<Secure>>, Option<Box<Origin>>),
        permit: Permit,
    ) -> Rc<Client> {
        let name = here.listener().config.name.clone();
        Rc::new(Client {
            _registered: worker.sessions.register(&name, &session),
            _permit: permit,
            addr_value: addr.ip().and_then(|ip| HeaderValue::try_from(ip.to_string()).ok()),
            here: RefCell::new(here),
            in_progress: Cell::new(0),
            secure,
            origin,
            owner: Cell::new(0),
            worker,
            session,
            name,
            addr,
        })
    }

    /// The listener in the current snapshot; if a reload removed it, as it was.
    pub fn here(&self) -> Here {
        let view = self.worker.view();
        let mut here = self.here.borrow_mut();
        if !Rc::ptr_eq(&view, &here.view)
            && let Some(now) = self.worker.here(&self.name)
        {
            *here = now;
        }
        here.clone()
    }

    /// The value of Strict-Transport-Security for this client.
    pub fn hsts(&self) -> Option<&str> {
        self.secure.as_ref()?.hsts.as_deref()
    }

    /// A PROXY header for a backend of this pool, if it wants one. `hello`: what the client says of the
    /// TLS that it speaks with the backend.
    pub fn introduction(&self, pool: &model::Pool, hello: Option<&Hello>) -> Option<Vec<u8>> {
        let version = pool.send_proxy_protocol?;
        Some(match &self.origin {
            Some(origin) => origin.introduction(version, hello),
            None => Origin::late(self.addr, &self.here.borrow().listener().config)
                .introduction(version, hello),
        })
    }

    /// Whose connections to this pool's backends it may use: its own where a PROXY header has said that
    /// they are, else anybody's (0).
    pub fn owner(&self, pool: &Pool) -> u64 {
        if pool.config.send_proxy_protocol.is_none() {
            return 0;
        }
        if self.owner.get() == 0 {
            self.owner.set(self.worker.idle.next_owner());
        }
        self.owner.get()
    }

    pub fn is_trusted(&self, here: &Here) -> bool {
        let trusted = &here.listener().config.trusted_proxies;
        !trusted.is_empty() && self.addr.ip().is_some_and(|ip| access::within(trusted, ip))
    }

    pub fn begin_request(&self) {
        self.in_progress.set(self.in_progress.get() + 1);
        self.session.begin();
    }

    /// Called once for each request that began.
    pub fn finish_request(&self) {
        self.in_progress.set(self.in_progress.get() - 1);
        if self.in_progress.get() == 0 {
            self.session.rest(self.here.borrow().listener().config.timeouts.client_idle);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.owner.get() != 0 {
            self.worker.idle.drop_all_for(self.owner.get());
        }
    }
}
