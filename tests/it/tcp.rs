//! A TCP stream is passed on as it is: every byte, each side's end, and its end by force.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Blackhole, Broken, Conn, PATIENCE, Proxy, RawBackend, eventually, refusing_address,
    setup,
};

fn start(top: &str, backends: &[String], keys: &str) -> Proxy {
    Proxy::start(setup().set(top).tcp("db", "db").pool("db", backends, keys))
}

fn with_raw_backend(top: &str) -> (RawBackend, Proxy, Conn) {
    let backend = RawBackend::open();
    let proxy = start(top, &[backend.to_string()], "");
    let conn = Conn::open(proxy.address("db")).unwrap();
    (backend, proxy, conn)
}

#[test]
fn a_client_that_shuts_its_side_gets_the_whole_answer() {
    let backend = Backend::doing("a", "tcp_late");
    let proxy = start("", &[backend.to_string()], "");
    let mut conn = Conn::open(proxy.address("db")).unwrap();
    let question = vec![b'q'; 500_000];
    conn.send(&question).unwrap();
    conn.finish_writing();
    assert_eq!(conn.rest().unwrap(), question);
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn a_backend_that_shuts_its_side_still_gets_the_rest() {
    let (backend, proxy, mut conn) = with_raw_backend("");
    let mut peer = backend.accept();
    peer.send("hello, and no more");
    peer.finish_writing();
    assert_eq!(conn.rest().unwrap(), b"hello, and no more");
    conn.send("thank you").unwrap();
    drop(conn);
    assert_eq!(peer.rest().unwrap(), b"thank you");
    proxy.wait_at_rest();
}

#[test]
fn a_reset_is_passed_on_as_a_reset_both_ways() {
    let (backend, proxy, mut conn) = with_raw_backend("");
    let mut peer = backend.accept();
    peer.send("so far");
    assert_eq!(conn.bytes(6).unwrap(), b"so far");
    peer.reset();
    assert_eq!(conn.rest().unwrap_err(), Broken::Reset);
    proxy.wait_at_rest();

    let mut conn = Conn::open(proxy.address("db")).unwrap();
    let mut peer = backend.accept();
    conn.send("so far").unwrap();
    assert_eq!(peer.bytes(6), b"so far");
    conn.reset();
    assert_eq!(peer.rest().unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.wait_at_rest();
}

#[test]
fn the_next_backend_gets_every_byte_when_one_cannot_be_reached() {
    let hole = Blackhole::open();
    for dead in [refusing_address().to_string(), hole.to_string()] {
        let backend = RawBackend::open();
        let list = [dead, backend.to_string()];
        let proxy = start("timeouts: {connect: 300ms}", &list, "balance: first");
        let mut conn = Conn::open(proxy.address("db")).unwrap();
        conn.send("sent before there was a backend").unwrap();
        let mut peer = backend.accept();
        assert_eq!(peer.bytes(31), b"sent before there was a backend");
        peer.send("ok");
        assert_eq!(conn.bytes(2).unwrap(), b"ok");
        proxy.wait_metric("evenkeel_pool_retries_total", &[], 1.0);
        assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
    }
}

#[test]
fn every_serving_backend_is_tried_once_and_then_the_client_is_told() {
    let list: Vec<String> = (0..4).map(|_| refusing_address().to_string()).collect();
    let proxy = start("", &list, "");
    let mut conn = Conn::open(proxy.address("db")).unwrap();
    let _ = conn.send("anybody?");
    let end = conn.rest();
    assert!(matches!(end.as_deref(), Ok([]) | Err(Broken::Reset)), "{end:?}");
    let connect = [("cause", "connect")];
    proxy.wait_metric("evenkeel_backend_failures_total", &connect, 4.0);
    for backend in &list {
        let labels = [("backend", backend.as_str())];
        proxy.wait_metric("evenkeel_backend_failures_total", &labels, 1.0);
    }
    proxy.wait_metric("evenkeel_listener_failures_total", &connect, 1.0);
    eventually("there is a line of the log", PATIENCE, || {
        !proxy.events_saying("stream failed").is_empty()
    });
    proxy.wait_at_rest();
}

#[test]
fn the_search_for_a_backend_takes_three_times_connect_at_most() {
    let holes: Vec<Blackhole> = (0..6).map(|_| Blackhole::open()).collect();
    let list: Vec<String> = holes.iter().map(Blackhole::to_string).collect();
    let proxy = start("timeouts: {connect: 200ms}", &list, "");
    let mut conn = Conn::open(proxy.address("db")).unwrap();
    let began = Instant::now();
    let end = conn.rest();
    assert!(matches!(end.as_deref(), Ok([]) | Err(Broken::Reset)), "{end:?}");
    let after = began.elapsed();
    assert!(after > Duration::from_millis(500) && after < Duration::from_secs(4), "{after:?}");
    let tried = proxy.metric("evenkeel_backend_failures_total", &[("cause", "connect_timeout")]);
    assert!((2.0..=3.0).contains(&tried), "{tried}");
    proxy.wait_at_rest();
}

#[test]
fn large_streams_pass_both_ways_at_once() {
    const SIZE: usize = 24 << 20;
    let (backend, proxy, conn) = with_raw_backend("workers: 1");
    let peer = backend.accept();
    let bytes = |salt: usize| -> Vec<u8> {
        (0..SIZE).map(|at| (at.wrapping_add(salt).wrapping_mul(0x9e37_79b9) >> 16) as u8).collect()
    };
    let (up, down) = (bytes(1), bytes(2));
    thread::scope(|scope| {
        for (stream, sent, expected) in [(conn.stream(), &up, &down), (peer.stream(), &down, &up)] {
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(sent).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (mut stream, mut all) = (stream, Vec::with_capacity(SIZE));
                stream.read_to_end(&mut all).unwrap();
                assert!(all == *expected, "{} bytes, not the ones that were sent", all.len());
            });
        }
    });
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_backend_sent_bytes_total", &[], SIZE as f64);
    proxy.wait_metric("evenkeel_backend_received_bytes_total", &[], SIZE as f64);
    assert_eq!(proxy.metric("evenkeel_limit_hits_total", &[("limit", "pipes")]), 0.0);
}

