//! Clients that open WebSockets, by an extended CONNECT of HTTP/2 (RFC 8441) or an Upgrade of HTTP/1.1, and
//! what a backend of HTTP/1.1 answers to a handshake.

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
use tokio::runtime::{Handle, Runtime};

use super::{Ask, Broken, Conn, Head, PATIENCE, Proxy, RawBackend, RawPeer, eventually};

/// A client's connection; it lives while its runtime does, on a thread of its own.
pub struct Client {
    pub handle: Handle,
    send: SendRequest<Bytes>,
    _alive: tokio::sync::oneshot::Sender<()>,
}

/// An open WebSocket's end on a stream of HTTP/2, whichever side's it is.
pub struct Socket {
    pub handle: Handle,
    pub up: SendStream<Bytes>,
    pub down: RecvStream,
}

impl Client {
    pub fn open(address: SocketAddr) -> Client {
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

    pub fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        wait(&self.handle, what)
    }

    pub fn connect(&self, path: &str, protocol: &str) -> (ResponseFuture, SendStream<Bytes>) {
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

    /// The load balancer has said that nothing new may come (GOAWAY).
    pub fn wait_goodbye(&self) {
        eventually("it says goodbye", PATIENCE, || self.wait(self.send.clone().ready()).is_err());
    }

    /// How it ends that is no WebSocket.
    pub fn refused(&self, path: &str, protocol: &str) -> (u16, String) {
        let (answer, _up) = self.connect(path, protocol);
        self.end(answer)
    }

    pub fn end(&self, answer: ResponseFuture) -> (u16, String) {
        let answer = self.wait(answer).expect("an answer");
        let (head, body) = answer.into_parts();
        let body = drained(&self.handle, body);
        (head.status.as_u16(), String::from_utf8(body).unwrap())
    }

    /// With the backend's side of it.
    pub fn socket(&self, backend: &RawBackend) -> (Socket, RawPeer) {
        let (answer, up) = self.connect("/chat", "websocket");
        let mut peer = backend.accept();
        let head = peer.head();
        peer.send(switched(&head));
        (self.granted(answer, up), peer)
    }

    /// It is one now.
    pub fn granted(&self, answer: ResponseFuture, up: SendStream<Bytes>) -> Socket {
        let answer: Response<RecvStream> = self.wait(answer).expect("an answer");
        assert_eq!(answer.status(), 200);
        Socket { handle: self.handle.clone(), up, down: answer.into_body() }
    }
}

/// What comes within the time that things may take.
pub fn wait<T>(handle: &Handle, what: impl Future<Output = T>) -> T {
    let bound = async { tokio::time::timeout(PATIENCE, what).await };
    handle.block_on(bound).expect("it comes")
}

fn drained(handle: &Handle, mut down: RecvStream) -> Vec<u8> {
    wait(handle, async {
        let mut all = Vec::new();
        while let Some(data) = down.data().await {
            let data = data.expect("data");
            down.flow_control().release_capacity(data.len()).unwrap();
            all.extend_from_slice(&data);
        }
        all
    })
}

impl Socket {
    pub fn send(&mut self, bytes: &'static str) {
        self.up.send_data(Bytes::from_static(bytes.as_bytes()), false).expect("it is open");
    }

    pub fn finish(&mut self) {
        self.up.send_data(Bytes::new(), true).expect("it is open");
    }

    pub fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let down = &mut self.down;
        loop {
            let data = wait(&self.handle, async { down.data().await })?;
            // The end may come in a frame of its own.
            if !data.as_ref().is_ok_and(Bytes::is_empty) {
                if let Ok(data) = &data {
                    down.flow_control().release_capacity(data.len()).unwrap();
                }
                return Some(data);
            }
        }
    }

    pub fn text(&mut self) -> String {
        String::from_utf8(self.next().expect("more").expect("data").to_vec()).unwrap()
    }

    /// Sends until the other side takes no more for half a second, `most` bytes at the most.
    pub fn pour(&mut self, byte: u8, most: usize) -> usize {
        let (up, piece) = (&mut self.up, Bytes::from(vec![byte; 64 * 1024]));
        self.handle.block_on(async {
            let mut sent = 0;
            while sent < most {
                up.reserve_capacity(piece.len());
                let room = std::future::poll_fn(|cx| up.poll_capacity(cx));
                match tokio::time::timeout(Duration::from_millis(500), room).await {
                    Ok(room) => {
                        let room = room.expect("it is open").expect("room").min(piece.len());
                        up.send_data(piece.slice(..room), false).expect("it is open");
                        sent += room;
                    }
                    Err(_) => break,
                }
            }
            sent
        })
    }

    /// Takes so many bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.next().expect("more").expect("data"));
        }
        all
    }
}

/// How a client may come: by HTTP/2, or not.
pub const CLIENTS: [bool; 2] = [false, true];

/// A client's end of a WebSocket.
pub enum Web {
    H1(Conn),
    /// With the connection that it is on.
    H2(Socket, Client),
}

/// What a client of HTTP/1.1 asks with: the example of RFC 6455 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub fn handshake(path: &str) -> Ask {
    Ask::get(path)
        .host("test.example")
        .header("Connection", "keep-alive, Upgrade")
        .header("Upgrade", "WebSocket")
        .header("Sec-WebSocket-Key", KEY)
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Protocol", "chat")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
}

impl Web {
    /// `h2`: it comes by HTTP/2.
    pub fn open<T>(proxy: &Proxy, h2: bool, grant: impl FnOnce() -> T) -> (Web, T) {
        let address = proxy.address("web");
        if h2 {
            let client = Client::open(address);
            let (answer, up) = client.connect("/chat", "websocket");
            let far = grant();
            return (Web::H2(client.granted(answer, up), client), far);
        }
        let mut conn = Conn::open(address).unwrap();
        conn.send(handshake("/chat").bytes()).unwrap();
        let far = grant();
        assert_eq!(conn.head().unwrap().status, 101);
        (Web::H1(conn), far)
    }

    pub fn send(&mut self, text: &'static str) {
        match self {
            Web::H1(conn) => conn.send(text).unwrap(),
            Web::H2(socket, _) => socket.send(text),
        }
    }

    #[track_caller]
    pub fn hears(&mut self, text: &str) {
        let bytes = match self {
            Web::H1(conn) => conn.bytes(text.len()).unwrap(),
            Web::H2(socket, _) => socket.take(text.len()),
        };
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    pub fn finish(&mut self) {
        match self {
            Web::H1(conn) => conn.finish_writing(),
            Web::H2(socket, _) => socket.finish(),
        }
    }

    /// Whether it ends in order, with nothing more before that.
    #[track_caller]
    pub fn ends_well(&mut self) -> bool {
        match self {
            Web::H1(conn) => match conn.rest() {
                Ok(rest) => rest.is_empty(),
                Err(broken) => {
                    assert_eq!(broken, Broken::Reset);
                    false
                }
            },
            Web::H2(socket, _) => socket.next().is_none(),
        }
    }

    /// Breaks it off. What is returned is left of it.
    pub fn reset(self) -> Option<Client> {
        match self {
            Web::H1(conn) => {
                conn.reset();
                None
            }
            Web::H2(mut socket, client) => {
                socket.up.send_reset(Reason::CANCEL);
                Some(client)
            }
        }
    }
}

/// RFC 6455 1.3.
pub fn switched(head: &Head) -> String {
    let key = head.one("sec-websocket-key");
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}
