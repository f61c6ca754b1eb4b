//! Version 2, in binary (section 2.2): signature, command, family, length, addresses, values. (P)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::crc32c;
use super::{Ends, Header, Kind, MOST_BYTES, Refused, Step, Tlvs, alike};

pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length of the rest.
const FIXED: usize = 16;

/// Version 2 stands in the upper half of the command's byte.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Families, in the upper half of a byte; in the lower, protocols: unspecified, stream, datagram.
const UNSPEC: u8 = 0x0;
const INET: u8 = 0x1;
const INET6: u8 = 0x2;
const UNIX: u8 = 0x3;
const STREAM: u8 = 0x1;
const DATAGRAM: u8 = 0x2;

/// Two paths of 108 bytes.
const UNIX_BYTES: usize = 216;

/// `data` begins as such a header does.
pub fn parse(data: &[u8]) -> Result<Step, Refused> {
    let Some((fixed, rest)) = data.split_first_chunk::<FIXED>() else {
        // What is wrong is said at once, however little more would come.
        if data.get(12).is_some_and(|command| *command != LOCAL && *command != PROXY) {
            return Err(Refused::Malformed("its version or command is unknown"));
        }
        return Ok(Step::More(FIXED));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = FIXED + length;
    if command != LOCAL && command != PROXY {
        return Err(Refused::Malformed("its version or command is unknown"));
    }
    if family >> 4 > UNIX || family & 0xf > DATAGRAM {
        return Err(Refused::Malformed("its family or protocol is unknown"));
    }
    if whole > MOST_BYTES {
        return Err(Refused::TooLong);
    }
    let Some(body) = rest.get(..length) else { return Ok(Step::More(whole)) };
    // "The receiver must ... discard the protocol block including the family" (section 2.2).
    if command == LOCAL {
        return Ok(Step::Whole(Header::default(), whole));
    }
    let (ends, values) = addresses(family, body)?;
    let tlvs = Tlvs::read(values)?;
    check_sum(&tlvs, &data[..whole], whole - values.len())?;
    // Without ends its sender does not know whom it speaks for.
    let tlvs = if ends.is_some() { tlvs } else { Tlvs::default() };
    Ok(Step::Whole(Header { ends, tlvs }, whole))
}

/// The ends, and what comes behind them.
fn addresses(family: u8, body: &[u8]) -> Result<(Option<Ends>, &[u8]), Refused> {
    const SHORT: Refused = Refused::Malformed("its addresses are cut short");
    let ports = |ports: &[u8; 4]| {
        let [a, b, c, d] = *ports;
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    };
    let ip = |client: IpAddr, met: IpAddr, (from, to)| {
        let client = SocketAddr::new(client, from);
        Some(Ends::Ip { client, met: SocketAddr::new(met, to) })
    };
    // A datagram's client is one as well: what came over QUIC may be passed on over TCP.
    if family & 0xf == 0 {
        return Ok((None, &[]));
    }
    match family >> 4 {
        INET => {
            let (client, rest) = body.split_first_chunk::<4>().ok_or(SHORT)?;
            let (met, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
            let (both, rest) = rest.split_first_chunk().ok_or(SHORT)?;
            let (client, met) = (Ipv4Addr::from(*client), Ipv4Addr::from(*met));
            Ok((ip(client.into(), met.into(), ports(both)), rest))
        }
        INET6 => {
            let (client, rest) = body.split_first_chunk::<16>().ok_or(SHORT)?;
            let (met, rest) = rest.split_first_chunk::<16>().ok_or(SHORT)?;
            let (both, rest) = rest.split_first_chunk().ok_or(SHORT)?;
            let (client, met) = (Ipv6Addr::from(*client), Ipv6Addr::from(*met));
            Ok((ip(client.into(), met.into(), ports(both)), rest))
        }
        UNIX => {
            let (_, rest) = body.split_at_checked(UNIX_BYTES).ok_or(SHORT)?;
            Ok((Some(Ends::Unix), rest))
        }
        // How long its addresses would be is not known, so nor is what comes behind them.
        _ => Ok((None, &[])),
    }
}

/// Section 2.2.3: over the whole header, with the sum itself as zeros. The values begin at `values_at`.
fn check_sum(tlvs: &Tlvs, header: &[u8], values_at: usize) -> Result<(), Refused> {
    let mut at = values_at;
    let mut sum = None;
    for (kind, value) in tlvs.iter() {
        if kind == Kind::Crc32c as u8 {
            let value: [u8; 4] =
                value.try_into().map_err(|_| Refused::Malformed("its checksum has not 4 bytes"))?;
            if sum.replace((at + 3, u32::from_be_bytes(value))).is_some() {
                return Err(Refused::Malformed("it has two checksums"));
            }
        }
        at += 3 + value.len();
    }
    let Some((at, said)) = sum else { return Ok(()) };
    let (before, after) = (&header[..at], &header[at + 4..]);
    if crc32c(&[before, &[0; 4], after]) == said { Ok(()) } else { Err(Refused::Checksum) }
}

/// Values that would make it too long are left out.
pub fn write(ends: Option<Ends>, tlvs: &Tlvs) -> Vec<u8> {
    let mut to = SIGNATURE.to_vec();
    let head = |to: &mut Vec<u8>, command, family: u8, protocol: u8| {
        to.extend([command, family << 4 | protocol, 0, 0]);
    };
    match ends {
        None => head(&mut to, LOCAL, UNSPEC, 0),
        Some(Ends::Unix) => {
            head(&mut to, PROXY, UNIX, STREAM);
            to.resize(to.len() + UNIX_BYTES, 0);
        }
        Some(Ends::Ip { client, met }) => {
            let (client, met) = alike(client, met);
            match (client.ip(), met.ip()) {
                (IpAddr::V4(client), IpAddr::V4(met)) => {
                    head(&mut to, PROXY, INET, STREAM);
                    to.extend([client.octets(), met.octets()].as_flattened());
                }
                (client, met) => {
                    head(&mut to, PROXY, INET6, STREAM);
                    to.extend([of_six(client), of_six(met)].as_flattened());
                }
            }
            to.extend(client.port().to_be_bytes());
            to.extend(met.port().to_be_bytes());
        }
    }
    for (kind, value) in tlvs.iter().filter(|_| ends.is_some()) {
        if to.len() + 3 + value.len() <= MOST_BYTES {
            to.push(kind);
            to.extend((value.len() as u16).to_be_bytes());
            to.extend(value);
        }
    }
    let length = (to.len() - FIXED) as u16;
    to[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
    to
}

fn of_six(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}
