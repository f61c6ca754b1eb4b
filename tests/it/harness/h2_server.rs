//! A server of HTTP/2, by the h2 crate: what becomes of each request its test says, frame by frame if it likes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

use super::websocket::Socket;
use super::{PATIENCE, Pair};

/// A server that does with each request what its test says.
pub struct Server {
    pub address: SocketAddr,
    pub handle: Handle,
    calls: mpsc::Receiver<Call>,
    /// The tasks of its connections.
    connections: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
    /// Its thread ends when this does.
    _alive: tokio::sync::oneshot::Sender<()>,
}

/// A request that it got.
pub struct Call {
    handle: Handle,
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Server {
    pub fn start() -> Server {
        Server::with(true, None)
    }

    /// `connect`: it says that it takes an extended CONNECT.
    pub fn with(connect: bool, tls: Option<TlsAcceptor>) -> Server {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime can be made");
        let handle = runtime.handle().clone();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (tell, calls) = mpsc::channel();
        let connections = Arc::<Mutex<Vec<_>>>::default();
        let made = connections.clone();
        thread::spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let (tls, tell) = (tls.clone(), tell.clone());
                        let task = tokio::spawn(async move {
                            match tls {
                                None => serve(stream, connect, tell).await,
                                Some(tls) => {
                                    let stream = tls.accept(stream).await.expect("TLS");
                                    serve(stream, connect, tell).await;
                                }
                            }
                        });
                        made.lock().unwrap().push(task.abort_handle());
                    }
                });
                // Dropped: the same as told.
                let _ = gone.await;
            });
        });
        Server { address, handle, calls, connections, _alive: alive }
    }

    pub fn over_tls(pair: &Pair) -> Server {
        let config = pair.server_config(&["h2", "http/1.1"]);
        Server::with(true, Some(TlsAcceptor::from(config)))
    }

    /// The next request.
    #[track_caller]
    pub fn call(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("the backend gets a request")
    }

    pub fn is_called(&self) -> bool {
        self.calls.try_recv().is_ok()
    }

    pub fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Its connections are gone, as with its process.
    pub fn die(&self) {
        self.connections.lock().unwrap().iter().for_each(tokio::task::AbortHandle::abort);
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    connect: bool,
    tell: mpsc::Sender<Call>,
) {
    let mut builder = h2::server::Builder::new();
    // One stream that is not read shall not be in the way of the others.
    builder.initial_connection_window_size(16 << 20);
    if connect {
        builder.enable_connect_protocol();
    }
    // A client that goes away is nothing to report.
    let Ok(mut conn) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = conn.accept().await {
        if request.uri().path() == "/goodbye" {
            conn.graceful_shutdown();
        }
        // A test that is over wants nothing more.
        let _ = tell.send(Call { handle: Handle::current(), request, respond });
    }
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    /// A head; it ends there, or else its body can be sent.
    pub fn answer(mut self, status: u16, fields: &[(&str, &str)], ends: bool) -> Socket {
        let mut head = Response::builder().status(status);
        for (name, value) in fields {
            head = head.header(*name, *value);
        }
        let up = self.respond.send_response(head.body(()).unwrap(), ends).expect("it is asked");
        Socket { handle: self.handle, up, down: self.request.into_body() }
    }

    pub fn grant(self) -> Socket {
        self.answer(200, &[("sec-websocket-protocol", "chat")], false)
    }
}
