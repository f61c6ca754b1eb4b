//! TLS to backends: who proves itself is believed and nobody else is, at the price of nothing that a
//! client would notice. Against nginx, openssl, and a server of rustls that ends as it is told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};

use crate::harness::{
    Answer, Ask, Authority, Backend, Broken, Child, Conn, Folder, Nginx, PATIENCE, Pair, Proxy,
    Setup, eventually, free_address, get, program, setup,
};

/// A server of ours that shakes hands and leaves the rest to `serve`.
pub fn server(
    pair: &Pair,
    serve: impl Fn(StreamOwned<ServerConnection, TcpStream>) + Send + Sync + 'static,
) -> SocketAddr {
    let (config, serve) = (pair.server_config(&["http/1.1", "postgresql"]), Arc::new(serve));
    let listener = TcpListener::bind(free_address()).expect("a free address");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, serve) = (config.clone(), serve.clone());
            std::thread::spawn(move || {
                let connection = ServerConnection::new(config).expect("a connection");
                serve(StreamOwned::new(connection, stream));
            });
        }
    });
    address
}

/// Where evenkeel finds `ca.pem`, and `lb.pem` with its key.
pub fn folder(ca: &Authority) -> Folder {
    let folder = Folder::new();
    folder.file("ca.pem", &ca.pem);
    ca.issue(&["lb.internal"]).write(&folder, "lb");
    folder
}

