//! `acme`: for which names certificates are ordered, from whom, and where they are kept.

use std::io::ErrorKind;
use std::path::Path as FilePath;

use super::addresses::is_host_name;
use super::cx::Cx;
use super::tls;
use crate::config::defaults;
use crate::config::model::Acme;
use crate::config::path::Path;
use crate::config::problems::did_you_mean;
use crate::config::raw;
use crate::config::source::Wrong;

/// Short names of directories, for whom nearly everybody means.
const DIRECTORIES: [(&str, &str); 2] = [
    ("letsencrypt", defaults::LETSENCRYPT),
    ("letsencrypt-staging", defaults::LETSENCRYPT_STAGING),
];

/// RFC 1035 2.3.4, and what X.509 has room for in a name (RFC 5280 4.2.1.6) is no less.
const DOMAIN: &str = "a DNS name such as example.com, without a port or a star";

/// `None` if something that is needed is wrong; then there are problems.
pub fn acme(cx: &mut Cx<'_>, at: &Path, raw: &raw::Acme) -> Option<Acme> {
    let mut domains: Vec<String> = Vec::new();
    for (at, name) in cx.each(&at.key("domains"), raw.domains.as_ref(), domain) {
        if domains.contains(&name) {
            cx.error(&at, None, Wrong::plain(format!("{name} stands here twice")));
        } else {
            domains.push(name);
        }
    }
    cx.missing(at, "domains", "domains: [example.com, www.example.com]");
    if matches!(&raw.domains, Some(raw::Texts::Many(list)) if list.is_empty()) {
        let wrong = Wrong::plain("an empty list: there is no name to order a certificate for");
        cx.error(&at.key("domains"), None, wrong.help("leave `acme` out, or name the domains"));
    }
    let contact = cx.text(&at.key("contact"), raw.contact.as_ref(), contact);
    let directory = cx.text(&at.key("directory"), raw.directory.as_ref(), directory);
    let state_dir = raw.state_dir.as_ref().map(|text| (text, cx.beside_the_file(text)));
    let state_dir = state_dir.and_then(|(text, path)| {
        cx.text(&at.key("state_dir"), Some(text), |_| folder(&path).map(|()| path.clone()))
    });
    cx.missing(at, "state_dir", "state_dir: /var/lib/evenkeel/acme");
    let ca = raw.ca.as_ref().and_then(|file| tls::authorities(cx, &at.key("ca"), file));
    if domains.is_empty() {
        return None;
    }
    Some(Acme {
        domains,
        contact,
        directory: directory.unwrap_or_else(|| defaults::LETSENCRYPT.to_owned()),
        state_dir: state_dir?,
        ca,
    })
}

fn domain(text: &str) -> Result<String, Wrong> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if name.starts_with("*.") {
        let help = "a wildcard is proved by DNS alone (DNS-01), which is not supported: name each \
                    host, or get the certificate elsewhere and put it into `certificates`";
        return Err(
            Wrong::new("no wildcard can be had by HTTP-01 or TLS-ALPN-01", DOMAIN).help(help)
        );
    }
    if !text.is_ascii() {
        return Err(Wrong::new("not ASCII", DOMAIN).help("write the name as DNS has it: xn--..."));
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        let help = "certificates for addresses are not ordered: name a host";
        return Err(Wrong::new("an address", DOMAIN).help(help));
    }
    // What serves the name `_` in DNS is no host (RFC 1123 2.1): no authority certifies it.
    if !is_host_name(name) || name.contains('_') {
        return Err(Wrong::new("not a name", DOMAIN));
    }
    Ok(name.to_owned())
}

/// RFC 8555 7.3: one address, without header fields.
fn contact(text: &str) -> Result<String, Wrong> {
    const ALLOWED: &str = "one mail address, such as mailto:ops@example.com";
    let help = || text.contains('@').then(|| format!("write \"mailto:{text}\""));
    let Some(address) = text.strip_prefix("mailto:") else {
        return Err(Wrong::new("it does not begin with mailto:", ALLOWED).help_if(help()));
    };
    let plain = |part: &str| {
        let odd = |c: char| !c.is_ascii_graphic() || matches!(c, ',' | '?' | '%' | '<' | '>');
        !part.is_empty() && !part.contains(odd)
    };
    match address.split_once('@') {
        Some((local, host)) if plain(local) && is_host_name(host) => Ok(text.to_owned()),
        _ => Err(Wrong::new("not a mail address", ALLOWED)),
    }
}

fn directory(text: &str) -> Result<String, Wrong> {
    const ALLOWED: &str =
        "letsencrypt, letsencrypt-staging, or the https URL of an ACME server's directory";
    if let Some((_, url)) = DIRECTORIES.iter().find(|(word, _)| *word == text) {
        return Ok((*url).to_owned());
    }
    let wrong = |text: &str| Wrong::new(text, ALLOWED);
    let url = text.parse::<http::Uri>().map_err(|_| wrong("not a URL"))?;
    match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(host)) if !host.as_str().contains('@') => Ok(text.to_owned()),
        (Some("https"), _) => Err(wrong("a URL with a password in it")),
        (Some("http"), _) => {
            let help = "what comes over plain HTTP could be anybody's; a private server's CA can be \
                        named: ca: FILE";
            Err(wrong("not https (RFC 8555, 6.1)").help(help))
        }
        _ => {
            let near = did_you_mean(text, DIRECTORIES.iter().map(|(word, _)| *word));
            let help = near.map(|near| format!("did you mean `{near}`?"));
            Err(wrong("not an https URL").help_if(help))
        }
    }
}

/// A folder, or a place where one can be made; whether we may write there shows at start.
fn folder(path: &FilePath) -> Result<(), Wrong> {
    const ALLOWED: &str = "a folder of its own, which need not be there yet";
    // The first that is there, on the way up.
    for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        match std::fs::metadata(place) {
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => {
                let name = place.file_name().unwrap_or_default().to_string_lossy();
                let text = format!("{name} is not a folder");
                return Err(Wrong::new(text, ALLOWED));
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            // Who runs `check` need not be who serves.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_ordered() {
        for (text, expected) in [
            ("example.com", Some("example.com")),
            ("WWW.Example.COM.", Some("www.example.com")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("*.example.com", None),
            ("bücher.example", None),
            ("10.0.0.1", None),
            ("::1", None),
            ("example.com:443", None),
            ("https://example.com", None),
            ("a_b.example.com", None),
            ("", None),
        ] {
            assert_eq!(domain(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn contacts() {
        for (text, ok) in [
            ("mailto:ops@example.com", true),
            ("ops@example.com", false),
            ("mailto:ops", false),
            ("mailto:a@example.com,b@example.com", false),
            ("mailto:a@example.com?subject=x", false),
            ("mailto:@example.com", false),
            ("https://example.com", false),
        ] {
            assert_eq!(contact(text).is_ok(), ok, "{text}");
        }
        let help = contact("ops@example.com").unwrap_err().help.unwrap();
        assert_eq!(help, "write \"mailto:ops@example.com\"");
    }

    #[test]
    fn directories() {
        for (text, ok) in [
            ("letsencrypt", true),
            ("letsencrypt-staging", true),
            ("https://ca.internal:14000/acme/directory", true),
            ("http://ca.internal/directory", false),
            ("https://me:secret@ca.internal/directory", false),
            ("lets-encrypt", false),
            ("/directory", false),
        ] {
            assert_eq!(directory(text).is_ok(), ok, "{text}");
        }
    }
}
