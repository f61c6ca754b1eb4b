//! WebSocket to backends of HTTP/2 (RFC 8441), from clients of HTTP/1.1 and of HTTP/2: the CONNECT that a
//! handshake becomes, then bytes both ways with their ends and resets, and what may go wrong before.

use std::net::SocketAddr;
use std::time::Instant;

use h2::Reason;
use h2::ext::Protocol;
use http::Response;

use crate::harness::h2_server::Server;
use crate::harness::websocket::{
    ACCEPT, CLIENTS, Client, KEY, Socket, Web, handshake, switched, wait,
};
use crate::harness::{
    Ask, Authority, Backend, Conn, Folder, Nginx, PATIENCE, Proxy, RawBackend, Signal,
    free_address, get, program, setup,
};

/// `keys` are further ones of the pool.
fn start(server: &Server, keys: &str) -> Proxy {
    start_with("", server, keys)
}

fn start_with(top: &str, server: &Server, keys: &str) -> Proxy {
    let keys = format!("protocol: h2c, {keys}");
    let config = setup().set("workers: 1").set(top).http("web", "web");
    Proxy::start(config.pool("web", [server], keys.trim_end_matches(", ")))
}

#[track_caller]
fn failures(proxy: &Proxy, who: &str, cause: &str, count: f64) {
    let name = format!("evenkeel_{who}_failures_total");
    proxy.wait_metric(&name, &[("cause", cause)], count);
    assert_eq!(proxy.metric(&name, &[]), count, "and of nothing else");
}

#[test]
fn a_handshake_becomes_a_connect_and_its_success_a_change_of_protocol() {
    let server = Server::start();
    let proxy = start(&server, "");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(handshake("/chat?room=1").bytes()).unwrap();
    let call = server.call();
    assert_eq!(
        (call.request.method().as_str(), call.request.version()),
        ("CONNECT", http::Version::HTTP_2)
    );
    let protocol = call.request.extensions().get::<Protocol>();
    assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));
    assert_eq!(call.request.uri().to_string(), "http://test.example/chat?room=1");
    for gone in ["connection", "upgrade", "host", "sec-websocket-key", "content-length", "te"] {
        assert_eq!(call.header(gone), None, "{gone}");
    }
    assert_eq!(call.header("sec-websocket-version"), Some("13"));
    assert_eq!(call.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(call.header("sec-websocket-extensions"), Some("permessage-deflate"));
    assert_eq!(call.header("x-forwarded-proto"), Some("http"));
    let fields =
        [("sec-websocket-protocol", "chat"), ("x-kept", "1"), ("sec-websocket-accept", "x")];
    let mut far = call.answer(200, &fields, false);
    far.send("early from the backend");
    let answer = conn.head().unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept").as_deref(), Some(ACCEPT));
    assert_eq!(answer.header("connection").as_deref(), Some("upgrade"));
    assert_eq!(answer.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-protocol").as_deref(), Some("chat"));
    assert_eq!(answer.header("x-kept").as_deref(), Some("1"));
    assert_eq!(answer.header("content-length"), None);
    let mut web = Web::H1(conn);
    web.hears("early from the backend");
    web.send("ping");
    assert_eq!(far.text(), "ping");
    far.send("pong");
    web.hears("pong");
    web.finish();
    assert!(far.next().is_none());
    far.finish();
    assert!(web.ends_well());
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_requests_total", &[("class", "1xx")], 1.0);
}

#[test]
fn a_connect_stays_one() {
    let server = Server::start();
    let proxy = start(&server, "");
    let client = Client::open(proxy.address("web"));
    let (answer, up) = client.connect("/chat?room=1", "websocket");
    let call = server.call();
    assert_eq!(call.request.method(), "CONNECT");
    assert_eq!(call.request.uri().to_string(), "http://test.example/chat?room=1");
    for gone in ["connection", "upgrade", "host", "sec-websocket-key", "content-length", "te"] {
        assert_eq!(call.header(gone), None, "{gone}");
    }
    assert_eq!(call.header("sec-websocket-version"), Some("13"));
    let mut far = call.grant();
    let answer = client.wait(answer).unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    for gone in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!headers.contains_key(gone), "{headers:?}");
    }
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    let mut near = Socket { handle: client.handle.clone(), up, down: answer.into_body() };
    near.send("ping");
    assert_eq!(far.text(), "ping");
    far.send("pong");
    assert_eq!(near.text(), "pong");
    drop((near, far, client));
    proxy.wait_at_rest();
}

