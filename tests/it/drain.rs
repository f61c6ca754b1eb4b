//! Told to stop, the process loses nothing: readiness goes first, then the listeners, then each
//! connection when its work is done; what is not done at `drain_timeout` is cut, and the exit code says so.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{
    Answer, Ask, Backend, Broken, Child, Conn, Folder, Load, PATIENCE, Proxy, Signal, eventually,
    get, program_under_test, setup,
};

const SLACK: Duration = Duration::from_millis(700);

#[test]
fn clients_that_obey_lose_nothing() {
    let backends = ["a", "b"].map(Backend::start);
    let delay = Duration::from_millis(600);
    let config = setup().set("shutdown_delay: 600ms\ndrain_timeout: 10s");
    let mut proxy = Proxy::start(config.http("web", "web").pool("web", &backends, ""));
    let web = proxy.address("web");
    let load = Load::on(web).half_posts().leaves_when_told().start();
    load.wait_answers(50);
    let told = Instant::now();
    proxy.child.signal(Signal::Terminate);
    eventually("/readyz says 503", SLACK, || proxy.ask_admin("/readyz").status == 503);
    assert_eq!(proxy.ask_admin("/healthz").status, 200);
    // It still accepts: whoever balances to it needs the time to see the 503.
    assert_eq!(get(web, "/").expect("an answer").status, 200);
    load.wait_answers(10);
    load.no_new_connections();
    eventually("the listener closes", PATIENCE, || get(web, "/") == Err(Broken::Refused));
    assert!(told.elapsed() > delay - Duration::from_millis(50), "after {:?}", told.elapsed());
    assert!(proxy.child.wait_exit(PATIENCE).success());
    let report = load.stop();
    report.assert_flawless();
    assert_eq!(report.told_to_close, 4, "of four kept connections");
}

/// Asks in a thread of its own, and waits until the request is at a backend.
fn in_progress(proxy: &Proxy, web: SocketAddr, act: &str) -> JoinHandle<Result<Answer, Broken>> {
    let ask = Ask::get("/").act(act);
    let before = proxy.metric("evenkeel_backend_in_flight", &[]);
    let asking = std::thread::spawn(move || Conn::open(web)?.ask(&ask));
    eventually("the request is in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) > before
    });
    asking
}

#[test]
fn work_in_progress_finishes() {
    let a = Backend::start("a");
    let config = setup().set("drain_timeout: 10s").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    let web = proxy.address("web");
    let slow = in_progress(&proxy, web, "slow 700");
    let long = in_progress(&proxy, web, "drip 20 50");
    proxy.child.signal(Signal::Terminate);
    let slow = slow.join().expect("no panic").expect("an answer");
    assert_eq!((slow.status, slow.closes()), (200, true), "{:?}", slow.headers);
    let long = long.join().expect("no panic").expect("a whole answer");
    assert_eq!(long.body.len(), 200);
    assert!(proxy.child.wait_exit(PATIENCE).success());
}

#[test]
fn what_is_left_at_the_drain_time_out_is_cut() {
    let a = Backend::start("a");
    let config = setup().set("drain_timeout: 400ms").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    let asking = in_progress(&proxy, proxy.address("web"), "never");
    let told = Instant::now();
    proxy.child.signal(Signal::Interrupt);
    let status = proxy.child.wait_exit(PATIENCE);
    let took = told.elapsed();
    assert_eq!(status.code(), Some(1));
    let promised = Duration::from_millis(400);
    assert!(took > promised - Duration::from_millis(50) && took < promised + SLACK, "{took:?}");
    let answer = asking.join().expect("no panic");
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 503), "{answer:?}");
    assert_eq!(proxy.events_saying("stopped")[0]["cut"], 1);
}

#[test]
fn a_second_signal_cuts_at_once() {
    let a = Backend::start("a");
    let config = setup().set("drain_timeout: 30s").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    let asking = in_progress(&proxy, proxy.address("web"), "never");
    proxy.child.signal(Signal::Terminate);
    eventually("it drains", PATIENCE, || {
        proxy.metric("evenkeel_phase", &[("phase", "draining")]) == 1.0
    });
    let told = Instant::now();
    proxy.child.signal(Signal::Terminate);
    assert_eq!(proxy.child.wait_exit(PATIENCE).code(), Some(1));
    assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
    drop(asking.join());
}

