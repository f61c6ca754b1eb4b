//! Backends that are asked over HTTP/2: what clients see is what they see of HTTP/1, over one connection
//! that many requests share.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{
    Ask, Authority, Child, Conn, Folder, Nginx, PATIENCE, Proxy, eventually, free_address, get,
    program, setup,
};

/// A server of HTTP/2 in clear, which does what a request's path says.
pub struct H2Backend {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    /// Its thread ends when this does.
    _alive: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
pub struct Seen {
    connections: AtomicUsize,
    requests: Mutex<HashMap<String, usize>>,
    /// Streams that are open, and the most that were at once on one connection.
    streams: AtomicUsize,
    most: AtomicUsize,
    pub resets: AtomicUsize,
    /// Bytes that were sent of a flood, and that came of an upload beside one.
    pub sent: AtomicUsize,
    pub received: AtomicUsize,
    turned_away: AtomicBool,
    /// `/healthz` says 503.
    pub ill: AtomicBool,
    /// `/hang` is the same as `/silent`.
    pub hanging: AtomicBool,
    /// What `/slow` and `/cut` go on at.
    goes_on: tokio::sync::watch::Sender<bool>,
}

impl Seen {
    /// Until its test says so.
    async fn wait(&self) {
        // It fails if there is nobody left to say so.
        let _ = self.goes_on.subscribe().wait_for(|goes_on| *goes_on).await;
    }

    fn hangs(&self) -> bool {
        self.hanging.load(Ordering::SeqCst)
    }
}

impl fmt::Display for H2Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl H2Backend {
    pub fn start() -> H2Backend {
        H2Backend::with(100)
    }

    /// It takes so many streams at once.
    fn with(streams: u32) -> H2Backend {
        let seen = Arc::<Seen>::default();
        let (alive, gone) = tokio::sync::oneshot::channel();
        let (tell, told) = mpsc::channel();
        let shared = seen.clone();
        thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().expect("a runtime can be made");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                tell.send(listener.local_addr().expect("it is bound")).expect("it is awaited");
                tokio::spawn(accept(listener, streams, shared));
                // Dropped: the same as told.
                let _ = gone.await;
            });
        });
        let address = told.recv_timeout(PATIENCE).expect("an address");
        H2Backend { address, seen, _alive: alive }
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self, path: &str) -> usize {
        self.seen.requests.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

/// Pieces of 64 KiB of `/both`.
pub const FLOODS: usize = 600;

async fn accept(listener: TcpListener, streams: u32, seen: Arc<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(stream, streams, seen.clone()));
    }
}

async fn serve(stream: TcpStream, streams: u32, seen: Arc<Seen>) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    // A client that goes away is nothing to report.
    let Ok(mut conn) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = conn.accept().await {
        let path = request.uri().path().to_owned();
        *seen.requests.lock().unwrap().entry(path.clone()).or_default() += 1;
        match path.as_str() {
            "/goodbye" => {
                say_goodbye(&mut conn);
                tokio::spawn(answer(request, respond, seen.clone()));
            }
            _ => drop(tokio::spawn(answer(request, respond, seen.clone()))),
        }
    }
}

fn say_goodbye(conn: &mut Connection<TcpStream, Bytes>) {
    conn.graceful_shutdown();
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Seen>) {
    let now = seen.streams.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most.fetch_max(now, Ordering::SeqCst);
    let done = act(request, &mut respond, &seen).await;
    seen.streams.fetch_sub(1, Ordering::SeqCst);
    if done.is_err() {
        seen.resets.fetch_add(1, Ordering::SeqCst);
    }
}

