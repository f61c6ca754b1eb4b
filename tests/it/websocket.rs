//! WebSocket from clients of HTTP/2 (RFC 8441) to backends of HTTP/1.1: the handshake that neither side
//! sees the whole of, then bytes both ways with their ends and resets.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::Reason;

use crate::harness::websocket::{Client, Socket, switched};
use crate::harness::{Backend, PATIENCE, Proxy, RawBackend, Signal, setup};

fn start(keys: &str) -> (RawBackend, Proxy, Client) {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], keys);
    let proxy = Proxy::start(config);
    let client = Client::open(proxy.address("web"));
    (backend, proxy, client)
}

#[test]
fn a_connect_becomes_an_upgrade_and_bytes_go_both_ways() {
    let (backend, proxy, client) = start("");
    let (answer, up) = client.connect("/chat?room=1", "websocket");
    let mut peer = backend.accept();
    let head = peer.head();
    assert_eq!(head.line, "GET /chat?room=1 HTTP/1.1");
    assert_eq!((head.one("connection"), head.one("upgrade")), ("upgrade", "websocket"));
    assert_eq!((head.one("host"), head.one("sec-websocket-version")), ("test.example", "13"));
    assert_eq!(STANDARD.decode(head.one("sec-websocket-key")).unwrap().len(), 16);
    peer.send(switched(&head) + "early from the backend");
    let answer = client.wait(answer).unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    for gone in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!headers.contains_key(gone), "{headers:?}");
    }
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    let mut socket = Socket { handle: client.handle.clone(), up, down: answer.into_body() };
    assert_eq!(socket.text(), "early from the backend");
    socket.send("ping");
    assert_eq!(peer.bytes(4), b"ping");
    peer.send("pong");
    assert_eq!(socket.text(), "pong");
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
    // A half-close, and what comes after it the other way.
    socket.finish();
    assert_eq!(peer.rest().unwrap(), b"");
    peer.send("late");
    drop(peer);
    assert_eq!(socket.text(), "late");
    assert!(socket.next().is_none());
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn the_backend_may_end_its_side_first_and_others_share_the_connection() {
    let (backend, proxy, client) = start("");
    let (mut one, mut peer) = client.socket(&backend);
    let (mut other, mut its_peer) = client.socket(&backend);
    peer.finish_writing();
    assert!(one.next().is_none());
    one.send("more");
    one.finish();
    assert_eq!(peer.rest().unwrap(), b"more");
    drop(peer);
    its_peer.send("still there");
    assert_eq!(other.text(), "still there");
    other.finish();
    drop(its_peer);
    assert!(other.next().is_none());
    proxy.wait_at_rest();
}

