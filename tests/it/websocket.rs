//! WebSocket from clients of HTTP/2 (RFC 8441) to backends of HTTP/1.1: the handshake that neither side
//! sees the whole of, then bytes both ways with their ends and resets.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use sha1::{Digest, Sha1};
use tokio::runtime::Runtime;

use crate::harness::{Backend, Head, PATIENCE, Proxy, RawBackend, RawPeer, setup};

/// A client's connection; it lives while its runtime does, on a thread of its own.
struct Client {
    handle: tokio::runtime::Handle,
    send: SendRequest<Bytes>,
    _alive: tokio::sync::oneshot::Sender<()>,
}

/// A WebSocket that is open.
struct Socket<'a> {
    client: &'a Client,
    up: SendStream<Bytes>,
    down: RecvStream,
}

impl Client {
    fn open(address: SocketAddr) -> Client {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime: Runtime = builder.enable_all().build().expect("a runtime can be made");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || {
            // Dropped: the same as told.
            let _ = runtime.block_on(gone);
        });
        let send = handle.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
            let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            let told = async {
                while !send.is_extended_connect_protocol_enabled() {
                    send = send.ready().await.expect("a connection");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                send
            };
            tokio::time::timeout(PATIENCE, told).await.expect("its settings allow it")
        });
        Client { handle, send, _alive: alive }
    }

    fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        let bound = async { tokio::time::timeout(PATIENCE, what).await };
        self.handle.block_on(bound).expect("it comes")
    }

    fn connect(&self, path: &str, protocol: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let uri = format!("http://test.example{path}");
        let request = Request::builder().method("CONNECT").uri(uri);
        let request = request.extension(Protocol::from(protocol));
        let request = request.header("sec-websocket-version", "13");
        let request = request.header("sec-websocket-protocol", "chat");
        // It is nobody's business here (RFC 8441 5).
        let request = request.header("sec-websocket-key", "of the client");
        let mut send = self.wait(self.send.clone().ready()).expect("a connection");
        send.send_request(request.body(()).unwrap(), false).expect("it is sent")
    }

    /// How it ends that is no WebSocket.
    fn refused(&self, path: &str, protocol: &str) -> (u16, String) {
        let (answer, _up) = self.connect(path, protocol);
        self.end(answer)
    }

    fn end(&self, answer: ResponseFuture) -> (u16, String) {
        let answer = self.wait(answer).expect("an answer");
        let (head, body) = answer.into_parts();
        let mut body = Socket::drained(self, body);
        (head.status.as_u16(), String::from_utf8(std::mem::take(&mut body)).unwrap())
    }

    /// With the backend's side of it.
    fn socket<'a>(&'a self, backend: &RawBackend) -> (Socket<'a>, RawPeer) {
        let (answer, up) = self.connect("/chat", "websocket");
        let mut peer = backend.accept();
        let head = peer.head();
        peer.send(switched(&head));
        let answer: Response<RecvStream> = self.wait(answer).expect("an answer");
        assert_eq!(answer.status(), 200);
        (Socket { client: self, up, down: answer.into_body() }, peer)
    }
}

impl Socket<'_> {
    fn send(&mut self, bytes: &'static str) {
        self.up.send_data(Bytes::from_static(bytes.as_bytes()), false).expect("it is open");
    }

    fn finish(&mut self) {
        self.up.send_data(Bytes::new(), true).expect("it is open");
    }

    fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let down = &mut self.down;
        loop {
            let data = self.client.wait(async { down.data().await })?;
            // The end may come in a frame of its own.
            if !data.as_ref().is_ok_and(Bytes::is_empty) {
                if let Ok(data) = &data {
                    down.flow_control().release_capacity(data.len()).unwrap();
                }
                return Some(data);
            }
        }
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.next().expect("more").expect("data").to_vec()).unwrap()
    }

    fn drained(client: &Client, mut down: RecvStream) -> Vec<u8> {
        client.wait(async {
            let mut all = Vec::new();
            while let Some(data) = down.data().await {
                let data = data.expect("data");
                down.flow_control().release_capacity(data.len()).unwrap();
                all.extend_from_slice(&data);
            }
            all
        })
    }
}

/// RFC 6455 1.3.
fn switched(head: &Head) -> String {
    let key = head.one("sec-websocket-key");
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

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
    let mut socket = Socket { client: &client, up, down: answer.into_body() };
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
    let mut took = 0;
    while took < sent {
        took += socket.next().expect("more").expect("data").len();
    }
    // And the other way.
    let chunk = Bytes::from(vec![b'u'; 64 * 1024]);
    let up = &mut socket.up;
    let stalled = client.handle.block_on(async {
        let mut sent = 0;
        while sent < MOST {
            up.reserve_capacity(chunk.len());
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(500), room).await {
                Ok(room) => {
                    let room = room.expect("it is open").expect("room").min(chunk.len());
                    up.send_data(chunk.slice(..room), false).expect("it is open");
                    sent += room;
                }
                Err(_) => break,
            }
        }
        sent
    });
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
fn where_nobody_speaks_it_it_is_refused() {
    let backend = Backend::start("a");
    let routes = "mode: http, routes: [{match: {path: /own}, respond: {status: 200, body: hi}}, \
                  {match: {path: /moved}, redirect: {to: /there, status: 302}}, {pool: web}]";
    let config = setup().set("workers: 1").listener("web", routes);
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let client = Client::open(proxy.address("web"));
    assert_eq!(client.refused("/chat", "websocket").0, 501);
    assert_eq!(client.refused("/own", "websocket").0, 501);
    assert_eq!(client.refused("/moved", "websocket").0, 302);
    proxy.wait_at_rest();
}
