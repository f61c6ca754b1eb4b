//! TLS with clients: which certificates, for whom, and what clients have to prove.
//!
//! The files are read here, by `tls::certificates`; one that cannot be used is an error, unless the
//! configuration in force has something good of the same file: then that stays, with a warning.

use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, SystemTime};

use super::acme;
use super::cx::Cx;
use super::words::{flag, or_off, positive_duration, word};
use crate::config::model::{
    Alpn, Bundle, Certificate, ClientAuth, ListenerTls, TicketKeys, TlsVersion,
};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::tls::certificates::{self, CertificateError, Fault};
use crate::tls::expiry::{self, Stage};

const MODES: [(&str, bool); 2] = [("required", true), ("optional", false)];
const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
const PROTOCOLS: [(&str, Alpn); 2] = [("h2", Alpn::H2), ("http/1.1", Alpn::Http1)];

/// Both have no use for what only HTTP has: ALPN, HSTS, headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Http,
    Tcp,
}

/// `None` if no certificate could be had; then that was reported.
pub fn listener(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: raw::ListenerTls,
    carries: Carries,
) -> Option<ListenerTls> {
    let mut certificates = named(cx, &at.key("certificates"), raw.certificates.as_deref());
    let count = certificates.len();
    let dir = raw.certificate_dir.as_ref();
    let certificate_dir = dir.map(|dir| cx.beside_the_file(dir));
    if let Some(dir) = &certificate_dir {
        let found = folder(cx, &at.key("certificate_dir"), dir, &certificates);
        certificates.extend(found);
    }
    let acme = raw.acme.as_ref().and_then(|raw| acme::acme(cx, &at.key("acme"), raw));
    if raw.certificates.is_none() && certificate_dir.is_none() && raw.acme.is_none() {
        let wrong =
            Wrong::plain("neither `certificates` nor `certificate_dir` nor `acme` is there");
        let help = "for example: certificates: [{cert: certs/example.pem, key: certs/example.key}]";
        cx.error(at, None, wrong.help(help));
    }
    let strict_sni = cx.text(&at.key("strict_sni"), raw.strict_sni.as_ref(), flag);
    let min_version = cx.text(&at.key("min_version"), raw.min_version.as_ref(), version);
    let auth = raw.client_auth.map(|raw| client_auth(cx, &at.key("client_auth"), raw, carries));
    let tickets = raw.ticket_keys_file.as_ref();
    let ticket_keys = tickets.map(|file| ticket_keys(cx, &at.key("ticket_keys_file"), file));
    let alpn = alpn(cx, &at.key("alpn"), raw.alpn.as_ref(), carries);
    let hsts = cx.text(&at.key("hsts"), raw.hsts.as_ref(), |text| or_off(text, hsts));
    if carries == Carries::Tcp {
        only_for_http(cx, at, "alpn", raw.alpn.is_some());
        only_for_http(cx, at, "hsts", raw.hsts.is_some());
    }
    Some(ListenerTls {
        certificates,
        named: count,
        certificate_dir,
        strict_sni: strict_sni.unwrap_or(false),
        min_version: min_version.unwrap_or(TlsVersion::Tls12),
        // What is there but wrong was reported, and no configuration comes of it.
        client_auth: auth.flatten(),
        ticket_keys: ticket_keys.flatten(),
        alpn,
        hsts: hsts.flatten(),
        acme,
    })
}

fn only_for_http(cx: &mut Cx<'_>, at: &Path, key: &str, there: bool) {
    if there {
        let wrong = Wrong::plain(format!("a tcp listener has no use for `{key}`"));
        cx.error(&at.key(key), None, wrong.help("leave it out, or set mode: http"));
    }
}

fn version(text: &str) -> Result<TlsVersion, Wrong> {
    word(text, &VERSIONS).map_err(|wrong| match text {
        "1.0" | "1.1" => wrong.help("TLS 1.0 and 1.1 are broken (RFC 8996) and not served"),
        _ => wrong,
    })
}

fn hsts(text: &str) -> Result<Duration, Wrong> {
    match positive_duration(text)? {
        short if short < Duration::from_secs(1) => {
            Err(Wrong::new("too short", "from 1s: it is told in seconds"))
        }
        time => Ok(time),
    }
}

