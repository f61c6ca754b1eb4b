//! The PROXY protocol: whom a connection is from, as balancers in front of us say it and as we say it to
//! backends. With haproxy, nginx and curl at the other end.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Ask, Authority, Backend, Conn, Folder, PATIENCE, Proxy, RawBackend, RawPeer, Setup, eventually,
    free_address, program, setup, skip,
};
use crate::peers::{Peer, haproxy_command, nginx, nginx_command};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// All our tests' clients are in it.
const FROM_ALL: &str = "accept_proxy_protocol: {from: [127.0.0.0/8]}";

/// A header of version 2 for an IPv4 client at port 1234, which met 192.0.2.9:80.
fn second(client: [u8; 4], values: &[u8]) -> Vec<u8> {
    let addresses = [&client[..], &[192, 0, 2, 9], &1234_u16.to_be_bytes(), &80_u16.to_be_bytes()];
    let body = [&addresses.concat()[..], values].concat();
    [SIGNATURE, &[0x21, 0x11], &(body.len() as u16).to_be_bytes(), &body].concat()
}

fn first(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.9 1234 80\r\n").into_bytes()
}

/// The X-Forwarded-For that a backend sees of a request behind `header`.
fn forwarded(proxy: &Proxy, header: &[u8]) -> String {
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send([header, &Ask::get("/").bytes()].concat()).unwrap();
    let answer = conn.answer("GET").expect("an answer");
    seen(&answer.json(), "x-forwarded-for")
}

/// A field of a request as a test backend echoes it.
fn seen(echo: &serde_json::Value, name: &str) -> String {
    let fields = echo["headers"].as_array().expect("a list of headers");
    let found = fields.iter().find(|field| field[0] == name);
    found.and_then(|field| field[1].as_str()).unwrap_or_default().to_owned()
}

fn web(keys: &str, backend: &Backend) -> Setup {
    setup().listener("web", &format!("mode: http, routes: [{{pool: web}}], {keys}")).pool(
        "web",
        [backend],
        "health_check: off",
    )
}

fn failures(proxy: &Proxy, cause: &str, count: f64) {
    proxy.wait_metric("evenkeel_listener_failures_total", &[("cause", cause)], count);
}

/// Whether it was closed, in whatever way, without a word.
fn is_closed(conn: &mut Conn) -> bool {
    matches!(conn.rest().as_deref(), Ok([]) | Err(crate::harness::Broken::Reset))
}

#[test]
fn a_header_says_who_the_client_is() {
    let backend = Backend::start("a");
    let proxy = Proxy::start(web(FROM_ALL, &backend));
    assert_eq!(forwarded(&proxy, &first("198.51.100.7")), "198.51.100.7");
    assert_eq!(forwarded(&proxy, b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"), "2001:db8::7");
    assert_eq!(forwarded(&proxy, b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), "192.0.2.7");
    assert_eq!(forwarded(&proxy, &second([198, 51, 100, 8], b"")), "198.51.100.8");
    assert_eq!(forwarded(&proxy, &second([198, 51, 100, 8], &[0x02, 0, 1, b'a'])), "198.51.100.8");
    // It speaks for nobody: the connection is the sender's own.
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        assert_eq!(forwarded(&proxy, header), "127.0.0.1");
    }
    // Who it is is settled for all requests of the connection.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(first("198.51.100.9")).unwrap();
    for _ in 0..3 {
        let answer = conn.ask(&Ask::get("/")).unwrap();
        assert_eq!(seen(&answer.json(), "x-forwarded-for"), "198.51.100.9");
    }
}

#[test]
fn a_header_may_come_in_pieces_but_in_time() {
    let backend = Backend::start("a");
    let times = format!("{FROM_ALL}, timeouts: {{proxy_header: 700ms}}");
    let proxy = Proxy::start(web(&times, &backend));
    for header in [first("198.51.100.7"), second([198, 51, 100, 7], &[0xe0, 0, 5, 1, 2, 3, 4, 5])] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        for piece in [&header[..], &Ask::get("/").bytes()].concat().chunks(7) {
            conn.send(piece).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        let answer = conn.answer("GET").expect("an answer");
        assert_eq!(seen(&answer.json(), "x-forwarded-for"), "198.51.100.7");
    }
    let began = std::time::Instant::now();
    let mut silent = Conn::open(proxy.address("web")).unwrap();
    let mut slow = Conn::open(proxy.address("web")).unwrap();
    slow.send(&first("198.51.100.7")[..20]).unwrap();
    assert!(is_closed(&mut silent) && is_closed(&mut slow));
    assert!(began.elapsed() > Duration::from_millis(600), "{:?}", began.elapsed());
    failures(&proxy, "client_timeout", 2.0);
    // One that goes before it says anything is nobody.
    drop(Conn::open(proxy.address("web")).unwrap());
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 2.0);
}