async fn act(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    seen: &Arc<Seen>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let ok = || Response::builder().header("x-version", format!("{:?}", head.version));
    match head.uri.path() {
        "/refuse-once" if !seen.turned_away.swap(true, Ordering::SeqCst) => {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
        "/broken" => respond.send_reset(Reason::INTERNAL_ERROR),
        "/healthz" if seen.ill.load(Ordering::SeqCst) => {
            respond.send_response(ok().status(503).body(()).unwrap(), true)?;
        }
        "/mute" => {
            let mut up = respond.send_response(ok().body(()).unwrap(), false)?;
            std::future::poll_fn(|cx| up.poll_reset(cx)).await?;
            return Err(Reason::CANCEL.into());
        }
        path if path == "/silent" || path == "/hang" && seen.hangs() => {
            std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            return Err(Reason::CANCEL.into());
        }
        "/slow" => {
            seen.wait().await;
            respond.send_response(ok().body(()).unwrap(), true)?;
        }
        "/cut" => {
            let head = ok().header("content-length", "100").body(()).unwrap();
            let mut up = respond.send_response(head, false)?;
            send(&mut up, b"not all of it".as_slice().into()).await?;
            // The reset would overtake what is not read yet.
            seen.wait().await;
            up.send_reset(Reason::INTERNAL_ERROR);
        }
        "/interim" => {
            let early = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
            respond.send_informational(early)?;
            respond.send_response(ok().body(()).unwrap(), true)?;
        }
        "/flood" => {
            let mut up = respond.send_response(ok().body(()).unwrap(), false)?;
            for _ in 0..1000 {
                send(&mut up, vec![b'f'; 64 * 1024].into()).await?;
                seen.sent.fetch_add(64 * 1024, Ordering::SeqCst);
            }
            up.send_data(Bytes::new(), true)?;
        }
        "/both" => {
            let mut up = respond.send_response(ok().body(()).unwrap(), false)?;
            let (before, seen) = (seen, seen.clone());
            let flood = tokio::spawn(async move {
                for _ in 0..FLOODS {
                    send(&mut up, vec![b'f'; 64 * 1024].into()).await?;
                    seen.sent.fetch_add(64 * 1024, Ordering::SeqCst);
                }
                up.send_data(Bytes::new(), true)
            });
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                before.received.fetch_add(data.len(), Ordering::SeqCst);
            }
            flood.await.expect("no panic")?;
        }
        // Everything back, as it comes, and what was asked for as trailers.
        "/stream" => {
            let mut up = respond.send_response(ok().body(()).unwrap(), false)?;
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                send(&mut up, data).await?;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            if let Some(sent) = body.trailers().await? {
                trailers.extend(sent);
            }
            up.send_trailers(trailers)?;
        }
        _ => {
            let mut all = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                all.extend_from_slice(&data);
            }
            let text = format!("{head:?}\n{}", String::from_utf8_lossy(&all));
            let length = ok().header("content-length", text.len()).body(()).unwrap();
            let nothing = head.method == "HEAD";
            let mut up = respond.send_response(length, nothing)?;
            if !nothing {
                send(&mut up, text.into()).await?;
                up.send_data(Bytes::new(), true)?;
            }
        }
    }
    Ok(())
}

pub async fn send(up: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        up.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await;
        let room = room.ok_or(Reason::CANCEL)??;
        up.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

fn start(backend: &H2Backend, keys: &str) -> Proxy {
    let keys = format!("protocol: h2c, {keys}");
    let keys = keys.trim_end_matches(", ");
    Proxy::start(setup().set("workers: 1").http("web", "web").pool("web", [backend], keys))
}

#[test]
fn an_http1_request_becomes_one_of_http2_and_its_answer_comes_back() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for (method, body) in [("GET", ""), ("POST", "the body"), ("PUT", ""), ("DELETE", "x")] {
        let ask =
            Ask::new(method, "/echo?q=1").header("x-kept", "1").header("connection", "x-gone");
        let answer = conn.ask(&ask.header("x-gone", "1").body(body)).unwrap();
        assert_eq!(answer.status, 200);
        let text = answer.text();
        assert!(text.contains(&format!("method: {method}")) && text.ends_with(body), "{text}");
        assert!(text.contains("/echo?q=1") && text.contains("\"x-kept\": \"1\""), "{text}");
        assert!(!text.contains("x-gone") && !text.contains("\"connection\""), "{text}");
        assert!(!text.contains("\"host\"") && text.contains("x-forwarded-for"), "{text}");
        assert_eq!(answer.header("x-version").as_deref(), Some("HTTP/2.0"));
    }
    let answer = conn.ask(&Ask::new("HEAD", "/echo")).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(backend.connections(), 1);
    proxy.wait_metric("evenkeel_backend_connections_total", &[], 1.0);
    proxy.wait_at_rest();
}

