//! Requests that are malformed or ambiguous are refused, wherever they stand and however they are cut:
//! with our own answer, a closed connection, and no whole request at the backend.

use crate::harness::{Conn, Proxy, Witness, setup};

/// What follows a request that was refused must not be taken for another one.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

struct Stage {
    witness: Witness,
    proxy: Proxy,
}

fn stage(set: &str) -> Stage {
    let witness = Witness::open();
    let config = setup().set("workers: 1").set(set).http("web", "web").pool("web", [&witness], "");
    Stage { witness, proxy: Proxy::start(config) }
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}

impl Stage {
    fn open(&self) -> Conn {
        Conn::open(self.proxy.address("web")).unwrap()
    }

    /// Reads a refusal of ours with this status, and the end of the connection.
    #[track_caller]
    fn assert_refused(&self, conn: &mut Conn, status: u16, what: &str) {
        let answer = conn.answer("GET").unwrap_or_else(|why| panic!("{why} for {what}"));
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.closes(), "{what}: {:?}", answer.headers);
        let ours = format!("{status} ");
        assert!(answer.text().starts_with(&ours), "{what}: {:?}", answer.text());
        // In order or by a reset, as not all that was sent may have been read.
        conn.rest().map_or_else(|_| (), |rest| assert_eq!(rest, b"", "{what}"));
    }

    #[track_caller]
    fn refuses(&self, bytes: impl AsRef<[u8]>, status: u16) {
        let bytes = bytes.as_ref();
        let mut conn = self.open();
        // It may be refused before all of it is taken.
        let _ = conn.send([bytes, NEXT.as_bytes()].concat());
        self.assert_refused(&mut conn, status, &shown(bytes));
    }

    /// All that has reached the backend whole; nothing but what is meant to.
    #[track_caller]
    fn assert_only(&self, lines: &[String]) {
        self.witness.settle(&self.proxy);
        assert_eq!(self.witness.lines(), lines);
    }
}

/// A request with these field lines and an empty chunked body behind, if anybody should look for one.
fn with_fields(fields: &str) -> Vec<u8> {
    format!("POST /x HTTP/1.1\r\n{fields}\r\n\r\n0\r\n\r\n").into_bytes()
}

/// The same with a Host.
fn framed(fields: &str) -> Vec<u8> {
    with_fields(&format!("Host: a\r\n{fields}"))
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// Framings that are unclear, by their field lines.
pub const FRAMINGS: [&str; 66] = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Transfer-Encoding: chunked\r\nContent-Length: 0",
    "content-length: 5\r\nX: y\r\nTRANSFER-ENCODING: CHUNKED",
    "Content-Length: x\r\nTransfer-Encoding: chunked",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 0\r\nContent-Length: 5",
    "Content-Length: 5\r\ncontent-length: 5\r\nCONTENT-LENGTH: 5",
    "Content-Length: 5, 5",
    "Content-Length: 5,6",
    "Content-Length: 5,",
    "Content-Length: ,5",
    "Content-Length: 5;",
    "Content-Length:",
    "Content-Length: ",
    "Content-Length: -1",
    "Content-Length: -0",
    "Content-Length: +5",
    "Content-Length: 5 5",
    "Content-Length: 5\t5",
    "Content-Length: 5.0",
    "Content-Length: 5e0",
    "Content-Length: 0x5",
    "Content-Length: 5h",
    "Content-Length: a",
    "Content-Length: \"5\"",
    "Content-Length: 1_0",
    "Content-Length: \u{0665}",
    "Content-Length: \u{ff15}",
    "Content-Length: 9223372036854775808",
    "Content-Length: 18446744073709551615",
    "Content-Length: 18446744073709551616",
    "Content-Length: 18446744073709551621",
    "Content-Length: 99999999999999999999999999",
    "Content-Length: -9223372036854775808",
    "Transfer-Encoding:",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: deflate",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: , chunked ,",
    "Transfer-Encoding: chunked;",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked; a=b",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunke",
    "Transfer-Encoding: chunked chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: cow\r\nContent-Length: 5",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6",
    "Transfer-Encoding: chu\u{212a}ed",
    "Transfer-Encoding: \u{a0}chunked",
];

