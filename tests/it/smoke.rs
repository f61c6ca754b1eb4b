//! The first promise: what comes in goes to a backend and comes back, whole.

use std::time::Duration;

use crate::harness::{Ask, Backend, Conn, Load, Proxy, get, setup};

#[test]
fn requests_are_shared_among_the_backends() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut proxy = Proxy::start(setup().http("web", "web").pool("web", [&a, &b], ""));
    let report = Load::on(proxy.address("web")).half_posts().run(Duration::from_millis(700));
    report.assert_flawless();
    assert!(report.from("a") > 10 && report.from("b") > 10, "{:?}", report.by_backend);
    let class = [("class", "2xx")];
    proxy.wait_metric("evenkeel_listener_requests_total", &class, report.answers as f64);
    assert!(proxy.stop().success());
}

#[test]
fn the_backend_sees_what_was_asked() {
    let a = Backend::start("a");
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&a], ""));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let answer = conn.ask(&Ask::post("/path?q=1").header("x-id", "7").body("hello")).unwrap();
    assert_eq!(answer.status, 200);
    let echo = answer.json();
    assert_eq!((&echo["method"], &echo["target"]), (&"POST".into(), &"/path?q=1".into()));
    assert_eq!((&echo["body"], &echo["backend"]), (&"hello".into(), &"a".into()));
    assert_eq!(a.ledger(), [("POST".to_owned(), "7".to_owned())]);
    assert_eq!(get(proxy.admin, "/readyz").unwrap().text(), "ready\n");
}
