//! HTTP/2 as only a faulty or hostile client writes it, frame by frame: what is forbidden is refused,
//! and none of it reaches a backend.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::{Conn, PATIENCE, Proxy, RawBackend, Setup, get, setup};

/// What came of a request that was written frame by frame.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, or a closed connection.
    Gone(u32),
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 6.2.2: each field as it is, without indexing.
pub fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|&n| n < 127).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    block
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Sends one request of these fields, and DATA frames if there is a body.
fn send(address: SocketAddr, list: &[(&str, &str)], body: Option<&[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let flags = if body.is_some() { 4 } else { 5 };
    let mut bytes = [PREFACE, &frame(1, flags, 1, &fields(list))].concat();
    if let Some(body) = body {
        bytes.extend(frame(0, 1, 1, body));
    }
    stream.write_all(&bytes).unwrap();
    stream
}

/// RFC 7541, appendix B: three digits in Huffman's code.
fn digits(coded: &[u8]) -> u16 {
    let bits: String = coded.iter().take(3).map(|byte| format!("{byte:08b}")).collect();
    let mut at = 0;
    let mut next = || {
        let short = u16::from_str_radix(&bits[at..at + 5], 2).expect("bits");
        if short <= 2 {
            at += 5;
            return short;
        }
        at += 6;
        u16::from_str_radix(&bits[at - 6..at], 2).expect("bits") - 0b01_1001 + 3
    };
    next() * 100 + next() * 10 + next()
}

pub fn end(mut stream: TcpStream) -> End {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return End::Gone(0);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            // RFC 7541, appendix A: an index of the static table, or its name with a literal.
            1 => match payload[0] {
                0x88 => return End::Status(200),
                0x8c => return End::Status(400),
                0x8d => return End::Status(404),
                _ => return End::Status(digits(&payload[2..])),
            },
            3 => return End::Reset(number(0)),
            7 if number(4) != 0 => return End::Gone(number(4)),
            _ => {}
        }
    }
}

const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

#[test]
fn what_http2_forbids_is_refused() {
    let backend = RawBackend::open();
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&backend], ""));
    let address = proxy.address("web");
    let with = |more: &[(&'static str, &'static str)]| [&GET[..], more].concat();
    let a = (":authority", "a.example");
    let malformed = End::Reset(1);
    for (list, expected) in [
        (with(&[a, ("connection", "close")]), &malformed),
        (with(&[a, ("transfer-encoding", "chunked")]), &malformed),
        (with(&[a, ("keep-alive", "timeout=5")]), &malformed),
        (with(&[a, ("upgrade", "websocket")]), &malformed),
        (with(&[a, ("te", "gzip")]), &malformed),
        (with(&[a, ("x-a", "b\r\nx-c: d")]), &malformed),
        (with(&[a, (":unknown", "x")]), &malformed),
        (vec![GET[0], GET[1], a], &malformed),
        (with(&[a, ("host", "b.example")]), &End::Status(400)),
        (with(&[a, ("host", "a.example"), ("host", "a.example")]), &End::Status(400)),
        (with(&[]), &End::Status(400)),
        (with(&[("host", "a b")]), &End::Status(400)),
        (vec![GET[0], GET[1], (":path", "/%00"), a], &End::Status(400)),
        (vec![GET[0], GET[1], (":path", "/x%5cy"), a], &End::Status(400)),
        (vec![GET[0], GET[1], (":path", "/x/..%2fy"), a], &End::Status(400)),
        (vec![(":method", "CONNECT"), (":authority", "a.example:443")], &End::Status(405)),
        (vec![GET[0], (":scheme", "ftp"), GET[2], a], &End::Status(400)),
        (with(&[a, ("x-a", " padded")]), &End::Status(400)),
        (with(&[a, ("x-a", "padded\t")]), &End::Status(400)),
        (with(&[a, ("x-a", "b\0c")]), &malformed),
        (with(&[a, ("x-a", "b\nc")]), &malformed),
        (with(&[a, ("proxy-connection", "keep-alive")]), &malformed),
        (with(&[(":authority", "user@a.example")]), &End::Status(400)),
        (with(&[a, ("content-length", "0"), ("content-length", "0")]), &End::Status(400)),
        (with(&[a, ("content-length", "+5")]), &malformed),
        // Pseudo-fields twice, behind the others, or of an answer.
        (with(&[a, (":path", "/b")]), &malformed),
        (vec![GET[0], GET[1], GET[2], ("x-a", "b"), a], &malformed),
        (with(&[a, (":status", "200")]), &malformed),
    ] {
        let found = end(send(address, &list, None));
        // A name in the wrong form may cost the whole connection.
        let refused = found == *expected || (*expected == malformed && found == End::Gone(1));
        assert!(refused, "{list:?}: {found:?} instead of {expected:?}");
        assert!(!backend.is_called(), "{list:?}");
    }
    let found = end(send(address, &with(&[a, ("X-Upper", "1")]), None));
    assert!(matches!(found, End::Reset(_) | End::Gone(1..)), "{found:?}");
    assert!(!backend.is_called());
}

