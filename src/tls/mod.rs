//! TLS: what a listener decrypts with.

pub mod client;

use std::sync::Arc;

use rustls::ServerConfig;

/// A listener's side of TLS, as one snapshot has it.
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
}

impl Server {
    pub fn new(config: Arc<ServerConfig>) -> Server {
        Server { config }
    }

    /// What a handshake goes by.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}
