//! Requests of HTTP/2 whose body is on its way while their answer is: neither waits for the other, and what
//! a client does not take is not piled up for it.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::h2_backend::{FLOODS, H2Backend, send};
use crate::harness::{PATIENCE, Proxy, RawBackend, eventually, get, setup};

const UPLOAD: usize = 4 << 20;

/// Of an answer that nobody takes: what the kernel holds on the way, and windows.
const WAITS: usize = 16 << 20;

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime can be made")
}

/// A connection, which lives on a thread of its own and keeps its windows as small as it began with.
fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let (give, take) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let stream = TcpStream::connect(address).await.expect("it listens");
            let (send, conn) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
            give.send(send).expect("somebody waits for it");
            // How it ends is not what is asked here.
            let _ = conn.await;
        });
    });
    take.recv_timeout(PATIENCE).expect("a connection")
}

/// Sends a request whose body is to come, and waits for the head of its answer.
async fn begin(send: &mut SendRequest<Bytes>, path: &str) -> (SendStream<Bytes>, RecvStream) {
    let request = Request::post(format!("http://a.example{path}")).body(()).expect("a sound one");
    let (answer, up) = send.send_request(request, false).expect("there is room");
    let answer = answer.await.expect("an answer begins");
    assert_eq!(answer.status(), 200);
    (up, answer.into_body())
}

/// What comes, taken as it comes.
async fn taken(down: &mut RecvStream) -> usize {
    let mut taken = 0;
    while let Some(data) = down.data().await {
        let data = data.expect("it is whole");
        taken += data.len();
        down.flow_control().release_capacity(data.len()).expect("it was taken");
    }
    taken
}

/// A backend of HTTP/1 that answers at length before it has read the body; what it has sent, and read.
fn both(backend: RawBackend) -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (sent, received) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (sending, receiving) = (sent.clone(), received.clone());
    thread::spawn(move || {
        let mut peer = backend.accept();
        assert_eq!(peer.head().one("transfer-encoding"), "chunked");
        let mut writer = peer.stream().try_clone().expect("a socket can be cloned");
        let flood = thread::spawn(move || {
            let length = FLOODS * 64 * 1024;
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").unwrap();
            for _ in 0..FLOODS {
                // Whoever is no more there to take it has ended the test.
                if writer.write_all(&[b'f'; 64 * 1024]).is_err() {
                    return;
                }
                sending.fetch_add(64 * 1024, Ordering::SeqCst);
            }
        });
        loop {
            let chunk = peer.chunk();
            receiving.fetch_add(chunk.len(), Ordering::SeqCst);
            if chunk.is_empty() {
                break;
            }
        }
        flood.join().expect("no panic");
    });
    (sent, received)
}

#[track_caller]
fn assert_goes_on(proxy: &Proxy, sent: impl Fn() -> usize, received: impl Fn() -> usize) {
    let runtime = runtime();
    let mut client = connect(proxy.address("web"));
    let (mut up, mut down) = runtime.block_on(begin(&mut client, "/both"));
    // Nothing is taken of the answer: it is the stream's own task that goes on with the upload.
    let uploading = async {
        send(&mut up, vec![b'u'; UPLOAD].into()).await.expect("it is taken");
        up.send_data(Bytes::new(), true).expect("it ends");
    };
    let uploading = async { tokio::time::timeout(PATIENCE, uploading).await };
    runtime.block_on(uploading).expect("the upload goes on");
    eventually("the upload is whole", PATIENCE, || received() == UPLOAD);
    let (mut before, mut same) = (0, 0);
    eventually("the answer waits", PATIENCE, || {
        same = if std::mem::replace(&mut before, sent()) == sent() { same + 1 } else { 0 };
        same == 20
    });
    assert!(sent() < WAITS, "{} bytes were taken from the backend", sent());
    assert!(proxy.memory_bytes("VmRSS") < 100 << 20);
    // It goes on when its client does.
    let going_on = async {
        while sent() < before + (1 << 20) {
            let data = down.data().await.expect("it goes on").expect("and is whole");
            down.flow_control().release_capacity(data.len()).expect("it was taken");
        }
    };
    let going_on = async { tokio::time::timeout(PATIENCE, going_on).await };
    runtime.block_on(going_on).expect("it does");
    drop((up, down));
    proxy.wait_at_rest();
}

#[test]
fn an_upload_goes_on_while_its_answer_is_not_taken() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    let (sent, received) = both(backend);
    assert_goes_on(&proxy, || sent.load(Ordering::SeqCst), || received.load(Ordering::SeqCst));
}

#[test]
fn the_same_of_a_backend_of_http2() {
    let backend = H2Backend::start();
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let seen = &backend.seen;
    let load = |of: &AtomicUsize| of.load(Ordering::SeqCst);
    assert_goes_on(&proxy, || load(&seen.sent), || load(&seen.received));
}

/// Time goes on as well: who takes nothing for `stream_idle` has had his answer.
#[test]
fn an_answer_that_nobody_takes_ends_in_time() {
    let backend = H2Backend::start();
    let config = setup().set("workers: 1\ntimeouts: {stream_idle: 400ms}").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "protocol: h2c"));
    let runtime = runtime();
    let mut client = connect(proxy.address("web"));
    let (mut up, down) = runtime.block_on(begin(&mut client, "/both"));
    let reset = async {
        tokio::time::timeout(PATIENCE, std::future::poll_fn(|cx| up.poll_reset(cx))).await
    };
    runtime.block_on(reset).expect("it ends").expect("by a reset");
    proxy.wait_at_rest();
    proxy.wait_metric("evenkeel_listener_failures_total", &[("cause", "client_gone")], 1.0);
    eventually("the backend hears of it", PATIENCE, || {
        backend.seen.resets.load(Ordering::SeqCst) == 1
    });
    // The connection goes on, once what came before is out of its window.
    drop(down);
    let (mut up, mut down) = runtime.block_on(begin(&mut client, "/stream"));
    up.send_data(Bytes::from_static(b"more"), true).unwrap();
    assert_eq!(runtime.block_on(taken(&mut down)), 4);
    assert_eq!(get(proxy.address("web"), "/echo").unwrap().status, 200);
}

/// Turn by turn, over an answer that began before there was any body.
#[test]
fn an_answer_may_begin_before_its_request_has_ended() {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    let address = proxy.address("web");
    let serving = thread::spawn(move || {
        let mut peer = backend.accept();
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for expected in ["one", "two", "three"] {
            assert_eq!(peer.chunk(), expected.as_bytes());
            peer.send(format!("{:x}\r\n{expected}\r\n", expected.len()));
        }
        assert_eq!(peer.chunk(), b"");
        peer.send("0\r\n\r\n");
        // The same connection carries another.
        peer.head();
        peer.answer("again");
    });
    let runtime = runtime();
    runtime.block_on(async {
        let mut client = connect(address);
        let (mut up, mut down) = begin(&mut client, "/").await;
        for piece in ["one", "two", "three"] {
            up.send_data(Bytes::from_static(piece.as_bytes()), false).unwrap();
            let back = down.data().await.expect("it goes on").expect("and is whole");
            assert_eq!(back, piece.as_bytes());
            down.flow_control().release_capacity(back.len()).unwrap();
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert_eq!(taken(&mut down).await, 0);
    });
    assert_eq!(get(address, "/").unwrap().text(), "again");
    serving.join().unwrap();
    proxy.wait_metric("evenkeel_backend_connections_total", &[], 1.0);
    proxy.wait_at_rest();
}