/// Field lines that are none.
pub const FIELDS: [&str; 36] = [
    "X: y\r\n z",
    "X: y\r\n\tz",
    "X:\r\n y",
    "X: y\r\n \r\nZ: z",
    " X: y",
    "\tX: y",
    "X : y",
    "X\t: y",
    "Transfer-Encoding : chunked",
    "Content-Length : 5",
    "Content-Length\t: 5",
    "Transfer-Encoding: chunked\r\n X: y",
    "Content-Length: 5\r\n 5",
    ": y",
    " : y",
    "X",
    "X y",
    "X Y: z",
    "X;: y",
    "X(a): y",
    "\"X\": y",
    "X,Y: z",
    "X/Y: z",
    "X@: y",
    "[X]: y",
    "X{}: y",
    "X=: y",
    "X\\: y",
    "\u{e9}: y",
    "X: y\nZ: z",
    "X: y\rZ: z",
    "X: y\r\r\nZ: z",
    "X: y\n\r\nZ: z",
    "X: y\r",
    "X: y\n",
    "X: y\r\n\nZ: z",
];

const HOSTS: [&str; 27] = [
    "X: y",
    "Host: a\r\nHost: a",
    "Host: a\r\nhost: b",
    "Host: a\r\nX: y\r\nHOST: a",
    "Host:",
    "Host: ",
    "Host:\r\nHost: a",
    "Host: a b",
    "Host: a\tb",
    "Host: a,b",
    "Host: a, a",
    "Host: a;b",
    "Host: a/b",
    "Host: http://a",
    "Host: a?b",
    "Host: a#b",
    "Host: a\\b",
    "Host: u@a",
    "Host: u:p@a",
    "Host: a:x",
    "Host: a:80:80",
    "Host: a:-1",
    "Host: a:65536",
    "Host: :80",
    "Host: [::1",
    "Host: a%00",
    "Host: <a>",
];

const TARGETS: [&str; 30] = [
    "",
    "a",
    "a/b",
    "?a",
    "#",
    "*",
    "/a#b",
    "/#",
    "/a?b#c",
    "http://a/b#c",
    "http://a#b",
    "/a b",
    "/a\tb",
    "/\x7f",
    "/?\x7f",
    "/a\u{e9}",
    "/?\u{e9}",
    "/\u{200b}",
    "/a\\b",
    "/%00",
    "/%zz",
    "http://",
    "http:///a",
    "http:/a",
    "http:a",
    "http://u@a/",
    "http://a:x/",
    "http://a b/",
    "ftp://a/",
    "//a b/",
];

/// First lines that are none.
const LINES: [&str; 40] = [
    "GET /",
    "GET / ",
    "GET",
    "GET /\r\nHost: a\r\n\r\nGET / HTTP/1.1",
    "GET / HTTP/0.9",
    "GET / HTTP/1.2",
    "GET / HTTP/1.9",
    "GET / HTTP/2.0",
    "GET / HTTP/2",
    "GET / HTTP/3.0",
    "GET / HTTP/1",
    "GET / HTTP/1.",
    "GET / HTTP/.1",
    "GET / HTTP/11",
    "GET / HTTP/1.1.1",
    "GET / HTTP/1.10",
    "GET / HTTP/01.1",
    "GET / HTTP/1.01",
    "GET / HTTP/-1.1",
    "GET / HTTP/1,1",
    "GET / http/1.1",
    "GET / Http/1.1",
    "GET / HTTPS/1.1",
    "GET / HTTP 1.1",
    "GET / HTTP/ 1.1",
    "GET / HTTP/1.1 ",
    "GET / HTTP/1.1\t",
    "GET / HTTP/1.1 x",
    "GET / XHTTP/1.1",
    "GET / ICY/1.1",
    "GET  / HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET\t/ HTTP/1.1",
    "GET /\tHTTP/1.1",
    " GET / HTTP/1.1",
    "\tGET / HTTP/1.1",
    "G\u{c9}T / HTTP/1.1",
    "GE(T) / HTTP/1.1",
    "GET, / HTTP/1.1",
    "PRI * HTTP/2.0",
];