#[test]
fn a_reset_goes_on_as_a_reset() {
    let (backend, proxy, client) = start("");
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let (mut socket, mut peer) = client.socket(&backend);
        socket.up.send_reset(reason);
        assert_eq!(peer.rest().unwrap_err().kind(), ErrorKind::ConnectionReset, "{reason}");
        proxy.wait_at_rest();
    }
    let gone = [("cause", "client_gone")];
    proxy.wait_metric("evenkeel_listener_failures_total", &gone, 2.0);
    let (mut socket, peer) = client.socket(&backend);
    peer.reset();
    let error = socket.next().expect("an end").expect_err("not in order");
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    let truncated = [("cause", "truncated")];
    proxy.wait_metric("evenkeel_backend_failures_total", &truncated, 1.0);
    // A client that is gone altogether.
    let (_socket, mut peer) = client.socket(&backend);
    let (_, mut other) = client.socket(&backend);
    drop(_socket);
    drop(client);
    for peer in [&mut peer, &mut other] {
        assert_eq!(peer.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
}

#[test]
fn silence_ends_it() {
    let (backend, proxy, client) = start("timeouts: {stream_idle: 300ms}");
    let (mut socket, mut peer) = client.socket(&backend);
    socket.send("once");
    assert_eq!(peer.bytes(4), b"once");
    assert!(socket.next().is_none_or(|data| data.is_err()));
    assert_eq!(peer.rest().unwrap(), b"");
    proxy.wait_at_rest();
}

/// Neither side can make us hold what the other does not take.
#[test]
fn who_takes_nothing_stops_the_other_side() {
    const MOST: usize = 32 << 20;
    let (backend, proxy, client) = start("");
    let (mut socket, mut peer) = client.socket(&backend);
    let before = proxy.memory_bytes("VmRSS");
    let mut stream = peer.stream().try_clone().unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut sent, piece) = (0, vec![b'd'; 64 * 1024]);
    while sent < MOST {
        match stream.write(&piece) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    assert!(sent < MOST, "nothing holds the backend up");
    socket.take(sent);
    // And the other way.
    let stalled = socket.pour(b'u', MOST);
    assert!(stalled < MOST, "nothing holds the client up");
    let grown = proxy.memory_bytes("VmRSS").saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes are held");
    assert!(peer.bytes(stalled).iter().all(|byte| *byte == b'u'));
    drop((socket, peer));
    proxy.wait_at_rest();
}

#[test]
fn what_is_no_websocket_is_none_to_its_client() {
    let (backend, proxy, client) = start("retry: off");
    // A success that is no tunnel must not look like one.
    let (answer, _up) = client.connect("/chat", "websocket");
    let mut peer = backend.accept();
    peer.head();
    peer.answer("a page");
    assert_eq!(client.end(answer).0, 501);
    // Whatever else the backend says is for its client.
    let (answer, _up) = client.connect("/chat", "websocket");
    let mut peer = backend.accept();
    peer.head();
    peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(client.end(answer), (403, "no".to_owned()));
    // An answer to somebody else's handshake. The connection was kept.
    let (answer, _up) = client.connect("/chat", "websocket");
    let mut peer = backend.accept();
    let head = peer.head();
    peer.send(switched(&head).replace("Accept: ", "Accept: A"));
    assert_eq!(client.end(answer).0, 502);
    let garbage = [("cause", "garbage")];
    proxy.wait_metric("evenkeel_backend_failures_total", &garbage, 1.0);
    assert_eq!(client.refused("/chat", "connect-udp").0, 501);
    assert!(!backend.is_called());
    proxy.wait_at_rest();
    let unsupported = [("cause", "unsupported")];
    proxy.wait_metric("evenkeel_listener_failures_total", &unsupported, 2.0);
}

#[test]
fn an_answer_of_our_own_opens_no_tunnel() {
    let backend = Backend::start("a");
    let routes = "mode: http, routes: [{match: {path: /own}, respond: {status: 200, body: hi}}, \
                  {match: {path: /moved}, redirect: {to: /there, status: 302}}, {pool: web}]";
    let config = setup().set("workers: 1").listener("web", routes);
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let client = Client::open(proxy.address("web"));
    assert_eq!(client.refused("/own", "websocket").0, 501);
    assert_eq!(client.refused("/moved", "websocket").0, 302);
    proxy.wait_at_rest();
}

#[test]
fn in_a_drain_it_goes_on_until_it_ends_or_the_time_is_up() {
    for patient in [true, false] {
        let backend = RawBackend::open();
        let most = if patient { "20s" } else { "500ms" };
        let config = setup().set(&format!("workers: 1\ndrain_timeout: {most}"));
        let mut proxy = Proxy::start(config.http("web", "web").pool("web", [&backend], ""));
        let client = Client::open(proxy.address("web"));
        let (mut socket, mut peer) = client.socket(&backend);
        let told = Instant::now();
        proxy.child.signal(Signal::Terminate);
        client.wait_goodbye();
        socket.send("still");
        assert_eq!(peer.bytes(5), b"still");
        peer.send("there");
        assert_eq!(socket.text(), "there");
        if patient {
            socket.finish();
            assert_eq!(peer.rest().unwrap(), b"");
            drop(peer);
            assert!(socket.next().is_none());
        } else {
            // A reset, or an end: the connection below goes, too.
            assert_eq!(peer.rest().unwrap_or_default(), b"");
            assert!(told.elapsed() > Duration::from_millis(400));
        }
        let code = proxy.child.wait_exit(PATIENCE).code();
        assert_eq!(code, Some(i32::from(!patient)), "whether something was cut");
    }
}

#[test]
fn it_ends_with_its_backend_where_that_is_asked_for() {
    let mut health = Backend::start("health");
    let keys = format!("failover: {{on_down: close}}, {}", health.check_elsewhere());
    let (backend, proxy, client) = start(&keys);
    let (mut socket, mut peer) = client.socket(&backend);
    socket.send("hello");
    assert_eq!(peer.bytes(5), b"hello");
    health.healthy(false);
    assert_eq!(peer.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let error = socket.next().expect("an end").expect_err("not in order");
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    proxy.wait_at_rest();
    let released = [("cause", "released")];
    proxy.wait_metric("evenkeel_listener_failures_total", &released, 1.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    // The client's connection goes on.
    assert_eq!(client.refused("/chat", "websocket").0, 503);
}
