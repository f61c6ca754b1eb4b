//! What needs a whole table or many random inputs: matching and redirects by table, the index
//! against the plain matcher, and the properties of the normal forms.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use super::*;
use crate::config::model::{HostPattern, Match, Name, PathPattern, Pattern, Rewrite, ValuePattern};

/// Runs `rounds` of `check` and prints the seed of the one that fails; `EVENKEEL_SEED` replays it.
fn seeded(rounds: u64, check: impl Fn(&mut fastrand::Rng)) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replay with EVENKEEL_SEED={}", self.0);
            }
        }
    }
    let replay = std::env::var("EVENKEEL_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = replay.map_or(0..rounds, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let _printed = Seed(seed);
        check(&mut fastrand::Rng::with_seed(seed));
    }
}

fn host(pattern: &str) -> HostPattern {
    match pattern.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact(pattern.into()),
    }
}

fn path(pattern: &str) -> PathPattern {
    match pattern.strip_suffix("/*") {
        Some(prefix) => PathPattern::Prefix(prefix.into()),
        None => PathPattern::Exact(pattern.into()),
    }
}

fn route(matches: Match, action: model::Action) -> model::Route {
    model::Route {
        matches,
        action,
        access: Default::default(),
        request_headers: Default::default(),
        response_headers: Default::default(),
        rewrite: Default::default(),
        timeouts: Default::default(),
        error_pages: Default::default(),
        rate_limit: None,
    }
}

fn respond(matches: Match) -> model::Route {
    let status = StatusCode::OK;
    let (body, headers) = (Bytes::new(), HeaderMap::new());
    route(matches, model::Action::Respond { status, body, headers })
}

fn redirect(pattern: &str, to: &str) -> model::Route {
    let matches = Match { path: vec![path(pattern)], ..Match::default() };
    route(matches, model::Action::Redirect { to: to.into(), status: StatusCode::FOUND })
}

fn table(routes: &[model::Route]) -> Table {
    Table::new(routes, &|_| Some(PoolId(0))).unwrap()
}

/// A request; the tests change what they are about.
#[derive(Clone, Debug)]
struct Request {
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: fields::Store,
    client: Option<IpAddr>,
}

impl Request {
    fn get(host: &str, path: &str) -> Request {
        Request {
            host: host.into(),
            path: path.into(),
            query: None,
            method: Method::GET,
            headers: fields::Store::default(),
            client: None,
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: self.headers.fields(),
            client: self.client,
        }
    }
}

fn matches(wanted: Match, request: &Request) -> bool {
    let found = matching::matches(&wanted, &request.facts());
    // The index must not lose what the matcher finds.
    assert_eq!(table(&[respond(wanted)]).find(&request.facts()).is_some(), found);
    found
}

#[test]
fn hosts_match_exactly_or_by_one_label() {
    for (pattern, asked, expected) in [
        ("example.com", "example.com", true),
        ("example.com", "a.example.com", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "a.b.example.com", false),
        ("*.example.com", "aexample.com", false),
        ("*.com", "example.com", true),
        ("[::1]", "[::1]", true),
        ("example.com", "", false),
    ] {
        let wanted = Match { host: vec![host(pattern)], ..Match::default() };
        assert_eq!(matches(wanted, &Request::get(asked, "/")), expected, "{pattern} {asked}");
    }
    let wanted = Match { host: vec![host("a"), host("*.b")], ..Match::default() };
    assert!(matches(wanted, &Request::get("x.b", "/")));
}

#[test]
fn paths_match_exactly_or_by_whole_segments() {
    for (pattern, asked, expected) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", false),
        ("/v1/", "/v1", false),
        ("/", "/", true),
        ("/", "//", false),
        ("/v1/*", "/v1", true),
        ("/v1/*", "/v1/", true),
        ("/v1/*", "/v1/x", true),
        ("/v1/*", "/v1//", true),
        ("/v1/*", "/v1x", false),
        ("/v1/*", "/V1", false),
        ("/v1/*", "/x/v1", false),
        ("/*", "/", true),
        ("/*", "/x", true),
        ("/*", "*", false),
        ("//*", "//x", true),
        ("//*", "/x", false),
    ] {
        let wanted = Match { path: vec![path(pattern)], ..Match::default() };
        assert_eq!(matches(wanted, &Request::get("a", asked)), expected, "{pattern} {asked}");
    }
    assert!(matches(Match::default(), &Request::get("a", "*")));
}

