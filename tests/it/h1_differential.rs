//! The relay's parsers against hyper's: the same random streams, valid and hostile, to both. Where they
//! differ, one of the differences named here explains it, or the test fails.
//!
//! And however a stream is cut, ours understands it in one way. `EVENKEEL_SEED` replays a run.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::h1_corpus::entries::{End, Message, Role, read};

const STREAMS: usize = 1200;

pub fn seeded() -> Rng {
    let seed = std::env::var("EVENKEEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("EVENKEEL_SEED={seed}");
    Rng::with_seed(seed)
}

/// What hyper makes of a stream: whole messages, and whether it took all of it without complaint.
#[derive(Debug, Default)]
struct Theirs {
    messages: Vec<Message>,
    content: bool,
}

/// Why the two need not agree. Each names what is in the stream, at the place where they part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Why {
    /// hyper takes a bare LF for the end of a line (RFC 9112 2.2 lets it); we do not.
    BareLf,
    /// hyper takes lengths that are said twice and agree; we take one.
    RepeatedLength,
    /// hyper lets a coding win over a length; to us that is an attack (RFC 9112 6.1).
    LengthAndCoding,
    /// hyper takes several codings if `chunked` is the last; we know `chunked` alone.
    OtherCoding,
    /// hyper reads an answer with a coding that it does not know to its connection's end.
    UnknownCoding,
    /// hyper reads over chunk extensions, as long as they end; we check their grammar, and that there is
    /// no white space without one.
    ChunkExtension,
    /// Lengths and chunks of 2^63 bytes and more: we take none. hyper takes them up to 2^64 - 3.
    Huge,
    /// hyper checks targets as `http::Uri` does: it takes an authority alone, and other schemes.
    TargetForm,
    /// Other than hyper we take any visible ASCII in a target here; `route::target` judges it later.
    TargetCharacter,
    /// `http://a` is `http://a/` to `http::Uri`, and a fragment is cut off.
    TargetSpelling,
    /// We leave out trailers that must not be any (RFC 9110 6.5.1); hyper leaves that to its caller.
    TrailerName,
    /// To hyper's client a length that is no number is none.
    UnreadableLength,
    /// An empty line before an answer: hyper puts up with it, we do not.
    LineBeforeAnswer,
    /// An interim answer that says that it has a body.
    InterimBody,
    /// hyper lets an answer of HTTP/1.0 be chunked, or ends it otherwise.
    OldChunks,
    /// hyper keeps a connection by other rules; nothing else is at stake.
    Kept,
}

type Part<'a> = (&'a [u8], Role);

/// Whether the reason is there, in the rest of the stream from where they part.
fn explains(
    why: Why,
    (rest, role): Part<'_>,
    ours: Option<&Message>,
    theirs: Option<&Message>,
) -> bool {
    let text = String::from_utf8_lossy(rest).to_ascii_lowercase();
    let head = text.split("\r\n\r\n").next().unwrap_or(&text);
    let line = head.trim_start().lines().next().unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let lengths = head.matches("content-length").count();
    let codings = || head.lines().filter(|l| l.starts_with("transfer-encoding"));
    let chunked = |l: &str| l.split_once(':').is_some_and(|(_, v)| v.trim() == "chunked");
    let plain = || codings().count() < 2 && codings().all(chunked);
    let refused = ours.is_none();
    let bare_lf =
        rest.iter().enumerate().any(|(at, &b)| b == b'\n' && (at == 0 || rest[at - 1] != b'\r'));
    match why {
        Why::BareLf => refused && bare_lf,
        Why::RepeatedLength => refused && (lengths > 1 || head.contains(',')) && lengths > 0,
        Why::LengthAndCoding => refused && lengths > 0 && codings().count() > 0,
        Why::OtherCoding => refused && role == Role::Server && !plain(),
        Why::UnknownCoding => refused && role != Role::Server && !plain(),
        Why::ChunkExtension => {
            let size = |line: &str| {
                let rest = line.trim_start_matches(|c: char| c.is_ascii_hexdigit());
                rest.len() < line.len() && rest.starts_with([' ', '\t', ';'])
            };
            refused && codings().count() > 0 && text.split('\n').any(size)
        }
        Why::Huge => refused && rest.split(|b| !b.is_ascii_hexdigit()).any(|d| d.len() >= 16),
        Why::TargetForm => refused && role == Role::Server && !target.starts_with('/'),
        Why::TargetCharacter => {
            let odd = |b: u8| !b.is_ascii_alphanumeric() && !b"/?=&%.-_~".contains(&b);
            theirs.is_none() && role == Role::Server && target.bytes().any(odd)
        }
        Why::TargetSpelling => {
            let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
            let cut = |line: &str| line.split(['/', '#']).collect::<String>().replace(' ', "");
            let rest = |message: &Message| {
                let message = comparable(message.clone());
                (message.fields, message.body)
            };
            let alike = cut(&ours.line).starts_with(cut(&theirs.line).trim_end_matches(['0', '1']));
            ours.line != theirs.line && alike && rest(ours) == rest(theirs)
        }
        Why::TrailerName => {
            let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
            let same = ours.line == theirs.line && ours.body == theirs.body;
            let all = ours.trailers.iter().all(|field| theirs.trailers.contains(field));
            same && all && ours.trailers.len() < theirs.trailers.len()
        }
        Why::UnreadableLength => role != Role::Server && refused && lengths > 0,
        Why::LineBeforeAnswer => role != Role::Server && refused && rest.starts_with(b"\r"),
        Why::InterimBody => {
            let interim = text
                .split("\r\n\r\n")
                .any(|head| head.contains("http/1.1 1") || head.contains("http/1.0 1"));
            role != Role::Server && interim
        }
        Why::OldChunks => {
            role != Role::Server && head.contains("http/1.0") && codings().count() > 0
        }
        Why::Kept => ours == theirs,
    }
}

