//! What a listener's TLS is, in a few lines of the summary: who is served by which certificate, until
//! when, and what clients have to prove.

use std::io::{self, Write};
use std::time::SystemTime;

use serde_json::json;

use super::{SHOWN, more};
use crate::config::model::{Alpn, Certificate, Config, ListenerTls, TlsVersion};
use crate::config::units::show_duration;
use crate::tls::expiry;

pub fn write(tls: Option<&ListenerTls>, out: &mut dyn Write) -> io::Result<()> {
    let Some(tls) = tls else { return Ok(()) };
    let versions = match tls.min_version {
        TlsVersion::Tls12 => "1.2 and 1.3",
        TlsVersion::Tls13 => "1.3",
    };
    let alpn = tls.alpn.iter().map(|alpn| match alpn {
        Alpn::H2 => ", h2",
        Alpn::Http1 => ", http/1.1",
    });
    let strict = if tls.strict_sni { ", only names that are covered" } else { "" };
    writeln!(out, "  tls {versions}{}{strict}", alpn.collect::<String>())?;
    let now = SystemTime::now();
    for certificate in tls.certificates.iter().take(SHOWN) {
        writeln!(out, "  certificate {}", one(certificate, now))?;
    }
    more(tls.certificates.len(), "certificates", out)?;
    if let Some(auth) = &tls.client_auth {
        let mode = if auth.required { "required" } else { "optional" };
        let lists = auth.crl.as_ref().map_or("", |_| ", less those that are revoked");
        let count = auth.ca.der.len();
        let authorities = if count == 1 { "authority" } else { "authorities" };
        writeln!(out, "  client certificates {mode}, of {count} {authorities}{lists}")?;
    }
    match &tls.ticket_keys {
        None => writeln!(out, "  session tickets with random keys")?,
        Some(keys) => {
            let (count, path) = (keys.secrets.len(), keys.path.display());
            writeln!(out, "  session tickets with {count} keys of {path}")?;
        }
    }
    match tls.hsts {
        Some(time) => writeln!(out, "  Strict-Transport-Security for {}", show_duration(time)),
        None => Ok(()),
    }
}

fn one(certificate: &Certificate, now: SystemTime) -> String {
    let names = certificate.names.iter().take(SHOWN).map(ToString::to_string);
    let names = match certificate.names.len() {
        0 => "no name".to_owned(),
        count => {
            let shown = names.collect::<Vec<_>>().join(", ");
            let more = count.saturating_sub(SHOWN);
            if more == 0 { shown } else { format!("{shown} and {more} more") }
        }
    };
    let kind = format!("{:?}", certificate.certified.key.algorithm());
    let (date, words) =
        (expiry::date(certificate.not_after), expiry::in_words(certificate.not_after, now));
    let verb = if certificate.not_after < now { "expired" } else { "expires" };
    format!("{} ({kind}) for {names}: {verb} {date}, {words}", certificate.cert.display())
}

/// For `--format json`: each certificate with its names and the moment at which it expires.
pub fn certificates_for_machines(config: &Config) -> Vec<serde_json::Value> {
    let listeners = config.listeners.iter().filter_map(|l| Some((l, l.tls.as_ref()?)));
    let all = listeners.flat_map(|(l, tls)| tls.certificates.iter().map(move |c| (&l.name, c)));
    let one = |(listener, certificate): (&crate::config::model::Name, &Certificate)| {
        let since_1970 = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH);
        json!({
            "listener": listener.as_str(),
            "cert": certificate.cert.display().to_string(),
            "names": certificate.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "expires": since_1970.unwrap_or_default().as_secs(),
        })
    };
    all.map(one).collect()
}