#[test]
fn what_is_required_is_required_and_what_is_malformed_is_refused() {
    let backend = Backend::start("a");
    let proxy = Proxy::start(web(FROM_ALL, &backend));
    let refused = |bytes: &[u8]| {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        let _ = conn.send(bytes);
        assert!(is_closed(&mut conn), "{}", bytes.escape_ascii());
    };
    refused(&Ask::get("/").bytes());
    refused(b"\x16\x03\x01\x02\x00\x01");
    failures(&proxy, "proxy_missing", 2.0);
    refused(b"PROXY TCP4 198.51.100.07 192.0.2.9 1234 80\r\n");
    refused(&second([198, 51, 100, 7], &[0x03, 0, 4, 1, 2, 3, 4]));
    refused(&second([198, 51, 100, 7], &[0x01, 0, 9]));
    refused(&[SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat());
    failures(&proxy, "proxy_malformed", 4.0);
    let said = proxy.events_saying("connection refused");
    assert!(said.iter().any(|event| event.to_string().contains("checksum")), "{said:?}");
}

#[test]
fn nobody_else_is_believed() {
    let echo = Backend::doing("b", "tcp_echo");
    let backend = Backend::start("a");
    let from = "accept_proxy_protocol: {from: [10.0.0.0/8]}";
    let set = web(from, &backend)
        .listener("tcp", &format!("mode: tcp, pool: echo, {from}"))
        .listener("open", "mode: tcp, pool: echo")
        .pool("echo", [&echo], "health_check: off");
    let proxy = Proxy::start(set);
    assert_eq!(forwarded(&proxy, b""), "127.0.0.1");
    for header in [first("198.51.100.7"), second([198, 51, 100, 7], b"")] {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send([&header[..], &Ask::get("/").bytes()].concat()).unwrap();
        assert_eq!(conn.answer("GET").expect("an answer").status, 400);
        // A byte at a time it is one as well.
        let mut conn = Conn::open(proxy.address("tcp")).unwrap();
        for byte in &header {
            let _ = conn.send([*byte]);
        }
        assert!(is_closed(&mut conn));
        // Where no header is known it is whatever the two ends make of it.
        let mut conn = Conn::open(proxy.address("open")).unwrap();
        conn.send(&header).unwrap();
        assert_eq!(conn.bytes(header.len()).unwrap(), header);
    }
    failures(&proxy, "proxy_unexpected", 2.0);
    let mut conn = Conn::open(proxy.address("tcp")).unwrap();
    for piece in ["PRO", "XYLOPHONE is my name"] {
        conn.send(piece).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(conn.bytes(23).unwrap(), b"PROXYLOPHONE is my name");
    // A server may speak first.
    let raw = RawBackend::open();
    let set = setup().listener("tcp", &format!("mode: tcp, pool: db, {from}")).pool(
        "db",
        [raw.to_string()],
        "health_check: off",
    );
    let proxy = Proxy::start(set);
    let mut conn = Conn::open(proxy.address("tcp")).unwrap();
    let mut peer = raw.accept();
    peer.send("220 hello");
    assert_eq!(conn.bytes(9).unwrap(), b"220 hello");
    conn.send("HELO").unwrap();
    assert_eq!(peer.bytes(4), b"HELO");
}

#[test]
fn the_address_that_it_gives_counts_everywhere() {
    let backend = Backend::start("a");
    let keys = format!(
        "{FROM_ALL}, deny: [203.0.113.0/24], allow: [198.51.100.0/24, 203.0.113.0/24], \
         rate_limit: {{rate: 1/h, burst: 2}}"
    );
    let set = web(&keys, &backend).set("limits: {connections_per_client: 1}");
    let proxy = Proxy::start(set);
    let open = |client: &str| {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        conn.send(first(client)).unwrap();
        conn
    };
    let status = |conn: &mut Conn| conn.ask(&Ask::get("/")).map(|answer| answer.status);
    assert_eq!(status(&mut open("203.0.113.1")), Ok(403));
    assert_eq!(status(&mut open("192.0.2.1")), Ok(403));
    let mut one = open("198.51.100.1");
    let mut other = open("198.51.100.2");
    assert_eq!([status(&mut one), status(&mut one), status(&mut one)], [Ok(200), Ok(200), Ok(429)]);
    assert_eq!(status(&mut other), Ok(200));
    let mut more = open("198.51.100.1");
    assert!(is_closed(&mut more));
    proxy.wait_metric("evenkeel_limit_hits_total", &[("limit", "connections_per_client")], 1.0);
}

#[test]
fn a_unix_socket_is_a_peer_as_well() {
    use std::io::{Read, Write};
    let backend = Backend::start("a");
    let set = web("bind: \"unix:web.sock\", accept_proxy_protocol: {from: unix}", &backend);
    let proxy = Proxy::start(set);
    let mut stream = std::os::unix::net::UnixStream::connect(proxy.folder().join("web.sock"))
        .expect("it listens");
    stream.write_all(&first("198.51.100.7")[..9]).unwrap();
    thread::sleep(Duration::from_millis(20));
    stream.write_all(&first("198.51.100.7")[9..]).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("198.51.100.7"), "{answer}");
}

#[test]
fn a_tcp_backend_is_told() {
    let backend = RawBackend::open();
    let start = |version: &str, listener: &str| {
        let keys = format!("health_check: off, send_proxy_protocol: {version}");
        let keys = (format!("mode: tcp, pool: db{listener}"), keys);
        Proxy::start(setup().listener("db", &keys.0).pool("db", [backend.to_string()], &keys.1))
    };
    let proxy = start("v1", "");
    let mut conn = Conn::open(proxy.address("db")).unwrap();
    let (own, met) = (conn.stream().local_addr().unwrap(), proxy.address("db"));
    let line = format!("PROXY TCP4 {} {} {} {}\r\n", own.ip(), met.ip(), own.port(), met.port());
    let mut peer = backend.accept();
    assert_eq!(peer.bytes(line.len()), line.as_bytes(), "before the client says a word");
    conn.send("and then").unwrap();
    assert_eq!(peer.bytes(8), b"and then");
    // What another balancer has told us we tell, too, but for what held of its header alone.
    let proxy = start("v2", &format!(", {FROM_ALL}"));
    let mut conn = Conn::open(proxy.address("db")).unwrap();
    let kept =
        [&[0x01, 0, 2, b'h', b'2'][..], &[0x05, 0, 2, b'i', b'd'], &[0xe0, 0, 1, 7]].concat();
    let all = [&kept[..], &[0x04, 0, 3, 0, 0, 0], &[0x30, 0, 1, b'n']].concat();
    conn.send(second([198, 51, 100, 7], &all)).unwrap();
    let expected = second([198, 51, 100, 7], &kept);
    assert_eq!(backend.accept().bytes(expected.len()), expected);
    let mut conn = Conn::open(proxy.address("db")).unwrap();
    conn.send(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n").unwrap();
    let told = backend.accept().bytes(16 + 36);
    assert_eq!(told[..16], [SIGNATURE, &[0x21, 0x21, 0, 36]].concat());
    assert_eq!(told[16..22], [0x20, 0x01, 0x0d, 0xb8, 0, 0]);
}

#[test]
fn an_introduced_connection_is_one_clients_alone() {
    let backend = RawBackend::open();
    let set = setup().listener("web", "mode: http, routes: [{pool: web}]").pool(
        "web",
        [backend.to_string()],
        "health_check: off, send_proxy_protocol: v1",
    );
    let proxy = Proxy::start(set);
    let met = proxy.address("web");
    let header = |conn: &Conn| {
        let own = conn.stream().local_addr().unwrap();
        format!("PROXY TCP4 {} {} {} {}\r\n", own.ip(), met.ip(), own.port(), met.port())
    };
    let get = Ask::get("/").bytes();
    let (mut one, mut two) = (Conn::open(met).unwrap(), Conn::open(met).unwrap());
    one.send(&get).unwrap();
    let mut first = backend.accept();
    assert_eq!(first.bytes(header(&one).len()), header(&one).as_bytes());
    first.head();
    first.answer("1");
    assert_eq!(one.answer("GET").unwrap().text(), "1");
    // It rests now; another client gets another one.
    two.send(&get).unwrap();
    let mut second = backend.accept();
    assert_eq!(second.bytes(header(&two).len()), header(&two).as_bytes());
    second.head();
    second.answer("2");
    assert_eq!(two.answer("GET").unwrap().text(), "2");
    // And the first its own, without another header.
    one.send(&get).unwrap();
    assert!(first.head().line.starts_with("GET / "));
    first.answer("3");
    assert_eq!(one.answer("GET").unwrap().text(), "3");
    drop(one);
    assert_eq!(first.rest().expect("an orderly end"), b"", "it ends with its client");
    two.send(&get).unwrap();
    second.head();
    second.answer("4");
    assert_eq!(two.answer("GET").unwrap().text(), "4");
    assert!(!backend.is_called());
}

/// A backend's next connection, whose client has just asked; reads the header and the request.
fn introduced(backend: &RawBackend) -> RawPeer {
    let mut peer = backend.accept();
    // The header takes the place of the first line.
    assert!(peer.head().line.starts_with("PROXY TCP4 "));
    peer
}

#[test]
fn what_is_kept_for_a_client_ends_with_it_and_makes_room() {
    let (a, b) = (RawBackend::open(), RawBackend::open());
    let keys = "health_check: off, send_proxy_protocol: v1, keepalive: {max_idle: 1}";
    let routes = "mode: http, routes: [{match: {path: /a}, pool: a}, {pool: b}]";
    let set = setup().set("workers: 1").listener("web", routes);
    let set = set.pool("a", [a.to_string()], keys).pool("b", [b.to_string()], keys);
    let proxy = Proxy::start(set);
    let (mut one, mut two) =
        (Conn::open(proxy.address("web")).unwrap(), Conn::open(proxy.address("web")).unwrap());
    let ask = |conn: &mut Conn, path: &str| conn.send(Ask::get(path).bytes()).unwrap();
    let answer = |conn: &mut Conn, peer: &mut RawPeer| {
        peer.answer("told");
        assert_eq!(conn.answer("GET").unwrap().text(), "told");
    };
    ask(&mut one, "/a");
    let mut one_a = introduced(&a);
    answer(&mut one, &mut one_a);
    ask(&mut one, "/b");
    let mut one_b = introduced(&b);
    answer(&mut one, &mut one_b);
    // The one that may rest rests, for somebody else.
    ask(&mut two, "/a");
    let mut two_a = introduced(&a);
    answer(&mut two, &mut two_a);
    assert_eq!(two_a.rest().expect("an orderly end"), b"", "one too many");
    // That a client comes between does not take from another what it has at rest.
    ask(&mut one, "/a");
    assert!(one_a.head().line.starts_with("GET /a "));
    answer(&mut one, &mut one_a);
    drop(one);
    assert_eq!(one_a.rest().expect("an orderly end"), b"", "it ends with its client");
    assert_eq!(one_b.rest().expect("an orderly end"), b"", "and so does this one");
    ask(&mut two, "/a");
    let mut two_a = introduced(&a);
    answer(&mut two, &mut two_a);
    for _ in 0..3 {
        ask(&mut two, "/a");
        assert!(two_a.head().line.starts_with("GET /a "), "there is room now");
        answer(&mut two, &mut two_a);
    }
    assert!(!a.is_called() && !b.is_called());
}

#[test]
fn a_reload_may_begin_to_tell_of_clients_that_are_there() {
    let backend = RawBackend::open();
    let met = free_address();
    let set = |keys: &str| {
        let keys = format!("health_check: off{keys}");
        let listener = format!("bind: \"{met}\", mode: http, routes: [{{pool: web}}]");
        setup().listener("web", &listener).pool("web", [backend.to_string()], &keys)
    };
    let proxy = Proxy::start(set(""));
    let mut conn = Conn::open(met).unwrap();
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut before = backend.accept();
    before.head();
    before.answer("1");
    assert_eq!(conn.answer("GET").unwrap().text(), "1");
    assert!(proxy.reload(set(", send_proxy_protocol: v1")));
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut peer = backend.accept();
    let own = conn.stream().local_addr().unwrap();
    let start = format!("PROXY TCP4 {} {} {} {}", own.ip(), met.ip(), own.port(), met.port());
    let line = peer.head();
    assert!(line.line.starts_with(&start), "{line:?}");
    assert!(line.headers.iter().any(|(name, _)| name.starts_with("get / ")), "{line:?}");
    peer.answer("2");
    assert_eq!(conn.answer("GET").unwrap().text(), "2");
}

#[test]
fn probes_speak_for_nobody() {
    let backend = RawBackend::open();
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for (version, header) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", &local)] {
        let keys = format!("send_proxy_protocol: {version}, health_check: {{http: {{}}}}");
        let _proxy =
            Proxy::start(setup().http("web", "web").pool("web", [backend.to_string()], &keys));
        let mut peer = backend.accept();
        assert_eq!(peer.bytes(header.len()), header);
        assert!(peer.head().line.starts_with("GET / "));
    }
}

const DEFAULTS: &str = "global
  nbthread 1
defaults
  timeout connect 2s
  timeout client 20s
  timeout server 20s
";

/// One that requires a header, and answers what it was told.
fn haproxy_that_is_told() -> Peer {
    let address = free_address();
    let text = format!(
        "{DEFAULTS}
frontend f
  mode http
  bind {address} accept-proxy
  http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port]\"
"
    );
    Peer::start("haproxy", address, &text, haproxy_command)
}

