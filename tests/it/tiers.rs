//! Tiers take over from one another as promised: at once when nothing of the active one serves, back
//! after a stable time, by an operator's word where that is asked for; an exclusive pool never has
//! connections to two of its backends; and connections on what was lost end where that is configured.

use std::fmt::Write;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{
    Answer, Ask, Backend, Broken, Conn, Load, PATIENCE, Proxy, Setup, eventually, executed_twice,
    get, setup,
};

const CHECK: &str = "health_check: {http: {path: /healthz}, interval: 100ms, \
                     interval_unsettled: 50ms, timeout: 250ms, fall: 2, rise: 2}";

/// What the machine may add to a time that was promised.
const SLACK: Duration = Duration::from_millis(700);

/// These backends in tiers 0, 1 and so on, with further keys.
fn tiers(tiers: &[&[&Backend]], keys: &str) -> Setup {
    let mut list = String::new();
    for (tier, backends) in tiers.iter().enumerate() {
        for backend in *backends {
            write!(list, "{{address: \"{backend}\", tier: {tier}}}, ").expect("a String");
        }
    }
    let keys = format!("backends: [{list}], {CHECK}, {keys}");
    setup().http("web", "web").tcp("raw", "web").pool_of("web", &keys)
}

fn moves(proxy: &Proxy, cause: &str) -> f64 {
    proxy.metric("evenkeel_failovers_total", &[("cause", cause)])
}

#[track_caller]
fn wait_tier(proxy: &Proxy, tier: f64) {
    eventually(&format!("tier {tier} is in use"), PATIENCE, || {
        proxy.metric("evenkeel_pool_active_tier", &[("pool", "web")]) == tier
    });
}

/// Asks in a thread of its own, and waits until the request is at a backend.
fn in_progress(proxy: &Proxy, to: SocketAddr, ask: Ask) -> JoinHandle<Result<Answer, Broken>> {
    let before = proxy.metric("evenkeel_backend_in_flight", &[]);
    let asking = std::thread::spawn(move || Conn::open(to)?.ask(&ask));
    eventually("the request is in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) > before
    });
    asking
}

/// A stream through the TCP listener on which its backend sends and sends.
fn stream(proxy: &Proxy) -> Conn {
    let mut conn = Conn::open(proxy.address("raw")).expect("it accepts");
    conn.send(Ask::get("/").act("drip 10000 10").bytes()).expect("it takes a request");
    assert_eq!(conn.head().expect("the head of an answer").status, 200);
    conn
}

#[test]
fn a_tier_that_dies_costs_no_answer_and_comes_back_after_a_stable_time() {
    let [mut a, mut b, c] = ["a", "b", "c"].map(Backend::start);
    let config = tiers(&[&[&a, &b], &[&c]], "failover: {failback: {after: 1500ms}}");
    let proxy = Proxy::start(config);
    let load = Load::on(proxy.address("web")).start();
    load.wait_answers(60);
    a.kill();
    load.wait_answers(20);
    assert_eq!(moves(&proxy, "failover"), 0.0, "half a tier is left");
    b.kill();
    wait_tier(&proxy, 1.0);
    load.wait_answers(40);
    let verbose = proxy.ask_admin("/readyz?verbose").text();
    assert!(verbose.contains("tier 1, in use: weight 1 of 1 serves, 100.0 % of"), "{verbose}");
    a.restart();
    proxy.wait_serving("web", 2, PATIENCE);
    let back = Instant::now();
    wait_tier(&proxy, 0.0);
    let stable = back.elapsed();
    let promised = Duration::from_millis(1500);
    assert!(stable > promised - SLACK && stable < promised + SLACK, "back after {stable:?}");
    load.wait_answers(40);
    let report = load.stop();
    report.assert_no_failure_of("GET");
    assert!(report.from("c") > 0, "{report:?}");
    assert_eq!((moves(&proxy, "failover"), moves(&proxy, "failback")), (1.0, 1.0));
    let event = &proxy.events_saying("failover")[0];
    assert_eq!((&event["pool"], &event["from"]), (&"web".into(), &"tier 0".into()), "{event}");
    assert_eq!(event["weights"], "tier 0: 0 of 2, tier 1: 1 of 1", "{event}");
    assert_eq!(proxy.events_saying("failback").len(), 1);
}

