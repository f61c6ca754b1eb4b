//! One listener: its addresses, its mode, and what is done with its connections.

use super::cx::{Cx, Reference};
use super::words::{name, network, word};
use super::{addresses, error_pages, rate_limit, route, shadow, streams, timeouts, tls};
use crate::config::model::{
    Access, Listener, Mode, Name, ProxyPeers, TcpAction, TcpRoute, Timeouts,
};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Tcp,
}

/// `None` if nothing that could be looked at further came out; then there are problems.
pub fn listener(
    cx: &mut Cx<'_>,
    at: &Path,
    name: Name,
    raw: raw::Listener,
    base: Timeouts,
) -> Option<Listener> {
    let base_dir = cx.beside_the_file("");
    let bind = cx.each(&at.key("bind"), raw.bind.as_ref(), |text| {
        addresses::bind(text, |path| base_dir.join(path))
    });
    cx.missing(at, "bind", "bind: 0.0.0.0:8080");
    if matches!(&raw.bind, Some(raw::Texts::Many(list)) if list.is_empty()) {
        cx.error(&at.key("bind"), None, Wrong::plain("an empty list: it would listen nowhere"));
    }
    cx.bound.extend(bind.iter().cloned());
    let kind = cx.text(&at.key("mode"), raw.mode.as_ref(), |text| {
        word(text, &[("http", Kind::Http), ("tcp", Kind::Tcp)])
    });
    let timeouts = timeouts::base(cx, &at.key("timeouts"), &raw.timeouts.unwrap_or_default(), base);
    let trusted = cx.each(&at.key("trusted_proxies"), raw.trusted_proxies.as_ref(), network);
    let access = access(cx, at, raw.allow.as_ref(), raw.deny.as_ref());
    let error_pages = error_pages::read(cx, &at.key("error_pages"), raw.error_pages);
    let limited = raw.rate_limit.is_some();
    let rate_limit =
        raw.rate_limit.and_then(|raw| rate_limit::rate_limit(cx, &at.key("rate_limit"), raw));
    let proxy_peers = raw
        .accept_proxy_protocol
        .and_then(|raw| proxy_peers(cx, &at.key("accept_proxy_protocol"), raw));
    let tls = raw.tls.and_then(|raw| {
        let carries = match kind {
            Some(Kind::Tcp) => tls::Carries::Tcp,
            Some(Kind::Http) | None => tls::Carries::Http,
        };
        tls::listener(cx, &at.key("tls"), raw, carries)
    });
    let work = Work { pool: raw.pool, routes: raw.routes };
    let mode = match kind {
        // A mode that is misspelt: nobody knows which keys were meant to be there.
        None if raw.mode.is_some() => None,
        Some(Kind::Tcp) => {
            let pages = !error_pages.0.is_empty();
            let keys = [
                ("trusted_proxies", !trusted.is_empty()),
                ("error_pages", pages),
                ("rate_limit", limited),
            ];
            only_for_http(cx, at, keys);
            tcp(cx, at, work)
        }
        Some(Kind::Http) | None => http(cx, at, work),
    };
    Some(Listener {
        name,
        bind: bind.into_iter().map(|(_, bind)| bind).collect(),
        mode: mode?,
        tls,
        accept_proxy_protocol: proxy_peers,
        trusted_proxies: trusted.into_iter().map(|(_, network)| network).collect(),
        access,
        timeouts,
        error_pages,
        rate_limit,
    })
}

struct Work {
    pool: raw::Text,
    routes: Option<Vec<serde_yaml::Value>>,
}

fn http(cx: &mut Cx<'_>, at: &Path, work: Work) -> Option<Mode> {
    if let Some(pool) = &work.pool {
        let wrong = Wrong::plain("an http listener has routes, and each route names its pool");
        let help = if work.routes.is_some() {
            "leave `pool` out, and end the routes with one for everything else: - pool: ..."
                .to_owned()
        } else {
            format!("write instead: routes: [{{pool: {pool}}}]; or set mode: tcp")
        };
        cx.error(&at.key("pool"), Some(pool), wrong.help(help));
    } else {
        cx.missing(at, "routes", "routes: [{pool: web}]");
    }
    let at = at.key("routes");
    let values = work.routes?;
    if values.is_empty() {
        let wrong = Wrong::plain("no route: every request would be answered with 404");
        cx.error(&at, None, wrong.help("for example: routes: [{pool: web}]"));
    }
    let mut routes = Vec::with_capacity(values.len());
    for (i, value) in values.into_iter().enumerate() {
        // A null is what `shape` took out, and reported.
        if !value.is_null() {
            let at = at.index(i);
            let raw = cx.section(&at, value);
            routes.extend(route::route(cx, &at, raw).map(|route| (at, route)));
        }
    }
    shadow::check(cx, &routes);
    Some(Mode::Http { routes: routes.into_iter().map(|(_, route)| route).collect() })
}