#[test]
fn haproxy_and_nginx_behind_us_are_told() {
    if !program("haproxy") || !program("nginx") {
        return;
    }
    let haproxy = haproxy_that_is_told();
    let address = free_address();
    let server = format!(
        "listen {address} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr:\
         $proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port\"; }}"
    );
    // Its first `listen` is one without.
    let nginx = nginx(free_address(), "", &server);
    for (name, backend) in [("haproxy", haproxy.address), ("nginx", address)] {
        for version in ["v1", "v2"] {
            let check = "health_check: {http: {path: /}, interval: 100ms, initial: down}";
            let keys = format!("{check}, send_proxy_protocol: {version}");
            let set = setup()
                .http("web", "told")
                .listener("front", &format!("mode: http, routes: [{{pool: told}}], {FROM_ALL}"))
                .tcp("tcp", "told")
                .pool("told", [backend], &keys);
            let proxy = Proxy::start(set);
            // Its probes are taken for what they are.
            proxy.wait_serving("told", 1, PATIENCE);
            for listener in ["web", "tcp"] {
                assert_told(proxy.address(listener), "", &format!("{name} {version} {listener}"));
            }
            let mut conn = Conn::open(proxy.address("front")).unwrap();
            conn.send([&first("198.51.100.7")[..], &Ask::get("/").bytes()].concat()).unwrap();
            let told = conn.answer("GET").expect("an answer").text();
            assert_eq!(told, "198.51.100.7:1234 192.0.2.9:80", "{name} {version}");
        }
    }
    drop(nginx);
}

