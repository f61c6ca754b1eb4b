//! Every request goes where the first route that matches it says, and the backend gets what was
//! matched.

use crate::harness::{Ask, Backend, Conn, Proxy, Setup, setup};

/// A listener whose routes answer with their own number, after their `match`.
fn numbered(matches: &[&str]) -> Proxy {
    let routes: Vec<String> = matches
        .iter()
        .enumerate()
        .map(|(n, wanted)| format!("{{match: {{{wanted}}}, respond: {{body: \"{n}\"}}}}"))
        .collect();
    start(&routes.join(", "))
}

fn start(routes: &str) -> Proxy {
    let config: Setup = setup().listener("web", &format!("routes: [{routes}]"));
    Proxy::start(config.pool("unused", ["127.0.0.1:1"], ""))
}

/// What a listener of `numbered` routes answers; 404 if none matches.
#[track_caller]
fn assert_route(conn: &mut Conn, ask: &Ask, route: Option<usize>) {
    let answer = conn.ask(ask).unwrap();
    match route {
        Some(route) => {
            let found = (answer.status, answer.text());
            assert_eq!(found, (200, route.to_string()), "{} {:?}", ask.target, ask.headers);
        }
        None => assert_eq!(answer.status, 404, "{} {:?}", ask.target, ask.headers),
    }
}

#[test]
fn paths_match_exactly_or_by_whole_segments() {
    let proxy = numbered(&["path: /exact", "path: [/v1/*, /v2/*]", "path: /", "path: /deep/er/*"]);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for (target, route) in [
        ("/exact", Some(0)),
        ("/exact?q", Some(0)),
        ("/exact/", None),
        ("/exac", None),
        ("/Exact", None),
        ("/v1", Some(1)),
        ("/v1/", Some(1)),
        ("/v1/x", Some(1)),
        ("/v1/x/y?z=/", Some(1)),
        ("/v2/x", Some(1)),
        ("/v1x", None),
        ("/v3", None),
        ("/x/v1/", None),
        ("/", Some(2)),
        ("/?q", Some(2)),
        ("/./exact", Some(0)),
        ("/v1/../exact", Some(0)),
        ("/%65xact", Some(0)),
        ("/v1/%2e%2e/", Some(2)),
        ("/deep/er", Some(3)),
        ("/deep/x/../er/y", Some(3)),
        ("/deep", None),
    ] {
        assert_route(&mut conn, &Ask::get(target), route);
    }
}

#[test]
fn hosts_match_whatever_their_case_and_port_and_a_star_is_one_label() {
    let proxy = numbered(&["host: api.example.com", "host: [\"*.example.com\", \"[::1]\"]"]);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for (host, route) in [
        ("api.example.com", Some(0)),
        ("API.Example.com:8443", Some(0)),
        ("api.example.com.", Some(0)),
        ("www.example.com", Some(1)),
        ("WWW.EXAMPLE.COM:1", Some(1)),
        ("[::1]:80", Some(1)),
        ("a.b.example.com", None),
        ("example.com", None),
        ("xexample.com", None),
        ("api.example.com.evil", None),
        ("127.0.0.1", None),
    ] {
        assert_route(&mut conn, &Ask::get("/").host(host), route);
    }
}

#[test]
fn methods_headers_and_query_parameters_match() {
    let proxy = numbered(&[
        "method: [POST, PUT]",
        "header: {x-canary: \"1\", x-any: \"*\"}",
        "query: {beta: \"*\", id: \"7\"}",
        "query: {sp: \"a b\"}",
        "header: {x-canary: \"2\"}",
    ]);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let get = Ask::get;
    for (ask, route) in [
        (Ask::post("/"), Some(0)),
        (Ask::new("PUT", "/"), Some(0)),
        (Ask::new("DELETE", "/"), None),
        (get("/").header("X-Canary", "1").header("X-Any", ""), Some(1)),
        (get("/").header("X-Canary", "0").header("x-canary", "1").header("x-any", "y"), Some(1)),
        (get("/").header("X-Canary", "1"), None),
        (get("/").header("X-Canary", "11").header("X-Any", "z"), None),
        (get("/?beta=x&id=7"), Some(2)),
        (get("/?id=6&beta&id=7"), Some(2)),
        (get("/?%69d=%37&beta="), Some(2)),
        (get("/?id=7"), None),
        (get("/?beta=1&id=77"), None),
        (get("/?sp=a%20b"), Some(3)),
        (get("/?sp=a+b"), None),
        (get("/").header("x-canary", "2"), Some(4)),
    ] {
        assert_route(&mut conn, &ask, route);
    }
}

