//! HTTP/2 by prior knowledge: the same promises as for HTTP/1, for many requests on one connection.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::h1_responses::{Seen, cut_short, doubtful, stage, unusual};
use crate::harness::{Backend, Folder, PATIENCE, Proxy, RawBackend, Signal, get, setup};

/// A client's connection, which lives on a thread of its own.
pub struct Client {
    pub runtime: Runtime,
    pub sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<Result<(), hyper::Error>>,
    /// Its thread goes on until this is dropped: streams may outlive hyper's own connection.
    alive: oneshot::Sender<()>,
}

pub struct Whole {
    pub head: http::response::Parts,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime can be made")
}

impl Client {
    pub fn open(address: SocketAddr) -> Client {
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
    pub fn begin(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let answer = self.sender.send_request(request);
        let answer = async { tokio::time::timeout(PATIENCE, answer).await };
        self.runtime.block_on(answer).expect("an answer comes")
    }

    pub fn finish(&self, answer: Response<Incoming>) -> Result<Whole, hyper::Error> {
        let whole = async { tokio::time::timeout(PATIENCE, whole(answer)).await };
        self.runtime.block_on(whole).expect("the answer ends")
    }

    pub fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Whole, hyper::Error> {
        let answer = self.begin(request)?;
        self.finish(answer)
    }
}

pub async fn whole(answer: Response<Incoming>) -> Result<Whole, hyper::Error> {
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
fn a_client_sticks_to_its_backend_over_http2_too() {
    let backends = ["a", "b", "c"].map(Backend::start);
    let folder = Folder::new();
    folder.file("sticky.key", super::sticky::KEY);
    let keys = "balance: round_robin, sticky: {key_file: sticky.key}";
    let config = setup().set("workers: 1").http("web", "web").pool("web", &backends, keys);
    let proxy = Proxy::start_beside(folder, config);
    let mut client = Client::open(proxy.address("web"));
    let first = client.ask(asking("GET", "answer", "")).unwrap();
    let echo: serde_json::Value = serde_json::from_slice(&first.body).unwrap();
    let cookie = first.head.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap();
    for _ in 0..6 {
        let mut request = asking("POST", "answer", "x");
        // Each in a field of its own, as HTTP/2 may have them (RFC 9113 8.2.3).
        for cookie in ["a=1", cookie, "b=2"] {
            request.headers_mut().append("cookie", cookie.parse().unwrap());
        }
        let answer = client.ask(request).unwrap();
        assert!(!answer.head.headers.contains_key("set-cookie"));
        let again: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(again["backend"], echo["backend"]);
        let headers = again["headers"].to_string();
        assert!(headers.contains("a=1") && headers.contains("b=2"), "{headers}");
        assert!(!headers.contains("EKID"), "{headers}");
    }
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
fn interim_answers_go_on_at_once_without_what_is_meant_for_one_hop() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    let (hinted, go_on) = mpsc::channel();
    let backend = thread::spawn(move || {
        let mut peer = backend.accept();
        peer.head();
        peer.send(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: X-Hop\r\n\
             X-Hop: 1\r\nKeep-Alive: timeout=5\r\nLink: </b>\r\n\r\n",
        );
        go_on.recv_timeout(PATIENCE).expect("the client was told while the backend still thinks");
        peer.answer("done");
    });
    let asked = async {
        let stream = tokio::net::TcpStream::connect(proxy.address("web")).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("http://test.example/").body(()).unwrap();
        let (mut answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
        let interim = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status().as_u16(), 103);
        let fields: Vec<_> = interim.headers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(fields, ["link", "link"]);
        hinted.send(()).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().contains_key("link")), (200, false));
        connection.abort();
    };
    let asked = async { tokio::time::timeout(PATIENCE, asked).await };
    runtime().block_on(asked).expect("an answer comes");
    backend.join().expect("the backend does not panic");
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

#[test]
fn hostile_answers_break_their_stream_alone_and_are_never_taken_for_whole() {
    let mut cases = [cut_short(), doubtful(), unusual()].concat();
    // This client takes heads of 16 KiB.
    cases.retain(|case| case.reply.bytes.len() < 10_000);
    let stage = stage(cases);
    let mut client = Client::open(stage.proxy.address("web"));
    let asking = |method: &str, target: &str| {
        let request = Request::builder().method(method).uri(format!("http://a.example{target}"));
        request.body(Full::default()).expect("a sound request")
    };
    for (n, case) in stage.cases.iter().enumerate() {
        let what = case.reply.bytes[..case.reply.bytes.len().min(200)].escape_ascii();
        let seen = match client.ask(asking(case.method, &format!("/case/{n}"))) {
            Ok(whole) if whole.head.status == 502 => Seen::Ours(502),
            Ok(whole) => Seen::Theirs(whole.head.status.as_u16(), whole.body.to_vec()),
            Err(_) => Seen::CutShort,
        };
        assert_eq!(seen, case.seen, "{what}");
        let target = format!("/after/{n}");
        assert_eq!(client.ask(asking("GET", &target)).unwrap().body, target, "{what}");
    }
    stage.proxy.wait_at_rest();
}

#[test]
fn a_length_is_said_once() {
    let backend = RawBackend::open();
    let (_proxy, mut client) = start(&backend);
    let mut request = asking("POST", "", "x");
    for _ in 0..2 {
        request.headers_mut().append("content-length", "1".parse().unwrap());
    }
    assert_eq!(client.ask(request).unwrap().head.status, 400);
    assert!(!backend.is_called());
}

#[test]
fn failures_are_masked_as_they_are_for_http1() {
    let short = "raw HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\ntoo short";
    let (mut a, b) = (Backend::start("a"), Backend::start("b"));
    let config = setup().set("workers: 1").http("web", "web");
    let keys = "balance: first, retry: {hedge: {after: 100ms}}, outlier: off";
    let proxy = Proxy::start(config.pool("web", [&a, &b], keys));
    let mut client = Client::open(proxy.address("web"));
    let from = |whole: &Whole| whole.head.headers["x-backend"].clone();
    let get = || {
        let request = Request::builder().uri("http://test.example/h2");
        request.body(Full::default()).expect("a valid request")
    };
    for act in [short, "status 503", "reset"] {
        a.now(act);
        assert_eq!(from(&client.ask(get()).unwrap()), "b", "{act}");
    }
    a.freeze();
    assert_eq!(from(&client.ask(get()).unwrap()), "b");
    proxy.wait_metric("evenkeel_pool_hedges_won_total", &[], 1.0);
    proxy.wait_at_rest();
    a.thaw();
    proxy.wait_metric("evenkeel_pool_masked_failures_total", &[], 4.0);
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn streams_to_a_backend_that_is_lost_end_and_the_connection_goes_on() {
    let [mut a, b] = ["a", "b"].map(Backend::start);
    let keys = "balance: first, failover: {on_down: close}, health_check: {http: {path: /healthz}, \
                interval: 100ms, interval_unsettled: 50ms, timeout: 250ms, fall: 2, rise: 2}";
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&a, &b], keys);
    let proxy = Proxy::start(config);
    let mut client = Client::open(proxy.address("web"));
    let begun = client.begin(asking("GET", "drip 10000 10", "")).unwrap();
    a.now("never");
    let request = |method: &str| {
        let mut request = asking(method, "", "");
        request.headers_mut().remove("x-do");
        client.runtime.spawn(client.sender.clone().send_request(request))
    };
    let (got, posted) = (request("GET"), request("POST"));
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 3.0);
    a.healthy(false);
    let got = client.runtime.block_on(got).unwrap().expect("an answer");
    assert_eq!(got.status(), 200.into_status());
    let echo = client.finish(got).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&echo.body).unwrap()["backend"], "b");
    let posted = client.runtime.block_on(posted).unwrap().expect("an answer");
    assert_eq!(posted.status(), 502.into_status(), "it may have been executed");
    assert!(client.finish(begun).is_err(), "what had begun is cut");
    assert_eq!(client.ask(asking("GET", "answer", "")).unwrap().head.status, 200.into_status());
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_connections_total", &[], 1.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
}
