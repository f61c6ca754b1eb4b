//! Failures that clients do not notice: answers that are asked for again, answers that are held back
//! until they are whole, and second copies of requests that nobody answers.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Ask, Backend, Broken, Conn, PATIENCE, Proxy, RawBackend, eventually, executed_twice, get, setup,
};

fn start<B: std::fmt::Display>(backends: impl IntoIterator<Item = B>, keys: &str) -> Proxy {
    let config = setup().set("workers: 1").http("web", "web");
    Proxy::start(config.pool("web", backends, &format!("balance: first, {keys}")))
}

#[test]
fn a_backend_that_says_it_cannot_is_not_the_last_word() {
    let b = Backend::start("b");
    for status in [502, 503, 504] {
        let a = Backend::doing("a", &format!("status {status}"));
        let proxy = start([&a, &b], "outlier: off");
        for method in ["GET", "PUT", "DELETE"] {
            let mut conn = Conn::open(proxy.address("web")).unwrap();
            let answer = conn.ask(&Ask::new(method, "/").body("x")).unwrap();
            assert_eq!(answer.header("x-backend").as_deref(), Some("b"), "{status} {method}");
        }
        // What counts is not sent twice: the client gets the answer, as it came.
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        let answer = conn.ask(&Ask::post("/").body("x")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, "as told\n"));
        // Unless the client says that it may be.
        let marked = Ask::post("/").header("idempotency-key", "7").body("x");
        assert_eq!(conn.ask(&marked).unwrap().header("x-backend").as_deref(), Some("b"));
        let cause = status.to_string();
        proxy.wait_metric("evenkeel_pool_retries_total", &[("cause", &cause)], 4.0);
        proxy.wait_metric("evenkeel_pool_masked_failures_total", &[], 4.0);
    }
}

#[test]
fn an_answer_that_nobody_does_better_is_passed_on() {
    let a = Backend::doing("a", "status 503");
    let proxy = start([&a], "outlier: off");
    let answer = get(proxy.address("web"), "/").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (503, "as told\n"));
    assert_eq!(proxy.metric("evenkeel_pool_retries_total", &[]), 0.0);
    // Other errors are the application's own.
    let b = Backend::start("b");
    let proxy = start([&a, &b], "outlier: off");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    assert_eq!(conn.ask(&Ask::get("/").act("status 500")).unwrap().status, 500);
}

#[test]
fn only_what_the_pool_wants_is_tried_again() {
    let (a, b) = (Backend::doing("a", "status 503"), Backend::start("b"));
    let proxy = start([&a, &b], "retry: {on: [connect, reset]}, outlier: off");
    assert_eq!(get(proxy.address("web"), "/").unwrap().status, 503);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let answer = conn.ask(&Ask::get("/").act("reset").header("x-id", "1"));
    // Both do as they are told: each was asked once, then one again. (A connection that had rested
    // may have been to blame: a fresh one is no other attempt.)
    assert_eq!(answer.unwrap().status, 502);
    assert!((3..=4).contains(&(a.ledger().len() + b.ledger().len())) && !b.ledger().is_empty());
    proxy.wait_metric("evenkeel_pool_retries_total", &[("cause", "reset")], 2.0);
}

#[test]
fn a_backend_that_wants_to_be_spared_is() {
    let a = RawBackend::open();
    let b = Backend::start("b");
    let config = setup().set("workers: 1").http("web", "web");
    let backends = [a.to_string(), b.to_string()];
    let keys = "balance: first, outlier: off, keepalive: {max_idle: 0}";
    let proxy = Proxy::start(config.pool("web", backends, keys));
    let address = proxy.address("web");
    let asking = thread::spawn(move || get(address, "/").unwrap());
    let mut peer = a.accept();
    peer.head();
    peer.send("HTTP/1.1 503 No\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n");
    let told = Instant::now();
    assert_eq!(asking.join().unwrap().header("x-backend").as_deref(), Some("b"));
    while told.elapsed() < Duration::from_millis(1500) {
        assert_eq!(get(address, "/").unwrap().header("x-backend").as_deref(), Some("b"));
        assert!(!a.is_called());
    }
    eventually("it is asked again", PATIENCE, || {
        let asking = thread::spawn(move || get(address, "/"));
        thread::sleep(Duration::from_millis(20));
        let called = a.is_called();
        drop(asking.join());
        called
    });
}

#[test]
fn a_short_answer_that_breaks_is_asked_for_again() {
    let b = Backend::start("b");
    for (n, act) in ["truncate 10", "reset_after 10"].into_iter().enumerate() {
        let short = "raw HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\ntoo short";
        let a = Backend::doing("a", short);
        let proxy = start([&a, &b], "outlier: off");
        for method in ["GET", "PUT"] {
            let mut conn = Conn::open(proxy.address("web")).unwrap();
            let answer = conn.ask(&Ask::new(method, "/").body("x")).unwrap();
            assert_eq!(answer.header("x-backend").as_deref(), Some("b"), "{method}");
        }
        proxy.wait_metric("evenkeel_pool_retries_total", &[("cause", "truncated")], 2.0);
        proxy.wait_metric("evenkeel_pool_held_back_total", &[], 2.0);
        assert_eq!(proxy.metric("evenkeel_pool_held_back_bytes", &[]), 0.0);
        // What may have been executed is not sent again, and what is long is not held.
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        let id = n.to_string();
        let post = Ask::post("/").header("x-id", &id).body("x");
        let broken = conn.ask(&post).unwrap_err();
        assert!(matches!(broken, Broken::Short | Broken::Reset | Broken::Closed), "{broken}");
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.ask(&Ask::get("/").act(act)).unwrap_err();
        assert_eq!(executed_twice("POST", [&a, &b]), [""; 0]);
    }
}

