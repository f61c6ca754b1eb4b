//! The keys of TLS with backends.

use super::Keys;
use super::Text;

pub static POOL_TLS: Keys = Keys {
    place: "a pool's tls",
    known: &[("ca", Text), ("server_name", Text), ("cert", Text), ("key", Text), ("verify", Text)],
    later: &[],
    advice: &[
        ("ca_file", "call it `ca`"),
        ("sni", "call it `server_name`"),
        ("insecure", "write verify: off, if any certificate will do"),
        ("insecure_skip_verify", "write verify: off, if any certificate will do"),
        ("certificates", "a pool shows one certificate: tls: {cert: ..., key: ...}"),
        ("alpn", "it follows from the pool's protocol"),
    ],
};