/// A backend that answers with what it was told knows both ends of a client's connection, and says `more`.
#[track_caller]
fn assert_told(listener: SocketAddr, more: &str, what: &str) {
    let mut conn = Conn::open(listener).unwrap();
    let own = conn.stream().local_addr().unwrap();
    for _ in 0..2 {
        let told = conn.ask(&Ask::get("/")).expect("an answer").text();
        assert_eq!(told, format!("{own} {listener}{more}"), "{what}");
    }
}

/// A header is in clear, and the handshake comes behind it: of streams, of requests and of probes.
#[test]
fn haproxy_and_nginx_behind_us_are_told_before_tls() {
    if !program("haproxy") || !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["told.internal"]);
    let at = free_address();
    let text = format!(
        "{DEFAULTS}
frontend f
  mode http
  bind {at} accept-proxy ssl crt FOLDER/both.pem
  http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port] %[ssl_fc_sni]\"
"
    );
    let both = [&pair.cert[..], &pair.key].concat();
    let files = [("both.pem", &both[..])];
    let haproxy = Peer::start_with("haproxy", at, &text, &files, haproxy_command);
    let at = free_address();
    let folder = Folder::new();
    pair.write(&folder, "told");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = format!(
        "listen {at} ssl proxy_protocol; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port \
         $proxy_protocol_server_addr:$proxy_protocol_server_port $ssl_server_name\"; }}",
        file("told.pem"),
        file("told.key")
    );
    // Its first `listen` is one without.
    let _nginx = nginx(free_address(), "", &server);
    for (name, backend) in [("haproxy", haproxy.address), ("nginx", at)] {
        for version in ["v1", "v2"] {
            let keys = format!(
                "health_check: {{http: {{path: /}}, interval: 100ms, initial: down}}, \
                 tls: {{ca: ca.pem, server_name: told.internal}}, send_proxy_protocol: {version}"
            );
            let folder = Folder::new();
            folder.file("ca.pem", &ca.pem);
            let set = setup().http("web", "told").tcp("tcp", "told").pool("told", [backend], &keys);
            let proxy = Proxy::start_beside(folder, set);
            proxy.wait_serving("told", 1, PATIENCE);
            for listener in ["web", "tcp"] {
                let what = format!("{name} {version} {listener}");
                assert_told(proxy.address(listener), " told.internal", &what);
            }
        }
    }
}