#[test]
fn a_slow_answer_is_held_back_for_a_moment_only() {
    let a = RawBackend::open();
    let proxy = start([&a], "");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut peer = a.accept();
    peer.head();
    let begun = Instant::now();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    let head = conn.head().unwrap();
    let held = begun.elapsed();
    assert_eq!(head.status, 200);
    assert!(held >= Duration::from_millis(40) && held < Duration::from_secs(2), "{held:?}");
    assert_eq!(conn.bytes(5).unwrap(), b"first");
    peer.send(" last");
    assert_eq!(conn.bytes(5).unwrap(), b" last");
    // What is whole is not held.
    conn.send(Ask::get("/").bytes()).unwrap();
    peer.head();
    peer.answer("whole");
    assert_eq!(conn.answer("GET").unwrap().text(), "whole");
    assert_eq!(proxy.metric("evenkeel_pool_held_back_total", &[]), 1.0);
}

#[test]
fn a_client_that_leaves_an_answer_held_back_frees_its_backend() {
    let a = RawBackend::open();
    let proxy = start([&a], "");
    for _ in 0..3 {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(Ask::get("/").bytes()).unwrap();
        let mut peer = a.accept();
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        conn.reset();
        proxy.wait_at_rest();
    }
    assert_eq!(proxy.metric("evenkeel_pool_held_back_bytes", &[]), 0.0);
}

#[test]
fn a_frozen_backend_costs_a_moment_where_hedges_are_on() {
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let proxy = start([&a, &b], "retry: {hedge: {after: 100ms}}, outlier: off");
    let address = proxy.address("web");
    assert_eq!(get(address, "/").unwrap().header("x-backend").as_deref(), Some("a"));
    a.freeze();
    for n in 0..5 {
        let asked = Instant::now();
        let answer = Conn::open(address).unwrap().ask(&Ask::get(&format!("/{n}"))).unwrap();
        let took = asked.elapsed();
        assert_eq!(answer.header("x-backend").as_deref(), Some("b"));
        assert!(took >= Duration::from_millis(90) && took < Duration::from_secs(3), "{took:?}");
    }
    proxy.wait_metric("evenkeel_pool_hedges_total", &[], 5.0);
    proxy.wait_metric("evenkeel_pool_hedges_won_total", &[], 5.0);
    proxy.wait_metric("evenkeel_pool_masked_failures_total", &[], 5.0);
    // Nothing of the losers is left.
    proxy.wait_at_rest();
    a.thaw();
    assert_eq!(get(address, "/").unwrap().header("x-backend").as_deref(), Some("a"));
    // What has a body, or counts, is not copied.
    a.now("slow 300");
    for ask in [Ask::post("/").body("x"), Ask::new("PUT", "/").body("x"), Ask::post("/")] {
        let answer = Conn::open(address).unwrap().ask(&ask).unwrap();
        assert_eq!(answer.header("x-backend").as_deref(), Some("a"));
    }
    assert_eq!(proxy.metric("evenkeel_pool_hedges_total", &[]), 5.0);
}

#[test]
fn of_two_copies_the_first_good_answer_wins() {
    let (a, b) = (RawBackend::open(), RawBackend::open());
    let proxy = start([&a, &b], "retry: {hedge: {after: 50ms}}, outlier: off");
    // The second says that it cannot: the first one's answer is waited for.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut first = a.accept();
    first.head();
    let mut second = b.accept();
    second.head();
    second.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    thread::sleep(Duration::from_millis(50));
    first.send("HTTP/1.1 103 Early\r\nLink: x\r\n\r\n");
    first.answer("late");
    let answer = conn.answer("GET").unwrap();
    assert_eq!((answer.text().as_str(), answer.interim), ("late", vec![103]));
    proxy.wait_at_rest();
    // Both break: it is tried again within its attempts, three in all.
    conn.send(Ask::get("/").bytes()).unwrap();
    first.head();
    let mut second = b.accept();
    second.head();
    first.reset();
    second.reset();
    let mut third = a.accept();
    third.head();
    third.answer("at last");
    assert_eq!(conn.answer("GET").unwrap().text(), "at last");
    proxy.wait_at_rest();
    // A client that leaves takes both with it.
    conn.send(Ask::get("/").bytes()).unwrap();
    third.head();
    let mut second = b.accept();
    second.head();
    conn.reset();
    assert_eq!(second.rest().unwrap(), b"");
    proxy.wait_at_rest();
}

#[test]
fn one_backend_that_fails_is_asked_again_after_a_pause() {
    let backend = Backend::doing("a", "reset");
    let proxy = start([&backend], "outlier: off");
    let asked = Instant::now();
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    assert_eq!(conn.ask(&Ask::get("/").header("x-id", "7")).unwrap().status, 502);
    assert_eq!(backend.ledger().len(), 3);
    // Two pauses, of 25 and 50 ms, jittered down to half.
    assert!(asked.elapsed() >= Duration::from_millis(37), "{:?}", asked.elapsed());
    // What takes its time to fail is not waited for once more.
    let frozen = Backend::doing("b", "never");
    let proxy = start([&frozen], "outlier: off, timeouts: {response: 200ms}");
    assert_eq!(get(proxy.address("web"), "/").unwrap().status, 504);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 1.0);
}