#[test]
fn regular_expressions_are_not_anchored() {
    for (pattern, asked, expected) in [
        (r"\.php$", "/a/index.php", true),
        (r"\.php$", "/a/index.php/x", false),
        ("^/a", "/b/a", false),
        ("b", "/abc", true),
    ] {
        let regex = Some(Pattern(regex::Regex::new(pattern).unwrap()));
        let wanted = Match { path_regex: regex, ..Match::default() };
        assert_eq!(matches(wanted, &Request::get("a", asked)), expected, "{pattern} {asked}");
    }
}

#[test]
fn methods_and_headers_and_clients_match() {
    let mut request = Request::get("a", "/");
    request.headers.push(b"X-Canary", b"0");
    request.headers.push(b"x-canary", b"1");

    let method = |list: &[Method]| Match { method: list.to_vec(), ..Match::default() };
    assert!(matches(method(&[Method::HEAD, Method::GET]), &request));
    assert!(!matches(method(&[Method::HEAD]), &request));

    let header = |name: &'static str, value: ValuePattern| Match {
        header: vec![(HeaderName::from_static(name), value)],
        ..Match::default()
    };
    assert!(matches(header("x-canary", ValuePattern::Present), &request));
    assert!(matches(header("x-canary", ValuePattern::Exact("1".into())), &request));
    assert!(!matches(header("x-canary", ValuePattern::Exact("01".into())), &request));
    assert!(!matches(header("x-none", ValuePattern::Present), &request));

    let client = Match { client: vec!["10.0.0.0/8".parse().unwrap()], ..Match::default() };
    assert!(!matches(client.clone(), &request));
    request.client = Some("::ffff:10.0.0.1".parse().unwrap());
    assert!(matches(client.clone(), &request));
    request.client = Some("192.0.2.1".parse().unwrap());
    assert!(!matches(client, &request));
}

#[test]
fn queries_match_by_decoded_parameters() {
    let present = ValuePattern::Present;
    let exact = |value: &str| ValuePattern::Exact(value.into());
    for (name, value, query, expected) in [
        ("beta", present.clone(), None, false),
        ("beta", present.clone(), Some(""), false),
        ("beta", present.clone(), Some("beta"), true),
        ("beta", present.clone(), Some("a=b&beta=1"), true),
        ("beta", present.clone(), Some("betax=1"), false),
        ("beta", present, Some("a=beta"), false),
        ("beta", exact(""), Some("beta"), true),
        ("beta", exact("1"), Some("beta=0&beta=1"), true),
        ("beta", exact("1"), Some("beta=11"), false),
        ("beta", exact("1"), Some("%62et%61=%31"), true),
        ("q", exact("a+b"), Some("q=a+b"), true),
        ("q", exact("a b"), Some("q=a+b"), false),
        ("q", exact("a b"), Some("q=a%20b"), true),
        ("q", exact("a=b"), Some("q=a=b"), true),
        ("q", exact("%zz%2"), Some("q=%zz%2"), true),
        ("q", exact("\u{e9}"), Some("q=%c3%A9"), true),
    ] {
        let wanted = Match { query: vec![(name.into(), value)], ..Match::default() };
        let query = query.map(str::to_owned);
        let request = Request { query, ..Request::get("a", "/") };
        assert_eq!(matches(wanted.clone(), &request), expected, "{wanted:?} {request:?}");
    }
}