/// A balancer in front of us: asked, it passes a request on, and the client's address comes through.
fn assert_told_by(front: SocketAddr, proxy: &Proxy, name: &str) {
    let mut conn = Conn::open_from("127.9.8.7".parse().unwrap(), front).unwrap();
    let answer = conn.ask(&Ask::get("/")).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    assert_eq!(seen(&answer.json(), "x-forwarded-for"), "127.9.8.7", "{name}");
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0, "{name}");
}

#[test]
fn haproxy_in_front_tells_us_and_checks_us() {
    if !program("haproxy") {
        return;
    }
    let backend = Backend::start("a");
    let proxy = Proxy::start(web(FROM_ALL, &backend));
    let to = proxy.address("web");
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl,cert-cn,ssl-cipher",
    ] {
        let address = free_address();
        let text = format!(
            "{DEFAULTS}
frontend f
  mode tcp
  bind {address}
  unique-id-format %[uuid()]
  default_backend b
backend b
  mode tcp
  option httpchk GET /healthz
  server s {to} {how} check check-send-proxy inter 50ms rise 2 fall 2
"
        );
        let haproxy = Peer::start("haproxy", address, &text, haproxy_command);
        let before = backend_checks(&proxy);
        eventually("it has checked us, and found us well", PATIENCE, || {
            backend_checks(&proxy) >= before + 4.0
        });
        assert_told_by(haproxy.address, &proxy, how);
    }
}

