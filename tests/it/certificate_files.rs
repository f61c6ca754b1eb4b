//! Files of certificates while the process runs: what pools trust and show is renewed as what listeners
//! show is, and a disk that hangs holds up nothing but what needs it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::pebble::{Pebble, Site, self_signed};
use crate::harness::{
    Answer, Authority, Backend, Folder, Hanging, Nginx, PATIENCE, Pair, Proxy, Setup, Signal,
    eventually, free_address, get, program, setup,
};

const RELOADS: &str = "evenkeel_certificate_reloads_total";
const TAKEN_UP: [(&str, &str); 1] = [("result", "success")];
const NOT_TAKEN_UP: [(&str, &str); 1] = [("result", "failure")];

/// Each request makes a connection, and resumes a session where it may.
const POOL: &str = "keepalive: {max_idle: 0}, health_check: {http: {path: /}, interval: 50ms, \
                    timeout: 5s}";

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// A backend that wants a certificate of `clients`, and says its number.
fn demanding(of: &Authority, clients: &Authority, name: &str) -> Nginx {
    let more = format!(
        "ssl_verify_client on; ssl_client_certificate FOLDER/ca.pem;
         add_header x-serial $ssl_client_serial; add_header x-which {name};"
    );
    Nginx::start(free_address(), &of.issue(&["web.internal"]), clients, &more)
}

/// Whole at once, as renewal programs do.
fn replace(folder: &Path, name: &str, text: &str) {
    let new = folder.join("new");
    std::fs::write(&new, text).expect("it is ours");
    std::fs::rename(new, folder.join(name)).expect("in one folder");
}

fn renew(folder: &Path, pair: &Pair) {
    replace(folder, "lb.pem", &pair.cert);
    replace(folder, "lb.key", &pair.key);
}

/// Does `story` while requests go on, none of which may fail.
fn under_traffic(address: SocketAddr, story: impl FnOnce(&dyn Fn())) {
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = get(address, "/");
                        let status = answer.as_ref().map(|answer| answer.status);
                        if status != Ok(200) {
                            return Err(format!("{answer:?}"));
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let traffic = || {
            let before = asked.load(Ordering::Relaxed);
            eventually("there is traffic", PATIENCE, || {
                asked.load(Ordering::Relaxed) > before + 20
                    || clients.iter().any(|client| client.is_finished())
            });
        };
        // A panic must not leave them at it without end.
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&traffic)));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no panic").expect("no request fails");
        }
        told.expect("the story ends well");
    });
}

#[test]
fn what_a_pool_trusts_and_shows_is_renewed_under_traffic() {
    if !program("nginx") {
        return;
    }
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let one = demanding(&old, &old, "one");
    let two = demanding(&new, &old, "two");
    let folder = Folder::new();
    folder.file("ca.pem", &old.pem);
    old.issue_numbered(&["lb.internal"], 5).write(&folder, "lb");
    // Inherited, as where many pools go by one file.
    let config = setup()
        .set("pool_defaults: {tls: {ca: ca.pem, server_name: web.internal, cert: lb.pem, key: lb.key}}")
        .http("web", "web")
        .pool("web", [one.address, two.address], POOL)
        .pool("more", [two.address], POOL);
    let proxy = Proxy::start_beside(folder, config);
    proxy.wait_serving("web", 1, PATIENCE);
    let address = proxy.address("web");
    let ask = || get(address, "/").expect("an answer");
    assert_eq!((header(&ask(), "x-which"), header(&ask(), "x-serial")), ("one", "05"));
    under_traffic(address, |traffic| {
        traffic();
        // Whom to trust: probes see it first.
        replace(proxy.folder(), "ca.pem", &format!("{}{}", old.pem, new.pem));
        proxy.wait_serving("web", 2, PATIENCE);
        proxy.wait_serving("more", 1, PATIENCE);
        eventually("the other one is asked", PATIENCE, || header(&ask(), "x-which") == "two");
        traffic();
        // Who we are: no session of before is resumed, in which we were somebody else.
        renew(proxy.folder(), &old.issue_numbered(&["lb.internal"], 7));
        eventually("the new one is shown", PATIENCE, || header(&ask(), "x-serial") == "07");
        for n in 0..30 {
            assert_eq!(header(&ask(), "x-serial"), "07", "request {n}");
        }
        traffic();
        assert_eq!(proxy.metric(RELOADS, &TAKEN_UP), 2.0, "two files, however many pools");
        // Whom to trust no more.
        replace(proxy.folder(), "ca.pem", &new.pem);
        proxy.wait_serving("web", 1, PATIENCE);
        for n in 0..30 {
            assert_eq!(header(&ask(), "x-which"), "two", "request {n}");
        }
    });
    assert_eq!(proxy.metric(RELOADS, &NOT_TAKEN_UP), 0.0);
    assert_eq!(proxy.reloads(), (1, 0), "all that without a signal");
}