#[test]
fn either_side_may_end_first_and_all_is_counted_as_long_as_it_lasts() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "");
        let (mut one, mut far) = Web::open(&proxy, h2, || server.call().grant());
        let (mut other, mut its_far) = Web::open(&proxy, h2, || server.call().grant());
        proxy.wait_metric("evenkeel_backend_in_flight", &[], 2.0);
        proxy.wait_metric("evenkeel_backend_open_connections", &[], 1.0);
        one.finish();
        assert!(far.next().is_none());
        far.send("late");
        one.hears("late");
        far.finish();
        assert!(one.ends_well());
        proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
        its_far.finish();
        assert!(other.ends_well());
        other.send("more");
        assert_eq!(its_far.text(), "more");
        other.finish();
        assert!(its_far.next().is_none());
        proxy.wait_at_rest();
        assert_eq!(server.connections(), 1, "all over one");
        assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
        assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
        let received = proxy.metric("evenkeel_backend_received_bytes_total", &[]);
        assert!(received < 1000.0, "frames, and not what is in them once more: {received}");
    }
}

#[test]
fn a_refusal_goes_to_the_client_as_it_is() {
    let server = Server::start();
    let proxy = start(&server, "");
    let refuse = || {
        let mut far = server.call().answer(403, &[("content-length", "2"), ("x-why", "1")], false);
        far.send("no");
        far.finish();
        assert!(far.next().is_none(), "what we do not need ends in order");
    };
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(handshake("/chat").bytes()).unwrap();
    refuse();
    let answer = conn.answer("GET").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    assert_eq!(answer.header("x-why").as_deref(), Some("1"));
    assert_eq!(answer.header("sec-websocket-accept"), None);
    // It is a connection of HTTP/1.1 like any other.
    conn.send(Ask::get("/").bytes()).unwrap();
    server.call().answer(204, &[], true);
    assert_eq!(conn.answer("GET").unwrap().status, 204);
    let client = Client::open(proxy.address("web"));
    let (answer, _up) = client.connect("/chat", "websocket");
    refuse();
    assert_eq!(client.end(answer), (403, "no".to_owned()));
    proxy.wait_at_rest();
    assert_eq!(server.connections(), 1);
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn a_backend_that_has_not_said_that_it_takes_one_is_not_asked() {
    let server = Server::with(false, None);
    let proxy = start(&server, "");
    for _ in 0..2 {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        assert_eq!(conn.ask(&handshake("/chat")).unwrap().status, 501);
        let client = Client::open(proxy.address("web"));
        assert_eq!(client.refused("/chat", "websocket").0, 501);
    }
    failures(&proxy, "listener", "unsupported", 4.0);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/").bytes()).unwrap();
    server.call().answer(204, &[], true);
    assert_eq!(conn.answer("GET").unwrap().status, 204);
    assert!(!server.is_called());
    assert_eq!(server.connections(), 1, "one has told");
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
}

/// HTTP/2 has a form for WebSocket alone: all else is left out, as HTTP lets a server do.
#[test]
fn what_is_no_handshake_of_a_websocket_is_answered_without_one() {
    let server = Server::start();
    let proxy = start(&server, "");
    let upgrade = |to: &str| Ask::get("/").header("Connection", "Upgrade").header("Upgrade", to);
    let keyed = |ask: Ask, key: &str, version: &str| {
        ask.header("Sec-WebSocket-Key", key).header("Sec-WebSocket-Version", version)
    };
    let post = Ask::post("/").header("Connection", "Upgrade").header("Upgrade", "websocket");
    for ask in [
        upgrade("something"),
        upgrade("websocket"),
        keyed(upgrade("something"), KEY, "13"),
        keyed(upgrade("websocket"), KEY, "8"),
        keyed(upgrade("websocket"), KEY, "13").header("Sec-WebSocket-Key", KEY),
        keyed(post, KEY, "13").body("x"),
    ] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(ask.bytes()).unwrap();
        let call = server.call();
        assert!(["GET", "POST"].contains(&call.request.method().as_str()));
        assert_eq!((call.header("upgrade"), call.header("connection")), (None, None));
        let mut far = call.answer(200, &[("content-length", "2")], false);
        far.send("ok");
        far.finish();
        assert_eq!(conn.answer("GET").unwrap().text(), "ok");
    }
    // Of several it is the one that there is a form for.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(keyed(upgrade("something, websocket"), KEY, "13").bytes()).unwrap();
    let _far = server.call().grant();
    assert_eq!(conn.head().unwrap().header("upgrade").as_deref(), Some("websocket"));
}

