//! What could be read in two ways is refused: with a status, a closed connection, and nothing of it
//! at the backend.

use std::net::SocketAddr;

use crate::harness::{Ask, Conn, Proxy, RawBackend, setup};

fn start(limits: &str) -> (RawBackend, Proxy, SocketAddr) {
    let backend = RawBackend::open();
    let config = setup().set(limits).http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    let address = proxy.address("web");
    (backend, proxy, address)
}

/// Sends these bytes and expects this status, the end of the connection, and an idle backend.
#[track_caller]
fn assert_refused(backend: &RawBackend, address: SocketAddr, bytes: &[u8], status: u16) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let mut conn = Conn::open(address).unwrap();
    conn.send(bytes).unwrap();
    let method = if bytes.starts_with(b"HEAD") { "HEAD" } else { "GET" };
    let answer = conn.answer(method).unwrap_or_else(|why| panic!("{why} for {shown:?}"));
    assert_eq!(answer.status, status, "{shown:?}");
    assert!(answer.closes(), "{shown:?}: {:?}", answer.headers);
    // In order or by a reset, as not all that was sent may have been read.
    conn.rest().map_or_else(|_| (), |rest| assert_eq!(rest, b"", "{shown:?}"));
    assert!(!backend.is_called(), "the backend was asked for {shown:?}");
}

/// What follows a request that was refused must not be taken for another one.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}").into_bytes()
}

fn with_headers(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n{NEXT}").into_bytes()
}

#[test]
fn a_request_must_say_once_and_plainly_whom_it_is_for() {
    let (backend, _proxy, address) = start("");
    for lines in [
        "X-No: host",
        "Host: a\r\nHost: b",
        "Host: a\r\nHost: a",
        "Host:",
        "Host: a b",
        "Host: a/b",
        "Host: a,b",
        "Host: user@a",
        "Host: a:99999",
        "Host: a:http",
        "Host: [::1",
        "Host: *.a",
        "Host: a..b",
        "Host: a%2eb",
        "Host: b\u{fc}cher.example",
    ] {
        assert_refused(&backend, address, &with_headers(lines), 400);
    }
    for target in ["http://a b/", "http:///x", "http://user@a/", "a/b", "", "*", "?x", "http://"] {
        assert_refused(&backend, address, &get(target), 400);
    }
    let absolute = format!("GET http://a/ HTTP/1.1\r\n\r\n{NEXT}");
    assert_refused(&backend, address, absolute.as_bytes(), 400);
}

#[test]
fn where_a_body_ends_must_be_known() {
    let (backend, _proxy, address) = start("");
    for lines in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;x=y",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding:",
        "Content-Length: x",
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length: 1 2",
        "Content-Length: 0x1",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        assert_refused(&backend, address, &with_headers(&format!("Host: a\r\n{lines}")), 400);
    }
    let old =
        format!("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{NEXT}");
    assert_refused(&backend, address, old.as_bytes(), 400);
}

#[test]
fn a_target_means_the_same_to_everybody() {
    let (backend, _proxy, address) = start("");
    for target in [
        "/%00",
        "/a%00b?c",
        "/a\\b",
        "/a%5cb",
        "/a%5Cb",
        "/..\\admin",
        "/%",
        "/%2",
        "/%zz",
        "/a\u{e9}",
        "/a<b",
        "/a`b",
        "/public/..%2fadmin",
        "/public/..%2Fadmin",
        "/public%2f..%2fadmin",
        "/public/%2e%2e%2fadmin",
        "/public%2f%2E%2E/admin",
        "/a/.%2f",
    ] {
        assert_refused(&backend, address, &get(target), 400);
    }
}

