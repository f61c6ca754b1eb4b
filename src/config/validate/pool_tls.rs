//! `tls` of a pool: whom to believe, under which name, and what to show. Each key proved, then a pool's
//! own keys over those of `pool_defaults`.

use rustls::pki_types::ServerName;

use super::cx::Cx;
use super::tls::{self, Shown};
use super::words::word;
use crate::config::model::{BackendTls, Bundle, Certificate, HealthCheck, ProbeKind, Protocol};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::tls::client;

/// What stands under `tls`.
#[derive(Debug)]
pub enum Setting {
    Off,
    Keys(Box<Keys>),
}

/// Each key, proved; `None` is silence.
#[derive(Debug, Default)]
pub struct Keys {
    ca: Option<Bundle>,
    server_name: Option<ServerName<'static>>,
    client: Option<Certificate>,
    verify: Option<bool>,
    /// Something is wrong with it, and was reported.
    wrong: bool,
}

pub fn setting(cx: &mut Cx<'_>, at: &Path, raw: raw::PoolTls) -> Option<Setting> {
    let parts = match raw {
        raw::PoolTls::Word(text) => {
            return cx.text(at, Some(&text), |text| {
                let on = matches!(text, "on" | "true" | "yes");
                match text {
                    "off" => Ok(Setting::Off),
                    _ => Err(Wrong::new("not a setting of tls", "off, or a map of its keys").help(
                        match on {
                            true => "write tls: {}, which trusts what the system trusts",
                            false => "for example: tls: {ca: internal.pem}",
                        },
                    )),
                }
            });
        }
        raw::PoolTls::Parts(parts) => *parts,
    };
    let ca = parts.ca.as_ref().and_then(|file| tls::authorities(cx, &at.key("ca"), file));
    let name_at = at.key("server_name");
    let server_name = cx.text(&name_at, parts.server_name.as_ref(), server_name);
    let client = client_certificate(cx, at, &parts);
    let verify = cx.text(&at.key("verify"), parts.verify.as_ref(), verify);
    let asked = [&parts.ca, &parts.server_name, &parts.verify].map(Option::is_some);
    let sound = [ca.is_some(), server_name.is_some(), verify.is_some()];
    let pair = parts.cert.is_some() || parts.key.is_some();
    let wrong = asked != sound || pair != client.is_some();
    Some(Setting::Keys(Box::new(Keys { ca, server_name, client, verify, wrong })))
}

fn verify(text: &str) -> Result<bool, Wrong> {
    word(text, &[("full", true), ("off", false)]).map_err(|wrong| {
        let near = match text {
            "true" | "on" | "yes" | "required" => Some("write verify: full, or leave it out"),
            "false" | "no" | "none" => Some("write verify: off, if any certificate will do"),
            _ => None,
        };
        wrong.help_if(near.map(str::to_owned))
    })
}

fn server_name(text: &str) -> Result<ServerName<'static>, Wrong> {
    let allowed = "a name such as web.internal, or an IP address";
    let name = text.strip_suffix('.').unwrap_or(text);
    ServerName::try_from(name.to_owned()).map_err(|_| {
        let port = text.contains(':').then(|| "it has no port".to_owned());
        Wrong::new("not a name that a certificate can be for", allowed).help_if(port)
    })
}

/// The two files belong together, and so do the two keys.
fn client_certificate(cx: &mut Cx<'_>, at: &Path, raw: &raw::PoolTlsParts) -> Option<Certificate> {
    if raw.cert.is_some() {
        cx.missing(at, "key", "tls: {cert: lb.pem, key: lb.key}");
    }
    if raw.key.is_some() {
        cx.missing(at, "cert", "tls: {cert: lb.pem, key: lb.key}");
    }
    let (cert, key) = (raw.cert.as_ref()?, raw.key.as_ref()?);
    tls::pair(cx, at, (cert, key), Shown::ToBackends)
}

/// Whether a pool has none, by these settings.
pub fn is_off(own: Option<&Setting>, shared: Option<&Setting>) -> bool {
    matches!((own, shared), (Some(Setting::Off), _) | (None, None | Some(Setting::Off)))
}

/// A pool's own setting over that of `pool_defaults`, key by key. `at` is the pool.
pub fn settle(
    cx: &mut Cx<'_>,
    at: &Path,
    own: Option<&Setting>,
    shared: Option<&Setting>,
    protocol: Protocol,
) -> Option<BackendTls> {
    let silent = Keys::default();
    let (over, under) = match (own, shared) {
        (Some(Setting::Off), _) | (None, None | Some(Setting::Off)) => return None,
        (Some(Setting::Keys(own)), Some(Setting::Keys(shared))) => (&**own, &**shared),
        (Some(Setting::Keys(own)), None | Some(Setting::Off)) => (&**own, &silent),
        (None, Some(Setting::Keys(shared))) => (&silent, &**shared),
    };
    let here = at.key("tls");
    if protocol == Protocol::H2c {
        let wrong = Wrong::new("`h2c` is HTTP/2 in clear", "protocol: h2, or no `tls`");
        cx.error(&here, None, wrong);
        return None;
    }
    let ca = over.ca.clone().or_else(|| under.ca.clone());
    let verify = over.verify.or(under.verify).unwrap_or(true);
    let client = over.client.clone().or_else(|| under.client.clone());
    let server_name = over.server_name.clone().or_else(|| under.server_name.clone());
    if over.wrong || under.wrong {
        return None;
    }
    if !verify {
        let text = "any certificate will do: whoever stands between us and a backend can read \
                    and change what goes by";
        let place = if cx.has(&here.key("verify")) { here.key("verify") } else { here.clone() };
        cx.warn(
            &place,
            Wrong::plain(text).help("name the CA that the backends have: tls: {ca: FILE}"),
        );
    }
    match client::settings(ca.as_ref(), client.as_ref(), verify, protocol) {
        Ok(config) => Some(BackendTls { ca, server_name, client, verify, config }),
        Err(error) => {
            let place = if cx.has(&here) { here } else { at.clone() };
            let help = "name the CA that the backends have: tls: {ca: FILE}";
            cx.error(&place, None, Wrong::plain(error.to_string()).help(help));
            None
        }
    }
}

/// Probes go as the pool's connections do, unless they go elsewhere: what listens at a place of its own for
/// probes is no part of what the clients use, and only a `tls` probe finds TLS there. Where connections are in
/// clear, TLS is what clients and backends have between them: a `tls` probe takes any certificate.
pub fn of_probes(check: &mut HealthCheck, tls: Option<&BackendTls>) {
    let elsewhere = check.port.is_some() || check.address.is_some();
    let only_by_tls = matches!(check.kind, ProbeKind::Tls | ProbeKind::Grpc { .. });
    check.tls = match (tls, &check.kind) {
        (Some(_), _) if elsewhere && !only_by_tls => None,
        (Some(tls), _) => Some(tls.clone()),
        (None, ProbeKind::Tls) => {
            // Cannot fail: there is nothing in it that could be wrong.
            let config = client::settings(None, None, false, Protocol::Http1).ok();
            config.map(|config| BackendTls {
                ca: None,
                server_name: None,
                client: None,
                verify: false,
                config,
            })
        }
        (None, _) => None,
    };
}