/// Killed tier by tier, and back in the same order, under GETs and POSTs with an id each.
#[test]
fn tier_by_tier_and_back_costs_no_get_and_executes_no_post_twice() {
    let [mut a, mut b, mut c, d] = ["a", "b", "c", "d"].map(Backend::start);
    let keys = "failover: {failback: {after: 500ms}}, outlier: {flap_damping: false}";
    let proxy = Proxy::start(tiers(&[&[&a, &b], &[&c], &[&d]], keys));
    let load = Load::on(proxy.address("web")).half_posts().start();
    load.wait_answers(60);
    a.kill();
    b.kill();
    wait_tier(&proxy, 1.0);
    load.wait_answers(40);
    c.kill();
    wait_tier(&proxy, 2.0);
    load.wait_answers(40);
    c.restart();
    wait_tier(&proxy, 1.0);
    load.wait_answers(40);
    b.restart();
    wait_tier(&proxy, 0.0);
    load.wait_answers(40);
    let report = load.stop();
    report.assert_no_failure_of("GET");
    assert!(report.from("c") > 0 && report.from("d") > 0, "{report:?}");
    assert_eq!(executed_twice("POST", [&a, &b, &c, &d]), [""; 0]);
    assert_eq!((moves(&proxy, "failover"), moves(&proxy, "failback")), (2.0, 2.0));
}

#[test]
fn a_flap_fails_nothing_back() {
    let [mut a, b] = ["a", "b"].map(Backend::start);
    // What is damped stays out for longer: another file's matter.
    let keys = "failover: {failback: {after: 2s}}, outlier: {flap_damping: false}";
    let proxy = Proxy::start(tiers(&[&[&a], &[&b]], keys));
    a.healthy(false);
    wait_tier(&proxy, 1.0);
    for _ in 0..3 {
        a.healthy(true);
        proxy.wait_serving("web", 2, PATIENCE);
        assert_eq!(get(proxy.address("web"), "/").expect("an answer").json()["backend"], "b");
        a.healthy(false);
        proxy.wait_serving("web", 1, PATIENCE);
    }
    assert_eq!((moves(&proxy, "failover"), moves(&proxy, "failback")), (1.0, 0.0));
    a.healthy(true);
    wait_tier(&proxy, 0.0);
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").json()["backend"], "a");
}

#[test]
fn manual_is_alarmed_and_not_overridden() {
    let [mut a, b] = ["a", "b"].map(Backend::start);
    let proxy = Proxy::start(tiers(&[&[&a], &[&b]], "failover: {mode: manual}"));
    a.healthy(false);
    let alarm = [("pool", "web"), ("reason", "chosen_dead")];
    proxy.wait_metric("evenkeel_pool_alarm", &alarm, 1.0);
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").status, 503);
    assert_eq!(moves(&proxy, "failover"), 0.0);
    a.healthy(true);
    proxy.wait_metric("evenkeel_pool_alarm", &alarm, 0.0);
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").json()["backend"], "a");
    assert_eq!(proxy.events_saying("alarm").len(), 1);
}

#[test]
fn an_exclusive_pool_has_no_connection_to_the_former_when_the_next_is_used() {
    let [mut a, mut b] = ["a", "b"].map(Backend::start);
    b.healthy(false);
    let keys = "failover: {exclusive: true}, queue: {size: 100, timeout: 5s}";
    let proxy = Proxy::start(tiers(&[&[&a, &b]], keys));
    let web = proxy.address("web");
    let mut streams: Vec<Conn> = (0..8).map(|_| stream(&proxy)).collect();
    a.now("never");
    let asking: Vec<_> = (0..4).map(|_| in_progress(&proxy, web, Ask::get("/"))).collect();
    // A second one that claims to be the one changes nothing.
    b.healthy(true);
    let alarm = [("pool", "web"), ("reason", "conflict")];
    proxy.wait_metric("evenkeel_pool_alarm", &alarm, 1.0);
    assert_eq!(moves(&proxy, "failover"), 0.0);
    let a_open = [("backend", &*a.to_string())].map(|(key, value)| (key, value.to_owned()));
    let a_open: Vec<_> = a_open.iter().map(|(key, value)| (*key, value.as_str())).collect();
    assert!(proxy.metric("evenkeel_backend_open_connections", &a_open) >= 12.0);
    a.healthy(false);
    for asking in asking {
        let answer = asking.join().expect("no panic").expect("an answer");
        assert_eq!((answer.status, &answer.json()["backend"]), (200, &"b".into()));
    }
    for stream in &mut streams {
        assert_eq!(stream.rest().unwrap_err(), Broken::Reset);
    }
    proxy.wait_metric("evenkeel_backend_open_connections", &a_open, 0.0);
    let text = proxy.ask_admin("/readyz?verbose").text();
    assert!(text.contains(&format!("all of it to {b}")), "{text}");
    assert_eq!(moves(&proxy, "failover"), 1.0);
    assert_eq!(proxy.metric("evenkeel_backend_failures_total", &[]), 0.0, "nobody failed");
    // The former claims it again: the present one stays, and nothing goes to the other.
    a.now("answer");
    a.healthy(true);
    proxy.wait_metric("evenkeel_pool_alarm", &alarm, 1.0);
    for _ in 0..10 {
        assert_eq!(get(web, "/").expect("an answer").json()["backend"], "b");
    }
    assert_eq!(proxy.metric("evenkeel_backend_open_connections", &a_open), 0.0);
}

