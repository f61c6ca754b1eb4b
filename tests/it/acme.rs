//! Certificates come by themselves: from a real ACME server, by either challenge, and a failure never
//! takes one away.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::pebble::{Pebble, Site, listing, self_signed};
use crate::harness::{Backend, Folder, PATIENCE, Proxy, Setup, eventually, get, setup};

const ORDERS: &str = "evenkeel_acme_orders_total";

fn succeeded(proxy: &Proxy) -> f64 {
    proxy.metric(ORDERS, &[("listener", "secure"), ("result", "success")])
}

fn failed(proxy: &Proxy) -> f64 {
    proxy.metric(ORDERS, &[("listener", "secure"), ("result", "failure")])
}

/// `tls: {acme: ...}` of a listener.
fn acme(pebble: &Pebble, state: &Path, domains: &str) -> String {
    let (directory, ca) = (pebble.directory(), pebble.ca());
    format!(
        "tls: {{acme: {{domains: [{domains}], contact: \"mailto:ops@example.com\", directory: \
         \"{directory}\", ca: \"{}\", state_dir: \"{}\"}}}}",
        ca.display(),
        state.display()
    )
}

fn secure(setup: Setup, site: Site, tls: &str) -> Setup {
    let bind = site.tls();
    setup.listener(
        "secure",
        &format!("bind: \"{bind}\", mode: http, routes: [{{pool: web}}], {tls}"),
    )
}

fn plain(setup: Setup, site: Site) -> Setup {
    let bind = site.http();
    setup.listener("plain", &format!("bind: \"{bind}\", mode: http, routes: [{{pool: web}}]"))
}