#[test]
fn what_the_backend_has_not_looked_at_is_sent_again() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "");
        let (mut web, mut far) = Web::open(&proxy, h2, || {
            server.call().respond.send_reset(Reason::REFUSED_STREAM);
            server.call().grant()
        });
        web.send("hello");
        assert_eq!(far.text(), "hello");
        assert_eq!(server.connections(), 1);
        proxy.wait_metric("evenkeel_pool_retries_total", &[("cause", "reset")], 1.0);
    }
}

/// RFC 9113 8.6: 101 is nothing in HTTP/2, and opens nothing.
#[test]
fn an_answer_of_101_is_garbage() {
    let server = Server::start();
    let proxy = start(&server, "retry: off");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(handshake("/chat").bytes()).unwrap();
    let mut call = server.call();
    let head = Response::builder().status(101).header("sec-websocket-accept", ACCEPT);
    call.respond.send_informational(head.body(()).unwrap()).expect("it is asked");
    assert_eq!(conn.answer("GET").unwrap().status, 502);
    failures(&proxy, "backend", "garbage", 1.0);
    proxy.wait_at_rest();
}

#[test]
fn a_reset_goes_on_as_a_reset() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "");
        let (web, mut far) = Web::open(&proxy, h2, || server.call().grant());
        let _rest = web.reset();
        let error = far.next().expect("an end").expect_err("not in order");
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        proxy.wait_at_rest();
        failures(&proxy, "listener", "client_gone", 1.0);
        for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
            let (mut web, mut far) = Web::open(&proxy, h2, || server.call().grant());
            far.up.send_reset(reason);
            assert!(!web.ends_well(), "{reason}");
            proxy.wait_at_rest();
        }
        failures(&proxy, "backend", "truncated", 2.0);
        assert_eq!(server.connections(), 1, "it is the streams alone that are reset");
    }
}

/// The other side's last words are no failure, whatever comes after them.
#[test]
fn a_backend_that_needs_nothing_more_has_ended_in_order() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "");
        let (mut web, mut far) = Web::open(&proxy, h2, || server.call().grant());
        far.send("bye");
        far.finish();
        // Its library says RST_STREAM with NO_ERROR.
        drop(far);
        web.hears("bye");
        assert!(web.ends_well());
        web.send("bye to you, too");
        proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
        web.finish();
        proxy.wait_at_rest();
        assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
        assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    }
}

#[test]
fn a_backend_that_dies_takes_its_tunnels_along() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "");
        let (mut one, _far) = Web::open(&proxy, h2, || server.call().grant());
        let (mut other, _its_far) = Web::open(&proxy, h2, || server.call().grant());
        server.die();
        assert!(!one.ends_well() && !other.ends_well());
        proxy.wait_at_rest();
        failures(&proxy, "backend", "truncated", 2.0);
        proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
        // The next goes over a connection of its own.
        let (mut web, mut far) = Web::open(&proxy, h2, || server.call().grant());
        web.send("again");
        assert_eq!(far.text(), "again");
    }
}

