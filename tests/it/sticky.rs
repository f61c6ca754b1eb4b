//! Sticky sessions: a client comes back to its backend by a cookie that every load balancer with the key
//! can read, and nobody can forge; a backend that is gone loses its clients to another.

use std::collections::HashSet;
use std::time::Duration;

use crate::harness::{
    Answer, Ask, Backend, Conn, Folder, PATIENCE, Proxy, Setup, evenkeel, eventually, setup,
};

pub const KEY: &str = "bm90IGEgc2VjcmV0LCBidXQgYSBmaXh0dXJlIG9mIHRlc3RzCg==\n";

/// A pool that sends each client elsewhere, but for its cookie.
fn config<'a>(backends: impl IntoIterator<Item = &'a Backend>, sticky: &str) -> Setup {
    let keys = format!("balance: round_robin, sticky: {{key_file: sticky.key{sticky}}}");
    setup().set("workers: 1").http("web", "web").pool("web", backends, &keys)
}

fn start(config: Setup) -> Proxy {
    let folder = Folder::new();
    folder.file("sticky.key", KEY);
    Proxy::start_beside(folder, config)
}

/// One GET with these cookies, on a connection of its own.
fn ask(proxy: &Proxy, cookies: &str) -> Answer {
    let request = match cookies {
        "" => Ask::get("/"),
        cookies => Ask::get("/").header("Cookie", cookies),
    };
    Conn::open(proxy.address("web")).unwrap().ask(&request).unwrap()
}

/// Who answered.
fn by(answer: &Answer) -> String {
    answer.json()["backend"].as_str().expect("a backend names itself").to_owned()
}

/// `EKID=...`, as a client would send it back.
#[track_caller]
fn cookie(answer: &Answer) -> String {
    let field = answer.header("set-cookie").expect("a cookie");
    field.split(';').next().unwrap_or_default().to_owned()
}

#[test]
fn a_client_stays_with_its_backend_which_never_sees_the_cookie() {
    let backends = ["a", "b", "c"].map(Backend::start);
    let proxy = start(config(&backends, ", ttl: 1h, same_site: strict, secure: true"));
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let first = ask(&proxy, "theme=dark");
        let field = first.header("set-cookie").unwrap();
        let attributes = "; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict; Secure";
        assert!(field.starts_with("EKID=") && field.ends_with(attributes), "{field}");
        assert_eq!(first.header("cache-control").as_deref(), Some("private"));
        seen.insert(by(&first));
        let cookies = format!("theme=dark; {}; lang=en", cookie(&first));
        for _ in 0..10 {
            let answer = ask(&proxy, &cookies);
            assert_eq!(by(&answer), by(&first));
            let added = (answer.header("set-cookie"), answer.header("cache-control"));
            assert_eq!(added, (None, None));
            let headers = answer.json()["headers"].to_string();
            assert!(headers.contains("theme=dark; lang=en"), "{headers}");
            assert!(!headers.contains("EKID"), "{headers}");
        }
        let alone = ask(&proxy, &cookie(&first)).json()["headers"].to_string();
        assert!(!alone.to_lowercase().contains("cookie"), "{alone}");
    }
    assert_eq!(seen.len(), 3, "clients without a cookie go on in turn");
}

#[test]
fn a_client_whose_backend_died_is_given_another_and_stays_there() {
    let mut backends = ["a", "b", "c"].map(Backend::start);
    let proxy = start(config(&backends, ""));
    let first = ask(&proxy, "");
    let old = cookie(&first);
    let dead = backends.iter_mut().find(|backend| backend.name == by(&first)).unwrap();
    dead.kill();
    // No health check: the first attempt fails, and the retry goes elsewhere.
    let second = ask(&proxy, &old);
    assert_eq!(second.status, 200);
    assert_ne!(by(&second), by(&first));
    let new = cookie(&second);
    for _ in 0..5 {
        let answer = ask(&proxy, &new);
        assert_eq!((by(&answer), answer.header("set-cookie")), (by(&second), None));
    }
    dead.restart();
    // The other client's cookie still holds.
    eventually("the old backend answers again", PATIENCE, || by(&ask(&proxy, &old)) == by(&first));
    assert_eq!(by(&ask(&proxy, &new)), by(&second));
}

