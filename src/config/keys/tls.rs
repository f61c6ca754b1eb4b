//! The keys of TLS with clients.

use super::Keys;
use super::{List, Map, Text, Texts};

pub static LISTENER_TLS: Keys = Keys {
    place: "a listener's tls",
    known: &[
        ("certificates", List(&Map(&CERTIFICATE))),
        ("certificate_dir", Text),
        ("strict_sni", Text),
        ("min_version", Text),
        ("client_auth", Map(&CLIENT_AUTH)),
        ("ticket_keys_file", Text),
        ("alpn", Texts),
        ("hsts", Text),
    ],
    later: &["acme"],
    advice: &[
        ("cert", "write certificates: [{cert: ..., key: ...}]"),
        ("key", "write certificates: [{cert: ..., key: ...}]"),
        ("ciphers", "there is nothing to choose: TLS 1.2 and 1.3 with the suites that are safe"),
        ("cipher_suites", "there is nothing to choose: the suites that are safe"),
        ("ca", "for client certificates: client_auth: {mode: required, ca: ...}"),
        ("client_ca", "write client_auth: {mode: required, ca: ...}"),
        ("max_version", "leave it out: the newest that a client speaks is used"),
    ],
};

static CERTIFICATE: Keys = Keys {
    place: "a certificate",
    known: &[("cert", Text), ("key", Text)],
    later: &[],
    advice: &[
        ("chain", "the chain belongs in `cert`, after the certificate itself"),
        ("ca", "intermediate certificates belong in `cert`, after the certificate itself"),
        ("name", "the names are in the certificate"),
    ],
};

static CLIENT_AUTH: Keys = Keys {
    place: "client_auth",
    known: &[("mode", Text), ("ca", Text), ("crl", Text), ("headers", Text)],
    later: &[],
    advice: &[("required", "write mode: required"), ("verify", "write mode: required")],
};