/// Who trusts these alone.
fn trusting(roots: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).expect("a root certificate");
    }
    let config = ClientConfig::builder_with_provider(evenkeel::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let mut config = config.with_root_certificates(store).with_no_client_auth();
    // Who resumes sees no certificate.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A handshake and a request: the certificate that was shown, and the answer's status line.
fn ask(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> Result<(CertificateDer<'static>, String), String> {
    let socket = TcpStream::connect(address).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let client = ClientConnection::new(config.clone(), server).expect("a client");
    let mut stream = StreamOwned::new(client, socket);
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.ok_or("no certificate")?.clone().into_owned();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok((shown, answer.lines().next().unwrap_or_default().to_owned()))
}

#[track_caller]
fn wait_served(proxy: &Proxy, name: &str, address: SocketAddr, config: &Arc<ClientConfig>) {
    let mut last = String::new();
    eventually(&format!("{name} is served"), 2 * PATIENCE, || {
        let now = match ask(address, name, config) {
            Ok((_, status)) if status.starts_with("HTTP/1.1 200") => return true,
            Ok((_, other)) => other,
            Err(why) => why,
        };
        if now != last {
            eprintln!("{name} is not served after {} orders: {now}", succeeded(proxy));
            last = now;
        }
        false
    });
}

#[test]
fn the_first_certificate_comes_by_http_and_a_restart_finds_it() {
    let site = Site::new();
    let Some(mut pebble) = Pebble::start(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let tls = acme(&pebble, state.path(), "a.example.com, b.example.com");
    let config = secure(plain(setup(), site), site, &tls).pool("web", [&backend], "");
    let mut proxy = Proxy::start(&config);

    let client = trusting(&[pebble.root()]);
    wait_served(&proxy, "a.example.com", site.tls(), &client);
    wait_served(&proxy, "b.example.com", site.tls(), &client);
    assert_eq!((succeeded(&proxy), failed(&proxy)), (2.0, 0.0));
    let (tasks, http) = pebble.validations();
    assert!(tasks == 2 && http >= 2, "{:#?}", pebble.lines());
    // One certificate for each name, and only for those.
    assert!(ask(site.tls(), "c.example.com", &client).is_err());
    // A path of nobody's token is a path like any other.
    let answer = get(site.http(), "/.well-known/acme-challenge/nobodys").unwrap();
    assert_eq!(answer.header("x-backend"), Some("one".to_owned()));
    let status = proxy.ask_admin("/readyz?verbose").text();
    assert!(status.contains("certificate a.example.com: "), "{status}");

    let servers = listing(state.path());
    assert!(matches!(&servers[..], [(_, 0o700)]), "{servers:?}");
    let files = listing(&state.path().join(&servers[0].0));
    let kept: Vec<_> = files.iter().filter(|(name, _)| !name.ends_with(".lock")).collect();
    let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.example.com.pem", "account.json", "b.example.com.pem"]);
    assert!(files.iter().all(|(_, mode)| *mode == 0o600), "{files:?}");

    pebble.stop();
    assert!(proxy.stop().success());
    let proxy = Proxy::start(&config);
    assert!(ask(site.tls(), "a.example.com", &client).unwrap().1.starts_with("HTTP/1.1 200"));
    assert_eq!((succeeded(&proxy), failed(&proxy)), (0.0, 0.0), "a restart orders nothing");
}

#[test]
fn without_a_plain_listener_it_comes_by_tls() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let tls = acme(&pebble, state.path(), "a.example.com");
    let proxy = Proxy::start(secure(setup(), site, &tls).pool("web", [&backend], ""));
    let client = trusting(&[pebble.root()]);
    wait_served(&proxy, "a.example.com", site.tls(), &client);
    assert_eq!((succeeded(&proxy), failed(&proxy)), (1.0, 0.0));
    assert_eq!(pebble.validations(), (1, 0));
}

#[test]
fn a_tcp_listener_can_have_one_too() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let tls = acme(&pebble, state.path(), "a.example.com");
    let keys = format!("bind: \"{}\", mode: tcp, pool: web, {tls}", site.tls());
    let proxy = Proxy::start(setup().listener("secure", &keys).pool("web", [&backend], ""));
    let client = trusting(&[pebble.root()]);
    wait_served(&proxy, "a.example.com", site.tls(), &client);
    // Its own clients may speak whatever they like: the challenge's protocol is in nobody's way.
    let mut other = ClientConfig::clone(&client);
    other.alpn_protocols = vec![b"postgresql".to_vec()];
    wait_served(&proxy, "a.example.com", site.tls(), &Arc::new(other));
}

#[test]
fn a_listener_that_demands_certificates_can_have_one_too() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let tls = acme(&pebble, state.path(), "a.example.com");
    let auth = format!("client_auth: {{mode: required, ca: \"{}\"}}", pebble.ca().display());
    let tls = tls.replace("tls: {", &format!("tls: {{{auth}, "));
    let proxy = Proxy::start(secure(setup(), site, &tls).pool("web", [&backend], ""));
    eventually("the server needs none for its challenge", 2 * PATIENCE, || succeeded(&proxy) > 0.0);
    assert_eq!(failed(&proxy), 0.0);
    let client = trusting(&[pebble.root()]);
    assert!(ask(site.tls(), "a.example.com", &client).is_err(), "everybody else does");
}

#[test]
fn where_one_challenge_does_not_get_through_the_other_is_tried() {
    let site = Site::new();
    // Nobody answers there.
    let unreached = Site { http: Site::new().http, ..site };
    let Some(pebble) = Pebble::start(unreached) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let tls = acme(&pebble, state.path(), "a.example.com");
    let proxy = Proxy::start(secure(plain(setup(), site), site, &tls).pool("web", [&backend], ""));
    wait_served(&proxy, "a.example.com", site.tls(), &trusting(&[pebble.root()]));
    assert_eq!((succeeded(&proxy), failed(&proxy)), (1.0, 0.0));
    let (tasks, http) = pebble.validations();
    assert!(tasks == 2 && http >= 1, "{:#?}", pebble.lines());
}

/// Puts a certificate into the state directory as one that was ordered before.
fn keep(state: &Path, pebble: &Pebble, domain: &str, pem: &str) {
    let server = pebble.directory().replace("https://", "").replace(':', "%3a").replace('/', "_");
    let folder = state.join(server);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    std::fs::write(folder.join(format!("{domain}.pem")), pem).expect("a temporary folder");
}

