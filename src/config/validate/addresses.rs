//! Where to listen and where backends are: `0.0.0.0:8080`, `unix:/run/web.sock`, `app.internal:80`.
//!
//! Names of backends are kept as they are; nothing is resolved here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::model::{BackendHost, BindAddr};
use crate::config::source::Wrong;

const BIND: &str = "ADDRESS:PORT such as 0.0.0.0:8080 or [::]:8080, or unix:/PATH";
const LISTEN: &str = "ADDRESS:PORT such as 127.0.0.1:9901";
const BACKEND: &str = "ADDRESS:PORT or NAME:PORT, such as 10.0.0.11:8080, [fd00::1]:8080, app:8080";
/// What `sun_path` holds, without the 0 at its end.
const LONGEST_UNIX_PATH: usize = 107;

/// `resolve` makes a relative path absolute.
pub fn bind(text: &str, resolve: impl FnOnce(&str) -> PathBuf) -> Result<BindAddr, Wrong> {
    let Some(path) = text.strip_prefix("unix:") else {
        return socket(text, BIND).map(BindAddr::Tcp);
    };
    if path.is_empty() || path.contains('\0') {
        return Err(Wrong::new("a UNIX socket without a path", BIND));
    }
    let path = resolve(path);
    if path.as_os_str().len() > LONGEST_UNIX_PATH {
        let allowed = format!("at most {LONGEST_UNIX_PATH} bytes, the folder of the file included");
        return Err(Wrong::new("the path of the socket is too long", allowed));
    }
    Ok(BindAddr::Unix(path))
}

pub fn listen(text: &str) -> Result<SocketAddr, Wrong> {
    socket(text, LISTEN)
}

/// Port 0 is allowed: the system chooses a free one.
fn socket(text: &str, allowed: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let wrong = Wrong::new("not an address to listen on", allowed);
    let port = text.trim_start_matches(['*', ':']);
    if port.parse::<u16>().is_ok() {
        return Err(wrong.help(format!("for all of IPv4 write 0.0.0.0:{port}")));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(wrong.help(format!("add the port: {}", SocketAddr::new(address, 8080))));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Err(wrong.help(format!("names are not resolved here: write 127.0.0.1:{port}")));
    }
    if text.starts_with('/') {
        return Err(wrong.help(format!("for a UNIX socket write unix:{text}")));
    }
    Err(wrong)
}

pub fn backend(text: &str) -> Result<BackendHost, Wrong> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(Wrong::new("port 0 is no port of a backend", "1 to 65535")),
            _ => Ok(BackendHost::Addr(address)),
        };
    }
    let wrong = Wrong::new("not the address of a backend", BACKEND);
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err(wrong.help("backends are reached over TCP"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        let port = match scheme {
            _ if rest.contains(':') => "",
            "https" => ":443",
            _ => ":80",
        };
        return Err(wrong.help(format!("no scheme and no path: write {rest}{port}")));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(wrong.help(format!("add the port: {}", SocketAddr::new(address, 8080))));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(wrong.help(format!("add the port: {text}:8080")));
    };
    let port_ok = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let Some(port) = port.parse::<u16>().ok().filter(|port| port_ok && *port > 0) else {
        return Err(Wrong::new("the port is not right", "1 to 65535"));
    };
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(wrong.help(format!("an IPv6 address goes in brackets: [{host}]:{port}")));
    }
    if !is_host_name(host) {
        return Err(wrong);
    }
    Ok(BackendHost::Name { host: host.to_ascii_lowercase(), port })
}

/// Letters, digits, `-` and `_` in labels of 1 to 63, 253 in all; the last label is no number
/// (RFC 1123 2.1, RFC 3696 2), so that a mistyped IPv4 address does not pass for a name.
pub fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = name.rsplit('.').next().unwrap_or("");
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let read = |text: &str| {
            bind(text, |path| PathBuf::from("/etc/e").join(path)).map(|b| b.to_string()).ok()
        };
        for (text, expected) in [
            ("0.0.0.0:8080", Some("0.0.0.0:8080")),
            ("[::]:8080", Some("[::]:8080")),
            ("127.0.0.1:0", Some("127.0.0.1:0")),
            ("unix:/run/e.sock", Some("unix:/run/e.sock")),
            ("unix:e.sock", Some("unix:/etc/e/e.sock")),
            ("unix:", None),
            (":8080", None),
            ("8080", None),
            ("localhost:80", None),
            ("::1:80", None),
            ("0.0.0.0:70000", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
        assert_eq!(read(&format!("unix:/{}", "x".repeat(107))), None);
    }

    #[test]
    fn backends() {
        for (text, expected) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("App.Internal:80", Some("app.internal:80")),
            ("web_1:80", Some("web_1:80")),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("300.0.0.1:80", None),
            ("10.0.0:80", None),
            ("fd00::1:80", None),
            ("http://a:80", None),
            ("a b:80", None),
            ("a:+80", None),
            ("-a:80", None),
            (":80", None),
            ("a:", None),
        ] {
            let read = backend(text).ok().map(|b| b.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }
}
