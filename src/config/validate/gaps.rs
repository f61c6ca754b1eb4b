//! What is allowed but would not fail over, or not in the way that it seems to say: each a warning at
//! the place where it is said, with what would happen and what to do.
//!
//! Reads the proved model; only where a thing stands comes from the text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::cx::Cx;
use crate::config::model::{
    Action, BackendHost, Config, FailoverMode, HedgeAfter, Mode, MysqlRole, Name, Pool,
    PostgresRole, ProbeKind, RedisRole, TcpAction, Timeouts,
};
use crate::config::path::Path;
use crate::config::source::Wrong;
use crate::config::units::show_duration;

/// A route, or a tcp listener, that sends to a pool.
struct Use {
    http: bool,
    /// Settled for this pool.
    timeouts: Timeouts,
    /// Where time-outs may stand, the last word first.
    places: Vec<Path>,
}

pub fn check(cx: &mut Cx<'_>, config: &Config) {
    let uses = uses(config);
    let mut said = Said::default();
    for pool in &config.pools {
        let at = Path::root().key("pools").key(pool.name.as_str());
        let uses = uses.get(&pool.name).map_or(&[][..], Vec::as_slice);
        alone(cx, &at, pool);
        unseen(cx, &at, pool);
        exclusive(cx, &at, pool);
        tiers(cx, &at, pool);
        // Of a pool that nobody uses it is not known what for.
        if uses.iter().any(|usage| usage.http) {
            retries(cx, &at, pool);
            for usage in uses.iter().filter(|usage| usage.http) {
                contradictions(cx, &mut said, &at, pool, usage);
            }
        } else if !uses.is_empty() {
            without_effect_on_tcp(cx, &at);
        }
    }
}

/// What was said of a place already: many routes may use one pool, or stand under one time-out.
#[derive(Default)]
struct Said(HashSet<(String, String)>);

impl Said {
    fn once(&mut self, cx: &mut Cx<'_>, at: &Path, wrong: Wrong) {
        if self.0.insert((at.to_string(), wrong.message.clone())) {
            cx.warn(at, wrong);
        }
    }
}

fn uses(config: &Config) -> HashMap<&Name, Vec<Use>> {
    let pools: HashMap<&Name, &Pool> = config.pools.iter().map(|p| (&p.name, p)).collect();
    let mut uses: HashMap<&Name, Vec<Use>> = HashMap::new();
    let root = Path::root();
    for listener in &config.listeners {
        let at = root.key("listeners").key(listener.name.as_str());
        let mut add = |name, route: Option<(Path, _)>| {
            let Some(pool) = pools.get(name) else { return };
            let of_pool = root.key("pools").key(pool.name.as_str());
            let mut places = vec![of_pool, root.key("pool_defaults"), at.clone(), root.clone()];
            let mut timeouts = listener.timeouts.overlaid(&pool.timeouts);
            let http = route.is_some();
            if let Some((at, own)) = route {
                places.insert(0, at);
                timeouts = timeouts.overlaid(own);
            }
            uses.entry(&pool.name).or_default().push(Use { http, timeouts, places });
        };
        match &listener.mode {
            Mode::Tcp { routes } => {
                for route in routes {
                    match &route.action {
                        TcpAction::Pool(pool) => add(pool, None),
                        TcpAction::Reject => {}
                    }
                }
            }
            Mode::Http { routes } => {
                for (i, route) in routes.iter().enumerate() {
                    let own = || Some((at.key("routes").index(i), &route.timeouts));
                    match &route.action {
                        Action::Pool(pool) => add(pool, own()),
                        Action::Split(shares) => {
                            shares.iter().for_each(|(pool, _)| add(pool, own()));
                        }
                        Action::Redirect { .. }
                        | Action::RedirectHttps { .. }
                        | Action::Respond { .. } => {}
                    }
                }
            }
        }
    }
    uses
}

/// The pool's own key where it says it, or as much of the way as there is.
fn place(cx: &Cx<'_>, pool: &Path, keys: &[&str]) -> Path {
    let mut at = pool.clone();
    for key in keys {
        let next = at.key(key);
        if !cx.has(&next) {
            break;
        }
        at = next;
    }
    at
}

fn alone(cx: &mut Cx<'_>, at: &Path, pool: &Pool) {
    let mut used = pool.backends.iter().filter(|backend| backend.weight > 0);
    let (Some(only), None) = (used.next(), used.next()) else { return };
    // A name may stand for many addresses.
    if matches!(only.address, BackendHost::Addr(_)) {
        let wrong =
            Wrong::plain("one backend and none that stands by: if it fails, nothing serves");
        let help = "add another, or one for when it fails: {address: 10.0.0.12:8080, tier: 1}";
        cx.warn(&at.key("backends"), wrong.help(help));
    }
}

