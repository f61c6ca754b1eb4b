//! HTTP/2 by prior knowledge: the same promises as for HTTP/1, for many requests on one connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::harness::{Backend, Conn, PATIENCE, Proxy, RawBackend, Setup, Signal, get, setup};

/// A client's connection, which lives on a thread of its own.
struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<Result<(), hyper::Error>>,
    /// Its thread goes on until this is dropped: streams may outlive hyper's own connection.
    alive: oneshot::Sender<()>,
}

struct Whole {
    head: http::response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime can be made")
}

impl Client {
    fn open(address: SocketAddr) -> Client {
        let (give, take) = mpsc::channel();
        let (alive, gone) = oneshot::channel::<()>();
        let connection = thread::spawn(move || {
            runtime().block_on(async {
                let stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
                let io = TokioIo::new(stream);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                give.send(sender).expect("somebody waits for it");
                let ended = connection.await;
                // Dropped: the same as told.
                let _ = gone.await;
                ended
            })
        });
        let sender = take.recv_timeout(PATIENCE).expect("a connection");
        Client { runtime: runtime(), sender, connection, alive }
    }

    /// Lets go of it, and says how it ended.
    fn close(self) -> Result<(), hyper::Error> {
        let Client { sender, connection, alive, .. } = self;
        drop((sender, alive));
        connection.join().expect("the thread does not panic")
    }

    /// Sends a request and waits for the head of its answer.
    fn begin(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let answer = self.sender.send_request(request);
        let answer = async { tokio::time::timeout(PATIENCE, answer).await };
        self.runtime.block_on(answer).expect("an answer comes")
    }

    fn finish(&self, answer: Response<Incoming>) -> Result<Whole, hyper::Error> {
        let whole = async { tokio::time::timeout(PATIENCE, whole(answer)).await };
        self.runtime.block_on(whole).expect("the answer ends")
    }

    fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Whole, hyper::Error> {
        let answer = self.begin(request)?;
        self.finish(answer)
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Whole, hyper::Error> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    Ok(Whole { head, body: body.to_bytes(), trailers })
}

/// A request with what the backend is to do with it, and a body.
fn asking(method: &str, act: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri("http://test.example/h2?q=1");
    let request = request.header("x-do", act).header("x-id", "7");
    request.body(Full::new(body.into())).expect("a valid request")
}

fn start(backend: &impl std::fmt::Display) -> (Proxy, Client) {
    let config = setup().set("workers: 1").http("web", "web").pool("web", [backend], "");
    let proxy = Proxy::start(config);
    let client = Client::open(proxy.address("web"));
    (proxy, client)
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8).collect()
}

#[test]
fn requests_reach_the_backend_as_http1_and_come_back_whole() {
    let backend = Backend::start("a");
    let (proxy, mut client) = start(&backend);
    for (method, body) in [("GET", ""), ("POST", "the body"), ("PUT", ""), ("DELETE", "x")] {
        let answer = client.ask(asking(method, "answer", body)).unwrap();
        assert_eq!((answer.head.status, answer.head.version), (200.into_status(), V2));
        let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&echo["method"], &echo["target"]), (&method.into(), &"/h2?q=1".into()));
        assert_eq!(echo["body"], body);
        let headers = echo["headers"].as_array().unwrap();
        let all = |name: &str| -> Vec<&str> {
            let found = headers.iter().filter(|field| field[0] == name);
            found.map(|field| field[1].as_str().unwrap()).collect()
        };
        assert_eq!(all("host"), ["test.example"]);
        assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(all("connection"), [""; 0]);
    }
    let answer = client.ask(asking("HEAD", "answer", "")).unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (200.into_status(), 0));
    let answer = client.ask(asking("GET", "status 204", "")).unwrap();
    assert_eq!((answer.head.status, answer.body.len()), (204.into_status(), 0));
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_connections_total", &[], 1.0);
    proxy.wait_metric("evenkeel_listener_requests_total", &[("class", "2xx")], 6.0);
}

const V2: http::Version = http::Version::HTTP_2;

trait IntoStatus {
    fn into_status(self) -> http::StatusCode;
}