fn backend_checks(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_listener_requests_total", &[("class", "2xx")])
}

#[test]
fn nginx_in_front_tells_us() {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !program("nginx") {
        return;
    }
    if !std::path::Path::new(MODULE).exists() {
        return skip("nginx has no stream module (libnginx-mod-stream)");
    }
    let backend = Backend::start("a");
    let proxy = Proxy::start(web(FROM_ALL, &backend));
    let address = free_address();
    let text = format!(
        "load_module {MODULE}; daemon off; master_process off; pid FOLDER/pid;
         error_log FOLDER/error.log; events {{ worker_connections 100; }}
         stream {{ server {{ listen {address}; proxy_pass {}; proxy_protocol on; }} }}",
        proxy.address("web")
    );
    // To see that it is there one connects, and goes: that is no failure of ours.
    let nginx = Peer::start("nginx", address, &text, nginx_command);
    assert_told_by(nginx.address, &proxy, "nginx");
}

#[test]
fn curl_tells_us() {
    if !program("curl") {
        return;
    }
    let backend = Backend::start("a");
    let proxy = Proxy::start(web(FROM_ALL, &backend));
    let url = format!("http://{}/", proxy.address("web"));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "--haproxy-protocol", "--interface", "127.9.8.6", &url]);
    let output = curl.output().expect("curl runs");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.contains("127.9.8.6"), "{answer} {}", String::from_utf8_lossy(&output.stderr));
    TcpStream::connect(proxy.address("web")).expect("it still accepts");
}

