//! HTTP/2 when something fails or ends: connections that many requests share, or wait for; clients that
//! break off what they ask for; a drain; backends that are lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::h2::Client;
use crate::h2_backend::{H2Backend, SETTINGS, asked};
use crate::h2_frames::{fields, frame, open};
use crate::harness::{
    Answer, Ask, Blackhole, Broken, Conn, PATIENCE, Proxy, RawBackend, Signal, eventually, get,
    setup,
};

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// END_HEADERS, and with END_STREAM.
const HEAD: u8 = 4;
const WHOLE: u8 = 5;

const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// The head of a request, in one frame.
fn head(flags: u8, stream: u32, method: &str, path: &str) -> Vec<u8> {
    let list = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")];
    frame(HEADERS, flags, stream, &fields(&list))
}

/// The next frame: kind, flags, stream, payload. `None` at the end, of whatever kind.
fn next(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], head[4], number(&head[5..]), payload))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

type Asking = thread::JoinHandle<(Result<Answer, Broken>, Duration)>;

/// Asks from as many connections at once.
fn asking(proxy: &Proxy, count: usize, ask: &Ask) -> Vec<Asking> {
    let address = proxy.address("web");
    let all = (0..count).map(|_| {
        let ask = ask.clone();
        thread::spawn(move || {
            let began = Instant::now();
            (Conn::open(address).and_then(|mut conn| conn.ask(&ask)), began.elapsed())
        })
    });
    all.collect()
}

fn in_progress(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_pool_requests_in_progress", &[])
}

/// A backend that cannot be reached, and one whose kernel accepts and that says nothing: whoever waits for
/// the connection to it shares its failure, in one time-out and not in one each.
#[test]
fn all_who_wait_for_a_connection_that_fails_are_answered_together() {
    let (hole, mute) = (Blackhole::open(), RawBackend::open());
    for dead in [hole.address, mute.address] {
        let good = H2Backend::start();
        let config = setup().set("workers: 1").http("web", "both").http("alone", "alone");
        let keys = "protocol: h2c, balance: first, outlier: off, timeouts: {connect: 700ms}";
        let config = config.pool("both", [dead, good.address], keys);
        let proxy = Proxy::start(config.pool("alone", [dead], &format!("{keys}, retry: off")));
        // Not a byte of it was sent: that it is a POST makes no difference.
        let all = asking(&proxy, 25, &Ask::post("/echo").body("x"));
        eventually("all are in progress", PATIENCE, || in_progress(&proxy) == 25.0);
        for (answer, took) in all.into_iter().map(|one| one.join().unwrap()) {
            assert_eq!(answer.unwrap().status, 200);
            assert!(took < Duration::from_millis(1400) + SLACK, "{took:?}");
        }
        assert_eq!(good.connections(), 1);
        assert_eq!(good.requests("/echo"), 25);
        let address = proxy.address("alone");
        let all: Vec<_> = (0..25).map(|_| thread::spawn(move || get(address, "/"))).collect();
        let began = Instant::now();
        for one in all {
            assert_eq!(one.join().unwrap().unwrap().status, 504);
        }
        assert!(began.elapsed() < Duration::from_millis(700) + SLACK, "{:?}", began.elapsed());
        proxy.wait_at_rest();
    }
    // One connection of each pool, and no more.
    assert!(mute.is_called() && mute.is_called() && !mute.is_called());
}

const SLACK: Duration = Duration::from_millis(700);

/// HEADERS with END_STREAM and END_HEADERS: `:status: 204`.
fn no_content(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &[0x89])
}

#[test]
fn who_waits_for_a_connection_goes_on_when_he_leaves_who_began_it() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let mut first = open(proxy.address("web"));
    first.write_all(&head(WHOLE, 1, "GET", "/")).unwrap();
    let _mute = backend.accept();
    let all = asking(&proxy, 3, &Ask::post("/").body("x"));
    eventually("all are in progress", PATIENCE, || in_progress(&proxy) == 4.0);
    first.write_all(&frame(RESET, 0, 1, &CANCEL)).unwrap();
    let mut peer = backend.accept();
    peer.bytes(24);
    peer.send(SETTINGS);
    for _ in 0..3 {
        let stream = asked(&mut peer);
        peer.send(no_content(stream));
    }
    for one in all {
        assert_eq!(one.join().unwrap().0.unwrap().status, 204);
    }
    proxy.wait_at_rest();
    assert!(!backend.is_called());
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
}

