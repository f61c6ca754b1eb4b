//! A reload is whole or nothing, loses no request, and leaves alone what did not change.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::harness::{
    Ask, Backend, Broken, Conn, Load, PATIENCE, Proxy, Setup, Signal, eventually, free_address,
    get, setup,
};

const CHECK: &str = "health_check: {http: {path: /healthz}, interval: 100ms, \
                     interval_unsettled: 50ms, timeout: 500ms, fall: 2, rise: 2}";

/// A listener `web` at a given address, so that it is the same in each configuration.
fn web(pool: &str) -> Setup {
    setup()
        .listener("web", &format!("bind: \"127.0.0.1:0\", mode: http, routes: [{{pool: {pool}}}]"))
}

fn verbose(proxy: &Proxy) -> String {
    proxy.ask_admin("/readyz?verbose").text()
}

#[test]
fn two_hundred_reloads_cost_no_request_and_no_connection() {
    let backends = ["a", "b", "c", "d"].map(Backend::start);
    let [a, b, c, d] = &backends;
    let extra = free_address();
    let keys = |routes: &str| format!("bind: \"127.0.0.1:0\", mode: http, routes: [{routes}]");
    let more = format!("bind: \"{extra}\", mode: http, routes: [{{pool: web}}]");
    let blue = "{match: {path: /blue}, respond: {status: 200}}, {pool: web}";
    let split = "{match: {path: /load/*}, split: {web: 1, other: 1}}, {pool: web}";
    let (a, b, c, d) = (a.address, b.address, c.address, d.address);
    let configs = [
        setup().listener("web", &keys("{pool: web}")).pool("web", [a, b], CHECK),
        setup().listener("web", &keys(blue)).listener("more", &more).pool("web", [a, c], CHECK),
        setup().listener("web", &keys(split)).pool("web", [a], "balance: round_robin").pool(
            "other",
            [b, d],
            CHECK,
        ),
        setup().listener("web", &keys("{pool: web}")).listener("more", &more).pool(
            "web",
            [d],
            CHECK,
        ),
    ];
    let proxy = Proxy::start(&configs[0]);
    let load = Load::on(proxy.address("web")).half_posts().each(Duration::from_millis(40)).start();
    load.wait_answers(20);
    for number in 1..=200 {
        assert!(proxy.reload(&configs[number % 4]), "reload {number}: {}", verbose(&proxy));
    }
    load.wait_answers(20);
    let report = load.stop();
    report.assert_flawless();
    assert_eq!((report.connections, report.told_to_close), (4, 0), "kept connections stay");
    assert_eq!(proxy.reloads(), (201, 0));
    assert_eq!(proxy.metric("evenkeel_config_generation", &[]), 201.0);
    for name in ["a", "b", "c", "d"] {
        assert!(report.from(name) > 0, "{:?}", report.by_backend);
    }
    // 200 is a multiple of four: the first configuration, without the listener `more`.
    eventually("the removed listener refuses", PATIENCE, || {
        Conn::open(extra).err() == Some(Broken::Refused)
    });
}

#[test]
fn a_bad_file_changes_nothing() {
    let a = Backend::start("a");
    let good = web("web").pool("web", [&a], "");
    let proxy = Proxy::start(&good);
    let bad = good.to_string().replace("mode: http", "mode: htp");
    assert!(!proxy.reload(&bad));
    assert_eq!(proxy.metric("evenkeel_config_last_reload_successful", &[]), 0.0);
    assert_eq!(proxy.metric("evenkeel_config_generation", &[]), 1.0);
    let text = verbose(&proxy);
    for part in ["last reload: failed", "evenkeel.yaml:", "found `htp`"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(text.starts_with("ready\n"), "{text}");
    assert_eq!(proxy.events_saying("configuration not reloaded; the old one goes on").len(), 1);
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").status, 200);
    // No file at all is no better, and no worse.
    std::fs::remove_file(proxy.folder().join("evenkeel.yaml")).expect("it is there");
    proxy.child.signal(Signal::Hangup);
    eventually("the second failure is counted", PATIENCE, || proxy.reloads() == (1, 2));
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").status, 200);
    assert!(proxy.reload(&good));
    assert_eq!(proxy.metric("evenkeel_config_last_reload_successful", &[]), 1.0);
    assert!(verbose(&proxy).contains("last reload: ok"));
}

#[test]
fn a_port_that_cannot_be_bound_fails_the_whole_reload() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let taken = TcpListener::bind(free_address()).expect("it is free");
    let busy = taken.local_addr().expect("it is bound");
    let free = free_address();
    let proxy = Proxy::start(web("web").pool("web", [&a], ""));
    let wanted = web("web")
        .listener("first", &format!("bind: \"{free}\", mode: http, routes: [{{pool: web}}]"))
        .listener("second", &format!("bind: \"{busy}\", mode: http, routes: [{{pool: web}}]"))
        .pool("web", [&b], "");
    assert!(!proxy.reload(&wanted));
    assert!(verbose(&proxy).contains(&format!("cannot listen on {busy}")), "{}", verbose(&proxy));
    assert_eq!(Conn::open(free).err(), Some(Broken::Refused));
    let answer = get(proxy.address("web"), "/").expect("an answer");
    assert_eq!(answer.header("x-backend").as_deref(), Some("a"), "the old backend serves");
    drop(taken);
    assert!(proxy.reload(&wanted), "{}", verbose(&proxy));
    for address in [proxy.address("web"), free, busy] {
        let answer = get(address, "/").expect("an answer");
        assert_eq!(answer.header("x-backend").as_deref(), Some("b"));
    }
}

