//! TLS.
//!
//! `sni` reads what a client asks for without decrypting anything. (P)

pub mod sni;