fn one(pool: &str) -> Setup {
    setup().http("web", "web").pool_of("web", pool)
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

pub const FULL: &str = "tls: {ca: ca.pem, server_name: web.internal}";

#[test]
fn who_proves_itself_is_believed_by_its_name_its_address_or_the_systems_word() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let at = free_address();
    let ip = at.ip().to_string();
    let pair = ca.issue(&["web.internal", "localhost", &ip]);
    let nginx = Nginx::start(
        at,
        &pair,
        &ca,
        "ssl_verify_client optional;
                                              ssl_client_certificate FOLDER/ca.pem;",
    );
    let local = free_address().port();
    let local = SocketAddr::from(([127, 0, 0, 1], local));
    let by_name = Nginx::start(local, &pair, &ca, "");
    let (address, port) = (nginx.address, by_name.address.port());
    let routes = "mode: http, routes: [{match: {path: /name}, pool: name}, {match: {path: /ip}, \
                  pool: ip}, {match: {path: /host}, pool: host}, {match: {path: /system}, pool: \
                  system}, {match: {path: /off}, pool: off}]";
    let config = setup()
        .listener("web", routes)
        .pool(
            "name",
            [address],
            "tls: {ca: ca.pem, server_name: web.internal, cert: lb.pem, key: lb.key}",
        )
        .pool("ip", [address], "tls: {ca: ca.pem}")
        .pool("host", [format!("localhost:{port}")], "tls: {ca: ca.pem}")
        .pool("system", [address], "tls: {server_name: web.internal}")
        .pool("off", [address], "tls: {verify: off, server_name: elsewhere.internal}");
    let folder = folder(&ca);
    let roots = format!("export SSL_CERT_FILE={}", folder.path().join("ca.pem").display());
    let proxy = Proxy::start_beside_after(folder, &roots, config);
    for (path, name, proved) in [
        ("/name", "web.internal", "SUCCESS"),
        ("/ip", "", "NONE"),
        ("/host", "localhost", "NONE"),
        ("/system", "web.internal", "NONE"),
        ("/off", "elsewhere.internal", "NONE"),
    ] {
        let answer = get(proxy.address("web"), path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(header(&answer, "x-name"), name, "{path}");
        assert_eq!(header(&answer, "x-version"), "TLSv1.3", "{path}");
        assert_eq!(header(&answer, "x-proved"), proved, "{path}");
    }
}

#[test]
fn who_does_not_prove_itself_gets_nothing_and_the_log_says_why_once() {
    if !program("nginx") || !program("openssl") {
        return;
    }
    let (ca, other) = (Authority::new("a test's authority"), Authority::new("another"));
    let start = |pair: Pair| Nginx::start(free_address(), &pair, &ca, "");
    let good = ca.issue(&["web.internal"]);
    let unknown = start(other.issue(&["web.internal"]));
    let named = start(ca.issue(&["elsewhere.internal"]));
    let expired = start(ca.issue_expired(&["web.internal"]));
    let clear = clear();
    let (_demanding, demands) = demanding(&good, &ca);
    let cases = [
        ("unknown", unknown.address, "certificate_issuer", "comes from no CA that is trusted here"),
        ("named", named.address, "certificate_name", "is not for web.internal but for"),
        ("expired", expired.address, "certificate_expired", "has expired on Fri, 01 Jan 2021"),
        ("clear", clear, "tls", "it does not speak TLS there"),
    ];
    let mut config = setup();
    let mut routes = String::new();
    let keys = format!(
        "{FULL}, outlier: off, retry: off, failover: {{when_none_serve: try_all}}, health_check: {{tls: {{}}, interval: 50ms, \
                        timeout: 5s, fall: 1000}}"
    );
    for (name, address, ..) in cases {
        routes += &format!("{{match: {{path: /{name}}}, pool: {name}}}, ");
        config = config.pool(name, [address], &keys);
    }
    routes += "{match: {path: /demanding}, pool: demanding}";
    config = config
        .pool("demanding", [demands], &keys)
        .listener("web", &format!("mode: http, routes: [{routes}]"));
    let proxy = Proxy::start_beside(folder(&ca), config);
    for (name, _, label, why) in cases {
        for _ in 0..3 {
            let answer = get(proxy.address("web"), &format!("/{name}")).expect("an answer");
            assert_eq!(answer.status, 502, "{name}");
        }
        let labels = [("pool", name), ("cause", "tls")];
        assert_eq!(proxy.metric("evenkeel_pool_failures_total", &labels), 3.0, "{name}");
        let events = proxy.events_saying("no secure connection to a backend");
        let whys: Vec<&str> = events
            .iter()
            .filter(|event| event["pool"] == name)
            .filter_map(|event| event["why"].as_str())
            .collect();
        assert!(matches!(whys[..], [said] if said.contains(why)), "{name}: {whys:?}");
        let labels = [("pool", name), ("why", label)];
        eventually(&format!("a probe says {label}"), PATIENCE, || {
            proxy.metric("evenkeel_backend_probe_failures_total", &labels) > 0.0
        });
    }
    // It finds out that we have no certificate when for us the handshake is over.
    let answer = get(proxy.address("web"), "/demanding").expect("an answer");
    assert_eq!(answer.status, 502);
    eventually("a probe says tls", PATIENCE, || {
        let labels = [("pool", "demanding"), ("why", "tls")];
        proxy.metric("evenkeel_backend_probe_failures_total", &labels) > 0.0
    });
}

/// A server that speaks HTTP in clear, and does not know what to make of anything else.
fn clear() -> SocketAddr {
    let listener = TcpListener::bind(free_address()).expect("a free address");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    address
}

/// openssl, which wants a certificate of whoever connects.
fn demanding(pair: &Pair, ca: &Authority) -> ((Child, Folder), SocketAddr) {
    let (folder, address) = (Folder::new(), free_address());
    pair.write(&folder, "server");
    folder.file("ca.pem", &ca.pem);
    let mut command = Command::new("openssl");
    command.current_dir(folder.path()).args(["s_server", "-www", "-quiet", "-accept"]);
    command.arg(address.to_string()).args(["-cert", "server.pem", "-key", "server.key"]);
    command.args(["-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error"]);
    let child = Child::start("openssl", &mut command);
    eventually("openssl accepts", PATIENCE, || TcpStream::connect(address).is_ok());
    ((child, folder), address)
}

#[test]
fn a_certificate_of_ours_opens_the_door_of_a_backend_that_demands_one() {
    if !program("openssl") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let (_demanding, address) = demanding(&ca.issue(&["web.internal"]), &ca);
    let keys = "tls: {ca: ca.pem, server_name: web.internal, cert: lb.pem, key: lb.key}, \
                health_check: {http: {path: /}, interval: 200ms, timeout: 5s}";
    let proxy = Proxy::start_beside(folder(&ca), one(&format!("backends: ['{address}'], {keys}")));
    proxy.wait_serving("web", 1, PATIENCE);
    // It ends its answer by close_notify and nothing else.
    let answer = get(proxy.address("web"), "/").expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(String::from_utf8_lossy(&answer.body).contains("lb.internal"), "{answer:?}");
}

#[test]
fn a_bad_certificate_on_one_backend_costs_no_client_anything() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let good = Nginx::start(free_address(), &ca.issue(&["web.internal"]), &ca, "");
    let bad = Nginx::start(free_address(), &ca.issue(&["elsewhere.internal"]), &ca, "");
    let unprobed = format!("balance: round_robin, {FULL}");
    let probed = format!(
        "{unprobed}, health_check: {{http: {{path: /}}, interval: 100ms, \
                          timeout: 5s, initial: up}}"
    );
    let config = setup()
        .listener(
            "web",
            "mode: http, routes: [{match: {path: /p}, pool: probed}, {pool: unprobed}]",
        )
        .pool("unprobed", [good.address, bad.address], &unprobed)
        .pool("probed", [good.address, bad.address], &probed);
    let proxy = Proxy::start_beside(folder(&ca), config);
    for n in 0..12 {
        let ask = Ask::post("/").body(n.to_string());
        let mut conn = Conn::open(proxy.address("web")).expect("a connection");
        assert_eq!(conn.ask(&ask).map(|answer| answer.status), Ok(200), "request {n}");
    }
    let retries = [("pool", "unprobed"), ("cause", "tls")];
    assert!(proxy.metric("evenkeel_pool_retries_total", &retries) >= 1.0);
    // Five in a row speak against it.
    proxy.wait_serving("unprobed", 1, PATIENCE);
    proxy.wait_serving("probed", 1, PATIENCE);
    assert_eq!(get(proxy.address("web"), "/p").map(|answer| answer.status), Ok(200));
}