/// A backend that accepts and answers nothing any more, with a connection to it that worked.
#[test]
fn a_frozen_backend_costs_a_time_out_and_no_safe_request() {
    let (frozen, good) = (RawBackend::open(), H2Backend::start());
    let keys = "protocol: h2c, balance: first, outlier: off, timeouts: {response: 500ms}";
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [frozen.address, good.address], keys));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut peer = frozen.accept();
    peer.bytes(24);
    peer.send(SETTINGS);
    let stream = asked(&mut peer);
    peer.send(no_content(stream));
    assert_eq!(conn.answer("GET").unwrap().status, 204);
    // From now on it says nothing.
    let posted = asking(&proxy, 1, &Ask::post("/echo").body("x")).remove(0);
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
    let asked_for = asking(&proxy, 10, &Ask::get("/echo"));
    for (answer, took) in asked_for.into_iter().map(|one| one.join().unwrap()) {
        assert_eq!(answer.unwrap().status, 200);
        assert!(took < Duration::from_millis(500) + SLACK, "{took:?}");
    }
    let (answer, _) = posted.join().unwrap();
    assert_eq!(answer.unwrap().status, 504, "it may have been executed");
    assert!(!frozen.is_called(), "they were all on the one connection");
    assert_eq!(good.requests("/echo"), 10);
    proxy.wait_at_rest();
}

const CHECK: &str = "protocol: h2c, balance: first, outlier: off, health_check: {http: {path: /healthz}, \
                     interval: 100ms, interval_unsettled: 50ms, timeout: 500ms, fall: 2, rise: 2}";

fn request(method: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(format!("http://a.example{path}"));
    request.body(Full::default()).expect("a sound request")
}

#[test]
fn streams_at_a_backend_of_http2_that_is_lost_end_as_on_down_says() {
    for close in [true, false] {
        let (lost, other) = (H2Backend::start(), H2Backend::start());
        lost.seen.hanging.store(true, Ordering::SeqCst);
        let on_down = if close { "close" } else { "keep" };
        let keys =
            format!("{CHECK}, failover: {{on_down: {on_down}}}, timeouts: {{response: 1500ms}}");
        let config = setup().set("workers: 1").http("web", "web");
        let proxy = Proxy::start(config.pool("web", [lost.address, other.address], &keys));
        let mut client = Client::open(proxy.address("web"));
        let begun = client.begin(request("GET", "/mute")).unwrap();
        let spawn = |method: &str| {
            let asked = client.sender.clone().send_request(request(method, "/hang"));
            client.runtime.spawn(asked)
        };
        let (got, posted) = (spawn("GET"), spawn("POST"));
        let http1 = asking(&proxy, 2, &Ask::get("/hang"));
        proxy.wait_metric("evenkeel_backend_in_flight", &[], 5.0);
        lost.seen.ill.store(true, Ordering::SeqCst);
        proxy.wait_serving("web", 1, PATIENCE);
        let told = Instant::now();
        if !close {
            // What is in progress goes on; what is new does not go there.
            assert_eq!(proxy.metric("evenkeel_backend_in_flight", &[]), 5.0);
            assert_eq!(client.ask(request("GET", "/hang")).unwrap().head.status, 200);
        }
        let got = client.runtime.block_on(got).unwrap().expect("an answer");
        assert_eq!(got.status(), StatusCode::OK);
        client.finish(got).unwrap();
        let posted = client.runtime.block_on(posted).unwrap().expect("an answer");
        // It may have been executed: it is not sent again.
        assert_eq!(posted.status().as_u16(), if close { 502 } else { 504 });
        for one in http1 {
            assert_eq!(one.join().unwrap().0.unwrap().status, 200);
        }
        assert_eq!(lost.requests("/hang"), 4);
        if close {
            assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
            assert!(client.finish(begun).is_err(), "what had begun is cut");
        } else {
            drop(begun);
        }
        assert_eq!(client.ask(request("GET", "/echo")).unwrap().head.status, 200);
        proxy.wait_at_rest();
        // Its streams were reset, and it has heard of that.
        eventually("its streams are reset", PATIENCE, || {
            lost.seen.resets.load(Ordering::SeqCst) == 5
        });
        proxy.wait_metric("evenkeel_listener_connections_total", &[], 3.0);
    }
}

