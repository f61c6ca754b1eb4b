//! What only several sections together show: names of pools, what a tcp listener cannot ask of its
//! pool, addresses that get in each other's way.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::cx::{Cx, Reference};
use crate::config::model::{
    Balance, BindAddr, Config, HashBy, Listener, Mode, Name, Pool, TcpAction,
};
use crate::config::path::Path;
use crate::config::problems::did_you_mean;
use crate::config::source::Wrong;

pub fn check(cx: &mut Cx<'_>, config: &Config) {
    let root = Path::root();
    // Without any pools, that alone is the problem, not each place that names one.
    if cx.has(&root.key("pools")) {
        references(cx, config);
    }
    addresses(cx, config.admin.listen);
    tcp_balance(cx, config);
}

fn references(cx: &mut Cx<'_>, config: &Config) {
    let references = std::mem::take(&mut cx.references);
    let known: HashSet<&Name> = config.pools.iter().map(|pool| &pool.name).collect();
    let mut used = HashSet::new();
    for Reference { at, pool: name, by_key } in &references {
        if !known.contains(name) {
            // A pool whose name or value is wrong is there all the same, and was reported.
            if cx.has(&Path::root().key("pools").key(name.as_str())) {
                continue;
            }
            let near = did_you_mean(name.as_str(), config.pools.iter().map(|p| p.name.as_str()));
            let near = near.map(|near| format!("did you mean `{near}`?"));
            let all = config.pools.iter().take(20).map(|pool| pool.name.as_str());
            let allowed = match config.pools.len() {
                0 => "there are no pools".to_owned(),
                1..=20 => all.collect::<Vec<_>>().join(", "),
                n => format!("{}, ... ({n} pools)", all.collect::<Vec<_>>().join(", ")),
            };
            let wrong = Wrong::new("no pool has this name", allowed).help_if(near);
            if *by_key {
                cx.key_error(at, name.as_str(), wrong);
            } else {
                cx.error(at, Some(name.as_str()), wrong);
            }
        } else if at.steps().first() != Path::root().key("admin").steps().first() {
            used.insert(name);
        }
    }
    for pool in config.pools.iter().filter(|pool| !used.contains(&pool.name)) {
        let at = Path::root().key("pools").key(pool.name.as_str());
        cx.warn(&at, Wrong::plain("no listener uses this pool"));
    }
}

/// A connection has a client, but no path, header or cookie by which it could be told apart.
fn tcp_balance(cx: &mut Cx<'_>, config: &Config) {
    let pools: HashMap<&Name, &Pool> = config.pools.iter().map(|p| (&p.name, p)).collect();
    for listener in &config.listeners {
        let Mode::Tcp { routes } = &listener.mode else { continue };
        let listener_at = Path::root().key("listeners").key(listener.name.as_str());
        let alone = cx.has(&listener_at.key("pool"));
        for (i, route) in routes.iter().enumerate() {
            let TcpAction::Pool(pool) = &route.action else { continue };
            let at = if alone { listener_at.clone() } else { listener_at.key("routes").index(i) };
            let Some(pool) = pools.get(pool) else { continue };
            of_tcp(cx, &at.key("pool"), listener, pool);
        }
    }
}

fn of_tcp(cx: &mut Cx<'_>, at: &Path, listener: &Listener, pool: &Pool) {
    let sticky_at = Path::root().key("pools").key(pool.name.as_str()).key("sticky");
    if pool.sticky.is_some() && cx.has(&sticky_at) {
        let text = format!("has no effect for the tcp listener {}: no cookies", listener.name);
        cx.warn(&sticky_at, Wrong::plain(text));
    }
    let by = match &pool.balance {
        Balance::Hash(HashBy::Header(_)) => "a header",
        Balance::Hash(HashBy::Cookie(_)) => "a cookie",
        Balance::Hash(HashBy::Path) => "the path",
        _ => return,
    };
    let text = format!("this pool hashes by {by}, which a tcp connection does not have");
    let wrong = Wrong::new(text, "for tcp: any other balance, or hash by client_ip");
    cx.error(at, Some(pool.name.as_str()), wrong);
}

/// Two sockets that the system would refuse to bind side by side.
fn addresses(cx: &mut Cx<'_>, admin: SocketAddr) {
    let admin_at = Path::root().key("admin").key("listen");
    let mut taken = Taken::default();
    for (at, bind) in std::mem::take(&mut cx.bound) {
        if let Some(other) = taken.conflict(&bind) {
            let wrong = Wrong::plain(format!("{other} is bound already; both cannot be had"));
            let wrong = wrong.help("two listeners need two addresses or two ports");
            cx.error(&at, Some(&bind.to_string()), wrong);
        } else if let BindAddr::Tcp(address) = bind
            && collide(address, admin)
        {
            let help = "choose another port here, or for the other one";
            let (place, found, other) = if cx.has(&admin_at) {
                (&admin_at, admin, format!("{address} ({at})"))
            } else {
                (&at, address, format!("{admin} (admin.listen, by default)"))
            };
            let wrong = Wrong::plain(format!("{other} is bound already; both cannot be had"));
            cx.error(place, Some(&found.to_string()), wrong.help(help));
        } else {
            taken.add(bind, &at);
        }
    }
}

#[derive(Default)]
struct Taken {
    /// By port, so that many listeners do not compare each with each.
    tcp: HashMap<u16, Vec<(SocketAddr, Path)>>,
    unix: HashMap<std::path::PathBuf, Path>,
}

impl Taken {
    fn add(&mut self, bind: BindAddr, at: &Path) {
        match bind {
            BindAddr::Tcp(addr) => {
                self.tcp.entry(addr.port()).or_default().push((addr, at.clone()));
            }
            BindAddr::Unix(path) => {
                self.unix.insert(path, at.clone());
            }
        }
    }

    fn conflict(&self, bind: &BindAddr) -> Option<String> {
        match bind {
            BindAddr::Tcp(addr) => self
                .tcp
                .get(&addr.port())?
                .iter()
                .find(|(other, _)| collide(*addr, *other))
                .map(|(other, at)| format!("{other} ({at})")),
            BindAddr::Unix(path) => {
                self.unix.get(path).map(|at| format!("{} ({at})", path.display()))
            }
        }
    }
}

/// On Linux a wildcard and an address of the same family cannot listen on one port; the families do
/// not meet, as IPv6 listeners are set to IPv6 only. Port 0 is a different one each time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let wild = |ip: IpAddr| ip.is_unspecified();
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || wild(a.ip()) || wild(b.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_get_in_each_others_way() {
        for (a, b, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(collide(a.parse().unwrap(), b.parse().unwrap()), expected, "{a} {b}");
        }
    }
}
