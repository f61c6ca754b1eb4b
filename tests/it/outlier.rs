//! A backend that real traffic speaks against is ejected, without a health check, at no client's cost; it
//! comes back by a single request that tries it, and the last that serves is never ejected.

use std::time::{Duration, Instant};

use crate::harness::{
    Ask, Backend, Broken, Conn, Load, PATIENCE, Proxy, RawBackend, eventually, get,
    refusing_address, setup,
};

/// Short times, so that a test sees an ejection end.
const QUICK: &str = "balance: round_robin, outlier: {eject_for: 1s, eject_for_max: 8s}";

fn three() -> [Backend; 3] {
    ["a", "b", "c"].map(Backend::start)
}

fn reason(proxy: &Proxy, backend: &str, reason: &str) -> bool {
    proxy.metric("evenkeel_backend_reason", &[("backend", backend), ("reason", reason)]) == 1.0
}

fn wait_ejected(proxy: &Proxy, backend: &Backend) {
    let address = backend.address.to_string();
    eventually("it is ejected", PATIENCE, || reason(proxy, &address, "ejected"));
}

fn wait_back(proxy: &Proxy, backend: &Backend) {
    let address = backend.address.to_string();
    eventually("it is back", PATIENCE, || !reason(proxy, &address, "ejected"));
}

fn ejections(proxy: &Proxy, cause: &str) -> f64 {
    proxy.metric("evenkeel_backend_ejections_total", &[("cause", cause)])
}

/// Each way to fail is seen, without a health check; no GET fails, and it is back when it is well.
#[test]
fn one_that_fails_is_ejected_and_comes_back_when_it_is_well() {
    for act in [
        "reset",
        "close",
        "garbage",
        "status 503",
        "raw HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\ntoo short",
        "never",
    ] {
        let mut backends = three();
        let proxy = Proxy::start(
            setup()
                // Longer than a busy machine stalls: only the one that never answers is to be late.
                .set("timeouts: {response: 1s}")
                .http("web", "web")
                .pool("web", &backends, QUICK),
        );
        let load = Load::on(proxy.address("web")).start();
        load.wait_answers(30);
        backends[1].now(act);
        wait_ejected(&proxy, &backends[1]);
        let failed = || {
            proxy.metric(
                "evenkeel_backend_trials_total",
                &[("result", "failed"), ("backend", &backends[1].address.to_string())],
            )
        };
        eventually("a trial finds that it still fails", PATIENCE, || failed() >= 1.0);
        assert!(ejections(&proxy, "consecutive") >= 1.0, "{act}");
        assert!(ejections(&proxy, "trial") >= 1.0, "{act}");
        let shown = proxy.ask_admin("/readyz?verbose").text();
        assert!(shown.contains("ejected (trial"), "{shown}");
        backends[1].now("answer");
        wait_back(&proxy, &backends[1]);
        load.wait_answers(30);
        let report = load.stop();
        report.assert_no_failure_of("GET");
        let passed = proxy.metric("evenkeel_backend_trials_total", &[("result", "passed")]);
        assert!(passed >= 1.0, "{act}");
        let back = proxy.events_saying("backend is no longer ejected");
        assert_eq!(back.last().expect("an event")["reason"], "its trial went well", "{act}");
        for name in ["a", "c"] {
            let other = backends.iter().find(|backend| backend.name == name).expect("there");
            let of = [("backend", other.address.to_string())];
            let of: Vec<(&str, &str)> = of.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let ejected = proxy.metric("evenkeel_backend_ejections_total", &of);
            assert_eq!(ejected, 0.0, "{act}: {name} was always well");
        }
    }
}

#[test]
fn one_that_refuses_is_asked_five_times_and_then_left_alone() {
    let backends = three();
    let gone = refusing_address();
    let all = backends.iter().map(|b| b.address).chain([gone]);
    let config = setup().http("web", "web").pool("web", all, "balance: round_robin");
    let proxy = Proxy::start(config);
    let load = Load::on(proxy.address("web")).half_posts().start();
    eventually("it is ejected", PATIENCE, || reason(&proxy, &gone.to_string(), "ejected"));
    load.wait_answers(100);
    load.stop().assert_flawless();
    let failures = proxy.metric("evenkeel_backend_failures_total", &[("cause", "connect")]);
    assert!((5.0..=10.0).contains(&failures), "{failures}: those on their way, and no more");
}

