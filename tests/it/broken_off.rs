//! TLS that ends without close_notify may have been cut by anybody in between (RFC 8446 6.1): what came
//! before it is delivered, and nobody takes it for all. Peers of rustls, which tell the two ends apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection, StreamOwned};

use crate::backend_tls::{FULL, folder, server};
use crate::harness::{
    Ask, Authority, Broken, Conn, PATIENCE, Pair, Proxy, RawBackend, Signal, eventually, get, setup,
};

type Client = StreamOwned<ClientConnection, TcpStream>;

/// How a side ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Politely,
    Curtly,
}

/// A client by TLS.
fn client(address: SocketAddr, authority: &Authority) -> Client {
    let mut roots = RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
    roots.add(der).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("web.internal").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
    StreamOwned::new(connection, stream)
}

/// Ends the side that writes.
fn end<C, S>(stream: &mut StreamOwned<C, TcpStream>, how: How)
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>,
    S: rustls::SideData,
{
    if how == How::Politely {
        stream.conn.send_close_notify();
    }
    stream.flush().expect("it is written");
    let _ = stream.sock.shutdown(Shutdown::Write);
}

/// A backend by TLS that says `text`, ends so, and then waits for the other side's end.
fn saying(pair: &Pair, text: impl Into<Vec<u8>>, how: How) -> SocketAddr {
    let text = text.into();
    server(pair, move |mut stream| {
        if stream.write_all(&text).is_ok() {
            end(&mut stream, how);
        }
        let _ = stream.sock.read(&mut [0; 16]);
    })
}

/// A backend by TLS that keeps what it hears, and how that ends.
fn hearing(pair: &Pair) -> (SocketAddr, impl Fn() -> (Vec<u8>, Option<ErrorKind>) + use<>) {
    let heard = Arc::new(Mutex::new(None));
    let told = heard.clone();
    let address = server(pair, move |mut stream: StreamOwned<ServerConnection, TcpStream>| {
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).err().map(|error| error.kind());
        *told.lock().expect("no panic") = Some((all, end));
    });
    let take = move || {
        let mut taken = None;
        eventually("the backend hears an end", PATIENCE, || {
            taken = heard.lock().expect("no panic").take();
            taken.is_some()
        });
        taken.expect("it has just been seen")
    };
    (address, take)
}

fn listeners(proxy: &Proxy, listener: &str) -> f64 {
    proxy.metric("evenkeel_listener_failures_total", &[("listener", listener)])
}

#[test]
fn a_backend_that_breaks_off_is_told_of_at_the_client() {
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["web.internal"]);
    let folder = folder(&ca);
    pair.write(&folder, "web");
    let backends = [How::Politely, How::Curtly].map(|how| saying(&pair, "all there is", how));
    let mut config = setup();
    for (name, backend) in ["polite", "curt"].iter().zip(backends) {
        let tls = format!(
            "mode: tcp, tls: {{certificates: [{{cert: web.pem, key: web.key}}]}}, pool: {name}"
        );
        config = config.tcp(name, name).listener(&format!("{name}-tls"), &tls).pool(
            name,
            [backend],
            FULL,
        );
    }
    let proxy = Proxy::start_beside(folder, config);
    for (name, clear, tls) in [
        ("polite", Ok(Vec::new()), None),
        ("curt", Err(Broken::Reset), Some(ErrorKind::UnexpectedEof)),
    ] {
        let mut conn = Conn::open(proxy.address(name)).expect("a connection");
        assert_eq!(conn.bytes(12).expect("its bytes"), b"all there is", "{name}");
        assert_eq!(conn.rest(), clear, "{name}");
        let mut client = client(proxy.address(&format!("{name}-tls")), &ca);
        let mut all = Vec::new();
        let end = client.read_to_end(&mut all).err().map(|error| error.kind());
        assert_eq!((&*all, end), (&b"all there is"[..], tls), "{name}");
    }
    // It is told, and held against nobody: many servers end so all day.
    for listener in ["curt", "curt-tls"] {
        let labels = [("listener", listener), ("cause", "truncated")];
        proxy.wait_metric("evenkeel_listener_failures_total", &labels, 1.0);
    }
    assert_eq!(listeners(&proxy, "polite") + listeners(&proxy, "polite-tls"), 0.0);
    assert_eq!(proxy.metric("evenkeel_pool_failures_total", &[]), 0.0);
    proxy.wait_at_rest();
}

#[test]
fn a_client_that_breaks_off_is_told_of_at_the_backend() {
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["web.internal"]);
    let folder = folder(&ca);
    pair.write(&folder, "web");
    let clear = RawBackend::open();
    let (tls, heard) = hearing(&pair);
    let listener = |pool: &str| {
        format!("mode: tcp, tls: {{certificates: [{{cert: web.pem, key: web.key}}]}}, pool: {pool}")
    };
    let config = setup()
        .listener("clear", &listener("clear"))
        .listener("tls", &listener("tls"))
        .pool("clear", [&clear], "")
        .pool("tls", [tls], FULL);
    let proxy = Proxy::start_beside(folder, config);
    for how in [How::Politely, How::Curtly] {
        let say = |listener: &str| {
            let mut client = client(proxy.address(listener), &ca);
            client.write_all(b"all there is").expect("it is taken");
            end(&mut client, how);
            client
        };
        let client = say("clear");
        let mut peer = clear.accept();
        assert_eq!(peer.bytes(12), b"all there is", "{how:?}");
        let end = peer.rest().map_err(|error| error.kind());
        let expected = match how {
            How::Politely => Ok(Vec::new()),
            How::Curtly => Err(ErrorKind::ConnectionReset),
        };
        assert_eq!(end, expected, "{how:?}");
        drop((client, peer));
        let _client = say("tls");
        let (all, end) = heard();
        assert_eq!(all, b"all there is", "{how:?}");
        // A reset where the backend's session tickets came too late to be read.
        let broken = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert_eq!(end.is_some_and(|end| broken.contains(&end)), how == How::Curtly, "{end:?}");
    }
    proxy.wait_at_rest();
    assert_eq!(listeners(&proxy, "clear") + listeners(&proxy, "tls"), 0.0);
}