fn alpn(cx: &mut Cx<'_>, at: &Path, texts: Option<&raw::Texts>, carries: Carries) -> Vec<Alpn> {
    let mut protocols: Vec<Alpn> = Vec::new();
    for (at, protocol) in cx.each(at, texts, |text| word(text, &PROTOCOLS)) {
        if protocols.contains(&protocol) {
            cx.error(&at, None, Wrong::plain("it stands here twice"));
        }
        protocols.push(protocol);
    }
    match (carries, texts) {
        (Carries::Tcp, _) => Vec::new(),
        (Carries::Http, Some(_)) => protocols,
        (Carries::Http, None) => vec![Alpn::H2, Alpn::Http1],
    }
}

fn named(
    cx: &mut Cx<'_>,
    at: &Path,
    list: Option<&[Option<raw::Certificate>]>,
) -> Vec<Certificate> {
    let mut found = Vec::new();
    if list.is_some_and(<[_]>::is_empty) {
        cx.error(at, None, Wrong::plain("an empty list: there would be nothing to show"));
    }
    for (i, item) in list.unwrap_or_default().iter().enumerate() {
        let at = at.index(i);
        // What `shape` took out was reported.
        let Some(item) = item else { continue };
        cx.missing(&at, "cert", "cert: certs/example.pem");
        cx.missing(&at, "key", "key: certs/example.key");
        if let (Some(cert), Some(key)) = (&item.cert, &item.key) {
            found.extend(pair(cx, &at, (cert, key), Shown::ToClients));
        }
    }
    found
}

/// Whom a certificate is to convince.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    ToClients,
    ToBackends,
}

/// The certificate of the map at `at`, which has `cert` and `key`.
pub fn pair(
    cx: &mut Cx<'_>,
    at: &Path,
    (cert, key): (&str, &str),
    shown: Shown,
) -> Option<Certificate> {
    let (cert_at, key_at) = (at.key("cert"), at.key("key"));
    let paths = (cx.beside_the_file(cert), cx.beside_the_file(key));
    match certificates::pair(&paths.0, &paths.1) {
        Ok(pair) => {
            if pair.exposed {
                exposed(cx, &key_at, key);
            }
            look_at(cx, &cert_at, "", &pair.certificate, shown);
            Some(pair.certificate)
        }
        Err(error) => {
            // Both may be in one file.
            let of_cert = matches!(error.what, Fault::NoCertificate | Fault::Certificate(_));
            let (at, found) = match error.path == paths.1 && !of_cert {
                true => (key_at, key),
                false => (cert_at, cert),
            };
            let kept = cx.predecessor(&paths.0, &paths.1);
            refused(cx, &at, Some(found), "", &error, kept)
        }
    }
}

/// Every pair of the folder that is not named already.
fn folder(
    cx: &mut Cx<'_>,
    at: &Path,
    folder: &FilePath,
    named: &[Certificate],
) -> Vec<Certificate> {
    let mut pairs = match certificates::folder(folder) {
        Ok(pairs) => pairs,
        Err(error) => {
            cx.error(at, None, Wrong::plain(error.what.to_string()).help(error.what.help()));
            return Vec::new();
        }
    };
    pairs.retain(|(cert, key)| !named.iter().any(|c| c.cert == *cert && c.key == *key));
    let one = |(cert, key): (PathBuf, PathBuf)| match certificates::pair(&cert, &key) {
        Ok(pair) => {
            if pair.exposed {
                exposed(cx, at, &file_name(&key));
            }
            let of = format!("{}: ", file_name(&cert));
            look_at(cx, at, &of, &pair.certificate, Shown::ToClients);
            Some(pair.certificate)
        }
        Err(error) => {
            let of = format!("{}: ", file_name(&error.path));
            let kept = cx.predecessor(&cert, &key);
            refused(cx, at, None, &of, &error, kept)
        }
    };
    pairs.into_iter().filter_map(one).collect()
}

fn file_name(path: &FilePath) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `kept` goes on to be used, if there is one.
fn refused<T>(
    cx: &mut Cx<'_>,
    at: &Path,
    found: Option<&str>,
    of: &str,
    error: &CertificateError,
    kept: Option<T>,
) -> Option<T> {
    let (what, help) = (&error.what, error.what.help());
    match kept {
        Some(_) => {
            let known = (error.path.clone(), error.to_string());
            // Many may name the file.
            if !cx.kept_certificates.contains(&known) {
                cx.kept_certificates.push(known);
            }
            let text = format!("{of}{what}; what was read before goes on");
            cx.warn(at, Wrong::plain(text).help(help));
        }
        None => cx.error(at, found, Wrong::plain(format!("{of}{what}")).help(help)),
    }
    kept
}

