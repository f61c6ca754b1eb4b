//! What a connection passes before it is served: its TLS handshake, where its listener has one.
//!
//! Runs in the connection's own task, under a deadline; the accept loop never waits for it. Who fails here
//! is counted, and logged for who debugs: a stranger's broken handshake is no news.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;

use super::worker::{Here, Worker};
use crate::config::model::Alpn;
use crate::listen::{ClientAddr, ClientStream};
use crate::outcome::Cause;
use crate::timer::{Cutter, Deadline};
use crate::tls::peer::Peer;
use crate::tls::server::ACME_TLS;

/// Handshakes that a worker has in progress at the most; each holds some 20 KiB. One more ends the oldest:
/// a client in earnest is done in two round trips, so that the oldest is the one that stalls.
const HANDSHAKES: usize = 2048;

/// A connection that may be served.
#[derive(Debug)]
pub struct Entered {
    pub stream: ClientStream,
    pub addr: ClientAddr,
    pub secure: Option<Box<Secure>>,
}

/// What is known of a client's TLS connection.
#[derive(Debug)]
pub struct Secure {
    /// It has settled for HTTP/2.
    pub h2: bool,
    /// The value of Strict-Transport-Security (RFC 6797 6.1).
    pub hsts: Option<Box<str>>,
    /// Whom its certificate names, where backends are told.
    pub peer: Option<Peer>,
}

/// Whether connections of this listener have anything to pass.
pub fn is_barred(here: &Here) -> bool {
    here.listener().tls.is_some()
}

/// Done when the connection may be served; `None` if it has ended here.
pub async fn pass(
    worker: &Worker,
    here: &Here,
    stream: ClientStream,
    addr: ClientAddr,
) -> Option<Entered> {
    let deadline = Deadline::new(&worker.wheel);
    match secure(worker, here, stream, &deadline).await {
        Ok((stream, secure)) => Some(Entered { stream, addr, secure }),
        Err(Ended::AsItShould) => None,
        Err(Ended::Failed(error)) => {
            here.listener().state.cells.of(worker.id).failures[Cause::Handshake.index()].inc();
            tracing::debug!(
                listener = %here.listener().config.name,
                client = %addr,
                %error,
                "TLS handshake failed"
            );
            None
        }
    }
}

enum Ended {
    /// There was nothing to serve.
    AsItShould,
    Failed(io::Error),
}

async fn secure(
    worker: &Worker,
    here: &Here,
    stream: ClientStream,
    deadline: &Deadline,
) -> Result<(ClientStream, Option<Box<Secure>>), Ended> {
    let listener = here.listener();
    let Some(server) = &listener.tls else { return Ok((stream, None)) };
    let _in_progress = worker.handshakes.begin(deadline, || {
        worker.shared.status.limits.count_handshakes();
    });
    let accepting = Box::pin(TlsAcceptor::from(server.config.clone()).accept(stream));
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let accepted = deadline.within(listener.config.timeouts.tls_handshake, accepting).await;
    let stream = accepted.map_err(|_| late()).and_then(|done| done).map_err(Ended::Failed)?;
    let alpn = stream.get_ref().1.alpn_protocol();
    if alpn == Some(ACME_TLS) {
        return Err(Ended::AsItShould);
    }
    let peer = Peer::of(stream.get_ref().1);
    // The session was resumed, and its certificate has run out in the meantime.
    if peer.as_ref().is_some_and(|peer| peer.not_after < SystemTime::now()) {
        let error = rustls::Error::from(rustls::CertificateError::Expired);
        return Err(Ended::Failed(io::Error::new(io::ErrorKind::InvalidData, error)));
    }
    let config = listener.config.tls.as_ref();
    let tells = config.and_then(|tls| tls.client_auth.as_ref()).is_some_and(|auth| auth.headers);
    let hsts = config.and_then(|tls| tls.hsts);
    let secure = Secure {
        h2: alpn == Some(b"h2") && config.is_some_and(|tls| tls.alpn.contains(&Alpn::H2)),
        hsts: hsts.map(|age| format!("max-age={}", age.as_secs()).into()),
        peer: peer.filter(|_| tells),
    };
    Ok((ClientStream::Tls(Box::new(stream)), Some(Box::new(secure))))
}

/// A worker's handshakes in progress, the oldest first.
#[derive(Debug, Default)]
pub struct Handshakes {
    next: Cell<u64>,
    in_progress: Rc<RefCell<BTreeMap<u64, Cutter>>>,
}

/// A handshake's place; dropping it makes room.
#[derive(Debug)]
struct Place {
    number: u64,
    in_progress: Rc<RefCell<BTreeMap<u64, Cutter>>>,
}

impl Handshakes {
    /// `full` is told when another has to end for this one.
    fn begin(&self, deadline: &Deadline, full: impl FnOnce()) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        let mut in_progress = self.in_progress.borrow_mut();
        if in_progress.len() >= HANDSHAKES
            && let Some((_, oldest)) = in_progress.pop_first()
        {
            oldest.cut();
            full();
        }
        in_progress.insert(number, deadline.cutter());
        Place { number, in_progress: self.in_progress.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_progress.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::Wheel;

    #[test]
    fn one_too_many_ends_the_oldest() {
        let (wheel, handshakes) = (Wheel::new(), Handshakes::default());
        let deadlines: Vec<_> = (0..=HANDSHAKES).map(|_| Deadline::new(&wheel)).collect();
        let told = Cell::new(0);
        let begin = |deadline| handshakes.begin(deadline, || told.set(told.get() + 1));
        let mut places: Vec<_> = deadlines.iter().map(begin).collect();
        assert_eq!(told.get(), 1);
        assert!(deadlines[0].is_cut() && !deadlines[1].is_cut());
        places.truncate(10);
        assert_eq!(handshakes.in_progress.borrow().len(), 9, "a place is free when it is dropped");
    }
}