/// Chunked bodies that break the coding, from their first byte on. Each would be followed by a request
/// if it were taken to have ended.
pub const BODIES: [&str; 78] = [
    "\r\n",
    "\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "g\r\n",
    "x5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "5.0\r\nhello\r\n0\r\n\r\n",
    "\"5\"\r\nhello\r\n0\r\n\r\n",
    "5,5\r\nhello\r\n0\r\n\r\n",
    "5 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\rhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello \r\n0\r\n\r\n",
    "5\r\nhellos\r\n0\r\n\r\n",
    "4\r\nhello\r\n0\r\n\r\n",
    "5\r\nhell\r\n0\r\n\r\n",
    "5\r\nhello\r\n\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\r\n",
    "5\r\nhello\r\n0\r\n\r\r\n",
    "5\r\nhello\r\n0 \r\n\r\n",
    "5\r\nhello\r\n\u{ff10}\r\n\r\n",
    "5\0\r\nhello\r\n0\r\n\r\n",
    "5\x0b\r\nhello\r\n0\r\n\r\n",
    "5\u{a0}\r\nhello\r\n0\r\n\r\n",
    "8000000000000000\r\n",
    "ffffffffffffffff\r\n",
    "FFFFFFFFFFFFFFFB\r\nhello\r\n0\r\n\r\n",
    "10000000000000000\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffffffff\r\n",
    "5;\r\nhello\r\n0\r\n\r\n",
    "5; \r\nhello\r\n0\r\n\r\n",
    "5;;a\r\nhello\r\n0\r\n\r\n",
    "5;=b\r\nhello\r\n0\r\n\r\n",
    "5;a=\r\nhello\r\n0\r\n\r\n",
    "5;a= \r\nhello\r\n0\r\n\r\n",
    "5;a=b c\r\nhello\r\n0\r\n\r\n",
    "5;a b\r\nhello\r\n0\r\n\r\n",
    "5;a=b=c\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\"c\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\\\r\n\"\r\nhello\r\n0\r\n\r\n",
    "5;a=b\nhello\r\n0\r\n\r\n",
    "5;a\n\r\nhello\r\n0\r\n\r\n",
    "5;a\rX\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\r\"\r\nhello\r\n0\r\n\r\n",
    "5;a\0\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\x7f\"\r\nhello\r\n0\r\n\r\n",
    "5;a=(b)\r\nhello\r\n0\r\n\r\n",
    "5;a,b\r\nhello\r\n0\r\n\r\n",
    "0\r\nX\r\n\r\n",
    "0\r\nX: y\r\n z\r\n\r\n",
    "0\r\n X: y\r\n\r\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\nX Y: z\r\n\r\n",
    "0\r\n: y\r\n\r\n",
    "0\r\nX: y\n\r\n",
    "0\r\nX: y\r\n\n",
    "0\r\nX: y\rZ: z\r\n\r\n",
    "0\r\nX: y\r\r\n\r\n",
    "0\r\nX: \0\r\n\r\n",
    "0\r\nX: \x7f\r\n\r\n",
    "0\r\nX\0: y\r\n\r\n",
    "0\r\nX(: y\r\n\r\n",
    "0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
];

const CHUNKED: &str = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Every head that is to be refused with 400.
fn heads() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    all.extend(FRAMINGS.iter().map(|fields| framed(fields)));
    all.extend(FIELDS.iter().map(|fields| framed(fields)));
    all.extend(HOSTS.iter().map(|fields| with_fields(fields)));
    all.extend(TARGETS.iter().map(|target| get(target)));
    all.extend(LINES.iter().map(|line| format!("{line}\r\nHost: a\r\n\r\n").into_bytes()));
    for fields in ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"] {
        let text = format!("POST /x HTTP/1.0\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        all.push(text.into_bytes());
    }
    all.push(b"GET /x HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".to_vec());
    all.push(b"GET http://a/ HTTP/1.1\r\n\r\n".to_vec());
    all.push(b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_vec());
    // Line ends of other kinds, alone and throughout.
    for text in [
        "GET /x HTTP/1.1\nHost: a\n\n",
        "GET /x HTTP/1.1\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\n\n",
        "GET /x HTTP/1.1\r\nHost: a\n\n",
        "GET /x HTTP/1.1\rHost: a\r\r",
        "GET /x HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET /x HTTP/1.1\n\rHost: a\n\r\n\r",
        "\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\nHost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\n\r\nhello",
        "GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\n\r\n0\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: \rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        all.push(text.as_bytes().to_vec());
    }
    // Controls in every part of a head.
    for control in (0..=0x1f).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        for (before, after) in [
            (&b"G"[..], &b"ET /x HTTP/1.1\r\nHost: a\r\n\r\n"[..]),
            (b"GET /", b"x HTTP/1.1\r\nHost: a\r\n\r\n"),
            (b"GET /?", b"x HTTP/1.1\r\nHost: a\r\n\r\n"),
            (b"GET /x HTTP/1.1\r\nHost: a", b"b\r\n\r\n"),
            (b"GET /x HTTP/1.1\r\nHost: a\r\nX", b": y\r\n\r\n"),
            (b"GET /x HTTP/1.1\r\nHost: a\r\nX: ", b"y\r\n\r\n"),
            (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:", b"chunked\r\n\r\n0\r\n\r\n"),
            (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0", b"\r\n\r\n"),
        ] {
            all.push([before, &[control], after].concat());
        }
    }
    all
}