#[test]
fn sessions_are_resumed_and_connections_kept() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["web.internal"]);
    for version in ["TLSv1.2", "TLSv1.3"] {
        let more = format!("ssl_protocols {version}; keepalive_timeout 300ms;");
        let nginx = Nginx::start(free_address(), &pair, &ca, &more);
        let at = nginx.address;
        let config = setup()
            .set("workers: 1")
            .listener(
                "web",
                "mode: http, routes: [{match: {path: /kept}, pool: kept}, {pool: fresh}]",
            )
            .pool("kept", [at], FULL)
            .pool("fresh", [at], &format!("{FULL}, keepalive: {{max_idle: 0}}"));
        let proxy = Proxy::start_beside(folder(&ca), config);
        let ask = |path: &str| get(proxy.address("web"), path).expect("an answer");
        let reused: Vec<String> =
            (0..4).map(|_| header(&ask("/"), "x-reused").to_owned()).collect();
        assert_eq!(reused, [".", "r", "r", "r"], "{version}");
        let connections: Vec<String> =
            (0..4).map(|_| header(&ask("/kept"), "x-connection").to_owned()).collect();
        assert!(connections.iter().all(|id| *id == connections[0]), "{version}: {connections:?}");
        // nginx says goodbye by close_notify, and nobody is misled by a connection that is over.
        let open = [("pool", "kept")];
        proxy.wait_metric("evenkeel_backend_open_connections", &open, 0.0);
        let answer = ask("/kept");
        assert_eq!((answer.status, header(&answer, "x-version")), (200, version));
        assert_eq!(header(&answer, "x-alpn"), "http/1.1");
        assert_eq!(header(&answer, "x-reused"), "r", "{version}");
    }
}

