//! Whatever way a request and its answer are framed, both sides get every byte, and only those.

use std::time::Duration;

use crate::harness::{Answer, Ask, Backend, Broken, Conn, Proxy, RawBackend, program, setup};

fn with_backend(act: &str) -> (Backend, Proxy, Conn) {
    let backend = Backend::doing("a", act);
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&backend], ""));
    let conn = Conn::open(proxy.address("web")).unwrap();
    (backend, proxy, conn)
}

fn with_raw_backend() -> (RawBackend, Proxy, Conn) {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    let conn = Conn::open(proxy.address("web")).unwrap();
    (backend, proxy, conn)
}

#[test]
fn connections_are_kept_as_their_version_has_it() {
    let (_a, proxy, mut conn) = with_backend("answer");
    for _ in 0..3 {
        let answer = conn.ask(&Ask::get("/")).unwrap();
        assert_eq!((answer.status, answer.closes()), (200, false));
    }
    assert!(conn.ask(&Ask::get("/").header("Connection", "close")).unwrap().closes());
    conn.assert_closed();

    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for _ in 0..3 {
        conn.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let answer = conn.answer("GET").unwrap();
        assert_eq!((answer.status, answer.closes()), (200, false), "{answer:?}");
        let kept = answer.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert_eq!(kept, "keep-alive", "a client of HTTP/1.0 has to be told");
    }
    conn.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(conn.answer("GET").unwrap().status, 200);
    conn.assert_closed();
}

#[test]
fn a_client_of_http10_gets_no_chunks() {
    let (_a, _proxy, mut conn) = with_backend("chunked 5000");
    conn.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = conn.answer("GET").unwrap();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.body.len(), 5000);
}