#[test]
fn bodies_stream_both_ways_at_once_with_their_trailers() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let ask = Ask::post("/stream").header("transfer-encoding", "chunked");
    conn.send(ask.header("te", "trailers").header("connection", "te").bytes()).unwrap();
    let head = conn.head().unwrap();
    assert_eq!((head.status, head.header("transfer-encoding").as_deref()), (200, Some("chunked")));
    for piece in ["one", "and a second one", "3"] {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        conn.send(&chunk).unwrap();
        assert_eq!(conn.bytes(chunk.len()).unwrap(), chunk.as_bytes());
    }
    conn.send("0\r\nx-mine: yes\r\n\r\n").unwrap();
    let end = "0\r\nx-sum: 42\r\nx-mine: yes\r\n\r\n";
    assert_eq!(String::from_utf8(conn.bytes(end.len()).unwrap()).unwrap(), end);
    // The connection goes on; who does not say that he takes trailers gets none.
    conn.send(Ask::post("/stream").body("hello").bytes()).unwrap();
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.text().as_str(), answer.trailers.len()), ("hello", 0));
    proxy.wait_at_rest();
}

#[test]
fn what_a_backend_has_not_looked_at_is_sent_again_even_if_it_is_a_post() {
    for before in [false, true] {
        let backend = H2Backend::start();
        let proxy = start(&backend, "");
        if before {
            // It is on a connection that was there before that the request is turned away.
            get(proxy.address("web"), "/echo").unwrap();
        }
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        let answer = conn.ask(&Ask::post("/refuse-once").body("once")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().ends_with("once"), "{}", answer.text());
        assert_eq!(backend.requests("/refuse-once"), 2);
        proxy.wait_at_rest();
    }
}

/// RFC 9113 3.4: a server's first frame, and its word that it has seen ours.
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

/// Reads frames until the head of a request is whole; its stream.
pub fn asked(peer: &mut crate::harness::RawPeer) -> u32 {
    loop {
        let head = peer.bytes(9);
        peer.bytes(usize::from(head[1]) << 8 | usize::from(head[2]));
        if head[3] == 1 {
            return u32::from_be_bytes(head[5..9].try_into().unwrap());
        }
    }
}

/// RFC 9113 6.8: streams above the last one that a GOAWAY answers for were not looked at.
#[test]
fn what_is_above_a_goaway_is_sent_again_even_if_it_is_a_post() {
    let backend = crate::harness::RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::post("/").body("once").bytes()).unwrap();
    let mut first = backend.accept();
    first.bytes(24);
    first.send(SETTINGS);
    assert_eq!(asked(&mut first), 1);
    first.send(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut second = backend.accept();
    second.bytes(24);
    second.send(SETTINGS);
    assert_eq!(asked(&mut second), 1);
    // HEADERS with END_STREAM and END_HEADERS: `:status: 204`.
    second.send(b"\0\0\x01\x01\x05\0\0\0\x01\x89");
    assert_eq!(conn.answer("POST").unwrap().status, 204);
    proxy.wait_at_rest();
}

/// The end of a connection, without a word, tells nothing of what was done.
#[test]
fn a_connection_that_just_ends_may_have_seen_a_post_through() {
    let backend = crate::harness::RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::post("/").body("once").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.bytes(24);
    peer.send(SETTINGS);
    asked(&mut peer);
    peer.reset();
    assert_eq!(conn.answer("POST").unwrap().status, 502);
    assert!(!backend.is_called());
}