/// A reset overtakes what lies in a socket's queue, and takes it away.
#[test]
fn a_client_that_reads_slowly_gets_all_that_came_before() {
    const SIZE: usize = 200_000;
    let ca = Authority::new("a test's authority");
    let bytes: Vec<u8> = (0..SIZE as u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let backend = saying(&ca.issue(&["web.internal"]), bytes.clone(), How::Curtly);
    let config = setup().tcp("web", "web").pool("web", [backend], FULL);
    let proxy = Proxy::start_beside(folder(&ca), config);
    let domain = socket2::Domain::for_address(proxy.address("web"));
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket takes this option");
    socket.connect(&proxy.address("web").into()).expect("it listens");
    let mut conn = Conn::over(socket.into()).expect("a connection");
    // All of it is out of evenkeel's hands.
    proxy.wait_metric("evenkeel_listener_sent_bytes_total", &[], SIZE as f64);
    assert!(conn.bytes(SIZE).expect("all of it") == bytes);
    assert_eq!(conn.rest(), Err(Broken::Reset));
    proxy.wait_at_rest();
}

/// RFC 9112 9.8: an answer that its end delimits is whole with close_notify, and with nothing less.
#[test]
fn an_answer_is_whole_by_its_length_or_by_close_notify() {
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["web.internal"]);
    let answering = |head: &str, body: &str, how: How| {
        let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n{body}");
        server(&pair, move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            if stream.write_all(text.as_bytes()).is_ok() {
                end(&mut stream, how);
            }
            let _ = stream.sock.read(&mut [0; 16]);
        })
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    let mut config = setup();
    let mut routes = String::new();
    let cases = [
        ("polite", "", "a body", How::Politely, true),
        ("curt", "", "a body", How::Curtly, false),
        ("length", "Content-Length: 6\r\n", "a body", How::Curtly, true),
        ("short", "Content-Length: 7\r\n", "a body", How::Politely, false),
        ("chunked", chunked, "6\r\na body\r\n0\r\n\r\n", How::Curtly, true),
        ("chunk", chunked, "6\r\na body\r\n", How::Politely, false),
    ];
    for (name, head, body, how, _) in cases {
        routes += &format!("{{match: {{path: /{name}}}, pool: {name}}}, ");
        let keys = format!("{FULL}, outlier: off");
        config = config.pool(name, [answering(head, body, how)], &keys);
    }
    let routes = routes.trim_end_matches(", ");
    let proxy = Proxy::start_beside(
        folder(&ca),
        config.listener("web", &format!("mode: http, routes: [{routes}]")),
    );
    for (name, .., whole) in cases {
        let answer = get(proxy.address("web"), &format!("/{name}"));
        assert_eq!(
            answer.as_ref().is_ok_and(|it| it.body == b"a body"),
            whole,
            "{name}: {answer:?}"
        );
        let labels = [("pool", name), ("cause", "truncated")];
        // One that is short enough to be held is asked for again.
        let truncated = proxy.metric("evenkeel_pool_failures_total", &labels) > 0.0;
        assert_eq!(truncated, !whole, "{name}");
    }
}

/// WebSocket says itself when all was said: whoever hangs up then has not failed.
#[test]
fn after_a_change_of_protocol_it_is_passed_on_and_is_no_failure() {
    let ca = Authority::new("a test's authority");
    let switching = server(&ca.issue(&["web.internal"]), |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                    Upgrade: websocket\r\n\r\n";
        if stream.write_all(format!("{head}goodbye").as_bytes()).is_ok() {
            end(&mut stream, How::Curtly);
        }
        let _ = stream.sock.read(&mut [0; 16]);
    });
    let config = setup().http("web", "web").pool("web", [switching], FULL);
    let proxy = Proxy::start_beside(folder(&ca), config);
    let mut conn = Conn::open(proxy.address("web")).expect("a connection");
    let ask = Ask::get("/").header("Connection", "upgrade").header("Upgrade", "websocket");
    conn.send(ask.bytes()).expect("it is sent");
    assert_eq!(conn.head().expect("an answer").status, 101);
    assert_eq!(conn.bytes(7).expect("its bytes"), b"goodbye");
    assert_eq!(conn.rest(), Err(Broken::Reset));
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_pool_failures_total", &[]), 0.0);
    assert_eq!(listeners(&proxy, "web"), 0.0);
    assert_eq!(proxy.events_saying("request failed").len(), 0);
}

/// What is cut at `drain_timeout` is not taken for whole either.
#[test]
fn a_stream_that_is_cut_ends_by_a_reset() {
    let backend = RawBackend::open();
    let config = setup().set("drain_timeout: 200ms").tcp("web", "web");
    let mut proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut conn = Conn::open(proxy.address("web")).expect("a connection");
    let mut peer = backend.accept();
    conn.send("half of").expect("it is taken");
    assert_eq!(peer.bytes(7), b"half of");
    proxy.child.signal(Signal::Terminate);
    assert_eq!(conn.rest(), Err(Broken::Reset));
    assert_eq!(peer.rest().map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    proxy.child.wait_exit(PATIENCE);
}
