//! Probes over real sockets, against backends that behave and backends that do not.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

mod databases;

use super::{Failure, Network, Prober, Verdict};
use crate::config::model::{HealthCheck, HttpProbe, Initial, ProbeKind};
use crate::pool::BackendAddr;

/// What a backend saw of one connection: all bytes, and whether it ended without an error.
type Seen = (Vec<u8>, bool);

/// A backend that writes `answer` once it has read as much as a request (or at once, if it is to read
/// nothing), and then closes or waits for the probe to close.
#[derive(Clone, Copy)]
struct Backend {
    reads: bool,
    answer: &'static [u8],
    closes: bool,
}

const HTTP: Backend = Backend { reads: true, answer: b"", closes: true };

impl Backend {
    async fn start(self) -> (SocketAddr, mpsc::Receiver<Seen>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (tell, seen) = mpsc::channel(16);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                tokio::task::spawn_local(async move {
                    let _ = tell.send(self.serve(stream).await).await;
                });
            }
        });
        (addr, seen)
    }

    async fn serve(self, mut stream: TcpStream) -> Seen {
        let mut seen = Vec::new();
        while self.reads && !seen.ends_with(b"\r\n\r\n") && !seen.ends_with(b"PING\r\n") {
            match stream.read_buf(&mut seen).await {
                Ok(0) => return (seen, true),
                Ok(_) => {}
                Err(_) => return (seen, false),
            }
        }
        let clean = stream.write_all(self.answer).await.is_ok();
        if self.closes {
            let _ = stream.shutdown().await;
        }
        let clean = clean && stream.read_to_end(&mut seen).await.is_ok();
        (seen, clean)
    }
}

fn check(kind: ProbeKind) -> HealthCheck {
    HealthCheck {
        kind,
        interval: Duration::from_secs(2),
        interval_unsettled: Duration::from_millis(500),
        timeout: Duration::from_millis(300),
        fall: 3,
        rise: 2,
        initial: Initial::Up,
        port: None,
        address: None,
        tls: None,
        introduce: None,
    }
}

fn http(expect_body: Option<&str>) -> HttpProbe {
    HttpProbe {
        http2: false,
        path: "/healthz?deep=1".into(),
        host: None,
        method: Method::GET,
        expect_status: vec![200..=299, 304..=304],
        expect_body: expect_body.map(String::from),
        headers: Vec::new(),
    }
}

async fn probe(addr: SocketAddr, kind: ProbeKind) -> Verdict {
    Network.probe(&check(kind), BackendAddr(addr), None).await
}

async fn http_verdict(backend: Backend, expect_body: Option<&str>) -> Verdict {
    let (addr, _seen) = backend.start().await;
    probe(addr, ProbeKind::Http(http(expect_body))).await
}

#[tokio::test(flavor = "local")]
async fn http_answers_are_judged() {
    let chunked: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        4\r\nit i\r\n4\r\ns ok\r\n0\r\n\r\n";
    let bad_chunk: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n";
    let cases: [(&[u8], Option<&str>, Option<Failure>); 15] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", None, None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None, None),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", None, None),
        (b"HTTP/1.0 200 OK\r\n\r\nit is ok", Some("ok"), None),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", None, None),
        (chunked, Some("is ok"), None),
        (bad_chunk, Some("ok"), Some(Failure::NotHttp)),
        (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nok", Some("ok"), Some(Failure::Status(503))),
        (b"HTTP/1.1 301 Moved\r\nlocation: /\r\n\r\n", None, Some(Failure::Status(301))),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", Some("ok"), Some(Failure::Body)),
        (b"HTTP/1.1 200 OK\r\n\r\n", Some("ok"), Some(Failure::Body)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbad", Some("ok"), Some(Failure::Closed)),
        (b"HTTP/1.1 200 OK\r\nconte", None, Some(Failure::Closed)),
        (b"-ERR unknown command\r\n", None, Some(Failure::NotHttp)),
        (b"", None, Some(Failure::Closed)),
    ];
    for (answer, expect_body, expected) in cases {
        let told = String::from_utf8_lossy(answer);
        let verdict = http_verdict(Backend { answer, ..HTTP }, expect_body).await;
        match (verdict, expected) {
            (Verdict::Pass, None) => {}
            (Verdict::Fail(failure), Some(expected)) => assert_eq!(failure, expected, "{told}"),
            (verdict, expected) => panic!("{verdict:?} instead of {expected:?}: {told}"),
        }
    }
}

#[tokio::test(flavor = "local")]
async fn a_greeting_instead_of_an_answer_is_not_http() {
    let ssh = Backend { reads: false, answer: b"SSH-2.0-OpenSSH_9.6\r\n", closes: false };
    let verdict = http_verdict(ssh, None).await;
    assert!(matches!(verdict, Verdict::Fail(Failure::NotHttp)), "{verdict:?}");
}

#[tokio::test(flavor = "local")]
async fn a_body_is_read_for_64_kib_and_no_further() {
    let endless = |late: usize| -> Backend {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(answer.len() + late, b'.');
        answer.extend_from_slice(b"ok");
        // Kept for the rest of the test run, for a simple type.
        Backend { answer: answer.leak(), closes: false, ..HTTP }
    };
    let verdict = http_verdict(endless(64 * 1024 - 2), Some("ok")).await;
    assert!(matches!(verdict, Verdict::Pass), "{verdict:?}");
    let verdict = http_verdict(endless(64 * 1024), Some("ok")).await;
    assert!(matches!(verdict, Verdict::Fail(Failure::Body)), "{verdict:?}");
}

