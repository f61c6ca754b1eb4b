//! The test kit beside the checkout, which knows nothing of us: an open-loop client, a slow-client
//! probe and the VTC cases.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Backend, Folder, PATIENCE, Proxy, program, setup, skip};

/// The kit's folder, if it is there.
fn kit() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/testkit");
    if folder.is_dir() {
        return Some(folder);
    }
    skip("there is no ../shared/testkit beside the checkout");
    None
}

/// What a command prints.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let out = command.output().expect("it can be started");
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{text}");
    text
}

#[test]
fn the_open_loop_client_sees_no_failure_while_a_backend_dies() {
    let Some(kit) = kit() else { return };
    if !program("python3") {
        return;
    }
    let check = "health_check: {http: {path: /healthz}, interval: 250ms, timeout: 250ms, fall: 2}";
    for arguments in [&[][..], &["--ka", "8"]] {
        let mut backends = ["a", "b", "c"].map(Backend::start);
        let proxy = Proxy::start(setup().http("web", "web").pool("web", &backends, check));
        let client = kit.join("ol.py");
        let mut command = Command::new("python3");
        command.arg(client).arg(proxy.address("web").to_string()).args(["3", "100"]);
        command.args(arguments);
        let client = std::thread::spawn(move || printed(&mut command));
        let asked = || proxy.metric("evenkeel_pool_requests_total", &[]);
        crate::harness::eventually("the load begins", PATIENCE, || asked() > 60.0);
        backends[0].kill();
        let text = client.join().expect("no panic");
        assert!(text.contains("sent 300 ok 300 fail 0"), "{text}");
        proxy.wait_serving("web", 2, PATIENCE);
    }
}

#[test]
fn slow_clients_are_put_up_with_no_longer_than_configured() {
    let Some(kit) = kit() else { return };
    if !program("python3") {
        return;
    }
    let a = Backend::start("a");
    let timeouts = "timeouts: {client_header: 1s, client_idle: 2s, client_body: 400ms}";
    let proxy = Proxy::start(setup().set(timeouts).http("web", "web").pool("web", [&a], ""));
    let mut command = Command::new("python3");
    let address = proxy.address("web").to_string();
    let text = printed(command.arg(kit.join("ttl.py")).arg(address).arg("8"));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= 12, "{text}");
    for line in lines {
        let (kind, took) = line.split_once(' ').expect("a name and a time");
        let took = took.trim().split(' ').next().unwrap_or_default();
        // The longest is an idle connection, and the probe looks but once a second.
        let seconds: f64 = took.parse().unwrap_or(f64::INFINITY);
        assert!(seconds <= 4.5, "{kind} was put up with for {took} s\n{text}");
    }
}

#[test]
fn the_vtc_cases_pass() {
    let Some(kit) = kit() else { return };
    if !program("varnishtest") {
        return;
    }
    let entries = std::fs::read_dir(kit.join("vtc")).expect("the kit has cases").flatten();
    let cases: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "vtc"))
        // Cookies that keep a client at its backend are not built yet.
        .filter(|path| !path.ends_with("cookie.vtc"))
        .collect();
    assert!(cases.len() >= 12, "{cases:?}");
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vtc/adapter.sh");
    let mut command = Command::new(kit.join("vtc/run"));
    command.arg("evenkeel").args(&cases).env("LB_ADAPTER", adapter);
    // Below the ports that the kernel gives to outgoing connections, and not those of another run.
    let port = 20_000 + std::process::id() % 300 * 40;
    let folder = Folder::new();
    command.env("PORT", port.to_string()).env("FOLDER", folder.path());
    command.env("EVENKEEL", env!("CARGO_BIN_EXE_evenkeel"));
    let text = printed(&mut command);
    let all = cases.len();
    assert!(text.contains(&format!("evenkeel: {all} of {all} vtc passed")), "{text}");
}
