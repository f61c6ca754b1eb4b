//! Who gets a request: by turns, by weight, by what it says of itself, or by who has least to do.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Ask, Backend, Conn, Proxy, free_address, setup};

fn start(backends: &[Backend], keys: &str) -> (Proxy, Conn) {
    let config = setup().set("workers: 1").http("web", "web").pool("web", backends, keys);
    let proxy = Proxy::start(config);
    let conn = Conn::open(proxy.address("web")).unwrap();
    (proxy, conn)
}

fn backends<const N: usize>(names: [&str; N]) -> [Backend; N] {
    names.map(Backend::start)
}

#[track_caller]
fn who(conn: &mut Conn, ask: &Ask) -> String {
    let answer = conn.ask(ask).unwrap();
    assert_eq!(answer.status, 200, "{ask:?}");
    answer.header("x-backend").expect("the backend says who it is")
}

#[test]
fn one_worker_takes_backends_by_turns_exactly() {
    let all = backends(["a", "b", "c"]);
    let (_proxy, mut conn) = start(&all, "balance: round_robin");
    let order: Vec<String> = (0..30).map(|_| who(&mut conn, &Ask::get("/"))).collect();
    let turn: BTreeSet<&String> = order[..3].iter().collect();
    assert_eq!(turn.len(), 3);
    assert!(order.chunks(3).all(|chunk| chunk == &order[..3]), "{order:?}");
}

#[test]
fn weights_are_kept_exactly_and_smoothly() {
    let [a, b, c] = backends(["a", "b", "c"]);
    let list = format!(
        "backends: [{{address: \"{a}\", weight: 5}}, {{address: \"{b}\", weight: 2}}, \"{c}\"]"
    );
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool_of("web", &format!("{list}, balance: round_robin")));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let order: String = (0..80).map(|_| who(&mut conn, &Ask::get("/"))).collect();
    let count = |name: char| order.matches(name).count();
    assert_eq!((count('a'), count('b'), count('c')), (50, 20, 10));
    assert!(!order.contains("aaaa"), "in lumps: {order}");
}

#[test]
fn the_first_that_serves_gets_all() {
    let mut all = backends(["a", "b"]);
    let (_proxy, mut conn) = start(&all, "balance: first");
    for _ in 0..10 {
        assert_eq!(who(&mut conn, &Ask::get("/")), "a");
    }
    all[0].kill();
    for _ in 0..10 {
        assert_eq!(who(&mut conn, &Ask::get("/")), "b");
    }
}

#[test]
fn random_leaves_nobody_out() {
    for balance in ["random", "peak_ewma", "least_requests"] {
        let all = backends(["a", "b", "c"]);
        let (_proxy, mut conn) = start(&all, &format!("balance: {balance}"));
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..300 {
            *found.entry(who(&mut conn, &Ask::get("/"))).or_default() += 1;
        }
        assert_eq!(found.len(), 3, "{balance}: {found:?}");
        if balance != "peak_ewma" {
            assert!(found.values().all(|&count| count > 50), "{balance}: {found:?}");
        }
    }
}

/// Each key sticks to its backend, keys are spread, and one backend's end moves its own keys alone.
#[track_caller]
fn assert_sticky(hash: &str, mut ask: impl FnMut(&Proxy, usize) -> String) {
    let mut all = backends(["a", "b", "c"]);
    let check = "health_check: {http: {path: /healthz}, interval: 100ms, interval_unsettled: 20ms}";
    let keys = format!("balance: {{hash: {{{hash}}}}}, {check}");
    let config = setup().http("web", "web").pool("web", &all, &keys);
    let proxy = Proxy::start(config);
    let before: Vec<String> = (0..60).map(|key| ask(&proxy, key)).collect();
    for (key, first) in before.iter().enumerate() {
        assert_eq!(ask(&proxy, key), *first, "{hash} {key}");
    }
    let used: BTreeSet<&String> = before.iter().collect();
    assert_eq!(used.len(), 3, "{hash}: {before:?}");
    all[1].kill();
    proxy.wait_serving("web", 2, crate::harness::PATIENCE);
    for (key, first) in before.iter().enumerate() {
        let now = ask(&proxy, key);
        assert!(if first == "b" { now != "b" } else { now == *first }, "{hash} {key}: {now}");
    }
    all[1].restart();
    proxy.wait_serving("web", 3, crate::harness::PATIENCE);
    let after: Vec<String> = (0..60).map(|key| ask(&proxy, key)).collect();
    assert_eq!(after, before, "{hash}");
}

fn fresh(proxy: &Proxy, ask: &Ask) -> String {
    who(&mut Conn::open(proxy.address("web")).unwrap(), ask)
}

#[test]
fn a_hash_of_a_header_sticks() {
    assert_sticky("by: header, name: X-User", |proxy, key| {
        fresh(proxy, &Ask::get(&format!("/{key}")).header("x-user", &format!("user-{key}")))
    });
}

#[test]
fn a_hash_of_a_cookie_sticks() {
    assert_sticky("by: cookie, name: uid", |proxy, key| {
        let crumbs = format!("other={}; uid=user-{key}; uidx=1", fastrand::u32(..));
        fresh(proxy, &Ask::get("/").header("Cookie", &crumbs))
    });
}

#[test]
fn a_hash_of_the_client_sticks() {
    assert_sticky("by: client_ip", |proxy, key| {
        let ip = std::net::Ipv4Addr::new(127, 1, 0, key as u8 + 1).into();
        who(&mut Conn::open_from(ip, proxy.address("web")).unwrap(), &Ask::get("/"))
    });
}

#[test]
fn a_hash_of_the_path_sticks_whatever_its_spelling_and_query() {
    let mut spelling = 0;
    assert_sticky("by: path", |proxy, key| {
        spelling += 1;
        let spelled = ["/item", "/./item", "/%69tem"][spelling % 3];
        fresh(proxy, &Ask::get(&format!("{spelled}/{key}?n={spelling}")))
    });
}

#[test]
fn the_one_with_nothing_to_do_is_preferred() {
    let all = backends(["a", "b"]);
    let (proxy, mut conn) = start(&all, "balance: least_requests");
    let mut busy = Conn::open(proxy.address("web")).unwrap();
    busy.send(Ask::get("/").act("drip 100000 20").bytes()).unwrap();
    busy.head().unwrap();
    let at = |name: usize| {
        let address = all[name].to_string();
        proxy.metric("evenkeel_backend_in_flight", &[("backend", &address)])
    };
    let idle = if at(0) == 1.0 { "b" } else { "a" };
    for _ in 0..20 {
        assert_eq!(who(&mut conn, &Ask::get("/")), idle);
    }
    drop(busy);
    proxy.wait_at_rest();
    let both: BTreeSet<String> = (0..4).map(|_| who(&mut conn, &Ask::get("/"))).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn a_backend_that_is_not_there_costs_no_request() {
    let [a] = backends(["a"]);
    for balance in ["round_robin", "least_requests", "peak_ewma", "random", "first"] {
        let config = setup().http("web", "web");
        let list = [free_address(), a.address];
        let proxy = Proxy::start(config.pool("web", list, &format!("balance: {balance}")));
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        for _ in 0..20 {
            assert_eq!(who(&mut conn, &Ask::post("/").body("x")), "a", "{balance}");
        }
        proxy.wait_at_rest();
    }
}
