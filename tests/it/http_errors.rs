//! Errors that the load balancer makes itself: the right status, which side failed, the operator's
//! own pages, and one log line each.

use std::time::Duration;

use crate::harness::{Answer, Ask, Backend, Blackhole, Conn, Folder, PATIENCE, Proxy, Setup};
use crate::harness::{eventually, get, refusing_address, setup};

/// One GET of `/` with `act` at the backend.
#[track_caller]
fn answer_to(proxy: &Proxy, ask: &Ask) -> Answer {
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.ask(ask).unwrap_or_else(|why| panic!("{why} for {ask:?}"))
}

#[test]
fn an_error_says_which_side_failed() {
    let backend = Backend::start("a");
    let routes = "[{match: {path: /web}, pool: web}, {match: {path: /refuses}, pool: refuses}, \
                   {match: {path: /hole}, pool: hole}, \
                   {match: {path: /secret}, deny: [127.0.0.0/8], pool: web}]";
    let hole = Blackhole::open();
    let config = setup()
        .set("timeouts: {connect: 150ms, response: 250ms, client_body: 250ms}")
        .listener("web", &format!("routes: {routes}"))
        .pool("web", [&backend], "")
        .pool("refuses", [refusing_address()], "")
        .pool("hole", [&hole], "");
    let proxy = Proxy::start(config);
    let post = |act: &str| Ask::post("/web").act(act).body("x");
    for (ask, status, cause, says) in [
        (Ask::get("/none"), 404, "no_route", "No route matches"),
        (Ask::get("/secret"), 403, "denied", "not allowed"),
        (post("reset"), 502, "reset", "The backend closed the connection"),
        (post("close"), 502, "reset", "The backend closed the connection"),
        (post("garbage"), 502, "garbage", "The backend's answer is not valid HTTP"),
        (post("never"), 504, "timeout", "The backend did not answer in time"),
        (Ask::get("/refuses"), 502, "connect", "No connection to a backend"),
        (Ask::get("/hole"), 504, "connect_timeout", "did not accept a connection in time"),
        (
            Ask::post("/web").header("Content-Length", "9"),
            408,
            "client_timeout",
            "The client took too long",
        ),
        (Ask::get("/web%00"), 400, "bad_request", "malformed or ambiguous"),
    ] {
        let failures = [("cause", cause)];
        let before = proxy.metric("evenkeel_listener_failures_total", &failures);
        let answer = answer_to(&proxy, &ask);
        assert_eq!(answer.status, status, "{ask:?}");
        assert!(answer.text().contains(says), "{ask:?}: {}", answer.text());
        let kind = answer.header("content-type");
        assert_eq!(kind.as_deref(), Some("text/plain; charset=utf-8"));
        // Only a client's own fault costs it its connection; its body was read here.
        let clients_own = matches!(status, 400 | 408);
        assert_eq!(answer.closes(), clients_own, "{ask:?}: {:?}", answer.headers);
        proxy.wait_metric("evenkeel_listener_failures_total", &failures, before + 1.0);
        eventually("there is a line of the log", PATIENCE, || {
            let lines = proxy.events_saying("request failed");
            let line = lines.iter().rfind(|line| line["cause"] == cause);
            line.is_some_and(|line| line["status"] == status && line["listener"] == "web")
        });
    }
    proxy.wait_at_rest();
}

#[test]
fn a_pool_in_which_nothing_serves_says_when_to_come_back() {
    let check = "health_check: {tcp: {}, interval: 60s, timeout: 200ms}";
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [refusing_address()], check));
    proxy.wait_serving("web", 0, PATIENCE);
    let answer = get(proxy.address("web"), "/").unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    assert!(answer.text().contains("No backend can serve"), "{}", answer.text());
    proxy.wait_metric("evenkeel_pool_none_serving_total", &[("pool", "web")], 1.0);
}