#[test]
fn clients_match_by_their_network() {
    let proxy = numbered(&["client: 127.0.0.9", "client: [10.0.0.0/8, 127.0.1.0/24]"]);
    for (ip, route) in [("127.0.0.9", Some(0)), ("127.0.1.77", Some(1)), ("127.0.2.1", None)] {
        let mut conn = Conn::open_from(ip.parse().unwrap(), proxy.address("web")).unwrap();
        // What it says of itself counts for nothing.
        let ask = Ask::get("/").header("X-Forwarded-For", "10.0.0.1");
        assert_route(&mut conn, &ask, route);
    }
}

#[test]
fn patterns_match_anywhere_unless_they_say_otherwise() {
    let proxy = numbered(&["path_regex: '^/user/\\d+$'", "path_regex: '\\.(png|jpg)$'"]);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for (target, route) in [
        ("/user/42", Some(0)),
        ("/user/42?x", Some(0)),
        ("/user/42/x", None),
        ("/user/x/../42", Some(0)),
        ("/a/b.png", Some(1)),
        ("/a/b.PNG", None),
        ("/a?b.png", None),
    ] {
        assert_route(&mut conn, &Ask::get(target), route);
    }
}

#[test]
fn all_parts_must_match_and_the_first_route_wins() {
    let proxy = numbered(&[
        "host: a.example, path: /x/*, method: GET, header: {x-a: \"1\"}",
        "host: a.example, path: /x/*",
        "path: /x/y",
        "path: /x/*",
    ]);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let ask = |host: &str, target: &str| Ask::get(target).host(host);
    for (ask, route) in [
        (ask("a.example", "/x/y").header("x-a", "1"), Some(0)),
        (ask("a.example", "/x/y"), Some(1)),
        (ask("b.example", "/x/y").header("x-a", "1"), Some(2)),
        (ask("b.example", "/x/z"), Some(3)),
        (ask("b.example", "/z"), None),
    ] {
        assert_route(&mut conn, &ask, route);
    }
}

#[test]
fn a_split_keeps_its_proportions() {
    let all = ["a", "b", "c"].map(Backend::start);
    let config = setup().listener("web", "routes: [{split: {a: 70, b: 30, c: 0}}]");
    let config = config.pool("a", [&all[0]], "").pool("b", [&all[1]], "").pool("c", [&all[2]], "");
    let proxy = Proxy::start(config);
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let count = 2000;
    let of_b = (0..count)
        .filter(|_| conn.ask(&Ask::get("/")).unwrap().header("x-backend").as_deref() == Some("b"))
        .count();
    // Five standard deviations of 20.5: less than one failure in a million runs.
    assert!((600 - 103..=600 + 103).contains(&of_b), "{of_b} of {count} instead of 600");
    let of_a = (count - of_b) as f64;
    proxy.wait_metric("evenkeel_pool_requests_total", &[("pool", "a")], of_a);
}

