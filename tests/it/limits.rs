//! No client can hold more than its share, for longer than it may, and what runs out comes back.

use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Ask, Backend, Broken, Child, Conn, Folder, PATIENCE, Proxy, RawBackend, Setup, eventually, get,
    setup,
};

/// A listener whose only route answers by itself.
fn pinging(top: &str) -> Setup {
    let config = setup().set(top).listener("web", "routes: [{respond: {body: pong}}]");
    config.pool("unused", ["127.0.0.1:1"], "")
}

fn hits(proxy: &Proxy, limit: &str) -> f64 {
    proxy.metric("evenkeel_limit_hits_total", &[("limit", limit)])
}

fn wait_failures(proxy: &Proxy, cause: &str, count: f64) {
    proxy.wait_metric("evenkeel_listener_failures_total", &[("cause", cause)], count);
}

/// Sends these bytes one by one until the connection ends; says after how long it did.
fn drip(conn: &mut Conn, bytes: &[u8], pause: Duration) -> Duration {
    let began = Instant::now();
    for byte in bytes {
        if conn.send([*byte]).is_err() || !conn.is_silent() {
            return began.elapsed();
        }
        thread::sleep(pause);
    }
    panic!("the connection is still open after {:?}", began.elapsed());
}

#[test]
fn a_head_that_comes_too_slowly_is_cut_though_it_keeps_coming() {
    let proxy = Proxy::start(pinging("timeouts: {client_header: 400ms, client_idle: 20s}"));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}", "x".repeat(1000));
    let after = drip(&mut conn, head.as_bytes(), Duration::from_millis(20));
    assert!(after > Duration::from_millis(350), "too soon: {after:?}");
    assert!(after < Duration::from_secs(4), "{after:?}");
    wait_failures(&proxy, "client_timeout", 1.0);
    // The second head of a connection is no other than the first.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    assert_eq!(conn.ask(&Ask::get("/")).unwrap().status, 200);
    let after = drip(&mut conn, head.as_bytes(), Duration::from_millis(20));
    assert!(after > Duration::from_millis(350), "too soon: {after:?}");
    assert!(after < Duration::from_secs(4), "{after:?}");
    wait_failures(&proxy, "client_timeout", 2.0);
    proxy.wait_metric("evenkeel_listener_open_connections", &[], 0.0);
}

#[test]
fn a_connection_at_rest_is_closed_after_its_time_and_no_sooner() {
    let proxy = Proxy::start(pinging("timeouts: {client_idle: 400ms, client_header: 20s}"));
    let mut silent = Conn::open(proxy.address("web")).unwrap();
    let mut used = Conn::open(proxy.address("web")).unwrap();
    // Before the last answer: its rest begins later than that, however busy the machine is.
    let mut began = Instant::now();
    for _ in 0..4 {
        // In use for longer than it may rest in one piece.
        thread::sleep(Duration::from_millis(150));
        began = Instant::now();
        assert_eq!(used.ask(&Ask::get("/")).unwrap().text(), "pong");
    }
    silent.assert_closed();
    used.assert_closed();
    let after = began.elapsed();
    assert!(after > Duration::from_millis(300) && after < Duration::from_secs(4), "{after:?}");
    // Leaving after a rest is no failure.
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn a_body_may_be_slow_but_not_silent() {
    let backend = Backend::start("a");
    let config = setup().set("timeouts: {client_body: 500ms}").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let head = Ask::post("/").header("Content-Length", "10").bytes();
    conn.send(&head).unwrap();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(100));
        conn.send("x").unwrap();
    }
    assert_eq!(conn.answer("POST").unwrap().json()["body"], "x".repeat(10));
    conn.send(&head).unwrap();
    conn.send("x").unwrap();
    let began = Instant::now();
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    conn.assert_closed();
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0, "it was the client");
}

#[test]
fn beyond_the_limit_connections_wait_their_turn() {
    let proxy = Proxy::start(pinging("limits: {connections: 3}"));
    let address = proxy.address("web");
    let mut open: Vec<Conn> = (0..3).map(|_| Conn::open(address).unwrap()).collect();
    for conn in &mut open {
        assert_eq!(conn.ask(&Ask::get("/")).unwrap().status, 200);
    }
    let mut waiting: Vec<Conn> = (0..3).map(|_| Conn::open(address).unwrap()).collect();
    for conn in &mut waiting {
        conn.send(Ask::get("/").bytes()).unwrap();
    }
    eventually("the limit was hit", PATIENCE, || hits(&proxy, "connections") >= 1.0);
    // The others are served on, and nobody else is.
    for _ in 0..20 {
        for conn in &mut open {
            assert_eq!(conn.ask(&Ask::get("/")).unwrap().status, 200);
        }
    }
    assert!(waiting.iter().all(Conn::is_silent));
    proxy.wait_metric("evenkeel_open_connections", &[], 3.0);
    // One leaves, one comes in.
    for gone in 1..=3 {
        open.pop();
        let served = || waiting.iter().filter(|conn| !conn.is_silent()).count();
        eventually("one more is served", PATIENCE, || served() >= gone);
        assert_eq!(served(), gone);
    }
    for conn in &mut waiting {
        assert_eq!(conn.answer("GET").unwrap().status, 200);
    }
    drop(waiting);
    proxy.wait_metric("evenkeel_open_connections", &[], 0.0);
}

