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
        let name = match memchr::memchr(b':', host.as_bytes()) {
            Some(colon) => {
                check_port(&host[colon + 1..])?;
                &host[..colon]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_spelling() {
        for (host, normal) in [
            ("example.com", "example.com"),
            ("Example.COM", "example.com"),
            ("example.com:80", "example.com"),
            ("example.com:", "example.com"),
            ("example.com:0065535", "example.com"),
            ("example.com.", "example.com"),
            ("EXAMPLE.com.:8080", "example.com"),
            ("a_b-c", "a_b-c"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("[::ffff:192.0.2.1]:", "[::ffff:192.0.2.1]"),
        ] {
            assert_eq!(normalise(host).as_deref(), Ok(normal), "{host}");
        }
    }

    #[test]
    fn lower_case_is_borrowed_even_with_a_port() {
        for host in ["example.com", "example.com:80", "example.com.:80", "[::1]:80"] {
            assert!(matches!(normalise(host), Ok(Cow::Borrowed(_))), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for (host, why) in [
            ("", BadHost::Empty),
            (":80", BadHost::Empty),
            (".", BadHost::Empty),
            ("a..b", BadHost::EmptyLabel),
            (".a", BadHost::EmptyLabel),
            ("a..", BadHost::EmptyLabel),
            ("user@a", BadHost::Character),
            ("user:pass@a", BadHost::Port),
            ("a b", BadHost::Character),
            (" a", BadHost::Character),
            ("a,b", BadHost::Character),
            ("a/b", BadHost::Character),
            ("a%2eb", BadHost::Character),
            ("*.a", BadHost::Character),
            ("b\u{fc}cher.example", BadHost::Character),
            ("a\0", BadHost::Character),
            ("a:65536", BadHost::Port),
            ("a:+80", BadHost::Port),
            ("a:-1", BadHost::Port),
            ("a:80:80", BadHost::Port),
            ("a:http", BadHost::Port),
            ("::1", BadHost::Port),
            ("[::1", BadHost::Literal),
            ("[::1]x", BadHost::Literal),
            ("[::1]x:80", BadHost::Literal),
            ("[]", BadHost::Literal),
            ("[192.0.2.1]", BadHost::Literal),
            ("[fe80::1%25eth0]", BadHost::Literal),
            ("[v1.a]", BadHost::Literal),
            ("[::1]:65536", BadHost::Port),
            ("a]", BadHost::Character),
        ] {
            assert_eq!(normalise(host), Err(why), "{host:?}");
        }
    }
}