#[test]
fn what_a_backend_may_have_done_is_not_asked_for_twice() {
    let backends = [H2Backend::start(), H2Backend::start()];
    let keys = "protocol: h2c";
    let config = setup().set("workers: 1").http("web", "web").pool("web", &backends, keys);
    let proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let answer = conn.ask(&Ask::post("/broken").body("x")).unwrap();
    assert_eq!(answer.status, 502);
    assert_eq!(backends.iter().map(|backend| backend.requests("/broken")).sum::<usize>(), 1);
    // A GET may be: each backend has its turn.
    assert_eq!(conn.ask(&Ask::get("/broken")).unwrap().status, 502);
    assert!(backends.iter().all(|backend| backend.requests("/broken") >= 1));
}

#[test]
fn requests_share_a_connection_until_the_backend_takes_no_more() {
    let backend = H2Backend::with(5);
    let proxy = start(&backend, "");
    let address = proxy.address("web");
    let at_once = |count: usize| {
        backend.seen.goes_on.send_replace(false);
        let all: Vec<_> =
            (0..count).map(|_| thread::spawn(move || get(address, "/slow"))).collect();
        eventually("all are there at once", PATIENCE, || {
            backend.seen.streams.load(Ordering::SeqCst) == count
        });
        backend.seen.goes_on.send_replace(true);
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap().unwrap().status, 200));
        eventually("all are over", PATIENCE, || backend.seen.streams.load(Ordering::SeqCst) == 0);
    };
    at_once(5);
    assert_eq!(backend.connections(), 1);
    at_once(20);
    assert!((4..=6).contains(&backend.connections()), "{}", backend.connections());
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_backend_in_flight", &[], 0.0);
}

#[test]
fn a_client_that_takes_nothing_stops_its_backend_and_nobody_else() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "");
    let mut slow = Conn::open(proxy.address("web")).unwrap();
    slow.send(Ask::get("/flood").bytes()).unwrap();
    let sent = || backend.seen.sent.load(Ordering::SeqCst);
    crate::harness::eventually("the flood begins", PATIENCE, || sent() > 0);
    let (mut before, mut same) = (0, 0);
    eventually("the flood stops", PATIENCE, || {
        same = if std::mem::replace(&mut before, sent()) == sent() { same + 1 } else { 0 };
        same == 20
    });
    // What the kernel holds for the client, and one window of ours.
    assert!(sent() < 24 << 20, "{} bytes", sent());
    assert!(proxy.memory_bytes("VmRSS") < 100 << 20);
    for _ in 0..10 {
        assert_eq!(get(proxy.address("web"), "/echo").unwrap().status, 200);
    }
    assert_eq!(backend.connections(), 1);
    // It is the rest that comes when the client reads on.
    assert_eq!(slow.answer("GET").unwrap().body.len(), 1000 * 64 * 1024);
}

#[test]
fn a_client_that_leaves_takes_its_stream_along_and_not_the_connection() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "");
    for path in ["/mute", "/silent"] {
        let before = backend.seen.resets.load(Ordering::SeqCst);
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(Ask::get(path).bytes()).unwrap();
        crate::harness::eventually("it is asked", PATIENCE, || backend.requests(path) == 1);
        conn.reset();
        crate::harness::eventually("its stream is reset", PATIENCE, || {
            backend.seen.resets.load(Ordering::SeqCst) > before
        });
    }
    assert_eq!(get(proxy.address("web"), "/echo").unwrap().status, 200);
    assert_eq!(backend.connections(), 1);
    proxy.wait_at_rest();
}

#[test]
fn a_backend_that_says_goodbye_gets_nothing_new_and_may_finish() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "");
    assert_eq!(get(proxy.address("web"), "/goodbye").unwrap().status, 200);
    for _ in 0..5 {
        assert_eq!(get(proxy.address("web"), "/echo").unwrap().status, 200);
    }
    assert_eq!(backend.connections(), 2);
    proxy.wait_metric("evenkeel_backend_open_connections", &[], 1.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
}