#[test]
fn a_bad_file_of_a_pools_keeps_what_was_read_before_and_is_told_once() {
    if !program("nginx") {
        return;
    }
    let ca = Authority::new("authority");
    let nginx = demanding(&ca, &ca, "one");
    let folder = Folder::new();
    folder.file("ca.pem", &ca.pem);
    ca.issue_numbered(&["lb.internal"], 5).write(&folder, "lb");
    let tls = "tls: {ca: ca.pem, server_name: web.internal, cert: lb.pem, key: lb.key}";
    let config = setup().http("web", "web").pool("web", [nginx.address], &format!("{tls}, {POOL}"));
    let proxy = Proxy::start_beside(folder, &config);
    proxy.wait_serving("web", 1, PATIENCE);
    let address = proxy.address("web");
    under_traffic(address, |traffic| {
        let (next, other) = (ca.issue(&["lb.internal"]), ca.issue(&["lb.internal"]));
        renew(proxy.folder(), &Pair { key: other.key, ..next });
        replace(proxy.folder(), "ca.pem", "no certificate");
        proxy.wait_metric(RELOADS, &NOT_TAKEN_UP, 2.0);
        traffic();
        // A reload with other changes goes through, with warnings, and what was read before goes on.
        let more = config.to_string().replace("listeners:", "drain_timeout: 9s\nlisteners:");
        assert!(proxy.reload(&more));
        proxy.wait_metric(RELOADS, &NOT_TAKEN_UP, 4.0);
        traffic();
        let told = proxy.events_saying("not taken up; what was read before goes on");
        let mut faults: Vec<&str> =
            told.iter().filter_map(|event| event["fault"].as_str()).collect();
        faults.sort_by_key(|fault| fault.len());
        let [first, second] = faults[..] else { panic!("{told:?}") };
        assert!(first.ends_with("ca.pem: holds no certificate in PEM"), "{first}");
        assert!(second.ends_with("lb.key: the key does not belong to the certificate"), "{second}");
        replace(proxy.folder(), "ca.pem", &ca.pem);
        renew(proxy.folder(), &ca.issue_numbered(&["lb.internal"], 7));
        eventually("the new one is shown", PATIENCE, || {
            header(&get(address, "/").expect("an answer"), "x-serial") == "07"
        });
    });
}

/// That its probes and its requests go on.
#[track_caller]
fn goes_on(proxy: &Proxy, pool: &str) {
    let labels = [("pool", pool), ("result", "passed")];
    let probes = || proxy.metric("evenkeel_backend_probes_total", &labels);
    let before = probes();
    eventually("probes go on", PATIENCE, || probes() > before + 3.0);
    assert_eq!(get(proxy.address("web"), "/").map(|answer| answer.status), Ok(200));
}

const PROBED: &str = "health_check: {http: {path: /}, interval: 50ms, timeout: 5s}";

#[test]
fn files_that_hang_hold_up_neither_probes_nor_a_stop() {
    let ca = Authority::new("authority");
    let backend = Backend::start("one");
    let folder = Folder::new();
    folder.file("ca.pem", &ca.pem);
    let config = setup().http("web", "web").pool("web", [&backend], PROBED).pool(
        "secure",
        ["127.0.0.1:1"],
        "tls: {ca: ca.pem}, health_check: off",
    );
    let mut proxy = Proxy::start_beside(folder, &config);
    let path = proxy.folder().join("ca.pem");
    // First the look, and with it a reload.
    let hanging = Hanging::put(&path, &Authority::new("next").pem);
    eventually("a look hangs", PATIENCE, || hanging.is_met());
    goes_on(&proxy, "web");
    proxy.child.signal(Signal::Hangup);
    goes_on(&proxy, "web");
    assert_eq!(proxy.reloads(), (1, 0));
    drop(hanging);
    eventually("the reload ends", PATIENCE, || proxy.reloads() == (2, 0));
    // A stop waits for no disk, either.
    let hanging = Hanging::put(&path, &ca.pem);
    eventually("a look hangs", PATIENCE, || hanging.is_met());
    assert!(proxy.stop().success());
    drop(hanging);
}

#[test]
fn a_state_directory_that_hangs_holds_up_no_probes() {
    let site = Site::new();
    let Some(pebble) = Pebble::stopped(site) else { return };
    let (backend, state) = (Backend::start("one"), Folder::new());
    let (directory, root) = (pebble.directory(), pebble.ca());
    let config = |domains: &str| -> Setup {
        let acme = format!(
            "tls: {{acme: {{domains: [{domains}], directory: \"{directory}\", ca: \"{}\", \
             state_dir: \"{}\"}}}}",
            root.display(),
            state.path().display()
        );
        let bind = site.tls();
        setup()
            .listener("secure", &format!("bind: \"{bind}\", routes: [{{pool: web}}], {acme}"))
            .listener("web", &format!("bind: \"{}\", routes: [{{pool: web}}]", site.http()))
            .pool("web", [&backend], PROBED)
    };
    let server = directory.replace("https://", "").replace(':', "%3a").replace('/', "_");
    let server = state.path().join(server);
    std::fs::create_dir_all(&server).expect("a temporary folder");
    let put = |domain: &str| {
        let path = server.join(format!("{domain}.pem"));
        Hanging::put(&path, &self_signed(domain, -10, 80))
    };
    drop(put("a.example.com"));
    let proxy = Proxy::start(config("a.example.com"));
    let hanging = put("b.example.com");
    proxy.write_config(config("a.example.com, b.example.com"));
    proxy.child.signal(Signal::Hangup);
    eventually("the reload hangs", PATIENCE, || hanging.is_met());
    goes_on(&proxy, "web");
    assert_eq!(proxy.reloads(), (1, 0));
    drop(hanging);
    eventually("the reload ends", PATIENCE, || proxy.reloads() == (2, 0));
    let labels = [("listener", "secure"), ("name", "b.example.com")];
    assert!(proxy.metric("evenkeel_certificate_expiry_seconds", &labels) > 0.0, "it serves");
}