#[test]
fn a_listener_refuses_whom_it_denies() {
    let backend = Backend::start("a");
    let config = setup()
        .listener("web", "deny: [127.0.0.0/8], routes: [{pool: web}]")
        .listener("in", "allow: [127.0.0.0/8], deny: [10.0.0.0/8], routes: [{pool: web}]")
        .listener("out", "allow: [10.0.0.0/8], routes: [{pool: web}]")
        .pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    for (listener, status) in [("web", 403), ("in", 200), ("out", 403)] {
        assert_eq!(get(proxy.address(listener), "/").unwrap().status, status, "{listener}");
    }
}

#[test]
fn the_operators_pages_stand_for_our_own_errors_and_no_others() {
    let backend = Backend::start("a");
    let folder = Folder::new();
    folder.file("route.html", "<p>route</p>");
    folder.file("listener.json", "{\"of\": \"listener\"}");
    folder.file("plain", "plain words");
    let routes = "[{match: {path: /own}, pool: web, error_pages: {502: route.html}}, \
                   {match: {path: /*, method: [GET, POST]}, pool: web}]";
    let pages = "error_pages: {502: listener.json, 404: plain}";
    let config: Setup =
        setup().listener("web", &format!("{pages}, routes: {routes}")).pool("web", [&backend], "");
    let proxy = Proxy::start_beside(folder, config);
    let post = |target: &str, act: &str| Ask::post(target).act(act).body("x");
    let (html, json) = ("text/html; charset=utf-8", "application/json");
    let plain = "text/plain; charset=utf-8";
    for (ask, status, kind, body) in [
        (post("/own", "reset"), 502, html, "<p>route</p>"),
        (post("/other", "reset"), 502, json, "{\"of\": \"listener\"}"),
        (Ask::new("PATCH", "/other"), 404, plain, "plain words"),
    ] {
        let answer = answer_to(&proxy, &ask);
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{ask:?}");
        assert_eq!(answer.header("content-type").as_deref(), Some(kind), "{ask:?}");
    }
    // What a backend says itself is passed on.
    for status in [404, 502, 503] {
        let answer = answer_to(&proxy, &Ask::get("/own").act(&format!("status {status}")));
        assert_eq!((answer.status, answer.text().as_str()), (status, "as told\n"));
    }
    // The head of a page, to whom asked for that alone.
    let config = setup().listener(
        "web",
        "error_pages: {404: page.html}, routes: [{match: {path: /x}, \
         respond: {}}]",
    );
    let folder = Folder::new();
    folder.file("page.html", "<p>none</p>");
    let proxy = Proxy::start_beside(folder, config.pool("web", [&backend], ""));
    let answer = answer_to(&proxy, &Ask::new("HEAD", "/"));
    assert_eq!((answer.status, answer.body.len()), (404, 0));
    assert_eq!(answer.header("content-length").as_deref(), Some("11"));
}

#[test]
fn a_failed_request_is_one_line_of_the_log_and_a_flood_of_them_is_not() {
    let backend = Backend::start("a");
    let routes = "[{match: {path: /web}, pool: web}]";
    let config = setup().set("workers: 1").listener("web", &format!("routes: {routes}"));
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let ask = Ask::post("/web").act("reset").body("x");
    assert_eq!(answer_to(&proxy, &ask).status, 502);
    let lines = || proxy.events_saying("request failed");
    eventually("there is a line", PATIENCE, || !lines().is_empty());
    let [line] = &lines()[..] else { panic!("not one line: {:#?}", lines()) };
    for (key, value) in [
        ("listener", "web"),
        ("method", "POST"),
        ("path", "/web"),
        ("pool", "web"),
        ("cause", "reset"),
    ] {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!((&line["status"], &line["attempts"]), (&502.into(), &1.into()), "{line}");
    assert!(line["client"].as_str().is_some_and(|client| client.starts_with("127.")), "{line}");

    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for _ in 0..200 {
        assert_eq!(conn.ask(&Ask::get("/none")).unwrap().status, 404);
    }
    let flood = || lines().into_iter().filter(|line| line["cause"] == "no_route");
    // Whatever second the next one falls in, it tells how many were held back.
    eventually("those that were held back are told of", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(conn.ask(&Ask::get("/none")).unwrap().status, 404);
        flood().any(|line| line["held_back"].as_u64().is_some_and(|held| held > 100))
    });
    assert!(flood().count() <= 30, "{} lines", flood().count());
}