#[tokio::test(flavor = "local")]
async fn a_request_says_who_asks_and_what_was_configured() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (addr, mut seen) = Backend { answer, ..HTTP }.start().await;
    probe(addr, ProbeKind::Http(http(None))).await;
    let (head, clean) = seen.recv().await.expect("one connection");
    let head = String::from_utf8(head).expect("ASCII");
    assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {addr}\r\n")), "{head}");
    assert!(head.contains("user-agent: evenkeel/") && head.contains(" probe\r\n"), "{head}");
    assert!(clean, "the backend saw an error at the end");
    let ask = HttpProbe {
        host: Some(HeaderValue::from_static("example.com")),
        method: Method::HEAD,
        headers: vec![
            (HeaderName::from_static("user-agent"), HeaderValue::from_static("me")),
            (HeaderName::from_static("x-a"), HeaderValue::from_static("1")),
            (HeaderName::from_static("x-a"), HeaderValue::from_static("2")),
        ],
        ..http(None)
    };
    probe(addr, ProbeKind::Http(ask)).await;
    let head = String::from_utf8(seen.recv().await.expect("one connection").0).expect("ASCII");
    assert!(head.starts_with("HEAD /"), "{head}");
    for line in ["host: example.com\r\n", "user-agent: me\r\n", "x-a: 1\r\n", "x-a: 2\r\n"] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(!head.contains("evenkeel"), "{head}");
}

#[tokio::test(flavor = "local")]
async fn a_backend_sees_every_probe_end_in_good_order() {
    let large = b"HTTP/1.1 503 No\r\ncontent-length: 20\r\n\r\n01234567890123456789";
    let (addr, mut seen) = Backend { answer: large, ..HTTP }.start().await;
    probe(addr, ProbeKind::Http(http(None))).await;
    assert!(seen.recv().await.expect("one connection").1);
    // A bare connection, to a backend that greets.
    let greets = Backend { reads: false, answer: b"220 hello\r\n", closes: false };
    let (addr, mut seen) = greets.start().await;
    let verdict = probe(addr, ProbeKind::Tcp { send: None, expect: None }).await;
    assert!(matches!(verdict, Verdict::Pass), "{verdict:?}");
    assert_eq!(seen.recv().await.expect("one connection"), (Vec::new(), true));
}

#[tokio::test(flavor = "local")]
async fn tcp_answers_are_judged() {
    let redis = Backend { reads: true, answer: b"+PONG\r\n", closes: false };
    let silent = Backend { answer: b"", ..redis };
    let gone = Backend { closes: true, ..silent };
    let wrong = Backend { answer: b"-LOADING\r\n", closes: true, ..redis };
    for (backend, expected) in [
        (redis, None),
        (silent, Some(Failure::Timeout)),
        (gone, Some(Failure::Closed)),
        (wrong, Some(Failure::Answer)),
    ] {
        let (addr, _seen) = backend.start().await;
        let kind = ProbeKind::Tcp {
            send: Some(b"PING\r\n".as_slice().into()),
            expect: Some(b"+PONG".as_slice().into()),
        };
        match (probe(addr, kind).await, expected) {
            (Verdict::Pass, None) => {}
            (Verdict::Fail(failure), Some(expected)) => assert_eq!(failure, expected),
            (verdict, expected) => panic!("{verdict:?} instead of {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "local")]
async fn a_backend_that_accepts_but_never_answers_times_out() {
    let frozen = Backend { reads: true, answer: b"", closes: false };
    let verdict = http_verdict(frozen, None).await;
    assert!(matches!(verdict, Verdict::Fail(Failure::Timeout)), "{verdict:?}");
}

#[tokio::test(flavor = "local")]
async fn a_port_that_nobody_listens_on_refuses() {
    // Bound but not listening: nobody else can take the port.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let addr = socket.local_addr().expect("it is bound");
    for kind in [ProbeKind::Http(http(None)), ProbeKind::Tcp { send: None, expect: None }] {
        let verdict = probe(addr, kind).await;
        assert!(matches!(verdict, Verdict::Fail(Failure::Refused)), "{verdict:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_backend_that_resets_is_told_from_one_that_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).expect("a live socket");
        }
    });
    let verdict = probe(addr, ProbeKind::Http(http(None))).await;
    assert!(matches!(verdict, Verdict::Fail(Failure::Reset)), "{verdict:?}");
}

#[tokio::test(flavor = "local")]
async fn another_port_and_address_can_be_probed() {
    let (addr, _seen) = Backend { reads: false, answer: b"", closes: false }.start().await;
    let elsewhere = BackendAddr(([192, 0, 2, 1], 9).into());
    let check = HealthCheck {
        port: Some(addr.port()),
        address: Some(addr.ip()),
        ..check(ProbeKind::Tcp { send: None, expect: None })
    };
    let verdict = Network.probe(&check, elsewhere, None).await;
    assert!(matches!(verdict, Verdict::Pass), "{verdict:?}");
}