#[test]
fn a_storm_of_reloads_is_folded_and_the_last_file_counts() {
    let a = Backend::start("a");
    let config = |version: usize| {
        let routes = format!(
            "{{match: {{path: /version}}, respond: {{status: 200, body: \"{version}\"}}}}, {{pool: web}}"
        );
        let keys = format!("bind: \"127.0.0.1:0\", mode: http, routes: [{routes}]");
        setup().listener("web", &keys).pool("web", [&a], CHECK)
    };
    let proxy = Proxy::start(config(0));
    let web = proxy.address("web");
    let load = Load::on(web).half_posts().start();
    load.wait_answers(10);
    for version in 1..=50 {
        proxy.write_config(config(version));
        proxy.child.signal(Signal::Hangup);
    }
    eventually("the last file is in force", PATIENCE, || {
        get(web, "/version").is_ok_and(|answer| answer.text() == "50")
    });
    load.wait_answers(20);
    load.stop().assert_flawless();
    let (succeeded, failed) = proxy.reloads();
    assert_eq!(failed, 0);
    assert!((2..=51).contains(&succeeded), "{succeeded}");
}

#[test]
fn unchanged_backends_keep_what_is_known_of_them() {
    let (a, mut b) = (Backend::start("a"), Backend::start("b"));
    let spare = free_address();
    // One worker, so that there is one place where connections are kept.
    let one = || web("web").set("workers: 1");
    let proxy = Proxy::start(one().pool("web", [&a, &b], CHECK));
    b.healthy(false);
    proxy.wait_serving("web", 1, PATIENCE);
    let address = proxy.address("web");
    let slow =
        std::thread::spawn(move || Conn::open(address)?.ask(&Ask::get("/").act("slow 1500")));
    let in_flight = || proxy.metric("evenkeel_backend_in_flight", &[]);
    eventually("a request is in progress", PATIENCE, || in_flight() == 1.0);
    let counts = || {
        let of = |name| proxy.metric(name, &[("pool", "web")]);
        (of("evenkeel_backend_state_changes_total"), of("evenkeel_backend_connections_total"))
    };
    let before = counts();
    let more = format!("bind: \"{spare}\", mode: http, routes: [{{pool: web}}]");
    let other = Backend::start("other");
    let wanted = one().listener("more", &more).pool("web", [&a, &b], CHECK);
    assert!(proxy.reload(wanted.pool("new", [&other], CHECK)));
    let text = verbose(&proxy);
    assert!(text.contains("pool web: 1 of 2 serving"), "{text}");
    assert!(text.contains(&format!("{b} down")), "{text}");
    assert_eq!(in_flight(), 1.0, "the request in progress is still counted");
    let answer = slow.join().expect("no panic").expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("it is no longer counted", PATIENCE, || in_flight() == 0.0);
    // The kept connection is used again, in the new configuration.
    assert_eq!(get(address, "/").expect("an answer").status, 200);
    assert_eq!(counts(), before);
}

#[test]
fn a_watched_file_is_reloaded_when_it_changes() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let proxy = Proxy::start_with(web("web").pool("web", [&a], ""), &["--watch"]);
    proxy.write_config(web("web").pool("web", [&b], ""));
    eventually("the change is seen", PATIENCE, || proxy.reloads() == (2, 0));
    let answer = get(proxy.address("web"), "/").expect("an answer");
    assert_eq!(answer.header("x-backend").as_deref(), Some("b"));
    proxy.write_config("listeners: {");
    eventually("the bad file is reported", PATIENCE, || proxy.reloads() == (2, 1));
}

