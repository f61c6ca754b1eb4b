//! What does finding a route cost, and what does it cost to bring a path into its normal form?
//!
//! The baseline is one look-up of the host in a plain `HashMap`: what any router pays at least. The
//! time for 5,000 routes must be near that for 100, not fifty times it. No system calls anywhere.

use std::collections::HashMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::config::model::{Action, HostPattern, Match, PathPattern, Route};
use evenkeel::route::{Facts, Fields, PoolId, Table, host, rewrite, target};
use http::{HeaderMap, Method, StatusCode};

fn route(host: HostPattern, prefix: String) -> Route {
    Route {
        matches: Match {
            host: vec![host],
            path: vec![PathPattern::Prefix(prefix)],
            ..Match::default()
        },
        action: Action::Respond {
            status: StatusCode::OK,
            body: Bytes::new(),
            headers: HeaderMap::new(),
        },
        access: Default::default(),
        request_headers: Default::default(),
        response_headers: Default::default(),
        rewrite: Default::default(),
        timeouts: Default::default(),
        error_pages: Default::default(),
        rate_limit: None,
    }
}

fn table(routes: impl Iterator<Item = Route>) -> Table {
    let routes: Vec<Route> = routes.collect();
    Table::new(&routes, &|_| Some(PoolId(0))).expect("no route names a pool")
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    let (method, headers) = (Method::GET, Fields::none());
    let ask = |table: &Table, host: &str, path: &str| {
        let facts = Facts { host, path, query: None, method: &method, headers, client: None };
        table.find(black_box(&facts)).is_some()
    };
    for count in [1, 100, 5_000] {
        // The last route is asked for: what a linear search finds last.
        let last = count - 1;
        let host = format!("host{last}.example.com");
        let path = format!("/api/v{last}/users/42");

        let plain: HashMap<String, usize> =
            (0..count).map(|id| (format!("host{id}.example.com"), id)).collect();
        group.bench_function(format!("baseline HashMap get, {count} hosts"), |b| {
            b.iter(|| plain.get(black_box(&*host)));
        });

        let hosts = table((0..count).map(|id| {
            route(HostPattern::Exact(format!("host{id}.example.com")), format!("/api/v{id}"))
        }));
        group.bench_function(format!("{count} routes, a host each"), |b| {
            b.iter(|| ask(&hosts, &host, &path));
        });

        let prefixes =
            table((0..count).map(|id| {
                route(HostPattern::Wildcard(".example.com".into()), format!("/api/v{id}"))
            }));
        group.bench_function(format!("{count} routes, one wildcard host, a prefix each"), |b| {
            b.iter(|| ask(&prefixes, &host, &path));
        });
        group.bench_function(format!("{count} routes, none matches"), |b| {
            b.iter(|| ask(&prefixes, &host, "/nothing/here"));
        });
    }
}

fn normalise(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise");
    for (name, path) in [
        ("clean, 1 byte", "/"),
        ("clean, 29 bytes", "/api/v1/users/42/avatar.large"),
        ("clean with escapes", "/api/v1/users/J%C3%BCrgen%20W"),
        ("dirty: dot segments", "/api/v1/../v2/./users/42/avatar"),
        ("dirty: escapes", "/api/%7ev1/users/%c3%bcrgen"),
    ] {
        group.bench_function(name, |b| b.iter(|| target::normalise(black_box(path))));
    }
    group.bench_function("host", |b| {
        b.iter(|| host::normalise(black_box("www.example.com:8080")));
    });
    group.bench_function("host in mixed case", |b| {
        b.iter(|| host::normalise(black_box("WWW.Example.com:8080")));
    });
    let path = "/api/v1/users/42/avatar";
    let rule = Default::default();
    group.bench_function("rewrite that changes nothing", |b| {
        b.iter(|| rewrite::apply(&rule, black_box((path, Some("size=large"))), path).is_ok());
    });
}

criterion_group!(benches, find, normalise);
criterion_main!(benches);