/// The client takes little at a time, over a UNIX socket; the backend sends whatever it can, in the
/// midst of it many small segments.
#[test]
fn a_slow_reader_of_bulk_gets_every_byte() {
    const SIZE: usize = 12 << 20;
    let backend = RawBackend::open();
    let listener = "bind: \"unix:db.sock\", mode: tcp, pool: db";
    let config = setup().set("workers: 1").listener("db", listener);
    let proxy = Proxy::start(config.pool("db", [&backend], ""));
    let mut client = UnixStream::connect(proxy.folder().join("db.sock")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let peer = backend.accept();
    let sent: Vec<u8> = (0..SIZE).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8).collect();
    let mut got = Vec::with_capacity(SIZE);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = peer.stream();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&sent[..SIZE / 2]).unwrap();
            for piece in sent[SIZE / 2..SIZE / 2 + (1 << 20)].chunks(300) {
                stream.write_all(piece).unwrap();
            }
            stream.write_all(&sent[SIZE / 2 + (1 << 20)..]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut buffer = [0; 7_000];
        loop {
            let n = client.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..n]);
            thread::yield_now();
        }
    });
    assert!(got == sent, "{} bytes, not the ones that were sent", got.len());
    drop(client);
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_backend_received_bytes_total", &[], SIZE as f64);
}

#[test]
fn a_stream_that_is_silent_both_ways_ends() {
    let (backend, proxy, mut conn) = with_raw_backend("timeouts: {tcp_idle: 400ms}");
    let mut peer = backend.accept();
    // Sound in one direction keeps both.
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(100));
        peer.send("x");
    }
    assert_eq!(conn.bytes(6).unwrap(), b"xxxxxx");
    let began = Instant::now();
    let _ = conn.rest();
    let _ = peer.rest();
    let after = began.elapsed();
    assert!(after > Duration::from_millis(250) && after < Duration::from_secs(4), "{after:?}");
    proxy.wait_at_rest();
}

#[test]
fn a_unix_socket_is_listened_on() {
    let backend = Backend::doing("a", "tcp_late");
    let config = setup()
        .listener("db", "bind: \"unix:db.sock\", mode: tcp, pool: db")
        .listener("web", "bind: [\"unix:web.sock\"], routes: [{respond: {body: pong}}]")
        .pool("db", [&backend], "");
    let proxy = Proxy::start(config);
    let mut stream = UnixStream::connect(proxy.folder().join("db.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"question").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "question");

    let mut stream = UnixStream::connect(proxy.folder().join("web.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("pong"), "{answer}");
    proxy.wait_at_rest();
}

#[test]
fn many_short_connections_come_and_go() {
    let backends = ["a", "b", "c"].map(|name| Backend::doing(name, "tcp_echo"));
    let list: Vec<String> = backends.iter().map(Backend::to_string).collect();
    let proxy = start("", &list, "");
    let address = proxy.address("db");
    thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || {
                for n in 0..150 {
                    let mut conn = Conn::open(address).unwrap();
                    let text = format!("client {client}, connection {n}");
                    conn.send(&text).unwrap();
                    conn.finish_writing();
                    assert_eq!(conn.rest().unwrap(), text.as_bytes());
                }
            });
        }
    });
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_pool_streams_total", &[], 600.0);
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
    let shares: BTreeSet<bool> = list
        .iter()
        .map(|backend| {
            proxy.metric("evenkeel_backend_connections_total", &[("backend", backend)]) > 50.0
        })
        .collect();
    assert_eq!(shares, [true].into(), "all take part");
    proxy.wait_metric("evenkeel_listener_open_connections", &[], 0.0);
    proxy.wait_metric("evenkeel_backend_open_connections", &[], 0.0);
}

#[test]
fn a_listener_keeps_out_whom_it_denies() {
    let backend = RawBackend::open();
    let config = setup().listener("db", "mode: tcp, pool: db, deny: [127.0.0.5]");
    let proxy = Proxy::start(config.pool("db", [&backend], ""));
    let mut conn = Conn::open_from("127.0.0.5".parse().unwrap(), proxy.address("db")).unwrap();
    let end = conn.rest();
    assert!(matches!(end.as_deref(), Ok([]) | Err(Broken::Reset)), "{end:?}");
    assert!(!backend.is_called());
    let denied = [("cause", "denied")];
    proxy.wait_metric("evenkeel_listener_failures_total", &denied, 1.0);
    let _conn = Conn::open_from("127.0.0.6".parse().unwrap(), proxy.address("db")).unwrap();
    backend.accept();
}