#[test]
fn an_action_finds_its_pools() {
    let name = |text: &str| Name::new(text).unwrap();
    let pool = |asked: &Name| ["a", "b"].iter().position(|pool| *pool == asked.as_str());
    let find = |asked: &Name| pool(asked).map(PoolId);
    let split = model::Action::Split(vec![(name("a"), 0), (name("b"), 1)]);
    let routes = [route(Match::default(), split)];
    let table = Table::new(&routes, &find).unwrap();
    let Action::Split(split) = &table.routes()[0].action else { panic!("a split stays one") };
    assert_eq!(split.choose(0), PoolId(1));

    let unknown = [route(Match::default(), model::Action::Pool(name("c")))];
    assert_eq!(Table::new(&unknown, &find).unwrap_err(), UnknownPool(name("c")));
}

#[test]
fn redirects_say_where_to() {
    for (pattern, to, asked, query, expected) in [
        ("/old/*", "https://b.example/new", "/old/x", None, "https://b.example/new"),
        ("/old/*", "https://b.example/new", "/old/x", Some("a=b"), "https://b.example/new?a=b"),
        ("/old/*", "/new?c=d", "/old", Some("a=b"), "/new?c=d"),
        ("/old/*", "/new#top", "/old", Some("a=b"), "/new?a=b#top"),
        ("/old/*", "/new/*", "/old", None, "/new"),
        ("/old/*", "/new/*", "/old/", None, "/new/"),
        ("/old/*", "/new/*", "/old/x/y", Some("a"), "/new/x/y?a"),
        ("/old/*", "/new*", "/old/x", None, "/new/x"),
        ("/*", "https://b.example/*", "/x", None, "https://b.example/x"),
        ("/*", "https://b.example*", "/.evil", None, "https://b.example/.evil"),
        ("/*", "https://b.example*", "/", None, "https://b.example/"),
        ("/old/*", "/*", "/old", None, "/"),
        ("/old/*", "/*", "/old/x", None, "/x"),
        ("/old/*", "/*", "/old//evil.example/", None, "/evil.example/"),
        ("/old/*", "//*", "/old/evil.example", None, "/evil.example"),
        ("/old/*", "*", "/old//evil.example", None, "/evil.example"),
        (
            "/old",
            "/n\u{e9} w",
            "/old",
            Some("a b\r\nx: y\u{e9}"),
            "/n%C3%A9%20w?a%20b%0D%0Ax:%20y%C3%A9",
        ),
        ("/old", "/new/*", "/old", None, "/new"),
    ] {
        let table = table(&[redirect(pattern, to)]);
        let query = query.map(str::to_owned);
        let request = Request { query, ..Request::get("a", asked) };
        let facts = request.facts();
        let (status, found) = redirect::location(table.find(&facts).unwrap(), &facts).unwrap();
        assert_eq!(
            (status, found.to_str().unwrap()),
            (StatusCode::FOUND, expected),
            "{to} {asked}"
        );
    }
    let table = table(&[respond(Match::default())]);
    let request = Request::get("a", "/");
    assert!(redirect::location(&table.routes()[0], &request.facts()).is_none());
}