fn unseen(cx: &mut Cx<'_>, at: &Path, pool: &Pool) {
    const CHECK: &str = "for example: health_check: {http: {path: /healthz}}";
    let mut tiers = BTreeMap::new();
    for (i, backend) in pool.backends.iter().enumerate() {
        let (_, weight) = tiers.entry(backend.tier).or_insert((i, 0_u64));
        *weight += u64::from(backend.weight);
    }
    for (place, (tier, (first, weight))) in tiers.iter().enumerate() {
        let at = at.key("backends").index(*first);
        if *weight == 0 {
            let text = format!("no backend of tier {tier} has a weight above 0: it takes nothing");
            cx.warn(&at, Wrong::plain(text).help("give one of them a weight, or leave them out"));
        } else if place > 0 && pool.health_check.is_none() {
            let text = format!(
                "tier {tier} is never probed: whether it can serve shows only when it has to"
            );
            cx.warn(&at, Wrong::plain(text).help(CHECK));
        }
    }
    match &pool.health_check {
        None if pool.outlier.is_none() => {
            let wrong = Wrong::plain(
                "neither a health check nor outlier: a backend that fails goes on getting its share",
            );
            cx.warn(&place(cx, at, &["outlier"]), wrong.help(CHECK));
        }
        Some(check) if check.address.is_some() && pool.backends.len() > 1 => {
            let wrong = Wrong::plain(
                "one address is probed for all backends: none of them is found dead by itself",
            );
            let at = place(cx, at, &["health_check", "address"]);
            cx.warn(&at, wrong.help("leave `address` out: each backend is probed where it is"));
        }
        None | Some(_) => {}
    }
}

const ANY: &str = "a probe with role: any does not tell which backend is the primary";

/// A pool of whoever may be written to, but of more than one at a time.
fn writes(cx: &mut Cx<'_>, at: &Path, pool: &Pool) {
    let key = match pool.health_check.as_ref().map(|check| &check.kind) {
        Some(ProbeKind::Postgres(probe)) if probe.role == PostgresRole::Primary => "postgres",
        Some(ProbeKind::Redis(probe)) if probe.role == RedisRole::Master => "redis",
        Some(ProbeKind::Mysql(probe)) if probe.role == MysqlRole::Writable => "mysql",
        _ => return,
    };
    if pool.backends.len() > 1 {
        let wrong = Wrong::plain(
            "if two backends claim to be the primary, both get writes: the pool is not exclusive",
        );
        let at = place(cx, at, &["health_check", key]);
        cx.warn(&at, wrong.help("add failover: {exclusive: true}"));
    }
}

fn exclusive(cx: &mut Cx<'_>, at: &Path, pool: &Pool) {
    let kind = pool.health_check.as_ref().map(|check| &check.kind);
    if !pool.failover.exclusive {
        writes(cx, at, pool);
        return;
    }
    let blind = match kind {
        None => Some(("tcp", "without a health check nothing tells which backend is the primary")),
        Some(ProbeKind::Tcp { .. }) => {
            Some(("tcp", "a tcp probe does not tell which backend is the primary"))
        }
        Some(ProbeKind::Tls) => {
            Some(("tls", "a TLS handshake does not tell which backend is the primary"))
        }
        Some(ProbeKind::Http(_) | ProbeKind::Grpc { .. }) => None,
        Some(kind) if kind.tells_role() => None,
        Some(ProbeKind::Postgres(_)) => Some(("postgres", ANY)),
        Some(ProbeKind::Redis(_)) => Some(("redis", ANY)),
        Some(ProbeKind::Mysql(_)) => Some(("mysql", ANY)),
    };
    if let Some((key, blind)) = blind {
        let text = format!("{blind}: this exclusive pool may choose a replica");
        let help = "for example: postgres: {user: monitor, role: primary}, redis: {role: master}, \
                    or http: {path: ...} of one that says 200 on the primary alone";
        cx.warn(&place(cx, at, &["health_check", key]), Wrong::plain(text).help(help));
    }
}

fn tiers(cx: &mut Cx<'_>, at: &Path, pool: &Pool) {
    let failover = &pool.failover;
    let manual = failover.mode == FailoverMode::Manual;
    if pool.backends.iter().any(|backend| backend.tier != pool.backends[0].tier) {
        if manual && failover.spill_below.is_some() {
            let wrong = Wrong::plain(
                "`spill_below` has no effect: in mode manual a pool keeps to the tier that was \
                 chosen",
            );
            let at = place(cx, at, &["failover", "spill_below"]);
            cx.warn(&at, wrong.help("leave it out, or use mode: automatic"));
        }
        return;
    }
    let at = at.key("failover");
    for (key, set) in [
        ("spill_below", failover.spill_below.is_some()),
        ("mode", manual && !failover.exclusive),
        ("failback", true),
        ("on_failback", true),
    ] {
        let at = at.key(key);
        if set && cx.has(&at) {
            let text = format!("`{key}` has no effect: all backends of this pool are of one tier");
            let help = "give those that stand by a tier: {address: 10.0.0.12:8080, tier: 1}";
            cx.warn(&at, Wrong::plain(text).help(help));
        }
    }
}

