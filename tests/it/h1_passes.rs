//! What is unusual but right is not refused, and reaches its backend as the same request.

use crate::harness::{Conn, Got, Proxy, Witness, setup};

/// A request, and what is to come of it.
#[derive(Clone, Debug, Default)]
struct Case {
    text: Vec<u8>,
    /// Method and target.
    asked: String,
    host: String,
    /// Fields but for those that we write ourselves.
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

/// A request without a body that goes on as it came.
fn plain(line: &str, asked: &str) -> Case {
    let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
    Case { text, asked: asked.into(), host: "a".into(), ..Case::default() }
}

fn same(line: &str) -> Case {
    plain(line, line)
}

/// With these field lines, of which `fields` are to come.
fn with(lines: &str, fields: &[(&str, &str)]) -> Case {
    let text = format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes();
    let fields = fields.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    Case { text, fields, ..same("GET /x") }
}

fn host(lines: &str, host: &str) -> Case {
    let text = format!("GET /x HTTP/1.1\r\n{lines}\r\n\r\n").into_bytes();
    Case { text, host: host.into(), ..same("GET /x") }
}

/// A body in chunks, as they are written.
fn chunks(coded: &str, body: &str, trailers: &[(&str, &str)]) -> Case {
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let trailers = trailers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let text = format!("{head}{coded}").into_bytes();
    Case { text, body: body.into(), trailers, ..same("POST /x") }
}

fn framed(line: &str, lines: &str, rest: &str, body: &str) -> Case {
    let text = format!("{line} HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{rest}").into_bytes();
    Case { text, body: body.into(), ..same(line) }
}

fn lines_and_hosts() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    for method in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        "get",
        "Get",
        "M-SEARCH",
        "X",
        "QUERY",
        "PRI",
        "!#$%&'*+-.^_`|~09aZ",
        "AVERYLONGMETHODNAMETHATNOBODYUSES",
    ] {
        all.push(same(&format!("{method} /x")));
    }
    for target in [
        "/",
        "//",
        "//a//b",
        "/a;b=c",
        "/a,b",
        "/a:b@c",
        "/a%20b",
        "/%C3%A9",
        "/a%2Fb",
        "/?",
        "/??",
        "/?a=b&c=d",
        "/?a=/../b",
        "/?a=%00",
        "/?http://b/",
        "/a?b?c",
        "/a'b(c)d*e!f$g",
        "/~a/-b_c.d",
        "/a+b=c&d",
        "/...",
        "/{a}|\"[b]^",
        "/?[a]{b}|^`\\",
    ] {
        all.push(same(&format!("GET {target}")));
    }
    all.push(same(&format!("GET /{}", "x".repeat(8000))));
    all.push(same(&format!("GET /?{}", "x".repeat(30_000))));
    for (line, asked) in [
        ("OPTIONS *", "OPTIONS *"),
        ("OPTIONS http://a", "OPTIONS *"),
        ("OPTIONS http://a/", "OPTIONS /"),
        ("OPTIONS http://a?q", "OPTIONS /?q"),
        ("GET http://a/b?c", "GET /b?c"),
        ("GET HTTP://a/b", "GET /b"),
        ("GET https://a/b", "GET /b"),
        ("GET http://a", "GET /"),
        ("GET http://a?b", "GET /?b"),
        ("GET /a/../b/./c", "GET /b/c"),
        ("GET /%61", "GET /a"),
        ("GET /a%2fb", "GET /a%2Fb"),
    ] {
        all.push(plain(line, asked));
    }
    for name in ["a:80", "a:", "A.Example", "a.example.", "a_b-c", "192.0.2.1", "[::1]", "[::1]:80"]
    {
        all.push(host(&format!("Host: {name}"), name));
        all.push(host(&format!("hOST:{name} \t"), name));
    }
    let text = b"GET http://b:81/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    all.push(Case { text, host: "b:81".into(), ..same("GET /x") });
    for empty in ["\r\n", "\r\n\r\n\r\n"] {
        let text = format!("{empty}GET /x HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        all.push(Case { text, ..same("GET /x") });
    }
    all
}