#[test]
fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "retry: off");
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::get("/cut").bytes()).unwrap();
    assert_eq!(conn.head().unwrap().status, 200);
    assert_eq!(conn.bytes(13).unwrap(), b"not all of it");
    backend.seen.goes_on.send_replace(true);
    conn.bytes(1).unwrap_err();
    proxy.wait_metric("evenkeel_backend_failures_total", &[("cause", "truncated")], 1.0);
}

#[test]
fn interim_answers_go_on_to_the_client() {
    let backend = H2Backend::start();
    let proxy = start(&backend, "");
    let answer = get(proxy.address("web"), "/interim").unwrap();
    assert_eq!((answer.status, answer.interim), (200, vec![103]));
}

#[test]
fn a_server_that_speaks_something_else_is_not_asked() {
    let backend = crate::harness::Backend::start("a");
    let keys = "protocol: h2c, retry: off, timeouts: {connect: 1s}";
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], keys);
    let proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let answer = conn.ask(&Ask::post("/").body("x")).unwrap();
    assert!([502, 504].contains(&answer.status), "{}", answer.status);
}

#[test]
fn a_copy_of_a_slow_request_goes_over_http2_too() {
    let backends = [H2Backend::start(), H2Backend::start()];
    let keys = "protocol: h2c, balance: round_robin, retry: {hedge: {after: 50ms}}";
    let config = setup().set("workers: 1").http("web", "web").pool("web", &backends, keys);
    let proxy = Proxy::start(config);
    let address = proxy.address("web");
    let asking = thread::spawn(move || get(address, "/slow"));
    eventually("both are asked", PATIENCE, || {
        backends.iter().all(|backend| backend.requests("/slow") == 1)
    });
    backends.iter().for_each(|backend| {
        backend.seen.goes_on.send_replace(true);
    });
    assert_eq!(asking.join().unwrap().unwrap().status, 200);
    assert_eq!(backends.iter().map(|backend| backend.requests("/slow")).sum::<usize>(), 2);
    proxy.wait_at_rest();
}

const OVER_TLS: &str = "tls: {ca: ca.pem, server_name: web.internal}";

/// Where evenkeel finds whom to trust.
fn trusting(ca: &Authority) -> Folder {
    let folder = Folder::new();
    folder.file("ca.pem", &ca.pem);
    folder
}

#[test]
fn over_tls_it_is_http2_to_a_server_that_has_it() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    for protocol in ["h2", "auto"] {
        let pair = ca.issue(&["web.internal"]);
        let nginx = Nginx::of_http2(free_address(), &pair, &ca, "");
        let config = setup().set("workers: 1").http("web", "web");
        let keys = format!("protocol: {protocol}, {OVER_TLS}");
        let config = config.pool("web", [nginx.address], &keys);
        let proxy = Proxy::start_beside(trusting(&ca), config);
        let address = proxy.address("web");
        let asking: Vec<_> = (0..20).map(|_| thread::spawn(move || get(address, "/"))).collect();
        for one in asking {
            let answer = one.join().unwrap().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
            assert_eq!(answer.header("x-alpn").as_deref(), Some("h2"), "{protocol}");
        }
        // A body that nginx does not read, and one that there is none of.
        let mut conn = Conn::open(address).unwrap();
        assert_eq!(conn.ask(&Ask::post("/").body([b'x'; 100_000])).unwrap().status, 200);
        // If it was answered before all of it had come, its connection ends there.
        let mut conn = Conn::open(address).unwrap();
        assert_eq!(conn.ask(&Ask::new("HEAD", "/")).unwrap().status, 200);
        proxy.wait_metric("evenkeel_backend_connections_total", &[], 1.0);
        proxy.wait_at_rest();
    }
}

