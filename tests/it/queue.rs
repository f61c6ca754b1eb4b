//! Caps and the queue: a backend never has more than its `max_requests`, what waits is served in order,
//! and every wait has its bound.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Ask, Backend, Conn, PATIENCE, Proxy, RawBackend, eventually, get, refusing_address, setup,
};

fn capped(backend: &str, most: u32, keys: &str) -> Proxy {
    let pool = format!("backends: [{{address: \"{backend}\", max_requests: {most}}}], {keys}");
    Proxy::start(setup().set("workers: 2").http("web", "web").pool_of("web", &pool))
}

/// Asks on a thread of its own; the answer's status and text come back.
fn ask(address: SocketAddr, ask: Ask) -> thread::JoinHandle<(u16, String)> {
    thread::spawn(move || {
        let answer = Conn::open(address).unwrap().ask(&ask).unwrap();
        (answer.status, answer.text())
    })
}

#[test]
fn a_cap_is_kept_by_all_workers_and_refuses_what_is_beyond() {
    let backend = Backend::doing("a", "slow 400");
    let proxy = capped(&backend.to_string(), 2, "");
    let address = proxy.address("web");
    let all: Vec<_> = (0..8).map(|_| ask(address, Ask::get("/"))).collect();
    let mut statuses: Vec<u16> = all.into_iter().map(|asked| asked.join().unwrap().0).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503, 503, 503]);
    let full = [("cause", "full")];
    proxy.wait_metric("evenkeel_listener_failures_total", &full, 6.0);
    proxy.wait_at_rest();
    assert_eq!(get(address, "/").unwrap().status, 200);
}

#[test]
fn what_waits_is_served_in_order() {
    let backend = RawBackend::open();
    let keys = "queue: {size: 10, timeout: 10s}, keepalive: {max_idle: 0}";
    let proxy = capped(&backend.to_string(), 1, keys);
    let address = proxy.address("web");
    let mut asked = Vec::new();
    for n in 0..6 {
        asked.push(ask(address, Ask::get(&format!("/{n}"))));
        let waiting = f64::from(n);
        proxy.wait_metric("evenkeel_pool_queue_length", &[], waiting);
        assert_eq!(proxy.metric("evenkeel_backend_in_flight", &[]), 1.0);
    }
    for n in 0..6 {
        let mut peer = backend.accept();
        assert_eq!(peer.head().line, format!("GET /{n} HTTP/1.1"));
        peer.answer(&n.to_string());
    }
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.join().unwrap(), (200, n.to_string()));
    }
    proxy.wait_metric("evenkeel_pool_queued_total", &[], 5.0);
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 0.0);
}

#[test]
fn what_matters_more_goes_first() {
    let backend = RawBackend::open();
    let keys = "queue: {size: 10, timeout: 10s, priority_header: x-priority}, \
                keepalive: {max_idle: 0}";
    let proxy = capped(&backend.to_string(), 1, keys);
    let address = proxy.address("web");
    let mut asked = Vec::new();
    for (n, priority) in ["0", "-1", "nonsense", "7", "7"].into_iter().enumerate() {
        let waits = Ask::get(&format!("/{n}")).header("x-priority", priority);
        asked.push(ask(address, waits));
        proxy.wait_metric("evenkeel_pool_queue_length", &[], n as f64);
        eventually("one is in progress", PATIENCE, || {
            proxy.metric("evenkeel_backend_in_flight", &[]) == 1.0
        });
    }
    for n in [0, 3, 4, 2, 1] {
        let mut peer = backend.accept();
        assert_eq!(peer.head().line, format!("GET /{n} HTTP/1.1"));
        peer.answer("");
    }
    asked.into_iter().for_each(|asked| assert_eq!(asked.join().unwrap().0, 200));
}

#[test]
fn a_wait_is_bounded_in_time_and_in_number() {
    let backend = Backend::doing("a", "slow 3000");
    let keys = "queue: {size: 2, timeout: 300ms}";
    let proxy = capped(&backend.to_string(), 1, keys);
    let address = proxy.address("web");
    let first = ask(address, Ask::get("/"));
    eventually("one is in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 1.0
    });
    let began = Instant::now();
    let waiting = [ask(address, Ask::get("/")), ask(address, Ask::get("/"))];
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 2.0);
    let refused = get(address, "/").unwrap();
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (503, Some("1")));
    let full = [("cause", "full")];
    proxy.wait_metric("evenkeel_listener_failures_total", &full, 1.0);
    for asked in waiting {
        assert_eq!(asked.join().unwrap().0, 503);
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let late = [("cause", "queue_timeout")];
    proxy.wait_metric("evenkeel_listener_failures_total", &late, 2.0);
    assert_eq!(first.join().unwrap().0, 200);
}