#[test]
fn one_client_cannot_take_all_the_places() {
    let proxy = Proxy::start(pinging("limits: {connections_per_client: 2}"));
    let open = |ip: &str| Conn::open_from(ip.parse().unwrap(), proxy.address("web")).unwrap();
    let mut first = [open("127.0.0.5"), open("127.0.0.5")];
    for conn in &mut first {
        assert_eq!(conn.ask(&Ask::get("/")).unwrap().status, 200);
    }
    let mut third = open("127.0.0.5");
    let refused = third.ask(&Ask::get("/")).unwrap_err();
    assert!(matches!(refused, Broken::Closed | Broken::Reset), "{refused}");
    assert_eq!(hits(&proxy, "connections_per_client"), 1.0);
    assert_eq!(open("127.0.0.6").ask(&Ask::get("/")).unwrap().status, 200);
    let [_, gone] = first;
    drop(gone);
    eventually("a place is free", PATIENCE, || {
        open("127.0.0.5").ask(&Ask::get("/")).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn an_answer_that_falls_silent_is_cut_and_a_slow_one_is_not() {
    let backend = RawBackend::open();
    let config = setup().set("timeouts: {stream_idle: 500ms}").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(100));
        peer.send("x");
    }
    let began = Instant::now();
    let broken = conn.answer("GET").unwrap_err();
    assert!(matches!(broken, Broken::Short | Broken::Reset), "{broken}");
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    peer.rest().unwrap_or_default();
    wait_failures(&proxy, "truncated", 1.0);
    proxy.wait_at_rest();
}

#[test]
fn a_request_as_a_whole_may_be_bounded() {
    let backends = [Backend::doing("a", "never"), Backend::doing("b", "never")];
    let routes =
        "[{match: {path: /bounded/*}, timeouts: {request: 400ms}, pool: web}, {pool: web}]";
    let config = setup()
        .set("timeouts: {response: 20s}")
        .listener("web", &format!("routes: {routes}"))
        .pool("web", &backends, "");
    let proxy = Proxy::start(config);
    let began = Instant::now();
    assert_eq!(get(proxy.address("web"), "/bounded/x").unwrap().status, 504);
    let after = began.elapsed();
    assert!(after > Duration::from_millis(350) && after < Duration::from_secs(4), "{after:?}");
    // An answer in progress is cut, too.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let broken = conn.ask(&Ask::get("/bounded/y").act("drip 100000 20")).unwrap_err();
    assert!(matches!(broken, Broken::Short | Broken::Reset), "{broken}");
    let after = began.elapsed() - after;
    assert!(after > Duration::from_millis(350) && after < Duration::from_secs(4), "{after:?}");
    proxy.wait_at_rest();
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut() {
    let backend = Backend::start("a");
    let config = setup().set("timeouts: {stream_idle: 400ms, client_idle: 400ms}");
    let proxy = Proxy::start(config.http("web", "web").pool("web", [&backend], ""));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/").act("bytes 30000000").bytes()).unwrap();
    conn.head().unwrap();
    proxy.wait_metric("evenkeel_listener_open_connections", &[], 0.0);
    proxy.wait_at_rest();
}

#[test]
fn a_second_process_on_the_same_address_fails_and_says_so() {
    let mut proxy = Proxy::start(pinging(""));
    let address = proxy.address("web");
    let config = setup().set(&format!("admin: {{listen: \"{}\"}}", crate::harness::free_address()));
    let keys = format!("bind: \"{address}\", routes: [{{respond: {{body: other}}}}]");
    let config = config.listener("web", &keys).pool("unused", ["127.0.0.1:1"], "").to_string();
    let folder = Folder::new();
    let file = folder.file("evenkeel.yaml", config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.arg("run").arg("--config").arg(file);
    let mut second = Child::start("the second", &mut command);
    assert!(!second.wait_exit(PATIENCE).success());
    eventually("it says why", PATIENCE, || {
        second.lines().iter().any(|line| {
            line.contains(&format!("cannot listen on {address}"))
                && line.contains("another process has it")
        })
    });
    assert_eq!(get(address, "/").unwrap().text(), "pong");
    assert!(proxy.stop().success());
}

#[test]
fn clients_wait_before_files_run_out() {
    let backend = Backend::start("a");
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start_after("ulimit -n 128", config);
    let address = proxy.address("web");
    let mut open: Vec<Conn> = (0..150).map(|_| Conn::open(address).unwrap()).collect();
    for conn in &mut open {
        conn.send(Ask::get("/").act("slow 20").bytes()).unwrap();
    }
    // Each is served when one before it has left; none is turned away.
    while !open.is_empty() {
        let next = open.iter().position(|conn| !conn.is_silent());
        let Some(next) = next else { continue };
        assert_eq!(open.swap_remove(next).answer("GET").unwrap().status, 200);
    }
    assert!(hits(&proxy, "connections") + hits(&proxy, "open_files") >= 1.0);
    proxy.wait_at_rest();
}

#[test]
fn what_is_no_http_at_all_harms_nobody() {
    let proxy = Proxy::start(pinging("timeouts: {client_header: 300ms}"));
    let mut seed = 0x9e37_79b9_u32;
    for _ in 0..200 {
        let conn = Conn::open(proxy.address("web")).unwrap();
        let noise: Vec<u8> = (0..200)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        // Whatever becomes of it.
        let _ = conn.stream().write_all(&noise);
        conn.finish_writing();
        let _ = conn.stream().read(&mut [0; 512]);
    }
    assert_eq!(get(proxy.address("web"), "/").unwrap().text(), "pong");
    assert_eq!(proxy.metric("evenkeel_worker_panics_total", &[]), 0.0);
}