fn fields() -> Vec<Case> {
    let latin: String = (0xa0..=0xff_u8).map(char::from).collect();
    let mut obs = b"GET /x HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    obs.extend(0xa0..=0xff_u8);
    obs.extend(b"\r\n\r\n");
    let many: Vec<(String, String)> = (0..99).map(|n| (format!("X-{n}"), n.to_string())).collect();
    let lines: Vec<String> = many.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let long = "y".repeat(60 * 1024);
    vec![
        with("X: y", &[("X", "y")]),
        with("X:y", &[("X", "y")]),
        with("X: \t  y \t ", &[("X", "y")]),
        with("X: a \t b", &[("X", "a \t b")]),
        with("X:", &[("X", "")]),
        with("X: ", &[("X", "")]),
        with("X: :", &[("X", ":")]),
        with("X: y: z", &[("X", "y: z")]),
        with("X: \"a\\\"b\", (c), <d>@e", &[("X", "\"a\\\"b\", (c), <d>@e")]),
        with("X: y\r\nX: z\r\nx: y", &[("X", "y"), ("X", "z"), ("x", "y")]),
        with("!#$%&'*+-.^_`|~09aZ: y", &[("!#$%&'*+-.^_`|~09aZ", "y")]),
        with("Cookie: a=b; c=d\r\nCookie: e", &[("Cookie", "a=b; c=d"), ("Cookie", "e")]),
        with("Connection: close\r\nX: y", &[("X", "y")]),
        with("Connection: keep-alive, X\r\nX: y\r\nZ: z", &[("Z", "z")]),
        with("Connection: ,, x ,\r\nX: y\r\nZ: z", &[("Z", "z")]),
        with("Connection: a\r\nConnection: b\r\nA: 1\r\nB: 2\r\nC: 3", &[("C", "3")]),
        with("Connection:", &[]),
        with("Connection: host, content-length, transfer-encoding", &[]),
        with("Keep-Alive: 5\r\nProxy-Connection: x\r\nX: y", &[("X", "y")]),
        with("Upgrade: x", &[]),
        with("TE: gzip;q=0.5", &[]),
        with("Trailer: X", &[("Trailer", "X")]),
        with("Accept: */*\r\nRange: bytes=0-1", &[("Accept", "*/*"), ("Range", "bytes=0-1")]),
        with("Expect: nothing-special", &[("Expect", "nothing-special")]),
        with(&format!("X: {long}"), &[("X", &long)]),
        Case { text: obs, fields: vec![("X".into(), latin)], ..same("GET /x") },
        Case { fields: many, ..with(&lines.join("\r\n"), &[]) },
    ]
}

fn bodies() -> Vec<Case> {
    let trailers = "0\r\nX: y\r\nZ:\r\nx-c: \"d\" \r\n\r\n";
    let many: String =
        (0..500).map(|n| format!("{:x}\r\n{}\r\n", n % 9 + 1, &"abcdefghi"[..n % 9 + 1])).collect();
    let data: String = (0..500).map(|n| &"abcdefghi"[..n % 9 + 1]).collect();
    let aws = format!("400;chunk-signature={}\r\n{}\r\n", "0a".repeat(32), "x".repeat(1024));
    vec![
        framed("GET /x", "Content-Length: 4", "body", "body"),
        framed("DELETE /x", "Content-Length: 4", "body", "body"),
        framed("OPTIONS *", "Content-Length: 4", "body", "body"),
        framed("HEAD /x", "Content-Length: 4", "body", "body"),
        framed("X /x", "Content-Length: 4", "body", "body"),
        framed("POST /x", "CONTENT-LENGTH:\t004 ", "body", "body"),
        framed("POST /x", "Content-Length: 0", "", ""),
        framed("POST /x", "Content-Length: 00", "", ""),
        framed("POST /x", "Content-Length: 00000000000000000000000000000004", "body", "body"),
        framed("POST /x", "Connection: x", "", ""),
        framed(
            "POST /x",
            "Content-Length: 32",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n\n",
        ),
        framed("POST /x", "Expect: 100-continue\r\nContent-Length: 4", "body", "body"),
        framed("GET /x", "Transfer-Encoding: chunked", "4\r\nbody\r\n0\r\n\r\n", "body"),
        framed("PUT /x", "transfer-encoding: CHUNKED", "4\r\nbody\r\n0\r\n\r\n", "body"),
        framed("PUT /x", "Transfer-encoding:\tChunked \t", "4\r\nbody\r\n0\r\n\r\n", "body"),
        framed(
            "PUT /x",
            "Connection: close\r\nTransfer-Encoding: chunked",
            "4\r\nbody\r\n0\r\n\r\n",
            "body",
        ),
        chunks("0\r\n\r\n", "", &[]),
        chunks("00000000\r\n\r\n", "", &[]),
        chunks("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", &[]),
        chunks("0000000000000001\r\nx\r\n0000000000000000\r\n\r\n", "x", &[]),
        chunks("1;a\r\nx\r\n1;a=b\r\ny\r\n1;a=\"b\"\r\nz\r\n0;a\r\n\r\n", "xyz", &[]),
        chunks("1 ;a\r\nx\r\n1\t; a\r\ny\r\n1 ; a = \"b\" ; c = d\r\nz\r\n0\r\n\r\n", "xyz", &[]),
        chunks("1;a=\"\\\"\\\\;\\r\"\r\nx\r\n0;z=\"\u{e9}\t \"\r\n\r\n", "x", &[]),
        chunks("1;a;b;c=d;e=\"f\";a\r\nx\r\n0\r\n\r\n", "x", &[]),
        chunks("1;!#$%&'*+-.^_`|~=!#$%&'*+-.^_`|~\r\nx\r\n0\r\n\r\n", "x", &[]),
        chunks("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", &[]),
        chunks("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n", &[]),
        chunks(&format!("1\r\nx\r\n{trailers}"), "x", &[("X", "y"), ("Z", ""), ("x-c", "\"d\"")]),
        chunks(
            "0\r\nX: y\r\nContent-Length: 9\r\nhost: b\r\nTransfer-Encoding: x\r\n\r\n",
            "",
            &[("X", "y")],
        ),
        chunks(
            "0\r\nX-Forwarded-For: 1.2.3.4\r\nAuthorization: x\r\nConnection: x\r\n\r\n",
            "",
            &[],
        ),
        chunks(&format!("{many}0\r\n\r\n"), &data, &[]),
        chunks(&format!("{}0\r\n\r\n", aws.repeat(100)), &"x".repeat(102_400), &[]),
    ]
}