#[test]
fn a_dead_server_that_fails_fast_attracts_nothing_even_where_it_cannot_be_ejected() {
    for balance in ["least_requests", "peak_ewma"] {
        let backends = three();
        let gone = refusing_address();
        let all = backends.iter().map(|b| b.address).chain([gone]);
        let keys = format!("balance: {balance}, outlier: off");
        let proxy = Proxy::start(setup().http("web", "web").pool("web", all, &keys));
        let load = Load::on(proxy.address("web")).clients(8, 8).start();
        load.wait_answers(400);
        load.stop().assert_flawless();
        let failures = proxy.metric("evenkeel_backend_failures_total", &[("cause", "connect")]);
        assert!(failures <= 40.0, "{balance}: {failures} of 400");
    }
}

#[test]
fn the_last_that_serves_is_never_ejected() {
    let mut backends = ["a", "b"].map(Backend::start);
    let proxy = Proxy::start(setup().http("web", "web").pool("web", &backends, QUICK));
    for backend in &mut backends {
        backend.now("status 503");
    }
    let web = proxy.address("web");
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let answer = get(web, "/").expect("an answer");
        assert_eq!(answer.status, 503);
        let serving = proxy.metric("evenkeel_pool_serving_backends", &[("pool", "web")]);
        assert!(serving >= 1.0, "nobody serves");
        assert!(!answer.text().contains("No backend"), "{}", answer.text());
    }
    assert!(ejections(&proxy, "consecutive") >= 1.0, "one of the two could be spared");
    for backend in &mut backends {
        backend.now("answer");
    }
    let load = Load::on(web).start();
    proxy.wait_serving("web", 2, PATIENCE);
    load.stop().assert_flawless();
}

#[test]
fn a_pair_fails_over_on_real_traffic_alone_and_back() {
    let mut active = Backend::start("active");
    let standby = Backend::start("standby");
    let backends = format!(
        "backends: [\"{active}\", {{address: \"{standby}\", tier: 1}}], {QUICK}, \
         failover: {{failback: automatic}}"
    );
    let proxy = Proxy::start(setup().http("web", "web").pool_of("web", &backends));
    let load = Load::on(proxy.address("web")).start();
    load.wait_answers(30);
    active.now("reset");
    wait_ejected(&proxy, &active);
    load.wait_answers(30);
    active.now("answer");
    wait_back(&proxy, &active);
    let before = active.ledger().len();
    eventually("it has its work again", PATIENCE, || active.ledger().len() > before + 20);
    let report = load.stop();
    report.assert_flawless();
    assert!(report.from("standby") > 10, "{:?}", report.by_backend);
}

/// Its probes pass and its traffic does not: nobody but a request can tell when it is well, unless none
/// comes.
#[test]
fn without_traffic_probes_that_pass_bring_it_back() {
    let mut backends = ["a", "b"].map(Backend::start);
    let check = "health_check: {http: {path: /healthz}, interval: 200ms, timeout: 200ms}";
    let keys = format!("{check}, {QUICK}");
    let proxy = Proxy::start(setup().http("web", "web").pool("web", &backends, &keys));
    backends[0].now("reset");
    let mut conn = Conn::open(proxy.address("web")).expect("it listens");
    for _ in 0..10 {
        assert_eq!(conn.ask(&Ask::new("GET", "/")).expect("an answer").status, 200);
    }
    wait_ejected(&proxy, &backends[0]);
    let ejected = Instant::now();
    wait_back(&proxy, &backends[0]);
    assert!(ejected.elapsed() > Duration::from_millis(1500), "{:?}", ejected.elapsed());
    let back = proxy.events_saying("backend is no longer ejected");
    assert_eq!(back[0]["reason"], "its time is over, and its probes pass");
}

