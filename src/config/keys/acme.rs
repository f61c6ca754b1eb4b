//! The keys of a listener's certificates from an ACME server.

use crate::config::shape::Keys;
use crate::config::shape::Shape::{Text, Texts};

pub static ACME: Keys = Keys {
    place: "acme",
    known: &[
        ("domains", Texts),
        ("contact", Text),
        ("directory", Text),
        ("state_dir", Text),
        ("ca", Text),
    ],
    later: &[],
    advice: &[
        (
            "challenge",
            "leave it out: of HTTP-01 and TLS-ALPN-01 the one that is likelier goes first",
        ),
        ("domain", "call it `domains`"),
        ("names", "call them `domains`"),
        ("email", "write contact: \"mailto:ops@example.com\""),
        ("server", "call it `directory`: the URL of the ACME server's directory"),
        ("url", "call it `directory`: the URL of the ACME server's directory"),
        ("storage", "call it `state_dir`"),
        ("staging", "write directory: letsencrypt-staging"),
        ("certificates", "they belong in `tls`, beside `acme`"),
    ],
};
