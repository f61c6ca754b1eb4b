//! An operator's commands do what they say, say what they did, and cost no request.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Ask, Backend, Conn, Load, PATIENCE, Proxy, Setup, evenkeel, eventually, free_address,
    program_under_test, setup,
};

const CHECK: &str = "health_check: {http: {path: /healthz}, interval: 100ms, \
                     interval_unsettled: 50ms, timeout: 500ms, fall: 2, rise: 2}";

/// Runs a command against this proxy.
fn operate(proxy: &Proxy, args: &[&str]) -> Output {
    evenkeel(proxy.folder(), &[args, &["--admin", &proxy.admin.to_string()]].concat())
}

/// The same, that has to succeed; what it says.
#[track_caller]
fn done(proxy: &Proxy, args: &[&str]) -> String {
    let output = operate(proxy, args);
    let said = said(&output);
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The same in the background.
fn begin(proxy: &Proxy, args: &[&str]) -> std::process::Child {
    let mut command: Command = program_under_test();
    command.current_dir(proxy.folder()).args(args).args(["--admin", &proxy.admin.to_string()]);
    command.spawn().expect("the program can be started")
}

fn backends(proxy: &Proxy, pool: &str) -> serde_json::Value {
    let ask = Ask::get(&format!("/api/v1/pools/{pool}")).host("localhost");
    Conn::open(proxy.admin).unwrap().ask(&ask).unwrap().json()
}

/// Who answers now.
fn by(proxy: &Proxy) -> String {
    let answer = Conn::open(proxy.address("web")).unwrap().ask(&Ask::get("/")).unwrap();
    assert_eq!(answer.status, 200);
    answer.json()["backend"].as_str().unwrap_or_default().to_owned()
}

fn tiers(a: SocketAddr, b: SocketAddr, keys: &str) -> Setup {
    let backends = format!("backends: [\"{a}\", {{address: \"{b}\", tier: 1}}], {CHECK}{keys}");
    setup()
        .listener("web", "bind: \"127.0.0.1:0\", routes: [{pool: web}]")
        .pool_of("web", &backends)
}

#[test]
fn a_switchover_and_a_failback_under_load_cost_no_request() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let proxy = Proxy::start(tiers(a.address, b.address, ""));
    let load = Load::on(proxy.address("web")).each(Duration::from_millis(10)).start();
    load.wait_answers(20);
    for _ in 0..5 {
        assert_eq!(by(&proxy), "a");
        let said = done(&proxy, &["switchover", "web"]);
        assert!(said.contains("pool web: traffic goes to tier 1"), "{said}");
        assert_eq!(by(&proxy), "b");
        load.wait_answers(10);
        let said = done(&proxy, &["failback", "web"]);
        assert!(said.contains("traffic goes to tier 0 from now on; it went to tier 1"), "{said}");
        load.wait_answers(10);
    }
    load.stop().assert_flawless();
    let switched = [("pool", "web"), ("cause", "switchover")];
    assert_eq!(proxy.metric("evenkeel_failovers_total", &switched), 5.0);
}

#[test]
fn a_switchover_survives_a_reload_and_is_not_made_twice() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let proxy = Proxy::start(tiers(a.address, b.address, ""));
    done(&proxy, &["switchover", "web", "--to", "1"]);
    assert!(proxy.reload(tiers(a.address, b.address, ", slow_start: 1s")));
    assert_eq!(by(&proxy), "b");
    let again = operate(&proxy, &["switchover", "web", "--to", "1"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("in use already"), "{}", said(&again));
    let nowhere = operate(&proxy, &["switchover", "web", "--to", "7"]);
    assert!(said(&nowhere).contains("no such tier; there is: 0, 1"), "{}", said(&nowhere));
    let pool = backends(&proxy, "web");
    assert_eq!((&pool["active_tier"], &pool["tiers"][1]["share"]), (&1.into(), &1.0.into()));
}

#[test]
fn a_drain_waits_for_the_last_request_and_gives_no_new_work() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let config = setup().http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&a, &b], "balance: first"));
    let address = proxy.address("web");
    let slow = thread::spawn(move || {
        Conn::open(address).unwrap().ask(&Ask::get("/").act("slow 1500")).unwrap()
    });
    proxy.wait_metric("evenkeel_backend_in_flight", &[("backend", &a.to_string())], 1.0);
    let began = Instant::now();
    let name = format!("web/{a}");
    let mut drain = begin(&proxy, &["drain", &name, "--wait"]);
    eventually("a drains", PATIENCE, || by(&proxy) == "b");
    assert!(drain.try_wait().unwrap().is_none(), "the last request is still there");
    let status = drain.wait().unwrap();
    let answer = slow.join().unwrap();
    assert_eq!((status.code(), answer.status), (Some(0), 200));
    assert_eq!(answer.json()["backend"], "a");
    assert!(began.elapsed() > Duration::from_millis(500), "it did not wait");
    let said = done(&proxy, &["enable", &name, "--wait", "--deadline", "10s"]);
    assert!(said.contains("is enabled") && said.contains("serves"), "{said}");
    assert_eq!(by(&proxy), "a");
}