#[test]
fn a_watched_file_that_changes_during_a_reload_is_reloaded_again() {
    let (a, b, frozen) = (Backend::start("a"), Backend::start("b"), Backend::start("frozen"));
    frozen.freeze();
    let proxy = Proxy::start_with(web("web").pool("web", [&a], ""), &["--watch"]);
    // Takes the time-out of its probe.
    let check = "health_check: {http: {path: /healthz}, timeout: 1s}";
    let slow = web("web").pool("web", [&a], "").pool("slow", [&frozen], check);
    proxy.write_config(slow);
    proxy.child.signal(Signal::Hangup);
    // Warned of as soon as the file was read.
    eventually("it is read", PATIENCE, || {
        let about = |event: &serde_json::Value| event.to_string().contains("pools.slow");
        proxy.events().iter().any(about)
    });
    proxy.write_config(web("web").pool("web", [&b], ""));
    eventually("the last file is in force", PATIENCE, || {
        let answer = get(proxy.address("web"), "/").expect("an answer");
        answer.header("x-backend").as_deref() == Some("b")
    });
}

#[test]
fn what_only_a_restart_can_change_is_reported_and_the_rest_applied() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let proxy = Proxy::start(web("web").set("workers: 1").pool("web", [&a], ""));
    let admin = free_address();
    let changed = web("web").set("workers: 2").set(&format!("admin: {{listen: \"{admin}\"}}"));
    assert!(proxy.reload(changed.pool("web", [&b], "")));
    let text = verbose(&proxy);
    for part in ["restart needed: workers", "restart needed: admin.listen"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(proxy.metric("evenkeel_config_changes_awaiting_restart", &[]), 2.0);
    assert_eq!(proxy.metric("evenkeel_workers", &[]), 1.0);
    let answer = get(proxy.address("web"), "/").expect("an answer");
    assert_eq!(answer.header("x-backend").as_deref(), Some("b"));
}

#[test]
fn streams_and_downloads_outlive_their_backend_s_removal() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let (c, d) = (Backend::doing("c", "tcp_echo"), Backend::doing("d", "tcp_echo"));
    let config = |http: &Backend, tcp: &Backend| {
        web("web")
            .set("drain_timeout: 200ms")
            .listener("in", "bind: \"127.0.0.2:0\", mode: tcp, pool: tcp")
            .pool("web", [http], "")
            .pool("tcp", [tcp], "")
    };
    let proxy = Proxy::start(config(&a, &c));
    let address = proxy.address("web");
    let mut stream = Conn::open(proxy.address("in")).expect("it listens");
    let mut echo = |text: &[u8]| {
        stream.send(text).expect("it is open");
        assert_eq!(stream.bytes(text.len()).expect("an echo"), text);
    };
    echo(b"before");
    let download =
        std::thread::spawn(move || Conn::open(address)?.ask(&Ask::get("/").act("drip 30 50")));
    eventually("both are in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 2.0
    });
    assert!(proxy.reload(config(&b, &d)));
    let began = Instant::now();
    let answer = get(address, "/").expect("an answer");
    assert_eq!(answer.header("x-backend").as_deref(), Some("b"), "new work goes to the new one");
    // Longer than `drain_timeout`: that is for removed listeners.
    eventually("time passes", PATIENCE, || began.elapsed() > Duration::from_millis(600));
    echo(b"after");
    let answer = download.join().expect("no panic").expect("a whole answer");
    assert_eq!(answer.body.len(), 300);
    echo(b"still");
}

#[test]
fn a_removed_listener_drains() {
    let a = Backend::start("a");
    let old = free_address();
    let more = format!("bind: \"{old}\", mode: http, routes: [{{pool: web}}]");
    let base = || web("web").set("drain_timeout: 1s").pool("web", [&a], "");
    let proxy = Proxy::start(base().listener("more", &more));
    let mut kept = Conn::open(old).expect("it listens");
    assert!(!kept.ask(&Ask::get("/")).expect("an answer").closes());
    let never = std::thread::spawn(move || Conn::open(old)?.ask(&Ask::get("/").act("never")));
    let finishes =
        std::thread::spawn(move || Conn::open(old)?.ask(&Ask::get("/").act("drip 10 50")));
    eventually("both are in progress", PATIENCE, || {
        proxy.metric("evenkeel_backend_in_flight", &[]) == 2.0
    });
    assert!(proxy.reload(base()));
    eventually("it refuses", PATIENCE, || Conn::open(old).err() == Some(Broken::Refused));
    let last = kept.ask(&Ask::get("/")).expect("an answer");
    assert_eq!((last.status, last.closes()), (200, true), "its kept connections are told to close");
    let whole = finishes.join().expect("no panic").expect("a whole answer");
    assert_eq!(whole.body.len(), 100);
    let cut = never.join().expect("no panic");
    assert!(cut.is_err(), "cut at drain_timeout, but {cut:?}");
    assert_eq!(kept.rest(), Ok(Vec::new()));
    drop(kept);
    eventually("none of its connections is open", PATIENCE, || {
        proxy.metric("evenkeel_open_connections", &[]) == 0.0
    });
    assert_eq!(get(proxy.address("web"), "/").expect("an answer").status, 200);
}