/// Opens streams that somebody waits for an answer on, and resets them; says when the connection has ended.
fn break_off(proxy: &Proxy, stream: &mut TcpStream, from: u32, count: u32) -> bool {
    let ids = || (0..count).map(|n| from + 2 * n);
    let heads: Vec<u8> = ids().flat_map(|id| head(WHOLE, id, "GET", "/never")).collect();
    if stream.write_all(&heads).is_err() {
        return true;
    }
    // Their story has begun: not one is reset before it was looked at.
    eventually("they are in progress", PATIENCE, || in_progress(proxy) == f64::from(count));
    let resets: Vec<u8> = ids().flat_map(|id| frame(RESET, 0, id, &CANCEL)).collect();
    let broken = stream.write_all(&resets).is_err();
    eventually("they are over", PATIENCE, || in_progress(proxy) == 0.0);
    broken
}

/// Answers of our own to whatever has this path.
const PONG: &str =
    "mode: http, routes: [{match: {path: /pong}, respond: {body: pong}}, {pool: web}]";

fn calm(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_listener_http2_errors_total", &[("why", "enhance_your_calm")])
}

/// CVE-2023-44487 by a client that waits until its requests are at a backend.
#[test]
fn who_breaks_off_most_of_what_he_asks_for_is_ended() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").listener("web", PONG);
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut stream = open(proxy.address("web"));
    for round in 0..2 {
        assert!(!break_off(&proxy, &mut stream, 1 + 240 * round, 120));
    }
    assert_eq!(calm(&proxy), 0.0);
    // The last one that is reset is one too many: nothing is unread, and the end comes in good order.
    break_off(&proxy, &mut stream, 481, 10);
    let mut said = None;
    while let Some((kind, _, _, payload)) = next(&mut stream) {
        if kind == GOAWAY {
            said = Some(number(&payload[4..]));
        }
    }
    assert_eq!(said, Some(11), "ENHANCE_YOUR_CALM");
    assert_eq!(calm(&proxy), 1.0);
    proxy.wait_metric("evenkeel_open_connections", &[], 0.0);
    assert_eq!(get(proxy.address("web"), "/pong").unwrap().text(), "pong");
}

