//! The PROXY protocol, versions 1 and 2: whom a connection that a balancer made is really from. (P)
//!
//! A header comes before anything else on a connection; `read` takes it, and nothing beyond it, off a
//! socket. It says whatever its sender likes, so who may send one is for the configuration to say. What
//! is not as the specification has it (HAProxy's doc/proxy-protocol.txt) is refused, never guessed at.

mod crc32c;
pub mod read;
pub mod tlv;
mod v1;
mod v2;

use std::net::SocketAddr;

pub use read::{Failed, read};
pub use tlv::{Kind, Tlvs};

use crate::config::model::ProxyVersion;

/// The longest header that is read, and that is written. HAProxy makes none longer; of version 1 it is
/// 107 bytes (section 2.1).
pub const MOST_BYTES: usize = 16 * 1024;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `None` (LOCAL, UNKNOWN): the connection's own hold. The sender speaks for itself, as it does when
    /// it checks our health, or it does not know them.
    pub ends: Option<Ends>,
    /// Empty where `ends` is `None`.
    pub tlvs: Tlvs,
}

/// The two ends of the connection that the header is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// From the client, to the address where it met the sender.
    Ip { client: SocketAddr, met: SocketAddr },
    /// A UNIX socket of the sender's machine.
    Unix,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header is malformed: {0}")]
    Malformed(&'static str),
    #[error("its PROXY header is longer than any that is read")]
    TooLong,
    #[error("the checksum of its PROXY header is wrong")]
    Checksum,
}

/// How far the bytes of a connection lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of these are a header's, and it has so many at the least, which is more.
    More(usize),
    /// The header, and where it ends.
    Whole(Header, usize),
}

/// Reads what a connection begins with.
pub fn parse(data: &[u8]) -> Result<Step, Refused> {
    let begins = |with: &[u8]| {
        let both = data.len().min(with.len());
        data[..both] == with[..both]
    };
    if data.is_empty() {
        Ok(Step::More(1))
    } else if begins(&v2::SIGNATURE) {
        v2::parse(data)
    } else if begins(v1::SIGNATURE) {
        v1::parse(data)
    } else {
        Err(Refused::Missing)
    }
}

/// Whether a connection begins with a header: `None` as long as that is open.
pub fn is_header(data: &[u8]) -> Option<bool> {
    match parse(data) {
        Err(Refused::Missing) => Some(false),
        _ if data.len() < v1::SIGNATURE.len() => None,
        _ if data[0] == v2::SIGNATURE[0] && data.len() < v2::SIGNATURE.len() => None,
        _ => Some(true),
    }
}

/// A header to send. Without ends it is the one of a sender that speaks for itself.
pub fn write(version: ProxyVersion, header: &Header) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => v1::write(header.ends),
        ProxyVersion::V2 => v2::write(header.ends, &header.tlvs),
    }
}

/// Both addresses in one family, IPv4 if they can be: a header has room for one (sections 2.1, 2.2).
fn alike(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    use std::net::IpAddr::{V4, V6};
    let (from, to) = (a.ip().to_canonical(), b.ip().to_canonical());
    let (from, to) = match (from, to) {
        (V4(from), V6(_)) => (V6(from.to_ipv6_mapped()), to),
        (V6(_), V4(to)) => (from, V6(to.to_ipv6_mapped())),
        same => same,
    };
    (SocketAddr::new(from, a.port()), SocketAddr::new(to, b.port()))
}

#[cfg(test)]
mod tests;
