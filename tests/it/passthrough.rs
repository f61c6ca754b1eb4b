//! TLS that is not decrypted: a tcp listener routes by the name that the client asks for.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Broken, Conn, Proxy, RawBackend, Setup, free_address, program, setup,
};
use crate::peers::{Peer, haproxy_command};

/// What a client with post-quantum keys sends first; ALPN makes it as long as one likes.
fn hello(name: &str, protocols: usize) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = (0..protocols).map(|n| format!("protocol-{n:03}").into()).collect();
    let to = name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), to).expect("a client");
    let mut sent = Vec::new();
    client.write_tls(&mut sent).expect("memory takes all");
    sent
}

/// The same message in records of so many bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let record =
        |piece: &[u8]| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    hello[5..].chunks(size).flat_map(record).collect()
}

/// Three backends: for `a.example` and all below `w.example`, for `b.example`, and for the rest.
fn routed(a: &str, b: &str, rest: &str, keys: &str) -> Setup {
    let routes = format!(
        "mode: tcp, {keys} routes: [{{match: {{sni: [a.example, \"*.w.example\"]}}, pool: a}}, \
         {{match: {{sni: b.example}}, pool: b}}, {{match: {{sni: no.example}}, reject: true}}, {rest}]"
    );
    setup().listener("tls", &routes).pool("a", [a], "health_check: off").pool(
        "b",
        [b],
        "health_check: off",
    )
}

fn failures(proxy: &Proxy, cause: &str, count: f64) {
    proxy.wait_metric("evenkeel_listener_failures_total", &[("cause", cause)], count);
}

fn is_closed(conn: &mut Conn) -> bool {
    matches!(conn.rest().as_deref(), Ok([]) | Err(Broken::Reset))
}