/// While the answer waits for room, at once (but not so many that the h2 crate ends it), and in an upload.
#[test]
fn who_breaks_off_is_told_however_he_does_it() {
    let backend = RawBackend::open();
    let long = "x".repeat(20_000);
    let config = format!(
        "mode: http, routes: [{{match: {{path: /long}}, respond: {{body: {long}}}}}, {{pool: web}}]"
    );
    for (method, path, flags) in
        [("GET", "/long", WHOLE), ("GET", "/at-once", WHOLE), ("POST", "/never", HEAD)]
    {
        let config = setup().set("workers: 1").listener("web", &config);
        let proxy = Proxy::start(config.pool("web", [&backend], ""));
        let mut stream = open(proxy.address("web"));
        // SETTINGS_INITIAL_WINDOW_SIZE: no answer's body can be sent.
        stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
        let gone = || proxy.metric("evenkeel_listener_failures_total", &[("cause", "client_gone")]);
        for round in 0..25 {
            let ids = || (0..10).map(|n| 1 + 2 * (10 * round + n));
            let asked = ids().map(|id| head(flags, id, method, path));
            let resets: Vec<u8> = ids().flat_map(|id| frame(RESET, 0, id, &CANCEL)).collect();
            match path {
                "/at-once" => {
                    let both = asked.chain([resets]).collect::<Vec<_>>().concat();
                    stream.write_all(&both).unwrap();
                }
                _ => {
                    stream.write_all(&asked.collect::<Vec<_>>().concat()).unwrap();
                    if path == "/never" {
                        eventually("all wait", PATIENCE, || in_progress(&proxy) == 10.0);
                    }
                    let mut heads = if path == "/long" { 10 } else { 0 };
                    while heads > 0 {
                        let (kind, ..) = next(&mut stream).expect("it goes on");
                        heads -= u32::from(kind == HEADERS);
                    }
                    stream.write_all(&resets).unwrap();
                }
            }
            let all = f64::from(10 * (round + 1));
            eventually("all are over", PATIENCE, || gone() == all);
        }
        let mut said = None;
        while let Some((kind, _, _, payload)) = next(&mut stream) {
            if kind == GOAWAY {
                said = Some(number(&payload[4..]));
            }
        }
        assert_eq!((said, calm(&proxy)), (Some(11), 1.0), "{path}");
        if path == "/at-once" {
            assert!(!backend.is_called(), "nobody wants an answer");
        }
    }
}

/// A stream that is answered before its client has said all is reset (RFC 9113 8.1), and no place is lost by it: as
/// many more may follow as may be at once.
#[test]
fn early_answers_without_room_cost_no_place() {
    let config = setup().set("workers: 1").listener("web", PONG);
    let proxy = Proxy::start(config.pool("web", ["127.0.0.1:9"], ""));
    let mut stream = open(proxy.address("web"));
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    for n in 0..140 {
        let id = 1 + 2 * n;
        stream.write_all(&head(HEAD, id, "POST", "/pong")).unwrap();
        while next(&mut stream).expect("it goes on").2 != id {}
        stream.write_all(&frame(RESET, 0, id, &CANCEL)).unwrap();
    }
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 255, 255])).unwrap();
    stream.write_all(&head(WHOLE, 281, "GET", "/pong")).unwrap();
    let body = loop {
        let (kind, _, of, payload) = next(&mut stream).expect("it goes on");
        assert!(kind != GOAWAY && (of != 281 || kind != RESET), "{payload:?}");
        if (kind, of) == (0, 281) {
            break payload;
        }
    };
    assert_eq!(body, b"pong");
    // Nor does one that waits hold up the end.
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    stream.write_all(&head(HEAD, 283, "POST", "/pong")).unwrap();
    while next(&mut stream).expect("it goes on").2 != 283 {}
    drop(stream);
    proxy.wait_metric("evenkeel_open_connections", &[], 0.0);
    assert_eq!(get(proxy.address("web"), "/pong").unwrap().text(), "pong");
}

/// It has an answer, but no room for it, when its connection is to end.
#[test]
fn a_drain_leaves_a_slow_client_its_time() {
    let config = setup().set("workers: 1\ndrain_timeout: 20s").listener("web", PONG);
    let mut proxy = Proxy::start(config.pool("web", ["127.0.0.1:9"], ""));
    let mut stream = open(proxy.address("web"));
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    stream.write_all(&head(WHOLE, 1, "GET", "/pong")).unwrap();
    let mut until = |wanted: u8, of: u32| loop {
        let (kind, flags, stream, payload) = next(&mut stream).expect("it goes on");
        if (kind, stream) == (wanted, of) && !(kind == PING && flags == 1) {
            return payload;
        }
    };
    until(HEADERS, 1);
    proxy.child.signal(Signal::Terminate);
    until(GOAWAY, 0);
    let mut writer = stream.try_clone().unwrap();
    // Longer than one at rest has: a second.
    thread::sleep(Duration::from_millis(1500));
    writer.write_all(&frame(8, 0, 1, &[0, 0, 1, 0])).unwrap();
    let mut body = None;
    while let Some((kind, flags, of, payload)) = next(&mut stream) {
        if (kind, of) == (0, 1) {
            body = Some((payload, flags & 1));
            break;
        }
    }
    assert_eq!(body, Some((b"pong".to_vec(), 1)));
    drop((stream, writer));
    assert!(proxy.child.wait_exit(PATIENCE).success());
}

