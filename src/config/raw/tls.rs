//! What serde reads of TLS with clients.
//!
//! As all of `raw`: every value still text, every key optional.

use serde::Deserialize;

use super::{Text, Texts};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    pub certificates: Option<Vec<Option<Certificate>>>,
    pub certificate_dir: Text,
    pub strict_sni: Text,
    pub min_version: Text,
    pub client_auth: Option<ClientAuth>,
    pub ticket_keys_file: Text,
    pub alpn: Option<Texts>,
    pub hsts: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub cert: Text,
    pub key: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    pub mode: Text,
    pub ca: Text,
    pub crl: Text,
    pub headers: Text,
}