#[test]
fn a_body_of_another_length_than_declared_is_not_passed_off_as_one() {
    let backend = RawBackend::open();
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&backend], ""));
    for body in [b"hi".as_slice(), b"hi and GET /smuggled HTTP/1.1\r\n\r\n"] {
        let list = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a.example"),
            ("content-length", "5"),
        ];
        let stream = send(proxy.address("web"), &list, Some(body));
        let found = end(stream);
        assert!(!matches!(found, End::Status(200)), "{found:?}");
        // If the backend has heard of it: no more than was declared, and less is seen to be less.
        if let Some(mut peer) = backend.try_accept() {
            peer.head_or_end().unwrap_or_default();
            let got = peer.rest().unwrap_or_default();
            assert!(got.len() <= 5.min(body.len()), "{got:?}");
        }
    }
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_listener_requests_total", &[("class", "2xx")]), 0.0);
}

/// RFC 9110 9.3.6: what follows a CONNECT is the tunnel's, and no body.
#[test]
fn a_tunnel_is_asked_for_without_a_length() {
    let backend = RawBackend::open();
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&backend], ""));
    let list = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a.example"),
        ("sec-websocket-version", "13"),
        ("content-length", "5"),
    ];
    let mut stream = open(proxy.address("web"));
    stream.write_all(&frame(1, 4, 1, &fields(&list))).unwrap();
    assert_eq!(end(stream), End::Status(400));
    assert!(!backend.is_called());
    assert_eq!(proxy.metric("evenkeel_pool_failures_total", &[]), 0.0);
}

#[test]
fn one_listener_speaks_both_and_tells_them_apart_byte_by_byte() {
    let config: Setup = setup().listener("web", "routes: [{respond: {body: pong}}]");
    let proxy = Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""));
    let address = proxy.address("web");
    assert_eq!(get(address, "/").unwrap().text(), "pong");
    let list = [&GET[..], &[(":authority", "a")]].concat();
    let bytes = [PREFACE, &frame(1, 5, 1, &fields(&list))].concat();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let received = "evenkeel_listener_received_bytes_total";
    let before = proxy.metric(received, &[]);
    for (n, byte) in (1..).zip(bytes) {
        stream.write_all(&[byte]).unwrap();
        proxy.wait_metric(received, &[], before + f64::from(n));
    }
    assert_eq!(end(stream), End::Status(200));
    // A method that merely begins like the preface is HTTP/1.
    let mut conn = Conn::open(address).unwrap();
    conn.send("PR").unwrap();
    conn.send("OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(conn.answer("PROPFIND").unwrap().text(), "pong");
}

/// A connection on which nothing was asked yet.
pub fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(PREFACE).unwrap();
    stream
}

/// Writes as much of `bytes` as is taken, and says how the connection ends.
fn flood(address: SocketAddr, bytes: &[u8]) -> End {
    let mut stream = open(address);
    // An end in the middle of it is what is wanted.
    let _ = stream.write_all(bytes);
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return End::Gone(0);
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            return End::Gone(0);
        }
        if head[3] == 7 {
            let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
            if code != 0 {
                return End::Gone(code);
            }
        }
    }
}