#[test]
fn a_client_that_leaves_leaves_the_queue() {
    let backend = Backend::doing("a", "slow 1000");
    let proxy = capped(&backend.to_string(), 1, "queue: {size: 10, timeout: 10s}");
    let address = proxy.address("web");
    let first = ask(address, Ask::get("/"));
    eventually("one is in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 1.0
    });
    let leaving: Vec<Conn> = (0..4)
        .map(|n| {
            let mut conn = Conn::open(address).unwrap();
            conn.send(Ask::get(&format!("/{n}")).header("x-id", "left").bytes()).unwrap();
            conn
        })
        .collect();
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 4.0);
    leaving.into_iter().for_each(Conn::reset);
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 0.0);
    assert_eq!(first.join().unwrap().0, 200);
    assert_eq!(get(address, "/").unwrap().status, 200);
    assert!(backend.ledger().iter().all(|(_, id)| id != "left"));
}

#[test]
fn requests_are_parked_while_nothing_serves() {
    let mut a = Backend::start("a");
    let config = setup().set("workers: 2").http("web", "web");
    let keys = "health_check: {http: {path: /healthz}, interval: 100ms, \
                interval_unsettled: 50ms, timeout: 80ms, fall: 1, rise: 1}, \
                queue: {size: 100, timeout: 10s}, outlier: off";
    let proxy = Proxy::start(config.pool("web", [&a], keys));
    let address = proxy.address("web");
    a.healthy(false);
    eventually("it is down", PATIENCE, || proxy.metric("evenkeel_backend_serving", &[]) == 0.0);
    let (told, tell) = mpsc::channel();
    let parked: Vec<_> = (0..20)
        .map(|_| {
            let told = told.clone();
            thread::spawn(move || {
                let status = get(address, "/").unwrap().status;
                told.send(status).unwrap();
            })
        })
        .collect();
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 20.0);
    assert!(tell.try_recv().is_err());
    a.healthy(true);
    for _ in 0..20 {
        assert_eq!(tell.recv_timeout(PATIENCE), Ok(200));
    }
    parked.into_iter().for_each(|asked| asked.join().unwrap());
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
    proxy.wait_metric("evenkeel_pool_masked_failures_total", &[], 20.0);
}

#[test]
fn streams_wait_as_well() {
    let backend = Backend::doing("a", "tcp_echo");
    let pool = format!(
        "backends: [{{address: \"{backend}\", max_requests: 1}}], queue: {{size: 2, timeout: 5s}}"
    );
    let proxy = Proxy::start(setup().set("workers: 2").tcp("raw", "web").pool_of("web", &pool));
    let address = proxy.address("raw");
    let mut first = Conn::open(address).unwrap();
    first.send("one").unwrap();
    assert_eq!(first.bytes(3).unwrap(), b"one");
    let mut second = Conn::open(address).unwrap();
    second.send("two").unwrap();
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 1.0);
    let third = Conn::open(address).unwrap();
    proxy.wait_metric("evenkeel_pool_queue_length", &[], 2.0);
    let mut fourth = Conn::open(address).unwrap();
    assert!(fourth.rest().is_ok_and(|rest| rest.is_empty()) || fourth.rest().is_err());
    third.reset();
    first.finish_writing();
    assert_eq!(first.rest().unwrap(), b"");
    assert_eq!(second.bytes(3).unwrap(), b"two");
}

#[test]
fn a_stream_tries_a_backend_again_that_comes_up_in_a_moment() {
    let address = refusing_address();
    let config = setup().set("workers: 1").tcp("raw", "web");
    let proxy = Proxy::start(config.pool("web", [address], "outlier: off"));
    let closed = Conn::open(proxy.address("raw")).unwrap().rest();
    assert!(closed.is_err() || closed.is_ok_and(|rest| rest.is_empty()));
    let attempts = proxy.metric("evenkeel_pool_failures_total", &[("cause", "connect")]);
    assert_eq!(attempts, 3.0);
}
