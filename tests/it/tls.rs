//! TLS with clients: the certificate that a name asks for, who may resume where, what clients have to
//! prove, and certificates that change under load. Real peers: openssl and curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::{
    Authority, Backend, Folder, PATIENCE, Pair, Proxy, Setup, Signal, evenkeel, eventually,
    program, setup,
};

/// What `openssl s_client` says, after one request; with no name unless `args` give one.
fn s_client(address: SocketAddr, args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    let address = address.to_string();
    command.args(["s_client", "-connect", &address, "-ign_eof"]).args(args);
    if !args.contains(&"-servername") {
        command.arg("-noservername");
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl can be started");
    let request = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    // Where the handshake failed there is nobody to read it.
    let _ = child.stdin.take().expect("it is piped").write_all(request);
    let output = child.wait_with_output().expect("openssl ends");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The subject that was shown; `None` if there was no handshake.
fn shown(address: SocketAddr, args: &[&str]) -> Option<String> {
    let said = s_client(address, args);
    let subject = said.lines().find_map(|line| line.strip_prefix("subject="))?;
    Some(subject.trim_start_matches("CN = ").trim_start_matches("CN=").to_owned())
}

fn curl(address: SocketAddr, folder: &Path, args: &[&str]) -> (i32, String) {
    let port = address.port();
    let resolve = format!("a.example:{port}:{}", address.ip());
    let output = Command::new("curl")
        .current_dir(folder)
        .args(["-sS", "-m", "20", "--resolve", &resolve, "--cacert", "ca.pem"])
        .args(args)
        .arg(format!("https://a.example:{port}/"))
        .output()
        .expect("curl can be started");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

/// A folder with the authority's `ca.pem`.
fn folder(authority: &Authority) -> Folder {
    let folder = Folder::new();
    folder.file("ca.pem", &authority.pem);
    folder
}

fn web(backend: &Backend, tls: &str) -> Setup {
    setup().listener("web", &format!("tls: {{{tls}}}, routes: [{{pool: web}}]")).pool(
        "web",
        [backend],
        "",
    )
}

const ONE: &str = "certificates: [{cert: a.pem, key: a.key}]";

#[test]
fn a_certificate_is_shown_by_name() {
    if !program("openssl") {
        return;
    }
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    authority.issue(&["a.example"]).write(&folder, "a");
    authority.issue(&["*.b.example"]).write(&folder, "b");
    authority.issue(&["x.b.example"]).write(&folder, "x");
    let backend = Backend::start("one");
    let list = "certificates: [{cert: a.pem, key: a.key}, {cert: b.pem, key: b.key}, \
                {cert: x.pem, key: x.key}]";
    let route = "routes: [{pool: web}]";
    let config = setup()
        .listener("web", &format!("tls: {{{list}}}, {route}"))
        .listener("strict", &format!("tls: {{{list}, strict_sni: true}}, {route}"))
        .pool("web", [&backend], "");
    let proxy = Proxy::start_beside(folder, config);
    for (name, loose, strict) in [
        (Some("a.example"), "a.example", Some("a.example")),
        (Some("A.Example"), "a.example", Some("a.example")),
        (Some("x.b.example"), "x.b.example", Some("x.b.example")),
        (Some("y.b.example"), "*.b.example", Some("*.b.example")),
        (Some("z.y.b.example"), "a.example", None),
        (Some("other.example"), "a.example", None),
        (None, "a.example", None),
    ] {
        let args = name.map_or(vec![], |name| vec!["-servername", name]);
        assert_eq!(shown(proxy.address("web"), &args).as_deref(), Some(loose), "{name:?}");
        let said = shown(proxy.address("strict"), &args);
        assert_eq!(said.as_deref(), strict, "{name:?}");
    }
    assert!(
        s_client(proxy.address("web"), &["-servername", "a.example"]).contains("HTTP/1.1 200 ")
    );
    proxy.wait_metric("evenkeel_listener_failures_total", &[("listener", "strict")], 3.0);
    for name in ["a.example", "*.b.example", "x.b.example"] {
        let labels = [("listener", "web"), ("name", name)];
        assert!(proxy.metric("evenkeel_certificate_expiry_seconds", &labels) > 1e6, "{name}");
    }
}

#[test]
fn clients_get_the_key_and_the_version_that_they_can_use() {
    if !program("openssl") {
        return;
    }
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    authority.issue(&["a.example"]).write(&folder, "a");
    authority.issue_rsa(&["a.example"]).write(&folder, "rsa");
    let backend = Backend::start("one");
    let both = "certificates: [{cert: rsa.pem, key: rsa.key}, {cert: a.pem, key: a.key}]";
    let route = "routes: [{pool: web}]";
    let config = setup()
        .listener("web", &format!("tls: {{{both}}}, {route}"))
        .listener("newest", &format!("tls: {{{both}, min_version: \"1.3\"}}, {route}"))
        .pool("web", [&backend], "");
    let proxy = Proxy::start_beside(folder, config);
    let name = ["-servername", "a.example"];
    for (args, expected) in [
        (&[][..], "Peer signature type: ECDSA"),
        (&["-sigalgs", "RSA-PSS+SHA256"], "Peer signature type: RSA-PSS"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "Peer signature type: RSA"),
        (&["-tls1_2"], "Peer signature type: ECDSA"),
        (&["-tls1_3"], "TLSv1.3"),
    ] {
        let said = s_client(proxy.address("web"), &[args, &name].concat());
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    let newest = proxy.address("newest");
    assert!(shown(newest, &["-tls1_3"]).is_some() && shown(newest, &["-tls1_2"]).is_none());
    // What is broken is not there, however a client begs for it.
    for args in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA"],
    ] {
        assert_eq!(shown(proxy.address("web"), args), None, "{args:?}");
    }
    let said = s_client(proxy.address("web"), &["-alpn", "http/1.1"]);
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
    let said = s_client(proxy.address("web"), &["-alpn", "h2,http/1.1"]);
    assert!(said.contains("ALPN protocol: h2"), "{said}");
}

/// A session of `from` offered to `to`: whether it was resumed. `None` if there was no handshake.
fn resumes(from: SocketAddr, to: SocketAddr, folder: &Path, args: &[&str]) -> Option<bool> {
    let file = folder.join("session.pem");
    let _ = std::fs::remove_file(&file);
    let session = file.to_str().expect("a plain path");
    let name = ["-servername", "a.example"];
    s_client(from, &[args, &name, &["-sess_out", session]].concat());
    assert!(file.exists(), "no session from {from} with {args:?}");
    let said = s_client(to, &[args, &name, &["-sess_in", session]].concat());
    // With TLS 1.3 a client is done before it is told that it is refused: the answer tells.
    said.contains("HTTP/1.1 200 ").then(|| said.contains("Reused, "))
}

#[test]
fn sessions_resume_where_they_may_and_nowhere_else() {
    if !program("openssl") {
        return;
    }
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    authority.issue(&["a.example"]).write(&folder, "a");
    authority.issue(&["client"]).write(&folder, "client");
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    folder.file("tickets.key", key);
    let backend = Backend::start("one");
    let keys = format!("{ONE}, alpn: [http/1.1], ticket_keys_file: tickets.key");
    let route = "routes: [{pool: web}]";
    let config = setup()
        .listener("web", &format!("tls: {{{keys}}}, {route}"))
        .listener("other", &format!("tls: {{{keys}}}, {route}"))
        .listener("closed", &format!("tls: {{{keys}, client_auth: {{ca: ca.pem}}}}, {route}"))
        .listener("random", &format!("tls: {{{ONE}, alpn: [http/1.1]}}, {route}"))
        .pool("web", [&backend], "");
    let one = Proxy::start_beside(folder, &config);
    let path = one.folder().to_owned();
    let copy = Folder::new();
    for file in ["ca.pem", "a.pem", "a.key", "tickets.key"] {
        copy.file(file, std::fs::read(path.join(file)).expect("it is there"));
    }
    let two = Proxy::start_beside(copy, &config);
    let cert = path.join("client.pem");
    let key = path.join("client.key");
    let shows = ["-cert", cert.to_str().unwrap(), "-key", key.to_str().unwrap()];
    for version in ["-tls1_2", "-tls1_3"] {
        let none = &[version][..];
        let shows = &[none, &shows].concat()[..];
        let at = |name| one.address(name);
        for (from, to, args, expected) in [
            (at("web"), at("web"), none, Some(true)),
            (at("web"), two.address("web"), none, Some(true)),
            (at("random"), at("random"), none, Some(true)),
            (at("random"), two.address("random"), none, Some(false)),
            (at("web"), at("other"), none, Some(false)),
            (at("web"), at("closed"), none, None),
            (at("web"), at("closed"), shows, Some(false)),
            (at("closed"), at("closed"), shows, Some(true)),
            (at("closed"), two.address("closed"), shows, Some(true)),
        ] {
            let resumed = resumes(from, to, &path, args);
            assert_eq!(resumed, expected, "{version} {from} {to} {args:?}");
        }
    }
    // Rotated at one, and then at the other: nobody loses a session.
    let new = "HBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw=\n";
    let taken_up = |proxy: &Proxy, text: String, count: f64| {
        std::fs::write(proxy.folder().join("tickets.key"), text).expect("it is ours");
        let labels = [("result", "success")];
        // Counted once, though three of the listeners read the file.
        proxy.wait_metric("evenkeel_certificate_reloads_total", &labels, count);
    };
    let old = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    taken_up(&one, format!("{old}{new}"), 1.0);
    taken_up(&two, format!("{new}{old}"), 1.0);
    let (a, b) = (one.address("web"), two.address("web"));
    assert_eq!((resumes(a, b, &path, &[]), resumes(b, a, &path, &[])), (Some(true), Some(true)));
}

#[test]
fn clients_have_to_prove_who_they_are() {
    if !program("curl") {
        return;
    }
    let (authority, strangers) = (Authority::new("authority"), Authority::new("strangers"));
    let folder = folder(&authority);
    authority.issue(&["a.example"]).write(&folder, "a");
    authority.issue_numbered(&["good"], 1).write(&folder, "good");
    authority.issue_numbered(&["revoked"], 2).write(&folder, "revoked");
    authority.issue_expired(&["late"]).write(&folder, "late");
    strangers.issue(&["good"]).write(&folder, "stranger");
    folder.file("list.crl", authority.revoke(&[2]));
    let backend = Backend::start("one");
    let route = "routes: [{pool: web}]";
    let auth = |keys: &str| format!("tls: {{{ONE}, client_auth: {{ca: ca.pem{keys}}}}}, {route}");
    let config = setup()
        .listener("required", &auth(""))
        .listener("optional", &auth(", mode: optional"))
        .listener("listed", &auth(", crl: list.crl"))
        .pool("web", [&backend], "");
    let proxy = Proxy::start_beside(folder, config);
    for (client, required, optional, listed) in [
        (None, false, true, false),
        (Some("good"), true, true, true),
        (Some("revoked"), true, true, false),
        (Some("late"), false, false, false),
        (Some("stranger"), false, false, false),
    ] {
        for (listener, passes) in
            [("required", required), ("optional", optional), ("listed", listed)]
        {
            let files = client.map(|name| [format!("{name}.pem"), format!("{name}.key")]);
            let args = files.iter().flat_map(|[c, k]| ["--cert", &**c, "--key", &**k]);
            let args: Vec<&str> = args.collect();
            let (code, text) = curl(proxy.address(listener), proxy.folder(), &args);
            assert_eq!(code == 0, passes, "{client:?} at {listener}: {text}");
        }
    }
    // A list that is renewed counts from then on.
    std::fs::write(proxy.folder().join("list.crl"), authority.revoke(&[1])).expect("it is ours");
    proxy.wait_metric("evenkeel_certificate_reloads_total", &[("result", "success")], 1.0);
    let at = proxy.address("listed");
    let ask = |name: &str| {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        curl(at, proxy.folder(), &["--cert", &cert, "--key", &key]).0
    };
    assert!(ask("revoked") == 0 && ask("good") != 0);
}

#[test]
fn tcp_is_decrypted_as_well() {
    if !program("openssl") {
        return;
    }
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    authority.issue(&["a.example"]).write(&folder, "a");
    let backend = Backend::start("one");
    let config = setup().listener("web", &format!("mode: tcp, tls: {{{ONE}}}, pool: web")).pool(
        "web",
        [&backend],
        "",
    );
    let proxy = Proxy::start_beside(folder, config);
    let said = s_client(proxy.address("web"), &["-servername", "a.example"]);
    assert!(said.contains("HTTP/1.1 200 ") && said.contains("\"backend\":\"one\""), "{said}");
}

/// A client that makes a whole handshake for each request, and tells which certificate it saw.
struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Client {
    fn new(address: SocketAddr, authority: &Authority) -> Client {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
        roots.add(der).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Client { address, config: Arc::new(config) }
    }

    fn ask(&self) -> std::io::Result<CertificateDer<'static>> {
        let name = ServerName::try_from("a.example").expect("a name");
        let connection =
            ClientConnection::new(self.config.clone(), name).map_err(std::io::Error::other)?;
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // Its end is a close_notify, or this is an error.
        stream.read_to_end(&mut answer)?;
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        let shown = stream.conn.peer_certificates().and_then(<[_]>::first);
        shown.cloned().ok_or_else(|| std::io::Error::other("no certificate"))
    }
}

fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM")
}

/// As renewal programs do: each file whole at once, but not the two of them at once.
fn renew(folder: &Path, pair: &Pair) {
    for (name, text) in [("a.pem", &pair.cert), ("a.key", &pair.key)] {
        let new = folder.join("new");
        std::fs::write(&new, text).expect("it is ours");
        std::fs::rename(new, folder.join(name)).expect("in one folder");
    }
}

#[test]
fn a_certificate_is_renewed_under_load_without_a_failed_handshake() {
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    authority.issue(&["a.example"]).write(&folder, "a");
    let backend = Backend::start("one");
    let proxy = Proxy::start_beside(folder, web(&backend, ONE));
    let client = Client::new(proxy.address("web"), &authority);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        client.ask()?;
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    std::io::Result::Ok(())
                })
            })
            .collect();
        // A panic must not leave them at it without end.
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..3 {
                let next = authority.issue(&["a.example"]);
                renew(proxy.folder(), &next);
                eventually("the new one is shown", PATIENCE, || {
                    client.ask().expect("an answer") == der(&next)
                });
                let before = asked.load(Ordering::Relaxed);
                eventually("there is load", PATIENCE, || {
                    asked.load(Ordering::Relaxed) > before + 20
                });
                // One of the times by a reload, which finds the files as well.
                if round == 1 {
                    proxy.child.signal(Signal::Hangup);
                    eventually("a reload", PATIENCE, || proxy.reloads().0 == 2);
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("no panic").expect("no handshake and no request fails");
        }
        told.expect("renewals are taken up");
    });
    let labels = [("listener", "web")];
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &labels), 0.0);
    let reloads = |result| [("result", result)];
    let name = "evenkeel_certificate_reloads_total";
    assert_eq!(proxy.metric(name, &reloads("success")), 3.0);
    assert_eq!(proxy.metric(name, &reloads("failure")), 0.0);
}

