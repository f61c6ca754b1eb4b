//! What does the handling of a request's head and of its answer's head cost?
//!
//! A browser's request to a server that answers with what servers usually say: read, judged, and written
//! out again for the other side. The baseline lets httparse find the parts and does nothing with them:
//! what any proxy on it pays at least. No system calls anywhere.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::config::model::{HeaderEdits, Rewrite};
use evenkeel::flow::head::{self, Rules};
use evenkeel::forward::buffer::Buffer;
use evenkeel::forward::buffers::Buffers;
use evenkeel::forward::http::h1::parse::{self, Limits};
use evenkeel::forward::http::head::Heads;
use evenkeel::pool::BackendAddr;
use http::HeaderValue;

const ASKED: &[u8] = b"GET /api/v1/users/42/avatar?size=large HTTP/1.1\r\n\
    Host: www.example.com:8080\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

const ANSWERED: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Tue, 03 Jun 2025 12:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 5120\r\n\
    Connection: keep-alive\r\n\
    Keep-Alive: timeout=5\r\n\
    ETag: \"683ee6a0-1400\"\r\n\
    Cache-Control: no-cache\r\n\r\n";

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    let (heads, buffers) = (Heads::default(), Buffers::default());
    let limits = Limits { bytes: 65_536, fields: 100 };
    let (rule, edits) = (Rewrite::default(), HeaderEdits::default());
    let client = HeaderValue::from_static("192.0.2.1");
    let backend = BackendAddr(([192, 0, 2, 2], 80).into());

    group.bench_function("baseline: httparse finds a request's parts", |b| {
        b.iter(|| {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            httparse::Request::new(&mut fields).parse(black_box(ASKED)).is_ok()
        });
    });
    group.bench_function("a request is read", |b| {
        b.iter(|| parse::request(black_box(ASKED), limits, &heads).is_ok());
    });
    // The bytes above are a whole request.
    let (asked, _) = parse::request(ASKED, limits, &heads).expect("sound").expect("whole");
    group.bench_function("a request is judged", |b| {
        b.iter(|| head::read(black_box(&asked)).is_ok())
    });
    group.bench_function("a request is passed on", |b| {
        b.iter(|| {
            let mut to = Buffer::borrow(&buffers);
            let (target, client) = (asked.target(), Some(&client));
            let (edits, trusted, sticky) = (&edits, false, None);
            let rules = Rules {
                target,
                rewrite: &rule,
                edits,
                client,
                secure: false,
                peer: None,
                trusted,
                sticky,
            };
            head::pass_on(black_box(&asked), &rules, None, backend, &mut to);
            to.len()
        });
    });
    group.bench_function("an answer is read", |b| {
        b.iter(|| parse::response(black_box(ANSWERED), false, &heads).is_ok());
    });
    // The bytes above are the whole head of an answer.
    let (answer, _) = parse::response(ANSWERED, false, &heads).expect("sound").expect("whole");
    group.bench_function("an answer is passed back", |b| {
        b.iter(|| {
            let mut to = Buffer::borrow(&buffers);
            head::pass_back(black_box(&answer), &edits, "", None, &mut |name, value| {
                to.extend(name);
                to.extend(value);
            });
            to.len()
        });
    });
}

criterion_group!(benches, heads);
criterion_main!(benches);
