//! Normalises the host of a request: the Host field, or the authority of the target.
//!
//! The result is what routes compare and what a backend's Host is made of. Stricter than RFC 3986
//! 3.2.2, whose reg-name may hold `,`, `;` or escapes: no name in use does, and what one proxy takes
//! for a host another may take for two (RFC 9112 3.2). Resolves nothing.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Why a host is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    #[error("the host is empty")]
    Empty,
    /// Anything but letters, digits, `-`, `.` and `_`; user information too.
    #[error("the host holds a character that no host name has")]
    Character,
    #[error("the host has an empty label")]
    EmptyLabel,
    #[error("the host is not an IPv6 address in brackets")]
    Literal,
    #[error("the host's port is not a number up to 65535")]
    Port,
}

/// `host` in lower case, without its port and without one trailing dot; an IPv6 address keeps its
/// brackets. Borrowed if it is in lower case already.
pub fn normalise(host: &str) -> Result<Cow<'_, str>, BadHost> {
    let name = if host.starts_with('[') {
        let end = host.find(']').ok_or(BadHost::Literal)?;
        let (literal, port) = host.split_at(end + 1);
        check_literal(literal)?;
        match port.strip_prefix(':') {
            Some(port) => check_port(port)?,
            None if port.is_empty() => {}
            None => return Err(BadHost::Literal),
        }
        literal
    } else {
        let name = match host.split_once(':') {
            Some((name, port)) => {
                check_port(port)?;
                name
            }
            None => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        check_name(name)?;
        name
    };
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// RFC 3986 3.2.3: digits, or nothing after the colon.
fn check_port(port: &str) -> Result<(), BadHost> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_empty() || digits && port.parse::<u16>().is_ok() {
        return Ok(());
    }
    Err(BadHost::Port)
}

fn check_name(name: &str) -> Result<(), BadHost> {
    if name.is_empty() {
        return Err(BadHost::Empty);
    }
    let mut before = b'.';
    for byte in name.bytes() {
        match byte {
            b'.' if before == b'.' => return Err(BadHost::EmptyLabel),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => before = byte,
            _ => return Err(BadHost::Character),
        }
    }
    if before == b'.' { Err(BadHost::EmptyLabel) } else { Ok(()) }
}

/// RFC 3986 3.2.2, without IPvFuture and without the zone of RFC 6874: neither leaves its host.
fn check_literal(literal: &str) -> Result<(), BadHost> {
    literal
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|address| address.parse::<Ipv6Addr>().ok())
        .map(|_| ())
        .ok_or(BadHost::Literal)
}