#[test]
fn a_reload_that_trusts_less_does_not_use_what_was_trusted_before() {
    if !program("nginx") {
        return;
    }
    let (ca, other) = (Authority::new("a test's authority"), Authority::new("another"));
    let nginx = Nginx::start(free_address(), &ca.issue(&["web.internal"]), &ca, "");
    let listener = format!("bind: '{}', mode: http, routes: [{{pool: web}}]", free_address());
    let pool = |tls: &str| {
        let keys = format!("tls: {{{tls}}}");
        setup().listener("web", &listener).pool("web", [nginx.address], &keys)
    };
    let folder = folder(&ca);
    folder.file("other.pem", &other.pem);
    let proxy = Proxy::start_beside(folder, pool("verify: off"));
    let status = || get(proxy.address("web"), "/").map(|answer| answer.status);
    assert_eq!(status(), Ok(200));
    assert!(proxy.reload(pool("ca: other.pem, server_name: web.internal")));
    assert_eq!(status(), Ok(502));
    assert!(proxy.reload(pool("ca: ca.pem, server_name: web.internal")));
    eventually("it is trusted again", PATIENCE, || status() == Ok(200));
}

#[test]
fn long_bodies_go_both_ways_and_protocols_can_be_changed() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("a test's authority");
    let backend = Backend::start("a");
    let nginx = Nginx::before(&backend, &ca.issue(&["web.internal"]), &ca);
    let proxy =
        Proxy::start_beside(folder(&ca), one(&format!("backends: ['{}'], {FULL}", nginx.address)));
    let mut conn = Conn::open(proxy.address("web")).expect("a connection");
    let down = conn.ask(&Ask::get("/b/").act("bytes 20000000")).expect("a long answer");
    assert_eq!(down.body.len(), 20_000_000);
    let up: String = (0..3_000_000_u64).map(|n| char::from(b'a' + (n * n % 26) as u8)).collect();
    let echo = conn.ask(&Ask::post("/b/").body(&up)).expect("an echo of a long body");
    let echo: serde_json::Value = serde_json::from_slice(&echo.body).expect("JSON");
    assert!(echo["body"] == up.as_str(), "the body came back otherwise");
    let upgrade = Ask::get("/b/").act("upgrade").header("Connection", "upgrade");
    conn.send(upgrade.header("Upgrade", "websocket").bytes()).expect("it is sent");
    assert_eq!(conn.head().expect("an answer").status, 101);
    for n in 0..50 {
        let message = vec![n; 1 + usize::from(n) * 1000];
        conn.send(&message).expect("it is sent");
        assert!(conn.bytes(message.len()).expect("its echo") == message, "message {n}");
    }
}

/// Reads to the end, then says what it has read and how it ends.
#[test]
fn a_stream_over_tls_keeps_its_half_closed_sides() {
    let ca = Authority::new("a test's authority");
    let pair = ca.issue(&["web.internal"]);
    let serve = |polite: bool| {
        move |mut stream: StreamOwned<ServerConnection, TcpStream>| {
            let mut all = Vec::new();
            // An end without close_notify would be an error here.
            if stream.read_to_end(&mut all).is_err() {
                return;
            }
            assert_eq!(stream.conn.alpn_protocol(), None);
            stream.write_all(&all).expect("it is written");
            if polite {
                stream.conn.send_close_notify();
            }
            stream.flush().expect("it is written");
            let _ = stream.sock.shutdown(Shutdown::Write);
            // Until the other side has gone.
            let _ = stream.sock.read(&mut [0; 16]);
        }
    };
    let (polite, curt) = (server(&pair, serve(true)), server(&pair, serve(false)));
    let config = setup()
        .tcp("polite", "polite")
        .tcp("curt", "curt")
        .pool("polite", [polite], &format!("{FULL}, health_check: {{tcp: {{}}}}"))
        .pool("curt", [curt], &format!("{FULL}, health_check: {{tls: {{}}}}"));
    let proxy = Proxy::start_beside(folder(&ca), config);
    for listener in ["polite", "curt"] {
        proxy.wait_serving(listener, 1, PATIENCE);
        let mut conn = Conn::open(proxy.address(listener)).expect("a connection");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        conn.send(&bytes).expect("it is sent");
        conn.finish_writing();
        assert!(conn.bytes(bytes.len()).expect("all of it") == bytes, "{listener}");
        let end = if listener == "polite" { Ok(Vec::new()) } else { Err(Broken::Reset) };
        assert_eq!(conn.rest(), end, "{listener}");
        let failures = proxy.metric("evenkeel_pool_failures_total", &[("pool", listener)]);
        assert_eq!(failures, 0.0, "{listener}");
        // Who had said all itself has not missed anything that would be news.
        let failures = proxy.metric("evenkeel_listener_failures_total", &[("listener", listener)]);
        assert_eq!(failures, 0.0, "{listener}");
    }
}

