//! Names that certificates have and routes have not, and the other way round: each a warning.
//!
//! Reads the proved model; only where a thing stands comes from the text.

use super::cx::Cx;
use crate::config::model::{
    Action, BindAddr, Config, HostPattern, Listener, ListenerTls, Mode, Route,
};
use crate::config::path::Path;
use crate::config::source::Wrong;

/// Of many names the first few say enough.
const SHOWN: usize = 5;

pub fn check(cx: &mut Cx<'_>, config: &Config) {
    for listener in &config.listeners {
        if let (Mode::Http { routes }, Some(tls)) = (&listener.mode, &listener.tls) {
            let at = Path::root().key("listeners").key(listener.name.as_str());
            unrouted(cx, &at, tls, routes);
            uncovered(cx, &at, listener, tls, routes);
            circular(cx, &at, listener, routes);
        }
    }
}

/// Names of certificates for which there is no route: their clients get 404.
fn unrouted(cx: &mut Cx<'_>, at: &Path, tls: &ListenerTls, routes: &[Route]) {
    // A route for every host is a route for every name.
    if routes.iter().any(|route| route.matches.host.is_empty()) {
        return;
    }
    for (i, certificate) in tls.certificates.iter().enumerate() {
        let hosts = || routes.iter().flat_map(|route| &route.matches.host);
        let unused = |name: &&HostPattern| !hosts().any(|host| meet(host, name));
        let names: Vec<String> =
            certificate.names.iter().filter(unused).map(ToString::to_string).collect();
        if !names.is_empty() {
            let at = at.key("tls");
            let (at, of) = match i < tls.named {
                true => (at.key("certificates").index(i).key("cert"), String::new()),
                false => {
                    let file = certificate.cert.file_name().unwrap_or_default();
                    (at.key("certificate_dir"), format!("{}: ", file.to_string_lossy()))
                }
            };
            let text = format!("{of}no route has the name {}", list(&names));
            let help = "add a route for it, or one without `host` for everything else";
            cx.warn(&at, Wrong::plain(text).help(help));
        }
    }
}

/// Redirects to https of clients that come by it: they would go round in a circle.
fn circular(cx: &mut Cx<'_>, at: &Path, listener: &Listener, routes: &[Route]) {
    for (i, route) in routes.iter().enumerate() {
        let Action::RedirectHttps { port, .. } = route.action else { continue };
        let here = |bind: &BindAddr| matches!(bind, BindAddr::Tcp(addr) if addr.port() == port);
        if port == 443 || listener.bind.iter().any(here) {
            let text = "clients of this listener speak https already: it sends them back to itself";
            let help = "redirect on the listener without `tls`, on port 80";
            let at = at.key("routes").index(i).key("redirect");
            cx.warn(&at, Wrong::plain(text).help(help));
        }
    }
}

/// Hosts of routes that no certificate covers: their clients see a warning of their browser.
fn uncovered(cx: &mut Cx<'_>, at: &Path, listener: &Listener, tls: &ListenerTls, routes: &[Route]) {
    let domains = tls.acme.iter().flat_map(|acme| &acme.domains);
    let domains: Vec<HostPattern> = domains.cloned().map(HostPattern::Exact).collect();
    let names = || tls.certificates.iter().flat_map(|c| &c.names).chain(&domains);
    for (i, route) in routes.iter().enumerate() {
        // Clients send no name for an address (RFC 6066 3).
        let hosts = route.matches.host.iter().filter(|host| !is_address(host));
        let bare: Vec<String> = hosts
            .filter(|host| !names().any(|name| meet(host, name)))
            .map(ToString::to_string)
            .collect();
        if !bare.is_empty() {
            let at = at.key("routes").index(i).key("match").key("host");
            let text = format!("no certificate of {} covers {}", listener.name, list(&bare));
            let help = match tls.strict_sni {
                true => "its clients are refused, by strict_sni; add a certificate for it",
                false => "its clients get the first certificate; add one for it",
            };
            cx.warn(&at, Wrong::plain(text).help(help));
        }
    }
}

/// Whether some name is meant by both.
fn meet(a: &HostPattern, b: &HostPattern) -> bool {
    match (a, b) {
        (HostPattern::Wildcard(suffix), HostPattern::Exact(name))
        | (HostPattern::Exact(name), HostPattern::Wildcard(suffix)) => {
            name.find('.').is_some_and(|dot| name[dot..] == **suffix)
        }
        (a, b) => a == b,
    }
}

fn is_address(host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => {
            host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
        }
        HostPattern::Wildcard(_) => false,
    }
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_patterns_meet_where_one_name_fits_both() {
        let exact = |text: &str| HostPattern::Exact(text.into());
        let wild = |text: &str| HostPattern::Wildcard(text.into());
        for (a, b, expected) in [
            (exact("a.example"), exact("a.example"), true),
            (exact("a.example"), exact("b.example"), false),
            (exact("a.example"), wild(".example"), true),
            (exact("b.a.example"), wild(".example"), false),
            (exact("example"), wild(".example"), false),
            (wild(".example"), wild(".example"), true),
            (wild(".example"), wild(".test"), false),
        ] {
            assert_eq!(meet(&a, &b), expected, "{a} {b}");
            assert_eq!(meet(&b, &a), expected, "{b} {a}");
        }
    }
}
