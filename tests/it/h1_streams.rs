//! What happens in the middle of an exchange: interim answers, trailers, early answers, clients and
//! backends that leave, changes of protocol.

use std::time::{Duration, Instant};

use crate::harness::{
    Answer, Ask, Broken, Conn, PATIENCE, Proxy, RawBackend, RawPeer, Witness, eventually, ok, setup,
};

fn start(set: &str) -> (RawBackend, Proxy, Conn) {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").set(set).http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&backend], "retry: {attempts: 1}"));
    let conn = Conn::open(proxy.address("web")).unwrap();
    (backend, proxy, conn)
}

/// The end of a backend's connection, in whatever order; what came before it.
#[track_caller]
fn assert_ends(peer: &mut RawPeer, proxy: &Proxy) -> Vec<u8> {
    let began = Instant::now();
    let rest = peer.rest().unwrap_or_default();
    assert!(began.elapsed() < PATIENCE / 2, "it is let go late");
    proxy.wait_at_rest();
    rest
}

fn next(conn: &mut Conn) -> String {
    let line = |conn: &mut Conn| {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(conn.bytes(1).unwrap());
        }
        String::from_utf8(line).unwrap()
    };
    let mut head = line(conn);
    while !head.ends_with("\r\n\r\n") {
        head += &line(conn);
    }
    head
}

const EXPECTS: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[test]
fn whether_a_client_is_to_send_its_body_is_for_the_backend_to_say() {
    let (backend, proxy, mut conn) = start("");
    conn.send(EXPECTS).unwrap();
    let mut peer = backend.accept();
    assert_eq!(peer.head().one("expect"), "100-continue");
    assert!(conn.is_silent(), "nobody has said anything yet");
    peer.send("HTTP/1.1 100 Go on\r\nX-Why: not\r\n\r\n");
    assert_eq!(next(&mut conn), "HTTP/1.1 100 Go on\r\nX-Why: not\r\n\r\n");
    conn.send("body").unwrap();
    assert_eq!(peer.bytes(4), b"body");
    peer.answer("thanks");
    assert_eq!(conn.answer("POST").unwrap().text(), "thanks");
    // Both connections go on.
    conn.send(EXPECTS).unwrap();
    peer.head();
    // The client need not wait for it (RFC 9110 10.1.1).
    conn.send("BODY").unwrap();
    assert_eq!(peer.bytes(4), b"BODY");
    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
    peer.answer("again");
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.text(), answer.interim.as_slice()), ("again".into(), &[100][..]));
    proxy.wait_at_rest();
}

#[test]
fn a_body_that_its_backend_does_not_want_is_not_sent_and_its_connection_not_used_again() {
    let (backend, proxy, mut conn) = start("");
    for status in [200, 401, 417, 500] {
        conn.send(EXPECTS).unwrap();
        let mut peer = backend.accept();
        peer.head();
        peer.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno"));
        let answer = conn.answer("POST").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (status, "no"));
        assert!(answer.closes(), "what comes next could be the body or a request");
        conn.assert_closed();
        assert_eq!(assert_ends(&mut peer, &proxy), b"");
        conn = Conn::open(proxy.address("web")).unwrap();
    }
}

#[test]
fn who_is_silent_about_a_body_is_told_apart() {
    let (backend, proxy, mut conn) = start("timeouts: {response: 300ms, client_body: 300ms}");
    // The backend says nothing.
    conn.send(EXPECTS).unwrap();
    let mut peer = backend.accept();
    peer.head();
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.status, answer.closes()), (504, true));
    assert_eq!(assert_ends(&mut peer, &proxy), b"");
    // It does, and the client does not.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(EXPECTS).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert_eq!(assert_ends(&mut peer, &proxy), b"");
    let failures = |cause| proxy.metric("evenkeel_backend_failures_total", &[("cause", cause)]);
    assert_eq!((failures("timeout"), failures("client_timeout")), (1.0, 0.0));
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 1.0, "only the backend's own");
}

#[test]
fn interim_answers_go_on_at_once_without_what_is_meant_for_one_hop() {
    let (backend, _proxy, mut conn) = start("");
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.send(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nLink: </b>\r\n\r\n",
    );
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n";
    assert_eq!(next(&mut conn), hints, "while the backend still thinks");
    peer.send("HTTP/1.1 199 Whatever\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
    peer.answer("done");
    let answer = conn.answer("GET").unwrap();
    assert_eq!((answer.text(), answer.interim.as_slice()), ("done".into(), &[199, 102][..]));
    assert_eq!(answer.header("link"), None);
}

#[test]
fn clients_of_http10_get_no_interim_answers() {
    let (backend, _proxy, mut conn) = start("");
    conn.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody").unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    assert_eq!(head.all("expect"), [""; 0], "RFC 9110 10.1.1");
    assert_eq!(peer.body(&head), b"body");
    peer.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n");
    peer.answer("done");
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.text(), answer.interim.len()), ("done".into(), 0));
}