impl IntoStatus for u16 {
    fn into_status(self) -> http::StatusCode {
        http::StatusCode::from_u16(self).expect("a status")
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let backend = RawBackend::open();
    let (proxy, mut client) = start(&backend);
    let size = 8 << 20;
    let serving = thread::spawn(move || {
        let mut peer = backend.accept();
        let head = peer.head();
        let body = peer.body(&head);
        assert!(body == pattern(size), "{} bytes, other ones", body.len());
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        peer.send(head);
        for chunk in body.chunks(100_000) {
            peer.send(format!("{:x}\r\n", chunk.len()));
            peer.send(chunk);
            peer.send("\r\n");
        }
        peer.send("0\r\n\r\n");
        peer
    });
    let answer = client.ask(asking("POST", "", pattern(size))).unwrap();
    assert!(answer.body == pattern(size), "{} bytes, other ones", answer.body.len());
    serving.join().unwrap();
    proxy.wait_at_rest();
}

#[test]
fn many_requests_share_a_connection_and_none_waits_for_another() {
    let backend = Backend::start("a");
    let (proxy, mut client) = start(&backend);
    let slow = client.begin(asking("GET", "drip 100 20", "")).unwrap();
    let all: Vec<_> = (0..60)
        .map(|n| {
            let body = format!("body {n} ").repeat(n * 50);
            let request =
                asking("POST", if n % 3 == 0 { "slow 50" } else { "answer" }, body.clone());
            let answer = client.sender.send_request(request);
            client.runtime.spawn(async move {
                let answer = whole(answer.await.unwrap()).await.unwrap();
                let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                assert_eq!(echo["body"], body);
            })
        })
        .collect();
    client.runtime.block_on(async {
        for one in all {
            one.await.unwrap();
        }
    });
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
    assert_eq!(client.finish(slow).unwrap().body.len(), 1000);
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_connections_total", &[], 1.0);
}

#[test]
fn running_out_of_file_descriptors_is_counted_and_passes() {
    let backend = Backend::start("a");
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start_after("ulimit -n 80", config);
    let mut client = Client::open(proxy.address("web"));
    // Each takes a connection of its own to the backend.
    let all: Vec<_> = (0..100)
        .map(|_| {
            let answer = client.sender.send_request(asking("GET", "slow 1500", ""));
            client.runtime.spawn(async move { whole(answer.await.unwrap()).await.unwrap().head })
        })
        .collect();
    let answers: Vec<_> = client.runtime.block_on(async {
        let mut answers = Vec::new();
        for one in all {
            answers.push(one.await.unwrap());
        }
        answers
    });
    let of = |status: u16| answers.iter().filter(|head| head.status == status).count();
    assert!(of(200) > 10 && of(503) > 10 && of(200) + of(503) == 100, "{}, {}", of(200), of(503));
    let refused = answers.iter().find(|head| head.status == 503).unwrap();
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(proxy.metric("evenkeel_limit_hits_total", &[("limit", "open_files")]) >= 1.0);
    // It was no backend's fault, and it is over.
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    proxy.wait_at_rest();
    assert_eq!(client.ask(asking("GET", "answer", "")).unwrap().head.status, 200);
    drop(client);
    assert_eq!(get(proxy.address("web"), "/").unwrap().status, 200);
}

#[test]
fn a_stream_that_its_client_resets_frees_its_lease() {
    let backend = Backend::start("a");
    let (proxy, mut client) = start(&backend);
    let begun = client.begin(asking("GET", "drip 100000 5", "")).unwrap();
    let waiting = client.sender.send_request(asking("GET", "never", ""));
    let waiting = client.runtime.spawn(waiting);
    // The client's runtime runs while it is asked for something.
    client.ask(asking("GET", "answer", "")).unwrap();
    crate::harness::eventually("two are in flight", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 2.0
    });
    drop(begun);
    waiting.abort();
    client.ask(asking("GET", "answer", "")).unwrap();
    proxy.wait_at_rest();
    assert_eq!(client.ask(asking("GET", "answer", "")).unwrap().head.status, 200);
    proxy.wait_metric("evenkeel_listener_connections_total", &[], 1.0);
    let gone = [("cause", "client_gone")];
    proxy.wait_metric("evenkeel_listener_failures_total", &gone, 2.0);
}

