//! What does the handling of a request's head and of its answer's head cost, on top of parsing them?
//!
//! A browser's request to a server that answers with what servers usually say. The baseline clones
//! the same header map: what passing a head on costs at the very least. No system calls anywhere.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use evenkeel::config::model::{HeaderEdits, Rewrite};
use evenkeel::flow::head::{self, Rules};
use evenkeel::route::rewrite;
use http::request::Parts;
use http::{HeaderValue, Request, Response, response};

const ASKED: [(&str, &str); 14] = [
    ("host", "www.example.com:8080"),
    ("connection", "keep-alive"),
    ("cache-control", "max-age=0"),
    ("sec-ch-ua", "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-mode", "navigate"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9"),
    ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
];

const ANSWERED: [(&str, &str); 8] = [
    ("server", "nginx/1.22.1"),
    ("date", "Tue, 03 Jun 2025 12:00:00 GMT"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "5120"),
    ("connection", "keep-alive"),
    ("keep-alive", "timeout=5"),
    ("etag", "\"683ee6a0-1400\""),
    ("cache-control", "no-cache"),
];

fn request() -> Parts {
    let mut request = Request::builder().uri("/api/v1/users/42/avatar?size=large");
    for (name, value) in ASKED {
        request = request.header(name, value);
    }
    // Names, values and target above are valid.
    request.body(()).expect("a valid request").into_parts().0
}

fn answer() -> response::Parts {
    let mut answer = Response::builder();
    for (name, value) in ANSWERED {
        answer = answer.header(name, value);
    }
    // Names and values above are valid.
    answer.body(()).expect("a valid answer").into_parts().0
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    let (asked, answered) = (request(), answer());
    let (rule, edits) = (Rewrite::default(), HeaderEdits::default());
    let client = HeaderValue::from_static("192.0.2.1");
    let pass_on = |mut parts: Parts| {
        let original = parts.uri.path_and_query().cloned();
        let target =
            original.and_then(|original| rewrite::apply_to(&rule, &original, original.path()).ok());
        let Some(target) = target else { return Err(()) };
        let rules =
            Rules { target, rewrite: &rule, edits: &edits, client: Some(&client), trusted: false };
        head::pass_on(&mut parts, rules).map(|_| parts).map_err(|_| ())
    };

    group.bench_function("baseline: clone the request's headers", |b| {
        b.iter(|| black_box(&asked).headers.clone());
    });
    group.bench_function("read", |b| b.iter(|| head::read(black_box(&asked)).is_ok()));
    group.bench_function("pass_on", |b| {
        b.iter_batched(|| asked.clone(), pass_on, BatchSize::SmallInput);
    });
    group.bench_function("baseline: clone the answer's headers", |b| {
        b.iter(|| black_box(&answered).headers.clone());
    });
    group.bench_function("pass_back", |b| {
        b.iter_batched(
            || answered.clone(),
            |mut parts| {
                head::pass_back(&mut parts, &edits);
                parts
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, heads);
criterion_main!(benches);
