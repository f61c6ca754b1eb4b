//! gRPC, from a client of another make to a server of another make: calls of every kind, their deadlines,
//! the errors that we make ourselves, and health checks.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Child, PATIENCE, Proxy, eventually, refusing_address, setup, skip};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/grpc");

/// A Python that has gRPC: the one that is called first, or the system's.
fn python() -> Option<&'static str> {
    let has_grpc = |python: &&str| {
        Command::new(python)
            .args(["-c", "import grpc"])
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_grpc);
    if found.is_none() {
        skip("no python3 has the module grpc (Debian: python3-grpcio)");
    }
    found
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(python: &str) -> Server {
        let mut command = Command::new(python);
        let mut child = Child::start("grpc server", command.arg(format!("{FOLDER}/server.py")));
        let read = |line: &str| line.strip_prefix("@listening ").map(str::to_owned);
        let address = child.wait_line(0, PATIENCE, read);
        Server { child, address }
    }

    fn tell(&mut self, word: &str) {
        use std::io::Write;
        writeln!(self.child.stdin(), "{word}").expect("it listens");
    }
}

/// What the client prints, a line for each call.
fn calls(python: &str, proxy: &Proxy, calls: &[&str]) -> Vec<String> {
    let mut command = Command::new(python);
    command.arg(format!("{FOLDER}/client.py")).arg(proxy.address("web").to_string());
    let out = command.args(calls).output().expect("it starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn calls_of_every_kind_go_through_and_errors_come_back() {
    let Some(python) = python() else { return };
    let server = Server::start(python);
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [&server.address], "protocol: h2c"));
    let kinds = ["unary=hi", "server_stream=500", "client_stream=100", "both=50"];
    let answers = calls(python, &proxy, &[&kinds[..], &["unary=fail 5", "missing=x"]].concat());
    let expected = [
        "ok echo hi yes 1",
        "ok 500 last item 499",
        "ok 1000000 bytes",
        "ok 50 last echo 49",
        "error NOT_FOUND as it was told",
        "error UNIMPLEMENTED Method not found!",
    ];
    assert_eq!(answers, expected);
    proxy.wait_at_rest();
    // All of it on one connection.
    proxy.wait_metric("evenkeel_backend_connections_total", &[], 1.0);
}

#[test]
fn a_deadline_holds_and_what_we_answer_is_a_status_of_grpc() {
    let Some(python) = python() else { return };
    let server = Server::start(python);
    let dead = refusing_address();
    let config = setup().set("workers: 1").http("web", "web");
    let keys = "protocol: h2c, timeouts: {request: 700ms}";
    let proxy = Proxy::start(config.pool("web", [&server.address], keys));
    // Ours is the shorter one, then the client's; the client tells the same of both.
    let answers = calls(python, &proxy, &["unary=slow@10", "unary=slow@0.3", "unary=hi"]);
    assert!(answers[0].starts_with("error DEADLINE_EXCEEDED"), "{answers:?}");
    assert!(answers[1].starts_with("error DEADLINE_EXCEEDED"), "{answers:?}");
    // Neither was sent twice.
    assert_eq!(answers[2], "ok echo hi yes 3");
    let config = setup().set("workers: 1").http("web", "web");
    let proxy = Proxy::start(config.pool("web", [dead], "protocol: h2c"));
    let answers = calls(python, &proxy, &["unary=hi@10"]);
    assert_eq!(answers, ["error UNAVAILABLE No connection to a backend could be made."]);
    let routes = "mode: http, routes: [{match: {path: /nothing}, pool: web}]";
    let config = setup().set("workers: 1").listener("web", routes);
    let proxy = Proxy::start(config.pool("web", [&server.address], "protocol: h2c"));
    let answers = calls(python, &proxy, &["unary=hi"]);
    assert_eq!(answers, ["error UNIMPLEMENTED No route matches this request."]);
}

#[test]
fn a_health_check_asks_the_servers_own_health_service() {
    let Some(python) = python() else { return };
    let mut server = Server::start(python);
    let check = "interval: 50ms, interval_unsettled: 50ms, timeout: 5s, fall: 1, rise: 1";
    let of = |service: &str| {
        format!("protocol: h2c, health_check: {{grpc: {{service: \"{service}\"}}, {check}}}")
    };
    let config = setup().set("workers: 1").http("web", "whole");
    let config = config.pool("whole", [&server.address], &of(""));
    let config = config.pool("echo", [&server.address], &of("test.Echo"));
    let proxy = Proxy::start(config.pool("other", [&server.address], &of("test.Other")));
    proxy.wait_serving("whole", 1, PATIENCE);
    proxy.wait_serving("echo", 1, PATIENCE);
    proxy.wait_serving("other", 0, PATIENCE);
    server.tell("ill");
    proxy.wait_serving("whole", 0, PATIENCE);
    proxy.wait_serving("echo", 1, PATIENCE);
    let why = |pool: &str, why: &str| {
        proxy.metric("evenkeel_backend_probe_failures_total", &[("pool", pool), ("why", why)])
    };
    eventually("it is told why", Duration::from_secs(5), || {
        why("whole", "not_serving") >= 1.0 && why("other", "server_error") >= 1.0
    });
    server.tell("healthy");
    proxy.wait_serving("whole", 1, PATIENCE);
}
