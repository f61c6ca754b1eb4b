//! What a client of HTTP/2 may try so that a backend of HTTP/1 reads another request than we did, or two
//! (RFC 9113 8.2, 8.3 and 10.3, RFC 9112 11.2): written frame by frame, and held against every byte that
//! reaches the backend.
//!
//! Either it is refused, or what arrives is one sound request and no more.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::h2_frames::{End, end, frame, open};
use crate::harness::{Got, Proxy, Witness, get, setup};

type Field = (Vec<u8>, Vec<u8>);

/// A request as its frames say it.
#[derive(Clone, Debug, Default)]
struct Case {
    fields: Vec<Field>,
    /// A DATA frame each. `None` and no trailers: the head ends the stream.
    body: Option<Vec<&'static [u8]>>,
    trailers: Option<Vec<Field>>,
}

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Field {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

fn asking(method: &str) -> Case {
    let pseudo =
        [(":method", method), (":scheme", "http"), (":path", "/x"), (":authority", "a.example")];
    let fields = pseudo.iter().map(|(name, value)| field(name, value)).collect();
    Case { fields, ..Case::default() }
}

fn plain() -> Case {
    asking("GET")
}

impl Case {
    /// One field more, behind the others.
    fn and(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Case {
        self.fields.push(field(name, value));
        self
    }

    /// One more, before all others.
    fn first(mut self, name: &str, value: &str) -> Case {
        self.fields.insert(0, field(name, value));
        self
    }

    /// Another value than it has.
    fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Case {
        let (_, old) = self.fields.iter_mut().find(|(n, _)| n == name.as_bytes()).expect("it has");
        *old = value.as_ref().to_vec();
        self
    }

    fn without(mut self, name: &str) -> Case {
        self.fields.retain(|(n, _)| n != name.as_bytes());
        self
    }

    fn body(mut self, frames: &[&'static [u8]]) -> Case {
        self.body = Some(frames.to_vec());
        self
    }

    fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Case {
        self.trailers.get_or_insert_default().push(field(name, value));
        self
    }

    fn send(&self, address: SocketAddr) -> TcpStream {
        let mut stream = open(address);
        let bare = self.body.is_none() && self.trailers.is_none();
        let mut bytes = frame(1, if bare { 5 } else { 4 }, 1, &block(&self.fields));
        let frames = self.body.iter().flatten();
        let last = frames.clone().count();
        for (n, data) in frames.enumerate() {
            let ends = n + 1 == last && self.trailers.is_none();
            bytes.extend(frame(0, u8::from(ends), 1, data));
        }
        if let Some(trailers) = &self.trailers {
            bytes.extend(frame(1, 5, 1, &block(trailers)));
        }
        // It may be cut off in the middle of it.
        let _ = stream.write_all(&bytes);
        stream
    }
}

/// RFC 7541 6.2.2: each field as it is, without indexing.
fn block(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match text.len() {
                short @ 0..127 => block.push(short as u8),
                long => {
                    let mut rest = long - 127;
                    block.push(127);
                    while rest >= 128 {
                        block.push(rest as u8 | 128);
                        rest >>= 7;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend(text);
        }
    }
    block
}

struct Stage {
    witness: Witness,
    proxy: Proxy,
}

fn stage() -> Stage {
    let witness = Witness::open();
    // One connection to the backend carries all that is sound, so that what is left over shows.
    let config = setup().set("workers: 1").http("web", "web");
    let keys = "retry: off, outlier: off";
    let proxy = Proxy::start(config.pool("web", [&witness], keys));
    Stage { witness, proxy }
}

impl Stage {
    /// Sends it, and then something else over the same connection to the backend. What reached the backend
    /// of the first, if anything whole did.
    #[track_caller]
    fn run(&self, case: &Case) -> (End, Vec<Got>) {
        let before = self.witness.whole().len();
        let found = end(case.send(self.proxy.address("web")));
        let after = get(self.proxy.address("web"), "/after").expect("an answer");
        assert_eq!((after.status, after.text().as_str()), (200, "/after"), "{}", shown(case));
        self.witness.settle(&self.proxy);
        let mut came = self.witness.whole().split_off(before);
        let last = came.pop().expect("the one that came after");
        assert_eq!(last.line, "GET /after HTTP/1.1", "{}", shown(case));
        (found, came)
    }
}

fn shown(case: &Case) -> String {
    let fields = |list: &[Field]| -> Vec<String> {
        let one = |(name, value): &Field| {
            let value = &value[..value.len().min(60)];
            format!("{}={}", name.escape_ascii(), value.escape_ascii())
        };
        list.iter().map(one).collect()
    };
    let trailers = case.trailers.as_deref().map(fields);
    format!("{:?} {:?} {trailers:?}", fields(&case.fields), case.body)
}

/// Octets that end a line of HTTP/1, or a field's name, in each place where they could.
fn octets() -> Vec<Case> {
    let mut all = Vec::new();
    for inserted in
        ["\r\nx-b: c", "\r", "\n", "\nx-b: c", "\0", "\r\n\r\nGET /smuggled HTTP/1.1\r\n"]
    {
        all.push(plain().and("x-a", format!("v{inserted}")));
        all.push(plain().and("x-a", format!("v{inserted}w")));
        all.push(plain().and("x-a", inserted));
        all.push(plain().and(format!("x-a{inserted}"), "v"));
        all.push(plain().set(":path", format!("/x{inserted}")));
        all.push(plain().set(":path", format!("/x?q{inserted}")));
        all.push(plain().set(":method", format!("GET{inserted}")));
        all.push(plain().set(":authority", format!("a.example{inserted}")));
        all.push(plain().without(":authority").and("host", format!("a.example{inserted}")));
        all.push(plain().set(":scheme", format!("http{inserted}")));
        all.push(plain().and("cookie", format!("a=b{inserted}")));
        all.push(asking("POST").body(&[b"b"]).trailer("x-t", format!("v{inserted}")));
        all.push(asking("POST").body(&[b"b"]).trailer(format!("x-t{inserted}"), "v"));
    }
    for name in
        ["x a", " x-a", "x-a ", "x-a:", "x-a: b", ":", "", "x\u{7f}", "x\u{e9}", "x(a)", "x\ta"]
    {
        all.push(plain().and(name, "v"));
        all.push(asking("POST").body(&[b"b"]).trailer(name, "v"));
    }
    for name in ["X-A", "x-A", "Host", "Content-Length", "Transfer-Encoding", "Cookie"] {
        all.push(plain().and(name, "1"));
        all.push(asking("POST").body(&[b"b"]).trailer(name, "1"));
    }
    for value in [" v", "v ", "\tv", "v\t", " ", "\u{7f}", "v\u{1}w", "v\u{1f}"] {
        all.push(plain().and("x-a", value));
    }
    all
}

/// What frames a body in HTTP/1, or says how its connection goes on, and has no place in HTTP/2.
fn framing() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", ""),
        ("connection", "close"),
        ("connection", "content-length"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
        ("te", "chunked"),
    ] {
        all.push(plain().and(name, value));
        all.push(
            asking("POST").and(name, value).body(&[b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"]),
        );
        all.push(asking("POST").and("content-length", "4").and(name, value).body(&[b"body"]));
    }
    for length in
        ["+4", "-4", " 4", "4 ", "4,4", "4, 4", "0x4", "4.0", "", "four", "18446744073709551620"]
    {
        all.push(asking("POST").and("content-length", length).body(&[b"body"]));
        all.push(plain().and("content-length", length));
    }
    let lengths = |first: &str, second: &str| {
        asking("POST").and("content-length", first).and("content-length", second)
    };
    for (first, second) in [("4", "4"), ("4", "5"), ("5", "4"), ("0", "4"), ("4", "0"), ("4", "")] {
        all.push(lengths(first, second).body(&[b"body"]));
    }
    // The head is all there is, and promises a body.
    all.push(asking("POST").and("content-length", "4"));
    all.push(plain().and("content-length", "4"));
    all
}

fn pseudo() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/x"),
        (":path", "/y"),
        (":authority", "a.example"),
        (":authority", "b.example"),
        (":status", "200"),
        (":unknown", "x"),
        (":", "x"),
        (":host", "a.example"),
        (":protocol", "websocket"),
    ] {
        all.push(plain().and(name, value));
        all.push(plain().first(name, value));
        all.push(plain().and("x-a", "b").and(name, value));
    }
    for name in [":", ":unknown", ":host"] {
        all.push(asking("POST").body(&[b"body"]).trailer(name, "x"));
    }
    for missing in [":method", ":scheme", ":path", ":authority"] {
        all.push(plain().without(missing));
    }
    for path in [
        "",
        "*",
        "x",
        "x/y",
        "?q",
        "http://a.example/x",
        "/x y",
        "/x\ty",
        "/x HTTP/1.1",
        "/\u{7f}",
        "/x?a b",
        "/\\",
        "/x%00",
        "/%",
        "/x%5c",
        "/a%2f..%2fb",
    ] {
        all.push(plain().set(":path", path));
    }
    for method in
        ["GET /x", "GE T", "", " GET", "GET ", "G\tET", "G:T", "G(T", "GET\u{7f}", "G\u{e9}T"]
    {
        all.push(plain().set(":method", method));
    }
    for authority in [
        "user@a.example",
        "user:secret@a.example",
        "a.example/x",
        "a.example?x",
        "a.example#x",
        "a b",
        "a,b",
        "a.example:80:80",
        "a.example:x",
        "a.example:99999",
        "http://a.example",
        "[::1",
        "@",
        ":80",
        "a.example ",
    ] {
        all.push(plain().set(":authority", authority));
        all.push(plain().without(":authority").and("host", authority));
    }
    all.push(plain().and("host", "b.example"));
    all.push(plain().and("host", "a.example:80"));
    all.push(plain().and("host", ""));
    all.push(plain().and("host", "a.example").and("host", "a.example"));
    all.push(plain().set(":authority", "").and("host", "a.example").and("host", "b.example"));
    for scheme in ["ftp", "javascript", "", "ht tp", "http://a.example/", "1", "file"] {
        all.push(plain().set(":scheme", scheme));
    }
    let connect = || asking("CONNECT");
    all.push(connect());
    all.push(connect().without(":scheme"));
    all.push(connect().without(":path"));
    all.push(connect().without(":scheme").without(":path"));
    all.push(connect().without(":scheme").without(":path").set(":authority", "a.example:443"));
    all.push(connect().first(":protocol", "connect-udp"));
    all.push(connect().first(":protocol", ""));
    all.push(connect().first(":protocol", "websocket").without(":path"));
    all.push(connect().first(":protocol", "websocket").without(":scheme"));
    all.push(connect().first(":protocol", "websocket").without(":authority"));
    all.push(plain().first(":protocol", "websocket"));
    all
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_reaches_nobody() {
    let stage = stage();
    let cases = [octets(), framing(), pseudo()].concat();
    let mut wrong = Vec::new();
    for case in &cases {
        let (found, came) = stage.run(case);
        let refused = match found {
            End::Status(status) => (400..=501).contains(&status) && status != 500,
            End::Reset(code) => code != 0,
            End::Gone(code) => code != 0,
        };
        if !refused || !came.is_empty() {
            wrong.push(format!("{}: {found:?}, {came:?}", shown(case)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), cases.len());
    // Bodies of requests that were refused before their end may be there in part, and never look whole.
    for broken in stage.witness.broken() {
        assert!(broken.starts_with("cut short") || broken.contains("UnexpectedEof"), "{broken}");
    }
}

/// What is to arrive of a case: the first line without its version, fields but for those that we write, the
/// body and its trailers.
struct Expected {
    line: String,
    fields: Vec<(&'static str, &'static str)>,
    body: &'static [u8],
    trailers: Vec<(&'static str, &'static str)>,
}

fn line(line: &str) -> Expected {
    Expected { line: line.into(), fields: Vec::new(), body: b"", trailers: Vec::new() }
}

fn with(fields: &[(&'static str, &'static str)]) -> Expected {
    Expected { fields: fields.to_vec(), ..line("GET /x") }
}

fn posted(body: &'static [u8], trailers: &[(&'static str, &'static str)]) -> Expected {
    Expected { body, trailers: trailers.to_vec(), ..line("POST /x") }
}

fn sound_heads() -> Vec<(Case, Expected)> {
    let mut all = Vec::new();
    for (path, expected) in [
        ("/..", "GET /"),
        ("/../x", "GET /x"),
        ("/%2e%2e/x", "GET /x"),
        ("/x%0d%0aHost:%20b", "GET /x%0D%0AHost:%20b"),
        ("/x%20HTTP/1.1", "GET /x%20HTTP/1.1"),
        ("//b.example/x", "GET //b.example/x"),
        ("/http://b.example/", "GET /http://b.example/"),
        ("/x?q=%0d%0a", "GET /x?q=%0d%0a"),
        // The h2 crate leaves out what a client keeps for itself.
        ("/x#f", "GET /x"),
        ("/x?q#f", "GET /x?q"),
        ("#f", "GET /"),
    ] {
        all.push((plain().set(":path", path), line(expected)));
    }
    all.push((asking("OPTIONS").set(":path", "*"), line("OPTIONS *")));
    for method in ["get", "HEAD", "DELETE", "M-SEARCH"] {
        let expected = || line(&format!("{method} /x"));
        all.push((asking(method), expected()));
        let body = asking(method).body(&[b"bo", b"", b"dy"]);
        all.push((body, Expected { body: b"body", ..expected() }));
    }
    for scheme in ["http", "https", "HTTP"] {
        all.push((plain().set(":scheme", scheme), line("GET /x")));
    }
    all.push((plain().and("host", "a.example"), with(&[])));
    all.push((plain().without(":authority").and("host", "a.example"), with(&[])));
    all.push((plain().and("te", "trailers"), with(&[("te", "trailers"), ("connection", "te")])));
    all.push((plain().and("expect", "100-continue"), with(&[])));
    for value in ["GET / HTTP/1.1", "", "a: b", "a\tb"] {
        all.push((plain().and("x-a", value), with(&[("x-a", value)])));
    }
    all.push((plain().and("content-length", "0"), with(&[])));
    let crumbs = plain().and("cookie", "a=b").and("x-a", "v").and("cookie", "c=d; e");
    all.push((crumbs, with(&[("x-a", "v"), ("cookie", "a=b; c=d; e")])));
    all
}

fn sound_bodies() -> Vec<(Case, Expected)> {
    let post = || asking("POST");
    let chunks: &[u8] = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = chunks.len().to_string();
    let mut all = vec![
        (post().body(&[chunks]), posted(chunks, &[])),
        (post().and("content-length", length).body(&[chunks]), posted(chunks, &[])),
        (post().and("content-length", "004").body(&[b"body"]), posted(b"body", &[])),
        (post().and("expect", "100-continue").body(&[b"body"]), posted(b"body", &[])),
        (post().body(&[b""]), posted(b"", &[])),
        (post().trailer("x-t", "v"), posted(b"", &[("x-t", "v")])),
    ];
    let two = post().body(&[b"body"]).trailer("x-t", "v").trailer("x-u", "");
    all.push((two, posted(b"body", &[("x-t", "v"), ("x-u", "")])));
    // RFC 9110 6.5.1: what frames, routes or authorises does so in the head alone, and pseudo-fields are of
    // the head. (The h2 crate leaves those out.)
    for (name, value) in [
        ("content-length", "1"),
        ("host", "b.example"),
        ("cookie", "a=b"),
        ("authorization", "a"),
        ("content-type", "a/b"),
        ("trailer", "x-t"),
        ("x-forwarded-for", "192.0.2.1"),
        ("expect", "100-continue"),
        (":path", "/y"),
        (":method", "GET"),
        (":authority", "b.example"),
        (":status", "200"),
    ] {
        let alone = post().body(&[b"body"]).trailer(name, value);
        all.push((alone.clone(), posted(b"body", &[])));
        all.push((alone.trailer("x-t", "v"), posted(b"body", &[("x-t", "v")])));
    }
    all
}

#[test]
fn what_has_one_meaning_arrives_as_exactly_one_request() {
    const OURS: [&str; 6] = [
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "content-length",
        "transfer-encoding",
    ];
    let told = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let stage = stage();
    for (case, expected) in sound_heads().into_iter().chain(sound_bodies()) {
        let (found, came) = stage.run(&case);
        assert_eq!((found, came.len()), (End::Status(200), 1), "{}: {came:?}", shown(&case));
        let got = &came[0];
        let ours = |name: &str| OURS.contains(&name);
        let fields: Vec<_> = got.fields.iter().filter(|(name, _)| !ours(name)).cloned().collect();
        assert_eq!(got.line, format!("{} HTTP/1.1", expected.line), "{}", shown(&case));
        assert_eq!(got.all("host"), ["a.example"], "{}", shown(&case));
        assert_eq!(got.all("x-forwarded-for"), ["127.0.0.1"], "{}", shown(&case));
        assert_eq!(fields, told(&expected.fields), "{}", shown(&case));
        assert_eq!(got.body, expected.body, "{}", shown(&case));
        assert_eq!(got.trailers, told(&expected.trailers), "{}", shown(&case));
    }
    stage.witness.settle(&stage.proxy);
    assert_eq!(stage.witness.broken(), [""; 0]);
}