fn tcp(cx: &mut Cx<'_>, at: &Path, work: Work) -> Option<Mode> {
    if let Some(values) = work.routes {
        if cx.has(&at.key("tls")) {
            let wrong = Wrong::plain("a tcp listener routes by TLS server name, or decrypts");
            let help = "leave `tls` out to pass TLS on as it is, or name one pool";
            cx.error(&at.key("tls"), None, wrong.help(help));
        }
        if let Some(pool) = &work.pool {
            let wrong = Wrong::plain("a tcp listener names one pool, or has routes that name them");
            let help = format!("leave it out, and end the routes with - pool: {pool}");
            cx.error(&at.key("pool"), Some(pool), wrong.help(help));
        }
        let routes = streams::routes(cx, &at.key("routes"), values)?;
        return Some(Mode::Tcp { routes });
    }
    cx.missing(at, "pool", "pool: db");
    let at = at.key("pool");
    let pool = cx.text(&at, work.pool.as_ref(), name)?;
    cx.references.push(Reference { at, pool: pool.clone(), by_key: false });
    let all = TcpRoute { sni: Vec::new(), action: TcpAction::Pool(pool) };
    Some(Mode::Tcp { routes: vec![all] })
}

fn proxy_peers(cx: &mut Cx<'_>, at: &Path, raw: raw::ProxyPeers) -> Option<ProxyPeers> {
    cx.missing(at, "from", "from: [10.0.0.0/8]");
    let at = at.key("from");
    if matches!(&raw.from, Some(raw::Texts::Many(list)) if list.is_empty()) {
        let wrong = Wrong::plain("an empty list: it would hold for nobody");
        cx.error(&at, None, wrong.help("leave `accept_proxy_protocol` out, or name the peers"));
    }
    let read = cx.each(&at, raw.from.as_ref(), |text| match text {
        "unix" => Ok(None),
        text => network(text).map(Some).map_err(|mut wrong| {
            wrong.allowed = wrong.allowed.map(|allowed| format!("{allowed}, or unix"));
            wrong
        }),
    });
    if let Some((at, _)) = read.iter().find(|(_, net)| net.is_some_and(|net| net.prefix_len() == 0))
    {
        let wrong = Wrong::plain("everybody is believed: a client can say that it is any other");
        cx.warn(at, wrong.help("name the addresses of the load balancers in front, no more"));
    }
    let unix = read.iter().any(|(_, network)| network.is_none());
    let networks = read.into_iter().filter_map(|(_, network)| network).collect();
    raw.from.map(|_| ProxyPeers { networks, unix })
}

fn only_for_http(cx: &mut Cx<'_>, at: &Path, keys: [(&str, bool); 3]) {
    for (key, there) in keys {
        if there {
            let wrong = Wrong::plain(format!("a tcp listener has no use for `{key}`"));
            cx.error(&at.key(key), None, wrong.help("leave it out, or set mode: http"));
        }
    }
}

/// `allow` and `deny`, of a listener or a route.
pub fn access(
    cx: &mut Cx<'_>,
    at: &Path,
    allow: Option<&raw::Texts>,
    deny: Option<&raw::Texts>,
) -> Access {
    if matches!(allow, Some(raw::Texts::Many(list)) if list.is_empty()) {
        let wrong = Wrong::plain("an empty list: it is not clear if all or none are meant");
        cx.error(&at.key("allow"), None, wrong.help("leave `allow` out to allow everybody"));
    }
    let mut read = |key: &str, texts| {
        let networks = cx.each(&at.key(key), texts, network);
        networks.into_iter().map(|(_, network)| network).collect()
    };
    Access { allow: read("allow", allow), deny: read("deny", deny) }
}
