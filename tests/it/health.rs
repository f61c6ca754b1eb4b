//! Active health checks: what is dead gets no client, what changes is told once, and no probe holds
//! anything up.

use std::time::{Duration, Instant};

use crate::harness::{Backend, PATIENCE, Proxy, Signal, eventually, get, refusing_address, setup};

const SLACK: Duration = Duration::from_millis(500);

#[test]
fn the_first_client_never_meets_a_dead_backend() {
    let (good, frozen, mut ill) =
        (Backend::start("good"), Backend::start("frozen"), Backend::start("ill"));
    frozen.freeze();
    ill.healthy(false);
    let all = [good.address, refusing_address(), frozen.address, ill.address, refusing_address()];
    let keys =
        "balance: round_robin, health_check: {http: {path: /healthz}, timeout: 500ms, fall: 3}";
    let began = Instant::now();
    let proxy = Proxy::start(setup().http("web", "web").pool("web", all, keys));
    let took = began.elapsed();
    for _ in 0..20 {
        let answer = get(proxy.address("web"), "/").expect("an answer");
        assert_eq!(answer.header("x-backend").as_deref(), Some("good"), "{}", answer.text());
    }
    assert_eq!(proxy.metric("evenkeel_pool_failures_total", &[]), 0.0);
    assert_eq!(proxy.metric("evenkeel_pool_retries_total", &[]), 0.0);
    assert!(took < Duration::from_millis(500) + 2 * SLACK, "verdicts came one by one: {took:?}");
}

#[test]
fn a_change_of_state_is_one_event_and_one_count() {
    let (a, mut b) = (Backend::start("a"), Backend::start("b"));
    let keys = "health_check: {http: {path: /healthz}, interval: 50ms, interval_unsettled: 20ms, \
                fall: 3, rise: 2}";
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&a, &b], keys));
    let address = b.address.to_string();
    let changes = |proxy: &Proxy| {
        let label = [("backend", address.as_str())];
        let events = proxy.events();
        let about = events.iter().filter(|event| event["backend"] == address.as_str());
        let told: Vec<String> =
            about.filter_map(|event| Some(event["message"].as_str()?.to_owned())).collect();
        (told, proxy.metric("evenkeel_backend_state_changes_total", &label) as usize)
    };
    let (at_start, counted) = changes(&proxy);
    assert_eq!((at_start.len(), counted), (1, 1), "{at_start:?}");
    for round in 1..=3 {
        b.healthy(false);
        proxy.wait_serving("web", 1, PATIENCE);
        let probes = proxy.metric("evenkeel_backend_probes_total", &[]);
        // Further failures are no further events.
        eventually("more probes", PATIENCE, || {
            proxy.metric("evenkeel_backend_probes_total", &[]) > probes + 8.0
        });
        b.healthy(true);
        proxy.wait_serving("web", 2, PATIENCE);
        // The log comes by a pipe of its own.
        eventually("the event is told", PATIENCE, || changes(&proxy).0.len() > 2 * round);
        let (told, counted) = changes(&proxy);
        assert_eq!(told.len(), 1 + 2 * round, "{told:?}");
        assert_eq!(counted, 1 + 2 * round);
        assert_eq!(told[told.len() - 2..], ["backend is down", "backend is up"]);
    }
    let down = proxy.events_saying("backend is down");
    let reason = down[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("503"), "{reason}");
}

#[test]
fn a_hanging_probe_holds_nothing_up() {
    let (a, mut b, frozen) = (Backend::start("a"), Backend::start("b"), Backend::start("frozen"));
    let slow = "health_check: {http: {path: /healthz}, interval: 50ms, timeout: 20s}";
    let quick = "health_check: {http: {path: /healthz}, interval: 100ms, interval_unsettled: 50ms, \
                 timeout: 200ms, fall: 2, rise: 2}";
    let config = setup().http("web", "quick").pool("quick", [&a, &b], quick);
    let config = config.pool("slow", [&frozen], slow);
    let mut proxy = Proxy::start(&config);
    frozen.freeze();
    let probing = Duration::from_millis(60);
    let hung = Instant::now();
    eventually("a probe hangs", PATIENCE, || hung.elapsed() > probing);
    b.healthy(false);
    // 110 ms + 2 x 200 ms + 55 ms
    let took = proxy.wait_serving("quick", 1, PATIENCE);
    assert!(took < Duration::from_millis(565) + SLACK, "took {took:?}");
    let began = Instant::now();
    assert!(proxy.reload(config.http("more", "quick")), "a reload");
    assert!(began.elapsed() < SLACK, "a reload took {:?}", began.elapsed());
    let began = Instant::now();
    assert!(proxy.stop().success());
    assert!(began.elapsed() < 2 * SLACK, "the stop took {:?}", began.elapsed());
}

#[test]
fn probes_stop_when_the_process_drains() {
    let a = Backend::start("a");
    let keys = "health_check: {http: {path: /healthz}, interval: 20ms}";
    let config = setup().set("drain_timeout: 10s").http("web", "web").pool("web", [&a], keys);
    let mut proxy = Proxy::start(config);
    let web = proxy.address("web");
    let probes = |proxy: &Proxy| proxy.metric("evenkeel_backend_probes_total", &[]);
    eventually("probes are made", PATIENCE, || probes(&proxy) > 3.0);
    let long = std::thread::spawn(move || {
        crate::harness::Conn::open(web)?.ask(&crate::harness::Ask::get("/").act("drip 30 50"))
    });
    eventually("the download is in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 1.0
    });
    proxy.child.signal(Signal::Terminate);
    eventually("it drains", PATIENCE, || {
        proxy.metric("evenkeel_phase", &[("phase", "draining")]) == 1.0
    });
    let (before, began) = (probes(&proxy), Instant::now());
    // Ten intervals.
    eventually("time passes", PATIENCE, || began.elapsed() > Duration::from_millis(200));
    assert_eq!(probes(&proxy), before);
    let answer = long.join().expect("no panic").expect("a whole answer");
    assert_eq!(answer.body.len(), 300);
    assert!(proxy.child.wait_exit(PATIENCE).success());
}