#[test]
fn control_characters_are_nowhere_in_a_head() {
    let (backend, _proxy, address) = start("");
    for control in [0_u8, 1, 7, 8, 0x0b, 0x0c, 0x1b, 0x7f] {
        for (before, after) in [
            (&b"GET /a"[..], &b"b HTTP/1.1\r\nHost: a\r\n\r\n"[..]),
            (b"GET /?a", b"b HTTP/1.1\r\nHost: a\r\n\r\n"),
            (b"GET / HTTP/1.1\r\nHost: a", b"b\r\n\r\n"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b", b"c\r\n\r\n"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX-A", b": c\r\n\r\n"),
            (b"GE", b"T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let bytes = [before, &[control], after, NEXT.as_bytes()].concat();
            assert_refused(&backend, address, &bytes, 400);
        }
    }
    for lines in
        ["Host: a\r\nX-A: b\r\n c", "Host: a\r\nX-A : b", "Host: a\r\n: b", "Host: a\r\nX A: b"]
    {
        assert_refused(&backend, address, &with_headers(lines), 400);
    }
    assert_refused(&backend, address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400);
}

#[test]
fn connect_is_not_served() {
    let (backend, proxy, address) = start("");
    for target in ["a:443", "a.example:80"] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{NEXT}");
        assert_refused(&backend, address, bytes.as_bytes(), 405);
    }
    let mut conn = Conn::open(address).unwrap();
    let answer = conn.ask(&Ask::new("CONNECT", "a:443")).unwrap();
    assert!(answer.header("allow").is_some(), "RFC 9110 15.5.6 wants it");
    let cause = [("cause", "method_not_allowed")];
    proxy.wait_metric("evenkeel_listener_failures_total", &cause, 3.0);
}

#[test]
fn a_head_is_bounded_in_bytes_and_fields() {
    let (backend, proxy, address) = start("limits: {request_head: 16KiB, headers: 20}");
    let long = format!("Host: a\r\nX-Long: {}", "x".repeat(17 * 1024));
    assert_refused(&backend, address, &with_headers(&long), 431);
    let several: String = (0..9).map(|n| format!("\r\nX-{n}: {}", "x".repeat(2000))).collect();
    assert_refused(&backend, address, &with_headers(&format!("Host: a{several}")), 431);
    let many: String = (0..20).map(|n| format!("\r\nX-{n}: x")).collect();
    assert_refused(&backend, address, &with_headers(&format!("Host: a{many}")), 431);
    let head = [("limit", "request_head")];
    proxy.wait_metric("evenkeel_limit_hits_total", &head, 3.0);
    let cause = [("cause", "head_too_large")];
    proxy.wait_metric("evenkeel_listener_failures_total", &cause, 3.0);
    // As much as is allowed passes.
    let fields: String = (0..19).map(|n| format!("\r\nX-{n}: {}", "x".repeat(800))).collect();
    let mut conn = Conn::open(address).unwrap();
    conn.send(format!("GET / HTTP/1.1\r\nHost: a{fields}\r\n\r\n")).unwrap();
    let mut peer = backend.accept();
    assert_eq!(peer.head().one("x-18").len(), 800);
    peer.answer("ok");
    assert_eq!(conn.answer("GET").unwrap().status, 200);
}

#[test]
fn a_body_is_bounded_whether_its_length_is_declared_or_not() {
    let (backend, proxy, address) = start("limits: {request_body: 10KiB}");
    let declared = Ask::post("/").body(vec![b'x'; 10 * 1024 + 1]);
    assert_refused(&backend, address, &declared.bytes(), 413);

    let mut conn = Conn::open(address).unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    conn.send(format!("{head}2800\r\n{}\r\n", "x".repeat(0x2800))).unwrap();
    let mut peer = backend.accept();
    peer.head();
    let mut came = 0;
    while came < 0x2800 {
        came += peer.chunk().len();
    }
    assert!(conn.is_silent(), "so much is allowed");
    conn.send("1\r\ny\r\n").unwrap();
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.status, answer.closes()), (413, true));
    conn.assert_closed();
    let rest = peer.rest().unwrap_or_default();
    assert_eq!(rest, b"", "the backend must neither get more nor take it for the end");
    proxy.wait_metric("evenkeel_limit_hits_total", &[("limit", "request_body")], 2.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    proxy.wait_at_rest();

    let mut conn = Conn::open(address).unwrap();
    conn.send(Ask::post("/").body(vec![b'x'; 10 * 1024]).bytes()).unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    assert_eq!(peer.body(&head).len(), 10 * 1024);
    peer.answer("ok");
    assert_eq!(conn.answer("POST").unwrap().status, 200);
}
