//! Single values of HTTP: methods, statuses, hosts, paths, header names and values.
//!
//! Each function reads one text and says what is wrong with it; none knows where it stands.

use std::ops::RangeInclusive;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::addresses::is_host_name;
use crate::config::model::{HostPattern, PathPattern, ValuePattern};
use crate::config::source::Wrong;
use crate::route::target::{self, BadTarget};

const PATH: &str = "a path such as /v1 or, for all below it too, /v1/*";

pub fn method(text: &str) -> Result<Method, Wrong> {
    const ALLOWED: &str = "a method such as GET, HEAD, POST, PUT, DELETE (case counts)";
    let read = Method::from_bytes(text.as_bytes());
    match read {
        Ok(Method::CONNECT) => Err(Wrong::new("CONNECT is never served", ALLOWED)),
        // Methods are case-sensitive (RFC 9110 9.1); `get` would match nothing.
        Ok(_) if text.bytes().any(|b| b.is_ascii_lowercase()) => {
            Err(Wrong::new("methods are written in capitals", ALLOWED)
                .help(format!("write {}", text.to_ascii_uppercase())))
        }
        Ok(_) if text == "*" => {
            Err(Wrong::new("not a method", ALLOWED).help("leave `method` out to match them all"))
        }
        Ok(method) => Ok(method),
        Err(_) => Err(Wrong::new("not a method", ALLOWED)),
    }
}

/// `200` or `200-299`.
pub fn status_range(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    const ALLOWED: &str = "a status or a range from 100 to 599, such as 200 or 200-299";
    let wrong = || Wrong::new("not a status", ALLOWED);
    let one = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|n| digits && (100..=599).contains(n))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (one(first), one(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => Err(wrong().help(format!("write {last}-{first}"))),
        _ => {
            let class =
                text.strip_suffix("xx").filter(|c| matches!(*c, "1" | "2" | "3" | "4" | "5"));
            Err(wrong().help_if(class.map(|c| format!("write {c}00-{c}99"))))
        }
    }
}

/// A status that an answer of ours may end with.
pub fn final_status(text: &str) -> Result<StatusCode, Wrong> {
    let wrong = || Wrong::new("not a final status", "200 to 599");
    if text.len() != 3 {
        return Err(wrong());
    }
    let status = StatusCode::from_bytes(text.as_bytes()).map_err(|_| wrong())?;
    if (200..=599).contains(&status.as_u16()) { Ok(status) } else { Err(wrong()) }
}

pub fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        Wrong::new("not the name of a header", "letters, digits and -, such as x-request-id")
    })
}

/// RFC 6265 4.1.1: the name of a cookie is a token, as the name of a header is.
pub fn cookie_name(text: &str) -> Result<String, Wrong> {
    let name = header_name(text).map(|_| text.to_owned());
    name.map_err(|_| Wrong::new("not the name of a cookie", "a name such as uid"))
}

pub fn header_value(text: &str) -> Result<HeaderValue, Wrong> {
    HeaderValue::from_str(text).map_err(|_| {
        Wrong::new("not the value of a header", "visible ASCII characters, space and tab")
    })
}

/// `"*"` for any value, or the exact one.
pub fn value_pattern(text: &str) -> Result<ValuePattern, Wrong> {
    match text {
        "*" => Ok(ValuePattern::Present),
        text if text.chars().any(char::is_control) => {
            Err(Wrong::new("a control character can never match", "\"*\" for any value, or a text"))
        }
        text => Ok(ValuePattern::Exact(text.to_owned())),
    }
}

/// A host as a request would name it, with a port or without.
pub fn host_value(text: &str) -> Result<HeaderValue, Wrong> {
    let wrong = || Wrong::new("not a host", "a name or an address, with a port or without");
    let authority = text.parse::<http::uri::Authority>().map_err(|_| wrong())?;
    if authority.as_str().contains('@') || !host_ok(authority.host()) {
        return Err(wrong());
    }
    header_value(text)
}