/// PostgreSQL from version 17 on takes TLS from the first byte, if ALPN says that it is meant.
#[test]
fn streams_are_named_by_alpn_where_the_probe_knows_what_they_are() {
    let ca = Authority::new("a test's authority");
    let naming = server(&ca.issue(&["web.internal"]), |mut stream| {
        // The first byte comes behind the handshake.
        let _ = stream.read(&mut [0; 16]);
        let named = stream.conn.alpn_protocol().unwrap_or(b"nothing").to_vec();
        let _ = stream.write_all(&named);
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    let any = format!("{FULL}, outlier: off, failover: {{when_none_serve: try_all}}");
    let config = setup()
        .tcp("postgres", "postgres")
        .tcp("redis", "redis")
        .tcp("other", "other")
        .pool("postgres", [naming], &format!("{any}, health_check: {{postgres: {{user: me}}}}"))
        .pool("redis", [naming], &format!("{any}, health_check: {{redis: {{}}}}"))
        .pool("other", [naming], &any);
    let proxy = Proxy::start_beside(folder(&ca), config);
    for (listener, named) in
        [("postgres", "postgresql"), ("redis", "nothing"), ("other", "nothing")]
    {
        let mut conn = Conn::open(proxy.address(listener)).expect("a connection");
        conn.send("?").expect("it is sent");
        assert_eq!(conn.bytes(named.len()).expect("a name"), named.as_bytes(), "{listener}");
    }
}

#[test]
fn a_handshake_that_hangs_is_given_up_and_another_backend_tried() {
    let ca = Authority::new("a test's authority");
    let mute = TcpListener::bind(free_address()).expect("a free address");
    let mute = mute.local_addr().map(|address| (address, mute)).expect("it is bound");
    let echo = server(&ca.issue(&["web.internal"]), |mut stream| {
        let mut bytes = [0; 5];
        if stream.read_exact(&mut bytes).is_ok() {
            let _ = stream.write_all(&bytes);
        }
        let _ = stream.read(&mut bytes);
    });
    let keys = format!("balance: first, outlier: off, {FULL}, timeouts: {{tls_handshake: 200ms}}");
    let config = setup().tcp("web", "web").pool("web", [mute.0, echo], &keys);
    let proxy = Proxy::start_beside(folder(&ca), config);
    let mut conn = Conn::open(proxy.address("web")).expect("a connection");
    conn.patience(Duration::from_secs(10));
    conn.send("hello").expect("it is sent");
    assert_eq!(conn.bytes(5).expect("an echo"), b"hello");
    assert_eq!(proxy.metric("evenkeel_pool_retries_total", &[("cause", "tls")]), 1.0);
    let told = proxy.events_saying("no secure connection to a backend");
    assert_eq!(told[0]["why"], "the TLS handshake took longer than `tls_handshake`");
}