#[test]
fn a_backend_that_drains_keeps_its_clients_and_one_that_is_disabled_does_not() {
    let backends = ["a", "b", "c"].map(Backend::start);
    let proxy = start(config(&backends, ""));
    let first = ask(&proxy, "");
    let old = cookie(&first);
    let name = backends.iter().find(|backend| backend.name == by(&first)).unwrap();
    let operate = |word: &str| {
        let admin = proxy.admin.to_string();
        let args = [word, &format!("web/{name}"), "--admin", &admin];
        let output = evenkeel(proxy.folder(), &args);
        assert!(output.status.success(), "{word}: {output:?}");
    };
    operate("drain");
    for _ in 0..6 {
        assert_ne!(by(&ask(&proxy, "")), by(&first), "no new client");
        let stays = ask(&proxy, &old);
        assert_eq!((by(&stays), stays.header("set-cookie")), (by(&first), None));
    }
    operate("disable");
    let second = ask(&proxy, &old);
    assert_ne!(by(&second), by(&first));
    assert_eq!(by(&ask(&proxy, &cookie(&second))), by(&second));
    operate("enable");
    assert_eq!(by(&ask(&proxy, &old)), by(&first));
}

#[test]
fn load_balancers_with_the_same_key_agree_and_others_do_not() {
    let backends = ["a", "b", "c"].map(Backend::start);
    let ours = start(config(&backends, ", ttl: 1h"));
    // In another order, and of another age.
    let theirs = start(config(backends.iter().rev(), ", ttl: 1h"));
    let folder = Folder::new();
    folder.file("sticky.key", KEY.replace("bm90", "Tm90"));
    let strangers = Proxy::start_beside(folder, config(&backends, ", ttl: 1h"));
    for _ in 0..6 {
        let first = ask(&ours, "");
        let there = ask(&theirs, &cookie(&first));
        assert_eq!((by(&there), there.header("set-cookie")), (by(&first), None));
        assert!(ask(&strangers, &cookie(&first)).header("set-cookie").is_some());
    }
}

#[test]
fn a_cookie_that_is_forged_over_or_of_another_pool_is_ignored_and_replaced() {
    let backends = ["a", "b"].map(Backend::start);
    let keys = "balance: round_robin, sticky: {key_file: sticky.key, ttl: 4s}";
    let routes = "routes: [{match: {path: /}, pool: web}, {pool: other}]";
    let config = setup().set("workers: 1").listener("web", routes);
    let proxy = start(config.pool("web", &backends, keys).pool("other", &backends, keys));
    let first = ask(&proxy, "");
    let good = cookie(&first);
    let mut forged = good.clone().into_bytes();
    let last = forged.len() - 2;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    for bad in ["EKID=", "EKID=x", &String::from_utf8(forged).unwrap()] {
        let answer = ask(&proxy, bad);
        assert!(answer.status == 200 && answer.header("set-cookie").is_some(), "{bad}");
        // A good one beside it counts all the same.
        assert_eq!(by(&ask(&proxy, &format!("{bad}; {good}"))), by(&first), "{bad}");
    }
    let other = Ask::get("/other").header("Cookie", &good);
    let other = Conn::open(proxy.address("web")).unwrap().ask(&other).unwrap();
    assert!(other.header("set-cookie").is_some(), "the other pool does not know it");
    // It is renewed before its time is over, and not believed after it.
    let mut current = good.clone();
    for _ in 0..3 {
        let mut answer = ask(&proxy, &current);
        eventually("the cookie is renewed", Duration::from_secs(10), || {
            answer = ask(&proxy, &current);
            answer.header("set-cookie").is_some()
        });
        assert_eq!(by(&answer), by(&first), "renewed for the same backend");
        current = cookie(&answer);
    }
    let answer = ask(&proxy, &good);
    assert!(answer.header("set-cookie").is_some(), "it is over");
}
