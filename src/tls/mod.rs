//! TLS with clients: what a listener shows, whom it believes, and what it lets resume. And with backends:
//! all of that is in `client`.
//!
//! `certificates` reads files and proves them; `names` picks a certificate for a ClientHello;
//! `tickets` makes and reads session tickets; `server` puts the three together for a listener;
//! `peer` says whom a client's certificate names; `expiry` says when to warn; `sni` reads what a client
//! asks for whose TLS is not ours to decrypt. Nothing here moves a
//! byte of traffic, and nothing reads a clock but where rustls gives no other way.

pub mod certificates;
pub mod client;
pub mod expiry;
pub mod names;
pub mod peer;
pub mod server;
pub mod sni;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod tickets;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use server::Server;

/// The one provider of both ends, always named and never the process's default: what is installed
/// there would be for whoever came first to say. With X25519MLKEM768 before all other key exchanges.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