const WHYS: [Why; 16] = [
    Why::BareLf,
    Why::RepeatedLength,
    Why::LengthAndCoding,
    Why::OtherCoding,
    Why::UnknownCoding,
    Why::Huge,
    Why::ChunkExtension,
    Why::TargetForm,
    Why::TargetCharacter,
    Why::TargetSpelling,
    Why::TrailerName,
    Why::UnreadableLength,
    Why::LineBeforeAnswer,
    Why::InterimBody,
    Why::OldChunks,
    Why::Kept,
];

fn pairs(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> =
        map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    all.sort();
    all
}

/// A map has no order among names: neither has what is compared.
fn comparable(mut message: Message) -> Message {
    message.fields.sort();
    message.trailers.sort();
    Message { kept: true, end: 0, ..message }
}

/// What hyper's server makes of it, in two pieces.
async fn hyper_requests(stream: &[u8], cut: usize) -> Theirs {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let found = Rc::new(RefCell::new(Theirs::default()));
    let noted = found.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let noted = noted.clone();
        async move {
            let (parts, body) = request.into_parts();
            let minor = u8::from(parts.version == http::Version::HTTP_11);
            let authority = parts.uri.authority().map(|a| format!("{a} ")).unwrap_or_default();
            let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
            let line = format!("{} {authority}{target} {minor}", parts.method);
            if let Ok(whole) = body.collect().await {
                let trailers = whole.trailers().map(pairs).unwrap_or_default();
                let (fields, body) = (pairs(&parts.headers), whole.to_bytes().to_vec());
                let message = Message { line, fields, body, trailers, kept: true, end: 0 };
                noted.borrow_mut().messages.push(message);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(true).pipeline_flush(true);
    let serving = builder.serve_connection(TokioIo::new(theirs), service);
    let (mut answers, mut asks) = tokio::io::split(ours);
    let client = async {
        let _ = asks.write_all(&stream[..cut]).await;
        tokio::task::yield_now().await;
        let _ = asks.write_all(&stream[cut..]).await;
        let _ = asks.shutdown().await;
        let mut all = Vec::new();
        let _ = answers.read_to_end(&mut all).await;
        all
    };
    let (served, answers) = tokio::join!(serving, client);
    let mut found = found.take();
    // It answers what it does not understand with 4xx.
    found.content = served.is_ok() && !String::from_utf8_lossy(&answers).contains("HTTP/1.1 4");
    found
}

/// What hyper's client makes of it, in two pieces.
async fn hyper_answer(stream: &[u8], cut: usize, method: &str) -> Theirs {
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let Ok((mut sender, conn)) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(theirs)).await
    else {
        return Theirs::default();
    };
    let request = Request::builder().method(method).uri("/").header("host", "a");
    let request = request.body(Empty::new()).expect("a sound request");
    let backend = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && ours.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
        let _ = ours.write_all(&stream[..cut]).await;
        tokio::task::yield_now().await;
        let _ = ours.write_all(&stream[cut..]).await;
        let _ = ours.shutdown().await;
    };
    let client = async {
        let answer = sender.send_request(request).await.ok()?;
        let (parts, body) = answer.into_parts();
        let reason = parts.extensions.get::<hyper::ext::ReasonPhrase>();
        let reason = match reason {
            Some(reason) => reason.as_bytes(),
            None => parts.status.canonical_reason().unwrap_or("").as_bytes(),
        };
        let line = format!("{} {}", parts.status.as_u16(), reason.escape_ascii());
        let whole = body.collect().await.ok()?;
        let trailers = whole.trailers().map(pairs).unwrap_or_default();
        let (fields, body) = (pairs(&parts.headers), whole.to_bytes().to_vec());
        Some(Message { line, fields, body, trailers, kept: true, end: 0 })
    };
    let driving = async {
        let _ = conn.with_upgrades().await;
        std::future::pending::<()>().await;
    };
    let work = async { tokio::join!(backend, client).1 };
    let message = tokio::select! {
        () = driving => None,
        message = work => message,
    };
    Theirs { content: message.is_some(), messages: message.into_iter().collect() }
}