#[test]
fn a_backend_that_says_goodbye_keeps_the_tunnels_that_it_has() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "");
        let (mut old, mut its_far) = Web::open(&proxy, h2, || server.call().grant());
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(Ask::get("/goodbye").bytes()).unwrap();
        server.call().answer(204, &[], true);
        assert_eq!(conn.answer("GET").unwrap().status, 204);
        let (mut new, mut far) = Web::open(&proxy, h2, || server.call().grant());
        assert_eq!(server.connections(), 2);
        for (web, far) in [(&mut old, &mut its_far), (&mut new, &mut far)] {
            web.send("ping");
            assert_eq!(far.text(), "ping");
            web.finish();
            far.finish();
            assert!(web.ends_well());
        }
        proxy.wait_at_rest();
        assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
        proxy.wait_metric("evenkeel_backend_open_connections", &[], 1.0);
    }
}

#[test]
fn silence_ends_it() {
    for h2 in CLIENTS {
        let server = Server::start();
        let proxy = start(&server, "timeouts: {stream_idle: 300ms}");
        let (mut web, mut far) = Web::open(&proxy, h2, || server.call().grant());
        web.send("once");
        assert_eq!(far.text(), "once");
        let error = far.next().expect("an end").expect_err("not in order");
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        web.ends_well();
        proxy.wait_at_rest();
        assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    }
}

/// Neither side can make us hold what the other does not take, nor hold up who shares the connection.
#[test]
fn who_takes_nothing_stops_the_other_side() {
    const MOST: usize = 32 << 20;
    let server = Server::start();
    let proxy = start(&server, "");
    let (web, mut far) = Web::open(&proxy, true, || server.call().grant());
    let Web::H2(mut near, _client) = web else { unreachable!("it was asked for") };
    let before = proxy.memory_bytes("VmRSS");
    let down = far.pour(b'd', MOST);
    assert!(down < 1 << 20, "the client has taken {down} bytes");
    let up = near.pour(b'u', MOST);
    assert!(up < 1 << 20, "the backend has taken {up} bytes");
    // The same of a client whose window is its socket's.
    let (web, mut its_far) = Web::open(&proxy, false, || server.call().grant());
    let sent = its_far.pour(b's', MOST);
    assert!(sent < MOST, "nothing holds the backend up");
    let grown = proxy.memory_bytes("VmRSS").saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes are held");
    let (mut other, mut others_far) = Web::open(&proxy, false, || server.call().grant());
    other.send("through");
    assert_eq!(others_far.text(), "through");
    assert_eq!(server.connections(), 1);
    assert!(near.take(down).iter().all(|byte| *byte == b'd'));
    assert!(far.take(up).iter().all(|byte| *byte == b'u'));
    // What was taken has made room.
    for _ in 0..3 {
        let more = (far.pour(b'd', 100_000), near.pour(b'u', 50_000));
        assert!(more.0 >= 100_000 && more.1 >= 50_000, "{more:?}");
        near.take(more.0);
        far.take(more.1);
    }
    let Web::H1(mut conn) = web else { unreachable!("it was asked for") };
    assert!(conn.bytes(sent).unwrap().iter().all(|byte| *byte == b's'));
}

/// A backend that takes nothing and a client that leaves: what waits for its window waits no more.
#[test]
fn what_was_not_taken_does_not_hold_up_an_end() {
    let server = Server::start();
    let proxy = start(&server, "");
    let (web, mut far) = Web::open(&proxy, true, || server.call().grant());
    let Web::H2(mut near, client) = web else { unreachable!("it was asked for") };
    near.pour(b'u', 32 << 20);
    near.up.send_reset(Reason::CANCEL);
    proxy.wait_at_rest();
    let error = wait(&server.handle, std::future::poll_fn(|cx| far.up.poll_reset(cx)));
    assert_eq!(error.unwrap(), Reason::CANCEL);
    drop(client);
}

const OVER_TLS: &str = "protocol: auto, tls: {ca: ca.pem, server_name: web.internal}";

fn start_auto(ca: &Authority, address: SocketAddr) -> Proxy {
    let folder = Folder::new();
    folder.file("ca.pem", &ca.pem);
    let config = setup().set("workers: 1").http("web", "web").pool("web", [address], OVER_TLS);
    Proxy::start_beside(folder, config)
}