struct Stage {
    witness: Witness,
    proxy: Proxy,
}

fn stage() -> Stage {
    let witness = Witness::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&witness], "");
    Stage { proxy: Proxy::start(config), witness }
}

impl Stage {
    fn open(&self) -> Conn {
        Conn::open(self.proxy.address("web")).unwrap()
    }
}

/// Fields that we write ourselves, or not at all.
const OURS: [&str; 7] = [
    "host",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "content-length",
    "transfer-encoding",
    "connection",
];

#[track_caller]
fn assert_came(case: &Case, got: &Got) {
    let what = case.text[..case.text.len().min(300)].escape_ascii();
    assert_eq!(got.line, format!("{} HTTP/1.1", case.asked), "{what}");
    let ours = |name: &str| OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours));
    let fields: Vec<_> = got.fields.iter().filter(|(name, _)| !ours(name)).cloned().collect();
    let expects = ("Expect".to_owned(), "100-continue".to_owned());
    let fields: Vec<_> = fields.into_iter().filter(|field| *field != expects).collect();
    assert_eq!(fields, case.fields, "{what}");
    assert_eq!(got.all("host"), [case.host.as_str()], "{what}");
    assert_eq!(got.all("x-forwarded-host"), [case.host.as_str()], "{what}");
    assert!(got.all("connection").is_empty(), "{what}: {got:?}");
    assert_eq!(got.body, case.body, "{what}");
    assert_eq!(got.trailers, case.trailers, "{what}");
}

fn all() -> Vec<Case> {
    [lines_and_hosts(), fields(), bodies()].concat()
}

#[test]
fn unusual_requests_reach_their_backend_as_they_are() {
    let stage = stage();
    let cases = all();
    assert!(cases.len() > 120, "{}", cases.len());
    for (n, case) in cases.iter().enumerate() {
        let what = case.text[..case.text.len().min(300)].escape_ascii().to_string();
        let mut conn = stage.open();
        conn.send(&case.text).unwrap();
        let method = case.asked.split(' ').next().unwrap();
        let answer = conn.answer(method).unwrap_or_else(|why| panic!("{why} for {what}"));
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert!(conn.is_silent() || answer.closes(), "{what}");
        let whole = stage.witness.whole();
        assert_eq!(whole.len(), n + 1, "{what}");
        assert_came(case, &whole[n]);
    }
    stage.witness.settle(&stage.proxy);
    assert_eq!(stage.witness.broken(), [""; 0]);
    let bad = stage.proxy.metric("evenkeel_listener_failures_total", &[]);
    assert_eq!(bad, 0.0);
}