/// The first message that the two do not agree about, and why they need not; panics if nothing explains
/// it.
fn compare(stream: &[u8], role: Role, ours: (Vec<Message>, End), theirs: Theirs) -> Option<Why> {
    let (all, end) = ours;
    let interim = |m: &&Message| {
        role == Role::Server || !m.line.starts_with('1') || m.line.starts_with("101")
    };
    let mine: Vec<&Message> = all.iter().filter(interim).collect();
    let mut from = 0;
    for at in 0..mine.len().max(theirs.messages.len()) {
        let (a, b) = (mine.get(at).copied(), theirs.messages.get(at));
        let same =
            matches!((a, b), (Some(a), Some(b)) if comparable(a.clone()) == comparable(b.clone()));
        if same {
            from = a.map_or(from, |message| message.end);
            continue;
        }
        let before = at.checked_sub(1).and_then(|before| mine.get(before));
        // After what ends a connection nobody reads; they may only see that end in another place.
        if a.is_none() && before.is_some_and(|message| !message.kept) {
            return Some(Why::Kept);
        }
        let part = (&stream[from..], role);
        let why = WHYS.into_iter().find(|why| explains(*why, part, a, b));
        return Some(why.unwrap_or_else(|| {
            panic!(
                "unexplained\n  {}\n  at {:?}\n  ours {a:?} {end:?}\n  theirs {b:?} {}",
                stream.escape_ascii(),
                stream[from..].escape_ascii().to_string(),
                theirs.content
            )
        }));
    }
    None
}

/// Changes one place.
pub fn mutate(data: &mut Vec<u8>, rng: &mut Rng) {
    const BITS: [&[u8]; 40] = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b" ",
        b"\t",
        b"\0",
        b"\x7f",
        b"\x80",
        b"\x0b",
        b":",
        b";",
        b",",
        b"=",
        b"\"",
        b"\\",
        b"0",
        b"1",
        b"a",
        b"F",
        b"-",
        b"+",
        b"#",
        b"?",
        b"/",
        b"*",
        b"chunked",
        b"Content-Length: 1\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding",
        b"Content-Length",
        b"HTTP/1.0",
        b"HTTP/1.1 ",
        b"0\r\n\r\n",
        b"1\r\nx\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"8000000000000000",
        b"X : y\r\n",
    ];
    let at = rng.usize(..=data.len());
    let to = at + rng.usize(..=(data.len() - at).min(8));
    let bit = BITS[rng.usize(..BITS.len())];
    match rng.u8(..5) {
        0 => drop(data.splice(at..to, bit.iter().copied())),
        1 => drop(data.drain(at..to)),
        2 => {
            let again = data[at..to].to_vec();
            drop(data.splice(at..at, again));
        }
        3 if at < data.len() => data[at] = rng.u8(..),
        _ => drop(data.splice(at..at, bit.iter().copied())),
    }
}

