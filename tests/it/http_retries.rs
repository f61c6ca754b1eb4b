//! What fails is tried again where that is safe, and only there: no request that counts is executed
//! twice, and what was cut short is never passed off as whole.

use std::thread;

use crate::harness::{
    Ask, Backend, Broken, Conn, PATIENCE, Proxy, RawBackend, RawPeer, eventually, executed_twice,
    refusing_address, setup,
};

/// Backends in the order in which they are tried.
fn first<B: std::fmt::Display>(backends: impl IntoIterator<Item = B>) -> (Proxy, Conn) {
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", backends, "balance: first"));
    let conn = Conn::open(proxy.address("web")).unwrap();
    (proxy, conn)
}

/// Answers on a fresh connection, and closes it without having said so.
#[track_caller]
fn answer_and_close(backend: &RawBackend) -> Vec<u8> {
    let mut peer = backend.accept();
    let head = peer.head();
    let body = peer.body(&head);
    peer.answer("once");
    body
}

#[test]
fn a_connection_that_the_backend_closed_while_idle_is_no_error() {
    let backend = RawBackend::open();
    let (proxy, mut conn) = first([&backend]);
    for round in 0..20 {
        for method in ["GET", "POST", "PUT", "PATCH", "HEAD", "DELETE"] {
            let ask = Ask::new(method, "/").body(format!("round {round}"));
            conn.send(ask.bytes()).unwrap();
            // On a fresh connection: the one of the request before is closed by now.
            assert_eq!(answer_and_close(&backend), ask.body, "{method}");
            assert_eq!(conn.answer(method).unwrap().status, 200, "{method}");
        }
    }
    proxy.wait_metric("evenkeel_backend_connections_total", &[], 120.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    assert_eq!(proxy.metric("evenkeel_pool_retries_total", &[]), 0.0);
}

#[test]
fn a_backend_that_closes_after_every_answer_serves_gets_without_an_error() {
    let backend = Backend::doing("a", "close_after");
    let (_proxy, mut conn) = first([&backend]);
    for n in 0..200 {
        let id = n.to_string();
        let answer = conn.ask(&Ask::get("/").header("x-id", &id)).unwrap();
        assert_eq!((answer.status, answer.header("x-echo-id")), (200, Some(id)));
    }
    // One that dies with a GET on it costs a second try, not a second execution.
    assert_eq!(executed_twice("GET", [&backend]), [""; 0]);
}

#[test]
fn a_kept_connection_that_breaks_under_a_get_is_replaced() {
    let backend = RawBackend::open();
    let (proxy, mut conn) = first([&backend]);
    conn.send(Ask::get("/1").bytes()).unwrap();
    let mut kept = backend.accept();
    kept.head();
    kept.answer("one");
    assert_eq!(conn.answer("GET").unwrap().text(), "one");
    // The same connection; it breaks when the request is there.
    conn.send(Ask::new("PUT", "/2").body("twice is as good as once").bytes()).unwrap();
    let head = kept.head();
    kept.body(&head);
    kept.reset();
    assert_eq!(answer_and_close(&backend), b"twice is as good as once");
    assert_eq!(conn.answer("PUT").unwrap().text(), "once");
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

/// Reads one request whole, and resets.
#[track_caller]
fn read_and_reset(backend: &RawBackend) -> Vec<u8> {
    let mut peer: RawPeer = backend.accept();
    let head = peer.head();
    let body = peer.body(&head);
    peer.reset();
    body
}

#[test]
fn a_post_that_may_have_been_executed_is_not_sent_again() {
    let (a, b) = (RawBackend::open(), RawBackend::open());
    let (proxy, _) = first([&a, &b]);
    for method in ["POST", "PATCH"] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(Ask::new(method, "/").body("pay").bytes()).unwrap();
        assert_eq!(read_and_reset(&a), b"pay");
        assert_eq!(conn.answer(method).unwrap().status, 502, "{method}");
        assert!(!b.is_called(), "{method}");
    }
    // A connection that was refused has executed nothing.
    let (_proxy, mut conn) = first([refusing_address(), b.address]);
    let body = vec![b'x'; 300_000];
    conn.send(Ask::post("/").body(&body).bytes()).unwrap();
    assert_eq!(answer_and_close(&b), body);
    assert_eq!(conn.answer("POST").unwrap().status, 200);
}

#[test]
fn a_put_is_sent_again_with_its_body_as_long_as_that_is_kept() {
    for (size, again) in [(0, true), (1, true), (64 << 10, true), ((64 << 10) + 1, false)] {
        let (a, b) = (RawBackend::open(), RawBackend::open());
        let (proxy, mut conn) = first([&a, &b]);
        let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
        conn.send(Ask::new("PUT", "/").body(&body).bytes()).unwrap();
        assert_eq!(read_and_reset(&a), body);
        if again {
            assert_eq!(answer_and_close(&b), body, "{size}");
        }
        let status = conn.answer("PUT").unwrap().status;
        assert_eq!(status, if again { 200 } else { 502 }, "{size}");
        assert!(!b.is_called(), "{size}");
        let retries = if again { 1.0 } else { 0.0 };
        proxy.wait_metric("evenkeel_pool_retries_total", &[("cause", "reset")], retries);
    }
}

#[test]
fn a_chunked_put_is_sent_again_too() {
    let (a, b) = (RawBackend::open(), RawBackend::open());
    let (_proxy, mut conn) = first([&a, &b]);
    conn.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .unwrap();
    let mut peer = a.accept();
    peer.head();
    assert_eq!(peer.chunk(), b"one");
    // In the middle of the request.
    peer.reset();
    let mut peer = b.accept();
    peer.head();
    assert_eq!(peer.chunk(), b"one");
    conn.send("3\r\ntwo\r\n0\r\n\r\n").unwrap();
    assert_eq!((peer.chunk(), peer.chunk()), (b"two".to_vec(), b"".to_vec()));
    peer.answer("ok");
    assert_eq!(conn.answer("PUT").unwrap().text(), "ok");
}

#[test]
fn there_are_three_attempts_at_three_backends() {
    let all: Vec<_> = (0..5).map(|n| Backend::doing(&n.to_string(), "reset")).collect();
    let (proxy, mut conn) = first(&all);
    assert_eq!(conn.ask(&Ask::get("/").header("x-id", "7")).unwrap().status, 502);
    let tried: Vec<usize> = all.iter().map(|backend| backend.ledger().len()).collect();
    assert_eq!(tried, [1, 1, 1, 0, 0]);
    proxy.wait_metric("evenkeel_pool_retries_total", &[], 2.0);
    eventually("there is a line of the log", PATIENCE, || {
        proxy.events_saying("request failed").iter().any(|line| line["attempts"] == 3)
    });
}

#[test]
fn every_way_to_fail_before_an_answer_is_retried() {
    let b = Backend::start("b");
    for act in ["reset", "close", "garbage", "never", "raw HTTP/1.1 200"] {
        let a = Backend::doing("a", act);
        let config = setup().set("timeouts: {response: 200ms}").http("web", "web");
        let proxy = Proxy::start(config.pool("web", [&a, &b], "balance: first"));
        for _ in 0..3 {
            let answer = crate::harness::get(proxy.address("web"), "/").unwrap();
            assert_eq!(answer.header("x-backend").as_deref(), Some("b"), "{act}");
        }
        proxy.wait_at_rest();
    }
}

#[test]
fn retries_beyond_the_first_are_bounded_by_a_budget() {
    let failing = [Backend::doing("a", "reset"), Backend::doing("b", "reset")];
    let slow = Backend::doing("c", "slow 1500");
    let all = failing.iter().chain([&slow]);
    let config = setup().set("workers: 1").http("web", "web");
    let config = config.pool("web", all, "balance: first, outlier: off");
    let proxy = Proxy::start(config);
    let address = proxy.address("web");
    let clients: Vec<_> = (0..12)
        .map(|_| thread::spawn(move || crate::harness::get(address, "/").unwrap().status))
        .collect();
    let mut answers: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    answers.sort_unstable();
    // Of twelve in progress a fifth is less than the three that are always allowed.
    let expected = [[200; 3].as_slice(), &[502; 9]].concat();
    assert_eq!(answers, expected);
    proxy.wait_metric("evenkeel_pool_retry_budget_exhausted_total", &[], 9.0);
    proxy.wait_at_rest();
}

#[test]
fn an_answer_that_was_cut_short_is_seen_to_be() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let (proxy, _) = first([&a, &b]);
    for act in [
        "truncate 0",
        "truncate 5000",
        "truncate_chunked 5000",
        "reset_after 5000",
        "raw HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nhello\\r\\nzz\\r\\n",
    ] {
        let truncated = [("cause", "truncated")];
        let before = proxy.metric("evenkeel_listener_failures_total", &truncated);
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        let broken = conn.ask(&Ask::get("/").act(act).header("x-id", act)).unwrap_err();
        assert!(
            matches!(broken, Broken::Short | Broken::Reset | Broken::Closed),
            "{act}: {broken}"
        );
        proxy.wait_metric("evenkeel_listener_failures_total", &truncated, before + 1.0);
    }
    // What has begun is not begun again elsewhere.
    assert_eq!((a.ledger().len(), b.ledger().len()), (5, 0));
    proxy.wait_at_rest();
}
