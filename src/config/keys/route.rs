//! Keys of a route, and of what a route and its listener have in common.

use super::{OF_A_POOL, OF_THE_CLIENT};
use crate::config::shape::Keys;
use crate::config::shape::Shape::{Map, Pairs, Text, TextOr, Texts};

pub static PROXY_PEERS: Keys = Keys {
    place: "accept_proxy_protocol",
    known: &[("from", Texts)],
    later: &[],
    advice: &[
        ("version", "both versions are read, whichever comes"),
        ("networks", "call it `from`"),
    ],
};

pub static ROUTE: Keys = Keys {
    place: "a route",
    known: &[
        ("match", Map(&MATCH)),
        ("pool", Text),
        ("split", Pairs),
        ("redirect", TextOr(&REDIRECT)),
        ("respond", Map(&RESPOND)),
        ("allow", Texts),
        ("deny", Texts),
        ("request_headers", Map(&HEADER_EDITS)),
        ("response_headers", Map(&HEADER_EDITS)),
        ("rewrite", Map(&REWRITE)),
        ("timeouts", Map(&ROUTE_TIMEOUTS)),
        ("error_pages", Pairs),
        ("rate_limit", Map(&RATE_LIMIT)),
        ("reject", Text),
    ],
    later: &[],
    advice: &[
        ("host", "it belongs in `match`: match: {host: ...}"),
        ("sni", "it belongs in `match`: match: {sni: [...]}"),
        ("path", "it belongs in `match`: match: {path: ...}"),
        ("method", "it belongs in `match`: match: {method: ...}"),
        ("strip_prefix", "it belongs in `rewrite`: rewrite: {strip_prefix: ...}"),
        ("add_prefix", "it belongs in `rewrite`: rewrite: {add_prefix: ...}"),
        ("backend", "name a pool: pool: NAME"),
        ("headers", "that is `request_headers` or `response_headers`"),
        ("failover", OF_A_POOL),
        ("retry", OF_A_POOL),
    ],
};

pub static RATE_LIMIT: Keys = Keys {
    place: "rate_limit",
    known: &[("rate", Text), ("burst", Text), ("by", Text), ("name", Text)],
    later: &[],
    advice: &[
        ("requests", "write rate: 100/s"),
        ("period", "it is a part of `rate`, as in 100/s, 60/m or 1000/h"),
        ("per", "it is a part of `rate`, as in 100/s, 60/m or 1000/h"),
        ("header", "write {by: header, name: x-api-key}"),
    ],
};

static MATCH: Keys = Keys {
    place: "a route's match",
    known: &[
        ("host", Texts),
        ("path", Texts),
        ("path_regex", Text),
        ("method", Texts),
        ("header", Pairs),
        ("query", Pairs),
        ("client", Texts),
        ("sni", Texts),
    ],
    later: &[],
    advice: &[
        ("prefix", "write it as a path: path: /v1/*"),
        ("path_prefix", "write it as a path: path: /v1/*"),
    ],
};

static REDIRECT: Keys = Keys {
    place: "redirect",
    known: &[("to", Text), ("status", Text), ("port", Text)],
    later: &[],
    advice: &[("url", "call it `to`"), ("code", "call it `status`")],
};

static RESPOND: Keys = Keys {
    place: "respond",
    known: &[("status", Text), ("body", Text), ("headers", Pairs)],
    later: &[],
    advice: &[("code", "call it `status`")],
};

static HEADER_EDITS: Keys = Keys {
    place: "header edits",
    known: &[("set", Pairs), ("add", Pairs), ("remove", Texts)],
    later: &[],
    advice: &[],
};

static REWRITE: Keys = Keys {
    place: "rewrite",
    known: &[
        ("strip_prefix", Text),
        ("path_regex", Text),
        ("replace", Text),
        ("add_prefix", Text),
        ("host", Text),
    ],
    later: &[],
    advice: &[],
};

static ROUTE_TIMEOUTS: Keys = Keys {
    place: "a route's timeouts",
    known: &[
        ("client_body", Text),
        ("connect", Text),
        ("response", Text),
        ("stream_idle", Text),
        ("request", Text),
    ],
    later: &[],
    advice: &[
        ("client_header", OF_THE_CLIENT),
        ("client_idle", OF_THE_CLIENT),
        ("client_age", OF_THE_CLIENT),
        ("proxy_header", OF_THE_CLIENT),
        (
            "tcp_idle",
            "only tcp listeners have it, and their routes have no `timeouts`: put it into those of \
             the listener or of the pool",
        ),
    ],
};