#[test]
fn a_bad_renewal_keeps_the_old_certificate_and_says_so_once() {
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    let first = authority.issue(&["a.example"]);
    first.write(&folder, "a");
    let backend = Backend::start("one");
    let config = web(&backend, ONE);
    let proxy = Proxy::start_beside(folder, &config);
    let client = Client::new(proxy.address("web"), &authority);
    let (next, other) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    renew(proxy.folder(), &Pair { key: other.key, ..next.clone() });
    let (name, failed) = ("evenkeel_certificate_reloads_total", [("result", "failure")]);
    proxy.wait_metric(name, &failed, 1.0);
    assert_eq!(client.ask().expect("an answer"), der(&first));
    // A reload with other changes goes through, with a warning, and the old one goes on.
    let more = config.to_string().replace("listeners:", "drain_timeout: 9s\nlisteners:");
    assert!(proxy.reload(&more));
    proxy.wait_metric(name, &failed, 2.0);
    assert_eq!(client.ask().expect("an answer"), der(&first));
    let told = proxy.events_saying("not taken up; what was read before goes on");
    assert_eq!(told.len(), 1, "{told:?}");
    let fault = told[0]["fault"].as_str().expect("a text");
    assert!(fault.ends_with("a.key: the key does not belong to the certificate"), "{fault}");
    // A start has no predecessor.
    let check = evenkeel(proxy.folder(), &["check", "evenkeel.yaml"]);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(1) && text.contains("does not belong"), "{text}");
    renew(proxy.folder(), &next);
    eventually("the new one is shown", PATIENCE, || client.ask().expect("an answer") == der(&next));
}

#[test]
fn pairs_come_and_go_in_a_folder() {
    if !program("openssl") {
        return;
    }
    let authority = Authority::new("authority");
    let folder = folder(&authority);
    std::fs::create_dir(folder.path().join("live")).expect("it is ours");
    authority.issue(&["a.example"]).write(&folder, "live/a");
    let backend = Backend::start("one");
    let proxy = Proxy::start_beside(folder, web(&backend, "certificate_dir: live"));
    let named = |name: &str| shown(proxy.address("web"), &["-servername", name]);
    assert_eq!(named("b.example").as_deref(), Some("a.example"));
    let live = proxy.folder().join("live");
    let pair = authority.issue(&["b.example"]);
    std::fs::write(live.join("b.pem"), &pair.cert).expect("it is ours");
    std::fs::write(live.join("b.key"), &pair.key).expect("it is ours");
    eventually("the new pair is shown", PATIENCE, || named("b.example").unwrap() == "b.example");
    std::fs::remove_file(live.join("b.pem")).expect("it is there");
    eventually("it is shown no more", PATIENCE, || named("b.example").unwrap() == "a.example");
}
