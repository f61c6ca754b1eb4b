//! Version 1, a line of text (section 2.1): `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`. (P)

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Ends, Header, Refused, Step, Tlvs, alike};

pub const SIGNATURE: &[u8] = b"PROXY ";

/// With its CRLF (section 2.1).
const MOST_BYTES: usize = 107;

/// `data` begins as such a header does.
pub fn parse(data: &[u8]) -> Result<Step, Refused> {
    let within = &data[..data.len().min(MOST_BYTES)];
    let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
        return match data.len() {
            ..MOST_BYTES => Ok(Step::More(data.len() + 1)),
            _ => Err(Refused::TooLong),
        };
    };
    let line = &within[..end];
    let line = line.strip_suffix(b"\r").ok_or(Refused::Malformed("its line ends without a CR"))?;
    let line = str::from_utf8(line).map_err(|_| Refused::Malformed("it is no text"))?;
    // Shorter than the signature, it ends before it has begun.
    let told = line.strip_prefix("PROXY ").ok_or(Refused::Missing)?;
    Ok(Step::Whole(Header { ends: ends(told)?, tlvs: Tlvs::default() }, end + 1))
}

fn ends(told: &str) -> Result<Option<Ends>, Refused> {
    // Whatever follows is to be ignored.
    if told == "UNKNOWN" || told.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let mut words = told.split(' ');
    let words: [Option<&str>; 6] = std::array::from_fn(|_| words.next());
    let [Some(family), Some(client), Some(met), Some(from), Some(to), None] = words else {
        return Err(Refused::Malformed("it has not the words that it should have"));
    };
    let (client, met) = match family {
        "TCP4" => (address::<Ipv4Addr>(client)?, address::<Ipv4Addr>(met)?),
        "TCP6" => (address::<Ipv6Addr>(client)?, address::<Ipv6Addr>(met)?),
        _ => return Err(Refused::Malformed("its family is none of TCP4, TCP6 and UNKNOWN")),
    };
    let client = SocketAddr::new(client, port(from)?);
    Ok(Some(Ends::Ip { client, met: SocketAddr::new(met, port(to)?) }))
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, Refused> {
    let address: A = text.parse().map_err(|_| Refused::Malformed("no address of its family"))?;
    Ok(address.into())
}

fn port(text: &str) -> Result<u16, Refused> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| plain);
    port.ok_or(Refused::Malformed("a port is no number from 0 to 65535"))
}

pub fn write(ends: Option<Ends>) -> Vec<u8> {
    let line = |family: &str, client: &dyn Display, met: &dyn Display, from, to| {
        format!("PROXY {family} {client} {met} {from} {to}\r\n").into_bytes()
    };
    match ends {
        Some(Ends::Ip { client, met }) => match alike(client, met) {
            (SocketAddr::V4(client), SocketAddr::V4(met)) => {
                line("TCP4", client.ip(), met.ip(), client.port(), met.port())
            }
            (client, met) => line("TCP6", &client.ip(), &met.ip(), client.port(), met.port()),
        },
        Some(Ends::Unix) | None => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}