#[test]
fn interim_answers_without_an_end_fill_no_memory_and_are_no_answer() {
    let (backend, proxy, mut conn) = start("");
    let before = proxy.memory_bytes("VmRSS");
    conn.send(Ask::post("/").body("x").bytes()).unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    peer.body(&head);
    let interim = format!("HTTP/1.1 103 Early\r\nX: {}\r\n\r\n", "y".repeat(50_000)).repeat(20);
    let stream = peer.stream().try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        // Until it is closed; the client takes nothing meanwhile.
        while std::io::Write::write_all(&mut &stream, interim.as_bytes()).is_ok() {}
    });
    proxy.wait_metric(
        "evenkeel_backend_received_bytes_total",
        &[],
        // It is read no further than the client takes it: what does not move any more has stopped.
        settled(|| proxy.metric("evenkeel_backend_received_bytes_total", &[])),
    );
    let answer = conn.answer("POST").unwrap();
    assert_eq!((answer.status, answer.interim.len()), (502, 64));
    writer.join().unwrap();
    proxy.wait_at_rest();
    let grown = proxy.memory_bytes("VmHWM").saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
}

/// A number when it has not changed for a while.
#[track_caller]
fn settled(mut number: impl FnMut() -> f64) -> f64 {
    let (mut last, mut since) = (number(), Instant::now());
    eventually("it settles", PATIENCE, || {
        let now = number();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    });
    last
}

#[test]
fn trailers_of_answers_go_to_clients_that_take_them() {
    let witness = Witness::saying(|got| {
        let mut reply = ok("");
        let head = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = got.all("te").join(",");
        let body = format!("{:x};x=y\r\n{sent}-\r\n", sent.len() + 1);
        let trailers = "0\r\nX-Sum: 1\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nx-b: c \r\n\r\n";
        reply.bytes = format!("{head}{body}{trailers}").into_bytes();
        reply
    });
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&witness], ""));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let sums = || vec![("x-sum".to_owned(), "1".to_owned()), ("x-b".to_owned(), "c".to_owned())];
    for (te, told, trailers) in [
        (None, "-", vec![]),
        (Some("trailers"), "trailers-", sums()),
        (Some("gzip;q=0.5, Trailers;q=1"), "trailers-", sums()),
        (Some("gzip"), "-", vec![]),
        (None, "-", vec![]),
    ] {
        let ask = Ask::get("/");
        let ask = if let Some(te) = te { ask.header("TE", te) } else { ask };
        let answer = conn.ask(&ask).unwrap();
        assert_eq!((answer.text().as_str(), answer.trailers), (told, trailers), "{te:?}");
    }
    conn.send("GET / HTTP/1.0\r\nTE: trailers\r\n\r\n").unwrap();
    let rest = conn.rest().unwrap();
    assert!(rest.ends_with(b"\r\n\r\ntrailers-"), "{}", rest.escape_ascii());
}

#[test]
fn a_client_that_resets_while_its_backend_thinks_frees_it_at_once() {
    let (backend, proxy, _) = start("");
    for bytes in [
        Ask::get("/").bytes(),
        Ask::post("/").body("x").bytes(),
        // Its body is not whole.
        Ask::post("/").header("Content-Length", "9").bytes(),
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe".to_vec(),
        EXPECTS.into(),
    ] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(&bytes).unwrap();
        let mut peer = backend.accept();
        peer.head();
        proxy.wait_metric("evenkeel_backend_in_flight", &[], 1.0);
        conn.reset();
        assert_ends(&mut peer, &proxy);
    }
    let gone = [("cause", "client_gone")];
    proxy.wait_metric("evenkeel_listener_failures_total", &gone, 5.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
}

#[test]
fn a_client_that_resets_while_an_answer_pauses_frees_its_backend_at_once() {
    let (backend, proxy, _) = start("");
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\n\r\npart",
    ] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(Ask::get("/").bytes()).unwrap();
        let mut peer = backend.accept();
        peer.head();
        peer.send(head);
        conn.head().unwrap();
        conn.bytes(4).unwrap();
        conn.reset();
        assert_ends(&mut peer, &proxy);
    }
}

#[test]
fn an_upload_that_goes_on_behind_its_answer_is_no_silence() {
    let (backend, proxy, mut conn) = start("timeouts: {stream_idle: 300ms}");
    conn.send(Ask::post("/").header("Transfer-Encoding", "chunked").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    conn.head().unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        conn.send("1\r\nx\r\n").unwrap();
        assert_eq!(peer.chunk(), b"x");
    }
    conn.send("0\r\n\r\n").unwrap();
    assert_eq!(peer.chunk(), b"");
    peer.send("done");
    assert_eq!(conn.bytes(4).unwrap(), b"done");
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
}