#[test]
fn heads_that_are_malformed_or_ambiguous_are_refused() {
    let stage = stage("");
    let heads = heads();
    assert!(heads.len() > 400, "{}", heads.len());
    for head in &heads {
        stage.refuses(head, 400);
    }
    stage.assert_only(&[]);
    assert_eq!(stage.witness.broken(), [""; 0], "not even a part of one");
    assert_eq!(stage.proxy.metric("evenkeel_backend_connections_total", &[]), 0.0);
    let cause = [("cause", "bad_request")];
    stage.proxy.wait_metric("evenkeel_listener_failures_total", &cause, heads.len() as f64);
    stage.proxy.wait_at_rest();
}

#[test]
fn bodies_that_break_the_chunked_coding_reach_no_backend_whole() {
    let stage = stage("");
    for body in BODIES {
        stage.refuses(format!("{CHUNKED}{body}"), 400);
        // In a later chunk.
        stage.refuses(format!("{CHUNKED}3\r\none\r\n{body}"), 400);
    }
    for control in (0..=0x1f).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        for (before, after) in [
            ("5", "\r\nhello\r\n0\r\n\r\n"),
            ("5;a", "\r\nhello\r\n0\r\n\r\n"),
            ("5;a=\"", "\"\r\nhello\r\n0\r\n\r\n"),
            ("0\r\nX", ": y\r\n\r\n"),
            ("0\r\nX: y", "\r\n\r\n"),
        ] {
            let body = [before.as_bytes(), &[control], after.as_bytes()].concat();
            stage.refuses([CHUNKED.as_bytes(), &body].concat(), 400);
        }
    }
    // Nobody is to send what nobody reads for ever.
    let extensions = format!("1;{}\r\nx\r\n", "a".repeat(1000)).repeat(20);
    stage.refuses(format!("{CHUNKED}{extensions}0\r\n\r\n"), 400);
    let trailers = format!("X: {}\r\n", "y".repeat(1000)).repeat(20);
    stage.refuses(format!("{CHUNKED}0\r\n{trailers}\r\n"), 400);
    stage.refuses(format!("{CHUNKED}0\r\n{}\r\n", "X: y\r\n".repeat(200)), 400);
    stage.assert_only(&[]);
    assert_eq!(stage.proxy.metric("evenkeel_backend_failures_total", &[]), 0.0);
    stage.proxy.wait_at_rest();
}

#[test]
fn a_refused_request_takes_nothing_from_the_one_before_it() {
    let stage = stage("");
    let heads = heads();
    // One in three: each kind has its share.
    let refused = heads.iter().step_by(3).cloned();
    let bodies = BODIES.iter().step_by(3).map(|body| format!("{CHUNKED}{body}").into_bytes());
    let mut expected = Vec::new();
    for (n, hostile) in refused.chain(bodies).enumerate() {
        let first = match n % 3 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
            1 => format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"),
            _ => format!(
                "POST /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2;x=y\r\nab\r\n0\r\nX: y\r\n\r\n"
            ),
        };
        let what = shown(&hostile);
        let mut conn = stage.open();
        let _ = conn.send([first.as_bytes(), &hostile, NEXT.as_bytes()].concat());
        let answer = conn.answer("GET").unwrap_or_else(|why| panic!("{why} before {what}"));
        assert_eq!((answer.status, answer.text()), (200, format!("/{n}")), "{what}");
        // An empty line before a request's line is put up with: what came after it is the request.
        stage.assert_refused(&mut conn, 400, &what);
        expected.push(format!("{} HTTP/1.1", &first[..first.find(" HTTP").unwrap()]));
    }
    stage.assert_only(&expected);
}