fn retries(cx: &mut Cx<'_>, at: &Path, pool: &Pool) {
    if pool.retry.attempts == 1 && pool.backends.len() > 1 {
        let wrong = Wrong::plain(
            "nothing is sent again: each failure of a backend is an error for a client",
        );
        let help = "leave it out: by default a request is sent again only where that is safe";
        cx.warn(&place(cx, at, &["retry", "attempts"]), wrong.help(help));
    } else if pool.retry.attempts > 1 && !pool.retry.on.connect {
        let wrong = Wrong::plain(
            "without `connect` a request that cannot reach its backend is not sent to another",
        );
        let at = place(cx, at, &["retry", "on"]);
        cx.warn(&at, wrong.help("what stands here is all there is: add connect"));
    }
    if pool.retry.hedge.is_some() {
        let none = pool.retry.budget_percent == 0 && pool.retry.budget_min == 0;
        let wrong = match pool.retry.attempts {
            1 => "with attempts: 1 no second copy is ever sent: it counts as an attempt",
            _ if none => "with an empty budget no second copy is ever sent",
            _ => return,
        };
        let help = "make `attempts` 2 or more and the budget more than 0, or leave `hedge` out";
        cx.warn(&place(cx, at, &["retry", "hedge"]), Wrong::plain(wrong).help(help));
    }
}

/// Time-outs that leave no room for what is to happen within them.
fn contradictions(cx: &mut Cx<'_>, said: &mut Said, at: &Path, pool: &Pool, usage: &Use) {
    let Use { timeouts, .. } = usage;
    let retry = &pool.retry;
    if let Some(HedgeAfter::Time(after)) = retry.hedge
        && after >= timeouts.response
    {
        let text = format!(
            "hedge.after ({}) is not below timeouts.response ({}): no second copy is ever sent",
            show_duration(after),
            show_duration(timeouts.response)
        );
        let at = place(cx, at, &["retry", "hedge", "after"]);
        said.once(cx, &at, Wrong::plain(text).help("make it a little more than what answers take"));
    }
    let Some(request) = timeouts.request else { return };
    let mut places = usage.places.iter().map(|at| at.key("timeouts").key("request"));
    let at = places.find(|at| cx.has(at)).unwrap_or_else(|| at.clone());
    let whole = show_duration(request);
    let connects = timeouts.connect * retry.attempts;
    if retry.attempts > 1 && connects > request {
        let text = format!(
            "{} attempts x timeouts.connect ({}) are {}, more than the {whole} of timeouts.request: \
             the last of them come too late",
            retry.attempts,
            show_duration(timeouts.connect),
            show_duration(connects)
        );
        said.once(cx, &at, Wrong::plain(text).help("make `connect` shorter or `request` longer"));
    }
    let waits = retry.attempts > 1 && retry.on.timeout && retry.hedge.is_none();
    if waits && timeouts.response >= request {
        let text = format!(
            "timeouts.response ({}) is not below timeouts.request ({whole}): a backend that does \
             not answer uses up all the time there is, and no other is tried",
            show_duration(timeouts.response)
        );
        let wrong = Wrong::plain(text);
        said.once(
            cx,
            &at,
            wrong.help("make `response` shorter, or use retry: {hedge: {after: p99}}"),
        );
    }
    let queue = pool.queue.as_ref().map_or(Duration::ZERO, |queue| queue.timeout);
    if queue >= request {
        let text = format!(
            "queue.timeout ({}) is not below timeouts.request ({whole}): who waited to the end has \
             no time left for an answer",
            show_duration(queue)
        );
        said.once(cx, &at, Wrong::plain(text).help("make the queue's timeout shorter"));
    }
}

fn without_effect_on_tcp(cx: &mut Cx<'_>, at: &Path) {
    const KEYS: [(&str, &str); 6] = [
        ("retry", "on"),
        ("retry", "hedge"),
        ("retry", "budget"),
        ("retry", "budget_min"),
        ("retry", "buffer"),
        ("queue", "priority_header"),
    ];
    for (of, key) in KEYS {
        let at = at.key(of).key(key);
        if cx.has(&at) {
            let text = format!("`{key}` has no effect: only tcp listeners use this pool");
            let help = "a tcp client is taken to another backend until one can be connected to";
            cx.warn(&at, Wrong::plain(text).help(help));
        }
    }
}