/// One that its health check sees go down and recover, again and again.
#[test]
fn a_flapping_one_is_held_back_and_comes_back_when_it_is_quiet() {
    let mut backends = ["a", "b"].map(Backend::start);
    // It says that it is ill: nobody needs to be slow for that, on however busy a machine.
    let check = "health_check: {http: {path: /healthz}, interval: 60ms, interval_unsettled: 50ms, \
                 timeout: 5s, fall: 1, rise: 1}";
    let keys = format!("{check}, {QUICK}");
    let proxy = Proxy::start(setup().http("web", "web").pool("web", &backends, &keys));
    let load = Load::on(proxy.address("web")).start();
    let address = backends[0].address.to_string();
    let mut flaps = 0;
    while ejections(&proxy, "flapping") == 0.0 {
        assert!(flaps < 8, "{flaps} flaps, and it is not held back");
        backends[0].healthy(false);
        eventually("it is down", PATIENCE, || reason(&proxy, &address, "down"));
        backends[0].healthy(true);
        eventually("it is up", PATIENCE, || !reason(&proxy, &address, "down"));
        flaps += 1;
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(flaps >= 3, "held back after {flaps} flaps");
    assert!(reason(&proxy, &address, "ejected"));
    let said = proxy.events_saying("backend is ejected");
    let why = said[0]["reason"].as_str().expect("text").to_string();
    assert!(why.contains("changes too often"), "{why}");
    wait_back(&proxy, &backends[0]);
    load.wait_answers(20);
    load.stop().assert_flawless();
}

/// Of TCP what can be told: that nobody accepts, and that streams are reset.
#[test]
fn tcp_backends_that_refuse_or_reset_are_ejected() {
    let good = Backend::doing("good", "tcp_echo");
    let mut bad = Backend::doing("bad", "tcp_reset 1");
    let all = [good.address, bad.address];
    let keys = QUICK;
    let proxy = Proxy::start(setup().tcp("db", "db").pool("db", all, keys));
    let db = proxy.address("db");
    let echo = || -> Result<Vec<u8>, Broken> {
        let mut conn = Conn::open(db)?;
        conn.send("hello")?;
        conn.bytes(5)
    };
    let mut resets = 0;
    let address = bad.address.to_string();
    eventually("it is ejected", PATIENCE, || {
        match echo() {
            Ok(text) => assert_eq!(text, b"hello"),
            Err(_) => resets += 1,
        }
        reason(&proxy, &address, "ejected")
    });
    assert_eq!(resets, 5);
    bad.now("tcp_echo");
    eventually("it is back", PATIENCE, || {
        assert_eq!(echo().expect("nobody resets"), b"hello");
        !reason(&proxy, &address, "ejected")
    });
    bad.kill();
    eventually("it is ejected", PATIENCE, || {
        assert_eq!(echo().expect("the other one"), b"hello");
        reason(&proxy, &address, "ejected")
    });
    bad.restart();
    eventually("it is back", PATIENCE, || {
        assert_eq!(echo().expect("one of them"), b"hello");
        !reason(&proxy, &address, "ejected")
    });
}

/// A client that leaves has no fault of the backend's to tell of.
#[test]
fn clients_that_give_up_eject_nobody() {
    let backends = [RawBackend::open(), RawBackend::open()];
    let all = backends.iter().map(|backend| backend.to_string());
    let proxy = Proxy::start(setup().http("web", "web").pool("web", all, QUICK));
    for _ in 0..20 {
        let mut conn = Conn::open(proxy.address("web")).expect("it listens");
        conn.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        std::thread::sleep(Duration::from_millis(10));
        conn.reset();
    }
    proxy.wait_at_rest();
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    assert_eq!(proxy.metric("evenkeel_backend_ejections_total", &[]), 0.0);
}

#[test]
fn a_reload_forgets_no_ejection_and_off_ends_it() {
    let backends = three();
    let gone = refusing_address();
    let config = |keys: &str| {
        let all = backends.iter().map(|b| b.address).chain([gone]);
        setup().http("web", "web").pool("web", all, &format!("balance: round_robin{keys}"))
    };
    let proxy = Proxy::start(config(""));
    let web = proxy.address("web");
    let ejected = || reason(&proxy, &gone.to_string(), "ejected");
    eventually("it is ejected", PATIENCE, || {
        assert_eq!(get(web, "/").expect("an answer").status, 200);
        ejected()
    });

    assert!(proxy.reload(config(", slow_start: 1s")));
    assert!(ejected(), "a reload changes nothing of it");
    assert!(proxy.reload(config(", outlier: off")));
    assert!(!ejected());
}
