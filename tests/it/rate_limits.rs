//! Rate limits: no client gets more than its burst and its rate, whoever serves its connections, and
//! nobody else is refused for it.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Ask, Backend, Conn, Proxy, Setup, setup};

fn limited(listener: &str, backend: &Backend) -> Setup {
    // The same address in each configuration.
    let listener = format!("bind: \"127.0.0.1:0\", {listener}");
    setup().set("workers: 2").listener("web", &listener).pool("web", [backend], "")
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// The status of one GET from this address on a connection of its own, and its `Retry-After`.
fn ask(proxy: &Proxy, from: IpAddr, ask: &Ask) -> (u16, Option<String>) {
    let answer = Conn::open_from(from, proxy.address("web")).unwrap().ask(ask).unwrap();
    (answer.status, answer.header("retry-after"))
}

#[test]
fn a_client_gets_its_burst_and_then_429_that_says_how_long_to_wait() {
    let backend = Backend::start("a");
    let config = limited("rate_limit: {rate: 6/m, burst: 5}, routes: [{pool: web}]", &backend);
    let proxy = Proxy::start(config);
    let began = Instant::now();
    // A connection each, so that both workers serve them: the limit is the process's.
    for _ in 0..5 {
        assert_eq!(ask(&proxy, ip(1), &Ask::get("/")), (200, None));
    }
    let (status, wait) = ask(&proxy, ip(1), &Ask::get("/"));
    assert!(began.elapsed() < Duration::from_secs(9), "too slow a machine for this test");
    let wait: u64 = wait.expect("Retry-After").parse().unwrap();
    assert!(status == 429 && (1..=10).contains(&wait), "{status}, {wait} s");
    assert_eq!(ask(&proxy, ip(2), &Ask::get("/")).0, 200, "another client");
    // What is refused keeps its connection, and is counted.
    let mut conn = Conn::open_from(ip(1), proxy.address("web")).unwrap();
    for _ in 0..3 {
        assert_eq!(conn.ask(&Ask::get("/")).unwrap().status, 429);
    }
    let refused = [("listener", "web"), ("cause", "rate_limited")];
    proxy.wait_metric("evenkeel_listener_failures_total", &refused, 4.0);
    proxy.wait_metric("evenkeel_pool_requests_total", &[("class", "2xx")], 6.0);
    // A reload that leaves the limit alone forgives nothing; one that changes it begins anew.
    let same = "rate_limit: {rate: 6/m, burst: 5}, routes: [{match: {path: /new}, pool: web}, \
                {pool: web}]";
    assert!(proxy.reload(limited(same, &backend)));
    assert_eq!(ask(&proxy, ip(1), &Ask::get("/")).0, 429);
    let other = "rate_limit: {rate: 6/m, burst: 6}, routes: [{pool: web}]";
    assert!(proxy.reload(limited(other, &backend)));
    assert_eq!(ask(&proxy, ip(1), &Ask::get("/")).0, 200);
}

#[test]
fn a_route_has_a_limit_of_its_own_by_header_or_client() {
    let backend = Backend::start("a");
    let routes = "routes: [{match: {path: /api/*}, pool: web, rate_limit: \
                  {rate: 2/h, by: header, name: x-api-key}}, {pool: web}]";
    let proxy = Proxy::start(limited(routes, &backend));
    let with = |key: &str| Ask::get("/api/x").header("X-Api-Key", key);
    for (from, request, expected) in [
        (1, with("a"), 200),
        (2, with("a"), 200),
        (3, with("a"), 429),
        (3, with("b"), 200),
        (1, Ask::get("/api/x"), 200),
        (1, Ask::get("/api/x"), 200),
        (1, Ask::get("/api/x"), 429),
        (2, Ask::get("/api/x"), 200),
        (1, Ask::get("/other"), 200),
    ] {
        assert_eq!(ask(&proxy, ip(from), &request).0, expected, "{from} {request:?}");
    }
}

#[test]
fn under_load_from_many_connections_no_more_than_the_limit_gets_through() {
    let backend = Backend::start("a");
    let config = limited("rate_limit: {rate: 100/s, burst: 20}, routes: [{pool: web}]", &backend);
    let proxy = Proxy::start(config);
    let address = proxy.address("web");
    let began = Instant::now();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut conn = Conn::open(address).unwrap();
                let (mut ok, mut refused) = (0, 0);
                while began.elapsed() < Duration::from_millis(1500) {
                    match conn.ask(&Ask::get("/")).unwrap().status {
                        200 => ok += 1,
                        429 => refused += 1,
                        other => panic!("{other}"),
                    }
                }
                (ok, refused)
            })
        })
        .collect();
    let counts: Vec<(u32, u32)> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    let most = 20.0 + 100.0 * began.elapsed().as_secs_f64();
    let ok: u32 = counts.iter().map(|(ok, _)| ok).sum();
    let refused: u32 = counts.iter().map(|(_, refused)| refused).sum();
    assert!(f64::from(ok) <= most, "{ok} of at most {most}");
    // As much as it is entitled to, too: the asking was faster than the rate all the while.
    assert!(refused > 0 && f64::from(ok) > 100.0, "{ok} and {refused} refused");
}