#[test]
fn auto_uses_what_the_backend_has() {
    let ca = Authority::new("a test's authority");
    let server = Server::over_tls(&ca.issue(&["web.internal"]));
    let proxy = start_auto(&ca, server.address);
    for h2 in CLIENTS {
        for _ in 0..2 {
            let mut uri = None;
            let (mut web, mut far) = Web::open(&proxy, h2, || {
                let call = server.call();
                uri = Some(call.request.uri().to_string());
                call.grant()
            });
            assert_eq!(uri.as_deref(), Some("https://test.example/chat"));
            web.send("ping");
            assert_eq!(far.text(), "ping");
            far.send("pong");
            web.hears("pong");
        }
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn auto_is_http1_where_the_backend_has_it_in_no_other_form() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    for http2 in [true, false] {
        let backend = RawBackend::open();
        let more = format!(
            "location /chat {{
                 proxy_pass http://{backend}; proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
             }}"
        );
        let (pair, address) = (ca.issue(&["web.internal"]), free_address());
        let nginx = match http2 {
            true => Nginx::of_http2(address, &pair, &ca, &more),
            false => Nginx::start(address, &pair, &ca, &more),
        };
        let proxy = start_auto(&ca, nginx.address);
        let settled = if http2 { "h2" } else { "http/1.1" };
        for h2 in CLIENTS {
            let (mut web, mut peer) = Web::open(&proxy, h2, || {
                let mut peer = backend.accept();
                let head = peer.head();
                assert_eq!(head.line, "GET /chat HTTP/1.1");
                peer.send(switched(&head));
                peer
            });
            web.send("ping");
            assert_eq!(peer.bytes(4), b"ping");
            peer.send("pong");
            web.hears("pong");
            let answer = get(proxy.address("web"), "/").unwrap();
            assert_eq!(answer.header("x-alpn").as_deref(), Some(settled));
        }
    }
}

#[test]
fn in_a_drain_it_goes_on_until_it_ends_or_the_time_is_up() {
    for (h2, patient) in [(false, true), (true, true), (false, false), (true, false)] {
        let server = Server::start();
        let most = if patient { "20s" } else { "500ms" };
        let mut proxy = start_with(&format!("drain_timeout: {most}"), &server, "");
        let (mut web, mut far) = Web::open(&proxy, h2, || server.call().grant());
        let told = Instant::now();
        proxy.child.signal(Signal::Terminate);
        if let Web::H2(_, client) = &web {
            client.wait_goodbye();
        } else {
            proxy.wait_metric("evenkeel_phase", &[("phase", "draining")], 1.0);
        }
        web.send("still");
        assert_eq!(far.text(), "still");
        far.send("there");
        web.hears("there");
        if patient {
            web.finish();
            assert!(far.next().is_none());
            far.finish();
            assert!(web.ends_well());
        } else {
            let error = far.next().expect("an end").expect_err("not in order");
            assert!(error.is_io() || error.reason() == Some(Reason::CANCEL), "{error}");
            assert!(told.elapsed().as_millis() > 400);
        }
        let code = proxy.child.wait_exit(PATIENCE).code();
        assert_eq!(code, Some(i32::from(!patient)), "whether something was cut");
        let causes: Vec<_> = proxy.events_saying("request failed");
        let causes: Vec<_> = causes.iter().map(|event| event["cause"].as_str()).collect();
        assert_eq!(causes, if patient { vec![] } else { vec![Some("shutdown")] }, "{h2} {patient}");
    }
}

#[test]
fn it_ends_with_its_backend_where_that_is_asked_for() {
    for h2 in CLIENTS {
        let (server, mut health) = (Server::start(), Backend::start("health"));
        let keys = format!("failover: {{on_down: close}}, {}", health.check_elsewhere());
        let proxy = start(&server, &keys);
        let (mut web, mut far) = Web::open(&proxy, h2, || server.call().grant());
        web.send("hello");
        assert_eq!(far.text(), "hello");
        health.healthy(false);
        let error = far.next().expect("an end").expect_err("not in order");
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        assert!(!web.ends_well());
        proxy.wait_at_rest();
        failures(&proxy, "listener", "released", 1.0);
        assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
        proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
    }
}