#[test]
fn redirects_to_https_keep_what_was_asked_for() {
    let location = |port, host: &str, path: &str, query: Option<&str>| {
        let status = StatusCode::PERMANENT_REDIRECT;
        let to = route(Match::default(), model::Action::RedirectHttps { status, port });
        let query = query.map(str::to_owned);
        let request = Request { query, ..Request::get(host, path) };
        let table = table(&[to]);
        let (told, found) = redirect::location(&table.routes()[0], &request.facts())?;
        assert_eq!(told, status);
        Some(found.to_str().unwrap().to_owned())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(location(443, "a.example", "/x/y", Some("q=1")), some("https://a.example/x/y?q=1"));
    assert_eq!(location(8443, "a.example", "/", None), some("https://a.example:8443/"));
    assert_eq!(location(443, "[::1]", "*", None), some("https://[::1]/"));
    assert_eq!(location(443, "", "/", None), None, "nobody knows where that would be");
}

/// The index finds what walking the list finds.
#[test]
fn the_index_agrees_with_the_plain_matcher() {
    let regexes = ["a$", "^/b"].map(|text| Pattern(regex::Regex::new(text).unwrap()));
    seeded(3_000, |rng| {
        let routes: Vec<model::Route> =
            (0..rng.usize(1..30)).map(|_| respond(random_match(rng, &regexes))).collect();
        let table = table(&routes);
        for _ in 0..20 {
            let request = random_request(rng);
            let facts = request.facts();
            let plain = routes.iter().position(|route| matching::matches(&route.matches, &facts));
            let indexed = table
                .find(&facts)
                .map(|found| table.routes().iter().position(|r| std::ptr::eq(r, found)).unwrap());
            assert_eq!(indexed, plain, "{request:?}");
        }
    });
}

const HOSTS: [&str; 7] =
    ["example.com", "a.example.com", "b.example.com", "a.b.example.com", "com", "", "[::1]"];

fn random_path(rng: &mut fastrand::Rng) -> String {
    // Now and then deeper than the index looks.
    let depth = if rng.u8(..10) == 0 { rng.usize(30..36) } else { rng.usize(1..4) };
    let segments = if depth > 3 { ["a", "a", "a"] } else { ["a", "b", ""] };
    (0..depth).map(|_| format!("/{}", segments[rng.usize(..3)])).collect()
}

fn random_match(rng: &mut fastrand::Rng, regexes: &[Pattern]) -> Match {
    let mut wanted = Match::default();
    for _ in 0..rng.usize(..3) {
        let pattern = ["*.example.com", "*.com", "*.b.example.com"];
        let name =
            if rng.bool() { HOSTS[rng.usize(..HOSTS.len())] } else { pattern[rng.usize(..3)] };
        wanted.host.push(host(name));
    }
    for _ in 0..rng.usize(..3) {
        let text = random_path(rng);
        wanted.path.push(match rng.u8(..8) {
            0 => PathPattern::Prefix(String::new()),
            1..=4 => PathPattern::Prefix(text),
            _ => PathPattern::Exact(text),
        });
    }
    if rng.u8(..4) == 0 {
        wanted.path_regex = Some(regexes[rng.usize(..regexes.len())].clone());
    }
    if rng.u8(..4) == 0 {
        wanted.method.push(Method::POST);
    }
    if rng.u8(..4) == 0 {
        wanted.header.push((HeaderName::from_static("x-a"), ValuePattern::Exact("1".into())));
    }
    if rng.u8(..4) == 0 {
        wanted.query.push(("q".into(), ValuePattern::Present));
    }
    if rng.u8(..4) == 0 {
        wanted.client.push("10.0.0.0/8".parse().unwrap());
    }
    wanted
}

fn random_request(rng: &mut fastrand::Rng) -> Request {
    let path = if rng.u8(..20) == 0 { "*".into() } else { random_path(rng) };
    let mut request = Request::get(HOSTS[rng.usize(..HOSTS.len())], &path);
    if rng.bool() {
        request.method = Method::POST;
    }
    if rng.bool() {
        request.headers.push(b"x-a", b"1");
    }
    if rng.bool() {
        request.query = Some("q=1".into());
    }
    if rng.bool() {
        request.client = Some(IpAddr::from([10, 0, 0, 1]));
    }
    request
}

/// Text made of the parts that matter to a parser.
fn random_text(rng: &mut fastrand::Rng, parts: &[&str]) -> String {
    (0..rng.usize(..12)).map(|_| parts[rng.usize(..parts.len())]).collect()
}

const PATH_PARTS: [&str; 24] = [
    "/", "/", "/", ".", "..", "a", "Z", "~", "%2e", "%2E", "%41", "%2f", "%2F", "%c3%A9", "%25",
    "%", "2", "\\", "%5c", "%00", "?", "#", " ", "\u{e9}",
];

/// RFC 3986 5.2.4 to the letter, for paths that start with a slash.
fn remove_dot_segments(path: &str) -> String {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("/./") {
            input.drain(..2);
        } else if input == "/." {
            input = "/".into();
        } else if input.starts_with("/../") || input == "/.." {
            input = if input.len() > 3 { input[3..].into() } else { "/".into() };
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

#[test]
fn a_normal_path_is_safe_and_stays_as_it_is() {
    seeded(50_000, |rng| {
        let path = format!("/{}", random_text(rng, &PATH_PARTS));
        let Ok(normal) = target::normalise(&path) else { return };
        assert_eq!(target::normalise(&normal), Ok(Cow::Borrowed(&*normal)), "{path}");
        assert_eq!(matches!(normal, Cow::Borrowed(_)), normal == path, "{path}");
        assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
        let target: http::uri::PathAndQuery = normal.parse().unwrap();
        assert_eq!((target.path(), target.query()), (&*normal, None), "{path}");
    });
}

#[test]
fn spelling_a_character_otherwise_changes_nothing() {
    seeded(20_000, |rng| {
        let parts = ["/", "/", ".", "..", "a", "b~", "%2F", "%C3"];
        let clean = format!("/{}", random_text(rng, &parts));
        let spelled: String = clean
            .split_inclusive("%2F")
            .flat_map(|part| part.split_inclusive("%C3"))
            .flat_map(|part| match part.find('%') {
                Some(at) => [&part[..at], &part[at..]],
                None => [part, ""],
            })
            .map(|part| if part.starts_with('%') { part.to_lowercase() } else { spell(rng, part) })
            .collect();
        match target::normalise(&spelled) {
            Ok(normal) => assert_eq!(normal, remove_dot_segments(&clean), "{spelled}"),
            Err(why) => {
                assert_eq!(why, target::BadTarget::HiddenDots, "{spelled}");
                assert!(clean.contains(".%2F") || clean.contains("%2F."), "{spelled}");
            }
        }
    });
}

/// Escapes some of the unreserved characters of `text`.
fn spell(rng: &mut fastrand::Rng, text: &str) -> String {
    text.chars()
        .map(|c| match (c, rng.u8(..3)) {
            ('/', _) | (_, 0) => c.to_string(),
            (_, 1) => format!("%{:02x}", u32::from(c)),
            _ => format!("%{:02X}", u32::from(c)),
        })
        .collect()
}

#[test]
fn a_normal_host_stays_as_it_is() {
    let parts = ["a", "B", ".", ":", "80", "[", "]", "::1", "@", " ", "_", "-", "%", "\u{e9}", "*"];
    seeded(50_000, |rng| {
        let text = random_text(rng, &parts);
        let Ok(normal) = host::normalise(&text) else { return };
        assert_eq!(host::normalise(&normal), Ok(Cow::Borrowed(&*normal)), "{text}");
        assert!(!normal.is_empty() && !normal.bytes().any(|b| b.is_ascii_uppercase()), "{text}");
        assert!(HeaderValue::from_str(&normal).is_ok(), "{text}");
    });
}

#[test]
fn no_rewrite_leaves_the_normal_form() {
    let text = |rng: &mut fastrand::Rng| {
        let parts = ["/", "a", ".", "$0", "$1", "%41", "%2", "?", " ", "\r\n"];
        random_text(rng, &parts)
    };
    let patterns = ["a", "/", "(.)/", "^", "[.a]"].map(|p| Pattern(regex::Regex::new(p).unwrap()));
    seeded(20_000, |rng| {
        let path = format!("/{}", random_text(rng, &["/", "a", "b", "..", "%2F"]));
        let Ok(path) = target::normalise(&path) else { return };
        let rule = Rewrite {
            strip_prefix: rng.bool().then(|| "/a".into()),
            path_regex: rng
                .bool()
                .then(|| (patterns[rng.usize(..patterns.len())].clone(), text(rng))),
            add_prefix: rng.bool().then(|| "/b/".into()),
            host: None,
        };
        let query = rng.bool().then(|| text(rng));
        let written = (&*path, query.as_deref());
        let Ok(Some(found)) = rewrite::apply(&rule, written, &path) else { return };
        let case = format!("{rule:?} on {written:?}");
        let (kept, rest) = found.split_at(found.find('?').unwrap_or(found.len()));
        assert_eq!(target::normalise(kept), Ok(Cow::Borrowed(kept)), "{case}");
        assert_eq!(rest.strip_prefix('?'), query.as_deref(), "{case}");
    });
}