pub fn host_pattern(text: &str) -> Result<HostPattern, Wrong> {
    const ALLOWED: &str = "a name such as example.com or *.example.com, or an address; no port";
    let wrong = |message: &str| Wrong::new(message, ALLOWED);
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    if host == "*" {
        return Err(wrong("`*` alone is no host").help("leave `host` out to match every host"));
    }
    if !host.is_ascii() {
        return Err(wrong("not ASCII").help("write the name as DNS has it: xn--..."));
    }
    if let Some(rest) = host.strip_prefix("*.") {
        return if is_host_name(rest) {
            Ok(HostPattern::Wildcard(format!(".{rest}")))
        } else {
            Err(wrong("the star stands for one left-most label"))
        };
    }
    if host.contains('*') {
        return Err(wrong("the star stands for one whole, left-most label"));
    }
    if let Some((name, port)) = host.rsplit_once(':')
        && host_ok(name)
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        let help = format!("write {name}: it matches whatever the port");
        return Err(wrong("a host to match has no port").help(help));
    }
    if host_ok(host) { Ok(HostPattern::Exact(host.to_owned())) } else { Err(wrong("not a host")) }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn host_ok(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match v6 {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(host) || host.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

pub fn path_pattern(text: &str) -> Result<PathPattern, Wrong> {
    let wrong = |message: &str| Wrong::new(message, PATH);
    if text == "*" {
        return Err(wrong("a path starts with /").help("write /*, or leave `path` out"));
    }
    let (fixed, prefix) = match text.strip_suffix("/*") {
        Some(fixed) => (fixed, true),
        None => (text, false),
    };
    if fixed.contains('*') {
        let wrong = wrong("`*` may only stand at the end, after a slash");
        return Err(match fixed.strip_suffix('*') {
            Some(stem) if !prefix && !stem.contains('*') && stem.len() > 1 => wrong.help(format!(
                "{stem}/* for what is below {stem}; for every path that begins so, path_regex: ^{stem}"
            )),
            _ => wrong.help("for anything else there is path_regex"),
        });
    }
    if prefix && fixed.is_empty() {
        return Ok(PathPattern::Prefix(String::new()));
    }
    let fixed = path(fixed)?;
    Ok(if prefix { PathPattern::Prefix(fixed) } else { PathPattern::Exact(fixed) })
}

/// A path in the form in which requests are compared; see [`target::normalise`].
pub fn path(text: &str) -> Result<String, Wrong> {
    const ALLOWED: &str = "a path that starts with /, such as /v1";
    let wrong = |message: String| Wrong::new(message, ALLOWED);
    // Requests lose theirs; in a rule they are more likely a slip than a spelling.
    let dots = |segment: &str| {
        matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
    };
    match target::normalise(text) {
        Ok(_) if text.split('/').any(dots) => Err(wrong(
            "a path with the segments . or .. matches nothing: requests come without".into(),
        )),
        Ok(normal) => Ok(normal.into_owned()),
        Err(BadTarget::NotAbsolute) => {
            Err(wrong("a path starts with /".into()).help(format!("write /{text}")))
        }
        Err(BadTarget::Character) if text.contains('?') => {
            Err(wrong("a path has no query; it has a key of its own, `query`".into()))
        }
        Err(BadTarget::Character) => {
            let wrong = wrong(BadTarget::Character.to_string());
            Err(wrong.help("a space, for example, as %20"))
        }
        Err(other) => Err(wrong(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let exact = |s: &str| Some(HostPattern::Exact(s.to_owned()));
        let wild = |s: &str| Some(HostPattern::Wildcard(s.to_owned()));
        for (text, expected) in [
            ("Example.com", exact("example.com")),
            ("example.com.", exact("example.com")),
            ("*.example.com", wild(".example.com")),
            ("10.0.0.1", exact("10.0.0.1")),
            ("[::1]", exact("[::1]")),
            ("example.com:80", None),
            ("*", None),
            ("a.*.com", None),
            ("*a.com", None),
            ("*.*.com", None),
            ("bücher.de", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(host_pattern(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn paths() {
        let exact = |s: &str| Some(PathPattern::Exact(s.to_owned()));
        let prefix = |s: &str| Some(PathPattern::Prefix(s.to_owned()));
        for (text, expected) in [
            ("/", exact("/")),
            ("/*", prefix("")),
            ("/v1/*", prefix("/v1")),
            ("/v1", exact("/v1")),
            ("/%7euser", exact("/~user")),
            ("/a%2fb", exact("/a%2Fb")),
            ("*", None),
            ("v1", None),
            ("/v1*", None),
            ("/*/x", None),
            ("/a/../b", None),
            ("/a/%2e%2e/b", None),
            ("/a?b", None),
            ("/a b", None),
            ("/%zz", None),
            ("/%4", None),
            ("/%00", None),
            ("/é", None),
            ("/%é", None),
        ] {
            assert_eq!(path_pattern(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn statuses_and_methods() {
        assert_eq!(status_range("200-299").ok(), Some(200..=299));
        assert_eq!(status_range("204").ok(), Some(204..=204));
        assert_eq!(status_range("2xx").unwrap_err().help.as_deref(), Some("write 200-299"));
        for text in ["299-200", "99", "600", "200-", "-", "+200", "0200"] {
            assert!(status_range(text).is_err(), "{text}");
        }
        assert_eq!(method("GET").ok(), Some(Method::GET));
        assert_eq!(method("get").unwrap_err().help.as_deref(), Some("write GET"));
        for text in ["CONNECT", "*", "", "A B"] {
            assert!(method(text).is_err(), "{text}");
        }
    }
}