#[test]
fn a_drain_closes_what_is_left_at_its_deadline() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let config = setup().http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&a, &b], "balance: first"));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::post("/").act("never").body("x").bytes()).unwrap();
    proxy.wait_metric("evenkeel_backend_in_flight", &[("backend", &a.to_string())], 1.0);
    let said = done(&proxy, &["drain", &format!("web/{a}"), "--wait", "--deadline", "300ms"]);
    assert!(said.contains("1 in progress") && said.contains("has nothing in progress"), "{said}");
    assert_eq!(conn.answer("POST").unwrap().status, 502, "told at once, not after a time-out");
}

#[test]
fn what_was_disabled_stays_so_over_a_reload() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let config = |keys: &str| {
        let listener = "bind: \"127.0.0.1:0\", routes: [{pool: web}]";
        setup().listener("web", listener).pool("web", [&a, &b], &format!("balance: first{keys}"))
    };
    let proxy = Proxy::start(config(""));
    let name = format!("web/{a}");
    assert!(done(&proxy, &["disable", &name, "--wait"]).contains("is disabled; 0 in progress"));
    assert_eq!(by(&proxy), "b");
    assert!(proxy.reload(config(", slow_start: 1s")));
    assert_eq!(by(&proxy), "b");
    // One that left the file and came back is still disabled.
    assert!(proxy.reload(config("").to_string().replace(&format!("\"{a}\", "), "")));
    assert!(proxy.reload(config("")));
    assert_eq!(by(&proxy), "b");
    assert!(done(&proxy, &["disable", &name]).contains("disabled already"));
    done(&proxy, &["enable", &name]);
    assert_eq!(by(&proxy), "a");
}

#[test]
fn what_cannot_be_done_is_said_in_a_line() {
    let a = Backend::start("a");
    let config = setup().http("web", "web").http("more", "shop");
    let proxy = Proxy::start(config.pool("web", [&a], "").pool("shop", [&a], ""));
    let line = |args: &[&str], code| {
        let output = operate(&proxy, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        said(&output)
    };
    let unknown = line(&["switchover", "wev"], 1);
    assert!(unknown.contains("there is no pool \"wev\"; there is: web, shop"), "{unknown}");
    let unknown = line(&["drain", "web/10.9.9.9:80"], 1);
    assert!(unknown.contains(&format!("there is: {a}")), "{unknown}");
    assert!(line(&["drain", "10.9.9.9:80"], 2).contains("web/10.0.0.11:8080"));
    assert!(
        line(&["drain", "web/10.0.0.1:80", "--deadline", "30"], 2)
            .contains("a duration with its unit")
    );
    assert!(line(&["switchover", "web"], 1).contains("nothing else serves"));
    // Nobody is there, and somebody else is.
    let nobody = evenkeel(Path::new("."), &["failback", "web", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("is it running"), "{}", said(&nobody));
    let other = evenkeel(Path::new("."), &["failback", "web", "--admin", &a.to_string()]);
    assert!(said(&other).contains("is not evenkeel's admin server"), "{}", said(&other));
    // The deadline of a wait that is not over.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::post("/").act("never").body("x").bytes()).unwrap();
    proxy.wait_metric("evenkeel_backend_in_flight", &[("pool", "web")], 1.0);
    let args = ["disable", &format!("web/{a}"), "--wait", "--deadline", "200ms"];
    assert!(line(&args, 3).contains("1 in progress; not waiting any longer"));
}

#[test]
fn the_admin_address_comes_from_the_configuration() {
    let a = Backend::start("a");
    let admin = free_address();
    let config = setup().set(&format!("admin: {{listen: \"{admin}\"}}")).http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&a], ""));
    let name = format!("web/{a}");
    let output = evenkeel(proxy.folder(), &["drain", &name, "--config", "evenkeel.yaml"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(backends(&proxy, "web")["tiers"][0]["backends"][0]["reasons"][0] == "draining");
}