/// Warns of a key whose file everybody may read.
fn exposed(cx: &mut Cx<'_>, at: &Path, file: &str) {
    let text = "everybody on this machine can read the key";
    cx.warn(at, Wrong::plain(text).help(format!("chmod 640 {file}")));
}

/// What is allowed of a certificate but hardly meant.
fn look_at(cx: &mut Cx<'_>, at: &Path, of: &str, certificate: &Certificate, shown: Shown) {
    let refuse = match shown {
        Shown::ToClients => "clients will refuse it",
        Shown::ToBackends => "backends that look at it refuse it",
    };
    let now = SystemTime::now();
    let not_after = certificate.not_after;
    let (date, words) = (expiry::date(not_after), expiry::in_words(not_after, now));
    let told = match Stage::of(not_after, now) {
        Some(Stage::Over) => Some(format!("expired on {date}; {refuse}")),
        Some(_) => Some(format!("expires on {date}, {words}")),
        None if certificate.not_before > now => {
            let date = expiry::date(certificate.not_before);
            Some(format!("is good only from {date} on; {refuse} until then"))
        }
        None => None,
    };
    if let Some(told) = told {
        let help = "put a renewed one in its place: it is taken up without a restart";
        cx.warn(at, Wrong::plain(format!("{of}{told}")).help(help));
    }
    if certificate.names.is_empty() && shown == Shown::ToClients {
        let text = "names no DNS name: it is shown only where no other certificate fits";
        cx.warn(at, Wrong::plain(format!("{of}{text}")));
    }
}

fn client_auth(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: raw::ClientAuth,
    carries: Carries,
) -> Option<ClientAuth> {
    let required = cx.text(&at.key("mode"), raw.mode.as_ref(), |text| word(text, &MODES));
    cx.missing(at, "ca", "ca: certs/clients.pem");
    let ca = raw.ca.as_ref().and_then(|file| authorities(cx, &at.key("ca"), file));
    let crl = raw.crl.as_ref().and_then(|file| revocations(cx, &at.key("crl"), file));
    let headers = cx.text(&at.key("headers"), raw.headers.as_ref(), flag).unwrap_or(false);
    if carries == Carries::Tcp {
        only_for_http(cx, at, "headers", headers);
    }
    let required = required.unwrap_or(true);
    Some(ClientAuth { required, ca: ca?, crl, headers })
}

/// Those whom to trust, at `at`.
pub fn authorities(cx: &mut Cx<'_>, at: &Path, file: &str) -> Option<Bundle> {
    let path = cx.beside_the_file(file);
    match certificates::authorities(&path) {
        Ok(read) => Some(read),
        Err(error) => {
            let kept = cx.authorities_before(&path);
            refused(cx, at, Some(file), "", &error, kept)
        }
    }
}

fn revocations(cx: &mut Cx<'_>, at: &Path, file: &str) -> Option<Bundle> {
    let path = cx.beside_the_file(file);
    let read = match certificates::revocations(&path) {
        Ok(read) => read,
        Err(error) => {
            let mut known = cx.tls_before().filter_map(|tls| tls.client_auth.as_ref()?.crl.clone());
            let kept = known.find(|crl| crl.path == path);
            return refused(cx, at, Some(file), "", &error, kept);
        }
    };
    if let Some(next) = read.next_update
        && next < SystemTime::now()
    {
        let text = format!("a newer list was due on {}", expiry::date(next));
        let help = "it counts all the same: who was revoked since then gets in";
        cx.warn(at, Wrong::plain(text).help(help));
    }
    Some(read)
}

fn ticket_keys(cx: &mut Cx<'_>, at: &Path, file: &str) -> Option<TicketKeys> {
    let path = cx.beside_the_file(file);
    match certificates::ticket_keys(&path) {
        Ok((keys, open)) => {
            if open {
                exposed(cx, at, file);
            }
            Some(keys)
        }
        Err(error) => {
            let mut known = cx.tls_before().filter_map(|tls| tls.ticket_keys.clone());
            let kept = known.find(|keys| keys.path == path);
            refused(cx, at, Some(file), "", &error, kept)
        }
    }
}
