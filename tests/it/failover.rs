//! A backend that fails, in whatever way, costs no client an answer where a retry was safe.
//!
//! Every answer under load is checked. A GET never fails while another backend serves; a POST is never
//! executed twice, and fails only where a backend may have seen it.

use std::time::Duration;

use crate::harness::{
    Ask, Backend, Conn, Load, PATIENCE, Proxy, Report, Setup, evenkeel, eventually, executed_twice,
    get, refusing_address, setup,
};

const CHECK: &str = "health_check: {http: {path: /healthz}, interval: 250ms, \
                     interval_unsettled: 100ms, timeout: 250ms, fall: 3, rise: 2}";

/// What the machine may add to a time that was promised.
const SLACK: Duration = Duration::from_millis(500);

fn three() -> [Backend; 3] {
    ["a", "b", "c"].map(Backend::start)
}

fn checked(backends: &[Backend]) -> Setup {
    setup().set("timeouts: {response: 400ms}").http("web", "web").pool("web", backends, CHECK)
}

/// The same without a health check: only what happens to requests tells of a failure.
fn unchecked(backends: &[Backend]) -> Setup {
    setup().set("timeouts: {response: 400ms}").http("web", "web").pool("web", backends, "")
}

/// What holds whatever fails: see this file's first lines.
#[track_caller]
fn assert_safe(report: &Report, backends: &[Backend]) {
    report.assert_no_failure_of("GET");
    assert_eq!(executed_twice("POST", backends), [""; 0]);
}

/// Failed POSTs are those that one of these backends saw, and no others.
#[track_caller]
fn assert_failures_were_seen(report: &Report, backends: &[Backend]) {
    let seen: Vec<String> = backends.iter().flat_map(Backend::ledger).map(|(_, id)| id).collect();
    let unseen: Vec<_> = report.failures.iter().filter(|f| !seen.contains(&f.id)).collect();
    assert!(unseen.is_empty(), "failed, though no backend saw them: {unseen:#?}");
}

/// Failed POSTs are those that were on their way to a backend as it failed, and no later ones.
#[track_caller]
fn assert_failures_end(report: &Report, from: Duration, until: Duration) {
    let late: Vec<_> = report.failures.iter().filter(|f| f.at < from || f.at > until).collect();
    assert!(late.is_empty(), "failed outside of {from:?} to {until:?}: {late:#?}");
}

#[test]
fn a_killed_backend_costs_no_answer_and_comes_back() {
    let mut backends = three();
    let proxy = Proxy::start(checked(&backends));
    let load = Load::on(proxy.address("web")).half_posts().start();
    load.wait_answers(60);
    let killed = load.since_start();
    backends[1].kill();
    proxy.wait_serving("web", 2, PATIENCE);
    load.wait_answers(60);
    let before = backends[1].ledger().len();
    backends[1].restart();
    proxy.wait_serving("web", 3, PATIENCE);
    eventually("it gets work again", PATIENCE, || backends[1].ledger().len() > before + 10);
    let report = load.stop();
    assert_safe(&report, &backends);
    // One connection that was refused is retried for any method: only what was in progress is lost.
    assert_failures_end(&report, killed, killed + SLACK);
    assert!(report.failures.len() <= 6, "more than one of each client: {:#?}", report.failures);
}

#[test]
fn a_frozen_backend_is_taken_out_as_promised_and_comes_back() {
    let backends = three();
    let config = checked(&backends);
    let proxy = Proxy::start(&config);
    let promised = promised_detection(&proxy);
    let load = Load::on(proxy.address("web")).half_posts().start();
    load.wait_answers(60);
    let frozen = load.since_start();
    backends[1].freeze();
    let took = proxy.wait_serving("web", 2, PATIENCE);
    assert!(took <= promised + SLACK, "took {took:?}, promised {promised:?}");
    load.wait_answers(60);
    backends[1].thaw();
    // Two good probes at most two intervals apart; the frozen one may answer a probe late.
    let took = proxy.wait_serving("web", 3, PATIENCE);
    assert!(took <= Duration::from_secs(1) + SLACK, "back after {took:?}");
    let report = load.stop();
    assert_safe(&report, &backends);
    let response = Duration::from_millis(400);
    assert_failures_end(&report, frozen, frozen + promised + response + 2 * SLACK);
    assert!(report.slowest < 2 * response + 2 * SLACK, "slowest {:?}", report.slowest);
    let events = proxy.events_saying("backend is down");
    assert_eq!(events.len(), 1, "one event for one change: {events:#?}");
}