/// RFC 9113 10.5: what costs a client little must not cost us much.
#[test]
fn floods_end_their_connection_and_nobody_elses() {
    let config = setup().set("limits: {request_head: 16KiB}");
    let config = config.listener("web", "routes: [{respond: {body: pong}}]");
    let proxy = Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""));
    let address = proxy.address("web");
    let list = [&GET[..], &[(":authority", "a")]].concat();
    let head = fields(&list);
    let resets: Vec<u8> = (0..500_u32)
        .flat_map(|n| {
            [frame(1, 5, 2 * n + 1, &head), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        })
        .collect();
    // A head without an end, in ever more frames.
    let mut continued = frame(1, 1, 1, &head);
    for _ in 0..5000 {
        continued.extend(frame(9, 0, 1, &fields(&[("x-a", "b")])));
    }
    // A body of nothing but frames with nothing in them.
    let mut empty = frame(1, 4, 1, &head);
    for _ in 0..100_000 {
        empty.extend(frame(0, 0, 1, b""));
    }
    // One small field, told again and again by its index in the table (an HPACK bomb).
    let mut bomb = head.clone();
    bomb.extend(b"\x40\x01x\x7d".iter().chain([b'y'; 125].iter()));
    bomb.extend([0xbe; 10_000]);
    for (what, bytes) in [("resets", &resets), ("continuation", &continued), ("empty", &empty)] {
        let found = flood(address, bytes);
        assert!(matches!(found, End::Gone(_)), "{what}: {found:?}");
        assert_eq!(get(address, "/").unwrap().text(), "pong", "{what}");
    }
    let mut stream = open(address);
    stream.write_all(&frame(1, 5, 1, &bomb)).unwrap();
    assert!(!matches!(end(stream), End::Status(200)));
    let why = [("why", "enhance_your_calm")];
    assert!(proxy.metric("evenkeel_listener_http2_errors_total", &why) >= 2.0);
    assert!(proxy.memory_bytes("VmRSS") < 100 << 20);
}

/// Settings and pings ask for an answer each: who does not read those is not read any more.
#[test]
fn what_asks_for_answers_waits_until_they_are_taken() {
    let config = setup().listener("web", "routes: [{respond: {body: pong}}]");
    let proxy = Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""));
    let address = proxy.address("web");
    for one in [frame(4, 0, 0, b""), frame(6, 0, 0, b"12345678")] {
        let mut stream = open(address);
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let many = one.repeat(10_000);
        // Until nothing more is taken, or 50 MB.
        let taken = (0..500).take_while(|_| stream.write_all(&many).is_ok()).count();
        assert!(taken < 500, "all of it was taken");
        assert!(proxy.memory_bytes("VmRSS") < 100 << 20);
        assert_eq!(get(address, "/").unwrap().text(), "pong");
    }
}

#[test]
fn priorities_and_unknown_frames_are_passed_over() {
    let config = setup().listener("web", "routes: [{respond: {body: pong}}]");
    let proxy = Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""));
    let mut stream = open(proxy.address("web"));
    let list = [&GET[..], &[(":authority", "a")]].concat();
    let bytes = [
        frame(2, 0, 3, &[0, 0, 0, 0, 16]),
        frame(0x4b, 7, 0, b"who knows"),
        frame(0x10, 0, 0, b"\0\0\0\x01u=0"),
        frame(1, 5, 1, &fields(&list)),
    ];
    stream.write_all(&bytes.concat()).unwrap();
    assert_eq!(end(stream), End::Status(200));
}

#[test]
fn a_connection_that_is_old_is_asked_to_go() {
    let config = setup().set("timeouts: {client_age: 300ms}");
    let config = config.listener("web", "routes: [{respond: {body: pong}}]");
    let proxy = Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""));
    let address = proxy.address("web");
    let mut conn = Conn::open(address).unwrap();
    let mut stream = open(address);
    assert!(!conn.ask(&crate::harness::Ask::get("/")).unwrap().closes());
    let grown = std::time::Instant::now() + Duration::from_millis(400);
    crate::harness::eventually("it has grown old", PATIENCE, || std::time::Instant::now() > grown);
    assert!(conn.ask(&crate::harness::Ask::get("/")).unwrap().closes());
    let list = [&GET[..], &[(":authority", "a")]].concat();
    stream.write_all(&frame(1, 5, 1, &fields(&list))).unwrap();
    // Its request is answered, and then it ends by itself.
    let (mut answered, mut goodbye) = (false, false);
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        answered |= head[3] == 1 && payload[0] == 0x88;
        goodbye |= head[3] == 7;
        if head[3] == 6 && head[4] == 0 {
            // The ping by which hyper finds out that its GOAWAY was seen.
            stream.write_all(&frame(6, 1, 0, &payload)).unwrap();
        }
    }
    assert!(answered && goodbye);
}
