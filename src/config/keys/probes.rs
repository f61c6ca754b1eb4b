//! The keys of a health check, and of each kind of probe.

use super::Keys;
use super::{Map, Pairs, Text, Texts};

pub static HEALTH_CHECK: Keys = Keys {
    place: "a health check",
    known: &[
        ("http", Map(&HTTP_PROBE)),
        ("tcp", Map(&TCP_PROBE)),
        ("tls", Map(&TLS_PROBE)),
        ("grpc", Map(&GRPC_PROBE)),
        ("postgres", Map(&POSTGRES_PROBE)),
        ("redis", Map(&REDIS_PROBE)),
        ("mysql", Map(&MYSQL_PROBE)),
        ("interval", Text),
        ("interval_unsettled", Text),
        ("timeout", Text),
        ("fall", Text),
        ("rise", Text),
        ("initial", Text),
        ("port", Text),
        ("address", Text),
    ],
    later: &[],
    advice: &[
        ("path", "it belongs in `http`: http: {path: /healthz}"),
        ("host", "it belongs in `http`: http: {host: ...}"),
        ("headers", "they belong in `http`: http: {headers: {...}}"),
        ("expect_status", "it belongs in `http`: http: {expect_status: [200-299]}"),
        ("expect_body", "it belongs in `http`: http: {expect_body: ...}"),
        ("send", "it belongs in `tcp`: tcp: {send: ...}"),
        ("expect", "it belongs in `tcp`: tcp: {expect: ...}"),
    ],
};

static HTTP_PROBE: Keys = Keys {
    place: "an http probe",
    known: &[
        ("path", Text),
        ("host", Text),
        ("method", Text),
        ("expect_status", Texts),
        ("expect_body", Text),
        ("headers", Pairs),
    ],
    later: &[],
    advice: &[("status", "call it `expect_status`"), ("body", "call it `expect_body`")],
};

static GRPC_PROBE: Keys = Keys {
    place: "a grpc probe",
    known: &[("service", Text)],
    later: &[],
    advice: &[
        ("port", "it belongs in the health check itself, beside `grpc`"),
        ("name", "call it `service`"),
        ("method", "it is always grpc.health.v1.Health/Check"),
    ],
};

static TCP_PROBE: Keys = Keys {
    place: "a tcp probe",
    known: &[("send", Text), ("expect", Text)],
    later: &[],
    advice: &[("port", "it belongs in the health check itself, beside `tcp`")],
};

/// What is often sought in a probe that logs in.
const OF_A_LOGIN: &[(&str, &str)] = &[
    ("password", "passwords stand in files of their own: password_file: PATH"),
    ("port", "it belongs in the health check itself"),
    ("username", "call it `user`"),
];

static POSTGRES_PROBE: Keys = Keys {
    place: "a postgres probe",
    known: &[("user", Text), ("database", Text), ("password_file", Text), ("role", Text)],
    later: &["tls"],
    advice: OF_A_LOGIN,
};

static REDIS_PROBE: Keys = Keys {
    place: "a redis probe",
    known: &[("user", Text), ("password_file", Text), ("role", Text)],
    later: &["tls"],
    advice: OF_A_LOGIN,
};

static MYSQL_PROBE: Keys = Keys {
    place: "a mysql probe",
    known: &[("user", Text), ("password_file", Text), ("role", Text)],
    later: &["tls"],
    advice: OF_A_LOGIN,
};

/// A handshake has nothing to set.
static TLS_PROBE: Keys = Keys {
    place: "a tls probe",
    known: &[],
    later: &[],
    advice: &[
        ("server_name", "it belongs in the pool's `tls`"),
        ("ca", "it belongs in the pool's `tls`"),
        ("verify", "it belongs in the pool's `tls`"),
        ("port", "it belongs in the health check itself, beside `tls`"),
    ],
};