#[test]
fn the_last_answer_is_not_lost_to_bytes_that_nobody_reads() {
    let (backend, proxy, _) = start("");
    let text = "x".repeat(300_000);
    for n in 0..5 {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send("GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut peer = backend.accept();
        peer.head();
        // Some clients end a request with an empty line too many (RFC 9112 2.2).
        conn.send("\r\n").unwrap();
        peer.answer(&text);
        // All is written and the connection closed before the client takes anything.
        let ended = n as f64 + 1.0;
        proxy.wait_metric("evenkeel_listener_requests_total", &[("class", "2xx")], ended);
        assert_eq!(conn.answer("GET").unwrap().body.len(), text.len());
    }
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a/1, b\r\n";

#[test]
fn a_protocol_is_changed_only_as_the_client_has_asked_and_only_after_its_request() {
    let (backend, proxy, _) = start("");
    let switched = |fields: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n");
    for (fields, changes) in [
        ("Connection: upgrade\r\nUpgrade: b", true),
        ("Connection: Upgrade\r\nUpgrade: A/1", true),
        ("Connection: upgrade\r\nUpgrade: a/1, HTTP/1.1", true),
        ("Connection: upgrade\r\nUpgrade: c", false),
        ("Connection: upgrade\r\nUpgrade: h2c", false),
        ("Connection: upgrade\r\nUpgrade:", false),
        ("Connection: upgrade", false),
    ] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(format!("{UPGRADE}\r\n")).unwrap();
        let mut peer = backend.accept();
        peer.head();
        peer.send(switched(fields));
        if changes {
            assert_eq!(conn.head().unwrap().status, 101, "{fields}");
            peer.send("hello");
            assert_eq!(conn.bytes(5).unwrap(), b"hello");
            conn.finish_writing();
            assert_eq!(peer.rest().unwrap(), b"", "{fields}");
        } else {
            assert_eq!(conn.answer("GET").unwrap().status, 502, "{fields}");
            assert_eq!(assert_ends(&mut peer, &proxy), b"", "{fields}");
        }
    }
    // Half a body would go through as the new protocol's.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(format!("{UPGRADE}Content-Length: 9\r\n\r\nhalf")).unwrap();
    let mut peer = backend.accept();
    peer.head();
    assert_eq!(peer.bytes(4), b"half");
    peer.send(switched("Connection: upgrade\r\nUpgrade: b"));
    let answer = conn.answer("GET").unwrap();
    assert_eq!((answer.status, answer.closes()), (502, true));
    assert_eq!(assert_ends(&mut peer, &proxy), b"");
    // With all of it there is nothing in the way.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(format!("{UPGRADE}Content-Length: 4\r\n\r\nbodyand more")).unwrap();
    let mut peer = backend.accept();
    peer.head();
    assert_eq!(peer.bytes(4), b"body");
    peer.send(switched("Connection: upgrade\r\nUpgrade: b"));
    assert_eq!(conn.head().unwrap().status, 101);
    assert_eq!(peer.bytes(8), b"and more");
}

#[test]
fn what_a_backend_says_without_being_asked_is_nobodys_answer() {
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let (backend, proxy, mut conn) = start("");
    // Whether before the first request or between two.
    conn.send(Ask::get("/1").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.answer("one");
    assert_eq!(conn.answer("GET").unwrap().text(), "one");
    proxy.wait_at_rest();
    peer.send(POISON);
    assert_eq!(assert_ends(&mut peer, &proxy), b"", "it is closed without being asked anything");
    conn.send(Ask::get("/2").bytes()).unwrap();
    let mut peer = backend.accept();
    assert_eq!(peer.head().line, "GET /2 HTTP/1.1");
    peer.answer("two");
    assert_eq!(conn.answer("GET").unwrap().text(), "two");
}

#[test]
fn what_must_not_be_sent_twice_takes_no_connection_that_has_rested() {
    let witness = Witness::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&witness], "");
    let proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let mut ask = |method: &str| {
        conn.ask(&Ask::new(method, "/").body("x")).unwrap();
        witness.whole().pop().unwrap().conn
    };
    assert_eq!([ask("GET"), ask("POST"), ask("POST")], [1, 1, 1]);
    let rested = Instant::now();
    eventually("it has rested", PATIENCE, || rested.elapsed() > Duration::from_millis(1100));
    assert_eq!([ask("PATCH"), ask("POST")], [2, 2]);
    assert_eq!(ask("GET"), 2, "the one that came last");
}

#[test]
fn an_answer_before_the_end_of_its_request_spoils_the_backends_connection() {
    let (backend, proxy, mut conn) = start("");
    conn.send(Ask::post("/").header("Content-Length", "9").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.answer("early");
    assert_eq!(conn.answer("POST").unwrap().text(), "early");
    assert_eq!(assert_ends(&mut peer, &proxy), b"");
    // Nor can the client's be used again: its body may still be on its way.
    let _ = conn.send("123456789");
    conn.rest().map_or_else(|_| (), |rest| assert_eq!(rest, b""));
    assert!(!backend.is_called());
}

#[test]
fn a_request_that_breaks_behind_its_answer_is_whole_nowhere() {
    let (backend, proxy, mut conn) = start("");
    conn.send(Ask::post("/").header("Transfer-Encoding", "chunked").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart");
    conn.head().unwrap();
    conn.bytes(4).unwrap();
    conn.send("1\r\nx\r\nz\r\n0\r\n\r\n").unwrap();
    let rest = assert_ends(&mut peer, &proxy);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", rest.escape_ascii());
    let broken: Result<Answer, Broken> = conn.answer("POST");
    assert!(matches!(broken, Err(Broken::Reset | Broken::Closed)), "{broken:?}");
}
