//! What a connection passes before it is served: the PROXY header, where its peer must send one, and the
//! TLS handshake, where its listener has one.
//!
//! Runs in the connection's own task, under deadlines; the accept loop never waits for it. Who fails here
//! is counted. A stranger's broken handshake is no news, and logged only for who debugs; a balancer of
//! one's own that sends no header, or a broken one, is set up wrongly.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::worker::{Here, Worker};
use crate::acme::challenges;
use crate::config::model::Alpn;
use crate::listen::proxy::{self, Ends, Header, Refused};
use crate::listen::{ClientAddr, ClientStream, Permit};
use crate::outcome::Cause;
use crate::route::access;
use crate::snapshot::Listener;
use crate::timer::{Cutter, Deadline};
use crate::tls::Server;
use crate::tls::peer::Peer;

/// Handshakes that a worker has in progress at the most; each holds some 20 KiB. One more ends the oldest:
/// a client in earnest is done in two round trips, so that the oldest is the one that stalls.
const HANDSHAKES: usize = 2048;

/// A connection that may be served.
#[derive(Debug)]
pub struct Entered {
    pub stream: ClientStream,
    /// The one that the header gives, if there is one.
    pub addr: ClientAddr,
    pub told: Option<Header>,
    pub secure: Option<Box<Secure>>,
}

/// What is known of a client's TLS connection.
#[derive(Debug)]
pub struct Secure {
    /// It has settled for HTTP/2.
    pub h2: bool,
    /// It has settled for HTTP/1.1, or nothing else is spoken here: not even by prior knowledge.
    pub h1_only: bool,
    /// The value of Strict-Transport-Security (RFC 6797 6.1).
    pub hsts: Option<Box<str>>,
    /// Whom its certificate names, where backends are told.
    pub peer: Option<Peer>,
}

/// Whether a connection from there has anything to pass.
pub fn is_barred(here: &Here, peer: ClientAddr) -> bool {
    here.listener().tls.is_some() || must_introduce(here, peer)
}

/// It begins with a PROXY header.
fn must_introduce(here: &Here, peer: ClientAddr) -> bool {
    let Some(peers) = &here.listener().config.accept_proxy_protocol else { return false };
    peer.ip().map_or(peers.unix, |ip| access::within(&peers.networks, ip))
}

/// Whether the client may have one more connection; counts it.
pub fn admit(here: &Here, client: ClientAddr, permit: &mut Permit) -> bool {
    permit.admit(client, here.view.snapshot.config.limits.connections_per_client)
}

/// Done when the connection may be served; `None` if it has ended here.
pub async fn pass(
    worker: &Worker,
    here: &Here,
    mut stream: ClientStream,
    peer: ClientAddr,
    permit: &mut Permit,
) -> Option<Entered> {
    let deadline = Deadline::new(&worker.wheel);
    let told = match must_introduce(here, peer) {
        true => Some(introduction(worker, here, &mut stream, peer, &deadline).await?),
        false => None,
    };
    let addr = match told.as_ref().and_then(|header| header.ends) {
        Some(Ends::Ip { client, .. }) => ClientAddr::Ip(client),
        Some(Ends::Unix) => ClientAddr::Unix,
        None => peer,
    };
    // Before the handshake: it is what costs.
    if !admit(here, addr, permit) {
        return None;
    }
    match secure(worker, here, stream, &deadline).await {
        Ok((stream, secure)) => Some(Entered { stream, addr, told, secure }),
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

/// The PROXY header with which the connection begins.
async fn introduction(
    worker: &Worker,
    here: &Here,
    stream: &mut ClientStream,
    peer: ClientAddr,
    deadline: &Deadline,
) -> Option<Header> {
    let listener = here.listener();
    let within = listener.config.timeouts.proxy_header;
    let read = deadline.within(within, Box::pin(proxy::read(stream))).await;
    let (cause, why) = match read {
        Ok(Ok(header)) => return Some(header),
        // It was somebody who only looked whether we are there.
        Ok(Err(proxy::Failed::Gone)) => return None,
        Ok(Err(proxy::Failed::Refused(why))) => match why {
            Refused::Missing => (Cause::ProxyMissing, Some(why)),
            Refused::Malformed(_) | Refused::TooLong | Refused::Checksum => {
                (Cause::ProxyMalformed, Some(why))
            }
        },
        Err(_) => (Cause::ClientTimeout, None),
    };
    listener.state.cells.of(worker.id).failures[cause.index()].inc();
    let mut limiter = worker.limiter.borrow_mut();
    if let Some(held_back) = limiter.admit(cause.index(), worker.shared.epoch.elapsed()) {
        let late = "its PROXY header did not come in time".to_owned();
        tracing::warn!(
            listener = %listener.config.name,
            %peer,
            why = why.map_or(late, |why| why.to_string()),
            held_back,
            "connection refused"
        );
    }
    None
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
    let accepting = Box::pin(accept(worker, listener, server, stream));
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let accepted = deadline.within(listener.config.timeouts.tls_handshake, accepting).await;
    let stream = accepted.map_err(|_| late()).and_then(|done| done).map_err(Ended::Failed)?;
    let alpn = stream.get_ref().1.alpn_protocol();
    if alpn == Some(challenges::ALPN) {
        return Err(Ended::AsItShould); // such a handshake is the whole conversation (RFC 8737 3)
    }
    let peer = Peer::of(stream.get_ref().1);
    // Two readers verify and read it; who is known to one of them alone is known to nobody.
    if peer.is_none() && stream.get_ref().1.peer_certificates().is_some() {
        return Err(refused(CertificateError::BadEncoding));
    }
    // The session was resumed, and its certificate has run out in the meantime.
    if peer.as_ref().is_some_and(|peer| peer.not_after < SystemTime::now()) {
        return Err(refused(CertificateError::Expired));
    }
    let config = listener.config.tls.as_ref();
    let tells = config.and_then(|tls| tls.client_auth.as_ref()).is_some_and(|auth| auth.headers);
    let hsts = config.and_then(|tls| tls.hsts);
    let h2_offered = config.is_some_and(|tls| tls.alpn.contains(&Alpn::H2));
    let secure = Secure {
        h1_only: alpn == Some(b"http/1.1") || !h2_offered,
        h2: alpn == Some(b"h2") && h2_offered,
        hsts: hsts.map(|age| format!("max-age={}", age.as_secs()).into()),
        peer: peer.filter(|_| tells),
    };
    Ok((ClientStream::Tls(Box::new(stream)), Some(Box::new(secure))))
}

fn refused(why: CertificateError) -> Ended {
    Ended::Failed(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::from(why)))
}

/// Where certificates are ordered, the ACME server may come by the same door, for its challenge.
async fn accept(
    worker: &Worker,
    listener: &Listener,
    server: &Server,
    stream: ClientStream,
) -> io::Result<TlsStream<ClientStream>> {
    let config = server.config.clone();
    if listener.config.acme().is_none() {
        return TlsAcceptor::from(config).accept(stream).await;
    }
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let challenge = worker.shared.challenges.tls(&begun.client_hello());
    begun.into_stream(challenge.unwrap_or(config)).await
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