#[test]
fn an_answer_that_is_cut_short_breaks_its_stream_alone() {
    let backend = Backend::start("a");
    let (proxy, mut client) = start(&backend);
    let slow = client.begin(asking("GET", "drip 20 20", "")).unwrap();
    for act in ["truncate 5000", "truncate_chunked 5000", "reset_after 5000"] {
        assert!(client.ask(asking("GET", act, "")).is_err(), "{act}");
    }
    assert_eq!(client.ask(asking("POST", "garbage", "x")).unwrap().head.status, 502);
    assert_eq!(client.ask(asking("GET", "answer", "")).unwrap().head.status, 200);
    assert_eq!(client.finish(slow).unwrap().body.len(), 200);
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_connections_total", &[], 1.0);
}

#[test]
fn a_drain_says_goodbye_and_lets_streams_finish() {
    let backend = Backend::start("a");
    let (mut proxy, mut client) = start(&backend);
    let slow = client.begin(asking("GET", "drip 50 20", "")).unwrap();
    proxy.child.signal(Signal::Terminate);
    crate::harness::eventually("no new request is taken", PATIENCE, || {
        let refused = client.begin(asking("GET", "answer", "")).is_err();
        refused || client.sender.is_closed()
    });
    assert_eq!(client.finish(slow).unwrap().body.len(), 500, "it was in progress");
    assert!(proxy.child.wait_exit(PATIENCE).success());
    client.close().unwrap();
}

#[test]
fn crumbs_of_a_cookie_are_joined_for_the_backend() {
    let backend = RawBackend::open();
    let (_proxy, mut client) = start(&backend);
    let mut request = asking("GET", "", "");
    for crumb in ["a=1", "b=2; c=3", "d=4"] {
        request.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    let serving = thread::spawn(move || {
        let mut peer = backend.accept();
        let head = peer.head();
        peer.answer("ok");
        (head, peer)
    });
    assert_eq!(client.ask(request).unwrap().body, "ok");
    let (head, _peer) = serving.join().unwrap();
    assert_eq!(head.one("cookie"), "a=1; b=2; c=3; d=4");
}

#[test]
fn trailers_come_through() {
    let backend = RawBackend::open();
    let (_proxy, mut client) = start(&backend);
    let mut request = asking("GET", "", "");
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let serving = thread::spawn(move || {
        let mut peer = backend.accept();
        let head = peer.head();
        peer.send(
            "HTTP/1.1 200 OK\r\nTrailer: grpc-status\r\nTransfer-Encoding: chunked\r\n\r\n\
             4\r\nbody\r\n0\r\ngrpc-status: 0\r\n\r\n",
        );
        (head, peer)
    });
    let answer = client.ask(request).unwrap();
    assert_eq!(answer.body, "body");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let (head, _peer) = serving.join().unwrap();
    assert_eq!((head.one("te"), head.one("connection")), ("trailers", "te"));
}

/// What came of a request that was written frame by frame.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, or a closed connection.
    Gone(u32),
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 6.2.2: each field as it is, without indexing.
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
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

fn end(mut stream: TcpStream) -> End {
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

#[test]
fn one_listener_speaks_both_and_tells_them_apart_byte_by_byte() {
    let config: Setup = setup().listener("web", "routes: [{respond: {body: pong}}]");
    let proxy = Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""));
    let address = proxy.address("web");
    assert_eq!(get(address, "/").unwrap().text(), "pong");
    let mut client = Client::open(address);
    assert_eq!(client.ask(asking("GET", "", "")).unwrap().body, "pong");
    let list = [&GET[..], &[(":authority", "a")]].concat();
    let bytes = [PREFACE, &frame(1, 5, 1, &fields(&list))].concat();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for byte in bytes {
        stream.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(end(stream), End::Status(200));
    // A method that merely begins like the preface is HTTP/1.
    let mut conn = Conn::open(address).unwrap();
    conn.send("PR").unwrap();
    conn.send("OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(conn.answer("PROPFIND").unwrap().text(), "pong");
}