#[test]
fn pipelined_requests_are_answered_in_order_each_once() {
    let (a, _proxy, mut conn) = with_backend("answer");
    let ask = |n: usize| {
        let (target, id) = (format!("/{n}"), n.to_string());
        let ask = match n % 3 {
            0 => Ask::get(&target).act("slow 20"),
            1 => Ask::post(&target).body("x".repeat(n * 100)),
            _ => Ask::get(&target),
        };
        ask.header("x-id", &id)
    };
    let all: Vec<u8> = (0..30).flat_map(|n| ask(n).bytes()).collect();
    conn.send(all).unwrap();
    for n in 0..30 {
        let answer = conn.answer("GET").unwrap();
        assert_eq!(answer.header("x-echo-id"), Some(n.to_string()));
        assert_eq!(
            answer.json()["body"].as_str().unwrap().len() as u64,
            match n % 3 {
                1 => n * 100,
                _ => 0,
            }
        );
    }
    assert!(conn.is_silent());
    let ids: Vec<String> = a.ledger().into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn chunked_bodies_pass_both_ways_as_they_come() {
    let (backend, _proxy, mut conn) = with_raw_backend();
    let head = "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    conn.send(format!("{head}5;ext=\"1\"\r\nhello\r\n")).unwrap();
    let mut peer = backend.accept();
    let got = peer.head();
    assert_eq!(got.one("transfer-encoding"), "chunked");
    assert_eq!(peer.chunk(), b"hello", "the first chunk is not held back for the second");
    conn.send("00A\r\n, and more\r\n").unwrap();
    assert_eq!(peer.chunk(), b", and more");
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    let answer = conn.head().unwrap();
    assert_eq!(answer.header("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(conn.bytes(8).unwrap(), b"3\r\none\r\n", "while the request is not over yet");
    conn.send("0\r\n\r\n").unwrap();
    assert_eq!(peer.chunk(), b"");
    peer.send("4\r\ntwo!\r\n0\r\n\r\n");
    assert_eq!(conn.bytes(14).unwrap(), b"4\r\ntwo!\r\n0\r\n\r\n");
    // Both connections are at a message's end.
    conn.send(Ask::get("/again").bytes()).unwrap();
    assert_eq!(peer.head().line, "GET /again HTTP/1.1");
    peer.answer("there");
    assert_eq!(conn.answer("GET").unwrap().text(), "there");
}

#[test]
fn answers_without_a_body_have_none_and_the_next_one_follows() {
    let (backend, _proxy, mut conn) = with_raw_backend();
    let mut peer = None;
    for (method, head, status, length) in [
        ("HEAD", "200 OK\r\nContent-Length: 1000", 200, Some("1000")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", 200, None),
        ("GET", "204 No Content", 204, None),
        ("POST", "204 No Content", 204, None),
        ("GET", "304 Not Modified\r\nETag: \"x\"", 304, None),
        ("GET", "200 OK\r\nContent-Length: 0", 200, Some("0")),
        ("HEAD", "404 Not Found\r\nContent-Length: 9", 404, Some("9")),
    ] {
        conn.send(Ask::new(method, "/").bytes()).unwrap();
        let peer = peer.get_or_insert_with(|| backend.accept());
        assert_eq!(peer.head().line, format!("{method} / HTTP/1.1"));
        peer.send(format!("HTTP/1.1 {head}\r\n\r\n"));
        let answer = conn.answer(method).unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{method} {head}");
        assert_eq!(answer.header("content-length").as_deref(), length, "{method} {head}");
        assert!(!answer.closes(), "{method} {head}");
        assert!(conn.is_silent(), "{method} {head}");
    }
}

#[test]
fn absolute_targets_are_for_the_authority_that_they_name() {
    let backend = RawBackend::open();
    let routes = "[{match: {host: b.example}, pool: web}]";
    let config = setup().listener("web", &format!("routes: {routes}")).pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send("GET http://b.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    assert_eq!(head.line, "GET /x?y HTTP/1.1");
    assert_eq!(head.one("host"), "b.example");
    peer.answer("ok");
    assert_eq!(conn.answer("GET").unwrap().text(), "ok");
}

#[test]
fn options_of_everything_reaches_the_backend_as_it_is() {
    let (backend, _proxy, mut conn) = with_raw_backend();
    conn.send(Ask::new("OPTIONS", "*").bytes()).unwrap();
    let mut peer = backend.accept();
    assert_eq!(peer.head().line, "OPTIONS * HTTP/1.1");
    peer.send("HTTP/1.1 200 OK\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(conn.answer("OPTIONS").unwrap().header("allow").as_deref(), Some("GET"));
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let (_a, _proxy, mut conn) = with_backend("until_close");
    for _ in 0..3 {
        assert_eq!(conn.ask(&Ask::get("/")).unwrap().text(), "until the end");
    }
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to() {
    let (_a, proxy, mut conn) = with_backend("answer");
    let ask = Ask::post("/").header("Expect", "100-continue").body("the body");
    let bytes = ask.bytes();
    let (head, body) = bytes.split_at(bytes.len() - 8);
    conn.send(head).unwrap();
    assert_eq!(conn.bytes(25).unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    conn.send(body).unwrap();
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.status, answer.interim.len()), (200, 0));
    assert_eq!(answer.json()["body"], "the body");
    if !program("curl") {
        return;
    }
    let body = "b".repeat(100_000);
    let file = proxy.folder().join("body");
    std::fs::write(&file, &body).unwrap();
    let output = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "20", "--expect100-timeout", "19"])
        .args(["-H", "Expect: 100-continue", "-w", "%{http_code}", "-o", "/dev/null"])
        .arg("--data-binary")
        .arg(format!("@{}", file.display()))
        .arg(format!("http://{}/", proxy.address("web")))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{output:?}");
}

#[test]
fn a_client_that_shuts_its_side_still_gets_its_answer() {
    for act in ["answer", "slow 200", "drip 5 30", "until_close"] {
        let (_a, _proxy, mut conn) = with_backend(act);
        conn.send(Ask::post("/").body("all of it").bytes()).unwrap();
        conn.finish_writing();
        let answer = conn.answer("POST").unwrap();
        assert_eq!(answer.status, 200, "{act}");
        conn.assert_closed();
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_frees_its_lease() {
    let (_a, proxy, mut closes) = with_backend("drip 100000 5");
    let mut resets = Conn::open(proxy.address("web")).unwrap();
    for conn in [&mut closes, &mut resets] {
        conn.send(Ask::get("/").bytes()).unwrap();
        conn.head().unwrap();
    }
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 2.0);
    drop(closes);
    resets.reset();
    proxy.wait_at_rest();
    let gone = [("cause", "client_gone")];
    proxy.wait_metric("evenkeel_listener_failures_total", &gone, 2.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
}

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn an_upgraded_connection_carries_what_either_side_sends_early_or_late() {
    let (backend, proxy, mut conn) = with_raw_backend();
    conn.send(format!("{UPGRADE}early from the client")).unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    assert_eq!((head.one("connection"), head.one("upgrade")), ("upgrade", "websocket"));
    peer.send(format!("{SWITCHED}early from the backend"));
    let answer = conn.head().unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(conn.bytes(22).unwrap(), b"early from the backend");
    assert_eq!(peer.bytes(21), b"early from the client");
    conn.send("ping").unwrap();
    assert_eq!(peer.bytes(4), b"ping");
    peer.send("pong");
    assert_eq!(conn.bytes(4).unwrap(), b"pong");
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
    conn.finish_writing();
    assert_eq!(peer.rest().unwrap(), b"");
    peer.send("late");
    drop(peer);
    assert_eq!(conn.rest().unwrap(), b"late");
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_requests_total", &[("class", "1xx")], 1.0);
}

#[test]
fn the_backend_may_end_its_side_of_an_upgraded_connection_first() {
    let (backend, proxy, mut conn) = with_raw_backend();
    conn.send(UPGRADE).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.send(SWITCHED);
    assert_eq!(conn.head().unwrap().status, 101);
    peer.finish_writing();
    assert_eq!(conn.rest().unwrap(), b"");
    conn.send("more").unwrap();
    drop(conn);
    assert_eq!(peer.rest().unwrap(), b"more");
    proxy.wait_at_rest();
}

#[test]
fn a_backend_need_not_agree_to_an_upgrade() {
    let (backend, _proxy, mut conn) = with_raw_backend();
    conn.send(UPGRADE).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.answer("no");
    let answer: Answer = conn.answer("GET").unwrap();
    assert_eq!((answer.status, answer.closes()), (200, false));
    conn.send(Ask::get("/").bytes()).unwrap();
    conn.patience(Duration::from_millis(50));
    assert_eq!(conn.answer("GET").unwrap_err(), Broken::Silent, "the backend got it");
}