#[test]
fn who_breaks_off_some_of_what_he_asks_for_is_not() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").listener("web", PONG);
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut stream = open(proxy.address("web"));
    let mut ids = (0..).map(|n| 1 + 2 * n);
    let mut answered = |stream: &mut TcpStream, flags: u8, count: usize| {
        for _ in 0..count {
            let id = ids.next().expect("there are many");
            stream.write_all(&head(flags, id, "POST", "/pong")).unwrap();
            loop {
                let (kind, flags, of, payload) = next(stream).expect("it goes on");
                assert!(kind != GOAWAY, "{payload:?}");
                if of == id && kind != RESET && flags & 1 == 1 {
                    break;
                }
            }
        }
        ids.next().expect("there are many")
    };
    let mut from = answered(&mut stream, WHOLE, 330);
    for _ in 0..3 {
        assert!(!break_off(&proxy, &mut stream, from, 100));
        from += 200;
    }
    // An upload that is answered before its end is none that its client broke off.
    let mut ids = (0..).map(|n| from + 2 * n);
    for _ in 0..400 {
        let id = ids.next().expect("there are many");
        stream.write_all(&head(HEAD, id, "POST", "/pong")).unwrap();
        loop {
            let (kind, flags, of, payload) = next(&mut stream).expect("it goes on");
            assert!(kind != GOAWAY, "{payload:?}");
            if of == id && kind != RESET && flags & 1 == 1 {
                break;
            }
        }
    }
    assert_eq!(calm(&proxy), 0.0);
    assert_eq!(proxy.metric("evenkeel_listener_connections_total", &[]), 1.0);
}

/// RFC 9113 6.8. The first GOAWAY names no stream, so that none that is on its way is lost; the second, once
/// the client has answered a ping, the last that was taken.
#[test]
fn a_drain_takes_what_was_on_its_way_and_says_what_it_did_not() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1\ndrain_timeout: 20s").http("web", "web");
    let mut proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut idle = open(proxy.address("web"));
    let mut stream = open(proxy.address("web"));
    stream.write_all(&head(WHOLE, 1, "GET", "/first")).unwrap();
    let mut first = backend.accept();
    assert_eq!(first.head().line, "GET /first HTTP/1.1");
    proxy.child.signal(Signal::Terminate);
    let mut until = |wanted: u8| loop {
        let (kind, flags, of, payload) = next(&mut stream).expect("it goes on");
        if kind == wanted && !(kind == PING && flags == 1) {
            return (of, payload, stream.try_clone().expect("a socket can be cloned"));
        }
    };
    let (_, payload, _) = until(GOAWAY);
    assert_eq!((number(&payload), number(&payload[4..])), (u32::MAX >> 1, 0));
    let (_, ping, mut writer) = until(PING);
    // It does not know yet.
    writer.write_all(&head(WHOLE, 3, "POST", "/second")).unwrap();
    let mut second = backend.accept();
    assert_eq!(second.head().line, "POST /second HTTP/1.1");
    writer.write_all(&frame(PING, 1, 0, &ping)).unwrap();
    let (_, payload, _) = until(GOAWAY);
    assert_eq!((number(&payload), number(&payload[4..])), (3, 0));
    // Now it does: whatever it asks for, nobody looks at it.
    writer.write_all(&head(WHOLE, 5, "POST", "/third")).unwrap();
    second.answer("2");
    assert_eq!(until(HEADERS).0, 3);
    // The one at rest has not answered its ping, and holds nothing up.
    while next(&mut idle).is_some() {}
    first.answer("1");
    assert_eq!(until(HEADERS).0, 1);
    drop(writer);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a good end");
    assert!(proxy.child.wait_exit(PATIENCE).success());
    assert_eq!(proxy.events_saying("stopped")[0]["cut"], 0);
    assert!(!backend.is_called(), "the third went nowhere");
}