#[test]
fn the_backend_gets_what_was_matched_and_rewritten() {
    let backend = Backend::start("a");
    let routes = [
        "{match: {path: /strip/*}, pool: web, rewrite: {strip_prefix: /strip}}",
        "{match: {path: /both/*}, pool: web, rewrite: {strip_prefix: /both, add_prefix: /api}}",
        "{match: {path: /user/*}, pool: web, \
         rewrite: {path_regex: '^/user/(\\d+)', replace: '/u/$1', host: users.internal}}",
        "{pool: web}",
    ];
    let config = setup().listener("web", &format!("routes: [{}]", routes.join(", ")));
    let proxy = Proxy::start(config.pool("web", [&backend], ""));
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for (target, expected) in [
        ("/plain?q=%2e%2E/..", "/plain?q=%2e%2E/.."),
        ("/a/./b/../c", "/a/c"),
        ("/%61%2fb%2Fc", "/a%2Fb%2Fc"),
        ("//double//slash/", "//double//slash/"),
        ("/%e9%20", "/%E9%20"),
        ("/strip", "/"),
        ("/strip?x=1", "/?x=1"),
        ("/strip/x/y?z", "/x/y?z"),
        ("/stripped", "/stripped"),
        ("/x/../strip/y", "/y"),
        ("/strip/../strip/y", "/y"),
        ("/both/x", "/api/x"),
        ("/user/42/orders?all", "/u/42/orders?all"),
        ("/user/x", "/user/x"),
        ("http://test.example", "/"),
        ("http://test.example?q", "/?q"),
        ("http://test.example/strip/y", "/y"),
    ] {
        let echo = conn.ask(&Ask::get(target)).unwrap().json();
        assert_eq!(echo["target"], expected, "{target}");
    }
    let echo = conn.ask(&Ask::get("/user/1")).unwrap().json();
    let host = echo["headers"].as_array().unwrap().iter().find(|field| field[0] == "host");
    assert_eq!(host.unwrap()[1], "users.internal");
}

#[test]
fn redirects_carry_the_rest_of_the_path_and_the_query() {
    let proxy = start(
        "{match: {path: /old/*}, redirect: {to: \"https://new.example/n/*\", status: 301}}, \
         {match: {path: /here}, redirect: {to: /there}}, \
         {match: {path: /q}, redirect: {to: \"https://new.example/?a=b\", status: 308}}, \
         {match: {path: /root/*}, redirect: {to: \"/*\", status: 307}}",
    );
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    for (target, status, location) in [
        ("/old/x/y?z=1", 301, "https://new.example/n/x/y?z=1"),
        ("/old", 301, "https://new.example/n"),
        ("/old/%0d%0aSet-Cookie:x", 301, "https://new.example/n/%0D%0ASet-Cookie:x"),
        ("/here?x", 302, "/there?x"),
        ("/q?lost", 308, "https://new.example/?a=b"),
        ("/root//evil.example", 307, "/evil.example"),
    ] {
        let answer = conn.ask(&Ask::get(target)).unwrap();
        let found = answer.header("location");
        assert_eq!((answer.status, found.as_deref()), (status, Some(location)), "{target}");
        assert!(!answer.closes());
    }
    // A request with a body leaves its connection in order.
    let answer = conn.ask(&Ask::post("/here").body("some body")).unwrap();
    assert_eq!(answer.status, 302);
    if !answer.closes() {
        assert_eq!(conn.ask(&Ask::get("/here")).unwrap().status, 302);
    }
}

#[test]
fn fixed_answers_are_as_they_were_written() {
    let proxy = start(
        "{match: {path: /ping}, respond: {body: \"pong\\n\"}}, \
         {match: {path: /gone}, respond: {status: 410, body: \"{}\", \
          headers: {content-type: application/json, x-why: moved}}}, \
         {match: {path: /nothing}, respond: {status: 204}}",
    );
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    let answer = conn.ask(&Ask::get("/ping")).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "pong\n"));
    let answer = conn.ask(&Ask::get("/gone")).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (410, "{}"));
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(answer.header("x-why").as_deref(), Some("moved"));
    assert_eq!(conn.ask(&Ask::get("/nothing")).unwrap().status, 204);
    let answer = conn.ask(&Ask::new("HEAD", "/ping")).unwrap();
    assert_eq!((answer.header("content-length").as_deref(), answer.body.len()), (Some("5"), 0));
    assert_eq!(proxy.metric("evenkeel_listener_failures_total", &[]), 0.0);
}

#[test]
fn a_route_may_let_in_some_and_keep_out_others() {
    let proxy = start(
        "{match: {path: /in}, allow: [127.0.1.0/24], deny: [127.0.1.9], respond: {body: in}}, \
         {match: {path: /*}, respond: {body: all}}",
    );
    for (ip, target, status) in [
        ("127.0.1.1", "/in", 200),
        ("127.0.1.9", "/in", 403),
        ("127.0.2.1", "/in", 403),
        ("127.0.2.1", "/out", 200),
    ] {
        let mut conn = Conn::open_from(ip.parse().unwrap(), proxy.address("web")).unwrap();
        assert_eq!(conn.ask(&Ask::get(target)).unwrap().status, status, "{ip} {target}");
    }
}