#[test]
fn while_the_server_fails_the_old_one_serves_and_its_renewal_is_seen_by_nobody() {
    let site = Site::new();
    let Some(mut pebble) = Pebble::stopped(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    // 20 days of 90 left: it is time.
    let pem = self_signed("a.example.com", -70, 20);
    let old = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    keep(state.path(), &pebble, "a.example.com", &pem);
    let tls = acme(&pebble, state.path(), "a.example.com");
    let config = secure(plain(setup(), site), site, &tls).pool("web", [&backend], "");
    let proxy = Proxy::start(&config);

    eventually("a first try fails", PATIENCE, || failed(&proxy) >= 1.0);
    let client = trusting(std::slice::from_ref(&old));
    assert_eq!(ask(site.tls(), "a.example.com", &client).unwrap().0, old);
    let said = proxy.events_saying("no new certificate; the old one is kept");
    let why = said[0]["error"].as_str().unwrap();
    assert!(why.contains("cannot connect"), "{why}");
    let status = proxy.ask_admin("/readyz?verbose").text();
    assert!(status.contains("cannot connect"), "{status}");
    eventually("it is tried again", PATIENCE, || failed(&proxy) >= 2.0);

    pebble.run();
    let root = pebble.root();
    let both = trusting(&[old.clone(), root]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, both, old) = (stop.clone(), both.clone(), old.clone());
            std::thread::spawn(move || {
                let (mut before, mut after) = (0, 0);
                let mut last = false;
                while !last {
                    // That begins after it, and has to see it.
                    last = stop.load(Ordering::Relaxed);
                    let (shown, status) = ask(site.tls(), "a.example.com", &both).unwrap();
                    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
                    if shown == old { before += 1 } else { after += 1 }
                }
                (before, after)
            })
        })
        .collect();
    // Who has mended the server says so.
    assert!(proxy.reload(&config));
    eventually("it is renewed", 2 * PATIENCE, || succeeded(&proxy) == 1.0);
    eventually("everybody sees it", PATIENCE, || {
        ask(site.tls(), "a.example.com", &both).unwrap().0 != old
    });
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (before, after) = client.join().expect("no handshake fails");
        assert!(before > 0 && after > 0, "{before} before, {after} after");
    }
}

#[test]
fn a_reload_may_add_a_name_and_a_server_that_forgot_us_is_told_again() {
    let site = Site::new();
    let Some(mut pebble) = Pebble::start(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let config = |domains: &str| {
        let tls = acme(&pebble, state.path(), domains);
        secure(plain(setup(), site), site, &tls).pool("web", [&backend], "")
    };
    let (one, two) = (config("a.example.com"), config("a.example.com, b.example.com"));
    let proxy = Proxy::start(one);
    let before = pebble.root();
    wait_served(&proxy, "a.example.com", site.tls(), &trusting(std::slice::from_ref(&before)));
    // Another root, and no accounts.
    pebble.run();
    assert!(proxy.reload(two));
    wait_served(&proxy, "b.example.com", site.tls(), &trusting(&[pebble.root()]));
    wait_served(&proxy, "a.example.com", site.tls(), &trusting(&[before]));
    assert_eq!((succeeded(&proxy), failed(&proxy)), (2.0, 0.0), "only what was not there");
}

#[test]
fn two_that_share_the_state_order_once() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site) else { return };
    let backend = Backend::start("one");
    let state = Folder::new();
    let tls = acme(&pebble, state.path(), "a.example.com");
    let first = Proxy::start(secure(plain(setup(), site), site, &tls).pool("web", [&backend], ""));
    let keys = format!("mode: http, routes: [{{pool: web}}], {tls}");
    let second = Proxy::start(setup().listener("secure", &keys).pool("web", [&backend], ""));
    let client = trusting(&[pebble.root()]);
    wait_served(&first, "a.example.com", site.tls(), &client);
    wait_served(&second, "a.example.com", second.address("secure"), &client);
    assert_eq!((succeeded(&first), succeeded(&second)), (1.0, 0.0));
    assert_eq!(failed(&first) + failed(&second), 0.0);
}

