//! Every worker carries its share of the connections, whoever accepted them, and none of them is lost
//! on its way from one worker to another.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::{
    Ask, Backend, Broken, Conn, PATIENCE, Proxy, Setup, Signal, eventually, free_address, get,
    setup,
};

/// A listener whose only route answers by itself.
fn pinging(workers: usize) -> Setup {
    let config = setup().set(&format!("workers: {workers}"));
    config.listener("web", "routes: [{respond: {body: pong}}]").pool("unused", ["127.0.0.1:1"], "")
}

/// How many client connections each worker has.
fn open_by_worker(proxy: &Proxy, workers: usize) -> Vec<f64> {
    let text = proxy.scrape();
    let of = |worker: usize| {
        let row = format!("evenkeel_worker_open_connections{{worker=\"{worker}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&row));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {row}in {text}"))
    };
    (0..workers).map(of).collect()
}

#[track_caller]
fn assert_even(open: &[f64]) {
    let share = open.iter().sum::<f64>() / open.len() as f64;
    assert!(open.iter().all(|&open| open <= 1.2 * share), "{open:?}, share {share}");
}

#[test]
fn a_thousand_connections_are_shared_evenly() {
    for workers in [2, 8, 16] {
        let proxy = Proxy::start(pinging(workers));
        let address = proxy.address("web");
        let open = || Conn::open(address).expect("it listens");
        let mut conns: Vec<Conn> = (0..1000).map(|_| open()).collect();
        proxy.wait_metric("evenkeel_worker_open_connections", &[], 1000.0);
        assert_even(&open_by_worker(&proxy, workers));
        for conn in &mut conns {
            assert_eq!(conn.ask(&Ask::get("/")).expect("an answer").text(), "pong");
        }
        // Whichever leave: those that come make up for it.
        let mut number = 0;
        conns.retain(|_| {
            number += 1;
            number % workers < workers / 2
        });
        let left = conns.len();
        proxy.wait_metric("evenkeel_worker_open_connections", &[], left as f64);
        conns.extend((left..1000).map(|_| open()));
        proxy.wait_metric("evenkeel_worker_open_connections", &[], 1000.0);
        assert_even(&open_by_worker(&proxy, workers));
        drop(conns);
        proxy.wait_metric("evenkeel_worker_open_connections", &[], 0.0);
        assert_eq!(proxy.metric("evenkeel_open_connections", &[]), 0.0);
    }
}

#[test]
fn unix_sockets_are_shared_as_well() {
    let config = setup().set("workers: 4");
    let keys = "bind: [\"unix:web.sock\"], routes: [{respond: {body: pong}}]";
    let config = config.listener("web", keys).pool("unused", ["127.0.0.1:1"], "");
    let proxy = Proxy::start(config);
    let path = proxy.folder().join("web.sock");
    let open = || UnixStream::connect(&path).expect("it listens");
    let mut conns: Vec<UnixStream> = (0..40).map(|_| open()).collect();
    proxy.wait_metric("evenkeel_worker_open_connections", &[], 40.0);
    assert_eq!(open_by_worker(&proxy, 4), [10.0; 4]);
    for conn in &mut conns {
        conn.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("open");
        let mut answer = String::new();
        conn.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("pong"), "{answer}");
    }
    proxy.wait_metric("evenkeel_worker_open_connections", &[], 0.0);
}

#[test]
fn a_drain_under_churn_loses_nothing() {
    let a = Backend::start("a");
    for _ in 0..5 {
        let config = setup().set("workers: 8\ndrain_timeout: 20s");
        let config = config.http("web", "web").pool("web", [&a], "");
        let mut proxy = Proxy::start(config);
        let address = proxy.address("web");
        // Connections that come until none can be made: each that was made is answered.
        let clients = (0..8).map(|_| {
            std::thread::spawn(move || {
                let mut answered = 0;
                loop {
                    let mut conn = match Conn::open(address) {
                        Ok(conn) => conn,
                        Err(_) => return Ok(answered),
                    };
                    match conn.ask(&Ask::get("/").header("Connection", "close")) {
                        Ok(answer) if answer.status == 200 => answered += 1,
                        other => return Err(format!("after {answered}: {other:?}")),
                    }
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        proxy.wait_metric("evenkeel_phase", &[("phase", "running")], 1.0);
        eventually("they are served", PATIENCE, || {
            proxy.metric("evenkeel_listener_connections_total", &[]) > 200.0
        });
        proxy.child.signal(Signal::Terminate);
        assert!(proxy.child.wait_exit(PATIENCE).success());
        for client in clients {
            let answered: Result<u32, String> = client.join().expect("no panic");
            assert!(answered.as_ref().is_ok_and(|&n| n > 0), "{answered:?}");
        }
    }
}

#[test]
fn what_waits_at_the_limit_when_the_drain_begins_is_served() {
    let a = Backend::start("a");
    let config = setup().set("workers: 4\ndrain_timeout: 20s\nlimits: {connections: 2}");
    let mut proxy = Proxy::start(config.http("web", "web").pool("web", [&a], ""));
    let address = proxy.address("web");
    let ask = |act: &'static str| {
        std::thread::spawn(move || Conn::open(address)?.ask(&Ask::get("/").act(act)))
    };
    let slow: Vec<_> = (0..2).map(|_| ask("slow 700")).collect();
    eventually("they are in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 2.0
    });
    let mut waiting: Vec<Conn> = (0..6).map(|_| Conn::open(address).expect("queued")).collect();
    for conn in &mut waiting {
        conn.send(Ask::get("/").bytes()).expect("queued");
    }
    proxy.child.signal(Signal::Terminate);
    for conn in &mut waiting {
        let answer = conn.answer("GET").expect("an answer");
        assert_eq!((answer.status, answer.closes()), (200, true));
    }
    for slow in slow {
        assert_eq!(slow.join().expect("no panic").expect("an answer").status, 200);
    }
    assert!(proxy.child.wait_exit(PATIENCE).success());
}

#[test]
fn renamed_and_removed_listeners_lose_no_connection() {
    let a = Backend::start("a");
    let (stays, goes) = (free_address(), free_address());
    let listener = |address| format!("bind: \"{address}\", routes: [{{pool: web}}]");
    let base = || setup().set("workers: 8\ndrain_timeout: 10s").pool("web", [&a], "");
    let proxy = Proxy::start(base().listener("one", &listener(stays)));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients =
        [(stays, true), (stays, true), (goes, false), (goes, false)].map(|(to, always)| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut answered = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match get(to, "/") {
                        Ok(answer) if answer.status == 200 => answered += 1,
                        Err(Broken::Refused) if !always => {
                            std::thread::sleep(Duration::from_millis(1))
                        }
                        other => return Err(format!("after {answered}: {other:?}")),
                    }
                }
                Ok::<u32, String>(answered)
            })
        });
    for round in 0..30 {
        let name = ["one", "two"][round % 2];
        let config = base().listener(name, &listener(stays));
        let config = match round % 3 {
            0 => config,
            _ => config.listener("more", &listener(goes)),
        };
        assert!(proxy.reload(config), "round {round}");
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        let answered = client.join().expect("no panic");
        assert!(answered.as_ref().is_ok_and(|&n| n > 0), "{answered:?}");
    }
}