#[test]
fn wherever_a_request_is_cut_it_is_the_same() {
    let stage = stage();
    let mut received = 0.0;
    let mut come = 0;
    for case in [
        framed("POST /x", "Content-Length: 6\r\nX-A:  y ", "\r\n0\r\n\r", "\r\n0\r\n\r"),
        chunks("2;a=\"b\"\r\nab\r\n01\r\nc\r\n0\r\nX: y\r\n\r\n", "abc", &[("X", "y")]),
        plain("\r\n\r\nOPTIONS http://a", "OPTIONS *"),
    ] {
        let case = &case;
        for cut in 1..case.text.len() {
            let mut conn = stage.open();
            conn.send(&case.text[..cut]).unwrap();
            received += cut as f64;
            // The two parts shall not be read as one.
            stage.proxy.wait_metric("evenkeel_listener_received_bytes_total", &[], received);
            conn.send(&case.text[cut..]).unwrap();
            received += (case.text.len() - cut) as f64;
            assert_eq!(conn.answer("POST").unwrap().status, 200, "cut at {cut}");
            let whole = stage.witness.whole();
            come += 1;
            assert_eq!(whole.len(), come);
            let got = &whole[come - 1];
            assert_eq!((&got.body, &got.trailers), (&case.body, &case.trailers), "cut at {cut}");
            assert_eq!(got.line, format!("{} HTTP/1.1", case.asked), "cut at {cut}");
        }
    }
}

#[test]
fn pipelined_requests_of_all_kinds_arrive_one_after_the_other() {
    let stage = stage();
    // Those that end the connection cannot be followed, and what waits for 100 is told to go on.
    let last = |case: &&Case| {
        let text = String::from_utf8_lossy(&case.text).to_ascii_lowercase();
        !text.contains("connection: close") && !text.contains("100-continue")
    };
    let cases = all();
    let cases: Vec<&Case> = cases.iter().filter(last).collect();
    let mut conn = stage.open();
    let sender = Conn::over(conn.stream().try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let all: Vec<u8> = cases.iter().flat_map(|case| case.text.clone()).collect();
            sender.unwrap().send(all).unwrap();
        });
        for case in &cases {
            let method = case.asked.split(' ').next().unwrap();
            let answer = conn.answer(method).unwrap();
            assert_eq!(answer.status, 200, "{}", case.text.escape_ascii());
        }
    });
    let whole = stage.witness.whole();
    assert_eq!(whole.len(), cases.len());
    cases.iter().zip(&whole).for_each(|(case, got)| assert_came(case, got));
}

#[test]
fn thousands_of_pipelined_requests_are_each_answered_once() {
    let stage = stage();
    const COUNT: usize = 3000;
    let all: String = (0..COUNT).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    let mut conn = stage.open();
    let mut sender = Conn::over(conn.stream().try_clone().unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(all).unwrap();
            sender.finish_writing();
        });
        for n in 0..COUNT {
            assert_eq!(conn.answer("GET").unwrap().text(), format!("/{n}"));
        }
    });
    conn.assert_closed();
    assert_eq!(stage.witness.whole().len(), COUNT);
}

#[test]
fn clients_of_http10_are_served_as_they_ask() {
    let stage = stage();
    for (fields, kept) in [
        ("", false),
        ("Host: a\r\n", false),
        ("Connection: close\r\n", false),
        ("Connection: keep-alive\r\n", true),
        ("connection: Keep-Alive, x\r\n", true),
        ("Connection: keep-alive, close\r\n", false),
        ("Connection: keep-alive\r\nContent-Length: 0\r\n", true),
    ] {
        let mut conn = stage.open();
        conn.send(format!("GET /x HTTP/1.0\r\n{fields}\r\n")).unwrap();
        let answer = conn.answer("GET").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "/x"), "{fields}");
        let told = answer.header("connection").unwrap_or_default();
        assert_eq!(told == "keep-alive", kept, "{fields}: {told}");
        if !kept {
            conn.assert_closed();
        }
    }
    // It goes on as HTTP/1.1, for the backend's own name if it names none.
    let first = &stage.witness.whole()[0];
    assert_eq!(first.line, "GET /x HTTP/1.1");
    assert_eq!(first.all("host"), [stage.witness.address.to_string()]);
}

#[test]
fn after_a_request_that_ends_the_connection_nothing_is_served() {
    let stage = stage();
    for fields in
        ["Connection: close", "Connection: x, CLOSE", "Connection: x\r\nConnection: close"]
    {
        let mut conn = stage.open();
        conn.send(format!(
            "GET /last HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nGET /more HTTP/1.1\r\nHost: a\r\n\r\n"
        ))
        .unwrap();
        assert!(conn.answer("GET").unwrap().closes(), "{fields}");
        conn.assert_closed();
    }
    stage.witness.settle(&stage.proxy);
    assert_eq!(stage.witness.lines(), ["GET /last HTTP/1.1"; 3]);
}