#[test]
fn connections_to_backends_of_http2_end_after_their_last_stream() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1\ndrain_timeout: 20s").http("web", "web");
    let mut proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let client = asking(&proxy, 1, &Ask::get("/"));
    let mut peer = backend.accept();
    peer.bytes(24);
    peer.send(SETTINGS);
    let stream = asked(&mut peer);
    proxy.child.signal(Signal::Terminate);
    eventually("it drains", PATIENCE, || {
        proxy.metric("evenkeel_phase", &[("phase", "draining")]) == 1.0
    });
    peer.send(no_content(stream));
    for one in client {
        let answer = one.join().unwrap().0.unwrap();
        assert_eq!((answer.status, answer.closes()), (204, true));
    }
    assert!(proxy.child.wait_exit(PATIENCE).success());
    peer.rest().expect("a good end");
}

/// A backend that says more than belongs to the answer (RFC 9110 9.3.2, 15.3.5, 15.4.5): its client gets none of
/// it, and the connection goes on.
#[test]
fn what_a_backend_says_behind_an_answer_without_a_body_reaches_nobody() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c, retry: off"));
    let address: SocketAddr = proxy.address("web");
    // `:status` 200 of the table, 204, 304.
    for (method, index, status) in [("HEAD", 0x88, 200), ("GET", 0x89, 204), ("GET", 0x8b, 304)] {
        let mut conn = Conn::open(address).unwrap();
        conn.send(Ask::new(method, "/").bytes()).unwrap();
        let mut peer = backend.accept();
        peer.bytes(24);
        peer.send(SETTINGS);
        let stream = asked(&mut peer);
        peer.send(frame(HEADERS, HEAD, stream, &[index]));
        peer.send(frame(0, 1, stream, b"HTTP/1.1 200 OK\r\n\r\n"));
        assert_eq!(conn.answer(method).unwrap().status, status);
        conn.send(Ask::get("/").bytes()).unwrap();
        let stream = asked(&mut peer);
        peer.send(frame(HEADERS, WHOLE, stream, &[0x8d]));
        assert_eq!(conn.answer("GET").unwrap().status, 404, "the next one's own");
        peer.reset();
        proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
    }
}

#[test]
fn reloads_cost_no_request_of_http2_at_either_end() {
    let [a, b, c] = [(); 3].map(|()| H2Backend::start());
    let (a, b, c) = (a.address, b.address, c.address);
    let web = |more: &str| {
        let routes = format!("bind: \"127.0.0.1:0\", mode: http, routes: [{more}{{pool: web}}]");
        setup().set("workers: 1").listener("web", &routes)
    };
    let configs = [
        web("").pool("web", [a, b], "protocol: h2c"),
        web("").pool("web", [b, c], CHECK),
        web("{match: {path: /pong}, respond: {body: pong}}, ").pool("web", [c], "protocol: h2c"),
        web("").pool("web", [a], "protocol: h2c, keepalive: {max_idle: 0}"),
    ];
    let proxy = Proxy::start(&configs[0]);
    let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, answers) = (stop.clone(), answers.clone());
            let mut client = Client::open(proxy.address("web"));
            thread::spawn(move || {
                for method in ["GET", "POST"].into_iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        return client;
                    }
                    let answer = client.ask(request(method, "/echo")).expect("an answer");
                    assert_eq!(answer.head.status, 200);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
                client
            })
        })
        .collect();
    for n in 1..=24 {
        assert!(proxy.reload(&configs[n % 4]), "reload {n}");
        let before = answers.load(Ordering::SeqCst);
        eventually("each configuration serves somebody", PATIENCE, || {
            answers.load(Ordering::SeqCst) > before + 9
        });
    }
    stop.store(true, Ordering::SeqCst);
    let clients: Vec<_> = clients.into_iter().map(|one| one.join().expect("no failure")).collect();
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_listener_connections_total", &[]), 3.0, "they stay");
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    drop(clients);
}