#[test]
fn a_hello_is_read_however_it_comes_and_passed_on_as_it_was() {
    let (a, b) = (RawBackend::open(), RawBackend::open());
    let proxy = Proxy::start(routed(&a.to_string(), &b.to_string(), "{pool: b}", ""));
    let long = hello("b.example", 120);
    assert!(long.len() > 2700, "{}", long.len());
    for (backend, sent) in [
        (&a, hello("a.example", 2)),
        (&a, hello("x.w.example", 2)),
        (&b, hello("b.example", 2)),
        (&b, in_records(&long, 100)),
        (&b, in_records(&long, 1)),
        (&b, long),
    ] {
        for size in [sent.len(), 1000, 37] {
            let mut conn = Conn::open(proxy.address("tls")).unwrap();
            let (last, most) = sent.split_last().unwrap();
            for piece in most.chunks(size) {
                conn.send(piece).unwrap();
            }
            // Nobody is called before it is known who.
            assert!(!a.is_called() && !b.is_called());
            conn.send([*last]).unwrap();
            conn.send("and more").unwrap();
            let mut peer = backend.accept();
            assert_eq!(peer.bytes(sent.len()), sent);
            assert_eq!(peer.bytes(8), b"and more");
            peer.send("hello yourself");
            assert_eq!(conn.bytes(14).unwrap(), b"hello yourself");
        }
    }
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn what_matches_nothing_is_closed_or_goes_to_the_rest() {
    let backend = Backend::doing("a", "tcp_echo");
    let to = backend.to_string();
    let strict = Proxy::start(routed(&to, &to, "{match: {sni: c.example}, pool: b}", ""));
    let lenient = Proxy::start(routed(&to, &to, "{pool: b}", ""));
    let unmatched =
        [hello("x.x.w.example", 1), hello("192.0.2.1", 1), b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    for sent in &unmatched {
        let mut conn = Conn::open(strict.address("tls")).unwrap();
        let _ = conn.send(sent);
        assert!(is_closed(&mut conn));
        let mut conn = Conn::open(lenient.address("tls")).unwrap();
        conn.send(sent).unwrap();
        assert_eq!(conn.bytes(sent.len()).unwrap(), *sent);
    }
    failures(&strict, "no_route", 3.0);
    for proxy in [&strict, &lenient] {
        let mut conn = Conn::open(proxy.address("tls")).unwrap();
        conn.send(hello("no.example", 1)).unwrap();
        assert!(is_closed(&mut conn));
        failures(proxy, "denied", 1.0);
    }
}

#[test]
fn a_hello_has_to_come_in_time() {
    let backend = RawBackend::open();
    let to = backend.to_string();
    let set = routed(&to, &to, "{pool: b}", "timeouts: {proxy_header: 400ms},");
    let proxy = Proxy::start(set);
    let began = Instant::now();
    let mut conn = Conn::open(proxy.address("tls")).unwrap();
    let mut slow = Conn::open(proxy.address("tls")).unwrap();
    slow.send(&hello("a.example", 1)[..600]).unwrap();
    assert!(is_closed(&mut conn) && is_closed(&mut slow));
    assert!(began.elapsed() > Duration::from_millis(350), "{:?}", began.elapsed());
    failures(&proxy, "client_timeout", 2.0);
    // One that never ends is none.
    let mut endless = Conn::open(proxy.address("tls")).unwrap();
    let mut sent = vec![22, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
    sent.resize(20_000, 0);
    let _ = endless.send(&sent);
    assert_eq!(backend.accept().bytes(20_000), sent, "it goes where no name goes");
    drop(Conn::open(proxy.address("tls")).unwrap());
    drop(endless);
    proxy.wait_at_rest();
}

#[test]
fn a_header_before_the_hello_and_one_with_its_name_after() {
    let backend = RawBackend::open();
    let routes = "mode: tcp, accept_proxy_protocol: {from: [127.0.0.0/8]}, \
                  routes: [{match: {sni: a.example}, pool: a}]";
    let set = setup().listener("tls", routes).pool(
        "a",
        [backend.to_string()],
        "health_check: off, send_proxy_protocol: v2",
    );
    let proxy = Proxy::start(set);
    let mut conn = Conn::open(proxy.address("tls")).unwrap();
    let sent = hello("a.example", 1);
    let all = [&b"PROXY TCP4 198.51.100.7 192.0.2.9 1 2\r\n"[..], &sent].concat();
    for piece in all.chunks(30) {
        conn.send(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut peer = backend.accept();
    let values = [&[2, 0, 9][..], b"a.example", &[1, 0, 12], b"protocol-000"].concat();
    let addresses = [198, 51, 100, 7, 192, 0, 2, 9, 0, 1, 0, 2];
    let length = (addresses.len() + values.len()) as u16;
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length.to_be_bytes(), &addresses, &values];
    assert_eq!(peer.bytes(header.concat().len()), header.concat());
    assert_eq!(peer.bytes(sent.len()), sent);
}

/// One that decrypts, with a certificate of this name, and answers it; it requires a PROXY header.
fn haproxy_with_tls(name: &str) -> Peer {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let pem = made.cert.pem() + &made.signing_key.serialize_pem();
    let address = free_address();
    let text = format!(
        "global
  nbthread 1
defaults
  timeout connect 2s
  timeout client 20s
  timeout server 20s
frontend f
  mode http
  bind {address} accept-proxy ssl crt FOLDER/cert.pem alpn h2,http/1.1
  http-request return status 200 content-type text/plain lf-string \"{name} %[src] %[fc_pp_authority]\"
"
    );
    Peer::start_with("haproxy", address, &text, &[("cert.pem", &pem)], haproxy_command)
}

#[test]
fn curl_and_openssl_reach_the_backend_that_they_ask_for() {
    if !program("curl") || !program("openssl") || !program("haproxy") {
        return;
    }
    let (a, b) = (haproxy_with_tls("a.example"), haproxy_with_tls("b.example"));
    let keys = "health_check: {tcp: {}}, send_proxy_protocol: v2";
    let routes = "mode: tcp, routes: [{match: {sni: a.example}, pool: a}, {pool: b}]";
    let set =
        setup().listener("tls", routes).pool("a", [a.address], keys).pool("b", [b.address], keys);
    let proxy = Proxy::start(set);
    let address = proxy.address("tls");
    for (asked, served) in [("a.example", "a.example"), ("other.example", "b.example")] {
        for protocol in ["--http1.1", "--http2", "--tls-max=1.2"] {
            let told = curl(address, asked, protocol);
            assert_eq!(told, format!("{served} 127.0.0.1 {asked}"), "{protocol}");
        }
    }
    for (how, served) in [
        (&["-servername", "a.example"][..], "a.example"),
        (&["-servername", "b.example"], "b.example"),
        (&["-noservername"], "b.example"),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &address.to_string()]).args(how);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = openssl.spawn().expect("openssl runs");
        child.stdin.take().expect("it is piped").write_all(b"Q\n").expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let cert = said.split("-----END CERTIFICATE-----").next().unwrap_or_default();
        let begin = cert.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {said}"));
        let pem = format!("{}-----END CERTIFICATE-----\n", &cert[begin..]);
        assert!(names_in(&pem).contains(served), "{how:?}: {said}");
    }
}

fn names_in(pem: &str) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-ext", "subjectAltName"]);
    openssl.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().expect("openssl runs");
    child.stdin.take().expect("it is piped").write_all(pem.as_bytes()).expect("it reads");
    String::from_utf8_lossy(&child.wait_with_output().expect("it ends").stdout).into_owned()
}

fn curl(address: SocketAddr, name: &str, protocol: &str) -> String {
    let mut curl = Command::new("curl");
    let resolve = format!("{name}:{}:{}", address.port(), address.ip());
    let (option, value) = protocol.split_once('=').unwrap_or((protocol, ""));
    curl.args(["-sSk", "--max-time", "10", "--resolve", &resolve, option]);
    curl.args(Some(value).filter(|value| !value.is_empty()));
    let output = curl.arg(format!("https://{name}:{}/", address.port())).output();
    let output = output.expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