fn pick<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// Some field lines, and what follows the head if they say so.
fn fields(rng: &mut Rng) -> (String, String) {
    let mut lines = String::new();
    for _ in 0..rng.usize(..4) {
        lines += pick(
            rng,
            &[
                "X: y\r\n",
                "x-a:\r\n",
                "X: \t a\tb \r\n",
                "Y:\u{e9}\r\n",
                "Connection: x\r\n",
                "Connection: close\r\n",
                "Accept: */*, a;q=\"1\"\r\n",
                "Cookie: a=b; c\r\n",
                "Connection: keep-alive\r\n",
                "Expect: 100-continue\r\n",
                "Z: y\r\nz: Y\r\n",
            ],
        );
    }
    let data = pick(rng, &["", "x", "hello", "\r\n\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"]);
    match rng.u8(..4) {
        0 => (lines, String::new()),
        1 => (format!("{lines}Content-Length: {}\r\n", data.len()), data.to_owned()),
        _ => {
            let mut body = String::new();
            for _ in 0..rng.usize(..3) {
                let ext = pick(rng, &["", "", ";a", ";a=b", " ; a = \"b;\\\"\" ;c"]);
                let zeros = pick(rng, &["", "", "0", "000"]);
                if !data.is_empty() {
                    body += &format!("{zeros}{:x}{ext}\r\n{data}\r\n", data.len());
                }
            }
            let trailers =
                pick(rng, &["", "", "X: y\r\n", "A:\r\nb:  c \r\n", "Content-Length: 1\r\n"]);
            let last = pick(rng, &["0", "0", "00", "0;a=\"b\""]);
            let coding = pick(rng, &["chunked", "chunked", "Chunked", " chunked \t"]);
            let head = format!("{lines}Transfer-Encoding:{coding}\r\n");
            (head, format!("{body}{last}\r\n{trailers}\r\n"))
        }
    }
}

fn requests(rng: &mut Rng) -> Vec<u8> {
    let mut stream = String::new();
    for _ in 0..rng.usize(1..4) {
        let method = pick(rng, &["GET", "POST", "HEAD", "OPTIONS", "PUT", "get", "M-X"]);
        let target =
            pick(rng, &["/", "/a/b?c=d", "/?", "//x", "http://b/c", "*", "/%zz", "/a?b?/"]);
        let version = pick(rng, &["1.1", "1.1", "1.1", "1.0"]);
        let (fields, body) = fields(rng);
        let empty = pick(rng, &["", "", "", "\r\n"]);
        stream +=
            &format!("{empty}{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n{body}");
    }
    stream.into_bytes()
}

fn answers(rng: &mut Rng) -> Vec<u8> {
    let mut stream = String::new();
    for _ in 0..rng.usize(..2) {
        let line = pick(rng, &["103 Early", "100 Continue", "102 x"]);
        stream += &format!("HTTP/1.1 {line}\r\nLink: x\r\n\r\n");
    }
    let line = pick(
        rng,
        &[
            "200 OK",
            "200 OK",
            "200 OK",
            "404 Not  Found",
            "204 No",
            "304 Same",
            "500",
            "999 \u{e9}",
        ],
    );
    let version = pick(rng, &["1.1", "1.1", "1.1", "1.0"]);
    let (fields, body) = fields(rng);
    (stream + &format!("HTTP/{version} {line}\r\n{fields}\r\n{body}")).into_bytes()
}

/// Wherever it is cut, it is the same to us.
fn assert_cut_alike(role: Role, stream: &[u8]) -> (Vec<Message>, End) {
    let whole = read(role, &[stream]);
    for cut in 0..stream.len() {
        let (first, second) = stream.split_at(cut);
        assert_eq!(read(role, &[first, second]), whole, "cut at {cut}: {}", stream.escape_ascii());
    }
    whole
}

/// Runs `one` on many streams and tells how often they differed, and why.
fn run(make: fn(&mut Rng) -> Vec<u8>, mut one: impl FnMut(&[u8], &mut Rng) -> Option<Why>) {
    let mut rng = seeded();
    let mut counts = std::collections::BTreeMap::<Option<Why>, usize>::new();
    for _ in 0..STREAMS {
        let mut stream = make(&mut rng);
        for _ in 0..rng.usize(..4) {
            mutate(&mut stream, &mut rng);
        }
        *counts.entry(one(&stream, &mut rng)).or_default() += 1;
    }
    println!("{counts:#?}");
    let agreed = counts.get(&None).copied().unwrap_or_default();
    assert!(agreed > STREAMS / 2, "a comparison that finds nothing but differences finds none");
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime can be made")
}

#[test]
fn requests_are_understood_as_hyper_does_or_for_a_reason() {
    let runtime = runtime();
    run(requests, |stream, rng| {
        let ours = assert_cut_alike(Role::Server, stream);
        let cut = rng.usize(..=stream.len());
        let theirs = runtime.block_on(hyper_requests(stream, cut));
        compare(stream, Role::Server, ours, theirs)
    });
}

#[test]
fn answers_are_understood_as_hyper_does_or_for_a_reason() {
    let runtime = runtime();
    run(answers, |stream, rng| {
        let to_head = rng.u8(..5) == 0;
        let role = Role::Client { to_head };
        let ours = assert_cut_alike(role, stream);
        let cut = rng.usize(..=stream.len());
        let method = if to_head { "HEAD" } else { "GET" };
        let theirs = runtime.block_on(hyper_answer(stream, cut, method));
        compare(stream, role, ours, theirs)
    });
}