/// A folder with a certificate for `a.example`, and what a listener says of it.
fn certified() -> (Folder, &'static str) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let folder = Folder::new();
    folder.file("a.pem", made.cert.pem());
    folder.file("a.key", made.signing_key.serialize_pem());
    (folder, "tls: {certificates: [{cert: a.pem, key: a.key}]}")
}

fn curl_to(address: SocketAddr, more: &[&str]) -> std::process::Child {
    let resolve = format!("a.example:{}:{}", address.port(), address.ip());
    let mut curl = Command::new("curl");
    curl.args(["-sSk", "--max-time", "10", "--resolve", &resolve]).args(more);
    curl.arg(format!("https://a.example:{}/", address.port()));
    curl.stdout(Stdio::piped()).spawn().expect("curl runs")
}

#[test]
fn a_header_comes_before_tls() {
    if !program("curl") {
        return;
    }
    let backend = Backend::start("a");
    let (folder, tls) = certified();
    let proxy = Proxy::start_beside(folder, web(&format!("{FROM_ALL}, {tls}"), &backend));
    for version in ["--http1.1", "--http2"] {
        let told = ["--haproxy-protocol", "--interface", "127.9.8.5", version];
        let output = curl_to(proxy.address("web"), &told).wait_with_output().expect("it ends");
        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(answer.contains("127.9.8.5"), "{version}: {answer}");
    }
    let output = curl_to(proxy.address("web"), &[]).wait_with_output().expect("it ends");
    assert!(!output.status.success(), "a handshake without a header");
    failures(&proxy, "proxy_missing", 1.0);
}

#[test]
fn a_backend_is_told_what_our_tls_has_learnt() {
    if !program("curl") {
        return;
    }
    let backend = RawBackend::open();
    let (folder, tls) = certified();
    let set = setup()
        .listener("tcp", &format!("mode: tcp, pool: a, {tls}"))
        .listener("web", &format!("mode: http, routes: [{{pool: a}}], {tls}"))
        .pool("a", [backend.to_string()], "health_check: off, send_proxy_protocol: v2");
    let proxy = Proxy::start_beside(folder, set);
    for (listener, version) in [("tcp", "--http1.1"), ("web", "--http1.1"), ("web", "--http2")] {
        let curl = curl_to(proxy.address(listener), &["--interface", "127.9.8.4", version]);
        let mut peer = backend.accept();
        let header = peer.bytes(16 + 12 + 12);
        assert_eq!(
            header[..16],
            [SIGNATURE, &[0x21, 0x11, 0, 24]].concat(),
            "{listener} {version}"
        );
        assert_eq!(header[16..20], [127, 9, 8, 4]);
        assert_eq!(header[28..], [&[2, 0, 9][..], b"a.example"].concat());
        assert!(peer.head().line.starts_with("GET / "));
        peer.answer("told");
        let output = curl.wait_with_output().expect("it ends");
        assert_eq!(output.stdout, b"told", "{listener} {version}");
    }
}