#[test]
fn a_start_that_is_kept_waiting_can_be_stopped() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    silent.set_nonblocking(true).expect("it can be asked");
    let backend = silent.local_addr().expect("it is bound");
    let check =
        "health_check: {http: {path: /}, interval: 60s, interval_unsettled: 60s, timeout: 60s}";
    let keys = format!("backends: [\"{backend}\"], {check}");
    let config = setup().set("shutdown_delay: 60s").http("web", "web").pool_of("web", &keys);
    let folder = Folder::new();
    let file = folder.file("evenkeel.yaml", config.to_string());
    let mut command = program_under_test();
    let mut child = Child::start("evenkeel", command.args(["run", "--config"]).arg(file));
    let mut probe = None;
    eventually("its first verdict is awaited", PATIENCE, || {
        probe = silent.accept().ok();
        probe.is_some()
    });
    child.signal(Signal::Terminate);
    assert!(child.wait_exit(PATIENCE).success());
    let lines = child.lines().join("\n");
    assert!(lines.contains("stopped") && !lines.contains("listening"), "{lines}");
}

#[test]
fn a_second_signal_ends_the_shutdown_delay() {
    let a = Backend::start("a");
    let config = setup().set("shutdown_delay: 30s").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    proxy.child.signal(Signal::Terminate);
    eventually("/readyz says 503", PATIENCE, || proxy.ask_admin("/readyz").status == 503);
    let told = Instant::now();
    proxy.child.signal(Signal::Terminate);
    // Nothing was open, so nothing was cut.
    assert_eq!(proxy.child.wait_exit(PATIENCE).code(), Some(0));
    assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
}

#[test]
fn connections_at_rest_hold_nothing_up() {
    let a = Backend::start("a");
    let config = setup().set("drain_timeout: 20s").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    let web = proxy.address("web");
    let mut used = Conn::open(web).expect("it listens");
    assert_eq!(used.ask(&Ask::get("/")).expect("an answer").status, 200);
    let mut fresh = Conn::open(web).expect("it listens");
    eventually("both are accepted", PATIENCE, || {
        proxy.metric("evenkeel_open_connections", &[]) == 2.0
    });
    let told = Instant::now();
    assert!(proxy.stop().success());
    assert!(told.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", told.elapsed());
    // Closed in good order.
    assert_eq!(used.rest(), Ok(Vec::new()));
    assert_eq!(fresh.rest(), Ok(Vec::new()));
}

#[test]
fn a_request_just_on_its_way_is_answered_and_told_to_close() {
    let a = Backend::start("a");
    let config = setup().set("drain_timeout: 20s").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).expect("it listens");
    assert!(!conn.ask(&Ask::get("/")).expect("an answer").closes());
    proxy.child.signal(Signal::Terminate);
    eventually("it drains", PATIENCE, || {
        proxy.metric("evenkeel_phase", &[("phase", "draining")]) == 1.0
    });
    let answer = conn.ask(&Ask::post("/").body("late")).expect("an answer");
    assert_eq!((answer.status, answer.closes()), (200, true));
    assert_eq!(conn.rest(), Ok(Vec::new()));
    assert!(proxy.child.wait_exit(PATIENCE).success());
}

#[test]
fn http2_clients_get_a_goaway() {
    let a = Backend::start("a");
    let config = setup().set("drain_timeout: 20s").http("web", "web").pool("web", [&a], "");
    let mut proxy = Proxy::start(config);
    let mut stream = TcpStream::connect(proxy.address("web")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it reads");
    stream.write_all(&settings).expect("it reads");
    assert_eq!(frame(&mut stream), Some(4), "settings come first");
    proxy.child.signal(Signal::Terminate);
    let mut kinds = Vec::new();
    while let Some(kind) = frame(&mut stream) {
        kinds.push(kind);
        // A PING asks whether we are still there.
        if kind == 6 {
            let acknowledged = [0, 0, 8, 6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            drop(stream.write_all(&acknowledged));
        }
    }
    assert!(kinds.contains(&7), "no GOAWAY in {kinds:?}");
    assert!(proxy.child.wait_exit(PATIENCE).success());
}

/// Reads an HTTP/2 frame and gives its type; `None` at the end.
fn frame(stream: &mut TcpStream) -> Option<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    stream.read_exact(&mut vec![0; length as usize]).ok()?;
    Some(head[3])
}

#[test]
fn a_tcp_stream_may_finish() {
    let a = Backend::doing("a", "tcp_echo");
    let config = setup().set("drain_timeout: 20s").tcp("in", "tcp").pool("tcp", [&a], "");
    let mut proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("in")).expect("it listens");
    let mut echo = |text: &[u8]| {
        conn.send(text).expect("it is open");
        assert_eq!(conn.bytes(text.len()).expect("an echo"), text);
    };
    echo(b"before");
    proxy.child.signal(Signal::Terminate);
    eventually("it drains", PATIENCE, || {
        proxy.metric("evenkeel_phase", &[("phase", "draining")]) == 1.0
    });
    echo(b"after");
    conn.finish_writing();
    assert_eq!(conn.rest(), Ok(Vec::new()));
    assert!(proxy.child.wait_exit(PATIENCE).success());
}