#[test]
fn however_a_hostile_request_is_cut_it_is_refused_at_once() {
    // Nothing is to be settled by the time that a head may take.
    let stage = stage("timeouts: {client_header: 60s, client_body: 60s}");
    let mut received = 0.0;
    for hostile in [
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\n\n",
        "GET /x HTTP/1.1\nHost: a\n\n",
        "GET /x HTTP/1.1\rHost: a\r\r",
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /x\r\n",
        "GET /x HTTP/2.0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n",
    ] {
        for cut in 1..hostile.len() {
            let what = format!("{hostile:?} cut at {cut}");
            let mut conn = stage.open();
            conn.send(&hostile[..cut]).unwrap();
            received += cut as f64;
            // The two parts shall not be read as one.
            stage.proxy.wait_metric("evenkeel_listener_received_bytes_total", &[], received);
            let _ = conn.send(&hostile[cut..]);
            stage.assert_refused(&mut conn, 400, &what);
            received = stage.proxy.metric("evenkeel_listener_received_bytes_total", &[]);
        }
    }
    stage.assert_only(&[]);
}

#[test]
fn what_is_too_much_is_refused_with_its_own_status() {
    let stage = stage("limits: {request_head: 16KiB, headers: 20, request_body: 10KiB}");
    let long = "x".repeat(17 * 1024);
    for (bytes, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET /?{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET http://a/{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{long}: x\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(3000)), 431),
        // More names than there can be fields are there to be looked up for nothing.
        (format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "a,".repeat(7000)), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10241\r\n\r\n".into(), 413),
        (format!("{CHUNKED}2801\r\n{}\r\n0\r\n\r\n", "x".repeat(0x2801)), 413),
        (format!("{CHUNKED}{}0\r\n\r\n", "1\r\nx\r\n".repeat(0x2801)), 413),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".into(), 405),
    ] {
        stage.refuses(&bytes, status);
    }
    // Whether more is to come or not.
    for (bytes, status) in [
        (format!("GET /{long}"), 414),
        (long.clone(), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{long}"), 431),
    ] {
        let mut conn = stage.open();
        let _ = conn.send(&bytes);
        stage.assert_refused(&mut conn, status, &shown(bytes.as_bytes()));
    }
    stage.assert_only(&[]);
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_waited_for_no_longer_than_configured() {
    let stage = stage("timeouts: {client_header: 300ms, client_idle: 60s}");
    for part in ["G", "GET / HT", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: y", "\r"] {
        let mut conn = stage.open();
        conn.send(part).unwrap();
        stage.assert_refused(&mut conn, 408, part);
        // And so it is for the second of a connection.
        let mut conn = stage.open();
        conn.send(format!("{NEXT}{part}")).unwrap();
        assert_eq!(conn.answer("GET").unwrap().text(), "/next");
        stage.assert_refused(&mut conn, 408, part);
    }
    // Dribbling does not help.
    let mut conn = stage.open();
    let began = std::time::Instant::now();
    while conn.is_silent() {
        // It may be closed just now. Asking for the metrics is the pause between two bytes.
        let _ = conn.send("X");
        stage.proxy.scrape();
        assert!(began.elapsed() < crate::harness::PATIENCE, "it is put up with");
    }
    assert_eq!(conn.answer("GET").unwrap().status, 408);
}

#[test]
fn a_request_that_ends_with_its_connection_is_no_request() {
    let stage = stage("");
    for part in [
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r",
    ] {
        for reset in [false, true] {
            let mut conn = stage.open();
            conn.send(part).unwrap();
            if reset {
                conn.reset();
                continue;
            }
            conn.finish_writing();
            let rest = conn.rest().unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&rest), "", "{part:?}");
        }
    }
    stage.proxy.wait_at_rest();
    stage.assert_only(&[]);
}