#[test]
fn auto_is_http1_to_a_server_that_has_nothing_else() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let nginx = Nginx::start(free_address(), &ca.issue(&["web.internal"]), &ca, "");
    let (_openssl, mute) = openssl(&ca, &[]);
    let config = setup().set("workers: 1").http("web", "web");
    let routes = "mode: http, routes: [{pool: mute}]";
    let keys = format!("protocol: auto, {OVER_TLS}");
    let config = config.pool("web", [nginx.address], &keys).listener("other", routes);
    let config = config.pool("mute", [mute], &keys);
    let proxy = Proxy::start_beside(trusting(&ca), config);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for _ in 0..3 {
        let answer = conn.ask(&Ask::get("/")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.header("x-alpn").as_deref(), Some("http/1.1"));
    }
    // It rests between requests, as any of HTTP/1.1.
    proxy.wait_metric("evenkeel_backend_connections_total", &[("pool", "web")], 1.0);
    assert_eq!(get(proxy.address("other"), "/").unwrap().status, 200);
    proxy.wait_at_rest();
}

/// openssl, which settles for no protocol unless told of one.
fn openssl(ca: &Authority, args: &[&str]) -> ((Child, Folder), SocketAddr) {
    let (folder, address) = (Folder::new(), free_address());
    ca.issue(&["web.internal"]).write(&folder, "server");
    let mut command = Command::new("openssl");
    command.current_dir(folder.path()).args(["s_server", "-www", "-quiet", "-accept"]);
    command.arg(address.to_string()).args(["-cert", "server.pem", "-key", "server.key"]).args(args);
    let child = Child::start("openssl", &mut command);
    let open = || std::net::TcpStream::connect(address).is_ok();
    eventually("openssl accepts", PATIENCE, open);
    ((child, folder), address)
}

/// Else whoever likes could have it ejected.
#[test]
fn that_a_server_has_only_http2_is_not_held_against_it() {
    if !program("openssl") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let (_openssl, address) = openssl(&ca, &["-alpn", "h2"]);
    let config = setup().set("workers: 1").http("web", "web");
    let config = config.pool("web", [address], &format!("protocol: auto, {OVER_TLS}"));
    let proxy = Proxy::start_beside(trusting(&ca), config);
    for _ in 0..8 {
        let ask = Ask::get("/").header("connection", "upgrade").header("upgrade", "tea");
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        assert_eq!(conn.ask(&ask).unwrap().status, 501);
    }
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    assert!(proxy.events_saying("no secure connection to a backend").is_empty());
}

/// Nothing was sent, so it goes elsewhere, even a POST; and the log says what is wrong.
#[test]
fn a_server_that_settles_for_another_protocol_is_not_asked() {
    if !program("nginx") || !program("openssl") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["web.internal"]);
    let good = Nginx::of_http2(free_address(), &pair, &ca, "");
    // The one has only HTTP/1.1 to offer, the other says nothing of protocols.
    let http1 = Nginx::start(free_address(), &pair, &ca, "");
    let (_openssl, mute) = openssl(&ca, &[]);
    for (bad, why) in [(http1.address, "NoApplicationProtocol"), (mute, "does not speak HTTP/2")] {
        let keys = format!("protocol: h2, balance: round_robin, outlier: off, {OVER_TLS}");
        let config = setup().set("workers: 1").http("web", "web").pool("alone", [bad], &keys);
        let config = config.pool("web", [good.address, bad], &keys);
        let config = config.listener("only", "mode: http, routes: [{pool: alone}]");
        let proxy = Proxy::start_beside(trusting(&ca), config);
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        for _ in 0..4 {
            let answer = conn.ask(&Ask::post("/").body("x")).unwrap();
            assert_eq!(answer.header("x-alpn").as_deref(), Some("h2"), "{}", answer.text());
        }
        let failures = [("pool", "web"), ("cause", "tls")];
        assert!(proxy.metric("evenkeel_backend_failures_total", &failures) >= 1.0);
        assert_eq!(get(proxy.address("only"), "/").unwrap().status, 502);
        let said = proxy.events_saying("no secure connection to a backend");
        let told = said.iter().any(|event| event.to_string().contains(why));
        assert!(told, "{why}: {said:?}");
    }
}