#[test]
fn what_is_in_progress_on_a_lost_backend_ends_where_that_is_asked_for() {
    for (on_down, closes) in [("close", true), ("keep", false), ("{close_after: 1s}", true)] {
        let [mut a, b] = ["a", "b"].map(Backend::start);
        let keys = format!("balance: first, failover: {{on_down: {on_down}}}, outlier: off");
        let proxy = Proxy::start(tiers(&[&[&a, &b]], &keys));
        let mut stream = stream(&proxy);
        a.now("never");
        let asking = in_progress(&proxy, proxy.address("web"), Ask::get("/"));
        let posting = in_progress(&proxy, proxy.address("web"), Ask::post("/").body("once"));
        let lost = Instant::now();
        a.healthy(false);
        proxy.wait_serving("web", 1, PATIENCE);
        if closes {
            let answer = asking.join().expect("no panic").expect("an answer");
            assert_eq!((answer.status, &answer.json()["backend"]), (200, &"b".into()));
            assert_eq!(posting.join().expect("no panic").expect("an answer").status, 502);
            assert_eq!(stream.rest().unwrap_err(), Broken::Reset);
            let took = lost.elapsed();
            let delay = Duration::from_secs(u64::from(on_down != "close"));
            assert!(took > delay && took < delay + 2 * SLACK, "{on_down}: {took:?}");
            proxy.wait_at_rest();
        } else {
            assert_eq!(stream.bytes(100).expect("it goes on").len(), 100);
            assert!(!asking.is_finished() && !posting.is_finished());
        }
    }
}

#[test]
fn streams_on_the_standby_end_at_failback_where_that_is_asked_for() {
    let [mut a, b] = ["a", "b"].map(Backend::start);
    let keys = "failover: {failback: {after: 300ms}, on_failback: close}";
    let proxy = Proxy::start(tiers(&[&[&a], &[&b]], keys));
    a.healthy(false);
    wait_tier(&proxy, 1.0);
    let mut stream = stream(&proxy);
    a.healthy(true);
    wait_tier(&proxy, 0.0);
    assert_eq!(stream.rest().unwrap_err(), Broken::Reset);
    proxy.wait_at_rest();
    assert!(proxy.metric("evenkeel_listener_failures_total", &[("cause", "released")]) > 0.0);
}

#[test]
fn a_floor_survives_a_reload_and_a_tier_that_goes_is_followed() {
    let [mut a, b, c] = ["a", "b", "c"].map(Backend::start);
    let config = |tiers: &[(&Backend, u8)]| {
        let one =
            |(backend, tier): &(&Backend, u8)| format!("{{address: \"{backend}\", tier: {tier}}}");
        let list: Vec<String> = tiers.iter().map(one).collect();
        let keys =
            format!("backends: [{}], {CHECK}, failover: {{failback: manual}}", list.join(", "));
        let web = "bind: \"127.0.0.1:0\", mode: http, routes: [{pool: web}]";
        setup().listener("web", web).pool_of("web", &keys)
    };
    let proxy = Proxy::start(config(&[(&a, 0), (&b, 1), (&c, 2)]));
    a.healthy(false);
    wait_tier(&proxy, 1.0);
    a.healthy(true);
    proxy.wait_serving("web", 3, PATIENCE);
    assert!(proxy.reload(config(&[(&a, 0), (&b, 1), (&c, 7)])));
    wait_tier(&proxy, 1.0);
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").json()["backend"], "b");
    assert!(proxy.reload(config(&[(&a, 0), (&c, 7)])));
    wait_tier(&proxy, 7.0);
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").json()["backend"], "c");
    assert_eq!((moves(&proxy, "reload"), moves(&proxy, "failback")), (1.0, 0.0));
}
