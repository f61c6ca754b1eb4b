//! Which fields a backend and a client get: none that were meant for one connection, the truth
//! about the client, and what the route's edits say.

use std::net::SocketAddr;

use crate::harness::{Answer, Ask, Conn, Head, Proxy, RawBackend, Setup, setup};

/// What the backend gets of this request, and the client of this answer's head.
#[track_caller]
fn exchange(
    backend: &RawBackend,
    mut conn: Conn,
    request: impl AsRef<[u8]>,
    fields: &str,
) -> (Head, Answer) {
    conn.send(request).unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"));
    // So that each exchange has a connection of its own.
    peer.finish_writing();
    (head, conn.answer("GET").unwrap())
}

/// A raw backend behind a listener with these keys beside its route.
fn start(listener: &str, route: &str) -> (RawBackend, Proxy) {
    let backend = RawBackend::open();
    let keys = format!("{listener} routes: [{{pool: web{route}}}]");
    let keep_nothing = "keepalive: {max_idle: 0}";
    let config: Setup = setup().listener("web", &keys).pool("web", [&backend], keep_nothing);
    (backend, Proxy::start(config))
}

fn open(proxy: &Proxy) -> Conn {
    Conn::open(proxy.address("web")).unwrap()
}

#[test]
fn fields_of_one_connection_are_not_passed_on() {
    let (backend, proxy) = start("", "");
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine , ,x-other\r\n\
        Connection: X-Third\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
        TE: gzip\r\nUpgrade: h2c\r\nX-Mine: 1\r\nX-Other: 1\r\nX-Third: 1\r\nX-Fourth: 1\r\n\
        Proxy-Authorization: Basic eA==\r\nAuthorization: Bearer x\r\nVia: 1.1 p\r\n\r\n";
    let fields = "Connection: X-Answer, keep-alive\r\nX-Answer: 1\r\nKeep-Alive: timeout=9\r\n\
        Proxy-Connection: close\r\nUpgrade: h2c\r\nX-Kept: 1\r\nServer: b\r\n";
    let (head, answer) = exchange(&backend, open(&proxy), request, fields);
    for gone in ["connection", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(head.all(gone), [""; 0], "{gone}");
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    for gone in ["x-mine", "x-other", "x-third"] {
        assert_eq!(head.all(gone), [""; 0], "{gone}");
    }
    assert_eq!((head.one("x-fourth"), head.one("authorization")), ("1", "Bearer x"));
    assert_eq!(head.one("via"), "1.1 p");
    assert_eq!(answer.header("x-answer"), None);
    assert_eq!(answer.header("x-kept").as_deref(), Some("1"));
    assert_eq!(answer.header("server").as_deref(), Some("b"));
}

#[test]
fn connection_cannot_take_away_what_the_backend_relies_on() {
    let (backend, proxy) = start("", "");
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nAuthorization: x\r\n\
        Cookie: c=1\r\nConnection: host, content-length, authorization, cookie, x-forwarded-for, \
        x-forwarded-proto, x-forwarded-host\r\n\r\nhi";
    let (head, _) = exchange(&backend, open(&proxy), request, "");
    for (name, value) in [
        ("host", "a"),
        ("content-length", "2"),
        ("authorization", "x"),
        ("cookie", "c=1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a"),
    ] {
        assert_eq!(head.one(name), value, "{name}");
    }
}

const CLAIMS: &str = "GET / HTTP/1.1\r\nHost: shop.example:81\r\nX-Forwarded-For: 192.0.2.1\r\n\
    X-Forwarded-For: 192.0.2.2, 192.0.2.3\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: public.example\r\nX-Forwarded-Port: 443\r\nForwarded: for=192.0.2.9\r\n\r\n";

#[track_caller]
fn assert_believed(head: &Head, client: &str) {
    let expected = format!("192.0.2.1, 192.0.2.2, 192.0.2.3, {client}");
    assert_eq!(head.one("x-forwarded-for"), expected);
    assert_eq!(head.one("x-forwarded-proto"), "https");
    assert_eq!(head.one("x-forwarded-host"), "public.example");
    assert_eq!(head.one("x-forwarded-port"), "443");
    assert_eq!(head.one("forwarded"), "for=192.0.2.9");
}

#[track_caller]
fn assert_replaced(head: &Head, client: &str) {
    assert_eq!(head.one("x-forwarded-for"), client);
    assert_eq!(head.one("x-forwarded-proto"), "http");
    assert_eq!(head.one("x-forwarded-host"), "shop.example:81");
    assert_eq!(head.all("x-forwarded-port"), [""; 0]);
    assert_eq!(head.all("forwarded"), [""; 0]);
}

#[test]
fn what_strangers_claim_of_the_client_is_replaced_and_what_proxies_say_is_extended() {
    let any = "127.0.0.0/8";
    for (trusted, from, believed) in [
        ("", "127.0.0.1", false),
        ("10.0.0.0/8", "127.0.0.1", false),
        ("127.0.0.7", "127.0.0.7", true),
        ("127.0.0.7", "127.0.0.8", false),
        (any, "127.9.9.9", true),
        ("\"::ffff:127.0.0.0/104\"", "127.0.0.1", true),
        ("\"::/0\"", "127.0.0.1", false),
    ] {
        let list = format!("trusted_proxies: [{trusted}],");
        let (backend, proxy) = start(if trusted.is_empty() { "" } else { &list }, "");
        let conn = Conn::open_from(from.parse().unwrap(), proxy.address("web")).unwrap();
        let (head, _) = exchange(&backend, conn, CLAIMS, "");
        match believed {
            true => assert_believed(&head, from),
            false => assert_replaced(&head, from),
        }
        // Without claims the two are told the same.
        let conn = Conn::open_from(from.parse().unwrap(), proxy.address("web")).unwrap();
        let (head, _) = exchange(&backend, conn, Ask::get("/").bytes(), "");
        assert_eq!(head.one("x-forwarded-for"), from);
        assert_eq!(head.one("x-forwarded-proto"), "http");
        assert_eq!(head.one("x-forwarded-host"), "test.example");
    }
}

#[test]
fn clients_of_ipv6_are_told_by_their_own_addresses() {
    for (trusted, believed) in [("::1", true), ("::/64", true), ("2001:db8::/32", false)] {
        let keys = format!("bind: \"[::1]:0\", trusted_proxies: [\"{trusted}\"],");
        let (backend, proxy) = start(&keys, "");
        let (head, _) = exchange(&backend, open(&proxy), CLAIMS, "");
        match believed {
            true => assert_believed(&head, "::1"),
            false => assert_replaced(&head, "::1"),
        }
    }
}

#[test]
fn edits_of_a_route_have_the_last_word() {
    let edits = ", request_headers: {remove: [x-internal, x-set], set: {x-set: ours, \
        x-forwarded-proto: https}, add: {via: 1.1 evenkeel}}, \
        response_headers: {remove: [server], set: {x-frame: deny}, add: {vary: a}}";
    let (backend, proxy) = start("", edits);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Internal: 1\r\nX-Set: 1\r\nX-Set: 2\r\n\
        Via: 1.0 p\r\nX-Left: 1\r\n\r\n";
    let fields = "Server: nginx\r\nX-Frame: allow\r\nX-Frame: all\r\nVary: b\r\nX-Left: 2\r\n";
    let (head, answer) = exchange(&backend, open(&proxy), request, fields);
    assert_eq!(head.all("x-internal"), [""; 0]);
    assert_eq!((head.one("x-set"), head.one("x-left")), ("ours", "1"));
    assert_eq!(head.one("x-forwarded-proto"), "https");
    assert_eq!(head.all("via"), ["1.0 p", "1.1 evenkeel"]);
    assert_eq!(answer.header("server"), None);
    assert_eq!(answer.header("x-frame").as_deref(), Some("deny"));
    assert_eq!(answer.header("vary").as_deref(), Some("b, a"));
    assert_eq!(answer.header("x-left").as_deref(), Some("2"));
}

#[test]
fn the_backend_gets_the_clients_host_or_the_routes() {
    let (backend, proxy) = start("", "");
    let with_port = "GET / HTTP/1.1\r\nHost: Shop.Example:8080\r\n\r\n";
    let (head, _) = exchange(&backend, open(&proxy), with_port, "");
    assert_eq!(head.one("host"), "Shop.Example:8080");
    let (head, _) = exchange(&backend, open(&proxy), "GET / HTTP/1.0\r\n\r\n", "");
    assert_eq!(head.one("host").parse::<SocketAddr>().ok(), Some(backend.address));

    let (backend, proxy) = start("", ", rewrite: {host: internal.example}");
    let (head, _) = exchange(&backend, open(&proxy), with_port, "");
    assert_eq!(head.one("host"), "internal.example");
    assert_eq!(head.one("x-forwarded-host"), "Shop.Example:8080");
}

#[test]
fn several_lines_of_a_field_stay_several_in_their_order() {
    let (backend, proxy) = start("", "");
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-B: \r\nX-A: 2\r\nX-A:\t3, 4 \r\n\
        X-Latin: caf\u{e9}\r\n\r\n";
    let cookies = "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nX-Latin: na\u{ef}ve\r\n";
    let (head, answer) = exchange(&backend, open(&proxy), request, cookies);
    assert_eq!(head.all("x-a"), ["1", "2", "3, 4"]);
    assert_eq!((head.one("x-b"), head.one("x-latin")), ("", "caf\u{e9}"));
    let set: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
    assert_eq!((&*set[0].1, &*set[1].1), ("a=1; Path=/", "b=2"));
    assert_eq!(answer.header("x-latin").as_deref(), Some("na\u{ef}ve"));
}

#[test]
fn a_client_that_takes_trailers_gets_those_that_were_announced() {
    let (backend, proxy) = start("", "");
    let mut conn = open(&proxy);
    conn.send(Ask::get("/").header("TE", "trailers, gzip").bytes()).unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    assert_eq!((head.one("te"), head.one("connection")), ("trailers", "te"));
    peer.send(
        "HTTP/1.1 200 OK\r\nTrailer: x-check\r\nTransfer-Encoding: chunked\r\n\r\n\
         4\r\nbody\r\n0\r\nX-Check: abc\r\n\r\n",
    );
    let answer = conn.answer("GET").unwrap();
    assert_eq!(answer.text(), "body");
    assert_eq!(answer.trailers, [("x-check".to_owned(), "abc".to_owned())]);
}