/// What `check` says of the pool.
fn promised_detection(proxy: &Proxy) -> Duration {
    let out = evenkeel(proxy.folder(), &["check", "--format", "json", "evenkeel.yaml"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let seconds = report["files"][0]["pools"][0]["worst_detection_seconds"].as_f64();
    Duration::from_secs_f64(seconds.expect("the pool has a health check"))
}

/// A backend whose health check stays good, and whose answers are not. That it would be ejected is not
/// what makes it so.
#[test]
fn a_backend_that_misbehaves_costs_no_get() {
    for act in ["reset", "close", "garbage", "raw HTTP/1.1 2x0 OK\\r\\n\\r\\n"] {
        let mut backends = three();
        backends[1].now(act);
        let keys = format!("balance: round_robin, outlier: off, {CHECK}");
        let config = setup().http("web", "web").pool("web", &backends, &keys);
        let proxy = Proxy::start(config.set("timeouts: {response: 400ms}"));
        let load = Load::on(proxy.address("web")).half_posts().start();
        load.wait_answers(150);
        let report = load.stop();
        assert_safe(&report, &backends);
        assert_failures_were_seen(&report, &backends[1..2]);
        let failed = proxy.metric("evenkeel_backend_failures_total", &[]);
        assert!(failed > 5.0, "{act}: the backend was hardly asked: {failed}");
    }
}

#[test]
fn a_backend_that_never_answers_costs_a_get_no_more_than_the_time_out() {
    let mut backends = three();
    backends[1].now("never");
    let proxy = Proxy::start(unchecked(&backends));
    let load = Load::on(proxy.address("web")).clients(6, 3).start();
    load.wait_answers(100);
    let report = load.stop();
    assert_safe(&report, &backends);
    report.assert_flawless();
    let timeouts = proxy.metric("evenkeel_pool_failures_total", &[("cause", "timeout")]);
    assert!(timeouts > 0.0);
}

#[test]
fn a_refused_connection_costs_nothing_whatever_the_method() {
    let backends = three();
    let refusing = [refusing_address(), refusing_address()];
    let all = backends.iter().map(|b| b.address).chain(refusing);
    let keys = "balance: round_robin, outlier: off";
    let proxy = Proxy::start(setup().http("web", "web").pool("web", all, keys));
    let load = Load::on(proxy.address("web")).half_posts().start();
    load.wait_answers(200);
    let report = load.stop();
    assert_safe(&report, &backends);
    report.assert_flawless();
    assert!(proxy.metric("evenkeel_pool_retries_total", &[("cause", "connect")]) > 50.0);
}

#[test]
fn connections_closed_at_once_cost_nothing_whatever_the_method() {
    let backends = ["a", "b"].map(|name| Backend::doing(name, "close_after"));
    let proxy = Proxy::start(unchecked(&backends));
    let load = Load::on(proxy.address("web")).half_posts().each(Duration::from_millis(20)).start();
    load.wait_answers(500);
    let report = load.stop();
    assert_safe(&report, &backends);
    report.assert_flawless();
}

/// The close may cross a request on its way: then only what is idempotent can go again.
#[test]
fn connections_closed_while_idle_cost_no_get() {
    let backends = ["a", "b"].map(|name| Backend::doing(name, "close_idle 25"));
    let proxy = Proxy::start(unchecked(&backends));
    let load = Load::on(proxy.address("web")).half_posts().each(Duration::from_millis(26)).start();
    load.wait_answers(500);
    let report = load.stop();
    assert_safe(&report, &backends);
    let posts = report.failures.len();
    assert!(
        posts <= 5,
        "of {} answers {posts} POSTs failed: {:?}",
        report.answers,
        report.failures
    );
}

#[test]
fn a_flapping_backend_costs_no_get() {
    let mut backends = three();
    let proxy = Proxy::start(checked(&backends));
    let load = Load::on(proxy.address("web")).half_posts().start();
    for _ in 0..6 {
        load.wait_answers(20);
        backends[2].kill();
        load.wait_answers(20);
        backends[2].restart();
    }
    let report = load.stop();
    assert_safe(&report, &backends);
}

#[test]
fn backends_restarted_one_after_the_other_cost_no_get() {
    let mut backends = three();
    let proxy = Proxy::start(checked(&backends));
    let load = Load::on(proxy.address("web")).half_posts().start();
    for backend in &mut backends {
        load.wait_answers(20);
        backend.kill();
        proxy.wait_serving("web", 2, PATIENCE);
        backend.restart();
        proxy.wait_serving("web", 3, PATIENCE);
    }
    let report = load.stop();
    assert_safe(&report, &backends);
    for backend in &backends {
        assert!(report.from(&backend.name) > 5, "{:?}", report.by_backend);
    }
}

/// Nothing has told yet that the tier is gone, neither a health check nor an ejection.
#[test]
fn a_tier_that_dies_as_a_whole_costs_no_get() {
    let mut active = three();
    let standby = Backend::start("s");
    let list: Vec<String> = active.iter().map(|b| format!("\"{}\"", b.address)).collect();
    let keys = format!(
        "backends: [{}, {{address: \"{}\", tier: 1}}], outlier: off",
        list.join(", "),
        standby.address
    );
    let proxy = Proxy::start(setup().http("web", "web").pool_of("web", &keys));
    let load = Load::on(proxy.address("web")).half_posts().start();
    load.wait_answers(60);
    assert_eq!(standby.ledger().len(), 0);
    active.iter_mut().for_each(Backend::kill);
    load.wait_answers(300);
    active.iter_mut().for_each(Backend::restart);
    load.wait_answers(60);
    // Lying instead of gone: each says that it cannot, and one has to be asked after the other.
    active.iter_mut().for_each(|backend| backend.now("status 503"));
    load.wait_answers(200);
    active.iter_mut().for_each(|backend| backend.now("answer"));
    let report = load.stop();
    report.assert_no_failure_of("GET");
    let all: Vec<Backend> = active.into_iter().chain([standby]).collect();
    assert_eq!(executed_twice("POST", &all), [""; 0]);
    assert!(report.from("s") > 300, "{:?}", report.by_backend);
}

#[test]
fn when_all_are_gone_clients_hear_so_at_once_and_later_are_served_again() {
    let mut backends = three();
    let proxy = Proxy::start(checked(&backends));
    let web = proxy.address("web");
    backends.iter_mut().for_each(Backend::kill);
    proxy.wait_serving("web", 0, PATIENCE);
    let answer = get(web, "/").expect("an answer of the load balancer's own");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("No backend"), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    backends[0].restart();
    proxy.wait_serving("web", 1, PATIENCE);
    Load::on(web).half_posts().run(Duration::from_millis(300)).assert_flawless();
}

#[test]
fn a_put_goes_again_with_its_whole_body() {
    let mut backends = three();
    backends[0].now("reset");
    let config = setup().http("web", "web").pool("web", &backends, "balance: round_robin");
    let proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).expect("it listens");
    for number in 0..9 {
        let body = format!("{number} ").repeat(4000);
        let answer = conn.ask(&Ask::new("PUT", "/file").body(&body)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["body"], body.as_str());
    }
    assert!(proxy.metric("evenkeel_pool_retries_total", &[("cause", "reset")]) >= 2.0);
}