/// A lock of the state directory, as another process has it.
fn lock(state: &Path, file: &str) -> File {
    let server = state.join(&listing(state)[0].0);
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(server.join(file));
    let file = file.expect("a temporary folder");
    assert!(evenkeel::sys::files::try_lock(&file).expect("it can be locked"), "it is held");
    file
}

/// How often the server was asked for this.
fn asked(pebble: &Pebble, path: &str) -> usize {
    pebble.lines().iter().filter(|line| line.contains(path)).count()
}

#[test]
fn nothing_is_ordered_for_a_name_that_another_process_is_at() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site) else { return };
    let (backend, state) = (Backend::start("one"), Folder::new());
    // For the folder of the server.
    let pem = self_signed("other.example.com", -1, 80);
    keep(state.path(), &pebble, "other.example.com", &pem);
    let ours = lock(state.path(), "a.example.com.lock");
    let theirs = lock(state.path(), "b.example.com.lock");
    let tls = acme(&pebble, state.path(), "a.example.com, b.example.com");
    let proxy = Proxy::start(secure(plain(setup(), site), site, &tls).pool("web", [&backend], ""));
    eventually("it waits for both", PATIENCE, || {
        proxy.events_saying("another process orders a certificate; waiting for it").len() == 2
    });
    assert_eq!((asked(&pebble, "/order-plz"), asked(&pebble, "/sign-me-up")), (0, 0));
    // One of them is brought by who is at it.
    let pem = self_signed("b.example.com", -1, 80);
    keep(state.path(), &pebble, "b.example.com", &pem);
    let brought = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    wait_served(&proxy, "b.example.com", site.tls(), &trusting(&[brought]));
    drop((ours, theirs));
    wait_served(&proxy, "a.example.com", site.tls(), &trusting(&[pebble.root()]));
    assert_eq!((succeeded(&proxy), failed(&proxy)), (1.0, 0.0));
}

#[test]
fn an_account_is_not_made_while_another_process_makes_one() {
    let site = Site::new();
    let Some(pebble) = Pebble::start(site) else { return };
    let (backend, state) = (Backend::start("one"), Folder::new());
    let config = |domain: &str| {
        let tls = acme(&pebble, state.path(), domain);
        secure(plain(setup(), site), site, &tls).pool("web", [&backend], "")
    };
    let mut first = Proxy::start(config("a.example.com"));
    let client = trusting(&[pebble.root()]);
    wait_served(&first, "a.example.com", site.tls(), &client);
    assert!(first.stop().success());
    let made = asked(&pebble, "/sign-me-up");
    assert!(made > 0);
    // As if it were not there yet.
    let account = state.path().join(&listing(state.path())[0].0).join("account.json");
    let text = std::fs::read(&account).expect("it is kept");
    std::fs::remove_file(&account).expect("it is there");
    let held = lock(state.path(), ".account.lock");
    let second = Proxy::start(config("b.example.com"));
    eventually("it waits", PATIENCE, || {
        !second.events_saying("another process makes an ACME account; waiting for it").is_empty()
    });
    std::fs::write(&account, text).expect("a temporary folder");
    drop(held);
    wait_served(&second, "b.example.com", site.tls(), &client);
    assert_eq!(asked(&pebble, "/sign-me-up"), made, "the other's account is taken");
    assert_eq!((succeeded(&second), failed(&second)), (1.0, 0.0));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_at_once() {
    let Some(pebble) = Pebble::stopped(Site::new()) else { return };
    let tls = acme(&pebble, Path::new("/proc/evenkeel"), "a.example.com");
    let keys = format!("mode: http, routes: [{{respond: {{status: 200}}}}], {tls}");
    let folder = Folder::new();
    let config = setup().listener("secure", &keys).pool("web", ["127.0.0.1:1"], "");
    folder.file("evenkeel.yaml", config.to_string());
    let run = crate::harness::evenkeel(folder.path(), &["run", "--config", "evenkeel.yaml"]);
    assert!(!run.status.success());
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("listeners.secure.tls.acme.state_dir: /proc/evenkeel"), "{said}");
}
