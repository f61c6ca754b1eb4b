//! Whom backends are told that a client's connection is from, where they want a PROXY header.
//!
//! What the balancer in front of us has told is passed on as it is. Else it is the connection's own two
//! addresses, and what our own TLS has learnt.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::model::{BindAddr, Listener, Mode, ProxyVersion};
use crate::listen::proxy::{self, Ends, Header, Kind, Tlvs};
use crate::listen::{ClientAddr, ClientStream};
use crate::tls::sni::Hello;

#[derive(Debug)]
pub struct Origin {
    header: Header,
    /// The connection began with a PROXY header.
    pub told: bool,
}

impl Origin {
    /// `None` if nothing was told, and nobody is `asked` to be told. ALPN is said only where backends get
    /// what the client speaks: in http mode they get HTTP/1.1, whatever that is.
    pub fn of(
        stream: &ClientStream,
        addr: ClientAddr,
        told: Option<Header>,
        listener: &Listener,
        asked: bool,
    ) -> Option<Box<Origin>> {
        let was_told = told.is_some();
        if !asked && !was_told {
            return None;
        }
        let http = matches!(listener.mode, Mode::Http { .. });
        let told = told.filter(|told| told.ends.is_some()).unwrap_or_default();
        let mut tlvs = Tlvs::default();
        for (kind, value) in told.tlvs.iter().filter(|(kind, _)| is_passed_on(*kind, http)) {
            tlvs.push(kind, value);
        }
        if let ClientStream::Tls(tls) = stream {
            let (_, session) = tls.get_ref();
            let alpn = session.alpn_protocol().filter(|_| !http);
            add(&mut tlvs, session.server_name(), alpn);
        }
        let ends = told.ends.unwrap_or_else(|| own(addr, met(stream, listener)));
        Some(Box::new(Origin { header: Header { ends: Some(ends), tlvs }, told: was_told }))
    }

    /// For a client that came before anybody was to be told of it.
    pub fn late(addr: ClientAddr, listener: &Listener) -> Origin {
        let ends = Some(own(addr, bound(listener)));
        Origin { header: Header { ends, tlvs: Tlvs::default() }, told: false }
    }

    /// The header. `hello`: what the client says of the TLS that it speaks with the backend.
    pub fn introduction(&self, version: ProxyVersion, hello: Option<&Hello>) -> Vec<u8> {
        let Some(hello) = hello else { return proxy::write(version, &self.header) };
        let mut header = self.header.clone();
        // It offers several; which one it will be is for the backend to say.
        let alpn = hello.alpn.first().filter(|_| hello.alpn.len() == 1);
        add(&mut header.tlvs, hello.server_name.as_deref(), alpn.map(Vec::as_slice));
        proxy::write(version, &header)
    }
}

/// What is said already is not said again: who spoke with the client itself knows best.
fn add(tlvs: &mut Tlvs, name: Option<&str>, alpn: Option<&[u8]>) {
    let both = [(Kind::Authority, name.map(str::as_bytes)), (Kind::Alpn, alpn)];
    for (kind, value) in both {
        if let Some(value) = value.filter(|_| tlvs.get(kind).is_none()) {
            tlvs.push(kind as u8, value);
        }
    }
}

/// The others hold for the header that they came in, or for the machine.
fn is_passed_on(kind: u8, http: bool) -> bool {
    let own = [Kind::Crc32c, Kind::Noop, Kind::Netns].map(|kind| kind as u8);
    let alpn = kind == Kind::Alpn as u8;
    !own.contains(&kind) && (!alpn || !http)
}

fn own(addr: ClientAddr, met: SocketAddr) -> Ends {
    match addr {
        ClientAddr::Ip(client) => Ends::Ip { client, met },
        ClientAddr::Unix => Ends::Unix,
    }
}

/// Where the client has met us.
fn met(stream: &ClientStream, listener: &Listener) -> SocketAddr {
    let local = stream.tcp().and_then(|stream| stream.local_addr().ok());
    local.unwrap_or_else(|| bound(listener))
}

fn bound(listener: &Listener) -> SocketAddr {
    let mut bound = listener.bind.iter().filter_map(|bind| match bind {
        BindAddr::Tcp(addr) => Some(*addr),
        BindAddr::Unix(_) => None,
    });
    bound.next().unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
}
